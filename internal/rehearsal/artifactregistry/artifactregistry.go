// Package artifactregistry plays Google's Artifact Registry in front of a real OCI registry: the registry door (Docker's protocol, with
// Artifact Registry's rules for deletions and immutable tags) and the API (REST and JSON). internal/artifactregistry, rollback-version and
// restore-version are tested with it.
//
// Real here: the content. It is distribution v3 in a process of its own, with its real garbage collector; tags are read from it at every call,
// and a deletion deletes there. What is played, and where it is from:
//
//   - resources, fields, paging (at most 1,000), filters, force of DeleteVersion, long-running operations: the comments of
//     google.devtools.artifactregistry.v1 (version.proto, tag.proto, repository.proto; cloud.google.com/go/artifactregistry v1.28.1);
//   - GOOGLE_MANIFEST_DANGLING_TAG and GOOGLE_MANIFEST_DANGLING_PARENT_IMAGE (400) at the door: github.com/genuinetools/reg/issues/136 and
//     github.com/GoogleCloudPlatform/gcr-cleaner/issues/130;
//   - "The repository has enabled tag immutability": github.com/kubernetes/k8s.io/issues/8010;
//   - errors in Google's JSON form: https://google.aip.dev/193; page tokens bound to their request: https://google.aip.dev/158.
//
// Assumed, because nobody documents it: FAILED_PRECONDITION as the code of a refused DeleteVersion, that the API has the rule about parents as
// well, DENIED as the door's code for immutable tags, and the order of lists, which is that of the text.
//
// A registry cannot list manifests without tags, which Artifact Registry calls versions. Therefore all pushes must pass the door.
package artifactregistry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/ociregistry"
)

// Server is a running Artifact Registry.
type Server struct {
	Host     string // of the registry door, as image references write it; an image is HOST/PROJECT/REPOSITORY/IMAGE
	Endpoint string // of the API, host:port
	Location string // of all repositories, as resource names have it

	dir   string
	doors []*http.Server

	mu        sync.Mutex
	registry  *ociregistry.Registry
	lists     map[string][]string // image → tags, in place of a registry
	immutable bool
	referrers string // prefix of the images whose referrers can be listed
	polls     int
	intercept func(w http.ResponseWriter, r *http.Request) bool
	requests  []string
	versions  map[string]map[string]*version // image → digest
	running   map[string]*deletion           // operation → what it deletes when it is done
}

// version is what the door remembers of a manifest.
type version struct {
	mediaType string
	size      int
	subject   string
	children  []string
	uploaded  time.Time
}

type deletion struct {
	image, digest string
	polls         int // until it is done
}

// Start runs an empty Artifact Registry on free loopback ports until Close. The first start on a machine builds the registry.
func Start(ctx context.Context) (*Server, error) {
	dir, err := os.MkdirTemp("", "artifact-registry-")
	if err != nil {
		return nil, fmt.Errorf("starting Artifact Registry: %w", err)
	}
	s := &Server{Location: "local", dir: dir, versions: map[string]map[string]*version{}, running: map[string]*deletion{}}
	if s.registry, err = ociregistry.Start(ctx, ociregistry.Options{Dir: dir}); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	if err := errors.Join(s.serve(&s.Host, s.door), s.serve(&s.Endpoint, s.api)); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// StartLists runs the API of an Artifact Registry that exists only as lists of tags, by image, for lists that a real one would take minutes to
// fill, and for tags that nobody has. It has no registry door.
func StartLists(lists map[string][]string) (*Server, error) {
	s := &Server{Location: "local", lists: lists}
	if err := s.serve(&s.Endpoint, s.api); err != nil {
		return nil, err
	}
	return s, nil
}

// serve opens a door on a free loopback port.
func (s *Server) serve(address *string, handler http.HandlerFunc) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("starting Artifact Registry: %w", err)
	}
	*address = listener.Addr().String()
	server := &http.Server{Handler: s.watched(handler), ReadHeaderTimeout: time.Minute}
	s.doors = append(s.doors, server)
	go func() { _ = server.Serve(listener) }() // ends with Close
	return nil
}

