package cluster

import (
	"cmp"
	"fmt"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/postrenderer"
)

// Settings are how the actions on a release are carried out. They are called as in a HelmRelease (helm.toolkit.fluxcd.io/v2), and the zero
// value is what Flux does with a HelmRelease that says nothing, but for ServerSideApply, which then is always on.
type Settings struct {
	Install, Upgrade, Rollback Action
	Uninstall                  Uninstall
	Test                       Test
	PostRenderer               postrenderer.PostRenderer // nil for none
	PostRenderStrategy         string                    // combined (the default), separate or nohooks
}

// Action are the settings of an install, an upgrade or a roll back. Not every one of these has all of them.
type Action struct {
	Timeout                 time.Duration // of each wait; 0 is that of the release
	DisableWait             bool          // the release counts as deployed once its objects are applied; hooks are waited for
	DisableWaitForJobs      bool
	DisableHooks            bool
	DisableSchemaValidation bool
	DisableTakeOwnership    bool   // refuse objects that exist already
	CRDs                    string // Skip, Create or CreateReplace; "" is Create for an install and Skip for an upgrade
	ServerSideApply         string // enabled, disabled, auto (as the revision before); "" is enabled
	Force                   bool   // replace objects; without effect on server-side apply, as in Flux
	PreserveValues          bool   // put the values onto those of the revision before
	CleanupOnFail           bool   // delete what a failed upgrade or roll back created
}

// Uninstall are the settings of an uninstall.
type Uninstall struct {
	Timeout             time.Duration // 0 is that of the release
	DisableHooks        bool
	DisableWait         bool
	KeepHistory         bool
	DeletionPropagation string // background, foreground or orphan; "" is background
}

// Test are the settings of Helm's tests.
type Test struct {
	Timeout          time.Duration // 0 is that of the release
	Include, Exclude []string      // names of test hooks; without Include all are run
}

func (a Action) timeout(r Release) time.Duration { return cmp.Or(a.Timeout, r.Timeout) }

func (a Action) strategy() kube.WaitStrategy { return strategy(a.DisableWait) }

func strategy(disableWait bool) kube.WaitStrategy {
	if disableWait {
		return kube.HookOnlyStrategy
	}
	return kube.StatusWatcherStrategy
}

// serverSide says whether objects are applied on the server. before is how the revision before was applied, asked only where that matters.
func (a Action) serverSide(before func() (string, error)) (bool, error) {
	switch a.ServerSideApply {
	case "", "enabled":
		return true, nil
	case "disabled":
		return false, nil
	case "auto":
		method, err := before()
		return method == "ssa", err
	}
	return false, fmt.Errorf("serverSideApply %q is none of enabled, disabled, auto", a.ServerSideApply)
}

func (s Settings) postRenderStrategy() action.PostRenderStrategy {
	return cmp.Or(action.PostRenderStrategy(s.PostRenderStrategy), action.PostRenderStrategyCombined)
}
