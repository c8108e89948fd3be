package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/hold"
	"github.com/deepdesk/cloudbuild-steps/internal/marker"
	"github.com/deepdesk/cloudbuild-steps/internal/policy"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// plan is what is to change in one state of the config repo, and why the rest is not.
type plan struct {
	in       In
	target   target
	snapshot *gitrepo.Snapshot
	reading  reading

	edits     []Edit
	skipped   []Skip
	held      int        // how many of skipped the gate holds
	defects   int        // how many of skipped cannot be edited
	newer     []standing // tags that stand where an older one was to be written
	already   int        // resources that have the tag
	unmatched []string   // why there is no marker to write to
	notes     []string   // what else the reader should know about the repo

	set      policy.Set
	holds    hold.List
	marks    []Mark   // every marker of the image's policies
	retreats []string // holds that allow to go back, each once

	subjects []string // the images that this run is about
	written  []target // what the edits write, each once
	choices  []Choice // what the policies chose, in modes where they do
	gone     []string // where a tag stands that its image does not have any more

	files map[string][2][]byte // old and new content
}

// tracked is a policy whose markers may be written to.
type tracked struct {
	id      string
	policy  policy.Policy
	defined bool   // the config repo has a manifest of it; else it admits every tag
	closed  string // why its markers are not to be written; empty when it selects the tag
	target  target
}

// compare returns +1 when the tag is newer than the one that is there, -1 when it is older.
func (t tracked) compare(tag, there string) (int, error) {
	if t.defined {
		return t.policy.Compare(tag, there)
	}
	if a, errA := release.Parse(tag); errA == nil {
		if b, errB := release.Parse(there); errB == nil {
			return a.Compare(b), nil
		}
	}
	a, okA := release.ParseBuildTag(tag)
	b, okB := release.ParseBuildTag(there)
	if okA && okB && a.Branch == b.Branch {
		return cmp.Compare(a.Unix, b.Unix), nil
	}
	return 0, fmt.Errorf("%q cannot be compared with %q, which is there", tag, there)
}

// newPlan reads the repo and decides. It is a function of its arguments: another state of the repo gets a plan of its own. What was read of
// earlier states only saves time.
func newPlan(s *gitrepo.Snapshot, before reading, in In, t target) (*plan, error) {
	p := &plan{in: in, target: t, snapshot: s, reading: reading{}, files: map[string][2][]byte{}}
	files, err := p.scan(before)
	if unsafe, ok := errors.AsType[*gitrepo.UnsafeError](err); ok {
		return p, step.Refuse(unsafe.Fix(), "%w", err)
	}
	if err != nil {
		return p, err
	}
	if p.holds, err = in.readHolds(s); err != nil {
		return p, err
	}
	policies, err := p.track(p.set, files)
	if err != nil {
		return p, err
	}
	if err := p.refuseHeld(policies); err != nil {
		return p, err
	}
	g, err := p.gate(policies)
	if err != nil {
		return p, err
	}
	seen := map[string]bool{}
	w := newSplicing()
	defined := map[string]bool{}
	for _, q := range p.set.Policies {
		defined[q.ID()] = true
	}
	ours := slices.DeleteFunc(files, func(f *file) bool { return !f.concerns(policies, defined, p.subjects) })
	for f, found := range ahead(ours, (*file).find) {
		if err := p.consider(f, found, policies, g, seen, w); err != nil {
			return p, err
		}
	}
	if err := w.into(p.files); err != nil {
		return p, err
	}
	for _, id := range slices.Sorted(maps.Keys(policies)) {
		if !seen[id] && policies[id].closed == "" {
			p.unmatched = append(p.unmatched, "no marker names policy "+id)
		}
	}
	if in.OnUnmatched == "refuse" && (len(p.unmatched) > 0 || p.defects > 0) {
		p.edits = nil
		return p, step.Refuse("correct the config repo, or set ON_UNMATCHED=warn", "%s", p.complaints())
	}
	if err := p.conclude(); err != nil {
		return p, err
	}
	return p, p.record()
}

// complaints lists what ON_UNMATCHED is about.
func (p *plan) complaints() string {
	list := slices.Clone(p.unmatched)
	for _, s := range p.skipped {
		if !s.held && !s.harmless {
			list = append(list, s.place()+": "+s.Reason)
		}
	}
	return strings.Join(list, "; ")
}

