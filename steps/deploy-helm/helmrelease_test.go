package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
)

// inMemory makes a repo of texts by name.
func inMemory(files map[string]string) *source {
	return &source{
		names: slices.Sorted(maps.Keys(files)),
		read: func(name string) ([]byte, error) {
			text, ok := files[name]
			if !ok {
				return nil, fmt.Errorf("no file %s", name)
			}
			return []byte(text), nil
		},
	}
}

const plainRelease = `apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata:
  name: backend
  namespace: account-maple
  labels: {account: maple}
spec:
  interval: 10m
  chart: {spec: {chart: ./charts/backend, reconcileStrategy: Revision, sourceRef: {kind: GitRepository, name: config, namespace: flux-system}}}
  values:
    image:
      repository: registry/backend # {"$imagepolicy": "flux-system:backend-production:name"}
      tag: v1.0.0 # {"$imagepolicy": "flux-system:backend-production:tag"}
      digest: sha256:aa
    replicas: 2
`

// with returns the plain release with lines added to its spec.
func with(lines string) string {
	return strings.Replace(plainRelease, "  interval: 10m\n", "  interval: 10m\n"+lines, 1)
}

func TestAHelmReleaseIsReadAsFluxReadsIt(t *testing.T) {
	list, err := readReleases(inMemory(map[string]string{"accounts/maple/backend.yaml": plainRelease}), ".", "account")
	if err != nil || len(list) != 1 {
		t.Fatalf("%d releases, %v", len(list), err)
	}
	w := list[0]
	if w.fault != "" {
		t.Errorf("fault: %s", w.fault)
	}
	type view struct {
		Key       cluster.Key
		Namespace string
		Account   string
		Chart     string
		Revision  bool
		Image     [3]string
		Marked    bool
		History   int
	}
	got := view{w.key, w.namespace, w.account, w.chartPath, w.addRevision, [3]string{w.image.repository, w.image.tag, w.image.digest}, w.image.marked, w.maxHistory}
	want := view{cluster.Key{Namespace: "account-maple", Name: "backend"}, "account-maple", "maple", "charts/backend", true, [3]string{"registry/backend", "v1.0.0", "sha256:aa"}, true, 5}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNamesAndNamespacesFollowFlux(t *testing.T) {
	long := strings.Repeat("n", 40)
	for _, tt := range []struct {
		name, lines        string
		storage, namespace string
		release            string
		createNamespace    bool
		suspended          bool
		timeout            time.Duration
		history            int
	}{
		{name: "the release is called as the HelmRelease", storage: "account-maple", namespace: "account-maple", release: "backend", history: 5},
		{name: "a target namespace stands in front of the name", lines: "  targetNamespace: apps\n", storage: "account-maple", namespace: "apps", release: "apps-backend", history: 5},
		{name: "a release name wins", lines: "  targetNamespace: apps\n  releaseName: be\n", storage: "account-maple", namespace: "apps", release: "be", history: 5},
		{name: "a storage namespace holds the records", lines: "  storageNamespace: flux-system\n", storage: "flux-system", namespace: "account-maple", release: "backend", history: 5},
		{name: "a long name is cut and gets a hash", lines: "  targetNamespace: " + long + "nnnnnnn\n", storage: "account-maple", namespace: long + "nnnnnnn", release: long + "-" + "f75cc73b1c33", history: 5},
		{name: "the other settings", lines: "  install: {createNamespace: true}\n  suspend: true\n  timeout: 90s\n  maxHistory: 2\n", storage: "account-maple", namespace: "account-maple", release: "backend", createNamespace: true, suspended: true, timeout: 90 * time.Second, history: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list, err := readReleases(inMemory(map[string]string{"a.yaml": with(tt.lines)}), ".", "account")
			if err != nil {
				t.Fatal(err)
			}
			w := list[0]
			if w.fault != "" {
				t.Errorf("fault: %s", w.fault)
			}
			if strings.HasPrefix(tt.name, "a long name") {
				if len(w.key.Name) != 53 || !strings.HasPrefix(w.key.Name, long+"-") {
					t.Errorf("release %q", w.key.Name)
				}
				tt.release = w.key.Name
			}
			if w.key.Namespace != tt.storage || w.namespace != tt.namespace || w.key.Name != tt.release {
				t.Errorf("records in %s, objects in %s, release %s", w.key.Namespace, w.namespace, w.key.Name)
			}
			if w.createNamespace != tt.createNamespace || w.suspended != tt.suspended || w.timeout != tt.timeout || w.maxHistory != tt.history {
				t.Errorf("createNamespace %v, suspended %v, timeout %s, history %d", w.createNamespace, w.suspended, w.timeout, w.maxHistory)
			}
		})
	}
}

