package release

import "fmt"

// Bump is how much of a version a change raises. Bumps are ordered: the bump of several changes is the largest of theirs.
type Bump int

// The bumps, smallest first.
const (
	None Bump = iota
	Patch
	Minor
	Major
)

var bumpNames = [...]string{"none", "patch", "minor", "major"}

// String returns none, patch, minor or major.
func (b Bump) String() string {
	if b < None || b > Major {
		return fmt.Sprintf("Bump(%d)", int(b))
	}
	return bumpNames[b]
}

// MarshalText implements encoding.TextMarshaler.
func (b Bump) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads none, patch, minor or major. It implements encoding.TextUnmarshaler.
func (b *Bump) UnmarshalText(text []byte) error {
	for i, name := range bumpNames {
		if string(text) == name {
			*b = Bump(i)
			return nil
		}
	}
	return fmt.Errorf("%.40q is not a bump: want none, patch, minor or major", text)
}

// Raise returns the final release that follows the final release v by one change of size b; v itself for [None]. SemVer's section 4 lets
// anything change below v1.0.0: with zeroMajor, breaking changes there raise the minor number, so that v1.0.0 is only ever a decision of
// people and never the outcome of a commit.
func (v Version) Raise(b Bump, zeroMajor bool) Version {
	v = v.Core()
	if b == Major && zeroMajor && v.major == 0 {
		b = Minor
	}
	switch b {
	case Major:
		return New(v.major+1, 0, 0)
	case Minor:
		return New(v.major, v.minor+1, 0)
	case Patch:
		return New(v.major, v.minor, v.patch+1)
	default:
		return v
	}
}

// Between returns the size of the step from one version to a newer one: the leftmost number that differs. Candidates count as the release
// that they announce. It is [None] when to's core is not newer.
func Between(from, to Version) Bump {
	from, to = from.Core(), to.Core()
	switch {
	case !from.Less(to):
		return None
	case from.major != to.major:
		return Major
	case from.minor != to.minor:
		return Minor
	default:
		return Patch
	}
}
