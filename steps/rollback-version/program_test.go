package main

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

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/artifactregistry"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/ociregistry"
)

// programs are built once: these tests kill them, and play the whole circle with the steps before and after.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "rollback-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", dir+"/", "../rollback-version", "../restore-version", "../bump-config").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

// servers are the same for all tests: each has repositories of its own.
var servers = sync.OnceValues(func() (*artifactregistry.Server, error) {
	return artifactregistry.Start(context.Background())
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := programs(); err == nil {
		_ = os.RemoveAll(dir)
	}
	if s, err := servers(); err == nil {
		_ = s.Close()
	}
	os.Exit(code)
}

const token = "canary-token-77d1"

// world is a company with one service: v1.0.0 and v2.0.0 in the registry, all accounts on v2.0.0.
type world struct {
	t             *testing.T
	registry      *artifactregistry.Server
	image         string // host/path
	path          string // p/services/…
	backup        string
	old, bad      artifactregistry.Sample
	config        string // a work tree
	configURL     string
	git           *gitserver.Server
	gitRepository string

	mu    sync.Mutex
	onGit func(r *http.Request)
	dir   string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := servers()
	if err != nil {
		t.Fatal(err)
	}
	s.Intercept(nil)
	s.Immutable(false)
	return newWorldAt(t, s)
}

// newWorldAt is a world at a registry of its own, for tests that run beside others.
func newWorldAt(t *testing.T, s *artifactregistry.Server) *world {
	t.Helper()
	var err error
	id := strings.ToLower(t.Name())
	id = strings.NewReplacer("/", "-", "_", "-").Replace(id)
	w := &world{t: t, registry: s, path: "p/services/" + id + "/backend", dir: t.TempDir()}
	w.image, w.backup = s.Host+"/"+w.path, s.Host+"/p/backup/"+id
	if w.old, err = artifactregistry.PushSample(t.Context(), w.image, "main-0000000-1700000000", "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	if w.bad, err = artifactregistry.PushSample(t.Context(), w.image, "main-1111111-1700000100", "v2.0.0"); err != nil {
		t.Fatal(err)
	}
	w.startGit()
	return w
}

func (w *world) startGit() {
	var err error
	if w.git, err = gitserver.Start(filepath.Join(w.dir, "git"), gitserver.Options{Token: token}); err != nil {
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
	w.configURL = proxy.URL + path
	w.config = filepath.Join(w.dir, "config")
	if err := os.CopyFS(w.config, os.DirFS(filepath.Join("..", "..", "examples", "config"))); err != nil {
		w.t.Fatal(err)
	}
	w.edit(func(name, text string) string {
		text = strings.ReplaceAll(text, "europe-docker.pkg.dev/example-cloud/services/backend", w.image)
		if strings.HasPrefix(name, "accounts/") {
			text = strings.ReplaceAll(text, "tag: v1.0.0", "tag: v2.0.0")
		}
		digest := w.bad.Root
		if strings.HasPrefix(name, "staging/") {
			digest = w.old.Root
		}
		return strings.ReplaceAll(text, "sha256:"+strings.Repeat("0", 64), digest)
	})
	w.gitRun("init", "--quiet", "--initial-branch=main")
	w.gitRun("remote", "add", "origin", w.git.Dir(w.gitRepository))
	w.push()
}

// edit changes the files of the work tree.
func (w *world) edit(f func(name, text string) string) {
	w.t.Helper()
	err := filepath.WalkDir(w.config, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, "/.git/") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(w.config, path)
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

func (w *world) gitRun(args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = w.config
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com",
		"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return string(out)
}

func (w *world) push() {
	w.t.Helper()
	w.gitRun("add", "--all")
	w.gitRun("commit", "--quiet", "--allow-empty", "--message", "by hand")
	w.gitRun("push", "--quiet", "--set-upstream", "origin", "main")
}

// file is a file of the config repo as it is on the server.
func (w *world) file(name string) string {
	w.t.Helper()
	w.gitRun("fetch", "--quiet", "origin")
	if !strings.Contains(w.gitRun("ls-tree", "--name-only", "-r", "origin/main"), name+"\n") {
		return ""
	}
	return w.gitRun("show", "origin/main:"+name)
}

// holds counts the holds of v2.0.0 on the server. It is asked after every death, so it is one process.
func (w *world) holds() int {
	w.t.Helper()
	raw, err := exec.Command("git", "--git-dir", w.git.Dir(w.gitRepository), "grep", "-h", "version: v2.0.0", "main", "--", "holds.yaml").Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 1) { // 1: there is none
		w.t.Fatalf("reading the holds: %v", err)
	}
	return bytes.Count(raw, []byte("\n"))
}

// on lists the tags that the accounts are on, each once.
func (w *world) on() string {
	w.t.Helper()
	var tags []string
	for _, account := range []string{"orchid", "willow", "maple", "cedar", "birch"} {
		for line := range strings.Lines(w.file("accounts/" + account + "/backend.yaml")) {
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

type result struct {
	code           int
	stdout, stderr string
	out            map[string]any
}

// start runs a program with this environment and nothing else.
func (w *world) command(program string, env ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	w.t.Helper()
	dir, err := programs()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, program))
	cmd.Dir = w.dir
	cmd.Env = append([]string{
		"HOME=" + w.dir, "TMPDIR=" + w.dir, "HANDOVER_DIR=" + filepath.Join(w.dir, ".release"), "IMAGE=" + w.image, "VERSION=v2.0.0",
		"CONFIG_REPO=" + w.configURL, "GIT_TOKEN=" + token, "REASON=charges twice", "WHO=ada@example.com", "BACKUP=" + w.backup,
		"ARTIFACT_REGISTRY_ENDPOINT=" + w.registry.Endpoint,
	}, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	return cmd, &stdout, &stderr
}

func (w *world) run(program string, env ...string) result {
	w.t.Helper()
	cmd, stdout, stderr := w.command(program, env...)
	err := cmd.Run()
	exit, failed := errors.AsType[*exec.ExitError](err)
	if err != nil && !failed {
		w.t.Fatal(err)
	}
	r := result{stdout: strings.TrimSpace(stdout.String()), stderr: stderr.String()}
	if failed {
		r.code = exit.ExitCode()
	}
	if raw, err := os.ReadFile(filepath.Join(w.dir, ".release", program+".json")); err == nil {
		if err := json.Unmarshal(raw, &r.out); err != nil {
			w.t.Fatal(err)
		}
	}
	if strings.Contains(r.stderr, token) {
		w.t.Error("the token is printed")
	}
	return r
}

// want runs a program and checks its exit code.
func (w *world) want(code int, program string, env ...string) result {
	w.t.Helper()
	r := w.run(program, env...)
	if r.code != code {
		w.t.Fatalf("%s %v: exit code %d, want %d:\n%s", program, env, r.code, code, r.stderr)
	}
	return r
}

func (w *world) versions() []string { return w.registry.Versions(w.t.Context(), w.path) }

// has fails unless the registry has all of a sample, or nothing of it.
func (w *world) has(s artifactregistry.Sample, all bool) {
	w.t.Helper()
	have := w.versions()
	for _, d := range s.All() {
		if slices.Contains(have, d) != all {
			w.t.Errorf("%s is there: %v, want %v", d, !all, all)
		}
	}
}

func TestTheFullCircle(t *testing.T) {
	w := newWorld(t)
	r := w.want(0, "rollback-version")
	if r.stdout != "v1.0.0" || w.on() != "v1.0.0" {
		t.Fatalf("live: %q, accounts on %s\n%s", r.stdout, w.on(), r.stderr)
	}
	if !strings.Contains(w.file("holds.yaml"), "charges twice") || r.out["backup"] != w.backup || r.out["backup_bytes"] == 0.0 {
		t.Errorf("hold %q, out %v", w.file("holds.yaml"), r.out)
	}
	if !strings.Contains(w.file("accounts/maple/backend.yaml"), w.old.Root) {
		t.Error("the digest did not go back")
	}
	for range 2 { // automation runs and does not undo it
		if r := w.run("bump-config", "DIGEST="+w.bad.Root); r.code != 3 || w.on() != "v1.0.0" {
			t.Fatalf("bump-config ended with %d, accounts on %s: %s", r.code, w.on(), r.stderr)
		}
	}
	w.want(0, "rollback-version") // again: nothing to do

	r = w.want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	w.has(w.bad, false)
	w.has(w.old, true)
	if r.out["tombstone"] != "deleted-v2.0.0" || r.stdout != "v1.0.0" {
		t.Errorf("%v", r.out)
	}
	w.want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	if err := w.registry.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}

	if r = w.want(0, "restore-version", "DRY_RUN=true"); !strings.Contains(r.stderr, "would restore") || !strings.Contains(w.file("holds.yaml"), "v2.0.0") {
		t.Errorf("the plan: %s", r.stderr)
	}
	w.has(w.bad, false)
	r = w.want(0, "restore-version")
	if r.out["digest"] != w.bad.Root || strings.Contains(w.file("holds.yaml"), "v2.0.0") {
		t.Errorf("%v; holds: %s", r.out, w.file("holds.yaml"))
	}
	w.has(w.bad, true)
	w.want(0, "restore-version")
	w.want(0, "bump-config", "DIGEST="+w.bad.Root)
	if w.on() != "v2.0.0" {
		t.Errorf("accounts on %s", w.on())
	}
}

func TestOnlyTheTagGoesWhenOtherTagsAreOnTheImage(t *testing.T) {
	w := newWorld(t)
	w.want(0, "rollback-version")
	r := w.want(0, "rollback-version", "STAGE=delete")
	w.has(w.bad, true)
	deleted := r.out["deleted"].(map[string]any)
	if fmt.Sprint(deleted["tags"]) != "[v2.0.0]" || fmt.Sprint(deleted["versions"]) != "[]" || fmt.Sprint(r.out["tags"]) != "[main-1111111-1700000100]" {
		t.Errorf("%v", r.out)
	}
	// Without a backup, as the image is still there.
	r = w.want(0, "restore-version", "BACKUP=")
	if r.out["digest"] != w.bad.Root {
		t.Errorf("%v", r.out)
	}
}

func TestALayoutInAFolderIsABackupToo(t *testing.T) {
	w := newWorld(t)
	folder := "BACKUP=" + filepath.Join(w.dir, "kept")
	w.want(0, "rollback-version", folder)
	w.want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true", folder)
	w.has(w.bad, false)
	if err := w.registry.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.want(0, "restore-version", folder)
	w.has(w.bad, true)
}

// Without Artifact Registry's API: deletions by the registry protocol, at a registry that allows them.
func TestAPlainRegistryLosesTheImageAndGetsItBack(t *testing.T) {
	registry, err := ociregistry.Start(t.Context(), ociregistry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Close() })
	w := newWorld(t)
	image := registry.Host + "/services/backend"
	if _, err := artifactregistry.PushSample(t.Context(), image, "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	bad, err := artifactregistry.PushSample(t.Context(), image, "v2.0.0", "main-1111111-1700000100")
	if err != nil {
		t.Fatal(err)
	}
	w.edit(func(_, text string) string {
		return strings.ReplaceAll(strings.ReplaceAll(text, w.image, image), w.bad.Root, bad.Root)
	})
	w.push()
	there := func() (n int) {
		for _, digest := range bad.All() {
			ref, err := name.NewDigest(image + "@" + digest)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := remote.Head(ref); err == nil {
				n++
			}
		}
		return n
	}
	here := []string{"IMAGE=" + image, "ARTIFACT_REGISTRY_ENDPOINT=", "BACKUP=" + registry.Host + "/backup/backend"}
	w.want(0, "rollback-version", here...)
	if w.on() != "v1.0.0" {
		t.Errorf("accounts on %s", w.on())
	}
	w.want(0, "rollback-version", append(here, "STAGE=delete", "FORCE_DIGEST=true")...)
	if n := there(); n != 0 {
		t.Errorf("%d manifests are left", n)
	}
	w.want(0, "restore-version", here...)
	if n := there(); n != len(bad.All()) {
		t.Errorf("%d manifests are back, of %d", n, len(bad.All()))
	}
}

func TestWhatAnotherIndexListsStays(t *testing.T) {
	w := newWorld(t)
	child := w.bad.Children[0]
	raw := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":%d,"digest":"%s"}]}`,
		w.size(child), child)
	req, err := http.NewRequest(http.MethodPut, "http://"+w.registry.Host+"/v2/"+w.path+"/manifests/other", strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status)
	}
	w.want(0, "rollback-version")
	r := w.want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	have := w.versions()
	if !slices.Contains(have, child) || slices.Contains(have, w.bad.Root) || slices.Contains(have, w.bad.Children[1]) {
		t.Errorf("left: %v\n%s", have, r.stderr)
	}
	if len(r.out["indexes"].([]any)) != 1 {
		t.Errorf("%v", r.out["indexes"])
	}
}

func (w *world) size(digest string) int64 {
	w.t.Helper()
	req, err := http.NewRequest(http.MethodHead, "http://"+w.registry.Host+"/v2/"+w.path+"/manifests/"+digest, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.ContentLength
}

// Every refusal says what to do, and changes nothing.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	before, head := w.versions(), w.gitRun("rev-parse", "HEAD")
	refused := func(code int, text, fix, program string, env ...string) {
		t.Helper()
		r := w.want(code, program, env...)
		if !strings.Contains(r.stderr, text) || !strings.Contains(r.stderr, ": fix: ") || !strings.Contains(r.stderr, fix) {
			t.Errorf("%v: want %q and the advice %q:\n%s", env, text, fix, r.stderr)
		}
	}
	refused(3, "still name the image", "STAGE=return", "rollback-version", "STAGE=delete")
	refused(3, "no tag v9.9.9", "VERSION", "rollback-version", "VERSION=v9.9.9")
	refused(2, "PREVIOUS", "", "rollback-version", "PREVIOUS=v3.0.0")
	refused(2, "BACKUP", "", "rollback-version", "BACKUP="+w.image)
	refused(2, "REASON", "", "rollback-version", "REASON=")
	refused(3, "nothing remembers", "VERSION", "restore-version", "VERSION=v9.9.9", "BACKUP=")
	refused(3, "not certain which image", "DIGEST", "restore-version", "DIGEST=sha256:"+strings.Repeat("a", 64))
	if r := w.want(0, "rollback-version", "DRY_RUN=true"); !strings.Contains(r.stderr, "v2.0.0 -> v1.0.0") || !strings.Contains(r.stderr, "would back up") {
		t.Errorf("the plan: %s", r.stderr)
	}
	w.gitRun("fetch", "--quiet", "origin")
	if !slices.Equal(w.versions(), before) || w.gitRun("rev-parse", "origin/main") != head {
		t.Error("something was changed")
	}

	w.want(0, "rollback-version", "BACKUP=")
	refused(3, "no backup", "BACKUP", "rollback-version", "STAGE=delete", "FORCE_DIGEST=true", "BACKUP=")
	w.registry.Immutable(true)
	r := w.want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	if !strings.Contains(r.stderr, "immutable") || !slices.Equal(w.versions(), before) {
		t.Errorf("immutable: %s", r.stderr)
	}
	w.registry.Immutable(false)
	w.registry.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodDelete {
			return false
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusForbidden)
		_, _ = rw.Write([]byte(`{"error":{"code":403,"status":"PERMISSION_DENIED","message":"Permission denied"}}`))
		return true
	})
	refused(1, "artifactregistry.tags.delete", "approves releases", "rollback-version", "STAGE=delete")
}

