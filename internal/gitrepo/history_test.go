package gitrepo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// runGit runs git in a folder, away from this machine's settings.
func runGit(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "HOME="+dir,
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=C", "GIT_COMMITTER_EMAIL=c@example.com",
		"GIT_AUTHOR_DATE=2025-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2025-01-01T00:00:00Z")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// sample makes a repository with a merge, a branch of its own, and tags of every kind, and returns its folder and its head.
//
//	root ── one ───────── merge ── tip   (main)
//	  │       └─ aside                   (tagged v1.0.1, merged nowhere)
//	  └──── side ──┘
func sample(t testing.TB) (dir, head string) {
	t.Helper()
	dir = t.TempDir()
	git := func(args ...string) string { return runGit(t, dir, args...) }
	git("init", "--quiet", "--initial-branch=main", "--template=")
	commit := func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		git("add", name)
		git("commit", "--quiet", "-m", "feat: "+name+"\n\nBody of "+name+".")
	}
	commit("root")
	git("tag", "light")
	commit("one")
	git("tag", "-a", "-m", "annotated", "v1.0.0")
	git("tag", "-a", "-m", "a tag of a tag", "nested", "v1.0.0")
	git("checkout", "--quiet", "-b", "aside")
	commit("aside")
	git("tag", "-a", "-m", "elsewhere", "v1.0.1")
	git("checkout", "--quiet", "-b", "side", "light")
	commit("side")
	git("checkout", "--quiet", "main")
	git("merge", "--quiet", "--no-ff", "-m", "Merge branch 'side'", "side")
	commit("tip")
	git("tag", "tree", "HEAD^{tree}")
	git("tag", "blob", "HEAD:tip")
	git("tag", "-a", "-m", "a tag of a tree", "annotated-tree", "HEAD^{tree}")
	return dir, git("rev-parse", "HEAD")
}

// wantSample checks that h is the history of sample's head, whole.
func wantSample(t *testing.T, dir string, h *History) {
	t.Helper()
	list := h.Graph.Range(h.Head)
	var got []string
	for _, id := range list {
		got = append(got, id.String())
	}
	want := strings.Fields(runGit(t, dir, "rev-list", "main"))
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("commits: %s", diff)
	}
	messages, err := h.Messages(list)
	if err != nil {
		t.Fatal(err)
	}
	if messages[0] != "feat: tip\n\nBody of tip.\n" {
		t.Errorf("message of the head: %q", messages[0])
	}
	if h.Graph.Time(h.Head) != 1735689600+3 { // all commits claim the same second: tip, merge, one, root
		t.Errorf("time of the head: %d", h.Graph.Time(h.Head))
	}
	for tag, want := range map[string]string{
		"light": "light", "v1.0.0": "v1.0.0^{commit}", "nested": "v1.0.0^{commit}", "v1.0.1": "v1.0.1^{commit}", "tree": "", "blob": "", "annotated-tree": "",
	} {
		id, ok, err := h.Target(tag)
		switch {
		case err != nil:
			t.Error(err)
		case want == "" && ok && h.Graph.Has(id):
			t.Errorf("tag %s is said to stand for commit %s of this history", tag, id)
		case want == "" && ok && !h.Fetched:
			t.Errorf("tag %s is said to stand for commit %s", tag, id)
		case want != "" && (!ok || id.String() != runGit(t, dir, "rev-parse", want)):
			t.Errorf("tag %s stands for %s, %t", tag, id, ok)
		case want != "" && h.Graph.Has(id) == (tag == "v1.0.1"):
			t.Errorf("tag %s: in this history %t", tag, h.Graph.Has(id))
		}
	}
	if diff := cmp.Diff([]string{"annotated-tree", "blob", "light", "nested", "tree", "v1.0.0", "v1.0.1"}, h.Tags); diff != "" {
		t.Errorf("tags: %s", diff)
	}
	if _, ok, err := h.Target("no-such-tag"); ok || err != nil {
		t.Errorf("a tag that does not exist: %t, %v", ok, err)
	}
}

