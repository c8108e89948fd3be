// Package googlecloud plays the part of Google Cloud that stands between a build and a Kubernetes cluster, in front of a real API server
// (internal/rehearsal/controlplane), for the rehearsal and for the tests of deploy-helm:
//
//   - the metadata server (https://cloud.google.com/compute/docs/metadata/querying-metadata) and the OAuth token endpoint for service account
//     keys (RFC 7523), which hand out tokens that really expire;
//   - container.googleapis.com, projects.locations.clusters.get;
//   - connectgateway.googleapis.com, projects.locations.memberships.generateCredentials;
//   - iamcredentials.googleapis.com, projects.serviceAccounts.generateAccessToken;
//   - the endpoints of each cluster. They end TLS, let in whoever shows a token that has not expired, and pass the request on to the API
//     server with a credential that it knows. DNS endpoints and the gateway ask for an IAM permission first, as Google's do.
//
// What the services answer follows their reference documentation; none of it was recorded from the real ones.
package googlecloud

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Permissions that somebody who deploys needs.
const (
	GetClusters     = "container.clusters.get"
	Connect         = "container.clusters.connect"
	GatewayCreds    = "gkehub.gateway.generateCredentials"
	GatewayGet      = "gkehub.gateway.get"
	GetAccessTokens = "iam.serviceAccounts.getAccessToken"
)

// All are the permissions that the roles roles/container.developer, roles/gkehub.gatewayEditor and roles/iam.serviceAccountTokenCreator hold.
var All = []string{GetClusters, Connect, GatewayCreds, GatewayGet, GetAccessTokens}

// Options say what there is.
type Options struct {
	Account  string              // e-mail address of the account that the metadata server answers for
	Grants   map[string][]string // permissions by account, on everything
	Lifetime time.Duration       // of tokens, in whole seconds; 0 means an hour
	Clusters map[string]Cluster  // by resource name, projects/P/locations/L/clusters/C or …/memberships/M
}

// Cluster is one cluster, or a member of a fleet.
type Cluster struct {
	Kubeconfig           string // of the API server behind it: JSON, with a token
	DNS, Public, Private bool   // the endpoints that are open; a member has its gateway only
}

// Server is a running cloud. Close ends it.
type Server struct {
	// PublicCA is the PEM of the authority that stands for the public ones: DNS endpoints and the gateway are signed by it.
	PublicCA []byte

	options  Options
	public   *authority
	key      *rsa.PrivateKey // of all service account keys
	clusters map[string]*running
	listener net.Listener
	servers  []*http.Server

	mu     sync.Mutex
	tokens map[string]token
	log    []string
}

type token struct {
	account string
	expires time.Time
	number  int
}

// Start starts the services on free ports of the loopback interface.
func Start(o Options) (_ *Server, err error) {
	if o.Lifetime == 0 {
		o.Lifetime = time.Hour
	}
	s := &Server{options: o, tokens: map[string]token{}, clusters: map[string]*running{}}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if s.public, err = newAuthority("the public authorities"); err != nil {
		return nil, err
	}
	s.PublicCA = s.public.pem
	if s.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, err
	}
	for name, c := range o.Clusters {
		if s.clusters[name], err = s.startCluster(name, c); err != nil {
			return nil, fmt.Errorf("cluster %s: %w", name, err)
		}
	}
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /computeMetadata/v1/instance/service-accounts/default/{what}", s.metadata)
	mux.HandleFunc("POST /token", s.exchangeAssertion)
	mux.HandleFunc("GET /v1/projects/{project}/locations/{location}/clusters/{cluster}", s.getCluster)
	mux.HandleFunc("GET /v1/projects/{project}/locations/{location}/memberships/{call}", s.generateCredentials)
	mux.HandleFunc("POST /v1/projects/-/serviceAccounts/{call}", s.generateAccessToken)
	mux.HandleFunc("GET /log", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, strings.Join(s.Log(), "\n")) })
	s.serve(mux, s.listener)
	return s, nil
}

func (s *Server) serve(h http.Handler, l net.Listener) {
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	s.servers = append(s.servers, server)
	go func() { _ = server.Serve(l) }() // ends with Close
}

// Close ends all services.
func (s *Server) Close() error {
	var errs []error
	for _, server := range s.servers {
		errs = append(errs, server.Close())
	}
	return errors.Join(errs...)
}

// Host is the host:port of the metadata server, and of all APIs.
func (s *Server) Host() string { return s.listener.Addr().String() }

// URL is the address of all APIs, without a path.
func (s *Server) URL() string { return "http://" + s.Host() }

