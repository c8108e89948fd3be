package registry

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Source is an image on this machine's disk, every part of which has been compared with its name.
type Source struct {
	Image // what a tag will name

	children []Image // manifests of an index, each after those that it refers to
	blobs    []blob
	close    func() error
}

// Close closes the files.
func (s *Source) Close() error { return s.close() }

// Open reads an image from an OCI layout, as a directory or as a tar file, or from a tar file that `docker save` wrote. It reads everything
// and compares it with its digest and its size before anything can be sent. Links are never followed. A *[SourceError] says that the content
// must not be pushed; other errors, that it could not be read.
func Open(ctx context.Context, path string) (*Source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening the image: %w", err)
	}
	var files files
	switch {
	case info.IsDir():
		files, err = openDirectory(path)
	case info.Mode().IsRegular():
		files, err = openTar(ctx, path)
	default:
		err = &SourceError{path, errors.New("neither a directory nor a regular file")}
	}
	if err != nil {
		return nil, sourceError(path, err)
	}
	s, err := read(ctx, files)
	if err != nil {
		_ = files.Close()
		return nil, sourceError(path, err)
	}
	s.close = files.Close
	return s, nil
}

// sourceError gives findings about the content their type; what the system said stays as it is.
func sourceError(path string, err error) error {
	if errors.As(err, new(*fs.PathError)) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("reading the image in %s: %w", path, err)
	}
	return &SourceError{path, err}
}

// files are the files of a directory or of a tar file.
type files interface {
	// open returns a regular file and its size in bytes. The error is a [*missingError] when there is none.
	open(name string) (io.ReadCloser, int64, error)
	io.Closer
}

// missingError says that a file is not there, or is not a regular file.
type missingError struct{ name, reason string }

func (e *missingError) Error() string { return e.name + " " + e.reason }

// read finds out what the files are. Newer versions of Docker write both forms into one tar file; the layout is the one that keeps the
// image's digest, so it comes first.
func read(ctx context.Context, f files) (*Source, error) {
	marker, err := readSmall(f, "oci-layout")
	if err == nil {
		return readLayout(ctx, f, marker)
	}
	if !errors.As(err, new(*missingError)) {
		return nil, err
	}
	index, err := readSmall(f, "manifest.json")
	if err == nil {
		return readSaved(ctx, f, index)
	}
	if !errors.As(err, new(*missingError)) {
		return nil, err
	}
	return nil, errors.New("it holds neither an OCI layout (oci-layout) nor what docker save writes (manifest.json)")
}