// Close ends the server and removes its content.
func (s *Server) Close() error {
	for _, d := range s.doors {
		_ = d.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.registry == nil {
		return nil
	}
	err := s.registry.Close()
	if e := os.RemoveAll(s.dir); err == nil {
		err = e
	}
	return err
}

// CollectGarbage removes what no tag leads to, with the registry's own collector. Nobody may be using the server meanwhile.
func (s *Server) CollectGarbage(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.registry.Close(); err != nil {
		return err
	}
	collected := ociregistry.CollectGarbage(ctx, s.dir, nil)
	registry, err := ociregistry.Start(ctx, ociregistry.Options{Dir: s.dir})
	if err != nil {
		return err
	}
	s.registry = registry
	return collected
}

// Immutable switches docker_config.immutable_tags of all repositories.
func (s *Server) Immutable(on bool) { s.mu.Lock(); defer s.mu.Unlock(); s.immutable = on }

// Referrers gives the images whose path has a prefix the referrers API (distribution specification 1.1, "Listing Referrers"), which the registry
// behind does not have. It has to be said before they are pushed.
func (s *Server) Referrers(prefix string) { s.mu.Lock(); defer s.mu.Unlock(); s.referrers = prefix }

// Polls says how often an operation is reported as running before it is done.
func (s *Server) Polls(n int) { s.mu.Lock(); defer s.mu.Unlock(); s.polls = n }

// Intercept sees every request at both doors before they do; it answers itself and returns true, or returns false. nil takes it away.
func (s *Server) Intercept(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = f
}

// Requests lists what was asked for, as "METHOD /path?query".
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Versions lists the digests that an image (PROJECT/REPOSITORY/IMAGE) has, sorted.
func (s *Server) Versions(ctx context.Context, image string) []string {
	list := []string{}
	for digest := range s.known(image) {
		if s.present(ctx, image, digest) {
			list = append(list, digest)
		}
	}
	slices.Sort(list)
	return list
}

func (s *Server) watched(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+r.URL.RequestURI())
		intercept := s.intercept
		s.mu.Unlock()
		if intercept == nil || !intercept(w, r) {
			next(w, r)
		}
	}
}

func (s *Server) backend() string { s.mu.Lock(); defer s.mu.Unlock(); return s.registry.Host }

// known copies what the door has seen of an image.
func (s *Server) known(image string) map[string]version {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]version{}
	for digest, v := range s.versions[image] {
		all[digest] = *v
	}
	return all
}

func (s *Server) present(ctx context.Context, image, digest string) bool {
	ref, err := name.NewDigest(s.backend()+"/"+image+"@"+digest, name.Insecure)
	if err != nil {
		return false
	}
	_, err = remote.Head(ref, remote.WithContext(ctx))
	return err == nil
}

// Tags reads what each tag of an image (PROJECT/REPOSITORY/IMAGE) is on, from the registry.
func (s *Server) Tags(ctx context.Context, image string) map[string]string {
	on := map[string]string{}
	for _, tag := range s.lists[image] {
		on[tag] = "sha256:" + strings.Repeat("0", 64)
	}
	if s.lists != nil {
		return on
	}
	repo, err := name.NewRepository(s.backend()+"/"+image, name.Insecure)
	if err != nil {
		return on
	}
	list, err := remote.List(repo, remote.WithContext(ctx))
	if err != nil { // no such image
		return on
	}
	for _, tag := range list {
		if d, err := remote.Head(repo.Tag(tag), remote.WithContext(ctx)); err == nil {
			on[tag] = d.Digest.String()
		}
	}
	return on
}

// parents lists the indexes of an image that list a digest.
func (s *Server) parents(ctx context.Context, image, digest string) []string {
	var list []string
	for parent, v := range s.known(image) {
		if slices.Contains(v.children, digest) && s.present(ctx, image, parent) {
			list = append(list, parent)
		}
	}
	return list
}

