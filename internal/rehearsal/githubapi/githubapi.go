// Package githubapi is the part of GitHub's REST API that the steps use, on loopback: the tokens of a GitHub App's installation, and listing
// and opening pull requests. The tests of internal/github and of the steps use it.
//
// It follows GitHub's documentation, and what GitHub is known to answer where that is silent:
//   - https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app
//   - https://docs.github.com/rest/apps/apps#create-an-installation-access-token-for-an-app
//   - https://docs.github.com/rest/pulls/pulls#list-pull-requests and #create-a-pull-request
//   - https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
//   - https://docs.github.com/rest/using-the-rest-api/troubleshooting-the-rest-api (X-Accepted-GitHub-Permissions, 404 for 403)
//
// Not real: everything else. Pull requests are not merged here, they are only said to be.
package githubapi

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options say what the server knows.
type Options struct {
	Token string // a personal access token that may do everything; empty: there is none

	// The App and its one installation. Repositories and Grants are what its owner allowed it.
	AppID, Installation string
	Key                 *rsa.PublicKey
	Repositories        []string // names without owner
	Grants              map[string]string
	TokenLife           time.Duration // 0: an hour

	// Tip, when set, returns the commit of a branch, and "" for none.
	Tip func(repo, branch string) string
}

// Fault is an answer that is given in place of the true one.
type Fault struct {
	Method, Path string // Path is the end of the request's path; empty matches all
	Times        int
	Status       int // 0: the connection breaks after the request was carried out
	Header       map[string]string
	Body         string
}

// Pull is a pull request.
type Pull struct {
	Number      int
	Repo        string
	Head, Base  string
	Title, Body string
	State       string // open or closed
	Merged      bool
	SHA         string
}

// Minted is an installation's token.
type Minted struct {
	Repositories []string
	Permissions  map[string]string
	Expires      time.Time
}

// Server is a running API. Its methods may be called from several goroutines.
type Server struct {
	URL     string
	options Options
	http    *httptest.Server

	mu     sync.Mutex
	faults []*Fault
	pulls  []*Pull
	minted map[string]Minted
	log    []string
}

// Start serves the API on a free loopback port until Close.
func Start(o Options) *Server {
	s := &Server{options: o, minted: map[string]Minted{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /app/installations/{id}/access_tokens", s.mint)
	mux.HandleFunc("GET /repos/{owner}/{name}/pulls", s.list)
	mux.HandleFunc("POST /repos/{owner}/{name}/pulls", s.create)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusNotFound, "Not Found") })
	s.http = httptest.NewServer(s.disturbed(mux))
	s.URL = s.http.URL
	return s
}

// Close stops the server.
func (s *Server) Close() { s.http.Close() }

// Fail makes the next requests that match fail.
func (s *Server) Fail(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// Pulls returns the pull requests.
func (s *Server) Pulls() []Pull {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Pull
	for _, p := range s.pulls {
		list = append(list, *p)
	}
	return list
}

// End closes a pull request as it stands, merged or not.
func (s *Server) End(number int, merged bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pulls {
		if p.Number == number {
			p.SHA, p.State, p.Merged = s.tip(p.Repo, p.Head), "closed", merged
		}
	}
}

// Requests lists what was asked: method and path.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// Minted returns the tokens that were given out.
func (s *Server) Minted() map[string]Minted {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.minted)
}

