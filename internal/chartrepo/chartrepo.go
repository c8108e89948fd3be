// Package chartrepo reads Helm chart repositories over HTTP: the index of a repository, and the archives that it names. deploy-helm uses it
// for what Flux calls a HelmRepository of the default type; charts in container registries are read by package registry.
//
// It exists because Helm's own getter is made for a person at a terminal: it reads whatever length a server sends, cannot be cancelled, and
// compares nothing with the digest in the index. Here every answer is bounded in bytes and time, credentials stay with the host they are
// for, and an archive that is not the one in the index is an error. Nothing is written to a disk.
//
// The format is the one of Helm's documentation ("The Chart Repository Guide"); which version is chosen is Flux's rule (source-controller,
// internal/helm/repository).
package chartrepo

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

const (
	maxIndex = 64 << 20 // bytes of an index, after decompression; source-controller takes 50 MiB
	// MaxArchive is how many bytes the archive of a chart may have; source-controller takes 10 MiB.
	MaxArchive = 32 << 20
)

// DefaultTimeout is how long one request may take (spec.timeout of Flux's HelmRepository).
const DefaultTimeout = time.Minute

// Options say where a repository is, and who asks.
type Options struct {
	URL             string      // without index.yaml; https, or http where Plain allows it
	Username        string      // with Password, for HTTP basic authentication
	Password        secret.Text //
	Token           secret.Text // a bearer token, instead of both
	PassCredentials bool        // the credentials are for the hosts of the archives, too
	TLS             *tls.Config // nil for the authorities that this machine trusts
	Timeout         time.Duration
	Plain           []string // hosts (host, or host:port) that may be reached over plain HTTP; loopback always may
}

// Repository is one chart repository. It is safe for concurrent use.
type Repository struct {
	o      Options
	root   *url.URL
	client *http.Client
	pause  time.Duration // before the second attempt
}

