package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
)

var ada = Signature{Name: "Ada", Email: "ada@example.com", When: time.Unix(1800000000, 0)}

// put is a Decide that wants one file to have this content.
func put(name, content string) Decide {
	return func(*Snapshot) (*Change, error) {
		return &Change{Files: map[string][]byte{name: []byte(content)}, Message: "write " + name, Author: ada}, nil
	}
}

// content reads a file of a branch of the server.
func (w *world) content(branch, name string) string {
	w.t.Helper()
	return w.bare("show", branch+":"+name)
}

// commits counts the commits of a branch.
func (w *world) commits(branch string) string {
	w.t.Helper()
	return w.bare("rev-list", "--count", branch)
}

// hook installs a hook of the server.
func (w *world) hook(name, script string) {
	w.t.Helper()
	path := filepath.Join(w.server.Dir(repoName), "hooks", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

func TestACommitChangesItsFilesAndNothingElse(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	blob, script := w.object("blob", "x\n"), w.object("blob", "#!\n")
	sub := w.object("tree", tree(t, "100644", "f", blob))
	// The modes of old repositories, and names that Git sorts in a way of its own: the folder "a" after the file "a.b".
	w.commitTree("main", w.object("tree", tree(t, "100644", "a.b", blob, "40000", "a", sub, "100755", "run", script, "100664", "shared", blob)))
	before := w.bare("ls-tree", "-r", "main")

	result, err := Update(t.Context(), w.remote, "main", "", func(*Snapshot) (*Change, error) {
		files := map[string][]byte{"run": []byte("#!new\n"), "a/f": []byte("y\n"), "a-new/deep/er": []byte("z\n"), "shared.txt": []byte("s\n")}
		return &Change{Files: files, Message: "bump\n\nwhy", Author: ada}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("commit %s\nauthor Ada <ada@example.com> 1800000000 +0000\n\nbump\n\nwhy\n\n"+
		"a-new/deep/er 100644\na/f 100644\nrun 100755\nshared.txt 100644", result.Commit)
	got := w.bare("log", "-1", "--raw", "--no-abbrev", "--pretty=format:commit %H%nauthor %an <%ae> %ad%n%n%B", "--date=raw", "main")
	var lines []string
	for line := range strings.Lines(got) {
		if f := strings.Fields(line); strings.HasPrefix(line, ":") {
			line = f[5] + " " + f[1] + "\n"
		}
		lines = append(lines, line)
	}
	if diff := cmp.Diff(want, strings.TrimSpace(strings.Join(lines, ""))); diff != "" {
		t.Error(diff)
	}
	if !result.Changed || result.Attempts != 1 || result.Branch != "main" || w.commits("main") != "2" {
		t.Errorf("got %+v and %s commits", result, w.commits("main"))
	}
	raw := w.bare("cat-file", "-p", "main^{tree}")
	if !strings.Contains(before, "100664") && !strings.Contains(raw, "shared") {
		t.Errorf("the tree is %s", raw)
	}
	if a, b := w.bare("rev-parse", "main:shared"), w.bare("rev-parse", "main~:shared"); a != b {
		t.Error("a file that was not edited has changed")
	}
	if raw := w.bare("cat-file", "tree", "main"); !strings.Contains(raw, "100664 shared\x00") {
		t.Errorf("the mode of a file that was not edited has changed: %q", raw)
	}
	w.bare("config", "fsck.badFilemode", "ignore")
	w.bare("fsck", "--strict", "--no-dangling")
}

func TestThereIsNoCommitWithoutAChange(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	tip := w.commit("main", "f", "same")
	for name, decide := range map[string]Decide{
		"nothing decided":      func(*Snapshot) (*Change, error) { return nil, nil },
		"the content is there": put("f", "same"),
	} {
		result, err := Update(t.Context(), w.remote, "main", "", decide)
		if err != nil || result != (Result{Commit: tip, Branch: "main", Attempts: 1}) {
			t.Errorf("%s: got %+v (%v)", name, result, err)
		}
	}
	if n := w.commits("main"); n != "1" {
		t.Errorf("%s commits", n)
	}
}

func TestALostRaceIsDecidedAnew(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	w.commit("main", "f", "0", "g", "old")
	w.commit("main", "g", "new")
	w.bare("repack", "-adb") // with bitmaps the server knows all that an ancestor of ours holds
	var seen []string
	result, err := Update(t.Context(), w.remote, "main", "", func(s *Snapshot) (*Change, error) {
		f, _, err := s.ReadFile("f")
		if err != nil {
			return nil, err
		}
		g, _, err := s.ReadFile("g")
		if err != nil {
			return nil, err
		}
		seen = append(seen, string(f)+string(g))
		if len(seen) <= 3 { // another writer is quicker, and brings an older file back
			w.commit("main", "f", fmt.Sprint(len(seen)), "g", []string{"new", "old"}[len(seen)%2])
		}
		return &Change{Files: map[string][]byte{"mine": append(f, '!')}, Message: "m", Author: ada}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0new", "1old", "2new", "3old"}, seen); diff != "" {
		t.Error(diff)
	}
	if result.Attempts != 4 || w.content("main", "mine") != "3!" || w.content("main", "f") != "3" || w.commits("main") != "6" {
		t.Errorf("got %+v, %q, %s commits", result, w.content("main", "mine"), w.commits("main"))
	}
}

func TestABranchThatMovesWhileTheServerReceivesIsALostRace(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	w.commit("main", "f", "0")
	w.commit("other", "f", "1")
	w.hook("pre-receive", "unset GIT_QUARANTINE_PATH GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES\n"+
		"git rev-parse -q --verify refs/heads/other >/dev/null || exit 0\n"+
		"git update-ref refs/heads/main refs/heads/other && git update-ref -d refs/heads/other\n")
	result, err := Update(t.Context(), w.remote, "main", "", put("mine", "x"))
	if err != nil || result.Attempts != 2 || w.content("main", "f") != "1" || w.content("main", "mine") != "x" {
		t.Errorf("got %+v (%v)", result, err)
	}
}

func TestARaceIsGivenUpWhenTheTimeIsOver(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	w.commit("main", "f", "0")
	n := 0
	_, err := update(t.Context(), w.remote, "main", "", func(s *Snapshot) (*Change, error) {
		n++
		w.commit("main", "f", fmt.Sprint(n))
		return put("mine", "x")(s)
	}, 700*time.Millisecond)
	if lost, ok := errors.AsType[*LostRaceError](err); !ok || lost.Attempts != n || n < 2 {
		t.Errorf("after %d attempts: %v", n, err)
	}
}

func TestARefusalIsNotTriedAgainAndTheServersTextIsTold(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	tip := w.commit("main", "f", "0")
	count := filepath.Join(t.TempDir(), "count")
	w.hook("pre-receive", "echo run >> "+count+"\necho 'GH006: Protected branch update failed.' >&2\nexit 1\n")
	_, err := Update(t.Context(), w.remote, "main", "", put("f", "1"))
	refusal, ok := errors.AsType[*RefusedError](err)
	if !ok || !strings.Contains(refusal.Reason, "hook declined") || !strings.Contains(err.Error(), "GH006: Protected branch update failed.") {
		t.Errorf("got %v", err)
	}
	if b, _ := os.ReadFile(count); string(b) != "run\n" || w.bare("rev-parse", "main") != tip {
		t.Errorf("the hook ran %q", b)
	}
}

func TestABranchNameThatCannotBeIsNotTriedForever(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	w.commit("main", "f", "0")
	_, err := Update(t.Context(), w.remote, "main", "main/below", put("f", "1"))
	if _, ok := errors.AsType[*RefusedError](err); !ok {
		t.Errorf("got %v", err)
	}
}

func TestAnotherBranchIsPushedToForAPullRequest(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	main := w.commit("main", "f", "0", "g", "0")
	for i, name := range []string{"f", "g"} { // the second run keeps what the first one left for review
		result, err := Update(t.Context(), w.remote, "main", "bump", put(name, "1"))
		if err != nil || result.Branch != "bump" || w.commits("bump") != fmt.Sprint(i+2) {
			t.Fatalf("got %+v, %s commits (%v)", result, w.commits("bump"), err)
		}
	}
	if w.bare("rev-parse", "main") != main || w.bare("rev-parse", "bump~2") != main || w.content("bump", "f") != "1" {
		t.Error("the branch is not as it should be")
	}
}

// faults lets a test break requests of a server.
type faults struct {
	mu  sync.Mutex
	cut func(n int, r *http.Request) (before, after bool)
	n   int
}

func (f *faults) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.n++
		var before, after bool
		if f.cut != nil {
			before, after = f.cut(f.n, r)
		}
		f.mu.Unlock()
		if before {
			panic(http.ErrAbortHandler)
		}
		if after {
			next.ServeHTTP(discard{http.Header{}}, r.WithContext(context.WithoutCancel(r.Context()))) // git goes on when the client has gone
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
}

// discard is an answer that nobody gets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

func isPush(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/git-receive-pack") }

func TestAPushWithoutAnAnswerIsResolvedByLooking(t *testing.T) {
	for name, c := range map[string]struct {
		before bool // the request is lost, else the answer
		moves  bool // another writer pushes on top
	}{"the request is lost": {true, false}, "the answer is lost": {false, false}, "the answer is lost and the branch moves on": {false, true}} {
		t.Run(name, func(t *testing.T) {
			f := &faults{}
			w := newWorld(t, gitserver.Options{Wrap: f.wrap})
			w.commit("main", "f", "0")
			decided := 0
			f.cut = func(_ int, r *http.Request) (bool, bool) {
				if !isPush(r) {
					return false, false
				}
				f.cut = nil
				return c.before, !c.before
			}
			if c.moves {
				w.hook("post-receive", "git update-ref refs/heads/main $(git -c user.name=Eve -c user.email=eve@example.com commit-tree main^{tree} -p main -m top)\n")
			}
			result, err := Update(t.Context(), w.remote, "main", "", func(s *Snapshot) (*Change, error) {
				decided++
				return put("mine", "x")(s)
			})
			ours, count := "main", "2"
			if c.moves {
				ours, count = "main~", "3"
			}
			if err != nil || !result.Changed || w.commits("main") != count || result.Commit != w.bare("rev-parse", ours) {
				t.Errorf("got %+v after %d decisions, %s commits (%v)", result, decided, w.commits("main"), err)
			}
		})
	}
}

// At whatever request the connection breaks, once or for good, a second run ends with exactly one commit.
func TestARunThatIsCutOffAnywhereConverges(t *testing.T) {
	f := &faults{}
	w := newWorld(t, gitserver.Options{Wrap: f.wrap})
	tip := w.commit("main", "f", "0")
	set := func(cut func(int, *http.Request) (bool, bool)) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.n, f.cut = 0, cut
	}
	set(nil)
	if _, err := Update(t.Context(), w.remote, "main", "", put("mine", "x")); err != nil {
		t.Fatal(err)
	}
	requests := f.n
	if requests != 5 {
		t.Errorf("an undisturbed run makes %d requests, want 5: refs, files, refs to push, push, refs again", requests)
	}
	for n := 1; n <= requests; n++ {
		for _, forever := range []bool{false, true} {
			for _, after := range []bool{false, true} {
				w.bare("update-ref", "refs/heads/main", tip)
				set(func(i int, _ *http.Request) (bool, bool) {
					hit := i == n || forever && i > n
					return hit && !after, hit && after
				})
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				first, err := Update(ctx, w.remote, "main", "", put("mine", "x"))
				cancel()
				if err == nil && forever {
					t.Errorf("request %d on: a run without a server succeeded: %+v", n, first)
				}
				if err != nil && !forever {
					t.Errorf("request %d: one broken connection is not survived: %v", n, err)
				}
				set(nil)
				second, err := Update(t.Context(), w.remote, "main", "", put("mine", "x"))
				if err != nil || w.commits("main") != "2" || w.content("main", "mine") != "x" {
					t.Errorf("request %d: second run: %+v, %s commits (%v)", n, second, w.commits("main"), err)
				}
			}
		}
	}
}

func TestALateSuccessIsNotReportedAsAFailure(t *testing.T) {
	f := &faults{}
	w := newWorld(t, gitserver.Options{Wrap: f.wrap})
	w.commit("main", "f", "0")
	ctx, cancel := context.WithCancel(t.Context())
	f.cut = func(_ int, r *http.Request) (bool, bool) {
		if !isPush(r) {
			return false, false
		}
		cancel() // the step is told to stop while its push is under way
		f.cut = nil
		return false, true
	}
	result, err := Update(ctx, w.remote, "main", "", put("mine", "x"))
	if err != nil || !result.Changed || result.Commit != w.bare("rev-parse", "main") {
		t.Errorf("got %+v (%v)", result, err)
	}
}

func TestAServerThatSaysOKAndKeepsTheOldTipIsFoundOut(t *testing.T) {
	var undo func()
	w := newWorld(t, gitserver.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(rw, r)
			if isPush(r) {
				undo()
			}
		})
	}})
	tip := w.commit("main", "f", "0")
	undo = func() { w.bare("update-ref", "refs/heads/main", tip) }
	_, err := Update(t.Context(), w.remote, "main", "", put("f", "1"))
	if err == nil || !strings.Contains(err.Error(), "reported success, but branch main is at "+tip) {
		t.Errorf("got %v", err)
	}
}

func TestAServerThatCannotAddToAShallowHistoryIsReadAnew(t *testing.T) {
	var broken atomic.Int32
	w := newWorld(t, gitserver.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			if strings.HasSuffix(r.URL.Path, "/git-upload-pack") && bytes.Contains(body, []byte("have ")) {
				broken.Add(1)
				http.Error(rw, "no", http.StatusInternalServerError)
				return
			}
			next.ServeHTTP(rw, r)
		})
	}})
	w.commit("main", "f", "0")
	n := 0
	result, err := Update(t.Context(), w.remote, "main", "", func(s *Snapshot) (*Change, error) {
		if n++; n == 1 {
			w.commit("main", "f", "1")
		}
		return put("mine", "x")(s)
	})
	if err != nil || result.Attempts != 2 || broken.Load() == 0 || w.commits("main") != "3" {
		t.Errorf("got %+v, %d broken requests (%v)", result, broken.Load(), err)
	}
}

