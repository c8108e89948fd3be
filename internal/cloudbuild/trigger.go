package cloudbuild

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A Trigger is a trigger file, as `gcloud builds triggers import` takes it: which event of which GitHub repository starts which build
// file, with which substitutions. It comes from [ParseTrigger].
type Trigger struct {
	Name           string            `yaml:"name"`
	Description    string            `yaml:"description"`
	GitHub         GitHubEvents      `yaml:"github"`
	SourceToBuild  *RepoSource       `yaml:"sourceToBuild"` // of a manual trigger, which people and Cloud Scheduler start
	GitFileSource  *FileSource       `yaml:"gitFileSource"` // of a manual trigger: where the build file is
	Filename       string            `yaml:"filename"`      // the build file, from the root of the repository
	Substitutions  map[string]string `yaml:"substitutions"`
	IncludedFiles  []string          `yaml:"includedFiles"`
	IgnoredFiles   []string          `yaml:"ignoredFiles"`
	Tags           []string          `yaml:"tags"`
	ServiceAccount string            `yaml:"serviceAccount"`
	Disabled       bool              `yaml:"disabled"`

	// Warnings are places that the service reads, but perhaps not as meant.
	Warnings []Finding `yaml:"-"`

	ref               *regexp.Regexp
	included, ignored []*regexp.Regexp
}

// GitHubEvents is the part of a trigger that says what it listens to: pushes or pull requests.
type GitHubEvents struct {
	Owner string `yaml:"owner"`
	Name  string `yaml:"name"`
	Push  *struct {
		Branch      string `yaml:"branch"`
		Tag         string `yaml:"tag"`
		InvertRegex bool   `yaml:"invertRegex"`
	} `yaml:"push"`
	PullRequest *struct {
		Branch         string `yaml:"branch"`
		CommentControl string `yaml:"commentControl"` // who may start a build by a comment; it changes nothing here
		InvertRegex    bool   `yaml:"invertRegex"`
	} `yaml:"pullRequest"`
}

// RepoSource is what a manual trigger checks out (the API's GitRepoSource).
type RepoSource struct {
	URI      string `yaml:"uri"`
	Ref      string `yaml:"ref"`
	RepoType string `yaml:"repoType"`
}

// FileSource is where a manual trigger finds its build file (the API's GitFileSource).
type FileSource struct {
	Path     string `yaml:"path"`
	URI      string `yaml:"uri"`
	Revision string `yaml:"revision"`
	RepoType string `yaml:"repoType"`
}

// An EventKind is one of the three things that a trigger here can listen to.
type EventKind string

// The kinds of events.
const (
	PushBranch  EventKind = "push-branch"
	PushTag     EventKind = "push-tag"
	PullRequest EventKind = "pull-request"
)

// An Event is what happened in a repository.
type Event struct {
	Repo   string // "owner/name"
	Kind   EventKind
	Ref    string   // the branch or tag without refs/…; of a pull request, the branch it wants to be merged into
	Commit string   // the commit id to build
	Files  []string // the changed files, from the root of the repository; empty when unknown, as for tags: then file filters do not count

	// Of a pull request only.
	HeadBranch  string
	HeadRepoURL string
	Number      int
}

