package gitserver_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
)

// start runs a server over an empty folder until the test ends.
func start(t *testing.T, options gitserver.Options) *gitserver.Server {
	t.Helper()
	s, err := gitserver.Start(t.TempDir(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// create makes a repository and returns its address.
func create(t *testing.T, s *gitserver.Server, repo string) string {
	t.Helper()
	url, err := s.Create(repo)
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// tryGit runs the git command line, without this machine's settings, and returns all it printed.
func tryGit(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "HOME="+dir, "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS="), gitserver.Author("Ada")...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := tryGit(dir, args...)
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// commit adds a file to a clone and returns the commit's id.
func commit(t *testing.T, clone, file, content string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(clone, file), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	git(t, clone, "add", file)
	git(t, clone, "commit", "--quiet", "--message", "feat: add "+file)
	return git(t, clone, "rev-parse", "HEAD")
}

func clone(t *testing.T, url string) string {
	t.Helper()
	dir := t.TempDir()
	git(t, dir, "clone", "--quiet", url, "clone")
	return filepath.Join(dir, "clone")
}

func TestAPushedCommitIsClonedFromTheDefaultBranchMain(t *testing.T) {
	s := start(t, gitserver.Options{})
	url := create(t, s, "demo/backend")
	if want := s.URL() + "/demo/backend.git"; url != want {
		t.Errorf("Create returned %q, want %q", url, want)
	}
	first := clone(t, url)
	id := commit(t, first, "a.txt", "one\n")
	git(t, first, "push", "--quiet", "origin", "HEAD:main")

	second := clone(t, url)
	if got := git(t, second, "rev-parse", "HEAD"); got != id {
		t.Errorf("the clone is at %s, want %s", got, id)
	}
	if got := git(t, second, "symbolic-ref", "--short", "HEAD"); got != "main" {
		t.Errorf("the clone is on branch %q, want main", got)
	}
}

func TestAPackLargerThanGitsPostBufferArrives(t *testing.T) {
	s := start(t, gitserver.Options{})
	url := create(t, s, "demo/backend")
	work := clone(t, url)
	// Git sends packs of more than 1 MiB (http.postBuffer) in chunks. The content must not compress.
	var content strings.Builder
	for i := range uint64(120_000) {
		fmt.Fprintf(&content, "%x", (i+1)*0x9E3779B97F4A7C15)
	}
	commit(t, work, "large.txt", content.String())
	git(t, work, "push", "--quiet", "origin", "HEAD:main")
}

func TestShallowAndPartialFetchesAndFetchesByCommitIDAreServed(t *testing.T) {
	s := start(t, gitserver.Options{})
	url := create(t, s, "demo/backend")
	work := clone(t, url)
	first := commit(t, work, "a.txt", "one\n")
	commit(t, work, "b.txt", "two\n")
	git(t, work, "push", "--quiet", "origin", "HEAD:main")

	for name, args := range map[string][]string{
		"shallow":         {"fetch", "--quiet", "--depth=1", url, "main"},
		"without blobs":   {"fetch", "--quiet", "--filter=blob:none", url, "main"},
		"one commit's id": {"fetch", "--quiet", "--depth=1", url, first},
		// Protocol 2 allows any id anyway. Protocol 0, which go-git speaks, allows it where uploadpack.allowAnySHA1InWant is set.
		"one commit's id with protocol 0": {"-c", "protocol.version=0", "fetch", "--quiet", "--depth=1", url, first},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			git(t, dir, "init", "--quiet")
			git(t, dir, args...)
			commits := git(t, dir, "rev-list", "--count", "FETCH_HEAD")
			if want := map[bool]string{true: "2", false: "1"}[name == "without blobs"]; commits != want {
				t.Errorf("fetched %s commits, want %s", commits, want)
			}
		})
	}
}

func TestATokenIsDemandedAsThePasswordOfAnyUser(t *testing.T) {
	s := start(t, gitserver.Options{Token: "s3cret"})
	create(t, s, "demo/backend")
	address := func(userinfo string) string {
		return strings.Replace(s.URL(), "http://", "http://"+userinfo, 1) + "/demo/backend.git"
	}
	for _, user := range []string{"x-access-token", "anybody"} {
		work := clone(t, address(user+":s3cret@"))
		commit(t, work, "a.txt", user+"\n")
		git(t, work, "push", "--quiet", "origin", "HEAD:refs/heads/"+user)
	}
	for name, url := range map[string]string{
		"no credentials":        address(""),
		"another password":      address("x-access-token:s3cre@"),
		"the token as the user": address("s3cret:x@"),
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := tryGit(t.TempDir(), "ls-remote", url); err == nil {
				t.Errorf("the server let it in:\n%s", out)
			}
			response, err := http.Get(url + "/info/refs?service=git-upload-pack")
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(response.Header.Get("WWW-Authenticate"), "Basic ") {
				t.Errorf("answer %s with challenge %q, want 401 and Basic", response.Status, response.Header.Get("WWW-Authenticate"))
			}
		})
	}
}

