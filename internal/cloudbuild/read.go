package cloudbuild

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxNodes bounds a file whose aliases multiply ("billion laughs"): the largest public build file has about 4,000 nodes.
const maxNodes = 100_000

// A document is a file after the reader: a tree without aliases, merge keys and nulls, all keys in camelCase and known, every scalar of
// the type that its field wants. It can be decoded into a Go struct without surprises.
type document struct {
	root  *yaml.Node
	lines map[string]int // path -> line, for everything that the file holds
}

// line finds the line of a path, or of the nearest enclosing path that the file holds.
func (d document) line(path string) int {
	for ; path != ""; path = path[:max(0, strings.LastIndexAny(path, ".["))] {
		if n, ok := d.lines[path]; ok {
			return n
		}
	}
	return 0
}

// find is a finding at a path of the document.
func (d document) find(path, format string, args ...any) Finding {
	return Finding{d.line(path), path, fmt.Sprintf(format, args...)}
}

// rewrite copies the document's tree, with every text in which substitutions are replaced exchanged for what f makes of it.
func (d document) rewrite(message string, f func(text, path string) string) *yaml.Node {
	return rewrite(d.root, field{kind: object, of: message}, "", f)
}

func rewrite(n *yaml.Node, of field, path string, f func(text, path string) string) *yaml.Node {
	out := *n
	out.Content = slices.Clone(n.Content)
	switch {
	case of.list:
		of.list = false
		for i, c := range out.Content {
			out.Content[i] = rewrite(c, of, fmt.Sprintf("%s[%d]", path, i), f)
		}
	case of.kind == object:
		for i := 0; i+1 < len(out.Content); i += 2 {
			key := out.Content[i].Value
			out.Content[i+1] = rewrite(out.Content[i+1], messages[of.of][key], path+"."+key, f)
		}
	case of.expand:
		out.Value = f(n.Value, path)
	}
	return &out
}

// A reader turns the nodes of a YAML file into a document, as gcloud would read it, and collects what is wrong on the way.
type reader struct {
	lines    map[string]int
	misread  map[string]bool // paths whose value could not be read
	nodes    int
	faults   Faults
	warnings []Finding
}

// read parses one YAML 1.1 (or JSON) document that holds a message of the table.
func read(data []byte, message string) (document, *reader) {
	r := &reader{lines: map[string]int{}, misread: map[string]bool{}}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var top, more yaml.Node
	if err := decoder.Decode(&top); errors.Is(err, io.EOF) || (err == nil && top.Kind != yaml.DocumentNode) {
		r.faults = append(r.faults, Finding{Text: "the file is empty"})
		return document{}, r
	} else if err != nil {
		r.faults = append(r.faults, Finding{Text: "reading YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")})
		return document{}, r
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		r.faults = append(r.faults, Finding{Text: "the file must hold one YAML document, this one holds more"})
		return document{}, r
	}
	if root := top.Content[0]; root.Kind != yaml.MappingNode {
		r.fault(root, "", "the file must be a mapping, not %s", describe(root))
		return document{}, r
	}
	return document{root: r.message(top.Content[0], message, ""), lines: r.lines}, r
}

func (r *reader) fault(n *yaml.Node, path, format string, args ...any) {
	r.misread[path] = true
	r.faults = append(r.faults, Finding{Line: n.Line, Path: path, Text: fmt.Sprintf(format, args...)})
}

// add adds what a later check found, unless the value there could not even be read: then it looks missing, but it is not.
func (r *reader) add(f Finding) {
	if f.Path == "" || !r.misread[f.Path] {
		r.faults = append(r.faults, f)
	}
}

// enough reports whether the file has grown beyond all reason; it says so once.
func (r *reader) enough(n *yaml.Node) bool {
	r.nodes++
	if r.nodes == maxNodes {
		r.fault(n, "", "the file has more than %d values (do its aliases multiply?)", maxNodes)
	}
	return r.nodes >= maxNodes
}

