package release

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"
)

func TestParseAcceptsTheSpecificationsValidVersions(t *testing.T) {
	// From the list that semver.org links beside its regular expression, without those that have build metadata.
	for _, s := range []string{
		"0.0.4", "1.2.3", "10.20.30", "1.1.2-prerelease", "1.0.0-alpha", "1.0.0-beta", "1.0.0-alpha.beta", "1.0.0-alpha.beta.1",
		"1.0.0-alpha.1", "1.0.0-alpha0.valid", "1.0.0-alpha.0valid", "1.0.0-alpha-a.b-c-somethinglong", "1.0.0-rc.1", "1.2.3-beta",
		"10.2.3-DEV-SNAPSHOT", "1.2.3-SNAPSHOT-123", "1.0.0", "2.0.0", "1.1.7", "2.0.1-alpha.1227", "1.2.3----RC-SNAPSHOT.12.9.1--.12",
		"1.2.3----R-S.12.9.1--.12", "1.2.3----RC-SNAPSHOT.12.9.1--.12", "1.0.0-0A.is.legal", "0.0.0", "1.0.0-0",
	} {
		v, err := Parse("v" + s)
		if err != nil {
			t.Errorf("Parse(v%s): %v", s, err)
		} else if v.String() != "v"+s {
			t.Errorf("Parse(v%s) prints %s", s, v)
		}
	}
}

func TestParseSaysWhichRuleATagBreaks(t *testing.T) {
	for _, tt := range []struct{ name, tag, want string }{
		{"nothing at all", "", "empty"},
		{"an unfilled substitution", "$TAG_NAME", "substitution"},
		{"no v", "1.2.3", `write "v1.2.3"`},
		{"a capital V", "V1.2.3", `write "v1.2.3"`},
		{"two v", "vv1.2.3", "more than one v"},
		{"a v of each case", "vV1.2.3", "more than one v"},
		{"one number", "v2", "1 of the three numbers"},
		{"two numbers", "v2.0", "2 of the three numbers"},
		{"two numbers and a candidate", "v2.0-rc.1", "2 of the three numbers"},
		{"four numbers", "v1.2.3.4", "4 numbers"},
		{"a leading zero in the major number", "v02.0.0", "leading zero"},
		{"a leading zero in the minor number", "v2.00.0", "leading zero"},
		{"a leading zero in a candidate's number", "v2.0.0-rc.01", "leading zero"},
		{"build metadata", "v2.0.0+build.5", "build metadata"},
		{"build metadata after a candidate", "v2.0.0-rc.1+5", "build metadata"},
		{"an en dash", "v2.0.0\u2013rc.1", "en dash, U+2013"},
		{"a minus sign", "v2.0.0\u2212rc.1", "minus sign, U+2212"},
		{"a soft hyphen", "v2.0.0\u00adrc.1", "soft hyphen"},
		{"a Cyrillic letter", "v2.0.0-r\u0441.1", "outside ASCII at byte 8 (U+0441)"},
		{"full-width digits", "v\uff12.0.0", "outside ASCII"},
		{"Arabic digits", "v\u0662.0.0", "outside ASCII"},
		{"invalid UTF-8", "v1.2.3-\xff", "outside ASCII"},
		{"a trailing newline", "v1.2.3\n", "white space or a control character at byte 6"},
		{"a leading blank", " v1.2.3", "white space"},
		{"a NUL", "v1.2.3\x00", "control character"},
		{"a full ref", "refs/tags/v1.2.3", "slash"},
		{"a component's tag", "backend/v1.2.3", "slash"},
		{"a word", "latest", "not a version"},
		{"a word after v", "vnext", `"next"`},
		{"a bare v", "v", "missing a number"},
		{"an empty number", "v1..3", "missing a number"},
		{"a hyphen with nothing after it", "v1.2.3-", "empty identifier"},
		{"an empty identifier", "v1.2.3-rc..1", "empty identifier"},
		{"a candidate without a hyphen", "v1.2.3rc1", `"3rc1"`},
		{"an underscore", "v1.2.3-rc_1", "SemVer 2.0.0"},
		{"a negative number", "v1.2.-3", "missing a number"},
		{"a signed number", "v1.+2.3", "build metadata"},
		{"a number beyond 64 bits", "v99999999999999999999.0.0", "too large"},
		{"a candidate's number beyond 64 bits", "v1.0.0-rc.99999999999999999999", "too large"},
		{"a text longer than a tag", "v1.0.0-" + strings.Repeat("a", 122), "129 characters"},
		{"a build tag", "main-4f2a91c03b7d-1764000000", "not a version"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, err := Parse(tt.tag)
			if err == nil {
				t.Fatalf("Parse(%q) = %s, want an error with %q", tt.tag, v, tt.want)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse(%q): %v\nwant a text with %q", tt.tag, err, tt.want)
			}
			if !v.IsZero() {
				t.Errorf("Parse(%q) returned %s beside its error", tt.tag, v)
			}
		})
	}
}