func TestAFieldThatIsNotSupportedIsReportedByItsName(t *testing.T) {
	for _, tt := range []struct{ name, lines, want string }{
		{"values from something else", "  valuesFrom: [{kind: ConfigMap, name: x}, {kind: Bucket, name: x}]\n", `spec.valuesFrom[1].kind "Bucket" is not supported`},
		{"a dependency's own words for ready", "  dependsOn: [{name: db, readyExpr: 'true'}]\n", "spec.dependsOn[0].readyExpr is not supported"},
		{"another cluster", "  kubeConfig: {secretRef: {name: x}}\n", "spec.kubeConfig is not supported"},
		{"Helm's older way to wait", "  waitStrategy: {name: legacy}\n", "spec.waitStrategy.name: legacy is not supported"},
		{"rules for health", "  healthCheckExprs: [{apiVersion: v1, kind: X, current: 'true'}]\n", "spec.healthCheckExprs is not supported"},
		{"a reinstall for a new chart name", "  upgrade: {chartNameChangeStrategy: Reinstall}\n", "spec.upgrade.chartNameChangeStrategy: Reinstall is not supported"},
		{"a CRD policy that there is not", "  install: {crds: Replace}\n", `spec.install.crds "Replace" is none of Skip, Create, CreateReplace`},
		{"a way to apply that there is not", "  upgrade: {serverSideApply: sometimes}\n", `spec.upgrade.serverSideApply "sometimes" is none of enabled, disabled, auto`},
		{"a remedy that there is not", "  upgrade: {remediation: {strategy: pray}}\n", `spec.upgrade.remediation.strategy "pray" is none of rollback, uninstall`},
		{"a strategy that there is not", "  install: {strategy: {name: pray}}\n", `spec.install.strategy.name "pray" is none of RemediateOnFailure, RetryOnFailure`},
		{"a propagation that there is not", "  uninstall: {deletionPropagation: slow}\n", `spec.uninstall.deletionPropagation "slow" is none of background, foreground, orphan`},
		{"a post-render strategy that there is not", "  postRenderStrategy: some\n", `spec.postRenderStrategy "some" is none of combined, separate, nohooks`},
		{"a time below zero", "  test: {timeout: -1s}\n", "spec.test.timeout is below zero"},
		{"a misspelt field", "  targetNamspace: x\n", `unknown field "spec.targetNamspace"`},
		{"a field in the wrong case", "  TargetNamespace: x\n", `unknown field "spec.TargetNamespace"`},
		{"two charts", "  chartRef: {kind: OCIRepository, name: x}\n", "spec.chart and spec.chartRef are both set"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list, err := readReleases(inMemory(map[string]string{"a.yaml": with(tt.lines)}), ".", "account")
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(list[0].fault, tt.want) {
				t.Errorf("fault %q, want %q in it", list[0].fault, tt.want)
			}
		})
	}
}

func TestFieldsWithoutEffectHereAreAccepted(t *testing.T) {
	lines := "  install: {crds: Create, remediation: {retries: 3, remediateLastFailure: true}}\n  upgrade: {crds: Skip, force: false, remediation: {retries: -1, strategy: rollback}}\n"
	list, err := readReleases(inMemory(map[string]string{"a.yaml": with(lines)}), ".", "account")
	if err != nil || list[0].fault != "" {
		t.Errorf("fault %q, %v", list[0].fault, err)
	}
}

func TestAChartFromElsewhereIsAFault(t *testing.T) {
	for _, tt := range []struct{ name, from, to, want string }{
		{"a bucket", "kind: GitRepository", "kind: Bucket", `sourceRef.kind "Bucket" is not supported: want GitRepository or HelmRepository`},
		{"a path above the repo", "./charts/backend", "../other/charts/backend", "is not a folder of the repository"},
		{"an absolute path", "./charts/backend", "/charts/backend", "is not a folder of the repository"},
		{"no namespace", "  namespace: account-maple\n", "", "metadata.namespace must be set"},
		{"an older API", "helm.toolkit.fluxcd.io/v2", "helm.toolkit.fluxcd.io/v2beta1", "apiVersion helm.toolkit.fluxcd.io/v2beta1 is not supported"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list, err := readReleases(inMemory(map[string]string{"a.yaml": strings.Replace(plainRelease, tt.from, tt.to, 1)}), ".", "account")
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(list[0].fault, tt.want) {
				t.Errorf("fault %q, want %q in it", list[0].fault, tt.want)
			}
		})
	}
}

