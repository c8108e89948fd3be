package release

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// TrunkPattern is what the image policy of the staging deployments selects (Flux, ImagePolicy.spec.filterTags.pattern). Only builds of the
// trunk match it, whatever other branches are called.
const TrunkPattern = `^main-[a-f0-9]+-(?P<ts>[0-9]+)$`

// trunk is the first part of the trunk's build tags. It is fixed: a repository whose main branch is called "master" has the same tags, so
// that one policy serves all.
const trunk = "main"

// BuildTag is the image tag of a build of a branch: main-4f2a91c03b7d-1764000000. It names the commit, so that a rebuild has the same tag,
// and a time that never falls along the branch, so that a policy can find the newest.
type BuildTag struct {
	// Branch is empty for the trunk, else the name of the branch. Read back from a tag, it is the spelling that the tag has.
	Branch string
	// Commit is the commit's id, or its first digits: 7 to 40 of them, lower case.
	Commit string
	// Unix is the commit's time, corrected for clock skew, in seconds since 1970. It is not negative.
	Unix int64
}

// String returns the tag, which is valid for registries and at most 128 characters long.
//
// The trunk's tags match [TrunkPattern]. The tags of other branches begin with the branch's name: release-v1.42.2-4f2a91c03b7d-1764000000.
// What a tag cannot hold becomes a hyphen, and a name that is long is cut. The tags of a branch never begin with "main-", and they are not
// versions, not even for a loose parser: names like "main-2" and "v2.0" get "branch-" in front. A name that was altered is followed by
// eight digits of its SHA-256 sum, so that "fix/a" and "fix-a" stay apart.
func (t BuildTag) String() string {
	tail := "-" + t.Commit + "-" + strconv.FormatInt(t.Unix, 10)
	if t.Branch == "" {
		return trunk + tail
	}
	return spell(t.Branch, maxTag-len(tail)) + tail
}

var (
	// unfit is every run of bytes that a tag cannot hold. Branch names are bytes, not text, so it works on bytes as well.
	unfit = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)
	// reserved is what the name of a branch may not begin with in a tag: the trunk's name, a version in any spelling, and the two
	// characters that no tag begins with.
	reserved = regexp.MustCompile(`^(?:main(?:-|$)|[vV]?[0-9]|[.-])`)
)

// spell writes the name of a branch with the characters of a tag, in at most limit characters. It leaves alone what it has written once.
func spell(branch string, limit int) string {
	s := unfit.ReplaceAllString(branch, "-")
	if reserved.MatchString(s) {
		s = "branch-" + strings.TrimLeft(s, ".-")
	}
	if s == branch && len(s) <= limit {
		return s
	}
	sum := sha256.Sum256([]byte(branch))
	mark := "-" + hex.EncodeToString(sum[:4])
	return s[:min(len(s), limit-len(mark))] + mark
}

var buildTag = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9_.-]*)-([a-f0-9]{7,40})-(0|[1-9][0-9]{0,17})$`)

// ParseBuildTag reads what [BuildTag.String] writes. It reports false for every other tag, releases among them.
func ParseBuildTag(tag string) (BuildTag, bool) {
	m := buildTag.FindStringSubmatch(tag)
	if m == nil || len(tag) > maxTag {
		return BuildTag{}, false
	}
	unix, err := strconv.ParseInt(m[3], 10, 64)
	if err != nil {
		return BuildTag{}, false
	}
	t := BuildTag{Branch: m[1], Commit: m[2], Unix: unix}
	if t.Branch == trunk {
		t.Branch = ""
	}
	return t, t.String() == tag
}

var commitID = regexp.MustCompile(`^[a-f0-9]{7,40}$`)

// Check reports why t cannot be written as a tag: an id that is not 7 to 40 lower-case hexadecimal digits, or a time before 1970 or beyond
// the 18 digits that are read back.
func (t BuildTag) Check() error {
	if !commitID.MatchString(t.Commit) {
		return fmt.Errorf("commit id %.50q: want 7 to 40 lower-case hexadecimal digits", t.Commit)
	}
	if t.Unix < 0 || t.Unix >= 1e18 {
		return fmt.Errorf("commit time %d is out of range", t.Unix)
	}
	return nil
}
