package artifactregistry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/oauth2"

	testserver "github.com/deepdesk/cloudbuild-steps/internal/rehearsal/artifactregistry"
)

func start(t *testing.T, lists map[string][]string) (*testserver.Server, *Client) {
	t.Helper()
	s, err := testserver.StartLists(lists)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c := New(s.Endpoint)
	c.pause = time.Millisecond
	return s, c
}

var backend = Package{Project: "example-cloud", Location: "europe", Repository: "services", Name: "backend"}

// The forms are those of https://cloud.google.com/artifact-registry/docs/docker/names and of Package.name in the API's definition.
func TestImagesAreNamedAsTheAPIDoes(t *testing.T) {
	for _, tt := range []struct {
		image, resource string
		ours            bool
	}{
		{"europe-docker.pkg.dev/example-cloud/services/backend", "projects/example-cloud/locations/europe/repositories/services/packages/backend", true},
		{"europe-west1-docker.pkg.dev/p/r/team/app", "projects/p/locations/europe-west1/repositories/r/packages/team%2Fapp", true},
		{"us-docker.pkg.dev/example.com/p/r/app", "projects/example.com:p/locations/us/repositories/r/packages/app", true},
		{"127.0.0.1:5000/p/r/app", "projects/p/locations/local/repositories/r/packages/app", true},
		{"gcr.io/p/app", "", false},
		{"docker.io/library/alpine", "", false},
		{"evil-docker.pkg.dev.example.com/p/r/app", "", false},
		{"evil.example.com-docker.pkg.dev/p/r/app", "", false},
		{"-docker.pkg.dev/p/r/app", "", false},
	} {
		p, ours, err := Parse(tt.image)
		if err != nil || ours != tt.ours || ours && p.Resource() != tt.resource {
			t.Errorf("%s: %s, %v, %v", tt.image, p.Resource(), ours, err)
		}
	}
	for _, image := range []string{"europe-docker.pkg.dev/p/r", "europe-docker.pkg.dev/p", "europe-docker.pkg.dev", "us-docker.pkg.dev/example.com/p/r"} {
		if _, ours, err := Parse(image); !ours || err == nil {
			t.Errorf("%s: %v, %v", image, ours, err)
		}
	}
}

func TestTheTagsOfARealRegistryAreListed(t *testing.T) {
	s, err := testserver.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for _, tag := range []string{"v1.0.0", "main-0a1b2c3-1700000000", "UPPER_case.1"} {
		img, err := random.Image(64, 1)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.NewTag(s.Host+"/example-cloud/services/team/app:"+tag, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, img); err != nil {
			t.Fatal(err)
		}
	}
	before := len(s.Requests())
	c := New(s.Endpoint)
	nested := backend
	nested.Name = "team/app"
	got, err := c.TagsOf(t.Context(), nested)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"UPPER_case.1", "main-0a1b2c3-1700000000", "v1.0.0"}, got); diff != "" {
		t.Error(diff)
	}
	// Google's generated client escapes the escaped slash of the package once more.
	if asked := s.Requests()[before]; !strings.Contains(asked, "/packages/team%252Fapp/tags") {
		t.Errorf("it was asked: %s", asked)
	}
	if got, err := c.TagsOf(t.Context(), backend); err != nil || len(got) > 0 {
		t.Errorf("an image that does not exist: %q, %v", got, err)
	}
}

// Docker's protocol is incomplete here; this is what the API is for.
func TestMoreThanTenThousandTagsAreAllListed(t *testing.T) {
	var want []string
	for i := range 12_345 {
		want = append(want, fmt.Sprintf("main-%07x-%d", i*7919, 1700000000+i))
	}
	slices.Sort(want)
	s, c := start(t, map[string][]string{"example-cloud/services/backend": want})
	got, err := c.TagsOf(t.Context(), backend)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%d tags of %d, %v", len(got), len(want), err)
	}
	if n := len(s.Requests()); n != 13 {
		t.Errorf("%d requests: want one for each thousand", n)
	}
}

