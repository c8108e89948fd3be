package cluster

import (
	"errors"
	"fmt"

	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

func (p *place) drift(ignore ...Ignore) []Drifted {
	p.t.Helper()
	state, err := p.cluster.State(p.t.Context(), Key{p.namespace, "app"})
	if err != nil {
		p.t.Fatal(err)
	}
	list, err := p.cluster.Drift(p.t.Context(), state.Newest, ignore)
	if err != nil {
		p.t.Fatal(err)
	}
	return list
}

func (p *place) wantDrift(list []Drifted, want ...string) {
	p.t.Helper()
	var changes []Change
	for _, d := range list {
		changes = append(changes, d.Change)
	}
	p.wantBrief(changes, want...)
}

func (p *place) patchConfigMap(text string) {
	p.t.Helper()
	if _, err := p.core.CoreV1().ConfigMaps(p.namespace).Patch(p.t.Context(), "app", types.MergePatchType, []byte(text), metav1.PatchOptions{FieldManager: "kubectl-edit"}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) configMap() *corev1.ConfigMap {
	p.t.Helper()
	o, err := p.core.CoreV1().ConfigMaps(p.namespace).Get(p.t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	return o
}

func rule(t *testing.T, s *Selector, paths ...string) Ignore {
	t.Helper()
	r, err := NewIgnore(paths, s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDriftIsWhatDiffersFromTheManifest(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(map[string]any{"replicas": 1}, nil)
	if d := p.drift(); d != nil {
		t.Fatalf("a fresh release has drifted: %+v", d)
	}
	p.patchConfigMap(`{"data":{"more":"of somebody else's"},"metadata":{"labels":{"team":"x"}}}`)
	p.scale(2)
	if d := p.drift(); d != nil {
		t.Errorf("fields that the chart does not have, and an autoscaler's, are no drift: %+v", d)
	}
	p.patchConfigMap(`{"data":{"image":"edited"}}`)
	if err := p.core.CoreV1().Services(p.namespace).Delete(t.Context(), "app", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	drift := p.drift()
	p.wantDrift(drift, "update ConfigMap app", "create Service app")

	r := p.release(nil, nil)
	if err := p.cluster.Correct(t.Context(), r, drift, func(string) {}); err != nil {
		t.Fatal(err)
	}
	if d := p.drift(); d != nil {
		t.Errorf("drift is left: %+v", d)
	}
	if got := p.configMap().Data; got["image"] != "registry/app:v1" || got["more"] == "" {
		t.Errorf("%v, want the chart's image and the other's key", got)
	}
	if n := p.replicas(); n != 2 {
		t.Errorf("%d replicas, want the autoscaler's 2", n)
	}
	p.wantStatuses("1 deployed") // as with Flux, there is no new revision

	r.Newest.Revision = 7
	if err := p.cluster.Correct(t.Context(), r, drift, func(string) {}); !errors.Is(err, ErrMoved) {
		t.Errorf("a release at another revision was corrected: %v", err)
	}
}

func TestIgnoredPathsAreNoDriftAndStayWhenTheRestIsCorrected(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(nil, map[string]string{"templates/configmap.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {a: '1', b: '2', c.d: '3'}\n"})
	p.patchConfigMap(`{"data":{"a":"edited","c.d":"edited"}}`)
	if d := p.drift(rule(t, nil, "/data/a", "/data/c.d")); d != nil {
		t.Errorf("ignored paths are drift: %+v", d)
	}
	for name, c := range map[string]struct {
		selector *Selector
		paths    []string
		drifted  bool
	}{
		"the kind matches":              {&Selector{Kind: "Config.*"}, []string{"/data"}, false},
		"another kind":                  {&Selector{Kind: "Config"}, []string{"/data"}, true},
		"the whole object":              {&Selector{Name: "app", Kind: "ConfigMap"}, []string{""}, false},
		"a label that Helm has set":     {&Selector{Labels: "app.kubernetes.io/managed-by=Helm"}, []string{"/data"}, true}, // the rule sees the manifest
		"another namespace":             {&Selector{Namespace: "other"}, []string{"/data"}, true},
		"a path that does not exist":    {nil, []string{"/data/z/y"}, true},
		"the group is that of the core": {&Selector{Version: "v1", Kind: "ConfigMap"}, []string{"/data"}, false},
	} {
		if d := p.drift(rule(t, c.selector, c.paths...)); (d != nil) != c.drifted {
			t.Errorf("%s: drift is %+v", name, d)
		}
	}
	p.patchConfigMap(`{"data":{"b":"edited"}}`)
	drift := p.drift(rule(t, nil, "/data/a", "/data/c.d"))
	p.wantDrift(drift, "update ConfigMap app")
	if err := p.cluster.Correct(t.Context(), p.release(nil, nil), drift, func(string) {}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"a": "edited", "b": "2", "c.d": "edited"}, p.configMap().Data); diff != "" {
		t.Error(diff)
	}
}

func TestObjectsMayBeTakenOutOfDriftDetection(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(nil, map[string]string{"templates/configmap.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app, annotations: {helm.toolkit.fluxcd.io/driftDetection: disabled}}\ndata: {image: x}\n"})
	p.patchConfigMap(`{"data":{"image":"edited"}}`)
	if d := p.drift(); d != nil {
		t.Errorf("%+v", d)
	}
}

func TestRulesThatMeanNothingAreRefused(t *testing.T) {
	for _, c := range []struct {
		path     string
		selector *Selector
	}{{"spec/replicas", nil}, {"/spec", &Selector{Kind: "("}}, {"/spec", &Selector{Labels: "a b"}}, {"/spec", &Selector{Annotations: "!!"}}} {
		if _, err := NewIgnore([]string{c.path}, c.selector); err == nil {
			t.Errorf("%v was taken", c)
		}
	}
}

func FuzzPointersNeverBreak(f *testing.F) {
	f.Add("/spec/containers/0/image")
	f.Add("/~0~1/-1")
	f.Add("")
	f.Fuzz(func(t *testing.T, pointer string) {
		root := map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"image": "x"}}}}
		before, was := pointed(root, pointer)
		point(root, pointer, before)
		if after, is := pointed(root, pointer); was && (!is || fmt.Sprint(before) != fmt.Sprint(after)) {
			t.Errorf("%q: %v became %v", pointer, before, after)
		}
		blank(root, pointer)
		if v, _ := pointed(root, pointer); v != nil {
			t.Errorf("%q is still %v", pointer, v)
		}
		_ = (&unstructured.Unstructured{Object: root}).DeepCopy()
	})
}
