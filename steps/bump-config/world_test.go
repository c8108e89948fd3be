package main

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

const someDigest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

// configRepo is a config repo on a Git server, for tests that need more than a script can say.
type configRepo struct {
	t    testing.TB
	url  string
	bare string // the server's repository
	tree string // a work tree of it
}

// newConfigRepo serves a repo with the example's files and these: name, content, name, content.
func newConfigRepo(t testing.TB, wrap func(http.Handler) http.Handler, files ...string) *configRepo {
	t.Helper()
	server, err := gitserver.Start(filepath.Join(t.TempDir(), "git"), gitserver.Options{Token: token, Wrap: wrap})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	url, err := server.Create("example/config")
	if err != nil {
		t.Fatal(err)
	}
	r := &configRepo{t: t, url: url, bare: server.Dir("example/config"), tree: filepath.Join(t.TempDir(), "tree")}
	if err := os.CopyFS(r.tree, os.DirFS(filepath.Join("..", "..", "examples", "config"))); err != nil {
		t.Fatal(err)
	}
	r.git(r.tree, "init", "--quiet", "--initial-branch=main")
	r.commit(files...)
	return r
}

func (r *configRepo) git(dir string, args ...string) string {
	r.t.Helper()
	return r.gitWith(dir, nil, args...)
}

func (r *configRepo) gitWith(dir string, stdin []byte, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin, cmd.Env = dir, bytes.NewReader(stdin), append(os.Environ(), gitEnv...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files and puts a commit of the work tree on the server's main.
func (r *configRepo) commit(files ...string) {
	r.t.Helper()
	for i := 0; i+1 < len(files); i += 2 {
		name := filepath.Join(r.tree, filepath.FromSlash(files[i]))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(files[i+1]), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	r.git(r.tree, "add", "--all")
	r.git(r.tree, "commit", "--quiet", "--allow-empty", "--message", "change")
	r.git(r.bare, "fetch", "--quiet", "--force", r.tree, "HEAD:refs/heads/main")
}

// program is the step itself, in a process of its own.
func (r *configRepo) program(env ...string) *exec.Cmd {
	r.t.Helper()
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	name := filepath.Join(r.t.TempDir(), "bump-config") // the test binary acts as the program whose name it is called by
	if err := os.Symlink(self, name); err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(name)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "CONFIG_REPO=" + r.url, "GIT_TOKEN=" + token, "IMAGE=" + image, "DIGEST=" + someDigest}, env...)
	return cmd
}

// exit runs the program and returns its exit code and all that it said on stderr.
func (r *configRepo) exit(cmd *exec.Cmd) (int, string) {
	r.t.Helper()
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), said.String()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return 0, said.String()
}

// in is what the program would be told, for a run in this process.
func (r *configRepo) in(buildTag string) In {
	in := In{
		Image: image, Mode: "version", BuildTag: buildTag, Digest: someDigest, Accounts: "accounts.yaml", AccountLabel: "account", OnUnmatched: "warn",
		Holds: "holds.yaml", DecisionsPath: "decisions", CommitAuthor: "bump-config", CommitEmail: "bump@example.com",
	}
	in.ConfigURL, in.ConfigBranch, in.ConfigPath = step.GitURL(r.url), "main", "."
	in.GitUsername, in.GitToken = "any", secret.New(token)
	return in
}

// quiet is a build that nobody reads about.
func quiet() *step.Build { return &step.Build{Log: slog.New(slog.DiscardHandler)} }
