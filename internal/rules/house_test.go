package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func repoRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// steps lists the folders of steps/.
func steps(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(repoRoot(t), "steps"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if len(names) == 0 {
		t.Fatal("no steps")
	}
	return names
}

// binary is a step's program as `make binaries` builds it for the image.
func binary(t *testing.T, step string) string {
	t.Helper()
	path := filepath.Join(repoRoot(t), "bin", step)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run `make binaries` first (`make test` does)", err)
	}
	return path
}

// The sizes are of the stripped linux/amd64 programs: what a build has to pull before a step can start.
// Why bump-config weighs more than the other small ones is in docs/adr/0009.
func TestBinariesStaySmall(t *testing.T) {
	limits := map[string]int64{"compute-version": 13, "gate-uat": 13, "bump-config": 13, "merge-back": 13, "tag-image": 10, "deploy-helm": 90, "rollback-version": 12, "restore-version": 12}
	for _, step := range steps(t) {
		limit, ok := limits[step]
		if !ok {
			t.Errorf("%s has no limit", step)
			continue
		}
		info, err := os.Stat(binary(t, step))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%-16s %5.1f MB", step, float64(info.Size())/1e6)
		if info.Size() > limit*1_000_000 {
			t.Errorf("%s is %.1f MB, more than %d MB", step, float64(info.Size())/1e6, limit)
		}
	}
}

func TestTheREADMEOfAStepIsFresh(t *testing.T) {
	for _, step := range steps(t) {
		t.Run(step, func(t *testing.T) {
			want, err := exec.CommandContext(t.Context(), binary(t, step), "-describe=markdown").Output()
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(repoRoot(t), "steps", step, "README.md"))
			if err != nil {
				t.Fatalf("%v: run `make docs`", err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("run `make docs`:\n%s", diff)
			}
		})
	}
}

// A step's main.go starts it and does nothing else, and its run reads as a story on one screen or two.
func TestProgramsAreShort(t *testing.T) {
	const longest = 80
	for _, step := range steps(t) {
		t.Run(step, func(t *testing.T) {
			dir := filepath.Join(repoRoot(t), "steps", step)
			if !strings.HasSuffix(readFile(t, filepath.Join(dir, "main.go")), "\nfunc main() { step.Main(program) }\n") {
				t.Error("main.go: want `func main() { step.Main(program) }` and nothing else")
			}
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(dir, "program.go"), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, d := range file.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok || f.Name.Name != "run" || f.Recv != nil {
					continue
				}
				found = true
				if n := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1; n > longest {
					t.Errorf("run has %d lines, more than %d", n, longest)
				}
			}
			if !found {
				t.Error("program.go has no func run")
			}
		})
	}
}

// docs/workflow.md says for every event which tests play it. A test that is named there must exist.
func TestTheWorkflowNamesTestsThatExist(t *testing.T) {
	text := readFile(t, filepath.Join(repoRoot(t), "docs", "workflow.md"))
	names := regexp.MustCompile("`((?:Test[A-Za-z0-9_]+)|(?:[a-z-]+/testdata/script/[a-z0-9_-]+\\.txtar))`").FindAllStringSubmatch(text, -1)
	if len(names) < 8 {
		t.Fatalf("only %d tests are named", len(names))
	}
	have := existingTests(t)
	for _, n := range names {
		if !have[n[1]] {
			t.Errorf("docs/workflow.md names %s, which does not exist", n[1])
		}
	}
}

// existingTests holds the names of test functions and of the steps' scripts (step/testdata/script/name.txtar).
func existingTests(t *testing.T) map[string]bool {
	t.Helper()
	have := map[string]bool{}
	pattern := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	root := repoRoot(t)
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin"):
			return filepath.SkipDir
		case strings.HasSuffix(path, "_test.go"):
			for _, m := range pattern.FindAllStringSubmatch(readFile(t, path), -1) {
				have[m[1]] = true
			}
		case strings.HasSuffix(path, ".txtar"):
			rel, err := filepath.Rel(filepath.Join(root, "steps"), path)
			if err != nil {
				return err
			}
			have[filepath.ToSlash(rel)] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// Nothing of the machine that built this may be in the repository.
func TestNoMachineIsNamed(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "git", "-C", repoRoot(t), "ls-files", "-z").Output()
	if err != nil {
		t.Fatal(err)
	}
	suspicious := regexp.MustCompile(`/root/|/home/[a-z]+/|proxy\.golang\.org|deb\.debian\.org|registry\.npmjs`)
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		b, err := os.ReadFile(filepath.Join(repoRoot(t), name))
		if os.IsNotExist(err) || strings.HasSuffix(name, "internal/rules/house_test.go") {
			continue // deleted and not yet committed, or this very list
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, hit := range suspicious.FindAllString(string(b), -1) {
			t.Errorf("%s names %q", name, hit)
		}
	}
}

// docs/errors.md quotes what the programs say. What it quotes must stand in their source.
func TestTheErrorsThatAreExplainedExist(t *testing.T) {
	var source strings.Builder
	for _, p := range packages(t) {
		if p.in("steps", "internal") && !p.in(world...) {
			for _, name := range p.GoFiles {
				source.WriteString(readFile(t, filepath.Join(p.Dir, name)))
			}
		}
	}
	quotes := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(readFile(t, filepath.Join(repoRoot(t), "docs", "errors.md")), -1)
	if len(quotes) < 15 {
		t.Fatalf("only %d errors are explained", len(quotes))
	}
	for _, q := range quotes {
		if !strings.Contains(source.String(), q[1]) {
			t.Errorf("docs/errors.md explains %q, which no program says", q[1])
		}
	}
}
