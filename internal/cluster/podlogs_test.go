package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const logs = `{fake.kubelet/log: "one\ntwo\nnow\n", fake.kubelet/previous-log: "one\ntwo\nbefore\n", `

// failing deploys one more object, which fails, and returns the error.
func (p *place) failing(object string, patience time.Duration) *Failure {
	p.t.Helper()
	r := p.release(nil, map[string]string{"templates/deployment.yaml": "", "templates/x.yaml": object})
	r.Patience, r.LogLines = patience, 2
	began := time.Now()
	_, err := p.cluster.Deploy(p.t.Context(), r, func(s string) { p.t.Log("waiting for", s) })
	if err == nil || time.Since(began) > 30*time.Second {
		p.t.Fatalf("after %s: %v, want an error at once", time.Since(began), err)
	}
	f, ok := errors.AsType[*Failure](err)
	if !ok {
		f = &Failure{Err: err}
	}
	return f
}

// podTemplate is the metadata and spec of a workload's pods.
func podTemplate(annotations, spec string) string {
	return "{metadata: {labels: {app: x}, annotations: " + annotations + "}, spec: " + spec + "}"
}

func TestAFailureNamesWhatFailedAndBringsTheLastLinesOfItsLog(t *testing.T) {
	t.Parallel()
	workload := func(kind, template string) string {
		return "apiVersion: apps/v1\nkind: " + kind + "\nmetadata: {name: x}\nspec: {selector: {matchLabels: {app: x}}, serviceName: x, template: " + template + "}\n"
	}
	deployment := func(more, template string) string {
		return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {" + more + "selector: {matchLabels: {app: x}}, template: " + template + "}\n"
	}
	hook := "annotations: {helm.sh/hook: 'pre-install'}"
	job := func(metadata, template string) string {
		return "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x, " + metadata + "}\nspec: {backoffLimit: 0, template: " + template + "}\n"
	}
	before, now := []string{"two", "before"}, []string{"two", "now"}
	for _, tt := range []struct {
		name, object string
		want         []string // parts of the error
		log          []string
	}{
		{"a program that crashes has the log of the run before", deployment("", podTemplate(logs+"}", "{containers: [{name: c, image: crash}]}")),
			[]string{"pod ", "container c: CrashLoopBackOff: back-off 40s", "it exited with code 1, Error"}, before},
		{"an init container that crashes", deployment("", podTemplate(logs+"}", "{initContainers: [{name: first, image: x}, {name: setup, image: crash}], containers: [{name: c, image: x}]}")),
			[]string{"container setup: CrashLoopBackOff"}, before},
		{"a pod of a StatefulSet", workload("StatefulSet", podTemplate(logs+"}", "{containers: [{name: c, image: crash}]}")), []string{"pod ", "/x-0, container c: CrashLoopBackOff"}, before},
		{"an image that is not there has no log", deployment("", podTemplate(logs+"}", "{containers: [{name: c, image: missing}]}")), []string{"container c: ImagePullBackOff: Back-off pulling image"}, nil},
		{"a Deployment whose progress deadline passes", deployment("progressDeadlineSeconds: 2, minReadySeconds: 0, ", podTemplate(logs+"fake.kubelet/never-ready: x}", "{containers: [{name: c, image: x}]}")),
			[]string{"Deployment x: Progress deadline exceeded", "container c: running and not ready"}, now},
		{"a Job of the chart", job("", podTemplate(logs+"fake.kubelet/exit: '3'}", "{restartPolicy: Never, containers: [{name: c, image: x}]}")),
			[]string{"Job x: BackoffLimitExceeded", "container c: exited with code 3, Error"}, now},
		{"a hook that is a Job", job(hook, podTemplate(logs+"fake.kubelet/exit: '3'}", "{restartPolicy: Never, containers: [{name: c, image: x}]}")),
			[]string{"pre-install", "Job x: BackoffLimitExceeded", "container c: exited with code 3, Error"}, now},
		{"a hook that is a Pod", "apiVersion: v1\nkind: Pod\nmetadata: {name: x, annotations: " + logs + "fake.kubelet/exit: '3', helm.sh/hook: 'pre-install'}}\nspec: {restartPolicy: Never, containers: [{name: c, image: x}]}\n",
			[]string{"Pod x: the pod failed", "/x, container c: exited with code 3, Error"}, now},
		{"a hook that is a Pod whose image is not there", "apiVersion: v1\nkind: Pod\nmetadata: {name: x, annotations: {helm.sh/hook: 'pre-install'}}\nspec: {restartPolicy: Never, containers: [{name: c, image: missing}]}\n",
			[]string{"/x, container c: ImagePullBackOff"}, nil},
		{"a hook whose image is not there", job(hook, podTemplate("{}", "{restartPolicy: Never, containers: [{name: c, image: missing}]}")), []string{"container c: ImagePullBackOff"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newPlace(t).failing(tt.object, time.Minute)
			for _, part := range tt.want {
				if !strings.Contains(f.Error(), part) {
					t.Errorf("%v\nwant %q in it", f, part)
				}
			}
			if !slices.Equal(f.Log, tt.log) || f.Why != "" {
				t.Errorf("log %q, %q, want %q", f.Log, f.Why, tt.log)
			}
		})
	}
}