// Env is what a step that shall use these services instead of Google's needs in its environment.
func (s *Server) Env() map[string]string {
	return map[string]string{
		"GCE_METADATA_HOST": s.Host(), "CONTAINER_ENDPOINT": s.URL(), "CONNECT_GATEWAY_ENDPOINT": s.URL(), "IAM_CREDENTIALS_ENDPOINT": s.URL(),
	}
}

// Log lists what was asked of the clusters' endpoints and of the token services, one line for each request. It is also served as /log.
func (s *Server) Log() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

func (s *Server) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

// mint makes a token.
func (s *Server) mint(account string) (text string, t token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text = "ya29.rehearsal-" + rand.Text()
	t = token{account, time.Now().Add(s.options.Lifetime), len(s.tokens) + 1}
	s.tokens[text] = t
	s.log = append(s.log, fmt.Sprintf("token %d for %s", t.number, account))
	return text, t
}

// bearer finds the token of a request. An expired one is none.
func (s *Server) bearer(r *http.Request) (token, bool) {
	text, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tokens[text]
	return t, ok && time.Now().Before(t.expires)
}

func (s *Server) may(account, permission string) bool {
	return slices.Contains(s.options.Grants[account], permission)
}

// admit answers a call that shows no good token or whose account lacks the permission, in the form of all Google APIs.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, permission, on string) bool {
	t, ok := s.bearer(r)
	switch {
	case !ok:
		refuse(w, http.StatusUnauthorized, "UNAUTHENTICATED", "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.")
	case !s.may(t.account, permission):
		refuse(w, http.StatusForbidden, "PERMISSION_DENIED", fmt.Sprintf("Required %q permission(s) for %q.", permission, on))
	default:
		return true
	}
	return false
}

func refuse(w http.ResponseWriter, code int, status, message string) {
	reply(w, code, map[string]any{"error": map[string]any{"code": code, "message": message, "status": status}})
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

func (s *Server) metadata(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Metadata-Flavor") != "Google" { // keeps browsers and forwarded requests out
		http.Error(w, "Missing Metadata-Flavor:Google header.", http.StatusForbidden)
		return
	}
	w.Header().Set("Metadata-Flavor", "Google")
	switch r.PathValue("what") {
	case "email":
		fmt.Fprint(w, s.options.Account)
	case "token":
		text, _ := s.mint(s.options.Account)
		reply(w, http.StatusOK, map[string]any{"access_token": text, "expires_in": int(s.options.Lifetime.Seconds()), "token_type": "Bearer"})
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) generateAccessToken(w http.ResponseWriter, r *http.Request) {
	email, ok := strings.CutSuffix(r.PathValue("call"), ":generateAccessToken")
	if !ok {
		http.NotFound(w, r)
		return
	}
	if !s.admit(w, r, GetAccessTokens, "projects/-/serviceAccounts/"+email) {
		return
	}
	if _, exists := s.options.Grants[email]; !exists {
		refuse(w, http.StatusNotFound, "NOT_FOUND", "Not found; Gaia id not found for email "+email)
		return
	}
	var body struct{ Scope []string }
	if json.NewDecoder(r.Body).Decode(&body) != nil || len(body.Scope) == 0 {
		refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", "Request contains an invalid argument.")
		return
	}
	text, t := s.mint(email)
	reply(w, http.StatusOK, map[string]any{"accessToken": text, "expireTime": t.expires.UTC().Format(time.RFC3339Nano)})
}

func (s *Server) getCluster(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/v1/")
	if !s.admit(w, r, GetClusters, name) {
		return
	}
	c, ok := s.clusters[name]
	if !ok {
		refuse(w, http.StatusNotFound, "NOT_FOUND", "Not found: "+name+".")
		return
	}
	reply(w, http.StatusOK, c.describe())
}

func (s *Server) generateCredentials(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/v1/"), ":generateCredentials")
	if !ok {
		http.NotFound(w, r)
		return
	}
	if !s.admit(w, r, GatewayCreds, name) {
		return
	}
	c, ok := s.clusters[name]
	if !ok {
		refuse(w, http.StatusNotFound, "NOT_FOUND", "Resource '"+name+"' was not found.")
		return
	}
	reply(w, http.StatusOK, map[string]any{"endpoint": c.gateway + gatewayPath(name)})
}

// WriteKey writes a service account key file, as `gcloud iam service-accounts keys create` makes it.
func (s *Server) WriteKey(path, email string) error {
	text, err := json.MarshalIndent(map[string]string{
		"type": "service_account", "client_email": email, "client_id": "1", "private_key_id": "1", "private_key": string(encodeKey(s.key)),
		"token_uri": s.URL() + "/token",
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}
