package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
)

// The scenarios are what charts, people and other programs do to releases, each on a real API server in a namespace of its own. Most guard
// a trap of Helm's SDK or of server-side apply. docs/scenarios.md lists them, with those that are tests of their own.
func TestScenarios(t *testing.T) {
	for name, run := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(newPlace(t))
		})
	}
}

func TestTheScenariosAreListed(t *testing.T) {
	text, err := os.ReadFile("../../docs/scenarios.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range scenarios {
		if !strings.Contains(string(text), "\n- "+name+"\n") {
			t.Errorf("docs/scenarios.md lacks %q", name)
		}
	}
	for line := range strings.Lines(string(text)) {
		name, isName := strings.CutPrefix(strings.TrimSpace(line), "- ")
		if _, ok := scenarios[name]; isName && !ok {
			t.Errorf("docs/scenarios.md has %q, which is no scenario", name)
		}
	}
	if len(scenarios) < 50 {
		t.Errorf("%d scenarios", len(scenarios))
	}
}

// only is a chart that has one template, or several in one file.
func only(template string) map[string]string {
	return map[string]string{"templates/deployment.yaml": "", "templates/configmap.yaml": "", "templates/service.yaml": "", "templates/all.yaml": template}
}

func configMap(name, data string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: %s\n", name, data)
}

// job is a Job that ends at once, as the annotations of its pod have it.
func job(name, annotations, podAnnotations string) string {
	return fmt.Sprintf("---\napiVersion: batch/v1\nkind: Job\nmetadata: {name: %s, annotations: {%s}}\nspec: {backoffLimit: 0, template: {metadata: {annotations: {%s}}, spec: {restartPolicy: Never, containers: [{name: c, image: x}]}}}\n",
		name, annotations, podAnnotations)
}

// fails wants an error that says all of this.
func (p *place) fails(err error, want ...string) {
	p.t.Helper()
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			p.t.Errorf("%v, want %q in it", err, w)
		}
	}
}

func (p *place) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// data is that of a ConfigMap, nil when there is none.
func (p *place) data(name string) map[string]string {
	p.t.Helper()
	o, err := p.core.CoreV1().ConfigMaps(p.namespace).Get(p.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	p.must(err)
	if o.Data == nil {
		return map[string]string{}
	}
	return o.Data
}

func (p *place) wantData(name string, want map[string]string) {
	p.t.Helper()
	if diff := cmp.Diff(want, p.data(name)); diff != "" {
		p.t.Errorf("ConfigMap %s: %s", name, diff)
	}
}

// record is a revision as it is stored.
func (p *place) record(revision int) *releasev1.Release {
	p.t.Helper()
	r, err := p.cluster.store(Key{p.namespace, "app"}, 0, Mark{}).Get(recordName("app", revision))
	p.must(err)
	return r.(*releasev1.Release)
}

// leave gives a revision a status, as a program does that dies.
func (p *place) leave(revision int, status common.Status) {
	p.t.Helper()
	rel := p.record(revision)
	rel.Info.Status = status
	s := p.cluster.store(Key{p.namespace, "app"}, 0, Mark{})
	_, err := s.Get(recordName("app", revision)) // the fence wants to have seen it
	p.must(err)
	p.must(s.Secrets.Update(recordName("app", revision), rel))
}

// recoverNewest does what the step does with a release that a dead program left.
func (p *place) recoverNewest() {
	p.t.Helper()
	state, err := p.cluster.State(p.t.Context(), Key{p.namespace, "app"})
	p.must(err)
	if !state.Newest.Pending() {
		p.t.Fatalf("%s does not count as left behind", state.Newest.Status)
	}
	p.must(p.cluster.Recover(p.t.Context(), state.Newest, "interrupted: test"))
}

// as is the cluster for a user who has only these rules in the place's namespace, beside reading everything there and writing records.
func (p *place) as(user string, rules ...rbacv1.PolicyRule) *Cluster {
	p.t.Helper()
	p.must(p.cluster.createNamespace(p.t.Context(), p.namespace))
	rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"get", "list", "watch"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"*"}})
	_, err := p.core.RbacV1().Roles(p.namespace).Create(p.t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules}, metav1.CreateOptions{})
	p.must(err)
	_, err = p.core.RbacV1().RoleBindings(p.namespace).Create(p.t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{})
	p.must(err)
	file, err := clientcmd.LoadFromFile(world.Kubeconfig)
	p.must(err)
	for _, u := range file.AuthInfos {
		u.Impersonate = user
	}
	path := p.t.TempDir() + "/kubeconfig"
	p.must(clientcmd.WriteToFile(*file, path))
	c, err := Open(p.t.Context(), path, "")
	p.must(err)
	return c
}