func TestFaultsThatPassAreWaitedOut(t *testing.T) {
	s, c := start(t, map[string][]string{"example-cloud/services/backend": {"v1.0.0", "v1.1.0"}})
	faults := []func(w http.ResponseWriter){
		func(w http.ResponseWriter) { testserver.Refuse(w, 503, "UNAVAILABLE", "try again", "") },
		func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "1")
			testserver.Refuse(w, 429, "RESOURCE_EXHAUSTED", "Quota exceeded", "RATE_LIMIT_EXCEEDED")
		},
		func(w http.ResponseWriter) { panic(http.ErrAbortHandler) }, // the connection breaks off
	}
	s.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		if len(faults) == 0 {
			return false
		}
		f := faults[0]
		faults = faults[1:]
		f(w)
		return true
	})
	began := time.Now()
	got, err := c.TagsOf(t.Context(), backend)
	if err != nil || len(got) != 2 {
		t.Fatalf("%q, %v", got, err)
	}
	if n := len(s.Requests()); n != 4 {
		t.Errorf("%d requests", n)
	}
	if time.Since(began) < time.Second {
		t.Error("Retry-After was not obeyed")
	}
}

func TestAServerThatSaysToComeBackAfterTheDeadlineIsNotWaitedFor(t *testing.T) {
	s, c := start(t, map[string][]string{})
	s.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "3600")
		testserver.Refuse(w, 429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Requests'", "RATE_LIMIT_EXCEEDED")
		return true
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.TagsOf(ctx, backend)
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != 429 || len(s.Requests()) != 1 || ctx.Err() != nil {
		t.Fatalf("%v after %d requests", err, len(s.Requests()))
	}
	if !strings.Contains(e.Fix(), "quota") {
		t.Errorf("fix: %q", e.Fix())
	}
}

