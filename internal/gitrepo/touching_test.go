package gitrepo

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
)

// monorepo makes a repository with two components and returns its folder. Each commit's subject says what it touches.
func monorepo(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	git := func(args ...string) string { return runGit(t, dir, args...) }
	commit := func(subject string, files ...string) {
		for _, f := range files {
			path := filepath.Join(dir, filepath.FromSlash(f))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(subject), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		git("add", "--all")
		git("commit", "--quiet", "--allow-empty", "-m", subject)
	}
	git("init", "--quiet", "--template=", "--initial-branch=main")
	commit("an empty root")
	commit("backend", "backend/main.go")
	commit("frontend", "frontend/app/index.js")
	commit("backend-tools, which only begins alike", "backend-tools/x")
	commit("go.mod", "go.mod")
	git("checkout", "--quiet", "-b", "side")
	commit("backend on a side branch", "backend/side.go")
	git("checkout", "--quiet", "main")
	commit("frontend on main", "frontend/app/more.js")
	git("merge", "--quiet", "--no-ff", "-m", "merge", "side")
	git("rm", "--quiet", "-r", "backend")
	commit("backend is gone")
	commit("backend is a file", "backend")
	commit("nothing")
	return dir
}

func TestTouchingFindsTheCommitsOfAComponent(t *testing.T) {
	dir := monorepo(t)
	s, err := gitserver.Start(t.TempDir(), gitserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	url, err := s.Create("team/mono")
	if err != nil {
		t.Fatal(err)
	}
	runGit(t, dir, "push", "--quiet", s.Dir("team/mono"), "main")
	for source, o := range map[string]HistoryOptions{
		"a checkout":                     {Dir: dir, Folders: true},
		"a fetch":                        {Branch: "main", Remote: Remote{URL: url}, Folders: true},
		"a checkout without folders":     {Dir: treeless(t, dir), Branch: "main", Remote: Remote{URL: url}, Folders: true},
		"a fetch that cannot be partial": {Branch: "main", Remote: Remote{URL: url}, Folders: true},
	} {
		if source == "a fetch that cannot be partial" {
			runGit(t, s.Dir("team/mono"), "config", "uploadpack.allowFilter", "false")
		} else {
			runGit(t, s.Dir("team/mono"), "config", "uploadpack.allowFilter", "true")
		}
		h, err := ReadHistory(t.Context(), o)
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		for _, tt := range []struct {
			paths, want []string
		}{
			{[]string{"backend"}, []string{"backend is a file", "backend is gone", "backend on a side branch", "backend"}},
			{[]string{"frontend"}, []string{"frontend on main", "frontend"}},
			{[]string{"frontend/app/more.js"}, []string{"frontend on main"}},
			{[]string{"frontend", "go.mod"}, []string{"frontend on main", "go.mod", "frontend"}},
			{[]string{"go.mod/nothing", "no/such/folder"}, nil},
		} {
			ids, err := h.Touching(h.Graph.Range(h.Head), tt.paths)
			if err != nil {
				t.Fatal(err)
			}
			messages, err := h.Messages(ids)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range messages {
				got = append(got, m[:len(m)-1])
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s, %q: %s", source, tt.paths, diff)
			}
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
}

func treeless(t *testing.T, origin string) string {
	t.Helper()
	runGit(t, origin, "config", "uploadpack.allowFilter", "true")
	dir := filepath.Join(t.TempDir(), "clone")
	runGit(t, origin, "clone", "--quiet", "--filter=tree:0", "--no-checkout", "file://"+origin, dir)
	return dir
}

func FuzzFindEntry(f *testing.F) {
	f.Add([]byte("40000 a\x00aaaaaaaaaaaaaaaaaaaa"), "a")
	f.Fuzz(func(_ *testing.T, raw []byte, name string) { findEntry(raw, name) })
}