// May reports whether a token is good now for a repository (without owner) and a permission at the level read or write.
func (s *Server) May(token, repo, permission, level string) bool {
	if token != "" && token == s.options.Token {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.minted[token]
	return ok && time.Now().Before(m.Expires) && slices.Contains(m.Repositories, repo) && (m.Permissions[permission] == level || m.Permissions[permission] == "write")
}

// disturbed plays the faults in front of the API.
func (s *Server) disturbed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.log = append(s.log, r.Method+" "+r.URL.Path)
		var fault *Fault
		for _, f := range s.faults {
			if f.Times > 0 && (f.Method == "" || f.Method == r.Method) && strings.HasSuffix(r.URL.Path, f.Path) {
				f.Times--
				fault = f
				break
			}
		}
		s.mu.Unlock()
		switch {
		case fault == nil:
			next.ServeHTTP(w, r)
		case fault.Status == 0:
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		default:
			for k, v := range fault.Header {
				if k == "X-RateLimit-Reset" { // seconds from now
					n, _ := strconv.Atoi(v)
					v = strconv.FormatInt(time.Now().Unix()+int64(n), 10)
				}
				w.Header().Set(k, v)
			}
			w.WriteHeader(fault.Status)
			fmt.Fprint(w, fault.Body)
		}
	})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, status int, message string, details ...map[string]string) {
	body := map[string]any{"message": message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(status)}
	if len(details) > 0 {
		body["errors"] = details
	}
	answer(w, status, body)
}

func (s *Server) mint(w http.ResponseWriter, r *http.Request) {
	if problem := s.checkJWT(bearer(r)); problem != "" {
		refuse(w, http.StatusUnauthorized, problem)
		return
	}
	if r.PathValue("id") != s.options.Installation {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	var ask struct {
		Repositories []string          `json:"repositories"`
		Permissions  map[string]string `json:"permissions"`
	}
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		refuse(w, http.StatusBadRequest, "Problems parsing JSON")
		return
	}
	if len(ask.Repositories) == 0 {
		ask.Repositories = s.options.Repositories
	}
	if ask.Permissions == nil {
		ask.Permissions = s.options.Grants
	}
	for _, name := range ask.Repositories {
		if !slices.Contains(s.options.Repositories, name) {
			refuse(w, http.StatusUnprocessableEntity, "There is at least one repository that does not exist or is not accessible to the parent installation.")
			return
		}
	}
	for permission, level := range ask.Permissions {
		if granted := s.options.Grants[permission]; granted != "write" && granted != level {
			refuse(w, http.StatusUnprocessableEntity, "The permissions requested are not granted to this installation.")
			return
		}
	}
	life := s.options.TokenLife
	if life == 0 {
		life = time.Hour
	}
	random := make([]byte, 18)
	_, _ = rand.Read(random)
	token, expires := "ghs_canary"+hex.EncodeToString(random), time.Now().Add(life)
	s.mu.Lock()
	s.minted[token] = Minted{ask.Repositories, ask.Permissions, expires}
	s.mu.Unlock()
	answer(w, http.StatusCreated, map[string]any{
		"token": token, "expires_at": expires.UTC().Format(time.RFC3339Nano), "permissions": ask.Permissions, "repository_selection": "selected",
	})
}

// checkJWT says what is wrong with an App's JWT, in GitHub's words where they are known.
func (s *Server) checkJWT(token string) string {
	const undecodable = "A JSON web token could not be decoded"
	parts := strings.Split(token, ".")
	if len(parts) != 3 || s.options.Key == nil {
		return undecodable
	}
	var raw [3][]byte
	for i, p := range parts {
		b, err := base64.RawURLEncoding.DecodeString(p)
		if err != nil {
			return undecodable
		}
		raw[i] = b
	}
	var header struct{ Alg, Typ string }
	var claims struct {
		Iss      string
		Iat, Exp int64
	}
	if json.Unmarshal(raw[0], &header) != nil || json.Unmarshal(raw[1], &claims) != nil || header.Alg != "RS256" {
		return undecodable
	}
	hash := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if rsa.VerifyPKCS1v15(s.options.Key, crypto.SHA256, hash[:], raw[2]) != nil {
		return undecodable
	}
	now := time.Now()
	switch issued, expires := time.Unix(claims.Iat, 0), time.Unix(claims.Exp, 0); {
	case claims.Iss != s.options.AppID:
		return "Integration not found"
	case issued.After(now):
		return "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
	case !expires.After(now):
		return "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires"
	case expires.After(now.Add(10 * time.Minute)):
		return "'Expiration time' claim ('exp') is too far in the future"
	}
	return ""
}

func bearer(r *http.Request) string {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}