// target follows aliases and refuses tags: gcloud knows none but the standard ones.
func (r *reader) target(n *yaml.Node, path string) (*yaml.Node, bool) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if r.enough(n) {
		return nil, false
	}
	if n.Style&yaml.TaggedStyle != 0 && n.ShortTag() != "!!str" {
		r.fault(n, path, "tag %s is not accepted here", n.ShortTag())
		return nil, false
	}
	return n, true
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Style == 0 && plainType(n.Value) == typeNull
}

// message reads a mapping whose keys are the fields of a message.
func (r *reader) message(n *yaml.Node, name, path string) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: n.Line}
	n, ok := r.target(n, path)
	if !ok {
		return out
	}
	if n.Kind != yaml.MappingNode {
		r.fault(n, path, "want a mapping, got %s", describe(n))
		return out
	}
	fields := messages[name]
	for _, m := range r.members(n, path, camelCase) {
		f, known := fields[m.key]
		fieldPath := path + "." + m.key
		switch {
		case !known:
			r.fault(m.keyNode, fieldPath, "unused%s", didYouMean(m.key, slices.Collect(maps.Keys(fields))))
		case f.refuse != "":
			r.fault(m.keyNode, fieldPath, "%s", f.refuse)
		default:
			if v := r.value(m.value, f, fieldPath); v != nil {
				r.lines[fieldPath] = m.keyNode.Line
				out.Content = append(out.Content, scalarNode("!!str", m.key, m.keyNode.Line), v)
			}
		}
	}
	return out
}

// A member is one key of a mapping with its value.
type member struct {
	key            string
	keyNode, value *yaml.Node
}

// members lists a mapping's members in file order, with merge keys resolved: a key of the mapping itself beats a merged one, an earlier
// merged mapping beats a later one.
func (r *reader) members(n *yaml.Node, path string, rename func(string) string) []member {
	var own, merged []member
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if r.enough(key) {
			return nil
		}
		if key.Kind == yaml.ScalarNode && key.Tag == "!!merge" {
			merged = append(merged, r.merge(value, path, rename)...)
			continue
		}
		if key.Kind != yaml.ScalarNode {
			r.fault(key, path, "a key must be a word")
			continue
		}
		name := rename(key.Value)
		if seen[name] {
			r.fault(key, path+"."+name, "the key stands twice")
			continue
		}
		seen[name] = true
		own = append(own, member{name, key, value})
	}
	for _, m := range merged {
		if !seen[m.key] {
			seen[m.key] = true
			own = append(own, m)
		}
	}
	return own
}

// merge lists what the value of a merge key ("<<") brings: a mapping or a list of mappings.
func (r *reader) merge(n *yaml.Node, path string, rename func(string) string) []member {
	n, ok := r.target(n, path)
	switch {
	case !ok:
		return nil
	case n.Kind == yaml.MappingNode:
		return r.members(n, path, rename)
	case n.Kind == yaml.SequenceNode:
		var all []member
		for _, c := range n.Content {
			all = append(all, r.merge(c, path, rename)...)
		}
		return all
	}
	r.fault(n, path, "the merge key << wants a mapping, got %s", describe(n))
	return nil
}

// value reads the value of a field. It is nil for a null, which means absent.
func (r *reader) value(n *yaml.Node, f field, path string) *yaml.Node {
	n, ok := r.target(n, path)
	if !ok || isNull(n) {
		return nil
	}
	if !f.list {
		return r.single(n, f, path)
	}
	out := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Line: n.Line}
	if n.Kind != yaml.SequenceNode {
		if n.Kind == yaml.ScalarNode {
			r.warnings = append(r.warnings, Finding{n.Line, path,
				"a list is wanted: gcloud takes a single value as a list of one, a trigger may not"})
		}
		out.Content = append(out.Content, r.single(n, f, path+"[0]"))
		return out
	}
	for i, c := range n.Content {
		itemPath := fmt.Sprintf("%s[%d]", path, i)
		c, ok := r.target(c, itemPath)
		if !ok {
			continue
		}
		r.lines[itemPath] = c.Line
		out.Content = append(out.Content, r.single(c, f, itemPath))
	}
	return out
}

