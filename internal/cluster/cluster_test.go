package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/controlplane"
)

// These tests run against a real API server with its controllers. One serves them all; each test has a namespace of its own.
var (
	world    *controlplane.Cluster
	worldErr error
	start    sync.Once
)

func TestMain(m *testing.M) {
	code := m.Run()
	if world != nil {
		_ = world.Close()
	}
	os.Exit(code)
}

func kubernetesWorld(t *testing.T) *controlplane.Cluster {
	t.Helper()
	start.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute) // the first start on a machine builds Kubernetes
		defer cancel()
		world, worldErr = controlplane.Start(ctx, controlplane.Options{Log: os.Stderr})
	})
	if worldErr != nil {
		t.Fatal(worldErr)
	}
	return world
}

// place is a namespace of the world with the boundary under test and a client beside it.
type place struct {
	t         *testing.T
	cluster   *Cluster
	core      kubernetes.Interface
	namespace string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	w := kubernetesWorld(t)
	c, err := Open(t.Context(), w.Kubeconfig, "")
	if err != nil {
		t.Fatal(err)
	}
	return &place{t: t, cluster: c, core: c.core, namespace: fmt.Sprintf("t-%d", time.Now().UnixNano())}
}

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: '{{ .Release.Name }}'}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: '{{ .Release.Name }}'}}
  template:
    metadata:
      labels: {app: '{{ .Release.Name }}'}
      annotations: {{ .Values.annotations | toJson }}
    spec: {containers: [{name: app, image: '{{ .Values.image }}', resources: {requests: {cpu: '{{ .Values.cpu }}'}}}]}
