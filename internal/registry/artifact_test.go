package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// pushLayer puts an image of one layer into the real registry.
func pushLayer(t *testing.T, repository, tag string, content []byte, mediaType types.MediaType) {
	t.Helper()
	image, err := mutate.Append(empty.Image, mutate.Addendum{Layer: static.NewLayer(content, mediaType)})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(repository+":"+tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
}

func TestALayerIsReadWhole(t *testing.T) {
	repository := realHost(t) + "/" + folder(t)
	content := bytes.Repeat([]byte("chart"), 1000)
	pushLayer(t, repository, "1.0.0", content, "application/x-chart")
	c := client()
	image, ok, err := c.Resolve(t.Context(), repository, "1.0.0")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 || layers[0].MediaType != "application/x-chart" || layers[0].Size != 5000 {
		t.Fatalf("%+v, %v", layers, err)
	}
	if got, err := c.ReadLayer(t.Context(), repository, layers[0], 5000); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := c.ReadLayer(t.Context(), repository, layers[0], 4999); err == nil || !strings.Contains(err.Error(), "it has 5000 bytes") {
		t.Errorf("a layer that is too large: %v", err)
	}
	short := layers[0]
	short.Size--
	if _, err := c.ReadLayer(t.Context(), repository, short, 5000); err == nil || !strings.Contains(err.Error(), "longer than the 4999 bytes") {
		t.Errorf("a layer that is longer than it says: %v", err)
	}
}

func TestAnIndexHasNoLayers(t *testing.T) {
	image := Image{MediaType: ociIndex, Raw: []byte(`{"schemaVersion":2,"manifests":[]}`)}
	if layers, err := image.Layers(); err == nil {
		t.Errorf("%+v", layers)
	}
	if layers, err := (Image{MediaType: ociManifest, Raw: []byte("{}")}).Layers(); err == nil {
		t.Errorf("%+v", layers)
	}
}

func TestAnAuthorityCanBeGiven(t *testing.T) {
	target := &url.URL{Scheme: "http", Host: realHost(t)}
	s := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }})
	t.Cleanup(s.Close)
	path := folder(t)
	pushLayer(t, target.Host+"/"+path, "1.0.0", []byte("x"), "text/plain")
	// localhost is always reached over plain HTTP, so the server goes by another name here.
	address := strings.TrimPrefix(s.URL, "https://")
	_, port, _ := strings.Cut(address, ":")
	repository := "example.com:" + port + "/" + path
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate()) // it is for example.com, too
	to := func(o Option) *Client {
		c := client(o)
		c.base.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		return c
	}
	if _, _, err := to(WithTLS(&tls.Config{})).Resolve(t.Context(), repository, "1.0.0"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
	if _, ok, err := to(WithTLS(&tls.Config{RootCAs: pool})).Resolve(t.Context(), repository, "1.0.0"); err != nil || !ok {
		t.Error(ok, err)
	}
}
