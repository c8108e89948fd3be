package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// In is what compute-version is told.
type In struct {
	step.Source
	step.Credentials
	SourceDir      string                `env:"SOURCE_DIR" default:"." doc:"folder of the checkout; it is only read"`
	SourceURL      step.GitURL           `env:"SOURCE_URL" type:"url" doc:"https URL to fetch commits and tags from when the checkout lacks them; the checkout's origin when unset"`
	TagPrefix      string                `env:"TAG_PREFIX" doc:"what stands before the version in release tags, such as backend/ in a monorepo"`
	Paths          []string              `env:"PATHS" doc:"only commits that change something in these folders or files count, from the root of the repository: backend, go.mod"`
	MainBranch     string                `env:"MAIN_BRANCH" default:"main" doc:"the branch whose builds have tags that staging selects"`
	HotfixBranch   release.HotfixPattern `env:"HOTFIX_BRANCH" type:"pattern" default:"^release-(v[0-9]+\\.[0-9]+\\.[0-9]+)(-.*)?$" doc:"regular expression of the hotfix branches' whole names; its first group is the version"`
	AllowFeatures  bool                  `env:"ALLOW_FEATURES" default:"false" doc:"let a hotfix branch hold features"`
	Prerelease     string                `env:"PRERELEASE" doc:"rc asks for the next candidate (v2.0.0-rc.1) and not for a final release"`
	InitialVersion release.Version       `env:"INITIAL_VERSION" default:"v0.1.0" doc:"the first release of a history that has none"`
	MinorTypes     []string              `env:"MINOR_TYPES" default:"feat" doc:"types of commits that raise the minor number"`
	PatchTypes     []string              `env:"PATCH_TYPES" default:"fix,chore,perf,revert" doc:"types of commits that raise the patch number; other types raise nothing"`
	MinBump        release.Bump          `env:"MIN_BUMP" default:"none" oneof:"none,patch" doc:"what any commit raises at least"`
	ReleaseAs      bool                  `env:"RELEASE_AS" default:"false" doc:"let the footer Release-As: 2.0.0 of a commit ask for the version"`
	Reverts        bool                  `env:"REVERTS" default:"false" doc:"let a commit that takes another one back cancel it, so that both raise nothing"`
	ZeroMajor      bool                  `env:"ZERO_MAJOR" default:"false" doc:"keep breaking changes minor while the version is below v1.0.0"`
	Timestamp      string                `env:"TIMESTAMP" default:"commit" oneof:"commit,build" doc:"what the time in the build tag is: the commit's, corrected for skewed clocks, or the clock of this build"`
	SHALength      int                   `env:"SHA_LENGTH" default:"12" doc:"digits of the commit id in the build tag, 7 to 40"`
	PRNumber       int                   `env:"PR_NUMBER" default:"0" doc:"number of the pull request that is built; Cloud Build sets _PR_NUMBER, _HEAD_BRANCH and _BASE_BRANCH"`
	HeadBranch     string                `env:"HEAD_BRANCH" doc:"branch of the pull request"`
	BaseBranch     string                `env:"BASE_BRANCH" doc:"branch that the pull request wants to be merged into; MAIN_BRANCH when unset"`
	PRTitle        string                `env:"PR_TITLE" doc:"title of the pull request, which becomes the message when it is squashed; Cloud Build does not set it"`
	Lint           string                `env:"LINT" default:"warn" oneof:"warn,title,refuse" doc:"what to do on a pull request about messages that are no conventional commits: warn, refuse those of the title, or refuse those of the commits, too"`
	OnNothing      string                `env:"ON_NOTHING" default:"ok" oneof:"ok,refuse" doc:"what to do when there is nothing to release"`
}

// Check reports what is wrong with single texts and across variables.
func (in In) Check(f *step.Faults) {
	if strings.Trim(in.TagPrefix, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-") != "" {
		f.Add("TAG_PREFIX", "%q cannot begin the name of a tag: want letters, digits and ._/-", in.TagPrefix)
	}
	if in.TagPrefix == "v" {
		f.Add("TAG_PREFIX", `"v" is part of the version: leave it out, unless tags are called vv1.2.3`)
	}
	if in.Prerelease != "" {
		f.Reject("PRERELEASE", "is wrong: %v", release.CheckSeries(in.Prerelease))
	}
	if in.InitialVersion.IsPrerelease() {
		f.Add("INITIAL_VERSION", "%s is a candidate: want a final release", in.InitialVersion)
	}
	f.Reject("MINOR_TYPES", "is wrong: %v", commits.CheckTypes(in.MinorTypes))
	f.Reject("PATCH_TYPES", "is wrong: %v", commits.CheckTypes(in.PatchTypes))
	if in.SHALength < 7 || in.SHALength > 40 {
		f.Add("SHA_LENGTH", "%d is out of range: want 7 to 40", in.SHALength)
	}
	for _, path := range in.Paths {
		if clean := cleanPath(path); !fs.ValidPath(clean) || clean == "." || strings.ContainsAny(clean, "*?[\\") {
			f.Add("PATHS", "%q is not a folder or file below the root of the repository: write it without wildcards, such as services/backend", path)
		}
	}
	if in.PRNumber < 0 {
		f.Add("PR_NUMBER", "%d is not the number of a pull request", in.PRNumber)
	}
	if in.PRNumber > 0 && in.TagName != "" {
		f.Add("PR_NUMBER", "conflicts with TAG_NAME: a build is of a pull request or of a tag, never of both")
	}
	variable, branch := in.pinning()
	if branch != in.MainBranch {
		if _, _, err := in.HotfixBranch.Version(branch); err != nil {
			f.Add(variable, "is wrong: %v", err)
		}
	}
}