`

func testChart(t *testing.T, more map[string]string) *chart.Chart {
	t.Helper()
	files := []*archive.BufferedFile{
		{Name: "Chart.yaml", Data: []byte("apiVersion: v2\nname: app\nversion: 1.0.0+0123456789ab\n")},
		{Name: "values.yaml", Data: []byte("replicas: 1\nimage: registry/app:v1\nannotations: {}\ncpu: 1\n")},
		{Name: "templates/deployment.yaml", Data: []byte(deployment)},
		{Name: "templates/configmap.yaml", Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}'}\ndata: {image: '{{ .Values.image }}'}\n")},
		{Name: "templates/service.yaml", Data: []byte("apiVersion: v1\nkind: Service\nmetadata: {name: '{{ .Release.Name }}'}\nspec: {selector: {app: x}, ports: [{port: 80}]}\n")},
	}
	for name, text := range more {
		files = slices.DeleteFunc(files, func(f *archive.BufferedFile) bool { return f.Name == name })
		if text != "" {
			files = append(files, &archive.BufferedFile{Name: name, Data: []byte(text)})
		}
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// release is what the tests deploy: the test chart with values, onto the newest revision.
func (p *place) release(values map[string]any, more map[string]string) Release {
	p.t.Helper()
	key := Key{p.namespace, "app"}
	state, err := p.cluster.State(p.t.Context(), key)
	if err != nil {
		p.t.Fatal(err)
	}
	return Release{
		Key: key, Namespace: p.namespace, CreateNamespace: true, Chart: testChart(p.t, more), Values: values, MaxHistory: 5,
		Timeout: time.Minute, Patience: time.Minute, Mark: Mark{Digest: "d" + fmt.Sprint(state.Newest.Revision+1), Build: "b", Version: "v"}, Newest: state.Newest,
	}
}

func (p *place) deploy(values map[string]any, more map[string]string) (int, error) {
	p.t.Helper()
	return p.cluster.Deploy(p.t.Context(), p.release(values, more), func(s string) { p.t.Log("waiting for", s) })
}

func (p *place) mustDeploy(values map[string]any, more map[string]string) int {
	p.t.Helper()
	revision, err := p.deploy(values, more)
	if err != nil {
		p.t.Fatal(err)
	}
	return revision
}

// statuses are those of the release's revisions, oldest first.
func (p *place) statuses() []string {
	p.t.Helper()
	records, err := p.cluster.records(p.t.Context(), p.namespace, map[string]string{"owner": "helm"})
	if err != nil {
		p.t.Fatal(err)
	}
	slices.SortFunc(records, func(a, b Record) int { return a.Revision - b.Revision })
	var list []string
	for _, r := range records {
		list = append(list, fmt.Sprintf("%d %s", r.Revision, r.Status))
	}
	return list
}

func (p *place) wantStatuses(want ...string) {
	p.t.Helper()
	if diff := cmp.Diff(want, p.statuses()); diff != "" {
		p.t.Error(diff)
	}
}

func (p *place) image() string {
	p.t.Helper()
	d, err := p.core.AppsV1().Deployments(p.namespace).Get(p.t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	return d.Spec.Template.Spec.Containers[0].Image
}

func TestAReleaseIsInstalledUpgradedAndRemembered(t *testing.T) {
	p := newPlace(t)
	if r := p.mustDeploy(map[string]any{"replicas": 2}, nil); r != 1 {
		t.Errorf("revision %d", r)
	}
	d, err := p.core.AppsV1().Deployments(p.namespace).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil || d.Status.AvailableReplicas != 2 {
		t.Errorf("not waited for: %+v, %v", d.Status, err)
	}
	if r := p.mustDeploy(map[string]any{"image": "registry/app:v2"}, nil); r != 2 {
		t.Errorf("revision %d", r)
	}
	if p.image() != "registry/app:v2" {
		t.Error(p.image())
	}
	p.wantStatuses("1 superseded", "2 deployed")
	states, err := p.cluster.States(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := states[Key{p.namespace, "app"}]
	if s.Newest.Mark.Digest != "d2" || s.Newest.Mark.Build != "b" || s.Running.Revision != 2 {
		t.Errorf("%+v", s)
	}
	if age := time.Since(s.Newest.Written); age < -time.Minute || age > 5*time.Minute {
		t.Errorf("written %s ago", age)
	}
	if d.Spec.Replicas == nil || *d.Spec.Replicas != 2 {
		t.Error("values are not used")
	}
	d, _ = p.core.AppsV1().Deployments(p.namespace).Get(t.Context(), "app", metav1.GetOptions{})
	if *d.Spec.Replicas != 1 {
		t.Error("values of the revision before were taken over")
	}
}

func TestWithoutValuesNoneAreTakenOver(t *testing.T) {
	p := newPlace(t)
	p.mustDeploy(map[string]any{"image": "registry/app:v2"}, nil)
	p.mustDeploy(nil, nil)
	if p.image() != "registry/app:v1" {
		t.Errorf("image %s: helm kept the old values", p.image())
	}
}

func TestAnUpgradeTakesFewRequests(t *testing.T) {
	p := newPlace(t)
	c, requests := p.behind(func(r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/openapi") {
			t.Errorf("the OpenAPI documents are downloaded: %s", r.URL)
		}
		return true
	})
	if opening := requests.Load(); opening > 5 {
		t.Errorf("opening took %d requests", opening)
	}
	p.cluster = c
	for i := range 4 {
		r := p.release(map[string]any{"image": fmt.Sprintf("registry/app:v%d", i)}, nil)
		if i == 3 { // a hook is one more object
			r = p.release(nil, map[string]string{"templates/service.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: hook, annotations: {helm.sh/hook: pre-upgrade}}\n"})
		}
		before := requests.Load()
		if _, err := c.Deploy(t.Context(), r, func(string) {}); err != nil {
			t.Fatal(err)
		}
		n := requests.Load() - before
		t.Logf("deployment %d: %d requests", i+1, n)
		if n > 20 {
			t.Errorf("deployment %d took %d requests, more than 20", i+1, n)
		}
	}
	before := requests.Load()
	if _, err := c.States(t.Context()); err != nil || requests.Load()-before != 1 {
		t.Errorf("the states took %d requests, %v", requests.Load()-before, err)
	}
}

func TestAPodThatCannotBecomeReadyIsNamedAtOnceAndTheReleaseReturns(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values map[string]any
		want   string
	}{
		{"an image that is not there", map[string]any{"image": "registry/missing:v2"}, "container app: ImagePullBackOff: Back-off pulling image"},
		{"a program that crashes", map[string]any{"image": "registry/crash:v2"}, "container app: CrashLoopBackOff"},
		{"a pod that no node can take", map[string]any{"cpu": "2k"}, "Unschedulable: 0/1 nodes are available"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(t)
			p.mustDeploy(nil, nil)
			r := p.release(tt.values, nil)
			r.Patience = time.Second
			began := time.Now()
			revision, err := p.cluster.Deploy(t.Context(), r, func(string) {})
			if took := time.Since(began); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "pod "+p.namespace+"/app-") || took > 20*time.Second {
				t.Fatalf("after %s: %v, want %q in it", took, err, tt.want)
			}
			if revision != 2 {
				t.Errorf("revision %d", revision)
			}
			p.wantStatuses("1 deployed", "2 failed")
			to, revision, err := p.cluster.Rollback(t.Context(), r, func(string) {})
			if err != nil || to.Revision != 1 || revision != 3 {
				t.Errorf("to %d, wrote %d, %v", to.Revision, revision, err)
			}
			p.wantStatuses("1 superseded", "2 failed", "3 deployed")
			state, _ := p.cluster.State(t.Context(), r.Key)
			if state.Newest.Mark.Digest != "d1" {
				t.Errorf("the rolled back revision is marked %+v", state.Newest.Mark)
			}
			if p.image() != "registry/app:v1" {
				t.Error(p.image())
			}
		})
	}
}

func TestAnOldPodsTroubleIsNotTheNewRevisions(t *testing.T) {
	p := newPlace(t)
	if _, err := p.deploy(map[string]any{"image": "registry/missing:v1"}, nil); err == nil {
		t.Fatal("an image that is not there became ready")
	}
	p.mustDeploy(map[string]any{"image": "registry/app:v2"}, nil) // the broken pod of revision 1 is still there when this begins
	p.wantStatuses("1 superseded", "2 deployed")                  // Helm's word for what an upgrade replaced, failed or not
}

func TestAFirstRevisionHasNothingToReturnTo(t *testing.T) {
	p := newPlace(t)
	r := p.release(map[string]any{"image": "registry/missing:v1"}, nil)
	if _, err := p.cluster.Deploy(t.Context(), r, func(string) {}); err == nil {
		t.Fatal("an image that is not there became ready")
	}
	if _, _, err := p.cluster.Rollback(t.Context(), r, func(string) {}); !errors.Is(err, ErrNothingToReturnTo) {
		t.Error(err)
	}
	p.wantStatuses("1 failed")
}

func TestWhatFailsBeforeAnythingIsWrittenWritesNoRevision(t *testing.T) {
	p := newPlace(t)
	p.mustDeploy(nil, nil)
	for name, tt := range map[string]struct {
		values map[string]any
		more   map[string]string
		want   string
	}{
		"a template that does not render": {nil, map[string]string{"templates/x.yaml": "{{ required \"say who\" .Values.who }}"}, "say who"},
		"a kind that does not exist":      {nil, map[string]string{"templates/x.yaml": "apiVersion: example.com/v1\nkind: Nothing\nmetadata: {name: x}\n"}, "no matches for kind"},
		"values against the schema":       {map[string]any{"replicas": "two"}, map[string]string{"values.schema.json": `{"properties":{"replicas":{"type":"integer"}}}`}, "replicas"},
	} {
		t.Run(name, func(t *testing.T) {
			revision, err := p.deploy(tt.values, tt.more)
			if revision != 0 || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("revision %d, %v", revision, err)
			}
		})
	}
	p.wantStatuses("1 deployed")
}

func TestTheServerValidatesStrictly(t *testing.T) {
	p := newPlace(t)
	p.mustDeploy(nil, nil)
	_, err := p.deploy(nil, map[string]string{"templates/configmap.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndatum: {a: b}\n"})
	if err == nil || !strings.Contains(err.Error(), "datum") {
		t.Errorf("a field that does not exist: %v", err)
	}
}

func TestFieldsThatSomebodyElseOwnsAreTakenBack(t *testing.T) {
	p := newPlace(t)
	p.mustDeploy(nil, nil)
	patch := []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"app"},"spec":{"replicas":3,"template":{"spec":{"containers":[{"name":"app","image":"by/hand:1"}]}}}}`)
	if _, err := p.core.AppsV1().Deployments(p.namespace).Patch(t.Context(), "app", types.ApplyPatchType, patch, metav1.PatchOptions{FieldManager: "kubectl", Force: new(true)}); err != nil {
		t.Fatal(err)
	}
	p.mustDeploy(map[string]any{"image": "registry/app:v2"}, nil)
	if p.image() != "registry/app:v2" {
		t.Error(p.image())
	}
	d, err := p.core.AppsV1().Deployments(p.namespace).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range d.ManagedFields {
		if m.Manager == "helm" && m.Operation == metav1.ManagedFieldsOperationApply {
			return
		}
	}
	t.Errorf("no field manager helm: %v", d.ManagedFields)
}

