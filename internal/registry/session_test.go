package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/ociregistry"
)

// fixed is a keychain with one login for everything.
type fixed struct{ authn.AuthConfig }

func (f fixed) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(f.AuthConfig), nil
}

const canary = "canary-password-5d1f"

func TestARegistryWithALoginIsUsedWithIt(t *testing.T) {
	r, err := ociregistry.Start(t.Context(), ociregistry.Options{Username: "robot", Password: canary})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	for _, c := range []struct {
		password string
		status   int
	}{{canary, 0}, {"wrong-" + canary, 401}, {"", 401}} {
		login := fixed{authn.AuthConfig{Username: "robot", Password: c.password}}
		_, found, err := client(WithKeychain(login)).Resolve(t.Context(), r.Host+"/demo", "v1.0.0")
		e, _ := errors.AsType[*Error](err)
		if found || c.status == 0 && err != nil || c.status != 0 && (e == nil || e.Status != c.status) {
			t.Errorf("password %q: %v, want status %d", c.password, err, c.status)
		}
		if err != nil && (strings.Contains(err.Error()+fmt.Sprintf("%+v %#v", err, err), canary)) {
			t.Errorf("error %+v holds the password", err)
		}
	}
}

// tokenRegistry asks for bearer tokens (the distribution project's token specification) and has one tag.
func tokenRegistry(t *testing.T, token func(w http.ResponseWriter, r *http.Request)) string {
	t.Helper()
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			token(w, r)
		case r.Header.Get("Authorization") != "Bearer good":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, server.URL))
			refuse(w, 401, "UNAUTHORIZED", "authentication required")
		case r.URL.Path == "/v2/":
		default:
			refuse(w, 404, "MANIFEST_UNKNOWN", "manifest unknown")
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestATokenIsFetchedOnceAndForWhatTheClientIsFor(t *testing.T) {
	for scope, c := range map[string]*Client{"repository:demo:pull": New(nil), "repository:demo:push,pull": New(nil, ForPush())} {
		var scopes []string
		host := tokenRegistry(t, func(w http.ResponseWriter, r *http.Request) {
			scopes = append(scopes, r.URL.Query().Get("scope"))
			fmt.Fprint(w, `{"token":"good"}`)
		})
		WithKeychain(fixed{})(c)
		for range 3 {
			if _, found, err := c.Resolve(t.Context(), host+"/demo", "v1.0.0"); err != nil || found {
				t.Fatal(found, err)
			}
		}
		if len(scopes) != 1 || scopes[0] != scope {
			t.Errorf("tokens for %q, want one for %q", scopes, scope)
		}
	}
}

func TestATokenServersAnswerIsNotRepeated(t *testing.T) {
	for name, token := range map[string]http.HandlerFunc{
		"an answer without a token": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"refresh_token":%q}`, canary) },
		"a refusal":                 func(w http.ResponseWriter, _ *http.Request) { http.Error(w, canary, 403) },
		"no JSON":                   func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, canary) },
		"a redirect to itself":      func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/token?"+canary, 307) },
	} {
		t.Run(name, func(t *testing.T) {
			c := client(WithKeychain(fixed{authn.AuthConfig{Username: "robot", Password: canary}}))
			_, found, err := c.Resolve(t.Context(), tokenRegistry(t, token)+"/demo", "v1.0.0")
			if err == nil || found {
				t.Fatal(found, err)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("error %q", err)
			}
		})
	}
}

func TestNoCredentialReachesAnotherHost(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
	}))
	t.Cleanup(other.Close)
	basic := func(w http.ResponseWriter, r *http.Request) bool {
		if _, _, ok := r.BasicAuth(); ok {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		refuse(w, 401, "UNAUTHORIZED", "authentication required")
		return false
	}
	for name, act := range map[string]http.HandlerFunc{
		"a redirected manifest": func(w http.ResponseWriter, r *http.Request) {
			if basic(w, r) && r.URL.Path != "/v2/" {
				http.Redirect(w, r, other.URL+"/stolen", 307)
			}
		},
		"a redirected handshake": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL+"/v2/", 307) },
		"a token server elsewhere": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token"`, other.URL))
			refuse(w, 401, "UNAUTHORIZED", "authentication required")
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(act)
			t.Cleanup(server.Close)
			c := client(WithKeychain(fixed{authn.AuthConfig{Username: "robot", Password: canary}}))
			if _, found, err := c.Resolve(t.Context(), strings.TrimPrefix(server.URL, "http://")+"/demo", "v1.0.0"); err == nil || found {
				t.Errorf("found %v, %v", found, err)
			}
			for _, line := range asked {
				t.Errorf("the other host was asked: %s", line)
			}
		})
	}
}

