package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// session is one repository behind one authenticated transport.
type session struct {
	http *http.Client
	root *url.URL                     // scheme://host/v2/path/
	who  func(context.Context) string // the account, for messages
}

// session returns the repository's session. Nothing is sent for it.
func (c *Client) session(ctx context.Context, repo name.Repository) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.sessions[repo.Name()]; ok {
		return s
	}
	scheme := "https"
	if c.Plain(repo.RegistryStr()) {
		scheme = "http"
	}
	next := transport.NewUserAgent(&guard{host: repo.RegistryStr(), scheme: scheme, next: c.base}, "cloudbuild-steps")
	who := c.identity(ctx, repo) // Google's keeps this context for later tokens, so it must not be one of a single request
	if who.direct {
		next = &direct{repo.RegistryStr(), who.auth, next}
	} else {
		next = &handshake{repo: repo, scheme: scheme, scopes: c.scopesOf(repo), auth: who.auth, notice: c.notice, next: next}
	}
	s := &session{
		http: &http.Client{Transport: next, CheckRedirect: checkRedirect},
		root: &url.URL{Scheme: scheme, Host: repo.RegistryStr(), Path: "/v2/" + repo.RepositoryStr() + "/"},
		who:  who.name,
	}
	c.sessions[repo.Name()] = s
	return s
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
	also       int                           // another one
	once       bool                          // repeating it is not safe, or the caller repeats more than this
	limit      int64                         // bytes of the answer's body; more is an error
	patient    bool                          // the body is large: no time limit of its own
}

// answer is what came back, with the status that was wanted.
type answer struct {
	status int
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
	s := c.session(ctx, repo)
	fail := func(err error) (*answer, error) {
		e := unanswered(r.doing, repo.Name(), r.permission, err)
		e.name(ctx, s)
		return nil, e
	}
	var err error
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
	if resp.StatusCode != r.want && resp.StatusCode != r.also {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, errorLimit)) // the status says enough if the body breaks off
		e := refusal(r.doing, repo.Name(), r.permission, resp.StatusCode, resp.Header, body)
		e.name(ctx, s)
		return nil, e
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, r.limit+1))
	if err != nil {
		return fail(err)
	}
	if int64(len(body)) > r.limit {
		return nil, fmt.Errorf("%s: the answer is longer than %d bytes", r.doing, r.limit)
	}
	return &answer{status: resp.StatusCode, header: resp.Header, body: body, url: resp.Request.URL}, nil
}

// name adds who was refused, which is what somebody who is to grant a permission needs to know.
func (e *Error) name(ctx context.Context, s *session) {
	if e.Status == http.StatusForbidden || e.Status == http.StatusUnauthorized {
		e.Identity = s.who(ctx)
	}
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
