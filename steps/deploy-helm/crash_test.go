package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/controlplane"
)

// killer stands in front of the API server and kills the program at one of its requests: before the request arrives, or when the server has
// done all of it and the answer is on its way.
type killer struct {
	next  http.Handler
	at    int // 0: never
	after bool

	mu      sync.Mutex
	methods []string // of the requests so far
	cmd     *exec.Cmd
}

func (k *killer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	k.methods = append(k.methods, r.Method)
	hit, cmd := len(k.methods) == k.at, k.cmd
	k.mu.Unlock()
	if !hit {
		k.next.ServeHTTP(w, r)
		return
	}
	if k.after && r.Method != http.MethodGet { // of a watch there is no end, and a read whose answer is lost is none
		k.next.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithoutCancel(r.Context())))
	}
	_ = cmd.Process.Kill() // SIGKILL: no signal handler may be what keeps the release whole
	panic(http.ErrAbortHandler)
}

// crashWorld is a control plane, and a config repo in three states of which each point of death has a release of its own.
type crashWorld struct {
	t          *testing.T
	kubeconfig string
	api        http.Handler // the API server, as administrator
	core       kubernetes.Interface
	dir        string
	slots      chan struct{}
}

const crashChart = `apiVersion: apps/v1
kind: Deployment
metadata: {name: '{{ .Release.Name }}'}
spec:
  selector: {matchLabels: {app: x}}
  template:
    metadata: {labels: {app: x}}
    spec: {containers: [{name: backend, image: '{{ .Values.image.repository }}:{{ .Values.image.tag }}'}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: '{{ .Release.Name }}'}
data: {tag: '{{ .Values.image.tag }}'}
`

