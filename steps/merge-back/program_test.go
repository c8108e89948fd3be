package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/githubapi"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/step/steptest"
)

func TestMain(m *testing.M) {
	steptest.Main(m, map[string]func(){"merge-back": main, "github": control})
}

const (
	token = "canary-token-71e3"
	repo  = "team/backend"
)

var key = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// TestScripts gives each script a git that knows nothing of this machine, an empty repository behind a token (or the tokens of a GitHub
// App), $BARE on disk and $URL over HTTP, and GitHub's API at $API. `git ci MESSAGE` makes a commit; `github` drives the API's other side.
func TestScripts(t *testing.T) {
	steptest.Run(t, "testdata/script", func(env *testscript.Env) error {
		bare := filepath.Join(env.WorkDir, "server", repo+".git")
		api := githubapi.Start(githubapi.Options{
			Token: token, AppID: "12345", Installation: "678", Key: &key().PublicKey, Repositories: []string{"backend"},
			Grants: map[string]string{"contents": "read", "pull_requests": "write"}, TokenLife: 2 * time.Second,
			Tip: func(_, branch string) string {
				out, _ := exec.Command("git", "-C", bare, "rev-parse", "--verify", "--quiet", "refs/heads/"+branch).Output()
				return strings.TrimSpace(string(out))
			},
		})
		env.Defer(api.Close)
		server, err := gitserver.Start(filepath.Join(env.WorkDir, "server"), gitserver.Options{Wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, password, _ := r.BasicAuth(); !api.May(password, "backend", "contents", "read") {
					w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
					http.Error(w, "authentication is required", http.StatusUnauthorized)
					return
				}
				next.ServeHTTP(w, r)
			})
		}})
		if err != nil {
			return err
		}
		env.Defer(func() { _ = server.Close() })
		url, err := server.Create(repo)
		if err != nil {
			return err
		}
		side := &http.Server{Handler: controlled(api), ReadHeaderTimeout: time.Minute}
		listener, err := listen()
		if err != nil {
			return err
		}
		go func() { _ = side.Serve(listener) }()
		env.Defer(func() { _ = side.Close() })
		for _, variable := range [][2]string{
			{"GIT_CONFIG_NOSYSTEM", "1"}, {"GIT_CONFIG_GLOBAL", os.DevNull}, {"GIT_TERMINAL_PROMPT", "0"},
			{"GIT_CONFIG_COUNT", "2"},
			{"GIT_CONFIG_KEY_0", "alias.ci"}, {"GIT_CONFIG_VALUE_0", "commit --quiet --allow-empty --cleanup=verbatim -m"},
			{"GIT_CONFIG_KEY_1", "init.defaultBranch"}, {"GIT_CONFIG_VALUE_1", "main"},
			{"GIT_AUTHOR_NAME", "A"}, {"GIT_AUTHOR_EMAIL", "a@example.com"}, {"GIT_AUTHOR_DATE", "1764000000 +0000"},
			{"GIT_COMMITTER_NAME", "C"}, {"GIT_COMMITTER_EMAIL", "c@example.com"}, {"GIT_COMMITTER_DATE", "1764000000 +0000"},
			{"BARE", bare}, {"URL", url}, {"TOKEN", token}, {"API", api.URL}, {"CONTROL", "http://" + listener.Addr().String()},
			{"APP_KEY", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key())}))},
			{"HANDOVER_DIR", filepath.Join(env.WorkDir, ".release")},
		} {
			env.Setenv(variable[0], variable[1])
		}
		return nil
	})
}

// controlled is the API's other side: what people do on GitHub's pages.
func controlled(api *githubapi.Server) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /end/{number}/{how}", func(_ http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("number"))
		api.End(n, r.PathValue("how") == "merge")
	})
	mux.HandleFunc("POST /fail", func(w http.ResponseWriter, r *http.Request) {
		var f githubapi.Fault
		if err := json.NewDecoder(r.Body).Decode(&f); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
		api.Fail(f)
	})
	mux.HandleFunc("POST /pulls", func(w http.ResponseWriter, _ *http.Request) {
		for _, p := range api.Pulls() {
			fmt.Fprintf(w, "%d %s %s -> %s: %s\n%s\n", p.Number, p.State, p.Head, p.Base, p.Title, p.Body)
		}
	})
	mux.HandleFunc("POST /minted", func(w http.ResponseWriter, _ *http.Request) {
		for _, m := range api.Minted() {
			fmt.Fprintln(w, m.Repositories, m.Permissions)
		}
	})
	return mux
}

// The text of a pull request is anybody's: branches and subjects that call people, close issues, or try to be markup.
func TestThePullRequestCallsNobody(t *testing.T) {
	v, err := release.Parse("v1.42.2")
	if err != nil {
		t.Fatal(err)
	}
	hostile := []string{"fix: closes #1 @everyone", "Fixes #2", "fix: <img src=x> [a](https://evil.example)", "resolves team/backend#3", "fix: GH-4 `@team`", "\x1b[31mred", strings.Repeat("x", 1000)}
	var lack gitrepo.Lack
	for i := range 400 {
		lack.Commits = append(lack.Commits, commits.Commit{ID: commits.ID{byte(i)}, Message: commits.Parse(hostile[i%len(hostile)])})
	}
	title, body := In{MainBranch: "main"}.text(head{version: v, branches: []string{"release-v1.42.2-closes-#9-@all-`x`"}}, lack)
	if title != "chore: merge hotfix v1.42.2 back into main" {
		t.Errorf("title %q", title)
	}
	if len(body) > 65536 {
		t.Errorf("the body has %d bytes", len(body))
	}
	for _, active := range []string{"@everyone", "@team", "@all", "#1", "#2", "#3", "#9", "GH-4", "<img", "[a](", "https://", "\x1b"} {
		if strings.Contains(body, active) {
			t.Errorf("the body holds %q", active)
		}
	}
}