// Each row is an answer and what the reader of the error must find in it.
func TestRefusalsSayWhatToDo(t *testing.T) {
	denied := "Permission 'artifactregistry.tags.list' denied on resource '//artifactregistry.googleapis.com/projects/example-cloud/locations/europe/repositories/services' (or it may not exist)."
	for _, tt := range []struct {
		name      string
		answer    func(w http.ResponseWriter)
		text, fix string
		requests  int
	}{
		{"no permission", func(w http.ResponseWriter) {
			testserver.Refuse(w, 403, "PERMISSION_DENIED", denied, "IAM_PERMISSION_DENIED")
		},
			"listing the tags of projects/example-cloud/locations/europe/repositories/services/packages/backend: Artifact Registry answered 403 PERMISSION_DENIED: " + denied + " (needs artifactregistry.tags.list)",
			"grant the build's service account roles/artifactregistry.reader on repository services of project example-cloud, which has artifactregistry.tags.list", 1},
		{"the API is off", func(w http.ResponseWriter) {
			testserver.Refuse(w, 403, "PERMISSION_DENIED", "Artifact Registry API has not been used in project", "SERVICE_DISABLED")
		}, "has not been used", "enable artifactregistry.googleapis.com in project example-cloud", 1},
		{"no identity", func(w http.ResponseWriter) { testserver.Refuse(w, 401, "UNAUTHENTICATED", "no credentials", "") },
			"401 UNAUTHENTICATED", "give this machine a Google identity", 1},
		{"a proxy's 404", func(w http.ResponseWriter) { http.Error(w, "<html>no such page", 404) }, "status 404, which is not the answer of Artifact Registry", "", 1},
		{"a redirect", func(w http.ResponseWriter) { w.Header().Set("Location", "https://example.com/"); w.WriteHeader(302) }, "redirects elsewhere", "", 1},
		{"down for good", func(w http.ResponseWriter) { testserver.Refuse(w, 503, "UNAVAILABLE", "down", "") }, "503 UNAVAILABLE: down", "", attempts},
		{"no JSON", func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) }, "reading the answer", "", 1},
		{"a tag of another image", func(w http.ResponseWriter) {
			_, _ = w.Write([]byte(`{"tags":[{"name":"projects/example-cloud/locations/europe/repositories/services/packages/other/tags/v1"}]}`))
		}, "which is no tag of it", "", 1},
		{"the same page for ever", func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"nextPageToken":"x"}`)) }, "the same page again", "", 2},
		{"an answer without end", func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, bodyLimit+1)) }, "longer than", "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, c := start(t, map[string][]string{})
			s.Intercept(func(w http.ResponseWriter, _ *http.Request) bool { tt.answer(w); return true })
			tags, err := c.TagsOf(t.Context(), backend)
			e, ok := errors.AsType[*Error](err)
			if !ok || len(tags) > 0 {
				t.Fatalf("%q, %v", tags, err)
			}
			if !strings.Contains(e.Error(), tt.text) {
				t.Errorf("error %q, want %q", e, tt.text)
			}
			if !strings.HasPrefix(e.Fix(), tt.fix) || tt.fix == "" && e.Fix() != "" {
				t.Errorf("fix %q, want %q", e.Fix(), tt.fix)
			}
			if n := len(s.Requests()); n != tt.requests {
				t.Errorf("%d requests, want %d", n, tt.requests)
			}
		})
	}
}

type tokens struct{ err error }

func (s tokens) Token() (*oauth2.Token, error) {
	return &oauth2.Token{AccessToken: "canary-token"}, s.err
}

// A token goes to the API over TLS and nowhere else, and never into an error.
func TestATokenIsSentOverTLSOnly(t *testing.T) {
	var authorization string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorization = r.Header.Get("Authorization")
		testserver.Refuse(w, 403, "PERMISSION_DENIED", "no", "")
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "https://")

	c := New("")
	if c.root.String() != "https://artifactregistry.googleapis.com" {
		t.Errorf("by default it asks %s", c.root.String())
	}
	c.root.Host = host
	c.http.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	c.source = func(context.Context) (oauth2.TokenSource, error) { return tokens{}, nil }
	if _, err := c.TagsOf(t.Context(), backend); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("%v", err)
	}
	if authorization != "Bearer canary-token" {
		t.Errorf("Authorization %q", authorization)
	}

	if c := New(host); c.source != nil || c.root.Scheme != "http" {
		t.Error("a token would go to a test's server")
	}
	if c := New("example.com"); c.source == nil || c.root.Scheme != "https" {
		t.Error("another server is reached in the clear")
	}

	c.token, c.source = nil, func(context.Context) (oauth2.TokenSource, error) {
		return nil, errors.New("canary: could not find default credentials")
	}
	_, err := c.TagsOf(t.Context(), backend)
	e, ok := errors.AsType[*Error](err)
	if !ok || !strings.Contains(e.Error(), "no credentials for Google's APIs") || !strings.Contains(e.Fix(), "application-default login") {
		t.Errorf("%v", err)
	}
	if strings.Contains(e.Error(), "canary") {
		t.Error("the reason is repeated")
	}
}

func TestRetryAfterIsReadInBothForms(t *testing.T) {
	for text, want := range map[string]time.Duration{"3": 3 * time.Second, "": 0, "-1": 0, "soon": 0, "999999999": 24 * time.Hour} {
		if got := retryAfter(http.Header{"Retry-After": {text}}); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	at := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	if got := retryAfter(http.Header{"Retry-After": {at}}); got < 59*time.Minute || got > time.Hour {
		t.Errorf("%s: %v", at, got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("europe-docker.pkg.dev/example-cloud/services/team/app")
	f.Add("us-docker.pkg.dev/example.com/p/r/app")
	f.Fuzz(func(t *testing.T, image string) {
		p, ours, err := Parse(image)
		if !ours || err != nil {
			return
		}
		if n := strings.Count(p.Resource(), "/"); strings.Count(p.Project+p.Repository, "/") == 0 && n != 7 {
			t.Errorf("%q: %s", image, p.Resource())
		}
	})
}
