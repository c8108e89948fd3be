package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func (p *place) preview(values map[string]any, more map[string]string) []Change {
	p.t.Helper()
	changes, err := p.cluster.Preview(p.t.Context(), p.release(values, more))
	if err != nil {
		p.t.Fatal(err)
	}
	return changes
}

// brief is each change in one line.
func brief(changes []Change) []string {
	var list []string
	for _, c := range changes {
		line := c.Action + " " + c.Kind + " " + c.Name
		for _, r := range c.Refusals {
			line += " refused " + r.Field
		}
		if c.Unchecked != "" {
			line += " unchecked"
		}
		list = append(list, line)
	}
	slices.Sort(list)
	return list
}

func (p *place) wantBrief(changes []Change, want ...string) {
	p.t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, brief(changes)); diff != "" {
		p.t.Errorf("%s\n%+v", diff, changes)
	}
}

func TestAPreviewOfAFirstRevisionWritesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	changes := p.preview(nil, nil)
	p.wantBrief(changes, "create ConfigMap app unchecked", "create Service app unchecked", "create Deployment app unchecked")
	if want := "namespace " + p.namespace + " does not exist yet"; !strings.Contains(changes[0].Unchecked, want) {
		t.Errorf("%q does not say %q", changes[0].Unchecked, want)
	}
	if _, err := p.core.CoreV1().Namespaces().Get(t.Context(), p.namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace was created: %v", err)
	}

	r := p.release(nil, nil)
	r.CreateNamespace = false
	changes, err := p.cluster.Preview(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	p.wantBrief(changes, "create ConfigMap app refused metadata.namespace", "create Service app refused metadata.namespace", "create Deployment app refused metadata.namespace")
}

func TestAPreviewShowsWhatAnUpgradeChanges(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(map[string]any{"replicas": 1}, map[string]string{"templates/old.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: old}\n",
		"templates/kept.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept, annotations: {helm.sh/resource-policy: keep}}\n"})
	changes := p.preview(map[string]any{"replicas": 1, "image": "registry/app:v2"}, map[string]string{"templates/new.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new}\n"})
	p.wantBrief(changes, "update ConfigMap app", "update Deployment app", "unchanged Service app", "create ConfigMap new", "delete ConfigMap old", "keep ConfigMap kept")
	for _, c := range changes {
		if c.Kind != "Deployment" {
			continue
		}
		// Apart from the image nothing differs, not even what the server fills in.
		if got := strings.ReplaceAll(c.Before, "registry/app:v1", "registry/app:v2"); got != c.After {
			t.Error(cmp.Diff(got, c.After))
		}
		for _, noise := range []string{"managedFields", "resourceVersion", "uid:", "generation:", "status:"} {
			if strings.Contains(c.Before+c.After, noise) {
				t.Errorf("%s is shown", noise)
			}
		}
	}
	p.wantStatuses("1 deployed")
	if _, err := p.core.CoreV1().ConfigMaps(p.namespace).Get(t.Context(), "new", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an object was created: %v", err)
	}
}

// Every one of these passes `helm upgrade --dry-run=server`.
func TestAPreviewNamesWhatTheServerRefuses(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(nil, nil)
	service := "apiVersion: v1\nkind: Service\nmetadata: {name: '{{ .Release.Name }}'}\nspec: {selector: {app: x}, ports: [{port: 80}]%s}\n"
	for name, c := range map[string]struct {
		values      map[string]any
		more        map[string]string
		object      string
		field, says string
	}{
		"a value out of range":          {map[string]any{"replicas": -1}, nil, "Deployment", "spec.replicas", "must be greater than or equal to 0"},
		"a field that does not exist":   {nil, map[string]string{"templates/service.yaml": fmt.Sprintf(service, ", colour: red")}, "Service", "spec.colour", "field not declared in schema"},
		"an immutable field":            {nil, map[string]string{"templates/deployment.yaml": strings.ReplaceAll(deployment, "{app: '{{ .Release.Name }}'}", "{app: other}")}, "Deployment", "spec.selector", "immutable"},
		"a kind that nobody knows":      {nil, map[string]string{"templates/x.yaml": "apiVersion: example.com/v1\nkind: Mystery\nmetadata: {name: m}\n"}, "Mystery", "", "no matches for kind"},
		"a namespace that is not there": {nil, map[string]string{"templates/x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: far, namespace: nowhere}\n"}, "ConfigMap", "metadata.namespace", "namespace nowhere does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			changes := p.preview(c.values, c.more)
			n := slices.IndexFunc(changes, func(change Change) bool { return change.Kind == c.object && len(change.Refusals) > 0 })
			if n < 0 {
				t.Fatalf("%s is not refused: %v", c.object, brief(changes))
			}
			if r := changes[n].Refusals[0]; r.Field != c.field || !strings.Contains(r.Message, c.says) {
				t.Errorf("%q: %q, want %q: %q", r.Field, r.Message, c.field, c.says)
			}
		})
	}
	p.wantStatuses("1 deployed")
}

