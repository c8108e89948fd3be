package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/hold"
	"github.com/deepdesk/cloudbuild-steps/internal/marker"
	"github.com/deepdesk/cloudbuild-steps/internal/policy"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// holds reads the held versions of one state of the config repo, and the file.
func (in In) holds(s *gitrepo.Snapshot) (hold.List, []byte, error) {
	name := path.Join(in.ConfigPath, in.Holds)
	raw, _, err := s.ReadFile(name)
	if err != nil {
		return nil, nil, err
	}
	list, err := hold.Parse(raw)
	if err != nil {
		return nil, nil, step.Refuse("correct the file; nothing was written", "reading %s: %w", name, err)
	}
	return list, raw, nil
}

// plan is what has to change in one state of the config repo.
type plan struct {
	in       In
	subject  *subject
	snapshot *gitrepo.Snapshot

	holds     hold.List
	holdFile  []byte
	held      bool // the version is held already
	inventory *accounts.Inventory
	policies  map[string]policy.Policy // of this image, by id
	keep      map[string][]string      // policy → tags that its ImageRepository lets through

	files    map[string][]byte
	returned []Return
	left     []Place
	live     []string // tags that the image's resources are on when this is done
}

// newPlan reads the repo and decides. It is a function of its arguments: another state of the repo gets a plan of its own.
func newPlan(snapshot *gitrepo.Snapshot, in In, s *subject) (*plan, error) {
	p := &plan{in: in, subject: s, snapshot: snapshot, policies: map[string]policy.Policy{}, keep: map[string][]string{}, files: map[string][]byte{}}
	var err error
	if p.holds, p.holdFile, err = in.holds(snapshot); err != nil {
		return p, err
	}
	_, p.held = p.holds.Find(in.service(), in.Version.String(), "")
	if raw, found, err := in.inventory(snapshot); err != nil {
		return p, err
	} else if found {
		inventory, err := accounts.Parse(raw)
		if err != nil {
			return p, step.Refuse("correct the inventory; nothing was written", "inventory %s: %w", in.Accounts, err)
		}
		p.inventory = &inventory
	}
	names, contents, err := p.read()
	if err != nil {
		return p, err
	}
	for i, name := range names {
		if err := p.consider(name, contents[i]); err != nil {
			return p, err
		}
	}
	return p, nil
}

// inventory returns the config repo's, unless it is kept elsewhere.
func (in In) inventory(snapshot *gitrepo.Snapshot) (raw []byte, found bool, err error) {
	if step.IsURL(in.Accounts) {
		return nil, false, nil
	}
	return snapshot.ReadFile(path.Join(in.ConfigPath, in.Accounts))
}

// read returns the YAML files that name the image in any way, and notes the policies.
func (p *plan) read() (names []string, contents [][]byte, err error) {
	var set policy.Set
	root := path.Clean(p.in.ConfigPath) + "/"
	skip := path.Join(p.in.ConfigPath, p.in.Holds)
	err = p.snapshot.Walk(func(f gitrepo.File) error {
		name := f.Path
		if root != "./" && !strings.HasPrefix(name, root) || !marker.IsFile(name) || !f.Mode.IsRegular() || name == skip {
			return nil
		}
		content, err := f.Read()
		if errors.As(err, new(*gitrepo.TooLargeError)) {
			p.left = append(p.left, Place{File: name, Reason: "it is too large to be read: see whether it names the image"})
			return nil
		}
		if err != nil {
			return err
		}
		if objects, err := policy.Parse(content); err == nil {
			if err := set.Merge(objects); err != nil {
				return step.Misconfigured("set CONFIG_PATH to the folder of one cluster", "%s: %w", name, err)
			}
		} else if marker.Has(content) {
			return step.Refuse("correct the file; nothing was written", "%s: the image objects in it cannot be read: %w", name, err)
		}
		if marker.Has(content) || bytes.Contains(content, []byte(p.subject.digest)) || bytes.Contains(content, []byte(p.in.Image.String()+":")) {
			names, contents = append(names, name), append(contents, content)
		}
		return nil
	})
	for _, q := range set.Policies {
		if r, found := set.Repository(q); found && r.Image == p.in.Image.String() {
			p.policies[q.ID()] = q
			p.keep[q.ID()] = r.Keep(p.older())
		}
	}
	return names, contents, err
}

