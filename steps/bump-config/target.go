package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
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
}

// digest is an image's digest.
type digest string

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// UnmarshalText checks the digest.
func (d *digest) UnmarshalText(b []byte) error {
	if !digestPattern.Match(b) {
		return fmt.Errorf("want sha256: and 64 hexadecimal digits")
	}
	*d = digest(b)
	return nil
}

// newTarget brings together what this step is told and what earlier steps of the build handed over. All must speak of one image: what the
// gate decided on is what is written, or nothing is.
func newTarget(b *step.Build, in In) (target, error) {
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
	h, ok, err := b.Handover("gate-uat")
	if err != nil || !ok {
		return err
	}
	if h.Status == step.Refused {
		return step.Nothing("gate-uat refused: %s", h.Reason)
	}
	const advice = "run the build again from its first step: what the gate decided on is what is written"
	d, err := accounts.ParseDecision(h.JSON)
	if err != nil {
		return step.Refuse(advice, "reading the decision of gate-uat: %w", err)
	}
	if !in.DecisionKey.IsZero() {
		if err := d.CheckSeal([]byte(in.DecisionKey.Reveal())); err != nil {
			return step.Refuse(advice, "reading the decision of gate-uat: %w", err)
		}
	}
	if d.Build != b.ID {
		return step.Refuse(advice, "the decision is of build %q, and this is build %q", d.Build, b.ID)
	}
	for _, member := range []struct{ name, decided, wanted string }{
		{"version", d.Version, t.tag}, {"image", d.Image, t.image}, {"digest", d.Digest, t.digest},
	} {
		if member.decided != member.wanted && (member.name != "digest" || member.wanted != "") {
			return step.Refuse(advice, "the gate decided on %s %s, and this step is to write %s", member.name, member.decided, member.wanted)
		}
	}
	t.decision, t.digest = &d, d.Digest
	return nil
}

// verifyTag asks the registry whether the tag still has the digest that the gate decided on. What is deployed is pinned to the digest, so a
// tag that was moved would not be delivered; but it is the sign of somebody who moves tags.
func (t target) verifyTag(ctx context.Context, in In) error {
	if t.decision == nil || !in.VerifyTag {
		return nil
	}
	const advice = "find out who moved the tag, and run the build again from its first step; a version keeps its digest for ever"
	image, found, err := registry.New(in.Insecure).Resolve(ctx, t.image, t.tag)
	switch {
	case err != nil:
		return err
	case !found:
		return step.Refuse(advice, "the gate decided on %s:%s with digest %s, and the tag is gone", t.image, t.tag, t.decision.Digest)
	case image.Digest != t.decision.Digest:
		return step.Refuse(advice, "the gate decided on %s:%s with digest %s, and the tag names %s now", t.image, t.tag, t.decision.Digest, image.Digest)
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
	case !digestPattern.MatchString(pushed.Digest):
		return fmt.Errorf("reading the hand-over of tag-image: %q is not a digest", pushed.Digest)
	case t.digest != "" && t.digest != pushed.Digest:
		return step.Refuse("find out who moved the tag, and run the build again from its first step",
			"tag-image has %s:%s on digest %s, and %s is to be written", t.image, t.tag, pushed.Digest, t.digest)
	}
	t.digest = pushed.Digest
	return nil
}

// channel is the channel that the tag is for.
func (t target) channel() release.Channel {
	switch {
	case !t.isRelease:
		return release.Staging
	case t.candidate:
		return release.UAT
	}
	return release.Production
}

// reference is the image with its tag, and its digest when pinned.
func (t target) reference(pinned bool) string {
	if pinned {
		return t.image + ":" + t.tag + "@" + t.digest
	}
	return t.image + ":" + t.tag
}

// tagOf returns the tag in a reference, "" when it has none.
func tagOf(reference string) string {
	reference, _, _ = strings.Cut(reference, "@")
	i := strings.LastIndexByte(reference, ':')
	if i < strings.LastIndexByte(reference, '/') {
		return "" // the port of the registry
	}
	return reference[i+1:]
}