// cleanPath takes away what people write round a path: ./backend/ and backend/** are backend.
func cleanPath(path string) string {
	path = strings.TrimPrefix(strings.TrimSpace(path), "./")
	return strings.TrimSuffix(strings.TrimSuffix(path, "/**"), "/")
}

// Out is what the history says.
type Out struct {
	Version   release.Version `json:"version" env:"VERSION" doc:"the version of this commit: the tag that was pushed, or what comes next; empty when there is nothing to release"`
	Release   release.Version `json:"release" doc:"on a tag build, the version in the tag without TAG_PREFIX, which later steps release; empty on a branch"`
	Previous  release.Version `json:"previous" env:"PREVIOUS" doc:"the newest final release in the history; empty when there is none"`
	Bump      release.Bump    `json:"bump" env:"BUMP" doc:"which number is raised from previous to version: major, minor, patch or none"`
	Channel   release.Channel `json:"channel" env:"CHANNEL" doc:"where this build goes: staging for a branch, uat for a candidate's tag, production for a final one's"`
	BuildTag  string          `json:"build_tag" env:"BUILD_TAG" doc:"image tag of this commit's build, main-<commit>-<unix time>; on a tag build the one that the main branch gives the commit"`
	Commit    string          `json:"commit" doc:"the commit that is built"`
	Branch    string          `json:"branch" doc:"the branch that is built; empty on a tag build"`
	Timestamp int64           `json:"timestamp" doc:"the time in the build tag, in seconds since 1970"`
	Commits   []Change        `json:"commits" doc:"the commits since previous, newest first; of those that PATHS selects"`
	DecidedBy []string        `json:"decided_by" doc:"the commits that raise as much as bump says"`
	Warnings  []string        `json:"warnings" doc:"what a reader should know all the same"`
	Notes     string          `json:"notes" doc:"file beside this one with release notes in Markdown"`
}

// Change is one commit in the hand-over.
type Change struct {
	Commit   string `json:"commit"`
	Type     string `json:"type"`
	Scope    string `json:"scope"`
	Breaking bool   `json:"breaking"`
	Subject  string `json:"subject"`
	Reverted bool   `json:"reverted,omitempty"`
}

// Result is the version, or nothing.
func (o Out) Result() string { return o.Version.String() }

var program = step.Program[In, Out]{
	Name:    "compute-version",
	Summary: "find the next version, the build tag and the release notes in the history",
	Timeout: 5 * time.Minute,
	Run:     run,
	Doc: `Commits since the newest release in the history are read as Conventional Commits 1.0.0. One bump is made for all of them, the
largest: breaking changes raise the major number, ` + "`feat`" + ` the minor, ` + "`fix`, `chore`, `perf` and `revert`" + ` the patch; other types release nothing by themselves.
A version that exists anywhere, on whatever branch, is never given again.

Cloud Build checks out one commit without history and without tags, and sometimes no repository at all. What is missing is fetched into
memory (commits and the list of tags, no files); the checkout is never written to. A history that cannot be had whole is an error.

| build of | version | build tag |
|---|---|---|
| ` + "`main`" + ` | the next one, or the next candidate with ` + "`PRERELEASE=rc`" + ` | ` + "`main-4f2a91c03b7d-1764000000`" + ` |
| ` + "`release-v1.42.2`" + ` | that of its name, when it is free and the commits only correct | ` + "`release-v1.42.2-4f2a91c03b7d-1764000000`" + ` |
| another branch | as on ` + "`main`" + ` | the branch's name in front; it never begins with ` + "`main-`" + ` and is never a version |
| a pull request | what comes next when it is merged | ` + "`pr-7-4f2a91c03b7d-1764000000`" + ` |
| a tag ` + "`v2.0.0`" + ` | the tag, when its history allows it | that of ` + "`main`" + `, under which the image to promote is found |

The time in a build tag is the commit's, raised where clocks were wrong so that it grows with every commit of a branch. A commit built again
has the same tag.

On a pull request (` + "`_PR_NUMBER`, `_HEAD_BRANCH`, `_BASE_BRANCH`" + `) the messages of its commits are checked, and its title where ` + "`PR_TITLE`" + ` gives it.
What is no conventional commit is a warning, and with ` + "`LINT=refuse`" + ` (or ` + "`LINT=title`" + `, where pull requests are squashed) it is refused.

In a monorepo each component has tags of its own and counts the commits that touch it. Several fit into one build when each leaves its results
in a place of its own:

` + "```yaml" + `
- id: version-backend
  name: $_STEPS/compute-version
  env: [TAG_PREFIX=backend/, 'PATHS=backend,go.mod', HANDOVER_DIR=/workspace/.release/backend]
  secretEnv: [GIT_TOKEN]
- id: version-frontend
  name: $_STEPS/compute-version
  env: [TAG_PREFIX=frontend/, PATHS=frontend, HANDOVER_DIR=/workspace/.release/frontend]
  secretEnv: [GIT_TOKEN]
` + "```" + `

The later steps of a component are given the same HANDOVER_DIR. On its tag, ` + "`backend/v1.0.0`" + `, they release what this step read in it, ` + "`v1.0.0`" + `.

Otherwise:

` + "```yaml" + `
- id: version
  name: $_STEPS/compute-version
  secretEnv: [GIT_TOKEN]
` + "```",
}