func TestHistoryOfACompleteCheckoutIsReadWithoutANetwork(t *testing.T) {
	origin, head := sample(t)
	clone := func(t *testing.T, args ...string) string {
		dir := filepath.Join(t.TempDir(), "clone")
		runGit(t, origin, append(append([]string{"clone", "--quiet"}, args...), "file://"+origin, dir)...)
		return dir
	}
	for _, tt := range []struct {
		name string
		make func(t *testing.T) (dir, commit string)
	}{
		{"an ordinary clone", func(t *testing.T) (string, string) { return clone(t), head }},
		{"the repository itself, at what is checked out", func(t *testing.T) (string, string) { return origin, "" }},
		{"a detached head", func(t *testing.T) (string, string) {
			dir := clone(t)
			runGit(t, dir, "checkout", "--quiet", "--detach", head)
			return dir, ""
		}},
		{"a commit that is not what is checked out", func(t *testing.T) (string, string) {
			dir := clone(t)
			runGit(t, dir, "checkout", "--quiet", "--detach", "v1.0.1")
			return dir, head
		}},
		{"a subfolder", func(t *testing.T) (string, string) {
			dir := filepath.Join(clone(t), "deep", "er")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			return dir, head
		}},
		{"a linked work tree", func(t *testing.T) (string, string) {
			dir := filepath.Join(t.TempDir(), "linked")
			runGit(t, clone(t), "worktree", "add", "--quiet", "--detach", dir, head)
			return dir, ""
		}},
		{"a submodule, whose folder lies in another repository", func(t *testing.T) (string, string) {
			outer := t.TempDir()
			runGit(t, outer, "init", "--quiet")
			runGit(t, outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "file://"+origin, "inner")
			return filepath.Join(outer, "inner"), head
		}},
		{"packed references and objects", func(t *testing.T) (string, string) {
			dir := clone(t)
			runGit(t, dir, "pack-refs", "--all")
			runGit(t, dir, "gc", "--quiet", "--aggressive")
			return dir, head
		}},
		{"objects borrowed by an absolute path", func(t *testing.T) (string, string) {
			dir := filepath.Join(t.TempDir(), "shared")
			runGit(t, origin, "clone", "--quiet", "--shared", origin, dir)
			return dir, ""
		}},
		{"objects borrowed by a relative path, from one that borrows itself", func(t *testing.T) (string, string) {
			parent := t.TempDir()
			first, second := filepath.Join(parent, "first"), filepath.Join(parent, "second")
			runGit(t, parent, "clone", "--quiet", "--shared", origin, first)
			runGit(t, parent, "clone", "--quiet", "--shared", first, second)
			alternates := filepath.Join(second, ".git", "objects", "info", "alternates")
			if err := os.WriteFile(alternates, []byte("# a cache\n../../../first/.git/objects\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			return second, ""
		}},
		{"a sparse checkout", func(t *testing.T) (string, string) {
			dir := clone(t)
			runGit(t, dir, "sparse-checkout", "set", "--cone", "deep")
			if got := runGit(t, dir, "config", "extensions.worktreeConfig"); got != "true" {
				t.Fatalf("extensions.worktreeConfig=%s", got)
			}
			return dir, ""
		}},
		{"an index of version 4", func(t *testing.T) (string, string) {
			dir := clone(t)
			runGit(t, dir, "update-index", "--index-version", "4")
			return dir, ""
		}},
		{"a bare repository, by its path", func(t *testing.T) (string, string) { return clone(t, "--bare"), head }},
		{"a folder inside a bare repository", func(t *testing.T) (string, string) {
			return filepath.Join(clone(t, "--bare"), "refs", "heads"), head
		}},
		{"a repository of somebody else, with a root user reading", func(t *testing.T) (string, string) {
			dir := clone(t)
			err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
				return errors.Join(err, os.Lchown(path, 12345, 12345))
			})
			if err != nil && os.Geteuid() == 0 { // without being root, nobody can give a file away, and git would not mind either
				t.Fatal(err)
			}
			return dir, ""
		}},
		{"a chain of commit-graphs that lacks a link", func(t *testing.T) (string, string) {
			dir := clone(t)
			runGit(t, dir, "commit-graph", "write", "--reachable", "--split=no-merge")
			chain := filepath.Join(dir, ".git", "objects", "info", "commit-graphs")
			graphs, err := filepath.Glob(filepath.Join(chain, "*.graph"))
			if err != nil || len(graphs) == 0 {
				t.Fatalf("graphs %q, %v", graphs, err)
			}
			for _, g := range graphs {
				if err := os.Remove(g); err != nil {
					t.Fatal(err)
				}
			}
			return dir, ""
		}},
		{"several packs and a multi-pack-index", func(t *testing.T) (string, string) {
			dir := clone(t)
			runGit(t, dir, "-c", "pack.packSizeLimit=1", "repack", "-q", "-a", "-d")
			runGit(t, dir, "multi-pack-index", "write")
			return dir, ""
		}},
		{"deltas that name their bases by id", func(t *testing.T) (string, string) {
			dir := clone(t)
			runGit(t, dir, "-c", "repack.useDeltaBaseOffset=false", "repack", "-q", "-a", "-d", "-f", "--window=50", "--depth=50")
			return dir, ""
		}},
		{"a submodule's work tree, whose .git is a file", func(t *testing.T) (string, string) {
			dir := t.TempDir()
			runGit(t, dir, "clone", "--quiet", "--separate-git-dir", filepath.Join(dir, "elsewhere.git"), "file://"+origin, filepath.Join(dir, "tree"))
			return filepath.Join(dir, "tree"), ""
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, commit := tt.make(t)
			h, err := ReadHistory(t.Context(), HistoryOptions{Dir: dir, Commit: commit})
			if err != nil {
				t.Fatal(err)
			}
			if h.Fetched || len(h.Notices) > 0 {
				t.Errorf("fetched %t, notices %q", h.Fetched, h.Notices)
			}
			wantSample(t, origin, h)
		})
	}
}

