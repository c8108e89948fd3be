// Package hold knows which versions must not be delivered: the file holds.yaml of the config repo. A hold is what makes a roll back last:
// without it the next run of any automation selects the bad version again. rollback-version and people add holds, restore-version and
// people remove them, bump-config and the gate obey them.
//
//	holds:
//	- service: backend
//	  version: v1.1.0
//	  digest: sha256:…          # optional: the image, under whatever tag it stands
//	  reason: "charges twice"
//	  who: ada@example.com
//	  when: 2026-11-24T09:30:00Z
//	  build: https://…          # optional: the build that added it
//
// The file is read strictly: one defect, and all of it is refused, because a hold that is overlooked delivers what somebody stopped. It is
// written byte by byte, so that comments and order stay.
//
// The package is pure.
package hold

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// DefaultPath is where the holds of a config repo stand, below CONFIG_PATH.
const DefaultPath = "holds.yaml"

// Hold is one version that must not be delivered.
type Hold struct {
	Service string    `json:"service"` // as bump-config's SERVICE: the last path element of the image, unless set
	Version string    `json:"version"` // the tag: a release (v1.1.0) or a build (main-4f2a91c-1764000000)
	Digest  string    `json:"digest"`  // sha256:…, or empty. It holds the image back under every tag.
	Reason  string    `json:"reason"`
	Who     string    `json:"who"`
	When    time.Time `json:"when"`
	Build   string    `json:"build"` // the page of the build that added it, or empty
	Line    int       `json:"line"`  // in holds.yaml, counted from 1
}

// String says who holds what since when, and why, for messages. The texts in it are people's and may be anything printable.
func (h Hold) String() string {
	text := fmt.Sprintf("%s %s is held by %s since %s: %s", h.Service, h.Version, h.Who, h.When.UTC().Format(time.RFC3339), strings.Join(strings.Fields(h.Reason), " "))
	if h.Build != "" {
		text += " (" + h.Build + ")"
	}
	return text
}

// List is all holds of a config repo, in the order of the file.
type List []Hold

// Find returns the hold on a version of a service, or on a digest, whatever service and version it was recorded for: the same image under
// another name is as bad. An empty version or digest matches nothing.
func (l List) Find(service, version, digest string) (Hold, bool) {
	for _, h := range l {
		if version != "" && h.Service == service && h.Version == version {
			return h, true
		}
	}
	for _, h := range l {
		if digest != "" && h.Digest == digest {
			return h, true
		}
	}
	return Hold{}, false
}

// Of returns the holds of one service.
func (l List) Of(service string) List {
	var of List
	for _, h := range l {
		if h.Service == service {
			of = append(of, h)
		}
	}
	return of
}

// Bounds of the file: far above what people hold, far below what hurts.
const (
	maxBytes = 1 << 20
	maxText  = 2000
)

var (
	servicePattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$`)
	versionPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`) // a tag (OCI distribution spec, section "Pulling manifests")
	digestPattern  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// Parse reads holds.yaml. No file, and a file without holds, are an empty list. Errors name the line and the member.
func Parse(file []byte) (List, error) {
	list, _, err := parse(file)
	return list, err
}

// parse also returns the node of the list, nil when the file has none.
func parse(file []byte) (List, *yaml.Node, error) {
	switch {
	case len(file) > maxBytes:
		return nil, nil, fmt.Errorf("larger than %d MiB", maxBytes>>20)
	case !utf8.Valid(file):
		return nil, nil, errors.New("not valid UTF-8")
	}
	dec := yaml.NewDecoder(bytes.NewReader(file))
	var doc, rest yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil, nil
	} else if err != nil {
		return nil, nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&rest); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("more than one YAML document")
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" && root.Value == "" {
		return nil, nil, nil // comments only
	}
	members, err := mapping(root, "holds")
	if err != nil {
		return nil, nil, err
	}
	items := members["holds"]
	if items == nil {
		return nil, nil, fmt.Errorf("line %d: there is no member holds", root.Line)
	}
	if items.Kind == yaml.ScalarNode && items.Tag == "!!null" {
		return nil, items, nil
	}
	if err := plain(items); err != nil {
		return nil, nil, err
	}
	if items.Kind != yaml.SequenceNode {
		return nil, nil, fmt.Errorf("line %d: holds is not a list", items.Line)
	}
	var list List
	for i, item := range items.Content {
		h, err := parseHold(item)
		if err != nil {
			return nil, nil, fmt.Errorf("hold %d: %w", i+1, err)
		}
		for _, other := range list {
			if other.Service == h.Service && other.Version == h.Version {
				return nil, nil, fmt.Errorf("hold %d: line %d: %s %s is held already, on line %d", i+1, h.Line, h.Service, h.Version, other.Line)
			}
		}
		list = append(list, h)
	}
	return list, items, nil
}

