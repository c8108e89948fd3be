package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"sync/atomic"
)

// proxy stands in front of the API server and counts. It speaks TLS and HTTP/2 on both sides, so that a program behaves as it does without
// it, and passes tokens on. Bytes are those of the bodies that the server sends, as compressed as they travel.
type proxy struct {
	kubeconfig string // path of the kubeconfig that leads through it
	token      string // of its user
	server     *httptest.Server
	requests   atomic.Int64
	received   atomic.Int64 // bytes
}

// kubeconfigFile is what is read of the control plane's own kubeconfigs.
type kubeconfigFile struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Clusters   []struct {
		Name    string `json:"name"`
		Cluster struct {
			Server string `json:"server"`
			CA     []byte `json:"certificate-authority-data"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		Name string `json:"name"`
		User struct {
			Token string `json:"token"`
		} `json:"user"`
	} `json:"users"`
	Contexts       json.RawMessage `json:"contexts"`
	CurrentContext string          `json:"current-context"`
}

// startProxy starts a proxy in front of the cluster of a kubeconfig, and writes the kubeconfig that leads through it to path.
func startProxy(kubeconfig, path string) (*proxy, error) {
	text, err := os.ReadFile(kubeconfig)
	if err != nil {
		return nil, err
	}
	var file kubeconfigFile
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, err
	}
	if len(file.Clusters) != 1 || len(file.Users) != 1 {
		return nil, errors.New("the kubeconfig does not have one cluster and one user")
	}
	behind := &file.Clusters[0].Cluster
	target, err := url.Parse(behind.Server)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(behind.CA)
	p := &proxy{kubeconfig: path, token: file.Users[0].User.Token}
	forward := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true, DisableCompression: true},
		FlushInterval: -1, // watches
		ModifyResponse: func(r *http.Response) error {
			r.Body = &counter{r.Body, &p.received}
			return nil
		},
	}
	p.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.requests.Add(1)
		forward.ServeHTTP(w, r)
	}))
	p.server.EnableHTTP2 = true
	p.server.Config.ErrorLog = quietLog
	forward.ErrorLog = quietLog // clients that end in the middle of a watch
	p.server.StartTLS()
	behind.Server = p.server.URL
	behind.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw})
	if text, err = json.Marshal(file); err != nil {
		return nil, err
	}
	return p, os.WriteFile(path, text, 0o600)
}

func (p *proxy) close() { p.server.CloseClientConnections() }

// count tells what passed while something was done.
func (p *proxy) count(ctx context.Context, do func(context.Context) error) (requests, received int64, err error) {
	r, b := p.requests.Load(), p.received.Load()
	err = do(ctx)
	return p.requests.Load() - r, p.received.Load() - b, err
}

type counter struct {
	io.ReadCloser
	n *atomic.Int64
}

// Read implements io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}
