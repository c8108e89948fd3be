package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcrregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/ociregistry"
)

var mutex sync.Mutex // of the counters in handlers

// otherRegistry is a second real registry.
func otherRegistry(t *testing.T) string {
	t.Helper()
	r, err := ociregistry.Start(t.Context(), ociregistry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r.Host
}

// promote brings an image and puts a tag on it, as tag-image does.
func promote(t *testing.T, c *Client, from, reference, to, tag string) (Image, Promoted) {
	t.Helper()
	image, found, err := c.Resolve(t.Context(), from, reference)
	if err != nil || !found {
		t.Fatal(found, err)
	}
	p, err := c.Promote(t.Context(), from, image, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tag(t.Context(), to, tag, image); err != nil {
		t.Fatal(err)
	}
	return image, p
}

// pullWhole reads an image with the library's client, which compares all content with its digests.
func pullWhole(t *testing.T, reference string) {
	t.Helper()
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	drain := func(img v1.Image) {
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			r, err := l.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Error(err)
			}
			_ = r.Close()
		}
		if _, err := img.RawConfigFile(); err != nil {
			t.Error(err)
		}
	}
	if !d.MediaType.IsIndex() {
		img, err := d.Image()
		if err != nil {
			t.Fatal(err)
		}
		drain(img)
		return
	}
	index, err := d.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, child := range m.Manifests {
		img, err := index.Image(child.Digest)
		if err != nil {
			t.Fatal(err)
		}
		drain(img)
	}
}

func TestAPromotionInOneRegistryMovesNoContent(t *testing.T) {
	const layers = 5
	img, err := random.Image(2048, layers)
	if err != nil {
		t.Fatal(err)
	}
	repository := folder(t)
	pushed := push(t, repository+"/staging", img)
	f := between(t, func(w http.ResponseWriter, _ *http.Request, pass func(http.ResponseWriter)) { pass(w) })
	from, to := f.host+"/"+repository+"/staging", f.host+"/"+repository+"/production"
	image, p := promote(t, client(MountingFrom(from)), from, pushed.Digest, to, "v1.0.0")
	if image.Digest != pushed.Digest || p.Blobs != layers+1 || len(p.Attached) != 0 {
		t.Errorf("%s, %+v", image.Digest, p)
	}
	counts := map[string]int{}
	for _, line := range f.log {
		switch {
		case strings.HasPrefix(line, "POST ") && strings.HasSuffix(line, "/blobs/uploads/"):
			counts["mount"]++
		case strings.HasSuffix(line, "/production/manifests/deleted-v1.0.0"):
			counts["tombstone"]++
		case strings.Contains(line, "/production/manifests/v1.0.0"):
			counts["tag"]++
		case strings.Contains(line, "/staging/manifests/sha256:"):
			counts["image"]++
		case strings.Contains(line, "/staging/manifests/sha256-"), strings.Contains(line, "/referrers/"):
			counts["attachments"]++
		default:
			t.Errorf("a request more than needed: %s", line)
		}
	}
	// N + 3 (the image, the tag's look and write, a mount for each of N blobs), the look after the write, the tombstone, and what may belong
	// to the image: three tags of cosign, the referrers API, and since this registry has none, the tag that stands in for it.
	if diff := cmp.Diff(map[string]int{"mount": layers + 1, "tag": 3, "tombstone": 1, "image": 1, "attachments": 5}, counts); diff != "" {
		t.Error(diff)
	}
	pullWhole(t, realHost(t)+"/"+repository+"/production:v1.0.0")
}

