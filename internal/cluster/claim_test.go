package cluster

import (
	"errors"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/kube"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const shared = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared}\ndata: {of: '{{ .Release.Name }}'}\n"

// owner is the release that a ConfigMap says it is of.
func (p *place) owner(name string) string {
	p.t.Helper()
	o, err := p.core.CoreV1().ConfigMaps(p.namespace).Get(p.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	return o.Annotations[annotationRelease] + " " + o.Data["of"]
}

func TestAnObjectOfAnotherReleaseIsNotTaken(t *testing.T) {
	p := newPlace(t)
	p.mustDeploy(nil, map[string]string{"templates/shared.yaml": shared})
	other := func(more map[string]string) Release {
		r := p.release(nil, more)
		r.Name = "other"
		state, err := p.cluster.State(t.Context(), r.Key)
		if err != nil {
			t.Fatal(err)
		}
		r.Newest = state.Newest
		return r
	}
	refused := func(step string, r Release) {
		t.Helper()
		revision, err := p.cluster.Deploy(t.Context(), r, func(string) {})
		want := "ConfigMap shared in namespace " + p.namespace + " exists, and is not taken from release " + p.namespace + "/app"
		if !errors.Is(err, ErrOwned) || !strings.Contains(err.Error(), want) || revision != 0 {
			t.Errorf("%s: revision %d, %v, want %q", step, revision, err, want)
		}
		if got := p.owner("shared"); got != "app app" {
			t.Errorf("%s: it is %q's now", step, got)
		}
	}
	refused("at an install", other(map[string]string{"templates/shared.yaml": shared}))
	if _, err := p.cluster.Deploy(t.Context(), other(nil), func(string) {}); err != nil {
		t.Fatal(err)
	}
	refused("at an upgrade", other(map[string]string{"templates/shared.yaml": shared}))

	// The first release lets go of it, and it is free.
	p.mustDeploy(nil, nil)
	if _, err := p.cluster.Deploy(t.Context(), other(map[string]string{"templates/shared.yaml": shared}), func(string) {}); err != nil {
		t.Fatal(err)
	}
	if got := p.owner("shared"); got != "other other" {
		t.Error(got)
	}
}

func TestAnObjectThatAReleaseLeftBehindIsAdopted(t *testing.T) {
	p := newPlace(t)
	kept := strings.Replace(shared, "{name: shared}", "{name: shared, annotations: {helm.sh/resource-policy: keep}}", 1)
	p.mustDeploy(nil, map[string]string{"templates/shared.yaml": kept})
	un := action.NewUninstall(p.cluster.configuration(p.cluster.store(Key{p.namespace, "app"}, 1, Mark{}), p.namespace, &waiter{ctx: t.Context(), cluster: p.cluster}))
	un.WaitStrategy, un.Timeout = kube.HookOnlyStrategy, time.Minute
	if _, err := un.Run("app"); err != nil {
		t.Fatal(err)
	}
	if got := p.owner("shared"); got != "app app" { // that it is kept is half of the test
		t.Error(got)
	}
	r := p.release(nil, map[string]string{"templates/shared.yaml": shared})
	r.Name = "other"
	if _, err := p.cluster.Deploy(t.Context(), r, func(string) {}); err != nil {
		t.Fatal(err)
	}
	if got := p.owner("shared"); got != "other other" {
		t.Error(got)
	}
}

func TestAnObjectThatAnotherReleaseHasTakenIsNotDeleted(t *testing.T) {
	p := newPlace(t)
	p.mustDeploy(nil, only(configMap("a", "{}")+configMap("shared", "{}")))
	patch := []byte(`{"metadata":{"annotations":{"meta.helm.sh/release-name":"other"}}}`) // as Flux takes it
	if _, err := p.core.CoreV1().ConfigMaps(p.namespace).Patch(t.Context(), "shared", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	p.mustDeploy(nil, only(configMap("a", "{}")))
	if got := p.owner("shared"); got != "other " {
		t.Error(got)
	}
}