func TestAPartialCloneHoldsItsHistory(t *testing.T) {
	origin, head := sample(t)
	runGit(t, origin, "tag", "-d", "tree", "blob", "annotated-tree") // git itself cannot fetch these without what they point at
	runGit(t, origin, "config", "uploadpack.allowFilter", "true")
	dir := filepath.Join(t.TempDir(), "clone")
	runGit(t, origin, "clone", "--quiet", "--filter=tree:0", "--no-checkout", "file://"+origin, dir)
	h, err := ReadHistory(t.Context(), HistoryOptions{Dir: dir, Commit: head})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(h.Graph.Range(h.Head)); n != 5 || h.Fetched || len(h.Tags) != 4 {
		t.Errorf("%d commits, tags %q, fetched %t", n, h.Tags, h.Fetched)
	}
}

func TestASymbolicTagStandsForWhatItLeadsTo(t *testing.T) {
	dir, head := sample(t)
	runGit(t, dir, "symbolic-ref", "refs/tags/v2.0.0", "refs/tags/v1.0.0")
	runGit(t, dir, "symbolic-ref", "refs/tags/v3.0.0", "refs/tags/nowhere")
	h, err := ReadHistory(t.Context(), HistoryOptions{Dir: dir, Commit: head, Match: func(s string) bool { return s[0] == 'v' }})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"v1.0.0", "v1.0.1", "v2.0.0"}, h.Tags); diff != "" {
		t.Error(diff)
	}
	if id, ok, err := h.Target("v2.0.0"); !ok || err != nil || id.String() != runGit(t, dir, "rev-parse", "v1.0.0^{commit}") {
		t.Errorf("%s, %t, %v", id, ok, err)
	}
}