// listed reports whether an image has the referrers API.
func (s *Server) listed(image string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.referrers != "" && strings.HasPrefix(image, s.referrers)
}

// listReferrers answers what refers to a digest.
func (s *Server) listReferrers(w http.ResponseWriter, r *http.Request, image, subject string) {
	known := s.known(image)
	list := []any{}
	for _, digest := range slices.Sorted(maps.Keys(known)) {
		if v := known[digest]; v.subject == subject && s.present(r.Context(), image, digest) {
			list = append(list, map[string]any{"mediaType": v.mediaType, "digest": digest, "size": v.size})
		}
	}
	w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	_ = json.NewEncoder(w).Encode(map[string]any{ // the client sees it break off
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list,
	})
}

var referrersPath = regexp.MustCompile(`^/v2/(.+)/referrers/(sha256:[0-9a-f]{64})$`)

var manifestPath = regexp.MustCompile(`^/v2/(.+)/manifests/([^/]+)$`)

// door is Docker's protocol with Artifact Registry's rules.
func (s *Server) door(w http.ResponseWriter, r *http.Request) {
	if m := referrersPath.FindStringSubmatch(r.URL.Path); m != nil && s.listed(m[1]) {
		s.listReferrers(w, r, m[1], m[2])
		return
	}
	m := manifestPath.FindStringSubmatch(r.URL.Path)
	if m != nil && !s.allowed(w, r, m[1], m[2]) {
		return
	}
	var body []byte
	if m != nil && r.Method == http.MethodPut {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	target := &url.URL{Scheme: "http", Host: s.backend()}
	forward := &httputil.ReverseProxy{
		ErrorLog: log.New(io.Discard, "", 0), // dead clients
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host // so that the registry's links lead back here
		},
		ModifyResponse: func(resp *http.Response) error {
			if body != nil && resp.StatusCode == http.StatusCreated {
				subject := s.remember(m[1], resp.Header.Get("Docker-Content-Digest"), r.Header.Get("Content-Type"), body)
				if subject != "" && s.listed(m[1]) {
					resp.Header.Set("OCI-Subject", subject)
				}
			}
			return nil
		},
	}
	forward.ServeHTTP(w, r)
}

func (s *Server) remember(image, digest, mediaType string, manifest []byte) (subject string) {
	var index struct {
		Subject struct {
			Digest string `json:"digest"`
		} `json:"subject"`
		Manifests []struct {
			Digest string `json:"digest"`
		} `json:"manifests"`
	}
	_ = json.Unmarshal(manifest, &index) // the registry has just taken it
	v := &version{mediaType: mediaType, size: len(manifest), subject: index.Subject.Digest, uploaded: time.Now()}
	for _, c := range index.Manifests {
		v.children = append(v.children, c.Digest)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.versions[image] == nil {
		s.versions[image] = map[string]*version{}
	}
	s.versions[image][digest] = v
	return v.subject
}

// allowed applies the rules to a write, and answers itself when it is refused.
func (s *Server) allowed(w http.ResponseWriter, r *http.Request, image, reference string) bool {
	s.mu.Lock()
	immutable := s.immutable
	s.mu.Unlock()
	isDigest := strings.HasPrefix(reference, "sha256:")
	refuse := func(status int, code, message string) bool {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]any{"code": code, "message": message}}}) // the client sees it break off
		return false
	}
	switch {
	case r.Method == http.MethodPut && !isDigest && immutable:
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return false
		}
		r.Body = io.NopCloser(bytes.NewReader(raw))
		if _, used := s.Tags(r.Context(), image)[reference]; used {
			return refuse(http.StatusForbidden, "DENIED", "The repository has enabled tag immutability. The tag "+reference+" is in use.")
		}
	case r.Method == http.MethodDelete && !isDigest && immutable:
		return refuse(http.StatusForbidden, "DENIED", "The repository has enabled tag immutability.")
	case r.Method == http.MethodDelete && isDigest:
		if code, message := s.bound(r.Context(), image, reference); code != "" {
			return refuse(http.StatusBadRequest, code, message)
		}
	}
	return true
}