var scenarios = map[string]func(p *place){
	// Somebody else's hands on the objects.

	"an edit by hand is undone without a conflict": func(p *place) {
		p.mustDeploy(nil, nil)
		_, err := p.core.AppsV1().Deployments(p.namespace).Patch(p.t.Context(), "app", types.StrategicMergePatchType,
			[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"by/hand:1"}]}}}}`), metav1.PatchOptions{FieldManager: "kubectl-edit"})
		p.must(err)
		p.mustDeploy(map[string]any{"image": "registry/app:v2"}, nil)
		if p.image() != "registry/app:v2" {
			p.t.Error(p.image())
		}
	},
	"a Deployment that was scaled by hand is upgraded without a conflict": func(p *place) {
		p.mustDeploy(nil, nil)
		_, err := p.core.AppsV1().Deployments(p.namespace).UpdateScale(p.t.Context(), "app",
			&autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "app", Namespace: p.namespace}, Spec: autoscalingv1.ScaleSpec{Replicas: 3}}, metav1.UpdateOptions{FieldManager: "kubectl"})
		p.must(err)
		p.mustDeploy(map[string]any{"image": "registry/app:v2"}, nil)
		p.wantStatuses("1 superseded", "2 deployed")
	},
	"a roll back is not stopped by the conflict that an edit by hand makes": func(p *place) {
		p.mustDeploy(nil, nil)
		r := p.release(map[string]any{"image": "registry/missing:v2"}, nil)
		_, err := p.cluster.Deploy(p.t.Context(), r, func(string) {})
		p.fails(err, "ImagePullBackOff")
		_, err = p.core.AppsV1().Deployments(p.namespace).Patch(p.t.Context(), "app", types.ApplyPatchType,
			[]byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"app"},"spec":{"template":{"spec":{"containers":[{"name":"app","image":"by/hand:1"}]}}}}`),
			metav1.PatchOptions{FieldManager: "somebody", Force: new(true)})
		p.must(err)
		_, _, err = p.cluster.Rollback(p.t.Context(), r, func(string) {})
		p.must(err)
		if p.image() != "registry/app:v1" {
			p.t.Error(p.image())
		}
	},
	"an object that was deleted by hand is made again": func(p *place) {
		p.mustDeploy(nil, nil)
		p.must(p.core.CoreV1().ConfigMaps(p.namespace).Delete(p.t.Context(), "app", metav1.DeleteOptions{}))
		p.mustDeploy(nil, nil)
		p.wantData("app", map[string]string{"image": "registry/app:v1"})
	},
	"a field that the chart never set is left to whoever set it": func(p *place) {
		p.mustDeploy(nil, only(configMap("app", "{a: '1'}")))
		_, err := p.core.CoreV1().ConfigMaps(p.namespace).Patch(p.t.Context(), "app", types.MergePatchType, []byte(`{"data":{"theirs":"x"}}`), metav1.PatchOptions{FieldManager: "controller"})
		p.must(err)
		p.mustDeploy(nil, only(configMap("app", "{a: '2'}")))
		p.wantData("app", map[string]string{"a": "2", "theirs": "x"})
	},

	// What a chart may change, and what it may not.

	"an object that the chart loses is deleted": func(p *place) {
		p.mustDeploy(nil, only(configMap("a", "{}")+configMap("b", "{}")))
		p.mustDeploy(nil, only(configMap("a", "{}")))
		if p.data("b") != nil {
			p.t.Error("b is still there")
		}
	},
	"an object with resource-policy keep stays when the chart loses it": func(p *place) {
		p.mustDeploy(nil, only(configMap("a", "{}")+configMap("b, annotations: {helm.sh/resource-policy: keep}", "{}")))
		p.mustDeploy(nil, only(configMap("a", "{}")))
		if p.data("b") == nil {
			p.t.Error("b is gone")
		}
	},
	"a field that the chart loses is lost": func(p *place) {
		p.mustDeploy(nil, only(configMap("app", "{a: '1', b: '1'}")))
		p.mustDeploy(nil, only(configMap("app", "{a: '1'}")))
		p.wantData("app", map[string]string{"a": "1"})
	},
	"a key of a Secret's stringData that the chart loses is lost": func(p *place) {
		secret := func(data string) map[string]string {
			return only("apiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData: " + data + "\n")
		}
		p.mustDeploy(nil, secret("{a: x, b: z}"))
		p.mustDeploy(nil, secret("{a: z}"))
		o, err := p.core.CoreV1().Secrets(p.namespace).Get(p.t.Context(), "app", metav1.GetOptions{})
		p.must(err)
		if diff := cmp.Diff(map[string][]byte{"a": []byte("z")}, o.Data); diff != "" {
			p.t.Error(diff)
		}
	},
	"a change of a Deployment's selector is refused by name, and rolled back": func(p *place) {
		p.mustDeploy(nil, nil)
		r := p.release(nil, map[string]string{"templates/deployment.yaml": strings.ReplaceAll(deployment, "{app: '{{ .Release.Name }}'}", "{app: other}")})
		revision, err := p.cluster.Deploy(p.t.Context(), r, func(string) {})
		p.fails(err, "app", "spec.selector", "field is immutable")
		if revision != 2 {
			p.t.Errorf("revision %d", revision)
		}
		_, _, err = p.cluster.Rollback(p.t.Context(), r, func(string) {})
		p.must(err)
		p.wantStatuses("1 superseded", "2 failed", "3 deployed")
	},
	"a change of a Job's template is refused by name": func(p *place) {
		p.mustDeploy(nil, only(job("j", "", "")))
		_, err := p.deploy(nil, only(job("j", "", "x: 'y'")))
		p.fails(err, "j", "spec.template", "field is immutable")
	},
	"a change of an immutable ConfigMap is refused by name": func(p *place) {
		p.mustDeploy(nil, only(configMap("app", "{a: '1'}")+"immutable: true\n"))
		_, err := p.deploy(nil, only(configMap("app", "{a: '2'}")+"immutable: true\n"))
		p.fails(err, "app", "immutable")
	},
	"the same variable twice in a container is refused by name": func(p *place) {
		_, err := p.deploy(nil, map[string]string{"templates/deployment.yaml": strings.Replace(deployment, "image: '{{ .Values.image }}'", "image: x, env: [{name: TWICE, value: a}, {name: TWICE, value: b}]", 1)})
		p.fails(err, "app", "TWICE")
	},
	"a kind of object that the server has dropped is named": func(p *place) {
		p.mustDeploy(nil, only(configMap("a", "{}")))
		revision, err := p.deploy(nil, only("apiVersion: policy/v1beta1\nkind: PodDisruptionBudget\nmetadata: {name: app}\nspec: {minAvailable: 1}\n"))
		p.fails(err, `"PodDisruptionBudget"`, "policy/v1beta1")
		if revision != 0 {
			p.t.Errorf("revision %d", revision)
		}
	},
	"a label that is none is refused by name": func(p *place) { // the + of a chart's version, for example
		_, err := p.deploy(nil, only("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app, labels: {helm.sh/chart: '{{ .Chart.Name }}-{{ .Chart.Version }}'}}\n"))
		p.fails(err, "app-1.0.0+0123456789ab", "metadata.labels")
	},

	// Kinds of charts.

	"a chart without objects is a release like any other": func(p *place) {
		p.mustDeploy(nil, only("{{- /* nothing */ -}}"))
		p.mustDeploy(nil, only(configMap("a", "{}")))
		p.mustDeploy(nil, only("# a comment\n"))
		if p.data("a") != nil {
			p.t.Error("a is still there")
		}
		p.wantStatuses("1 superseded", "2 superseded", "3 deployed")
	},
	"a library chart lends its templates, and brings no objects": func(p *place) {
		files := only(`{{ include "lib.map" (dict "name" "app") }}`)
		files["Chart.yaml"] = "apiVersion: v2\nname: app\nversion: 1.0.0\ndependencies: [{name: lib, version: 1.0.0}]\n"
		files["charts/lib/Chart.yaml"] = "apiVersion: v2\nname: lib\nversion: 1.0.0\ntype: library\n"
		files["charts/lib/templates/_map.tpl"] = `{{ define "lib.map" }}` + configMap("'{{ .name }}'", "{from: library}") + `{{ end }}`
		files["charts/lib/templates/object.yaml"] = configMap("not-from-a-library", "{}")
		p.mustDeploy(nil, files)
		p.wantData("app", map[string]string{"from": "library"})
		if p.data("not-from-a-library") != nil {
			p.t.Error("a library chart made an object")
		}
	},
	"subcharts follow their conditions, with their values and the global ones": func(p *place) {
		files := only(configMap("app", "{}"))
		files["Chart.yaml"] = "apiVersion: v2\nname: app\nversion: 1.0.0\ndependencies: [{name: sub, version: 1.0.0, condition: sub.enabled}, {name: sub, alias: twin, version: 1.0.0, condition: twin.enabled}]\n"
		files["charts/sub/Chart.yaml"] = "apiVersion: v2\nname: sub\nversion: 1.0.0\n"
		files["charts/sub/values.yaml"] = "color: grey\n"
		files["charts/sub/templates/map.yaml"] = configMap("'{{ .Chart.Name }}'", "{color: '{{ .Values.color }}', where: '{{ .Values.global.where }}'}")
		p.mustDeploy(map[string]any{"global": map[string]any{"where": "here"}, "sub": map[string]any{"enabled": false}, "twin": map[string]any{"enabled": true, "color": "red"}}, files)
		p.wantData("sub", nil)
		p.wantData("twin", map[string]string{"color": "red", "where": "here"})
		p.mustDeploy(map[string]any{"global": map[string]any{"where": "there"}, "sub": map[string]any{"enabled": true}, "twin": map[string]any{"enabled": false}}, files)
		p.wantData("sub", map[string]string{"color": "grey", "where": "there"})
		p.wantData("twin", nil)
	},
	"a chart for another version of Kubernetes is refused with both versions": func(p *place) {
		revision, err := p.deploy(nil, map[string]string{"Chart.yaml": "apiVersion: v2\nname: app\nversion: 1.0.0\nkubeVersion: '>=2.0.0'\n"})
		p.fails(err, ">=2.0.0", "v1.37.2")
		if revision != 0 {
			p.t.Errorf("revision %d", revision)
		}
		p.mustDeploy(nil, map[string]string{"Chart.yaml": "apiVersion: v2\nname: app\nversion: 1.0.0\nkubeVersion: '>=1.30.0-0'\n"})
	},
	"a chart's notes are kept with the revision": func(p *place) {
		files := only(configMap("app", "{}"))
		files["templates/NOTES.txt"] = "{{ .Release.Name }} is at revision {{ .Release.Revision }}, upgrade {{ .Release.IsUpgrade }}"
		p.mustDeploy(nil, files)
		p.mustDeploy(nil, files)
		if got := p.record(2).Info.Notes; got != "app is at revision 2, upgrade true" {
			p.t.Error(got)
		}
	},
	"a template can look objects up": func(p *place) {
		files := only(`{{ $o := lookup "v1" "ConfigMap" .Release.Namespace "seed" }}` + configMap("app", `{found: '{{ dig "data" "a" "nothing" $o }}'}`))
		p.mustDeploy(nil, files)
		p.wantData("app", map[string]string{"found": "nothing"})
		_, err := p.core.CoreV1().ConfigMaps(p.namespace).Create(p.t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "seed"}, Data: map[string]string{"a": "something"}}, metav1.CreateOptions{})
		p.must(err)
		p.mustDeploy(nil, files)
		p.wantData("app", map[string]string{"found": "something"})
	},
	"a template knows the server's version and kinds": func(p *place) {
		p.mustDeploy(nil, only(configMap("app", `{version: '{{ .Capabilities.KubeVersion.Version }}', has: '{{ .Capabilities.APIVersions.Has "apps/v1/Deployment" }}', lacks: '{{ .Capabilities.APIVersions.Has "example.com/v1" }}'}`)))
		p.wantData("app", map[string]string{"version": "v1.37.2", "has": "true", "lacks": "false"})
	},
	"texts that look like numbers stay texts": func(p *place) {
		for _, tag := range []string{"1e10", "0123", "1_000", "null", "true", "0x1F", "2026-11-24"} {
			p.mustDeploy(map[string]any{"image": map[string]any{"tag": tag}}, only(configMap("app", "{tag: {{ .Values.image.tag | quote }}, image: 'registry/app:{{ .Values.image.tag }}'}")))
			p.wantData("app", map[string]string{"tag": tag, "image": "registry/app:" + tag})
		}
	},
	"a null takes a chart's default away": func(p *place) {
		files := only(configMap("app", "{{ .Values.map | toJson }}"))
		files["values.yaml"] = "map: {a: '1', b: '2'}\n"
		p.mustDeploy(map[string]any{"map": map[string]any{"b": nil}}, files)
		p.wantData("app", map[string]string{"a": "1"})
	},
	"objects in lists, of the cluster and of another namespace are deployed": func(p *place) {
		other := p.namespace + "-other"
		p.must(p.cluster.createNamespace(p.t.Context(), other))
		p.mustDeploy(nil, only("apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: one}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: two}}\n"+
			"---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: '{{ .Release.Namespace }}'}\n"+configMap("three, namespace: "+other, "{}")))
		if p.data("one") == nil || p.data("two") == nil {
			p.t.Error("the list was not deployed")
		}
		_, err := p.core.CoreV1().ConfigMaps(other).Get(p.t.Context(), "three", metav1.GetOptions{})
		p.must(err)
		_, err = p.core.RbacV1().ClusterRoles().Get(p.t.Context(), p.namespace, metav1.GetOptions{})
		p.must(err)
	},
	"names as long as they may be": func(p *place) {
		r := p.release(nil, nil)
		r.Name = strings.Repeat("n", 53)
		r.Mark.Version, r.Mark.Build = strings.Repeat("v", 128), strings.Repeat("b", 100)
		_, err := p.cluster.Deploy(p.t.Context(), r, func(string) {})
		p.must(err)
		state, err := p.cluster.State(p.t.Context(), r.Key)
		p.must(err)
		if state.Newest.Mark.Digest != "d1" || state.Newest.Mark.Build != BuildLabel(r.Mark.Build) {
			p.t.Errorf("%+v", state.Newest)
		}
	},

	// Hooks.

	"hooks run by weight, before and after, and are deleted as their policies say": func(p *place) {
		hook := func(name, when, weight, policy string) string {
			return job(name, "helm.sh/hook: '"+when+"', helm.sh/hook-weight: '"+weight+"', helm.sh/hook-delete-policy: "+policy, "")
		}
		files := only(configMap("app", "{}") + hook("late", "pre-install,pre-upgrade", "5", "before-hook-creation") + hook("early", "pre-install,pre-upgrade", "-5", "before-hook-creation") +
			hook("gone", "post-install,post-upgrade", "0", "hook-succeeded") + hook("kept-when-it-succeeds", "post-install", "0", "hook-failed") + hook("never", "test", "0", "before-hook-creation"))
		p.mustDeploy(nil, files)
		p.mustDeploy(nil, files)
		jobs, err := p.core.BatchV1().Jobs(p.namespace).List(p.t.Context(), metav1.ListOptions{})
		p.must(err)
		ended := map[string]time.Time{}
		for _, j := range jobs.Items {
			ended[j.Name] = j.CreationTimestamp.Time
		}
		if diff := cmp.Diff([]string{"early", "kept-when-it-succeeds", "late"}, slices.Sorted(maps.Keys(ended))); diff != "" {
			p.t.Error(diff)
		}
		if ended["late"].Before(ended["early"]) {
			p.t.Errorf("%v", ended)
		}
	},
	"a hook before the upgrade that fails leaves the objects as they were": func(p *place) {
		p.mustDeploy(nil, nil)
		_, err := p.deploy(map[string]any{"image": "registry/app:v2"}, map[string]string{"templates/hook.yaml": job("h", "helm.sh/hook: pre-upgrade", "fake.kubelet/exit: '1'")})
		p.fails(err, "pre-upgrade", "Job h")
		if p.image() != "registry/app:v1" {
			p.t.Error(p.image())
		}
		p.wantStatuses("1 deployed", "2 failed")
	},
	"a hook after the upgrade that fails makes the release fail": func(p *place) {
		p.mustDeploy(nil, nil)
		_, err := p.deploy(map[string]any{"image": "registry/app:v2"}, map[string]string{"templates/hook.yaml": job("h", "helm.sh/hook: post-upgrade", "fake.kubelet/exit: '1'")})
		p.fails(err, "post-upgrade", "Job h")
		p.wantStatuses("1 deployed", "2 failed")
	},
	"a hook that hangs ends with its time": func(p *place) {
		r := p.release(nil, map[string]string{"templates/hook.yaml": job("h", "helm.sh/hook: pre-install", "fake.kubelet/hang: 'yes'")})
		r.Timeout = 2 * time.Second
		_, err := p.cluster.Deploy(p.t.Context(), r, func(string) {})
		p.fails(err, "pre-install", "not ready within 2s", "Job h")
	},

	// What is waited for.

	"workloads of all kinds are waited for": func(p *place) {
		pods := "selector: {matchLabels: {app: %[1]s}}, template: {metadata: {labels: {app: %[1]s}}, spec: {containers: [{name: c, image: x}]}}"
		p.mustDeploy(nil, map[string]string{"templates/more.yaml": fmt.Sprintf("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: set}\nspec: {replicas: 2, serviceName: app, "+pods+"}\n", "set") +
			fmt.Sprintf("---\napiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: daemon}\nspec: {"+pods+"}\n", "daemon") + job("once", "", "") +
			"---\napiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: app}\nspec: {minAvailable: 1, selector: {matchLabels: {app: app}}}\n" +
			"---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: app}\nspec: {defaultBackend: {service: {name: app, port: {number: 80}}}}\n" +
			"---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {name: cron}\nspec: {schedule: '0 0 1 1 *', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: x}]}}}}}\n"})
		set, err := p.core.AppsV1().StatefulSets(p.namespace).Get(p.t.Context(), "set", metav1.GetOptions{})
		p.must(err)
		daemon, err := p.core.AppsV1().DaemonSets(p.namespace).Get(p.t.Context(), "daemon", metav1.GetOptions{})
		p.must(err)
		once, err := p.core.BatchV1().Jobs(p.namespace).Get(p.t.Context(), "once", metav1.GetOptions{})
		p.must(err)
		if set.Status.ReadyReplicas != 2 || daemon.Status.NumberReady != 1 || once.Status.Succeeded != 1 {
			p.t.Errorf("%d of 2, %d of 1, %d of 1", set.Status.ReadyReplicas, daemon.Status.NumberReady, once.Status.Succeeded)
		}
	},
	"a StatefulSet and a DaemonSet that cannot start are named by their pods": func(p *place) {
		for _, kind := range []string{"StatefulSet", "DaemonSet"} {
			name := strings.ToLower(kind)
			_, err := p.deploy(nil, only("apiVersion: apps/v1\nkind: "+kind+"\nmetadata: {name: "+name+"}\nspec: {selector: {matchLabels: {app: "+name+"}}, template: {metadata: {labels: {app: "+name+"}}, spec: {containers: [{name: c, image: registry/missing}]}}}\n"))
			p.fails(err, "pod "+p.namespace+"/"+name+"-", "container c: ImagePullBackOff")
		}
	},
	"a volume claim that nobody fulfils is named": func(p *place) {
		r := p.release(nil, only("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: disk}\nspec: {accessModes: [ReadWriteOnce], storageClassName: none, resources: {requests: {storage: 1Gi}}}\n"))
		r.Timeout = 2 * time.Second
		_, err := p.cluster.Deploy(p.t.Context(), r, func(string) {})
		p.fails(err, "not ready within 2s", "PersistentVolumeClaim disk")
	},
	"a paused Deployment and one without pods are not waited for": func(p *place) {
		p.mustDeploy(map[string]any{"replicas": 0}, map[string]string{"templates/paused.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: paused}\nspec: {paused: true, selector: {matchLabels: {app: p}}, template: {metadata: {labels: {app: p}}, spec: {containers: [{name: c, image: x}]}}}\n"})
	},
	"a rollout that exceeds its own deadline fails before ours": func(p *place) {
		began := time.Now()
		_, err := p.deploy(map[string]any{"annotations": map[string]any{"fake.kubelet/never-ready": "x"}}, map[string]string{"templates/deployment.yaml": strings.Replace(deployment, "spec:\n", "spec:\n  progressDeadlineSeconds: 2\n", 1)})
		p.fails(err, "Deployment app", "Progress")
		if took := time.Since(began); took > 30*time.Second {
			p.t.Errorf("after %s", took)
		}
	},

	// The cluster says no.

	"pods that a quota does not admit are named with the quota": func(p *place) {
		p.must(p.cluster.createNamespace(p.t.Context(), p.namespace))
		p.quota("pods", "0")
		r := p.release(nil, nil)
		r.Timeout, r.Patience = 10*time.Second, time.Second
		_, err := p.cluster.Deploy(p.t.Context(), r, func(string) {})
		p.fails(err, "Deployment app", "exceeded quota: bench")
	},
	"an object that a quota does not admit is not a lack of permission": func(p *place) {
		p.must(p.cluster.createNamespace(p.t.Context(), p.namespace))
		p.quota("count/services", "0")
		_, err := p.deploy(nil, nil)
		p.fails(err, "exceeded quota: bench")
		if err != nil && strings.Contains(err.Error(), "lacks a permission") {
			p.t.Error(err)
		}
	},
	"a namespace that is going away is named": func(p *place) {
		p.must(p.cluster.createNamespace(p.t.Context(), p.namespace))
		held := configMap("held, finalizers: [example.com/held]", "{}")
		p.mustDeploy(nil, only(held))
		p.must(p.core.CoreV1().Namespaces().Delete(p.t.Context(), p.namespace, metav1.DeleteOptions{}))
		defer func() {
			_, _ = p.core.CoreV1().ConfigMaps(p.namespace).Patch(p.t.Context(), "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		}()
		r := p.release(nil, nil)
		_, err := p.cluster.Deploy(p.t.Context(), r, func(string) {})
		p.fails(err, "the namespace is being deleted: wait until it is gone", p.namespace)
		if err != nil && strings.Contains(err.Error(), "lacks a permission") {
			p.t.Error(err)
		}
	},
	"a permission that is missing for one kind is named with user, verb and kind": func(p *place) {
		all := []string{"create", "update", "patch", "delete"}
		c := p.as("no-deployments-"+p.namespace, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps", "services"}, Verbs: all})
		r := p.release(nil, nil)
		r.CreateNamespace = false
		revision, err := c.Deploy(p.t.Context(), r, func(string) {})
		p.fails(err, "lacks a permission", "cannot patch resource \"deployments\"", "no-deployments-"+p.namespace)
		if revision != 1 {
			p.t.Errorf("revision %d", revision)
		}
		p.wantStatuses("1 failed")
		p.mustDeploy(nil, nil) // by somebody who may
	},
	"a record that is too large for the cluster says what makes it so": func(p *place) {
		noise, seed := make([]byte, 1_500_000), uint64(88172645463325252)
		for i := range noise {
			seed ^= seed << 13
			seed ^= seed >> 7
			seed ^= seed << 17
			noise[i] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"[seed%64]
		}
		files := only(configMap("app", "{}"))
		files["files/noise.bin"] = string(noise)
		revision, err := p.deploy(nil, files)
		p.fails(err, "the release record would be larger than the 1 MiB", ".helmignore", "noise.bin")
		if revision != 0 {
			p.t.Errorf("revision %d", revision)
		}
	},

	// What others left behind.

	"a release left pending-install is recovered":   func(p *place) { p.recovers(1, common.StatusPendingInstall) },
	"a release left pending-upgrade is recovered":   func(p *place) { p.recovers(2, common.StatusPendingUpgrade) },
	"a release left pending-rollback is recovered":  func(p *place) { p.recovers(2, common.StatusPendingRollback) },
	"a release left half uninstalled is recovered":  func(p *place) { p.recovers(2, common.StatusUninstalling) },
	"a first revision that failed is upgraded":      func(p *place) { p.continues(1, common.StatusFailed) },
	"a history without a deployed revision goes on": func(p *place) { p.continues(2, common.StatusSuperseded) },
	"a history of which all is uninstalled goes on": func(p *place) { p.continues(1, common.StatusUninstalled) },
	"of two revisions that count as deployed the newer one is what runs": func(p *place) {
		p.mustDeploy(nil, nil)
		p.mustDeploy(map[string]any{"replicas": 2}, nil)
		p.leave(1, common.StatusDeployed)
		p.mustDeploy(map[string]any{"image": "registry/app:v2"}, only(configMap("app", "{}")))
		state, err := p.cluster.State(p.t.Context(), Key{p.namespace, "app"})
		p.must(err)
		if state.Running.Revision != 3 {
			p.t.Errorf("%+v", state.Running)
		}
		if _, err := p.core.AppsV1().Deployments(p.namespace).Get(p.t.Context(), "app", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			p.t.Errorf("what revision 2 had is still there: %v", err)
		}
	},
	"failed upgrades do not make the history longer": func(p *place) {
		p.mustDeploy(nil, nil)
		for range 4 {
			r := p.release(nil, map[string]string{"templates/hook.yaml": job("h", "helm.sh/hook: pre-upgrade, helm.sh/hook-delete-policy: before-hook-creation", "fake.kubelet/exit: '1'")})
			r.MaxHistory = 3
			_, err := p.cluster.Deploy(p.t.Context(), r, func(string) {})
			p.fails(err, "pre-upgrade")
		}
		got := p.statuses()
		if len(got) > 3 || !slices.Contains(got, "1 deployed") { // what runs is never pruned
			p.t.Error(got)
		}
	},
	"a record that is missing in the middle does no harm": func(p *place) {
		for i := range 3 {
			p.mustDeploy(map[string]any{"replicas": i}, nil)
		}
		p.must(p.core.CoreV1().Secrets(p.namespace).Delete(p.t.Context(), recordName("app", 2), metav1.DeleteOptions{}))
		p.mustDeploy(nil, nil)
		p.wantStatuses("1 superseded", "3 superseded", "4 deployed")
	},
	"a Secret that only looks like a record is left alone": func(p *place) {
		p.mustDeploy(nil, nil)
		_, err := p.core.CoreV1().Secrets(p.namespace).Create(p.t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "mine", Labels: map[string]string{"owner": "helm", "name": "app", "version": "9", "status": "deployed"}},
		}, metav1.CreateOptions{})
		p.must(err)
		if r := p.mustDeploy(nil, nil); r != 2 {
			p.t.Errorf("revision %d", r)
		}
		_, err = p.core.CoreV1().Secrets(p.namespace).Get(p.t.Context(), "mine", metav1.GetOptions{})
		p.must(err)
	},
	"a record that cannot be read is named": func(p *place) {
		p.mustDeploy(nil, nil)
		patch, err := json.Marshal(map[string]any{"data": map[string][]byte{"release": []byte("not a release")}})
		p.must(err)
		_, err = p.core.CoreV1().Secrets(p.namespace).Patch(p.t.Context(), recordName("app", 1), types.MergePatchType, patch, metav1.PatchOptions{})
		p.must(err)
		revision, err := p.deploy(nil, nil)
		p.fails(err, recordName("app", 1))
		if revision != 0 {
			p.t.Errorf("revision %d", revision)
		}
	},
}