// served starts a server with sample's repository as team/app and returns it with the repository's address and sample's folder and head.
func served(t *testing.T, options gitserver.Options) (s *gitserver.Server, url, origin, head string) {
	t.Helper()
	s, err := gitserver.Start(t.TempDir(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	url, err = s.Create("team/app")
	if err != nil {
		t.Fatal(err)
	}
	origin, head = sample(t)
	runGit(t, origin, "push", "--quiet", s.Dir("team/app"), "main", "aside", "--tags")
	return s, url, origin, head
}

// asCloudBuild makes the checkout of a triggered build: one commit, detached, without branches and tags.
func asCloudBuild(t testing.TB, from, url, head string) string {
	t.Helper()
	dir := t.TempDir()
	runGit(t, dir, "init", "--quiet", "--template=")
	runGit(t, dir, "remote", "add", "origin", url)
	runGit(t, dir, "fetch", "--quiet", "--depth=1", "--no-tags", "file://"+from, head)
	runGit(t, dir, "checkout", "--quiet", "FETCH_HEAD")
	return dir
}

func TestHistoryIsFetchedWhereTheCheckoutDoesNotHoldIt(t *testing.T) {
	var requests atomic.Int32
	const token = "s3cret-canary"
	s, url, origin, head := served(t, gitserver.Options{Token: token, OnRequest: func(*http.Request) { requests.Add(1) }})
	runGit(t, origin, "config", "uploadpack.allowAnySHA1InWant", "true")
	with := func(r Remote) Remote {
		r.Username, r.Token = "x-access-token", secret.New(token)
		return r
	}
	for _, tt := range []struct {
		name   string
		config [2]string
		make   func(t *testing.T) HistoryOptions
		notice string
	}{
		{"a depth-1 checkout, from its origin", [2]string{}, func(t *testing.T) HistoryOptions {
			return HistoryOptions{Dir: asCloudBuild(t, origin, url, head), Commit: head}
		}, "is shallow"},
		{"a depth-1 checkout whose commit nobody named", [2]string{}, func(t *testing.T) HistoryOptions {
			return HistoryOptions{Dir: asCloudBuild(t, origin, url, head), Branch: "main"}
		}, "is shallow"},
		{"a depth-1 checkout whose origin is out of reach, from SOURCE_URL", [2]string{}, func(t *testing.T) HistoryOptions {
			return HistoryOptions{Dir: asCloudBuild(t, origin, "git@example.com:team/app.git", head), Commit: head, Remote: Remote{URL: url}}
		}, "is shallow"},
		{"an origin with credentials in it", [2]string{}, func(t *testing.T) HistoryOptions {
			return HistoryOptions{Dir: asCloudBuild(t, origin, strings.Replace(url, "://", "://user:hunter2@", 1), head), Commit: head}
		}, "is shallow"},
		{"no checkout, by commit", [2]string{}, func(t *testing.T) HistoryOptions {
			return HistoryOptions{Dir: t.TempDir(), Commit: head, Remote: Remote{URL: url}}
		}, "is not in a Git checkout"},
		{"no checkout, by branch", [2]string{}, func(t *testing.T) HistoryOptions {
			return HistoryOptions{Dir: t.TempDir(), Branch: "main", Remote: Remote{URL: url}}
		}, "is not in a Git checkout"},
		{"no checkout, the remote's own branch", [2]string{}, func(t *testing.T) HistoryOptions {
			return HistoryOptions{Dir: t.TempDir(), Remote: Remote{URL: url}}
		}, "is not in a Git checkout"},
		{"a checkout of something else", [2]string{}, func(t *testing.T) HistoryOptions {
			other, _ := sample(t)
			runGit(t, other, "checkout", "--quiet", "--orphan", "new")
			runGit(t, other, "commit", "--quiet", "-m", "x")
			runGit(t, other, "tag", "-d", "v1.0.0", "v1.0.1", "nested", "light")
			runGit(t, other, "branch", "-D", "main", "side", "aside")
			runGit(t, other, "reflog", "expire", "--expire=now", "--all")
			runGit(t, other, "gc", "--quiet", "--prune=now")
			return HistoryOptions{Dir: other, Commit: head, Remote: Remote{URL: url}}
		}, "does not hold the whole history"},
		{"a server that cannot filter", [2]string{"uploadpack.allowFilter", "false"}, func(t *testing.T) HistoryOptions {
			return HistoryOptions{Dir: t.TempDir(), Commit: head, Remote: Remote{URL: url}}
		}, "all files were fetched"},
		{"a server that hands out no commit by its id", [2]string{"uploadpack.allowAnySHA1InWant", "false"}, func(t *testing.T) HistoryOptions {
			return HistoryOptions{Dir: t.TempDir(), Commit: head, Remote: Remote{URL: url}}
		}, "is not in a Git checkout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.config[0] != "" {
				runGit(t, s.Dir("team/app"), "config", tt.config[0], tt.config[1])
				defer runGit(t, s.Dir("team/app"), "config", tt.config[0], "true")
			}
			o := tt.make(t)
			o.Remote = with(o.Remote)
			before := fingerprint(t, o.Dir)
			requests.Store(0)
			h, err := ReadHistory(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if n := requests.Load(); n != 2 {
				t.Errorf("%d requests, want the list of references and one fetch", n)
			}
			wantSample(t, origin, h)
			text := strings.Join(h.Notices, "\n")
			if !h.Fetched || !strings.Contains(text, tt.notice) {
				t.Errorf("fetched %t, notices %q, want %q", h.Fetched, h.Notices, tt.notice)
			}
			if strings.Contains(text, token) || strings.Contains(text, "hunter2") {
				t.Errorf("a notice shows a credential: %s", text)
			}
			store := h.store.packs[0]
			if _, onDisk := store.in.r.(*os.File); onDisk != (tt.config[0] == "uploadpack.allowFilter") {
				t.Errorf("read from a temporary file: %t", onDisk)
			}
			tree := plumbing.NewHash(runGit(t, origin, "rev-parse", head+"^{tree}"))
			if _, ok := store.find(tree); ok {
				t.Error("folders were indexed")
			}
			if err := h.Close(); err != nil {
				t.Error(err)
			}
			if files, _ := filepath.Glob(filepath.Join(os.TempDir(), "history-*")); len(files) > 0 {
				t.Errorf("left behind: %q", files)
			}
			if after := fingerprint(t, o.Dir); before != after {
				t.Error("the checkout was written to")
			}
		})
	}
}

func TestACommitThatIsNoTipIsFetchedFromServersOfBothKinds(t *testing.T) {
	var mu sync.Mutex
	var wanted []string // ids that the last request asked for
	s, url, origin, _ := served(t, gitserver.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			mu.Lock()
			wanted = nil
			for _, m := range regexp.MustCompile(`want ([0-9a-f]{40})`).FindAllSubmatch(body, -1) {
				wanted = append(wanted, string(m[1]))
			}
			mu.Unlock()
			r.Body = io.NopCloser(bytes.NewReader(body))
			next.ServeHTTP(w, r)
		})
	}})
	older := runGit(t, origin, "rev-parse", "main~1")
	tips := strings.Fields(runGit(t, s.Dir("team/app"), "for-each-ref", "--format=%(objectname)"))
	slices.Sort(tips)
	for byID, want := range map[string][]string{"true": {older}, "false": slices.Compact(tips)} {
		runGit(t, s.Dir("team/app"), "config", "uploadpack.allowAnySHA1InWant", byID)
		h, err := ReadHistory(t.Context(), HistoryOptions{Commit: older, Remote: Remote{URL: url}})
		if err != nil {
			t.Fatalf("allowAnySHA1InWant=%s: %v", byID, err)
		}
		if n := len(h.Graph.Range(h.Head)); h.Head.String() != older || n != 4 {
			t.Errorf("allowAnySHA1InWant=%s: head %s with %d commits", byID, h.Head, n)
		}
		slices.Sort(wanted)
		if diff := cmp.Diff(want, wanted); diff != "" {
			t.Errorf("allowAnySHA1InWant=%s: asked for %s", byID, diff)
		}
	}
}

