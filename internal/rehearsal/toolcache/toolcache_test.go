package toolcache

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// module writes a nested module with a program that prints a word, and returns its folder.
func module(t *testing.T, word string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tools", "speak")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "go.mod"), "module example.com/speak\n\ngo 1.26.0\n")
	write(t, filepath.Join(dir, "main.go"), "package main\n\nimport \"os\"\n\nfunc main() { os.Stdout.WriteString(\""+word+"\") }\n")
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// speak builds the module and runs the program under one of its names.
func speak(t *testing.T, tool tool, source, cache, name string, log *bytes.Buffer) (path, word string) {
	t.Helper()
	path, err := tool.cached(t.Context(), "speak", source, cache, log)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(filepath.Dir(path), name)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return path, string(out)
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range found {
		names = append(names, entry.Name())
	}
	return names
}

func TestAToolIsBuiltOnceAndFoundAgainSilently(t *testing.T) {
	source, cache := module(t, "one"), t.TempDir()
	var log bytes.Buffer
	first, word := speak(t, tool{what: "a word"}, source, cache, "speak", &log)
	if word != "one" {
		t.Errorf("it says %q, want one", word)
	}
	if !strings.HasPrefix(log.String(), "building speak: a word\n") || !strings.Contains(log.String(), "built speak in ") {
		t.Errorf("the log of the first build is %q", log.String())
	}
	log.Reset()
	again, _ := speak(t, tool{what: "a word"}, source, cache, "speak", &log)
	if again != first || log.Len() > 0 {
		t.Errorf("the second time it is %s with the log %q, want %s and silence", again, log.String(), first)
	}
	if got := entries(t, cache); len(got) != 2 {
		t.Errorf("the cache holds %q, want the build and the lock", got)
	}
}

func TestOnlyAChangeThatAffectsTheProgramBuildsItAgain(t *testing.T) {
	source, cache := module(t, "one"), t.TempDir()
	var log bytes.Buffer
	plain := tool{}
	first, _ := speak(t, plain, source, cache, "speak", &log)

	write(t, filepath.Join(source, "main_test.go"), "package main\n")
	write(t, filepath.Join(source, "README.md"), "a text\n")
	if got, _ := speak(t, plain, source, cache, "speak", &log); got != first {
		t.Error("a test and a text built it again")
	}
	flags := tool{ldflags: func(string) (string, error) { return "-X main.unused=1", nil }}
	if got, _ := speak(t, flags, source, cache, "speak", &log); got == first {
		t.Error("other linker flags did not build it again")
	}
	write(t, filepath.Join(source, "main.go"), "package main\n\nfunc main() { print() }\n")
	if got, word := speak(t, plain, source, cache, "speak", &log); got == first || word != "" {
		t.Errorf("after a change of the source it still says %q", word)
	}
}

func TestAMultiCallProgramHasItsOtherNamesBesideIt(t *testing.T) {
	var log bytes.Buffer
	if _, word := speak(t, tool{links: []string{"talk"}}, module(t, "one"), t.TempDir(), "talk", &log); word != "one" {
		t.Errorf("called talk it says %q, want one", word)
	}
}

func TestSeveralBuildersAtOnceBuildOnce(t *testing.T) {
	source, cache := module(t, "one"), t.TempDir()
	logs := make([]bytes.Buffer, 4) // the lock belongs to an open file, so goroutines exclude each other as processes do
	var all sync.WaitGroup
	for i := range logs {
		all.Go(func() {
			if _, err := (tool{}).cached(t.Context(), "speak", source, cache, &logs[i]); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	builds := 0
	for i := range logs {
		builds += strings.Count(logs[i].String(), "building speak")
	}
	if builds != 1 {
		t.Errorf("built %d times", builds)
	}
}

func TestAFailedBuildShowsTheCompilersWordsAndLeavesNothing(t *testing.T) {
	source, cache := module(t, "one"), t.TempDir()
	write(t, filepath.Join(source, "main.go"), "package main\n\nfunc main() { undefinedThing() }\n")
	var log bytes.Buffer
	_, err := (tool{}).cached(t.Context(), "speak", source, cache, &log)
	if err == nil || !strings.Contains(err.Error(), "undefined: undefinedThing") {
		t.Errorf("the error is %v, want the compiler's", err)
	}
	if got := entries(t, cache); len(got) != 1 || got[0] != "speak.lock" {
		t.Errorf("the cache holds %q, want the lock only", got)
	}
}

func TestWhatAKilledBuilderLeftIsRemoved(t *testing.T) {
	source, cache := module(t, "one"), t.TempDir()
	stale := filepath.Join(cache, "speak.building-123")
	if err := os.Mkdir(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	speak(t, tool{}, source, cache, "speak", &log)
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", stale, err)
	}
}

func TestWaitingForAnotherBuilderIsSaidAndCanBeGivenUp(t *testing.T) {
	source, cache := module(t, "one"), t.TempDir()
	unlock, err := lock(t.Context(), filepath.Join(cache, "speak.lock"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var log bytes.Buffer
	if _, err := (tool{}).cached(ctx, "speak", source, cache, &log); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v, want the deadline", err)
	}
	if got := log.String(); got != "waiting for another process that builds speak\n" {
		t.Errorf("the log is %q", got)
	}
}

func TestTheKubernetesVersionComesFromGoMod(t *testing.T) {
	for _, test := range []struct{ name, gomod, want, fault string }{
		{
			name:  "a required version sets the full, the major and the minor version",
			gomod: "module x\n\nrequire (\n\tk8s.io/api v0.99.3\n\tk8s.io/kubernetes v1.99.3\n)\n",
			want: "-X k8s.io/component-base/version.gitVersion=v1.99.3 -X k8s.io/component-base/version.gitMajor=1 " +
				"-X k8s.io/component-base/version.gitMinor=99 -X k8s.io/component-base/version.gitTreeState=clean",
		},
		{name: "a module without Kubernetes is a fault", gomod: "module x\n", fault: "does not require k8s.io/kubernetes"},
		{name: "an odd version is a fault", gomod: "require (\n\tk8s.io/kubernetes v1.99\n)\n", fault: "is not MAJOR.MINOR.PATCH"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "go.mod"), test.gomod)
			got, err := kubernetesVersion(dir)
			if got != test.want {
				t.Errorf("flags %q, want %q", got, test.want)
			}
			if (err == nil) != (test.fault == "") || err != nil && !strings.Contains(err.Error(), test.fault) {
				t.Errorf("error %v, want %q", err, test.fault)
			}
		})
	}
}

func TestTheCheckoutIsFoundFromInsideANestedModuleAndNowhereElse(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	nested := filepath.Join(root, "tools", "speak", "deep")
	if err := os.MkdirAll(nested, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "tools", "speak", "go.mod"), "module "+Module+"/tools/speak\n")
	t.Chdir(nested)
	if got, err := moduleRoot(); err == nil {
		t.Errorf("found %s outside of any checkout", got)
	}
	write(t, filepath.Join(root, "go.mod"), "module "+Module+"\n")
	if got, err := moduleRoot(); err != nil || got != root {
		t.Errorf("found %q with error %v, want %s", got, err, root)
	}
}

func TestEveryToolHasItsModule(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for name, tool := range tools {
		if _, err := tool.buildArgs(filepath.Join(root, "tools", name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(root, "tools", name, "go.mod")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Tool(t.Context(), "absent", nil); err == nil {
		t.Error("a tool that does not exist was built")
	}
}

func TestTheCacheFolderIsChosenByTheVariable(t *testing.T) {
	t.Setenv("CLOUDBUILD_STEPS_CACHE", "somewhere")
	got, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(got) || filepath.Base(got) != "somewhere" {
		t.Errorf("the cache is %q, want the absolute path of somewhere", got)
	}
	t.Setenv("CLOUDBUILD_STEPS_CACHE", "")
	if got, err := cacheDir(); err != nil || filepath.Base(got) != "cloudbuild-steps" {
		t.Errorf("the cache is %q with error %v, want cloudbuild-steps in the user's cache folder", got, err)
	}
}