// quota gives the namespace a quota, and waits until it counts.
func (p *place) quota(what, n string) {
	p.t.Helper()
	hard := corev1.ResourceList{corev1.ResourceName(what): resource.MustParse(n)}
	quotas := p.core.CoreV1().ResourceQuotas(p.namespace)
	_, err := quotas.Create(p.t.Context(), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "bench"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
	p.must(err)
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(50 * time.Millisecond) {
		q, err := quotas.Get(p.t.Context(), "bench", metav1.GetOptions{})
		p.must(err)
		if len(q.Status.Hard) > 0 {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatal("the quota does not count")
		}
	}
}

// recovers deploys some revisions, leaves the last of them with a status, and wants the next one to be deployed.
func (p *place) recovers(revisions int, status common.Status) {
	p.t.Helper()
	for range revisions {
		p.mustDeploy(nil, nil)
	}
	p.leave(revisions, status)
	p.recoverNewest()
	r := p.mustDeploy(map[string]any{"image": "registry/app:v2"}, nil)
	if r != revisions+1 || p.image() != "registry/app:v2" {
		p.t.Errorf("revision %d, %s", r, p.image())
	}
}

// continues is the same for a status that needs no recovery.
func (p *place) continues(revisions int, status common.Status) {
	p.t.Helper()
	for range revisions {
		p.mustDeploy(nil, nil)
	}
	p.leave(revisions, status)
	r, err := p.deploy(map[string]any{"image": "registry/app:v2"}, nil)
	if err != nil || r != revisions+1 || p.image() != "registry/app:v2" || errors.Is(err, ErrMoved) {
		p.t.Errorf("revision %d, %s, %v", r, p.image(), err)
	}
}