func newCrashWorld(t *testing.T) *crashWorld {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	plane, err := controlplane.Start(ctx, controlplane.Options{Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plane.Close() })
	cfg, err := clientcmd.BuildConfigFromFlags("", plane.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	w := &crashWorld{t: t, kubeconfig: plane.Kubeconfig, dir: t.TempDir(), slots: make(chan struct{}, 24)}
	target, err := url.Parse(cfg.Host)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	if proxy.Transport, err = rest.TransportFor(cfg); err != nil {
		t.Fatal(err)
	}
	proxy.FlushInterval = -1
	w.api = proxy
	if w.core, err = kubernetes.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

// write puts the release of a point into one state of the config repo.
func (w *crashWorld) write(state, point, image, tag string) {
	files := map[string]string{
		"chart/Chart.yaml":            "apiVersion: v2\nname: backend\nversion: 1.0.0\n",
		"chart/values.yaml":           "image: {}\n",
		"chart/templates/all.yaml":    crashChart,
		"accounts.yaml":               "accounts: [{id: orchid, is_uat: true, region: europe-west1}]\n",
		"releases/" + point + ".yaml": fmt.Sprintf("apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: backend, namespace: %[1]s, labels: {account: orchid, point: %[1]s}}\nspec:\n  interval: 10m\n  install: {createNamespace: true}\n  chart: {spec: {chart: ./chart, sourceRef: {kind: GitRepository, name: config}}}\n  values: {image: {repository: %[2]s, tag: %[3]s}}\n", point, image, tag),
	}
	for name, text := range files {
		path := filepath.Join(w.dir, state, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

// program is the real step, on the releases that the selector matches.
func (w *crashWorld) program(kubeconfig, state, selector, build string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command("deploy-helm")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + kubeconfig, "SOURCE_DIR=" + filepath.Join(w.dir, state), "SELECT=" + selector,
		"BUILD_ID=" + build, "HANDOVER_DIR=" + filepath.Join(w.dir, "handover", strings.ReplaceAll(selector, "=", "-")+"-"+build), "CONCURRENCY=16",
	}
	said := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = said, said
	return cmd, said
}

// die runs the program behind a killer, on one release, and returns the methods of its requests.
func (w *crashWorld) die(state, point string, k *killer) (methods []string, killed bool, said string) {
	return w.behind(state, "point="+point, k)
}

// behind runs the program behind a killer, on the releases that the selector matches.
func (w *crashWorld) behind(state, selector string, k *killer) (methods []string, killed bool, said string) {
	k.next = w.api
	server := httptest.NewServer(k)
	defer server.CloseClientConnections()
	path := filepath.Join(w.dir, strings.ReplaceAll(selector, "=", "-")+".kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: k, cluster: {server: '%s'}}]\ncontexts: [{name: c, context: {cluster: k, user: u}}]\nusers: [{name: u, user: {}}]\n", server.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Error(err)
		return nil, false, ""
	}
	cmd, out := w.program(path, state, selector, "first")
	k.mu.Lock()
	k.cmd = cmd
	err := cmd.Start()
	k.mu.Unlock()
	if err == nil {
		err = cmd.Wait()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.methods, err != nil && strings.Contains(err.Error(), "killed"), out.String()
}

// look counts a release's revisions, and says which image runs.
func (w *crashWorld) look(point string) (revisions int, newest string, deployedOnes, pending int, image string) {
	list, err := w.core.CoreV1().Secrets(point).List(w.t.Context(), metav1.ListOptions{LabelSelector: "owner=helm"})
	if err != nil {
		w.t.Error(err)
		return
	}
	for _, s := range list.Items {
		var n int
		_, _ = fmt.Sscan(s.Labels["version"], &n)
		if n > revisions {
			revisions, newest = n, s.Labels["status"]
		}
		if s.Labels["status"] == "deployed" {
			deployedOnes++
		}
		if strings.HasPrefix(s.Labels["status"], "pending") {
			pending++
		}
	}
	if d, err := w.core.AppsV1().Deployments(point).Get(w.t.Context(), "backend", metav1.GetOptions{}); err == nil {
		image = d.Spec.Template.Spec.Containers[0].Image
	}
	return
}

// Cloud Build ends a build with SIGKILL. At whatever request to the cluster that happens, in an install, an upgrade, or an upgrade that fails
// and is rolled back, and whichever build comes next: the release ends deployed, once, and nothing of it is left pending.
func TestAProgramThatIsKilledAnywhereConverges(t *testing.T) {
	w := newCrashWorld(t)
	const good, bad = "registry.example/backend", "registry.example/missing"
	scenarios := []struct {
		name, image string
		installed   bool   // a revision ran before
		exit        string // of a run that is not killed; "" for success
		ends        string // the image that runs in the end
		most        int    // revisions: what a run writes, and once more for the interrupted one
	}{
		{"install", good, false, "", good + ":v1.1.0", 2},
		{"upgrade", good, true, "", good + ":v1.1.0", 3},
		{"rollback", bad, true, "exit status 1", good + ":v1.0.0", 5},
	}
	type point struct {
		scenario int
		name     string
		k        killer
		build    string
	}
	var points []*point
	// How many requests a run makes, and which of them write.
	for i, s := range scenarios {
		count := "count-" + s.name
		w.write("before", count, good, "v1.0.0")
		w.write("after", count, s.image, "v1.1.0")
		if s.installed {
			cmd, said := w.program(w.kubeconfig, "before", "point="+count, "zero")
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v: %s", err, said)
			}
		}
		methods, _, said := w.die("after", count, &killer{})
		if len(methods) < 15 {
			t.Fatalf("%s makes %d requests: is it looked at? %s", s.name, len(methods), said)
		}
		t.Logf("%s: %d requests", s.name, len(methods))
		add := func(at int, after bool, build string) {
			name := fmt.Sprintf("%s-%d-%t-%s", s.name, at, after, build)
			w.write("after", name, s.image, "v1.1.0")
			if s.installed {
				w.write("before", name, good, "v1.0.0")
			}
			points = append(points, &point{i, name, killer{at: at, after: after}, build})
		}
		for at := 1; at <= len(methods); at++ {
			if methods[at-1] == http.MethodGet {
				add(at, false, []string{"first", "second"}[at%2])
				continue
			}
			for _, build := range []string{"first", "second"} {
				add(at, false, build)
				add(at, true, build)
			}
		}
	}
	cmd, said := w.program(w.kubeconfig, "before", "", "zero")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	began := time.Now()
	var wg sync.WaitGroup
	for _, p := range points {
		w.slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-w.slots }()
			s := scenarios[p.scenario]
			_, killed, said := w.die("after", p.name, &p.k)
			if !killed { // watches come and go: the last requests of a run are not always made
				t.Logf("%s: the run ended before", p.name)
			}
			cmd, again := w.program(w.kubeconfig, "after", "point="+p.name, p.build)
			err := cmd.Run()
			if s.exit == "" && err != nil || s.exit != "" && (err == nil || err.Error() != s.exit) {
				t.Errorf("%s: the second run: %v\n%s\n%s", p.name, err, said, again)
				return
			}
			revisions, newest, ones, pending, image := w.look(p.name)
			if newest != "deployed" || ones != 1 || pending != 0 || image != s.ends || revisions > s.most {
				t.Errorf("%s: revision %d is %s, %d deployed, %d pending, %s runs, want at most %d revisions and %s\n%s\n%s", p.name, revisions, newest, ones, pending, image, s.most, s.ends, said, again)
			}
		})
	}
	wg.Wait()
	t.Logf("%d points in %s", len(points), time.Since(began).Round(time.Second))
}

// What has not changed is found by the one list of the records' metadata: forty releases cost the requests of one.
func TestUnchangedReleasesCostNoMoreRequestsHoweverManyThereAre(t *testing.T) {
	w := newCrashWorld(t)
	const releases = 40
	for i := range releases {
		w.write("idle", fmt.Sprintf("idle-%02d", i), "registry.example/backend", "v1.0.0")
	}
	cmd, said := w.program(w.kubeconfig, "idle", "", "zero")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	one, _, _ := w.behind("idle", "point=idle-00", &killer{})
	all, _, text := w.behind("idle", "", &killer{})
	if !strings.Contains(text, fmt.Sprintf("0 deployed, %d unchanged, 0 failed", releases)) {
		t.Fatal(text)
	}
	if len(all) != len(one) || len(all) > 10 {
		t.Errorf("%d requests for %d releases, %d for one: %v", len(all), releases, len(one), all)
	}
	for _, method := range all {
		if method != http.MethodGet {
			t.Errorf("a run that changes nothing sends a %s", method)
		}
	}
}
