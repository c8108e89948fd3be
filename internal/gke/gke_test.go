package gke

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"
)

func name(t *testing.T, s string) Name {
	t.Helper()
	var n Name
	if err := n.UnmarshalText([]byte(s)); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestANameIsAClusterOrAMember(t *testing.T) {
	for _, s := range []string{
		"projects/my-cloud/locations/europe-west1/clusters/prod", "projects/my-cloud/locations/europe-west1-b/clusters/prod-1",
		"projects/123456/locations/global/memberships/edge", "projects/example.com:my-cloud/locations/us-central1/clusters/c",
	} {
		if got := name(t, s).String(); got != s {
			t.Errorf("%s became %s", s, got)
		}
	}
	for _, s := range []string{
		"", "prod", "projects/p/locations/l/clusters/", "projects/p/locations/l/clusters/c/nodePools/x", "projects/p/zones/z/clusters/c",
		"projects/p/locations/l/clusters/../../x", "projects/p/locations/l/clusters/c?x=y", "projects/p/locations/l/clusters/c\n", "projects/P/locations/l/clusters/c",
	} {
		if err := new(Name).UnmarshalText([]byte(s)); err == nil {
			t.Errorf("%q is taken for a name", s)
		}
	}
}

func FuzzName(f *testing.F) {
	f.Add("projects/p/locations/l/clusters/c")
	f.Add("projects/example.com:p/locations/l/memberships/c")
	f.Fuzz(func(t *testing.T, s string) {
		var n Name
		if n.UnmarshalText([]byte(s)) != nil {
			return
		}
		if n.String() != s || strings.ContainsAny(s, "?#% \\\n") || strings.Contains(s, "//") || strings.Contains(s, "/../") || strings.Count(s, "/") != 5 {
			t.Errorf("%q became %q", s, n)
		}
	})
}

func TestTokensGoOnlyOverHTTPS(t *testing.T) {
	for s, ok := range map[string]bool{
		"https://container.googleapis.com": true, "https://container-vpc.p.googleapis.com:443": true, "http://127.0.0.1:8080": true, "http://[::1]:8080": true,
		"http://container.googleapis.com": false, "http://127.0.0.1.example.com": false, "http://localhost:1": false, "https://u:p@host": false, "https://host?x=y": false,
		"ftp://127.0.0.1": false, "container.googleapis.com": false, "": false,
	} {
		if err := CheckURL(s); (err == nil) != ok {
			t.Errorf("%s: %v", s, err)
		}
	}
}

const pemText = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

// The expectations are those of the reference of google.container.v1.Cluster and ControlPlaneEndpointsConfig.
func TestTheEndpointThatIsOpenIsChosen(t *testing.T) {
	const (
		all        = `"endpoint":"34.1.2.3","controlPlaneEndpointsConfig":{"dnsEndpointConfig":{"endpoint":"gke-1.europe-west1.gke.goog","allowExternalTraffic":true},"ipEndpointsConfig":{"enabled":true,"enablePublicEndpoint":true,"publicEndpoint":"34.1.2.3","privateEndpoint":"10.0.0.2"}}`
		dnsClosed  = `"endpoint":"34.1.2.3","controlPlaneEndpointsConfig":{"dnsEndpointConfig":{"endpoint":"gke-1.europe-west1.gke.goog"},"ipEndpointsConfig":{"enabled":true,"enablePublicEndpoint":true,"publicEndpoint":"34.1.2.3","privateEndpoint":"10.0.0.2"}}`
		noPublic   = `"endpoint":"10.0.0.2","controlPlaneEndpointsConfig":{"dnsEndpointConfig":{"endpoint":"gke-1.europe-west1.gke.goog"},"ipEndpointsConfig":{"enabled":true,"enablePublicEndpoint":false,"privateEndpoint":"10.0.0.2"}}`
		ipOff      = `"controlPlaneEndpointsConfig":{"dnsEndpointConfig":{"endpoint":"gke-1.europe-west1.gke.goog","allowExternalTraffic":true},"ipEndpointsConfig":{"enabled":false,"publicEndpoint":"34.1.2.3","privateEndpoint":"10.0.0.2"}}`
		old        = `"endpoint":"34.1.2.3"`
		oldPrivate = `"endpoint":"10.0.0.2","privateClusterConfig":{"enablePrivateEndpoint":true,"privateEndpoint":"10.0.0.2","publicEndpoint":"34.1.2.3"}`
		six        = `"endpoint":"2001:db8::1"`
	)
	for _, tt := range []struct {
		name, cluster, prefer, want string
	}{
		{"DNS goes first", all, "auto", "dns https://gke-1.europe-west1.gke.goog"},
		{"unless the public address is asked for", all, "public", "public https://34.1.2.3"},
		{"or the private one", all, "private", "private https://10.0.0.2"},
		{"a DNS endpoint that is closed to others is there all the same, and not taken", dnsClosed, "auto", "public https://34.1.2.3"},
		{"even when it is asked for", dnsClosed, "dns", "has no open dns endpoint"},
		{"a cluster without a public address", noPublic, "auto", "private https://10.0.0.2"},
		{"has none to ask for", noPublic, "public", "has no open public endpoint"},
		{"addresses that are switched off are no addresses", ipOff, "private", "has no open private endpoint"},
		{"but DNS is", ipOff, "auto", "dns https://gke-1.europe-west1.gke.goog"},
		{"a cluster as the API described it before", old, "auto", "public https://34.1.2.3"},
		{"a private one as the API described it before", oldPrivate, "auto", "private https://10.0.0.2"},
		{"an address of IPv6", six, "auto", "public https://[2001:db8::1]"},
		{"nothing is open", `"status":"PROVISIONING"`, "auto", "(PROVISIONING) has no open endpoint"},
		{"something that is no address", `"endpoint":"x@evil.example"`, "auto", "the container API gives"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c clusterAnswer
			if err := json.Unmarshal([]byte("{"+tt.cluster+"}"), &c); err != nil {
				t.Fatal(err)
			}
			c.MasterAuth.ClusterCaCertificate = base64.StdEncoding.EncodeToString([]byte(pemText))
			var a Access
			got := ""
			if err := c.choose(name(t, "projects/p/locations/l/clusters/c"), tt.prefer, &a); err != nil {
				got = err.Error()
			} else {
				got = a.Endpoint + " " + a.Host
				if isDNS := a.Endpoint == "dns"; isDNS != (a.CA == nil) {
					t.Errorf("certificate authority %q", a.CA)
				}
			}
			if !strings.Contains(got, tt.want) {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

func TestAnAddressWithoutAnAuthorityIsNotTrusted(t *testing.T) {
	for _, ca := range []string{"", "!", base64.StdEncoding.EncodeToString([]byte("no certificate"))} {
		c := clusterAnswer{Endpoint: "34.1.2.3"}
		c.MasterAuth.ClusterCaCertificate = ca
		var a Access
		if err := c.choose(name(t, "projects/p/locations/l/clusters/c"), "auto", &a); err == nil || a.CA != nil {
			t.Errorf("%q: %v", ca, err)
		}
	}
}

func TestATokenIsRenewedBeforeItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, broken := 0, false
		tokens := &tokens{fetch: func(context.Context) (*oauth2.Token, error) {
			if broken {
				return nil, errors.New("no answer")
			}
			n++
			return &oauth2.Token{AccessToken: fmt.Sprint("t", n), Expiry: time.Now().Add(time.Hour)}, nil
		}}
		get := func(refused string) string {
			token, err := tokens.get(t.Context(), refused)
			if err != nil {
				return err.Error()
			}
			return token
		}
		var got []string
		step := func(after time.Duration, refused string) { time.Sleep(after); got = append(got, get(refused)) }
		step(0, "")
		step(56*time.Minute, "") // 4 minutes are left
		step(30*time.Second, "") // 3½: the metadata server has a new one by now
		step(0, "t2")            // the server refuses it
		broken = true
		step(58*time.Minute, "") // the old one is still good
		step(3*time.Minute, "")  // and now it is not
		if diff := cmp.Diff([]string{"t1", "t1", "t2", "t3", "t3", "no answer"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// server answers with what respond says, and counts.
func server(t *testing.T, respond func(n int, r *http.Request) (int, string)) (*httptest.Server, *int) {
	t.Helper()
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		code, text := respond(n, r)
		w.Header().Set("Metadata-Flavor", "Google")
		if to, ok := strings.CutPrefix(text, "redirect:"); ok {
			w.Header().Set("Location", to)
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(s.Close)
	return s, &n
}

func TestARequestThatIsNotLetInIsSentAgainWithAnotherToken(t *testing.T) {
	var seen []string
	s, _ := server(t, func(_ int, r *http.Request) (int, string) {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, r.Header.Get("Authorization")+" "+string(body))
		if r.Header.Get("Authorization") == "Bearer t1" {
			return http.StatusUnauthorized, "no"
		}
		return http.StatusOK, "yes"
	})
	n := 0
	client := &http.Client{Transport: &transport{next: http.DefaultTransport, tokens: &tokens{fetch: func(context.Context) (*oauth2.Token, error) {
		n++
		return &oauth2.Token{AccessToken: fmt.Sprint("t", min(n, 2)), Expiry: time.Now().Add(time.Hour)}, nil
	}}}}
	resp, err := client.Post(s.URL, "text/plain", bytes.NewReader([]byte("body")))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if diff := cmp.Diff([]string{"Bearer t1 body", "Bearer t2 body"}, seen); diff != "" || resp.StatusCode != http.StatusOK {
		t.Error(resp.StatusCode, diff)
	}
	// What refuses every token is not asked for ever.
	seen = nil
	refusing, count := server(t, func(int, *http.Request) (int, string) { return http.StatusUnauthorized, "no" })
	resp, err = client.Get(refusing.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if *count != 1 || resp.StatusCode != http.StatusUnauthorized { // there is no other token than t2
		t.Errorf("%d requests, %d", *count, resp.StatusCode)
	}
}

func TestTheMetadataServerIsAskedAsGoogleSays(t *testing.T) {
	s, n := server(t, func(n int, r *http.Request) (int, string) {
		switch {
		case r.Header.Get("Metadata-Flavor") != "Google":
			return http.StatusForbidden, "no header"
		case n == 1:
			return http.StatusServiceUnavailable, "starting"
		case strings.HasSuffix(r.URL.Path, "/instance/service-accounts/default/email"):
			return http.StatusOK, "builder@p.iam.gserviceaccount.com\n"
		}
		return http.StatusOK, `{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}`
	})
	tokens, who, err := fromMetadata(t.Context(), strings.TrimPrefix(s.URL, "http://"))
	if err != nil || who.email != "builder@p.iam.gserviceaccount.com" {
		t.Fatalf("%v, %v", who, err)
	}
	if token, err := tokens.get(t.Context(), ""); token != "ya29.x" || err != nil || *n != 3 {
		t.Errorf("%s, %v after %d requests", token, err, *n)
	}
	if left := time.Until(tokens.renewAt); left < 50*time.Minute || left > time.Hour {
		t.Errorf("renewed in %s", left)
	}
}

func TestWhatIsNoMetadataServerIsNotBelieved(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>log in to the network</html>") }))
	defer s.Close()
	_, _, err := fromMetadata(t.Context(), strings.TrimPrefix(s.URL, "http://"))
	if err == nil || !strings.Contains(err.Error(), "not a metadata server") {
		t.Error(err)
	}
}

// google is a connection with a fixed token.
func fixed(t *testing.T, api string) *Google {
	t.Helper()
	o := Options{ContainerEndpoint: api, ConnectGatewayEndpoint: api, IAMCredentialsEndpoint: api}
	return &Google{options: o, client: newClient(), identity: identity{email: "b@p.iam.gserviceaccount.com", kind: "serviceAccount"},
		tokens: &tokens{fetch: func(context.Context) (*oauth2.Token, error) { return &oauth2.Token{AccessToken: "canary-token"}, nil }}}
}

func TestAFailureOfTheContainerAPISaysWhatToDo(t *testing.T) {
	disabled := `{"error":{"code":403,"message":"Kubernetes Engine API has not been used in project 1 before or it is disabled.","status":"PERMISSION_DENIED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"SERVICE_DISABLED"}]}}`
	for _, tt := range []struct {
		name     string
		code     int
		body     string
		want     []string
		requests int
	}{
		{"a permission is missing", 403, `{"error":{"message":"Required"}}`, []string{"b@p.iam.gserviceaccount.com lacks the permission container.clusters.get", "--member=serviceAccount:b@p.iam.gserviceaccount.com --role=roles/container.developer"}, 1},
		{"the API is not enabled", 403, disabled, []string{"has not been used", "gcloud services enable container.googleapis.com --project=p"}, 1},
		{"the cluster does not exist", 404, `{"error":{"message":"Not found: x"}}`, []string{"Not found: x", "gcloud container clusters list --project=p"}, 1},
		{"the token is not accepted", 401, "", []string{"the credentials of b@p.iam.gserviceaccount.com are not accepted"}, 1},
		{"the API is down", 503, "<html>", []string{"the answer is 503 Service Unavailable"}, 3},
		{"the answer is cut", 200, `{"endpoint":`, []string{"the answer cannot be read"}, 1},
		{"the answer is a page", 200, `<html>`, []string{"the answer cannot be read"}, 1},
		{"it redirects", 302, "redirect:http://127.0.0.1:1/", []string{"the server redirects to 127.0.0.1:1, which is not followed"}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, n := server(t, func(int, *http.Request) (int, string) { return tt.code, tt.body })
			_, err := fixed(t, s.URL).Find(t.Context(), name(t, "projects/p/locations/l/clusters/c"), "auto")
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("error %v", err)
			}
			for _, want := range tt.want {
				if text := e.Error() + "\n" + e.Fix(); !strings.Contains(text, want) || strings.Contains(text, "canary") {
					t.Errorf("%s\nwant %s", text, want)
				}
			}
			if *n != tt.requests {
				t.Errorf("%d requests, want %d", *n, tt.requests)
			}
		})
	}
}

func TestAGatewayThatNamesAnotherPlaceIsNotBelieved(t *testing.T) {
	for endpoint, ok := range map[string]bool{
		"https://connectgateway.googleapis.com/v1/projects/1/locations/global/gkeMemberships/m": true, "connectgateway.googleapis.com/v1/projects/1": true,
		"http://connectgateway.googleapis.com/v1": false, "": false,
	} {
		s, _ := server(t, func(_ int, r *http.Request) (int, string) {
			if r.URL.Path != "/v1/projects/p/locations/global/memberships/m:generateCredentials" {
				return http.StatusNotFound, ""
			}
			return http.StatusOK, fmt.Sprintf(`{"endpoint":%q,"kubeconfig":"x"}`, endpoint)
		})
		a, err := fixed(t, s.URL).Find(t.Context(), name(t, "projects/p/locations/global/memberships/m"), "auto")
		if (err == nil) != ok || ok && !strings.HasPrefix(a.Host, "https://") {
			t.Errorf("%q: %s, %v", endpoint, a.Host, err)
		}
	}
}

func TestACredentialsFileThatCannotBeUsedIsNotRepeated(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"no JSON", "canary-key", "is not a JSON document"},
		{"another kind", `{"type":"gdch_service_account","private_key":"canary-key"}`, `of the type "gdch_service_account"`},
		{"no kind", `{"private_key":"canary-key"}`, `of the type ""`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key.json")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Connect(t.Context(), Options{CredentialsFile: path})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	// A key that is not one is found out when a token is needed.
	path := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(path, []byte(`{"type":"service_account","client_email":"x@p.iam.gserviceaccount.com","private_key":"canary-key","token_uri":"http://127.0.0.1:1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := Connect(t.Context(), Options{CredentialsFile: path, ContainerEndpoint: "http://127.0.0.1:1"})
	if err == nil {
		_, err = g.Find(t.Context(), name(t, "projects/p/locations/l/clusters/c"), "auto")
	}
	if err == nil || !strings.Contains(err.Error(), "getting an access token for x@p.iam.gserviceaccount.com") || strings.Contains(err.Error(), "canary") {
		t.Error(err)
	}
}