func TestAReleaseThatIsNotReadyInTimeBringsALog(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	r := p.release(map[string]any{"annotations": map[string]any{"fake.kubelet/never-ready": "x", "fake.kubelet/log": "waiting for the database\n"}}, nil)
	r.Timeout, r.LogLines = 3*time.Second, 10
	_, err := p.cluster.Deploy(t.Context(), r, func(string) {})
	f, ok := errors.AsType[*Failure](err)
	if !ok || !slices.Equal(f.Log, []string{"waiting for the database"}) || !strings.HasSuffix(f.Of, ", container app") || !strings.Contains(f.Error(), "not ready within 3s") {
		t.Errorf("%+v, %v", f, err)
	}
	r = p.release(map[string]any{"annotations": map[string]any{"fake.kubelet/never-ready": "y", "fake.kubelet/log": "secret"}}, nil)
	r.Timeout = time.Second
	if _, err = p.cluster.Deploy(t.Context(), r, func(string) {}); err == nil {
		t.Fatal("it became ready")
	}
	if f, ok := errors.AsType[*Failure](err); ok {
		t.Errorf("without LogLines a log was read: %+v", f)
	}
}

func TestAQuotaThatRefusesPodsIsNamedWhenItLasts(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	if err := p.cluster.createNamespace(t.Context(), p.namespace); err != nil {
		t.Fatal(err)
	}
	p.quota("pods", "0")
	f := p.failing("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {selector: {matchLabels: {app: x}}, template: "+podTemplate("{}", "{containers: [{name: c, image: x}]}")+"}\n", 2*time.Second)
	if !strings.Contains(f.Error(), "Deployment x gets no pods: FailedCreate: ") {
		t.Error(f)
	}
}

// A deployer that may do everything but read logs.
func TestALogThatMayNotBeReadIsSaid(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	ctx := t.Context()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: p.namespace}, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"", "apps", "batch"}, Verbs: []string{"*"}, Resources: []string{"secrets", "pods", "deployments", "replicasets", "configmaps", "services", "namespaces"},
	}}}
	if _, err := p.core.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.core.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: p.namespace}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: p.namespace},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: p.namespace}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.cluster = as(t, p.namespace)
	f := p.failing("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {selector: {matchLabels: {app: x}}, template: "+podTemplate(logs+"}", "{containers: [{name: c, image: crash}]}")+"}\n", time.Minute)
	if !strings.Contains(f.Error(), "CrashLoopBackOff") || f.Log != nil || !strings.Contains(f.Why, "may not read logs: grant get on pods/log, or set LOG_LINES=0") {
		t.Errorf("%v, log %q, %q", f, f.Log, f.Why)
	}
}

