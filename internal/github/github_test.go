package github

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/githubapi"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

const gitURL = "https://github.com/team/backend.git"

// key is made once: that takes a while.
var key = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func keyPEM(k *rsa.PrivateKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}))
}

func start(t *testing.T, change func(*githubapi.Options)) (*githubapi.Server, App) {
	t.Helper()
	o := githubapi.Options{
		AppID: "12345", Installation: "678", Key: &key().PublicKey, Repositories: []string{"backend", "config"},
		Grants: map[string]string{"contents": "write", "pull_requests": "write", "metadata": "read"},
	}
	if change != nil {
		change(&o)
	}
	s := githubapi.Start(o)
	t.Cleanup(s.Close)
	return s, App{GitHubAppID: "12345", GitHubAppInstallationID: "678", GitHubAppPrivateKey: secret.New(keyPEM(key())), GitHubAPI: s.URL}
}

func TestATokenIsForOneRepositoryAndForWhatIsNeeded(t *testing.T) {
	s, app := start(t, nil)
	token, err := app.Tokens(ReadContents)(t.Context(), gitURL)
	if err != nil {
		t.Fatal(err)
	}
	m := s.Minted()[token.Reveal()]
	if len(m.Repositories) != 1 || m.Repositories[0] != "backend" || len(m.Permissions) != 1 || m.Permissions["contents"] != "read" {
		t.Errorf("minted %+v", m)
	}
	if s.May(token.Reveal(), "config", "contents", "read") || s.May(token.Reveal(), "backend", "contents", "write") {
		t.Error("the token may do more")
	}
	if (App{}).Tokens(ReadContents) != nil {
		t.Error("there are tokens without an App")
	}
}

func TestATokenIsKeptUntilShortlyBeforeItEnds(t *testing.T) {
	s, app := start(t, nil)
	tokens := app.Tokens(ReadContents)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			if _, err := tokens(t.Context(), gitURL); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if n := len(s.Minted()); n != 1 {
		t.Errorf("%d tokens for one repository", n)
	}
	if _, err := tokens(t.Context(), "https://github.com/team/config"); err != nil || len(s.Minted()) != 2 {
		t.Errorf("another repository: %v, %d tokens", err, len(s.Minted()))
	}
}

// Tokens that live for a second: each one that is given is good for half a second more.
func TestATokenIsRenewedBeforeItEnds(t *testing.T) {
	s, app := start(t, func(o *githubapi.Options) { o.TokenLife = time.Second })
	tokens := app.Tokens(WriteContents)
	seen := map[string]bool{}
	for end := time.Now().Add(1600 * time.Millisecond); time.Now().Before(end); {
		token, err := tokens(t.Context(), gitURL)
		if err != nil {
			t.Fatal(err)
		}
		if !s.May(token.Reveal(), "backend", "contents", "write") {
			t.Fatal("an ended token was given")
		}
		seen[token.Reveal()] = true
	}
	if len(seen) < 3 || len(seen) > 5 {
		t.Errorf("%d tokens in 1.6 seconds", len(seen))
	}
}

