package main

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/marker"
	"github.com/deepdesk/cloudbuild-steps/internal/policy"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// The modes: one tag for all policies that admit it, or a tag for each policy, from the registry or from a cluster.
const (
	modeVersion  = "version"
	modeScan     = "scan"
	modeResolved = "resolved"
)

// checkMode reports what a mode lacks, and what it would pass over in silence.
func (in In) checkMode(f *step.Faults) {
	switch {
	case in.Mode == modeVersion && in.Image == "":
		f.Add("IMAGE", "is not set")
	case in.Mode == modeResolved && in.Resolved == "":
		f.Add("RESOLVED", "is not set: want the file that `kubectl get imagepolicies -A -o yaml` printed")
	}
	if in.Mode == modeVersion && in.Version.IsZero() && in.BuildTag == "" {
		f.Add("VERSION", "is not set, and there is no BUILD_TAG: on a release set VERSION or TAG_NAME; on a branch run compute-version before, or set BUILD_TAG")
	}
	if in.Mode != modeVersion && in.Service != "" && in.Image == "" {
		f.Add("SERVICE", "is the name of one service: set IMAGE, too, or leave both to the config repo")
	}
	if in.Mode != modeVersion && in.Digest != "" {
		f.Add("DIGEST", "conflicts with MODE=%s, in which every policy has a digest of its own", in.Mode)
	}
	if in.Mode != modeResolved && in.Resolved != "" {
		f.Add("RESOLVED", "conflicts with MODE=%s: it is read with MODE=resolved", in.Mode)
	}
}

// digestAdvice is what to do where a marker asks for a digest that is not known.
func (in In) digestAdvice() string {
	if in.Mode == modeResolved {
		return "set spec.digestReflectionPolicy of the ImagePolicy to IfNotPresent, so that its status names a digest, or use MODE=scan"
	}
	return "run tag-image in this build before, or set DIGEST"
}

// Choice is what a policy chose, with MODE=scan and MODE=resolved.
type Choice struct {
	Policy   string   `json:"policy"`
	Image    string   `json:"image"`
	Tag      string   `json:"tag"`
	Equal    []string `json:"equal"`    // other tags that the policy finds equal
	Passed   []string `json:"passed"`   // why newer tags were passed over: the holds on them
	Tags     int      `json:"tags"`     // how many tags the image has
	Admitted int      `json:"admitted"` // how many of them qualify
}

// String is one line for the log.
func (c Choice) String() string {
	text := fmt.Sprintf("policy %s chooses %s", c.Policy, c.Tag)
	if c.Tags > 0 {
		text += fmt.Sprintf(" (%d of %d tags qualify)", c.Admitted, c.Tags)
	}
	if len(c.Equal) > 0 {
		text += fmt.Sprintf("; it finds %s equal, and the text that sorts first is taken", few(c.Equal))
	}
	for _, passed := range c.Passed {
		text += "; " + passed
	}
	return text
}

// Image is what is written of one image.
type Image struct{ Image, Tag, Digest string }

// chooser says what the markers of each policy are to hold.
type chooser interface {
	// candidates lists the policies that there are, of all images, sorted by id.
	candidates(policy.Set) []*candidate
	// choose fills in what each of them chooses, or why it chooses nothing. barred says why a tag must not be chosen.
	choose(all []*candidate, barred func(target) (string, error)) error
	// confirm finds the digest behind a target's tag before anything is written.
	confirm(*target) error
	// lacks reports whether the list of the image's tags, if there is one, is without this one.
	lacks(image, tag string) bool
}

// candidate is a policy that may choose.
type candidate struct {
	policy     policy.Policy
	repository policy.Repository // only its image is set with MODE=resolved
	dangling   bool              // there is no such repository
	suspended  string            // how it is suspended; empty when it is not

	choice  Choice
	digest  string
	nothing string // why it chooses nothing
	doubt   string // why it may not choose well
}

// newChooser prepares the modes in which each policy chooses for itself.
func newChooser(ctx context.Context, b *step.Build, in In) (target, error) {
	t := target{}
	h, ok, err := b.Handover("tag-image")
	if err != nil {
		return t, err
	}
	if ok && h.Status == step.Refused {
		return t, step.Nothing("tag-image refused: %s", h.Reason)
	}
	if t.decision, err = readDecision(b, in); err != nil {
		return t, err
	}
	if in.Mode == modeResolved {
		t.chooser, err = readResolved(in.Resolved)
	} else {
		t.chooser = newScanner(ctx, b, in)
	}
	return t, err
}

