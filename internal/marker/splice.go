package marker

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	yaml11 "go.yaml.in/yaml/v2"
	"go.yaml.in/yaml/v3"
)

// Edit is a new value for a marker that [Find] returned for the same file.
type Edit struct {
	Marker Marker
	Value  string
}

// valuePattern is what a part of an image reference can be. Nothing in it has a meaning in YAML except what [quoted] takes care of.
var valuePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$`)

// Splice returns the file with the values of the edits in place of the old ones and every other byte as it was. It then parses both texts
// and compares them: if anything else than the values differs, there is an error and nothing to write.
func Splice(file []byte, edits []Edit) ([]byte, error) {
	edits = slices.Clone(edits)
	slices.SortFunc(edits, func(a, b Edit) int { return a.Marker.start - b.Marker.start })
	var out bytes.Buffer
	at := 0
	values := map[int]string{} // by node
	var was []node
	for _, e := range edits {
		m := e.Marker
		switch {
		case m.Skip != "":
			return nil, fmt.Errorf("line %d: %s", m.Line, m.Skip)
		case !valuePattern.MatchString(e.Value):
			return nil, fmt.Errorf("line %d: %q cannot be a part of an image reference", m.Line, e.Value)
		case m.start < at || m.end > len(file) || m.start >= m.end:
			return nil, fmt.Errorf("line %d: the marker is not of this file, or is edited twice", m.Line)
		}
		out.Write(file[at:m.start])
		out.WriteString(quoted(e.Value, file[m.start]))
		at = m.end
		values[m.node] = e.Value
		if m.origin != nil && bytes.Equal(m.origin.file, file) {
			was = m.origin.nodes
		}
	}
	out.Write(file[at:])
	if was == nil {
		var err error
		if was, err = parse(file); err != nil {
			return nil, fmt.Errorf("parsing the file: %w", err)
		}
	}
	return out.Bytes(), verify(was, out.Bytes(), values)
}

// quoted writes a value in the quotes that the old one had. A plain value is put in double quotes where a reader would take it for
// something else than a string (1.10, 1e5, 0123, 2024-01-02, yes). Flux decides it so, in two places: kyaml asks a YAML 1.1 parser, and the
// encoder asks its own YAML 1.2 rules.
func quoted(value string, first byte) string {
	if first == '"' || first == '\'' {
		return string(first) + value + string(first)
	}
	if c := value[0] | 0x20; c >= 'a' && c <= 'z' && !strings.ContainsRune("fnoty", rune(c)) {
		return value // no number, date, boolean or null begins so; most tags do
	}
	var old any
	if err := yaml11.Unmarshal([]byte(value), &old); err == nil {
		if _, isString := old.(string); !isString {
			return `"` + value + `"`
		}
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(value), &doc); err != nil || len(doc.Content) != 1 || doc.Content[0].Tag != "!!str" {
		return `"` + value + `"`
	}
	return value
}

// verify compares the nodes of two texts one by one, in the order of the text. Those in values must have the new value; all others must be
// equal in all that a reader can see, comments and lines included.
func verify(was []node, after []byte, values map[int]string) error {
	at := 0
	err := eachDocument(after, func(doc *yaml.Node) error { return verifyNode(was, doc, values, &at) })
	switch {
	case err != nil:
		return fmt.Errorf("reading the edited file: %w", err)
	case at != len(was):
		return fmt.Errorf("the edit would change the structure of the file: %d nodes, before %d", at, len(was))
	}
	return nil
}

// verifyNode compares b, and what is below it, with the nodes of was that follow at.
func verifyNode(was []node, b *yaml.Node, values map[int]string, at *int) error {
	if *at == len(was) {
		return fmt.Errorf("the edit would change the structure of the file: more than %d nodes", len(was))
	}
	a := was[*at].Node
	if value, edited := values[*at]; edited {
		if b.Kind != yaml.ScalarNode || b.Value != value || b.Tag != "!!str" {
			return fmt.Errorf("line %d: the edit would be read as %s %q, not as the string %q", a.Line, b.Tag, b.Value, value)
		}
	} else if b.Value != a.Value || b.Tag != a.Tag || b.Style != a.Style {
		return fmt.Errorf("line %d: the edit would change %q to %q", a.Line, a.Value, b.Value)
	}
	if b.Kind != a.Kind || b.Line != a.Line || b.Anchor != a.Anchor || b.HeadComment != a.HeadComment || b.LineComment != a.LineComment ||
		b.FootComment != a.FootComment || len(b.Content) != len(a.Content) {
		return fmt.Errorf("line %d: the edit would change the structure of the file", a.Line)
	}
	*at++
	if b.Kind == yaml.AliasNode {
		return nil // as in collect
	}
	for _, c := range b.Content {
		if err := verifyNode(was, c, values, at); err != nil {
			return err
		}
	}
	return nil
}