var triggerName = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,62}[a-zA-Z0-9])?$`)

// ParseTrigger reads a trigger file. Fields that exist in the API but that this package could not honour are refused by name. The error
// is of type [Faults].
func ParseTrigger(data []byte) (*Trigger, error) {
	d, r := read(data, "BuildTrigger")
	if d.root == nil {
		return nil, r.faults.err()
	}
	t := &Trigger{}
	if err := d.root.Decode(t); err != nil {
		return nil, fmt.Errorf("decoding the checked file: %w", err)
	}
	t.check(d, r)
	t.Warnings = r.warnings
	if err := r.faults.err(); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Trigger) check(d document, r *reader) {
	fault := func(path, format string, args ...any) {
		r.add(d.find(path, format, args...))
	}
	if !triggerName.MatchString(t.Name) {
		fault(".name", "a trigger's name is 1 to 64 letters, digits and dashes, beginning and ending with a letter or digit")
	}
	if t.SourceToBuild != nil || t.GitFileSource != nil {
		t.checkManual(fault)
		t.checkValues(fault)
		return
	}
	if t.Filename == "" {
		fault(".filename", "missing: the build file's path in the repository")
	}
	if t.GitHub.Owner == "" {
		fault(".github.owner", "missing: the repository's owner")
	}
	if t.GitHub.Name == "" {
		fault(".github.name", "missing: the repository's name")
	}
	at, pattern := ".github", ""
	switch push, pr := t.GitHub.Push, t.GitHub.PullRequest; {
	case (push == nil) == (pr == nil):
		fault(at, "want either push or pullRequest")
	case pr != nil:
		at, pattern = at+".pullRequest.branch", pr.Branch
	case (push.Branch == "") == (push.Tag == ""):
		fault(at+".push", "want either branch or tag")
	case push.Branch != "":
		at, pattern = at+".push.branch", push.Branch
	default:
		at, pattern = at+".push.tag", push.Tag
	}
	var err error
	if t.ref, err = regexp.Compile(pattern); err != nil {
		fault(at, "%q is not a regular expression (RE2): %s", pattern, err)
	} else if pattern != "" && !(strings.HasPrefix(pattern, "^") && strings.HasSuffix(pattern, "$")) {
		r.warnings = append(r.warnings, d.find(at,
			"%q is searched for anywhere in the name: main also matches not-main-yet; write ^main$ for main alone", pattern))
	}
	t.checkValues(fault)
}

// githubURI is the address of a repository on GitHub: owner and name.
var githubURI = regexp.MustCompile(`^https://(?:www\.)?github\.com/([A-Za-z0-9._-]+)/([A-Za-z0-9._-]+?)(?:\.git)?$`)

// checkManual checks a trigger that no event starts, and puts its repository and file where those of the others are.
func (t *Trigger) checkManual(fault func(path, format string, args ...any)) {
	source, file := t.SourceToBuild, t.GitFileSource
	switch {
	case source == nil || file == nil:
		fault(".", "a manual trigger needs both: sourceToBuild, which is checked out, and gitFileSource, where its build file is")
		return
	case t.GitHub.Owner != "" || t.GitHub.Name != "" || t.GitHub.Push != nil || t.GitHub.PullRequest != nil:
		fault(".github", "a trigger listens to events or is manual (sourceToBuild), not both")
	case t.Filename != "":
		fault(".filename", "the build file of a manual trigger is named by gitFileSource")
	case file.Path == "":
		fault(".gitFileSource.path", "missing: the build file's path in the repository")
	}
	if !strings.HasPrefix(source.Ref, "refs/heads/") && !strings.HasPrefix(source.Ref, "refs/tags/") {
		fault(".sourceToBuild.ref", "want refs/heads/BRANCH or refs/tags/TAG")
	}
	for path, kind := range map[string]string{".sourceToBuild.repoType": source.RepoType, ".gitFileSource.repoType": file.RepoType} {
		if kind != "GITHUB" {
			fault(path, "only GITHUB is supported here")
		}
	}
	parts := githubURI.FindStringSubmatch(source.URI)
	if parts == nil {
		fault(".sourceToBuild.uri", "want https://github.com/OWNER/NAME")
		return
	}
	if file.URI != source.URI {
		fault(".gitFileSource.uri", "a build file of another repository is not supported here")
	}
	t.GitHub.Owner, t.GitHub.Name, t.Filename = parts[1], parts[2], file.Path
}

// Manual reports whether no event starts the trigger.
func (t *Trigger) Manual() bool { return t.SourceToBuild != nil }

func (t *Trigger) checkValues(fault func(path, format string, args ...any)) {
	t.included = compileGlobs(t.IncludedFiles, func(i int, err error) { fault(fmt.Sprintf(".includedFiles[%d]", i), "%s", err) })
	t.ignored = compileGlobs(t.IgnoredFiles, func(i int, err error) { fault(fmt.Sprintf(".ignoredFiles[%d]", i), "%s", err) })
	for _, k := range slices.Sorted(maps.Keys(t.Substitutions)) {
		if !userKey.MatchString(k) {
			fault(".substitutions."+k, "a substitution of one's own must match %s", userKey)
		}
		if strings.Contains(t.Substitutions[k], "$(") {
			fault(".substitutions."+k, "payload bindings, $(…), are not supported here")
		}
	}
}