// choose asks the policies that somebody follows what they choose.
func (p *plan) choose(set policy.Set, files []*file) (map[string]tracked, error) {
	all, err := p.selected(p.target.chooser.candidates(set))
	if err != nil {
		return nil, err
	}
	policies := map[string]tracked{}
	var asked []*candidate
	for _, c := range all {
		id := c.policy.ID()
		if !slices.Contains(p.subjects, c.repository.Image) && c.repository.Image != "" {
			p.subjects = append(p.subjects, c.repository.Image)
		}
		switch {
		case c.dangling:
			p.unmatched = append(p.unmatched, fmt.Sprintf("policy %s names ImageRepository %s:%s, which the config repo does not define",
				id, c.policy.RepositoryNamespace, c.policy.RepositoryName))
			policies[id] = tracked{id: id, policy: c.policy, defined: true, closed: "its ImageRepository is not defined"}
		case c.suspended != "":
			policies[id] = tracked{id: id, policy: c.policy, defined: true, closed: "the policy " + c.suspended}
			p.notes = append(p.notes, fmt.Sprintf("policy %s %s: its markers stay as they are", id, c.suspended))
		case !slices.ContainsFunc(files, func(f *file) bool { return f.names(id) }):
			p.unmatched = append(p.unmatched, "no marker names policy "+id)
		default:
			asked = append(asked, c)
		}
	}
	if err := p.target.chooser.choose(asked, p.barred); err != nil {
		return nil, err
	}
	decided := false
	for _, c := range asked {
		if c.nothing != "" {
			p.unmatched = append(p.unmatched, fmt.Sprintf("policy %s chooses nothing: %s", c.policy.ID(), c.nothing))
			policies[c.policy.ID()] = tracked{id: c.policy.ID(), policy: c.policy, defined: true, closed: c.nothing}
			continue
		}
		if c.doubt != "" {
			p.notes = append(p.notes, fmt.Sprintf("policy %s: %s", c.policy.ID(), c.doubt))
		}
		p.choices = append(p.choices, c.choice)
		t := p.targetOf(c)
		if p.in.RequireDecision && t.isRelease && p.target.decision == nil {
			return nil, step.Refuse("run gate-uat before bump-config in this build",
				"REQUIRE_DECISION is set, policy %s chooses %s, and gate-uat handed over no decision", c.policy.ID(), t.tag)
		}
		decided = decided || t.decision != nil
		policies[c.policy.ID()] = tracked{id: c.policy.ID(), policy: c.policy, defined: true, target: t}
	}
	if d := p.target.decision; d != nil && !decided {
		p.notes = append(p.notes, fmt.Sprintf("the gate of this build decided on %s of %s, which no policy chooses", d.Version, d.Image))
	}
	return policies, nil
}

// selected applies POLICIES and IMAGE.
func (p *plan) selected(all []*candidate) ([]*candidate, error) {
	image, where := p.in.Image.String(), "the config repo"
	if p.in.Mode == modeResolved {
		where = "RESOLVED"
	}
	for _, id := range p.in.Policies {
		i := slices.IndexFunc(all, func(c *candidate) bool { return c.policy.ID() == id })
		switch {
		case i < 0:
			return nil, step.Misconfigured("correct POLICIES", "POLICIES names %s, and %s has no ImagePolicy of that name", id, where)
		case image != "" && all[i].repository.Image != image:
			return nil, step.Misconfigured("correct POLICIES or IMAGE", "POLICIES names %s, whose image is %q, and IMAGE is %s", id, all[i].repository.Image, image)
		}
	}
	var list []*candidate
	for _, c := range all {
		if (image == "" || c.repository.Image == image) && (len(p.in.Policies) == 0 || slices.Contains(p.in.Policies, c.policy.ID())) {
			list = append(list, c)
		}
	}
	switch {
	case len(list) == 0 && image != "":
		p.unmatched = append(p.unmatched, fmt.Sprintf("%s has no ImagePolicy whose image is %s", where, image))
	case len(list) == 0:
		p.unmatched = append(p.unmatched, where+" has no ImagePolicy")
	}
	return list, nil
}

// targetOf is what the markers of a policy are to hold. The gate's decision counts for the version that it was made on; another release of
// the same image is somebody else's, and has not passed this gate.
func (p *plan) targetOf(c *candidate) target {
	tag := c.choice.Tag
	_, isBuild := release.ParseBuildTag(tag)
	t := target{image: c.choice.Image, tag: tag, digest: c.digest, isRelease: !isBuild, candidate: c.policy.Prerelease(tag)}
	switch d := p.target.decision; {
	case d == nil || isBuild:
	case d.Image == t.image && d.Version == tag:
		t.decision = d
	case d.Image == t.image:
		t.undecided = fmt.Sprintf("the gate of this build decided on %s, and the policy chooses %s", d.Version, tag)
	case p.in.RequireDecision:
		t.undecided = fmt.Sprintf("REQUIRE_DECISION is set, and the gate of this build decided on %s only", d.Image)
	}
	return t
}

