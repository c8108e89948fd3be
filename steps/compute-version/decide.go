package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
	"github.com/deepdesk/cloudbuild-steps/internal/github"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// event says what is built: a tag, a pull request, a hotfix branch, the main branch, or another one.
type event struct {
	tag    release.Version // the version of the tag; zero on a branch
	pinned release.Version // the version that a hotfix branch is named for, or that a pull request wants to be merged into
	base   string          // the branch that a pull request wants to be merged into; empty when none is built
	trunk  bool            // the main branch itself; never a pull request, whatever its branch is called
}

// event reads the kind of build from which variable is set, never from how a name looks: a branch may be called like a tag, and the branch of
// a pull request may be called main.
func (in In) event() (event, error) {
	if in.TagName != "" {
		name, ok := strings.CutPrefix(in.TagName, in.TagPrefix)
		if !ok {
			return event{}, step.Refuse("let the trigger select the tags of this component only, or correct TAG_PREFIX",
				"tag %q does not begin with TAG_PREFIX %q", in.TagName, in.TagPrefix)
		}
		v, err := release.Parse(name)
		if err != nil {
			return event{}, step.Refuse("delete the tag and publish the release again under a tag such as "+in.TagPrefix+"v1.42.0", "not a release: %w", err)
		}
		return event{tag: v}, nil
	}
	var ev event
	_, branch := in.pinning()
	if in.PRNumber > 0 {
		ev.base = branch
	}
	if branch == in.MainBranch {
		ev.trunk = in.PRNumber == 0
		return ev, nil
	}
	var err error
	ev.pinned, _, err = in.HotfixBranch.Version(branch)
	return ev, err
}

// pinning returns the branch whose name may pin the version, and the variable that it comes from.
func (in In) pinning() (variable, branch string) {
	if in.PRNumber > 0 {
		return "BASE_BRANCH", cmp.Or(in.BaseBranch, in.MainBranch)
	}
	return "BRANCH_NAME", in.BranchName
}

// wanted says which history is needed.
func (in In) wanted(ev event) gitrepo.HistoryOptions {
	o := gitrepo.HistoryOptions{
		Dir: in.SourceDir,
		Remote: gitrepo.Remote{
			URL: in.SourceURL.String(), Username: in.GitUsername, Token: in.GitToken,
			Renew: github.App(in.GitHubApp).Tokens(github.ReadContents),
		},
		Commit: in.CommitSHA, Branch: in.BranchName, Tag: in.TagName,
		Base:    ev.base,
		Folders: len(in.Paths) > 0,
		Match:   in.isRelease,
	}
	if ev.base != "" {
		o.Branch = cmp.Or(in.HeadBranch, in.BranchName)
	}
	return o
}

// isRelease reports whether a tag names a release of this series.
func (in In) isRelease(tag string) bool {
	name, ok := strings.CutPrefix(tag, in.TagPrefix)
	if !ok {
		return false
	}
	_, err := release.Parse(name)
	return err == nil
}

func (in In) rules() commits.Rules {
	return commits.Rules{Minor: in.MinorTypes, Patch: in.PatchTypes, Min: in.MinBump}
}

// past is what the history says about the commit that is built.
type past struct {
	lineage release.Lineage
	place   release.Place    // where the tag is that is built
	since   []commits.Commit // since the base, newest first
	fresh   []commits.Commit // those of them that no candidate of the asked series holds
	own     []commits.Commit // those of them that are the pull request's
}

// survey finds the releases around the commit, and the commits since.
func (in In) survey(h *gitrepo.History, ev event) (past, error) {
	place := func(v release.Version) (release.Place, error) {
		switch id, ok, err := h.Target(in.TagPrefix + v.String()); {
		case err != nil || !ok || !h.Graph.Has(id):
			return release.Elsewhere, err
		case id == h.Head:
			return release.Here, nil
		default:
			return release.Behind, nil
		}
	}
	before := place
	if !ev.tag.IsZero() { // two tags on one commit are not each other's past
		before = func(v release.Version) (release.Place, error) {
			at, err := place(v)
			if at == release.Here {
				at = release.Elsewhere
			}
			return at, err
		}
	}
	all, err := in.versions(h.Tags)
	if err != nil {
		return past{}, err
	}
	var p past
	if p.lineage, err = release.Trace(all, before); err != nil {
		return past{}, err
	}
	if p.place, err = place(ev.tag); err != nil {
		return past{}, err
	}
	base, err := in.heldBy(h, p.lineage.Base)
	if err != nil {
		return past{}, err
	}
	candidate, err := in.heldBy(h, p.lineage.Latest(in.Prerelease))
	if err != nil {
		return past{}, err
	}
	ids := h.Graph.Range(h.Head, base...)
	if ev.base != "" { // what comes next is what comes after the merge
		ids = append(h.Graph.Range(h.Head, append(base, h.Base)...), h.Graph.Range(h.Base, base...)...)
	}
	if len(in.Paths) > 0 {
		paths := make([]string, len(in.Paths))
		for i, path := range in.Paths {
			paths[i] = cleanPath(path)
		}
		if ids, err = h.Touching(ids, paths); err != nil {
			return past{}, err
		}
	}
	if p.since, err = read(h, ids); err != nil {
		return past{}, err
	}
	held, trunk := h.Graph.Ancestors(candidate...), h.Graph.Ancestors(h.Base)
	for _, c := range p.since {
		if !held.Has(c.ID) {
			p.fresh = append(p.fresh, c)
		}
		if ev.base != "" && !trunk.Has(c.ID) {
			p.own = append(p.own, c)
		}
	}
	if in.Reverts { // a candidate holds what was taken back after it, so for the next one that is a change
		p.since, p.fresh, p.own = commits.Cancel(p.since), commits.Cancel(p.fresh), commits.Cancel(p.own)
	}
	return p, nil
}