func TestAPromotionFromAnotherRegistryCopiesAndGoesOnWhereAReadStopped(t *testing.T) {
	target := otherRegistry(t)
	for title, c := range map[string]struct {
		cut  func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter))
		err  any
		text string
	}{
		"a plain copy": {cut: func(w http.ResponseWriter, _ *http.Request, _ int, pass func(http.ResponseWriter)) { pass(w) }},
		"every read is cut in the middle": {cut: func(w http.ResponseWriter, _ *http.Request, n int, pass func(http.ResponseWriter)) {
			recorder := httptest.NewRecorder()
			pass(recorder)
			copyHeader(w, recorder)
			_, _ = w.Write(recorder.Body.Bytes()[:(recorder.Body.Len()+1)/2])
			if n < 40 {
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
		}, err: nil},
		"the range is not regarded": {cut: func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter)) {
			r.Header.Del("Range")
			recorder := httptest.NewRecorder()
			pass(recorder)
			copyHeader(w, recorder)
			if n%2 == 1 {
				_, _ = w.Write(recorder.Body.Bytes()[:recorder.Body.Len()/2])
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(recorder.Body.Bytes())
		}},
		"the content is altered": {cut: func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter)) {
			recorder := httptest.NewRecorder()
			pass(recorder)
			copyHeader(w, recorder)
			b := recorder.Body.Bytes()
			if len(b) > 0 { // else the client has gone
				b[len(b)/2] ^= 1
			}
			_, _ = w.Write(b)
		}, err: new(*DigestError), text: "the content is"},
		"a blob is missing": {cut: func(w http.ResponseWriter, _ *http.Request, _ int, _ func(http.ResponseWriter)) {
			refuse(w, 404, "BLOB_UNKNOWN", "blob unknown")
		}, err: new(*IncompleteError), text: "lacks its part"},
		"reading is not allowed": {cut: func(w http.ResponseWriter, _ *http.Request, _ int, _ func(http.ResponseWriter)) {
			refuse(w, 403, "DENIED", "denied")
		}, err: new(*Error), text: "downloadArtifacts"},
		"reading never ends": {cut: func(w http.ResponseWriter, r *http.Request, _ int, _ func(http.ResponseWriter)) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, err: new(*Error), text: errRedirect.Error()},
	} {
		t.Run(title, func(t *testing.T) {
			img, err := random.Image(40_000, 2)
			if err != nil {
				t.Fatal(err)
			}
			pushed := push(t, folder(t), img, "v1.0.0")
			n := 0
			f := between(t, func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
				if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
					mutex.Lock()
					n++
					at := n
					mutex.Unlock()
					c.cut(w, r, at, pass)
					return
				}
				pass(w)
			})
			from, to := f.host+"/"+folder(t), target+"/"+folder(t)
			client := client()
			image, found, err := client.Resolve(t.Context(), from, "v1.0.0")
			if err != nil || !found || image.Digest != pushed.Digest {
				t.Fatal(found, err)
			}
			_, err = client.Promote(t.Context(), from, image, to)
			if (err == nil) != (c.err == nil) || err != nil && (!errors.As(err, c.err) || !strings.Contains(err.Error(), c.text)) {
				t.Fatalf("%T %v, want %T with %q", err, err, c.err, c.text)
			}
			if err != nil {
				return
			}
			if _, err := client.Tag(t.Context(), to, "v1.0.0", image); err != nil {
				t.Fatal(err)
			}
			pullWhole(t, to+":v1.0.0")
		})
	}
}

func copyHeader(w http.ResponseWriter, from *httptest.ResponseRecorder) {
	for k, v := range from.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(from.Code)
}

// artifact writes a manifest with a subject into a registry and returns it.
func artifact(t *testing.T, repository, kind, subject string, size int) Image {
	t.Helper()
	c := client()
	repo, err := c.parse(repository)
	if err != nil {
		t.Fatal(err)
	}
	payload := []byte(kind + " of " + subject)
	for _, b := range [][]byte{payload, []byte("{}")} {
		if err := c.uploadBlob(t.Context(), repo, blob{digestOf(b), int64(len(b)), bytesBody(b)}); err != nil {
			t.Fatal(err)
		}
	}
	m := map[string]any{
		"schemaVersion": 2, "mediaType": ociManifest, "artifactType": kind, "annotations": map[string]string{"made": "here"},
		"config": descriptor{MediaType: ociEmpty, Digest: digestOf([]byte("{}")), Size: 2},
		"layers": []descriptor{{MediaType: kind, Digest: digestOf(payload), Size: int64(len(payload))}},
	}
	if subject != "" {
		m["subject"] = descriptor{MediaType: ociManifest, Digest: subject, Size: int64(size)}
	}
	raw, err := json.MarshalIndent(m, "", " ") // odd, and valid
	if err != nil {
		t.Fatal(err)
	}
	image := Image{Digest: digestOf(raw), MediaType: ociManifest, Raw: raw}
	if err := c.PutUntagged(t.Context(), repository, image); err != nil {
		t.Fatal(err)
	}
	return image
}

