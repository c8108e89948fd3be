package artifactregistry

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// need is the permission of a method (https://cloud.google.com/artifact-registry/docs/access-control#roles), and the smallest predefined
// role that has it.
type need struct{ permission, role string }

const (
	reader = "roles/artifactregistry.reader"
	admin  = "roles/artifactregistry.repoAdmin"
)

var (
	listTags      = need{"artifactregistry.tags.list", reader}
	listVersions  = need{"artifactregistry.versions.list", reader}
	getRepository = need{"artifactregistry.repositories.get", reader}
	deleteTag     = need{"artifactregistry.tags.delete", admin}
	deleteVersion = need{"artifactregistry.versions.delete", admin}
)

// Error says that the API did not do what it was asked. It holds nothing of the request's token.
type Error struct {
	Doing   string // "listing the tags of projects/…"
	needs   need
	Package Package
	Status  int    // HTTP status; 0 when there was no answer
	Code    string // the API's status, such as PERMISSION_DENIED; empty when the answer was not the API's (a proxy's page, say)
	Message string // the API's own words: text from outside
	Err     error  // why there was no answer

	reasons    []string // of google.rpc.ErrorInfo
	retryAfter time.Duration
}

// Error names what was done, and then the answer.
func (e *Error) Error() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("%s: %v", e.Doing, e.Err)
	case e.Code == "":
		return fmt.Sprintf("%s: status %d, which is not the answer of Artifact Registry", e.Doing, e.Status)
	}
	text := fmt.Sprintf("%s: Artifact Registry answered %d %s", e.Doing, e.Status, e.Code)
	if e.Message != "" {
		text += ": " + e.Message
	}
	if e.Code == "PERMISSION_DENIED" && !e.disabled() {
		text += " (needs " + e.needs.permission + ")"
	}
	return text
}

// Unwrap returns the reason why there was no answer.
func (e *Error) Unwrap() error { return e.Err }

// Fix says what the reader can do, or nothing.
func (e *Error) Fix() string {
	switch {
	case errors.As(e.Err, new(*tokenError)), e.Status == http.StatusUnauthorized:
		return "give this machine a Google identity: in Cloud Build it is the build's service account; elsewhere `gcloud auth application-default login`"
	case e.disabled():
		return "enable " + Endpoint + " in project " + e.Package.Project
	case e.Status == http.StatusForbidden && e.Code != "" && e.needs.role == admin:
		return fmt.Sprintf("ask whoever approves releases to grant the build's service account %s on repository %s of project %s, which has %s, and run the step again",
			e.needs.role, e.Package.Repository, e.Package.Project, e.needs.permission)
	case e.Status == http.StatusForbidden && e.Code != "":
		return fmt.Sprintf("grant the build's service account %s on repository %s of project %s, which has %s", e.needs.role, e.Package.Repository, e.Package.Project, e.needs.permission)
	case e.Code == "FAILED_PRECONDITION":
		return "run the step again: somebody has put a tag on it or listed it in an index meanwhile, and it plans anew"
	case e.Status == http.StatusTooManyRequests:
		return "run the step again later, or ask for a larger quota of Artifact Registry requests in project " + e.Package.Project
	}
	return ""
}

// disabled reports whether the project does not use the API at all, which is a 403, too.
func (e *Error) disabled() bool { return slices.Contains(e.reasons, "SERVICE_DISABLED") }

// absent reports whether the API itself says that there is no such image. A 404 of somebody else says nothing of the kind.
func (e *Error) absent() bool { return e.Status == http.StatusNotFound && e.Code == "NOT_FOUND" }

// temporary reports whether the same request may succeed later (https://google.aip.dev/194, and what proxies add to it).
func (e *Error) temporary() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	case 0:
		return !errors.Is(e.Err, errRedirect) && !errors.Is(e.Err, errTooLong) && !errors.As(e.Err, new(*tokenError)) &&
			!errors.As(e.Err, new(*tls.CertificateVerificationError))
	}
	return false
}

// tokenError says that this machine has no Google identity. The reason is kept out of the text: answers of token servers can repeat what
// was sent to them.
type tokenError struct{ err error }

func (*tokenError) Error() string { return "this machine has no credentials for Google's APIs" }

// refusal makes an Error of an answer (https://cloud.google.com/apis/design/errors#http_mapping).
func refusal(p Package, r request, resp *http.Response, body []byte) *Error {
	e := &Error{Doing: r.doing, needs: r.needs, Package: p, Status: resp.StatusCode, retryAfter: retryAfter(resp.Header)}
	var answer struct {
		Error struct {
			Message string `json:"message"`
			Status  string `json:"status"`
			Details []struct {
				Reason string `json:"reason"`
			} `json:"details"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &answer) == nil {
		e.Code, e.Message = answer.Error.Status, answer.Error.Message
		for _, d := range answer.Error.Details {
			e.reasons = append(e.reasons, d.Reason)
		}
	}
	return e
}

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
