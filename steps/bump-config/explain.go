package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/marker"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// state says what became of a marker.
type state string

// The states of a marker. Every marker of the image's policies has one.
const (
	stateChanged     state = "changed"
	stateAlready     state = "already"      // it has the wanted value
	stateHeld        state = "held"         // the gate holds it
	stateSkipped     state = "skipped"      // it cannot, or must not, be edited
	stateNotSelected state = "not-selected" // its policy does not select the tag
)

// Mark is one marker of the image's policies, and what became of it.
type Mark struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Policy  string `json:"policy"`
	Field   string `json:"field"`
	Account string `json:"account"`
	State   state  `json:"state"`
	Value   string `json:"value"` // in the file, before the edit
	Reason  string `json:"reason"`
}

// mark records what became of the markers of a unit.
func (p *plan) mark(f *file, markers []marker.Marker, account string, s state, reason string) {
	for _, m := range markers {
		id := ""
		if m.Policy != "" {
			id = m.ID()
		}
		why := reason
		if s == stateSkipped && m.Skip != "" {
			why = m.Skip // the unit's reason is about the first defect in it
		}
		p.marks = append(p.marks, Mark{
			File: f.name, Line: m.Line, Policy: id, Field: string(m.Field), Account: account, State: s, Value: m.Value, Reason: why,
		})
	}
}

// markEdited records the markers of a unit that changes: some may have their value already.
func (p *plan) markEdited(f *file, u *unit, account string, edits []marker.Edit, reason string) {
	for _, m := range u.markers {
		s := stateAlready
		if slices.ContainsFunc(edits, func(e marker.Edit) bool {
			return e.Marker.Line == m.Line && e.Marker.Value == m.Value && e.Marker.Field == m.Field
		}) {
			s = stateChanged
		}
		why := ""
		if s == stateChanged {
			why = reason
		}
		p.mark(f, []marker.Marker{m}, account, s, why)
	}
}

// skipFile records a file that was not looked into. A harmless one is nobody's mistake.
func (p *plan) skipFile(name, reason string, harmless bool) {
	p.skipped = append(p.skipped, Skip{File: name, Reason: reason, harmless: harmless})
	if !harmless {
		p.defects++
	}
}

// lineOf is the line of the marker whose value has the tag.
func (u *unit) lineOf(tag string) int {
	for _, m := range u.markers {
		if tags := tagsIn([]marker.Marker{m}); len(tags) == 1 && tags[0] == tag {
			return m.Line
		}
	}
	return u.markers[0].Line
}

// standing is a value in the config repo that stands in the way.
type standing struct {
	tag, file string
	line      int
	policy    string
}

func (s standing) String() string {
	return fmt.Sprintf("%s (%s:%d, %s)", s.tag, s.file, s.line, s.policy)
}

// places lists the first few and counts the rest.
func places(list []standing) string {
	var texts []string
	for i, s := range list {
		if i == 3 {
			texts = append(texts, fmt.Sprintf("and in %d more places", len(list)-i))
			break
		}
		texts = append(texts, s.String())
	}
	return strings.Join(texts, ", ")
}

// place is where a marker that was left alone stands, for messages.
func (s Skip) place() string {
	text := s.File
	if s.Line > 0 {
		text += fmt.Sprintf(":%d", s.Line)
	}
	if s.Policy != "" {
		text += " (" + s.Policy + ")"
	}
	return text
}

// explain tells the reader about the markers that need no line of their own: how many have the value, and how many follow policies that
// do not select the tag.
func (p *plan) explain(b *step.Build) {
	for _, h := range p.holdsOf() {
		b.Log.Info("hold: " + h.String())
	}
	type group struct {
		state          state
		policy, reason string
	}
	var order []group
	count := map[group]int{}
	for _, m := range p.marks {
		if m.State != stateAlready && m.State != stateNotSelected {
			continue
		}
		g := group{m.State, m.Policy, m.Reason}
		if count[g]++; count[g] == 1 {
			order = append(order, g)
		}
	}
	for _, g := range order {
		if g.state == stateAlready {
			b.Log.Info("there already", "policy", g.policy, "markers", count[g])
		} else {
			b.Log.Info("not selected", "policy", g.policy, "markers", count[g], "reason", g.reason)
		}
	}
	for _, text := range slices.Compact(slices.Sorted(slices.Values(p.retreats))) {
		b.Log.Info("going back: " + text)
	}
}