// bound says why a digest cannot be deleted.
func (s *Server) bound(ctx context.Context, image, digest string) (code, message string) {
	for _, tag := range slices.Sorted(maps.Keys(s.Tags(ctx, image))) {
		if s.Tags(ctx, image)[tag] == digest {
			return "GOOGLE_MANIFEST_DANGLING_TAG", fmt.Sprintf("Manifest is still referenced by tag: %s", tag)
		}
	}
	if parents := s.parents(ctx, image, digest); len(parents) > 0 {
		return "GOOGLE_MANIFEST_DANGLING_PARENT_IMAGE", fmt.Sprintf("Manifest is still referenced by one or more parent images: %s", parents[0])
	}
	return "", ""
}

// Refuse answers as Google's APIs do, for those who intercept. reason is that of a google.rpc.ErrorInfo; empty for none.
func Refuse(w http.ResponseWriter, status int, code, message, reason string) {
	body := map[string]any{"code": status, "message": message, "status": code}
	if reason != "" {
		body["details"] = []any{map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}}
	}
	answer(w, status, map[string]any{"error": body})
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	Refuse(w, status, code, message, "")
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client sees it break off
}

func notFound(w http.ResponseWriter) {
	refuse(w, http.StatusNotFound, "NOT_FOUND", "Requested entity was not found.")
}

// decodeOnce takes one layer of percent-encoding off, except from %2F (google/api/http.proto, variables of several segments).
func decodeOnce(path string) string {
	parts := strings.Split(path, "%2F")
	for i, p := range parts {
		if plain, err := url.PathUnescape(p); err == nil {
			parts[i] = plain
		}
	}
	return strings.Join(parts, "%2F")
}

// Resource names, below /v1/.
var (
	repositoryName = regexp.MustCompile(`^projects/([^/]+)/locations/[^/]+/repositories/([^/]+)$`)
	packageName    = regexp.MustCompile(`^projects/([^/]+)/locations/[^/]+/repositories/([^/]+)/packages/([^/]+)$`)
	operationName  = regexp.MustCompile(`^projects/[^/]+/locations/[^/]+/operations/([^/]+)$`)
)

// imageOf turns the name of a package into PROJECT/REPOSITORY/IMAGE.
func imageOf(resource string) (string, bool) {
	m := packageName.FindStringSubmatch(resource)
	if m == nil {
		return "", false
	}
	pkg, err := url.PathUnescape(m[3])
	return strings.ReplaceAll(m[1], ":", "/") + "/" + m[2] + "/" + pkg, err == nil
}

// api is the REST API.
func (s *Server) api(w http.ResponseWriter, r *http.Request) {
	resource := strings.TrimPrefix(decodeOnce(r.URL.EscapedPath()), "/v1/")
	parent, last := path.Split(resource)
	parent = strings.TrimSuffix(parent, "/")
	grand, collection := path.Split(parent)
	grand = strings.TrimSuffix(grand, "/")
	image, ofPackage := imageOf(parent)
	item, ofItem := imageOf(grand)
	switch {
	case r.Method == http.MethodGet && repositoryName.MatchString(resource):
		s.mu.Lock()
		defer s.mu.Unlock()
		answer(w, http.StatusOK, map[string]any{"name": resource, "format": "DOCKER", "dockerConfig": map[string]any{"immutableTags": s.immutable}})
	case r.Method == http.MethodGet && operationName.MatchString(resource):
		s.operation(w, r, last)
	case r.Method == http.MethodGet && ofPackage && last == "tags":
		s.listTags(w, r, parent, image)
	case r.Method == http.MethodGet && ofPackage && last == "versions":
		s.listVersions(w, r, parent, image)
	case r.Method == http.MethodGet && packageName.MatchString(resource):
		if pkg, _ := imageOf(resource); len(s.Versions(r.Context(), pkg)) == 0 {
			notFound(w)
			return
		}
		answer(w, http.StatusOK, map[string]any{"name": resource})
	case ofItem && collection == "tags":
		s.tag(w, r, grand, item, last)
	case ofItem && collection == "versions":
		s.version(w, r, grand, item, last)
	default:
		refuse(w, http.StatusNotFound, "NOT_FOUND", "Method not found.")
	}
}