// A place without a marker cannot be edited: the rest goes back, and the build fails so that somebody looks.
func TestWhatCannotBeEditedIsNamedAndKeepsTheImage(t *testing.T) {
	w := newWorld(t)
	if err := os.WriteFile(filepath.Join(w.config, "job.yaml"), []byte("image: "+w.image+":v2.0.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.push()
	r := w.want(1, "rollback-version")
	if w.on() != "v1.0.0" || !strings.Contains(r.stderr, "job.yaml:1") || r.out["status"] != "failed" {
		t.Errorf("accounts on %s: %s", w.on(), r.stderr)
	}
	w.want(3, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	w.has(w.bad, true)
	w.want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true", "FORCE=true")
	w.has(w.bad, false)
}

func TestNoAccountReturnsToACandidateOrAHeldVersionUnlessItMay(t *testing.T) {
	w := newWorld(t)
	if _, err := artifactregistry.PushSample(t.Context(), w.image, "v2.0.0-rc.1"); err != nil {
		t.Fatal(err)
	}
	w.want(0, "rollback-version")
	uat, production := w.file("accounts/orchid/backend.yaml"), w.file("accounts/maple/backend.yaml")
	if !strings.Contains(uat, "tag: v2.0.0-rc.1 ") || !strings.Contains(production, "tag: v1.0.0 ") {
		t.Errorf("UAT: %s\nproduction: %s", uat, production)
	}
}

// A repo that says by its folders whose a file is, and whose branch takes signed commits only.
func TestFoldersSayWhoseAFileIsAndCommitsAreSigned(t *testing.T) {
	w := newWorld(t)
	if _, err := artifactregistry.PushSample(t.Context(), w.image, "v2.0.0-rc.1"); err != nil {
		t.Fatal(err)
	}
	w.edit(func(name, text string) string {
		account := filepath.Base(filepath.Dir(name))
		return strings.ReplaceAll(text, "account: "+account, "team: payments")
	})
	w.push()
	key := filepath.Join(w.dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	private, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "signers"), append([]byte("robot@example.com "), public...), 0o644); err != nil {
		t.Fatal(err)
	}
	signed := func() {
		t.Helper()
		w.gitRun("fetch", "--quiet", "origin")
		w.gitRun("-c", "gpg.format=ssh", "-c", "gpg.ssh.allowedSignersFile="+filepath.Join(w.dir, "signers"), "verify-commit", "origin/main")
	}
	env := []string{"ACCOUNT_PATH=accounts/{account}/", "SIGNING_KEY=" + string(private), "COMMIT_EMAIL=robot@example.com"}
	w.want(0, "rollback-version", env...)
	uat, production := w.file("accounts/orchid/backend.yaml"), w.file("accounts/maple/backend.yaml")
	if !strings.Contains(uat, "tag: v2.0.0-rc.1 ") || !strings.Contains(production, "tag: v1.0.0 ") {
		t.Errorf("UAT: %s\nproduction: %s", uat, production)
	}
	signed()
	w.want(0, "restore-version", env[1:]...)
	if w.holds() != 0 {
		t.Error("it is still held")
	}
	signed()
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

// killing runs a program again and again. Each changing call that it makes for the first time is its death, by SIGKILL, before the call or
// after it, until it ends by itself. between is checked after every death. It returns the calls.
func (w *world) killing(after bool, between func(), program string, env ...string) []string {
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
		w.registry.Intercept(func(_ http.ResponseWriter, r *http.Request) bool { hit(r); return false })
		w.mu.Lock()
		w.onGit = hit
		w.mu.Unlock()
		if err := cmd.Start(); err != nil {
			w.t.Fatal(err)
		}
		err := cmd.Wait()
		w.registry.Intercept(nil)
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

func TestKilledAtEveryChangingCallItEndsInThePlannedState(t *testing.T) {
	for name, after := range map[string]bool{"before the call": false, "after the call": true} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			s, err := artifactregistry.Start(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			w := newWorldAt(t, s)
			backupPath := strings.TrimPrefix(w.backup, w.registry.Host+"/")
			sound := func() {
				t.Helper()
				if n := w.holds(); n > 1 {
					t.Errorf("%d holds", n)
				}
				have := w.versions()
				if slices.ContainsFunc(w.bad.All(), func(d string) bool { return !slices.Contains(have, d) }) {
					have = append(have, w.registry.Versions(t.Context(), backupPath)...)
				}
				for _, d := range w.bad.All() {
					if !slices.Contains(have, d) {
						t.Errorf("%s is gone, and not in the backup", d)
					}
				}
			}
			w.killing(after, sound, "rollback-version")
			if w.on() != "v1.0.0" {
				t.Errorf("accounts on %s", w.on())
			}
			deaths := w.killing(after, sound, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
			n := len(slices.DeleteFunc(deaths, func(key string) bool { return !strings.HasPrefix(key, "DELETE") }))
			if want := len(w.bad.All()) + len(w.bad.Tags) + 2; !after && n < want { // every manifest, the attachments' tags, and two of its own
				t.Errorf("%d deaths at deletions, want %d", n, want)
			}
			w.has(w.bad, false)
			w.has(w.old, true)
			if err := w.registry.CollectGarbage(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.killing(after, sound, "restore-version")
			w.has(w.bad, true)
			if strings.Contains(w.file("holds.yaml"), "v2.0.0") {
				t.Error("it is still held")
			}
			w.want(0, "bump-config", "DIGEST="+w.bad.Root)
			if w.on() != "v2.0.0" {
				t.Errorf("accounts on %s", w.on())
			}
		})
	}
}
