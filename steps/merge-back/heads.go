package main

import (
	"fmt"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// head is a branch or tag that must be in the main branch.
type head struct {
	tag      string          // empty for a branch
	branches []string        // the branch itself, or the hotfix branches of the tag's version
	version  release.Version // zero when the name says none
	commit   commits.ID
	pull     string // address of the pull request from it
}

func (h head) name() string {
	if h.tag != "" {
		return h.tag
	}
	return h.branches[0]
}

// heads decides what is looked at. Which kind of build it is, is read from which variable is set, never from how a name looks. Without
// heads there is a reason.
func (in In) heads(b *step.Build, upstream *gitrepo.Upstream) (heads []head, reason string, err error) {
	switch {
	case in.TagName != "":
		h := head{tag: in.TagName}
		if name, ok := strings.CutPrefix(in.TagName, in.TagPrefix); ok {
			if v, err := release.Parse(name); err == nil {
				h.version = v
			}
		}
		if h.version.IsPrerelease() {
			return nil, fmt.Sprintf("%s is a candidate: its branch is merged back after the final release", h.version), nil
		}
		if h.commit, err = upstream.Tag(in.TagName); err != nil {
			return nil, "", err
		}
		for _, name := range upstream.Branches() {
			if v, ok, err := in.HotfixBranch.Version(name); err == nil && ok && v == h.version {
				h.branches = append(h.branches, name)
			}
		}
		return []head{h}, "", nil
	case in.BranchName == "" || in.BranchName == in.MainBranch:
		for _, name := range upstream.Branches() {
			h, ok, err := in.branch(upstream, name)
			switch {
			case err != nil:
				b.Log.Warn("left out: " + err.Error())
			case ok:
				heads = append(heads, h)
			}
		}
		return heads, "no branch matches HOTFIX_BRANCH", nil
	}
	h, ok, err := in.branch(upstream, in.BranchName)
	if err != nil || !ok {
		return nil, fmt.Sprintf("branch %s is no hotfix branch", in.BranchName), err
	}
	return []head{h}, "", nil
}

// branch returns a hotfix branch, and false for every other.
func (in In) branch(upstream *gitrepo.Upstream, name string) (head, bool, error) {
	v, ok, err := in.HotfixBranch.Version(name)
	if err != nil || !ok {
		return head{}, false, err
	}
	id, err := upstream.Branch(name)
	return head{branches: []string{name}, version: v, commit: id}, true, err
}
