package chartrepo

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Masterminds/semver/v3"
	"go.yaml.in/yaml/v3"
)

// Index is what a repository says that it has.
type Index struct {
	read func(chart string) ([]entry, bool, error) // the entries of one chart: the others stay as they are
}

// entry is one version of a chart, as an index writes it.
type entry struct {
	Version string   `json:"version" yaml:"version"`
	URLs    []string `json:"urls" yaml:"urls"`
	Created string   `json:"created" yaml:"created"`
	Digest  string   `json:"digest" yaml:"digest"`
}

// Version is one version of a chart.
type Version struct {
	Chart   string
	Version string   // as the index writes it
	SHA256  string   // of the archive, in hexadecimal; "" where the index does not say
	URLs    []string // as the index writes them, maybe relative
}

// parseIndex reads an index. Most are YAML; JSON is read as JSON, which is quicker, as Helm does. Of a YAML index in the layout that Helm
// writes, only the part of a chart is parsed that is asked for: the index of a large repository has 20 MiB, which take a YAML parser four seconds and
// 230 MiB of memory.
func parseIndex(text []byte) (*Index, error) {
	if json.Valid(text) {
		return parseJSON(text)
	}
	lines, ok := findEntries(text)
	if !ok {
		return parseYAML(text)
	}
	whole := sync.OnceValues(func() (*Index, error) { return parseYAML(text) })
	return &Index{func(chart string) ([]entry, bool, error) {
		var part map[string][]entry
		if yaml.Unmarshal(cutEntry(lines, chart), &part) == nil && len(part) == 1 && part[chart] != nil {
			return part[chart], true, nil
		}
		index, err := whole() // it is not there, or written in some other way
		if err != nil {
			return nil, false, err
		}
		return index.read(chart)
	}}, nil
}

var errNoIndex = errors.New("it has no apiVersion: this is not the index of a Helm repository")

func parseJSON(text []byte) (*Index, error) {
	var file struct {
		APIVersion string                     `json:"apiVersion"`
		Entries    map[string]json.RawMessage `json:"entries"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, err
	}
	if file.APIVersion == "" {
		return nil, errNoIndex
	}
	return &Index{func(chart string) (list []entry, ok bool, err error) {
		raw, ok := file.Entries[chart]
		if ok {
			err = json.Unmarshal(raw, &list)
		}
		return list, ok, err
	}}, nil
}

func parseYAML(text []byte) (*Index, error) {
	var file struct {
		APIVersion string               `yaml:"apiVersion"`
		Entries    map[string]yaml.Node `yaml:"entries"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, errors.New("it is neither YAML nor JSON of an index") // the parser's text quotes what may be a page of a proxy
	}
	if file.APIVersion == "" {
		return nil, errNoIndex
	}
	return &Index{func(chart string) (list []entry, ok bool, err error) {
		node, ok := file.Entries[chart]
		if ok {
			err = node.Decode(&list)
		}
		return list, ok, err
	}}, nil
}

// findEntries returns what follows the line `entries:` in an index that has that line and one with the apiVersion, each once at its left edge.
func findEntries(text []byte) (rest []byte, ok bool) {
	text = append([]byte("\n"), text...)
	const line = "\nentries:\n"
	if bytes.Count(text, []byte("\nentries:")) != 1 || bytes.Count(text, []byte("\napiVersion: ")) != 1 {
		return nil, false
	}
	_, rest, ok = bytes.Cut(text, []byte(line))
	return rest, ok
}

// cutEntry cuts the entry of a chart out of the lines that follow `entries:`, in the layout that Helm writes: names are indented by two blanks, and
// what belongs to one is indented further, or begins with a dash. It returns nothing when there is none.
func cutEntry(lines []byte, chart string) []byte {
	var from, at int
	found := false
	for line := range bytes.Lines(lines) {
		begins := at
		at += len(line)
		text := bytes.TrimRight(line, "\r\n ")
		inner, indented := bytes.CutPrefix(text, []byte("  "))
		switch {
		case len(text) == 0, bytes.TrimLeft(text, " ")[0] == '#', indented && (inner[0] == ' ' || inner[0] == '-'):
		case found:
			return lines[from:begins]
		case !indented:
			return nil // the entries are over
		case string(inner) == chart+":":
			from, found = begins, true
		}
	}
	if found {
		return lines[from:]
	}
	return nil
}

