package release

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// lineage reads a list such as "v1.0.0 v1.1.0-rc.1=here v2.0.0=elsewhere"; a version without a place is behind. It also returns how many
// places were asked for.
func lineage(t *testing.T, text string) (Lineage, int) {
	t.Helper()
	places := map[Version]Place{}
	var all []Version
	for f := range strings.FieldsSeq(text) {
		tag, where, _ := strings.Cut(f, "=")
		v := mustParse(t, tag)
		places[v] = map[string]Place{"": Behind, "here": Here, "elsewhere": Elsewhere}[where]
		all = append(all, v)
	}
	asked := 0
	l, err := Trace(all, func(v Version) (Place, error) { asked++; return places[v], nil })
	if err != nil {
		t.Fatal(err)
	}
	return l, asked
}

func TestTraceFindsTheNewestReleaseInTheHistory(t *testing.T) {
	for _, tt := range []struct{ name, existing, base, candidates string }{
		{"nothing exists", "", "", ""},
		{"the newest of several", "v1.0.0 v1.10.0 v1.9.0", "v1.10.0", ""},
		{"a newer one elsewhere does not count", "v1.0.0 v2.0.0=elsewhere", "v1.0.0", ""},
		{"an older line that was merged does not count", "v1.1.3 v1.0.5", "v1.1.3", ""},
		{"open candidates, newest first", "v1.0.0 v2.0.0-rc.1 v2.0.0-rc.2", "v1.0.0", "v2.0.0-rc.2 v2.0.0-rc.1"},
		{"candidates of a release that came are closed", "v2.0.0 v2.0.0-rc.1 v2.0.0-rc.2", "v2.0.0", ""},
		{"candidates elsewhere do not count", "v1.0.0 v2.0.0-rc.1=elsewhere", "v1.0.0", ""},
		{"pre-releases that are no candidates do not count", "v1.0.0 v2.0.0-nightly v2.0.0-rc.1.hotfix v2.0.0-20250101.1 v2.0.0-rc1", "v1.0.0", ""},
		{"candidates alone", "v1.0.0-rc.1", "", "v1.0.0-rc.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, _ := lineage(t, tt.existing)
			var candidates []string
			for _, c := range l.Candidates {
				candidates = append(candidates, c.String())
			}
			if got := strings.Join(candidates, " "); l.Base.String() != tt.base || got != tt.candidates {
				t.Errorf("base %s, candidates %s", l.Base, got)
			}
		})
	}
}

func TestTraceAsksForNoMorePlacesThanItNeeds(t *testing.T) {
	_, asked := lineage(t, "v1.0.0 v1.1.0 v1.2.0 v1.3.0=elsewhere v1.3.0-rc.1 v0.9.0 v0.8.0 v2.0.0-nightly")
	if asked != 3 { // v1.3.0, v1.3.0-rc.1, v1.2.0
		t.Errorf("asked for %d places", asked)
	}
}

