// Package gitserver serves bare Git repositories over HTTP on loopback, as a hosting service such as GitHub would.
//
// It exists because the steps must be tried against the protocol that real hosts speak: smart HTTP, shallow and filtered fetches, object
// checks on receipt, authentication, two writers racing for one branch. It also tells its owner about every push, which is how the
// rehearsal plays Cloud Build's triggers. The rehearsal and the tests of internal/gitrepo and of the steps use it.
//
// Real here: all of Git. Each request is answered by this machine's own git through git http-backend. Not real: everything a hosting
// service adds, such as pull requests, branch protection, permissions per user and webhooks. There is one token, good for all
// repositories, and where Options.OnPush is set, pushes to one repository are taken one after the other.
package gitserver

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// maxPack bounds the body of one push, in bytes. It is held in memory; the repositories of a rehearsal are small.
const maxPack = 256 << 20

// Options change how a Server behaves. The zero value serves everybody and reports nothing.
type Options struct {
	// Token, when set, is the password that every request must carry in HTTP basic authentication, with any user name, as GitHub's
	// and GitLab's access tokens work. Requests without it are answered with 401.
	Token string

	// OnPush, when set, is told about each push that changed a ref. It runs in one goroutine of the server, in the order in which the
	// pushes were taken, and may take its time: pushes never wait for it. Close does.
	OnPush func(Push)

	// OnRequest, when set, sees each request before anything else does, including those that will be refused. It is called from many
	// goroutines at once. A test that wants the connection to break here panics with http.ErrAbortHandler.
	OnRequest func(*http.Request)

	// Wrap, when set, is put around the whole server, for tests that answer in its place, or lose its answers.
	Wrap func(http.Handler) http.Handler

	// Log, when set, receives what git prints to its stderr and what went wrong in the server.
	Log io.Writer
}

// Push is what one git push changed.
type Push struct {
	Repo    string      // owner/name, without .git
	Updates []RefUpdate // sorted by ref, at least one
}

// RefUpdate is the change of one ref. Old and New are full object ids in hexadecimal.
type RefUpdate struct {
	Ref string // the full name, such as refs/heads/main or refs/tags/v1.0.0
	Old string // empty when the push created the ref
	New string // empty when the push deleted the ref
}

// Server is a running Git server. Its methods may be called from several goroutines.
type Server struct {
	root    string
	url     string
	options Options
	backend cgi.Handler
	http    *http.Server
	events  *queue

	running sync.RWMutex // held for reading by each request, for writing by Close
	closed  bool

	mu    sync.Mutex
	locks map[string]*sync.Mutex // by repository
}

// Start serves the repositories below the folder root, each at root/owner/name.git, on a free loopback port until Close. It needs git with
// its http-backend, which Debian's git package and Apple's and Homebrew's git contain.
func Start(root string, options Options) (*Server, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("resolving the folder of the repositories: %w", err)
	}
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return nil, fmt.Errorf("looking for git's programs with git --exec-path: %w", err)
	}
	backend := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		return nil, fmt.Errorf("looking for git http-backend, which serves repositories: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening on loopback: %w", err)
	}

	if options.Log == nil {
		options.Log = io.Discard
	}
	s := &Server{
		root:    root,
		url:     "http://" + listener.Addr().String(),
		options: options,
		backend: cgi.Handler{
			Path:   backend,
			Root:   "/",
			Dir:    root,
			Env:    append(isolated(root), "GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1"),
			Logger: log.New(options.Log, "gitserver: ", 0),
			Stderr: options.Log,
		},
		events: newQueue(options.OnPush),
		locks:  map[string]*sync.Mutex{},
	}
	var handler http.Handler = http.HandlerFunc(s.serve)
	if options.Wrap != nil {
		handler = options.Wrap(handler)
	}
	if options.OnRequest != nil {
		next := handler
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			options.OnRequest(r)
			next.ServeHTTP(w, r)
		})
	}
	s.http = &http.Server{Handler: handler, ErrorLog: s.backend.Logger, ReadHeaderTimeout: time.Minute}
	go func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.backend.Logger.Printf("serving: %v", err)
		}
	}()
	return s, nil
}

// URL is the address below which the repositories are served: http://127.0.0.1:PORT, without a slash at the end.
func (s *Server) URL() string { return s.url }

// Dir is the folder of the bare repository owner/name.
func (s *Server) Dir(repo string) string {
	return filepath.Join(s.root, filepath.FromSlash(repo)+".git")
}

// Close stops the server, drops the pushes that OnPush was not told about yet, and waits for a running OnPush. It must not be called from
// OnPush. A second Close does nothing.
func (s *Server) Close() error {
	err := s.http.Close()
	s.running.Lock() // wait for git, which would go on writing into a folder that the caller is about to remove
	s.closed = true
	s.running.Unlock()
	s.events.close()
	return err
}

