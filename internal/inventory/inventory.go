// Package inventory asks the service that knows the customer accounts (an onboarding or admin service) for the inventory, over HTTPS.
// gate-uat uses it when ACCOUNTS is a URL.
//
// It exists because an ordinary HTTP client is too kind for an answer that decides about production: it follows a redirect to another host
// with the credentials in hand, connects to the metadata server when a name resolves to it, unpacks a compressed megabyte into gigabytes,
// and hands over the beginning of an answer that was cut. Here, the answer is whole, from the host that was named, or it is an error.
package inventory

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// Bounds of what is asked and read.
const (
	maxPages       = 1000
	maxHeaders     = 64 << 10         // bytes of the headers of one answer
	maxRedirects   = 5                // of one request, all to the same origin
	attempts       = 4                // of one request
	longestRequest = time.Minute      // one attempt, from the connection to the last byte
	longestPause   = 30 * time.Second // that a Retry-After may ask for
)

// Service is where the inventory is.
type Service struct {
	Address  Address
	Header   Header
	Token    secret.Text
	Loopback bool // the address may be one of this machine

	resolver *net.Resolver // nil: the machine's
	roots    *x509.CertPool
	pause    time.Duration // before the second attempt; 0: a second
	limit    time.Duration // of one attempt; 0: longestRequest
}

// Snapshot is what the service gave.
type Snapshot struct {
	Inventory accounts.Inventory
	Pages     [][]byte // as they came, uncompressed; all but very large inventories have one
}

// DefectError is an inventory that was read whole and cannot be used.
type DefectError struct{ err error }

func (e *DefectError) Error() string { return e.err.Error() }

// Unwrap returns the defect.
func (e *DefectError) Unwrap() error { return e.err }

// Read asks for the inventory, and for its further pages: where a Link header with rel="next" points to on the same origin (RFC 8288), or
// with the token of a member next_page_token or nextPageToken. Errors are a [*DefectError] or an [*Error].
func (s Service) Read(ctx context.Context) (Snapshot, error) {
	if err := s.Address.check(s.Loopback); err != nil {
		return Snapshot{}, &Error{Address: s.Address, Why: err}
	}
	client := s.client()
	defer client.CloseIdleConnections()
	first := *s.Address.url
	target := &first
	var reader accounts.Reader
	var snapshot Snapshot
	size := 0
	asked := map[string]bool{}
	for {
		if asked[target.String()] {
			return Snapshot{}, &Error{Address: s.Address, Why: errors.New("its pages lead round in a circle: the next page is one that was read already")}
		}
		asked[target.String()] = true
		body, link, err := s.page(ctx, client, target)
		if err != nil {
			return Snapshot{}, err
		}
		if size += len(body); size > accounts.MaxBytes {
			return Snapshot{}, &Error{Address: s.Address, Why: fmt.Errorf("all pages together are larger than %d MiB", accounts.MaxBytes>>20)}
		}
		snapshot.Pages = append(snapshot.Pages, body)
		next, err := reader.Add(body)
		if err != nil {
			return Snapshot{}, &DefectError{err}
		}
		switch {
		case link != nil:
			target = link
		case next.Token != "":
			u := *s.Address.url
			query := u.Query()
			query.Set(next.Parameter, next.Token)
			u.RawQuery = query.Encode()
			target = &u
		default:
			if snapshot.Inventory, err = reader.Inventory(); err != nil {
				return Snapshot{}, &DefectError{err}
			}
			return snapshot, nil
		}
		if len(snapshot.Pages) == maxPages {
			return Snapshot{}, &Error{Address: s.Address, Why: fmt.Errorf("it has more than %d pages", maxPages)}
		}
	}
}

// page asks for one page, and again after temporary faults.
func (s Service) page(ctx context.Context, client *http.Client, target *url.URL) ([]byte, *url.URL, error) {
	pause := s.pause
	if pause == 0 {
		pause = time.Second
	}
	for left := attempts - 1; ; left-- {
		body, link, err := s.attempt(ctx, client, target)
		if err == nil {
			return body, link, nil
		}
		e, ok := errors.AsType[*Error](err)
		if !ok {
			e = &Error{Address: s.Address, Why: unwrapURL(err), temporary: isTemporary(err)}
		}
		e.Address = s.Address
		if !e.temporary || left == 0 || ctx.Err() != nil {
			return nil, nil, e
		}
		wait := pause/2 + rand.N(pause) // so that builds which failed together do not come back together
		pause *= 2
		wait = max(wait, min(e.after, longestPause))
		select {
		case <-ctx.Done():
			return nil, nil, e
		case <-time.After(wait):
		}
	}
}

