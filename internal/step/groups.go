package step

import (
	"fmt"
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
		return fmt.Errorf("it cannot be read as a URL")
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
