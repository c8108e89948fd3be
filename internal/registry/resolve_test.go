package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestAnImageIsReadByTagAndByDigestAsTheSameBytes(t *testing.T) {
	repository := folder(t)
	want := seed(t, repository, "v1.0.0")
	c := client()
	for _, reference := range []string{"v1.0.0", want.Digest} {
		got, found, err := c.Resolve(t.Context(), realHost(t)+"/"+repository, reference)
		if err != nil || !found {
			t.Fatalf("%s: found %v, %v", reference, found, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", reference, diff)
		}
	}
}

func TestTheRegistrysOwnWordMakesATagAbsent(t *testing.T) {
	repository := folder(t)
	seed(t, repository, "v1.0.0")
	for _, c := range []struct{ repository, reference string }{
		{repository, "v2.0.0"}, {repository, "sha256:" + strings.Repeat("0", 64)}, {repository + "-none", "v1.0.0"},
	} {
		_, found, err := client().Resolve(t.Context(), realHost(t)+"/"+c.repository, c.reference)
		if err != nil || found {
			t.Errorf("%s %s: found %v, %v", c.repository, c.reference, found, err)
		}
	}
}

func TestAnIndexNamesItsPlatformsWithoutAttestations(t *testing.T) {
	repository := realHost(t) + "/" + folder(t)
	var index v1.ImageIndex
	index, err := random.Index(64, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	children, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	platforms := []*v1.Platform{{OS: "linux", Architecture: "arm64", Variant: "v8"}, {OS: "linux", Architecture: "amd64"}, {OS: "unknown", Architecture: "unknown"}}
	var add []mutate.IndexAddendum
	for i, d := range children.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		add = append(add, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: platforms[i]}})
	}
	index = mutate.AppendManifests(mutate.RemoveManifests(index, func(v1.Descriptor) bool { return true }), add...)
	ref, err := name.NewTag(repository + ":v1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	got, found, err := client().Resolve(t.Context(), repository, "v1.0.0")
	if err != nil || !found {
		t.Fatal(found, err)
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64/v8"}, got.Platforms); diff != "" {
		t.Error(diff)
	}
}

// "No such tag" is what lets a tag be written, so nothing but the registry may say it.
func TestNoFaultLooksLikeAnAbsentTag(t *testing.T) {
	page := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.WriteHeader(status)
			fmt.Fprint(w, "<html>canary-body</html>")
		}
	}
	answer := func(status int, code, message string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { refuse(w, status, code, message) }
	}
	for name, c := range map[string]struct {
		act  http.HandlerFunc
		text string
		fix  string
	}{
		"the 404 page of a portal":                   {page(404), "status 404 with text/html, which is not the answer of a registry", "check IMAGE"},
		"a 404 without a body":                       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, "status 404 with no content type", "check IMAGE"},
		"a 404 about something else":                 {answer(404, "BLOB_UNKNOWN", "blob unknown"), "404 BLOB_UNKNOWN: blob unknown", ""},
		"a type that was not asked for":              {answer(404, "MANIFEST_UNKNOWN", "Manifest has media type x/y but client accepts others"), "has media type", ""},
		"a missing login":                            {answer(401, "UNAUTHORIZED", "authentication required"), "401 UNAUTHORIZED", "give credentials for"},
		"a missing permission":                       {answer(403, "DENIED", "denied"), "403 DENIED: denied (needs artifactregistry.repositories.downloadArtifacts)", "roles/artifactregistry.reader"},
		"too many requests, for ever":                {answer(429, "TOOMANYREQUESTS", "quota"), "429 TOOMANYREQUESTS: quota", ""},
		"a broken registry":                          {answer(500, "UNKNOWN", "oops"), "500 UNKNOWN: oops", ""},
		"a broken proxy":                             {page(502), "status 502 with text/html", "check IMAGE"},
		"a login page that answers 200":              {page(200), "status 200 with text/html, which is not the answer of a registry", "check IMAGE"},
		"a redirect loop":                            {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, 307) }, errRedirect.Error(), ""},
		"a connection that is cut":                   {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF", ""},
		"a manifest that is larger than one may be":  {func(w http.ResponseWriter, _ *http.Request) { large(w) }, "longer than 4194304 bytes", ""},
		"an image that is called an index elsewhere": {func(w http.ResponseWriter, _ *http.Request) { mixed(w) }, "calls itself", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := between(t, func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
				if strings.Contains(r.URL.Path, "/manifests/") {
					c.act(w, r)
					return
				}
				pass(w)
			})
			repository := f.host + "/demo/backend"
			_, found, err := client().Resolve(t.Context(), repository, "v1.0.0")
			if err == nil || found {
				t.Fatalf("found %v, %v", found, err)
			}
			if !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), "tag v1.0.0 of "+repository) {
				t.Errorf("error %q: want %q and the name of the tag", err, c.text)
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("error %q repeats a page", err)
			}
			if e, ok := errors.AsType[*Error](err); ok && !strings.Contains(e.Fix(), c.fix) || ok && c.fix == "" && e.Fix() != "" {
				t.Errorf("fix %q, want %q", e.Fix(), c.fix)
			}
			if n := f.count("GET", "/manifests/"); n > 10 {
				t.Errorf("%d requests", n)
			}
			if _, err := client().Tag(t.Context(), repository, "v1.0.0", Image{}); err == nil || f.count("PUT", "") > 0 {
				t.Errorf("a tag was written over an unknown state: %v", err)
			}
		})
	}
}