func compileGlobs(globs []string, fault func(int, error)) []*regexp.Regexp {
	var out []*regexp.Regexp
	for i, g := range globs {
		re, err := regexp.Compile(`(?s)\A(?:` + globSyntax(g, true) + `)\z`)
		if err != nil {
			fault(i, fmt.Errorf("the pattern %q is not valid", g))
			continue
		}
		out = append(out, re)
	}
	return out
}

// Matches reports whether an event starts the trigger's build. Branches and tags are searched with the trigger's regular expression,
// which is anchored only where it says so (a trigger for "master" also ran on release-please/branches/master:
// googleapis/repo-automation-bots issue 1556).
func (t *Trigger) Matches(e Event) bool {
	if t.Disabled || e.Repo != t.GitHub.Owner+"/"+t.GitHub.Name {
		return false
	}
	var listens, invert bool
	switch e.Kind {
	case PushBranch:
		listens = t.GitHub.Push != nil && t.GitHub.Push.Branch != ""
	case PushTag:
		listens = t.GitHub.Push != nil && t.GitHub.Push.Tag != ""
	case PullRequest:
		listens = t.GitHub.PullRequest != nil
		invert = listens && t.GitHub.PullRequest.InvertRegex
	}
	if e.Kind != PullRequest && listens {
		invert = t.GitHub.Push.InvertRegex
	}
	return listens && t.ref.MatchString(e.Ref) != invert && t.matchesFiles(e.Files)
}

// matchesFiles follows the API's description of ignoredFiles and includedFiles: files that are ignored do not count; of the others one
// must be included, when includedFiles is there at all.
func (t *Trigger) matchesFiles(files []string) bool {
	if len(files) == 0 {
		return true
	}
	matchesOne := func(globs []*regexp.Regexp, file string) bool {
		return slices.ContainsFunc(globs, func(re *regexp.Regexp) bool { return re.MatchString(file) })
	}
	return slices.ContainsFunc(files, func(file string) bool {
		return !matchesOne(t.ignored, file) && (len(t.included) == 0 || matchesOne(t.included, file))
	})
}

// Context is what the service knows about a build besides its file.
type Context struct {
	ProjectID, ProjectNumber, Location string
	BuildID                            string
	ServiceAccountEmail                string

	// Of a triggered build only.
	TriggerName string
	ConfigPath  string // the build file's path in the repository
	Event       Event
}

// BuiltIns are the values of the built-in substitutions, every one of them: one that does not apply is the empty string, BRANCH_NAME on
// a tag as well as TAG_NAME on a branch. A pull request is built on its own (head) branch and adds _HEAD_BRANCH, _BASE_BRANCH,
// _HEAD_REPO_URL and _PR_NUMBER.
func (c Context) BuiltIns() map[string]string {
	v := map[string]string{}
	for k := range builtInKeys {
		v[k] = ""
	}
	v["PROJECT_ID"], v["PROJECT_NUMBER"], v["LOCATION"], v["BUILD_ID"] = c.ProjectID, c.ProjectNumber, c.Location, c.BuildID
	if v["SERVICE_ACCOUNT_EMAIL"] = c.ServiceAccountEmail; c.ServiceAccountEmail != "" {
		v["SERVICE_ACCOUNT"] = "projects/" + c.ProjectID + "/serviceAccounts/" + c.ServiceAccountEmail
	}
	v["TRIGGER_NAME"], v["TRIGGER_BUILD_CONFIG_PATH"] = c.TriggerName, c.ConfigPath

	e := c.Event
	v["COMMIT_SHA"], v["REVISION_ID"], v["SHORT_SHA"] = e.Commit, e.Commit, e.Commit[:min(7, len(e.Commit))]
	v["REPO_FULL_NAME"], v["REPO_NAME"] = e.Repo, e.Repo[strings.LastIndex(e.Repo, "/")+1:]
	switch e.Kind {
	case PushBranch:
		v["BRANCH_NAME"], v["REF_NAME"] = e.Ref, e.Ref
	case PushTag:
		v["TAG_NAME"], v["REF_NAME"] = e.Ref, e.Ref
	case PullRequest:
		v["BRANCH_NAME"], v["REF_NAME"] = e.HeadBranch, e.HeadBranch
		v["_HEAD_BRANCH"], v["_BASE_BRANCH"], v["_HEAD_REPO_URL"] = e.HeadBranch, e.Ref, e.HeadRepoURL
		v["_PR_NUMBER"] = fmt.Sprint(e.Number)
	}
	return v
}
