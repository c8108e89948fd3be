package commits

import (
	"fmt"
	"regexp"
	"strings"
)

// Fault is what is wrong with one line of a commit message.
type Fault struct {
	Line   int    // from 1
	Text   string // the line; anybody's text
	Reason string
}

var (
	// typeAlone, noBlank and spaced are the slips that people make with the first line, in the order in which they are looked for.
	spaced     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*\s+(?:\(|!|:)|^[A-Za-z][A-Za-z0-9_-]*\([^()]*\)\s+(?:!|:)`)
	noBlank    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*(?:\([^()]*\))?!?:\S`)
	typeAlone  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*(?:\([^()]*\))?!?:\s*$`)
	noScope    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*\(\s*\)!?:`)
	autosquash = regexp.MustCompile(`^(?:fixup|squash|amend)! `)
	// looseBreaking is a line that was meant to announce a breaking change and does not.
	looseBreaking = regexp.MustCompile(`^(?i:breaking[ -]changes?)\s*:`)
)

// Lint returns what keeps a message from being read as its author meant it, by Conventional Commits 1.0.0: a first line that is none, and
// footers that look like a breaking change and are not one. The messages that git and hosting services write for merges and reverts are
// not looked at: nobody is asked to change those.
func Lint(message string) []Fault {
	text := normalise(message)
	first, body, _ := strings.Cut(text, "\n")
	if isMerge(first) || strings.HasPrefix(first, `Revert "`) {
		return nil
	}
	var faults []Fault
	if reason := lintHeader(first); reason != "" {
		faults = append(faults, Fault{1, first, reason})
	}
	for i, line := range strings.Split(body, "\n") {
		if i == 0 && line != "" {
			faults = append(faults, Fault{2, line, "the body must be separated from the first line by a blank line"})
		}
		switch m := breakingToken.FindStringSubmatch(line); {
		case m != nil && m[1] == "" && !continues(body, i):
			faults = append(faults, Fault{i + 2, line, "a breaking change needs a description behind the colon"})
		case m == nil && looseBreaking.MatchString(line):
			faults = append(faults, Fault{i + 2, line, "a breaking change is announced by BREAKING CHANGE and a colon, in upper case: this line announces none"})
		}
	}
	return faults
}

// continues reports whether a line of a body is followed by one that belongs to it.
func continues(body string, line int) bool {
	lines := strings.Split(body, "\n")
	return line+1 < len(lines) && lines[line+1] != "" && !anyToken.MatchString(lines[line+1])
}

func lintHeader(first string) string {
	switch {
	case header.MatchString(first):
		return ""
	case first == "":
		return "the message is empty"
	case autosquash.MatchString(first):
		return "it is meant to become part of another commit: run git rebase --autosquash"
	case typeAlone.MatchString(first):
		return "the description is missing"
	case noScope.MatchString(first):
		return "the scope between the parentheses is missing"
	case spaced.MatchString(first):
		return "there must be no blank before the parenthesis, the exclamation mark or the colon"
	case noBlank.MatchString(first):
		return "a blank is missing behind the colon"
	default:
		return fmt.Sprintf("it does not begin with a type, such as %q", "fix: ")
	}
}
