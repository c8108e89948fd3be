package step

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// Source is the group of variables that say which commit is built and why: Cloud Build's built-in substitutions of a triggered build.
type Source struct {
	CommitSHA  string `env:"COMMIT_SHA" doc:"commit that is built"`
	BranchName string `env:"BRANCH_NAME" doc:"branch that was pushed; empty on a tag build"`
	TagName    string `env:"TAG_NAME" doc:"tag that was pushed; empty on a branch build"`
	RepoName   string `env:"REPO_NAME" doc:"name of the repository that is built"`
}

var commitPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

func (s Source) checkGroup(f *Faults) {
	if s.BranchName != "" && s.TagName != "" {
		f.Add("BRANCH_NAME", "conflicts with TAG_NAME: a build is of a branch or of a tag, never of both")
	}
	if s.CommitSHA != "" && !commitPattern.MatchString(s.CommitSHA) {
		f.Add("COMMIT_SHA", "%q is not a full commit id: want 40 hexadecimal digits in lower case", s.CommitSHA)
	}
}

// Credentials is the group of variables for Git remotes.
type Credentials struct {
	GitUsername string      `env:"GIT_USERNAME" default:"x-access-token" doc:"user name for Git over HTTP; hosts that take tokens ignore it"`
	GitToken    secret.Text `env:"GIT_TOKEN" doc:"token for Git over HTTP; pass it with secretEnv"`
	GitHubApp
}

func (c Credentials) checkGroup(f *Faults) {
	if !c.GitToken.IsZero() && (c.GitHubAppID != "" || c.GitHubAppInstallationID != "" || !c.GitHubAppPrivateKey.IsZero()) {
		f.Add("GIT_TOKEN", "conflicts with GITHUB_APP_*: set one of them")
	}
	c.GitHubApp.checkGroup(f)
}

// GitHubApp is the group of variables for a GitHub App, whose installation's tokens are used in place of GIT_TOKEN. Its fields are those of
// github.App, so that a step converts one into the other.
type GitHubApp struct {
	GitHubAppID             string      `env:"GITHUB_APP_ID" doc:"id, or client id, of a GitHub App: its installation's tokens, minted for this repository alone, are used in place of GIT_TOKEN"`
	GitHubAppInstallationID string      `env:"GITHUB_APP_INSTALLATION_ID" doc:"id of the GitHub App's installation"`
	GitHubAppPrivateKey     secret.Text `env:"GITHUB_APP_PRIVATE_KEY" doc:"private key of the GitHub App (PEM); pass it with secretEnv"`
	GitHubAPI               string      `env:"GITHUB_API" type:"url" default:"https://api.github.com" doc:"address of GitHub's API; GitHub Enterprise Server has it at https://HOST/api/v3"`
}

var appIDPattern = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

func (g GitHubApp) checkGroup(f *Faults) {
	if g.GitHubAppID != "" || g.GitHubAppInstallationID != "" || !g.GitHubAppPrivateKey.IsZero() {
		for _, v := range []struct {
			name string
			set  bool
		}{
			{"GITHUB_APP_ID", g.GitHubAppID != ""},
			{"GITHUB_APP_INSTALLATION_ID", g.GitHubAppInstallationID != ""},
			{"GITHUB_APP_PRIVATE_KEY", !g.GitHubAppPrivateKey.IsZero()},
		} {
			if !v.set {
				f.Add(v.name, "is not set: the three of GITHUB_APP_* belong together")
			}
		}
	}
	if g.GitHubAppID != "" && !appIDPattern.MatchString(g.GitHubAppID) {
		f.Add("GITHUB_APP_ID", "%q is not the id of a GitHub App", g.GitHubAppID)
	}
	if g.GitHubAppInstallationID != "" && strings.Trim(g.GitHubAppInstallationID, "0123456789") != "" {
		f.Add("GITHUB_APP_INSTALLATION_ID", "%q is not a number", g.GitHubAppInstallationID)
	}
	if !g.GitHubAppPrivateKey.IsZero() {
		if _, err := secret.RSAKey(g.GitHubAppPrivateKey); err != nil {
			f.Add("GITHUB_APP_PRIVATE_KEY", "is wrong: %v", err)
		}
	}
	switch u, err := url.Parse(g.GitHubAPI); { // the address is not repeated: people put tokens into URLs
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		f.Add("GITHUB_API", "is wrong: want https://host or https://host/api/v3, without credentials")
	case u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())):
		f.Add("GITHUB_API", "is wrong: want https, since a token is sent there")
	}
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// ConfigRepo is the group of variables that say where the config repo is.
type ConfigRepo struct {
	ConfigURL    GitURL `env:"CONFIG_REPO" type:"url" doc:"https URL of the config repo"`
	ConfigBranch string `env:"CONFIG_BRANCH" default:"main" doc:"branch of the config repo"`
	ConfigPath   string `env:"CONFIG_PATH" default:"." doc:"folder of the config repo that this suite works on"`
}