func TestTracePassesAnErrorOn(t *testing.T) {
	broken := errors.New("broken")
	if _, err := Trace([]Version{New(1, 0, 0)}, func(Version) (Place, error) { return Here, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestNextOnTheTrunk(t *testing.T) {
	for _, tt := range []struct {
		name, existing string
		r              Request
		want           string // empty: nothing to release
		says           string // in the reason or a warning
	}{
		{"a fix", "v1.42.1", Request{Since: Patch}, "v1.42.2", ""},
		{"a feature", "v1.42.1", Request{Since: Minor}, "v1.43.0", ""},
		{"a breaking change", "v1.42.1", Request{Since: Major}, "v2.0.0", ""},
		{"nothing that releases", "v1.42.1", Request{Since: None}, "", "no commit since v1.42.1"},
		{"the commit is a release", "v1.42.1=here", Request{Since: None}, "", "this commit is v1.42.1"},
		{"a breaking change below v1", "v0.4.2", Request{Since: Major}, "v1.0.0", ""},
		{"a breaking change below v1, kept minor", "v0.4.2", Request{Since: Major, ZeroMajor: true}, "v0.5.0", ""},

		{"the first release", "", Request{Since: Patch}, "v0.1.0", ""},
		{"no first release without a commit that releases", "", Request{Since: None}, "", "no commit so far"},
		{"the first candidate", "", Request{Since: Patch, Fresh: Patch, Series: "rc"}, "v0.1.0-rc.1", ""},
		{"releases elsewhere alone", "v2.3.0=elsewhere", Request{Since: Minor}, "v0.1.0", "v2.3.0 exists"},

		{"a taken patch is passed over", "v1.42.1 v1.42.2=elsewhere", Request{Since: Patch}, "v1.42.3", "v1.42.2 would be next"},
		{"many taken patches are passed over, gaps too", "v2.9.0 v2.9.1=elsewhere v2.9.2=elsewhere v2.9.4=elsewhere", Request{Since: Patch}, "v2.9.5", "merge that release back"},
		{"a taken minor is passed over", "v1.42.1 v1.43.0=elsewhere v1.43.1=elsewhere", Request{Since: Minor}, "v1.44.0", "v1.43.0 would be next"},
		{"a taken major is passed over", "v1.42.1 v2.0.0=elsewhere v2.1.0=elsewhere", Request{Since: Major}, "v3.0.0", "v2.0.0 would be next"},
		{"what is taken in another line does not matter", "v1.42.1 v1.41.9=elsewhere v2.0.0=elsewhere", Request{Since: Patch}, "v1.42.2", ""},
		{"what is taken in a newer line does not matter either", "v1.42.1 v1.43.0=elsewhere v2.5.0=elsewhere", Request{Since: Minor}, "v1.44.0", "v1.43.0 would be next"},
		{"candidates elsewhere do not push a number up", "v1.42.1 v1.42.2=elsewhere v1.42.9-rc.1=elsewhere", Request{Since: Patch}, "v1.42.3", "v1.42.2 would be next"},
		{"a taken first release is passed over", "v0.1.0=elsewhere", Request{Since: Patch}, "v0.2.0", "v0.1.0 would be next"},
		{"a candidate elsewhere does not take its release", "v1.42.1 v1.43.0-rc.1=elsewhere", Request{Since: Minor}, "v1.43.0", ""},

		{"the first candidate for a release", "v1.42.1", Request{Since: Major, Fresh: Major, Series: "rc"}, "v2.0.0-rc.1", ""},
		{"the next candidate", "v1.42.1 v2.0.0-rc.1", Request{Since: Major, Fresh: Patch, Series: "rc"}, "v2.0.0-rc.2", ""},
		{"candidates are counted, not sorted as text", "v1.42.1 v2.0.0-rc.9 v2.0.0-rc.10", Request{Since: Major, Fresh: Patch, Series: "rc"}, "v2.0.0-rc.11", ""},
		{"the count goes on over candidates elsewhere", "v1.42.1 v2.0.0-rc.1 v2.0.0-rc.4=elsewhere", Request{Since: Major, Fresh: Patch, Series: "rc"}, "v2.0.0-rc.5", ""},
		{"the count leaves no hole to fall into", "v1.42.1 v2.0.0-rc.3", Request{Since: Major, Fresh: Patch, Series: "rc"}, "v2.0.0-rc.4", ""},
		{"a count that began at zero", "v1.42.1 v2.0.0-rc.0", Request{Since: Major, Fresh: Patch, Series: "rc"}, "v2.0.0-rc.1", ""},
		{"nothing since the last candidate", "v1.42.1 v2.0.0-rc.1", Request{Since: Major, Fresh: None, Series: "rc"}, "", "no commit since v2.0.0-rc.1"},
		{"the commit is a candidate", "v1.42.1 v2.0.0-rc.1=here", Request{Since: Major, Fresh: None, Series: "rc"}, "", "this commit is v2.0.0-rc.1"},
		{"a larger change moves the candidate's release", "v1.42.1 v1.43.0-rc.2", Request{Since: Major, Fresh: Major, Series: "rc"}, "v2.0.0-rc.1", ""},
		{"a smaller change does not", "v1.42.1 v2.0.0-rc.2", Request{Since: Minor, Fresh: Minor, Series: "rc"}, "v2.0.0-rc.3", ""},
		{"a feature in an open feature release does not", "v1.42.1 v1.43.0-rc.1", Request{Since: Minor, Fresh: Minor, Series: "rc"}, "v1.43.0-rc.2", ""},
		{"a candidate after a release begins anew", "v2.0.0 v2.0.0-rc.3", Request{Since: Patch, Fresh: Patch, Series: "rc"}, "v2.0.1-rc.1", ""},
		{"another series counts for itself", "v1.42.1 v2.0.0-beta.4", Request{Since: Major, Fresh: Patch, Series: "rc"}, "v2.0.0-rc.1", ""},
		{"a candidate for a taken release is for the next", "v1.42.1 v1.43.0=elsewhere", Request{Since: Minor, Fresh: Minor, Series: "rc"}, "v1.44.0-rc.1", "v1.43.0 would be next"},

		{"the final drops the suffix", "v1.42.1 v2.0.0-rc.2", Request{Since: Major}, "v2.0.0", ""},
		{"the final of a candidate on this commit", "v1.42.1 v2.0.0-rc.2=here", Request{Since: Major}, "v2.0.0", ""},
		{"the final is no smaller than its candidate", "v1.42.1 v2.0.0-rc.2", Request{Since: Patch}, "v2.0.0", ""},
		{"the final of a candidate after which nothing releases", "v1.42.1 v2.0.0-rc.2", Request{Since: None}, "v2.0.0", ""},
		{"the final is larger than its candidate when the commits are", "v1.42.1 v1.43.0-rc.2", Request{Since: Major}, "v2.0.0", ""},
		{"the final of the first candidate", "v1.0.0-rc.1", Request{Since: Patch}, "v1.0.0", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, _ := lineage(t, tt.existing)
			tt.r.Initial = New(0, 1, 0)
			a, err := l.Next(tt.r)
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Join(append(a.Warnings, a.Reason), "\n")
			if a.Version.String() != tt.want || !strings.Contains(text, tt.says) || tt.says == "" && text != "" {
				t.Errorf("got %q, says %q", a.Version, text)
			}
		})
	}
}

func TestNextOnAHotfixBranch(t *testing.T) {
	for _, tt := range []struct {
		name, existing, pinned string
		r                      Request
		want                   string
		says                   string // in the reason, a warning or the refusal
		refused                bool
	}{
		{"a fix", "v1.42.1", "v1.42.2", Request{Since: Patch}, "v1.42.2", "", false},
		{"a fix while the trunk went on elsewhere", "v1.42.1 v1.43.0=elsewhere v2.0.0-rc.1=elsewhere", "v1.42.2", Request{Since: Patch}, "v1.42.2", "", false},
		{"nothing yet", "v1.42.1=here", "v1.42.2", Request{}, "", "this commit is v1.42.1", false},
		{"nothing that releases", "v1.42.1", "v1.42.2", Request{}, "", "no commit since v1.42.1", false},
		{"the commit is the hotfix", "v1.42.1 v1.42.2=here", "v1.42.2", Request{}, "", "this commit is v1.42.2", false},
		{"the hotfix is out and the branch went on", "v1.42.1 v1.42.2", "v1.42.2", Request{Since: Patch}, "", "v1.42.2 exists already", true},
		{"the number is taken elsewhere", "v1.42.1 v1.42.2=elsewhere", "v1.42.2", Request{Since: Patch}, "", "v1.42.2 exists already", true},
		{"the trunk was merged into it", "v1.42.1 v1.43.0", "v1.42.2", Request{Since: Patch}, "", "holds v1.43.0", true},
		{"a candidate of the trunk was merged into it", "v1.42.1 v2.0.0-rc.1", "v1.42.2", Request{Since: Patch}, "", "holds v2.0.0-rc.1", true},
		{"no release in its history", "v1.42.1=elsewhere", "v1.42.2", Request{Since: Patch}, "", "no release in its history", true},
		{"a feature", "v1.42.1", "v1.42.2", Request{Since: Minor}, "", "a feature since v1.42.1", true},
		{"a feature that is allowed", "v1.42.1", "v1.42.2", Request{Since: Minor, AllowFeatures: true}, "v1.42.2", "holds a feature since v1.42.1", false},
		{"a breaking change", "v1.42.1", "v1.42.2", Request{Since: Major}, "", "a breaking change since v1.42.1", true},
		{"a breaking change where features are allowed", "v1.42.1", "v1.42.2", Request{Since: Major, AllowFeatures: true}, "", "a breaking change", true},
		{"a branch for a minor release", "v1.42.1", "v1.43.0", Request{Since: Patch}, "v1.43.0", "a minor release after v1.42.1", false},
		{"a branch that leaves a hotfix out", "v1.42.1 v1.42.2=elsewhere", "v1.42.3", Request{Since: Patch}, "v1.42.3", "v1.42.2 is not in the history", false},
		{"a candidate", "v1.42.1", "v1.42.2", Request{Since: Patch, Fresh: Patch, Series: "rc"}, "v1.42.2-rc.1", "", false},
		{"the next candidate", "v1.42.1 v1.42.2-rc.1", "v1.42.2", Request{Since: Patch, Fresh: Patch, Series: "rc"}, "v1.42.2-rc.2", "", false},
		{"nothing since the candidate", "v1.42.1 v1.42.2-rc.1", "v1.42.2", Request{Since: Patch, Series: "rc"}, "", "no commit since v1.42.2-rc.1", false},
		{"the final after its candidate, though nothing since the base releases", "v1.42.1 v1.42.2-rc.1", "v1.42.2", Request{}, "v1.42.2", "", false},
		{"the final after its candidate", "v1.42.1 v1.42.2-rc.1=here", "v1.42.2", Request{Since: Patch}, "v1.42.2", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, _ := lineage(t, tt.existing)
			tt.r.Initial, tt.r.Pinned = New(0, 1, 0), mustParse(t, tt.pinned)
			a, err := l.Next(tt.r)
			text := strings.Join(append(a.Warnings, a.Reason), "\n")
			if err != nil {
				r, ok := errors.AsType[*Refusal](err)
				if !ok || r.Fix() == "" {
					t.Fatalf("not a refusal with a cure: %v", err)
				}
				text = err.Error()
			}
			if (err != nil) != tt.refused || a.Version.String() != tt.want || !strings.Contains(text, tt.says) || tt.says == "" && strings.TrimSpace(text) != "" {
				t.Errorf("got %q, refused %t, says %q", a.Version, err != nil, text)
			}
		})
	}
}

func TestACandidateOlderThanAnOpenOneIsRefused(t *testing.T) {
	l, _ := lineage(t, "v1.42.1 v2.0.0-rc.1")
	_, err := l.Next(Request{Since: Major, Fresh: Patch, Series: "alpha"})
	if r, ok := errors.AsType[*Refusal](err); !ok || !strings.Contains(r.Reason, "older than v2.0.0-rc.1") {
		t.Errorf("got %v", err)
	}
}

// Whatever exists and wherever, an answer is new, newer than the base, and the same when asked again.
func TestACommitMayAskForAVersion(t *testing.T) {
	v := func(s string) Version { return mustParse(t, s) }
	for _, tt := range []struct {
		name, existing string
		r              Request
		want, says     string // want empty: refused
	}{
		{"larger than the commits ask for", "v1.42.1", Request{Since: Patch, Asked: v("v2.0.0")}, "v2.0.0", ""},
		{"smaller than the commits ask for", "v1.42.1", Request{Since: Major, Asked: v("v1.43.0")}, "v1.43.0", ""},
		{"where no commit releases anything", "v1.42.1", Request{Since: None, Asked: v("v1.42.2")}, "v1.42.2", ""},
		{"the first release", "", Request{Since: Patch, Asked: v("v1.0.0")}, "v1.0.0", ""},
		{"a gap", "v1.42.1", Request{Since: Patch, Asked: v("v7.0.0")}, "v7.0.0", ""},
		{"as a candidate", "v1.42.1", Request{Since: Patch, Fresh: Patch, Series: "rc", Asked: v("v2.0.0")}, "v2.0.0-rc.1", ""},
		{"as the next candidate", "v1.42.1 v2.0.0-rc.1", Request{Since: Patch, Fresh: Patch, Series: "rc", Asked: v("v2.0.0")}, "v2.0.0-rc.2", ""},
		{"one that exists elsewhere", "v1.42.1 v2.0.0=elsewhere", Request{Since: Patch, Asked: v("v2.0.0")}, "", "exists already"},
		{"one that is older", "v1.42.1", Request{Since: Patch, Asked: v("v1.42.0")}, "", "older than v1.42.1"},
		{"one that is older than an open candidate", "v1.42.1 v3.0.0-rc.1", Request{Since: Patch, Asked: v("v2.0.0")}, "", "older than v3.0.0-rc.1"},
		{"on a hotfix branch, whose name counts", "v1.42.1", Request{Since: Patch, Asked: v("v2.0.0"), Pinned: v("v1.42.2")}, "v1.42.2", "named for v1.42.2, which counts"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, _ := lineage(t, tt.existing)
			a, err := l.Next(tt.r)
			text := strings.Join(a.Warnings, "\n")
			if err != nil {
				text = err.Error()
			}
			if a.Version.String() != tt.want || (err == nil) != (tt.want != "") || !strings.Contains(text, tt.says) {
				t.Errorf("got %s, %s", a.Version, text)
			}
		})
	}
}

