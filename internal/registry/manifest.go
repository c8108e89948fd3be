package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// The media types of images and of indexes, in the OCI's and in Docker's spelling.
const (
	ociIndex       = "application/vnd.oci.image.index.v1+json"
	ociManifest    = "application/vnd.oci.image.manifest.v1+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"

	ociConfig    = "application/vnd.oci.image.config.v1+json"
	dockerConfig = "application/vnd.docker.container.image.v1+json"
	dockerLayer  = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// acceptManifests asks for all of them. A registry that is asked for fewer answers "manifest unknown" for a tag that exists.
const acceptManifests = ociIndex + ", " + ociManifest + ", " + dockerList + ", " + dockerManifest

// manifestLimit is the size in bytes that registries take at least and, mostly, at most (distribution specification, "Pushing manifests").
const manifestLimit = 4 << 20

// descriptor is how one piece of content names another (image specification, "Content descriptors").
type descriptor struct {
	MediaType string    `json:"mediaType"`
	Size      int64     `json:"size"`
	Digest    string    `json:"digest"`
	URLs      []string  `json:"urls,omitempty"`
	Platform  *platform `json:"platform,omitempty"`
}

type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// String returns os/architecture[/variant]; empty for the "unknown/unknown" under which builders file attestations.
func (p platform) String() string {
	if p.OS == "" || p.Architecture == "" || p.OS == "unknown" {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// manifest is what an image and an index refer to. It is read from the bytes and never written back.
type manifest struct {
	mediaType string
	config    *descriptor
	layers    []descriptor
	manifests []descriptor
	subject   string // digest of what it refers to; empty for most
}

func isIndex(mediaType string) bool { return mediaType == ociIndex || mediaType == dockerList }

func isManifest(mediaType string) bool {
	return isIndex(mediaType) || mediaType == ociManifest || mediaType == dockerManifest
}

// parseManifest reads an image or an index of the given type. The bytes must not claim another type, and must not be both at once: clients
// that look at different members would run different images from one digest (CVE-2021-41190).
func parseManifest(raw []byte, mediaType string) (manifest, error) {
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Config        *descriptor     `json:"config"`
		Layers        []descriptor    `json:"layers"`
		Manifests     []descriptor    `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
		Subject       *descriptor     `json:"subject"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return manifest{}, fmt.Errorf("reading the manifest: %w", err)
	}
	switch {
	case !isManifest(mediaType):
		return manifest{}, fmt.Errorf("media type %q is neither an image nor an index", mediaType)
	case m.MediaType != "" && m.MediaType != mediaType:
		return manifest{}, fmt.Errorf("the manifest calls itself %q and is named as %q", m.MediaType, mediaType)
	case m.SchemaVersion != 2:
		return manifest{}, fmt.Errorf("the manifest has schema version %d: want 2", m.SchemaVersion)
	case m.FSLayers != nil:
		return manifest{}, errors.New("the manifest mixes two schema versions")
	case isIndex(mediaType) && (m.Config != nil || m.Layers != nil), !isIndex(mediaType) && m.Manifests != nil:
		return manifest{}, errors.New("the manifest is an image and an index at once")
	case !isIndex(mediaType) && m.Config == nil:
		return manifest{}, errors.New("the manifest has no config")
	}
	for _, d := range slices.Concat(m.Layers, m.Manifests, config(m.Config)) {
		if err := checkDigest(d.Digest); err != nil {
			return manifest{}, err
		}
		if d.Size < 0 {
			return manifest{}, fmt.Errorf("%s has the size %d", d.Digest, d.Size)
		}
	}
	subject := ""
	if m.Subject != nil && IsDigest(m.Subject.Digest) {
		subject = m.Subject.Digest
	}
	return manifest{mediaType, m.Config, m.Layers, m.Manifests, subject}, nil
}

func config(d *descriptor) []descriptor {
	if d == nil {
		return nil
	}
	return []descriptor{*d}
}

// platforms lists the platforms that an index names, sorted.
func (m manifest) platforms() []string {
	set := map[string]bool{}
	for _, d := range m.manifests {
		if d.Platform != nil && d.Platform.String() != "" {
			set[d.Platform.String()] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// checkDigest accepts SHA-256 only: it is the one algorithm that every registry has.
func checkDigest(s string) error {
	if !digestPattern.MatchString(s) {
		return fmt.Errorf("%.100q is not a digest: want sha256: and 64 hexadecimal digits in lower case", s)
	}
	return nil
}

// IsDigest reports whether s is a digest that this package can resolve: sha256: and 64 hexadecimal digits in lower case.
func IsDigest(s string) bool { return checkDigest(s) == nil }

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

var tagPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// IsTag reports whether s can be a tag.
func IsTag(s string) bool { return tagPattern.MatchString(s) }

// hex returns the digits of a digest.
func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }
