// Package release holds the versions of a service: what a release tag is, what the tag of a build looks like, and which version comes next.
//
// Every step speaks of versions, and each of them decides something from one: whether a tag may be written, who may receive it, which of
// two is newer. Loose parsers read "v2", "v02.0.0" and "v2.0.0+build.5" as final releases and a look-alike dash as part of a name, so a
// typing mistake could reach production. This package is the one place where text becomes a [Version], and it accepts one spelling only.
//
// The package is pure: no clock, no environment, no repository. compute-version feeds it the tags and the bump of a history; tag-image,
// gate-uat, bump-config, rollback-version and restore-version use [Version] and [BuildTag].
package release

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/Masterminds/semver/v3"
)

// maxTag is the longest tag that a registry takes (OCI distribution specification, "Pulling manifests": [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}).
// A version is the tag of an image, so it is the longest version, too.
const maxTag = 128

// Version is a release or a release candidate: the tag v2.0.0-rc.1. It is strict SemVer 2.0.0 after exactly one "v", and it never holds
// build metadata. Its zero value means that there is no version. Versions may be compared with == and used as keys of a map: two
// versions are equal if and only if their tags are.
type Version struct {
	major, minor, patch uint64
	pre                 string // without the leading dash
	given               bool   // tells v0.0.0 from no version
}

// Parse reads a release tag such as v1.42.0 or v2.0.0-rc.1. The error says which rule the tag breaks and how it is spelled right.
func Parse(tag string) (Version, error) {
	if err := checkSpelling(tag); err != nil {
		return Version{}, err
	}
	s, err := semver.StrictNewVersion(tag[1:])
	if err != nil {
		return Version{}, refuseTag(tag, "is not SemVer 2.0.0 (%s)", err)
	}
	return Version{s.Major(), s.Minor(), s.Patch(), s.Prerelease(), true}, nil
}

// New returns the final release vMAJOR.MINOR.PATCH.
func New(major, minor, patch uint64) Version { return Version{major, minor, patch, "", true} }

// refuseTag makes an error of the shape `tag "v2" …`. A tag is untrusted and may be long: it is quoted and cut.
func refuseTag(tag, format string, args ...any) error {
	return fmt.Errorf("tag %.100q %s", tag, fmt.Sprintf(format, args...))
}

// dashes look like the hyphen that SemVer wants. Text processors and chat programs put them in its place, and "v2.0.0–rc.1" must not be
// anything but an error: a reader that drops what it does not know would take it for a final release.
var dashes = map[rune]string{
	'\u00ad': "soft hyphen", '\u2010': "hyphen", '\u2011': "non-breaking hyphen", '\u2012': "figure dash", '\u2013': "en dash", '\u2014': "em dash",
	'\u2015': "horizontal bar", '\u2212': "minus sign", '\ufe58': "small em dash", '\ufe63': "small hyphen-minus", '\uff0d': "full-width hyphen-minus",
}

// checkSpelling finds what a strict parser would only call invalid. It looks for the mistakes that people make, in the order in which one
// wants to hear of them; the SemVer parser has the last word after it.
func checkSpelling(tag string) error {
	if tag == "" {
		return fmt.Errorf("an empty tag is no version: want one such as v1.42.0 or v2.0.0-rc.1")
	}
	for i, r := range tag {
		switch name, dash := dashes[r]; {
		case dash:
			return refuseTag(tag, "holds a look-alike dash (%s, U+%04X): type the plain hyphen \"-\"", name, r)
		case r == utf8.RuneError || r > unicode.MaxASCII:
			return refuseTag(tag, "holds a character outside ASCII at byte %d (U+%04X)", i, r)
		case unicode.IsSpace(r) || unicode.IsControl(r):
			return refuseTag(tag, "holds white space or a control character at byte %d", i)
		}
	}
	body := strings.TrimPrefix(tag, "v")
	switch {
	case len(tag) > maxTag:
		return refuseTag(tag, "is %d characters long: a registry takes at most %d", len(tag), maxTag)
	case tag[0] == '$':
		return refuseTag(tag, "is a substitution that nobody filled in")
	case strings.ContainsRune(tag, '/'):
		return refuseTag(tag, "holds a slash: want the tag alone, such as v1.42.0 (of a component's tag, compute-version with TAG_PREFIX finds it)")
	case tag[0] == 'V':
		return refuseTag(tag, "begins with a capital V: write %q", "v"+tag[1:])
	case body == tag && tag[0] >= '0' && tag[0] <= '9':
		return refuseTag(tag, "has no leading v: write %q", "v"+tag)
	case body == tag:
		return refuseTag(tag, "is not a version: want v, then three numbers, such as v1.42.0")
	case strings.HasPrefix(body, "v"), strings.HasPrefix(body, "V"):
		return refuseTag(tag, "begins with more than one v")
	case strings.ContainsRune(body, '+'):
		return refuseTag(tag, "has build metadata (%q): an image tag cannot hold a \"+\", and SemVer gives it no order", body[strings.IndexByte(body, '+'):])
	}
	core, pre, hasPre := strings.Cut(body, "-")
	numbers := strings.Split(core, ".")
	for _, n := range numbers {
		if err := checkNumber(tag, n, "number"); err != nil {
			return err
		}
	}
	switch {
	case len(numbers) < 3:
		return refuseTag(tag, "is loose: it has %d of the three numbers MAJOR.MINOR.PATCH", len(numbers))
	case len(numbers) > 3:
		return refuseTag(tag, "has %d numbers: want the three MAJOR.MINOR.PATCH", len(numbers))
	}
	if !hasPre {
		return nil
	}
	for id := range strings.SplitSeq(pre, ".") {
		if id == "" {
			return refuseTag(tag, "has an empty identifier after the hyphen: write -rc.1")
		}
		if !isNumeric(id) {
			continue // letters: the parser checks the alphabet
		}
		// The specification sets no upper limit, but readers that sort tags (Flux, for one) compare larger ones as text.
		if err := checkNumber(tag, id, "pre-release number"); err != nil {
			return err
		}
	}
	return nil
}

