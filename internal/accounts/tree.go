package accounts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Bounds of a text that is read: above any real inventory (100,000 accounts have about 700,000 values), below what would hurt. What a text
// needs in memory goes by its values rather than its bytes.
const (
	MaxBytes  = 32 << 20 // of one text
	maxDepth  = 32
	maxValues = 900_000
)

// node is one value of a JSON or YAML text, with the line it stands on. Both formats are read into this tree because the usual decoders
// are too kind for a decision: encoding/json folds the case of keys and takes the last of two, and both stop after the first value.
type node struct {
	line  int
	value any // nil, bool, string, number, []node, object
}

type number string

type object []member

type member struct {
	name  string
	line  int
	value node
}

// get returns the member with exactly this name.
func (o object) get(name string) (node, bool) {
	for _, m := range o {
		if m.name == name {
			return m.value, true
		}
	}
	return node{}, false
}

// kind is the word for a value in messages.
func (n node) kind() string {
	switch n.value.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case number:
		return "a number"
	case []node:
		return "a list"
	default:
		return "a mapping"
	}
}

// parseTree reads one document, to its end. JSON is told from YAML by its first character.
func parseTree(b []byte) (node, error) {
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	switch text := bytes.TrimLeft(b, " \t\r\n"); {
	case len(b) > MaxBytes:
		return node{}, fmt.Errorf("larger than %d MiB", MaxBytes>>20)
	case !utf8.Valid(b):
		return node{}, errors.New("not valid UTF-8")
	case len(text) == 0:
		return node{}, errors.New("empty")
	case text[0] == '{' || text[0] == '[':
		return parseJSON(b)
	}
	return parseYAML(b)
}

func parseJSON(b []byte) (node, error) {
	r := jsonReader{text: b, dec: json.NewDecoder(bytes.NewReader(b)), left: maxValues}
	r.dec.UseNumber()
	n, err := r.value(0)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the text ends too early")
		}
		return node{}, fmt.Errorf("line %d: %w", r.line(), err)
	}
	if _, err := r.dec.Token(); !errors.Is(err, io.EOF) {
		return node{}, fmt.Errorf("line %d: text after the end of the document", r.line())
	}
	return n, nil
}

type jsonReader struct {
	text []byte
	dec  *json.Decoder
	at   int // offset up to which lines are counted
	n    int // line breaks before at
	left int // values that may still come
}

// line is the line of the token that was read last.
func (r *jsonReader) line() int {
	end := min(int(r.dec.InputOffset()), len(r.text))
	r.n += bytes.Count(r.text[r.at:end], []byte("\n"))
	r.at = end
	return r.n + 1
}