func readSmall(f files, name string) ([]byte, error) {
	r, size, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	if size > manifestLimit {
		return nil, fmt.Errorf("%s has %d bytes: at most %d are read", name, size, manifestLimit)
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return raw, nil
}

// layout walks an OCI layout from its root.
type layout struct {
	files
	source *Source
	// One digest may be named as a manifest and as a blob, and registries keep the two apart: each is sent as what it is named.
	manifests, blobs map[string]int64 // sizes by digest, of what was compared
}

const (
	depthLimit = 5      // indexes inside indexes
	partLimit  = 10_000 // manifests and blobs of one image
)

// readLayout reads an OCI image layout (image specification, "Image Layout").
func readLayout(ctx context.Context, f files, marker []byte) (*Source, error) {
	var version struct {
		ImageLayoutVersion string `json:"imageLayoutVersion"`
	}
	if err := json.Unmarshal(marker, &version); err != nil || version.ImageLayoutVersion != "1.0.0" {
		return nil, fmt.Errorf("oci-layout names the version %.40q: want 1.0.0", version.ImageLayoutVersion)
	}
	raw, err := readSmall(f, "index.json")
	if err != nil {
		return nil, err
	}
	index, err := parseManifest(raw, ociIndex)
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	// One image under two names is listed twice.
	slices.SortFunc(index.manifests, func(a, b descriptor) int { return strings.Compare(a.Digest, b.Digest) })
	roots := slices.CompactFunc(index.manifests, func(a, b descriptor) bool { return a.Digest == b.Digest })
	if len(roots) != 1 {
		return nil, fmt.Errorf("index.json lists %d images: want exactly one", len(roots))
	}
	l := layout{files: f, source: &Source{}, manifests: map[string]int64{}, blobs: map[string]int64{}}
	root, err := l.manifest(ctx, roots[0], 0)
	if err != nil {
		return nil, err
	}
	l.source.Image = root
	return l.source, nil
}

// manifest checks an image or index with all that it refers to, and returns it.
func (l *layout) manifest(ctx context.Context, d descriptor, depth int) (Image, error) {
	if depth > depthLimit {
		return Image{}, fmt.Errorf("indexes are nested more than %d deep", depthLimit)
	}
	if d.Size > manifestLimit {
		return Image{}, fmt.Errorf("%s has %d bytes: a manifest has at most %d", d.Digest, d.Size, manifestLimit)
	}
	var raw bytes.Buffer
	if err := l.compare(ctx, d, &raw, l.manifests); err != nil {
		return Image{}, err
	}
	m, err := parseManifest(raw.Bytes(), d.MediaType)
	if err != nil {
		return Image{}, fmt.Errorf("%s: %w", d.Digest, err)
	}
	for _, child := range m.manifests {
		if size, seen := l.manifests[child.Digest]; seen && size == child.Size {
			continue
		}
		image, err := l.manifest(ctx, child, depth+1)
		if err != nil {
			return Image{}, err
		}
		l.source.children = append(l.source.children, image)
	}
	for _, part := range slices.Concat(m.layers, config(m.config)) {
		if err := l.blob(ctx, part); err != nil {
			return Image{}, err
		}
	}
	image := Image{Digest: d.Digest, MediaType: d.MediaType, Raw: raw.Bytes(), Platforms: m.platforms()}
	if m.config != nil && (m.config.MediaType == ociConfig || m.config.MediaType == dockerConfig) {
		config, err := readSmall(l, blobName(m.config.Digest))
		if err != nil {
			return Image{}, err
		}
		if image.Platforms, err = platformOf(config); err != nil {
			return Image{}, fmt.Errorf("config %s: %w", m.config.Digest, err)
		}
	}
	return image, nil
}

func (l *layout) blob(ctx context.Context, d descriptor) error {
	if size, seen := l.blobs[d.Digest]; seen && size == d.Size {
		return nil
	}
	if err := l.compare(ctx, d, io.Discard, l.blobs); err != nil {
		if len(d.URLs) > 0 && errors.As(err, new(*missingError)) {
			return fmt.Errorf("layer %s is kept elsewhere (it has a URL): an image must hold all of its layers", d.Digest)
		}
		return err
	}
	l.source.blobs = append(l.source.blobs, blob{d.Digest, d.Size, func() (io.ReadCloser, error) {
		r, _, err := l.open(blobName(d.Digest))
		return r, err
	}})
	return nil
}

func blobName(digest string) string { return "blobs/sha256/" + hexOf(digest) }

// compare reads a file of the layout into w, compares size and content with the descriptor, and notes that it did.
func (l *layout) compare(ctx context.Context, d descriptor, w io.Writer, seen map[string]int64) error {
	if len(l.manifests)+len(l.blobs) == partLimit {
		return fmt.Errorf("it has more than %d parts", partLimit)
	}
	r, size, err := l.open(blobName(d.Digest))
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	if size != d.Size {
		return fmt.Errorf("%s has %d bytes, and the manifest says %d", blobName(d.Digest), size, d.Size)
	}
	sum := newMeter()
	if _, err := io.Copy(io.MultiWriter(sum, w), &stoppable{ctx, r}); err != nil {
		return fmt.Errorf("reading %s: %w", blobName(d.Digest), err)
	}
	if sum.size != d.Size || sum.digest() != d.Digest {
		return &DigestError{"reading " + blobName(d.Digest), d.Digest, sum.digest()}
	}
	seen[d.Digest] = d.Size
	return nil
}

func platformOf(config []byte) ([]string, error) {
	var p platform
	if err := json.Unmarshal(config, &p); err != nil {
		return nil, err
	}
	if s := p.String(); s != "" {
		return []string{s}, nil
	}
	return nil, nil
}

// meter counts and hashes what is written to it.
type meter struct {
	hash.Hash
	size int64
}

func newMeter() *meter { return &meter{Hash: sha256.New()} }

func (m *meter) Write(p []byte) (int, error) {
	m.size += int64(len(p))
	return m.Hash.Write(p)
}

func (m *meter) digest() string { return "sha256:" + hex.EncodeToString(m.Sum(nil)) }

// stoppable is a reader that ends with its context.
type stoppable struct {
	ctx context.Context
	io.Reader
}

func (s *stoppable) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.Reader.Read(p)
}

// saved is one image in the manifest.json that docker save writes.
type saved struct {
	Config string
	Layers []string
}

