package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// mostRows is how many lines of one kind a table has; the hand-over lists all.
const mostRows = 50

// table shows a decision to a person: what is asked, how many may, and who with which reason.
func table(d accounts.Decision) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s (%s): %d allowed, %d held\n", d.Service, d.Version, d.Channel, len(d.Allowed), len(d.Held))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	rows := func(word string, verdicts []accounts.Verdict) {
		for i, v := range verdicts {
			if i == mostRows {
				fmt.Fprintf(w, "  %s\t… and %d more\t\t\n", word, len(verdicts)-mostRows)
				return
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", word, v.Account, orDash(v.Region), v.Reason)
		}
	}
	rows("allowed", d.Allowed)
	rows("held", d.Held)
	_ = w.Flush() // a strings.Builder cannot fail
	return b.String()
}

// report adds what a person should know beside the verdicts: overridden freezes, and where inventory and config repo do not fit.
func report(b *step.Build, d accounts.Decision, got inputs) {
	for _, o := range d.Overrides {
		b.Log.Warn(fmt.Sprintf("%s overrides the freeze until %s (%s): %s", o.By, o.Until, o.Freeze, o.Reason))
	}
	if got.survey == nil {
		return
	}
	for _, n := range got.survey.notes {
		b.Log.Warn("not compared with the inventory: " + n)
	}
	if len(d.Findings) > 0 {
		b.Text(findings(d.Findings))
	}
}

// findings shows where the inventory and the config repo do not fit each other.
func findings(list []accounts.Finding) string {
	var b strings.Builder
	fmt.Fprintf(&b, "inventory and config repo differ in %d places (they forbid nothing)\n", len(list))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for i, f := range list {
		if i == mostRows {
			fmt.Fprintf(w, "  … and %d more\t\t\t\t\n", len(list)-mostRows)
			break
		}
		where := "-"
		if f.File != "" {
			where = fmt.Sprintf("%s:%d", f.File, f.Line)
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", f.Kind, orDash(f.Account), where, orDash(f.Policy), f.Detail)
	}
	_ = w.Flush()
	return b.String()
}

// changes shows what a decision would change since the recorded one on the newest version.
func changes(recorded []accounts.Decision, now accounts.Decision) string {
	last, found := accounts.Newest(recorded)
	if !found {
		return "since the last decision: none is recorded for " + now.Service + "\n"
	}
	var b strings.Builder
	list := accounts.Changes(last, now)
	fmt.Fprintf(&b, "since the last decision (%s, %s): %d accounts change\n", last.Version, last.Channel, len(list))
	if last.Digest != now.Digest {
		fmt.Fprintf(&b, "  digest: %s -> %s\n", last.Digest, now.Digest)
	}
	for i, c := range list {
		if i == mostRows {
			fmt.Fprintf(&b, "  … and %d more\n", len(list)-mostRows)
			break
		}
		fmt.Fprintf(&b, "  %s\n", c)
	}
	return b.String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
