package release

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
)

// Place says where a tag stands, seen from the commit that is built.
type Place int

// The places.
const (
	Elsewhere Place = iota // in no history of this commit: another branch, or no commit at all
	Behind                 // on an older commit of its history
	Here                   // on this very commit
)

// Tag is a version that exists, and where.
type Tag struct {
	Version
	Place Place
}

// Lineage is what the existing versions mean for the commit that is built.
type Lineage struct {
	// All are the versions that exist anywhere, newest first. None of them may be given again.
	All []Version
	// Base is the newest final release in the history of the commit. The commit's own changes are those since.
	Base Tag
	// Candidates are those in the history that announce a release newer than Base, newest first. Only a word and a number make a
	// candidate (rc.1): nightly builds and the like announce nothing.
	Candidates []Tag
}

// Trace finds the lineage among all versions of a series, in any order. It asks for the place of as few as it can, newest first, since to
// know it may cost a look at the repository; an error of place is returned as it is.
func Trace(all []Version, place func(Version) (Place, error)) (Lineage, error) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b Version) int { return b.Compare(a) })
	l := Lineage{All: slices.Compact(all)}
	for _, v := range l.All {
		if _, _, candidate := v.Candidate(); v.IsPrerelease() && !candidate {
			continue
		}
		p, err := place(v)
		if err != nil {
			return Lineage{}, err
		}
		if p == Elsewhere {
			continue
		}
		if !v.IsPrerelease() {
			l.Base = Tag{v, p}
			break
		}
		l.Candidates = append(l.Candidates, Tag{v, p})
	}
	return l, nil
}

// Exists reports whether v was given to any commit.
func (l Lineage) Exists(v Version) bool { return slices.Contains(l.All, v) }

// Latest returns the newest candidate of a series in the lineage, such as "rc"; the zero Tag when there is none.
func (l Lineage) Latest(series string) Tag {
	for _, c := range l.Candidates {
		if s, _, _ := c.Candidate(); s == series {
			return c
		}
	}
	return Tag{}
}

// Request is what is asked of [Lineage.Next].
type Request struct {
	// Since is what the commits since the base raise, and Fresh what those raise that are in no candidate of the series yet.
	Since, Fresh Bump
	// Series asks for the next candidate of that name; empty asks for a final release.
	Series string
	// Initial is the first release of a history that has none.
	Initial Version
	// ZeroMajor keeps breaking changes below v1.0.0 minor.
	ZeroMajor bool
	// Asked is the final release that a commit asks for by name; zero when none does. On a hotfix branch, its name counts for more.
	Asked Version
	// Pinned is the version that a hotfix branch is named for; zero on every other branch.
	Pinned Version
	// AllowFeatures lets a hotfix branch hold features.
	AllowFeatures bool
}

// Answer is the version that comes next.
type Answer struct {
	Version  Version  // zero when there is nothing to release
	Reason   string   // why there is nothing to release
	Warnings []string // what a reader should know all the same
}

// Refusal is an answer that must not be given. Fix says what the reader can do.
type Refusal struct{ Reason, Cure string }

// Error returns the reason.
func (r *Refusal) Error() string { return r.Reason }

// Fix returns the cure.
func (r *Refusal) Fix() string { return r.Cure }

func refuse(cure, format string, args ...any) (Answer, error) {
	return Answer{}, &Refusal{fmt.Sprintf(format, args...), cure}
}

// Next returns the version that comes next. The same lineage and request always have the same answer, and it is never a version that
// exists anywhere: not even on a branch that was never merged, since tags are not used twice. A refusal is a [*Refusal].
func (l Lineage) Next(r Request) (Answer, error) {
	if !r.Pinned.IsZero() {
		return l.nextHotfix(r)
	}
	if !r.Asked.IsZero() {
		return l.asked(r)
	}
	core := l.target(r)
	if core.IsZero() || core == l.Base.Version {
		return Answer{Reason: l.nothing(l.Base)}, nil
	}
	a := l.free(core)
	if newest := l.newestFinal(); l.Base.IsZero() && !newest.IsZero() {
		a.Warnings = append(a.Warnings, fmt.Sprintf("%s exists, but no release is in the history of this commit, so counting begins at %s", newest, a.Version))
	}
	if r.Series == "" {
		return a, nil
	}
	return l.candidate(r, a)
}

// asked returns the release that a commit asks for, or a candidate for it, where it can be given.
func (l Lineage) asked(r Request) (Answer, error) {
	const cure = "add a commit whose Release-As footer names a newer version that is free: the newest one counts"
	newest := l.Base
	if len(l.Candidates) > 0 {
		newest = l.Candidates[0]
	}
	switch {
	case l.Exists(r.Asked):
		return refuse(cure, "a commit asks for %s, which exists already", r.Asked)
	case r.Asked.Less(newest.Version):
		return refuse(cure, "a commit asks for %s, which is older than %s, which this history holds", r.Asked, newest)
	}
	a := Answer{Version: r.Asked}
	if r.Series == "" {
		return a, nil
	}
	return l.candidate(r, a)
}