func TestOnPushReportsWhatEachPushChangedInOrder(t *testing.T) {
	pushes := make(chan gitserver.Push) // unbuffered, so each push but the first waits in the queue
	s := start(t, gitserver.Options{OnPush: func(p gitserver.Push) { pushes <- p }})
	work := clone(t, create(t, s, "demo/backend"))
	one := commit(t, work, "a.txt", "one\n")
	git(t, work, "push", "--quiet", "origin", "HEAD:main")
	two := commit(t, work, "b.txt", "two\n")
	git(t, work, "tag", "v1.0.0")
	git(t, work, "push", "--quiet", "--atomic", "origin", "HEAD:main", "v1.0.0")
	git(t, work, "push", "--quiet", "origin", "HEAD:main") // changes nothing, so it is not reported
	git(t, work, "push", "--quiet", "origin", ":v1.0.0")

	want := []gitserver.Push{
		{Repo: "demo/backend", Updates: []gitserver.RefUpdate{{Ref: "refs/heads/main", New: one}}},
		{Repo: "demo/backend", Updates: []gitserver.RefUpdate{{Ref: "refs/heads/main", Old: one, New: two}, {Ref: "refs/tags/v1.0.0", New: two}}},
		{Repo: "demo/backend", Updates: []gitserver.RefUpdate{{Ref: "refs/tags/v1.0.0", Old: two}}},
	}
	for i := range want {
		select {
		case got := <-pushes:
			if diff := cmp.Diff(want[i], got); diff != "" {
				t.Errorf("push %d (-want +got):\n%s", i, diff)
			}
		case <-time.After(time.Minute):
			t.Fatalf("push %d was not reported", i)
		}
	}
}

