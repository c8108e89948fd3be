// Package badrelease is a company whose newest release is bad, for the tests of rollback-version and restore-version: two releases with
// everything that can belong to an image in a registry that plays Artifact Registry, and the example's config repo with all accounts on the
// bad one. It runs the steps' programs, and kills them at each of their changing calls.
package badrelease

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/artifactregistry"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
)

// programs are built once: these tests kill them, and play the whole circle with the steps before and after.
var programs = sync.OnceValues(func() (string, error) {
	const steps = "github.com/deepdesk/cloudbuild-steps/steps/"
	dir, err := os.MkdirTemp("", "rollback-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", dir+"/", steps+"rollback-version", steps+"restore-version", steps+"bump-config").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

// servers are the same for all tests: each has repositories of its own.
var servers = sync.OnceValues(func() (*artifactregistry.Server, error) {
	return artifactregistry.Start(context.Background())
})

// Main runs the tests of a package that uses worlds, and takes away what they share.
func Main(m *testing.M) {
	code := m.Run()
	if dir, err := programs(); err == nil {
		_ = os.RemoveAll(dir)
	}
	if s, err := servers(); err == nil {
		_ = s.Close()
	}
	os.Exit(code)
}

// Token is what the config repo asks for; no program may print it.
const Token = "canary-token-77d1"

// World is a company with one service: v1.0.0 and v2.0.0 in the registry, all accounts on v2.0.0.
type World struct {
	Registry  *artifactregistry.Server
	Image     string // host/path
	Path      string // p/services/…
	Backup    string // host/path; nothing is there yet
	Old, Bad  artifactregistry.Sample
	Config    string // a work tree
	ConfigURL string
	Dir       string // programs run here

	t             *testing.T
	git           *gitserver.Server
	gitRepository string
	mu            sync.Mutex
	onGit         func(r *http.Request)
}

// New makes a world at the registry that the tests of a package share.
func New(t *testing.T) *World {
	t.Helper()
	s, err := servers()
	if err != nil {
		t.Fatal(err)
	}
	s.Intercept(nil)
	s.Immutable(false)
	return NewAt(t, s)
}

// NewAt is a world at a registry of its own, for tests that run beside others.
func NewAt(t *testing.T, s *artifactregistry.Server) *World {
	t.Helper()
	var err error
	id := strings.ToLower(t.Name())
	id = strings.NewReplacer("/", "-", "_", "-").Replace(id)
	w := &World{t: t, Registry: s, Path: "p/services/" + id + "/backend", Dir: t.TempDir()}
	w.Image, w.Backup = s.Host+"/"+w.Path, s.Host+"/p/backup/"+id
	if w.Old, err = artifactregistry.PushSample(t.Context(), w.Image, "main-0000000-1700000000", "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	if w.Bad, err = artifactregistry.PushSample(t.Context(), w.Image, "main-1111111-1700000100", "v2.0.0"); err != nil {
		t.Fatal(err)
	}
	w.startGit()
	return w
}

func (w *World) startGit() {
	var err error
	if w.git, err = gitserver.Start(filepath.Join(w.Dir, "git"), gitserver.Options{Token: Token}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = w.git.Close() })
	w.gitRepository = "example/config"
	real, err := w.git.Create(w.gitRepository)
	if err != nil {
		w.t.Fatal(err)
	}
	target, err := url.Parse(real)
	if err != nil {
		w.t.Fatal(err)
	}
	path := target.Path
	target.Path = ""
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.ErrorLog = log.New(io.Discard, "", 0) // dead clients
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		on := w.onGit
		w.mu.Unlock()
		if on != nil {
			on(r)
		}
		forward.ServeHTTP(rw, r)
	}))
	w.t.Cleanup(proxy.Close)
	w.ConfigURL = proxy.URL + path
	w.Config = filepath.Join(w.Dir, "config")
	if err := os.CopyFS(w.Config, os.DirFS(filepath.Join("..", "..", "examples", "config"))); err != nil {
		w.t.Fatal(err)
	}
	w.Edit(func(name, text string) string {
		text = strings.ReplaceAll(text, "europe-docker.pkg.dev/example-cloud/services/backend", w.Image)
		if strings.HasPrefix(name, "accounts/") {
			text = strings.ReplaceAll(text, "tag: v1.0.0", "tag: v2.0.0")
		}
		digest := w.Bad.Root
		if strings.HasPrefix(name, "staging/") {
			digest = w.Old.Root
		}
		return strings.ReplaceAll(text, "sha256:"+strings.Repeat("0", 64), digest)
	})
	w.Git("init", "--quiet", "--initial-branch=main")
	w.Git("remote", "add", "origin", w.git.Dir(w.gitRepository))
	w.Push()
}

