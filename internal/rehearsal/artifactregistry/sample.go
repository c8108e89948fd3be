package artifactregistry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Sample is an image as a careful pipeline leaves it: an index with two platforms and an attestation of a builder, a cosign signature, and
// two referrers, which a registry without the referrers API lists under a tag.
type Sample struct {
	Root     string   // the index
	Children []string // two platforms and the attestation
	Attached []string // the signature, the two referrers, and their list
	Tags     []string // of the signature and of the list
}

// All lists every manifest of the sample.
func (s Sample) All() []string { return append(append([]string{s.Root}, s.Children...), s.Attached...) }

// PushSample pushes a new sample to a repository (host/path), under the tags.
func PushSample(ctx context.Context, repository string, tags ...string) (Sample, error) {
	repo, err := name.NewRepository(repository, name.Insecure)
	if err != nil {
		return Sample{}, err
	}
	var s Sample
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range []string{"linux/amd64", "linux/arm64", "unknown/unknown"} {
		child, err := ociImage()
		if err != nil {
			return s, err
		}
		os, arch, _ := strings.Cut(platform, "/")
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: child, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch}}})
		digest, err := child.Digest()
		if err != nil {
			return s, err
		}
		s.Children = append(s.Children, digest.String())
	}
	root, err := index.Digest()
	if err != nil {
		return s, err
	}
	s.Root = root.String()
	for _, tag := range tags {
		if err := remote.WriteIndex(repo.Tag(tag), index, remote.WithContext(ctx)); err != nil {
			return s, fmt.Errorf("pushing the sample: %w", err)
		}
	}
	signature, err := ociImage()
	if err != nil {
		return s, err
	}
	s.Tags = []string{"sha256-" + root.Hex, "sha256-" + root.Hex + ".sig"}
	if err := remote.Write(repo.Tag(s.Tags[1]), signature, remote.WithContext(ctx)); err != nil {
		return s, fmt.Errorf("pushing the signature: %w", err)
	}
	digest, err := signature.Digest()
	if err != nil {
		return s, err
	}
	s.Attached = append(s.Attached, digest.String())
	subject, err := remote.Head(repo.Digest(s.Root), remote.WithContext(ctx))
	if err != nil {
		return s, err
	}
	for range 2 {
		plain, err := ociImage()
		if err != nil {
			return s, err
		}
		referrer := mutate.Subject(plain, *subject).(v1.Image)
		if digest, err = referrer.Digest(); err != nil {
			return s, err
		}
		if err := remote.Write(repo.Digest(digest.String()), referrer, remote.WithContext(ctx)); err != nil {
			return s, fmt.Errorf("pushing a referrer: %w", err)
		}
		s.Attached = append(s.Attached, digest.String())
	}
	list, err := remote.Head(repo.Tag(s.Tags[0]), remote.WithContext(ctx))
	if e, ok := errors.AsType[*transport.Error](err); ok && e.StatusCode == http.StatusNotFound { // the registry lists them itself
		s.Tags = s.Tags[1:]
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("reading the list of referrers: %w", err)
	}
	s.Attached = append(s.Attached, list.Digest.String())
	return s, nil
}

func ociImage() (v1.Image, error) {
	image, err := random.Image(256, 2)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigMediaType(mutate.MediaType(image, types.OCIManifestSchema1), types.OCIConfigJSON), nil
}