func TestParseErrorsStayShortAndOnOneLine(t *testing.T) {
	_, err := Parse("v1.2.3-" + strings.Repeat("\x1b[31m\r\n", 100_000))
	if err == nil || len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\x1b\r\n") {
		t.Errorf("error of %d bytes: %.200q", len(fmt.Sprint(err)), err)
	}
}

// The chain of SemVer 2.0.0, section 11.4.4, with what its sections 11.2 and 9 add.
var ascending = []string{
	"v0.0.0", "v0.0.1", "v0.1.0", "v1.0.0-0", "v1.0.0-1", "v1.0.0-2", "v1.0.0-10", "v1.0.0--", "v1.0.0-1a", "v1.0.0-A", "v1.0.0-alpha", "v1.0.0-alpha.1",
	"v1.0.0-alpha.beta", "v1.0.0-beta", "v1.0.0-beta.2", "v1.0.0-beta.11", "v1.0.0-rc.1", "v1.0.0-rc.1.0", "v1.0.0-rc.2", "v1.0.0-rc.10", "v1.0.0-rc1", "v1.0.0",
	"v1.0.1-rc.1", "v1.0.1", "v1.1.0", "v1.2.0", "v1.10.0", "v2.0.0-rc.1", "v2.0.0", "v2.1.0", "v2.1.1", "v10.0.0",
}

func TestCompareFollowsTheSpecificationsOrder(t *testing.T) {
	for i, a := range ascending {
		for j, b := range ascending {
			v, w := mustParse(t, a), mustParse(t, b)
			want := 0
			switch {
			case i < j:
				want = -1
			case i > j:
				want = 1
			}
			if got := v.Compare(w); got != want {
				t.Errorf("%s.Compare(%s) = %d, want %d", a, b, got, want)
			}
			if v.Less(w) != (want < 0) || v.Equal(w) != (want == 0) || (v == w) != (want == 0) {
				t.Errorf("Less, Equal or == disagree with Compare for %s and %s", a, b)
			}
		}
		if (Version{}).Compare(mustParse(t, a)) != -1 || mustParse(t, a).Compare(Version{}) != 1 {
			t.Errorf("no version is not older than %s", a)
		}
	}
}

func TestSortingPutsAShuffledListInOrder(t *testing.T) {
	var vs []Version
	for _, s := range ascending {
		vs = append(vs, mustParse(t, s))
	}
	shuffled := slices.Clone(vs)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	slices.SortFunc(shuffled, Version.Compare)
	if !slices.Equal(vs, shuffled) {
		t.Errorf("got %v", shuffled)
	}
}

