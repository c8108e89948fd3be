package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
	"github.com/deepdesk/cloudbuild-steps/internal/github"
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
	MainBranch     string                `env:"MAIN_BRANCH" default:"main" doc:"the branch whose builds have tags that staging selects"`
	HotfixBranch   release.HotfixPattern `env:"HOTFIX_BRANCH" type:"pattern" default:"^release-(v[0-9]+\\.[0-9]+\\.[0-9]+)(-.*)?$" doc:"regular expression of the hotfix branches' whole names; its first group is the version"`
	AllowFeatures  bool                  `env:"ALLOW_FEATURES" default:"false" doc:"let a hotfix branch hold features"`
	Prerelease     string                `env:"PRERELEASE" doc:"rc asks for the next candidate (v2.0.0-rc.1) and not for a final release"`
	InitialVersion release.Version       `env:"INITIAL_VERSION" default:"v0.1.0" doc:"the first release of a history that has none"`
	MinorTypes     []string              `env:"MINOR_TYPES" default:"feat" doc:"types of commits that raise the minor number"`
	PatchTypes     []string              `env:"PATCH_TYPES" default:"fix,chore,perf,revert" doc:"types of commits that raise the patch number; other types raise nothing"`
	MinBump        release.Bump          `env:"MIN_BUMP" default:"none" oneof:"none,patch" doc:"what any commit raises at least"`
	ZeroMajor      bool                  `env:"ZERO_MAJOR" default:"false" doc:"keep breaking changes minor while the version is below v1.0.0"`
	Timestamp      string                `env:"TIMESTAMP" default:"commit" oneof:"commit,build" doc:"what the time in the build tag is: the commit's, corrected for skewed clocks, or the clock of this build"`
	SHALength      int                   `env:"SHA_LENGTH" default:"12" doc:"digits of the commit id in the build tag, 7 to 40"`
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
		if err := release.CheckSeries(in.Prerelease); err != nil {
			f.Add("PRERELEASE", "is wrong: %v", err)
		}
	}
	if in.InitialVersion.IsPrerelease() {
		f.Add("INITIAL_VERSION", "%s is a candidate: want a final release", in.InitialVersion)
	}
	if err := commits.CheckTypes(in.MinorTypes); err != nil {
		f.Add("MINOR_TYPES", "is wrong: %v", err)
	}
	if err := commits.CheckTypes(in.PatchTypes); err != nil {
		f.Add("PATCH_TYPES", "is wrong: %v", err)
	}
	if in.SHALength < 7 || in.SHALength > 40 {
		f.Add("SHA_LENGTH", "%d is out of range: want 7 to 40", in.SHALength)
	}
	if in.BranchName != in.MainBranch {
		if _, _, err := in.HotfixBranch.Version(in.BranchName); err != nil {
			f.Add("BRANCH_NAME", "is wrong: %v", err)
		}
	}
}

// Out is what the history says.
type Out struct {
	Version   release.Version `json:"version" env:"VERSION" doc:"the version of this commit: the tag that was pushed, or what comes next; empty when there is nothing to release"`
	Previous  release.Version `json:"previous" env:"PREVIOUS" doc:"the newest final release in the history; empty when there is none"`
	Bump      release.Bump    `json:"bump" env:"BUMP" doc:"which number is raised from previous to version: major, minor, patch or none"`
	Channel   release.Channel `json:"channel" env:"CHANNEL" doc:"where this build goes: staging for a branch, uat for a candidate's tag, production for a final one's"`
	BuildTag  string          `json:"build_tag" env:"BUILD_TAG" doc:"image tag of this commit's build, main-<commit>-<unix time>; on a tag build the one that the main branch gives the commit"`
	Commit    string          `json:"commit" doc:"the commit that is built"`
	Branch    string          `json:"branch" doc:"the branch that is built; empty on a tag build"`
	Timestamp int64           `json:"timestamp" doc:"the time in the build tag, in seconds since 1970"`
	Commits   []Change        `json:"commits" doc:"the commits since previous, newest first"`
	Notes     string          `json:"notes" doc:"file beside this one with release notes in Markdown"`
}

// Change is one commit in the hand-over.
type Change struct {
	Commit   string `json:"commit"`
	Type     string `json:"type"`
	Scope    string `json:"scope"`
	Breaking bool   `json:"breaking"`
	Subject  string `json:"subject"`
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
| a tag ` + "`v2.0.0`" + ` | the tag, when its history allows it | that of ` + "`main`" + `, under which the image to promote is found |

The time in a build tag is the commit's, raised where clocks were wrong so that it grows with every commit of a branch. A commit built again
has the same tag.

` + "```yaml" + `
- id: version
  name: $_STEPS/compute-version
  secretEnv: [GIT_TOKEN]
` + "```",
}

func run(ctx context.Context, b *step.Build, in In) (Out, error) {
	ev, err := in.event()
	if err != nil {
		return Out{}, err
	}
	history, err := gitrepo.ReadHistory(ctx, gitrepo.HistoryOptions{
		Dir: in.SourceDir,
		Remote: gitrepo.Remote{
			URL: in.SourceURL.String(), Username: in.GitUsername, Token: in.GitToken,
			Renew: github.App(in.GitHubApp).Tokens(github.ReadContents),
		},
		Commit: in.CommitSHA, Branch: in.BranchName, Tag: in.TagName,
		Match: in.isRelease,
	})
	if none, ok := errors.AsType[*gitrepo.HistoryError](err); ok && none.Config {
		if !ev.tag.IsZero() { // the version of a tag is known without any history
			b.Log.Warn("the tag was not checked against its history: "+err.Error(), "advice", none.Cure)
			return Out{Version: ev.tag, Channel: ev.tag.Channel(), Commit: in.CommitSHA, Commits: []Change{}}, nil
		}
		return Out{}, step.Misconfigured(none.Cure, "the history cannot be read: %w", err)
	}
	if err != nil {
		return Out{}, err
	}
	for _, notice := range history.Notices {
		b.Log.Info(notice)
	}
	past, err := in.survey(history, ev)
	if err != nil {
		return Out{}, err
	}
	answer, refusal := in.decide(ev, past)
	for _, warning := range answer.Warnings {
		b.Log.Warn(warning)
	}

	out := Out{
		Version:   answer.Version,
		Previous:  past.lineage.Base.Version,
		Bump:      in.bump(past, answer.Version),
		Channel:   ev.tag.Channel(),
		Commit:    history.Head.String(),
		Branch:    in.BranchName,
		Timestamp: history.Graph.Time(history.Head),
		Commits:   changes(past.since),
	}
	if in.Timestamp == "build" {
		out.Timestamp = time.Now().Unix()
	}
	if out.BuildTag, err = in.buildTag(ev, out); err != nil {
		return Out{}, err
	}
	if out.BuildTag == "" && ev.tag.IsZero() {
		b.Log.Warn("BRANCH_NAME is not set, so there is no build tag")
	}
	if refused, ok := errors.AsType[*release.Refusal](refusal); ok {
		return out, step.Refuse(refused.Cure, "%w", refused)
	}
	path, err := b.WriteFile("compute-version.notes.md", []byte(notes(out, past, in.rules())))
	if err != nil {
		return out, err
	}
	if path != "" {
		out.Notes = filepath.Base(path)
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