func TestAPreviewNeverShowsWhatASecretHolds(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	secret := func(data string) map[string]string {
		return map[string]string{"templates/secret.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n" + data}
	}
	p.mustDeploy(nil, secret("stringData: {same: canary-same, differs: canary-old, gone: canary-gone}\n"))
	changes := p.preview(nil, secret("stringData: {same: canary-same, differs: canary-new, more: canary-more}\n"))
	p.wantBrief(changes, "unchanged ConfigMap app", "unchanged Deployment app", "unchanged Service app", "update Secret s")
	n := slices.IndexFunc(changes, func(c Change) bool { return c.Kind == "Secret" })
	before, after := changes[n].Before, changes[n].After
	for _, c := range []struct{ text, want string }{
		{before, "differs: '***'"}, {before, "gone: '***'"}, {after, "differs: '*** (changed)'"}, {after, "same: '***'"}, {after, "more: '***'"},
	} {
		if !strings.Contains(c.text, c.want) {
			t.Errorf("%s\n does not show %s", c.text, c.want)
		}
	}
	// `data` that is no base64 is refused, and the answer quotes it.
	broken := p.preview(nil, secret("data: {same: canary!}\n"))
	all := fmt.Sprintf("%+v %+v", changes, broken)
	for _, canary := range []string{"canary", "Y2FuYXJ5"} {
		if strings.Contains(all, canary) {
			t.Errorf("%s is shown: %s", canary, all)
		}
	}
	if b := brief(broken); !slices.ContainsFunc(b, func(s string) bool { return strings.HasPrefix(s, "update Secret s refused") }) {
		t.Errorf("the broken Secret is not refused: %v", b)
	}
}

const (
	definitionText = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: previews.demo.example.com}
spec:
  group: demo.example.com
  names: {kind: Preview, plural: previews}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`
	customText = "apiVersion: demo.example.com/v1\nkind: Preview\nmetadata: {name: x}\n"
)

func TestAPreviewDoesNotApplyTheChartsDefinitions(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	more := map[string]string{"crds/preview.yaml": definitionText, "templates/x.yaml": customText}
	p.wantBrief(p.preview(nil, more), "create CustomResourceDefinition previews.demo.example.com", "create Preview x unchecked",
		"create ConfigMap app unchecked", "create Service app unchecked", "create Deployment app unchecked")
	crds := p.cluster.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if _, err := crds.Get(t.Context(), "previews.demo.example.com", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the definition was applied: %v", err)
	}
}

func TestAPreviewTriesHooksAndDeletedObjects(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	hook := func(image, policy string) map[string]string {
		return map[string]string{"templates/hook.yaml": "apiVersion: batch/v1\nkind: Job\nmetadata: {name: migrate, annotations: {helm.sh/hook: 'pre-install,pre-upgrade'}}\n" +
			"spec: {backoffLimit: 0, template: {spec: {restartPolicy: " + policy + ", containers: [{name: m, image: " + image + "}]}}}\n"}
	}
	p.mustDeploy(nil, hook("registry/m:v1", "Never"))
	if err := p.core.CoreV1().ConfigMaps(p.namespace).Delete(t.Context(), "app", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// The Job stands there, and its template cannot be changed; but Helm deletes it first.
	changes := p.preview(nil, hook("registry/m:v2", "Never"))
	p.wantBrief(changes, "create ConfigMap app", "unchanged Deployment app", "unchanged Service app", "hook Job migrate")
	if c := changes[slices.IndexFunc(changes, func(c Change) bool { return c.Kind == "ConfigMap" })]; c.Before == "" || c.Before != c.After {
		t.Errorf("a deleted object is not compared with the last revision's: %q, %q", c.Before, c.After)
	}
	p.wantBrief(p.preview(nil, hook("registry/m:v2", "Always")), "create ConfigMap app", "unchanged Deployment app", "unchanged Service app",
		"hook Job migrate refused spec.template.spec.restartPolicy")
}

func TestAPreviewLeavesWhatAnAutoscalerSet(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(map[string]any{"replicas": 1}, nil)
	p.scale(3)
	p.wantBrief(p.preview(map[string]any{"replicas": 2}, nil), "unchanged ConfigMap app", "unchanged Deployment app", "unchanged Service app")
}

func TestAPreviewRefusesObjectsOfOtherReleases(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(nil, nil)
	r := p.release(nil, nil)
	r.Name, r.Newest = "rival", Record{}
	shared := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\n"
	r.Chart = testChart(t, map[string]string{"templates/shared.yaml": shared})
	changes, err := p.cluster.Preview(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	p.wantBrief(changes, "create ConfigMap rival", "create Deployment rival", "create Service rival", "update ConfigMap app refused ")
}

func TestSecretsAreMaskedWhateverTheyAreMadeOf(t *testing.T) {
	object := func(section any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"kind": "Secret", "apiVersion": "v1", "data": section, "metadata": map[string]any{
			"annotations": map[string]any{"kubectl.kubernetes.io/last-applied-configuration": "canary"},
		}}}
	}
	for _, section := range []any{"canary", []any{"canary"}, map[string]any{"a": map[string]any{"b": "canary"}}, map[string]any{"a": nil}} {
		before, after := shown(object(section), object(section))
		if strings.Contains(before+after, "canary") {
			t.Errorf("%v is shown: %s %s", section, before, after)
		}
	}
	values := map[string]any{"a": "x"}
	kept := maps.Clone(values)
	shown(object(values), nil)
	if diff := cmp.Diff(kept, values); diff != "" {
		t.Errorf("what was shown has changed: %s", diff)
	}
}
