package registry

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Error says that a registry did not do what it was asked. It holds nothing of the request's credentials and nothing of an answer that is not
// a registry's.
type Error struct {
	Doing      string // "reading tag v1.0.0 of host/path"
	Repository string // host/path
	Status     int    // HTTP status; 0 when there was no answer
	Code       string // the registry's code, such as DENIED; empty when the answer was not a registry's (a proxy's page, say)
	Message    string // the registry's own words: text from outside
	Permission string // the Artifact Registry permission that the request needs
	Identity   string // who was refused, as far as this machine knows; with 401 and 403 only
	Err        error  // why there was no answer

	contentType string
	retryAfter  time.Duration
}

// Error names what was done, and then the answer.
func (e *Error) Error() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("%s: %v", e.Doing, e.Err)
	case e.Code == "":
		return fmt.Sprintf("%s: status %d with %s, which is not the answer of a registry", e.Doing, e.Status, e.contentType)
	}
	text := fmt.Sprintf("%s: the registry answered %d %s", e.Doing, e.Status, e.Code)
	if e.Message != "" {
		text += ": " + e.Message
	}
	if e.Status == http.StatusForbidden {
		text += " (needs " + e.Permission
		if e.Identity != "" {
			text += "; asked as " + e.Identity
		}
		text += ")"
	}
	return text
}

// Unwrap returns the reason why there was no answer.
func (e *Error) Unwrap() error { return e.Err }

// Fix says what the reader can do, or nothing.
func (e *Error) Fix() string {
	host, _, _ := strings.Cut(e.Repository, "/")
	switch {
	case errors.As(e.Err, new(*schemeError)):
		return "list the host in REGISTRY_INSECURE if it may be reached over plain HTTP"
	case e.Err != nil && strings.Contains(e.Err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Sprintf("list %s in REGISTRY_INSECURE if it may be reached over plain HTTP", host)
	case e.Status == http.StatusUnauthorized:
		return fmt.Sprintf("give credentials for %s: in Cloud Build, Google's registries take the build's service account; else `docker login` writes them to $HOME/.docker/config.json", host)
	case e.Status == http.StatusForbidden:
		role := "roles/artifactregistry.reader"
		switch e.Permission {
		case uploadPermission:
			role = "roles/artifactregistry.writer"
		case deletePermission:
			role = "roles/artifactregistry.repoAdmin"
		}
		whom := "the build's service account"
		if e.Identity != "" {
			whom = e.Identity
		}
		return fmt.Sprintf("grant %s %s on %s (on Artifact Registry: %s)", whom, e.Permission, e.Repository, role)
	case e.Code == "" && e.Status != 0:
		return fmt.Sprintf("check IMAGE, and whether %s is a registry or a proxy in front of it", host)
	}
	return ""
}

// The permissions of Artifact Registry that pulling, pushing and deleting need.
const (
	downloadPermission = "artifactregistry.repositories.downloadArtifacts"
	uploadPermission   = "artifactregistry.repositories.uploadArtifacts"
	deletePermission   = "artifactregistry.repositories.deleteArtifacts"
)

// temporary reports whether the same request may succeed later.
func (e *Error) temporary() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	case 0:
		return !errors.As(e.Err, new(*schemeError)) && !errors.As(e.Err, new(*tls.CertificateVerificationError)) &&
			!errors.Is(e.Err, errRedirect) && !errors.Is(e.Err, errToken)
	}
	return false
}

// immutable reports whether a write was refused because tags are immutable. There is no code for that: Artifact Registry says "The repository
// has enabled tag immutability", Amazon ECR "cannot be overwritten because the repository is immutable", Harbor "configured as immutable".
func (e *Error) immutable() bool {
	return e.Status >= 400 && e.Status < 500 && e.Code != "" && strings.Contains(strings.ToLower(e.Message), "immutab")
}

func temporary(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.temporary()
}

// absent reports whether the registry itself says that the thing does not exist. A page of a proxy or a portal says nothing of the kind.
// "Manifest unknown" is also what registries answer when the manifest is there and of a type that the client did not ask for; they say so in
// the message, and then there is something under that name.
func (e *Error) absent() bool {
	if e.Status != http.StatusNotFound || (e.Code != "MANIFEST_UNKNOWN" && e.Code != "NAME_UNKNOWN") {
		return false
	}
	words := strings.ToLower(e.Message)
	return !strings.Contains(words, "media type") && !strings.Contains(words, "accept")
}

