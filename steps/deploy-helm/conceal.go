package main

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
)

// concealed are the texts that came out of Secrets. Helm, the API server and the kubelet quote in their errors what they were given, so a
// type that cannot be printed does not help here: whatever is said about a release that has such values goes through text.
type concealed struct{ texts []string }

// shortest is the length from which on a text is concealed. Nothing shorter is a secret, and its letters stand everywhere.
const shortest = 3

// add notes what one key of a Secret holds: one value, or a YAML map of values.
func (c *concealed) add(value []byte, isMap bool) {
	c.note(string(value))
	if !isMap {
		c.note(strings.Trim(string(value), `'"`))
		return
	}
	if values, err := common.ReadValues(value); err == nil {
		c.leaves(map[string]any(values))
	}
}

func (c *concealed) leaves(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, member := range v {
			c.leaves(member)
		}
	case []any:
		for _, member := range v {
			c.leaves(member)
		}
	case bool, nil:
	case float64:
		c.note(strconv.FormatFloat(v, 'f', -1, 64))
	default:
		c.note(fmt.Sprint(v))
	}
}

// note takes a text up in the forms in which an error may quote it: as it is, escaped, encoded as in a Secret's data, and line by line.
func (c *concealed) note(text string) {
	forms := []string{text, strings.TrimSpace(text), strings.Trim(strconv.Quote(text), `"`), base64.StdEncoding.EncodeToString([]byte(text))}
	if strings.Contains(text, "\n") {
		for line := range strings.Lines(text) {
			forms = append(forms, strings.TrimSpace(line))
		}
	}
	for _, f := range forms {
		if len(f) >= shortest && !slices.Contains(c.texts, f) {
			c.texts = append(c.texts, f)
		}
	}
	// The longest first, so that none of them hides the rest of another.
	slices.SortStableFunc(c.texts, func(a, b string) int { return len(b) - len(a) })
}

// text is what may be printed of a text.
func (c *concealed) text(s string) string {
	for _, secret := range c.texts {
		s = strings.ReplaceAll(s, secret, "(from a Secret)")
	}
	return s
}
