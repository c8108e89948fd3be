package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
)

// metadataServer plays the metadata server of a build ("About VM metadata" and "Authenticate workloads using service accounts" of Compute
// Engine's documentation): it wants the Metadata-Flavor header and answers with it.
func metadataServer(t *testing.T, token http.HandlerFunc) *[]string {
	t.Helper()
	var (
		mu    sync.Mutex
		asked []string
	)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.URL.Path)
		mu.Unlock()
		if r.Header.Get("Metadata-Flavor") != "Google" {
			http.Error(w, "no flavor", http.StatusForbidden)
			return
		}
		w.Header().Set("Metadata-Flavor", "Google")
		switch r.URL.Path {
		case "/computeMetadata/v1/instance/service-accounts/default/token":
			w.Header().Set("Content-Type", "application/json")
			token(w, r)
		case "/computeMetadata/v1/instance/service-accounts/default/email":
			fmt.Fprint(w, "builder@my-cloud.iam.gserviceaccount.com")
		case "/computeMetadata/v1/universe/universe-domain":
			fmt.Fprint(w, "googleapis.com")
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	home := t.TempDir() // no gcloud, no application default credentials, no Docker config
	for k, v := range map[string]string{
		"GCE_METADATA_HOST": strings.TrimPrefix(server.URL, "http://"), "HOME": home, "DOCKER_CONFIG": home, "CLOUDSDK_CONFIG": home,
		"GOOGLE_APPLICATION_CREDENTIALS": "", "PATH": home,
	} {
		t.Setenv(k, v)
	}
	return &asked
}

func goodToken(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, `{"access_token":%q,"expires_in":3599,"token_type":"Bearer"}`, canary)
}

// asHost lets a client reach a handler, over TLS, under any host name. It returns the client's transport and what the handler was asked.
func asHost(t *testing.T, act http.HandlerFunc) (http.RoundTripper, *[]string) {
	t.Helper()
	var (
		mu  sync.Mutex
		log []string
	)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		log = append(log, r.Method+" "+r.Host+r.URL.Path+" "+r.Header.Get("Authorization"))
		mu.Unlock()
		act(w, r)
	}))
	t.Cleanup(server.Close)
	transport := server.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the certificate of a test server is not of this name
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}
	return transport, &log
}

func TestArtifactRegistryGetsTheTokenAtOnce(t *testing.T) {
	asked := metadataServer(t, goodToken)
	for _, host := range []string{"europe-docker.pkg.dev", "eu.gcr.io", "gcr.io"} {
		transport, log := asHost(t, func(w http.ResponseWriter, r *http.Request) { refuse(w, 404, "MANIFEST_UNKNOWN", "manifest unknown") })
		c := client()
		c.base = transport
		for _, tag := range []string{"v1.0.0", "v1.0.1"} {
			if _, found, err := c.Resolve(t.Context(), host+"/my-cloud/services/backend", tag); found || err != nil {
				t.Fatal(found, err)
			}
		}
		want := []string{
			"GET " + host + "/v2/my-cloud/services/backend/manifests/v1.0.0 Bearer " + canary,
			"GET " + host + "/v2/my-cloud/services/backend/manifests/v1.0.1 Bearer " + canary,
		}
		if diff := cmp.Diff(want, *log); diff != "" {
			t.Error(diff)
		}
	}
	if n := strings.Count(strings.Join(*asked, "\n"), "/token"); n != 3 {
		t.Errorf("each client asked for one token, and %d were given", n)
	}
}

func TestHostsThatLookLikeGooglesGetNoToken(t *testing.T) {
	asked := metadataServer(t, goodToken)
	for _, host := range []string{"pkg.dev", "europe-docker.pkg.dev.example", "xgcr.io", "gcr.io.example", "registry.test", "pkg.dev:443"} {
		transport, log := asHost(t, func(w http.ResponseWriter, r *http.Request) { refuse(w, 404, "MANIFEST_UNKNOWN", "manifest unknown") })
		c := client()
		c.base = transport
		if _, found, err := c.Resolve(t.Context(), host+"/demo/backend", "v1.0.0"); found || err != nil {
			t.Fatal(found, err)
		}
		if got := strings.Join(*log, "\n"); strings.Contains(got, canary) || !strings.HasSuffix(got, "v1.0.0 ") {
			t.Errorf("%s was asked %s", host, got)
		}
	}
	if len(*asked) != 0 {
		t.Errorf("the metadata server was asked for %v", *asked)
	}
}

