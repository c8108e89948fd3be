// Package artifactregistry talks to the API of Google's Artifact Registry, for what its Docker endpoint cannot be trusted with: the list of
// an image's tags, which Docker's protocol gives incomplete above 10,000 tags, without a word
// (https://cloud.google.com/artifact-registry/quotas), and deletions, which have rules of their own there. bump-config uses it to evaluate
// policies, rollback-version to find and delete versions; what is read or written besides goes through internal/registry, which knows
// manifests.
//
// The client is hand-written REST over net/http and Google's token source: six methods of a documented API, instead of a generated client
// that would add ten megabytes to a program of twelve, and that reads statuses wrongly over REST: ALREADY_EXISTS arrives as Aborted
// (docs/adr/0009).
package artifactregistry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
)

// Endpoint is Google's server of the API.
const Endpoint = "artifactregistry.googleapis.com"

// scope is the only one that the API accepts (google.devtools.artifactregistry.v1, oauth_scopes).
const scope = "https://www.googleapis.com/auth/cloud-platform"

// Client calls the API. It is safe for concurrent use.
type Client struct {
	root   url.URL
	http   *http.Client
	source func(context.Context) (oauth2.TokenSource, error)
	pause  time.Duration // before the second attempt; later ones wait longer

	mu    sync.Mutex
	token oauth2.TokenSource
}

// New makes a client of the server at endpoint, a host or host:port; empty means Google's. A server on loopback is a test's: it is spoken to
// over plain HTTP and gets no token. Every other one is reached over HTTPS, with a token of the machine's Google identity: in Cloud Build the
// build's service account, elsewhere application default credentials.
func New(endpoint string) *Client {
	if endpoint == "" {
		endpoint = Endpoint
	}
	c := &Client{
		root:  url.URL{Scheme: "https", Host: endpoint},
		pause: 500 * time.Millisecond,
		http: &http.Client{
			Transport:     http.DefaultTransport.(*http.Transport).Clone(),
			CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect }, // a token must not follow
		},
		source: func(ctx context.Context) (oauth2.TokenSource, error) { return google.DefaultTokenSource(ctx, scope) },
	}
	if isLoopback(endpoint) {
		c.root.Scheme, c.source = "http", nil
	}
	return c
}

var (
	errRedirect = errors.New("the API redirects elsewhere")
	errTooLong  = fmt.Errorf("the answer is longer than %d bytes", bodyLimit)
)

func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return host == "localhost" || net.ParseIP(strings.Trim(host, "[]")).IsLoopback()
}

// Loopback is what stands for the location of images on this machine, where tests keep them.
const Loopback = "local"

// Package is an image in Artifact Registry's words.
type Package struct {
	Project, Location, Repository string
	Name                          string // may have slashes
}

// Parse reads an image such as europe-docker.pkg.dev/project/repository/path/of/image. A project of a domain has the domain as an element of
// its own (example.com/project). ok is false for an image that is not in Artifact Registry, by the name of its host.
//
// Images on loopback are a test's: their path is read alike, and their location is [Loopback].
func Parse(image string) (p Package, ok bool, err error) {
	host, path, _ := strings.Cut(image, "/")
	location, ours := strings.CutSuffix(host, "-docker.pkg.dev")
	switch {
	case ours && location != "" && !strings.ContainsAny(location, ".:"):
		p.Location = location
	case isLoopback(host):
		p.Location = Loopback
	default:
		return Package{}, false, nil
	}
	p.Project, path, _ = strings.Cut(path, "/")
	if strings.Contains(p.Project, ".") { // a project's own id has no dot
		domain := p.Project
		p.Project, path, _ = strings.Cut(path, "/")
		p.Project = domain + ":" + p.Project
	}
	p.Repository, p.Name, _ = strings.Cut(path, "/")
	if p.Project == "" || p.Repository == "" || p.Name == "" {
		return Package{}, true, fmt.Errorf("%q is no image of Artifact Registry: want LOCATION-docker.pkg.dev/PROJECT/REPOSITORY/IMAGE", image)
	}
	return p, true, nil
}

// Resource is the package's name in the API. Slashes in the package's part are escaped (Package.name in the API's definition).
func (p Package) Resource() string {
	return fmt.Sprintf("projects/%s/locations/%s/repositories/%s/packages/%s", p.Project, p.Location, p.Repository, url.PathEscape(p.Name))
}

const (
	pageSize  = 1000     // the API's maximum
	pageLimit = 10_000   // ten million tags
	bodyLimit = 16 << 20 // bytes of one page: a tag of 128 characters is named twice in about 500 bytes
	attempts  = 6
	oneTry    = time.Minute
)

