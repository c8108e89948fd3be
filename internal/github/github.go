// Package github talks to GitHub's REST API: it mints the tokens of a GitHub App's installation and finds and opens pull requests. It exists
// for three requests, written by hand because go-github and ghinstallation would make every step half a megabyte larger (docs/adr/0010). All steps
// that talk to Git use the first part, merge-back the second.
//
// The rules come from GitHub's documentation: "Rate limits for the REST API", "Best practices for using the REST API", "Generating a JSON
// Web Token (JWT) for a GitHub App", and the pages of the three endpoints.
package github

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

const (
	// PublicAPI is the address of the API of github.com. GitHub Enterprise Server has it at https://HOST/api/v3.
	PublicAPI = "https://api.github.com"

	version   = "2022-11-28" // X-GitHub-Api-Version
	maxAnswer = 8 << 20      // bytes of an answer that are read
	tries     = 4            // how often a request is made that fails for a reason which may pass
)

// Token gives the credential of one request.
type Token func(context.Context) (secret.Text, error)

// Fixed is a token that never changes.
func Fixed(t secret.Text) Token { return func(context.Context) (secret.Text, error) { return t, nil } }

// client makes requests of one API.
type client struct {
	api   string
	token Token
	http  *http.Client
}

func newClient(api string, token Token) *client {
	if api == "" {
		api = PublicAPI
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = time.Minute
	return &client{api: strings.TrimRight(api, "/"), token: token, http: &http.Client{
		Transport: t,
		// The API redirects where a repository was renamed. Following would send the token to whatever place the answer names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Repository returns owner and name of the repository behind a Git URL such as https://github.com/owner/name.git.
func Repository(gitURL string) (owner, name string, err error) {
	u, err := url.Parse(gitURL)
	if err == nil {
		parts := strings.Split(strings.Trim(strings.TrimSuffix(strings.TrimRight(u.Path, "/"), ".git"), "/"), "/")
		if len(parts) == 2 && parts[0] != "" && parts[1] != "" {
			return parts[0], parts[1], nil
		}
	}
	return "", "", fmt.Errorf("the path of the repository's URL is not /owner/name, so GitHub's API cannot be asked about it")
}

// do makes a request until it is answered, and decodes the answer into out. It waits as long as GitHub asks it to, if that ends before the
// deadline does. Every request of this package may be made twice: the second creation of a pull request is refused as a duplicate.
func (c *client) do(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	for n := 1; ; n++ {
		token, err := c.token(ctx)
		if err != nil {
			return err // whoever gives tokens has tried again already
		}
		err = c.once(ctx, token, method, path, body, out)
		answer, answered := errors.AsType[*Error](err)
		_, silent := errors.AsType[*url.Error](err)
		if err == nil || ctx.Err() != nil || n == tries || !silent && !(answered && answer.temporary()) {
			return err
		}
		wait := time.Duration(1<<n) * 250 * time.Millisecond
		if answered && answer.Limited {
			wait = answer.Wait << (n - 1) // GitHub asks for ever longer pauses
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
			return fmt.Errorf("%w; the next attempt is allowed in %s, and the step's time ends before", err, wait.Round(time.Second))
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

func (c *client) once(ctx context.Context, token secret.Text, method, path string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.api+path, bytes.NewReader(body))
	if err != nil {
		return errors.New("GITHUB_API cannot be read as a URL")
	}
	if !token.IsZero() {
		req.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-GitHub-Api-Version", version)
	req.Header.Set("User-Agent", "cloudbuild-steps")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	at := fmt.Sprintf("%s %s", method, c.api+strings.SplitN(path, "?", 2)[0])
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking GitHub: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s: reading the answer: %w", at, err)
	case len(answer) > maxAnswer:
		return &Error{Request: at, Status: resp.StatusCode, Message: "the answer is too large"}
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return readError(at, resp, answer)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s: the answer is not what GitHub's API gives; is GITHUB_API right? %w", at, err)
	}
	return nil
}

// Error is GitHub's refusal of a request.
type Error struct {
	Request     string        // method and address
	Status      int           // HTTP status
	Message     string        // what GitHub said; untrusted
	Permissions string        // what the token would have to allow, such as pull_requests=write; empty when GitHub did not say
	Limited     bool          // the request was refused for there being too many
	Wait        time.Duration // how long to wait before the next, when Limited
	App         bool          // it was the App itself that asked, not its installation
}

// Error gives the request and GitHub's words.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s: GitHub answered %d %s", e.Request, e.Status, http.StatusText(e.Status))
	if e.Limited {
		text += ", because of its rate limit"
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Fix is what the reader can do about it.
func (e *Error) Fix() string {
	missing := "the permission to do this"
	if e.Permissions != "" {
		missing = "the permission " + strings.NewReplacer("=", ": ", ";", " or", ",", ", ").Replace(e.Permissions)
	}
	switch {
	case e.Limited:
		return "run the step again later, or raise TIMEOUT so that it can wait as long as GitHub asks"
	case e.App && e.Status == http.StatusUnauthorized:
		return "check that GITHUB_APP_PRIVATE_KEY is a key of the App with GITHUB_APP_ID, and that this machine's clock is right"
	case e.App && e.Status == http.StatusNotFound:
		return "check GITHUB_APP_INSTALLATION_ID: it must be an installation of the App with GITHUB_APP_ID (the number at the end of the installation's settings page)"
	case e.App && e.Status == http.StatusUnprocessableEntity:
		return "install the App on this repository with the permissions that this step asks for, and accept the change of permissions there"
	case e.Status == http.StatusUnauthorized:
		return "the token was not accepted: it may have expired or be meant for another host than GITHUB_API"
	case e.Status == http.StatusForbidden:
		return "give the token, or the GitHub App's installation, " + missing
	case e.Status == http.StatusNotFound:
		return "check the repository's URL, and that the token may see it and has " + missing + " (GitHub answers 404 to those who may not know of it)"
	case e.Status >= 300 && e.Status < 400:
		return "the repository was renamed or moved: set SOURCE_URL to its new address"
	}
	return "see what GitHub says; if it is GitHub's own failure, run the step again"
}

func (e *Error) temporary() bool {
	return e.Limited || e.Status >= 500 || e.Status == http.StatusRequestTimeout
}

// readError understands a refusal. A limit shows in one of four ways: a Retry-After; no request left; the status 429; or, for the secondary
// limits, the words alone.
func readError(at string, resp *http.Response, body []byte) *Error {
	var said struct {
		Message string `json:"message"`
		Errors  []struct {
			Message string `json:"message"`
			Field   string `json:"field"`
			Code    string `json:"code"`
		} `json:"errors"`
	}
	e := &Error{Request: at, Status: resp.StatusCode, Permissions: oneLine(resp.Header.Get("X-Accepted-GitHub-Permissions"))}
	if json.Unmarshal(body, &said) == nil {
		e.Message = said.Message
		for _, d := range said.Errors {
			e.Message += "; " + strings.Join(strings.Fields(d.Message+" "+d.Field+" "+d.Code), " ")
		}
	} else {
		e.Message = string(body)
	}
	e.Message = oneLine(e.Message)
	if e.Status != http.StatusForbidden && e.Status != http.StatusTooManyRequests {
		return e
	}
	after := strings.TrimSpace(resp.Header.Get("Retry-After"))
	switch seconds, err := strconv.Atoi(after); {
	case after != "" && err == nil:
		e.Limited, e.Wait = true, time.Duration(min(max(seconds, 1), 86400))*time.Second
	case resp.Header.Get("X-RateLimit-Remaining") == "0":
		e.Limited, e.Wait = true, time.Minute
		if at, err := strconv.ParseInt(resp.Header.Get("X-RateLimit-Reset"), 10, 64); err == nil {
			e.Wait = min(max(time.Until(time.Unix(at, 0))+time.Second, time.Second), 24*time.Hour)
		}
	case e.Status == http.StatusTooManyRequests || strings.Contains(strings.ToLower(e.Message), "secondary rate limit"):
		e.Limited, e.Wait = true, time.Minute
	}
	return e
}

// oneLine brings a server's text into one line of at most 500 bytes. The frame escapes what is left when it prints it.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + " …"
	}
	return s
}
