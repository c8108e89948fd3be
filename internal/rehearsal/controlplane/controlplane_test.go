package controlplane_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/controlplane"
)

// ownCluster makes this test program start a cluster and wait to be killed, instead of running tests.
const ownCluster = "CONTROLPLANE_TEST_OWN_CLUSTER"

func TestMain(m *testing.M) {
	if os.Getenv(ownCluster) == "" {
		os.Exit(m.Run())
	}
	go func() { // a test that ends before it kills this process must not leave it behind
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	cluster, err := controlplane.Start(context.Background(), controlplane.Options{Dir: os.Getenv(ownCluster), Log: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(cluster.PIDs())
	select {}
}

// start runs a cluster until the test ends. Building kubeone, the first time, is given the time it needs.
func start(t *testing.T) *controlplane.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	cluster, err := controlplane.Start(ctx, controlplane.Options{Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	return cluster
}

// person is a user of a kubeconfig, read the way real clients read it.
type person struct {
	server string
	client *http.Client
}

func login(t *testing.T, kubeconfig string) person {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return person{config.Host, client}
}

// send returns the status of the answer.
func (p person) send(t *testing.T, method, path, body string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, p.server+path, bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := p.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode > 299 {
		t.Logf("%s %s: %s", method, path, answer)
	}
	return response.StatusCode
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, what string, ask func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ask() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after a minute still not: %s", what)
		}
	}
}

func get(t *testing.T, cluster *controlplane.Cluster, path string, v any) {
	t.Helper()
	if err := cluster.Get(t.Context(), path, v); err != nil {
		t.Fatal(err)
	}
}

// deployment is a Deployment of one container in the namespace default.
func deployment(name, image string, replicas int) string {
	return fmt.Sprintf(`{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": %[1]q}, "spec": {"replicas": %[3]d,
		"selector": {"matchLabels": {"app": %[1]q}}, "template": {"metadata": {"labels": {"app": %[1]q}},
		"spec": {"containers": [{"name": "main", "image": %[2]q}]}}}}`, name, image, replicas)
}

type podList struct {
	Items []struct {
		Status struct {
			Phase             string
			ContainerStatuses []struct {
				Name, Image, ImageID string
				Ready                bool
				State                struct{ Waiting *struct{ Reason string } }
			}
		}
	}
}

func TestACluster(t *testing.T) {
	cluster := start(t) // one for all that follows: each costs four seconds
	admin, deployer, viewer := login(t, cluster.Kubeconfig), login(t, cluster.DeployerKubeconfig), login(t, cluster.ViewerKubeconfig)

	t.Run("reports the version that its go.mod names, so that charts with a kubeVersion install", func(t *testing.T) {
		gomod, err := os.ReadFile(filepath.Join("..", "..", "..", "tools", "kubeone", "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		var version struct{ Major, Minor, GitVersion string }
		get(t, cluster, "/version", &version)
		if !strings.Contains(string(gomod), "k8s.io/kubernetes "+version.GitVersion+"\n") {
			t.Errorf("gitVersion is %q", version.GitVersion)
		}
		if want := "v" + version.Major + "." + version.Minor + "."; !strings.HasPrefix(version.GitVersion, want) || version.Major == "" {
			t.Errorf("major %q and minor %q do not belong to %q", version.Major, version.Minor, version.GitVersion)
		}
	})

	t.Run("makes a Deployment ready and lists its pods with their images", func(t *testing.T) {
		digest := "sha256:" + strings.Repeat("0f", 32)
		image := "127.0.0.1:5000/demo/backend:v1.0.0@" + digest
		if got := deployer.send(t, http.MethodPost, "/apis/apps/v1/namespaces/default/deployments", deployment("backend", image, 2)); got != http.StatusCreated {
			t.Fatalf("creating the Deployment is answered with %d", got)
		}
		eventually(t, "two replicas are available", func() bool {
			var d struct {
				Status struct{ AvailableReplicas int }
			}
			get(t, cluster, "/apis/apps/v1/namespaces/default/deployments/backend", &d)
			return d.Status.AvailableReplicas == 2
		})
		var pods podList
		get(t, cluster, "/api/v1/namespaces/default/pods?labelSelector=app%3Dbackend", &pods)
		if len(pods.Items) != 2 {
			t.Fatalf("%d pods, want 2", len(pods.Items))
		}
		for _, pod := range pods.Items {
			if pod.Status.Phase != "Running" || len(pod.Status.ContainerStatuses) != 1 {
				t.Fatalf("pod status %+v, want Running with one container", pod.Status)
			}
			container := pod.Status.ContainerStatuses[0]
			got := []string{container.Name, container.Image, container.ImageID, strconv.FormatBool(container.Ready)}
			if diff := cmp.Diff([]string{"main", image, "127.0.0.1:5000/demo/backend@" + digest, "true"}, got); diff != "" {
				t.Errorf("container (-want +got):\n%s", diff)
			}
		}
	})

	t.Run("replaces the pods when the image changes, and removes them with the Deployment", func(t *testing.T) {
		const path = "/apis/apps/v1/namespaces/default/deployments"
		if got := deployer.send(t, http.MethodPost, path, deployment("changing", "demo/changing:v1", 1)); got != http.StatusCreated {
			t.Fatalf("creating the Deployment is answered with %d", got)
		}
		if got := deployer.send(t, http.MethodPut, path+"/changing", deployment("changing", "demo/changing:v2", 1)); got != http.StatusOK {
			t.Fatalf("changing the Deployment is answered with %d", got)
		}
		pods := func() podList {
			var pods podList
			get(t, cluster, "/api/v1/namespaces/default/pods?labelSelector=app%3Dchanging", &pods)
			return pods
		}
		eventually(t, "only a pod of the new image is there", func() bool {
			pods := pods()
			return len(pods.Items) == 1 && len(pods.Items[0].Status.ContainerStatuses) == 1 &&
				pods.Items[0].Status.ContainerStatuses[0].Image == "demo/changing:v2"
		})
		if got := deployer.send(t, http.MethodDelete, path+"/changing", ""); got != http.StatusOK {
			t.Fatalf("deleting the Deployment is answered with %d", got)
		}
		eventually(t, "no pod is there", func() bool { return len(pods().Items) == 0 })
	})

	t.Run("reports an image that cannot be pulled", func(t *testing.T) {
		if got := deployer.send(t, http.MethodPost, "/apis/apps/v1/namespaces/default/deployments", deployment("broken", "demo/missing:v1", 1)); got != http.StatusCreated {
			t.Fatalf("creating the Deployment is answered with %d", got)
		}
		eventually(t, "the pod waits with ImagePullBackOff", func() bool {
			var pods podList
			get(t, cluster, "/api/v1/namespaces/default/pods?labelSelector=app%3Dbroken", &pods)
			if len(pods.Items) == 0 || len(pods.Items[0].Status.ContainerStatuses) == 0 {
				return false
			}
			waiting := pods.Items[0].Status.ContainerStatuses[0].State.Waiting
			return waiting != nil && waiting.Reason == "ImagePullBackOff"
		})
	})

	t.Run("serves the logs of pods through the API server", func(t *testing.T) {
		pod := `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "talker", "annotations": {"fake.kubelet/log": "one\ntwo\nthree\n", "fake.kubelet/previous-log": "panic\n"}},
			"spec": {"containers": [{"name": "main", "image": "demo/crash"}]}}`
		if got := deployer.send(t, http.MethodPost, "/api/v1/namespaces/default/pods", pod); got != http.StatusCreated {
			t.Fatalf("creating the pod is answered with %d", got)
		}
		for query, want := range map[string]string{"?tailLines=2": "two\nthree\n", "?previous=true": "panic\n"} {
			path := "/api/v1/namespaces/default/pods/talker/log" + query
			var text []byte
			// Between two states of a container that crashes again and again, the API server has no log for a moment.
			eventually(t, "its log is served", func() bool {
				answer, err := viewer.client.Get(viewer.server + path)
				if err != nil {
					t.Fatal(err)
				}
				text, err = io.ReadAll(answer.Body)
				_ = answer.Body.Close()
				return err == nil && answer.StatusCode == http.StatusOK
			})
			if string(text) != want {
				t.Errorf("the log is %q, want %q", text, want)
			}
		}
	})

	t.Run("finishes a Job", func(t *testing.T) {
		job := `{"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "migrate"}, "spec": {"template": {"spec": {"restartPolicy": "Never",
			"containers": [{"name": "main", "image": "demo/migrate"}]}}}}`
		if got := deployer.send(t, http.MethodPost, "/apis/batch/v1/namespaces/default/jobs", job); got != http.StatusCreated {
			t.Fatalf("creating the Job is answered with %d", got)
		}
		eventually(t, "the Job has succeeded", func() bool {
			var j struct{ Status struct{ Succeeded int } }
			get(t, cluster, "/apis/batch/v1/namespaces/default/jobs/migrate", &j)
			return j.Status.Succeeded == 1
		})
	})

	t.Run("lets the administrator and the deployer write, and the viewer only read, but no secrets", func(t *testing.T) {
		namespace := func(name string) string {
			return `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "` + name + `"}}`
		}
		for _, test := range []struct {
			name         string
			person       person
			method, path string
			body         string
			want         int
		}{
			{"administrator makes a namespace", admin, http.MethodPost, "/api/v1/namespaces", namespace("account-maple"), http.StatusCreated},
			{"deployer makes a namespace", deployer, http.MethodPost, "/api/v1/namespaces", namespace("account-cedar"), http.StatusCreated},
			{"viewer makes a namespace", viewer, http.MethodPost, "/api/v1/namespaces", namespace("account-birch"), http.StatusForbidden},
			{"viewer lists pods", viewer, http.MethodGet, "/api/v1/namespaces/default/pods", "", http.StatusOK},
			{"viewer lists secrets", viewer, http.MethodGet, "/api/v1/namespaces/default/secrets", "", http.StatusForbidden},
			{"nobody lists pods", person{viewer.server, anonymous(t, cluster.Kubeconfig)}, http.MethodGet, "/api/v1/pods", "", http.StatusForbidden},
		} {
			if got := test.person.send(t, test.method, test.path, test.body); got != test.want {
				t.Errorf("%s: answered with %d, want %d", test.name, got, test.want)
			}
		}
	})

	t.Run("says what is not there", func(t *testing.T) {
		err := cluster.Get(t.Context(), "/api/v1/namespaces/default/pods/absent", nil)
		refusal, ok := errors.AsType[*controlplane.APIError](err)
		if !ok || refusal.StatusCode != http.StatusNotFound || !strings.Contains(refusal.Message, `pods "absent" not found`) {
			t.Errorf("the error is %v, want the server's 404", err)
		}
	})

	t.Run("is gone after Close, with its folder", func(t *testing.T) {
		pids := cluster.PIDs()
		if len(pids) != 4 {
			t.Errorf("%d processes, want 4", len(pids))
		}
		began := time.Now()
		if err := cluster.Close(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("closing took %s", took)
		}
		for _, pid := range pids {
			if alive(pid) {
				t.Errorf("process %d is still there", pid)
			}
		}
		if _, err := os.Stat(cluster.Dir()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the temporary folder is still there: %v", err)
		}
	})
}

// anonymous is a client that trusts the server and has no credentials.
func anonymous(t *testing.T, kubeconfig string) *http.Client {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(rest.AnonymousClientConfig(config))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestAKilledParentLeavesNoProcess(t *testing.T) {
	dir := t.TempDir()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), ownCluster+"="+dir)
	parent.Stderr = os.Stderr
	if _, err := parent.StdinPipe(); err != nil { // held, so that the parent does not outlive this test
		t.Fatal(err)
	}
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the parent started no cluster: %v", err)
	}
	var pids []int
	if err := json.Unmarshal([]byte(strings.ReplaceAll(strings.TrimSpace(line), " ", ",")), &pids); err != nil || len(pids) != 4 {
		t.Fatalf("the parent printed %q, want four process ids", line)
	}
	for _, pid := range pids {
		if !alive(pid) {
			t.Errorf("process %d is not there before the parent is killed", pid)
		}
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // reports the kill
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d has ended", pid), func() bool { return !alive(pid) })
	}
}

// alive says whether a process runs. One that has ended but was not waited for, as happens to orphans in a container without an init, does not.
func alive(pid int) bool {
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) || !procExists()
	}
	_, state, _ := strings.Cut(string(stat), ") ") // the name in parentheses may hold anything, the state follows it
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// procExists says whether this system has Linux's /proc at all.
func procExists() bool {
	_, err := os.Stat("/proc/self/stat")
	return err == nil
}

// impostors is a folder with a program in place of each of kubeone's: those named in scripts run these, the others wait for ever.
func impostors(t *testing.T, scripts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "fake-kubelet"} {
		script := scripts[name]
		if script == "" {
			script = "read forever"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAProgramThatFailsIsNamedWithItsLastWords(t *testing.T) {
	bin := impostors(t, map[string]string{"kube-apiserver": "echo 'bad flag: --oops' >&2; exit 3"})
	_, err := controlplane.StartFrom(t.Context(), bin, t.TempDir())
	if err == nil {
		t.Fatal("it started")
	}
	for _, want := range []string{"waiting for the API server", "kube-apiserver ended with exit status 3", "bad flag: --oops"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

func TestAClusterThatDoesNotGetReadyInTimeSaysWhatItWaitedFor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := controlplane.StartFrom(ctx, impostors(t, map[string]string{"etcd": "echo 'no space left'; read forever"}), t.TempDir())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v, want the deadline", err)
	}
	for _, want := range []string{"waiting for the API server", "connection refused", "no space left"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

func TestAPortTakenInTheMeantimeIsGivenUpForAnother(t *testing.T) {
	dir := t.TempDir()
	bin := impostors(t, map[string]string{"etcd": `echo "$*" >> "$HOME/attempts"; echo 'listen tcp 127.0.0.1:1: bind: address already in use' >&2; exit 1`})
	if _, err := controlplane.StartFrom(t.Context(), bin, dir); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("the error is %v, want that of the last attempt", err)
	}
	attempts, err := os.ReadFile(filepath.Join(dir, "attempts"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(attempts)), "\n")
	if len(lines) != 3 || lines[0] == lines[1] || lines[1] == lines[2] {
		t.Errorf("the attempts are %q, want three with different ports", lines)
	}
}
