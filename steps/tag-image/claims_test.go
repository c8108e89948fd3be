package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
)

// configRepo serves an empty config repo that takes pushes with the token.
func configRepo(t *testing.T) string {
	t.Helper()
	server, err := gitserver.Start(filepath.Join(t.TempDir(), "git"), gitserver.Options{Token: canary})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	url, err := server.Create("example/config")
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// Several builds write one tag at the same moment, each with an image of its own. With the claim exactly one of them gets a release's tag,
// and all hand over one digest for a build's tag.
func TestRacingWritersNeverSucceedWithDifferentDigests(t *testing.T) {
	r, err := startRegistry()
	if err != nil {
		t.Fatal(err)
	}
	config := configRepo(t)
	const writers, rounds = 4, 4
	work := t.TempDir()
	for i := range writers {
		img, err := newImage()
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(work, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := save(img, filepath.Join(dir, "image.tar")); err != nil {
			t.Fatal(err)
		}
	}
	for round := range rounds {
		tag, isRelease := fmt.Sprintf("v1.0.%d", round), true
		if round%2 == 1 {
			tag, isRelease = fmt.Sprintf("main-4f2a91c03b7d-176400000%d", round), false
		}
		var (
			all      sync.WaitGroup
			outcomes [writers]outcome
		)
		for i := range writers {
			all.Go(func() {
				var err error
				outcomes[i], err = runStep(t.Context(), filepath.Join(work, fmt.Sprint(i)), "IMAGE="+r.Host+"/race/backend", "SOURCE=image.tar", "TAGS="+tag,
					"CONFIG_REPO="+config, "GIT_TOKEN="+canary)
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		digests, wins := map[string]bool{}, 0
		for _, o := range outcomes {
			switch {
			case o.exit == 0:
				wins++
				digests[o.stdout] = true
			case o.exit != 3 || !isRelease:
				t.Errorf("%s: exit code %d:\n%s", tag, o.exit, o.stderr)
			}
			if strings.Contains(o.stdout+o.stderr, canary) {
				t.Errorf("the token is printed:\n%s", o.stderr)
			}
		}
		under := r.Host + "/race/backend@" + tagDigest(r.Host+"/race/backend:"+tag) + "\n"
		if len(digests) != 1 || !digests[under] || isRelease && wins != 1 || !isRelease && wins != writers {
			t.Errorf("%s: %d writers succeeded with %v, and the tag is on %s", tag, wins, digests, under)
		}
	}
}

// counted counts the requests that reach a registry, behind a login of the kind.
func counted(t *testing.T, host, login string) (proxy string, requests func() []string) {
	t.Helper()
	var (
		mu  sync.Mutex
		log []string
	)
	inner := between(host, func(w http.ResponseWriter, _ *http.Request, _ int, pass func(http.ResponseWriter)) { pass(w) })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		log = append(log, r.Method+" "+r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
		mu.Unlock()
		switch {
		case r.URL.Path == "/token":
			fmt.Fprint(w, `{"token":"good"}`)
		case login == "bearer" && r.Header.Get("Authorization") != "Bearer good":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
			says(401, "UNAUTHORIZED", "authentication required")(w, r, 1, nil)
		default:
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return log
	}
}

// A tag from a tag: the source, the look, the write, the look after it. The look for a tombstone comes on top, in parallel with the first
// two. A login costs two: the request that is challenged, and the one for a token; Google's registries are sent their token at once.
func TestTaggingFromATagCostsFewRequests(t *testing.T) {
	r, err := startRegistry()
	if err != nil {
		t.Fatal(err)
	}
	for login, c := range map[string]struct{ first, again int }{"none": {4 + 1, 3}, "bearer": {4 + 1 + 2, 3 + 2}} {
		img, err := newImage()
		if err != nil {
			t.Fatal(err)
		}
		seedTag(t, r.Host+"/requests/"+login, "build", img)
		for _, want := range []int{c.first, c.again} {
			proxy, requests := counted(t, r.Host, login)
			o, err := runStep(t.Context(), t.TempDir(), "IMAGE="+proxy+"/requests/"+login, "SOURCE=build", "TAGS=v1.0.0")
			if err != nil || o.exit != 0 {
				t.Fatal(err, o.stderr)
			}
			if got := requests(); len(got) != want {
				t.Errorf("login %s: %d requests, want %d: %q", login, len(got), want, got)
			}
		}
	}
}

func seedTag(t *testing.T, repository, tag string, img v1.Image) {
	t.Helper()
	ref, err := name.NewTag(repository + ":" + tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
}

// A name that looks like a host makes a source another repository's; anything else with a slash is a path.
func TestASourceElsewhereHasAHostAndATagOrDigest(t *testing.T) {
	type parts struct {
		Repository, Reference string
		OK                    bool
	}
	digest := "sha256:" + strings.Repeat("0", 64)
	for text, want := range map[string]parts{
		"europe-docker.pkg.dev/p/r/backend:v1.0.0":        {"europe-docker.pkg.dev/p/r/backend", "v1.0.0", true},
		"127.0.0.1:5000/backend@" + digest:                {"127.0.0.1:5000/backend", digest, true},
		"localhost/backend:x":                             {"localhost/backend", "x", true},
		"registry:5000/backend:x":                         {"registry:5000/backend", "x", true},
		"europe-docker.pkg.dev/p/r/backend":               {},
		"./europe-docker.pkg.dev/backend:x":               {},
		"out/backend:x":                                   {},
		"/workspace/image.tar":                            {},
		"europe-docker.pkg.dev/p/backend@sha256:0":        {},
		"europe-docker.pkg.dev/p/backend:x@" + digest:     {},
		"https://europe-docker.pkg.dev/p/backend:x":       {},
		"user:secret@europe-docker.pkg.dev/p/r/backend:x": {},
	} {
		var got parts
		got.Repository, got.Reference, got.OK = elsewhere(text)
		if diff := cmp.Diff(want, got); diff != "" || isPath(text) == want.OK {
			t.Errorf("%s: %s", text, diff)
		}
	}
}