func TestASourceThatIsAnotherRepositoryIsAFault(t *testing.T) {
	git := "apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: config, namespace: flux-system}\nspec: {url: %s}\n"
	for _, tt := range []struct {
		name, url, own string
		fault          bool
	}{
		{"the same repository by another address", "ssh://git@github.com/example/config", "http://127.0.0.1:1/example/config.git", false},
		{"another repository", "https://github.com/example/charts.git", "https://github.com/example/config.git", true},
		{"a local checkout has no address to compare", "https://github.com/example/charts.git", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			repo := inMemory(map[string]string{"a.yaml": plainRelease, "sources/config.yaml": fmt.Sprintf(git, tt.url)})
			repo.url = tt.own
			list, err := readReleases(repo, ".", "account")
			if err != nil || (list[0].fault != "") != tt.fault {
				t.Errorf("fault %q, %v", list[0].fault, err)
			}
		})
	}
}

func TestOnlyWhatConcernsUsHasToBeWellFormed(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  int    // releases
		err   string // part of the error
	}{
		{"templates of charts are no manifests", map[string]string{"charts/x/Chart.yaml": "name: x", "charts/x/templates/hr.yaml": "kind: HelmRelease\n{{ if }}", "a.yaml": plainRelease}, 1, ""},
		{"a broken file without HelmReleases is nobody's business", map[string]string{"b.yaml": "a: [", "a.yaml": plainRelease}, 1, ""},
		{"a broken file with a HelmRelease stops everything", map[string]string{"b.yaml": "kind: HelmRelease\na: [", "a.yaml": plainRelease}, 0, "b.yaml"},
		{"a key that stands twice stops everything", map[string]string{"b.yaml": "kind: HelmRelease\nkind: HelmRelease\n"}, 0, "b.yaml"},
		{"all broken files are named", map[string]string{"b.yaml": "kind: HelmRelease\na: [", "c.yaml": "kind: HelmRelease\nb: ]"}, 0, "c.yaml"},
		{"several documents in a file", map[string]string{"a.yaml": plainRelease + "---\n" + strings.ReplaceAll(plainRelease, "maple", "birch") + "---\n# nothing\n"}, 2, ""},
		{"the same release twice", map[string]string{"a.yaml": plainRelease, "b.yaml": plainRelease}, 0, "a.yaml and b.yaml both describe the release account-maple/backend"},
		{"other folders than CONFIG_PATH", map[string]string{"apps/a.yaml": plainRelease, "appsb/a.yaml": plainRelease}, 1, ""},
		{"a HelmRelease of another group", map[string]string{"apps/a.yaml": "apiVersion: example.com/v1\nkind: HelmRelease\nspec: 1\n"}, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			folder := "."
			if strings.HasPrefix(tt.name, "other folders") {
				folder = "apps"
			}
			list, err := readReleases(inMemory(tt.files), folder, "account")
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
			if len(list) != tt.want {
				t.Errorf("%d releases, want %d", len(list), tt.want)
			}
		})
	}
}

func TestAReleaseBelowAKustomizationThatChangesOthersIsFaulty(t *testing.T) {
	files := map[string]string{
		"apps/a.yaml":                             plainRelease,
		"apps/kustomization.yaml":                 "resources: [c.yaml]\npatches: [{patch: x}]\n",
		"other/b.yaml":                            strings.ReplaceAll(plainRelease, "maple", "birch"),
		"other/kustomization.yaml":                "resources: [b.yaml]\n",
		"clusters/flux-system/kustomization.yaml": "patches: [{patch: x}]\n",
	}
	list, err := readReleases(inMemory(files), ".", "account")
	if err != nil || len(list) != 2 {
		t.Fatalf("%d releases, %v", len(list), err)
	}
	if list[0].fault != "" || !strings.Contains(list[1].fault, "apps/kustomization.yaml does more than list resources, and no build of it contains this file") {
		t.Errorf("faults %q and %q", list[0].fault, list[1].fault)
	}
}

func FuzzReadManifests(f *testing.F) {
	f.Add(plainRelease)
	f.Add(plainRelease + "---\n" + plainRelease)
	f.Add("kind: HelmRelease\napiVersion: helm.toolkit.fluxcd.io/v2\nspec: {chart: {spec: {chart: a}}, values: [1]}")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := readManifests("a.yaml", []byte(text), "account", sources{})
		if err != nil {
			return
		}
		for _, w := range list {
			if w.fault == "" && (w.key.Name == "" || w.key.Namespace == "" || w.chartPath == "" && w.remote == nil && w.source.kind != ociRepository && w.source.kind != helmChart || strings.Contains("/"+w.chartPath+"/", "/../")) {
				t.Errorf("%+v has no fault", w)
			}
		}
	})
}
