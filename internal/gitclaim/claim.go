// Package gitclaim decides between writers of one image tag: it creates a ref in a Git repository, which a server does for exactly one of
// them. Registries cannot do that: none compares before it sets a tag. tag-image uses it with the config repo.
//
// A claim is the ref refs/tag-claims/<image>/-/<tag> on a blob that names image, tag and digest. It is made once and stays, so that it
// also outlives a tag that is deleted. Whoever claims the same tag for the same digest makes the same blob, and the claim is theirs as well:
// a build that died can be run again.
//
// It speaks the part of Git's smart HTTP protocol that creates one ref (gitprotocol-http, gitprotocol-pack), by itself: with go-git,
// tag-image would be a fifth larger, and every build pulls it.
package gitclaim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// Repository is a Git repository behind an http or https URL.
type Repository struct {
	URL      string      // http(s)://host/path, without user information
	Username string      // HTTP basic user name; hosts that take tokens ignore it
	Token    secret.Text // HTTP basic password, which must allow pushing; zero: anonymous

	// Renew, when set, is asked for the password before every request, in place of Token: the tokens of a GitHub App live for an hour and
	// are good for one repository, the one behind the URL. It keeps a token for as long as that is good, so asking is cheap.
	Renew func(ctx context.Context, url string) (secret.Text, error)
}

// Claim says which image a tag is for.
type Claim struct {
	Image  string // host/path
	Tag    string
	Digest string // sha256:…
}

// Ref is the name of the claim's ref. No two tags have the same, and none is a folder of another.
func (c Claim) Ref() string {
	elements := append(strings.Split(c.Image, "/"), "-", c.Tag)
	for i, e := range elements {
		elements[i] = refElement(e)
	}
	return "refs/tag-claims/" + strings.Join(elements, "/")
}

// refElement spells what git-check-ref-format does not take: the colon before a port, two dots, and the ends "." and ".lock". Neither
// images nor tags have a percent sign.
func refElement(s string) string {
	if strings.Contains(s, "..") || strings.HasSuffix(s, ".") || strings.HasSuffix(s, ".lock") {
		s = strings.ReplaceAll(s, ".", "%2E")
	}
	return strings.ReplaceAll(s, ":", "%3A")
}

func (c Claim) blob() []byte {
	return fmt.Appendf(nil, "image %s\ntag %s\ndigest %s\n", c.Image, c.Tag, c.Digest)
}

// parse reads the blob of a claim.
func parse(blob []byte) (Claim, error) {
	var c Claim
	lines := strings.Split(string(blob), "\n")
	for i, field := range []*string{&c.Image, &c.Tag, &c.Digest} {
		prefix := []string{"image ", "tag ", "digest "}[i]
		if len(lines) != 4 || !strings.HasPrefix(lines[i], prefix) {
			return Claim{}, errors.New("it is no claim")
		}
		*field = lines[i][len(prefix):]
	}
	if !bytes.Equal(c.blob(), blob) {
		return Claim{}, errors.New("it is no claim")
	}
	return c, nil
}

// TakenError says that the tag is claimed for another image.
type TakenError struct {
	Claim Claim  // what was asked for
	Have  string // digest in the claim that is there; empty when it cannot be read
	URL   string // of the repository
	Err   error  // why it cannot be read
}

// Error prints both digests and where the claim is.
func (e *TakenError) Error() string {
	have := e.Have
	if have == "" {
		have = fmt.Sprintf("something that cannot be read (%v)", e.Err)
	}
	return fmt.Sprintf("%s:%s is claimed for %s by %s of %s, and a tag is never used for two images (asked for %s)",
		e.Claim.Image, e.Claim.Tag, have, e.Claim.Ref(), e.URL, e.Claim.Digest)
}

// Unwrap returns why the claim cannot be read.
func (e *TakenError) Unwrap() error { return e.Err }

const attempts = 6

// Make claims a tag. It returns nil when the tag is claimed for this digest now, by this call or by an earlier one, and a [*TakenError] when
// it is claimed for another. Other errors are an [*AccessError], a [*RefusedError], or a failure of the connection after several attempts.
// A lost answer is resolved by looking.
func (r Repository) Make(ctx context.Context, c Claim) error {
	if strings.ContainsAny(c.Image+c.Tag+c.Digest, "% \n\x00") || c.Image == "" || c.Tag == "" || c.Digest == "" {
		return errors.New("a claim needs an image, a tag and a digest, without blanks and percent signs")
	}
	base, err := url.Parse(r.URL)
	if err != nil || base.Host == "" {
		return errors.New("the config repo's URL cannot be read")
	}
	session := &session{repository: r, base: base, client: client()}
	for n := 0; ; n++ {
		err := session.try(ctx, c)
		if err == nil || !temporary(err) || n+1 == attempts || ctx.Err() != nil || !pause(ctx, n, err) {
			return err
		}
	}
}

// try looks, and creates the ref when it is not there.
func (s *session) try(ctx context.Context, c Claim) error {
	ours := object(c.blob())
	at, err := s.look(ctx, c.Ref())
	switch {
	case err != nil:
		return err
	case at == ours:
		return nil
	case at != "":
		taken := &TakenError{Claim: c, URL: s.repository.URL}
		var blob []byte
		if blob, taken.Err = s.read(ctx, at); taken.Err == nil {
			var there Claim
			if there, taken.Err = parse(blob); taken.Err == nil {
				taken.Have = there.Digest
			}
		}
		return taken
	}
	return s.create(ctx, c.Ref(), c.blob())
}

// client follows redirects on the same host only: net/http would send the credentials to another port of it, and a body nowhere.
func client() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = time.Minute
	return &http.Client{Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		first := via[0]
		if len(via) >= 5 || next.URL.Host != first.URL.Host || next.URL.Scheme != first.URL.Scheme || next.Method != first.Method {
			return errRedirect
		}
		return nil
	}}
}

// pause waits before attempt n+2, longer each time, or as long as the server asks; false when that is later than ctx allows.
func pause(ctx context.Context, n int, failed error) bool {
	longest := 100 * time.Millisecond << n
	delay := longest/2 + rand.N(longest/2)
	if e, ok := errors.AsType[*statusError](failed); ok {
		delay = max(delay, e.retryAfter)
	}
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
