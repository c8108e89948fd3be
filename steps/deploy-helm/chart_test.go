package main

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func chartOf(changes map[string]string) map[string]string {
	files := map[string]string{
		"charts/backend/Chart.yaml":        "apiVersion: v2\nname: backend\nversion: 1.0.0\n",
		"charts/backend/values.yaml":       "replicas: 1\n",
		"charts/backend/templates/cm.yaml": "kind: ConfigMap\n",
		"charts/other/Chart.yaml":          "apiVersion: v2\nname: other\nversion: 9.0.0\n",
	}
	maps.Copy(files, changes)
	return files
}

func TestAChartIsMadeOfItsFolder(t *testing.T) {
	c, err := readChart(inMemory(chartOf(map[string]string{
		"charts/backend/.helmignore":           "*.md\nci/\n",
		"charts/backend/README.md":             "read me",
		"charts/backend/ci/values.yaml":        "x: 1",
		"charts/backend/templates/.hidden":     "x",
		"charts/backend/charts/sub/Chart.yaml": "\xef\xbb\xbfapiVersion: v2\nname: sub\nversion: 0.1.0\n",
	})), "charts/backend")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range c.files {
		names = append(names, f.Name)
	}
	want := []string{".helmignore", "Chart.yaml", "charts/sub/Chart.yaml", "templates/cm.yaml", "values.yaml"}
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(names))); diff != "" {
		t.Error(diff)
	}
	made, err := c.load("0123456789abcdef0123456789abcdef01234567")
	if err != nil || made.Metadata.Version != "1.0.0+0123456789ab" || len(made.Dependencies()) != 1 {
		t.Errorf("version %s, %d dependencies, %v", made.Metadata.Version, len(made.Dependencies()), err)
	}
	again, _ := c.load("")
	if again.Metadata.Version != "1.0.0" || c.version != "1.0.0" || c.name != "backend" {
		t.Errorf("loading changes the files: %s %s %s", again.Metadata.Version, c.version, c.name)
	}
}

func TestADefectiveChartSaysWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name    string
		changes map[string]string
		folder  string
		want    string
	}{
		{"there is none", nil, "charts/nothing", "no chart at charts/nothing"},
		{"Chart.yaml is not one", map[string]string{"charts/backend/Chart.yaml": "name: [\n"}, "charts/backend", "Chart.yaml"},
		{"the name leaves the folder", map[string]string{"charts/backend/Chart.yaml": "apiVersion: v2\nname: ../x\nversion: 1.0.0\n"}, "charts/backend", "../x"},
		{"the version is not SemVer", map[string]string{"charts/backend/Chart.yaml": "apiVersion: v2\nname: x\nversion: one\n"}, "charts/backend", "one"},
		{"a dependency is missing", map[string]string{"charts/backend/Chart.yaml": "apiVersion: v2\nname: x\nversion: 1.0.0\ndependencies: [{name: redis, version: 1.x, repository: 'https://x'}]\n"}, "charts/backend", "dependency redis 1.x is not in charts/"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := readChart(inMemory(chartOf(tt.changes)), tt.folder)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestTheRevisionBecomesBuildMetadataAsInFlux(t *testing.T) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	for version, want := range map[string]string{
		"1.0.0":          "1.0.0+0123456789ab",
		"1.0.0-rc.1":     "1.0.0-rc.1+0123456789ab",
		"1.0.0+build.12": "1.0.0+0123456789ab",
	} {
		if got, err := withRevision(version, commit); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", version, got, err, want)
		}
	}
}

// digestOf is the digest of the plain release after changes to the chart's files and to the manifest.
func digestOf(t *testing.T, files map[string]string, edit func(string) string) string {
	t.Helper()
	files = chartOf(files)
	files["a.yaml"] = edit(plainRelease)
	repo := inMemory(files)
	list, err := readReleases(repo, ".", "account")
	if err != nil {
		t.Fatal(err)
	}
	readCharts(repo, list)
	if list[0].fault != "" {
		t.Fatal(list[0].fault)
	}
	d, err := list[0].digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTheDigestChangesWithWhatIsDeployedAndWithNothingElse(t *testing.T) {
	same := func(s string) string { return s }
	replace := func(from, to string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, from) {
				panic(from)
			}
			return strings.Replace(s, from, to, 1)
		}
	}
	base := digestOf(t, nil, same)
	if len(base) != 40 {
		t.Errorf("%q does not fit into a label beside a revision", base)
	}
	for _, tt := range []struct {
		name    string
		files   map[string]string
		edit    func(string) string
		changes bool
	}{
		{"nothing", nil, same, false},
		{"a value", nil, replace("replicas: 2", "replicas: 3"), true},
		{"a value that is removed", nil, replace("    replicas: 2\n", ""), true},
		{"the order of values", nil, replace("      tag: v1.0.0 # {\"$imagepolicy\": \"flux-system:backend-production:tag\"}\n      digest: sha256:aa\n", "      digest: sha256:aa\n      tag: v1.0.0\n"), false},
		{"a comment", nil, replace("  interval", "  # hello\n  interval"), false},
		{"the interval", nil, replace("10m", "11m"), false},
		{"the timeout", nil, replace("  interval: 10m\n", "  interval: 10m\n  timeout: 1m\n"), false},
		{"the target namespace", nil, replace("  interval: 10m\n", "  interval: 10m\n  targetNamespace: x\n"), true},
		{"a template", map[string]string{"charts/backend/templates/cm.yaml": "kind: ConfigMap \n"}, same, true},
		{"a new template", map[string]string{"charts/backend/templates/x.yaml": ""}, same, true},
		{"the chart's values", map[string]string{"charts/backend/values.yaml": "replicas: 2\n"}, same, true},
		{"another chart", map[string]string{"charts/other/values.yaml": "a: 1"}, same, false},
		{"a file that .helmignore leaves out", map[string]string{"charts/backend/templates/.x": "a"}, same, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := digestOf(t, tt.files, tt.edit); (got != base) != tt.changes {
				t.Errorf("changes: %v, want %v", got != base, tt.changes)
			}
		})
	}
}
