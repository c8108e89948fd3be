package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	kustomize "sigs.k8s.io/kustomize/api/types"
)

// base is a folder with one release that an overlay makes one of an account.
var base = map[string]string{
	"base/release.yaml": `apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: backend, namespace: base}
spec:
  interval: 10m
  chart: {spec: {chart: ./charts/backend, sourceRef: {kind: GitRepository, name: config, namespace: flux-system}}}
  values: {image: {repository: registry/backend, tag: v1.0.0}}
`,
	"base/kustomization.yaml": "resources: [release.yaml]\n",
}

// fluxObject is a Kustomization of Flux for ./over, with lines of its spec.
func fluxObject(lines string) string {
	return "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: apps, namespace: flux-system}\nspec:\n" +
		"  interval: 10m\n  prune: true\n  path: ./over\n  sourceRef: {kind: GitRepository, name: config}\n" + lines
}

// summary is what is said of each release: namespace/name, account, tag, and where it is from or what is wrong with it.
func summary(t *testing.T, files map[string]string, folder string) []string {
	t.Helper()
	all := maps.Clone(base)
	maps.Copy(all, files)
	maps.DeleteFunc(all, func(_, text string) bool { return text == "" })
	list, err := readReleases(inMemory(all), folder, "account")
	if err != nil {
		return []string{"error: " + err.Error()}
	}
	var lines []string
	for _, w := range list {
		line := fmt.Sprintf("%s %s %s %s", w, orDash(w.account), orDash(w.image.tag), w.file)
		if w.image.marked {
			line += " marked"
		}
		if w.suspended {
			line += " suspended"
		}
		if w.fault != "" {
			line += ": " + w.fault
		}
		lines = append(lines, line)
	}
	return lines
}

const mapleOverlay = `resources: [../base]
namespace: account-maple
labels: [{pairs: {account: maple}}]
`

