package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Bundle is an image with everything that belongs to it: the children of an index, blobs, referrers such as attestations (of children, too,
// and referrers of referrers), cosign's signatures, and the tags of all of them.
type Bundle struct {
	Root  Image
	Parts []Part            // all manifests, each behind what it refers to: the order in which they can be written
	Tags  map[string]string // tag → digest of a part
}

// Part is one manifest of a bundle.
type Part struct {
	Image
	Children []string // digests that it lists as an index

	blobs   []descriptor
	subject string // digest of what it refers to
}

// Bytes is what the bundle weighs, each blob once.
func (b Bundle) Bytes() int64 {
	sizes := map[string]int64{}
	for _, p := range b.Parts {
		sizes[p.Digest] = int64(len(p.Raw))
		for _, d := range p.blobs {
			sizes[d.Digest] = d.Size
		}
	}
	var sum int64
	for _, n := range sizes {
		sum += n
	}
	return sum
}

// Has reports whether a manifest is part of the bundle.
func (b Bundle) Has(digest string) bool {
	return slices.ContainsFunc(b.Parts, func(p Part) bool { return p.Digest == digest })
}

// Names finds out what each tag of a store is on. It costs one request for each tag, so a registry's own API is asked instead where there is
// one. A tag that vanishes meanwhile is left out.
func Names(ctx context.Context, s Store) (map[string]string, error) {
	tags, err := s.Tags(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	names := map[string]string{}
	err = parallel(ctx, tags, func(ctx context.Context, tag string) error {
		image, found, err := s.Resolve(ctx, tag)
		if err != nil || !found {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		names[tag] = image.Digest
		return nil
	})
	return names, err
}

// maxParts bounds a bundle: far more than people attach to an image.
const maxParts = 10_000

// Collect finds all that belongs to the image with this digest. names is what each tag of the store is on. The boolean is false when the
// store has no such image; an index whose children are missing is an error, since such a bundle would not be whole.
func Collect(ctx context.Context, s Store, digest string, names map[string]string) (Bundle, bool, error) {
	b := Bundle{Tags: map[string]string{}}
	seen := map[string]bool{}
	var visit func(digest string, optional bool) error
	visit = func(digest string, optional bool) error {
		if seen[digest] {
			return nil
		}
		if seen[digest] = true; len(seen) > maxParts {
			return fmt.Errorf("collecting what belongs to %s in %s: more than %d manifests", b.Root.Digest, s, maxParts)
		}
		image, found, err := s.Resolve(ctx, digest)
		switch {
		case err != nil:
			return err
		case !found && optional: // lists of referrers may name what is deleted, for hours
			return nil
		case !found:
			return fmt.Errorf("collecting what belongs to %s in %s: %s is listed in an index and is not there", b.Root.Digest, s, digest)
		}
		m, err := parseManifest(image.Raw, image.MediaType)
		if err != nil {
			return fmt.Errorf("reading %s of %s: %w", digest, s, err)
		}
		attached, isList := strings.CutPrefix(tagOn(names, digest), "sha256-")
		p := Part{Image: image, blobs: blobsOf(m), subject: m.subject}
		for _, d := range m.manifests {
			p.Children = append(p.Children, d.Digest)
			if err := visit(d.Digest, isList && len(attached) == 64); err != nil {
				return err
			}
		}
		b.Parts = append(b.Parts, p)
		referrers, err := s.Referrers(ctx, digest)
		if err != nil {
			return err
		}
		for _, suffix := range []string{"", ".sig", ".att", ".sbom"} {
			tag := "sha256-" + hexOf(digest) + suffix
			if on, ok := names[tag]; ok {
				b.Tags[tag] = on
				referrers = append(referrers, on)
			}
		}
		for _, r := range referrers {
			if err := visit(r, true); err != nil {
				return err
			}
		}
		return nil
	}
	root, found, err := s.Resolve(ctx, digest)
	if err != nil || !found {
		return b, false, err
	}
	b.Root = root
	if err := visit(digest, false); err != nil {
		return b, false, err
	}
	for tag, on := range names {
		if b.Has(on) && !IsTombstoneTag(tag) {
			b.Tags[tag] = on
		}
	}
	maps.DeleteFunc(b.Tags, func(_, on string) bool { return !b.Has(on) }) // a list that vanished meanwhile
	return b, true, nil
}

// tagOn returns the attachment tag that is on a digest, if there is one.
func tagOn(names map[string]string, digest string) string {
	for tag, on := range names {
		if on == digest && attachmentTag(tag) {
			return tag
		}
	}
	return ""
}

// blobsOf lists what has to be kept beside a manifest. Layers that licences forbid to distribute are not in registries; they have an address
// of their own (image specification, "Non-Distributable Layers").
func blobsOf(m manifest) []descriptor {
	var list []descriptor
	for _, d := range slices.Concat(config(m.config), m.layers) {
		if len(d.URLs) > 0 && (strings.Contains(d.MediaType, "nondistributable") || strings.Contains(d.MediaType, "foreign")) {
			continue
		}
		list = append(list, d)
	}
	return list
}

// Copy writes a bundle that is in one store into another: blobs, then manifests by digest, then tags. What is there is not written again, so a
// copy that was interrupted goes on where it was. move says that tags of attachments (cosign's, lists of referrers) may be moved, because
// they change with every new signature; no other tag ever is. Where the target does not list referrers by itself, they are listed under a tag.
func Copy(ctx context.Context, from Store, b Bundle, to Store, tags map[string]string, move bool) error {
	unlisted := map[string][]string{} // subject → its referrers
	for _, p := range b.Parts {
		if err := parallel(ctx, p.blobs, func(ctx context.Context, d descriptor) error { return to.putBlob(ctx, d, from) }); err != nil {
			return err
		}
		listed, err := to.putManifest(ctx, p.Image)
		if err != nil {
			return err
		}
		if !listed && b.Has(p.subject) {
			unlisted[p.subject] = append(unlisted[p.subject], p.Digest)
		}
	}
	for _, tag := range slices.Sorted(maps.Keys(tags)) {
		i := slices.IndexFunc(b.Parts, func(p Part) bool { return p.Digest == tags[tag] })
		if i < 0 {
			return fmt.Errorf("writing tag %s to %s: %s is not part of the bundle", tag, to, tags[tag])
		}
		if attachmentTag(tag) && !move {
			if _, found, err := to.Resolve(ctx, tag); err != nil || found { // newer than ours, or ours
				if err != nil {
					return err
				}
				continue
			}
		}
		if err := to.putTag(ctx, tag, b.Parts[i].Image, move && attachmentTag(tag)); err != nil {
			return err
		}
	}
	for _, subject := range slices.Sorted(maps.Keys(unlisted)) {
		if err := to.listReferrers(ctx, subject, unlisted[subject]); err != nil {
			return err
		}
	}
	return nil
}

// Prove reads a bundle back from where it was copied to: every manifest by its digest, every blob in full, every tag, and that a reader who
// starts from the root finds every part again. It returns how many bytes it has read.
func Prove(ctx context.Context, s Store, b Bundle) (int64, error) {
	var (
		mu    sync.Mutex
		total int64
		blobs = map[string]descriptor{}
	)
	names := map[string]string{}
	for tag, want := range b.Tags {
		image, found, err := s.Resolve(ctx, tag)
		if err != nil {
			return total, err
		}
		if !found || image.Digest != want {
			return total, &ProofError{s.String(), fmt.Sprintf("tag %s is not on %s", tag, want)}
		}
		names[tag] = want
	}
	for _, p := range b.Parts {
		image, found, err := s.Resolve(ctx, p.Digest)
		if err != nil {
			return total, err
		}
		if !found {
			return total, &ProofError{s.String(), p.Digest + " is missing"}
		}
		total += int64(len(image.Raw))
		if tag := referrersTag(p.subject); b.Has(p.subject) && names[tag] == "" { // the place may need a list that the bundle came without
			if list, found, err := s.Resolve(ctx, tag); err != nil {
				return total, err
			} else if found {
				names[tag] = list.Digest
			}
		}
		for _, d := range p.blobs {
			blobs[d.Digest] = d
		}
	}
	err := parallel(ctx, slices.Collect(maps.Values(blobs)), func(ctx context.Context, d descriptor) error {
		r, err := s.open(ctx, d)
		if errors.Is(err, fs.ErrNotExist) {
			return &ProofError{s.String(), d.Digest + " is missing"}
		}
		if err != nil {
			return err
		}
		defer func() { _ = r.Close() }()
		h := sha256.New()
		n, err := io.Copy(h, io.LimitReader(r, d.Size+1))
		if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusNotFound {
			return &ProofError{s.String(), d.Digest + " is missing"}
		}
		if err != nil {
			return fmt.Errorf("reading %s of %s: %w", d.Digest, s, err)
		}
		if have := "sha256:" + hex.EncodeToString(h.Sum(nil)); have != d.Digest || n != d.Size {
			return &ProofError{s.String(), fmt.Sprintf("%s has other content (%s)", d.Digest, have)}
		}
		mu.Lock()
		defer mu.Unlock()
		total += n
		return nil
	})
	if err != nil {
		return total, err
	}
	again, found, err := Collect(ctx, s, b.Root.Digest, names)
	if err != nil {
		return total, err
	}
	for _, p := range b.Parts {
		if !found || !again.Has(p.Digest) {
			return total, &ProofError{s.String(), p.Digest + " is there, and nothing leads to it: the registry does not list referrers"}
		}
	}
	return total, nil
}

// ProofError says that a copy is not what it should be.
type ProofError struct{ Store, Reason string }

// Error names the place and the first fault.
func (e *ProofError) Error() string {
	return fmt.Sprintf("the copy in %s is not whole: %s", e.Store, e.Reason)
}

// Listed returns the manifests that an index lists, and how many there are; none for a single image.
func Listed(image Image) (digests []string, n int, err error) {
	m, err := parseManifest(image.Raw, image.MediaType)
	for _, d := range m.manifests {
		digests = append(digests, d.Digest)
	}
	return digests, len(digests), err
}