func TestNextNeverGivesAVersionThatExists(t *testing.T) {
	pool := []string{
		"v0.1.0", "v0.1.1", "v0.2.0", "v0.2.0-rc.1", "v1.0.0", "v1.0.0-rc.1", "v1.0.0-rc.2", "v1.0.1", "v1.1.0", "v1.1.0-rc.1", "v1.1.0-beta.1", "v2.0.0", "v2.0.0-rc.1", "v3.0.0",
	}
	places := []string{"", "=here", "=elsewhere"}
	cases := 0
	for mask := range 1 << len(pool) {
		if mask%37 != 0 { // every thirty-seventh subset is enough of 16,384
			continue
		}
		var existing []string
		for i, v := range pool {
			if mask&(1<<i) != 0 {
				existing = append(existing, v+places[(i+mask/37)%3])
			}
		}
		l, _ := lineage(t, strings.Join(existing, " "))
		for since := None; since <= Major; since++ {
			for _, series := range []string{"", "rc", "beta"} {
				for _, pinned := range []Version{{}, New(1, 0, 1), New(1, 1, 1)} {
					r := Request{Since: since, Fresh: since, Series: series, Initial: New(0, 1, 0), Pinned: pinned, ZeroMajor: mask%2 == 0}
					a, err := l.Next(r)
					again, _ := l.Next(r)
					cases++
					switch {
					case err != nil && !a.Version.IsZero():
						t.Fatalf("%v: %s beside a refusal", existing, a.Version)
					case a.Version != again.Version:
						t.Fatalf("%v: %s, then %s", existing, a.Version, again.Version)
					case a.Version.IsZero() && err == nil && a.Reason == "":
						t.Fatalf("%v: nothing, without a reason", existing)
					case a.Version.IsZero():
					case slices.Contains(l.All, a.Version):
						t.Fatalf("%v: %s exists (since %s, series %q, pinned %s)", existing, a.Version, since, series, pinned)
					case !l.Base.Less(a.Version) || len(l.Candidates) > 0 && !l.Candidates[0].Less(a.Version):
						t.Fatalf("%v: %s is not newer than %s and its candidates", existing, a.Version, l.Base)
					case series == "" && a.Version.IsPrerelease(), !pinned.IsZero() && a.Version.Core() != pinned:
						t.Fatalf("%v: %s for series %q, pinned %s", existing, a.Version, series, pinned)
					}
				}
			}
		}
	}
	if cases < 10_000 {
		t.Errorf("only %d cases", cases)
	}
}