func TestObjectsThatExistAlreadyAreAdopted(t *testing.T) {
	p := newPlace(t)
	if err := p.cluster.createNamespace(t.Context(), p.namespace); err != nil {
		t.Fatal(err)
	}
	if _, err := p.core.CoreV1().ConfigMaps(p.namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "app"}, Data: map[string]string{"old": "x"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.mustDeploy(nil, nil)
}

func TestANamespaceThatIsMissingIsNamed(t *testing.T) {
	p := newPlace(t)
	r := p.release(nil, nil)
	r.CreateNamespace = false
	if _, err := p.cluster.Deploy(t.Context(), r, func(string) {}); err == nil || !strings.Contains(err.Error(), "namespace "+p.namespace+" does not exist: create it, or set spec.install.createNamespace") {
		t.Error(err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	p := newPlace(t)
	for i := range 5 {
		r := p.release(map[string]any{"replicas": i + 1}, nil)
		r.MaxHistory = 2
		if _, err := p.cluster.Deploy(t.Context(), r, func(string) {}); err != nil {
			t.Fatal(err)
		}
	}
	p.wantStatuses("4 superseded", "5 deployed")
	r := p.release(map[string]any{"image": "registry/missing:1"}, nil)
	r.MaxHistory = 2
	_, _ = p.cluster.Deploy(t.Context(), r, func(string) {})
	if _, _, err := p.cluster.Rollback(t.Context(), r, func(string) {}); err != nil {
		t.Error(err)
	}
	if n := len(p.statuses()); n > 2 {
		t.Errorf("%d revisions after a roll back: %v", n, p.statuses())
	}
}

func TestTwoInstallsOfOneReleaseDoNotOverwriteEachOther(t *testing.T) {
	p := newPlace(t)
	second := p.release(map[string]any{"image": "registry/app:second"}, nil)
	p.mustDeploy(map[string]any{"image": "registry/app:first"}, nil)
	if revision, err := p.cluster.Deploy(t.Context(), second, func(string) {}); !errors.Is(err, ErrMoved) || revision != 0 {
		t.Errorf("revision %d, %v", revision, err)
	}
	if p.image() != "registry/app:first" {
		t.Error(p.image())
	}
	p.wantStatuses("1 deployed")
}

func TestTwoWritersOfOneReleaseDoNotOverwriteEachOther(t *testing.T) {
	p := newPlace(t)
	p.mustDeploy(nil, nil)
	first, second := p.release(map[string]any{"image": "registry/app:first"}, nil), p.release(map[string]any{"image": "registry/app:second"}, nil)
	if _, err := p.cluster.Deploy(t.Context(), first, func(string) {}); err != nil {
		t.Fatal(err)
	}
	revision, err := p.cluster.Deploy(t.Context(), second, func(string) {})
	if !errors.Is(err, ErrMoved) || revision != 0 {
		t.Errorf("revision %d, %v", revision, err)
	}
	if p.image() != "registry/app:first" {
		t.Error(p.image())
	}
	p.wantStatuses("1 superseded", "2 deployed")
}

func TestAnInterruptedReleaseIsRecoveredAndItsWriterIsFencedOff(t *testing.T) {
	p := newPlace(t)
	p.mustDeploy(nil, nil)
	r := p.release(map[string]any{"image": "registry/app:v2", "annotations": map[string]any{"fake.kubelet/delay": "8s"}}, nil)
	r.Mark.Build = "late"
	late := make(chan error, 1)
	go func() {
		_, err := p.cluster.Deploy(context.WithoutCancel(t.Context()), r, func(string) {})
		late <- err
	}()
	pending := p.waitFor(func(s State) bool { return s.Newest.Pending() })
	if pending.Newest.Mark.Build != "late" {
		t.Errorf("%+v", pending.Newest)
	}
	if err := p.cluster.Recover(t.Context(), pending.Newest, "interrupted: test"); err != nil {
		t.Fatal(err)
	}
	p.wantStatuses("1 deployed", "2 failed")
	if err := p.cluster.Recover(t.Context(), pending.Newest, "again"); !errors.Is(err, ErrMoved) {
		t.Errorf("recovered twice: %v", err)
	}
	p.mustDeploy(map[string]any{"image": "registry/app:v3"}, nil)
	if err := <-late; !errors.Is(err, ErrMoved) {
		t.Errorf("the late writer was not stopped: %v", err)
	}
	if p.image() != "registry/app:v3" {
		t.Error(p.image())
	}
	got := p.statuses()
	if diff := cmp.Diff([]string{"2 failed", "3 deployed"}, got[1:]); diff != "" {
		t.Error(diff)
	}
}

func (p *place) waitFor(ok func(State) bool) State {
	p.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		s, err := p.cluster.State(p.t.Context(), Key{p.namespace, "app"})
		if err == nil && ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("it did not happen: %+v, %v", s, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func TestTheEndOfTheContextEndsTheWaitingAndRecordsTheFailure(t *testing.T) {
	p := newPlace(t)
	p.mustDeploy(nil, nil)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, errors.New("gave up after TIMEOUT"))
	defer cancel()
	r := p.release(map[string]any{"image": "registry/app:v2", "annotations": map[string]any{"fake.kubelet/never-ready": "x"}}, nil)
	began := time.Now()
	revision, err := p.cluster.Deploy(ctx, r, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "gave up after TIMEOUT: pod "+p.namespace+"/app-") || revision != 2 || time.Since(began) > 15*time.Second {
		t.Errorf("revision %d after %s: %v", revision, time.Since(began), err)
	}
	p.wantStatuses("1 deployed", "2 failed")
	if _, err := p.cluster.Deploy(ctx, p.release(nil, nil), func(string) {}); err == nil || err.Error() != "gave up after TIMEOUT" {
		t.Errorf("began although there is no time: %v", err)
	}
}

func TestAReleaseThatIsNotReadyInTimeSaysWhatItLacks(t *testing.T) {
	p := newPlace(t)
	r := p.release(map[string]any{"annotations": map[string]any{"fake.kubelet/never-ready": "x"}}, nil)
	r.Timeout = 3 * time.Second
	_, err := p.cluster.Deploy(t.Context(), r, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "not ready within 3s: pod "+p.namespace+"/app-") {
		t.Error(err)
	}
}

func TestHooksAndJobsAreWaitedFor(t *testing.T) {
	job := func(annotations, podAnnotations string) string {
		return "apiVersion: batch/v1\nkind: Job\nmetadata: {name: job, annotations: " + annotations + "}\nspec: {backoffLimit: 0, template: {metadata: {annotations: " + podAnnotations + "}, spec: {restartPolicy: Never, containers: [{name: c, image: x}]}}}\n"
	}
	hook := `{helm.sh/hook: "pre-install,pre-upgrade", helm.sh/hook-delete-policy: "before-hook-creation", helm.sh/hook-output-log-policy: "hook-failed"}`
	for _, tt := range []struct{ name, job, want string }{
		{"a hook that succeeds", job(hook, "{}"), ""},
		{"a hook that fails", job(hook, `{fake.kubelet/exit: "1"}`), "Job job: BackoffLimitExceeded"},
		{"a job that succeeds", job("{}", "{}"), ""},
		{"a job that fails", job("{}", `{fake.kubelet/exit: "1"}`), "Job job: BackoffLimitExceeded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(t)
			for range 2 { // the second run finds the hook of the first
				_, err := p.deploy(nil, map[string]string{"templates/job.yaml": tt.job})
				if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("%v, want %q", err, tt.want)
				}
			}
		})
	}
}

// TestAReleaseChangesHandsWithHelm deploys with Helm's SDK as its CLI does, takes the release over, and gives it back.
func TestAReleaseChangesHandsWithHelm(t *testing.T) {
	p := newPlace(t)
	if err := p.cluster.createNamespace(t.Context(), p.namespace); err != nil {
		t.Fatal(err)
	}
	helm := func() *action.Configuration {
		cfg := action.NewConfiguration()
		if err := cfg.Init(p.cluster.getter.in(p.namespace), p.namespace, ""); err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	in := action.NewInstall(helm())
	in.ReleaseName, in.Namespace, in.WaitStrategy = "app", p.namespace, kube.HookOnlyStrategy
	if _, err := in.Run(testChart(t, nil), map[string]any{}); err != nil {
		t.Fatal(err)
	}
	p.mustDeploy(map[string]any{"image": "registry/app:v2"}, nil)
	up := action.NewUpgrade(helm())
	up.Namespace, up.WaitStrategy = p.namespace, kube.HookOnlyStrategy
	if _, err := up.Run("app", testChart(t, nil), map[string]any{"image": "registry/app:v3"}); err != nil {
		t.Fatal(err)
	}
	state, err := p.cluster.State(t.Context(), Key{p.namespace, "app"})
	if err != nil || state.Newest.Revision != 3 || state.Newest.Mark != (Mark{}) {
		t.Errorf("helm's revision counts as ours: %+v, %v", state.Newest, err)
	}
	un := action.NewUninstall(helm())
	un.KeepHistory, un.WaitStrategy = true, kube.HookOnlyStrategy
	if _, err := un.Run("app"); err != nil {
		t.Fatal(err)
	}
	if r := p.mustDeploy(nil, nil); r != 4 {
		t.Errorf("after an uninstall that keeps the history: revision %d", r)
	}
}

func TestPermissionsThatAreMissingAreNamedWithTheUser(t *testing.T) {
	w := kubernetesWorld(t)
	c, err := Open(t.Context(), w.ViewerKubeconfig, "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.States(t.Context())
	if err == nil || !strings.Contains(err.Error(), "lacks a permission in the cluster at https://127.0.0.1") || !strings.Contains(err.Error(), "cannot list resource") {
		t.Error(err)
	}
	text, err := os.ReadFile(w.ViewerKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.Load(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range cfg.AuthInfos {
		u.Token = "expired-canary"
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path, ""); err == nil || !strings.Contains(err.Error(), "does not accept the credentials of user") || strings.Contains(err.Error(), "canary") {
		t.Error(err)
	}
}

// A stub in the history must never be written back in place of the record that it stands for.
func TestAStatusIsWrittenIntoTheWholeRecord(t *testing.T) {
	p := newPlace(t)
	p.mustDeploy(nil, nil)
	p.mustDeploy(map[string]any{"replicas": 2}, nil)
	s := p.cluster.store(Key{p.namespace, "app"}, 2, Mark{})
	list, err := s.Query(map[string]string{"owner": "helm", "name": "app"})
	if err != nil || len(list) != 2 {
		t.Fatalf("%d records, %v", len(list), err)
	}
	if err := s.Update(recordName("app", 1), list[0]); err != nil {
		t.Fatal(err)
	}
	secret, err := p.core.CoreV1().Secrets(p.namespace).Get(t.Context(), recordName("app", 1), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(secret.Data["release"]) < 500 {
		t.Errorf("the record shrank to %d bytes", len(secret.Data["release"]))
	}
}

func TestManyReleasesShareOneConnection(t *testing.T) {
	p := newPlace(t)
	if err := p.cluster.createNamespace(t.Context(), p.namespace); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range 16 {
		r := p.release(map[string]any{"image": fmt.Sprintf("registry/app:v%d", i)}, nil)
		r.Name = fmt.Sprintf("app-%d", i)
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if _, err := p.cluster.Deploy(t.Context(), r, func(string) {}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err := p.core.AppsV1().Deployments(p.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 16 {
		t.Fatalf("%d deployments, %v", len(list.Items), err)
	}
	for _, d := range list.Items {
		if want := "registry/app:v" + strings.TrimPrefix(d.Name, "app-"); d.Spec.Template.Spec.Containers[0].Image != want {
			t.Errorf("%s runs %s", d.Name, d.Spec.Template.Spec.Containers[0].Image)
		}
	}
}
