// Package commits understands the commits between two releases: which they are, what their messages say, how much of a version they
// raise, and how they are told to people.
//
// It exists because each of these is easy to get almost right. Walking the log until a tag is met loses commits behind merges and skewed
// clocks; a loose reader takes a mention of "BREAKING CHANGE" for one; a subject copied into release notes calls people and closes issues.
//
// The package is pure: it sees the graph and the messages that internal/gitrepo read, and does no reading of its own. Used by
// compute-version.
package commits

import (
	"regexp"
	"slices"
	"strings"
)

// Message is what a commit message says by the rules of Conventional Commits 1.0.0.
type Message struct {
	// Type is the type in lower case, such as feat; empty when the message does not follow the convention.
	Type string
	// Scope is the text between the parentheses, as written; empty when there is none.
	Scope string
	// Subject is the description after the colon; the whole first line when the message does not follow the convention.
	Subject string
	// Breaking reports a "!" before the colon or a BREAKING CHANGE footer.
	Breaking bool
	// BreakingNotes are the texts of the BREAKING CHANGE footers, each on one line.
	BreakingNotes []string
	// ReleaseAs is the text of the last Release-As footer, which asks for a version, whether the first line follows the convention or not.
	ReleaseAs string
	// Reverts are the commits that the message takes back, as it names them: full ids or their first digits, in lower case. Git names one
	// in a line of its own ("This reverts commit …"); the specification's example of a commit of type revert names several behind "Refs:".
	Reverts []string
}

// Conventional reports whether the message follows the convention.
func (m Message) Conventional() bool { return m.Type != "" }

var (
	// header is the first line: a type, an optional scope, an optional "!", a colon and a space, a description (rules 1, 4, 5 and 13).
	header = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9_-]*)(?:\(([^()]*[^()\s][^()]*)\))?(!)?: +(\S.*)$`)
	// breakingToken begins the footer that announces a breaking change (rules 12 and 16). It is upper case, unlike all else (rule 15), and
	// it stands at the start of a line, so that a bullet, a quotation or a sentence that speaks of breaking changes is none.
	breakingToken = regexp.MustCompile(`^BREAKING[ -]CHANGE:(?: +(.*))?$`)
	// releaseAs is the footer by which release-please and others let a commit ask for a version. Like all tokens but one it has no case.
	releaseAs = regexp.MustCompile(`^(?i:release-as): +(\S+)$`)
	// gitRevert is the line that git revert writes. For a merge it goes on: ", reversing changes made to …".
	gitRevert   = regexp.MustCompile(`^This reverts commit ([0-9a-fA-F]{7,40})\b`)
	refs        = regexp.MustCompile(`^(?i:refs): +(.*)$`)
	abbreviated = regexp.MustCompile(`\b[0-9a-fA-F]{7,40}\b`)
	// anyToken begins any footer, which ends the one before it (rules 8 to 10).
	anyToken = regexp.MustCompile(`^(?:[A-Za-z][A-Za-z0-9-]*|BREAKING CHANGE)(?:: | #)`)
)

// Parse reads a commit message. It never fails: a message that does not follow the convention has no type.
func Parse(message string) Message {
	first, rest, _ := strings.Cut(normalise(message), "\n")
	var parsed Message
	if m := header.FindStringSubmatch(first); m != nil {
		notes := breakingNotes(rest)
		parsed = Message{
			Type:          strings.ToLower(m[1]),
			Scope:         strings.TrimSpace(m[2]),
			Subject:       strings.TrimSpace(m[4]),
			Breaking:      m[3] != "" || len(notes) > 0,
			BreakingNotes: notes,
		}
	} else {
		parsed.Subject = strings.TrimSpace(first)
	}
	for line := range strings.SplitSeq(rest, "\n") {
		if m := releaseAs.FindStringSubmatch(line); m != nil {
			parsed.ReleaseAs = m[1]
		}
		if m := gitRevert.FindStringSubmatch(line); m != nil {
			parsed.Reverts = append(parsed.Reverts, strings.ToLower(m[1]))
		}
		if m := refs.FindStringSubmatch(line); m != nil && parsed.Type == "revert" {
			for _, id := range abbreviated.FindAllString(m[1], -1) {
				parsed.Reverts = append(parsed.Reverts, strings.ToLower(id))
			}
		}
	}
	return parsed
}

// normalise makes one text of the forms in which tools leave a message: line ends of other systems, a byte order mark, blank lines in
// front, blanks at the ends of lines, bytes that are not UTF-8.
func normalise(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s)
	s = strings.TrimPrefix(s, "\uFEFF")
	var b strings.Builder
	b.Grow(len(s))
	for line := range strings.SplitSeq(s, "\n") {
		line = strings.TrimRight(line, " \t")
		if line == "" && b.Len() == 0 {
			continue
		}
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return strings.TrimRight(b.String(), "\n")
}

// breakingNotes collects the BREAKING CHANGE footers of what follows the first line. A footer's text ends where another footer or a blank
// line begins: the specification would let it run over blank lines, but squashed messages put other commits there.
func breakingNotes(body string) []string {
	var notes []string
	open := false // the line continues the footer before it
	for line := range strings.SplitSeq(body, "\n") {
		if m := breakingToken.FindStringSubmatch(line); m != nil {
			notes = append(notes, strings.TrimSpace(m[1]))
			open = true
			continue
		}
		if line == "" || anyToken.MatchString(line) {
			open = false
		}
		if open {
			last := &notes[len(notes)-1]
			*last = strings.TrimSpace(*last + " " + strings.TrimSpace(line))
		}
	}
	// Rule 12 wants a description. A token alone is a template that nobody filled in.
	notes = slices.DeleteFunc(notes, func(n string) bool { return n == "" })
	if len(notes) == 0 {
		return nil
	}
	return notes
}
