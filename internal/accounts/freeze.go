package accounts

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Freeze is a time in which nothing is delivered: the days around Christmas, an audit, a customer's own change freeze.
type Freeze struct {
	From, To time.Time // To is the first moment after it
	Reason   string
	Regions  []string // the regions it is for; nil means all
	Services []string // the services it is for; nil means all
	Override []string // who may deliver all the same; empty means nobody
}

// holds reports whether the freeze is on at a time, for a service.
func (f Freeze) holds(now time.Time, service string) bool {
	return !now.Before(f.From) && now.Before(f.To) && (f.Services == nil || slices.Contains(f.Services, service))
}

// covers reports whether the freeze is for an account. An account whose region nobody knows may be in any.
func (f Freeze) covers(a Account) bool {
	return f.Regions == nil || a.Region == "" || slices.Contains(f.Regions, a.Region)
}

// until is the end of the freeze, as messages write it.
func (f Freeze) until() string { return f.To.Format(time.RFC3339) }

// The members of a freeze. Others are refused: a misspelt regions would freeze the world, and a misspelt override nobody could lift.
const (
	memberFrom     = "from"
	memberTo       = "to"
	memberReason   = "reason"
	memberRegions  = "regions"
	memberOverride = "override"
)

// ParseFreezes reads a file of freeze windows: YAML or JSON, a mapping with the member freezes or that list alone. The list may be empty.
func ParseFreezes(b []byte) ([]Freeze, error) {
	root, err := parseTree(b)
	if err != nil {
		return nil, err
	}
	list := root
	if o, ok := root.value.(object); ok {
		if err := lookAlike(o, "freezes"); err != nil {
			return nil, err
		}
		if list, ok = o.get("freezes"); !ok {
			return nil, fmt.Errorf("line %d: there is no member freezes", root.line)
		}
	}
	return parseFreezes(list)
}

func parseFreezes(n node) ([]Freeze, error) {
	items, ok := n.value.([]node)
	if !ok {
		return nil, fmt.Errorf("line %d: freezes is %s, want a list", n.line, n.kind())
	}
	var list []Freeze
	for i, item := range items {
		f, err := parseFreeze(item)
		if err != nil {
			return nil, fmt.Errorf("freeze %d: %w", i+1, err)
		}
		list = append(list, f)
	}
	return list, nil
}

func parseFreeze(n node) (Freeze, error) {
	var f Freeze
	o, ok := n.value.(object)
	if !ok {
		return f, fmt.Errorf("line %d: %s, want a mapping", n.line, n.kind())
	}
	for _, m := range o {
		var err error
		switch m.name {
		case memberFrom:
			f.From, err = parseTime(m)
		case memberTo:
			f.To, err = parseTime(m)
		case memberReason:
			if f.Reason, ok = m.value.value.(string); !ok || strings.TrimSpace(f.Reason) == "" {
				err = fmt.Errorf("line %d: reason is %s, want a text that says why", m.line, m.value.kind())
			}
		case memberRegions:
			f.Regions, err = optionalTexts(m)
		case memberServices:
			f.Services, err = optionalTexts(m)
		case memberOverride:
			f.Override, err = optionalTexts(m)
		default:
			err = fmt.Errorf("line %d: member %q is not known: want from, to, reason, regions, services, override", m.line, m.name)
		}
		if err != nil {
			return f, err
		}
	}
	for _, name := range []string{memberFrom, memberTo, memberReason} {
		if _, ok := o.get(name); !ok {
			return f, fmt.Errorf("line %d: there is no member %s", n.line, name)
		}
	}
	if !f.From.Before(f.To) {
		return f, fmt.Errorf("line %d: it ends (%s) before it begins (%s)", n.line, f.until(), f.From.Format(time.RFC3339))
	}
	return f, nil
}

// parseTime reads a point in time with its zone (RFC 3339). Without a zone, a freeze would begin at another hour on every machine.
func parseTime(m member) (time.Time, error) {
	text, ok := m.value.value.(string)
	if !ok {
		return time.Time{}, fmt.Errorf("line %d: %s is %s, want a time such as 2026-12-20T00:00:00+01:00", m.line, m.name, m.value.kind())
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("line %d: %s %.60q: want a time with its zone, such as 2026-12-20T00:00:00+01:00", m.line, m.name, text)
	}
	return t, nil
}

// optionalTexts reads a list of strings; null is as good as no member at all.
func optionalTexts(m member) ([]string, error) {
	if m.value.value == nil {
		return nil, nil
	}
	return texts(m.value, m.name, "texts")
}

// FreezeError refuses because of freeze windows.
type FreezeError struct {
	Freezes []Freeze // those that hold, and are not overridden
	Refused string   // who asked to override one of them, and may not; empty when nobody did
}

// Error gives the reason of each, and when it ends.
func (e *FreezeError) Error() string {
	var parts []string
	for _, f := range e.Freezes {
		where := ""
		if f.Regions != nil {
			where = " in " + strings.Join(f.Regions, ", ")
		}
		parts = append(parts, fmt.Sprintf("deliveries%s are frozen until %s: %s", where, f.until(), f.Reason))
	}
	text := strings.Join(parts, "; ")
	if e.Refused != "" {
		text += fmt.Sprintf("; %s may not override that", e.Refused)
	}
	return text
}

// Fix says who can lift it.
func (e *FreezeError) Fix() string {
	end := e.Freezes[0].To
	var may []string
	for i, f := range e.Freezes {
		if f.To.After(end) {
			end = f.To
		}
		if i == 0 {
			may = slices.Clone(f.Override)
			continue
		}
		may = slices.DeleteFunc(may, func(name string) bool { return !slices.Contains(f.Override, name) })
	}
	wait := "run the build again after " + end.Format(time.RFC3339)
	if len(may) == 0 {
		return wait + "; nobody may override it"
	}
	return wait + ", or set OVERRIDE_FREEZE to the reason and OVERRIDE_BY to one who may: " + strings.Join(may, ", ")
}

// Overriding is a request to deliver in spite of freeze windows.
type Overriding struct{ By, Reason string }

// Override is a freeze window that was overridden, as the decision records it.
type Override struct {
	Freeze string `json:"freeze"` // the reason of the freeze
	Until  string `json:"until"`  // its end, RFC 3339
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// errOverride says that an override in a decision is not complete.
var errOverride = errors.New("an override must have freeze, until, by and reason")
