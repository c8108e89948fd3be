package gitrepo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

const repoName = "example/config"

// world is a Git server with one repository, and a work tree from which a test fills it.
type world struct {
	t      *testing.T
	server *gitserver.Server
	remote Remote
	tree   string
}

func newWorld(t *testing.T, options gitserver.Options) *world {
	t.Helper()
	server, err := gitserver.Start(filepath.Join(t.TempDir(), "git"), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	url, err := server.Create(repoName)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, server: server, tree: filepath.Join(t.TempDir(), "tree"), remote: Remote{URL: url, Username: "any", Token: secret.New(options.Token)}}
	w.git("", "init", "--quiet", "--initial-branch=main", w.tree)
	return w
}

// git runs the git command line, without this machine's settings: in the work tree, or in dir.
func (w *world) git(dir string, args ...string) string {
	w.t.Helper()
	return w.gitWith(dir, "", args...)
}

func (w *world) gitWith(dir, stdin string, args ...string) string {
	w.t.Helper()
	if dir == "" && args[0] != "init" {
		dir = w.tree
	}
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(append(os.Environ(), "GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000"), gitserver.Author("Ada")...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// bare runs git in the server's repository.
func (w *world) bare(args ...string) string {
	w.t.Helper()
	return w.git(w.server.Dir(repoName), args...)
}

// write puts files into the work tree: name, content, name, content.
func (w *world) write(files ...string) {
	w.t.Helper()
	for i := 0; i < len(files); i += 2 {
		name := filepath.Join(w.tree, filepath.FromSlash(files[i]))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(files[i+1]), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

// commit writes files, commits all that is in the work tree, and puts the commit on a branch of the server. It returns the commit's id.
func (w *world) commit(branch string, files ...string) string {
	w.t.Helper()
	w.write(files...)
	w.git("", "add", "--all")
	w.git("", "commit", "--quiet", "--allow-empty", "--message", "change")
	return w.publish(branch)
}

// publish puts the work tree's commit on a branch of the server, without a network.
func (w *world) publish(branch string) string {
	w.t.Helper()
	id := w.git("", "rev-parse", "HEAD")
	w.bare("fetch", "--quiet", "--force", w.tree, "HEAD:refs/heads/"+branch)
	return id
}

// object stores an object in the server's repository, without the checks that git makes otherwise.
func (w *world) object(kind, content string) string {
	w.t.Helper()
	return w.gitWith(w.server.Dir(repoName), content, "hash-object", "--literally", "-t", kind, "-w", "--stdin")
}

// commitTree makes a commit of a tree that is in the server's repository already, and puts it on a branch.
func (w *world) commitTree(branch, tree string) string {
	w.t.Helper()
	id := w.bare("commit-tree", tree, "-m", "hostile")
	w.bare("update-ref", "refs/heads/"+branch, id)
	return id
}