func TestAPushWithoutTheRightToItIsExplained(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		w := newWorld(t, gitserver.Options{Token: "t", Wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.RawQuery+r.URL.Path, "git-receive-pack") {
					http.Error(rw, "Write access to repository not granted.", status)
					return
				}
				next.ServeHTTP(rw, r)
			})
		}})
		w.commit("main", "f", "0")
		_, err := Update(t.Context(), w.remote, "main", "", put("f", "1"))
		access, ok := errors.AsType[*AccessError](err)
		if !ok || access.Status != status || !access.Write || !strings.Contains(err.Error(), "Write access to repository not granted.") ||
			!strings.Contains(access.Fix(), "write") {
			t.Errorf("got %v", err)
		}
	}
}

func TestManyWritersLoseNothing(t *testing.T) {
	const writers = 12
	w := newWorld(t, gitserver.Options{})
	w.commit("main", "f", "0")
	var group sync.WaitGroup
	var failures sync.Map
	for i := range writers {
		group.Go(func() {
			if _, err := Update(t.Context(), w.remote, "main", "", put(fmt.Sprintf("d/%d", i), "x")); err != nil {
				failures.Store(i, err)
			}
		})
	}
	group.Wait()
	failures.Range(func(i, err any) bool { t.Errorf("writer %v: %v", i, err); return true })
	if n := w.commits("main"); n != fmt.Sprint(writers+1) {
		t.Errorf("%s commits", n)
	}
	if n := len(strings.Fields(w.bare("ls-tree", "--name-only", "main:d"))); n != writers {
		t.Errorf("%d files", n)
	}
}

