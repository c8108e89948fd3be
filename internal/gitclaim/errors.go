package gitclaim

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"
)

var (
	errRedirect = errors.New("the server redirects elsewhere, or for ever")
	errNoReport = errors.New("the server did not report what it did")
)

// AccessError says that the server did not let us in, or does not show the repository.
type AccessError struct {
	URL       string
	Status    int // 401, 403 or 404
	Anonymous bool
	App       bool // the token is that of a GitHub App's installation
}

// Error names the repository and the answer.
func (e *AccessError) Error() string {
	return fmt.Sprintf("claiming the tag in %s: the server answered %d %s", e.URL, e.Status, http.StatusText(e.Status))
}

// Fix is what the reader can do about it.
func (e *AccessError) Fix() string {
	switch {
	case e.App:
		return "install the GitHub App of GITHUB_APP_ID on this repository, with the permission contents: write, and accept the change of permissions there"
	case e.Anonymous:
		return "set GIT_TOKEN to a token that may write the contents of this repository, or GITHUB_APP_*; pass secrets with secretEnv"
	}
	return "give the token in GIT_TOKEN the right to write the contents of this repository, and check the URL in CONFIG_REPO"
}

// credentialError says that [Repository.Renew] gave no token. It has tried for long enough by itself.
type credentialError struct{ err error }

func (e *credentialError) Error() string { return e.err.Error() }
func (e *credentialError) Unwrap() error { return e.err }

// RefusedError says that the server did not create the ref.
type RefusedError struct {
	Reason string // the server's; text from outside
	clash  bool
}

// Error gives the reason.
func (e *RefusedError) Error() string { return "the server refused: " + e.Reason }

// Fix is what the reader can do about it.
func (e *RefusedError) Fix() string {
	return "allow this identity to create refs under refs/tag-claims/, or unset CONFIG_REPO for this step: races between writers are only noticed then"
}

// statusError is an answer that says nothing about the repository.
type statusError struct {
	doing      string
	status     int
	retryAfter time.Duration
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: the server answered %d", e.doing, e.status)
}

// temporary reports whether the same may succeed later. After a failed push, trying again begins with looking what became of it.
func temporary(err error) bool {
	switch {
	case errors.As(err, new(*TakenError)), errors.As(err, new(*AccessError)), errors.As(err, new(*credentialError)), errors.Is(err, errRedirect),
		errors.As(err, new(*tls.CertificateVerificationError)):
		return false
	}
	if e, ok := errors.AsType[*RefusedError](err); ok {
		return e.clash
	}
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status >= 500 || e.status == http.StatusTooManyRequests || e.status == http.StatusRequestTimeout
	}
	return true
}
