package rules

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/githubapi"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// Whatever takes GIT_TOKEN takes a GitHub App in its place.
func TestEveryRemoteCanBeAskedAsAGitHubApp(t *testing.T) {
	for _, p := range packages(t) {
		if !p.in("steps") {
			continue
		}
		for _, name := range p.GoFiles {
			text := readFile(t, filepath.Join(p.Dir, name))
			for _, literal := range regexp.MustCompile(`(?s)gitrepo\.Remote\{.*?\}`).FindAllString(text, -1) {
				if !strings.Contains(literal, "Renew:") {
					t.Errorf("%s/%s: %s has no Renew", p.rel(), name, literal)
				}
			}
		}
	}
}

// Every step that talks to Git does it with a token that was minted for that repository alone, with no more than it needs, and prints neither
// the token nor the key.
func TestStepsSpeakGitAsAGitHubApp(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pemKey := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	needs := map[string]string{"bump-config": "write", "tag-image": "write", "rollback-version": "write", "restore-version": "write"} // the others read
	tried := 0
	for _, name := range steps(t) {
		if !slices.ContainsFunc(contract(t, name).Variables, func(v step.ContractVariable) bool { return v.Name == "GIT_TOKEN" }) {
			continue
		}
		tried++
		t.Run(name, func(t *testing.T) {
			api := githubapi.Start(githubapi.Options{
				AppID: "12345", Installation: "678", Key: &key.PublicKey, Repositories: []string{"backend", "other"}, Grants: map[string]string{"contents": "write"},
			})
			defer api.Close()
			var mu sync.Mutex
			passwords := map[string]bool{}
			git := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				memory := strings.HasSuffix(r.URL.Path, "deleted-v1.42.2")
				if memory || name == "tag-image" && strings.HasSuffix(r.URL.Path, "v1.42.2") { // the memory of the tag, and for tag-image the tag, are to be free
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(http.StatusNotFound)
					fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`)
					return
				}
				if strings.HasSuffix(r.URL.Path, "/tags/list") { // what else names the image: nothing
					w.Header().Set("Content-Type", "application/json")
					fmt.Fprint(w, `{"name":"team/backend","tags":[]}`)
					return
				}
				if elsewhere(w, r) {
					return
				}
				_, password, _ := r.BasicAuth()
				mu.Lock()
				passwords[password] = true
				mu.Unlock()
				http.Error(w, "not here", http.StatusNotFound)
			}))
			defer git.Close()
			url := git.URL + "/team/backend.git"
			o := runStep(t, name, map[string]string{
				"SOURCE_URL": url, "CONFIG_REPO": url, "IMAGE": strings.TrimPrefix(git.URL, "http://") + "/team/backend", "VERSION": "v1.42.2", "TAG_NAME": "v1.42.2", "SOURCE": "main-aaaaaaaaaaaa-1",
				"COMMIT_SHA": strings.Repeat("a", 40), "KUBECONFIG": kubeconfig(t, git.URL), "GITHUB_API": api.URL, "POLICIES": "flux-system:backend", "ALLOW_DOWNGRADE": "true", "REASON": "it loses orders", "BACKUP": "./backup",
				"GITHUB_APP_ID": "12345", "GITHUB_APP_INSTALLATION_ID": "678", "GITHUB_APP_PRIVATE_KEY": pemKey,
			})
			minted := api.Minted()
			if len(minted) != 1 || !maps.Equal(passwords, map[string]bool{slices.Collect(maps.Keys(minted))[0]: true}) {
				t.Fatalf("minted %v, Git was asked with %d passwords\n%s", minted, len(passwords), o.stderr)
			}
			for token, m := range minted {
				want := fmt.Sprint([]string{"backend"}, map[string]string{"contents": needsOr(needs[name])})
				if got := fmt.Sprint(m.Repositories, m.Permissions); got != want {
					t.Errorf("the token is for %s, want %s", got, want)
				}
				if strings.Contains(o.stdout+o.stderr, token) || strings.Contains(o.stdout+o.stderr, "PRIVATE KEY") {
					t.Errorf("a credential is printed:\n%s", o.stderr)
				}
			}
			if o.code != step.ExitFailed || !strings.Contains(o.stderr, "fix: install the GitHub App of GITHUB_APP_ID on this repository") {
				t.Errorf("exit code %d:\n%s", o.code, o.stderr)
			}
		})
	}
	if tried < 6 {
		t.Errorf("only %d steps talk to Git", tried)
	}
}

func needsOr(level string) string {
	if level == "" {
		return "read"
	}
	return level
}

// elsewhere answers as a registry that has an image under every tag, and as an empty cluster, for the steps that ask those first.
func elsewhere(w http.ResponseWriter, r *http.Request) bool {
	switch path := r.URL.Path; {
	case strings.HasPrefix(path, "/v2/") && strings.Contains(path, "/manifests/"):
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		const none = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" // of {}
		fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[]}`, none)
	case strings.HasPrefix(path, "/v2/"):
	case path == "/version" || strings.HasPrefix(path, "/api"):
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"kind":"SecretList","apiVersion":"v1","major":"1","minor":"34","gitVersion":"v1.34.0","metadata":{},"items":[]}`)
	default:
		return false
	}
	return true
}

// kubeconfig names a cluster at an address.
func kubeconfig(t *testing.T, server string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "`+server+`"}}]
users: [{name: u, user: {}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
`), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