func checkNumber(tag, n, what string) error {
	if n == "" {
		return refuseTag(tag, "is missing a %s between its dots", what)
	}
	if !isNumeric(n) {
		return refuseTag(tag, "has %q where SemVer wants a %s", n, what)
	}
	if len(n) > 1 && n[0] == '0' {
		return refuseTag(tag, "has the %s %s with a leading zero", what, n)
	}
	if _, err := strconv.ParseInt(n, 10, 64); err != nil { // one bit less than is held, so that the next number exists
		return refuseTag(tag, "has the %s %s, which is too large", what, n)
	}
	return nil
}

func isNumeric(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// String returns the tag, with its v; the empty string for the zero Version.
func (v Version) String() string {
	if !v.given {
		return ""
	}
	b := make([]byte, 0, 32)
	b = append(b, 'v')
	b = strconv.AppendUint(b, v.major, 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, v.minor, 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, v.patch, 10)
	if v.pre != "" {
		b = append(b, '-')
		b = append(b, v.pre...)
	}
	return string(b)
}

// UnmarshalText reads a release tag, as [Parse] does. It refuses empty text: a version that is missing must never be taken for a final
// one, so what may be missing has to be said where it is read. It implements encoding.TextUnmarshaler.
func (v *Version) UnmarshalText(b []byte) error {
	p, err := Parse(string(b))
	if err != nil {
		return err
	}
	*v = p
	return nil
}

// MarshalText returns [Version.String]; for the zero Version that is empty text, which [Version.UnmarshalText] refuses. It implements
// encoding.TextMarshaler.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// IsZero reports whether there is no version. v0.0.0 is one.
func (v Version) IsZero() bool { return !v.given }

// IsPrerelease reports whether v is older than the release that it announces: v2.0.0-rc.1, or any other text after a hyphen.
func (v Version) IsPrerelease() bool { return v.pre != "" }

// Prerelease returns what follows the hyphen: "rc.1" of v2.0.0-rc.1, the empty string of a final release.
func (v Version) Prerelease() string { return v.pre }

// Core returns the final release that v announces: v2.0.0 of v2.0.0-rc.1; v itself when it is final.
func (v Version) Core() Version {
	v.pre = ""
	return v
}

// Candidate takes a candidate apart: "rc", 1 and true of v2.0.0-rc.1. It reports false for a final release, and for a pre-release that is
// not a word and a number: those belong to no series that could be continued.
func (v Version) Candidate() (series string, n uint64, ok bool) {
	series, number, found := strings.Cut(v.pre, ".")
	if !found || isNumeric(series) || !isNumeric(number) {
		return "", 0, false
	}
	n, err := strconv.ParseUint(number, 10, 64)
	return series, n, err == nil
}

// WithCandidate returns the n-th candidate of v's core in a series: v2.0.0-rc.1 for "rc" and 1. The series must be a word that SemVer
// allows as an identifier and that is not a number, see [CheckSeries].
func (v Version) WithCandidate(series string, n uint64) Version {
	v.pre = series + "." + strconv.FormatUint(n, 10)
	return v
}

// CheckSeries reports why s cannot name a series of candidates. "rc" can.
func CheckSeries(s string) error {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyz") != "" || s == "" || len(s) > 20 {
		return fmt.Errorf("%.40q cannot name a series of candidates: want lower-case letters, such as rc", s)
	}
	return nil
}

// Compare returns -1, 0 or +1 as v is older than, the same as, or newer than o (SemVer 2.0.0, section 11). The zero Version is older than
// every other.
func (v Version) Compare(o Version) int {
	if !v.given || !o.given {
		return cmp.Compare(btoi(v.given), btoi(o.given))
	}
	return cmp.Or(cmp.Compare(v.major, o.major), cmp.Compare(v.minor, o.minor), cmp.Compare(v.patch, o.patch), comparePre(v.pre, o.pre))
}

// Less reports whether v is older than o.
func (v Version) Less(o Version) bool { return v.Compare(o) < 0 }

// Equal reports whether v and o are the same version. It exists for comparers that look for a method of this name.
func (v Version) Equal(o Version) bool { return v == o }

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// comparePre orders what follows the hyphen (SemVer 2.0.0, section 11.3 and 11.4).
func comparePre(a, b string) int {
	if a == "" || b == "" {
		return cmp.Compare(btoi(a == ""), btoi(b == "")) // a final release is newer than its candidates
	}
	for a != "" && b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, ".")
		y, b, _ = strings.Cut(b, ".")
		if x == y {
			continue
		}
		switch m, n := isNumeric(x), isNumeric(y); {
		case m && n:
			return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)) // no leading zeros: the longer one is larger
		case m != n:
			return cmp.Compare(btoi(n), btoi(m)) // numbers are lower than words
		default:
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(btoi(a != ""), btoi(b != "")) // the longer list is newer when all before is equal
}

// Channel is where a version is delivered: every account that its channel reaches may receive it.
type Channel string

// The channels. Staging runs builds, not releases.
const (
	Staging    Channel = "staging"
	UAT        Channel = "uat"
	Production Channel = "production"
)

// Channel returns the channel of v: a candidate is for UAT accounts, a final release for production, and what has no version has only
// ever been built, so it goes no further than staging.
func (v Version) Channel() Channel {
	switch {
	case v.IsZero():
		return Staging
	case v.IsPrerelease():
		return UAT
	default:
		return Production
	}
}
