package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
	"github.com/deepdesk/cloudbuild-steps/internal/github"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// In is what merge-back is told.
type In struct {
	step.Source
	step.Credentials
	SourceDir    string                `env:"SOURCE_DIR" default:"." doc:"folder of the checkout, of which only the origin's address is read"`
	SourceURL    step.GitURL           `env:"SOURCE_URL" type:"url" doc:"https URL of the repository; the checkout's origin when unset"`
	TagPrefix    string                `env:"TAG_PREFIX" doc:"what stands before the version in release tags, such as backend/ in a monorepo"`
	MainBranch   string                `env:"MAIN_BRANCH" default:"main" doc:"the branch that hotfixes must come back to"`
	HotfixBranch release.HotfixPattern `env:"HOTFIX_BRANCH" type:"pattern" default:"^release-(v[0-9]+\\.[0-9]+\\.[0-9]+)(-.*)?$" doc:"regular expression of the hotfix branches' whole names; its first group is the version"`
	OnMissing    string                `env:"ON_MISSING" default:"warn" oneof:"warn,refuse,pull-request" doc:"what to do when the main branch lacks commits"`
}

// Check reports what is wrong across variables.
func (in In) Check(f *step.Faults) {
	if in.OnMissing == "pull-request" && in.GitToken.IsZero() && in.GitHubAppID == "" {
		f.Add("ON_MISSING", "pull-request needs a token: set GIT_TOKEN or GITHUB_APP_*")
	}
}

// Out is what the main branch has and lacks.
type Out struct {
	Merged      bool     `json:"merged" env:"MERGED" doc:"whether the main branch has everything"`
	Missing     []Change `json:"missing" doc:"the commits that the main branch lacks, newest first"`
	PullRequest string   `json:"pull_request" env:"PULL_REQUEST" doc:"address of the pull request that brings them; of the first, where there are several"`
	Branches    []Branch `json:"branches" doc:"the same for each branch or tag that was looked at"`
}

// Change is one commit in the hand-over.
type Change struct {
	Commit  string `json:"commit"`
	Subject string `json:"subject"`
}

// Branch is one branch or tag in the hand-over.
type Branch struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	Commit      string   `json:"commit"`
	Merged      bool     `json:"merged"`
	Missing     []Change `json:"missing"`
	PullRequest string   `json:"pull_request"`
}

// Result is "merged" or how many commits are missing.
func (o Out) Result() string {
	switch {
	case len(o.Missing) > 0:
		return fmt.Sprintf("missing %d", len(o.Missing))
	case o.Merged:
		return "merged"
	}
	return ""
}

var program = step.Program[In, Out]{
	Name:    "merge-back",
	Summary: "find out whether a hotfix is in the main branch, and bring it there",
	Timeout: 10 * time.Minute,
	Run:     run,
	Doc: `A hotfix that is not merged back is undone by the next release. This step says which commits of a hotfix branch or release tag the main
branch lacks, and warns, refuses, or opens the pull request.

| build of | what is looked at |
|---|---|
| a final tag ` + "`v1.42.2`" + ` | that tag; a release of the main branch itself is merged by its nature, a candidate is left alone |
| a hotfix branch ` + "`release-v1.42.2`" + ` | that branch as it is on the server |
| ` + "`main`" + `, or no branch and no tag | all hotfix branches: run that weekly |

A commit counts as merged when it is an ancestor of the main branch, or when the main branch has, since the two parted, a commit that makes
the same change (` + "`git patch-id`" + `): cherry-picked, rebased, or the whole branch in one squash merge. Merges themselves and commits that
change nothing do not count. Not recognised are commits whose conflicts were resolved while they were cherry-picked, rebased or squashed: the
change is another one then. With ` + "`ON_MISSING=pull-request`" + `, a branch whose pull request was merged as it stands is recognised all the
same. A change that was reverted on the main branch later counts as merged.

Commits are fetched into memory from the server, and files only where they decide; the checkout may be shallow and is never used.

` + "`pull-request`" + ` opens one pull request for each branch, and finds it again on the next run. One that somebody closed without merging it
is not opened again until the branch moves. The token needs the permissions ` + "`contents: read`" + ` and ` + "`pull_requests: write`" + `. The head
of a tag's pull request is the hotfix branch of its version, which must still exist.

` + "```yaml" + `
- id: merge-back
  name: $_STEPS/merge-back
  env: [ON_MISSING=pull-request]
  secretEnv: [GIT_TOKEN]
` + "```",
}

