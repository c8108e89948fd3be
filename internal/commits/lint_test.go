package commits

import (
	"strings"
	"testing"
)

func TestLintSaysWhatKeepsAMessageFromBeingRead(t *testing.T) {
	for _, tt := range []struct {
		name, message string
		want          []string // "line: part of the reason" of each fault
	}{
		{"a feature", "feat: a", nil},
		{"scope, breaking, body and footers", "fix(api)!: a\n\nbody\n\nBREAKING CHANGE: all\nRefs: #1", nil},
		{"a breaking change whose text is on the next line", "fix: a\n\nBREAKING CHANGE:\n all of it", nil},
		{"a merge by git", "Merge branch 'side'", nil},
		{"a merge by GitHub", "Merge pull request #1 from a/b\n\nfeat: a", nil},
		{"a revert by git", "Revert \"feat: a\"\n\nThis reverts commit 676104e.", nil},
		{"a type that nobody has listed", "wibble: a", nil},
		{"no type", "Update things", []string{"1: does not begin with a type"}},
		{"no blank behind the colon", "fix:a", []string{"1: a blank is missing"}},
		{"a blank before the colon", "fix : a", []string{"1: no blank before"}},
		{"a blank before the scope", "fix (api): a", []string{"1: no blank before"}},
		{"a blank behind the scope", "fix(api) : a", []string{"1: no blank before"}},
		{"an empty scope", "fix(): a", []string{"1: scope"}},
		{"no description", "fix:", []string{"1: description is missing"}},
		{"nothing", "\n\n", []string{"1: empty"}},
		{"a fixup", "fixup! fix: a", []string{"1: autosquash"}},
		{"a body without a blank line before it", "fix: a\nbody", []string{"2: blank line"}},
		{"a breaking change in lower case", "fix: a\n\nbreaking change: all", []string{"3: upper case"}},
		{"several breaking changes", "fix: a\n\nBREAKING CHANGES: all", []string{"3: upper case"}},
		{"a breaking change without a text", "fix: a\n\nBREAKING CHANGE:", []string{"3: needs a description"}},
		{"a breaking change without a text, before a footer", "fix: a\n\nBREAKING-CHANGE:\nRefs: #1", []string{"3: needs a description"}},
		{"two faults", "Update\n\nBreaking Change: x", []string{"1: type", "3: upper case"}},
		{"prose that mentions breaking changes", "fix: a\n\nThere is no breaking change: all is well", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Lint(tt.message)
			if len(got) != len(tt.want) {
				t.Fatalf("got %+v, want %q", got, tt.want)
			}
			for i, f := range got {
				line, reason, _ := strings.Cut(tt.want[i], ": ")
				if line != string(rune('0'+f.Line)) || !strings.Contains(f.Reason, reason) {
					t.Errorf("got line %d, %s; want %s", f.Line, f.Reason, tt.want[i])
				}
			}
		})
	}
}

func FuzzLint(f *testing.F) {
	f.Add("fix: a\n\nBREAKING CHANGE:")
	f.Add("fix(a) !: b")
	f.Fuzz(func(t *testing.T, message string) {
		faults := Lint(message)
		header := false
		for _, fault := range faults {
			header = header || fault.Line == 1
			if fault.Reason == "" || strings.Contains(fault.Text, "\n") {
				t.Errorf("%+v", fault)
			}
		}
		if header && Parse(message).Conventional() {
			t.Errorf("%q is conventional and its first line is said not to be", message)
		}
	})
}
