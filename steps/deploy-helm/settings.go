package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
)

// settings are how a HelmRelease wants its actions to be carried out, beyond what the cluster package does with them.
type settings struct {
	cluster.Settings
	serviceAccount string // in the namespace of the HelmRelease; "" for our own user
	// What follows a failure, where ON_FAILURE=rollback lets anything follow.
	uninstallFailedInstall bool // install.remediation.remediateLastFailure
	reinstallFailedUpgrade bool // upgrade.remediation.strategy: uninstall
	leaveFailedInstall     bool // install.strategy: RetryOnFailure
	leaveFailedUpgrade     bool // upgrade.strategy: RetryOnFailure
	test                   bool
	ignoreInstallTests     bool // a test that fails after an install is no failure
	ignoreUpgradeTests     bool
}

// readSettings reads the settings, and names those that have no meaning.
func readSettings(hr *helmv2.HelmRelease) (s settings, faults []string) {
	in, up, back, un, test := hr.GetInstall(), hr.GetUpgrade(), hr.GetRollback(), hr.GetUninstall(), hr.GetTest()
	s.serviceAccount = hr.Spec.ServiceAccountName
	s.Install = cluster.Action{
		Timeout: duration(in.Timeout), DisableWait: in.DisableWait, DisableWaitForJobs: in.DisableWaitForJobs, DisableHooks: in.DisableHooks,
		DisableSchemaValidation: in.DisableSchemaValidation, DisableTakeOwnership: in.DisableTakeOwnership, CRDs: string(in.CRDs),
	}
	if in.SkipCRDs && in.CRDs == "" {
		s.Install.CRDs = string(helmv2.Skip)
	}
	if in.ServerSideApply != nil && !*in.ServerSideApply {
		s.Install.ServerSideApply = string(helmv2.ServerSideApplyDisabled)
	}
	s.Upgrade = cluster.Action{
		Timeout: duration(up.Timeout), DisableWait: up.DisableWait, DisableWaitForJobs: up.DisableWaitForJobs, DisableHooks: up.DisableHooks,
		DisableSchemaValidation: up.DisableSchemaValidation, DisableTakeOwnership: up.DisableTakeOwnership, CRDs: string(up.CRDs),
		ServerSideApply: string(up.ServerSideApply), Force: up.Force,
		PreserveValues: up.PreserveValues, CleanupOnFail: up.CleanupOnFail,
	}
	s.Rollback = cluster.Action{
		Timeout: duration(back.Timeout), DisableWait: back.DisableWait, DisableWaitForJobs: back.DisableWaitForJobs, DisableHooks: back.DisableHooks,
		Force: back.Force, CleanupOnFail: back.CleanupOnFail, ServerSideApply: string(back.ServerSideApply),
	}
	s.Uninstall = cluster.Uninstall{
		Timeout: duration(un.Timeout), DisableWait: un.DisableWait, DisableHooks: un.DisableHooks, KeepHistory: un.KeepHistory,
		DeletionPropagation: un.GetDeletionPropagation(),
	}
	s.Test.Timeout = duration(test.Timeout)
	for _, f := range test.GetFilters() {
		if f.Exclude {
			s.Test.Exclude = append(s.Test.Exclude, f.Name)
		} else {
			s.Test.Include = append(s.Test.Include, f.Name)
		}
	}
	s.test = test.Enable
	s.ignoreInstallTests = in.GetRemediation().MustIgnoreTestFailures(test.IgnoreFailures)
	s.ignoreUpgradeTests = up.GetRemediation().MustIgnoreTestFailures(test.IgnoreFailures)
	s.uninstallFailedInstall = in.GetRemediation().MustRemediateLastFailure()
	s.reinstallFailedUpgrade = up.GetRemediation().GetStrategy() == helmv2.UninstallRemediationStrategy
	s.leaveFailedInstall, s.leaveFailedUpgrade = in.GetRetry(false) != nil, up.GetRetry(false) != nil
	s.PostRenderStrategy = string(hr.Spec.PostRenderStrategy)
	return s, s.check(in, up)
}

// check names the values that are none of those that a field has. In a cluster the API server would refuse them.
func (s settings) check(in helmv2.Install, up helmv2.Upgrade) (faults []string) {
	oneOf := func(field, value string, values ...string) {
		if value != "" && !slices.Contains(values, value) {
			faults = append(faults, fmt.Sprintf("%s %q is none of %s", field, value, strings.Join(values, ", ")))
		}
	}
	policies := []string{string(helmv2.Skip), string(helmv2.Create), string(helmv2.CreateReplace)}
	oneOf("spec.install.crds", s.Install.CRDs, policies...)
	oneOf("spec.upgrade.crds", s.Upgrade.CRDs, policies...)
	modes := []string{string(helmv2.ServerSideApplyEnabled), string(helmv2.ServerSideApplyDisabled), string(helmv2.ServerSideApplyAuto)}
	oneOf("spec.upgrade.serverSideApply", s.Upgrade.ServerSideApply, modes...)
	oneOf("spec.rollback.serverSideApply", s.Rollback.ServerSideApply, modes...)
	strategies := []string{string(helmv2.ActionStrategyRemediateOnFailure), string(helmv2.ActionStrategyRetryOnFailure)}
	if in.Strategy != nil {
		oneOf("spec.install.strategy.name", in.Strategy.Name, strategies...)
	}
	if up.Strategy != nil {
		oneOf("spec.upgrade.strategy.name", up.Strategy.Name, strategies...)
	}
	oneOf("spec.upgrade.remediation.strategy", string(up.GetRemediation().GetStrategy()), string(helmv2.RollbackRemediationStrategy), string(helmv2.UninstallRemediationStrategy))
	oneOf("spec.uninstall.deletionPropagation", s.Uninstall.DeletionPropagation, "background", "foreground", "orphan")
	oneOf("spec.postRenderStrategy", s.PostRenderStrategy, string(helmv2.PostRenderStrategyCombined), string(helmv2.PostRenderStrategySeparate), string(helmv2.PostRenderStrategyNoHooks))
	for field, d := range map[string]time.Duration{
		"spec.install.timeout": s.Install.Timeout, "spec.upgrade.timeout": s.Upgrade.Timeout, "spec.rollback.timeout": s.Rollback.Timeout,
		"spec.uninstall.timeout": s.Uninstall.Timeout, "spec.test.timeout": s.Test.Timeout,
	} {
		if d < 0 {
			faults = append(faults, field+" is below zero")
		}
	}
	slices.Sort(faults)
	return faults
}

func duration(d *metav1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return d.Duration
}