func TestWhatIsWrongWithAnApp(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		change    func(*App)
		url       string
		may       Permissions
		want, fix string
	}{
		{"the key of another App", func(a *App) { a.GitHubAppPrivateKey = secret.New(keyPEM(other)) }, gitURL, ReadContents, "could not be decoded", "GITHUB_APP_PRIVATE_KEY"},
		{"another App's id", func(a *App) { a.GitHubAppID = "999" }, gitURL, ReadContents, "Integration not found", "GITHUB_APP_ID"},
		{"another installation", func(a *App) { a.GitHubAppInstallationID = "1" }, gitURL, ReadContents, "404", "GITHUB_APP_INSTALLATION_ID"},
		{"a repository outside of the installation", nil, "https://github.com/team/other", ReadContents, "not accessible", "install the App on this repository"},
		{"a permission that was not granted", nil, gitURL, Permissions{"administration": "write"}, "not granted", "with the permissions"},
		{"no key", func(a *App) { a.GitHubAppPrivateKey = secret.New("canary-key") }, gitURL, ReadContents, "not PEM", ""},
		{"an address without owner and name", nil, "https://github.com/backend", ReadContents, "/owner/name", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, app := start(t, nil)
			if c.change != nil {
				c.change(&app)
			}
			begun := time.Now()
			_, err := app.Tokens(c.may)(t.Context(), c.url)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v does not say %q", err, c.want)
			}
			if strings.Contains(fmt.Sprintf("%v %+v", err, app), "canary") || strings.Contains(err.Error(), "PRIVATE KEY-") {
				t.Errorf("the error holds the key: %v", err)
			}
			if refused, ok := errors.AsType[*Error](err); c.fix != "" && (!ok || !strings.Contains(refused.Fix(), c.fix)) {
				t.Errorf("the advice of %v does not say %q", err, c.fix)
			}
			if len(s.Requests()) > 1 || time.Since(begun) > 2*time.Second {
				t.Errorf("%d requests for what cannot get better", len(s.Requests()))
			}
		})
	}
}

func TestKeysInEveryForm(t *testing.T) {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"as GitHub makes it":          keyPEM(key()),
		"PKCS 8":                      string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		"with line ends written as n": strings.ReplaceAll(keyPEM(key()), "\n", `\n`),
	} {
		_, app := start(t, nil)
		app.GitHubAppPrivateKey = secret.New(text)
		if _, err := app.Tokens(ReadContents)(t.Context(), gitURL); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func pulls(t *testing.T, s *githubapi.Server, token string) *Pulls {
	t.Helper()
	p, err := OpenPulls(s.URL+"/", Fixed(secret.New(token)), gitURL)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func personal(o *githubapi.Options) { o.Token = "canary-token" }

func TestPullRequests(t *testing.T) {
	s, _ := start(t, personal)
	p := pulls(t, s, "canary-token")
	made, err := p.Open(t.Context(), "release-v1.42.2", "main", "title", "body")
	if err != nil || !made.Open || made.Number != 1 || made.URL == "" {
		t.Fatalf("%+v, %v", made, err)
	}
	again, err := p.Open(t.Context(), "release-v1.42.2", "main", "title", "body")
	if err != nil || again != made {
		t.Errorf("opened again: %+v, %v", again, err)
	}
	s.End(1, true)
	list, err := p.Between(t.Context(), "release-v1.42.2", "main")
	if err != nil || len(list) != 1 || list[0].Open || !list[0].Merged {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := p.Between(t.Context(), "release-v1.42", "main"); err != nil || len(list) != 0 {
		t.Errorf("of another branch: %+v, %v", list, err)
	}
}

// A request whose answer was lost is made again, and the pull request that it made is found.
func TestALostAnswerMakesNoSecondPullRequest(t *testing.T) {
	s, _ := start(t, personal)
	s.Fail(githubapi.Fault{Method: http.MethodPost, Times: 1})
	made, err := pulls(t, s, "canary-token").Open(t.Context(), "release-v1.42.2", "main", "title", "body")
	if err != nil || made.Number != 1 || len(s.Pulls()) != 1 {
		t.Errorf("%+v, %v, %d pull requests", made, err, len(s.Pulls()))
	}
}

func TestLimitsAreWaitedFor(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault githubapi.Fault
		least time.Duration
	}{
		{"Retry-After", githubapi.Fault{Status: 403, Header: map[string]string{"Retry-After": "1"}, Body: `{"message":"You have exceeded a secondary rate limit."}`}, time.Second},
		{"no request left until a time", githubapi.Fault{Status: 403, Header: map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}, Body: `{"message":"API rate limit exceeded"}`}, time.Second},
		{"too many requests", githubapi.Fault{Status: 429, Header: map[string]string{"Retry-After": "1"}}, time.Second},
		{"a failure of GitHub", githubapi.Fault{Status: 502, Body: "<html>Unicorn!</html>"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, _ := start(t, personal)
			c.fault.Times = 1
			s.Fail(c.fault)
			begun := time.Now()
			_, err := pulls(t, s, "canary-token").Open(t.Context(), "b", "main", "t", "")
			if took := time.Since(begun); err != nil || took < c.least || len(s.Requests()) != 2 {
				t.Errorf("%v after %s and %d requests", err, took, len(s.Requests()))
			}
		})
	}
}

// A wait that the step's time does not allow is not begun.
func TestALimitBeyondTheDeadlineFailsAtOnce(t *testing.T) {
	for name, fault := range map[string]githubapi.Fault{
		"a huge Retry-After": {Status: 429, Header: map[string]string{"Retry-After": "99999999999"}},
		"an hour":            {Status: 403, Header: map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "3600"}},
		"a secondary limit without a time: minute": {Status: 403, Body: `{"message":"You have exceeded a secondary rate limit. Please wait."}`},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := start(t, personal)
			fault.Times = 9
			s.Fail(fault)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			begun := time.Now()
			_, err := pulls(t, s, "canary-token").Open(ctx, "b", "main", "t", "")
			if err == nil || !strings.Contains(err.Error(), "the step's time ends before") || time.Since(begun) > 5*time.Second {
				t.Errorf("error %v after %s", err, time.Since(begun))
			}
			refused, ok := errors.AsType[*Error](err)
			if !ok || !strings.Contains(refused.Fix(), "TIMEOUT") {
				t.Errorf("no advice in %v", err)
			}
		})
	}
}

