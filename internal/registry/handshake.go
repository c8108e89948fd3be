package registry

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// handshake authenticates the requests of one repository. It asks nothing beforehand: the first request goes out bare, and only a registry
// that answers with a challenge costs two requests more, the one that was challenged and the one for a token (the distribution project's
// token authentication specification). Google's registries take an OAuth token as it is and cost none.
type handshake struct {
	repo   name.Repository
	scheme string
	scopes []string
	auth   authn.Authenticator
	notice func(string)
	next   http.RoundTripper

	first sync.Mutex // held by the request that goes first, so that others do not earn challenges of their own
	mu    sync.Mutex
	asked bool              // the registry has answered something else than a challenge
	ready http.RoundTripper // after the challenge
}

// RoundTrip implements http.RoundTripper. Requests to another host (a blob's storage, say) carry no credentials.
func (h *handshake) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != h.repo.RegistryStr() {
		if r.Header.Get("Authorization") != "" { // net/http repeats it on redirects to another port of the same machine
			r = r.Clone(r.Context())
			r.Header.Del("Authorization")
		}
		return h.next.RoundTrip(r)
	}
	if ready, asked := h.state(); ready != nil {
		return ready.RoundTrip(r)
	} else if !asked {
		h.first.Lock()
		ready, asked := h.state()
		if asked || ready != nil { // another request went first
			h.first.Unlock()
			return h.RoundTrip(r)
		}
		defer h.first.Unlock()
	}
	resp, err := h.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusUnauthorized {
		h.mu.Lock()
		h.asked = true
		h.mu.Unlock()
		return resp, nil
	}
	asks, ok := challenge(resp.Header.Values("WWW-Authenticate"))
	again := r.Clone(r.Context())
	if r.Body != nil && r.GetBody != nil {
		if again.Body, err = r.GetBody(); err != nil {
			return nil, err
		}
	}
	if !ok || r.Body != nil && r.GetBody == nil {
		return resp, nil
	}
	ready, err := h.answer(r.Context(), asks)
	if err != nil {
		return nil, err
	}
	if ready == nil { // nothing to answer with: the refusal is the registry's word
		return resp, nil
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, errorLimit)) // so that the connection can be used again
	_ = resp.Body.Close()
	return ready.RoundTrip(again)
}

func (h *handshake) state() (http.RoundTripper, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready, h.asked
}

// answer gives the registry what it asks for, and remembers it.
func (h *handshake) answer(ctx context.Context, asks transport.Challenge) (http.RoundTripper, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ready != nil { // another request was quicker
		return h.ready, nil
	}
	asks.Insecure = h.scheme == "http"
	auth, token := h.auth, &transport.Token{}
	if strings.EqualFold(asks.Scheme, "basic") {
		if auth == authn.Anonymous {
			return nil, nil
		}
	} else {
		realm, err := url.Parse(asks.Parameters["realm"])
		if err != nil || realm.Host == "" {
			return nil, errToken
		}
		if auth != authn.Anonymous && !related(h.repo.RegistryStr(), realm.Host) {
			h.notice(fmt.Sprintf("the credentials for %s are not given to its token server, which is on another domain (%.100q)", h.repo.RegistryStr(), realm.Host))
			auth = authn.Anonymous
		}
		config, err := authn.Authorization(ctx, auth)
		if err != nil {
			return nil, fmt.Errorf("reading the credentials for %s: %w", h.repo.RegistryStr(), err)
		}
		if config.RegistryToken != "" {
			token.Token = config.RegistryToken
		} else if token, err = transport.Exchange(ctx, h.repo.Registry, auth, h.next, h.scopes, &asks); err != nil {
			return nil, err
		}
		if token.Token == "" {
			token.Token = token.AccessToken
		}
		if token.Token == "" {
			return nil, errToken
		}
	}
	ready, err := transport.FromToken(h.repo.Registry, auth, h.next, &asks, token)
	if err != nil {
		return nil, err
	}
	h.ready = ready
	return ready, nil
}

// related reports whether a token server may be given the registry's credentials: it is the same host, below it, or beside it in one domain
// of at least two labels (registry.gitlab.com and gitlab.com, index.docker.io and auth.docker.io). The registry names its token server
// itself, so that whoever answers in its place could collect passwords.
func related(registry, realm string) bool {
	if registry == realm {
		return true
	}
	host := func(s string) string {
		if h, _, err := net.SplitHostPort(s); err == nil {
			s = h
		}
		return strings.ToLower(s)
	}
	registry, realm = host(registry), host(realm)
	if net.ParseIP(registry) != nil || net.ParseIP(realm) != nil || registry == "localhost" {
		return false // another port is another server
	}
	_, domain, _ := strings.Cut(registry, ".")
	return registry == realm || strings.HasSuffix(realm, "."+registry) ||
		strings.Contains(domain, ".") && (realm == domain || strings.HasSuffix(realm, "."+domain))
}

// challenge reads WWW-Authenticate headers (RFC 9110, section 11.6.1) and prefers a token over a password.
func challenge(headers []string) (transport.Challenge, bool) {
	var found transport.Challenge
	for _, header := range headers {
		for _, c := range challenges(header) {
			switch strings.ToLower(c.Scheme) {
			case "bearer":
				if c.Parameters["realm"] != "" {
					return c, true
				}
			case "basic":
				found = c
			}
		}
	}
	return found, found.Scheme != ""
}

// challenges reads one header: schemes, each with parameters, all separated by commas.
func challenges(s string) []transport.Challenge {
	var list []transport.Challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		word := s[:len(s)-len(strings.TrimLeft(s, tokenCharacters))]
		if word == "" {
			return list
		}
		s = strings.TrimLeft(s[len(word):], " \t")
		rest, isParameter := strings.CutPrefix(s, "=")
		if !isParameter {
			list = append(list, transport.Challenge{Scheme: word, Parameters: map[string]string{}})
			continue
		}
		var value string
		if value, s = parameterValue(strings.TrimLeft(rest, " \t")); len(list) == 0 {
			return nil // a parameter of nothing
		}
		list[len(list)-1].Parameters[strings.ToLower(word)] = value
	}
}

const tokenCharacters = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// parameterValue reads a token or a quoted string, and returns what follows it.
func parameterValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		rest = strings.TrimLeft(s, tokenCharacters+"/=:@") // some registries do not quote URLs
		return s[:len(s)-len(rest)], rest
	}
	var text strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return text.String(), s[i+1:]
		case '\\':
			if i++; i == len(s) {
				return "", ""
			}
		}
		text.WriteByte(s[i])
	}
	return "", ""
}

// direct sends an OAuth token of Google as the bearer token, without asking first (Artifact Registry, "Support for the Docker Registry API").
type direct struct {
	host string
	auth authn.Authenticator
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Del("Authorization")
	if r.URL.Host == d.host {
		config, err := authn.Authorization(r.Context(), d.auth)
		if err != nil {
			return nil, &tokenError{err}
		}
		r.Header.Set("Authorization", "Bearer "+config.Password)
	}
	return d.next.RoundTrip(r)
}