func TestACompleteCheckoutWithoutTagsAsksTheRemoteForThem(t *testing.T) {
	_, url, origin, head := served(t, gitserver.Options{})
	dir := filepath.Join(t.TempDir(), "clone")
	runGit(t, origin, "clone", "--quiet", "--no-tags", "--single-branch", "file://"+origin, dir)
	h, err := ReadHistory(t.Context(), HistoryOptions{Dir: dir, Commit: head, Remote: Remote{URL: url}})
	if err != nil {
		t.Fatal(err)
	}
	wantSample(t, origin, h)
	if !h.Fetched || len(h.Notices) != 1 || !strings.Contains(h.Notices[0], "which has 7") {
		t.Errorf("fetched %t, notices %q", h.Fetched, h.Notices)
	}
}

func TestANewRepositoryWithoutARemoteHasAHistoryWithoutTags(t *testing.T) {
	dir := t.TempDir()
	runGit(t, dir, "init", "--quiet", "--template=")
	runGit(t, dir, "commit", "--quiet", "--allow-empty", "-m", "feat: begin")
	h, err := ReadHistory(t.Context(), HistoryOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Tags) != 0 || h.Graph.Len() != 1 || len(h.Notices) != 1 {
		t.Errorf("tags %q, %d commits, notices %q", h.Tags, h.Graph.Len(), h.Notices)
	}
}