func TestWhatBelongsToAnImageGoesWithIt(t *testing.T) {
	withAPI := func() string {
		server := httptest.NewServer(ggcrregistry.New(ggcrregistry.WithReferrersSupport(true), ggcrregistry.Logger(log.New(io.Discard, "", 0))))
		t.Cleanup(server.Close)
		return strings.TrimPrefix(server.URL, "http://")
	}
	for title, c := range map[string]struct{ source, target string }{
		"in one registry without the referrers API": {realHost(t), realHost(t)},
		"to a registry with the referrers API":      {realHost(t), withAPI()},
		"from a registry with the referrers API":    {withAPI(), realHost(t)},
	} {
		t.Run(title, func(t *testing.T) {
			from, to := c.source+"/"+folder(t)+"/from", c.target+"/"+folder(t)+"/to"
			index, err := random.Index(256, 2, 2)
			if err != nil {
				t.Fatal(err)
			}
			ref, err := name.NewTag(from + ":build")
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.WriteIndex(ref, index); err != nil {
				t.Fatal(err)
			}
			cl := client(MountingFrom(from))
			root, _, err := cl.Resolve(t.Context(), from, "build")
			if err != nil {
				t.Fatal(err)
			}
			children, err := index.IndexManifest()
			if err != nil {
				t.Fatal(err)
			}
			child := children.Manifests[1].Digest.String()
			repo, err := cl.parse(from)
			if err != nil {
				t.Fatal(err)
			}
			// cosign's tags, on the index and on a child, and referrers of the index, of a child, and of a referrer.
			var tags []string
			for _, tag := range []string{hexOf(root.Digest) + ".sig", hexOf(root.Digest) + ".att", hexOf(child) + ".sbom"} {
				tags = append(tags, "sha256-"+tag)
				if err := cl.put(t.Context(), repo, "sha256-"+tag, artifact(t, from, "application/vnd.test."+tag, "", 0)); err != nil {
					t.Fatal(err)
				}
			}
			attestation := artifact(t, from, "application/vnd.test.attestation", root.Digest, len(root.Raw))
			signature := artifact(t, from, "application/vnd.test.signature", attestation.Digest, len(attestation.Raw))
			sbom := artifact(t, from, "application/vnd.test.sbom", child, 1)
			subjects := map[string]Image{root.Digest: attestation, attestation.Digest: signature, child: sbom}
			if c.source == realHost(t) { // it does not list referrers: their tags stand in
				for subject, referrer := range subjects {
					if err := cl.listReferrers(t.Context(), repo, subject, []string{referrer.Digest}); err != nil {
						t.Fatal(err)
					}
				}
			}
			_, p := promote(t, cl, from, "build", to, "v1.0.0")
			want := append(slices.Clone(tags), attestation.Digest, signature.Digest, sbom.Digest)
			slices.Sort(want)
			slices.Sort(p.Attached)
			if diff := cmp.Diff(want, p.Attached); diff != "" {
				t.Error(diff)
			}
			pullWhole(t, to+":v1.0.0")
			for _, reference := range want {
				a, _, err := cl.Resolve(t.Context(), from, reference)
				if err != nil {
					t.Fatal(err)
				}
				b, found, err := cl.Resolve(t.Context(), to, reference)
				if diff := cmp.Diff(a, b); !found || err != nil || diff != "" {
					t.Errorf("%s: %v, %v, %s", reference, found, err, diff)
				}
			}
			// In the target they are found from the subject, in its own way.
			target, err := cl.parse(to)
			if err != nil {
				t.Fatal(err)
			}
			for subject, referrer := range subjects {
				list, err := (&promotion{c: cl, from: target}).referrers(t.Context(), subject)
				if err != nil || len(list) != 1 || list[0].Digest != referrer.Digest {
					t.Errorf("%s has the referrers %v, %v, want %s", subject, list, err, referrer.Digest)
				}
			}
			// Again: what is there is not written twice, and nothing is lost.
			if _, err := cl.Promote(t.Context(), from, root, to); err != nil {
				t.Error(err)
			}
			list, err := (&promotion{c: cl, from: target}).referrers(t.Context(), root.Digest)
			if err != nil || len(list) != 1 {
				t.Errorf("after a second promotion: %v, %v", list, err)
			}
		})
	}
}