var sha256Pattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Choose finds the version of a chart that a version or a range names, as Flux does: the text itself, else the newest version in the range.
// "" and "*" mean the newest one that is not a pre-release. Of versions that differ in build metadata only, the one that was created last is
// the newest.
func (i *Index) Choose(chart, versionOrRange string) (Version, error) {
	list, ok, err := i.read(chart)
	switch {
	case err != nil:
		return Version{}, fmt.Errorf("the index has entries for chart %s that cannot be read", chart)
	case !ok || len(list) == 0:
		return Version{}, fmt.Errorf("the index has no chart %s", chart)
	}
	// The newest of equal ones comes first, and Newest is stable.
	slices.SortStableFunc(list, func(a, b entry) int { return created(b).Compare(created(a)) })
	versions := make([]string, len(list))
	for n, e := range list {
		versions[n] = e.Version
	}
	chosen, err := Newest(versions, versionOrRange)
	if err != nil {
		return Version{}, fmt.Errorf("chart %s: %w", chart, err)
	}
	found := list[slices.Index(versions, chosen)]
	v := Version{Chart: chart, Version: found.Version, URLs: found.URLs, SHA256: strings.TrimPrefix(strings.ToLower(found.Digest), "sha256:")}
	if v.SHA256 != "" && !sha256Pattern.MatchString(v.SHA256) {
		return Version{}, fmt.Errorf("the index gives chart %s %s the digest %.100q, which is not a SHA-256", chart, v.Version, found.Digest)
	}
	return v, nil
}

func created(e entry) time.Time {
	at, err := time.Parse(time.RFC3339Nano, e.Created)
	if err != nil { // it only decides between equal versions
		return time.Time{}
	}
	return at
}

// Newest chooses from a list of versions as [Index.Choose] does. Of equal versions it takes the first in the list.
func Newest(versions []string, versionOrRange string) (string, error) {
	if versionOrRange != "" && slices.Contains(versions, versionOrRange) {
		return versionOrRange, nil
	}
	constraint, err := semver.NewConstraint(cmp.Or(versionOrRange, "*"))
	if err != nil {
		return "", fmt.Errorf("%q is neither a version nor a range of versions", versionOrRange)
	}
	var (
		newest *semver.Version
		chosen string
	)
	for _, text := range versions {
		if v, ok := ParseVersion(text); ok && constraint.Check(v) && (newest == nil || v.GreaterThan(newest)) {
			newest, chosen = v, text
		}
	}
	if newest == nil {
		return "", fmt.Errorf("none of %d versions matches %q%s", len(versions), cmp.Or(versionOrRange, "*"), hint(versions, versionOrRange))
	}
	return chosen, nil
}

// hint says what is there instead, and why a range may not see it.
func hint(versions []string, versionOrRange string) string {
	var all []*semver.Version
	pre := true
	for _, text := range versions {
		if v, ok := ParseVersion(text); ok {
			all = append(all, v)
			pre = pre && v.Prerelease() != ""
		}
	}
	if len(all) == 0 {
		return ""
	}
	slices.SortFunc(all, func(a, b *semver.Version) int { return b.Compare(a) })
	var names []string
	for _, v := range all[:min(3, len(all))] {
		names = append(names, v.Original())
	}
	text := " (there are " + strings.Join(names, ", ")
	if len(all) > 3 {
		text += " and older ones"
	}
	if pre && !strings.Contains(versionOrRange, "-") {
		text += "; a range takes pre-releases only if it names one, such as >=0.0.0-0"
	}
	return text + ")"
}

// ParseVersion reads a version as Flux does (fluxcd/pkg, version.ParseVersion): with all three numbers, and maybe with a v in front.
func ParseVersion(text string) (*semver.Version, bool) {
	if strings.Count(text, ".") < 2 {
		return nil, false
	}
	v, err := semver.NewVersion(text)
	return v, err == nil
}