func large(w http.ResponseWriter) {
	w.Header().Set("Content-Type", ociManifest)
	_, _ = w.Write(make([]byte, manifestLimit+1))
}

func mixed(w http.ResponseWriter) {
	w.Header().Set("Content-Type", ociManifest)
	fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":%q,"manifests":[]}`, ociIndex)
}

func TestContentThatIsNotItsDigestIsAnError(t *testing.T) {
	repository := folder(t)
	image := seed(t, repository, "v1.0.0")
	for name, alter := range map[string]func(*httptest.ResponseRecorder){
		"a header that names another digest": func(r *httptest.ResponseRecorder) {
			r.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
		},
		"other bytes under the right header": func(r *httptest.ResponseRecorder) { r.Body.WriteByte('\n') },
		"other bytes and no header": func(r *httptest.ResponseRecorder) {
			r.Body.WriteByte('\n')
			r.Header().Del("Docker-Content-Digest")
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := between(t, func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
				if !strings.Contains(r.URL.Path, "/manifests/") {
					pass(w)
					return
				}
				recorder := httptest.NewRecorder()
				pass(recorder)
				alter(recorder)
				recorder.Header().Del("Content-Length")
				for k, v := range recorder.Header() {
					w.Header()[k] = v
				}
				w.WriteHeader(recorder.Code)
				_, _ = w.Write(recorder.Body.Bytes())
			})
			_, _, err := client().Resolve(t.Context(), f.host+"/"+repository, image.Digest)
			if !errors.As(err, new(*DigestError)) {
				t.Errorf("error %v, want a DigestError", err)
			}
		})
	}
}

func TestATemporaryFaultIsWaitedOut(t *testing.T) {
	repository := folder(t)
	seed(t, repository, "v1.0.0")
	for _, status := range []int{408, 429, 500, 502, 503, 504} {
		failures := 2
		f := between(t, func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
			if failures > 0 { // the first of them meets the handshake
				failures--
				w.WriteHeader(status)
				return
			}
			pass(w)
		})
		if _, found, err := client().Resolve(t.Context(), f.host+"/"+repository, "v1.0.0"); err != nil || !found {
			t.Errorf("%d twice: found %v, %v", status, found, err)
		}
	}
}

func TestTheTimeThatARegistryAsksForIsGranted(t *testing.T) {
	repository := folder(t)
	seed(t, repository, "v1.0.0")
	limited := false
	f := between(t, func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
		if strings.Contains(r.URL.Path, "/manifests/") && !limited {
			limited = true
			w.Header().Set("Retry-After", "1")
			refuse(w, 429, "TOOMANYREQUESTS", "quota")
			return
		}
		pass(w)
	})
	began := time.Now()
	if _, found, err := client().Resolve(t.Context(), f.host+"/"+repository, "v1.0.0"); err != nil || !found {
		t.Fatal(found, err)
	}
	if waited := time.Since(began); waited < time.Second {
		t.Errorf("came back after %s, and was asked to wait a second", waited)
	}
}

func TestAWaitThatIsLongerThanTheTimeoutIsNotBegun(t *testing.T) {
	f := between(t, func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Retry-After", "86400")
			refuse(w, 429, "TOOMANYREQUESTS", "quota")
			return
		}
		pass(w)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	_, _, err := client().Resolve(ctx, f.host+"/demo/backend", "v1.0.0")
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != 429 || f.count("GET", "/manifests/") != 1 {
		t.Errorf("%v after %d requests", err, f.count("GET", "/manifests/"))
	}
}

