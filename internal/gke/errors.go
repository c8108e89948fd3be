package gke

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Error says what could not be done, and what the reader can do about it.
type Error struct {
	text, fix string
	err       error
}

// Error says what happened.
func (e *Error) Error() string { return e.text }

// Unwrap returns the cause, which Error repeats.
func (e *Error) Unwrap() error { return e.err }

// Fix says what the reader can do; "" when there is nothing special.
func (e *Error) Fix() string { return e.fix }

// apiError is an answer of a Google API that is not a success (https://cloud.google.com/apis/design/errors).
type apiError struct {
	status  int
	message string
	reason  string // of google.rpc.ErrorInfo, such as SERVICE_DISABLED
}

// Error gives the status and the server's words.
func (e *apiError) Error() string {
	if e.message == "" {
		return fmt.Sprintf("the answer is %d %s", e.status, http.StatusText(e.status))
	}
	return fmt.Sprintf("the answer is %d: %s", e.status, e.message)
}

func newAPIError(status int, body []byte) *apiError {
	var answer struct {
		Error struct {
			Message string `json:"message"`
			Details []struct {
				Reason string `json:"reason"`
			} `json:"details"`
		} `json:"error"`
	}
	e := &apiError{status: status}
	if json.Unmarshal(body, &answer) != nil {
		return e // a page for people
	}
	e.message = strings.TrimSpace(answer.Error.Message)
	for _, d := range answer.Error.Details {
		if d.Reason != "" {
			e.reason = d.Reason
			break
		}
	}
	return e
}

// need is what a call cannot do without.
type need struct {
	permission, role, project string
	service                   string // the API that must be enabled in the project
	advice                    string // instead of granting role in project
	missing                   string // advice when the thing does not exist
}

// explain says who may not do what, and who grants it.
func explain(err error, who identity, doing string, n need) error {
	if e, ok := errors.AsType[*Error](err); ok { // of getting the token: it is explained already
		return &Error{text: doing + ": " + e.text, fix: e.fix, err: err}
	}
	e := &Error{text: fmt.Sprintf("%s: %v", doing, err), err: err}
	a, ok := errors.AsType[*apiError](err)
	if !ok {
		return e
	}
	switch {
	case a.reason == "SERVICE_DISABLED":
		e.fix = "enable the API: gcloud services enable " + n.service
		if n.project != "" {
			e.fix += " --project=" + n.project
		}
	case a.status == http.StatusForbidden:
		e.text = fmt.Sprintf("%s: %s lacks the permission %s: %v", doing, who, n.permission, err)
		e.fix = first(n.advice, who.grant(n.role, n.project))
	case a.status == http.StatusUnauthorized:
		e.text = fmt.Sprintf("%s: the credentials of %s are not accepted (expired or revoked?): %v", doing, who, err)
	case a.status == http.StatusNotFound:
		e.fix = n.missing
	}
	return e
}
