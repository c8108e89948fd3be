package marker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxNodes bounds the work for one file; a file of 4 MiB that people wrote has far fewer.
const maxNodes = 1 << 20

// Find returns the markers of a file in the order of their lines, those that cannot be edited included. It does not fail: in a file
// that cannot be parsed every marker carries the reason.
func Find(file []byte) []Marker {
	if !Has(file) {
		return nil
	}
	lines := splitLines(file)
	nodes, err := parse(file)
	origin := &parsed{file, nodes}
	byLine := map[int][]int{} // of the lines that count: those with the token, and the ones below them
	for number, line := range lines {
		if bytes.Contains(file[line.start:line.end], []byte(token)) {
			byLine[number+1], byLine[number+2] = nil, nil
		}
	}
	for i, n := range nodes {
		if on, counts := byLine[n.Line]; counts {
			byLine[n.Line] = append(on, i)
		}
	}
	var found []Marker
	for number, line := range lines {
		if !bytes.Contains(file[line.start:line.end], []byte(token)) {
			continue
		}
		text := string(file[line.start:line.end])
		l := lineOf{file: file, number: number + 1, line: line, text: text, nodes: nodes, on: byLine[number+1]}
		if number+1 < len(lines) {
			l.below = byLine[number+2]
		}
		var m Marker
		var marks bool
		if err != nil {
			m, marks = Marker{Skip: "the file cannot be parsed: " + err.Error()}, true
			if i := strings.IndexByte(text, '#'); i >= 0 {
				if c, ok := parseComment(text[i:]); ok && c.Skip == "" {
					m.Namespace, m.Policy, m.Field = c.Namespace, c.Policy, c.Field
				}
			}
		} else {
			m, marks = l.marker()
		}
		if marks {
			m.Line, m.origin = number+1, origin
			found = append(found, m)
		}
	}
	return found
}

// Bare returns the markers without what the file was parsed to, for those who keep them: [Splice] then parses the file again.
func Bare(markers []Marker) []Marker {
	bare := make([]Marker, len(markers))
	for i, m := range markers {
		m.origin = nil
		bare[i] = m
	}
	return bare
}

// parsed is a file and its nodes, kept so that [Splice] need not parse it a second time.
type parsed struct {
	file  []byte
	nodes []node
}

// node is a YAML node with what its ancestors say about it.
type node struct {
	*yaml.Node
	resource *Resource
	item     bool         // a scalar directly in a block sequence
	key      bool         // a mapping's key
	refuse   string       // why nothing below an ancestor may be edited
	anchored []*yaml.Node // the node and its ancestors, as far as they have an anchor
}

// parse returns all nodes of all documents in the order of the text.
func parse(file []byte) ([]node, error) {
	if !utf8.Valid(file) {
		return nil, errors.New("it is not UTF-8")
	}
	nodes := make([]node, 0, len(file)/14) // one every 14 bytes is more than people write
	err := eachDocument(file, func(doc *yaml.Node) (err error) {
		nodes, err = collect(nodes, node{Node: doc, resource: &Resource{}})
		return err
	})
	if err != nil {
		return nil, err
	}
	return nodes, nil
}

// eachDocument calls f with the documents of a file, in order, until there is an error.
func eachDocument(file []byte, f func(doc *yaml.Node) error) error {
	for dec := yaml.NewDecoder(bytes.NewReader(file)); ; {
		var doc yaml.Node
		err := dec.Decode(&doc)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if err := f(&doc); err != nil {
			return err
		}
	}
}

