package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
	"github.com/deepdesk/cloudbuild-steps/internal/github"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// maxBody bounds the list in a pull request's text, in bytes. GitHub takes 65,536 characters.
const maxBody = 50_000

// permissions are what the token of a GitHub App may do.
func (in In) permissions() github.Permissions {
	if in.OnMissing == "pull-request" {
		return github.PullRequests
	}
	return github.ReadContents
}

// pullRequests sees to it that there is a pull request for each head that is not merged. A pull request that was merged as the branch still
// stands settles what its commits cannot tell, such as a squash with resolved conflicts. The failure of one does not keep the others back.
func (in In) pullRequests(ctx context.Context, b *step.Build, url string, token github.Token, heads []head, lacks []gitrepo.Lack) error {
	pulls, err := github.OpenPulls(in.GitHubAPI, token, url)
	if err != nil {
		return step.Misconfigured("set SOURCE_URL to a repository on GitHub, or ON_MISSING to warn", "%w", err)
	}
	var failed []error
	for i := range heads {
		if len(lacks[i].Commits) > 0 {
			failed = append(failed, in.pullRequest(ctx, b, pulls, &heads[i], &lacks[i]))
		}
	}
	return errors.Join(failed...)
}

func (in In) pullRequest(ctx context.Context, b *step.Build, pulls *github.Pulls, h *head, lack *gitrepo.Lack) error {
	if len(h.branches) != 1 {
		return step.WithFix(
			fmt.Errorf("opening a pull request for %s: there are %d hotfix branches of that version, and a pull request needs one", h.name(), len(h.branches)),
			"push the commit of the tag to a branch such as release-"+h.version.String()+" and run this step again, or delete the branches that are not needed")
	}
	branch := h.branches[0]
	list, err := pulls.Between(ctx, branch, in.MainBranch)
	if err != nil {
		return err
	}
	for _, pull := range list {
		if pull.Open {
			h.pull = pull.URL
			b.Log.Info("a pull request is open already", "address", pull.URL)
			return nil
		}
	}
	for _, pull := range list {
		switch {
		case pull.Head != h.commit.String():
		case pull.Merged:
			h.pull = pull.URL
			b.Log.Info("a pull request brought these commits in another form", "address", pull.URL)
			lack.Elsewhere, lack.Commits = lack.Elsewhere+len(lack.Commits), nil
			return nil
		default:
			h.pull = pull.URL
			b.Log.Warn("a pull request for these commits was closed without merging it, and is not opened again", "address", pull.URL)
			return nil
		}
	}
	title, body := in.text(*h, *lack)
	if b.DryRun {
		b.Log.Info("would open a pull request", "from", branch, "into", in.MainBranch, "title", title)
		return nil
	}
	pull, err := pulls.Open(ctx, branch, in.MainBranch, title, body)
	if err != nil {
		return err
	}
	h.pull = pull.URL
	b.Log.Info("opened a pull request", "address", pull.URL)
	return nil
}

// text is what the pull request says. The title holds nothing from outside but a version, which has no room for a mention. A squash merge
// makes a commit of both, so that neither may close an issue or call a person.
func (in In) text(h head, lack gitrepo.Lack) (title, body string) {
	title = fmt.Sprintf("chore: merge hotfix %s back into %s", h.version, in.MainBranch)
	body = fmt.Sprintf("The hotfix branch %s has %s that %s lacks. The next release would undo what is not merged back.\n\n%s\n"+
		"A merge commit keeps the commits as they are. Conflicts are best resolved on a branch of their own that both are merged into.\n",
		commits.Plain(h.branches[0]), count(len(lack.Commits), "commit"), commits.Plain(in.MainBranch), commits.List(lack.Commits, maxBody))
	return title, body
}