// TagsOf lists all tags of an image, page by page to the end, in the API's order; none if there is no such image. Errors are [*Error].
func (c *Client) TagsOf(ctx context.Context, p Package) ([]string, error) {
	var tags []string
	err := c.eachTag(ctx, p, func(tag, _ string) error {
		tags = append(tags, tag)
		return nil
	})
	return tags, err
}

// eachTag calls fn for every tag and the name of the version that it is on.
//
// (google.devtools.artifactregistry.v1 ListTags: GET /v1/{parent=projects/*/locations/*/repositories/*/packages/*}/tags)
func (c *Client) eachTag(ctx context.Context, p Package, fn func(tag, version string) error) error {
	prefix := p.Resource() + "/tags/"
	r := request{doing: "listing the tags of " + p.Resource(), needs: listTags, method: http.MethodGet, path: p.Resource() + "/tags", query: url.Values{}}
	return c.pages(ctx, p, r, func(body []byte) (string, error) {
		var page struct {
			Tags []struct {
				Name    string `json:"name"`
				Version string `json:"version"`
			} `json:"tags"`
			NextPageToken string `json:"nextPageToken"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return "", fmt.Errorf("reading the answer: %w", err)
		}
		for _, t := range page.Tags {
			escaped, ours := strings.CutPrefix(t.Name, prefix)
			tag, err := url.PathUnescape(escaped)
			if !ours || err != nil || tag == "" {
				return "", fmt.Errorf("the answer lists %.200q, which is no tag of it", t.Name)
			}
			if err := fn(tag, t.Version); err != nil {
				return "", err
			}
		}
		return page.NextPageToken, nil
	})
}

// pages asks for one page after the other; read returns the token of the next. No such parent is an empty list.
func (c *Client) pages(ctx context.Context, p Package, r request, read func(body []byte) (next string, err error)) error {
	r.query.Set("pageSize", fmt.Sprint(pageSize))
	for range pageLimit {
		body, err := c.call(ctx, p, r)
		if e, ok := errors.AsType[*Error](err); ok && e.absent() {
			return nil
		}
		if err != nil {
			return err
		}
		next, err := read(body)
		if err != nil {
			return r.failed(p, err)
		}
		if next == "" {
			return nil
		}
		if next == r.query.Get("pageToken") {
			return r.failed(p, errors.New("the API gives the same page again and again"))
		}
		r.query.Set("pageToken", next)
	}
	return r.failed(p, fmt.Errorf("more than %d pages", pageLimit))
}

// request is one call of the API.
type request struct {
	doing  string // for errors: "listing the tags of projects/…"
	needs  need
	method string
	path   string // of the resource, below /v1/
	query  url.Values
}

// failed makes an error of a call that was not answered, or not as the API answers.
func (r request) failed(p Package, err error) *Error {
	return &Error{Doing: r.doing, needs: r.needs, Package: p, Err: err}
}

// call makes a request, and again after faults that may pass.
func (c *Client) call(ctx context.Context, p Package, r request) ([]byte, error) {
	pause := c.pause
	for n := 1; ; n++ {
		body, err := c.try(ctx, p, r)
		e, ok := errors.AsType[*Error](err)
		if err == nil || !ok || n == attempts || !e.temporary() || !wait(ctx, max(e.retryAfter, pause/2+rand.N(pause/2+1))) {
			return body, err
		}
		pause *= 2
	}
}

func (c *Client) try(ctx context.Context, p Package, r request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, oneTry)
	defer cancel()
	target := c.root
	// The escape in the package's name is part of the name, so it is escaped once more, as Google's own clients do.
	target.Path, target.RawQuery = "/v1/"+r.path, r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, target.String(), nil)
	if err != nil {
		return nil, r.failed(p, err)
	}
	req.Header.Set("User-Agent", "cloudbuild-steps")
	if err := c.authorize(ctx, req); err != nil {
		return nil, r.failed(p, &tokenError{err})
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if outer, ok := errors.AsType[*url.Error](err); ok {
			err = outer.Err
		}
		return nil, r.failed(p, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, bodyLimit+1))
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, refusal(p, r, resp, body) // the status says enough if the body breaks off
	case err != nil:
		return nil, r.failed(p, err)
	case len(body) > bodyLimit:
		return nil, r.failed(p, errTooLong)
	}
	return body, nil
}

// authorize adds a token. The source outlives this request, so it is not given the request's context.
func (c *Client) authorize(ctx context.Context, req *http.Request) error {
	if c.source == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == nil {
		source, err := c.source(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		c.token = source
	}
	token, err := c.token.Token()
	if err != nil {
		return err
	}
	token.SetAuthHeader(req)
	return nil
}

// wait pauses and reports whether there is time for another attempt: a server that says to come back after the deadline is not waited for.
func wait(ctx context.Context, delay time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < delay {
		return false
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
