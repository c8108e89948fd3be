// Package artifactapi plays the API of Google's Artifact Registry in front of a real OCI registry, for the tests of what reads tags through
// that API and not through Docker's protocol.
//
// Real here: the tags, which are read from the registry at every call. Played: the protocol of ListTags as
// google.devtools.artifactregistry.v1 defines it (service.proto and tag.proto of github.com/googleapis/googleapis), with pages of at most
// 1,000 tags, page tokens that are bound to their request (https://google.aip.dev/158), names whose package part escapes its slashes, and
// errors in Google's JSON form (https://google.aip.dev/193). Not known of the real one, and chosen here: the page size when none is asked
// for, and the order, which is that of the text.
package artifactapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Source is where the tags of an image are kept. The image is PROJECT/REPOSITORY/PACKAGE.
type Source interface {
	// Tags lists them in any order; found is false when there is no such image.
	Tags(ctx context.Context, image string) (tags []string, found bool, err error)
	// Digest is what a tag of the image names.
	Digest(ctx context.Context, image, tag string) (string, error)
}

// Registry is the real OCI registry at a host.
func Registry(host string) Source { return behind{host} }

type behind struct{ host string }

func (b behind) Tags(ctx context.Context, image string) ([]string, bool, error) {
	repo, err := name.NewRepository(b.host+"/"+image, name.Insecure)
	if err != nil {
		return nil, false, err
	}
	tags, err := remote.List(repo, remote.WithContext(ctx))
	if e, ok := errors.AsType[*transport.Error](err); ok && e.StatusCode == http.StatusNotFound {
		return nil, false, nil
	}
	return tags, err == nil, err
}

func (b behind) Digest(ctx context.Context, image, tag string) (string, error) {
	ref, err := name.NewTag(b.host+"/"+image+":"+tag, name.Insecure)
	if err != nil {
		return "", err
	}
	d, err := remote.Head(ref, remote.WithContext(ctx))
	if err != nil {
		return "", err
	}
	return d.Digest.String(), nil
}

// Tags is a registry that only exists as lists of tags, for lists that a real one would take minutes to fill.
type Tags map[string][]string

// Tags implements Source.
func (t Tags) Tags(_ context.Context, image string) ([]string, bool, error) {
	tags, found := t[image]
	return slices.Clone(tags), found, nil
}

// Digest implements Source.
func (Tags) Digest(context.Context, string, string) (string, error) {
	return "sha256:" + strings.Repeat("0", 64), nil
}

// Server is a running API.
type Server struct {
	Endpoint string // host:port
	// Intercept, when set before the first request, sees every request; it answers itself and returns true, or returns false.
	Intercept func(w http.ResponseWriter, r *http.Request) bool

	source Source
	http   *http.Server
	mu     sync.Mutex
	calls  []*url.URL
}

// Start serves the tags of a source on a free loopback port until Close.
func Start(source Source) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting the API: %w", err)
	}
	s := &Server{Endpoint: listener.Addr().String(), source: source}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.http.Serve(listener) }() // ends with Close
	return s, nil
}

// Close ends the server and what it is answering.
func (s *Server) Close() error { return s.http.Close() }

// Requests lists the URLs that were asked for, in order.
func (s *Server) Requests() []*url.URL {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Refuse answers as Google's APIs do. reason is that of a google.rpc.ErrorInfo; empty for none.
func Refuse(w http.ResponseWriter, status int, code, message, reason string) {
	body := map[string]any{"code": status, "message": message, "status": code}
	if reason != "" {
		body["details"] = []any{map[string]any{
			"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com",
		}}
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": body}) // the client sees it break off
}

const (
	maxPage     = 1000
	defaultPage = 100
)

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.calls = append(s.calls, r.URL)
	s.mu.Unlock()
	if s.Intercept != nil && s.Intercept(w, r) {
		return
	}
	// google/api/http.proto: a variable of several segments is decoded once, and %2F stays.
	parent, isList := strings.CutSuffix(strings.TrimPrefix(decodeOnce(r.URL.EscapedPath()), "/v1/"), "/tags")
	image, ok := imageOf(parent)
	if r.Method != http.MethodGet || !isList || !ok {
		Refuse(w, http.StatusNotFound, "NOT_FOUND", "Method not found.", "")
		return
	}
	s.list(w, r, parent, image)
}

// decodeOnce takes one layer of percent-encoding off, except from %2F.
func decodeOnce(path string) string {
	parts := strings.Split(path, "%2F")
	for i, p := range parts {
		if plain, err := url.PathUnescape(p); err == nil {
			parts[i] = plain
		}
	}
	return strings.Join(parts, "%2F")
}

// imageOf turns projects/P/locations/L/repositories/R/packages/PKG into P/R/PKG.
func imageOf(parent string) (string, bool) {
	parts := strings.Split(parent, "/")
	if len(parts) != 8 || parts[0] != "projects" || parts[2] != "locations" || parts[4] != "repositories" || parts[6] != "packages" {
		return "", false
	}
	pkg, err := url.PathUnescape(parts[7])
	return strings.ReplaceAll(parts[1], ":", "/") + "/" + parts[5] + "/" + pkg, err == nil && pkg != ""
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, parent, image string) {
	query := r.URL.Query()
	size := defaultPage
	if text := query.Get("pageSize"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			Refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", "invalid page_size", "")
			return
		}
		if n > 0 {
			size = min(n, maxPage)
		}
	}
	after := ""
	if token := query.Get("pageToken"); token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		bound, last, ok := strings.Cut(string(raw), "\n")
		if err != nil || !ok || bound != parent {
			Refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", "invalid page token", "")
			return
		}
		after = last
	}
	for parameter := range maps.Keys(query) {
		if parameter != "pageSize" && parameter != "pageToken" {
			Refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", fmt.Sprintf("Invalid JSON payload received. Unknown name %q", parameter), "")
			return
		}
	}
	tags, found, err := s.source.Tags(r.Context(), image)
	switch {
	case err != nil:
		Refuse(w, http.StatusInternalServerError, "INTERNAL", err.Error(), "")
		return
	case !found:
		Refuse(w, http.StatusNotFound, "NOT_FOUND", "Requested entity was not found.", "")
		return
	}
	slices.Sort(tags)
	start, _ := slices.BinarySearch(tags, after+"\x00")
	if after == "" {
		start = 0
	}
	page := tags[start:min(start+size, len(tags))]
	answer := struct {
		Tags          []map[string]string `json:"tags,omitempty"`
		NextPageToken string              `json:"nextPageToken,omitempty"`
	}{}
	for _, tag := range page {
		digest, err := s.source.Digest(r.Context(), image, tag)
		if err != nil {
			Refuse(w, http.StatusInternalServerError, "INTERNAL", err.Error(), "")
			return
		}
		answer.Tags = append(answer.Tags, map[string]string{"name": parent + "/tags/" + tag, "version": parent + "/versions/" + digest})
	}
	if start+size < len(tags) {
		answer.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(parent + "\n" + page[len(page)-1]))
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	_ = json.NewEncoder(w).Encode(answer) // the client sees it break off
}
