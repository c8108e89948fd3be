package artifactregistry_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	client "github.com/deepdesk/cloudbuild-steps/internal/artifactregistry"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/artifactregistry"
)

const image = "example-cloud/services/team/backend"

var pkg = client.Package{Project: "example-cloud", Location: "local", Repository: "services", Name: "team/backend"}

func start(t *testing.T) *artifactregistry.Server {
	t.Helper()
	s, err := artifactregistry.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func ref(t *testing.T, s *artifactregistry.Server, suffix string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(s.Host + "/" + image + suffix)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pushIndex pushes an index of two images under a tag.
func pushIndex(t *testing.T, s *artifactregistry.Server, tag string) (root string, children []string) {
	t.Helper()
	index, err := random.Index(64, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref(t, s, ":"+tag), index); err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Manifests {
		children = append(children, d.Digest.String())
	}
	return digestOf(t, index), children
}

func digestOf(t *testing.T, i interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	d, err := i.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func codeOf(err error) string {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Code
	}
	if e, ok := errors.AsType[*transport.Error](err); ok && len(e.Errors) > 0 {
		return string(e.Errors[0].Code)
	}
	return ""
}

// The order that the rules force: tag, index, children.
func TestATaggedVersionAndAChildAreNotDeleted(t *testing.T) {
	s := start(t)
	root, children := pushIndex(t, s, "v1.0.0")
	c := client.New(s.Endpoint)
	s.Polls(2)
	if err := c.DeleteVersion(t.Context(), pkg, root); codeOf(err) != "FAILED_PRECONDITION" {
		t.Errorf("a tagged version: %v", err)
	}
	if err := remote.Delete(ref(t, s, "@"+root)); codeOf(err) != "GOOGLE_MANIFEST_DANGLING_TAG" {
		t.Errorf("a tagged version at the door: %v", err)
	}
	if err := c.DeleteTag(t.Context(), pkg, "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteVersion(t.Context(), pkg, children[0]); codeOf(err) != "FAILED_PRECONDITION" {
		t.Errorf("a child: %v", err)
	}
	if err := remote.Delete(ref(t, s, "@"+children[0])); codeOf(err) != "GOOGLE_MANIFEST_DANGLING_PARENT_IMAGE" {
		t.Errorf("a child at the door: %v", err)
	}
	for _, d := range append([]string{root}, children...) {
		for range 2 { // the second finds it gone
			if err := c.DeleteVersion(t.Context(), pkg, d); err != nil {
				t.Fatal(err)
			}
		}
	}
	if left := s.Versions(t.Context(), image); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	polls := slices.DeleteFunc(s.Requests(), func(r string) bool { return !strings.Contains(r, "/operations/") })
	if len(polls) != 6 {
		t.Errorf("%d polls, want two for each deletion", len(polls))
	}
}

func TestImmutableTagsCanNeitherMoveNorGo(t *testing.T) {
	s := start(t)
	root, _ := pushIndex(t, s, "v1.0.0")
	c := client.New(s.Endpoint)
	if on, err := c.Immutable(t.Context(), pkg); on || err != nil {
		t.Fatal(on, err)
	}
	s.Immutable(true)
	if on, err := c.Immutable(t.Context(), pkg); !on || err != nil {
		t.Fatal(on, err)
	}
	other, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref(t, s, ":v1.0.0"), other); err == nil || !strings.Contains(err.Error(), "tag immutability") {
		t.Errorf("moved: %v", err)
	}
	if err := c.DeleteTag(t.Context(), pkg, "v1.0.0"); codeOf(err) != "FAILED_PRECONDITION" {
		t.Errorf("deleted: %v", err)
	}
	if tags, err := c.Tags(t.Context(), pkg); err != nil || tags["v1.0.0"] != root {
		t.Errorf("%v, %v", tags, err)
	}
}

func TestWhatPassesIsTriedAgainAndWhatIsDeniedNamesPermissionAndRole(t *testing.T) {
	s := start(t)
	root, _ := pushIndex(t, s, "v1.0.0")
	c := client.New(s.Endpoint)
	faults := 2
	s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodDelete || faults == 0 {
			return false
		}
		faults--
		if faults == 0 {
			panic(http.ErrAbortHandler) // the connection breaks off
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(`{"error":{"code":503,"status":"UNAVAILABLE","message":"try again"}}`))
		return true
	})
	if err := c.DeleteTag(t.Context(), pkg, "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodDelete {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"error":{"code":403,"status":"PERMISSION_DENIED","message":"Permission denied"}}`))
		return true
	})
	err := c.DeleteVersion(t.Context(), pkg, root)
	e, ok := errors.AsType[*client.Error](err)
	if !ok || !strings.Contains(e.Error(), "artifactregistry.versions.delete") || !strings.Contains(e.Fix(), "roles/artifactregistry.repoAdmin") ||
		!strings.Contains(e.Fix(), "approves releases") {
		t.Errorf("%v", err)
	}
}

func TestListsHavePagesAndFilters(t *testing.T) {
	s := start(t)
	for _, tag := range []string{"a", "b", "c"} {
		pushIndex(t, s, tag)
	}
	get := func(query string) string {
		hc := http.Client{Timeout: time.Minute}
		resp, err := hc.Get("http://" + s.Endpoint + "/v1/projects/example-cloud/locations/local/repositories/services/packages/team%2Fbackend/tags?" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b strings.Builder
		if err := resp.Write(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	first := get("pageSize=2")
	if !strings.Contains(first, "/tags/b") || strings.Contains(first, "/tags/c") || !strings.Contains(first, "nextPageToken") {
		t.Errorf("the first page: %s", first)
	}
	if only := get(`filter=name%3D%22*%2Ftags%2FB%22`); !strings.Contains(only, "/tags/b") || strings.Contains(only, "/tags/a") {
		t.Errorf("filtered: %s", only)
	}
	if wrong := get("pageToken=eA"); !strings.Contains(wrong, "INVALID_ARGUMENT") {
		t.Errorf("a token of something else: %s", wrong)
	}
}

func TestGarbageIsCollectedAndTaggedContentStays(t *testing.T) {
	s := start(t)
	root, _ := pushIndex(t, s, "v1.0.0")
	kept, _ := pushIndex(t, s, "v2.0.0")
	c := client.New(s.Endpoint)
	if err := c.DeleteTag(t.Context(), pkg, "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	if err := s.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := s.Versions(t.Context(), image)
	if slices.Contains(left, root) || !slices.Contains(left, kept) {
		t.Errorf("left: %v", left)
	}
}