// single reads one value of the field's kind. What is wrong is reported, and a harmless value stands in for it.
func (r *reader) single(n *yaml.Node, f field, path string) *yaml.Node {
	switch f.kind {
	case object:
		return r.message(n, f.of, path)
	case textMap:
		return r.textMap(n, path)
	}
	if n.Kind != yaml.ScalarNode {
		r.fault(n, path, "want %s, got %s", f.wants(), describe(n))
		return scalarNode("!!null", "", n.Line)
	}
	is := typeString
	if n.Style == 0 {
		is = plainType(n.Value)
	}
	switch {
	case f.kind == boolean && is == typeBool:
		return scalarNode("!!bool", strconv.FormatBool(plainBool(n.Value)), n.Line)
	case f.kind == integer && is == typeInt, f.kind == int64Text && (is == typeInt || n.Style != 0):
		i, err := plainInt(n.Value)
		if err != nil || (f.kind == integer && (i < math.MinInt32 || i > math.MaxInt32)) {
			r.fault(n, path, "%q is not a number in range", n.Value)
		}
		return scalarNode("!!int", strconv.FormatInt(i, 10), n.Line)
	case f.kind == text && is == typeString:
		return scalarNode("!!str", n.Value, n.Line)
	case f.kind == enum && is == typeString:
		if !slices.Contains(f.oneOf, n.Value) {
			r.fault(n, path, "%q is none of %s", n.Value, strings.Join(f.oneOf, ", "))
		}
		return scalarNode("!!str", n.Value, n.Line)
	case f.kind == duration && is == typeString:
		return r.duration(n, path)
	}
	r.fault(n, path, "want %s, got %s%s", f.wants(), describe(n), quoteHint(f.kind, n))
	return scalarNode("!!null", "", n.Line)
}

// textMap reads a map of the user's own keys. A null value is the empty string.
func (r *reader) textMap(n *yaml.Node, path string) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: n.Line}
	if n.Kind != yaml.MappingNode {
		r.fault(n, path, "want a mapping, got %s", describe(n))
		return out
	}
	asWritten := func(key string) string { return key }
	for _, m := range r.members(n, path, asWritten) {
		keyPath := path + "." + m.key
		v := r.value(m.value, field{kind: text}, keyPath)
		if v == nil {
			v = scalarNode("!!str", "", m.keyNode.Line)
		}
		r.lines[keyPath] = m.keyNode.Line
		out.Content = append(out.Content, scalarNode("!!str", m.key, m.keyNode.Line), v)
	}
	return out
}

// duration reads the API's JSON form, seconds with an "s", or Go's form. The node holds Go's form.
func (r *reader) duration(n *yaml.Node, path string) *yaml.Node {
	d, err := time.ParseDuration(n.Value)
	if err != nil {
		r.fault(n, path, `%q is not a duration: write seconds, as in "1200s"`, n.Value)
	} else if strings.Trim(n.Value, "-0123456789.") != "s" {
		r.warnings = append(r.warnings, Finding{n.Line, path, fmt.Sprintf(
			`triggers are known to take %q, gcloud builds submit is not: write "%gs"`, n.Value, d.Seconds())})
	}
	return scalarNode("!!str", d.String(), n.Line)
}

func scalarNode(tag, value string, line int) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value, Line: line}
}

func (f field) wants() string {
	return [...]string{text: "a string", object: "a mapping", textMap: "a mapping", boolean: "true or false", integer: "a number",
		int64Text: "a number", enum: "one of " + strings.Join(f.oneOf, ", "), duration: `a duration such as "1200s"`}[f.kind]
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Style == 0 {
		if is := plainType(n.Value); is != typeString {
			return fmt.Sprintf("%s, which is %s in YAML 1.1", strconv.Quote(n.Value), is)
		}
	}
	return strconv.Quote(n.Value)
}

func quoteHint(k kind, n *yaml.Node) string {
	if (k == text || k == duration) && n.Style == 0 {
		return ": put it in quotes"
	}
	return ""
}

// camelCase turns wait_for into waitFor, as gcloud does before it looks at a key. waitFor stays as it is.
func camelCase(key string) string {
	words := strings.Split(key, "_")
	for i, w := range words {
		if i > 0 && w != "" {
			words[i] = strings.ToUpper(w[:1]) + strings.ToLower(w[1:])
		}
	}
	return strings.Join(words, "")
}