func TestVersionTellsCandidatesFromReleases(t *testing.T) {
	for _, tt := range []struct {
		tag     string
		core    string
		pre     bool
		series  string
		n       uint64
		numbers bool
		channel Channel
	}{
		{"v2.0.0", "v2.0.0", false, "", 0, false, Production},
		{"v2.0.0-rc.1", "v2.0.0", true, "rc", 1, true, UAT},
		{"v2.0.0-rc.12", "v2.0.0", true, "rc", 12, true, UAT},
		{"v2.0.0-rc.0", "v2.0.0", true, "rc", 0, true, UAT},
		{"v2.0.0-rc", "v2.0.0", true, "", 0, false, UAT},
		{"v2.0.0-rc1", "v2.0.0", true, "", 0, false, UAT},
		{"v2.0.0-rc.1.hotfix", "v2.0.0", true, "", 0, false, UAT},
		{"v2.0.0-rc.x", "v2.0.0", true, "", 0, false, UAT},
		{"v2.0.0-1.2", "v2.0.0", true, "", 0, false, UAT},
		{"v0.0.0", "v0.0.0", false, "", 0, false, Production},
	} {
		v := mustParse(t, tt.tag)
		series, n, ok := v.Candidate()
		if v.Core().String() != tt.core || v.IsPrerelease() != tt.pre || series != tt.series || n != tt.n || ok != tt.numbers || v.Channel() != tt.channel || v.IsZero() {
			t.Errorf("%s: core %s, pre-release %t, candidate %q %d %t, channel %s", tt.tag, v.Core(), v.IsPrerelease(), series, n, ok, v.Channel())
		}
		if ok && v.Core().WithCandidate(series, n) != v {
			t.Errorf("%s: put together again it is %s", tt.tag, v.Core().WithCandidate(series, n))
		}
	}
}

func TestTheZeroVersionIsNoVersion(t *testing.T) {
	var v Version
	if !v.IsZero() || v.String() != "" || v.Channel() != Staging || v == New(0, 0, 0) {
		t.Errorf("zero: %q, %t, %s", v, v.IsZero(), v.Channel())
	}
	if New(0, 0, 0).IsZero() {
		t.Error("v0.0.0 is a version")
	}
}

func TestVersionsTravelThroughJSONAndNeverAppearFromNothing(t *testing.T) {
	type doc struct {
		Version  Version `json:"version"`
		Previous Version `json:"previous,omitzero"`
	}
	b, err := json.Marshal(doc{Version: mustParse(t, "v2.0.0-rc.1")})
	if err != nil || string(b) != `{"version":"v2.0.0-rc.1"}` {
		t.Fatalf("%s, %v", b, err)
	}
	var d doc
	if err := json.Unmarshal(b, &d); err != nil || d.Version.String() != "v2.0.0-rc.1" || !d.Previous.IsZero() {
		t.Errorf("%+v, %v", d, err)
	}
	for _, bad := range []string{`{"version":""}`, `{"version":"v2"}`, `{"version":2}`} {
		if err := json.Unmarshal([]byte(bad), &d); err == nil {
			t.Errorf("%s was read as %s", bad, d.Version)
		}
	}
}

func TestCheckSeriesTakesWordsOnly(t *testing.T) {
	for _, s := range []string{"rc", "beta", "alpha"} {
		if err := CheckSeries(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "1", "rc.1", "RC", "r c", "rc-", "r\u0441", strings.Repeat("a", 21)} {
		if CheckSeries(s) == nil {
			t.Errorf("%q passed", s)
		}
	}
}

func mustParse(t testing.TB, tag string) Version {
	t.Helper()
	v, err := Parse(tag)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func FuzzParse(f *testing.F) {
	for _, s := range append(ascending, "", "v", "V1.0.0", "v1.0.0+b", "v01.0.0", "v1.0.0-rc.01", "v1.0.0\u2013rc", "v1.0.0-\xff") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, tag string) {
		v, err := Parse(tag)
		if err != nil {
			if !v.IsZero() {
				t.Fatalf("%q: both a version and an error", tag)
			}
			return
		}
		if v.String() != tag || len(tag) > maxTag || tag[0] != 'v' {
			t.Fatalf("%q was read as %q", tag, v)
		}
		// Every tag that passes here must mean the same to the parser that the rest of this world uses.
		loose, err := semver.NewVersion(tag)
		if err != nil || (loose.Prerelease() != "") != v.IsPrerelease() || loose.Metadata() != "" {
			t.Fatalf("%q: a loose parser sees %v, %v", tag, loose, err)
		}
		if v.IsPrerelease() && !v.Less(v.Core()) || !v.Core().Less(v.Raise(Patch, false)) {
			t.Fatalf("%q: out of order with its neighbours", tag)
		}
	})
}
