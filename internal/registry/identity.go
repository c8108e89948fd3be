package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"

	"cloud.google.com/go/compute/metadata"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/google"
	oauth "golang.org/x/oauth2/google"
)

// identity is who this machine is for one registry.
type identity struct {
	auth   authn.Authenticator
	direct bool                             // an OAuth token that a registry of Google takes as it is
	name   func(ctx context.Context) string // the account's name, as far as it can be found out; "" when it cannot
}

// isGoogle reports whether a host is a registry that takes Google's OAuth tokens: Artifact Registry and Container Registry.
func isGoogle(host string) bool {
	return host == "gcr.io" || strings.HasSuffix(host, ".gcr.io") || strings.HasSuffix(host, ".pkg.dev")
}

// cloudPlatform is the OAuth scope that Google's registries want.
const cloudPlatform = "https://www.googleapis.com/auth/cloud-platform"

// googleIdentity finds Google's credentials once: application default credentials (GOOGLE_APPLICATION_CREDENTIALS, gcloud's file), the
// metadata server (GCE_METADATA_HOST names another one), a gcloud program. The boolean is false when there are none.
func (c *Client) googleIdentity(ctx context.Context) (identity, bool) {
	c.googleOnce.Do(func() {
		found, err := oauth.FindDefaultCredentials(ctx, cloudPlatform)
		if err == nil {
			auth := google.NewTokenSourceAuthenticator(found.TokenSource)
			if _, err = auth.Authorization(); err == nil {
				c.google = identity{auth, true, nameOf(found.JSON)}
				return
			}
			c.notice("Google's credentials cannot be used and are skipped: " + tokenReason(err))
		}
		if auth, err := google.NewGcloudAuthenticator(ctx); err == nil && auth != authn.Anonymous {
			c.google = identity{auth, true, nobody}
		}
	})
	return c.google, c.google.auth != nil
}

func nobody(context.Context) string { return "" }

// nameOf names the account of a credentials file; without a file, the metadata server knows.
func nameOf(file []byte) func(context.Context) string {
	if len(file) > 0 {
		var account struct {
			Email string `json:"client_email"`
		}
		_ = json.Unmarshal(file, &account) // the file was read before; other kinds than service accounts have no name in it
		return func(context.Context) string { return account.Email }
	}
	var (
		once sync.Once
		name string
	)
	return func(ctx context.Context) string {
		once.Do(func() { name, _ = metadata.EmailWithContext(ctx, "default") })
		return name
	}
}

// identity finds who this machine is for the registry. What cannot be read is reported and skipped: in a scratch image the credential
// helper that a config file names is never installed, and the registry itself says when it wants more than an anonymous client.
func (c *Client) identity(ctx context.Context, repo name.Repository) identity {
	google, keychain := isGoogle(repo.RegistryStr()), c.keychain
	if keychain == nil {
		keychain = authn.DefaultKeychain
		if google {
			if id, ok := c.googleIdentity(ctx); ok {
				return id
			}
		}
	}
	auth, err := authn.Resolve(ctx, keychain, repo)
	switch {
	case err != nil && strings.Contains(err.Error(), exec.ErrNotFound.Error()): // the library passes on the text alone
		c.notice(fmt.Sprintf("the Docker config names a credential helper for %s that is not installed here; it is skipped", repo.RegistryStr()))
	case err != nil:
		c.notice(fmt.Sprintf("the Docker config cannot be used for %s and is skipped", repo.RegistryStr()))
	case auth != authn.Anonymous:
		config, err := authn.Authorization(ctx, auth)
		if err != nil {
			c.notice(fmt.Sprintf("the Docker config cannot be used for %s and is skipped", repo.RegistryStr()))
			break
		}
		// Cloud Build writes the build's own OAuth token into the config under the first of these names.
		if google && (config.Username == "oauth2accesstoken" || config.Username == "_token") {
			return identity{auth, true, nobody}
		}
		return identity{auth, false, func(context.Context) string { return accountOf(config.Username) }}
	}
	return identity{authn.Anonymous, false, nobody}
}

// accountOf leaves out user names that say what the password is and not whose.
func accountOf(username string) string {
	switch username {
	case "oauth2accesstoken", "_token", "_json_key", "_json_key_base64", "<token>":
		return ""
	}
	return username
}

// tokenError says that a token of Google could not be had in the middle of the work.
type tokenError struct{ err error }

func (e *tokenError) Error() string { return "fetching a token of Google: " + tokenReason(e.err) }

// tokenReason keeps what a token server or the metadata server answered out of messages, but for its status.
func tokenReason(err error) string {
	if e, ok := errors.AsType[*metadata.Error](err); ok {
		return fmt.Sprintf("the metadata server answered %d", e.Code)
	}
	if errors.As(err, new(metadata.NotDefinedError)) {
		return "the metadata server knows no service account"
	}
	if e, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && e.Timeout() {
		return "no answer in time"
	}
	return "the token server did not give one"
}
