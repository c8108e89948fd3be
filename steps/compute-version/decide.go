package main

import (
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// event says what is built: a tag, a hotfix branch, the main branch, or another one.
type event struct {
	tag    release.Version // the version of the tag; zero on a branch
	pinned release.Version // the version that a hotfix branch is named for
	trunk  bool
}

// event reads the kind of build from which variable is set, never from how a name looks: a branch may be called like a tag.
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
	if in.BranchName == in.MainBranch {
		return event{trunk: true}, nil
	}
	pinned, _, err := in.HotfixBranch.Version(in.BranchName)
	return event{pinned: pinned}, err
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
	if p.since, err = read(h, h.Graph.Range(h.Head, base...)); err != nil {
		return past{}, err
	}
	held := h.Graph.Ancestors(candidate...)
	for _, c := range p.since {
		if !held.Has(c.ID) {
			p.fresh = append(p.fresh, c)
		}
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
	since := in.rules().BumpAll(p.since)
	if !ev.tag.IsZero() {
		warnings, err := p.lineage.CheckTag(ev.tag, p.place, since, in.ZeroMajor)
		if err != nil {
			return release.Answer{}, err
		}
		return release.Answer{Version: ev.tag, Warnings: warnings}, nil
	}
	return p.lineage.Next(release.Request{
		Since: since, Fresh: in.rules().BumpAll(p.fresh), Series: in.Prerelease, Initial: in.InitialVersion,
		ZeroMajor: in.ZeroMajor, Pinned: ev.pinned, AllowFeatures: in.AllowFeatures,
	})
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
	if !ev.tag.IsZero() && in.Timestamp == "build" || ev.tag.IsZero() && in.BranchName == "" {
		return "", nil
	}
	t := release.BuildTag{Commit: out.Commit[:in.SHALength], Unix: out.Timestamp}
	if !ev.trunk {
		t.Branch = in.BranchName // empty on a tag build, which makes it main's
	}
	return t.String(), t.Check()
}

func changes(list []commits.Commit) []Change {
	out := make([]Change, len(list))
	for i, c := range list {
		m := c.Message
		out[i] = Change{Commit: c.ID.String(), Type: m.Type, Scope: cut(m.Scope), Breaking: m.Breaking, Subject: cut(m.Subject)}
	}
	return out
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
