package artifactregistry_test

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/google"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/deepdesk/cloudbuild-steps/internal/artifactregistry"
	testserver "github.com/deepdesk/cloudbuild-steps/internal/rehearsal/artifactregistry"
)

// realRepository names a Docker repository of a real project, LOCATION-docker.pkg.dev/PROJECT/REPOSITORY, that the contract may write to. The
// test makes images of its own in it, contract-…/app, and deletes them. It needs application default credentials with
// roles/artifactregistry.repoAdmin on the repository, whose tags must not be immutable.
const realRepository = "ARTIFACT_REGISTRY_TEST_REPOSITORY"

// TestContract holds what the steps rely on against Artifact Registry: always against the server that plays it in all other tests, and against
// Google's own where somebody names a repository. The same cases for both, so what the played one does wrong is found. `make contract` runs it
// and says which of the two it was.
func TestContract(t *testing.T) {
	t.Run("the server of the tests", func(t *testing.T) {
		s, err := testserver.Start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		hold(t, s.Host+"/example-cloud/services", s.Endpoint)
	})
	if repository := os.Getenv(realRepository); repository != "" {
		t.Run("the real "+repository, func(t *testing.T) { hold(t, repository, "") })
		return
	}
	t.Logf("NOT run against Google's Artifact Registry: set %s=LOCATION-docker.pkg.dev/PROJECT/REPOSITORY", realRepository)
}

// place is one image of the contract's own.
type place struct {
	t     *testing.T
	image string
	pkg   artifactregistry.Package
	api   *artifactregistry.Client
}

func hold(t *testing.T, repository, endpoint string) {
	for title, check := range map[string]func(place){
		"an image that does not exist has no tags and no versions, and its deletion is done": place.absent,
		"an index and its children are versions, with media types; a tag is on one of them":  place.versions,
		"every tag is listed with its digest, whatever characters it has":                    place.tags,
		"a tagged version is not deleted":                                                    place.tagged,
		"what an index lists is not deleted before the index":                                place.listed,
		"tag, index and children are deleted in this order, and a second time":               place.deletion,
		"a tag is deleted, and its version and the other tags stay":                          place.untag,
		"what was deleted can be pushed again, with the same digest":                         place.again,
		"a referrer is a version, and is deleted with its list":                              place.referrer,
		"tags are not immutable": place.mutable,
	} {
		t.Run(title, func(t *testing.T) {
			random := make([]byte, 6)
			_, _ = rand.Read(random) // it does not fail
			image := repository + "/contract-" + hex.EncodeToString(random) + "/app"
			pkg, ours, err := artifactregistry.Parse(image)
			if err != nil || !ours {
				t.Fatalf("%s is no image of Artifact Registry (%v)", image, err)
			}
			p := place{t, image, pkg, artifactregistry.New(endpoint)}
			defer p.clean()
			check(p)
		})
	}
}

var options = []remote.Option{remote.WithAuthFromKeychain(google.Keychain)}

func (p place) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// clean leaves nothing in the repository.
func (p place) clean() {
	tags, err := p.api.Tags(p.t.Context(), p.pkg)
	p.must(err)
	for tag := range tags {
		p.must(p.api.DeleteTag(p.t.Context(), p.pkg, tag))
	}
	for range 3 { // parents first, without knowing who they are
		versions, err := p.api.Versions(p.t.Context(), p.pkg)
		if absent(err) {
			return
		}
		p.must(err)
		for _, v := range versions {
			if err := p.api.DeleteVersion(p.t.Context(), p.pkg, v.Digest); codeOf(err) != "FAILED_PRECONDITION" {
				p.must(err)
			}
		}
	}
}

func absent(err error) bool { return codeOf(err) == "NOT_FOUND" }

func codeOf(err error) string {
	if e, ok := errors.AsType[*artifactregistry.Error](err); ok {
		return e.Code
	}
	return ""
}

func (p place) tag(tag string) name.Tag {
	p.t.Helper()
	ref, err := name.NewTag(p.image + ":" + tag)
	p.must(err)
	return ref
}

// pushIndex pushes an index of two images under tags.
func (p place) pushIndex(tags ...string) (index v1.ImageIndex, root string, children []string) {
	p.t.Helper()
	index, err := random.Index(64, 1, 2)
	p.must(err)
	m, err := index.IndexManifest()
	p.must(err)
	for _, d := range m.Manifests {
		children = append(children, d.Digest.String())
	}
	for _, tag := range tags {
		p.must(remote.WriteIndex(p.tag(tag), index, options...))
	}
	digest, err := index.Digest()
	p.must(err)
	return index, digest.String(), children
}

// digests lists the versions.
func (p place) digests() []string {
	p.t.Helper()
	versions, err := p.api.Versions(p.t.Context(), p.pkg)
	if absent(err) {
		return nil
	}
	p.must(err)
	var list []string
	for _, v := range versions {
		list = append(list, v.Digest)
	}
	slices.Sort(list)
	return list
}

func (p place) want(digests ...string) {
	p.t.Helper()
	slices.Sort(digests)
	if have := p.digests(); !slices.Equal(have, digests) {
		p.t.Errorf("the versions are %v, want %v", have, digests)
	}
}

func (p place) on() map[string]string {
	p.t.Helper()
	tags, err := p.api.Tags(p.t.Context(), p.pkg)
	p.must(err)
	return tags
}