// as connects as another user, by impersonation.
func as(t *testing.T, user string) *Cluster {
	t.Helper()
	file, err := clientcmd.LoadFromFile(kubernetesWorld(t).Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.NewDefaultClientConfig(*file, &clientcmd.ConfigOverrides{AuthInfo: clientcmdapi.AuthInfo{}}).ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user}
	c := &Cluster{user: user}
	if err := c.connect(*file, cfg); err != nil {
		t.Fatal(err)
	}
	if err := c.learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheEndOfALogIsKept(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, tt := range []struct {
		name, text string
		n          int
		want       []string
	}{
		{"nothing", "", 10, nil},
		{"nothing but ends of lines", "\n\r\n", 10, nil},
		{"fewer lines", "a\r\nb\n", 10, []string{"a", "b"}},
		{"more lines", "a\nb\nc\n", 2, []string{"b", "c"}},
		{"a line that is too long", long + "\nlast\n", 10, []string{"…" + long[:logKept-len("\nlast")], "last"}},
		{"bytes that are no text", "a\xffb", 1, []string{"a\uFFFDb"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := lastLines([]byte(tt.text), tt.n); !slices.Equal(got, tt.want) {
				t.Errorf("%.80q, want %.80q", got, tt.want)
			}
		})
	}
}

// The status of a custom resource may be of any shape, and nobody may write it at all.
func TestACustomResourceIsWaitedForByAStatedRule(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	crd := `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: rollouts.demo.example.com}
spec:
  group: demo.example.com
  scope: Namespaced
  names: {plural: rollouts, singular: rollout, kind: Rollout, listKind: RolloutList}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`
	p.mustDeploy(nil, map[string]string{"templates/deployment.yaml": "", "templates/crd.yaml": crd})
	p.cluster = newPlace(t).cluster // discovery knows the kind from the start
	gvr := schema.GroupVersionResource{Group: "demo.example.com", Version: "v1", Resource: "rollouts"}
	object := func(status string) string {
		return "apiVersion: demo.example.com/v1\nkind: Rollout\nmetadata: {name: x}\nspec: {a: b}\nstatus: " + status + "\n"
	}
	for i, tt := range []struct {
		name, status string // as the chart has it: without a status subresource it is written with the object
		want         string // error; "" when it counts as ready
	}{
		{"nobody writes a status", "{}", ""},
		{"Ready", "{conditions: [{type: Ready, status: 'True'}]}", ""},
		{"not Ready", "{conditions: [{type: Ready, status: 'False', reason: Waiting, message: for it}]}", "not ready within 2s: Rollout x: for it"},
		{"Stalled", "{conditions: [{type: Stalled, status: 'True', reason: Broken, message: for good}]}", "Rollout x: for good"},
		{"a generation of another type, which kstatus cannot read", "{observedGeneration: '1', phase: Healthy}", ""},
		{"a generation of another type, of the past", "{observedGeneration: '0'}", "its controller has seen generation 0, not yet 1"},
		{"the same, not Ready", "{observedGeneration: '1', conditions: [{type: Ready, status: 'False', reason: Waiting, message: for it}]}", "not ready within 2s: Rollout x: Waiting: for it"},
		{"the same, Stalled", "{observedGeneration: '1', conditions: [{type: Stalled, status: 'True', reason: Broken, message: for good}]}", "Rollout x: Broken: for good"},
		{"conditions of another type", "{conditions: {Ready: 'False'}}", ""},
	} {
		r := p.release(nil, map[string]string{"templates/deployment.yaml": "", "templates/x.yaml": object(tt.status)}) // the kind stays the first release's
		r.Name, r.Newest, r.Timeout = fmt.Sprintf("cr-%d", i), Record{}, 2*time.Second
		delete(r.Values, "x")
		_, err := p.cluster.Deploy(t.Context(), r, func(string) {})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if err := p.cluster.dynamic.Resource(gvr).Namespace(p.namespace).Delete(t.Context(), "x", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