func TestASignatureThatWasMadeInTheTargetStays(t *testing.T) {
	from, to := realHost(t)+"/"+folder(t)+"/from", realHost(t)+"/"+folder(t)+"/to"
	image := seed(t, folder(t)+"/from", "build")
	tag := "sha256-" + hexOf(image.Digest) + ".sig"
	var notices []string
	c := client(MountingFrom(from), WithNotice(func(s string) { notices = append(notices, s) }))
	there := artifact(t, to, "application/vnd.test.theirs", "", 0)
	for repository, signature := range map[string]Image{from: artifact(t, from, "application/vnd.test.ours", "", 0), to: there} {
		repo, err := c.parse(repository)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.put(t.Context(), repo, tag, signature); err != nil {
			t.Fatal(err)
		}
	}
	_, p := promote(t, c, from, "build", to, "v1.0.0")
	if got, _, err := c.Resolve(t.Context(), to, tag); err != nil || got.Digest != there.Digest {
		t.Errorf("%s, %v", got.Digest, err)
	}
	if len(p.Attached) != 0 || !strings.Contains(fmt.Sprint(notices), "it is left as it is") {
		t.Errorf("%+v, notices %q", p, notices)
	}
}

func TestARegistryThatDoesNotMountGetsTheContent(t *testing.T) {
	for title, status := range map[string]int{"it begins an upload": 202, "it knows no mounts": 405} {
		t.Run(title, func(t *testing.T) {
			pushed := seed(t, folder(t)+"/from")
			f := between(t, func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
				if r.URL.Query().Get("mount") != "" {
					if status == 405 {
						refuse(w, 405, "UNSUPPORTED", "unsupported")
						return
					}
					r.URL.RawQuery = ""
				}
				pass(w)
			})
			from, to := f.host+"/"+folder(t)+"/from", f.host+"/"+folder(t)+"/to"
			promote(t, client(MountingFrom(from)), from, pushed.Digest, to, "v1.0.0")
			pullWhole(t, realHost(t)+"/"+folder(t)+"/to:v1.0.0")
		})
	}
}

// Registries keep blobs on storage hosts and send readers there. Those get what they need in the URL, and no credential of the registry's,
// also when the host is another port of the same machine.
func TestABlobIsReadFromAnotherHostWithoutCredentials(t *testing.T) {
	content := []byte("a layer")
	for _, storage := range []string{"storage.test", "registry.test:8443"} {
		transport, log := asHost(t, func(w http.ResponseWriter, r *http.Request) {
			switch _, _, ok := r.BasicAuth(); {
			case r.Host == storage:
				_, _ = w.Write(content)
			case !ok:
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				refuse(w, 401, "UNAUTHORIZED", "authentication required")
			default:
				http.Redirect(w, r, "https://"+storage+"/signed", http.StatusTemporaryRedirect)
			}
		})
		c := client(WithKeychain(fixed{authn.AuthConfig{Username: "robot", Password: canary}}))
		c.base = transport
		repo, err := c.parse("registry.test/demo")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c.download(t.Context(), repo, digestOf(content), int64(len(content))))
		if err != nil || string(got) != string(content) {
			t.Errorf("%q, %v", got, err)
		}
		if last := (*log)[len(*log)-1]; last != "GET "+storage+"/signed " {
			t.Errorf("the storage was asked %q", last)
		}
	}
}
