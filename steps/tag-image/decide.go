package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
)

// plan is what will be under the tags.
type plan struct {
	repository string
	image      registry.Image
	tags       []Tagged
	adopted    string // the tag that image was found under, when it is not the one that was asked for
}

// creates reports whether anything has to be written.
func (p plan) creates() bool {
	return slices.ContainsFunc(p.tags, func(t Tagged) bool { return t.State == registry.Created })
}

// conflictError says that two tags that are both kept are on different images, so that no image can have all tags.
type conflictError struct{ repository, first, second, firstDigest, secondDigest string }

func (e *conflictError) Error() string {
	return fmt.Sprintf("%s has different images under the tags that are kept: %s is %s, %s is %s",
		e.repository, e.first, e.firstDigest, e.second, e.secondDigest)
}

// rolledBackError says that a tag was deleted, from the very image that is to have it again. A build that runs a second time must not undo a
// roll back: where Flux follows the tags of the registry, the tag alone would.
type rolledBackError struct {
	repository string
	stone      registry.Tombstone
}

func (e *rolledBackError) Error() string {
	return fmt.Sprintf("%s: %v; only restore-version puts its tag on again", e.repository, e.stone)
}

// decide compares what is under the tags with the image that was asked for. All tags of one call end up on one image: a tag that is kept
// makes its image that one.
func decide(repository string, tags []string, keeps func(tag string) bool, looks map[string]registry.Look, asked registry.Image) (plan, error) {
	p := plan{repository: repository, image: asked}
	for _, tag := range tags {
		if have := looks[tag]; have.Exists && keeps(tag) && have.Digest != asked.Digest {
			p.image, p.adopted = have.Image, tag
		}
	}
	for _, tag := range tags {
		have := looks[tag]
		switch {
		case !have.Exists && !have.Free(p.image.Digest):
			return plan{}, &registry.DeletedError{Repository: repository, Tombstone: have.Stone, Want: p.image.Digest}
		case !have.Exists && have.Deleted:
			return plan{}, &rolledBackError{repository, have.Stone}
		case !have.Exists:
			p.tags = append(p.tags, Tagged{tag, registry.Created})
		case have.Digest == p.image.Digest:
			p.tags = append(p.tags, Tagged{tag, registry.Kept})
		case keeps(tag): // and another kept tag is on another image
			return plan{}, &conflictError{repository, p.adopted, tag, p.image.Digest, have.Digest}
		default:
			return plan{}, &registry.TagTakenError{Repository: repository, Tag: tag, Have: have.Digest, Want: p.image.Digest}
		}
	}
	return p, nil
}

var (
	// movingTags are expected to move, which no tag of this suite does.
	movingTags = []string{
		"latest", "stable", "current", "edge", "nightly", "canary", "beta", "alpha", "next", "main", "master", "trunk", "head", "develop", "dev",
		"test", "staging", "uat", "prod", "production", "release", "live",
	}
	looseNumber = regexp.MustCompile(`^[0-9]{1,4}$`)
	likeVersion = regexp.MustCompile(`^(?:[vV][0-9]|[0-9]+\.[0-9])`)
)

// checkTag refuses what can be no tag, tags that are expected to move, and versions that are spelled loosely.
func checkTag(tag string) error {
	switch {
	case !registry.IsTag(tag):
		return fmt.Errorf("%.150q cannot be a tag: want letters, digits, underscores, dots and hyphens, at most 128 of them", tag)
	case registry.IsTombstoneTag(tag):
		return fmt.Errorf("%q is kept for the memory of a deleted tag", tag)
	case slices.Contains(movingTags, strings.ToLower(tag)), looseNumber.MatchString(tag):
		return fmt.Errorf("%q is a tag that is expected to move, and a tag never moves here", tag)
	case likeVersion.MatchString(tag):
		if _, err := release.Parse(tag); err != nil {
			return fmt.Errorf("%w", err)
		}
	}
	return nil
}

// ofCommit lists the build tags among tags that name the commit.
func ofCommit(tags []string, commit string) []string {
	var list []string
	for _, tag := range tags {
		if t, ok := release.ParseBuildTag(tag); ok && strings.HasPrefix(commit, t.Commit) {
			list = append(list, tag)
		}
	}
	slices.Sort(list)
	return list
}

// isPath tells a file or folder from a tag or digest, by its spelling alone, so that the meaning of SOURCE does not depend on what lies about.
func isPath(source string) bool {
	if _, _, ok := elsewhere(source); ok {
		return false
	}
	return strings.Contains(source, "/") || strings.HasSuffix(source, ".tar") || source == "." || source == ".."
}

var reference = regexp.MustCompile(`^((?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::[0-9]+)?|[A-Za-z0-9-]+:[0-9]+|localhost)/[a-z0-9._/-]+)(?:@(sha256:[0-9a-f]{64})|:([A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))$`)

// elsewhere reads an image of any repository: host/path@digest or host/path:tag, where the host has a dot or a port, or is localhost.
func elsewhere(source string) (repository, tagOrDigest string, ok bool) {
	m := reference.FindStringSubmatch(source)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2] + m[3], true
}

// unique drops repeated words and keeps the order.
func unique(words []string) []string {
	var list []string
	for _, w := range words {
		if !slices.Contains(list, w) {
			list = append(list, w)
		}
	}
	return list
}
