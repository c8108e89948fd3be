// Package artifactregistry talks to the API of Google's Artifact Registry, for what its Docker endpoint cannot be trusted with: the list of
// an image's tags, which Docker's protocol gives incomplete above 10,000 tags, without a word
// (https://cloud.google.com/artifact-registry/quotas). bump-config uses it to evaluate policies; whatever is written is then read through
// internal/registry, which knows manifests.
//
// The client is hand-written REST over net/http and Google's token source: one method of a documented API, instead of a generated client
// that would add ten megabytes to a program of twelve (docs/adr/0009).
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

// Client lists tags. It is safe for concurrent use.
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
//
// (google.devtools.artifactregistry.v1 ListTags: GET /v1/{parent=projects/*/locations/*/repositories/*/packages/*}/tags)
func (c *Client) TagsOf(ctx context.Context, p Package) ([]string, error) {
	var tags []string
	prefix := p.Resource() + "/tags/"
	query := url.Values{"pageSize": {fmt.Sprint(pageSize)}}
	for range pageLimit {
		var page struct {
			Tags []struct {
				Name string `json:"name"`
			} `json:"tags"`
			NextPageToken string `json:"nextPageToken"`
		}
		body, err := c.get(ctx, p, query)
		if e, ok := errors.AsType[*Error](err); ok && e.absent() {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return nil, &Error{Package: p, Err: fmt.Errorf("reading the answer: %w", err)}
		}
		for _, t := range page.Tags {
			escaped, ours := strings.CutPrefix(t.Name, prefix)
			tag, err := url.PathUnescape(escaped)
			if !ours || err != nil || tag == "" {
				return nil, &Error{Package: p, Err: fmt.Errorf("the answer lists %.200q, which is no tag of it", t.Name)}
			}
			tags = append(tags, tag)
		}
		if page.NextPageToken == "" {
			return tags, nil
		}
		if page.NextPageToken == query.Get("pageToken") {
			return nil, &Error{Package: p, Err: errors.New("the API gives the same page again and again")}
		}
		query.Set("pageToken", page.NextPageToken)
	}
	return nil, &Error{Package: p, Err: fmt.Errorf("more than %d pages", pageLimit)}
}

// get asks for one page, and again after faults that may pass.
func (c *Client) get(ctx context.Context, p Package, query url.Values) ([]byte, error) {
	pause := c.pause
	for n := 1; ; n++ {
		body, err := c.try(ctx, p, query)
		e, ok := errors.AsType[*Error](err)
		if err == nil || !ok || n == attempts || !e.temporary() || !wait(ctx, max(e.retryAfter, pause/2+rand.N(pause/2+1))) {
			return body, err
		}
		pause *= 2
	}
}

func (c *Client) try(ctx context.Context, p Package, query url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, oneTry)
	defer cancel()
	target := c.root
	// The escape in the package's name is part of the name, so it is escaped once more, as Google's own clients do.
	target.Path, target.RawQuery = "/v1/"+p.Resource()+"/tags", query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, &Error{Package: p, Err: err}
	}
	req.Header.Set("User-Agent", "cloudbuild-steps")
	if err := c.authorize(ctx, req); err != nil {
		return nil, &Error{Package: p, Err: &tokenError{err}}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if outer, ok := errors.AsType[*url.Error](err); ok {
			err = outer.Err
		}
		return nil, &Error{Package: p, Err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, bodyLimit+1))
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, refusal(p, resp, body) // the status says enough if the body breaks off
	case err != nil:
		return nil, &Error{Package: p, Err: err}
	case len(body) > bodyLimit:
		return nil, &Error{Package: p, Err: errTooLong}
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