// newestFinal returns the newest final release that exists anywhere.
func (l Lineage) newestFinal() Version {
	for _, v := range l.All {
		if !v.IsPrerelease() {
			return v
		}
	}
	return Version{}
}

// target is the final release that the commits ask for, and that no open candidate may be newer than. It is the base's own version, or
// none, when they ask for nothing.
func (l Lineage) target(r Request) Version {
	var core Version
	switch {
	case !l.Base.IsZero():
		core = l.Base.Raise(r.Since, r.ZeroMajor)
	case r.Since > None:
		core = r.Initial
	}
	if len(l.Candidates) > 0 && core.Less(l.Candidates[0].Core()) {
		core = l.Candidates[0].Core()
	}
	return core
}

// free returns the wanted final release, or, when that exists already on a branch that is not in this history, the next one of the same
// kind after all that exist: the number that the wanted one raised goes past the largest that is taken.
func (l Lineage) free(wanted Version) Answer {
	if !l.Exists(wanted) {
		return Answer{Version: wanted}
	}
	next := wanted
	for _, v := range l.All {
		switch {
		case v.IsPrerelease() || v.Less(next):
		case wanted.patch > 0 && v.major == wanted.major && v.minor == wanted.minor:
			next = v.Raise(Patch, false)
		case wanted.patch == 0 && wanted.minor > 0 && v.major == wanted.major:
			next = v.Raise(Minor, false)
		case wanted.patch == 0 && wanted.minor == 0:
			next = v.Raise(Major, false)
		}
	}
	return Answer{Version: next, Warnings: []string{fmt.Sprintf(
		"%s would be next, but it exists on a commit that is not in this history, so it is %s; merge that release back, or %s will lack what is in it",
		wanted, next, next)}}
}

// candidate turns the answer's final release into the next candidate for it. The number goes on over all that exist, merged or not.
func (l Lineage) candidate(r Request, a Answer) (Answer, error) {
	if latest := l.Latest(r.Series); r.Fresh == None {
		if latest.IsZero() {
			latest = l.Base
		}
		return Answer{Reason: l.nothing(latest)}, nil
	}
	var last uint64
	for _, v := range l.All {
		if s, n, ok := v.Candidate(); ok && s == r.Series && v.Core() == a.Version {
			last = max(last, n)
		}
	}
	a.Version = a.Version.WithCandidate(r.Series, last+1)
	if len(l.Candidates) > 0 && a.Version.Less(l.Candidates[0].Version) {
		return refuse("set PRERELEASE to the series of "+l.Candidates[0].String(),
			"%s would be older than %s, which this history holds", a.Version, l.Candidates[0])
	}
	return a, nil
}

// nextHotfix returns the version that a hotfix branch is named for, or a candidate for it.
func (l Lineage) nextHotfix(r Request) (Answer, error) {
	want, base := r.Pinned, l.Base
	newest := base.Version
	if len(l.Candidates) > 0 && want.Less(l.Candidates[0].Core()) {
		newest = l.Candidates[0].Version
	}
	var kind string
	switch {
	case r.Since == Major:
		kind = "a breaking change"
	case r.Since == Minor && !r.AllowFeatures:
		kind = "a feature"
	}
	switch {
	case base.IsZero() && newest.IsZero():
		return refuse("cut the branch from the tag of the release that it corrects", "the hotfix branch of %s has no release in its history", want)
	case want.Less(newest):
		return refuse("cut the branch anew from the tag of the release that it corrects, and bring the fixes over",
			"the hotfix branch of %s holds %s: the main branch was merged into it, or it has the wrong name", want, newest)
	case want == base.Version && base.Place == Here:
		return Answer{Reason: fmt.Sprintf("this commit is %s", want)}, nil
	case l.Exists(want):
		return refuse(fmt.Sprintf("go on in a branch that is named for a version that is free, such as release-%s, cut from %s", l.free(want).Version, want),
			"%s exists already, on another commit than this", want)
	case kind != "":
		cure := "leave it to the next release of the main branch"
		if r.Since == Minor {
			cure += ", or set ALLOW_FEATURES=true"
		}
		return refuse(cure, "the hotfix branch of %s holds %s since %s, and a hotfix only corrects", want, kind, base)
	case r.Since == None && len(l.Candidates) == 0:
		return Answer{Reason: l.nothing(base)}, nil
	}
	a := Answer{Version: want}
	if r.Since == Minor {
		a.Warnings = append(a.Warnings, fmt.Sprintf("the hotfix branch of %s holds a feature since %s", want, base))
	}
	if !r.Asked.IsZero() && r.Asked != want {
		a.Warnings = append(a.Warnings, fmt.Sprintf("a commit asks for %s, and the branch is named for %s, which counts", r.Asked, want))
	}
	if step := Between(base.Version, want); step != Patch {
		a.Warnings = append(a.Warnings, fmt.Sprintf("the branch is named for %s, a %s release after %s; a hotfix raises the last number", want, step, base))
	}
	for _, v := range l.All {
		if !v.IsPrerelease() && base.Less(v) && v.Less(want) && v.major == want.major && v.minor == want.minor {
			a.Warnings = append(a.Warnings, fmt.Sprintf("%s is not in the history of this branch, so %s will lack what is in it", v, want))
		}
	}
	if r.Series == "" {
		return a, nil
	}
	return l.candidate(r, a)
}