func TestARefusalOfArtifactRegistryNamesPermissionRepositoryAndIdentity(t *testing.T) {
	metadataServer(t, goodToken)
	transport, _ := asHost(t, func(w http.ResponseWriter, r *http.Request) {
		refuse(w, 403, "DENIED", `Permission "artifactregistry.repositories.downloadArtifacts" denied`)
	})
	c := client()
	c.base = transport
	_, _, err := c.Resolve(t.Context(), "europe-docker.pkg.dev/my-cloud/services/backend", "v1.0.0")
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatal(err)
	}
	const identity = "builder@my-cloud.iam.gserviceaccount.com"
	if want := "(needs artifactregistry.repositories.downloadArtifacts; asked as " + identity + ")"; !strings.HasSuffix(e.Error(), want) {
		t.Errorf("error %q, want %q at its end", e, want)
	}
	want := "grant " + identity + " artifactregistry.repositories.downloadArtifacts on europe-docker.pkg.dev/my-cloud/services/backend (on Artifact Registry: roles/artifactregistry.reader)"
	if e.Fix() != want {
		t.Errorf("fix %q, want %q", e.Fix(), want)
	}
}

func TestAMetadataServerThatDoesNotHelpIsReportedAndSkipped(t *testing.T) {
	for name, c := range map[string]struct {
		token  http.HandlerFunc
		notice string
	}{
		"no service account": {http.NotFound, "the metadata server knows no service account"},
		"a refusal":          {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, canary, 403) }, "the metadata server answered 403"},
		"no token inside":    {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"x":%q}`, canary) }, "did not give one"},
		"no JSON":            {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, canary) }, "did not give one"},
	} {
		t.Run(name, func(t *testing.T) {
			metadataServer(t, c.token)
			transport, log := asHost(t, func(w http.ResponseWriter, r *http.Request) { refuse(w, 403, "DENIED", "denied") })
			var notices []string
			client := client(WithNotice(func(s string) { notices = append(notices, s) }))
			client.base = transport
			if _, found, err := client.Resolve(t.Context(), "europe-docker.pkg.dev/my-cloud/services/backend", "v1.0.0"); found || err == nil {
				t.Error(found, err)
			}
			got := strings.Join(notices, "\n")
			if !strings.Contains(got, c.notice) || strings.Contains(got, canary) {
				t.Errorf("notices %q, want %q", got, c.notice)
			}
			if strings.Contains(strings.Join(*log, "\n"), "Bearer") {
				t.Errorf("asked %v", *log)
			}
		})
	}
}

// Cloud Build writes a token under this user name into the Docker config of each build.
func TestATokenInTheDockerConfigIsSentToArtifactRegistryAtOnce(t *testing.T) {
	transport, log := asHost(t, func(w http.ResponseWriter, r *http.Request) { refuse(w, 404, "MANIFEST_UNKNOWN", "manifest unknown") })
	for user, header := range map[string]string{"oauth2accesstoken": "Bearer " + canary, "_json_key": "", "robot": ""} {
		*log = nil
		c := client(WithKeychain(fixed{authn.AuthConfig{Username: user, Password: canary}}))
		c.base = transport
		if _, found, err := c.Resolve(t.Context(), "europe-docker.pkg.dev/my-cloud/services/backend", "v1.0.0"); found || err != nil {
			t.Fatal(found, err)
		}
		if len(*log) != 1 || !strings.HasSuffix((*log)[0], " "+header) {
			t.Errorf("%s: asked %q, want one request with %q", user, *log, header)
		}
	}
}

func TestCredentialsGoToATokenServerOfTheSameDomainOnly(t *testing.T) {
	for _, c := range []struct {
		registry, realm string
		want            bool
	}{
		{"quay.io", "quay.io", true}, {"registry.gitlab.com", "gitlab.com", true}, {"index.docker.io", "auth.docker.io", true},
		{"registry.example.com:5050", "gitlab.example.com", true}, {"example.com:5050", "auth.example.com", true}, {"ghcr.io", "ghcr.io:443", true},
		{"ghcr.io", "quay.io", false}, {"registry.test", "other.test", false}, {"registry.example.com", "example.com.evil.test", false},
		{"registry.example.com", "evilexample.com", false}, {"127.0.0.1:5000", "127.0.0.1:5001", false}, {"127.0.0.1:5000", "127.0.0.1:5000", true},
		{"localhost:5000", "localhost:5001", false},
	} {
		if got := related(c.registry, c.realm); got != c.want {
			t.Errorf("%s and %s: %v", c.registry, c.realm, got)
		}
	}
	for realm, gets := range map[string]bool{"auth.example.com": true, "auth.evil.test": false} {
		var sent string
		transport, _ := asHost(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/token":
				sent = r.Host + " " + r.Header.Get("Authorization")
				fmt.Fprint(w, `{"access_token":"good"}`)
			case r.Header.Get("Authorization") == "Bearer good":
				refuse(w, 404, "MANIFEST_UNKNOWN", "manifest unknown")
			default:
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Basic realm="x", Bearer realm="https://%s/token",service=test,scope="repository:demo:pull,push"`, realm))
				refuse(w, 401, "UNAUTHORIZED", "authentication required")
			}
		})
		var notices []string
		c := client(WithKeychain(fixed{authn.AuthConfig{Username: "robot", Password: canary}}), WithNotice(func(s string) { notices = append(notices, s) }))
		c.base = transport
		if _, found, err := c.Resolve(t.Context(), "registry.example.com/demo", "v1.0.0"); found || err != nil {
			t.Fatal(found, err)
		}
		if !strings.HasPrefix(sent, realm) || strings.Contains(sent, "Basic") != gets || (len(notices) == 0) != gets {
			t.Errorf("%s: sent %q, notices %q", realm, sent, notices)
		}
	}
}

