package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/google"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// session is one repository behind one authenticated transport.
type session struct {
	http *http.Client
	root *url.URL // scheme://host/v2/path/
}

// session returns the repository's session, after the handshake if there is none yet.
func (c *Client) session(ctx context.Context, repo name.Repository) (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.sessions[repo.Name()]; ok {
		return s, nil
	}
	scheme := "https"
	if c.plain(repo.RegistryStr()) {
		scheme = "http"
	}
	inner := transport.NewUserAgent(&guard{host: repo.RegistryStr(), scheme: scheme, next: c.base}, "cloudbuild-steps")
	auth := c.credentials(ctx, repo) // Google's keeps this context for later tokens, so it must not be one of a single request
	handshake, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	authenticated, err := transport.NewWithContext(handshake, repo.Registry, auth, inner, []string{repo.Scope(c.scope)})
	if err != nil {
		return nil, err
	}
	s := &session{
		http: &http.Client{Transport: authenticated, CheckRedirect: checkRedirect},
		root: &url.URL{Scheme: scheme, Host: repo.RegistryStr(), Path: "/v2/" + repo.RepositoryStr() + "/"},
	}
	c.sessions[repo.Name()] = s
	return s, nil
}

// credentials finds who this machine is for the registry. What cannot be read is reported and skipped: in a scratch image the credential
// helper that a config file names is never installed, and the registry itself says when it wants more than an anonymous client.
func (c *Client) credentials(ctx context.Context, repo name.Repository) authn.Authenticator {
	chain := []authn.Keychain{google.Keychain, authn.DefaultKeychain}
	if c.keychain != nil {
		chain = []authn.Keychain{c.keychain}
	}
	for _, keychain := range chain {
		auth, err := authn.Resolve(ctx, keychain, repo)
		switch {
		case err != nil && strings.Contains(err.Error(), exec.ErrNotFound.Error()): // the library passes on the text alone
			c.notice(fmt.Sprintf("the Docker config names a credential helper for %s that is not installed here; it is skipped", repo.RegistryStr()))
		case err != nil:
			c.notice(fmt.Sprintf("the Docker config cannot be used for %s and is skipped", repo.RegistryStr()))
		case auth != authn.Anonymous:
			return auth
		}
	}
	return authn.Anonymous
}

// guard keeps a session on its scheme. go-containerregistry tries plain HTTP for private addresses on its own account, and a redirect can
// name any scheme; a credential or a manifest must not travel in the clear for either reason.
type guard struct {
	host, scheme string
	next         http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == g.host && g.scheme == "http" {
		if r.URL.Scheme != "http" { // the handshake begins with https
			r = r.Clone(r.Context())
			r.URL.Scheme = "http"
		}
	} else if r.URL.Scheme != "https" {
		return nil, &schemeError{r.URL.Host}
	}
	return g.next.RoundTrip(r)
}

// checkRedirect follows what registries do: blobs may be kept on another host (the transport sends no credentials there), everything else is
// the registry's own. go-containerregistry has no limit of its own and net/http's is replaced by any function that stands here.
func checkRedirect(next *http.Request, via []*http.Request) error {
	first := via[0].URL
	if len(via) >= 10 || next.URL.Host != first.Host && !strings.Contains(first.Path, "/blobs/") {
		return errRedirect
	}
	return nil
}

// request is one request to a repository.
type request struct {
	doing      string // for errors: "reading tag v1.0.0 of host/path"
	permission string
	method     string
	path       string   // under /v2/<repository>/
	url        *url.URL // instead of path
	accept     string
	kind       string                        // content type of the body
	body       func() (io.ReadCloser, error) // nil: none
	size       int64                         // of the body
	want       int                           // the status that means success
	once       bool                          // repeating it is not safe, or the caller repeats more than this
	limit      int64                         // bytes of the answer's body; more is an error
	patient    bool                          // the body is large: no time limit of its own
}

// answer is what came back, with the status that was wanted.
type answer struct {
	header http.Header
	body   []byte
	url    *url.URL // where it came from in the end
}

const (
	attempts     = 5
	attemptLimit = time.Minute // for one small request
	errorLimit   = 64 << 10    // bytes that are read of a refusal
)

// do sends a request, and again after temporary faults.
func (c *Client) do(ctx context.Context, repo name.Repository, r request) (*answer, error) {
	for wait := c.patience(); ; {
		a, err := c.attempt(ctx, repo, r)
		if err == nil || r.once || !temporary(err) || !wait.next(ctx, err) {
			return a, err
		}
	}
}

func (c *Client) attempt(ctx context.Context, repo name.Repository, r request) (*answer, error) {
	fail := func(err error) (*answer, error) { return nil, unanswered(r.doing, repo.Name(), r.permission, err) }
	s, err := c.session(ctx, repo)
	if err != nil {
		return fail(err)
	}
	if !r.patient {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, attemptLimit)
		defer cancel()
	}
	target := r.url
	if target == nil {
		if target, err = s.root.Parse(r.path); err != nil {
			return nil, fmt.Errorf("%s: %w", r.doing, err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target.String(), nil)
	if err != nil {
		return fail(err)
	}
	if r.body != nil {
		if req.Body, err = r.body(); err != nil {
			return nil, fmt.Errorf("%s: %w", r.doing, err)
		}
		req.GetBody, req.ContentLength = r.body, r.size
		req.Header.Set("Content-Type", r.kind)
	}
	if r.accept != "" {
		req.Header.Set("Accept", r.accept)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != r.want {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, errorLimit)) // the status says enough if the body breaks off
		return nil, refusal(r.doing, repo.Name(), r.permission, resp.StatusCode, resp.Header, body)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, r.limit+1))
	if err != nil {
		return fail(err)
	}
	if int64(len(body)) > r.limit {
		return nil, fmt.Errorf("%s: the answer is longer than %d bytes", r.doing, r.limit)
	}
	return &answer{header: resp.Header, body: body, url: resp.Request.URL}, nil
}

// patience counts the attempts of one operation.
type patience struct {
	left  int
	pause time.Duration
}

func (c *Client) patience() *patience { return &patience{left: attempts - 1, pause: c.pause} }

// next waits until the next attempt is due, and reports false when there is none: too many failed, or the context ends before. A registry
// that says when to come back is obeyed.
func (p *patience) next(ctx context.Context, failed error) bool {
	if p.left == 0 || ctx.Err() != nil {
		return false
	}
	delay := p.pause/2 + rand.N(p.pause/2+1)
	if e, ok := errors.AsType[*Error](failed); ok {
		delay = max(delay, e.retryAfter)
	}
	if end, ok := ctx.Deadline(); ok && time.Until(end) < delay {
		return false
	}
	p.left--
	p.pause *= 2
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