func TestWithoutAWholeHistoryThereIsAnErrorThatNamesTheCure(t *testing.T) {
	const token = "s3cret-canary"
	s, url, origin, head := served(t, gitserver.Options{Token: token})
	if _, err := s.Create("team/empty"); err != nil {
		t.Fatal(err)
	}
	open, err := gitserver.Start(t.TempDir(), gitserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = open.Close() })
	shallowURL, err := open.Create("team/shallow")
	if err != nil {
		t.Fatal(err)
	}
	runGit(t, open.Dir("team/shallow"), "fetch", "--quiet", "--depth=1", "file://"+origin, "main:refs/heads/main")
	authorized := func(url string) Remote { return Remote{URL: url, Username: "u", Token: secret.New(token)} }
	absent := strings.Repeat("ab", 20)
	for _, tt := range []struct {
		name   string
		o      func(t *testing.T) HistoryOptions
		text   string
		cure   string
		config bool
	}{
		{"no checkout and no address", func(t *testing.T) HistoryOptions { return HistoryOptions{Dir: t.TempDir(), Commit: head} },
			"is not in a Git checkout, and there is no remote", "SOURCE_URL", true},
		{"a work tree whose repository is gone", func(t *testing.T) HistoryOptions {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, ".git"), []byte("gitdir: ../nowhere\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return HistoryOptions{Dir: dir, Commit: head}
		}, "leads nowhere", "SOURCE_URL", true},
		{"a .git that says nothing", func(t *testing.T) HistoryOptions {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, ".git"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return HistoryOptions{Dir: dir, Commit: head}
		}, "its file .git names no folder", "SOURCE_URL", true},
		{"a shallow checkout without an origin", func(t *testing.T) HistoryOptions {
			dir := asCloudBuild(t, origin, url, head)
			runGit(t, dir, "remote", "remove", "origin")
			return HistoryOptions{Dir: dir, Commit: head}
		}, "is shallow, and there is no remote", "git fetch --unshallow --tags", true},
		{"a shallow checkout whose origin wants SSH", func(t *testing.T) HistoryOptions {
			return HistoryOptions{Dir: asCloudBuild(t, origin, "git@example.com:team/app.git", head), Commit: head}
		}, "origin cannot be reached", "SOURCE_URL", true},
		{"a shallow checkout whose origin is a folder", func(t *testing.T) HistoryOptions {
			return HistoryOptions{Dir: asCloudBuild(t, origin, "file://"+origin, head), Commit: head}
		}, "origin cannot be reached", "SOURCE_URL", true},
		{"a token and an origin that anybody can listen to", func(t *testing.T) HistoryOptions {
			return HistoryOptions{Dir: asCloudBuild(t, origin, "http://git.example.com/team/app.git", head), Commit: head, Remote: authorized("")}
		}, "plain http", "SOURCE_URL", true},
		{"an unborn branch without an address", func(t *testing.T) HistoryOptions {
			dir := t.TempDir()
			runGit(t, dir, "init", "--quiet", "--template=")
			return HistoryOptions{Dir: dir}
		}, "no commit to start from", "SOURCE_URL", true},
		{"an object that is missing from the checkout", func(t *testing.T) HistoryOptions {
			dir, _ := sample(t)
			lost := runGit(t, dir, "rev-parse", "light")
			if err := os.Remove(filepath.Join(dir, ".git", "objects", lost[:2], lost[2:])); err != nil {
				t.Fatal(err)
			}
			return HistoryOptions{Dir: dir}
		}, "does not hold the whole history", "SOURCE_URL", true},
		{"a private repository without a token", func(t *testing.T) HistoryOptions { return HistoryOptions{Commit: head, Remote: Remote{URL: url}} },
			"401 Unauthorized", "set GIT_TOKEN", false},
		{"a token that is not accepted", func(t *testing.T) HistoryOptions {
			return HistoryOptions{Commit: head, Remote: Remote{URL: url, Username: "u", Token: secret.New("wr0ng-canary")}}
		}, "401 Unauthorized", "not accepted", false},
		{"a complete checkout without tags whose remote does not answer", func(t *testing.T) HistoryOptions {
			dir := filepath.Join(t.TempDir(), "clone")
			runGit(t, origin, "clone", "--quiet", "--no-tags", "file://"+origin, dir)
			return HistoryOptions{Dir: dir, Commit: head, Remote: Remote{URL: url}}
		}, "401 Unauthorized", "set GIT_TOKEN", false},
		{"a repository that does not exist", func(t *testing.T) HistoryOptions {
			return HistoryOptions{Commit: head, Remote: authorized(s.URL() + "/team/nothing.git")}
		}, "404 Not Found", "check the URL", false},
		{"an empty repository", func(t *testing.T) HistoryOptions {
			return HistoryOptions{Commit: head, Remote: authorized(s.URL() + "/team/empty.git")}
		}, "empty", "first commit", false},
		{"a commit that the server does not have", func(t *testing.T) HistoryOptions { return HistoryOptions{Commit: absent, Remote: authorized(url)} },
			absent, "COMMIT_SHA", false},
		{"a branch that the server does not have", func(t *testing.T) HistoryOptions { return HistoryOptions{Branch: "gone", Remote: authorized(url)} },
			"refs/heads/gone", "BRANCH_NAME", false},
		{"a server that is shallow itself", func(t *testing.T) HistoryOptions {
			return HistoryOptions{Commit: head, Remote: Remote{URL: shallowURL}}
		}, "does not hold the whole history", "not shallow", false},
		{"a repository that names its objects by SHA-256", func(t *testing.T) HistoryOptions {
			dir := t.TempDir()
			runGit(t, dir, "init", "--quiet", "--template=", "--object-format=sha256")
			runGit(t, dir, "commit", "--quiet", "--allow-empty", "-m", "feat: x")
			return HistoryOptions{Dir: dir, Remote: authorized(url)}
		}, "names its objects by SHA-256", "object-format=sha1", true},
		{"a server whose repository names its objects by SHA-256", func(t *testing.T) HistoryOptions {
			dir := t.TempDir()
			runGit(t, dir, "init", "--quiet", "--template=", "--object-format=sha256", "--initial-branch=main")
			runGit(t, dir, "commit", "--quiet", "--allow-empty", "-m", "feat: x")
			runGit(t, dir, "clone", "--quiet", "--bare", dir, open.Dir("team/sha256"))
			return HistoryOptions{Branch: "main", Remote: Remote{URL: open.URL() + "/team/sha256.git"}}
		}, "names its objects by SHA-256", "object-format=sha1", true},
		{"an extension that nobody knows", func(t *testing.T) HistoryOptions {
			dir, _ := sample(t)
			runGit(t, dir, "config", "core.repositoryformatversion", "1")
			runGit(t, dir, "config", "extensions.fromTheFuture", "yes")
			return HistoryOptions{Dir: dir}
		}, "extension \"fromTheFuture\"", "SOURCE_URL", true},
		{"a work tree that was copied without its repository", func(t *testing.T) HistoryOptions {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, ".git"), []byte("gitdir: /no/such/place\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			return HistoryOptions{Dir: dir}
		}, "leads nowhere", "SOURCE_URL", true},
		{"a pack that is cut off", func(t *testing.T) HistoryOptions {
			dir := filepath.Join(t.TempDir(), "clone")
			runGit(t, origin, "clone", "--quiet", "file://"+origin, dir)
			runGit(t, dir, "remote", "remove", "origin")
			packs, _ := filepath.Glob(filepath.Join(dir, ".git", "objects", "pack", "*.pack"))
			if len(packs) != 1 || os.Chmod(packs[0], 0o644) != nil || os.Truncate(packs[0], 100) != nil {
				t.Fatalf("packs %q", packs)
			}
			return HistoryOptions{Dir: dir}
		}, "cannot be read", "SOURCE_URL", true},
		{"a port where nobody listens", func(t *testing.T) HistoryOptions {
			return HistoryOptions{Commit: head, Remote: authorized("http://127.0.0.1:1/team/app.git")}
		}, "refused", "", false},
		{"credentials inside the address", func(t *testing.T) HistoryOptions {
			return HistoryOptions{Commit: head, Remote: Remote{URL: "https://u:hunter2-canary@example.com/a"}}
		}, "credentials inside a URL", "SOURCE_URL", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, err := ReadHistory(t.Context(), tt.o(t))
			if err == nil {
				t.Fatalf("a history of %d commits", h.Graph.Len())
			}
			advised, ok := errors.AsType[interface {
				error
				Fix() string
			}](err)
			fix := ""
			if ok {
				fix = advised.Fix()
			}
			he, _ := errors.AsType[*HistoryError](err)
			if config := he != nil && he.Config; !strings.Contains(err.Error(), tt.text) || !strings.Contains(fix, tt.cure) || config != tt.config {
				t.Errorf("error %q\nfix %q\nconfig %t\nwant %q, %q, %t", err, fix, config, tt.text, tt.cure, tt.config)
			}
			if strings.Contains(fmt.Sprintf("%+v %s", err, fix), "canary") {
				t.Errorf("a credential is shown: %v", err)
			}
		})
	}
}