func TestAllTagsAreListed(t *testing.T) {
	repository := folder(t)
	image := seed(t, repository, "v1.0.0")
	want := []string{"v1.0.0"}
	c := client()
	repo, err := c.parse(realHost(t) + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1100 {
		tag := fmt.Sprintf("main-%012x-%d", i, 1764000000+i)
		if err := c.put(t.Context(), repo, tag, image); err != nil {
			t.Fatal(err)
		}
		want = append(want, tag)
	}
	slices.Sort(want)
	cut := func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
		recorder := httptest.NewRecorder()
		pass(recorder)
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(recorder.Body.Bytes()) // without the Link header
	}
	for name, host := range map[string]string{"page by page": realHost(t), "from a registry that cuts the list and does not say so": between(t, cut).host} {
		t.Run(name, func(t *testing.T) {
			got, err := client().TagsOf(t.Context(), host+"/"+repository)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%d of %d tags: %.300s", len(got), len(want), diff)
			}
		})
	}
	t.Run("none in a repository that does not exist", func(t *testing.T) {
		got, err := client().TagsOf(t.Context(), realHost(t)+"/"+repository+"-none")
		if err != nil || len(got) != 0 {
			t.Error(got, err)
		}
	})
}

func TestAListIsNotFollowedElsewhereOrForEver(t *testing.T) {
	list := func(tags []string, link string) func(http.ResponseWriter, *http.Request, func(http.ResponseWriter)) {
		return func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
			if !strings.HasSuffix(r.URL.Path, "/tags/list") {
				pass(w)
				return
			}
			w.Header().Set("Link", link)
			_ = json.NewEncoder(w).Encode(map[string]any{"tags": tags})
		}
	}
	for name, link := range map[string]string{
		"another host": `<http://169.254.169.254/v2/x/tags/list>; rel="next"`, "another scheme": `<https://127.0.0.1:1/v2/x/tags/list>; rel="next"`,
		"no relation": `</v2/x/tags/list>`, "no URL": `</v2/%zz>; rel="next"`, "no brackets": `/v2/x/tags/list; rel="next"`,
	} {
		f := between(t, list([]string{"a"}, link))
		if got, err := client().TagsOf(t.Context(), f.host+"/demo"); err == nil {
			t.Errorf("a link with %s: %v", name, got)
		}
	}
	f := between(t, list([]string{"a"}, `</v2/demo/tags/list?last=a>; rel="next"`))
	got, err := client().TagsOf(t.Context(), f.host+"/demo")
	if err != nil || !slices.Equal(got, []string{"a"}) || f.count("GET", "/tags/list") != 2 {
		t.Errorf("a list that leads to itself: %v, %v, %d requests", got, err, f.count("GET", "/tags/list"))
	}
}

func TestWhatIsNoTagOrRepositoryIsNotAskedFor(t *testing.T) {
	host := realHost(t)
	for _, c := range []struct{ repository, reference string }{
		{host + "/demo", "../x"}, {host + "/demo", ""}, {host + "/demo", "sha512:" + strings.Repeat("0", 128)}, {host + "/demo", "sha256:ABC"},
		{host + "/Demo", "v1.0.0"}, {"demo", "v1.0.0"}, {host + "/demo?x=", "v1.0.0"}, {host + "/demo:v1", "v1.0.0"},
	} {
		if _, found, err := client().Resolve(t.Context(), c.repository, c.reference); err == nil || found {
			t.Errorf("%s %s: found %v, %v", c.repository, c.reference, found, err)
		}
	}
}

// Whatever the link is, the next page is on the same registry.
func FuzzNextPage(f *testing.F) {
	for _, link := range []string{"", `</v2/x/tags/list?last=a>; rel="next"`, `<//evil>; rel="next"`, `<https://h/v2>;rel=next`, "<", `<\\evil>; rel="next"`} {
		f.Add(link)
	}
	here := &url.URL{Scheme: "https", Host: "registry.example", Path: "/v2/x/tags/list"}
	f.Fuzz(func(t *testing.T, link string) {
		next, err := nextPage(&answer{header: http.Header{"Link": {link}}, url: here})
		if err == nil && next != nil && (next.Host != here.Host || next.Scheme != here.Scheme) {
			t.Errorf("%q leads to %s", link, next)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, text := range []string{"", "0", "-1", "120", "99999999999999999999", "Wed, 21 Oct 2035 07:28:00 GMT"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if d := retryAfter(http.Header{"Retry-After": {text}}); d < 0 {
			t.Errorf("%q: %s", text, d)
		}
	})
}
