// Package policy knows which tags of an image qualify for a deployment, and which of two is the newer: Flux's ImagePolicy and
// ImageRepository objects, read from the config repo. bump-config decides with it what a marker's value becomes.
//
// The rules are Flux's (fluxcd/image-reflector-controller, internal/policy), so that the same tag is chosen with Flux and without it.
// Where Flux is random, this package is not: of two tags that a policy finds equal it takes the one whose text sorts first, and numbers
// are compared exactly and not as floats.
//
// The package is pure.
package policy

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// Repository is an ImageRepository: the image whose tags policies choose from.
type Repository struct {
	Namespace, Name string
	Image           string // spec.image: host/path, without a tag
	Suspended       bool   // spec.suspend: its tags are not to be listed

	exclude []*regexp.Regexp // spec.exclusionList
}

// ID is namespace:name.
func (r Repository) ID() string { return r.Namespace + ":" + r.Name }

// Keep returns the tags that the repository's exclusion list lets through, in their order.
func (r Repository) Keep(tags []string) []string {
	var kept []string
	for _, tag := range tags {
		if !slices.ContainsFunc(r.exclude, func(x *regexp.Regexp) bool { return x.MatchString(tag) }) {
			kept = append(kept, tag)
		}
	}
	return kept
}

// Policy is an ImagePolicy.
type Policy struct {
	Namespace, Name string
	// RepositoryNamespace and RepositoryName name the ImageRepository (spec.imageRepositoryRef).
	RepositoryNamespace, RepositoryName string
	Suspended                           bool // spec.suspend: its markers are not to be changed
	ReflectsDigest                      bool // spec.digestReflectionPolicy is IfNotPresent or Always: references get @digest
	RefreshesDigest                     bool // it is Always: the digest follows a tag that moves

	filter  *regexp.Regexp // spec.filterTags.pattern; nil admits all
	extract string         // spec.filterTags.extract: template for the part of the tag that is compared; empty: all of it
	order   order
}

// ID is namespace:name, as markers write it.
func (p Policy) ID() string { return p.Namespace + ":" + p.Name }

// order is one of the three ways to compare tags.
type order interface {
	// compare says how a and b, extracted from tags, relate; +1 when a is newer. The error says why one of them is not comparable.
	compare(a, b string) (int, error)
	// admits says whether the order's own range holds the value.
	admits(value string) error
}

// Admits reports whether the policy can choose the tag, and if not, why.
func (p Policy) Admits(tag string) (bool, string) {
	value, err := p.value(tag)
	if err == nil {
		err = p.order.admits(value)
	}
	if err != nil {
		return false, err.Error()
	}
	return true, ""
}

// Compare returns +1 when tag a is newer than tag b, -1 when it is older, 0 when the policy finds them equal. Both may be outside the
// policy's range. The error says which of them the policy cannot compare at all.
func (p Policy) Compare(a, b string) (int, error) {
	left, err := p.value(a)
	if err != nil {
		return 0, err
	}
	right, err := p.value(b)
	if err != nil {
		return 0, err
	}
	return p.order.compare(left, right)
}

// ErrNoTag says that a policy admits none of the tags.
var ErrNoTag = errors.New("no tag matches the policy")

// Choice is what a policy chooses from a list of tags.
type Choice struct {
	Tag      string
	Equal    []string // the other tags that the policy finds equal to Tag, sorted: of all these, Tag's text sorts first
	Admitted int      // how many tags of the list qualify
}

// Choose returns the newest of the tags that the policy admits, whatever their order. The error is [ErrNoTag] when there is none.
func (p Policy) Choose(tags []string) (Choice, error) {
	var c Choice
	for _, tag := range tags {
		if ok, _ := p.Admits(tag); !ok {
			continue
		}
		c.Admitted++
		if c.Admitted == 1 {
			c.Tag = tag
			continue
		}
		newer, err := p.Compare(tag, c.Tag)
		switch {
		case err != nil:
			return Choice{}, err
		case newer > 0:
			c.Tag, c.Equal = tag, nil
		case newer == 0 && tag < c.Tag:
			c.Tag, c.Equal = tag, append(c.Equal, c.Tag)
		case newer == 0 && tag != c.Tag:
			c.Equal = append(c.Equal, tag)
		}
	}
	if c.Admitted == 0 {
		return c, ErrNoTag
	}
	slices.Sort(c.Equal)
	c.Equal = slices.Compact(c.Equal)
	return c, nil
}

