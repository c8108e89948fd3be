package gitrepo

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// list walks a snapshot and returns one line for each file.
func list(t *testing.T, s *Snapshot) []string {
	t.Helper()
	var lines []string
	err := s.Walk(func(f File) error {
		content, err := f.Read()
		lines = append(lines, fmt.Sprintf("%o %s %q %v", f.Mode, f.Path, content, err))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestASnapshotListsFilesAndFollowsNothing(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	w.write("a/b/deep.yaml", "deep\r\n", "a.yaml", "top", "run.sh", "#!")
	if err := os.Chmod(filepath.Join(w.tree, "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(w.tree, "link")); err != nil {
		t.Fatal(err)
	}
	w.git("", "update-index", "--add", "--cacheinfo", "160000,1111111111111111111111111111111111111111,module")
	w.git("", "add", "a", "a.yaml", "run.sh", "link")
	w.git("", "commit", "--quiet", "--message", "change")
	id := w.publish("main")

	s, err := Open(t.Context(), w.remote, "main")
	if err != nil {
		t.Fatal(err)
	}
	if s.Commit != id || !s.When.Equal(time.Unix(1700000000, 0)) {
		t.Errorf("got commit %s of %s", s.Commit, s.When)
	}
	want := []string{
		`100644 a.yaml "top" <nil>`,
		`100644 a/b/deep.yaml "deep\r\n" <nil>`,
		`120000 link "" reading "link": it is a link, which is never followed`,
		`160000 module "" reading "module": it is a submodule, which is never followed`,
		`100755 run.sh "#!" <nil>`,
	}
	if diff := cmp.Diff(want, list(t, s)); diff != "" {
		t.Error(diff)
	}

	for name, want := range map[string]string{
		"a/b/deep.yaml": `"deep\r\n" true <nil>`, "a/none": `"" false <nil>`, "a.yaml/none": `"" false <nil>`,
		"a": `"" false reading "a": it is a folder`, "link": `"" false reading "link": it is a link, which is never followed`,
		"link/passwd": `"" false <nil>`, "../a.yaml": `"" false path "../a.yaml": the name ".." is not allowed in a repository`,
		"./a.yaml": `"" false path "./a.yaml": the name "." is not allowed in a repository`,
	} {
		content, found, err := s.ReadFile(name)
		if got := fmt.Sprintf("%q %v %v", content, found, err); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestACommitIsOpenedByItsID(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	old := w.commit("main", "f", "old")
	w.commit("main", "f", "new")
	s, err := Open(t.Context(), w.remote, old)
	if err != nil {
		t.Fatal(err)
	}
	if b, _, err := s.ReadFile("f"); string(b) != "old" || err != nil || s.Commit != old {
		t.Errorf("got %q of %s (%v)", b, s.Commit, err)
	}
	if tip, err := Tip(t.Context(), w.remote, "refs/heads/main"); err != nil || tip != w.git("", "rev-parse", "HEAD") {
		t.Errorf("the tip is %s (%v)", tip, err)
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	_, err := Open(t.Context(), w.remote, "main")
	if want := w.remote.URL + " is empty: it has no branch main"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
	w.commit("main", "f", "x")
	for _, ref := range []string{"other", strings.Repeat("0123456789", 4)} {
		_, err := Open(t.Context(), w.remote, ref)
		if _, ok := errors.AsType[*MissingError](err); !ok || !strings.HasSuffix(err.Error(), ref) {
			t.Errorf("got %v", err)
		}
	}
}

func TestAWrongTokenIsExplainedAndNeverPrinted(t *testing.T) {
	const canary = "canary-55ab"
	w := newWorld(t, gitserver.Options{Token: "right"})
	for name, token := range map[string]string{"none": "", "wrong": canary} {
		remote := w.remote
		remote.Token = secret.New(token)
		_, err := Open(t.Context(), remote, "main")
		access, ok := errors.AsType[*AccessError](err)
		if !ok || access.Status != 401 || access.Anonymous != (token == "") || access.Write {
			t.Fatalf("%s: got %v", name, err)
		}
		if !strings.Contains(access.Fix(), "GIT_TOKEN") || strings.Contains(fmt.Sprintf("%+v %s", err, access.Fix()), canary) {
			t.Errorf("%s: %v; %s", name, err, access.Fix())
		}
	}
	remote := w.remote
	remote.URL = strings.Replace(remote.URL, "config", "none", 1)
	_, err := Open(t.Context(), remote, "main")
	if access, ok := errors.AsType[*AccessError](err); !ok || access.Status != 404 {
		t.Errorf("got %v", err)
	}
}

func TestAFileThatIsTooLargeIsListedAndNotRead(t *testing.T) {
	for _, filter := range []string{"true", "false"} {
		t.Run("uploadpack.allowFilter="+filter, func(t *testing.T) {
			w := newWorld(t, gitserver.Options{})
			w.bare("config", "uploadpack.allowFilter", filter)
			w.commit("main", "fits", strings.Repeat("x", MaxFile), "huge", strings.Repeat("x", MaxFile+1))
			s, err := Open(t.Context(), w.remote, "main")
			if err != nil {
				t.Fatal(err)
			}
			if b, found, err := s.ReadFile("fits"); len(b) != MaxFile || !found || err != nil {
				t.Errorf("fits: %d bytes, %v, %v", len(b), found, err)
			}
			_, _, err = s.ReadFile("huge")
			if large, ok := errors.AsType[*TooLargeError](err); !ok || large.Path != "huge" {
				t.Errorf("huge: %v", err)
			}
		})
	}
}

// To sort out large files costs a server time, so it is asked for that only where they matter.
func TestOnlyWhereThereIsMuchTheServerIsAskedToSortOutLargeFiles(t *testing.T) {
	noise := make([]byte, maxUnsorted+1) // does not compress
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	for name, tt := range map[string]struct {
		large    string
		requests []string
	}{
		"little": {"x", []string{""}},
		"much":   {string(noise), []string{"", "filter blob:limit=4194305"}},
	} {
		t.Run(name, func(t *testing.T) {
			var requests []string
			w := newWorld(t, gitserver.Options{Wrap: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if strings.HasSuffix(r.URL.Path, "/git-upload-pack") {
						body, err := io.ReadAll(r.Body)
						if err != nil {
							t.Error(err)
						}
						requests = append(requests, string(regexp.MustCompile(`filter \w+:[^\n]+`).Find(body)))
						r.Body = io.NopCloser(bytes.NewReader(body))
					}
					next.ServeHTTP(rw, r)
				})
			}})
			w.commit("main", "large", tt.large, "small", "small")
			s, err := Open(t.Context(), w.remote, "main")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.requests, requests); diff != "" {
				t.Error(diff)
			}
			if b, _, err := s.ReadFile("small"); string(b) != "small" || err != nil {
				t.Errorf("small: %q, %v", b, err)
			}
			if _, _, err := s.ReadFile("large"); errors.As(err, new(*TooLargeError)) != (name == "much") {
				t.Errorf("large: %v", err)
			}
		})
	}
}

// tree is the raw bytes of a Git tree: mode, name, id, and so on.
func tree(t *testing.T, parts ...string) string {
	t.Helper()
	var b strings.Builder
	for i := 0; i < len(parts); i += 3 {
		id, err := hex.DecodeString(parts[i+2])
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(parts[i] + " " + parts[i+1] + "\x00" + string(id))
	}
	return b.String()
}

func TestHostileTreesAreRefused(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	blob := w.object("blob", "x")
	for name, c := range map[string]struct{ content, want string }{
		"parent":      {tree(t, "100644", "..", blob), `the name ".." is not allowed`},
		"self":        {tree(t, "100644", ".", blob), `the name "." is not allowed`},
		"git":         {tree(t, "40000", ".git", w.object("tree", tree(t, "100644", "config", blob))), `the name ".git" is not allowed`},
		"Git":         {tree(t, "100644", ".GIT", blob), `the name ".GIT" is not allowed`},
		"slash":       {tree(t, "100644", "a/b", blob), `the name "a/b" is not allowed`},
		"twice":       {tree(t, "100644", "a", blob, "100644", "a", blob), `"a" is there twice`},
		"both":        {tree(t, "100644", "a", blob, "40000", "a", w.object("tree", tree(t, "100644", "f", blob))), `"a" is there twice`},
		"odd mode":    {tree(t, "70000", "a", blob), `unknown mode 70000`},
		"a bomb":      {bomb(t, w, blob, 6, 10), "more than 200000 files and folders"},
		"deep":        {bomb(t, w, blob, MaxDepth+1, 1), "nested deeper than 64"},
		"empty files": {bomb(t, w, blob, 1, MaxEntries+1), "more than 200000 files and folders"},
	} {
		t.Run(name, func(t *testing.T) {
			w.commitTree("hostile", w.object("tree", c.content))
			s, err := Open(t.Context(), w.remote, "hostile")
			if err == nil {
				err = s.Walk(func(File) error { return nil })
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

// bomb is a tree that holds itself width times, depth folders deep: few objects, many files.
func bomb(t *testing.T, w *world, blob string, depth, width int) string {
	t.Helper()
	mode, id, content := "100644", blob, ""
	for range depth {
		var parts []string
		for i := range width {
			parts = append(parts, mode, fmt.Sprintf("e%06d", i), id)
		}
		content = tree(t, parts...)
		mode, id = "40000", w.object("tree", content)
	}
	return content
}
