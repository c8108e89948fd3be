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
	// read says what a value, extracted from a tag, means; the error says why it means nothing to this order.
	read(value string) (meaning any, err error)
	// compare returns +1 when a is newer than b. Both come from read.
	compare(a, b any) int
	// within says why the order's own range does not hold the meaning.
	within(meaning any) error
}

// Admits reports whether the policy can choose the tag, and if not, why.
func (p Policy) Admits(tag string) (bool, string) {
	if _, err := p.admit(tag); err != nil {
		return false, err.Error()
	}
	return true, ""
}

// admit returns what a tag means that the policy can choose.
func (p Policy) admit(tag string) (any, error) {
	meaning, err := p.read(tag)
	if err == nil {
		err = p.order.within(meaning)
	}
	return meaning, err
}

func (p Policy) read(tag string) (any, error) {
	value, err := p.value(tag)
	if err != nil {
		return nil, err
	}
	return p.order.read(value)
}

// Compare returns +1 when tag a is newer than tag b, -1 when it is older, 0 when the policy finds them equal. Both may be outside the
// policy's range. The error says which of them the policy cannot compare at all.
func (p Policy) Compare(a, b string) (int, error) {
	left, err := p.read(a)
	if err != nil {
		return 0, err
	}
	right, err := p.read(b)
	if err != nil {
		return 0, err
	}
	return p.order.compare(left, right), nil
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
	var best any
	for _, tag := range tags {
		meaning, err := p.admit(tag)
		if err != nil {
			continue
		}
		newer := 1
		if c.Admitted++; c.Admitted > 1 {
			newer = p.order.compare(meaning, best)
		}
		switch {
		case newer > 0:
			c.Tag, c.Equal, best = tag, nil, meaning
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
		if meaning, err := v.read(value); err == nil {
			return meaning.(*semver.Version).Prerelease() != ""
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

// read reads a version as Flux does: three parts, an optional v, leading zeros allowed.
func (versions) read(value string) (any, error) {
	if strings.Count(value, ".") < 2 {
		return nil, fmt.Errorf("%q is not a version with three parts", value)
	}
	v, err := semver.NewVersion(value)
	if err != nil {
		return nil, fmt.Errorf("%q is not a version: %w", value, err)
	}
	return v, nil
}

func (versions) compare(a, b any) int { return a.(*semver.Version).Compare(b.(*semver.Version)) }

func (o versions) within(meaning any) error {
	if v := meaning.(*semver.Version); !o.constraint.Check(v) {
		return fmt.Errorf("%s is outside the range %q", v.Original(), o.text)
	}
	return nil
}

// numbers orders numerically. Flux compares floats, for which 19-digit times are equal; these are exact.
type numbers struct{ descending bool }

// number is a whole number as its digits, without leading zeros; any other one is a fraction.
type number struct {
	digits   string
	fraction *big.Rat
}

func (n number) exact() *big.Rat {
	if n.fraction != nil {
		return n.fraction
	}
	r, _ := new(big.Rat).SetString("0" + n.digits)
	return r
}

var decimal = regexp.MustCompile(`^[+-]?[0-9]+(\.[0-9]+)?$`)

func (numbers) read(value string) (any, error) {
	if value != "" && len(value) <= 256 && strings.Trim(value, "0123456789") == "" {
		return number{digits: strings.TrimLeft(value, "0")}, nil
	}
	if len(value) <= 256 && decimal.MatchString(value) {
		if r, ok := new(big.Rat).SetString(value); ok {
			return number{fraction: r}, nil
		}
	}
	return nil, fmt.Errorf("%q is not a number", value)
}

func (o numbers) compare(a, b any) int {
	left, right := a.(number), b.(number)
	if left.fraction != nil || right.fraction != nil {
		return turn(left.exact().Cmp(right.exact()), o.descending)
	}
	if n := cmp.Compare(len(left.digits), len(right.digits)); n != 0 {
		return turn(n, o.descending)
	}
	return turn(cmp.Compare(left.digits, right.digits), o.descending)
}

func (numbers) within(any) error { return nil }

// letters orders by bytes.
type letters struct{ descending bool }

func (letters) read(value string) (any, error) { return value, nil }

func (o letters) compare(a, b any) int {
	return turn(cmp.Compare(a.(string), b.(string)), o.descending)
}

func (letters) within(any) error { return nil }

func turn(n int, descending bool) int {
	if descending {
		return -n
	}
	return n
}