func (r *jsonReader) value(depth int) (node, error) {
	if depth > maxDepth {
		return node{}, fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	if r.left--; r.left < 0 {
		return node{}, fmt.Errorf("more than %d values", maxValues)
	}
	token, err := r.dec.Token()
	if err != nil {
		return node{}, err
	}
	n := node{line: r.line()}
	switch t := token.(type) {
	case json.Delim:
		if t == '[' {
			n.value, err = r.list(depth)
		} else {
			n.value, err = r.object(depth)
		}
	case json.Number:
		n.value = number(t)
	default: // nil, bool, string
		n.value = t
	}
	return n, err
}

func (r *jsonReader) list(depth int) ([]node, error) {
	list := []node{}
	for r.dec.More() {
		n, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	_, err := r.dec.Token()
	return list, err
}

func (r *jsonReader) object(depth int) (object, error) {
	o := object{}
	var seen names
	for r.dec.More() {
		token, err := r.dec.Token()
		if err != nil {
			return nil, err
		}
		name, line := token.(string), r.line() // the decoder itself insists on a string here
		if seen.has(name) {
			return nil, fmt.Errorf("member %q stands twice in one mapping", name)
		}
		n, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		o = append(o, member{name, line, n})
	}
	_, err := r.dec.Token()
	return o, err
}

// names remembers the members of one mapping. Most have a few, and a list is faster for those than a map.
type names struct {
	few  []string
	many map[string]bool
}

// has reports whether the name came before, and remembers it.
func (n *names) has(name string) bool {
	switch {
	case n.many[name] || n.many == nil && slices.Contains(n.few, name):
		return true
	case n.many != nil:
		n.many[name] = true
	case len(n.few) < 16:
		n.few = append(n.few, name)
	default:
		n.many = map[string]bool{name: true}
		for _, f := range n.few {
			n.many[f] = true
		}
	}
	return false
}

// yamlValues returns at least the number of nodes that the YAML parser will make of a text, without making any: a node needs a separator in
// front of it, or a comma in a mapping with neither key nor value, which stands for two.
func yamlValues(b []byte) int {
	n, colon := 3, false
	for i, c := range b {
		switch c {
		case '\n', '\r':
			n++
		case '[', '{':
			n++
			colon = false
		case ':':
			n++
			colon = true
		case ',':
			n++
			if !colon {
				n++
			}
			colon = false
		case '-', '?':
			if i+1 == len(b) || strings.IndexByte(" \t\r\n", b[i+1]) >= 0 {
				n++
			}
		}
	}
	return n
}

func parseYAML(b []byte) (node, error) {
	if yamlValues(b) > maxValues {
		return node{}, fmt.Errorf("more than %d values", maxValues)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return node{}, errors.New("empty")
		}
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		if !strings.Contains(text, "line ") { // the parser leaves out the first line
			text = "line 1: " + text
		}
		return node{}, errors.New(text)
	}
	var rest yaml.Node
	if err := dec.Decode(&rest); !errors.Is(err, io.EOF) {
		return node{}, errors.New("more than one YAML document")
	}
	return fromYAML(doc.Content[0], 0)
}

// fromYAML takes the plain part of YAML: anchors, aliases, merge keys and explicit tags make a text mean something else than it shows.
func fromYAML(y *yaml.Node, depth int) (node, error) {
	n := node{line: y.Line}
	switch {
	case depth > maxDepth:
		return n, fmt.Errorf("line %d: nested deeper than %d levels", y.Line, maxDepth)
	case y.Kind == yaml.AliasNode || y.Anchor != "":
		return n, fmt.Errorf("line %d: anchors and aliases are not accepted here", y.Line)
	case y.Style&yaml.TaggedStyle != 0:
		return n, fmt.Errorf("line %d: explicit tags (%s) are not accepted here", y.Line, y.Tag)
	}
	switch y.Kind {
	case yaml.SequenceNode:
		list := []node{}
		for i, c := range y.Content {
			item, err := fromYAML(c, depth+1)
			if err != nil {
				return n, err
			}
			list = append(list, item)
			y.Content[i] = nil // it is not needed any more, and there may be many
		}
		n.value = list
	case yaml.MappingNode:
		o := object{}
		var seen names
		for i := 0; i < len(y.Content); i += 2 {
			k := y.Content[i]
			if k.Kind != yaml.ScalarNode || k.Tag != "!!str" || k.Anchor != "" || k.Style&yaml.TaggedStyle != 0 {
				return n, fmt.Errorf("line %d: %q cannot be the name of a member: want a plain string", k.Line, k.Value)
			}
			if seen.has(k.Value) {
				return n, fmt.Errorf("line %d: member %q stands twice in one mapping", k.Line, k.Value)
			}
			v, err := fromYAML(y.Content[i+1], depth+1)
			if err != nil {
				return n, err
			}
			o = append(o, member{k.Value, k.Line, v})
		}
		n.value = o
	default:
		switch y.Tag {
		case "!!null":
		case "!!bool":
			n.value = strings.EqualFold(y.Value, "true")
		case "!!int", "!!float":
			n.value = number(y.Value)
		case "!!str", "!!timestamp": // a date is what the text says; no member here is a time
			n.value = y.Value
		default:
			return n, fmt.Errorf("line %d: a value of type %s is not accepted here", y.Line, y.Tag)
		}
	}
	return n, nil
}
