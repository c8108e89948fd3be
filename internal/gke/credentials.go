package gke

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
)

// scope is what all APIs here accept; what the identity may do is decided by its roles.
const scope = "https://www.googleapis.com/auth/cloud-platform"

// identity is who asks.
type identity struct {
	email string // "" when the credentials do not tell
	kind  string // serviceAccount, user or "", as members of an IAM policy are called
	what  string // for people, when there is no e-mail address
}

// String names the identity for a message.
func (i identity) String() string { return first(i.email, i.what) }

// grant is the advice to give the identity a role in a project.
func (i identity) grant(role, project string) string {
	member := "MEMBER"
	if i.email != "" {
		member = i.kind + ":" + i.email
	}
	return fmt.Sprintf("gcloud projects add-iam-policy-binding %s --member=%s --role=%s", project, member, role)
}

const adviceADC = "in Cloud Build there is nothing to set; elsewhere set GOOGLE_APPLICATION_CREDENTIALS, after `gcloud auth application-default login` to ~/.config/gcloud/application_default_credentials.json"

// fromFile reads Application Default Credentials from a file that was named. No other place is searched: the home directory is shared by
// all steps of a build, and whoever leaves a file there must not choose the identity.
func fromFile(client *http.Client, path string) (*tokens, identity, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathErr.Err
		}
		return nil, identity{}, &Error{text: fmt.Sprintf("reading the credentials file %s: %v", path, err), fix: adviceADC}
	}
	var file struct {
		Type          string `json:"type"`
		ClientEmail   string `json:"client_email"`
		Impersonation string `json:"service_account_impersonation_url"`
	}
	if json.Unmarshal(text, &file) != nil { // the decoder's error could repeat the text
		return nil, identity{}, &Error{text: fmt.Sprintf("the credentials file %s is not a JSON document", path), fix: adviceADC}
	}
	who := identity{what: "the user of the credentials file " + path}
	switch t := google.CredentialsType(file.Type); t {
	case google.ServiceAccount:
		who = identity{email: file.ClientEmail, kind: "serviceAccount"}
	case google.AuthorizedUser:
	case google.ExternalAccount, google.ImpersonatedServiceAccount:
		_, account, _ := strings.Cut(file.Impersonation, "/serviceAccounts/")
		if email, ok := strings.CutSuffix(account, ":generateAccessToken"); ok {
			who = identity{email: email, kind: "serviceAccount"}
		}
	default:
		return nil, identity{}, &Error{text: fmt.Sprintf("the credentials file %s is of the type %q, which is not supported", path, file.Type), fix: adviceADC}
	}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, client) // of the renewals, which outlive any one request
	found, err := google.CredentialsFromJSONWithType(ctx, text, google.CredentialsType(file.Type), scope)
	if err != nil {
		return nil, identity{}, &Error{text: fmt.Sprintf("the credentials file %s cannot be used: %v", path, err), fix: adviceADC}
	}
	return &tokens{fetch: func(context.Context) (*oauth2.Token, error) {
		token, err := found.TokenSource.Token()
		if err != nil {
			return nil, &Error{text: fmt.Sprintf("getting an access token for %s: %v", who, err), fix: "check that the credentials in GOOGLE_APPLICATION_CREDENTIALS have not been revoked"}
		}
		return token, nil
	}}, who, nil
}

// metadataPath is where the metadata server answers for the account of the machine or the build.
const metadataPath = "/computeMetadata/v1/instance/service-accounts/default/"

