package main

import (
	"fmt"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// fault is what is wrong with the title of a pull request or with the message of one of its commits.
type fault struct {
	where string // "the title", or "commit 4f2a91c0"
	title bool
	commits.Fault
}

func (f fault) String() string {
	return fmt.Sprintf("%s, line %d: %q: %s", f.where, f.Line, f.Text, f.Reason)
}

// lint looks at the messages that a pull request would bring: its title, where that is known, and its own commits, all of them, whatever
// PATHS selects.
func (in In) lint(h *gitrepo.History, ev event) ([]fault, error) {
	if ev.base == "" {
		return nil, nil
	}
	var faults []fault
	if in.PRTitle != "" {
		for _, f := range commits.Lint(in.PRTitle) {
			faults = append(faults, fault{"the title", true, f})
		}
	}
	ids := h.Graph.Range(h.Head, h.Base)
	messages, err := h.Messages(ids)
	if err != nil {
		return nil, err
	}
	for i, m := range messages {
		for _, f := range commits.Lint(m) {
			f.Text = cut(f.Text)
			faults = append(faults, fault{"commit " + ids[i].String()[:8], false, f})
		}
	}
	return faults, nil
}

// refused returns the faults for which the build is refused.
func (in In) refused(faults []fault) []fault {
	var list []fault
	for _, f := range faults {
		if in.Lint == "refuse" || in.Lint == "title" && f.title {
			list = append(list, f)
		}
	}
	return list
}

// refuseFaults returns the refusal of a pull request, with every line that offends.
func (in In) refuseFaults(faults []fault) error {
	refused := in.refused(faults)
	if len(refused) == 0 {
		return nil
	}
	lines := make([]string, len(refused))
	for i, f := range refused {
		lines[i] = f.String()
	}
	return step.Refuse("write them as https://www.conventionalcommits.org says: git rebase -i for the commits, and the title on the page of the pull request",
		"the messages of pull request %d are no conventional commits: %s", in.PRNumber, strings.Join(lines, "; "))
}

// lintWarnings are the faults, one a line, and what a reader of the title alone would miss.
func (in In) lintWarnings(faults []fault, ev event, p past) []string {
	var warnings []string
	for _, f := range faults {
		warnings = append(warnings, f.String())
	}
	if ev.base == "" || in.PRTitle == "" {
		return warnings
	}
	if title, own := in.rules().Bump(commits.Parse(in.PRTitle)), in.rules().BumpAll(p.own); title < own {
		warnings = append(warnings, fmt.Sprintf("the title raises %s and the commits raise %s: when the pull request is squashed, the title alone counts", title, own))
	}
	return warnings
}

// unread warns of commits that release nothing because their messages cannot be read. On a pull request the linter names them.
func (in In) unread(ev event, p past) []string {
	list := commits.Unread(p.since)
	if len(list) == 0 || ev.base != "" {
		return nil
	}
	const shown = 3
	var names []string
	for _, c := range list[:min(shown, len(list))] {
		names = append(names, fmt.Sprintf("%s %q", c.ID.String()[:8], cut(c.Message.Subject)))
	}
	if len(list) > shown {
		names = append(names, "…")
	}
	consequence := "release nothing"
	if in.MinBump > 0 {
		consequence = "raise no more than " + in.MinBump.String()
	}
	return []string{fmt.Sprintf("%d of %d commits are no conventional commits and %s: %s", len(list), len(p.since), consequence, strings.Join(names, ", "))}
}
