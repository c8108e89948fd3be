package release

import (
	"regexp"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"
)

const sha = "4f2a91c03b7d5e6f708192a3b4c5d6e7f8091a2b"

func TestBuildTagsOfTheTrunkHaveTheFormThatPoliciesSelect(t *testing.T) {
	tag := BuildTag{Commit: sha[:12], Unix: 1764000000}.String()
	if tag != "main-4f2a91c03b7d-1764000000" {
		t.Error(tag)
	}
	m := regexp.MustCompile(TrunkPattern).FindStringSubmatch(tag)
	if m == nil || m[1] != "1764000000" {
		t.Errorf("the trunk's pattern finds %q", m)
	}
}

// The eight digits are what `printf NAME | sha256sum` prints first.
func TestBuildTagsOfOtherBranches(t *testing.T) {
	for _, tt := range []struct{ name, branch, want string }{
		{"a hotfix branch keeps its name", "release-v1.42.2", "release-v1.42.2-4f2a91c03b7d-7"},
		{"a hotfix branch with a context keeps its name", "release-v1.42.2-login", "release-v1.42.2-login-4f2a91c03b7d-7"},
		{"a slash becomes a hyphen, and the name is marked", "fix/a", "fix-a-bd4be54f-4f2a91c03b7d-7"},
		{"a branch called main beside another trunk is told apart", "main", "branch-main-0d6e4079-4f2a91c03b7d-7"},
		{"a branch that begins like the trunk's tags is told apart", "main-4f2a91c", "branch-main-4f2a91c-5d93700f-4f2a91c03b7d-7"},
		{"a branch that begins like the trunk's name is itself", "mainline", "mainline-4f2a91c03b7d-7"},
		{"capitals are kept, since tags have them", "Main", "Main-4f2a91c03b7d-7"},
		{"a branch called like a version does not become one", "v9.9.9", "branch-v9.9.9-14db5e1e-4f2a91c03b7d-7"},
		{"a branch called like a loose version does not become one", "2", "branch-2-d4735e3a-4f2a91c03b7d-7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := (BuildTag{Branch: tt.branch, Commit: sha[:12], Unix: 7}).String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

var (
	trunkPattern = regexp.MustCompile(TrunkPattern)
	ociTag       = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`) // OCI distribution specification 1.1
)

func checkBranchTag(t *testing.T, b BuildTag) {
	t.Helper()
	tag := b.String()
	switch {
	case !ociTag.MatchString(tag):
		t.Errorf("branch %q: no registry takes the tag %q", b.Branch, tag)
	case trunkPattern.MatchString(tag), strings.HasPrefix(tag, "main-"):
		t.Errorf("branch %q passes for the trunk: %q", b.Branch, tag)
	}
	if v, err := semver.NewVersion(tag); err == nil {
		t.Errorf("branch %q: the tag %q passes for version %s", b.Branch, tag, v)
	}
	back, ok := ParseBuildTag(tag)
	if !ok || back.Commit != b.Commit || back.Unix != b.Unix || back.Branch == "" || back.String() != tag {
		t.Errorf("branch %q: the tag %q reads back as %+v, %t", b.Branch, tag, back, ok)
	}
}

func TestNoBranchPassesForTheTrunkOrForARelease(t *testing.T) {
	for _, branch := range []string{
		"main", "main-", "main-deadbeef-9999999999", "main/deadbeef", "main\u2013deadbeef-1", "m\u0430in", "HEAD", "-main", ".main", "..main-abc", "--", ".", "/", "v1.0.0",
		"V1", "1", "0", "1.2.3-rc.1", "-1", ".v2", "release-v1.42.2", "release/v1.42.2", "\xff\xfe", "main\xff-1", "refs/heads/main", "$(touch x)", strings.Repeat("a", 500),
		"main-" + strings.Repeat("a", 500), strings.Repeat("-", 200), strings.Repeat("\u00e9", 200), "a b", "_main-a-1", "branch-main",
	} {
		for _, n := range []int{7, 12, 40} {
			for _, unix := range []int64{0, 1764000000, 99999999999999999} {
				checkBranchTag(t, BuildTag{Branch: branch, Commit: sha[:n], Unix: unix})
			}
		}
	}
}

func TestBranchesThatAreSpelledAlikeHaveTagsOfTheirOwn(t *testing.T) {
	seen := map[string]string{}
	for _, branch := range []string{"fix/a", "fix-a", "fix a", "fix//a", "fix?a", "branch-main", "main", "-main", "v1", "branch-v1", strings.Repeat("a", 200), strings.Repeat("a", 201)} {
		tag := BuildTag{Branch: branch, Commit: sha, Unix: 1764000000}.String()
		if other, ok := seen[tag]; ok {
			t.Errorf("%q and %q share the tag %s", branch, other, tag)
		}
		seen[tag] = branch
	}
}

func TestParseBuildTagTakesNothingElse(t *testing.T) {
	for _, tag := range []string{
		"", "v2.0.0", "v2.0.0-rc.1", "v1.2.3-abcdef1-1764000000", "latest", "main", "main-4f2a91c03b7d", "main-1764000000", "main-XYZ-1764000000", "main-4F2A91C-1764000000",
		"main-4f2a91-1764000000", "main-4f2a91c-01764000000", "main-4f2a91c--1", "main-4f2a91c-1764000000\n", "xmain-/4f2a91c-1", "main-4f2a91c-99999999999999999999",
		"-4f2a91c-1", ".x-4f2a91c-1", "main-x-4f2a91c-1", "2-4f2a91c-1", strings.Repeat("a", 128) + "-4f2a91c-1",
	} {
		if b, ok := ParseBuildTag(tag); ok {
			t.Errorf("%q was read as %+v", tag, b)
		}
	}
}

func TestCheckNamesWhatCannotBeWritten(t *testing.T) {
	if err := (BuildTag{Commit: sha, Unix: 0}).Check(); err != nil {
		t.Error(err)
	}
	for _, b := range []BuildTag{{Commit: ""}, {Commit: "4f2a91"}, {Commit: strings.ToUpper(sha)}, {Commit: sha + "0"}, {Commit: sha, Unix: -1}, {Commit: sha, Unix: 1e18}} {
		if b.Check() == nil {
			t.Errorf("%+v passed", b)
		}
	}
}

func FuzzBuildTagOfABranch(f *testing.F) {
	f.Add("main", uint64(0), uint8(12))
	f.Add("release-v1.42.2-login", uint64(1764000000), uint8(40))
	f.Add("v1\xff/\u2013", uint64(1)<<40, uint8(7))
	f.Fuzz(func(t *testing.T, branch string, unix uint64, n uint8) {
		if branch == "" {
			return
		}
		checkBranchTag(t, BuildTag{Branch: branch, Commit: sha[:7+n%34], Unix: int64(unix % 1e18)})
	})
}

func FuzzParseBuildTag(f *testing.F) {
	for _, s := range []string{"main-4f2a91c03b7d-1764000000", "release-v1.42.2-4f2a91c03b7d-1764000000", "v1.2.3-abcdef1-17", "main-abcdef1-abcdef1-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, tag string) {
		b, ok := ParseBuildTag(tag)
		if !ok {
			return
		}
		if b.String() != tag || b.Check() != nil || !ociTag.MatchString(tag) {
			t.Errorf("%q was read as %+v", tag, b)
		}
		if trunkPattern.MatchString(tag) != (b.Branch == "") {
			t.Errorf("%q: branch %q", tag, b.Branch)
		}
		if _, err := Parse(tag); err == nil {
			t.Errorf("%q is a release as well", tag)
		}
	})
}