func run(ctx context.Context, b *step.Build, in In) (_ Out, err error) {
	ev, err := in.event()
	if err != nil {
		return Out{}, err
	}
	history, err := gitrepo.ReadHistory(ctx, in.wanted(ev))
	if none, ok := errors.AsType[*gitrepo.HistoryError](err); ok && none.Config {
		if !ev.tag.IsZero() { // the version of a tag is known without any history
			b.Log.Warn("the tag was not checked against its history: "+err.Error(), "advice", none.Cure)
			return Out{Version: ev.tag, Release: ev.tag, Channel: ev.tag.Channel(), Commit: in.CommitSHA, Commits: []Change{}, DecidedBy: []string{}, Warnings: []string{}}, nil
		}
		return Out{}, step.Misconfigured(none.Cure, "the history cannot be read: %w", err)
	}
	if err != nil {
		return Out{}, err
	}
	defer func() { err = errors.Join(err, history.Close()) }()
	for _, notice := range history.Notices {
		b.Log.Info(notice)
	}
	past, err := in.survey(history, ev)
	if err != nil {
		return Out{}, err
	}
	answer, refusal := in.decide(ev, past)
	faults, err := in.lint(history, ev)
	if err != nil {
		return Out{}, err
	}

	out := Out{
		Version:   answer.Version,
		Release:   ev.tag,
		Previous:  past.lineage.Base.Version,
		Bump:      in.bump(past, answer.Version),
		Channel:   ev.tag.Channel(),
		Commit:    history.Head.String(),
		Branch:    in.BranchName,
		Timestamp: history.Graph.Time(history.Head),
		Commits:   changes(past.since),
		DecidedBy: deciding(in.rules(), past.since),
		Warnings:  slices.Concat([]string{}, answer.Warnings, in.unread(ev, past), in.lintWarnings(faults, ev, past)),
	}
	if in.Timestamp == "build" {
		out.Timestamp = time.Now().Unix()
	}
	if out.BuildTag, err = in.buildTag(ev, out); err != nil {
		return Out{}, err
	}
	for _, warning := range out.Warnings {
		b.Log.Warn(warning)
	}
	if out.BuildTag == "" && ev.tag.IsZero() {
		b.Log.Warn("BRANCH_NAME is not set, so there is no build tag")
	}
	if refused, ok := errors.AsType[*release.Refusal](refusal); ok {
		return out, step.Refuse(refused.Cure, "%w", refused)
	}
	if refusal != nil {
		return out, refusal
	}
	path, err := b.WriteFile("compute-version.notes.md", []byte(notes(out, past, in.rules())))
	if err != nil {
		return out, err
	}
	if path != "" {
		out.Notes = filepath.Base(path)
	}
	if err := in.refuseFaults(faults); err != nil {
		return out, err
	}
	if out.Version.IsZero() && in.OnNothing == "refuse" {
		return out, step.Refuse("set ON_NOTHING=ok if that is intended", "there is nothing to release: %s", answer.Reason)
	}
	if out.Version.IsZero() {
		return out, step.Nothing("%s", answer.Reason)
	}
	b.Log.Info("version "+out.Version.String(), "previous", out.Previous, "bump", out.Bump, "commits", len(out.Commits), "build_tag", out.BuildTag)
	return out, nil
}