func TestReadingStopsWithItsContext(t *testing.T) {
	dir, _ := sample(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ReadHistory(ctx, HistoryOptions{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// fingerprint is a digest of all that lies below a folder: names, modes and contents.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	if dir == "" {
		return ""
	}
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%s %v\n", path, d.Type())
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(sum, "%d %x\n", len(b), sha256.Sum256(b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

func TestParseCommitReadsWhatGitWrites(t *testing.T) {
	a, b := strings.Repeat("aa", 20), strings.Repeat("bb", 20)
	for _, tt := range []struct {
		name, raw string
		parents   []string
		time      int64
		message   string
	}{
		{"a root", "tree " + a + "\nauthor A <a@x> 5 +0000\ncommitter C <c@x> 7 -0330\n\nfix: x\n", nil, 7, "fix: x\n"},
		{"a merge", "tree " + a + "\nparent " + a + "\nparent " + b + "\nauthor A <a@x> 5 +0000\ncommitter C <c@x> 7 +0000\n\nm", []string{a, b}, 7, "m"},
		{"a signature with blank lines in it", "tree " + a + "\nauthor A <a@x> 5 +0000\ncommitter C <c@x> 7 +0000\ngpgsig -----BEGIN\n \n parent " + b + "\n -----END\n\nm", nil, 7, "m"},
		{"a merged tag that holds headers", "tree " + a + "\nparent " + a + "\nauthor A <a@x> 5 +0000\ncommitter C <c@x> 7 +0000\nmergetag object " + b + "\n type commit\n committer X <x> 99 +0000\n\nm", []string{a}, 7, "m"},
		{"no message", "tree " + a + "\nauthor A <a@x> 5 +0000\ncommitter C <c@x> 7 +0000\n", nil, 7, ""},
		{"a message that looks like headers", "tree " + a + "\nauthor A <a@x> 5 +0000\ncommitter C <c@x> 7 +0000\n\nparent " + b + "\ncommitter C <c@x> 9 +0000\n", nil, 7, "parent " + b + "\ncommitter C <c@x> 9 +0000\n"},
		{"a name with an angle bracket", "tree " + a + "\nauthor A <a@x> 5 +0000\ncommitter C > 3 <c@x> 7 +0000\n\nm", nil, 7, "m"},
		{"a time before 1970", "tree " + a + "\nauthor A <a@x> 5 +0000\ncommitter C <c@x> -7 +0000\n\nm", nil, -7, "m"},
		{"a time that is none", "tree " + a + "\nauthor A <a@x> 5 +0000\ncommitter C <c@x> soon +0000\n\nm", nil, 0, "m"},
		{"a time beyond 64 bits", "tree " + a + "\nauthor A <a@x> 5 +0000\ncommitter C <c@x> 99999999999999999999 +0000\n\nm", nil, 0, "m"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := parseCommit([]byte(tt.raw))
			var got []string
			for _, p := range c.parents {
				got = append(got, p.String())
			}
			if diff := cmp.Diff(tt.parents, got); diff != "" || c.time != tt.time || string(c.message) != tt.message || c.tree.String() != a {
				t.Errorf("tree %s, parents %q, time %d, message %q", c.tree, got, c.time, c.message)
			}
		})
	}
}

func FuzzParseCommit(f *testing.F) {
	f.Add([]byte("tree x\nparent " + strings.Repeat("ab", 20) + "\ncommitter C <c> 7 +0000\n\nm"))
	f.Add([]byte("committer >\n\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := parseCommit(raw)
		if !bytes.HasSuffix(raw, c.message) {
			t.Errorf("%q has the message %q", raw, c.message)
		}
		for _, p := range c.parents {
			if p == (commits.ID{}) && !bytes.Contains(raw, bytes.Repeat([]byte("0"), 40)) {
				t.Errorf("%q has a parent from nowhere", raw)
			}
		}
	})
}
