package googlecloud

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"strings"
)

// running is a cluster with its endpoints.
type running struct {
	ca                    []byte // of its own authority
	dns, public, internal string // host:port; "" for one that is closed
	gateway               string // URL of a member's gateway, without a path
}

// startCluster opens the endpoints of a cluster.
func (s *Server) startCluster(name string, c Cluster) (*running, error) {
	behind, err := readKubeconfig(c.Kubeconfig)
	if err != nil {
		return nil, err
	}
	own, err := newAuthority(name)
	if err != nil {
		return nil, err
	}
	r := &running{ca: own.pem}
	open := func(kind string, a *authority, permission, prefix string) (string, error) {
		return s.startEndpoint(a, s.guard(name, kind, permission, prefix, behind.proxy()))
	}
	if path.Base(path.Dir(name)) == "memberships" {
		host, err := open("gateway", s.public, GatewayGet, gatewayPath(name))
		r.gateway = "https://" + host
		return r, err
	}
	if c.DNS {
		if r.dns, err = open("dns", s.public, Connect, ""); err != nil {
			return nil, err
		}
	}
	if c.Public {
		if r.public, err = open("public", own, "", ""); err != nil {
			return nil, err
		}
	}
	if c.Private {
		if r.internal, err = open("private", own, "", ""); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// gatewayPath is where the gateway serves a member: by the number of the project, and by the kind of the member.
func gatewayPath(name string) string {
	part := strings.Split(name, "/")
	return "/v1/projects/123456789/locations/" + part[3] + "/gkeMemberships/" + part[5]
}

// describe is the cluster as the container API shows it (google.container.v1.Cluster). The DNS endpoint is always there, open or not.
func (r *running) describe() map[string]any {
	dns, address := r.dns, r.public
	if dns == "" {
		dns = "gke-0123456789.europe-west1.gke.invalid"
	}
	if address == "" {
		address = r.internal
	}
	return map[string]any{
		"status": "RUNNING", "endpoint": address, "masterAuth": map[string]any{"clusterCaCertificate": base64.StdEncoding.EncodeToString(r.ca)},
		"controlPlaneEndpointsConfig": map[string]any{
			"dnsEndpointConfig": map[string]any{"endpoint": dns, "allowExternalTraffic": r.dns != ""},
			"ipEndpointsConfig": map[string]any{
				"enabled": address != "", "enablePublicEndpoint": r.public != "", "publicEndpoint": r.public, "privateEndpoint": r.internal,
			},
		},
		"somethingNew": map[string]any{"since": "tomorrow"}, // Google adds fields whenever it likes
	}
}

// startEndpoint serves TLS, with HTTP/2, on a free port.
func (s *Server) startEndpoint(a *authority, h http.Handler) (host string, err error) {
	certificate, err := a.sign()
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{
		Handler: h, ErrorLog: log.New(io.Discard, "", 0), // of clients that do not trust the certificate, which is a test
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	}
	s.servers = append(s.servers, server)
	go func() { _ = server.ServeTLS(l, "", "") }() // ends with Close
	return l.Addr().String(), nil
}

// guard lets nobody in without a token, nor without the permission where one is asked for.
func (s *Server) guard(cluster, kind, permission, prefix string, next http.Handler) http.Handler {
	return http.StripPrefix(prefix, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, ok := s.bearer(r)
		switch {
		case !ok:
			s.note("%s %s %s %s refused: no good token", cluster, kind, r.Method, r.URL.Path)
			reply(w, http.StatusUnauthorized, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "Unauthorized", "reason": "Unauthorized", "code": 401})
		case permission != "" && !s.may(t.account, permission):
			s.note("%s %s %s %s refused: %s lacks %s", cluster, kind, r.Method, r.URL.Path, t.account, permission)
			refuse(w, http.StatusForbidden, "PERMISSION_DENIED", fmt.Sprintf("Permission '%s' denied on resource '%s' (or it may not exist).", permission, cluster))
		default:
			s.note("%s %s %s %s token %d of %s", cluster, kind, r.Method, r.URL.Path, t.number, t.account)
			next.ServeHTTP(w, r)
		}
	}))
}

// server is an API server and a credential for it.
type server struct {
	url   *url.URL
	ca    *x509.CertPool
	token string
}

// readKubeconfig reads a kubeconfig in JSON, as controlplane writes it.
func readKubeconfig(name string) (server, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return server{}, err
	}
	var file struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Token string `json:"token"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return server{}, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(file.Clusters) != 1 || len(file.Users) != 1 || file.Users[0].User.Token == "" {
		return server{}, fmt.Errorf("reading %s: want one cluster and one user with a token", name)
	}
	s := server{ca: x509.NewCertPool(), token: file.Users[0].User.Token}
	if !s.ca.AppendCertsFromPEM(file.Clusters[0].Cluster.CA) {
		return server{}, errors.New("the kubeconfig holds no certificate authority")
	}
	s.url, err = url.Parse(file.Clusters[0].Cluster.Server)
	return s, err
}

// proxy passes requests on, with the server's own credential in place of the caller's.
func (s server) proxy() http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(s.url)
			r.Out.Header.Set("Authorization", "Bearer "+s.token)
		},
		FlushInterval: -1, // watches
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.ca, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true},
		ErrorLog:      log.New(io.Discard, "", 0), // of watches that their callers end
	}
}