func (c ConfigRepo) checkGroup(f *Faults) {
	if p := c.ConfigPath; strings.HasPrefix(p, "/") || strings.Contains("/"+p+"/", "/../") {
		f.Add("CONFIG_PATH", "%q leaves the repository: want a relative path without ..", p)
	}
}

// InsideRepo reports whether a path can only lead to something in the config repo: it is relative, has no "..", and is no URL.
func InsideRepo(path string) bool {
	return !strings.HasPrefix(path, "/") && !strings.Contains("/"+path+"/", "/../") && !strings.Contains(path, "://")
}

// Inside adds a fault unless a variable's path leads to something in the config repo.
func (f *Faults) Inside(name, path string) {
	if !InsideRepo(path) {
		f.Add(name, "%q is not inside the config repo: want a relative path without ..", path)
	}
}

// IsURL reports whether a location is an http or https address and no path. ACCOUNTS may be one: then a service has the inventory, and the
// config repo has none. With automapSubstitutions every step sees gate-uat's.
func IsURL(location string) bool {
	return strings.HasPrefix(location, "https://") || strings.HasPrefix(location, "http://")
}

// Registry is the group of variables for the service's image.
type Registry struct {
	Image    Image    `env:"IMAGE" doc:"registry repository of the service's image, without a tag"`
	Insecure []string `env:"REGISTRY_INSECURE" doc:"hosts (host or host:port) reached over plain HTTP; loopback always is"`
}

// GitURL is the http or https URL of a Git repository, without credentials.
type GitURL string

// UnmarshalText checks the URL. Its errors do not repeat it: people put tokens into URLs.
func (u *GitURL) UnmarshalText(b []byte) error {
	p, err := url.Parse(string(b))
	switch {
	case err != nil:
		return fmt.Errorf("it cannot be read as a URL: want https://host/path")
	case p.User != nil:
		return fmt.Errorf("credentials inside a URL end up in logs: give them as GIT_USERNAME and GIT_TOKEN")
	case p.Scheme != "https" && p.Scheme != "http":
		return fmt.Errorf("the scheme is %q: want https://host/path (the image holds no SSH client and no git program)", p.Scheme)
	case p.Host == "" || p.RawQuery != "" || p.Fragment != "":
		return fmt.Errorf("want https://host/path, without a query or a fragment")
	}
	*u = GitURL(b)
	return nil
}

// MayHoldSecret keeps a URL that was refused out of the messages: it may have been refused for the password in it.
func (u *GitURL) MayHoldSecret() {}

// String returns the URL.
func (u GitURL) String() string { return string(u) }

// Image is a repository of a container registry: host/path, without tag and digest.
type Image string

// The grammar of the OCI distribution specification for <name>, behind a host with an optional port.
var imagePattern = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+$`)

// UnmarshalText checks the name.
func (i *Image) UnmarshalText(b []byte) error {
	s := string(b)
	switch _, path, _ := strings.Cut(s, "/"); {
	case strings.Contains(s, "://"):
		return fmt.Errorf("want host/path without a scheme")
	case strings.Contains(s, "@"):
		return fmt.Errorf("want the repository alone, without a digest")
	case strings.Contains(path, ":"):
		return fmt.Errorf("want the repository alone, without a tag")
	case !imagePattern.MatchString(s):
		return fmt.Errorf("want host/path in lower case, such as europe-docker.pkg.dev/my-cloud/services/backend")
	}
	*i = Image(s)
	return nil
}

// Name returns the last path element, which is the service's name unless SERVICE says otherwise.
func (i Image) Name() string { return string(i[strings.LastIndexByte(string(i), '/')+1:]) }

// String returns host/path.
func (i Image) String() string { return string(i) }