// Prerelease reports whether the policy takes a tag for a pre-release: a version with a suffix, where it orders by versions; elsewhere only
// the tag of a release candidate as this suite writes it (v1.2.3-rc.1), because a suffix means nothing to the other orders.
func (p Policy) Prerelease(tag string) bool {
	if v, ok := p.order.(versions); ok {
		value, err := p.value(tag)
		if err != nil {
			value = tag
		}
		if parsed, err := v.parse(value); err == nil {
			return parsed.Prerelease() != ""
		}
	}
	v, err := semver.StrictNewVersion(strings.TrimPrefix(tag, "v"))
	return err == nil && strings.HasPrefix(tag, "v") && v.Prerelease() != ""
}

// value applies the filter to a tag and returns the part that is compared.
func (p Policy) value(tag string) (string, error) {
	if p.filter == nil {
		return tag, nil
	}
	match := p.filter.FindStringSubmatchIndex(tag) // Flux searches: a pattern is anchored only where it says so
	if match == nil {
		return "", fmt.Errorf("tag %q does not match the filter %s", tag, p.filter)
	}
	if p.extract == "" {
		return tag, nil
	}
	return string(p.filter.ExpandString(nil, p.extract, tag, match)), nil
}

// versions orders by SemVer, within a range.
type versions struct {
	text       string
	constraint *semver.Constraints
}

func newVersions(text string) (versions, error) {
	c, err := semver.NewConstraint(text)
	if err != nil {
		return versions{}, fmt.Errorf("semver range %q: %w", text, err)
	}
	return versions{text, c}, nil
}

// parse reads a version as Flux does: three parts, an optional v, leading zeros allowed.
func (versions) parse(value string) (*semver.Version, error) {
	if strings.Count(value, ".") < 2 {
		return nil, fmt.Errorf("%q is not a version with three parts", value)
	}
	v, err := semver.NewVersion(value)
	if err != nil {
		return nil, fmt.Errorf("%q is not a version: %w", value, err)
	}
	return v, nil
}

func (o versions) compare(a, b string) (int, error) {
	return compareParsed(o.parse, a, b, (*semver.Version).Compare)
}

func (o versions) admits(value string) error {
	v, err := o.parse(value)
	if err != nil {
		return err
	}
	if !o.constraint.Check(v) {
		return fmt.Errorf("%s is outside the range %q", value, o.text)
	}
	return nil
}

// numbers orders numerically. Flux compares floats, for which 19-digit times are equal; these are exact.
type numbers struct{ descending bool }

var decimal = regexp.MustCompile(`^[+-]?[0-9]+(\.[0-9]+)?$`)

func (numbers) parse(value string) (*big.Rat, error) {
	n, ok := new(big.Rat), decimal.MatchString(value)
	if ok && len(value) <= 256 {
		_, ok = n.SetString(value)
	}
	if !ok || len(value) > 256 {
		return nil, fmt.Errorf("%q is not a number", value)
	}
	return n, nil
}

func (o numbers) compare(a, b string) (int, error) {
	n, err := compareParsed(o.parse, a, b, (*big.Rat).Cmp)
	return turn(n, o.descending), err
}

func (o numbers) admits(value string) error {
	_, err := o.parse(value)
	return err
}

// letters orders by bytes.
type letters struct{ descending bool }

func (o letters) compare(a, b string) (int, error) { return turn(cmp.Compare(a, b), o.descending), nil }

func (letters) admits(string) error { return nil }

// compareParsed compares what two values mean; the error is about the first that means nothing.
func compareParsed[T any](parse func(string) (T, error), a, b string, compare func(T, T) int) (int, error) {
	left, err := parse(a)
	if err != nil {
		return 0, err
	}
	right, err := parse(b)
	if err != nil {
		return 0, err
	}
	return compare(left, right), nil
}

func turn(n int, descending bool) int {
	if descending {
		return -n
	}
	return n
}
