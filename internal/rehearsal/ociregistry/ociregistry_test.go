package ociregistry_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/ociregistry"
)

// start runs a registry until the test ends. Building it, the first time, is given the time it needs.
func start(t *testing.T, options ociregistry.Options) *ociregistry.Registry {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	r, err := ociregistry.Start(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func reference(t *testing.T, r *ociregistry.Registry, image string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(r.Host + "/" + image)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func push(t *testing.T, ref name.Reference, options ...remote.Option) v1.Hash {
	t.Helper()
	image, err := random.Image(256, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image, options...); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// status is the HTTP status of an error from the registry, 0 for success.
func status(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	refusal, ok := errors.AsType[*transport.Error](err)
	if !ok {
		t.Fatalf("not an answer of the registry: %v", err)
	}
	return refusal.StatusCode
}

func TestAPushedImageIsPulledWithTheSameDigest(t *testing.T) {
	r := start(t, ociregistry.Options{})
	ref := reference(t, r, "demo/backend:v1.0.0")
	want := push(t, ref)
	image, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	got, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("pulled %s, want %s", got, want)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		content, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		content.Close()
	}
}

func TestTwoRegistriesShareNothing(t *testing.T) {
	first, second := start(t, ociregistry.Options{}), start(t, ociregistry.Options{})
	push(t, reference(t, first, "demo/backend:v1.0.0"))
	_, err := remote.Head(reference(t, second, "demo/backend:v1.0.0"))
	if got := status(t, err); got != http.StatusNotFound {
		t.Errorf("the second registry answers with status %d, want 404", got)
	}
}

func TestContentInAFolderOutlivesTheRegistry(t *testing.T) {
	dir := t.TempDir()
	first := start(t, ociregistry.Options{Dir: dir})
	want := push(t, reference(t, first, "demo/backend:v1.0.0"))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := start(t, ociregistry.Options{Dir: dir})
	found, err := remote.Head(reference(t, second, "demo/backend:v1.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	if found.Digest != want {
		t.Errorf("found %s, want %s", found.Digest, want)
	}
}

func TestADeletedDigestTakesItsTagsAlong(t *testing.T) {
	r := start(t, ociregistry.Options{})
	tag := reference(t, r, "demo/backend:v1.0.0")
	digest := push(t, tag)
	if err := remote.Delete(tag.Context().Digest(digest.String())); err != nil {
		t.Fatal(err)
	}
	_, err := remote.Head(tag)
	if got := status(t, err); got != http.StatusNotFound {
		t.Errorf("the tag is answered with status %d, want 404", got)
	}
}

func TestAManifestWithAMissingLayerIsRefused(t *testing.T) {
	r := start(t, ociregistry.Options{})
	manifest := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
		"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:` + strings.Repeat("a", 64) + `"},"layers":[]}`
	request, err := http.NewRequest(http.MethodPut, "http://"+r.Host+"/v2/demo/backend/manifests/v1.0.0", bytes.NewBufferString(manifest))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("answered with %s, want 400", response.Status)
	}
}

func TestCredentialsAreDemanded(t *testing.T) {
	r := start(t, ociregistry.Options{Username: "robot", Password: "s3cret"})
	ref := reference(t, r, "demo/backend:v1.0.0")
	push(t, ref, remote.WithAuth(&authn.Basic{Username: "robot", Password: "s3cret"}))
	for name, auth := range map[string]authn.Authenticator{
		"nobody":                         authn.Anonymous,
		"the user with another password": &authn.Basic{Username: "robot", Password: "s3cre"},
		"another user":                   &authn.Basic{Username: "rob", Password: "s3cret"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := remote.Get(ref, remote.WithAuth(auth))
			if got := status(t, err); got != http.StatusUnauthorized {
				t.Errorf("answered with status %d, want 401", got)
			}
		})
	}
}

func TestAfterCloseNothingListens(t *testing.T) {
	r := start(t, ociregistry.Options{})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", r.Host); err == nil {
		conn.Close()
		t.Errorf("something still listens on %s", r.Host)
	}
}

func TestARegistryThatCannotStartSaysWhy(t *testing.T) {
	_, err := ociregistry.Start(t.Context(), ociregistry.Options{Username: "robot"})
	if err == nil || !strings.Contains(err.Error(), "belong together") {
		t.Errorf("the error is %v, want the registry's own words", err)
	}
}