func run(ctx context.Context, b *step.Build, in In) (Out, error) {
	tokens := github.App(in.GitHubApp).Tokens(in.permissions())
	upstream, err := gitrepo.OpenUpstream(ctx, gitrepo.HistoryOptions{
		Dir:    in.SourceDir,
		Remote: gitrepo.Remote{URL: in.SourceURL.String(), Username: in.GitUsername, Token: in.GitToken, Renew: tokens},
	})
	if none, ok := errors.AsType[*gitrepo.HistoryError](err); ok && none.Config {
		return Out{}, step.Misconfigured(none.Cure, "%w", err)
	}
	if err != nil {
		return Out{}, err
	}
	heads, skipped, err := in.heads(b, upstream)
	if err != nil {
		return Out{}, err
	}
	if len(heads) == 0 {
		return Out{Missing: []Change{}, Branches: []Branch{}}, step.Nothing("%s", skipped)
	}
	base, err := upstream.Branch(in.MainBranch)
	if err != nil {
		return Out{}, step.WithFix(err, "check MAIN_BRANCH and SOURCE_URL")
	}
	ids := make([]commits.ID, len(heads))
	for i, h := range heads {
		ids[i] = h.commit
	}
	lacks, notices, err := upstream.Lacks(ctx, base, ids)
	if err != nil {
		return Out{}, err
	}
	for _, notice := range notices {
		b.Log.Warn(notice)
	}
	var failed error
	if in.OnMissing == "pull-request" {
		token := github.Fixed(in.GitToken)
		if tokens != nil {
			token = func(ctx context.Context) (secret.Text, error) { return tokens(ctx, upstream.URL) }
		}
		failed = in.pullRequests(ctx, b, upstream.URL, token, heads, lacks)
	}
	out := in.report(b, heads, lacks)
	switch {
	case failed != nil:
		return out, step.WithReport(failed)
	case !out.Merged && in.OnMissing == "refuse":
		return out, step.Refuse("merge the branch into "+in.MainBranch+", or set ON_MISSING=pull-request to have a pull request opened",
			"%s lacks %s", in.MainBranch, count(len(out.Missing), "commit"))
	}
	return out, nil
}

// report sums up, and tells the reader of the log.
func (in In) report(b *step.Build, heads []head, lacks []gitrepo.Lack) Out {
	out := Out{Merged: true, Missing: []Change{}, Branches: []Branch{}}
	seen := map[commits.ID]bool{}
	for i, h := range heads {
		branch := Branch{Name: h.name(), Version: h.version.String(), Commit: h.commit.String(), Missing: []Change{}, PullRequest: h.pull}
		for _, c := range lacks[i].Commits {
			change := Change{Commit: c.ID.String(), Subject: subject(c.Message)}
			branch.Missing = append(branch.Missing, change)
			if !seen[c.ID] {
				seen[c.ID] = true
				out.Missing = append(out.Missing, change)
			}
		}
		branch.Merged = len(branch.Missing) == 0
		out.Merged = out.Merged && branch.Merged
		if out.PullRequest == "" {
			out.PullRequest = branch.PullRequest
		}
		out.Branches = append(out.Branches, branch)
		in.say(b, branch, lacks[i])
	}
	return out
}

// say writes what became of one branch.
func (in In) say(b *step.Build, branch Branch, lack gitrepo.Lack) {
	const shown = 20
	if branch.Merged {
		b.Log.Info(in.MainBranch+" has all of "+branch.Name, "elsewhere", lack.Elsewhere)
		return
	}
	for _, c := range branch.Missing[:min(shown, len(branch.Missing))] {
		b.Log.Info(fmt.Sprintf("missing %.8s %s", c.Commit, c.Subject))
	}
	advice := "merge it, or set ON_MISSING=pull-request"
	if branch.PullRequest != "" {
		advice = "merge " + branch.PullRequest
	}
	b.Log.Warn(fmt.Sprintf("%s lacks %s of %s", in.MainBranch, count(len(branch.Missing), "commit"), branch.Name), "advice", advice)
}

// subject is the first line of a message again, cut: it can be a megabyte long.
func subject(m commits.Message) string {
	s := m.Subject
	if m.Conventional() {
		mark := ""
		if m.Scope != "" {
			mark = "(" + m.Scope + ")"
		}
		if m.Breaking {
			mark += "!"
		}
		s = m.Type + mark + ": " + s
	}
	const limit = 1000
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