func TestOfWritersRacingForOneBranchOneWinsEachRound(t *testing.T) {
	var reported atomic.Int64
	s := start(t, gitserver.Options{OnPush: func(p gitserver.Push) { reported.Add(int64(len(p.Updates))) }})
	url := create(t, s, "demo/config")
	seed := clone(t, url)
	commit(t, seed, "seed.txt", "seed\n")
	git(t, seed, "push", "--quiet", "origin", "HEAD:main")

	const writers = 4
	clones := make([]string, writers)
	for i := range clones {
		clones[i] = clone(t, url)
		commit(t, clones[i], fmt.Sprintf("%d.txt", i), "mine\n")
	}
	var wins atomic.Int64
	var all sync.WaitGroup
	for _, dir := range clones {
		all.Go(func() {
			if _, err := tryGit(dir, "push", "--quiet", "origin", "HEAD:main"); err == nil {
				wins.Add(1)
			}
		})
	}
	all.Wait()
	if wins.Load() != 1 {
		t.Errorf("%d of %d writers won, want exactly one", wins.Load(), writers)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := git(t, s.Dir("demo/config"), "rev-list", "--count", "main"); got != "2" {
		t.Errorf("main has %s commits, want the seed and the winner's", got)
	}
}

func TestAMalformedTreeIsRefused(t *testing.T) {
	s := start(t, gitserver.Options{})
	work := clone(t, create(t, s, "demo/backend"))
	commit(t, work, "a.txt", "one\n")
	blob := git(t, work, "rev-parse", "HEAD:a.txt")
	raw := filepath.Join(t.TempDir(), "tree")
	// Entries in the wrong order: Git sorts them by name.
	var id []byte
	if _, err := fmt.Sscanf(blob, "%x", &id); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(raw, []byte("100644 b\x00"+string(id)+"100644 a\x00"+string(id)), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := git(t, work, "hash-object", "-t", "tree", "-w", "--literally", raw)
	bad := git(t, work, "commit-tree", "-m", "feat: break the tree", tree)
	if out, err := tryGit(work, "push", "--quiet", "origin", bad+":refs/heads/bad"); err == nil {
		t.Errorf("the server took a malformed tree:\n%s", out)
	}
}

func TestOnRequestSeesAndBreaksRequests(t *testing.T) {
	var seen, broken atomic.Int64
	s := start(t, gitserver.Options{Token: "s3cret", OnRequest: func(r *http.Request) {
		seen.Add(1)
		if r.Header.Get("X-Break") != "" {
			broken.Add(1)
			panic(http.ErrAbortHandler)
		}
	}})
	response, err := http.Get(s.URL() + "/demo/backend.git/info/refs")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	request, err := http.NewRequest(http.MethodPost, s.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Break", "yes")
	if response, err := http.DefaultClient.Do(request); err == nil {
		response.Body.Close()
		t.Error("the broken request was answered")
	}
	if seen.Load() != 2 || broken.Load() != 1 {
		t.Errorf("saw %d requests and broke %d, want 2 and 1", seen.Load(), broken.Load())
	}
}

func TestAPushWhoseAnswerIsLostIsReported(t *testing.T) {
	pushes := make(chan gitserver.Push, 1)
	s := start(t, gitserver.Options{
		OnPush: func(p gitserver.Push) { pushes <- p },
		Wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/git-receive-pack") {
					w = deaf{w}
				}
				next.ServeHTTP(w, r)
			})
		},
	})
	work := clone(t, create(t, s, "demo/backend"))
	id := commit(t, work, "a.txt", "one\n")
	if out, err := tryGit(work, "push", "--quiet", "origin", "HEAD:main"); err == nil {
		t.Errorf("the push succeeded without an answer:\n%s", out)
	}
	select {
	case got := <-pushes:
		want := gitserver.Push{Repo: "demo/backend", Updates: []gitserver.RefUpdate{{Ref: "refs/heads/main", New: id}}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("push (-want +got):\n%s", diff)
		}
	case <-time.After(time.Minute):
		t.Fatal("the push was not reported")
	}
}

// deaf loses the answer once git has written all of it.
type deaf struct{ http.ResponseWriter }

func (deaf) Write([]byte) (int, error) { panic(http.ErrAbortHandler) }

func TestUnknownRepositoriesAndOddNamesAreRefused(t *testing.T) {
	s := start(t, gitserver.Options{})
	for _, path := range []string{"/demo/missing.git/info/refs?service=git-upload-pack", "/demo/missing.git/git-receive-pack", "/../x.git/git-receive-pack"} {
		request, err := http.NewRequest(http.MethodGet, s.URL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, "receive-pack") {
			request.Method = http.MethodPost
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusNotFound {
			t.Errorf("%s %s is answered with %s, want 404", request.Method, path, response.Status)
		}
	}
	create(t, s, "demo/backend")
	for _, repo := range []string{"demo/backend", "demo", "demo/backend.git", "../backend", "demo/a/b", "demo/..", ""} {
		if _, err := s.Create(repo); err == nil {
			t.Errorf("Create(%q) succeeded", repo)
		}
	}
	if _, err := s.Create("demo/backend"); !errors.Is(err, os.ErrExist) {
		t.Errorf("creating a repository twice gives %v, want an error that says it exists", err)
	}
}