// scan reads the YAML files below CONFIG_PATH: those with markers are returned, what the others say about images is noted.
func (p *plan) scan(before reading) ([]*file, error) {
	var all []gitrepo.File
	root := path.Clean(p.in.ConfigPath) + "/"
	err := p.snapshot.Walk(func(f gitrepo.File) error {
		// Behind a link or a submodule with such a name there may be markers. Other links are of no interest.
		if marker.IsFile(f.Path) || !f.Mode.IsRegular() && !strings.Contains(path.Base(f.Path), ".") {
			if root == "./" || strings.HasPrefix(f.Path, root) {
				all = append(all, f)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var marked []*file
	for _, found := range ahead(slices.Collect(slices.Chunk(all, 256)), before.look) {
		for _, f := range found {
			if err := p.note(f); err != nil {
				return nil, err
			}
			if f.marked {
				marked = append(marked, f)
			}
		}
	}
	return marked, nil
}

// note takes up what was found in a file, or why nothing was.
func (p *plan) note(f *file) error {
	if f.skip != "" {
		p.skipFile(f.name, f.skip, f.link)
		return nil
	}
	if f.err != nil {
		return f.err
	}
	p.reading[f.name] = f
	if f.defect != "" {
		p.notes = append(p.notes, fmt.Sprintf("%s: the image objects in it cannot be read: %s", f.name, f.defect))
		return nil
	}
	if err := p.set.Merge(f.objects); err != nil {
		return step.Misconfigured("set CONFIG_PATH to the folder of one cluster", "%s: %w", f.name, err)
	}
	return nil
}

// track finds the policies of the image that admit the tag.
func (p *plan) track(set policy.Set, files []*file) (map[string]tracked, error) {
	if p.target.chooser != nil {
		return p.choose(set, files)
	}
	p.subjects = []string{p.target.image}
	candidates := map[string]tracked{}
	for _, q := range set.Policies {
		image, _ := set.Image(q)
		wanted := slices.Contains(p.in.Policies, q.ID())
		switch {
		case image == p.target.image && (wanted || len(p.in.Policies) == 0):
			candidates[q.ID()] = tracked{id: q.ID(), policy: q, defined: true}
		case wanted:
			return nil, step.Misconfigured("correct POLICIES or IMAGE", "POLICIES names %s, whose image is %q, and IMAGE is %s", q.ID(), image, p.target.image)
		}
	}
	for _, id := range p.in.Policies {
		if _, defined := candidates[id]; !defined {
			candidates[id] = tracked{id: id}
		}
	}
	if len(candidates) == 0 {
		p.unmatched = append(p.unmatched, "the config repo has no ImagePolicy whose ImageRepository is "+p.target.image)
	}
	var refusals []string
	for _, id := range slices.Sorted(maps.Keys(candidates)) {
		t := candidates[id]
		if t.defined {
			_, t.closed = t.policy.Admits(p.target.tag)
			if t.policy.Suspended {
				t.closed = "it is suspended"
			}
		}
		t.target = p.target
		candidates[id] = t
		if t.closed != "" {
			refusals = append(refusals, id+": "+t.closed)
		}
	}
	if len(refusals) == len(candidates) && len(candidates) > 0 {
		p.unmatched = append(p.unmatched, fmt.Sprintf("no policy admits %s (%s)", p.target.tag, strings.Join(refusals, "; ")))
	}
	return candidates, nil
}

// gate brings together what decides by account. A decision is held against the inventory that the config repo has now: by its hash when it
// was made on that file, and for a candidate in any case, since both must agree on who is UAT.
func (p *plan) gate(policies map[string]tracked) (gate, error) {
	g := gate{label: p.in.AccountLabel}
	d := p.target.decision
	if d != nil && d.InventoryCommit != "" {
		if err := p.verify(*d); err != nil {
			return g, err
		}
	}
	decided := d != nil && p.target.candidate // a candidate that the gate decided on
	needed := false                           // a candidate without a decision: the inventory decides
	for _, t := range policies {
		open := t.closed == "" && t.target.candidate
		decided = decided || open && t.target.decision != nil
		needed = needed || open && t.target.decision == nil
	}
	if !decided && !needed || step.IsURL(p.in.Accounts) {
		return g, nil
	}
	name := path.Join(p.in.ConfigPath, p.in.Accounts)
	raw, found, err := p.snapshot.ReadFile(name)
	if err != nil || !found {
		return g, err
	}
	inventory, err := accounts.Parse(raw)
	if err != nil {
		return g, step.Refuse("correct the inventory; while it is defective no candidate is delivered", "inventory %s: %w", name, err)
	}
	if needed {
		g.inventory = &inventory
	}
	if !decided {
		return g, nil
	}
	if wrong := d.Contradicts(inventory); len(wrong) > 0 {
		return g, step.Refuse("run the build again from gate-uat; if a service has the inventory, delete the file, or set ACCOUNTS",
			"the decision allows %s to %d accounts that the inventory %s does not mark is_uat: %s", d.Version, len(wrong), name, few(wrong))
	}
	return g, nil
}

// verify holds a decision against the file that it was made on.
func (p *plan) verify(d accounts.Decision) error {
	const advice = "run the build again from gate-uat: what it decided on is what is written"
	raw, found, err := p.snapshot.ReadFile(d.Inventory)
	if err != nil {
		return err
	}
	if !found {
		return step.Refuse(advice, "the decision was made on %s, which the config repo does not have any more", d.Inventory)
	}
	if err := d.Verify(raw); err != nil {
		return step.Refuse(advice, "holding the decision against %s: %w", d.Inventory, err)
	}
	return nil
}

// unit is all markers of one policy in one resource. They change together or not at all: a new tag beside an old digest would deploy the
// old image under the new name.
type unit struct {
	policy   tracked
	resource marker.Resource
	markers  []marker.Marker
	defect   string // why one of its markers cannot be edited
}

// consider decides on the markers of one file, and has the file edited.
func (p *plan) consider(f *file, found []marker.Marker, policies map[string]tracked, g gate, seen map[string]bool, w *splicing) error {
	var edits []marker.Edit
	for _, u := range p.unitsOf(found, policies) {
		seen[u.policy.id] = true
		more, err := p.decide(f, u, g)
		if err != nil {
			return err
		}
		edits = append(edits, more...)
	}
	if len(edits) > 0 {
		w.edit(f, edits)
	}
	return nil
}

// unitsOf groups the markers of the policies. A comment that is no marker although it means to be one belongs to no policy; it makes a unit
// of its own when it stands at a value, and holds back the others of its resource.
func (p *plan) unitsOf(found []marker.Marker, policies map[string]tracked) []*unit {
	var units []*unit
	for _, m := range found {
		t, ok := policies[m.ID()]
		switch {
		case m.Policy == "" && m.Skip != "":
			t = tracked{id: ""}
		case !ok && p.isStray(m, found):
			t = tracked{id: m.ID()}
			m.Skip = cmp.Or(m.Skip, "the config repo has no ImagePolicy of that name")
		case !ok:
			continue
		}
		i := slices.IndexFunc(units, func(u *unit) bool { return u.policy.id == t.id && u.resource.Same(m.Resource) })
		if i < 0 || t.id == "" {
			units = append(units, &unit{policy: t, resource: m.Resource})
			i = len(units) - 1
		}
		units[i].markers = append(units[i].markers, m)
		if m.Skip != "" && units[i].defect == "" {
			units[i].defect = m.Skip
			if len(units[i].markers) > 1 {
				units[i].defect = fmt.Sprintf("line %d: %s", m.Line, m.Skip)
			}
		}
	}
	for _, broken := range units {
		if broken.policy.id != "" || broken.markers[0].Value == "" {
			continue
		}
		for _, u := range units {
			if u.policy.id != "" && u.defect == "" && u.resource.Same(broken.resource) {
				u.defect = fmt.Sprintf("line %d: %s", broken.markers[0].Line, broken.markers[0].Skip)
			}
		}
	}
	return units
}

// isStray reports whether a marker names a policy that does not exist, and is about this image all the same: by its own value, or by that
// of another marker of the same policy in the same resource. Without policies in the repo nothing can be told.
func (p *plan) isStray(m marker.Marker, found []marker.Marker) bool {
	if _, defined := p.set.Find(m.ID()); defined || len(p.set.Policies) == 0 || m.Policy == "" {
		return false
	}
	return slices.ContainsFunc(found, func(other marker.Marker) bool {
		repository, _, _ := marker.Split(other.Value)
		ours := other.Field == marker.Name && slices.Contains(p.subjects, other.Value) ||
			other.Field == marker.Reference && slices.Contains(p.subjects, repository)
		return ours && other.ID() == m.ID() && other.Resource.Same(m.Resource)
	})
}

// policiesOf lists the policies of edits, each once.
func policiesOf(edits []marker.Edit) []string {
	var ids []string
	for _, e := range edits {
		if id := e.Marker.ID(); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// decide returns the edits of one unit, or records why there are none.
func (p *plan) decide(f *file, u *unit, g gate) ([]marker.Edit, error) {
	account, doubt := p.in.owner(u.resource, f.name)
	skip := Skip{File: f.name, Line: u.markers[0].Line, Policy: u.policy.id, Account: account}
	if u.policy.closed != "" {
		p.mark(f, u.markers, account, stateNotSelected, u.policy.closed)
		return nil, nil
	}
	if u.defect != "" {
		skip.Reason = u.defect
		p.skipped = append(p.skipped, skip)
		p.mark(f, u.markers, account, stateSkipped, u.defect)
		p.defects++
		return nil, nil
	}
	tags := tagsIn(u.markers)
	fresh := len(tags) == 1 && tags[0] == u.policy.target.tag // the tag is there already
	if err := p.confirm(u, fresh); err != nil {
		return nil, err
	}
	g.target = u.policy.target
	var edits []marker.Edit
	for _, m := range u.markers {
		value, known := m.Wants(g.target.image, g.target.tag, g.target.digest, u.policy.defined && u.policy.policy.ReflectsDigest)
		if !known && !fresh {
			return nil, step.Misconfigured(p.in.digestAdvice(),
				"%s:%d: the marker of %s asks for a digest, and the digest of %s:%s is not known", f.name, m.Line, u.policy.id, g.target.image, g.target.tag)
		}
		if known && value != m.Value {
			edits = append(edits, marker.Edit{Marker: m, Value: value})
		}
	}
	if len(edits) == 0 {
		p.already++
		p.mark(f, u.markers, account, stateAlready, "")
		return nil, nil
	}
	if reason := g.holds(account, doubt); reason != "" {
		skip.Reason, skip.held = reason, true
		p.skipped = append(p.skipped, skip)
		p.mark(f, u.markers, account, stateHeld, reason)
		p.held++
		return nil, nil
	}
	if reason := p.vanished(skip, u, tags); reason != "" {
		p.mark(f, u.markers, account, stateSkipped, reason)
		return nil, nil
	}
	retreats := len(p.retreats)
	if reason := p.backwards(f, u, tags, edits); reason != "" && !p.in.AllowDowngrade {
		skip.Reason = reason
		p.skipped = append(p.skipped, skip)
		p.mark(f, u.markers, account, stateSkipped, reason)
		return nil, nil
	}
	p.write(u.policy.target)
	p.markEdited(f, u, account, edits, strings.Join(p.retreats[retreats:], "; "))
	for _, e := range edits {
		p.edits = append(p.edits, Edit{
			File: f.name, Line: e.Marker.Line, Policy: u.policy.id, Field: string(e.Marker.Field), From: e.Marker.Value, To: e.Value, Account: account,
		})
	}
	return edits, nil
}

// tagsIn lists the tags that stand in the values of the markers, each once.
func tagsIn(markers []marker.Marker) []string {
	var tags []string
	for _, m := range markers {
		tag, _ := m.Parts()
		if has := m.Field == marker.Tag || m.Field == marker.Reference; has && !slices.Contains(tags, tag) {
			tags = append(tags, tag)
		}
	}
	return tags
}

// backwards returns why the edits would put something older in the place of something newer, or might, as far as can be told.
// A hold on what is there opens the way back.
func (p *plan) backwards(f *file, u *unit, tags []string, edits []marker.Edit) string {
	t := u.policy
	for _, there := range tags {
		if there == t.target.tag || there == "" {
			continue
		}
		c, err := t.compare(t.target.tag, there)
		if err == nil && c > 0 {
			continue
		}
		if h, open := p.retreat(t.target.image, there, u.markers); open {
			if err != nil || c < 0 {
				p.retreats = append(p.retreats, h.String())
			}
			continue
		}
		if err == nil && c < 0 {
			p.newer = append(p.newer, standing{there, f.name, u.lineOf(there), t.id})
			return there + " is there, which is newer"
		}
		if err != nil && !t.defined {
			return err.Error()
		}
	}
	digests := slices.ContainsFunc(edits, func(e marker.Edit) bool { return e.Marker.Field == marker.Digest })
	if len(tags) == 0 && digests {
		if _, open := p.retreat(t.target.image, "", u.markers); open {
			return ""
		}
		return "a digest alone does not tell whether it is older: mark the tag in the same resource, too"
	}
	return ""
}

// record adds the gate's decision to the commit. A decision that was recorded for the same version stays true: the digest behind a
// version never changes.
func (p *plan) record() error {
	if p.target.decision == nil || len(p.edits) == 0 {
		return nil
	}
	d := *p.target.decision
	name := path.Join(p.in.ConfigPath, p.in.DecisionsPath, d.Service, d.Version+".json")
	old, found, err := p.snapshot.ReadFile(name)
	if err != nil {
		return err
	}
	if found {
		if before, err := accounts.ParseDecision(old); err == nil && before.Digest != d.Digest {
			return step.Refuse("find out who moved the tag; a version that was delivered keeps its digest",
				"%s records digest %s for %s, and the gate decided on %s now", name, before.Digest, d.Version, d.Digest)
		}
	}
	text, err := encodeDecision(d)
	if err != nil {
		return err
	}
	p.files[name] = [2][]byte{old, text}
	return nil
}

// encodeDecision writes a decision for people, and without blanks where it would be too large: the deployment must be able to read it.
func encodeDecision(d accounts.Decision) ([]byte, error) {
	text, err := json.MarshalIndent(d, "", "  ")
	if err == nil && len(text) >= gitrepo.MaxFile {
		text, err = json.Marshal(d)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding the decision: %w", err)
	}
	if len(text) >= gitrepo.MaxFile {
		return nil, step.Refuse("divide the accounts among several config repos, each with an inventory of its own",
			"the decision on %d accounts would be larger than the %d MiB that a file of the config repo may have", len(d.Allowed)+len(d.Held), gitrepo.MaxFile>>20)
	}
	return append(text, '\n'), nil
}

// change is the plan as one commit.
func (p *plan) change(b *step.Build, now time.Time) (*gitrepo.Change, error) {
	message, err := p.message(b)
	if err != nil {
		return nil, err
	}
	c := &gitrepo.Change{
		Files: map[string][]byte{}, Message: message, Author: gitrepo.Signature{Name: p.in.CommitAuthor, Email: p.in.CommitEmail, When: now},
	}
	c.Key = p.target.key
	for name, contents := range p.files {
		c.Files[name] = contents[1]
	}
	return c, nil
}

// nothing says why no commit was made.
func (p *plan) nothing() error {
	tag := p.subject()
	switch {
	case len(p.newer) > 0 && !p.target.isRelease && p.target.chooser == nil:
		return step.Nothing("%s is superseded by %s", tag, p.newer[0])
	case len(p.newer) > 0 && p.already == 0 && p.held == 0:
		return step.Refuse("hold the newer version (rollback-version does, in "+p.in.holdsPath()+"), or set ALLOW_DOWNGRADE=true, to go back on purpose",
			"%s is older than what is there: %s", tag, places(p.newer))
	case p.already > 0:
		return step.Nothing("%s stands already wherever it may", tag)
	case p.held > 0:
		first := p.skipped[slices.IndexFunc(p.skipped, func(s Skip) bool { return s.held })]
		return step.Nothing("%s is held in all %d places, the first is %s: %s", tag, p.held, first.place(), first.Reason)
	case len(p.unmatched) > 0:
		return step.Nothing("%s", strings.Join(p.unmatched, "; "))
	case len(p.skipped) > 0:
		return step.Nothing("no marker for %s can be written; the first is %s: %s", tag, p.skipped[0].place(), p.skipped[0].Reason)
	}
	return step.Nothing("no marker for %s can be written", tag)
}

// mostLines is how many edits and skipped markers are printed; the hand-over has all.
const mostLines = 100

// report tells the reader what changes and what does not.
func (p *plan) report(b *step.Build) {
	for i, c := range p.choices {
		if i == mostLines {
			b.Log.Info(fmt.Sprintf("and %d more policies", len(p.choices)-mostLines))
			break
		}
		b.Log.Info(c.String())
	}
	for _, n := range p.notes {
		b.Log.Warn(n)
	}
	for _, u := range p.unmatched {
		b.Log.Warn(u)
	}
	for i, s := range p.skipped {
		if i == mostLines {
			b.Log.Warn(fmt.Sprintf("and %d more were left alone", len(p.skipped)-mostLines))
			break
		}
		if s.Line == 0 {
			b.Log.Warn("left alone: "+s.File, "reason", s.Reason)
			continue
		}
		about := []any{"policy", s.Policy, "reason", s.Reason}
		if s.Account != "" {
			about = append(about, "account", s.Account)
		}
		if line := fmt.Sprintf("left alone: %s:%d", s.File, s.Line); s.held {
			b.Log.Info(line, about...)
		} else {
			b.Log.Warn(line, about...)
		}
	}
	p.explain(b)
	for i, e := range p.edits {
		if i == mostLines {
			b.Log.Info(fmt.Sprintf("and %d more edits", len(p.edits)-mostLines))
			break
		}
		about := []any{"policy", e.Policy}
		if e.Account != "" {
			about = append(about, "account", e.Account)
		}
		b.Log.Info(fmt.Sprintf("%s:%d: %s %s -> %s", e.File, e.Line, e.Field, e.From, e.To), about...)
	}
}
