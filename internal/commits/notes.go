package commits

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/deepdesk/cloudbuild-steps/internal/release"
)

const (
	// maxNotes bounds release notes, in bytes. GitHub takes 125,000 characters as the text of a release.
	maxNotes = 100_000
	// maxSubject bounds one subject or breaking note in them, in characters.
	maxSubject = 300
	// shortID is how many digits of a commit's id stand in the notes. Hosting services turn seven and more into a link.
	shortID = 8
)

// section is a heading of release notes and what belongs under it.
type section struct {
	title string
	holds func(Message) bool
}

// sections returns the headings in their order. A commit stands under the first that holds it.
func (r Rules) sections() []section {
	ofType := func(types ...string) func(Message) bool {
		return func(m Message) bool { return slices.Contains(types, m.Type) }
	}
	return []section{
		{"Breaking changes", func(m Message) bool { return m.Breaking }},
		{"Features", func(m Message) bool { return r.Bump(m) == release.Minor }},
		{"Fixes", ofType("fix")},
		{"Performance", ofType("perf")},
		{"Reverts", ofType("revert")},
		{"Maintenance", func(m Message) bool { return r.Bump(m) == release.Patch }},
		{"Other changes", func(m Message) bool { return true }},
	}
}

// Notes writes release notes in Markdown: a heading with the title, then the commits in their order, grouped by kind, breaking changes
// first. Since names the release before and may be empty. Merges are left out: what they brought in has lines of its own. So are changes
// that were taken back.
//
// Messages are anybody's text, and notes are shown where text acts: everything that could call a person, name an issue, close one, become
// a link or an image or be read as HTML is defused, see [escape].
func Notes(title, since string, list []Commit, r Rules) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n", escape(title, maxSubject))
	if since != "" {
		fmt.Fprintf(&b, "\nChanges since %s.\n", escape(since, maxSubject))
	}
	groups := map[string][]Commit{}
	sections := r.sections()
	left := 0
	for _, c := range list {
		if c.Reverted || !c.Message.Conventional() && isMerge(c.Message.Subject) {
			continue
		}
		i := slices.IndexFunc(sections, func(s section) bool { return s.holds(c.Message) })
		groups[sections[i].title] = append(groups[sections[i].title], c)
		left++
	}
	if left == 0 {
		b.WriteString("\nNo changes.\n")
	}
	for _, s := range sections {
		for i, c := range groups[s.title] {
			entry := line(c)
			if i == 0 {
				entry = "\n### " + s.title + "\n\n" + entry
			}
			if b.Len()+len(entry) > maxNotes {
				fmt.Fprintf(&b, "\n… and %d more.\n", left)
				return b.String()
			}
			b.WriteString(entry)
			left--
		}
	}
	return b.String()
}

// line is one commit's entry: "- **scope:** subject (id)", and what its breaking notes say, indented.
func line(c Commit) string {
	var b strings.Builder
	b.WriteString("- ")
	if c.Message.Scope != "" {
		fmt.Fprintf(&b, "**%s:** ", escape(c.Message.Scope, maxSubject))
	}
	subject := c.Message.Subject
	if subject == "" {
		subject = "(no message)"
	}
	fmt.Fprintf(&b, "%s (%s)\n", escape(subject, maxSubject), c.ID.String()[:shortID])
	for _, n := range c.Message.BreakingNotes {
		fmt.Fprintf(&b, "  - %s\n", escape(n, maxSubject))
	}
	return b.String()
}

// List writes the commits in their order as a Markdown list, defused as [Notes] are, in at most limit bytes: "- **scope:** subject (id)".
func List(list []Commit, limit int) string {
	var b strings.Builder
	for i, c := range list {
		entry := line(c)
		if b.Len()+len(entry) > limit {
			fmt.Fprintf(&b, "\n… and %d more.\n", len(list)-i)
			break
		}
		b.WriteString(entry)
	}
	return b.String()
}

// Plain makes text from outside, such as the name of a branch, plain text inside a line of Markdown: see [escape].
func Plain(s string) string { return escape(s, maxSubject) }

// gap is a space of no width, as an entity. It parts a sigil from the name after it: a backslash would not help, since hosting services
// look for mentions and references in the rendered text.
const gap = "&#8203;"

// escape makes text from outside plain text in Markdown, on one line and at most limit characters long. It shows what was written, but
// "@name" and "#1" are no mention and no reference (so "closes #1" closes nothing), "https://" and "www." are no link, and nothing is
// markup or HTML. Characters that do not print become U+FFFD. The result must not stand at the start of a line, where Markdown gives a
// meaning to more characters.
func escape(s string, limit int) string {
	runes := []rune(strings.Join(strings.Fields(s), " "))
	cut := len(runes) > limit
	if cut {
		runes = runes[:limit]
	}
	var b strings.Builder
	word := false // the character before belongs to a word
	for i, r := range runes {
		next := func(n int) rune {
			if i+n < len(runes) {
				return runes[i+n]
			}
			return ' '
		}
		switch {
		case r == '&':
			b.WriteString("&amp;")
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '$':
			b.WriteString("&#36;") // GitHub reads $…$ as mathematics, and a backslash does not stop it
		case r != ' ' && !unicode.IsPrint(r):
			b.WriteRune(unicode.ReplacementChar)
		case strings.ContainsRune("\\`*_{}[]#|~", r) && !(r == '_' && word && isWord(next(1))): // snake_case is no emphasis
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
		switch {
		case strings.ContainsRune("@#!~%$&", r) && next(1) != ' ', // GitHub's and GitLab's sigils
			r == ':' && next(1) == '/' && next(2) == '/',                                            // a URL
			r == '.' && i >= 3 && strings.EqualFold(string(runes[i-3:i]), "www"),                    // what GitHub takes for one
			r == '-' && i >= 2 && strings.EqualFold(string(runes[i-2:i]), "gh") && isDigit(next(1)): // GH-1
			b.WriteString(gap)
		}
		word = isWord(r)
	}
	if cut {
		b.WriteString("…")
	}
	return b.String()
}

func isWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

func isDigit(r rune) bool { return r >= '0' && r <= '9' }
