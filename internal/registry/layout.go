package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Layout is an OCI layout in a folder as a [Store] (image specification, "OCI Image Layout"). Tags are entries of index.json with the
// annotation org.opencontainers.image.ref.name. Files appear whole or not at all.
type Layout struct {
	dir string
	mu  sync.Mutex // over index.json
}

// refName is the annotation that holds a tag.
const refName = "org.opencontainers.image.ref.name"

// OpenLayout opens the layout in a folder. The folder need not exist, and is made with the first write.
func OpenLayout(dir string) *Layout { return &Layout{dir: dir} }

// String is the folder.
func (l *Layout) String() string { return l.dir }

// layoutEntry is a descriptor of index.json.
type layoutEntry struct {
	MediaType   string            `json:"mediaType"`
	Size        int64             `json:"size"`
	Digest      string            `json:"digest"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type layoutIndex struct {
	SchemaVersion int           `json:"schemaVersion"`
	MediaType     string        `json:"mediaType"`
	Manifests     []layoutEntry `json:"manifests"`
}

func (l *Layout) index() (layoutIndex, error) {
	index := layoutIndex{SchemaVersion: 2, MediaType: ociIndex}
	raw, err := os.ReadFile(filepath.Join(l.dir, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil {
		return index, fmt.Errorf("reading the index of the OCI layout %s: %w", l.dir, err)
	}
	for _, e := range index.Manifests {
		if err := checkDigest(e.Digest); err != nil {
			return index, fmt.Errorf("reading the index of the OCI layout %s: %w", l.dir, err)
		}
	}
	return index, nil
}

// Tags implements [Store].
func (l *Layout) Tags(context.Context) ([]string, error) {
	index, err := l.index()
	var tags []string
	for _, e := range index.Manifests {
		if tag := e.Annotations[refName]; tag != "" {
			tags = append(tags, tag)
		}
	}
	return tags, err
}

// Resolve implements [Store].
func (l *Layout) Resolve(_ context.Context, tagOrDigest string) (Image, bool, error) {
	index, err := l.index()
	if err != nil {
		return Image{}, false, err
	}
	i := slices.IndexFunc(index.Manifests, func(e layoutEntry) bool { return e.Annotations[refName] == tagOrDigest || e.Digest == tagOrDigest })
	if i < 0 {
		return Image{}, false, nil
	}
	e := index.Manifests[i]
	raw, err := os.ReadFile(l.blob(e.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, false, nil
	}
	if err != nil {
		return Image{}, false, fmt.Errorf("reading %s of the OCI layout %s: %w", e.Digest, l.dir, err)
	}
	if have := digestOf(raw); have != e.Digest {
		return Image{}, false, &DigestError{"reading the OCI layout " + l.dir, e.Digest, have}
	}
	m, err := parseManifest(raw, e.MediaType)
	if err != nil {
		return Image{}, false, fmt.Errorf("reading %s of the OCI layout %s: %w", e.Digest, l.dir, err)
	}
	return Image{Digest: e.Digest, MediaType: e.MediaType, Raw: raw, Platforms: m.platforms()}, true, nil
}

// Referrers implements [Store]: it looks at the subject of every manifest in the index.
func (l *Layout) Referrers(_ context.Context, digest string) ([]string, error) {
	index, err := l.index()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range index.Manifests {
		raw, err := os.ReadFile(l.blob(e.Digest))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var m struct {
			Subject *descriptor `json:"subject"`
		}
		if err == nil {
			err = json.Unmarshal(raw, &m)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s of the OCI layout %s: %w", e.Digest, l.dir, err)
		}
		if m.Subject != nil && m.Subject.Digest == digest && !slices.Contains(list, e.Digest) {
			list = append(list, e.Digest)
		}
	}
	return list, nil
}

func (l *Layout) blob(digest string) string {
	return filepath.Join(l.dir, "blobs", "sha256", hexOf(digest))
}

func (l *Layout) open(_ context.Context, d descriptor) (io.ReadCloser, error) {
	f, err := os.Open(l.blob(d.Digest))
	if err != nil {
		return nil, fmt.Errorf("reading %s of the OCI layout %s: %w", d.Digest, l.dir, err)
	}
	return f, nil
}

// putBlob writes a blob unless one with this content is there. A file of that name with other content is replaced.
func (l *Layout) putBlob(ctx context.Context, d descriptor, from Store) error {
	if have, size, err := digestOfFile(l.blob(d.Digest)); err == nil && have == d.Digest && size == d.Size {
		return nil
	}
	r, err := from.open(ctx, d)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	h := sha256.New()
	return l.write(l.blob(d.Digest), func(f io.Writer) error {
		n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(r, d.Size+1))
		if err != nil {
			return fmt.Errorf("reading %s of %s: %w", d.Digest, from, err)
		}
		if have := "sha256:" + hex.EncodeToString(h.Sum(nil)); have != d.Digest || n != d.Size {
			return &DigestError{"copying a blob of " + from.String(), d.Digest, have}
		}
		return nil
	})
}

func digestOfFile(path string) (digest string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), n, err
}

func (l *Layout) putManifest(_ context.Context, image Image) (listed bool, err error) {
	err = l.write(l.blob(image.Digest), func(f io.Writer) error { _, err := f.Write(image.Raw); return err })
	if err != nil {
		return false, err
	}
	return true, l.edit(func(index *layoutIndex) {
		if !slices.ContainsFunc(index.Manifests, func(e layoutEntry) bool { return e.Digest == image.Digest }) {
			index.Manifests = append(index.Manifests, layoutEntry{MediaType: image.MediaType, Size: int64(len(image.Raw)), Digest: image.Digest})
		}
	})
}

func (*Layout) listReferrers(context.Context, string, []string) error { return nil } // Referrers finds them

func (l *Layout) putTag(_ context.Context, tag string, image Image, move bool) error {
	var taken error
	err := l.edit(func(index *layoutIndex) {
		e := layoutEntry{image.MediaType, int64(len(image.Raw)), image.Digest, map[string]string{refName: tag}}
		i := slices.IndexFunc(index.Manifests, func(e layoutEntry) bool { return e.Annotations[refName] == tag })
		switch {
		case i < 0:
			index.Manifests = append(index.Manifests, e)
		case index.Manifests[i].Digest == image.Digest:
		case move:
			index.Manifests[i] = e
		default:
			taken = &TagTakenError{Repository: l.dir, Tag: tag, Have: index.Manifests[i].Digest, Want: image.Digest}
		}
	})
	return errors.Join(err, taken)
}

// edit changes index.json.
func (l *Layout) edit(change func(*layoutIndex)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	index, err := l.index()
	if err != nil {
		return err
	}
	change(&index)
	raw, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the index of the OCI layout: %w", err)
	}
	err = l.write(filepath.Join(l.dir, "oci-layout"), func(f io.Writer) error {
		_, err := io.WriteString(f, `{"imageLayoutVersion":"1.0.0"}`)
		return err
	})
	if err != nil {
		return err
	}
	return l.write(filepath.Join(l.dir, "index.json"), func(f io.Writer) error { _, err := f.Write(append(raw, '\n')); return err })
}

// write makes a file that is there whole or not at all, also after a crash.
func (l *Layout) write(path string, content func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing the OCI layout %s: %w", l.dir, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing the OCI layout %s: %w", l.dir, err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // it is gone when all went well
	if err := content(f); err != nil {
		_ = f.Close()
		return err
	}
	if err := errors.Join(f.Sync(), f.Close(), os.Chmod(f.Name(), 0o644)); err != nil {
		return fmt.Errorf("writing the OCI layout %s: %w", l.dir, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("writing the OCI layout %s: %w", l.dir, err)
	}
	return nil
}
