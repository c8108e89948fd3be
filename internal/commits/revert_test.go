package commits

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/release"
)

func TestCancelFindsChangesThatUndoEachOther(t *testing.T) {
	// Messages are newest first, as a range is. #n stands for the id of the n-th of them, from 0.
	for _, tt := range []struct {
		name     string
		messages []string
		reverted []int
		bump     release.Bump
	}{
		{"git's revert of a feature", []string{"Revert \"feat: a\"\n\nThis reverts commit #1.", "feat: a", "fix: b"}, []int{0, 1}, release.Patch},
		{"a conventional revert that refers to two", []string{"revert: both\n\nRefs: #1, #2", "feat: a", "fix!: b"}, []int{0, 1, 2}, release.None},
		{"a revert that was reverted", []string{"Revert \"Revert\"\n\nThis reverts commit #1.", "Revert \"feat: a\"\n\nThis reverts commit #2.", "feat: a"}, []int{0, 1}, release.Minor},
		{"a revert of what was released before", []string{"Revert \"feat: old\"\n\nThis reverts commit 1234567890.", "docs: a"}, nil, release.Patch},
		{"a revert of two, one of which was released before", []string{"revert: both\n\nRefs: #1, 1234567", "feat: a"}, []int{1}, release.Patch},
		{"a mention in the middle of a line", []string{"docs: say that This reverts commit #1", "feat: a"}, nil, release.Minor},
		{"references of another type than revert", []string{"fix: a\n\nRefs: #1", "feat: a"}, nil, release.Minor},
		{"a breaking change that was taken back", []string{"Revert \"feat!: a\"\n\nThis reverts commit #1.", "feat!: a"}, []int{0, 1}, release.None},
		{"a merge that was taken back", []string{"Revert \"Merge branch 'x'\"\n\nThis reverts commit #1, reversing\nchanges made to 1234567.", "Merge branch 'x'", "feat: a"}, []int{0, 1}, release.Minor},
		{"nothing to take back", nil, nil, release.None},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list := make([]Commit, len(tt.messages))
			id := func(i int) ID { return ID{0xab, byte(i), 0xcd, 0xef} }
			for i, m := range tt.messages {
				for j := range tt.messages {
					m = strings.ReplaceAll(m, fmt.Sprintf("#%d", j), id(j).String())
				}
				list[i] = Commit{ID: id(i), Message: Parse(m)}
			}
			got := Cancel(list)
			for i, c := range got {
				if c.Reverted != slices.Contains(tt.reverted, i) {
					t.Errorf("commit %d: reverted %t", i, c.Reverted)
				}
				if list[i].Reverted {
					t.Error("the list that was given was changed")
				}
			}
			if bump := DefaultRules().BumpAll(got); bump != tt.bump {
				t.Errorf("bump %s, want %s", bump, tt.bump)
			}
		})
	}
}

func TestAnAbbreviationOfSeveralCommitsTakesNothingBack(t *testing.T) {
	list := []Commit{
		{ID: ID{1}, Message: Parse("Revert \"x\"\n\nThis reverts commit abababa.")},
		{ID: ID{0xab, 0xab, 0xab, 0xa1}, Message: Parse("feat: a")},
		{ID: ID{0xab, 0xab, 0xab, 0xa2}, Message: Parse("feat: b")},
	}
	for _, c := range Cancel(list) {
		if c.Reverted {
			t.Errorf("%s is taken back", c.ID)
		}
	}
}

func TestDecidingNamesTheCommitsThatRaiseAsMuchAsTheRange(t *testing.T) {
	list := parsed("fix: a", "feat: b", "docs: c", "feat: d", "Merge branch 'x'", "Add a thing")
	var got []string
	for _, c := range DefaultRules().Deciding(list) {
		got = append(got, c.Message.Subject)
	}
	if !slices.Equal(got, []string{"b", "d"}) {
		t.Errorf("got %q", got)
	}
	if got := DefaultRules().Deciding(parsed("docs: a")); len(got) > 0 {
		t.Errorf("nothing is raised, by %v", got)
	}
	if got := Unread(list); len(got) != 1 || got[0].Message.Subject != "Add a thing" {
		t.Errorf("unread: %v", got)
	}
}

func TestReleaseAsIsAFooterOfAnyMessage(t *testing.T) {
	for message, want := range map[string]string{
		"chore: release\n\nRelease-As: 2.0.0":                  "2.0.0",
		"Merge pull request #1\n\nrelease-as: v2.0.0":          "v2.0.0",
		"chore: twice\n\nRelease-As: 2.0.0\nRelease-As: 3.0.0": "3.0.0",
		"chore: quoted\n\n> Release-As: 2.0.0":                 "",
		"chore: Release-As: 2.0.0":                             "",
		"chore: prose\n\nRelease-As: 2.0.0 maybe":              "",
	} {
		if got := Parse(message).ReleaseAs; got != want {
			t.Errorf("%q: got %q, want %q", message, got, want)
		}
	}
}
