package commits

import "strings"

// Cancel marks the commits of a list that undo each other: a commit that takes back another of the list, and that other. The list has
// children before their parents, as [Graph.Range] gives it. A commit that takes back a revert brings the first change back to life.
//
// What is taken back but was released before, so that it is not in the list, cannot be cancelled: then the revert is a change of its own.
// A revert whose message does not follow the convention, such as git's own, gets the type revert, so that it counts as one.
func Cancel(list []Commit) []Commit {
	out := make([]Commit, len(list))
	copy(out, list)
	for i := range out {
		if out[i].Reverted || len(out[i].Message.Reverts) == 0 {
			continue
		}
		if !out[i].Message.Conventional() {
			out[i].Message.Type = "revert"
		}
		all := true
		var targets []int
		for _, id := range out[i].Message.Reverts {
			j := older(out[i+1:], id)
			if j < 0 {
				all = false
				continue
			}
			targets = append(targets, i+1+j)
		}
		for _, j := range targets {
			out[j].Reverted = true
		}
		out[i].Reverted = all
	}
	return out
}

// older finds the commit that an id or its beginning names, unless it was taken back already; -1 when there is none, or more than one.
func older(list []Commit, id string) int {
	found := -1
	for i, c := range list {
		if !strings.HasPrefix(c.ID.String(), id) {
			continue
		}
		if found >= 0 || c.Reverted {
			return -1
		}
		found = i
	}
	return found
}