func TestWhatCannotBeWrittenIsRefused(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	w.write("d/f", "x")
	if err := os.Symlink("d", filepath.Join(w.tree, "link")); err != nil {
		t.Fatal(err)
	}
	w.commit("main")
	for name, want := range map[string]string{
		"../f": "not allowed", ".git/config": "not allowed", "/f": "not allowed", "d//f": "not allowed", "link": "is a link", "link/f": "not a folder",
		"d": "is a folder", "d/f/g": "not a folder",
	} {
		_, err := Update(t.Context(), w.remote, "main", "", put(name, "y"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q in it", name, err, want)
		}
	}
	forged := ada
	forged.Name = "Ada\ncommitter Eve"
	_, err := Update(t.Context(), w.remote, "main", "", func(*Snapshot) (*Change, error) {
		return &Change{Files: map[string][]byte{"f": nil}, Message: "m", Author: forged}, nil
	})
	if err == nil || w.commits("main") != "1" {
		t.Errorf("got %v", err)
	}
}

func TestAPreviewPushesNothing(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	tip := w.commit("main", "f", "0")
	result, err := Preview(t.Context(), w.remote, "main", "", put("f", "1"))
	if err != nil || !result.Changed || result.Commit != tip || w.bare("rev-parse", "main") != tip {
		t.Errorf("got %+v (%v)", result, err)
	}
}

// The time for a race begins when there is something to race for: a first decision may ask a registry for many images.
func TestTheFirstDecisionMayTakeItsTime(t *testing.T) {
	w := newWorld(t, gitserver.Options{})
	w.commit("main", "g", "0")
	const budget = 2 * time.Second
	began := time.Now()
	result, err := update(t.Context(), w.remote, "main", "", func(*Snapshot) (*Change, error) {
		<-time.After(budget + 200*time.Millisecond)
		return put("f", "x\n")(nil)
	}, budget)
	if err != nil || !result.Changed || time.Since(began) < budget {
		t.Errorf("%+v, %v", result, err)
	}
}