func (s Service) attempt(ctx context.Context, client *http.Client, target *url.URL) ([]byte, *url.URL, error) {
	limit := s.limit
	if limit == 0 {
		limit = longestRequest
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", "application/json, application/yaml;q=0.9")
	req.Header.Set("Accept-Encoding", "gzip")
	req.Header.Set("User-Agent", "cloudbuild-steps")
	if !s.Token.IsZero() {
		req.Header.Set(s.Header.name(), s.Header.value(s.Token))
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := s.checkAnswer(resp); err != nil {
		return nil, nil, err
	}
	body, err := readBody(resp)
	if err != nil {
		return nil, nil, err
	}
	if err := checkContent(resp.Header.Get("Content-Type"), body); err != nil {
		return nil, nil, &Error{Address: s.Address, Why: err, advice: "check ACCOUNTS, ACCOUNTS_TOKEN and ACCOUNTS_HEADER: such a page is mostly what somebody who is not signed in gets"}
	}
	link, err := s.nextLink(resp)
	return body, link, err
}

// checkAnswer looks at everything before the body.
func (s Service) checkAnswer(resp *http.Response) error {
	e := &Error{Address: s.Address, Status: resp.StatusCode}
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		e.advice = "give ACCOUNTS_TOKEN a token that may read the inventory, in the header that the service wants (ACCOUNTS_HEADER)"
		e.Why = fmt.Errorf("the service answered %s", status(code))
	case code == http.StatusTooManyRequests || code >= 500:
		e.temporary, e.after = true, retryAfter(resp.Header.Get("Retry-After"), time.Now())
		e.Why = fmt.Errorf("the service answered %s", status(code))
	case code != http.StatusOK:
		e.Why = fmt.Errorf("the service answered %s, want 200 OK", status(code))
	case resp.Header.Get("X-Next-Page") != "":
		e.Why = errors.New("the header X-Next-Page says that this is one page of several: only Link, next_page_token and nextPageToken are followed")
	case resp.ProtoMajor == 1 && resp.ContentLength < 0 && !slices.Contains(resp.TransferEncoding, "chunked"):
		e.Why = errors.New("the answer does not say where it ends (no Content-Length, not chunked), so that nobody can tell whether it is whole")
	default:
		return nil
	}
	return e
}

func status(code int) string {
	return strings.TrimSpace(strconv.Itoa(code) + " " + http.StatusText(code))
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n < 1<<20 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(text); err == nil {
		return t.Sub(now)
	}
	return 0
}

// readBody reads an answer to its end, within bounds on both sides of a compression.
func readBody(resp *http.Response) ([]byte, error) {
	packed := &bounded{r: resp.Body, left: accounts.MaxBytes}
	var body io.Reader = packed
	switch encoding := strings.ToLower(strings.TrimSpace(resp.Header.Get("Content-Encoding"))); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		unpacked, err := gzip.NewReader(packed)
		if err != nil {
			return nil, fmt.Errorf("unpacking the answer: %w", err)
		}
		body = &bounded{r: unpacked, left: accounts.MaxBytes}
	default:
		return nil, &Error{Why: fmt.Errorf("the answer is packed as %.40q, want gzip or nothing", encoding)}
	}
	b, err := io.ReadAll(body)
	if errors.Is(err, errTooLarge) {
		return nil, &Error{Why: err}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the answer, which was cut after %d bytes: %w", len(b), err)
	}
	if _, err := packed.Read(make([]byte, 1)); !errors.Is(err, io.EOF) { // what gzip leaves, or an end that never comes
		return nil, fmt.Errorf("reading the end of the answer: %w", cmpErr(err, errors.New("there is something behind it")))
	}
	return b, nil
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

var errTooLarge = fmt.Errorf("the answer is larger than %d MiB", accounts.MaxBytes>>20)

// bounded fails instead of reading more than it may. An [io.LimitReader] would end, as if the answer did.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// checkContent refuses what is no inventory, with a better word than a parser has for it.
func checkContent(contentType string, body []byte) error {
	kind, _, err := mime.ParseMediaType(contentType)
	start := bytes.TrimLeft(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), " \t\r\n")
	switch {
	case kind == "text/html" || kind == "application/xhtml+xml" || bytes.HasPrefix(start, []byte("<")):
		return errors.New("the answer is a web page, perhaps one to sign in, and no inventory")
	case contentType != "" && err != nil:
		return fmt.Errorf("the Content-Type %.60q cannot be read", contentType)
	case contentType == "" || slices.Contains(contentTypes, kind) || strings.HasSuffix(kind, "+json") || strings.HasSuffix(kind, "+yaml"):
		return nil
	}
	return fmt.Errorf("the answer is of type %.60q, want JSON or YAML", kind)
}

// contentTypes are those of JSON and YAML, and those of servers that do not know.
var contentTypes = []string{
	"application/json", "text/json", "application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "text/vnd.yaml", "text/plain",
	"application/octet-stream", "binary/octet-stream",
}

// nextLink returns where the next page is by the answer's Link headers, nil when they name none.
func (s Service) nextLink(resp *http.Response) (*url.URL, error) {
	var next *url.URL
	for _, header := range resp.Header.Values("Link") {
		for _, target := range nextTargets(header) {
			u, err := resp.Request.URL.Parse(target)
			switch {
			case err != nil:
				return nil, &Error{Address: s.Address, Why: errors.New("the Link header names a next page whose address cannot be read")}
			case !sameOrigin(u, s.Address.url):
				return nil, &Error{Address: s.Address, Why: fmt.Errorf("the next page is on another host, %s://%s", u.Scheme, u.Host)}
			case next != nil && *next != *u:
				return nil, &Error{Address: s.Address, Why: errors.New("the Link headers name two next pages")}
			}
			u.Fragment = ""
			next = u
		}
	}
	return next, nil
}

// nextTargets returns the targets of a Link header (RFC 8288, section 3) whose relation is next.
func nextTargets(header string) []string {
	var targets []string
	for {
		_, rest, ok := strings.Cut(header, "<")
		if !ok {
			return targets
		}
		target, rest, ok := strings.Cut(rest, ">")
		if !ok {
			return targets
		}
		parameters := rest
		if i := strings.IndexByte(rest, '<'); i >= 0 {
			parameters = rest[:i]
		}
		for parameter := range strings.FieldsFuncSeq(parameters, func(r rune) bool { return r == ';' || r == ',' }) {
			name, value, _ := strings.Cut(parameter, "=")
			relations := strings.Fields(strings.ToLower(strings.Trim(strings.TrimSpace(value), `"`)))
			if strings.EqualFold(strings.TrimSpace(name), "rel") && slices.Contains(relations, "next") {
				targets = append(targets, target)
			}
		}
		header = rest
	}
}
