package cloudbuild

import (
	"errors"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A reference is a place of a text at which something is substituted: text[start:end]. key is empty for "$$", which becomes "$".
type reference struct {
	start, end int
	key        string
}

var (
	referencePattern = regexp.MustCompile(`\$(?:\$|\{([A-Z_][A-Z0-9_]*)\}|([A-Z_][A-Z0-9_]*))`)
	// operation is the beginning of a parameter expansion: what follows is an operator, or nothing but the closing brace.
	operation = regexp.MustCompile(`\$\{([A-Z_][A-Z0-9_]*)`)
)

// references finds what the service replaces in a text: $$, $KEY (as long as it goes on) and ${KEY}, the key in capitals. All else is
// left alone: $name, ${name}, $(command), $1, a lone $, and also ${_KEY:-x}, whose operators work in substitution values only. A
// backslash escapes nothing.
func references(s string) iter.Seq[reference] {
	return func(yield func(reference) bool) {
		for _, m := range referencePattern.FindAllStringSubmatchIndex(s, -1) {
			r := reference{start: m[0], end: m[1]}
			switch {
			case m[2] >= 0:
				r.key = s[m[2]:m[3]]
			case m[4] >= 0:
				r.key = s[m[4]:m[5]]
			}
			if !yield(r) {
				return
			}
		}
	}
}

// substitute replaces every reference of a text once: values are not looked at again.
func substitute(s string, value func(key string) string) string {
	var out strings.Builder
	end := 0
	for r := range references(s) {
		out.WriteString(s[end:r.start])
		if r.key == "" {
			out.WriteByte('$')
		} else {
			out.WriteString(value(r.key))
		}
		end = r.end
	}
	out.WriteString(s[end:])
	return out.String()
}

// An expansion fills in the value of a substitution of its own, in which bash's parameter expansions work (dynamicSubstitutions). The
// documentation says "bash parameter expansions" without a list that could be read; these are the operators seen in public build files
// and their nearest relatives. Any other operator is an error, so that nothing passes here that the service might read differently.
type expansion struct {
	value func(key string) (string, error)
}

// text expands a value. Quotes are ordinary characters.
func (x expansion) text(s string) (string, error) { return x.expand(s, "$") }

// word expands what stands behind an operator, where a backslash takes the meaning from a slash, a brace and itself.
func (x expansion) word(s string) (string, error) { return x.expand(s, `$\`) }

func (x expansion) expand(s, special string) (string, error) {
	var out strings.Builder
	for s != "" {
		plain := strings.IndexAny(s, special)
		if plain < 0 {
			break
		}
		out.WriteString(s[:plain])
		s = s[plain:]
		length, v := 1, s[:1]
		var err error
		switch key, reference := prefix(operation, s), prefix(referencePattern, s); {
		case len(s) > 1 && s[0] == '\\' && strings.ContainsRune(`/}\`, rune(s[1])):
			length, v = 2, s[1:2]
		case key != nil:
			if length, err = closing(s); err == nil {
				v, err = x.operate(key[1], s[len(key[0]):length-1])
			}
		case reference != nil:
			length, v = len(reference[0]), "$"
			if reference[0] != "$$" {
				v, err = x.value(reference[2])
			}
		}
		if err != nil {
			return "", err
		}
		out.WriteString(v)
		s = s[length:]
	}
	out.WriteString(s)
	if out.Len() > maxValue {
		return "", fmt.Errorf("the value grows longer than %d bytes", maxValue)
	}
	return out.String(), nil
}

// prefix is the match of a pattern at the beginning of s, with its groups.
func prefix(pattern *regexp.Regexp, s string) []string {
	if m := pattern.FindStringSubmatch(s); m != nil && strings.HasPrefix(s, m[0]) {
		return m
	}
	return nil
}

// closing is the length of the expansion with which s begins, its brace included.
func closing(s string) (int, error) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case strings.HasPrefix(s[i:], "${"):
			depth++
		case s[i] == '}':
			if depth--; depth == 0 {
				return i + 1, nil
			}
		}
	}
	return 0, fmt.Errorf("%s: the closing brace is missing", s)
}

// operate applies an operator, with what follows it, to the value of a key.
func (x expansion) operate(key, op string) (string, error) {
	v, err := x.value(key)
	if err != nil {
		return "", err
	}
	switch {
	case op == "":
		return v, nil
	case strings.HasPrefix(op, ":-"):
		if v != "" {
			return v, nil
		}
		return x.word(op[2:])
	case strings.HasPrefix(op, ":+"):
		if v == "" {
			return "", nil
		}
		return x.word(op[2:])
	case op == "^^":
		return strings.ToUpper(v), nil
	case op == ",,":
		return strings.ToLower(v), nil
	case offset.MatchString(op):
		return x.cut(v, op[1:])
	case strings.HasPrefix(op, "#"), strings.HasPrefix(op, "%"):
		return x.trim(v, op)
	case strings.HasPrefix(op, "/"):
		return x.replace(v, op[1:])
	}
	return "", fmt.Errorf("the operator in ${%s%s} is not supported: use :- :+ # ## %% %%%% / // :offset:length ^^ or ,,", key, op)
}

// offset is the beginning of an operator that cuts: a colon, then neither of the characters of := and :?.
var offset = regexp.MustCompile(`^:[^=?]`)

// cut is ${KEY:offset} and ${KEY:offset:length}, in characters. A negative offset counts from the end (with a blank before it, since
// ":-" is another operator), so does a negative length.
func (x expansion) cut(v, arguments string) (string, error) {
	arguments, err := x.word(arguments)
	if err != nil {
		return "", err
	}
	first, second, hasLength := strings.Cut(arguments, ":")
	start, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return "", fmt.Errorf("the offset %q is not a number", first)
	}
	runes := []rune(v)
	if start < 0 {
		start += len(runes)
	}
	if start < 0 || start > len(runes) {
		return "", nil
	}
	end := len(runes)
	if hasLength {
		length, err := strconv.Atoi(strings.TrimSpace(second))
		switch {
		case err != nil:
			return "", fmt.Errorf("the length %q is not a number", second)
		case length < 0:
			end += length
		case length < end-start:
			end = start + length
		}
		if end < start {
			return "", fmt.Errorf("the length %d ends before the offset %d", length, start)
		}
	}
	return string(runes[start:end]), nil
}

// trim is ${KEY#pattern}, ## (both from the beginning), % and %% (from the end): the doubled operator takes the longest match, the
// other the shortest.
func (x expansion) trim(v, op string) (string, error) {
	fromStart, glob := op[0] == '#', op[1:]
	longest := glob != "" && glob[0] == op[0]
	if longest {
		glob = glob[1:]
	}
	syntax, err := x.pattern(glob)
	if err != nil {
		return "", err
	}
	re := regexp.MustCompile(`(?s)\A(?:` + syntax + `)\z`)
	var cuts []int // between the characters, the shortest match first
	for i := range v {
		cuts = append(cuts, i)
	}
	cuts = append(cuts, len(v))
	if fromStart == longest {
		slices.Reverse(cuts)
	}
	for _, i := range cuts {
		if fromStart && re.MatchString(v[:i]) {
			return v[i:], nil
		}
		if !fromStart && re.MatchString(v[i:]) {
			return v[:i], nil
		}
	}
	return v, nil
}

// replace is ${KEY/pattern/text} and ${KEY//pattern/text}: the first match, or all of them, each as long as possible.
func (x expansion) replace(v, arguments string) (string, error) {
	glob, all := strings.CutPrefix(arguments, "/")
	if !all && strings.ContainsAny(arguments[:min(1, len(arguments))], "#%") {
		return "", errors.New("replacement at one end only (/# and /%) is not supported")
	}
	glob, with := cutSlash(glob)
	with, err := x.word(with)
	if err != nil {
		return "", err
	}
	syntax, err := x.pattern(glob)
	if err != nil || syntax == "" {
		return v, err
	}
	re := regexp.MustCompile(`(?s)` + syntax)
	if all {
		return re.ReplaceAllLiteralString(v, with), nil
	}
	if m := re.FindStringIndex(v); m != nil {
		v = v[:m[0]] + with + v[m[1]:]
	}
	return v, nil
}

// cutSlash cuts pattern/text at the first slash that is neither escaped nor inside a nested expansion.
func cutSlash(s string) (pattern, with string) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case strings.HasPrefix(s[i:], "${"):
			depth++
		case s[i] == '}':
			depth--
		case s[i] == '/' && depth == 0:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// pattern is the regular expression of a glob, without anchors. A pattern that comes out of another substitution is a pattern still, as
// in bash.
func (x expansion) pattern(glob string) (string, error) {
	glob, err := x.text(glob)
	if err != nil {
		return "", err
	}
	syntax := globSyntax(glob, false)
	if _, err := regexp.Compile(syntax); err != nil {
		return "", fmt.Errorf("the pattern %q is not valid", glob)
	}
	return syntax, nil
}