// allowed answers and reports false when the request's token may not do this.
func (s *Server) allowed(w http.ResponseWriter, r *http.Request, level string) bool {
	token, repo := bearer(r), r.PathValue("name")
	s.mu.Lock()
	m, known := s.minted[token]
	s.mu.Unlock()
	switch {
	case r.Header.Get("User-Agent") == "" || r.Header.Get("X-GitHub-Api-Version") == "":
		refuse(w, http.StatusForbidden, "Request forbidden by administrative rules.")
	case token == "":
		refuse(w, http.StatusNotFound, "Not Found") // a private repository
	case token != s.options.Token && (!known || time.Now().After(m.Expires)):
		refuse(w, http.StatusUnauthorized, "Bad credentials")
	case known && !slices.Contains(m.Repositories, repo):
		refuse(w, http.StatusNotFound, "Not Found")
	case !s.May(token, repo, "pull_requests", level):
		w.Header().Set("X-Accepted-GitHub-Permissions", "pull_requests="+level)
		refuse(w, http.StatusForbidden, "Resource not accessible by integration")
	default:
		return true
	}
	return false
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	if !s.allowed(w, r, "read") {
		return
	}
	repo, q := r.PathValue("owner")+"/"+r.PathValue("name"), r.URL.Query()
	state := q.Get("state")
	if state == "" {
		state = "open"
	}
	list := []any{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range slices.Backward(s.pulls) {
		if p.Repo == repo && (state == "all" || state == p.State) && (q.Get("head") == "" || q.Get("head") == r.PathValue("owner")+":"+p.Head) &&
			(q.Get("base") == "" || q.Get("base") == p.Base) {
			list = append(list, s.show(p))
		}
	}
	answer(w, http.StatusOK, list)
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	if !s.allowed(w, r, "write") {
		return
	}
	var ask struct{ Title, Head, Base, Body string }
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		refuse(w, http.StatusBadRequest, "Problems parsing JSON")
		return
	}
	owner, repo := r.PathValue("owner"), r.PathValue("owner")+"/"+r.PathValue("name")
	invalid := func(message string) {
		refuse(w, http.StatusUnprocessableEntity, "Validation Failed", map[string]string{"resource": "PullRequest", "code": "custom", "message": message})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, branch := range []string{ask.Head, ask.Base} {
		if s.options.Tip != nil && s.tip(repo, branch) == "" {
			refuse(w, http.StatusUnprocessableEntity, "Validation Failed", map[string]string{"resource": "PullRequest", "field": "head", "code": "invalid"})
			return
		}
	}
	switch {
	case ask.Title == "" || len(ask.Body) > 65536:
		invalid("title is missing or body is too long (maximum is 65536 characters)")
		return
	case slices.ContainsFunc(s.pulls, func(p *Pull) bool {
		return p.Repo == repo && p.Head == ask.Head && p.Base == ask.Base && p.State == "open"
	}):
		invalid(fmt.Sprintf("A pull request already exists for %s:%s.", owner, ask.Head))
		return
	}
	p := &Pull{Number: len(s.pulls) + 1, Repo: repo, Head: ask.Head, Base: ask.Base, Title: ask.Title, Body: ask.Body, State: "open"}
	s.pulls = append(s.pulls, p)
	answer(w, http.StatusCreated, s.show(p))
}

func (s *Server) tip(repo, branch string) string {
	if s.options.Tip == nil {
		return ""
	}
	return s.options.Tip(repo, branch)
}

func (s *Server) show(p *Pull) map[string]any {
	sha := p.SHA
	if p.State == "open" {
		sha = s.tip(p.Repo, p.Head)
	}
	var merged any
	if p.Merged {
		merged = "2025-11-24T16:00:00Z"
	}
	return map[string]any{
		"number": p.Number, "html_url": fmt.Sprintf("https://github.example/%s/pull/%d", p.Repo, p.Number), "state": p.State, "merged_at": merged,
		"title": p.Title, "body": p.Body, "head": map[string]any{"ref": p.Head, "sha": sha}, "base": map[string]any{"ref": p.Base},
	}
}