func (in In) versions(tags []string) ([]release.Version, error) {
	var list []release.Version
	for _, tag := range tags {
		v, err := release.Parse(strings.TrimPrefix(tag, in.TagPrefix))
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// heldBy returns the commit of a tag, and none for no tag.
func (in In) heldBy(h *gitrepo.History, tag release.Tag) ([]commits.ID, error) {
	if tag.IsZero() {
		return nil, nil
	}
	id, _, err := h.Target(in.TagPrefix + tag.String())
	return []commits.ID{id}, err
}

// read reads the messages of commits.
func read(h *gitrepo.History, ids []commits.ID) ([]commits.Commit, error) {
	messages, err := h.Messages(ids)
	if err != nil {
		return nil, err
	}
	list := make([]commits.Commit, len(ids))
	for i, id := range ids {
		list[i] = commits.Commit{ID: id, Message: commits.Parse(messages[i])}
	}
	return list, nil
}

// decide asks the rules of releases for the version. An error is a [*release.Refusal].
func (in In) decide(ev event, p past) (release.Answer, error) {
	since, fresh := in.rules().BumpAll(p.since), in.rules().BumpAll(p.fresh)
	if !ev.tag.IsZero() {
		warnings, err := p.lineage.CheckTag(ev.tag, p.place, since, in.ZeroMajor)
		if err != nil {
			return release.Answer{}, err
		}
		return release.Answer{Version: ev.tag, Warnings: warnings}, nil
	}
	if len(p.own) > 0 { // merged with a merge commit, the commits count; squashed, the title does: expect the larger
		title := in.rules().Bump(commits.Parse(in.PRTitle))
		since, fresh = max(since, title), max(fresh, title)
	}
	asked, err := in.asked(p.since)
	if err != nil {
		return release.Answer{}, err
	}
	if again, err := in.asked(p.fresh); err == nil && !again.IsZero() {
		fresh = max(fresh, release.Patch)
	}
	return p.lineage.Next(release.Request{
		Since: since, Fresh: fresh, Series: in.Prerelease, Initial: in.InitialVersion,
		ZeroMajor: in.ZeroMajor, Asked: asked, Pinned: ev.pinned, AllowFeatures: in.AllowFeatures,
	})
}

// asked returns the version that the newest commit with a Release-As footer asks for, with or without its v, as release-please reads it.
func (in In) asked(list []commits.Commit) (release.Version, error) {
	if !in.ReleaseAs {
		return release.Version{}, nil
	}
	for _, c := range list {
		text := c.Message.ReleaseAs
		if text == "" || c.Reverted {
			continue
		}
		v, err := release.Parse("v" + strings.TrimPrefix(text, "v"))
		if err == nil && v.IsPrerelease() {
			err = fmt.Errorf("%s is a candidate: ask for the final release, and for candidates with PRERELEASE", v)
		}
		if err != nil {
			return release.Version{}, &release.Refusal{
				Reason: fmt.Sprintf("commit %s has a Release-As footer that cannot be followed: %v", c.ID, err),
				Cure:   "add a commit with a Release-As footer such as Release-As: 2.0.0: the newest one counts",
			}
		}
		return v, nil
	}
	return release.Version{}, nil
}

// bump is the size of the step to a version: from the release before it, or, for the first, what its commits raise.
func (in In) bump(p past, v release.Version) release.Bump {
	switch {
	case v.IsZero():
		return release.None
	case p.lineage.Base.IsZero():
		return in.rules().BumpAll(p.since)
	default:
		return release.Between(p.lineage.Base.Version, v)
	}
}

// buildTag is the tag of the image that a build of the commit makes. A build that does not know its branch has none, since it must not pass
// for the main branch's. A release promotes an image, and looks for it where the main branch puts it; with the clock of a build as the
// time, nobody can tell where that is.
func (in In) buildTag(ev event, out Out) (string, error) {
	t := release.BuildTag{Commit: out.Commit[:in.SHALength], Unix: out.Timestamp}
	switch {
	case ev.base != "": // its branch may be called as it likes, also in a fork
		t.Branch = fmt.Sprintf("pr-%d", in.PRNumber)
	case !ev.tag.IsZero() && in.Timestamp == "build", ev.tag.IsZero() && in.BranchName == "":
		return "", nil
	case !ev.trunk:
		t.Branch = in.BranchName // empty on a tag build, which makes it main's
	}
	return t.String(), t.Check()
}

func changes(list []commits.Commit) []Change {
	out := make([]Change, len(list))
	for i, c := range list {
		m := c.Message
		out[i] = Change{Commit: c.ID.String(), Type: m.Type, Scope: cut(m.Scope), Breaking: m.Breaking, Subject: cut(m.Subject), Reverted: c.Reverted}
	}
	return out
}

func deciding(rules commits.Rules, list []commits.Commit) []string {
	ids := []string{}
	for _, c := range rules.Deciding(list) {
		ids = append(ids, c.ID.String())
	}
	return ids
}

// cut bounds a text from outside: a subject can be a megabyte long.
func cut(s string) string {
	const limit = 1000
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

// notes writes the release notes, also of a range that releases nothing yet.
func notes(out Out, p past, rules commits.Rules) string {
	title := out.Version.String()
	if title == "" {
		title = "Unreleased"
	}
	return commits.Notes(title, out.Previous.String(), p.since, rules)
}