// nothing words the reason for there being nothing to release.
func (l Lineage) nothing(since Tag) string {
	switch {
	case since.IsZero():
		return "no commit so far is one that releases something"
	case since.Place == Here:
		return fmt.Sprintf("this commit is %s", since.Version)
	default:
		return fmt.Sprintf("no commit since %s is one that releases something", since.Version)
	}
}

// CheckTag judges a release tag that people gave to a commit: place is where the tag is now, since is what the commits raise that came
// after the base. The lineage is the past alone, traced without the tags that stand on the commit itself: two releases of one commit, such
// as a candidate and the final, do not contradict each other. CheckTag returns what the reader should know, or a [*Refusal] when the tag
// moved, or goes back behind what its own history holds.
func (l Lineage) CheckTag(v Version, place Place, since Bump, zeroMajor bool) ([]string, error) {
	if place != Here && l.Exists(v) {
		return nil, &Refusal{fmt.Sprintf("tag %s is not on the commit that this build is of: it was moved, or the build is of another commit", v),
			"tags are never moved here: release this commit under a new version"}
	}
	for _, past := range append([]Tag{l.Base}, l.Candidates...) {
		if v.Less(past.Version) && (!past.IsPrerelease() || past.Core() == v.Core()) {
			return nil, &Refusal{fmt.Sprintf("%s is older than %s, which is in its own history", v, past), "release this commit under a newer version"}
		}
	}
	var warnings []string
	if !l.Exists(v) {
		warnings = append(warnings, fmt.Sprintf("the repository has no tag %s, so nobody checked that it is on this commit", v))
	}
	if v.IsPrerelease() && l.Exists(v.Core()) {
		warnings = append(warnings, fmt.Sprintf("%s is a candidate for %s, which exists already", v, v.Core()))
	}
	if !l.Base.IsZero() {
		if wanted := l.Base.Raise(since, zeroMajor); v.Core().Less(wanted) {
			warnings = append(warnings, fmt.Sprintf("the commits since %s ask for %s, and the tag is %s", l.Base, wanted, v))
		}
	}
	return warnings, nil
}

// HotfixPattern is the regular expression that the names of hotfix branches match, such as ^release-(v[0-9]+\.[0-9]+\.[0-9]+)(-.*)?$. Its first
// group is the version. It has to match a name from end to end, whether it says so itself or not: with a pattern that is not anchored,
// anybody could call a branch like a release.
type HotfixPattern struct{ re *regexp.Regexp }

// UnmarshalText compiles the expression. It implements encoding.TextUnmarshaler.
func (p *HotfixPattern) UnmarshalText(b []byte) error {
	if _, err := regexp.Compile(string(b)); err != nil { // alone first: a stray parenthesis would close the group below
		return fmt.Errorf("not a regular expression: %w", err)
	}
	re, err := regexp.Compile(`^(?:` + string(b) + `)$`)
	if err != nil {
		return fmt.Errorf("not a regular expression: %w", err)
	}
	if re.NumSubexp() == 0 {
		return fmt.Errorf("want a group in parentheses around the version")
	}
	p.re = re
	return nil
}

// Version reads the version out of the name of a hotfix branch: v1.42.2 of release-v1.42.2-login. It reports false for every other branch.
// A name that matches without naming a final release in strict SemVer is an error.
func (p HotfixPattern) Version(branch string) (Version, bool, error) {
	if p.re == nil {
		return Version{}, false, nil
	}
	m := p.re.FindStringSubmatch(branch)
	if m == nil {
		return Version{}, false, nil
	}
	found := "" // the group that took part, where the expression is a choice
	for _, group := range m[1:] {
		found = cmp.Or(found, group)
	}
	v, err := Parse(found)
	if err == nil && v.IsPrerelease() {
		err = fmt.Errorf("%s is a candidate", v)
	}
	if err != nil {
		return Version{}, false, fmt.Errorf("branch %.100q is named like a hotfix branch and for no release: %w", branch, err)
	}
	return v, true, nil
}
