package commits

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/release"
)

// Rules say which types of change raise which number of a version. Breaking changes always raise the major number, whatever their type;
// types that are not listed raise nothing.
type Rules struct {
	Minor []string // types that raise the minor number, in lower case
	Patch []string // types that raise the patch number, in lower case
	// Min is what a range with any commit in it raises at least, conventional or not.
	Min release.Bump
}

// DefaultRules are the suite's: features are minor, fixes and chores patch, and documentation, tests or build files release nothing.
func DefaultRules() Rules {
	return Rules{Minor: []string{"feat"}, Patch: []string{"fix", "chore", "perf", "revert"}}
}

var typeName = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)

// CheckTypes reports the first of the names that cannot be a type of a conventional commit.
func CheckTypes(names []string) error {
	for _, n := range names {
		if !typeName.MatchString(n) {
			return fmt.Errorf("%.40q cannot be the type of a commit: want lower-case letters, digits and hyphens", n)
		}
	}
	return nil
}

// Bump returns how much one message raises, without regard to Min.
func (r Rules) Bump(m Message) release.Bump {
	switch {
	case !m.Conventional():
		return release.None
	case m.Breaking:
		return release.Major
	case slices.Contains(r.Minor, m.Type):
		return release.Minor
	case slices.Contains(r.Patch, m.Type):
		return release.Patch
	default:
		return release.None
	}
}

// BumpAll returns how much a range of commits raises: one bump for all of them, the largest, and at least Min when there is a commit.
func (r Rules) BumpAll(list []Commit) release.Bump {
	bump := release.None
	for _, c := range list {
		if !c.Reverted {
			bump = max(bump, r.Bump(c.Message), r.Min)
		}
	}
	return bump
}

// Deciding returns the commits that raise as much as the whole range does; none when that is nothing, or when only Min raises it.
func (r Rules) Deciding(list []Commit) []Commit {
	bump := r.BumpAll(list)
	var deciding []Commit
	for _, c := range list {
		if !c.Reverted && bump > release.None && r.Bump(c.Message) == bump {
			deciding = append(deciding, c)
		}
	}
	return deciding
}

// Unread returns the commits whose messages do not follow the convention, so that they release nothing whatever they change. Merges are
// left out: what they brought in counts.
func Unread(list []Commit) []Commit {
	var unread []Commit
	for _, c := range list {
		if !c.Reverted && !c.Message.Conventional() && !isMerge(c.Message.Subject) {
			unread = append(unread, c)
		}
	}
	return unread
}

// Commit is a commit with the message it has.
type Commit struct {
	ID      ID
	Message Message
	// Reverted says that the commit and another of the same range undo each other, see [Cancel]. It raises nothing and is in no notes.
	Reverted bool
}

// isMerge recognises the messages that git and hosting services write for merges. Nobody is asked to make them conventional.
func isMerge(subject string) bool {
	return strings.HasPrefix(subject, "Merge branch ") || strings.HasPrefix(subject, "Merge pull request ") || strings.HasPrefix(subject, "Merge tag ") ||
		strings.HasPrefix(subject, "Merge remote-tracking branch ") || strings.HasPrefix(subject, "Merge commit ")
}
