package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Layer is one layer of an image's manifest. Things that are no images, such as Helm charts, are kept in registries as images of one layer.
type Layer struct {
	MediaType string
	Digest    string
	Size      int64 // bytes
}

// Layers lists the layers of a single image, in the order of its manifest.
func (i Image) Layers() ([]Layer, error) {
	m, err := parseManifest(i.Raw, i.MediaType)
	if err != nil {
		return nil, err
	}
	if isIndex(m.mediaType) {
		return nil, errors.New("it is an index of several images, not one")
	}
	layers := make([]Layer, len(m.layers))
	for n, d := range m.layers {
		layers[n] = Layer{d.MediaType, d.Digest, d.Size}
	}
	return layers, nil
}

// ReadLayer reads a layer of at most limit bytes into memory, and compares it with its digest.
func (c *Client) ReadLayer(ctx context.Context, repository string, l Layer, limit int64) ([]byte, error) {
	repo, err := c.parse(repository)
	if err != nil {
		return nil, err
	}
	if l.Size > limit {
		return nil, fmt.Errorf("reading %s of %s: it has %d bytes, and at most %d MiB are taken", l.Digest, repository, l.Size, limit>>20)
	}
	d := c.download(ctx, repo, l.Digest, l.Size)
	defer func() { _ = d.Close() }()
	return io.ReadAll(d)
}

// WithTLS replaces what the client knows of certificates: whose it trusts, and which it shows.
func WithTLS(config *tls.Config) Option {
	return func(c *Client) {
		transport := c.base.(*http.Transport).Clone() // New has set it
		transport.TLSClientConfig = config
		c.base = transport
	}
}