func TestReleasesComeFromWhatKustomizationsBuild(t *testing.T) {
	component := "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\npatches: [{patch: '[{\"op\": \"replace\", \"path\": \"/spec/values/image/tag\", \"value\": \"v3.0.0\"}]', target: {kind: HelmRelease}}]\n"
	patchFile := "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: backend, namespace: base}\nspec:\n  values:\n    image:\n      tag: v2.0.0 # {\"$imagepolicy\": \"flux-system:backend:tag\"}\n"
	for _, tt := range []struct {
		name   string
		files  map[string]string
		folder string
		want   []string
	}{
		{"a plain list is read as before", nil, ".", []string{"base/backend - v1.0.0 base/release.yaml"}},
		{
			"an overlay for each account makes a release for each", map[string]string{
				"maple/kustomization.yaml": mapleOverlay, "birch/kustomization.yml": strings.ReplaceAll(mapleOverlay, "maple", "birch") + "namePrefix: eu-\n",
			}, ".", []string{"account-birch/eu-backend birch v1.0.0 birch/kustomization.yml", "account-maple/backend maple v1.0.0 maple/kustomization.yaml"},
		},
		{
			"a patch in a file is no release, and its marker counts", map[string]string{"over/kustomization.yaml": mapleOverlay + "patches: [{path: tag.yaml}]\n", "over/tag.yaml": patchFile}, ".",
			[]string{"account-maple/backend maple v2.0.0 over/kustomization.yaml marked"},
		},
		{
			"a strategic merge patch", map[string]string{"over/kustomization.yaml": mapleOverlay + "patchesStrategicMerge: [tag.yaml]\n", "over/tag.yaml": patchFile}, ".",
			[]string{"account-maple/backend maple v2.0.0 over/kustomization.yaml marked"},
		},
		{
			"a marker in the base counts", map[string]string{"over/kustomization.yaml": mapleOverlay, "base/release.yaml": strings.Replace(base["base/release.yaml"], "tag: v1.0.0}}", "tag: v1.0.0}} # {\"$imagepolicy\": \"a:b:tag\"}", 1)}, ".",
			[]string{"account-maple/backend maple v1.0.0 over/kustomization.yaml marked"},
		},
		{
			"a marker at another value does not count", map[string]string{"over/kustomization.yaml": mapleOverlay, "base/release.yaml": base["base/release.yaml"] + "  # {\"$imagepolicy\": \"a:b:tag\"}\n"}, ".",
			[]string{"account-maple/backend maple v1.0.0 over/kustomization.yaml"},
		},
		{
			"a component", map[string]string{"over/kustomization.yaml": mapleOverlay + "components: [../parts]\n", "parts/kustomization.yaml": component}, ".",
			[]string{"account-maple/backend maple v3.0.0 over/kustomization.yaml"},
		},
		{
			"a replacement takes the marked tag out of a generated ConfigMap", map[string]string{
				"over/kustomization.yaml": mapleOverlay + "configMapGenerator: [{name: v, envs: [v.env], files: [v.txt], literals: ['tag=v5.0.0']}] # {\"$imagepolicy\": \"a:b:tag\"}\nreplacements: [{path: r.yaml}]\n",
				"over/v.env":              "# tags\nA=b\n", "over/v.txt": "x",
				"over/r.yaml": "source: {kind: ConfigMap, name: v, fieldPath: data.tag}\ntargets: [{select: {kind: HelmRelease}, fieldPaths: [spec.values.image.tag]}]\n",
			}, ".", []string{"account-maple/backend maple v5.0.0 over/kustomization.yaml marked"},
		},
		{
			"a list that lists the same base is built, too", map[string]string{"over/kustomization.yaml": mapleOverlay, "list/kustomization.yaml": "resources: [../base]\n"}, ".",
			[]string{"account-maple/backend maple v1.0.0 over/kustomization.yaml", "base/backend - v1.0.0 list/kustomization.yaml"},
		},
		{
			"two builds of one name are an error", map[string]string{"over/kustomization.yaml": mapleOverlay, "over2/kustomization.yaml": mapleOverlay}, ".",
			[]string{"error: over/kustomization.yaml and over2/kustomization.yaml both describe the release account-maple/backend"},
		},
		{
			"a base outside of CONFIG_PATH", map[string]string{"clusters/a/kustomization.yaml": "resources: [../../base]\n"}, "clusters", []string{"base/backend - v1.0.0 clusters/a/kustomization.yaml"},
		},
		{
			"a Kustomization of Flux", map[string]string{
				"over/kustomization.yaml": "resources: [../base]\n",
				"clusters/apps.yaml": fluxObject("  targetNamespace: account-maple\n  namePrefix: p-\n  nameSuffix: -s\n  commonMetadata: {labels: {account: maple}}\n" +
					"  patches: [{patch: '[{\"op\": \"add\", \"path\": \"/spec/values/image/tag\", \"value\": \"v4.0.0\"}]', target: {kind: HelmRelease}}]\n  components: [../none]\n  ignoreMissingComponents: true\n  postBuild: {substitute: {A: b}}\n"),
			}, "clusters", []string{"account-maple/p-backend-s maple v4.0.0 Kustomization flux-system/apps (clusters/apps.yaml)"},
		},
		{
			"one of a folder without a kustomization", map[string]string{
				"over/deep/release.yaml": strings.Replace(base["base/release.yaml"], "name: backend", "name: other", 1), "over/sub/kustomization.yaml": "resources: [../../base]\n", "over/notes.txt": "x",
				"clusters/apps.yaml": fluxObject("  targetNamespace: account-maple\n  suspend: true\n"),
			}, "clusters", []string{"account-maple/backend - v1.0.0 Kustomization flux-system/apps (clusters/apps.yaml) suspended", "account-maple/other - v1.0.0 Kustomization flux-system/apps (clusters/apps.yaml) suspended"},
		},
		{
			"one that changes nothing", map[string]string{"clusters/apps.yaml": strings.Replace(fluxObject(""), "./over", "./base", 1)}, ".", []string{"base/backend - v1.0.0 base/release.yaml"},
		},
		{
			"one of another source", map[string]string{"clusters/apps.yaml": strings.Replace(strings.Replace(fluxObject("  targetNamespace: x\n"), "./over", "./base", 1), "GitRepository", "Bucket", 1)}, ".", []string{"base/backend - v1.0.0 base/release.yaml"},
		},
		{
			"variables", map[string]string{
				"over/kustomization.yaml": "resources: [../base]\n", "base/release.yaml": strings.Replace(base["base/release.yaml"], "v1.0.0", "'${TAG}'", 1),
				"clusters/apps.yaml": fluxObject("  postBuild: {substitute: {TAG: v1.0.0}}\n"),
			}, ".", []string{"base/backend - ${TAG} Kustomization flux-system/apps (clusters/apps.yaml): spec.postBuild is not supported, and the objects have variables"},
		},
		{
			"one with a field that nobody knows", map[string]string{"over/kustomization.yaml": "resources: [../base]\n", "clusters/apps.yaml": fluxObject("  kubeConfig: {secretRef: {name: x}}\n")}, ".",
			[]string{"base/backend - v1.0.0 Kustomization flux-system/apps (clusters/apps.yaml): spec.kubeConfig is not supported"},
		},
		{
			"one that a kustomization changes", map[string]string{
				"over/kustomization.yaml": mapleOverlay, "clusters/apps.yaml": fluxObject(""), "clusters/kustomization.yaml": "resources: [apps.yaml]\nnamePrefix: a-\n",
			}, ".", []string{"base/backend - v1.0.0 Kustomization flux-system/apps (clusters/apps.yaml): clusters/kustomization.yaml changes it, which is not supported"},
		},
		{
			"a file that a changing kustomization does not list", map[string]string{"over/kustomization.yaml": mapleOverlay, "over/stray.yaml": strings.Replace(base["base/release.yaml"], "name: backend", "name: stray", 1)}, ".",
			[]string{"account-maple/backend maple v1.0.0 over/kustomization.yaml", "base/stray - v1.0.0 over/stray.yaml: over/kustomization.yaml does more than list resources, and no build of it contains this file"},
		},
		{
			"a tag without quotes that is read as another number", map[string]string{"over/kustomization.yaml": mapleOverlay, "base/release.yaml": strings.Replace(base["base/release.yaml"], "v1.0.0", "1.10", 1)}, ".",
			[]string{"account-maple/backend maple 1.1 over/kustomization.yaml: values.image.tag is 1.10 without quotes, which is deployed as 1.1: put it into quotes"},
		},
		{
			"a source that is built", map[string]string{
				"base/release.yaml": "", "base/kustomization.yaml": "", "over/r.yaml": fluxRelease(fromRepository), "over/s.yaml": fluxSource("HelmRepository", "  url: https://charts.example.com\n"),
				"over/kustomization.yaml": "resources: [r.yaml, s.yaml]\npatches: [{patch: '[{\"op\": \"add\", \"path\": \"/spec/suspend\", \"value\": true}]', target: {kind: HelmRepository}}]\n",
			}, ".", []string{"apps/web - - over/kustomization.yaml: HelmRepository flux-system/x (over/kustomization.yaml): spec.suspend is not supported"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, summary(t, tt.files, tt.folder)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// canary is a server and a git that nobody may call. It returns the address, and a function that says how often they were.
func canary(t *testing.T) (string, func() int) {
	var calls atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	record := filepath.Join(dir, "called")
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte("#!/bin/sh\necho \"$@\" >>"+record+"\nexit 1\n"), 0o755); err != nil { //nolint:gosec // it has to be executable
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	return server.URL, func() int {
		text, _ := os.ReadFile(record)
		return int(calls.Load()) + strings.Count(string(text), "\n")
	}
}

func TestNothingIsFetchedAndNothingOutsideIsReached(t *testing.T) {
	url, called := canary(t)
	file := "is no file or folder of the config repo"
	for _, tt := range []struct {
		name, lines, fault string
	}{
		{"a URL", "resources: [../base, 'URL/x.yaml']\nnamePrefix: x", "is not in the config repo, and nothing is fetched"},
		{"a base of GitHub", "resources: [../base, github.com/a/b]\nnamePrefix: x", "nothing is fetched"},
		{"one that is written in capitals", "resources: [../base, 'GitHub.com/a/b']\nnamePrefix: x", "nothing is fetched"},
		{"a base by SSH", "resources: [../base, 'git@example.com:a/b']\nnamePrefix: x", "nothing is fetched"},
		{"a user", "bases: [../base, 'x@example.com/a/b']\nnamePrefix: x", "nothing is fetched"},
		{"a forced protocol", "resources: [../base, 'git::example.com/a']\nnamePrefix: x", "nothing is fetched"},
		{"a repository on this machine", "resources: [../base, 'file:///tmp/x']\nnamePrefix: x", "nothing is fetched"},
		{"a component of a URL", "resources: [../base]\ncomponents: ['URL/x?ref=main']", "nothing is fetched"},
		{"a patch of a URL", "resources: [../base]\npatches: [{path: 'URL/x.yaml'}]", "nothing is fetched"},
		{"a strategic merge patch of a URL", "resources: [../base]\npatchesStrategicMerge: ['URL/x.yaml']", "nothing is fetched"},
		{"a strategic merge patch that ends like a line", "resources: [../base]\npatchesStrategicMerge: [\"URL/x.yaml\\n\"]", "is not a patch"},
		{"a JSON patch of a URL", "resources: [../base]\npatchesJson6902: [{path: 'URL/x.yaml', target: {kind: HelmRelease, name: x, version: v2}}]", "nothing is fetched"},
		{"a replacement of a URL", "resources: [../base]\nreplacements: [{path: 'URL/x'}]", "nothing is fetched"},
		{"a definition of a URL", "resources: [../base]\nnamePrefix: x\ncrds: ['URL/x']", "nothing is fetched"},
		{"a configuration of a URL", "resources: [../base]\nnamePrefix: x\nconfigurations: ['URL/x']", "nothing is fetched"},
		{"a generator's file of a URL", "resources: [../base]\nconfigMapGenerator: [{name: x, files: ['a=URL/x']}]", "nothing is fetched"},
		{"a generator's variables of a URL", "resources: [../base]\nsecretGenerator: [{name: x, envs: ['URL/x']}]", "nothing is fetched"},
		{"a generator's variables in the old form", "resources: [../base]\nconfigMapGenerator: [{name: x, env: 'URL/x'}]", "nothing is fetched"},
		{"a file of the machine", "resources: [../base, /etc/passwd]\nnamePrefix: x", "outside of the config repo"},
		{"a way out of the repo", "resources: [../base, ../../x.yaml]\nnamePrefix: x", "outside of the config repo"},
		{"a file that does not exist", "resources: [../base, absent.yaml]\nnamePrefix: x", file},
		{"a patch outside of its kustomization's folder", "resources: [../base]\npatches: [{path: ../base/release.yaml}]", "security; file"},
		{"charts of Helm", "resources: [../base]\nhelmCharts: [{name: x, repo: 'URL'}]", "over/kustomization.yaml: helmCharts is not supported"},
		{"charts of Helm in the old form", "resources: [../base]\nhelmChartInflationGenerator: [{chartName: x, chartRepoUrl: 'URL'}]", "is not supported"},
		{"a generator", "resources: [../base]\ngenerators: ['URL/x']", "over/kustomization.yaml: generators is not supported"},
		{"a transformer", "resources: [../base]\ntransformers: ['URL/x']", "over/kustomization.yaml: transformers is not supported"},
		{"a validator", "resources: [../base]\nvalidators: ['URL/x']", "over/kustomization.yaml: validators is not supported"},
		{"a schema", "resources: [../base]\nopenapi: {path: 'URL/x'}", "over/kustomization.yaml: openapi is not supported"},
		{"itself", "resources: [../base, ../over]\nnamePrefix: x", "refers to itself"},
		{"what is around it", "resources: [../base, ..]\nnamePrefix: x", "holds no kustomization"},
		{"a broken file with the name of a repository", "resources: [../base, ./github.com/a/b.yaml]\nnamePrefix: x", "over/github.com/a/b.yaml: "},
		{"a file that grows by aliases", "resources: [../base, bomb.yaml]\nnamePrefix: x", "excessive aliasing"},
		{"a patch that fits nothing", "resources: [../base]\npatches: [{patch: '{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}'}]", "no matches for Id"},
		{"two ways to be built", "resources: [../base, ../base]\nnamePrefix: x", "may not add resource with an already registered id"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
			for c := 'b'; c < 'k'; c++ {
				bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 9), ","))
			}
			got := summary(t, map[string]string{
				"over/kustomization.yaml": strings.ReplaceAll(tt.lines, "URL", url) + "\n", "over/bomb.yaml": bomb, "over/github.com/a/b.yaml": "a: [",
			}, ".")
			if len(got) != 1 || !strings.HasPrefix(got[0], "base/backend - v1.0.0 over/kustomization.yaml: ") || !strings.Contains(got[0], tt.fault) {
				t.Errorf("%q lacks %q", got, tt.fault)
			}
			if n := called(); n > 0 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

func TestABuildThatFailsSparesTheOthers(t *testing.T) {
	files := map[string]string{"maple/kustomization.yaml": mapleOverlay, "birch/kustomization.yaml": strings.ReplaceAll(mapleOverlay, "maple", "birch") + "helmCharts: [{name: x}]\n"}
	want := []string{"account-maple/backend maple v1.0.0 maple/kustomization.yaml", "base/backend - v1.0.0 birch/kustomization.yaml: birch/kustomization.yaml: helmCharts is not supported"}
	if diff := cmp.Diff(want, summary(t, files, ".")); diff != "" {
		t.Error(diff)
	}
	maps.Copy(files, base)
	list, err := readReleases(inMemory(files), ".", "account")
	if err != nil {
		t.Fatal(err)
	}
	if left := selector("account=cedar").of(list); len(left) != 1 || !left[0].unbuilt {
		t.Errorf("a selection leaves out what may belong to it: %v", left)
	}
}

func TestAGraphThatGrowsIsBounded(t *testing.T) {
	files := map[string]string{}
	for n := range 30 { // each twice as large as the one below
		files[fmt.Sprintf("k%d/kustomization.yaml", n)] = fmt.Sprintf("resources: [../k%d/a, ../k%d/b]\n", n+1, n+1)
		for _, side := range []string{"a", "b"} {
			files[fmt.Sprintf("k%d/%s/kustomization.yaml", n, side)] = fmt.Sprintf("resources: [../../k%d]\nnamePrefix: %s-\n", n, side)
		}
	}
	delete(files, "k0/a/kustomization.yaml")
	delete(files, "k0/b/kustomization.yaml")
	files["k30/a/kustomization.yaml"], files["k30/b/kustomization.yaml"] = "resources: [../../base]\n", "resources: [../../base]\n"
	if got := summary(t, files, "."); len(got) != 1 || !strings.HasPrefix(got[0], "error: ") || !strings.Contains(got[0], "more than 32 kustomizations one below the other") {
		t.Errorf("%q", got)
	}
	for n := 14; n < 31; n++ {
		maps.DeleteFunc(files, func(name, _ string) bool { return strings.HasPrefix(name, fmt.Sprintf("k%d/", n)) })
	}
	files["k14/a/kustomization.yaml"], files["k14/b/kustomization.yaml"] = "resources: [../../base]\n", "resources: [../../base]\n"
	if got := summary(t, files, "."); len(got) != 1 || !strings.HasPrefix(got[0], "error: ") || !strings.Contains(got[0], "more than 20000 files") {
		t.Errorf("%q", got)
	}
}

func TestWhatABrokenKustomizationChangesIsNotTakenForUnchanged(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"a field that does not exist", mapleOverlay + "namesuffix2: x\n", "base/backend - v1.0.0 over/kustomization.yaml: over/kustomization.yaml cannot be read: invalid Kustomization: json: unknown field"},
		{"no YAML", "resources: [", "error: over/kustomization.yaml cannot be read: invalid Kustomization: "},
		{"resources of another type", "resources: {a: b}", "error: over/kustomization.yaml cannot be read: invalid Kustomization: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := summary(t, map[string]string{"over/kustomization.yaml": tt.text}, "."); len(got) != 1 || !strings.HasPrefix(got[0], tt.want) {
				t.Errorf("%q", got)
			}
			if got := summary(t, map[string]string{"over/kustomization.yaml": tt.text}, "base"); len(got) != 1 || got[0] != "base/backend - v1.0.0 base/release.yaml" {
				t.Errorf("outside of CONFIG_PATH it is nobody's business: %q", got)
			}
		})
	}
}

