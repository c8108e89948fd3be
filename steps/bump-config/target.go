package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/hold"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// target is what is to be written, and for whom.
type target struct {
	image, tag string
	digest     string             // empty when it is not known
	isRelease  bool               // a release or a candidate, not a build
	candidate  bool               // a pre-release
	decision   *accounts.Decision // the gate's; nil when no gate ran in this build
	undecided  string             // why the gate's decision, which is on another version of the image, keeps this one back
	chooser    chooser            // where each policy gets a target of its own from; nil when this one is for all
	key        gitrepo.SigningKey // signs the commit
	elsewhere  hold.List          // with PUSH_BRANCH: the holds of CONFIG_BRANCH
}

// digest is an image's digest.
type digest string

// tagPattern is the grammar of a tag (OCI distribution specification, "Pulling manifests").
var tagPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// UnmarshalText checks the digest.
func (d *digest) UnmarshalText(b []byte) error {
	if !registry.IsDigest(string(b)) {
		return fmt.Errorf("want sha256: and 64 hexadecimal digits")
	}
	*d = digest(b)
	return nil
}

// newTarget brings together what this step is told and what earlier steps of the build handed over. All must speak of one image: what the
// gate decided on is what is written, or nothing is.
func newTarget(ctx context.Context, b *step.Build, in In) (target, error) {
	if in.Mode != modeVersion {
		return newChooser(ctx, b, in)
	}
	t := target{image: in.Image.String(), tag: in.BuildTag, digest: string(in.Digest)}
	if !in.Version.IsZero() {
		t.tag, t.isRelease, t.candidate = in.Version.String(), true, in.Version.IsPrerelease()
	}
	if err := t.addDecision(b, in); err != nil {
		return t, err
	}
	if in.RequireDecision && t.isRelease && t.decision == nil {
		return t, step.Refuse("run gate-uat before bump-config in this build", "REQUIRE_DECISION is set, and gate-uat handed over no decision on %s", t.tag)
	}
	return t, t.addPushed(b)
}

// addDecision takes over the gate's decision, if there is one.
func (t *target) addDecision(b *step.Build, in In) error {
	d, err := readDecision(b, in)
	if err != nil || d == nil {
		return err
	}
	for _, member := range []struct{ name, decided, wanted string }{
		{"version", d.Version, t.tag}, {"image", d.Image, t.image}, {"digest", d.Digest, t.digest},
	} {
		if member.decided != member.wanted && (member.name != "digest" || member.wanted != "") {
			return step.Refuse(decisionAdvice, "the gate decided on %s %s, and this step is to write %s", member.name, member.decided, member.wanted)
		}
	}
	t.decision, t.digest = d, d.Digest
	return nil
}

const decisionAdvice = "run the build again from its first step: what the gate decided on is what is written"

// readDecision returns the gate's decision of this build, nil when no gate ran.
func readDecision(b *step.Build, in In) (*accounts.Decision, error) {
	h, ok, err := b.Handover("gate-uat")
	if err != nil || !ok {
		return nil, err
	}
	if h.Status == step.Refused {
		return nil, step.Nothing("gate-uat refused: %s", h.Reason)
	}
	d, err := accounts.ParseDecision(h.JSON)
	if err != nil {
		return nil, step.Refuse(decisionAdvice, "reading the decision of gate-uat: %w", err)
	}
	if !in.DecisionKey.IsZero() {
		if err := d.CheckSeal([]byte(in.DecisionKey.Reveal())); err != nil {
			return nil, step.Refuse(decisionAdvice, "reading the decision of gate-uat: %w", err)
		}
	}
	if d.Build != b.ID {
		return nil, step.Refuse(decisionAdvice, "the decision is of build %q, and this is build %q", d.Build, b.ID)
	}
	return &d, nil
}

// verifyTag asks the registry whether the tag still has the digest that the gate decided on. What is deployed is pinned to the digest, so a
// tag that was moved would not be delivered; but it is the sign of somebody who moves tags.
func (t target) verifyTag(ctx context.Context, in In) error {
	if t.decision == nil || !in.VerifyTag {
		return nil
	}
	const advice = "find out who moved the tag, and run the build again from its first step; a version keeps its digest for ever"
	d := t.decision
	image, found, err := registry.New(in.Insecure).Resolve(ctx, d.Image, d.Version)
	switch {
	case err != nil:
		return err
	case !found:
		return step.Refuse(advice, "the gate decided on %s:%s with digest %s, and the tag is gone", d.Image, d.Version, d.Digest)
	case image.Digest != d.Digest:
		return step.Refuse(advice, "the gate decided on %s:%s with digest %s, and the tag names %s now", d.Image, d.Version, d.Digest, image.Digest)
	}
	return nil
}

// addPushed takes over the digest that tag-image put the tag on, if it ran in this build. What it says of another image or tag is not ours.
func (t *target) addPushed(b *step.Build) error {
	h, ok, err := b.Handover("tag-image")
	if err != nil || !ok {
		return err
	}
	if h.Status == step.Refused {
		return step.Nothing("tag-image refused: %s", h.Reason)
	}
	var pushed struct {
		Image  string `json:"image"`
		Digest string `json:"digest"`
		Tags   []struct {
			Tag string `json:"tag"`
		} `json:"tags"`
	}
	if err := h.Decode(&pushed); err != nil {
		return fmt.Errorf("reading the hand-over of tag-image: %w", err)
	}
	ours := pushed.Image == t.image && slices.ContainsFunc(pushed.Tags, func(x struct {
		Tag string `json:"tag"`
	}) bool {
		return x.Tag == t.tag
	})
	switch {
	case !ours:
		return nil
	case !registry.IsDigest(pushed.Digest):
		return fmt.Errorf("reading the hand-over of tag-image: %q is not a digest", pushed.Digest)
	case t.digest != "" && t.digest != pushed.Digest:
		return step.Refuse("find out who moved the tag, and run the build again from its first step",
			"tag-image has %s:%s on digest %s, and %s is to be written", t.image, t.tag, pushed.Digest, t.digest)
	}
	t.digest = pushed.Digest
	return nil
}

// prepare reads the signing key, and the holds of the branch that counts when the commit goes to another one: what waits there for review
// may be older than the newest hold.
func (t *target) prepare(ctx context.Context, in In, remote gitrepo.Remote) error {
	var err error
	if t.key, err = gitrepo.ParseSigningKey(in.SigningKey); err != nil {
		return fmt.Errorf("reading SIGNING_KEY: %w", err)
	}
	if in.branch() == in.ConfigBranch {
		return nil
	}
	s, err := gitrepo.Open(ctx, remote, in.ConfigBranch)
	if err != nil {
		return err
	}
	t.elsewhere, err = in.readHolds(s)
	return err
}

// channel is the channel that the tag is for.
func (t target) channel() release.Channel {
	switch {
	case t.tag == "":
		return "" // several tags
	case !t.isRelease:
		return release.Staging
	case t.candidate:
		return release.UAT
	}
	return release.Production
}
