package cloudbuild

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// globSyntax translates a glob into the syntax of regular expressions, without anchors: * ? [abc] [!a-z], and \ before a character that
// stands for itself. In the glob of a path "*" and "?" stop at a slash, "**" does not, and "**/" may stand for nothing.
func globSyntax(glob string, path bool) string {
	var re strings.Builder
	for glob != "" {
		_, size := utf8.DecodeRuneInString(glob)
		class := bracket.FindStringSubmatch(glob)
		switch {
		case path && strings.HasPrefix(glob, "**/"):
			re.WriteString(`(?:.*/)?`)
			size = len("**/")
		case path && strings.HasPrefix(glob, "**"):
			re.WriteString(`.*`)
			size = len("**")
		case glob[0] == '*' && path:
			re.WriteString(`[^/]*`)
		case glob[0] == '*':
			re.WriteString(`.*`)
		case glob[0] == '?' && path:
			re.WriteString(`[^/]`)
		case glob[0] == '?':
			re.WriteString(`.`)
		case glob[0] == '\\' && len(glob) > 1:
			_, escaped := utf8.DecodeRuneInString(glob[1:])
			re.WriteString(regexp.QuoteMeta(glob[1 : 1+escaped]))
			size = 1 + escaped
		case class != nil:
			re.WriteString(`[` + strings.Replace(class[1], `!`, `^`, 1) + quoteClass(class[2]) + `]`)
			size = len(class[0])
		default:
			re.WriteString(regexp.QuoteMeta(glob[:size]))
		}
		glob = glob[size:]
	}
	return re.String()
}

var (
	// bracket is a bracket expression: a "]" directly after the opening is a member of it, and [:alpha:] is one member.
	bracket      = regexp.MustCompile(`^\[([!^]?)(\]?(?:\[:[a-z]+:\]|[^\]])*)\]`)
	namedClass   = regexp.MustCompile(`\\\[(:[a-z]+:)\\\]`)
	classSpecial = strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `^`, `\^`)
)

// quoteClass takes the meaning from what is special inside the brackets of a regular expression only.
func quoteClass(members string) string {
	return namedClass.ReplaceAllString(classSpecial.Replace(members), `[$1]`)
}
