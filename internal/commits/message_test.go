package commits

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestParseReadsTheSpecificationsExamples(t *testing.T) {
	// The examples of https://www.conventionalcommits.org/en/v1.0.0/#examples
	for _, tt := range []struct {
		name, message string
		want          Message
	}{
		{"description and breaking change footer",
			"feat: allow provided config object to extend other configs\n\nBREAKING CHANGE: `extends` key in config file is now used for extending other config files",
			Message{Type: "feat", Subject: "allow provided config object to extend other configs", Breaking: true,
				BreakingNotes: []string{"`extends` key in config file is now used for extending other config files"}}},
		{"an exclamation mark to draw attention", "feat!: send an email to the customer when a product is shipped",
			Message{Type: "feat", Subject: "send an email to the customer when a product is shipped", Breaking: true}},
		{"scope and an exclamation mark", "feat(api)!: send an email to the customer when a product is shipped",
			Message{Type: "feat", Scope: "api", Subject: "send an email to the customer when a product is shipped", Breaking: true}},
		{"both an exclamation mark and a footer",
			"feat!: drop support for Node 6\n\nBREAKING CHANGE: use JavaScript features not available in Node 6.",
			Message{Type: "feat", Subject: "drop support for Node 6", Breaking: true, BreakingNotes: []string{"use JavaScript features not available in Node 6."}}},
		{"no body", "docs: correct spelling of CHANGELOG", Message{Type: "docs", Subject: "correct spelling of CHANGELOG"}},
		{"scope", "feat(lang): add Polish language", Message{Type: "feat", Scope: "lang", Subject: "add Polish language"}},
		{"a body of several paragraphs and several footers",
			"fix: prevent racing of requests\n\nIntroduce a request id and a reference to latest request. Dismiss\nincoming responses other than from latest request.\n\n" +
				"Remove timeouts which were used to mitigate the racing issue but are\nobsolete now.\n\nReviewed-by: Z\nRefs: #123",
			Message{Type: "fix", Subject: "prevent racing of requests"}},
		{"a revert", "revert: let us never again speak of the noodle incident\n\nRefs: 676104e, a215868",
			Message{Type: "revert", Subject: "let us never again speak of the noodle incident", Reverts: []string{"676104e", "a215868"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Parse(tt.message)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseFollowsTheRulesOfTheConvention(t *testing.T) {
	conventional := func(typ, scope, subject string) Message { return Message{Type: typ, Scope: scope, Subject: subject} }
	breaking := func(typ, scope, subject string, notes ...string) Message {
		return Message{Type: typ, Scope: scope, Subject: subject, Breaking: true, BreakingNotes: notes}
	}
	other := func(first string) Message { return Message{Subject: first} }
	for _, tt := range []struct {
		name, message string
		want          Message
	}{
		{"the type may be in any case", "FIX: a", conventional("fix", "", "a")},
		{"a footer's token in lower case announces nothing", "fix: a\n\nbreaking change: b", conventional("fix", "", "a")},
		{"the token with a hyphen is the same", "fix: a\n\nBREAKING-CHANGE: b", breaking("fix", "", "a", "b")},
		{"the footer may belong to any type", "chore: a\n\nBREAKING CHANGE: b", breaking("chore", "", "a", "b")},
		{"the footer goes on over lines", "fix: a\n\nBREAKING CHANGE: b\nc\n d", breaking("fix", "", "a", "b c d")},
		{"the footer ends at the next footer", "fix: a\n\nBREAKING CHANGE: b\nReviewed-by: Z\nmore", breaking("fix", "", "a", "b")},
		{"the footer ends at a footer with a number sign", "fix: a\n\nBREAKING CHANGE: b\nRefs #12", breaking("fix", "", "a", "b")},
		{"several footers are several notes", "fix: a\n\nBREAKING CHANGE: b\nBREAKING-CHANGE: c", breaking("fix", "", "a", "b", "c")},
		{"the footer after other footers", "fix: a\n\nRefs: #1\nBREAKING CHANGE: b", breaking("fix", "", "a", "b")},
		{"a footer whose text begins on the next line", "fix: a\n\nBREAKING CHANGE:\nb", breaking("fix", "", "a", "b")},
		{"a footer without a text says nothing", "fix: a\n\nBREAKING CHANGE:\n", conventional("fix", "", "a")},
		{"a footer without a blank after the colon is none", "fix: a\n\nBREAKING CHANGE:b", conventional("fix", "", "a")},
		{"a number sign does not announce a breaking change", "fix: a\n\nBREAKING CHANGE #1", conventional("fix", "", "a")},
		{"a mention in the middle of a line", "fix: a\n\nthis is no BREAKING CHANGE: at all", conventional("fix", "", "a")},
		{"a mention in the subject", "docs: explain BREAKING CHANGE: footers", conventional("docs", "", "explain BREAKING CHANGE: footers")},
		{"a mention in a bullet", "fix: a\n\n* BREAKING CHANGE: b\n- BREAKING CHANGE: c", conventional("fix", "", "a")},
		{"a mention in a quotation", "fix: a\n\n> BREAKING CHANGE: b", conventional("fix", "", "a")},
		{"a mention in an indented block", "fix: a\n\n    BREAKING CHANGE: b", conventional("fix", "", "a")},
		{"the plural is another word", "fix: a\n\nBREAKING CHANGES: b", conventional("fix", "", "a")},
		{"two blanks between the words", "fix: a\n\nBREAKING  CHANGE: b", conventional("fix", "", "a")},
		{"an exclamation mark after the colon", "chore: hello world!: x", conventional("chore", "", "hello world!: x")},
		{"an exclamation mark before the scope", "feat!(api): a", other("feat!(api): a")},
		{"two exclamation marks", "feat!!: a", other("feat!!: a")},
		{"no blank after the colon", "feat:a", other("feat:a")},
		{"a tab after the colon", "feat:\ta", other("feat:\ta")},
		{"several blanks after the colon", "feat:  a", conventional("feat", "", "a")},
		{"a blank before the colon", "feat : a", other("feat : a")},
		{"a blank before the scope", "feat (api): a", other("feat (api): a")},
		{"an empty scope", "feat(): a", other("feat(): a")},
		{"a blank scope", "feat( ): a", other("feat( ): a")},
		{"nested parentheses", "feat(a(b)): c", other("feat(a(b)): c")},
		{"a scope of several words", "feat(the api, v2/x): a", conventional("feat", "the api, v2/x", "a")},
		{"no description", "feat: ", other("feat:")},
		{"no type", ": a", other(": a")},
		{"a type of two words", "BREAKING CHANGE: a", other("BREAKING CHANGE: a")},
		{"a type that nobody knows", "wip: a", conventional("wip", "", "a")},
		{"no convention", "Add a thing", other("Add a thing")},
		{"no convention, with a footer", "Add a thing\n\nBREAKING CHANGE: b", other("Add a thing")},
		{"git's own revert", "Revert \"feat: a\"\n\nThis reverts commit 0123.", other(`Revert "feat: a"`)},
		{"git's fixup", "fixup! feat: a", other("fixup! feat: a")},
		{"a merge", "Merge branch 'feat: a'", other("Merge branch 'feat: a'")},
		{"a hosting service's squash keeps its number", "feat: a (#12)", conventional("feat", "", "a (#12)")},
		{"the messages in a squash's body are not commits", "fix: a\n\n* feat!: b\n\n* feat: c", conventional("fix", "", "a")},
		{"a footer in a squash's body counts", "fix: a\n\n* feat: b\n\nBREAKING CHANGE: c\n\n* fix: d", breaking("fix", "", "a", "c")},
		{"line ends of Windows", "feat: a\r\n\r\nBREAKING CHANGE: b\r\n", breaking("feat", "", "a", "b")},
		{"line ends of old machines", "feat: a\r\rBREAKING CHANGE: b", breaking("feat", "", "a", "b")},
		{"blank lines in front", "\n \n\nfeat: a", conventional("feat", "", "a")},
		{"a byte order mark", "\ufefffeat: a", conventional("feat", "", "a")},
		{"bytes that are not UTF-8", "feat: caf\xe9\n\nBREAKING CHANGE: \xff", breaking("feat", "", "caf\ufffd", "\ufffd")},
		{"a look-alike letter in the type", "f\u0435at: a", other("f\u0435at: a")},
		{"a full-width colon", "feat\uff1a a", other("feat\uff1a a")},
		{"nothing", "", other("")},
		{"blank lines alone", "\n\n", other("")},
		{"a comment that another tool would obey", "fix: a\n\n+semver: major", conventional("fix", "", "a")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Parse(tt.message)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseFindsTheFooterOfAHugeMessageInTime(t *testing.T) {
	begin := time.Now()
	m := Parse("fix: a\n\n" + strings.Repeat("x", 1<<20) + "\n\n" + strings.Repeat("BREAKING CHANGE\n", 1<<16) + "\nBREAKING CHANGE: b")
	if !m.Breaking {
		t.Error("the footer behind a line of a megabyte was not found")
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("took %s", d)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"feat(a)!: b\n\nBREAKING CHANGE: c\nd\n\ne", "fix: a", "\r\n\ufeffX: y", "feat(\xff)!: \xfe", "a\n\nBREAKING-CHANGE:\n\nRefs #1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, message string) {
		m := Parse(message)
		for _, s := range append([]string{m.Type, m.Scope, m.Subject}, m.BreakingNotes...) {
			if strings.ContainsAny(s, "\r\n") || !utf8.ValidString(s) || s != strings.TrimSpace(s) {
				t.Errorf("%q gave the text %q", message, s)
			}
		}
		if m.Type != strings.ToLower(m.Type) || !m.Conventional() && (m.Breaking || m.Scope != "") || len(m.BreakingNotes) > 0 && !m.Breaking {
			t.Errorf("%q gave %+v", message, m)
		}
		if m.Breaking && !strings.Contains(message, "!") && !strings.Contains(message, "BREAKING") {
			t.Errorf("%q is said to be breaking", message)
		}
		if diff := cmp.Diff(m, Parse(strings.ReplaceAll(strings.ReplaceAll(message, "\r\n", "\n"), "\n", "\r\n"))); diff != "" {
			t.Errorf("%q reads otherwise with line ends of Windows: %s", message, diff)
		}
	})
}
