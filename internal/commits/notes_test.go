package commits

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNotesGroupByKindAndPutBreakingChangesFirst(t *testing.T) {
	got := Notes("v2.0.0", "v1.42.1", parsed(
		"docs: explain the thing",
		"fix(login): refuse an empty password",
		"feat: add search",
		"Merge pull request #7 from a/b",
		"chore: raise a dependency",
		"feat(api)!: drop the old endpoints\n\nBREAKING CHANGE: use /v2 instead",
		"perf: index the table",
		"Update the thing",
		"revert: let us not",
		"fix: close the file",
	), DefaultRules())
	want := `## v2.0.0

Changes since v1.42.1.

### Breaking changes

- **api:** drop the old endpoints (06000000)
  - use /v2 instead

### Features

- add search (03000000)

### Fixes

- **login:** refuse an empty password (02000000)
- close the file (0a000000)

### Performance

- index the table (07000000)

### Reverts

- let us not (09000000)

### Maintenance

- raise a dependency (05000000)

### Other changes

- explain the thing (01000000)
- Update the thing (08000000)
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNotesOfNothingSaySo(t *testing.T) {
	want := "## v1.0.0\n\nNo changes.\n"
	if got := Notes("v1.0.0", "", parsed("Merge branch 'x'"), DefaultRules()); got != want {
		t.Errorf("got %q", got)
	}
}

func TestNotesEndBeforeTheyAreTooLongForAHostingService(t *testing.T) {
	var messages []string
	for range 5000 {
		messages = append(messages, "feat: "+strings.Repeat("long ", 40))
	}
	got := Notes("v1.0.0", "", parsed(messages...), DefaultRules())
	if len(got) > 110_000 {
		t.Errorf("%d bytes", len(got))
	}
	more := regexp.MustCompile(`\n… and (\d+) more\.\n$`).FindStringSubmatch(got)
	if more == nil {
		t.Fatalf("the end does not say that there is more: %q", got[len(got)-100:])
	}
	if strings.Count(got, "\n- ") == 5000 {
		t.Error("nothing was left out")
	}
}

func TestEscapeDefusesWhatActs(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"plain words stay readable", `don't: v1.2.3 is well-known (really), "so" 50% + 1 = fine`, `don't: v1.2.3 is well-known (really), "so" 50% + 1 = fine`},
		{"snake_case stays readable", "rename user_name", "rename user_name"},
		{"a mention of a person", "thanks @octocat", "thanks @&#8203;octocat"},
		{"a mention of everybody", "@everyone", "@&#8203;everyone"},
		{"a chat program's mention", "<!channel>", "&lt;!&#8203;channel&gt;"},
		{"an issue's number", "closes #12", `closes \#&#8203;12`},
		{"an issue of another repository", "fixes a/b#12", `fixes a/b\#&#8203;12`},
		{"an issue in GitHub's other spelling", "closes GH-12", "closes GH-&#8203;12"},
		{"an issue's address", "closes https://github.com/a/b/issues/1", "closes https:&#8203;//github.com/a/b/issues/1"},
		{"an address without a scheme", "see www.example.com", "see www.&#8203;example.com"},
		{"a merge request of GitLab", "see !5 and &3", "see !&#8203;5 and &amp;&#8203;3"},
		{"an image", "![x](http://a/b.png)", `!&#8203;\[x\](http:&#8203;//a/b.png)`},
		{"HTML", `<img src=x onerror="alert(1)">`, `&lt;img src=x onerror="alert(1)"&gt;`},
		{"an entity", "&lt;b&gt;", "&amp;&#8203;lt;b&amp;&#8203;gt;"},
		{"emphasis", "**bold** _it_ ~~no~~", `\*\*bold\*\* \_it\_ \~&#8203;\~&#8203;no\~&#8203;\~`},
		{"code", "`rm -rf`", "\\`rm -rf\\`"},
		{"mathematics", "$x$", "&#36;&#8203;x&#36;"},
		{"a backslash before a mention", `\@me`, `\\@&#8203;me`},
		{"control characters and direction overrides", "a\x1b[31mb\u202ec", "a\ufffd\\[31mb\ufffdc"},
		{"line breaks and blanks", "a\nb\t c", "a b c"},
		{"a long text", strings.Repeat("é", 20), strings.Repeat("é", 12) + "…"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			limit := maxSubject
			if tt.name == "a long text" {
				limit = 12
			}
			if got := escape(tt.text, limit); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// live is what must not be left in the notes: a sigil directly before a name, a bare angle bracket, a URL, an unescaped bracket or backtick.
var live = regexp.MustCompile("[@][^& \n]|(?:^|[^\\\\])#[^&# \n0-9]|[<>]|://|(?i:gh-[0-9]|www\\.[^&])|(?:^|[^\\\\])(?:\\\\\\\\)*[`\\[\\]*|~]")

func FuzzEscape(f *testing.F) {
	for _, s := range []string{"@a #1 <b> http://x www.y GH-1 `c` [d](e)", `\`, `\\@x`, "&#64;a", "@\u200ba", "\xff", "~a!b$c%d&e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := escape(text, maxSubject)
		if bad := live.FindString(got); bad != "" {
			t.Errorf("%q became %q, where %q acts", text, got, bad)
		}
		if strings.ContainsAny(got, "\n\r\x1b\x00") {
			t.Errorf("%q became %q", text, got)
		}
	})
}