// New makes a repository. Nothing is sent for it.
func New(o Options) (*Repository, error) {
	root, err := url.Parse(o.URL)
	if err != nil {
		return nil, errors.New("the address is not a URL") // the text of the error repeats it, with what may be a password
	}
	r := &Repository{o: o, root: root, pause: 200 * time.Millisecond}
	switch {
	case root.Scheme != "https" && root.Scheme != "http" || root.Host == "":
		return nil, fmt.Errorf("%s is not an http or https URL", show(root))
	case root.User != nil:
		return nil, fmt.Errorf("%s has credentials in it: put them into a Secret", show(root))
	}
	if err := r.mayReach(root); err != nil {
		return nil, err
	}
	if r.o.Timeout <= 0 {
		r.o.Timeout = DefaultTimeout
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = o.TLS
	r.client = &http.Client{Transport: &credentials{r, transport}, CheckRedirect: r.checkRedirect}
	return r, nil
}

// mayReach refuses plain HTTP. What an index or a redirect names may be on loopback only if the repository is: nobody outside shall send us
// to the services of this machine.
func (r *Repository) mayReach(u *url.URL) error {
	switch {
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return &refused{fmt.Sprintf("%s is not an http or https URL", show(u))}
	case slices.Contains(r.o.Plain, u.Host), slices.Contains(r.o.Plain, u.Hostname()), loopback(u) && loopback(r.root):
		return nil
	}
	return &refused{fmt.Sprintf("%s would be reached over plain HTTP: list %s in REGISTRY_INSECURE if it may be", show(u), u.Host)}
}

func loopback(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// refused is an error that another attempt would not change.
type refused struct{ text string }

func (e *refused) Error() string { return e.text }

// checkRedirect follows redirects as far as plain HTTP and the number of them allow. To another host they go without credentials.
func (r *Repository) checkRedirect(next *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return &refused{"it redirects for ever"}
	}
	return r.mayReach(next.URL)
}

// credentials adds the credentials to requests to the repository's own scheme, host and port. net/http would repeat a header that stands in
// the first request on redirects to other ports and to subdomains.
type credentials struct {
	r    *Repository
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (c *credentials) RoundTrip(req *http.Request) (*http.Response, error) {
	o := c.r.o
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", "cloudbuild-steps")
	if o.PassCredentials || req.URL.Scheme == c.r.root.Scheme && req.URL.Host == c.r.root.Host {
		switch {
		case !o.Token.IsZero():
			req.Header.Set("Authorization", "Bearer "+o.Token.Reveal())
		case o.Username != "" || !o.Password.IsZero():
			req.SetBasicAuth(o.Username, o.Password.Reveal())
		}
	}
	return c.next.RoundTrip(req)
}

// String is the repository's address without what may be secret in it.
func (r *Repository) String() string { return show(r.root) }

// show leaves out of a URL what may be secret: the user, and the query, where signatures are.
func show(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).Redacted()
}

// Index fetches and reads the repository's index. It costs one request.
func (r *Repository) Index(ctx context.Context) (*Index, error) {
	at := *r.root
	at.Path, at.RawPath = path.Join("/", at.Path, "index.yaml"), ""
	text, err := r.get(ctx, &at, maxIndex, "")
	if err != nil {
		return nil, fmt.Errorf("reading the index of the Helm repository %s: %w", r, err)
	}
	index, err := parseIndex(text)
	if err != nil {
		return nil, fmt.Errorf("reading the index of the Helm repository %s: %w", r, err)
	}
	return index, nil
}

// Download fetches the archive of a version, and compares it with the digest that the index gives, where it gives one.
func (r *Repository) Download(ctx context.Context, v Version) ([]byte, error) {
	doing := fmt.Sprintf("downloading chart %s %s of the Helm repository %s", v.Chart, v.Version, r)
	if len(v.URLs) == 0 {
		return nil, fmt.Errorf("%s: the index names no URL for it", doing)
	}
	at, err := r.resolve(v.URLs[0]) // Helm and Flux take the first one, too
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	archive, err := r.get(ctx, at, MaxArchive, "identity") // servers call a .tgz a compressed .tar, and net/http would decompress it
	if err != nil {
		return nil, fmt.Errorf("%s from %s: %w", doing, show(at), err)
	}
	sum := sha256.Sum256(archive)
	if have := hex.EncodeToString(sum[:]); v.SHA256 != "" && have != v.SHA256 {
		return nil, fmt.Errorf("%s from %s: the archive's SHA-256 is %s, and the index says %s", doing, show(at), have, v.SHA256)
	}
	return archive, nil
}

// resolve makes an absolute URL of one in the index, as Helm does (pkg/repo, ResolveReferenceURL): relative ones are below the repository's
// address and get its query.
func (r *Repository) resolve(reference string) (*url.URL, error) {
	ref, err := url.Parse(reference)
	if err != nil {
		return nil, errors.New("the index names something that is not a URL")
	}
	at := ref
	if !ref.IsAbs() {
		base := *r.root
		base.Path, base.RawPath = strings.TrimSuffix(base.Path, "/")+"/", ""
		at = base.ResolveReference(ref)
		at.RawQuery = base.RawQuery
	}
	if at.User != nil {
		return nil, fmt.Errorf("the index names %s with credentials in it", show(at))
	}
	return at, r.mayReach(at)
}

const attempts = 3

// get reads what is at a URL, and tries again after temporary faults.
func (r *Repository) get(ctx context.Context, at *url.URL, limit int64, encoding string) (body []byte, err error) {
	pause := r.pause
	for n := 1; ; n++ {
		var again bool
		body, again, err = r.try(ctx, at, limit, encoding)
		if err == nil || !again || n == attempts {
			return body, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
			pause *= 4
		}
	}
}

// try reads what is at a URL. again says that another attempt may succeed.
func (r *Repository) try(ctx context.Context, at *url.URL, limit int64, encoding string) (body []byte, again bool, err error) {
	limited, cancel := context.WithTimeoutCause(ctx, r.o.Timeout, fmt.Errorf("no whole answer within %s", r.o.Timeout))
	defer cancel()
	req, err := http.NewRequestWithContext(limited, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, false, &refused{"the address is not a URL"}
	}
	if encoding != "" {
		req.Header.Set("Accept-Encoding", encoding)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		again, err = fault(ctx, limited, err)
		return nil, again, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500, r.refusal(resp)
	}
	if body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1)); err != nil {
		again, err = fault(ctx, limited, err)
		return nil, again, err
	}
	if int64(len(body)) > limit {
		return nil, false, fmt.Errorf("the answer is longer than %d MiB", limit>>20)
	}
	return body, false, nil
}

// fault says why there was no answer, without the URLs of redirects, and whether another attempt may help. Time that is over does not come
// back: a server that has not answered in all of it is not asked twice.
func fault(ctx, limited context.Context, err error) (again bool, text error) {
	if e, ok := errors.AsType[*refused](err); ok {
		return false, e
	}
	if limited.Err() != nil {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		return false, context.Cause(limited)
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	return !untrusted, err
}

// refusal says what an answer other than 200 means.
func (r *Repository) refusal(resp *http.Response) error {
	from := ""
	if at := resp.Request.URL; at.Host != r.root.Host {
		from = " of " + at.Host
	}
	text := fmt.Sprintf("the answer%s is %d %s", from, resp.StatusCode, http.StatusText(resp.StatusCode))
	if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
		return errors.New(text)
	}
	switch {
	case r.o.Username == "" && r.o.Token.IsZero():
		text += " (asked without credentials: spec.secretRef names a Secret with username and password)"
	case from != "" && !r.o.PassCredentials:
		text += " (that host was not given the credentials: spec.passCredentials would)"
	default:
		text += " (the credentials in the Secret of spec.secretRef are not accepted)"
	}
	return errors.New(text)
}
