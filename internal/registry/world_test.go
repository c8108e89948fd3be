package registry

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/ociregistry"
)

// startRegistry starts one real registry for all tests; each has repositories of its own in it. It ends with the test's process.
var startRegistry = sync.OnceValues(func() (*ociregistry.Registry, error) {
	return ociregistry.Start(context.Background(), ociregistry.Options{})
})

func realHost(t *testing.T) string {
	t.Helper()
	r, err := startRegistry()
	if err != nil {
		t.Fatal(err)
	}
	return r.Host
}

// client is one that may push and that does not wait long.
func client(options ...Option) *Client {
	c := New(nil, append([]Option{ForPush()}, options...)...)
	c.pause = time.Millisecond
	return c
}

// runs numbers the tests, since one that is repeated (-count) has the same name again.
var runs struct {
	sync.Mutex
	number map[*testing.T]int
}

// folder is a repository's path that no other test has, and no other run of this one.
func folder(t *testing.T) string {
	runs.Lock()
	defer runs.Unlock()
	if _, known := runs.number[t]; !known {
		if runs.number == nil {
			runs.number = map[*testing.T]int{}
		}
		runs.number[t] = len(runs.number)
	}
	return fmt.Sprintf("%s-%d", strings.ToLower(strings.NewReplacer("/", "-", "_", "-", "#", "", ",", "").Replace(t.Name())), runs.number[t])
}

// faults stands between a client and the registry. Its function answers a request itself, or calls pass to let the registry do it.
type faults struct {
	host string
	mu   sync.Mutex
	log  []string // "PUT /v2/…"
}

func between(t *testing.T, act func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter))) *faults {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: realHost(t)}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // so that the registry's links lead back here
	}}
	f := &faults{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.log = append(f.log, r.Method+" "+r.URL.Path)
		f.mu.Unlock()
		act(w, r, func(w http.ResponseWriter) { forward.ServeHTTP(w, r) })
	}))
	t.Cleanup(server.Close)
	f.host = strings.TrimPrefix(server.URL, "http://")
	return f
}

// count is how many requests of a method had this in their path.
func (f *faults) count(method, part string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, line := range f.log {
		if strings.HasPrefix(line, method+" ") && strings.Contains(line, part) {
			n++
		}
	}
	return n
}

// refuse answers as a registry does.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

// seed puts a random image into the real registry under each of the tags and returns it as this package sees it.
func seed(t *testing.T, repository string, tags ...string) Image {
	t.Helper()
	img, err := random.Image(512, 2)
	if err != nil {
		t.Fatal(err)
	}
	return push(t, repository, img, tags...)
}

func push(t *testing.T, repository string, img v1.Image, tags ...string) Image {
	t.Helper()
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, reference := range append([]string{"@" + digest.String()}, prefixed(":", tags)...) {
		ref, err := name.ParseReference(realHost(t) + "/" + repository + reference)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, img); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	mediaType, err := img.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	return Image{Digest: digest.String(), MediaType: string(mediaType), Raw: raw}
}

func prefixed(prefix string, words []string) []string {
	var list []string
	for _, w := range words {
		list = append(list, prefix+w)
	}
	return list
}

// digestUnder asks the real registry with the library's own client.
func digestUnder(t *testing.T, repository, tag string) string {
	t.Helper()
	ref, err := name.ParseReference(realHost(t) + "/" + repository + ":" + tag)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Head(ref)
	if err != nil {
		return ""
	}
	return d.Digest.String()
}