// page cuts a list of resources, which is sorted by name, to the page that is asked for.
func page(w http.ResponseWriter, r *http.Request, member, parent string, all []map[string]any) {
	query := r.URL.Query()
	for parameter := range query {
		if !slices.Contains([]string{"pageSize", "pageToken", "filter", "view", "orderBy"}, parameter) {
			refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", fmt.Sprintf("Invalid JSON payload received. Unknown name %q", parameter))
			return
		}
	}
	if text := query.Get("filter"); text != "" {
		m := filterPattern.FindStringSubmatch(text)
		if m == nil {
			refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", "invalid filter")
			return
		}
		all = slices.DeleteFunc(all, func(item map[string]any) bool {
			text, _ := item[m[1]].(string)
			return !wildcard(m[2]).MatchString(text)
		})
	}
	size := 100
	if text := query.Get("pageSize"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", "invalid page_size")
			return
		}
		size = min(max(n, 1), 1000)
	}
	start := 0
	if token := query.Get("pageToken"); token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		bound, last, ok := strings.Cut(string(raw), "\n")
		if err != nil || !ok || bound != parent+query.Get("filter") {
			refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", "invalid page token")
			return
		}
		for start < len(all) && all[start]["name"].(string) <= last {
			start++
		}
	}
	end := min(start+size, len(all))
	body := map[string]any{}
	if start < end {
		body[member] = all[start:end]
	}
	if end < len(all) {
		body["nextPageToken"] = base64.RawURLEncoding.EncodeToString([]byte(parent + query.Get("filter") + "\n" + all[end-1]["name"].(string)))
	}
	answer(w, http.StatusOK, body)
}

// filterPattern is the part of the filter language that is documented for tags and versions.
var filterPattern = regexp.MustCompile(`^(name|version)="([^"]+)"$`)