func TestCheckTagHoldsATagToItsHistory(t *testing.T) {
	for _, tt := range []struct {
		name, existing, tag string
		place               Place
		since               Bump
		says                string
		refused             bool
	}{
		{"what the commits ask for", "v1.42.1 v2.0.0=here", "v2.0.0", Here, Major, "", false},
		{"more than the commits ask for", "v1.42.1 v2.0.0=here", "v2.0.0", Here, Patch, "", false},
		{"a skipped number", "v1.42.1 v1.44.0=here", "v1.44.0", Here, Minor, "", false},
		{"less than the commits ask for", "v1.42.1 v1.42.2=here", "v1.42.2", Here, Major, "ask for v2.0.0", false},
		{"a candidate for less than the commits ask for", "v1.42.1 v1.43.0-rc.1=here", "v1.43.0-rc.1", Here, Major, "ask for v2.0.0", false},
		{"a candidate for what the commits ask for", "v1.42.1 v2.0.0-rc.1=here", "v2.0.0-rc.1", Here, Major, "", false},
		{"the first release", "v1.0.0=here", "v1.0.0", Here, Minor, "", false},
		{"a final on its candidate", "v1.42.1 v2.0.0-rc.1=here v2.0.0=here", "v2.0.0", Here, Major, "", false},
		{"a candidate on the commit of its final, built again", "v1.42.1 v2.0.0-rc.1=here v2.0.0=here", "v2.0.0-rc.1", Here, Major, "which exists already", false},
		{"a hotfix while the trunk went on", "v1.42.1 v1.42.2=here v1.43.0=elsewhere", "v1.42.2", Here, Patch, "", false},
		{"older than its history", "v1.43.0 v1.42.2=here", "v1.42.2", Here, Patch, "older than v1.43.0", true},
		{"a candidate of a release that is out", "v2.0.0 v2.0.0-rc.9=here", "v2.0.0-rc.9", Here, Patch, "older than v2.0.0", true},
		{"a candidate that falls below another", "v1.42.1 v2.0.0-rc.2 v2.0.0-rc.1=here", "v2.0.0-rc.1", Here, Patch, "older than v2.0.0-rc.2", true},
		{"a release while a larger one has a candidate", "v1.42.1 v2.0.0-rc.1 v1.42.2=here", "v1.42.2", Here, Patch, "", false},
		{"a tag that was moved", "v1.42.1 v1.42.2=elsewhere", "v1.42.2", Elsewhere, Patch, "not on the commit", true},
		{"a tag of an older commit", "v1.42.1 v1.42.2", "v1.42.2", Behind, Patch, "not on the commit", true},
		{"a tag that is gone", "v1.42.1", "v1.42.2", Elsewhere, Patch, "has no tag v1.42.2", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var past []string // what stands on the commit itself is not its past
			for f := range strings.FieldsSeq(tt.existing) {
				past = append(past, strings.Replace(f, "=here", "=elsewhere", 1))
			}
			l, _ := lineage(t, strings.Join(past, " "))
			warnings, err := l.CheckTag(mustParse(t, tt.tag), tt.place, tt.since, false)
			text := strings.Join(warnings, "\n")
			if err != nil {
				text = err.Error()
			}
			if (err != nil) != tt.refused || !strings.Contains(text, tt.says) || tt.says == "" && text != "" {
				t.Errorf("refused %t, says %q", err != nil, text)
			}
		})
	}
}