func collect(nodes []node, n node) ([]node, error) {
	if len(nodes) == maxNodes {
		return nil, fmt.Errorf("it has more than %d nodes", maxNodes)
	}
	if n.Anchor != "" {
		n.anchored = append(slices.Clip(n.anchored), n.Node)
	}
	if n.Kind == yaml.MappingNode {
		if r := resourceOf(n.Node); r != nil {
			n.resource = r
			// Whose the object is must be beyond doubt before anything in it is changed, not only in the labels themselves.
			meta := member(n.Node, "metadata")
			for _, m := range []*yaml.Node{meta, member(meta, "labels"), member(meta, "annotations")} {
				if m == nil || n.refuse != "" {
					continue
				}
				if twice := duplicate(m); twice != "" {
					n.refuse = fmt.Sprintf("the key %q stands twice in the object's metadata, and which of them counts depends on the reader", twice)
				}
			}
		}
		if twice := duplicate(n.Node); twice != "" && n.refuse == "" {
			n.refuse = fmt.Sprintf("the key %q stands twice in one mapping, and which of them counts depends on the reader", twice)
		}
		if sops := member(n.Node, "sops"); sops != nil && sops.Kind == yaml.MappingNode && n.refuse == "" {
			n.refuse = "the file is encrypted with SOPS, whose checksum an edit would break"
		}
	}
	nodes = append(nodes, n)
	if n.Kind == yaml.AliasNode {
		return nodes, nil // what it stands for is elsewhere, and has been seen there
	}
	for i, c := range n.Content {
		child := node{Node: c, resource: n.resource, refuse: n.refuse, anchored: n.anchored, key: n.Kind == yaml.MappingNode && i%2 == 0}
		child.item = n.Kind == yaml.SequenceNode && n.Style&yaml.FlowStyle == 0 && c.Kind == yaml.ScalarNode
		var err error
		if nodes, err = collect(nodes, child); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

// resourceOf reads a mapping that is a Kubernetes object: it has a kind and an apiVersion. nil for others.
func resourceOf(n *yaml.Node) *Resource {
	r := Resource{APIVersion: text(member(n, "apiVersion")), Kind: text(member(n, "kind"))}
	if r.APIVersion == "" || r.Kind == "" {
		return nil
	}
	meta := member(n, "metadata")
	r.Name, r.Namespace = text(member(meta, "name")), text(member(meta, "namespace"))
	r.Labels, r.Annotations = texts(member(meta, "labels")), texts(member(meta, "annotations"))
	return &r
}

func member(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Kind == yaml.ScalarNode && n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

func text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

func texts(n *yaml.Node) map[string]string {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	m := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if v := n.Content[i+1]; v.Kind == yaml.ScalarNode {
			m[n.Content[i].Value] = v.Value
		}
	}
	return m
}

// duplicate returns a key that a mapping has twice, or "". YAML forbids it; yaml.v3's nodes do not report it.
func duplicate(n *yaml.Node) string {
	const few = 32 // so many are quicker compared than put into a map
	var seen map[string]bool
	if len(n.Content) > 2*few {
		seen = make(map[string]bool, len(n.Content)/2)
	}
	for i := 0; i < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
			continue
		}
		for j := 0; seen == nil && j < i; j += 2 {
			if other := n.Content[j]; other.Kind == yaml.ScalarNode && other.Value == k.Value && other.Tag != "!!merge" {
				return k.Value
			}
		}
		if seen[k.Value] {
			return k.Value
		}
		if seen != nil {
			seen[k.Value] = true
		}
	}
	return ""
}

// lineOf is a line that holds the token, with the nodes that begin on it and on the line below.
type lineOf struct {
	file   []byte
	number int
	line   span
	text   string
	nodes  []node
	on     []int
	below  []int
}

// marker finds out what the comment of the line marks. A comment is what follows the end of a value on the same line; where no value
// ends in front of a #, the text may as well be part of a block scalar, and is left alone.
func (l lineOf) marker() (Marker, bool) {
	if trimmed := strings.TrimLeft(l.text, " \t\ufeff"); strings.HasPrefix(trimmed, "#") {
		return l.above(trimmed)
	}
	for _, i := range l.on {
		n := l.nodes[i]
		start, end, why := l.locate(n)
		if end == 0 {
			continue // not a value, or one that does not end here
		}
		rest := string(l.file[end:l.line.end])
		comment := strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(comment, "#") || comment == rest {
			continue
		}
		m, marks := parseComment(comment)
		if !marks {
			return m, false
		}
		return l.fill(m, i, start, end, why), true
	}
	return l.unattached()
}

// above takes the comment on a line of its own: Flux lets it mark a scalar in a list when the item below has no comment of its own.
func (l lineOf) above(comment string) (Marker, bool) {
	m, marks := parseComment(comment)
	if !marks {
		return m, false
	}
	for _, i := range l.below {
		n := l.nodes[i]
		if !n.item || n.LineComment != "" || strings.TrimSpace(n.HeadComment) != strings.TrimSpace(comment) {
			continue
		}
		below := l
		below.line = lineAt(l.file, l.line.next)
		start, end, why := below.locate(n)
		if end == 0 && why == "" {
			why = "the value is written over several lines"
		}
		return l.fill(m, i, start, end, why), true
	}
	if m.Skip == "" {
		m.Skip = "no value stands in front of it: a marker belongs on the line of its value"
	}
	return m, true
}

func (l lineOf) fill(m Marker, i, start, end int, why string) Marker {
	n := l.nodes[i]
	m.node, m.start, m.end, m.Value, m.Resource = i, start, end, n.Value, *n.resource
	switch {
	case m.Skip != "":
	case why != "":
		m.Skip = why
	case n.key:
		m.Skip = "it stands behind a key without a value"
	case n.refuse != "":
		m.Skip = n.refuse
	case l.isShared(n):
		m.Skip = "an alias in another object stands for the value, which would change with it"
	}
	return m
}

// isShared reports whether an alias in another object refers to the value, or to something that the value is in. Whoever asked for the
// edit asked for this object only: the other one may be another account's.
func (l lineOf) isShared(n node) bool {
	if len(n.anchored) == 0 {
		return false
	}
	return slices.ContainsFunc(l.nodes, func(other node) bool {
		return other.Kind == yaml.AliasNode && other.resource != n.resource && slices.Contains(n.anchored, other.Alias)
	})
}