// older lists the tags that are on another image than the bad one.
func (p *plan) older() []string {
	var tags []string
	for tag, on := range p.subject.names {
		if on != p.subject.digest && !registry.IsTombstoneTag(tag) && !strings.HasPrefix(tag, "sha256-") {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return tags
}

// unit is all markers of one policy in one resource. They change together.
type unit struct {
	policy  string
	markers []marker.Marker
}

// consider decides on one file: what follows a policy of the image goes back, everything else that names the image is reported.
func (p *plan) consider(name string, content []byte) error {
	var units []*unit
	covered := map[int]bool{}
	for _, m := range marker.Find(content) {
		if _, ours := p.policies[m.ID()]; !ours {
			continue
		}
		i := slices.IndexFunc(units, func(u *unit) bool {
			return u.policy == m.ID() && u.markers[0].Resource.Same(m.Resource)
		})
		if i < 0 {
			units = append(units, &unit{policy: m.ID()})
			i = len(units) - 1
		}
		units[i].markers = append(units[i].markers, m)
	}
	var edits []marker.Edit
	for _, u := range units {
		more, err := p.decide(name, u)
		if err != nil {
			return err
		}
		edits = append(edits, more...)
		for _, m := range u.markers {
			covered[m.Line] = true
		}
	}
	for i, line := range bytes.Split(content, []byte("\n")) {
		if names := bytes.Contains(line, []byte(p.subject.digest)) || p.isReference(line); names && !covered[i+1] && !p.isMarked(line) {
			p.left = append(p.left, Place{File: name, Line: i + 1, Reason: "it names the image, and no marker of a policy of the image stands there"})
		}
	}
	if len(edits) == 0 {
		return nil
	}
	after, err := marker.Splice(content, edits)
	if err != nil {
		return fmt.Errorf("editing %s: %w", name, err)
	}
	p.files[name] = after
	return nil
}

// isReference reports whether a line holds IMAGE:TAG with a tag that is on the image.
func (p *plan) isReference(line []byte) bool {
	for _, tag := range append([]string{p.in.Version.String()}, p.subject.siblings...) {
		_, rest, found := bytes.Cut(line, []byte(p.in.Image.String()+":"+tag))
		if found && (len(rest) == 0 || !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", rune(rest[0]))) {
			return true
		}
	}
	return false
}

// isMarked reports whether a policy of the image is named behind the value, on the same line.
func (p *plan) isMarked(line []byte) bool {
	for id := range p.policies {
		if bytes.Contains(line, []byte(`"`+id)) {
			return true
		}
	}
	return false
}

// decide returns the edits of one unit. A unit that is not on the bad image stays.
func (p *plan) decide(name string, u *unit) ([]marker.Edit, error) {
	there, bad := "", false
	for _, m := range u.markers {
		tag, digest := m.Parts()
		if tag != "" {
			there = tag
		}
		bad = bad || digest == p.subject.digest || tag == p.in.Version.String() || slices.Contains(p.subject.siblings, tag)
	}
	if !bad {
		p.addLive(there)
		return nil, nil
	}
	first := u.markers[0]
	account, doubt := accounts.Owner(first.Resource.Labels[p.in.AccountLabel], first.Resource.Annotations[p.in.AccountLabel], p.in.AccountPath.Match(name))
	place := Place{File: name, Line: first.Line, Account: account}
	leave := func(format string, args ...any) ([]marker.Edit, error) {
		place.Reason = fmt.Sprintf(format, args...)
		p.left = append(p.left, place)
		return nil, nil
	}
	if _, isBuild := release.ParseBuildTag(there); doubt != "" && !isBuild { // of builds, the policy's range alone decides
		return leave("%s", doubt)
	}
	for _, m := range u.markers {
		if m.Skip != "" {
			return leave("line %d: %s", m.Line, m.Skip)
		}
	}
	if there == "" {
		return leave("a digest alone does not say what the version before it was: mark the tag in the same resource, too")
	}
	to, why, err := p.previous(u.policy, there, account)
	if err != nil {
		return nil, err
	}
	if to == "" {
		return leave("%s", why)
	}
	var edits []marker.Edit
	for _, m := range u.markers {
		if value, _ := m.Wants(p.in.Image.String(), to, p.subject.names[to], p.policies[u.policy].ReflectsDigest); value != m.Value {
			edits = append(edits, marker.Edit{Marker: m, Value: value})
		}
	}
	p.returned = append(p.returned, Return{name, first.Line, u.policy, account, there, to})
	p.addLive(to)
	return edits, nil
}

// addLive notes a tag that is live: a release, unless there are only builds.
func (p *plan) addLive(tag string) {
	if _, released := releaseOf(tag); released && !slices.Contains(p.live, tag) {
		p.live = append(p.live, tag)
	}
}

func releaseOf(tag string) (release.Version, bool) {
	v, err := release.Parse(tag)
	return v, err == nil
}

// previous chooses what a resource goes back to: the newest tag that its policy admits and that is older than what is there, on another image,
// not held, and not kept from the account; or PREVIOUS. why says why there is none.
func (p *plan) previous(id, there, account string) (to, why string, err error) {
	q := p.policies[id]
	candidates := p.keep[id]
	_, isBuild := release.ParseBuildTag(there)
	if !p.in.Previous.IsZero() && !isBuild {
		wanted := p.in.Previous.String()
		if !slices.Contains(candidates, wanted) {
			return "", fmt.Sprintf("PREVIOUS %s is not in the registry, or is the same image", wanted), nil
		}
		candidates = []string{wanted}
	}
	var fit []string
	var refused []string
	for _, tag := range candidates {
		if ok, _ := q.Admits(tag); !ok {
			continue
		}
		if n, err := q.Compare(tag, there); err != nil || n >= 0 {
			continue
		}
		reason, err := p.keptFrom(tag, account)
		if err != nil {
			return "", "", err
		}
		if reason != "" {
			refused = append(refused, tag+": "+reason)
			continue
		}
		fit = append(fit, tag)
	}
	choice, err := q.Choose(fit)
	if errors.Is(err, policy.ErrNoTag) {
		why = fmt.Sprintf("the registry has no version before %s that policy %s admits", there, id)
		if len(refused) > 0 {
			why += " (" + strings.Join(refused, "; ") + ")"
		}
		return "", why, nil
	}
	return choice.Tag, "", err
}

// keptFrom says why an account must not be returned to a version; empty when it may.
func (p *plan) keptFrom(tag, account string) (string, error) {
	if h, held := p.holds.Find(p.in.service(), tag, p.subject.names[tag]); held {
		return h.String(), nil
	}
	v, released := releaseOf(tag)
	if !released { // a build: the policy alone decides
		return "", nil
	}
	raw, found, err := p.snapshot.ReadFile(path.Join(p.in.ConfigPath, p.in.DecisionsPath, p.in.service(), tag+".json"))
	if err != nil {
		return "", err
	}
	if found && account != "" {
		d, fault := accounts.ParseDecision(raw)
		switch {
		case fault != nil:
			return fmt.Sprintf("the gate's decision on it cannot be read (%v)", fault), nil
		case d.Digest != p.subject.names[tag]:
			return "the gate decided on another image of that name", nil
		}
		if ok, reason := d.Allows(account); !ok {
			return "the gate held it: " + reason, nil
		}
		return "", nil
	}
	if !v.IsPrerelease() || p.inventory == nil && account == "" {
		return "", nil
	}
	if p.inventory != nil {
		if a, known := p.inventory.Find(account); known && a.IsUAT {
			return "", nil
		}
	}
	return "a candidate is for UAT accounts only", nil
}

// hold adds the hold to the files.
func (p *plan) hold(now time.Time, build string) error {
	if p.held {
		if h, _ := p.holds.Find(p.in.service(), p.in.Version.String(), ""); h.Digest != "" && h.Digest != p.subject.digest {
			return step.Refuse("find out which image was meant, and correct the hold", "%s:%d: %s is held with digest %s, and the registry has %s",
				p.in.Holds, h.Line, p.in.Version, h.Digest, p.subject.digest)
		}
		return nil
	}
	file, err := hold.Add(p.holdFile, hold.Hold{
		Service: p.in.service(), Version: p.in.Version.String(), Digest: p.subject.digest, Reason: p.in.Reason, Who: p.in.Who,
		When: now.UTC().Truncate(time.Second), Build: build,
	})
	if err != nil {
		return step.Misconfigured("correct REASON, WHO or the file of holds; nothing was written", "adding the hold to %s: %w", p.in.Holds, err)
	}
	p.files[path.Join(p.in.ConfigPath, p.in.Holds)] = file
	return nil
}

// message is the commit's.
func (p *plan) message(build string) string {
	var m strings.Builder
	fmt.Fprintf(&m, "revert(%s): roll back %s\n\n%s:%s\n%s\n\nReason: %s\nWho: %s\n\n", p.in.service(), p.in.Version, p.in.Image, p.in.Version, p.subject.digest,
		strings.Join(strings.Fields(p.in.Reason), " "), p.in.Who)
	for _, r := range p.returned {
		fmt.Fprintf(&m, "%s:%d %s", r.File, r.Line, r.Policy)
		if r.Account != "" {
			fmt.Fprintf(&m, " (%s)", r.Account)
		}
		fmt.Fprintf(&m, ": %s -> %s\n", r.From, r.To)
	}
	for _, l := range p.left {
		fmt.Fprintf(&m, "Left: %s:%d: %s\n", l.File, l.Line, l.Reason)
	}
	if build != "" {
		fmt.Fprintf(&m, "\nBuild: %s\n", build)
	}
	return m.String()
}

// goBack holds the version and returns every account, in one commit.
func (w *work) goBack(ctx context.Context, s *subject, out Out) (Out, error) {
	now := time.Now()
	var p *plan
	decide := func(snapshot *gitrepo.Snapshot) (*gitrepo.Change, error) {
		var err error
		if p, err = newPlan(snapshot, w.in, s); err != nil {
			return nil, err
		}
		if err := p.hold(now, w.b.URL()); err != nil || len(p.files) == 0 {
			return nil, err
		}
		return &gitrepo.Change{Files: p.files, Message: p.message(w.b.URL()), Author: gitrepo.Signature{Name: w.in.CommitAuthor, Email: w.in.CommitEmail, When: now}, Key: w.key}, nil
	}
	act := gitrepo.Update
	if w.b.DryRun {
		act = gitrepo.Preview
	}
	result, err := act(ctx, w.remote, w.in.ConfigBranch, "", decide)
	if lost, ok := errors.AsType[*gitrepo.LostRaceError](err); ok {
		return out, step.Lost(lost.Fix(), "%w", err)
	}
	if err != nil {
		return out, err
	}
	out.Hold = path.Join(w.in.ConfigPath, w.in.Holds)
	out.Returned, out.Left = append(out.Returned, p.returned...), append(out.Left, p.left...)
	slices.Sort(p.live)
	out.Previous = strings.Join(slices.DeleteFunc(p.live, func(tag string) bool { return tag == w.in.Version.String() }), ",")
	for _, r := range p.returned {
		w.b.Log.Info(fmt.Sprintf("%s:%d: %s -> %s", r.File, r.Line, r.From, r.To), "policy", r.Policy, "account", r.Account)
	}
	for _, l := range p.left {
		w.b.Log.Warn(fmt.Sprintf("left alone: %s:%d", l.File, l.Line), "account", l.Account, "reason", l.Reason)
	}
	if w.b.DryRun {
		w.b.Log.Info("would hold and return", "hold", out.Hold, "resources", len(p.returned))
		return out, nil
	}
	if result.Changed {
		out.Commit = result.Commit
		w.b.Log.Info("pushed", "commit", result.Commit, "branch", result.Branch)
	}
	switch {
	case len(p.left) > 0:
		return out, step.WithReport(step.WithFix(fmt.Errorf("the version is held, and %d places of the config repo still name it (the first is %s:%d: %s)",
			len(p.left), p.left[0].File, p.left[0].Line, p.left[0].Reason), "change them by hand, or set PREVIOUS, and run the step again"))
	case !result.Changed:
		return out, step.Nothing("%s is held, and nothing in the config repo names it", w.in.Version)
	}
	return out, nil
}