func parseHold(n *yaml.Node) (Hold, error) {
	members, err := mapping(n, "service", "version", "digest", "reason", "who", "when", "build")
	if err != nil {
		return Hold{}, err
	}
	h := Hold{Line: n.Line}
	when := ""
	for _, member := range []struct {
		name string
		to   *string
	}{{"service", &h.Service}, {"version", &h.Version}, {"digest", &h.Digest}, {"reason", &h.Reason}, {"who", &h.Who}, {"when", &when}, {"build", &h.Build}} {
		v := members[member.name]
		if v == nil {
			continue
		}
		if err := plain(v); err != nil {
			return h, err
		}
		if v.Kind != yaml.ScalarNode || v.Tag != "!!str" && (member.name != "when" || v.Tag != "!!timestamp") {
			return h, fmt.Errorf("line %d: %s is not a text (quote it)", v.Line, member.name)
		}
		*member.to = v.Value
	}
	if when != "" {
		if h.When, err = time.Parse(time.RFC3339, when); err != nil {
			return h, fmt.Errorf("line %d: when %q is not a time: want RFC 3339, such as 2026-11-24T09:30:00Z", n.Line, when)
		}
	}
	if err := h.check(); err != nil {
		return h, fmt.Errorf("line %d: %w", n.Line, err)
	}
	return h, nil
}

// check reports why the hold cannot stand in the file.
func (h Hold) check() error {
	for _, required := range []struct{ name, value string }{{"service", h.Service}, {"version", h.Version}, {"reason", h.Reason}, {"who", h.Who}} {
		if strings.TrimSpace(required.value) == "" {
			return fmt.Errorf("%s is missing", required.name)
		}
	}
	switch {
	case h.When.IsZero():
		return errors.New("when is missing")
	case !servicePattern.MatchString(h.Service):
		return fmt.Errorf("service %q: want letters, digits, '-', '_' or '.', a letter or digit at both ends", h.Service)
	case !versionPattern.MatchString(h.Version):
		return fmt.Errorf("version %q cannot be a tag of an image", h.Version)
	case h.Digest != "" && !digestPattern.MatchString(h.Digest):
		return fmt.Errorf("digest %q: want sha256: and 64 hexadecimal digits", h.Digest)
	}
	for _, text := range []struct{ name, value string }{{"reason", h.Reason}, {"who", h.Who}, {"build", h.Build}} {
		unprintable := strings.ContainsFunc(text.value, func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) })
		if len(text.value) > maxText || unprintable {
			return fmt.Errorf("%s is longer than %d bytes, or holds characters that cannot be printed", text.name, maxText)
		}
	}
	return nil
}

// mapping returns the members of a mapping that has no others than the known ones.
func mapping(n *yaml.Node, known ...string) (map[string]*yaml.Node, error) {
	if err := plain(n); err != nil {
		return nil, err
	}
	if n.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: not a mapping", n.Line)
	}
	members := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		name := ""
		for _, k := range known {
			if key.Kind == yaml.ScalarNode && key.Value == k && key.Anchor == "" && key.Style&yaml.TaggedStyle == 0 {
				name = k
			}
		}
		switch {
		case name == "":
			return nil, fmt.Errorf("line %d: member %q is not known: want %s", key.Line, key.Value, strings.Join(known, ", "))
		case members[name] != nil:
			return nil, fmt.Errorf("line %d: member %q stands twice", key.Line, name)
		}
		members[name] = n.Content[i+1]
	}
	return members, nil
}

// plain refuses what makes a text mean something else than it shows.
func plain(n *yaml.Node) error {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return fmt.Errorf("line %d: anchors and aliases are not accepted here", n.Line)
	case n.Style&yaml.TaggedStyle != 0:
		return fmt.Errorf("line %d: explicit tags are not accepted here", n.Line)
	}
	return nil
}
