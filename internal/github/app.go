package github

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// App is a GitHub App's installation, which gives out tokens that live for an hour.
type App struct {
	GitHubAppID             string      // the App's id, or its client id
	GitHubAppInstallationID string      // digits
	GitHubAppPrivateKey     secret.Text // PEM, PKCS #1 (as GitHub gives it) or PKCS #8
	GitHubAPI               string      // address of the API; empty: [PublicAPI]
}

// IsZero reports whether no App is meant.
func (a App) IsZero() bool { return a.GitHubAppID == "" }

// Permissions are what a token may do in its repository, by the names of GitHub's API.
type Permissions map[string]string

// What the steps ask for. Reading the metadata of a repository is part of every token.
var (
	ReadContents  = Permissions{"contents": "read"}
	WriteContents = Permissions{"contents": "write"}
	PullRequests  = Permissions{"contents": "read", "pull_requests": "write"}
)

// Tokens returns the source of tokens with these permissions and no others, each for the one repository behind a Git URL; nil without an App.
// A token is kept and given again until it is about to end. The function may be used from several goroutines.
func (a App) Tokens(may Permissions) func(ctx context.Context, gitURL string) (secret.Text, error) {
	if a.IsZero() {
		return nil
	}
	i := &installation{app: a, may: may, client: newClient(a.GitHubAPI, a.jwt), kept: map[string]kept{}}
	return i.token
}

// installation mints and keeps tokens.
type installation struct {
	app    App
	may    Permissions
	client *client

	mu   sync.Mutex
	kept map[string]kept // by the URL of the repository
}

type kept struct {
	token secret.Text
	until time.Time // when the next one is to be minted
}

// margin is how long before its end a token is not given any more: what it is given for may take a while to begin.
const margin = 5 * time.Minute

func (i *installation) token(ctx context.Context, gitURL string) (secret.Text, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if k := i.kept[gitURL]; time.Now().Before(k.until) {
		return k.token, nil
	}
	_, name, err := Repository(gitURL)
	if err != nil {
		return secret.Text{}, err
	}
	ask := struct {
		Repositories []string    `json:"repositories"`
		Permissions  Permissions `json:"permissions"`
	}{[]string{name}, i.may}
	var got struct {
		Token     string    `json:"token"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	begun := time.Now()
	// https://docs.github.com/rest/apps/apps#create-an-installation-access-token-for-an-app
	err = i.client.do(ctx, http.MethodPost, "/app/installations/"+url.PathEscape(i.app.GitHubAppInstallationID)+"/access_tokens", ask, &got)
	if refused, ok := errors.AsType[*Error](err); ok {
		refused.App = true
	}
	token := secret.New(got.Token)
	switch {
	case err != nil:
		return secret.Text{}, fmt.Errorf("minting a token of the GitHub App for repository %s: %w", name, err)
	case token.IsZero() || got.ExpiresAt.IsZero():
		return secret.Text{}, errors.New("minting a token of the GitHub App: the answer holds no token, or no expires_at")
	}
	life := got.ExpiresAt.Sub(begun)
	i.kept[gitURL] = kept{token, got.ExpiresAt.Add(-min(margin, life/2))}
	return token, nil
}

// jwt is the App's own credential, RS256, for the ten minutes that GitHub allows at most. It begins a minute ago, as GitHub advises against
// clocks that differ.
func (a App) jwt(context.Context) (secret.Text, error) {
	key, err := secret.RSAKey(a.GitHubAppPrivateKey)
	if err != nil {
		return secret.Text{}, fmt.Errorf("reading GITHUB_APP_PRIVATE_KEY: %w", err)
	}
	now := time.Now()
	part := func(v any) string {
		b, _ := json.Marshal(v) // texts and numbers, which cannot fail
		return base64.RawURLEncoding.EncodeToString(b)
	}
	signed := part(map[string]string{"alg": "RS256", "typ": "JWT"}) + "." + part(map[string]any{
		"iss": a.GitHubAppID, "iat": now.Add(-time.Minute).Unix(), "exp": now.Add(9 * time.Minute).Unix(),
	})
	hash := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, hash[:])
	if err != nil {
		return secret.Text{}, errors.New("signing with GITHUB_APP_PRIVATE_KEY: the key cannot sign")
	}
	return secret.New(signed + "." + base64.RawURLEncoding.EncodeToString(signature)), nil
}