// confirm asks what is behind the tag before it is written: a list that names a tag is no proof that it can be deployed. Where the tag
// stands already and nothing asks for its digest, nobody is asked.
func (p *plan) confirm(u *unit, fresh bool) error {
	if p.target.chooser == nil {
		return nil
	}
	if fresh && u.policy.target.digest == "" && !u.policy.policy.RefreshesDigest && !slices.ContainsFunc(u.markers, func(m marker.Marker) bool {
		switch m.Field {
		case marker.Digest:
			return m.Value == ""
		case marker.Reference:
			return u.policy.policy.ReflectsDigest && !strings.Contains(m.Value, "@")
		}
		return false
	}) {
		return nil
	}
	t := &u.policy.target
	if err := p.target.chooser.confirm(t); err != nil {
		return err
	}
	if t.decision != nil && t.digest != "" && t.digest != t.decision.Digest {
		return step.Refuse("find out who moved the tag, and run the build again from its first step",
			"the gate decided on digest %s of %s:%s, and it is %s now", t.decision.Digest, t.image, t.tag, t.digest)
	}
	return nil
}

// vanished reports, and remembers, that a tag in the repo is not in the list of its image any more, while what the policy chooses is not
// newer: somebody deleted it, or the list is incomplete. Going back is for a person to decide, with a hold on that tag or with
// ALLOW_DOWNGRADE. It returns what is wrong, or nothing.
func (p *plan) vanished(at Skip, u *unit, tags []string) string {
	t := u.policy
	if p.target.chooser == nil {
		return ""
	}
	for _, there := range tags {
		if there == "" || there == t.target.tag || !p.target.chooser.lacks(t.target.image, there) {
			continue
		}
		newer, err := t.compare(t.target.tag, there)
		if err == nil && newer > 0 {
			continue
		}
		if _, open := p.retreat(t.target.image, there, u.markers); open {
			continue
		}
		text := fmt.Sprintf("%s:%d: policy %s chooses %s, and %s, which is there, is not among the tags of %s", at.File, at.Line, t.id, t.target.tag, there, t.target.image)
		if p.in.AllowDowngrade {
			p.notes = append(p.notes, text)
			continue
		}
		p.gone = append(p.gone, text)
		return text
	}
	return ""
}

// write remembers that a target is written.
func (p *plan) write(t target) {
	if !slices.ContainsFunc(p.written, func(w target) bool { return w.image == t.image && w.tag == t.tag }) {
		p.written = append(p.written, t)
	}
}

// conclude ends a plan in which each policy had a target of its own.
func (p *plan) conclude() error {
	if p.target.chooser == nil {
		return nil
	}
	if len(p.gone) > 0 {
		p.edits = nil
		return step.Refuse("find out whether the tag was deleted or the list is incomplete; to go back on purpose, hold that tag or set ALLOW_DOWNGRADE=true",
			"a list of tags lacks what is in use, and nothing was written: %s", strings.Join(p.gone, "; "))
	}
	slices.SortFunc(p.written, func(a, b target) int {
		return strings.Compare(a.image+":"+a.tag, b.image+":"+b.tag)
	})
	all := target{}
	if len(p.written) == 1 {
		all = p.written[0]
	}
	all.chooser, all.key, all.elsewhere = p.target.chooser, p.target.key, p.target.elsewhere
	for _, t := range p.written {
		if t.decision != nil {
			all.decision = t.decision
		}
	}
	p.target = all
	return nil
}

// images lists what is written.
func (p *plan) images() []Image {
	if p.target.chooser == nil {
		return []Image{{p.target.image, p.target.tag, p.target.digest}}
	}
	var list []Image
	for _, t := range p.written {
		list = append(list, Image{t.image, t.tag, t.digest})
	}
	return list
}

// severalMessage is written when several tags change at once.
const severalMessage = `chore(images): {{range $i, $x := .Images}}{{if lt $i 3}}{{if $i}}, {{end}}{{base $x.Image}} {{$x.Tag}}{{else if eq $i 3}} and more{{end}}{{end}}

{{range .Images}}{{.Image}}:{{.Tag}}{{with .Digest}}@{{.}}{{end}}
{{end}}
` + messageBody

// defaultMessage is the template that is used when COMMIT_MESSAGE is unset.
func (p *plan) defaultMessage() string {
	if p.target.chooser != nil && len(p.written) != 1 {
		return severalMessage
	}
	return defaultMessage
}

// service is the name of what is delivered, for the commit message.
func (p *plan) service() string {
	switch {
	case p.in.Service != "" || p.in.Image != "":
		return p.in.service()
	case p.target.image != "":
		return path.Base(p.target.image)
	}
	return "images"
}

// subject is what the messages of this run are about.
func (p *plan) subject() string {
	if p.target.chooser != nil {
		return "what the policies choose"
	}
	return p.target.tag
}
