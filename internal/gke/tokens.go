package gke

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/oauth2"
)

// tokens keeps one access token and renews it in time. Tokens of Google live for an hour, and a deployment may take longer.
type tokens struct {
	fetch func(context.Context) (*oauth2.Token, error)

	mu      sync.Mutex
	current *oauth2.Token
	renewAt time.Time
}

// longestMargin before its end is when a token is renewed at the latest. The metadata server itself hands out the old token until about
// four minutes before its end; asking earlier would only get that one again.
const longestMargin = 225 * time.Second

// get returns a token that is still good, and not the one that was refused. A renewal that fails while the old token is good is no failure.
func (t *tokens) get(ctx context.Context, refused string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.current != nil && t.current.AccessToken != refused && (now.Before(t.renewAt) || t.current.Expiry.IsZero()) {
		return t.current.AccessToken, nil
	}
	token, err := t.fetch(ctx)
	switch {
	case err == nil:
		t.current = token
		t.renewAt = token.Expiry.Add(-min(longestMargin, token.Expiry.Sub(now)/4))
		return token.AccessToken, nil
	case t.current != nil && t.current.AccessToken != refused && now.Before(t.current.Expiry):
		return t.current.AccessToken, nil
	}
	return "", err
}

// transport puts the token on every request. A request that the server does not let in (401) was not carried out: it is sent once more, if
// there is another token.
type transport struct {
	next   http.RoundTripper
	tokens *tokens
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := t.tokens.get(r.Context(), "")
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	resp, err := t.next.RoundTrip(bearing(r, token))
	if err != nil || resp.StatusCode != http.StatusUnauthorized || (r.Body != nil && r.Body != http.NoBody && r.GetBody == nil) {
		return resp, err
	}
	other, err := t.tokens.get(r.Context(), token)
	if err != nil || other == token {
		return resp, nil //nolint:nilerr // the server's answer says more than the failed renewal
	}
	again := bearing(r, other)
	if r.GetBody != nil {
		if again.Body, err = r.GetBody(); err != nil {
			return resp, nil //nolint:nilerr // as above
		}
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	_ = resp.Body.Close()
	return t.next.RoundTrip(again)
}

// bearing is the request with a token; a RoundTripper must not change what it is given.
func bearing(r *http.Request, token string) *http.Request {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}