// repoName is what GitHub allows in owner/name, less names that begin with a dot.
var repoName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*$`)

// Create makes the empty bare repository owner/name, whose HEAD is the branch main, and returns its address. It may be done while the
// server runs. A repository that exists already is an error.
func (s *Server) Create(repo string) (url string, err error) {
	if !repoName.MatchString(repo) || strings.HasSuffix(repo, ".git") {
		return "", fmt.Errorf("creating the repository %q: its name must be owner/name, without .git", repo)
	}
	dir := s.Dir(repo)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("creating the repository %q: %w", repo, err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("creating the repository %q: %w", repo, err)
	}
	if _, err := s.git(dir, "init", "--quiet", "--bare", "--initial-branch=main", "--template="); err != nil {
		return "", fmt.Errorf("creating the repository %q: %w", repo, err)
	}
	for _, setting := range [][2]string{
		{"http.receivepack", "true"},              // pushes, which http-backend refuses by default
		{"http.getanyfile", "false"},              // no dumb protocol: hosting services do not speak it either
		{"uploadpack.allowFilter", "true"},        // partial clones
		{"uploadpack.allowAnySHA1InWant", "true"}, // fetching a commit by id, as GitHub allows
		{"receive.fsckObjects", "true"},           // refuse malformed objects, such as trees in the wrong order, as GitHub does
		{"receive.autogc", "false"},               // a collection in the background would outlive the server
		{"receive.denyDeleteCurrent", "warn"},     // GitHub protects the default branch by rules, not by this
		{"core.logAllRefUpdates", "true"},         // a reflog explains a failed rehearsal
	} {
		if _, err := s.git(dir, "config", setting[0], setting[1]); err != nil {
			return "", fmt.Errorf("configuring the repository %q: %w", repo, err)
		}
	}
	return s.url + "/" + repo + ".git", nil
}

// serve checks the token and hands the request to git. Pushes go through push.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.running.RLock()
	defer s.running.RUnlock()
	if s.closed {
		return
	}
	if s.options.Token != "" {
		_, password, ok := r.BasicAuth()
		if !ok || subtle.ConstantTimeCompare([]byte(password), []byte(s.options.Token)) == 0 {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "authentication with a token is required", http.StatusUnauthorized)
			return
		}
	}
	if path, ok := strings.CutSuffix(r.URL.Path, ".git/git-receive-pack"); ok && r.Method == http.MethodPost {
		s.push(w, r, strings.TrimPrefix(path, "/"))
		return
	}
	if err := readAhead(w, r); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.backend.ServeHTTP(w, r)
}

// push lets git take a push and reports what changed. It compares the refs before and after instead of reading the commands of the
// request, since only git decides which of them are carried out.
func (s *Server) push(w http.ResponseWriter, r *http.Request, repo string) {
	if !repoName.MatchString(repo) {
		http.NotFound(w, r)
		return
	}
	// The whole body first: a client that stops in the middle must not hold the lock.
	if err := readAhead(w, r); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if s.options.OnPush == nil { // pushes may race, as on a real host
		s.backend.ServeHTTP(w, r)
		return
	}
	lock := s.lock(repo)
	lock.Lock()
	defer lock.Unlock()
	before, err := s.refs(repo)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	// Deferred, since a Wrap that loses the answer does it with a panic, and git has moved the refs all the same.
	defer func() {
		after, err := s.refs(repo)
		if err != nil {
			s.backend.Logger.Printf("reading the refs of %s after a push: %v", repo, err)
			return
		}
		if updates := compare(before, after); len(updates) > 0 {
			s.events.add(Push{Repo: repo, Updates: updates})
		}
	}()
	s.backend.ServeHTTP(w, r)
}

// readAhead replaces the request's body by its content in memory, of a known length: net/http/cgi refuses the chunked bodies in which git
// sends packs of more than a megabyte.
func readAhead(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPack))
	if err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.TransferEncoding = nil
	return nil
}

func (s *Server) lock(repo string) *sync.Mutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[repo] == nil {
		s.locks[repo] = &sync.Mutex{}
	}
	return s.locks[repo]
}

// refs lists all refs of a repository with the object ids they point at.
func (s *Server) refs(repo string) (map[string]string, error) {
	out, err := s.git(s.Dir(repo), "for-each-ref", "--format=%(refname) %(objectname)")
	if err != nil {
		return nil, err
	}
	refs := map[string]string{}
	for line := range strings.Lines(out) {
		if ref, id, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			refs[ref] = id
		}
	}
	return refs, nil
}

// git runs one git command in a repository.
func (s *Server) git(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append(isolated(s.root), "GIT_DIR="+dir)...)
	out, err := cmd.Output()
	if err != nil {
		var detail string
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			detail = ": " + strings.TrimSpace(string(exit.Stderr))
		}
		return "", fmt.Errorf("running git %s: %w%s", args[0], err, detail)
	}
	return string(out), nil
}

// Author is the environment, in addition to that of the process, of a git command that makes commits as somebody, without the settings of
// this machine.
func Author(name string) []string {
	email := strings.ToLower(name) + "@example.com"
	return []string{
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_AUTHOR_NAME=" + name, "GIT_AUTHOR_EMAIL=" + email, "GIT_COMMITTER_NAME=" + name, "GIT_COMMITTER_EMAIL=" + email,
	}
}

// Publish makes a folder a work tree of an empty repository, whose branch main becomes one commit of what is in the folder. Later pushes go to
// the repository's folder, past the server.
func (s *Server) Publish(repo, tree, author string) error {
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"add", "--all"},
		{"commit", "--quiet", "--message", "the example"},
		{"remote", "add", "origin", s.Dir(repo)},
		{"push", "--quiet", "--set-upstream", "origin", "main"},
	} {
		cmd := exec.Command("git", args...)
		cmd.Dir = tree
		cmd.Env = append(os.Environ(), Author(author)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %v: %w: %s", args, err, out)
		}
	}
	return nil
}

// isolated keeps the settings of this machine and of its user out of the server, so that it behaves the same everywhere.
func isolated(home string) []string {
	return []string{"HOME=" + home, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "LC_ALL=C"}
}