func TestRefusalsNameThePermission(t *testing.T) {
	s, app := start(t, personal)
	tokens := app.Tokens(ReadContents)
	readOnly, err := tokens(t.Context(), gitURL)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, token, want, fix string }{
		{"a token without the permission", readOnly.Reveal(), "Resource not accessible by integration", "the permission pull_requests: read"},
		{"a token that is wrong", "canary-wrong", "Bad credentials", "was not accepted"},
		{"no token", "", "Not Found", "GitHub answers 404"},
	} {
		_, err := pulls(t, s, c.token).Between(t.Context(), "b", "main")
		refused, ok := errors.AsType[*Error](err)
		if !ok || !strings.Contains(err.Error(), c.want) || !strings.Contains(refused.Fix(), c.fix) {
			t.Errorf("%s: %v; advice %q", c.name, err, refused.Fix())
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("the token is printed: %v", err)
		}
	}
}

// A redirect is not followed, since the token would go where it points.
func TestARedirectIsNotFollowed(t *testing.T) {
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the request arrived elsewhere, with Authorization %q", r.Header.Get("Authorization"))
	}))
	defer thief.Close()
	s, _ := start(t, personal)
	s.Fail(githubapi.Fault{Times: 9, Status: 301, Header: map[string]string{"Location": thief.URL + "/repositories/1/pulls"}, Body: `{"message":"Moved Permanently"}`})
	_, err := pulls(t, s, "canary-token").Between(t.Context(), "b", "main")
	if refused, ok := errors.AsType[*Error](err); !ok || !strings.Contains(refused.Fix(), "renamed or moved") {
		t.Errorf("error %v", err)
	}
}

func TestRepository(t *testing.T) {
	for in, want := range map[string]string{
		"https://github.com/team/backend.git": "team/backend", "https://github.com/team/backend": "team/backend", "https://github.com/team/backend/": "team/backend",
		"https://github.com/backend": "/", "https://gitlab.com/a/b/c.git": "/", "https://github.com/": "/", "%": "/",
	} {
		owner, name, err := Repository(in)
		if owner+"/"+name != want || (err == nil) != (want != "/") {
			t.Errorf("%s: %s/%s, %v", in, owner, name, err)
		}
	}
}