// fromMetadata asks the metadata server, which hands out tokens of the build's service account.
func fromMetadata(ctx context.Context, host string) (*tokens, identity, error) {
	// It is asked directly: a proxy could read the tokens, and would not reach it.
	client := &http.Client{
		Timeout: 10 * time.Second, CheckRedirect: refuseRedirect,
		Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext},
	}
	ask := func(ctx context.Context, what string) ([]byte, error) {
		return patiently(ctx, func() ([]byte, http.Header, error) {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+metadataPath+what, nil)
			if err != nil {
				return nil, nil, err
			}
			r.Header.Set("Metadata-Flavor", "Google")
			body, header, err := send(client, r)
			if err == nil && header.Get("Metadata-Flavor") != "Google" {
				err = errors.New("what answers there is not a metadata server")
			}
			return body, header, err
		})
	}
	email, err := ask(ctx, "email")
	if err != nil {
		if ctx.Err() != nil {
			return nil, identity{}, ctx.Err()
		}
		return nil, identity{}, &Error{text: fmt.Sprintf("there are no Application Default Credentials: the metadata server at %s: %v", host, err), fix: adviceADC, err: err}
	}
	who := identity{email: string(bytes.TrimSpace(email)), kind: "serviceAccount"}
	return &tokens{fetch: func(ctx context.Context) (*oauth2.Token, error) {
		asked := time.Now()
		text, err := ask(ctx, "token")
		var token struct {
			AccessToken string `json:"access_token"`
			ExpiresIn   int64  `json:"expires_in"` // seconds
		}
		if err == nil && (json.Unmarshal(text, &token) != nil || token.AccessToken == "" || token.ExpiresIn <= 0) {
			err = errors.New("the answer holds no token")
		}
		if err != nil {
			return nil, &Error{text: fmt.Sprintf("getting an access token for %s from the metadata server at %s: %v", who, host, err), err: err}
		}
		return &oauth2.Token{AccessToken: token.AccessToken, Expiry: asked.Add(time.Duration(token.ExpiresIn) * time.Second)}, nil
	}}, who, nil
}

// impersonate exchanges the tokens for those of another service account.
func (g *Google) impersonate(email string) {
	own, who := g.tokens, g.identity
	address := g.options.IAMCredentialsEndpoint + "/v1/projects/-/serviceAccounts/" + email + ":generateAccessToken"
	g.identity = identity{email: email, kind: "serviceAccount"}
	g.tokens = &tokens{fetch: func(ctx context.Context) (*oauth2.Token, error) {
		var token struct {
			AccessToken string    `json:"accessToken"`
			ExpireTime  time.Time `json:"expireTime"`
		}
		// An hour is what is granted without a policy of its own.
		body := []byte(`{"scope":["` + scope + `"],"lifetime":"3600s"}`)
		err := g.call(ctx, own, http.MethodPost, address, body, &token)
		if err == nil && token.AccessToken == "" {
			err = errors.New("the answer holds no token")
		}
		if err != nil {
			return nil, explain(err, who, "acting as the service account "+email, need{
				permission: "iam.serviceAccounts.getAccessToken", service: "iamcredentials.googleapis.com", project: projectOf(email),
				advice: fmt.Sprintf("gcloud iam service-accounts add-iam-policy-binding %s --member=%s:%s --role=roles/iam.serviceAccountTokenCreator",
					email, first(who.kind, "user"), first(who.email, "MEMBER")),
				missing: "check IMPERSONATE_SERVICE_ACCOUNT, and that the service account exists",
			})
		}
		return &oauth2.Token{AccessToken: token.AccessToken, Expiry: token.ExpireTime}, nil
	}}
}

// projectOf is the project in the address of a service account, NAME@PROJECT.iam.gserviceaccount.com; "" for other forms.
func projectOf(email string) string {
	_, domain, _ := strings.Cut(email, "@")
	project, _ := strings.CutSuffix(domain, ".iam.gserviceaccount.com")
	if project == domain {
		return ""
	}
	return project
}

// maxAnswer bounds what a server may send, in bytes.
const maxAnswer = 4 << 20

// send sends a request and reads the answer to its end; a status other than 200 is an *apiError.
func send(client *http.Client, r *http.Request) ([]byte, http.Header, error) {
	resp, err := client.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, resp.Header, err
	case len(body) > maxAnswer:
		return nil, resp.Header, fmt.Errorf("the answer is larger than %d MiB", maxAnswer>>20)
	case resp.StatusCode != http.StatusOK:
		return nil, resp.Header, newAPIError(resp.StatusCode, body)
	}
	return body, resp.Header, nil
}
