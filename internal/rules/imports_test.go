package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/deepdesk/cloudbuild-steps"

// pkg is one package as `go list` describes it.
type pkg struct {
	ImportPath string
	Dir        string
	Doc        string
	Imports    []string
	GoFiles    []string
}

// rel is the path below the module.
func (p pkg) rel() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

// in reports whether the package is dir or lies below it.
func (p pkg) in(dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return below(p.rel(), d) })
}

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// packages lists the module's packages, without their test files.
func packages(t *testing.T) []pkg {
	t.Helper()
	list, err := listPackages()
	if err != nil || len(list) == 0 {
		t.Fatalf("go list: %d packages, %v", len(list), err)
	}
	return list
}

// listPackages asks once: it takes about a second.
var listPackages = sync.OnceValues(func() ([]pkg, error) {
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Doc,Imports,GoFiles", "./...")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var list []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
})

var (
	// pure packages decide; they do no I/O, have no clock, and each may use the library of its format.
	pure = map[string][]string{
		"internal/release":    {"github.com/Masterminds/semver/v3"},
		"internal/commits":    nil,
		"internal/policy":     {"github.com/Masterminds/semver/v3", "go.yaml.in/yaml/v3"},
		"internal/marker":     {"go.yaml.in/yaml/v3", "go.yaml.in/yaml/v2"}, // v2 is the YAML 1.1 reader that Flux asks about quotes
		"internal/accounts":   {"go.yaml.in/yaml/v3"},
		"internal/hold":       {"go.yaml.in/yaml/v3"},
		"internal/cloudbuild": {"go.yaml.in/yaml/v3"},
		"internal/secret":     nil,
	}
	// boundary packages talk to one outside system each.
	boundaries = []string{
		"internal/gitrepo", "internal/gitclaim", "internal/registry", "internal/artifactregistry", "internal/cluster", "internal/gke", "internal/github", "internal/inventory", "internal/chartrepo",
	}
	// impure are the standard library's doors to the world.
	impure = []string{"os", "net", "net/http", "os/exec", "os/signal", "syscall", "io/ioutil", "path/filepath", "math/rand", "math/rand/v2", "crypto/rand"}
	// heavy libraries are reached from few places, since everything that links them is large.
	heavy = []string{"helm.sh", "k8s.io", "sigs.k8s.io"}
	// world is test code and the program that plays it; it may use anything but the heavy libraries.
	world = []string{"internal/rehearsal", "internal/rules", "internal/step/steptest", "cmd", "images"}
	// forbidden names say nothing about what is inside.
	forbidden = []string{"util", "utils", "common", "helpers", "helper", "types", "models", "misc", "base"}
)

func isPure(rel string) bool { _, ok := pure[rel]; return ok }

func TestPurePackagesDoNoIO(t *testing.T) {
	for _, p := range packages(t) {
		if !isPure(p.rel()) {
			continue
		}
		for _, i := range p.Imports {
			local, ours := strings.CutPrefix(i, module+"/")
			switch {
			case ours && !isPure(local):
				t.Errorf("%s imports %s, which is not pure", p.rel(), local)
			case ours || slices.Contains(pure[p.rel()], i):
			case slices.Contains(impure, i) || strings.Contains(strings.SplitN(i, "/", 2)[0], "."):
				t.Errorf("%s imports %s: a pure package has the standard library without its doors, and its one format library", p.rel(), i)
			}
		}
	}
}

func TestBoundariesKnowOnlyPurePackages(t *testing.T) {
	for _, p := range packages(t) {
		if !p.in(boundaries...) {
			continue
		}
		for _, i := range p.Imports {
			if local, ours := strings.CutPrefix(i, module+"/"); ours && !isPure(local) {
				t.Errorf("%s imports %s: a boundary imports pure packages and its SDK", p.rel(), local)
			}
		}
	}
}

func TestStepsDoNotKnowEachOther(t *testing.T) {
	for _, p := range packages(t) {
		if !p.in("steps") {
			continue
		}
		for _, i := range p.Imports {
			local, ours := strings.CutPrefix(i, module+"/")
			if !ours || isPure(local) || local == "internal/step" || slices.Contains(boundaries, local) || below(local, p.rel()) {
				continue
			}
			t.Errorf("%s imports %s: a step imports step, pure packages, boundaries and its own folder", p.rel(), local)
		}
	}
}

func TestTheFrameKnowsNoStepAndNoBoundary(t *testing.T) {
	for _, p := range packages(t) {
		if p.rel() != "internal/step" {
			continue
		}
		for _, i := range p.Imports {
			if local, ours := strings.CutPrefix(i, module+"/"); ours && !isPure(local) {
				t.Errorf("%s imports %s", p.rel(), local)
			}
		}
	}
}

func TestHelmAndKubernetesAreReachedFromTwoPlaces(t *testing.T) {
	for _, p := range packages(t) {
		if p.in("internal/cluster", "steps/deploy-helm") {
			continue
		}
		for _, i := range p.Imports {
			if slices.ContainsFunc(heavy, func(h string) bool { return below(i, h) }) || i == module+"/internal/cluster" {
				t.Errorf("%s imports %s", p.rel(), i)
			}
		}
	}
}

// Only the frame reads the environment, exits, or knows where Cloud Build mounts the workspace; the model of build files knows the
// mount point too, because build files name it.
func TestOnlyTheFrameTouchesTheProcess(t *testing.T) {
	words := []string{"os.Getenv(", "os.LookupEnv(", "os.Environ(", "os.Exit(", "log.Fatal", `"/workspace`}
	for _, p := range packages(t) {
		if p.in(world...) || p.rel() == "internal/step" {
			continue
		}
		for _, name := range p.GoFiles {
			text := readFile(t, path.Join(p.Dir, name))
			for _, w := range words {
				if strings.Contains(text, w) && (w != `"/workspace` || p.rel() != "internal/cloudbuild") {
					t.Errorf("%s/%s has %s: that is the frame's", p.rel(), name, w)
				}
			}
		}
	}
}

func TestPackagesHaveSpeakingNamesAndADocComment(t *testing.T) {
	for _, p := range packages(t) {
		if slices.Contains(forbidden, path.Base(p.rel())) {
			t.Errorf("package %s: the name says nothing about what is inside", p.rel())
		}
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("package %s has no doc comment", p.rel())
		}
	}
}
