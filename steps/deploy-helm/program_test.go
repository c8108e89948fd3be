package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/controlplane"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/googlecloud"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/toolcache"
	"github.com/deepdesk/cloudbuild-steps/internal/step/steptest"
)

func TestMain(m *testing.M) {
	steptest.Main(m, map[string]func(){
		"deploy-helm": main,
		"app":         app,
		"apply":       apply,
		"cloudlog":    cloudlog,
		"contexts":    twoContexts, "plugged": plugged,
		"decision":    decision,
		"edit":        edit,
		"flux":        flux,
		"fluxrelease": fluxrelease,
		"fluxsource":  fluxsource,
		"helmindex":   helmindex,
		"helmpackage": helmpackage,
		"helmpush":    helmpush,
		"helmrelease": helmrelease,
		"look":        look,
		"managers":    managers,
		"owners":      owners,
		"push":        push,
		"secret":      makeSecret,
		"show":        show,
		"terminated":  terminated,
	})
}

// plugged writes plugged.yaml, the script's kubeconfig with its token moved into the file $TOKEN, from which ./plugin takes it.
func plugged() {
	cfg, err := clientcmd.LoadFromFile(os.Getenv("KUBECONFIG"))
	check(err)
	dir, err := os.Getwd()
	check(err)
	for _, u := range cfg.AuthInfos {
		check(os.WriteFile("token", []byte(u.Token), 0o600))
		*u = clientcmdapi.AuthInfo{Exec: &clientcmdapi.ExecConfig{
			APIVersion: "client.authentication.k8s.io/v1", Command: filepath.Join(dir, "plugin"), InteractiveMode: clientcmdapi.NeverExecInteractiveMode,
		}}
	}
	check(clientcmd.WriteToFile(*cfg, "plugged.yaml"))
}

// TestScripts runs the real program against a real API server and a real Git server. One of each serves all scripts, so that each script
// has namespaces of its own; its config repo is made of the example's chart and inventory and of what the script writes.
func TestScripts(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute) // the first start on a machine builds Kubernetes
	defer cancel()
	cluster, err := controlplane.Start(ctx, controlplane.Options{Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.Close() })
	git, err := gitserver.Start(t.TempDir(), gitserver.Options{Token: "git-canary"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = git.Close() })
	helm, err := toolcache.Tool(ctx, "helm", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	example, err := filepath.Abs("../../examples/config")
	if err != nil {
		t.Fatal(err)
	}
	cloud := startCloud(t, cluster.DeployerKubeconfig, 0)
	hasty := startCloud(t, cluster.DeployerKubeconfig, 2*time.Second)
	charts := startChartWorld(t)
	var repos atomic.Int64
	t.Run("all", func(t *testing.T) { // scripts run side by side; the servers live until the last of them ends
		steptest.Run(t, "testdata/script", func(e *testscript.Env) error {
			url, err := git.Create(fmt.Sprintf("example/config-%d", repos.Add(1)))
			if err != nil {
				return err
			}
			repo := filepath.Join(e.WorkDir, "repo")
			if err := os.MkdirAll(repo, 0o755); err != nil {
				return err
			}
			for _, name := range []string{"charts", "accounts.yaml"} {
				if out, err := exec.Command("cp", "-r", filepath.Join(example, name), repo).CombinedOutput(); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
			}
			if err := charts.setup(e); err != nil {
				return err
			}
			for k, v := range cloud.Env() {
				e.Setenv(k, v)
			}
			for _, account := range []string{"nobody", "getter"} {
				if err := cloud.WriteKey(filepath.Join(e.WorkDir, account+".json"), accountOf(account)); err != nil {
					return err
				}
			}
			if err := hasty.WriteKey(filepath.Join(e.WorkDir, "hasty.json"), accountOf("builder")); err != nil {
				return err
			}
			public := filepath.Join(e.WorkDir, "public.pem") // in place of the authorities that this machine trusts
			if err := os.WriteFile(public, append(cloud.PublicCA, hasty.PublicCA...), 0o644); err != nil {
				return err
			}
			e.Setenv("SSL_CERT_FILE", public)
			e.Setenv("HASTY", hasty.Host())
			e.Setenv("EU", clusterEU)
			e.Setenv("US", clusterUS)
			e.Setenv("REGION_EU", regionEU)
			e.Setenv("REGION_US", regionUS)
			e.Setenv("EXAMPLE", example)
			e.Setenv("PATH", e.Getenv("PATH")+string(filepath.ListSeparator)+filepath.Dir(helm))
			e.Setenv("CLUSTER", cluster.DeployerKubeconfig)
			e.Setenv("VIEWER", cluster.ViewerKubeconfig)
			e.Setenv("KUBECONFIG", cluster.DeployerKubeconfig)
			e.Setenv("REPO_URL", url)
			e.Setenv("GIT_TOKEN", "git-canary")
			e.Setenv("HANDOVER_DIR", filepath.Join(e.WorkDir, "handover"))
			e.Setenv("BUILD_ID", "build-1")
			e.Setenv("A", "sha256:"+strings.Repeat("a", 64))
			e.Setenv("B", "sha256:"+strings.Repeat("b", 64))
			return nil
		})
	})
}