func TestGeneratorsTakeNoVariablesOfTheBuild(t *testing.T) {
	t.Setenv("GIT_TOKEN", "canary")
	got := summary(t, map[string]string{
		"over/kustomization.yaml": mapleOverlay + "configMapGenerator: [{name: v, envs: [v.env]}]\nreplacements: [{path: r.yaml}]\n", "over/v.env": "GIT_TOKEN\n",
		"over/r.yaml": "source: {kind: ConfigMap, name: v, fieldPath: data.GIT_TOKEN}\ntargets: [{select: {kind: HelmRelease}, fieldPaths: [spec.values.image.tag]}]\n",
	}, ".")
	if want := []string{"account-maple/backend maple - over/kustomization.yaml"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestEveryFieldOfAKustomizationHasBeenLookedAt(t *testing.T) {
	for _, tt := range []struct {
		of     any
		fields string
	}{
		{kustomize.Kustomization{}, `TypeMeta MetaData OpenAPI NamePrefix NameSuffix Namespace CommonLabels Labels CommonAnnotations PatchesStrategicMerge
			PatchesJson6902 Patches Images ImageTags Replacements Replicas Vars SortOptions Resources Components Crds Bases ConfigMapGenerator SecretGenerator HelmGlobals
			HelmCharts HelmChartInflationGenerator GeneratorOptions Configurations Generators Transformers Validators BuildMetadata`},
		{kustomize.Patch{}, "Path Patch Target Options"},
		{kustomize.ReplacementField{}, "Replacement Path"},
		{kustomize.KvPairSources{}, "LiteralSources FileSources EnvSources EnvSource"},
	} {
		var got []string
		for i := range reflect.TypeOf(tt.of).NumField() {
			got = append(got, reflect.TypeOf(tt.of).Field(i).Name)
		}
		if diff := cmp.Diff(strings.Fields(tt.fields), got); diff != "" {
			t.Errorf("%T: is a new field a reference to something that has to be followed or refused? %s", tt.of, diff)
		}
	}
}

// FuzzKustomization holds every kustomization to this: what kustomize is given refers only to files that it is given, too.
//
//nolint:staticcheck // the older fields count, too
func FuzzKustomization(f *testing.F) {
	for _, seed := range []string{
		mapleOverlay, "resources: [../base]\nconfigMapGenerator: [{name: x, files: ['a=b.txt'], envs: [x.env]}]", "patchesStrategicMerge: [\"a: b\\n\"]",
		"resources: ['https://x/y', 'git@x:y', '../../x', '/x', 'github.com/x/y', '.']", "components: ['a//b', 'a/_git/b', 'x.git']",
	} {
		f.Add(seed, "x/y")
	}
	f.Add("resources: [x/y]\npatches: [{path: x/y}]\nnamePrefix: a", "x/y")
	f.Fuzz(func(t *testing.T, text, name string) {
		files := maps.Clone(base)
		files["over/kustomization.yaml"], files["over/"+name] = text, "a: b\n"
		repo := inMemory(files)
		w := &walker{repo: repo, all: readKustomizations(repo), known: map[string]*contents{}}
		g := &graph{root: "over", name: "over"}
		w.walk(g)
		if g.refusal != nil {
			return
		}
		for file, text := range g.files {
			if file != "over/kustomization.yaml" {
				continue
			}
			var k kustomize.Kustomization
			if err := json.Unmarshal(text, &k); err != nil {
				t.Fatal(err)
			}
			refs := slices.Concat(k.Resources, k.Components, k.Crds, k.Configurations)
			for _, p := range slices.Concat(k.Patches, k.PatchesJson6902) {
				refs = append(refs, p.Path)
			}
			for _, c := range k.ConfigMapGenerator {
				refs = append(refs, c.EnvSources...)
			}
			for _, ref := range refs {
				if ref != "" && !strings.HasPrefix(ref, "./") && !strings.HasPrefix(ref, "../") && ref != ".." {
					t.Errorf("%q is left as it is", ref)
				}
			}
			for _, p := range k.PatchesStrategicMerge {
				if !strings.HasPrefix(string(p), "./") && !strings.HasPrefix(string(p), "../") && (!strings.Contains(string(p), "\n") || isRemote(string(p))) {
					t.Errorf("%q is left as it is", p)
				}
			}
		}
	})
}

// A slip in a path must not make orphans of the releases that were built from it.
func TestAKustomizationWhosePathIsMissingKeepsOrphans(t *testing.T) {
	flux := func(path string) string {
		return "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: apps, namespace: flux-system}\nspec: {path: " + path + ", sourceRef: {kind: GitRepository, name: config}}\n"
	}
	in := In{Waves: []string{uat, production}}
	in.ConfigPath = "."
	for path, want := range map[string]bool{"./apps": false, "./aps": true} {
		files := map[string]string{"clusters/apps.yaml": flux(path), "apps/kustomization.yaml": "resources: []\n"}
		repo := &source{read: func(name string) ([]byte, error) { return []byte(files[name]), nil }}
		repo.names = slices.Sorted(maps.Keys(files))
		if _, err := readReleases(repo, ".", "account"); err != nil {
			t.Fatal(err)
		}
		if why := readInPart(in, repo, nil); (why != "") != want {
			t.Errorf("%s: read in part: %q, want %t", path, why, want)
		}
	}
}

// Flux's documentation of spec.path ("Generate kustomization.yaml"): without one, the folder's manifests are listed, and of a folder below that
// has one, the folder, once.
func TestAFolderWithoutAKustomizationListsWhatIsBelowIt(t *testing.T) {
	files := map[string]string{
		"apps/a.yaml": "{}", "apps/b/one.yaml": "{}", "apps/b/two.yaml": "{}", "apps/c/kustomization.yaml": "resources: [one.yaml, d]\n", "apps/c/one.yaml": "{}",
		"apps/c/d/kustomization.yaml": "resources: [three.yaml]\n", "apps/c/d/three.yaml": "{}", "apps/c-note.yaml": "{}", "apps/chart/Chart.yaml": "name: x\n",
		"apps/chart/templates/x.yaml": "{}", "apps/readme.md": "", "other/z.yaml": "{}",
	}
	repo := &source{names: slices.Sorted(maps.Keys(files)), read: func(name string) ([]byte, error) { return []byte(files[name]), nil }}
	w := &walker{repo: repo, all: readKustomizations(repo)}
	want := []string{"a.yaml", "b/one.yaml", "b/two.yaml", "c", "c-note.yaml"}
	got := slices.Sorted(slices.Values(w.generated("apps").k.Resources))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