// refusal makes an Error of an answer.
func refusal(doing, repository, permission string, status int, header http.Header, body []byte) *Error {
	e := &Error{Doing: doing, Repository: repository, Permission: permission, Status: status, retryAfter: retryAfter(header)}
	if e.contentType, _, _ = mime.ParseMediaType(header.Get("Content-Type")); e.contentType == "" {
		e.contentType = "no content type"
	}
	var answer struct {
		Errors []struct{ Code, Message string } `json:"errors"`
	}
	if json.Unmarshal(body, &answer) == nil && len(answer.Errors) > 0 {
		e.Code, e.Message = answer.Errors[0].Code, answer.Errors[0].Message
	}
	return e
}

// unanswered makes an Error of a failed round trip or handshake. URLs are dropped, since those of uploads and token servers carry
// signatures, and so is the body of a token server's answer.
func unanswered(doing, repository, permission string, err error) *Error {
	if inner, ok := errors.AsType[*Error](err); ok { // the content of the request comes from a registry as well
		return inner
	}
	if refused, ok := errors.AsType[*transport.Error](err); ok { // the handshake was answered
		e := &Error{Doing: doing, Repository: repository, Permission: permission, Status: refused.StatusCode, contentType: "an unknown body"}
		if len(refused.Errors) > 0 {
			e.Code, e.Message = string(refused.Errors[0].Code), refused.Errors[0].Message
		}
		return e
	}
	for outer, ok := errors.AsType[*url.Error](err); ok; outer, ok = errors.AsType[*url.Error](err) { // a token's request is inside another
		err = outer.Err
	}
	if strings.HasPrefix(err.Error(), "no token in bearer response") {
		err = errToken
	}
	return &Error{Doing: doing, Repository: repository, Permission: permission, Err: err}
}

var (
	errToken    = errors.New("the registry's token server answered without a token")
	errRedirect = errors.New("the registry redirects elsewhere, or for ever")
)

// schemeError says that a request was about to leave in the clear.
type schemeError struct{ host string }

func (e *schemeError) Error() string { return fmt.Sprintf("refusing plain HTTP to %s", e.host) }

// retryAfter reads the seconds or the date of a Retry-After header (RFC 9110, section 10.2.3); 0 when there is none.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil && seconds > 0 {
		return time.Duration(min(seconds, 24*60*60)) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// DigestError says that content is not what its name or its registry says it is.
type DigestError struct {
	Doing string
	Want  string // the digest in the name, or in the registry's header
	Have  string // the digest of the content, or of the registry's answer
}

// Error prints both digests.
func (e *DigestError) Error() string {
	return fmt.Sprintf("%s: the content is %s, and it should be %s", e.Doing, e.Have, e.Want)
}

// TagTakenError says that a tag is on another image already. It was not moved.
type TagTakenError struct {
	Repository, Tag string
	Have            string // digest under the tag
	Want            string // digest that was asked for
	Immutable       bool   // the registry refused the write itself, because its tags are immutable
}

// Error prints both digests.
func (e *TagTakenError) Error() string {
	text := fmt.Sprintf("%s:%s is %s already, and a tag never moves to another image (asked for %s)", e.Repository, e.Tag, e.Have, e.Want)
	if e.Immutable {
		text += "; the repository's tags are immutable"
	}
	return text
}

// ImmutableError says that the registry refused to write a tag because its tags are immutable, and shows no such tag. It was used and is
// gone, or a rule protects its name.
type ImmutableError struct {
	Repository, Tag string
	Err             error // the refusal
}

// Error gives the registry's words.
func (e *ImmutableError) Error() string {
	return fmt.Sprintf("%s has immutable tags and takes no tag %s: %v", e.Repository, e.Tag, e.Err)
}

// Unwrap returns the refusal.
func (e *ImmutableError) Unwrap() error { return e.Err }

// MovedError says that somebody else put the tag on another image at the same moment, after this client had written it.
type MovedError struct {
	Repository, Tag string
	Have            string // digest under the tag now
	Want            string // digest that this client wrote
}

// Error prints both digests.
func (e *MovedError) Error() string {
	return fmt.Sprintf("%s:%s was written as %s and is %s now: another writer moved it", e.Repository, e.Tag, e.Want, e.Have)
}

// SourceError says why an image in a file is not pushed: it is damaged, incomplete, or holds what an image must not hold.
type SourceError struct {
	Path string
	Err  error
}

// Error names the file and the reason.
func (e *SourceError) Error() string { return fmt.Sprintf("image in %s: %v", e.Path, e.Err) }

// Unwrap returns the reason.
func (e *SourceError) Unwrap() error { return e.Err }