func (p place) absent() {
	if tags := p.on(); len(tags) > 0 {
		p.t.Errorf("tags %v", tags)
	}
	p.want()
	p.must(p.api.DeleteTag(p.t.Context(), p.pkg, "v1.0.0"))
	p.must(p.api.DeleteVersion(p.t.Context(), p.pkg, "sha256:"+strings.Repeat("0", 64)))
}

func (p place) versions() {
	_, root, children := p.pushIndex("v1.0.0")
	versions, err := p.api.Versions(p.t.Context(), p.pkg)
	p.must(err)
	for _, v := range versions {
		if v.Digest == root != strings.Contains(v.MediaType, "index") && v.MediaType != "" {
			p.t.Errorf("%s has the media type %s", v.Digest, v.MediaType)
		}
	}
	p.want(append(children, root)...)
}

func (p place) tags() {
	names := []string{"v1.0.0-rc.1", "main-0a1b2c3d4e5f-1700000000", "UPPER_case.1", "_x", "sha256-" + strings.Repeat("a", 64) + ".sig"}
	_, root, _ := p.pushIndex(names...)
	want := map[string]string{}
	for _, tag := range names {
		want[tag] = root
	}
	if have := p.on(); fmt.Sprint(have) != fmt.Sprint(want) {
		p.t.Errorf("the tags are on %v, want %v", have, want)
	}
	list, err := p.api.TagsOf(p.t.Context(), p.pkg)
	p.must(err)
	slices.Sort(list)
	slices.Sort(names)
	if !slices.Equal(list, names) {
		p.t.Errorf("the tags are %v, want %v", list, names)
	}
}

func (p place) tagged() {
	_, root, children := p.pushIndex("v1.0.0")
	if err := p.api.DeleteVersion(p.t.Context(), p.pkg, root); codeOf(err) != "FAILED_PRECONDITION" {
		p.t.Errorf("it was answered %v", err)
	}
	p.want(append(children, root)...)
	if p.on()["v1.0.0"] != root {
		p.t.Error("the tag is gone")
	}
}

func (p place) listed() {
	_, root, children := p.pushIndex("v1.0.0")
	p.must(p.api.DeleteTag(p.t.Context(), p.pkg, "v1.0.0"))
	if err := p.api.DeleteVersion(p.t.Context(), p.pkg, children[0]); codeOf(err) != "FAILED_PRECONDITION" {
		p.t.Errorf("it was answered %v", err)
	}
	p.want(append(children, root)...)
}

func (p place) deletion() {
	_, root, children := p.pushIndex("v1.0.0")
	for range 2 {
		p.must(p.api.DeleteTag(p.t.Context(), p.pkg, "v1.0.0"))
	}
	for _, digest := range append([]string{root}, children...) {
		for range 2 {
			p.must(p.api.DeleteVersion(p.t.Context(), p.pkg, digest))
		}
		if slices.Contains(p.digests(), digest) {
			p.t.Errorf("%s is still there after its deletion is done", digest)
		}
	}
	p.want()
}

func (p place) untag() {
	_, root, children := p.pushIndex("v1.0.0", "main-0a1b2c3-1700000000")
	p.must(p.api.DeleteTag(p.t.Context(), p.pkg, "v1.0.0"))
	if on := p.on(); len(on) != 1 || on["main-0a1b2c3-1700000000"] != root {
		p.t.Errorf("the tags are on %v", on)
	}
	p.want(append(children, root)...)
}

func (p place) again() {
	index, root, children := p.pushIndex("v1.0.0")
	p.must(p.api.DeleteTag(p.t.Context(), p.pkg, "v1.0.0"))
	for _, digest := range append([]string{root}, children...) {
		p.must(p.api.DeleteVersion(p.t.Context(), p.pkg, digest))
	}
	p.must(remote.WriteIndex(p.tag("v1.0.0"), index, options...))
	p.want(append(children, root)...)
	if p.on()["v1.0.0"] != root {
		p.t.Errorf("the tags are on %v", p.on())
	}
}

func (p place) referrer() {
	_, root, children := p.pushIndex("v1.0.0")
	subject, err := remote.Head(p.tag("v1.0.0"), options...)
	p.must(err)
	plain, err := random.Image(64, 1)
	p.must(err)
	attached := mutate.Subject(plain, *subject).(v1.Image)
	digest, err := attached.Digest()
	p.must(err)
	p.must(remote.Write(p.tag("x").Context().Digest(digest.String()), attached, options...))
	if !slices.Contains(p.digests(), digest.String()) {
		p.t.Fatalf("the referrer %s is not among %v", digest, p.digests())
	}
	// A registry without the referrers API lists it under a tag: the list goes first.
	list, err := remote.Head(p.tag(strings.Replace(root, ":", "-", 1)), options...)
	if e, ok := errors.AsType[*transport.Error](err); !ok || e.StatusCode != 404 {
		p.must(err)
		p.must(p.api.DeleteTag(p.t.Context(), p.pkg, strings.Replace(root, ":", "-", 1)))
		p.must(p.api.DeleteVersion(p.t.Context(), p.pkg, list.Digest.String()))
	}
	p.must(p.api.DeleteVersion(p.t.Context(), p.pkg, digest.String()))
	p.want(append(children, root)...)
}

func (p place) mutable() {
	immutable, err := p.api.Immutable(p.t.Context(), p.pkg)
	p.must(err)
	if immutable {
		p.t.Error("the repository is not fit for the contract: its tags are immutable")
	}
}
