package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
)

// mostRows is how many accounts the table lists by name on each side; the hand-over lists all.
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
			region := v.Region
			if region == "" {
				region = "-"
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", word, v.Account, region, v.Reason)
		}
	}
	rows("allowed", d.Allowed)
	rows("held", d.Held)
	_ = w.Flush() // a strings.Builder cannot fail
	return b.String()
}