// unattached describes a line in which no single value ends in front of the comment.
func (l lineOf) unattached() (Marker, bool) {
	before, _, _ := strings.Cut(l.text, token)
	hash := strings.LastIndexByte(before, '#')
	if hash < 0 {
		return Marker{}, false // the words, but no comment
	}
	m, _ := parseComment(l.text[hash:])
	if m.Skip != "" || len(l.on) == 0 {
		m.Skip = "it is inside a block of text, or no value ends in front of it"
		return m, true
	}
	before = strings.TrimRight(l.text[:hash], " \t")
	switch {
	case strings.HasSuffix(before, ":"):
		m.Skip = "it stands behind a key without a value"
	case strings.HasSuffix(before, "}") || strings.HasSuffix(before, "]"):
		m.Skip = "it stands behind a whole flow mapping or list: give its value a line of its own"
	default:
		m.Skip = "no value ends in front of it"
	}
	return m, true
}

// locate returns the bytes of a value that begins and ends on this line, its quotes included, and why it must not be edited all the same.
// end is 0 when the node is no such value.
func (l lineOf) locate(n node) (start, end int, why string) {
	if n.Kind != yaml.ScalarNode && n.Kind != yaml.AliasNode {
		return 0, 0, ""
	}
	start = l.line.start
	for range n.Column - 1 { // columns count characters
		_, size := utf8.DecodeRune(l.file[start:l.line.end])
		start += size
	}
	if n.Kind == yaml.AliasNode {
		return start, start + len("*") + len(n.Value), "the value is an alias: the text that it stands for is elsewhere"
	}
	for start < l.line.end && (l.file[start] == '&' || l.file[start] == '!') { // properties come before the value
		if l.file[start] == '!' {
			why = "the value has an explicit tag"
		}
		for start < l.line.end && l.file[start] != ' ' && l.file[start] != '\t' {
			start++
		}
		for start < l.line.end && (l.file[start] == ' ' || l.file[start] == '\t') {
			start++
		}
	}
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		end = start
		for end < l.line.end && strings.IndexByte("|>+-0123456789", l.file[end]) >= 0 {
			end++
		}
		return start, end, "the value is a block of text"
	}
	end = start + scalarLength(string(l.file[start:l.line.end]), n.Node)
	if end == start {
		return 0, 0, ""
	}
	return start, end, why
}

// scalarLength returns how many bytes of text the scalar at its beginning takes, or 0 when it does not end there.
func scalarLength(text string, n *yaml.Node) int {
	switch {
	case n.Style&yaml.DoubleQuotedStyle != 0 && strings.HasPrefix(text, `"`):
		for i := 1; i < len(text); i++ {
			switch text[i] {
			case '\\':
				i++
			case '"':
				return i + 1
			}
		}
	case n.Style&yaml.SingleQuotedStyle != 0 && strings.HasPrefix(text, "'"):
		for i := 1; i < len(text); i++ {
			if text[i] != '\'' {
				continue
			}
			if i+1 < len(text) && text[i+1] == '\'' {
				i++
				continue
			}
			return i + 1
		}
	case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) == 0 && n.Value != "" && strings.HasPrefix(text, n.Value):
		return len(n.Value)
	}
	return 0
}

// span is a line: its bytes without the line break, and where the next line begins.
type span struct{ start, end, next int }

// splitLines finds the lines as YAML 1.1 and yaml.v3 count them: LF, CR, CRLF, NEL (U+0085), LS (U+2028) and PS (U+2029) end a line.
func splitLines(file []byte) []span {
	var lines []span
	for at := 0; at < len(file); {
		s := lineAt(file, at)
		lines = append(lines, s)
		at = s.next
	}
	return lines
}

var byteOrderMark = []byte("\xef\xbb\xbf")

func lineAt(file []byte, start int) span {
	if start == 0 && bytes.HasPrefix(file, byteOrderMark) { // yaml.v3 does not count it as a column
		start = len(byteOrderMark)
	}
	for i := start; i < len(file); i++ {
		switch c := file[i]; {
		case c > '\r' && c < 0xc2 || c < '\n': // what most bytes are
		case c == '\n':
			return span{start, i, i + 1}
		case c == '\r':
			if i+1 < len(file) && file[i+1] == '\n' {
				return span{start, i, i + 2}
			}
			return span{start, i, i + 1}
		case bytes.HasPrefix(file[i:], []byte("\u0085")):
			return span{start, i, i + 2}
		case bytes.HasPrefix(file[i:], []byte("\u2028")) || bytes.HasPrefix(file[i:], []byte("\u2029")):
			return span{start, i, i + 3}
		}
	}
	return span{start, len(file), len(file)}
}