func TestAChallengeIsReadAsTheRFCWritesIt(t *testing.T) {
	for header, want := range map[string]string{
		`Bearer realm="https://a.test/t",service="s",scope="repository:demo:pull,push"`: "Bearer https://a.test/t s repository:demo:pull,push",
		`Basic realm="x"`: "Basic x  ", `basic`: "basic   ", ``: "   ", `=`: "   ", `realm="x"`: "   ",
		`Basic realm="x", Bearer realm="y"`:      "Bearer y  ",
		`Negotiate abc==, Bearer realm="y"`:      "Bearer y  ",
		`Bearer service="s"`:                     "   ", // nowhere to ask
		`Bearer realm="a\"b", service=s`:         `Bearer a"b s `,
		`Bearer realm=https://a.test/t,service=`: "Bearer https://a.test/t  ",
		`Bearer realm="unfinished`:               "   ",
		`NTLM`:                                   "   ",
	} {
		c, _ := challenge([]string{header})
		got := strings.Join([]string{c.Scheme, c.Parameters["realm"], c.Parameters["service"], c.Parameters["scope"]}, " ")
		if got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
}

func FuzzChallenge(f *testing.F) {
	for _, s := range []string{`Bearer realm="https://a.test/t",service="s"`, `Basic realm="x\"", Bearer realm=y`, `a b="`, `a b=c d`, `,,=`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, ok := challenge([]string{s}); ok && !strings.EqualFold(c.Scheme, "basic") && c.Parameters["realm"] == "" {
			t.Errorf("%q: %v", s, c)
		}
	})
}

// The source, the look and the tombstone, the write, the look after it: a login adds nothing to that on Artifact Registry.
func TestTaggingOnArtifactRegistryCostsNoRequestForTheLogin(t *testing.T) {
	repository := folder(t)
	seed(t, repository, "build")
	metadataServer(t, goodToken) // from here on no program can be found
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: realHost(t)}) }}
	transport, log := asHost(t, forward.ServeHTTP)
	c := client()
	c.base = transport
	image, found, err := c.Resolve(t.Context(), "europe-docker.pkg.dev/"+repository, "build")
	if err != nil || !found {
		t.Fatal(found, err)
	}
	if state, err := c.Tag(t.Context(), "europe-docker.pkg.dev/"+repository, "v1.0.0", image); err != nil || state != Created {
		t.Fatal(state, err)
	}
	if len(*log) != 5 {
		t.Errorf("%d requests: %q", len(*log), *log)
	}
	for _, line := range *log {
		if !strings.HasSuffix(line, " Bearer "+canary) {
			t.Errorf("%s was asked without the token", line)
		}
	}
}