// readSaved reads what docker save writes without a layout: a config that lists the digests of the unpacked layers, and the layers, as plain
// tar files or, from other builders, compressed. There is no manifest to keep, so one is made, and it is the same for the same files.
func readSaved(ctx context.Context, f files, index []byte) (*Source, error) {
	var images []saved
	if err := json.Unmarshal(index, &images); err != nil {
		return nil, fmt.Errorf("reading manifest.json: %w", err)
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("manifest.json lists %d images: want exactly one", len(images))
	}
	rawConfig, err := readSmall(f, images[0].Config)
	if err != nil {
		return nil, err
	}
	if want := digestIn(images[0].Config); want != "" && want != digestOf(rawConfig) {
		return nil, &DigestError{"reading " + images[0].Config, want, digestOf(rawConfig)}
	}
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(rawConfig, &config); err != nil {
		return nil, fmt.Errorf("reading %s: %w", images[0].Config, err)
	}
	diffIDs := config.RootFS.DiffIDs
	if len(diffIDs) != len(images[0].Layers) {
		return nil, fmt.Errorf("manifest.json lists %d layers, and %s %d", len(images[0].Layers), images[0].Config, len(diffIDs))
	}
	// docker save writes a layer that occurs twice once, and a link for the second: what is under the link's name is found by its digest.
	layers := map[string]blob{}
	for i, name := range images[0].Layers {
		b, err := readLayer(ctx, f, name, diffIDs[i])
		if errors.As(err, new(*missingError)) {
			continue
		}
		if err != nil {
			return nil, err
		}
		layers[diffIDs[i]] = b
	}
	s := &Source{}
	made := madeManifest{2, dockerManifest, descriptor{MediaType: dockerConfig, Digest: digestOf(rawConfig), Size: int64(len(rawConfig))}, []descriptor{}}
	s.blobs = append(s.blobs, blob{made.Config.Digest, made.Config.Size, bytesBody(rawConfig)})
	for i, id := range diffIDs {
		b, ok := layers[id]
		if !ok {
			return nil, fmt.Errorf("%s is not a regular file, and no other layer has its content", images[0].Layers[i])
		}
		made.Layers = append(made.Layers, descriptor{MediaType: dockerLayer, Digest: b.digest, Size: b.size})
		if !slices.ContainsFunc(s.blobs, func(o blob) bool { return o.digest == b.digest }) {
			s.blobs = append(s.blobs, b)
		}
	}
	raw, err := json.Marshal(made)
	if err != nil {
		return nil, err
	}
	s.Image = Image{Digest: digestOf(raw), MediaType: dockerManifest, Raw: raw}
	s.Platforms, err = platformOf(rawConfig)
	return s, err
}

// madeManifest is the one manifest that this package writes itself: the bytes are those that go-containerregistry would write, so that the
// digest is the one that its tools (crane, kaniko, ko) print for the same file.
type madeManifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

// digestIn returns the digest that a file name ends in, if it does: 64 digits, perhaps with a suffix such as .json.
func digestIn(name string) string {
	name, _, _ = strings.Cut(name[strings.LastIndexAny(name, "/:")+1:], ".")
	if d := "sha256:" + name; IsDigest(d) {
		return d
	}
	return ""
}

// readLayer compares a layer's unpacked content with its digest and returns the blob to push: the file itself where it is compressed, else
// what compressing it yields.
func readLayer(ctx context.Context, f files, name, diffID string) (blob, error) {
	r, _, err := f.open(name)
	if err != nil {
		return blob{}, err
	}
	defer func() { _ = r.Close() }()
	content := bufio.NewReaderSize(&stoppable{ctx, r}, 64<<10)
	magic, _ := content.Peek(4)
	packed, unpacked := newMeter(), newMeter()
	b := blob{open: func() (io.ReadCloser, error) { r, _, err := f.open(name); return r, err }}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		var unzip *gzip.Reader
		if unzip, err = gzip.NewReader(io.TeeReader(content, packed)); err == nil {
			_, err = io.Copy(unpacked, unzip)
		}
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		err = errors.New("it is compressed with zstd, which is not supported in this kind of file: save an OCI layout")
	default:
		b.open = func() (io.ReadCloser, error) { return compressed(f, name) }
		err = compress(packed, io.TeeReader(content, unpacked))
	}
	if err != nil {
		return blob{}, fmt.Errorf("reading layer %s: %w", name, err)
	}
	if unpacked.digest() != diffID {
		return blob{}, &DigestError{"reading layer " + name, diffID, unpacked.digest()}
	}
	b.digest, b.size = packed.digest(), packed.size
	return b, nil
}

// compress writes r to w as gzip, the same bytes every time: the digest is taken in one run and the content sent in another. The level is
// go-containerregistry's, which is several times faster than the default and makes layers a tenth larger.
func compress(w io.Writer, r io.Reader) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, r); err != nil {
		return err
	}
	return z.Close()
}

// compressed opens a file as a gzip stream.
func compressed(f files, name string) (io.ReadCloser, error) {
	r, _, err := f.open(name)
	if err != nil {
		return nil, err
	}
	out, in := io.Pipe()
	go func() { // ends when all is read, and when the reader closes its end
		err := compress(in, r)
		_ = r.Close()
		_ = in.CloseWithError(err)
	}()
	return out, nil
}