func TestHotfixPatternMatchesWholeNames(t *testing.T) {
	const standard = `^release-(v[0-9]+\.[0-9]+\.[0-9]+)(-.*)?$`
	for _, tt := range []struct {
		name, pattern, branch, want string
		bad                         bool
	}{
		{"the plain form", standard, "release-v1.42.2", "v1.42.2", false},
		{"with a context", standard, "release-v1.42.2-login", "v1.42.2", false},
		{"with a context that looks like a candidate", standard, "release-v1.42.2-rc.1", "v1.42.2", false},
		{"the trunk", standard, "main", "", false},
		{"something in front", standard, "xrelease-v1.42.2", "", false},
		{"something behind", standard, "release-v1.42.2x", "", false},
		{"a folder in front", standard, "fix/release-v1.42.2", "", false},
		{"two numbers", standard, "release-v1.42", "", false},
		{"a leading zero", standard, "release-v1.042.2", "", true},
		{"another alphabet's digits", standard, "release-v1.42.\u0662", "", false},
		{"a pattern without anchors has them all the same", `release-(v[0-9.]+)`, "xrelease-v1.42.2", "", false},
		{"a pattern without anchors matches the whole", `release-(v[0-9.]+)`, "release-v1.42.2", "v1.42.2", false},
		{"a choice is anchored as a whole", `hotfix/(v.*)|release-(v.*)`, "xrelease-v1.42.2", "", false},
		{"a choice may have a group in each branch", `hotfix/(v.*)|release-(v.*)`, "release-v1.42.2", "v1.42.2", false},
		{"a group that finds no version", `release-(.*)`, "release-candidate", "", true},
		{"a group that finds a candidate", `release-(.*)`, "release-v1.0.0-rc.1", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p HotfixPattern
			if err := p.UnmarshalText([]byte(tt.pattern)); err != nil {
				t.Fatal(err)
			}
			v, ok, err := p.Version(tt.branch)
			if v.String() != tt.want || ok != (tt.want != "") || (err != nil) != tt.bad {
				t.Errorf("got %q, %t, %v", v, ok, err)
			}
		})
	}
	for _, bad := range []string{"", "release-v1", "release-(v", "a)|(b"} {
		var p HotfixPattern
		if p.UnmarshalText([]byte(bad)) == nil {
			t.Errorf("the pattern %q was taken", bad)
		}
	}
	if _, ok, err := (HotfixPattern{}).Version("release-v1.0.0"); ok || err != nil {
		t.Error("no pattern matches nothing")
	}
}
