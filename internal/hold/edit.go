package hold

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// heading is what a new file begins with.
const heading = `# Versions that must not be delivered. bump-config refuses to write them, and may go back from them.
# Remove an entry to let its version through again.
`

// Add returns the file with one more hold at its end, and every byte that was there before. A file that is empty or missing becomes a new
// one. When the version is held already, with this digest or with none, the file stays as it is, so that a run that is repeated adds
// nothing; a hold of the same version with another digest is an error.
func Add(file []byte, h Hold) ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	list, items, err := parse(file)
	if err != nil {
		return nil, err
	}
	for _, there := range list {
		if there.Service != h.Service || there.Version != h.Version {
			continue
		}
		if h.Digest != "" && there.Digest != "" && h.Digest != there.Digest {
			return nil, fmt.Errorf("line %d: %s %s is held already, with digest %s", there.Line, h.Service, h.Version, there.Digest)
		}
		return file, nil
	}
	lineBreak := "\n"
	if i := bytes.IndexByte(file, '\n'); i > 0 && file[i-1] == '\r' {
		lineBreak = "\r\n"
	}
	indent := ""
	out := slices.Clone(file)
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, lineBreak...)
	}
	switch {
	case items == nil && len(bytes.TrimSpace(file)) == 0:
		out = []byte(heading + "holds:\n")
	case items == nil:
		out = append(out, "holds:"+lineBreak...)
	case len(items.Content) > 0 && items.Style&yaml.FlowStyle != 0:
		return nil, errors.New("the list is written in one line ([…]): give each hold lines of its own, with a - in front, so that it can be edited")
	case len(items.Content) > 0:
		indent = strings.Repeat(" ", items.Column-1)
	case items.Kind == yaml.SequenceNode: // []
		at := bytes.LastIndex(out, []byte("["))
		if at < 0 || strings.TrimSpace(string(out[at:])) != "[]" {
			return nil, errors.New("the empty list cannot be edited: write it as holds: []")
		}
		out = append(bytes.TrimRight(out[:at], " \t"), lineBreak...)
	case items.Value != "": // null, written out
		return nil, errors.New("the empty list cannot be edited: write it as holds: []")
	}
	out = append(out, h.lines(indent, lineBreak)...)
	return out, verify(out, append(slices.Clone(list), h))
}

// Remove returns the file without the hold on a version of a service: without its lines, and the comments directly above it unless it is
// the first (those may be about the whole list), every other
// byte as it was. When there is no such hold the file stays as it is.
func Remove(file []byte, service, version string) ([]byte, error) {
	list, items, err := parse(file)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(h Hold) bool { return h.Service == service && h.Version == version })
	if i < 0 {
		return file, nil
	}
	if items.Style&yaml.FlowStyle != 0 {
		return nil, errors.New("the list is written in one line ([…]): give each hold lines of its own, with a - in front, so that it can be edited")
	}
	lines := slices.Collect(bytes.Lines(file))
	column := items.Column - 1
	dash := func(item *yaml.Node) int { // the line of the item's hyphen, counted from 0
		n := min(item.Line, len(lines)) - 1 // YAML knows line breaks that are no line ends here; verify finds that out
		for n > 0 && (len(lines[n]) <= column || lines[n][column] != '-' || len(bytes.TrimSpace(lines[n][:column])) > 0) {
			n--
		}
		return n
	}
	comment := func(line []byte) (indent int, is bool) {
		text := bytes.TrimLeft(line, " ")
		return len(line) - len(text), len(text) > 0 && text[0] == '#'
	}
	start, end := dash(items.Content[i]), len(lines)
	if i+1 < len(items.Content) {
		end = dash(items.Content[i+1])
	}
	for end-1 > start {
		in, is := comment(lines[end-1])
		if len(bytes.TrimSpace(lines[end-1])) > 0 && (!is || in > column) { // deeper, it may be inside a text
			break
		}
		end-- // it belongs to what follows
	}
	for start > 0 && i > 0 {
		if in, is := comment(lines[start-1]); !is || in != column {
			break
		}
		start--
	}
	out := bytes.Join(slices.Concat(lines[:start], lines[end:]), nil)
	return out, verify(out, slices.Delete(slices.Clone(list), i, i+1))
}

// verify parses what was edited: it must hold exactly the wanted list.
func verify(file []byte, want List) error {
	got, err := Parse(file)
	if err != nil {
		return fmt.Errorf("the file cannot be edited safely: %w", err)
	}
	same := slices.EqualFunc(got, want, func(a, b Hold) bool {
		sameTime := a.When.Equal(b.When)
		a.Line, b.Line, a.When, b.When = 0, 0, time.Time{}, time.Time{}
		return sameTime && a == b
	})
	if !same {
		return errors.New("the file cannot be edited safely: the edit would change other holds")
	}
	return nil
}

// lines writes the hold as an item of the list.
func (h Hold) lines(indent, lineBreak string) string {
	var b strings.Builder
	lead := indent + "- "
	for _, m := range []struct{ name, value string }{
		{"service", scalar(h.Service)}, {"version", scalar(h.Version)}, {"digest", scalar(h.Digest)}, {"reason", quoted(h.Reason)}, {"who", quoted(h.Who)},
		{"when", h.When.Format(time.RFC3339Nano)}, {"build", quoted(h.Build)},
	} {
		if m.value == "" || m.value == `""` {
			continue
		}
		b.WriteString(lead + m.name + ": " + m.value + lineBreak)
		lead = indent + "  "
	}
	return b.String()
}

// scalar writes a value plainly where it is read as the same text, else in quotes (1.10, 20240102).
func scalar(s string) string {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(s), &doc); err == nil && len(doc.Content) == 1 {
		if n := doc.Content[0]; n.Kind == yaml.ScalarNode && n.Tag == "!!str" && n.Value == s {
			return s
		}
	}
	return quoted(s)
}

// quoted writes a text in double quotes; JSON's escapes are YAML's, too.
func quoted(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return `""` // a string can always be encoded
	}
	return strings.TrimSpace(b.String())
}