// The clusters of the scripts' cloud. All of them are the one API server behind.
const (
	clusterEU = "projects/demo-cloud/locations/europe-west1/clusters/main" // has a public address only
	clusterUS = "projects/demo-cloud/locations/us-central1/clusters/main"  // has all endpoints
	// Only regions.txtar uses these, so that it can count their requests.
	regionEU = "projects/demo-cloud/locations/europe-west1/clusters/regions"
	regionUS = "projects/demo-cloud/locations/us-central1/clusters/regions"
)

func accountOf(name string) string { return name + "@demo-cloud.iam.gserviceaccount.com" }

// startCloud starts a cloud whose builds run as builder, who may do everything. nobody may do nothing, getter may find clusters, and
// deployer may do all that is needed to deploy.
func startCloud(t *testing.T, kubeconfig string, lifetime time.Duration) *googlecloud.Server {
	t.Helper()
	cloud, err := googlecloud.Start(googlecloud.Options{
		Account: accountOf("builder"), Lifetime: lifetime,
		Grants: map[string][]string{
			accountOf("builder"): googlecloud.All, accountOf("nobody"): nil, accountOf("getter"): {googlecloud.GetClusters},
			accountOf("deployer"): {googlecloud.GetClusters, googlecloud.Connect},
		},
		Clusters: map[string]googlecloud.Cluster{
			regionEU:  {Kubeconfig: kubeconfig, Public: true},
			regionUS:  {Kubeconfig: kubeconfig, DNS: true},
			clusterEU: {Kubeconfig: kubeconfig, Public: true},
			clusterUS: {Kubeconfig: kubeconfig, DNS: true, Public: true, Private: true},
			"projects/demo-cloud/locations/us-central1/clusters/inner":  {Kubeconfig: kubeconfig, Private: true},
			"projects/demo-cloud/locations/us-central1/clusters/closed": {Kubeconfig: kubeconfig},
			"projects/demo-cloud/locations/global/memberships/edge":     {Kubeconfig: kubeconfig},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cloud.Close() })
	return cloud
}

// cloudlog HOST PATTERN prints the requests that the cloud at HOST has seen and that the pattern matches.
func cloudlog() {
	resp, err := http.Get("http://" + os.Args[1] + "/log")
	check(err)
	text, err := io.ReadAll(resp.Body)
	check(err)
	pattern := regexp.MustCompile(os.Args[2])
	for line := range strings.Lines(string(text)) {
		if pattern.MatchString(line) {
			fmt.Print(line)
		}
	}
}

// contexts NAME NAME prints the kubeconfig $CLUSTER with two contexts of these names, and no current one.
func twoContexts() {
	file, err := clientcmd.LoadFromFile(os.Getenv("CLUSTER"))
	check(err)
	only := file.Contexts[file.CurrentContext]
	file.CurrentContext = ""
	file.Contexts = map[string]*clientcmdapi.Context{os.Args[1]: only, os.Args[2]: only}
	text, err := clientcmd.Write(*file)
	check(err)
	fmt.Print(string(text))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// helmrelease NAMESPACE ACCOUNT TAG DIGEST [SPEC...] writes repo/releases/NAMESPACE.yaml. ACCOUNT may be "-". SPEC are more fields of spec,
// each a YAML flow, and values such as `values.replicas=2`.
func helmrelease() {
	args := os.Args[1:]
	ns, account, tag, digest := args[0], args[1], args[2], args[3]
	labels := "{channel: staging}"
	if account != "-" {
		labels = fmt.Sprintf("{account: %s}", account)
	}
	repository, spec, values := "registry.example/backend", "", ""
	for _, a := range args[4:] {
		if v, ok := strings.CutPrefix(a, "values."); ok {
			values += "    " + strings.Replace(v, "=", ": ", 1) + "\n"
		} else if v, ok := strings.CutPrefix(a, "image="); ok {
			repository = v
		} else {
			spec += "  " + a + "\n"
		}
	}
	text := fmt.Sprintf(`apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: backend, namespace: %s, labels: %s}
spec:
  interval: 10m
  chart: {spec: {chart: ./charts/backend, reconcileStrategy: Revision, sourceRef: {kind: GitRepository, name: config, namespace: flux-system}}}
  install: {createNamespace: true}
%s  values:
    image:
      repository: %s # {"$imagepolicy": "flux-system:backend:name"}
      tag: %s # {"$imagepolicy": "flux-system:backend:tag"}
      digest: %s # {"$imagepolicy": "flux-system:backend:digest"}
%s`, ns, labels, spec, repository, tag, digest, values)
	check(os.MkdirAll("repo/releases", 0o755))
	check(os.WriteFile("repo/releases/"+ns+".yaml", []byte(text), 0o644))
}

// decision VERSION DIGEST ALLOWED HELD writes repo/decisions/backend/VERSION.json, and with -handover the hand-over of gate-uat. ALLOWED and
// HELD are accounts, comma-separated. -service is another name of the service than the image's.
func decision() {
	handover := flag.String("handover", "", "")
	build := flag.String("build", "", "")
	key := flag.String("key", "", "")
	service := flag.String("service", "backend", "")
	flag.Parse()
	args := flag.Args()
	d := accounts.Decision{
		Version: args[0], Service: *service, Image: "registry.example/backend", Digest: args[1], Channel: "production",
		InventorySHA256: strings.Repeat("0", 64), Allowed: verdicts(args[2], "UAT account"), Held: verdicts(args[3], "candidates are for UAT accounts only"),
	}
	if strings.Contains(d.Version, "-") {
		d.Channel = "uat"
	}
	if d.Build = *build; *build == "" {
		d.Build = *handover
	}
	if *key != "" {
		d.Overrides, d.Findings = []accounts.Override{}, []accounts.Finding{}
		var err error
		d, err = d.Sealed([]byte(*key))
		check(err)
	}
	text, err := json.Marshal(d)
	check(err)
	file := "repo/decisions/" + d.Service + "/" + d.Version + ".json"
	if *handover != "" {
		file = filepath.Join(os.Getenv("HANDOVER_DIR"), "gate-uat.json")
		text = append([]byte(fmt.Sprintf(`{"schema":"cloudbuild-steps/gate-uat/v1","build_id":%q,"status":"done",`, *handover)), text[1:]...)
	}
	check(os.MkdirAll(filepath.Dir(file), 0o755))
	check(os.WriteFile(file, text, 0o644))
}

func verdicts(list, reason string) []accounts.Verdict {
	v := []accounts.Verdict{}
	for _, a := range strings.Split(list, ",") {
		if a != "" {
			v = append(v, accounts.Verdict{Account: a, Reason: reason})
		}
	}
	return v
}

// push commits repo/ and pushes it to the script's config repo, with this machine's git.
func push() {
	run := func(args ...string) {
		cmd := exec.Command("git", append([]string{"-C", "repo", "-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			check(fmt.Errorf("git %v: %w: %s", args, err, out))
		}
	}
	run("init", "-q", "-b", "main")
	run("add", "-A")
	run("commit", "-q", "--allow-empty", "-m", "change")
	run("push", "-q", strings.Replace(os.Getenv("REPO_URL"), "://", "://x:"+os.Getenv("GIT_TOKEN")+"@", 1), "main")
}

// look NAMESPACE... prints what stands in the cluster: the revisions of all releases, and the image and readiness of all Deployments. With
// -until TEXT it waits until the output contains TEXT.
func look() {
	until := flag.String("until", "", "")
	flag.Parse()
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("CLUSTER"))
	check(err)
	client, err := kubernetes.NewForConfig(cfg)
	check(err)
	for deadline := time.Now().Add(time.Minute); ; {
		text := state(client, flag.Args())
		if strings.Contains(text, *until) {
			fmt.Print(text)
			return
		}
		if time.Now().After(deadline) {
			check(fmt.Errorf("%q did not come:\n%s", *until, text))
		}
		<-time.After(50 * time.Millisecond)
	}
}

// terminated TEXT NAMESPACE... runs deploy-helm and sends it SIGTERM, as an orchestrator does, when look shows TEXT in each of the namespaces.
func terminated() {
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("CLUSTER"))
	check(err)
	client, err := kubernetes.NewForConfig(cfg)
	check(err)
	cmd := exec.Command("deploy-helm")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	check(cmd.Start())
	for deadline := time.Now().Add(time.Minute); ; {
		shown := 0
		for _, ns := range os.Args[2:] {
			if strings.Contains(state(client, []string{ns}), os.Args[1]) {
				shown++
			}
		}
		if shown == len(os.Args[2:]) || time.Now().After(deadline) {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	check(cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait()
	os.Exit(cmd.ProcessState.ExitCode())
}

func state(client kubernetes.Interface, namespaces []string) string {
	var lines []string
	for _, ns := range namespaces {
		secrets, err := client.CoreV1().Secrets(ns).List(context.Background(), metav1.ListOptions{LabelSelector: "owner=helm"})
		check(err)
		for _, s := range secrets.Items {
			lines = append(lines, fmt.Sprintf("%s release %s revision %s %s", ns, s.Labels["name"], s.Labels["version"], s.Labels["status"]))
		}
		deployments, err := client.AppsV1().Deployments(ns).List(context.Background(), metav1.ListOptions{})
		check(err)
		for _, d := range deployments.Items {
			lines = append(lines, fmt.Sprintf("%s deployment %s %s %d/%d", ns, d.Name, d.Spec.Template.Spec.Containers[0].Image, d.Status.ReadyReplicas, *d.Spec.Replicas))
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n") + "\n"
}
