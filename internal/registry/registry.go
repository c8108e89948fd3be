// Package registry talks to container registries: it reads what a tag names, puts a tag on an image without ever moving one, lists tags, and
// uploads an image from a file after comparing every part of it with its name. tag-image, gate-uat and bump-config use it.
//
// It exists because no client library is safe enough for tags that must never move: they take any failed look for "there is no such tag",
// accept an answer that names another digest than the one sent, and push a damaged file under a new digest without a word. So this package
// builds its own requests and keeps manifests as the bytes they are; go-containerregistry does names, credentials and the exchange of
// tokens, once for each repository and only where a registry asks for it.
//
// Every rule here is of the OCI distribution specification 1.1 or the OCI image specification 1.1 unless a comment says otherwise.
package registry

import (
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// Client talks to registries. It is safe for concurrent use.
type Client struct {
	insecure []string
	scope    string
	from     string // where blobs are mounted from; empty if nowhere
	notice   func(string)
	keychain authn.Keychain // nil: the machine's
	base     http.RoundTripper
	pause    time.Duration // before the second attempt; later ones wait longer

	mu       sync.Mutex
	sessions map[string]*session

	googleOnce sync.Once
	google     identity
}

// scopesOf is what a token for the repository has to allow.
func (c *Client) scopesOf(repo name.Repository) []string {
	scopes := []string{repo.Scope(c.scope)}
	if from, err := c.parse(c.from); err == nil && from.Registry == repo.Registry && from.Name() != repo.Name() {
		scopes = append(scopes, from.Scope("pull"))
	}
	return scopes
}

// MountingFrom makes the client ask for read access to this repository wherever it asks for write access to another one of the same
// registry: [Client.Promote] mounts blobs from it.
func MountingFrom(repository string) Option { return func(c *Client) { c.from = repository } }

// Option changes a client.
type Option func(*Client)

// ForPush makes the client ask for write access when it authenticates. Without it, it asks for read access: token servers may refuse a
// reader that asks for more.
func ForPush() Option { return func(c *Client) { c.scope = "push,pull" } }

// WithNotice makes the client report what it went round, such as a credential helper that is not installed. The text is one sentence.
func WithNotice(notice func(text string)) Option { return func(c *Client) { c.notice = notice } }

// WithKeychain replaces the credentials of this machine.
func WithKeychain(k authn.Keychain) Option { return func(c *Client) { c.keychain = k } }

// New makes a client. insecure lists hosts (host, or host:port) that are reached over plain HTTP; loopback always is, all others are
// reached over HTTPS only. Credentials come from Google's metadata server or application default credentials for Google's registries, then
// from $HOME/.docker/config.json.
func New(insecure []string, options ...Option) *Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = uploads
	c := &Client{
		insecure: insecure, scope: "pull", notice: func(string) {}, base: transport, pause: 200 * time.Millisecond,
		sessions: map[string]*session{},
	}
	for _, o := range options {
		o(c)
	}
	return c
}

// Image is one manifest or index.
type Image struct {
	Digest    string // sha256:… of Raw
	MediaType string
	Raw       []byte // byte for byte as the registry or the file holds it
	// Platforms lists os/architecture[/variant], sorted, without attestations. It is empty for a single image that was read from a
	// registry: its platform is in another blob, and nobody who asks for a tag needs it badly enough to pay for one more request.
	Platforms []string
}

// Plain reports whether a registry, host or host:port, is reached over plain HTTP.
func (c *Client) Plain(host string) bool {
	bare := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		bare = h
	}
	if bare == "localhost" || slices.Contains(c.insecure, host) || slices.Contains(c.insecure, bare) {
		return true
	}
	ip := net.ParseIP(strings.Trim(bare, "[]"))
	return ip != nil && ip.IsLoopback()
}

// parse reads host/path.
func (c *Client) parse(repository string) (name.Repository, error) {
	options := []name.Option{name.StrictValidation}
	if host, _, ok := strings.Cut(repository, "/"); ok && c.Plain(host) {
		options = append(options, name.Insecure)
	}
	return name.NewRepository(repository, options...)
}