// Edit changes the files of the work tree.
func (w *World) Edit(f func(name, text string) string) {
	w.t.Helper()
	err := filepath.WalkDir(w.Config, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, "/.git/") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(w.Config, path)
		if err != nil {
			return err
		}
		if text := f(name, string(raw)); text != string(raw) {
			return os.WriteFile(path, []byte(text), 0o644)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// Git runs git in the work tree, as Ada.
func (w *World) Git(args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = w.Config
	cmd.Env = append(os.Environ(), gitserver.Author("Ada")...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return string(out)
}

// Push commits the work tree and pushes it.
func (w *World) Push() {
	w.t.Helper()
	w.Git("add", "--all")
	w.Git("commit", "--quiet", "--allow-empty", "--message", "by hand")
	w.Git("push", "--quiet", "--set-upstream", "origin", "main")
}

// File is a file of the config repo as it is on the server.
func (w *World) File(name string) string {
	w.t.Helper()
	w.Git("fetch", "--quiet", "origin")
	if !strings.Contains(w.Git("ls-tree", "--name-only", "-r", "origin/main"), name+"\n") {
		return ""
	}
	return w.Git("show", "origin/main:"+name)
}

// Holds counts the holds of v2.0.0 on the server. It is asked after every death, so it is one process.
func (w *World) Holds() int {
	w.t.Helper()
	raw, err := exec.Command("git", "--git-dir", w.git.Dir(w.gitRepository), "grep", "-h", "version: v2.0.0", "main", "--", "holds.yaml").Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 1) { // 1: there is none
		w.t.Fatalf("reading the holds: %v", err)
	}
	return bytes.Count(raw, []byte("\n"))
}

// On lists the tags that the accounts are on, each once.
func (w *World) On() string {
	w.t.Helper()
	var tags []string
	for _, account := range []string{"orchid", "willow", "maple", "cedar", "birch"} {
		for line := range strings.Lines(w.File("accounts/" + account + "/backend.yaml")) {
			if tag, ok := strings.CutPrefix(strings.TrimSpace(line), "tag: "); ok {
				tag, _, _ = strings.Cut(tag, " ")
				tags = append(tags, tag)
			}
		}
	}
	if len(tags) != 5 {
		w.t.Errorf("%d tags in five accounts", len(tags))
	}
	slices.Sort(tags)
	return strings.Join(slices.Compact(tags), ",")
}

// Result is how a program ended.
type Result struct {
	Code           int
	Stdout, Stderr string
	Out            map[string]any // what it handed over
}

// command makes a program that has this environment and nothing else.
func (w *World) command(program string, env ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	w.t.Helper()
	dir, err := programs()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, program))
	cmd.Dir = w.Dir
	cmd.Env = append([]string{
		"HOME=" + w.Dir, "TMPDIR=" + w.Dir, "HANDOVER_DIR=" + filepath.Join(w.Dir, ".release"), "IMAGE=" + w.Image, "VERSION=v2.0.0",
		"CONFIG_REPO=" + w.ConfigURL, "GIT_TOKEN=" + Token, "REASON=charges twice", "WHO=ada@example.com", "BACKUP=" + w.Backup,
		"ARTIFACT_REGISTRY_ENDPOINT=" + w.Registry.Endpoint,
	}, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	return cmd, &stdout, &stderr
}

// Run runs a program with this environment and nothing else.
func (w *World) Run(program string, env ...string) Result {
	w.t.Helper()
	cmd, stdout, stderr := w.command(program, env...)
	err := cmd.Run()
	exit, failed := errors.AsType[*exec.ExitError](err)
	if err != nil && !failed {
		w.t.Fatal(err)
	}
	r := Result{Stdout: strings.TrimSpace(stdout.String()), Stderr: stderr.String()}
	if failed {
		r.Code = exit.ExitCode()
	}
	if raw, err := os.ReadFile(filepath.Join(w.Dir, ".release", program+".json")); err == nil {
		if err := json.Unmarshal(raw, &r.Out); err != nil {
			w.t.Fatal(err)
		}
	}
	if strings.Contains(r.Stderr, Token) {
		w.t.Error("the token is printed")
	}
	return r
}

// Want runs a program and checks its exit code.
func (w *World) Want(code int, program string, env ...string) Result {
	w.t.Helper()
	r := w.Run(program, env...)
	if r.Code != code {
		w.t.Fatalf("%s %v: exit code %d, want %d:\n%s", program, env, r.Code, code, r.Stderr)
	}
	return r
}

// Versions lists the digests that the registry has of the image.
func (w *World) Versions() []string { return w.Registry.Versions(w.t.Context(), w.Path) }

// Has fails unless the registry has all of a sample, or nothing of it.
func (w *World) Has(s artifactregistry.Sample, all bool) {
	w.t.Helper()
	have := w.Versions()
	for _, d := range s.All() {
		if slices.Contains(have, d) != all {
			w.t.Errorf("%s is there: %v, want %v", d, !all, all)
		}
	}
}

// Size is the size of a manifest, in bytes.
func (w *World) Size(digest string) int64 {
	w.t.Helper()
	req, err := http.NewRequest(http.MethodHead, "http://"+w.Registry.Host+"/v2/"+w.Path+"/manifests/"+digest, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.ContentLength
}

// uploadPath is the part of an upload's address that is different each time.
var uploadPath = regexp.MustCompile(`uploads/[0-9a-f-]{36}`)

// call names a request that changes something; "" for others.
func call(r *http.Request) string {
	git := strings.HasSuffix(r.URL.Path, "/git-receive-pack") || strings.HasSuffix(r.URL.Path, "/git-upload-pack")
	if r.Method == http.MethodGet || r.Method == http.MethodHead || git && !strings.HasSuffix(r.URL.Path, "/git-receive-pack") {
		return ""
	}
	query := r.URL.Query()
	query.Del("_state")
	return r.Method + " " + uploadPath.ReplaceAllString(r.URL.Path, "uploads/ID") + "?" + query.Encode()
}

// Killing runs a program again and again. Each changing call that it makes for the first time is its death, by SIGKILL, before the call or
// after it, until it ends by itself. between is checked after every death. It returns the calls.
func (w *World) Killing(after bool, between func(), program string, env ...string) []string {
	w.t.Helper()
	var deaths []string
	for {
		cmd, _, stderr := w.command(program, env...)
		var mu sync.Mutex
		dead := false
		hit := func(r *http.Request) {
			key := call(r)
			mu.Lock()
			defer mu.Unlock()
			if key == "" || dead || slices.Contains(deaths, key) {
				return
			}
			dead = true
			deaths = append(deaths, key)
			if after {
				time.AfterFunc(20*time.Millisecond, func() { _ = cmd.Process.Kill() })
				return
			}
			_ = cmd.Process.Kill()
			panic(http.ErrAbortHandler)
		}
		w.Registry.Intercept(func(_ http.ResponseWriter, r *http.Request) bool { hit(r); return false })
		w.mu.Lock()
		w.onGit = hit
		w.mu.Unlock()
		if err := cmd.Start(); err != nil {
			w.t.Fatal(err)
		}
		err := cmd.Wait()
		w.Registry.Intercept(nil)
		w.mu.Lock()
		w.onGit = nil
		w.mu.Unlock()
		between()
		mu.Lock()
		died := dead
		mu.Unlock()
		if !died {
			if err != nil {
				w.t.Fatalf("%s after %d deaths: %v: %s", program, len(deaths), err, stderr)
			}
			w.t.Logf("%s: %d deaths", program, len(deaths))
			return deaths
		}
	}
}
