package accounts

import (
	"fmt"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/release"
)

// Newest returns the decision on the newest version, by SemVer's order, and whether there is any.
func Newest(decisions []Decision) (Decision, bool) {
	var newest Decision
	var version release.Version // older than every other
	for _, d := range decisions {
		if v, err := release.Parse(d.Version); err == nil && version.Less(v) {
			newest, version = d, v
		}
	}
	return newest, !version.IsZero()
}

// Change is what a decision does to one account that an earlier decision did not.
type Change struct {
	Account string
	From    string // allowed, held, or absent
	To      string
	Reason  string // of the new verdict
}

// The sides of a [Change].
const (
	allowed = "allowed"
	held    = "held"
	absent  = "absent"
)

// Changes lists the accounts whose side differs between two decisions, in the order of the new decision; accounts that are gone come last.
func Changes(before, after Decision) []Change {
	was := map[string]string{}
	for _, v := range before.Held {
		was[v.Account] = held
	}
	for _, v := range before.Allowed {
		was[v.Account] = allowed
	}
	var list []Change
	compare := func(verdicts []Verdict, side string) {
		for _, v := range verdicts {
			from, known := was[v.Account]
			if !known {
				from = absent
			}
			delete(was, v.Account)
			if from != side {
				list = append(list, Change{v.Account, from, side, v.Reason})
			}
		}
	}
	compare(after.Allowed, allowed)
	compare(after.Held, held)
	for _, v := range append(append([]Verdict{}, before.Allowed...), before.Held...) {
		if from, gone := was[v.Account]; gone {
			list = append(list, Change{v.Account, from, absent, "no longer in the inventory"})
			delete(was, v.Account)
		}
	}
	return list
}

// String is the change as a line of text.
func (c Change) String() string {
	return fmt.Sprintf("%s: %s -> %s (%s)", c.Account, c.From, c.To, strings.TrimSpace(c.Reason))
}