// wildcard reads a filter's value: * is any text, and letters match in either case.
func wildcard(text string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)^` + strings.ReplaceAll(regexp.QuoteMeta(text), `\*`, `.*`) + `$`)
}

func (s *Server) listTags(w http.ResponseWriter, r *http.Request, parent, image string) {
	on := s.Tags(r.Context(), image)
	if len(on) == 0 && len(s.Versions(r.Context(), image)) == 0 {
		notFound(w)
		return
	}
	var all []map[string]any
	for _, tag := range slices.Sorted(maps.Keys(on)) {
		all = append(all, map[string]any{"name": parent + "/tags/" + tag, "version": parent + "/versions/" + on[tag]})
	}
	page(w, r, "tags", parent, all)
}

func (s *Server) listVersions(w http.ResponseWriter, r *http.Request, parent, image string) {
	list := s.Versions(r.Context(), image)
	if len(list) == 0 {
		notFound(w)
		return
	}
	var all []map[string]any
	for _, digest := range list {
		all = append(all, s.describe(r, parent, image, digest))
	}
	page(w, r, "versions", parent, all)
}

// describe is a Version. Its metadata is there in the view FULL only.
func (s *Server) describe(r *http.Request, parent, image, digest string) map[string]any {
	v := s.known(image)[digest]
	out := map[string]any{"name": parent + "/versions/" + digest, "createTime": v.uploaded.UTC().Format(time.RFC3339Nano)}
	if r.URL.Query().Get("view") == "FULL" {
		out["metadata"] = map[string]any{"mediaType": v.mediaType}
		var related []map[string]any
		for tag, on := range s.Tags(r.Context(), image) {
			if on == digest && len(related) < 100 {
				related = append(related, map[string]any{"name": parent + "/tags/" + tag, "version": out["name"]})
			}
		}
		out["relatedTags"] = related
	}
	return out
}

func (s *Server) tag(w http.ResponseWriter, r *http.Request, parent, image, tag string) {
	digest, found := s.Tags(r.Context(), image)[tag]
	s.mu.Lock()
	immutable := s.immutable
	s.mu.Unlock()
	switch {
	case !found:
		notFound(w)
	case r.Method == http.MethodGet:
		answer(w, http.StatusOK, map[string]any{"name": parent + "/tags/" + tag, "version": parent + "/versions/" + digest})
	case r.Method != http.MethodDelete:
		refuse(w, http.StatusNotFound, "NOT_FOUND", "Method not found.")
	case immutable:
		refuse(w, http.StatusBadRequest, "FAILED_PRECONDITION", "The repository has enabled tag immutability.")
	default:
		if err := s.remove(r.Context(), image, tag); err != nil {
			refuse(w, http.StatusInternalServerError, "INTERNAL", err.Error())
			return
		}
		answer(w, http.StatusOK, map[string]any{})
	}
}

func (s *Server) version(w http.ResponseWriter, r *http.Request, parent, image, digest string) {
	force := r.URL.Query().Get("force") == "true"
	switch _, known := s.known(image)[digest]; {
	case !known || !s.present(r.Context(), image, digest):
		notFound(w)
		return
	case r.Method == http.MethodGet:
		answer(w, http.StatusOK, s.describe(r, parent, image, digest))
		return
	case r.Method != http.MethodDelete:
		refuse(w, http.StatusNotFound, "NOT_FOUND", "Method not found.")
		return
	}
	code, message := s.bound(r.Context(), image, digest)
	s.mu.Lock()
	immutable := s.immutable
	s.mu.Unlock()
	if code != "" && (!force || immutable || code != "GOOGLE_MANIFEST_DANGLING_TAG") {
		refuse(w, http.StatusBadRequest, "FAILED_PRECONDITION", message)
		return
	}
	m := strings.SplitN(parent, "/repositories/", 2)
	s.mu.Lock()
	id := fmt.Sprintf("op-%d", len(s.running)+1)
	s.running[id] = &deletion{image: image, digest: digest, polls: s.polls}
	s.mu.Unlock()
	s.report(w, r, m[0]+"/operations/"+id, id)
}

// operation answers a poll.
func (s *Server) operation(w http.ResponseWriter, r *http.Request, id string) {
	s.report(w, r, strings.TrimPrefix(r.URL.Path, "/v1/"), id)
}

// report says how far an operation is; the deletion happens when it is done, and not before.
func (s *Server) report(w http.ResponseWriter, r *http.Request, resource, id string) {
	s.mu.Lock()
	d, ok := s.running[id]
	done := ok && d.polls == 0
	if ok && !done {
		d.polls--
	}
	s.mu.Unlock()
	switch {
	case !ok:
		notFound(w)
		return
	case !done:
		answer(w, http.StatusOK, map[string]any{"name": resource})
		return
	}
	for tag, on := range s.Tags(r.Context(), d.image) { // force, or a tag that came meanwhile
		if on == d.digest {
			_ = s.remove(r.Context(), d.image, tag) // the digest takes it along
		}
	}
	if s.present(r.Context(), d.image, d.digest) {
		if err := s.remove(r.Context(), d.image, d.digest); err != nil {
			answer(w, http.StatusOK, map[string]any{"name": resource, "done": true, "error": map[string]any{"code": 13, "message": err.Error()}})
			return
		}
	}
	answer(w, http.StatusOK, map[string]any{
		"name": resource, "done": true, "response": map[string]any{"@type": "type.googleapis.com/google.protobuf.Empty"},
	})
}

// remove deletes a tag or a digest in the registry, without the door's rules.
func (s *Server) remove(ctx context.Context, image, reference string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, "http://"+s.backend()+"/v2/"+image+"/manifests/"+reference, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusNotFound {
		return fmt.Errorf("the registry answered %s", resp.Status)
	}
	return nil
}
