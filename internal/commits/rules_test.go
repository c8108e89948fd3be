package commits

import (
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/release"
)

func parsed(messages ...string) []Commit {
	var list []Commit
	for i, m := range messages {
		list = append(list, Commit{ID: ID{byte(i + 1)}, Message: Parse(m)})
	}
	return list
}

func TestTheBumpOfARangeIsTheLargestInIt(t *testing.T) {
	seed := DefaultRules()
	atLeastPatch := DefaultRules()
	atLeastPatch.Min = release.Patch
	own := Rules{Minor: []string{"feat", "feature"}, Patch: []string{"fix", "docs"}}
	for _, tt := range []struct {
		name     string
		rules    Rules
		messages []string
		want     release.Bump
	}{
		{"no commits", seed, nil, release.None},
		{"a fix", seed, []string{"fix: a"}, release.Patch},
		{"a chore", seed, []string{"chore(deps): a"}, release.Patch},
		{"performance", seed, []string{"perf: a"}, release.Patch},
		{"a revert", seed, []string{"revert: a"}, release.Patch},
		{"a feature", seed, []string{"feat: a"}, release.Minor},
		{"a breaking feature", seed, []string{"feat!: a"}, release.Major},
		{"a breaking change of a type that releases nothing", seed, []string{"docs!: a"}, release.Major},
		{"a breaking footer under a chore", seed, []string{"chore: a\n\nBREAKING CHANGE: b"}, release.Major},
		{"types that release nothing", seed, []string{"docs: a", "ci: b", "test: c", "build: d", "refactor: e", "style: f"}, release.None},
		{"no convention", seed, []string{"Add a thing", "BREAKING CHANGE: b"}, release.None},
		{"many fixes are one patch", seed, []string{"fix: a", "fix: b", "fix: c"}, release.Patch},
		{"the largest wins in any order", seed, []string{"fix: a", "feat: b", "docs: c"}, release.Minor},
		{"the largest wins, breaking", seed, []string{"feat: a", "fix!: b", "feat: c"}, release.Major},
		{"any commit releases with a minimum", atLeastPatch, []string{"docs: a"}, release.Patch},
		{"no commit releases nothing with a minimum", atLeastPatch, nil, release.None},
		{"a minimum takes nothing away", atLeastPatch, []string{"feat: a"}, release.Minor},
		{"the types can be chosen, here with more", own, []string{"feature: a"}, release.Minor},
		{"the types can be chosen, here with docs", own, []string{"docs: a"}, release.Patch},
		{"the types can be chosen, here without chore", own, []string{"chore: a"}, release.None},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.rules.BumpAll(parsed(tt.messages...)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestCheckTypesTakesNamesThatAMessageCanHave(t *testing.T) {
	if err := CheckTypes([]string{"feat", "build-deps", "i18n", "a_b"}); err != nil {
		t.Error(err)
	}
	for _, s := range []string{"", "Feat", "feat!", "feat(api)", "fix,chore", "f\u0435at", "1x"} {
		if CheckTypes([]string{"fix", s}) == nil {
			t.Errorf("%q passed", s)
		}
	}
}
