package gitrepo

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

// AccessError says that the remote did not let us in: it wants other credentials, or it does not show the repository to these.
type AccessError struct {
	URL       string
	Status    int    // 401, 403 or 404
	Write     bool   // a push was refused; else a read
	Anonymous bool   // no token was given
	App       bool   // the token is that of a GitHub App's installation
	Server    string // what the server said; untrusted, and often empty
}

// Error names the repository and the server's answer.
func (e *AccessError) Error() string {
	action := "reading from"
	if e.Write {
		action = "pushing to"
	}
	text := fmt.Sprintf("%s %s: the server answered %d %s", action, e.URL, e.Status, http.StatusText(e.Status))
	if e.Server != "" {
		text += fmt.Sprintf(" (%s)", e.Server)
	}
	return text
}

// Fix is what the reader can do about it.
func (e *AccessError) Fix() string {
	right := "read"
	if e.Write {
		right = "write"
	}
	switch {
	case e.App:
		return "install the GitHub App of GITHUB_APP_ID on this repository, with the permission contents: " + right + ", and accept the change of permissions there"
	case e.Status == http.StatusNotFound && e.Anonymous:
		return "check the URL; if the repository is private, set GIT_TOKEN or GITHUB_APP_* (hosts answer 404 to those who may not know of it)"
	case e.Status == http.StatusNotFound:
		return "check the URL, and that the token in GIT_TOKEN may see this repository (hosts answer 404 to those who may not)"
	case e.Anonymous:
		return "set GIT_TOKEN to a token that may " + right + " the contents of this repository; pass it with secretEnv"
	case e.Status == http.StatusForbidden:
		return "give the token in GIT_TOKEN the right to " + right + " the contents of this repository (GitHub: contents: " + right + "; GitLab: " + right + "_repository)"
	}
	return "the token in GIT_TOKEN was not accepted: it may have expired, or be meant for another host; it needs the right to " + right + " this repository"
}

// credentialError says that [Remote.Renew] gave no token. It has tried for long enough by itself.
type credentialError struct{ err error }

func (e *credentialError) Error() string { return e.err.Error() }
func (e *credentialError) Unwrap() error { return e.err }

// MissingError says that the remote has no such branch or commit.
type MissingError struct {
	URL, Ref string
	Empty    bool // the repository has no commit at all
}

// Error names the ref.
func (e *MissingError) Error() string {
	if e.Empty {
		return fmt.Sprintf("%s is empty: it has no %s", e.URL, e.Ref)
	}
	return fmt.Sprintf("%s has no %s", e.URL, e.Ref)
}

// Fix is what the reader can do about it.
func (e *MissingError) Fix() string {
	return "check the repository's URL and the name of the branch or commit"
}

// RefusedError says that the server took the objects and did not move the branch, on purpose: a hook, a protected branch, a check of the
// objects. Trying again would be refused again.
type RefusedError struct {
	Branch string
	Reason string // the status of the command, such as "pre-receive hook declined"
	Text   string // what the hook printed; untrusted
}

// Error gives the server's reason and the text of its hook.
func (e *RefusedError) Error() string {
	text := fmt.Sprintf("the server refused the push to branch %s: %s", e.Branch, e.Reason)
	if e.Text != "" {
		text += ": " + e.Text
	}
	return text
}

// Fix is what the reader can do about it.
func (e *RefusedError) Fix() string {
	return "allow this identity to push to branch " + e.Branch + ", or set PUSH_BRANCH to another branch and merge it with a pull request"
}

// LostRaceError says that other writers moved the branch on every attempt.
type LostRaceError struct {
	Branch   string
	Attempts int
}

// Error counts the attempts.
func (e *LostRaceError) Error() string {
	return fmt.Sprintf("branch %s was moved by another writer in each of %d attempts", e.Branch, e.Attempts)
}

// Fix is what the reader can do about it.
func (e *LostRaceError) Fix() string {
	return "run the step again; if that happens often, let fewer builds write to the branch at the same time"
}

// UncertainError says that a push got no answer and that the remote could not be asked afterwards whether it took the commit. Running
// again finds out: what has landed is not written twice.
type UncertainError struct {
	Commit string
	Err    error
}

// Error names the commit.
func (e *UncertainError) Error() string {
	return fmt.Sprintf("pushing commit %s: no answer, so it may have landed or not: %v", e.Commit, e.Err)
}

// Unwrap returns the failure of the connection.
func (e *UncertainError) Unwrap() error { return e.Err }

// Fix is what the reader can do about it.
func (e *UncertainError) Fix() string {
	return "run the step again: it finds out, and changes nothing when the commit has landed"
}

// TooLargeError says that a file is larger than [MaxFile] and was not read.
type TooLargeError struct{ Path string }

// Error names the file and the limit.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%s is larger than %d MiB", e.Path, MaxFile>>20)
}

// UnsafeError says that a commit holds what no honest repository holds, or more than is read, and that all of it is refused.
type UnsafeError struct{ What string }

// Error names the folder or the entry.
func (e *UnsafeError) Error() string { return e.What }

// Fix is what the reader can do about it.
func (e *UnsafeError) Fix() string {
	return "find out who wrote this commit and correct the repository, or keep what the steps work on in a smaller one"
}

func unsafe(format string, args ...any) error { return &UnsafeError{fmt.Sprintf(format, args...)} }

// accessError returns the [*AccessError] behind an error of go-git, or nil. go-git joins its sentinels with the body of the answer.
func (c *connection) accessError(err error, write bool) error {
	for sentinel, status := range map[error]int{
		transport.ErrAuthenticationRequired: http.StatusUnauthorized,
		transport.ErrAuthorizationFailed:    http.StatusForbidden,
		transport.ErrRepositoryNotFound:     http.StatusNotFound,
	} {
		if errors.Is(err, sentinel) {
			server := strings.TrimPrefix(err.Error(), sentinel.Error())
			return &AccessError{
				URL: c.remote.URL, Status: status, Write: write, Anonymous: c.remote.anonymous(), App: c.remote.Renew != nil,
				Server: oneLine(strings.TrimPrefix(server, ":")),
			}
		}
	}
	return nil
}

// permanent reports whether the same request would fail in the same way again.
func permanent(err error) bool {
	if _, ok := errors.AsType[*AccessError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*MissingError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*HistoryError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*credentialError](err); ok || errors.Is(err, errPackTooLarge) {
		return true
	}
	answer, ok := errors.AsType[*githttp.Err](err)
	return ok && answer.StatusCode() < http.StatusInternalServerError && answer.StatusCode() != http.StatusTooManyRequests &&
		answer.StatusCode() != http.StatusRequestTimeout
}

// oneLine brings a server's text into one line of at most 1,000 bytes. The frame escapes what is left when it prints it.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 1000 {
		s = s[:1000] + " …"
	}
	return s
}