// wire records where requests would go and lets none of them leave.
type wire struct {
	mu   sync.Mutex
	urls []string
}

var errNoNetwork = errors.New("no network in this test")

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.urls = append(w.urls, r.URL.String())
	return nil, errNoNetwork
}

func TestPlainHTTPIsForLoopbackAndForHostsThatAreListed(t *testing.T) {
	insecure := []string{"registry.test:5000", "laptop.test"}
	for host, scheme := range map[string]string{
		"127.0.0.1:5000": "http", "127.9.9.9": "http", "localhost:5000": "http",
		"registry.test:5000": "http", "laptop.test": "http", "laptop.test:1234": "http",
		"registry.test:5001": "https", "registry.test": "https", "10.0.0.1:5000": "https", "192.168.1.1": "https", "machine.local": "https",
		"localhost.example": "https", "127.0.0.1.example": "https", "europe-docker.pkg.dev": "https",
	} {
		w := &wire{}
		c := New(insecure, WithKeychain(fixed{}))
		c.base, c.pause = w, 1
		_, found, err := c.Resolve(t.Context(), host+"/demo/backend", "v1.0.0")
		if err == nil || found || len(w.urls) == 0 {
			t.Fatalf("%s: found %v, %v, %v", host, found, err, w.urls)
		}
		for _, u := range w.urls {
			if u != scheme+"://"+host+"/v2/demo/backend/manifests/v1.0.0" {
				t.Errorf("%s: request to %s, want %s", host, u, scheme)
			}
		}
	}
}

func TestAServerWithoutTLSIsNamedAsSuch(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	c := New(nil, WithKeychain(fixed{}))
	c.pause = 1
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}
	c.base = transport
	_, _, err := c.Resolve(t.Context(), "registry.test:5000/demo", "v1.0.0")
	e, ok := errors.AsType[*Error](err)
	if !ok || !strings.Contains(e.Fix(), "list registry.test:5000 in REGISTRY_INSECURE") {
		t.Errorf("error %v, fix %q", err, e.Fix())
	}
}

func TestAMissingCredentialHelperIsSkippedWithANotice(t *testing.T) {
	repository := folder(t)
	seed(t, repository, "v1.0.0")
	for name, c := range map[string]struct{ config, notice string }{
		"a helper that is not installed": {fmt.Sprintf(`{"credHelpers":{%q:"gcloud-not-here"}}`, realHost(t)), "names a credential helper for " + realHost(t) + " that is not installed here"},
		"a store that is not installed":  {`{"credsStore":"gcloud-not-here"}`, "not installed here"},
		"a config that is no JSON":       {`{"auths":` + canary, "cannot be used"},
		"a config without this host":     {`{"auths":{"https://gcr.io":{"auth":"eDp5"}}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			dir := filepath.Join(home, ".docker")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("HOME", home)
			t.Setenv("DOCKER_CONFIG", dir) // the library looks HOME up once a process
			var notices []string
			_, found, err := client(WithNotice(func(s string) { notices = append(notices, s) })).Resolve(t.Context(), realHost(t)+"/"+repository, "v1.0.0")
			if err != nil || !found {
				t.Errorf("found %v, %v", found, err)
			}
			got := strings.Join(notices, "\n")
			if !strings.Contains(got, c.notice) || c.notice == "" && got != "" || strings.Contains(got, canary) {
				t.Errorf("notices %q, want %q", got, c.notice)
			}
		})
	}
}

func TestOnlyBlobsMayBeKeptOnAnotherHost(t *testing.T) {
	to := func(address string) *http.Request {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for from, allowed := range map[string]bool{
		"https://registry.test/v2/demo/blobs/sha256:00":     true,
		"https://registry.test/v2/demo/manifests/v1.0.0":    false,
		"https://registry.test/v2/demo/tags/list?x=/blobs/": false,
	} {
		if err := checkRedirect(to("https://storage.test/x"), []*http.Request{to(from)}); (err == nil) != allowed {
			t.Errorf("%s: %v", from, err)
		}
	}
}
