package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// diffName is the file beside the hand-over that a dry run leaves.
const diffName = "deploy-helm.diff"

// Object is what a dry run found out about one object.
type Object struct {
	Kind      string    `json:"kind"`
	Namespace string    `json:"namespace,omitempty"`
	Name      string    `json:"name"`
	Action    string    `json:"action"` // create, update, delete, keep, hook
	Refused   []Refusal `json:"refused,omitempty"`
	Unchecked string    `json:"unchecked,omitempty"` // why the API server could not be asked
}

// Refusal is a reason for which the API server does not take an object.
type Refusal struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

func (r Refusal) String() string { return strings.TrimPrefix(r.Field+": "+r.Message, ": ") }

func (o Object) String() string { return o.Kind + " " + o.Name }

// preview asks the API servers about every release that would be deployed, and writes nothing. What a release of an earlier wave would create
// does not exist when the later ones are tried.
func (r *rollout) preview(ctx context.Context, tasks []*task) []Release {
	report := make([]Release, len(tasks))
	var open []int
	for i, t := range tasks {
		report[i] = t.line()
		if t.state == "" {
			open = append(open, i)
		}
	}
	inClusters(r.concurrency, open, func(i int) string { return tasks[i].release.cluster }, func(i int) { r.previewOne(ctx, tasks[i], &report[i]) })
	return report
}

func (r *rollout) previewOne(ctx context.Context, t *task, line *Release) {
	conceal := t.release.secrets.text
	changes, err := r.changes(ctx, t)
	if err != nil {
		line.State, line.Reason = failed, "dry run: "+conceal(err.Error())
		return
	}
	var refused []string
	unchecked := map[string]int{}
	counts := map[string]int{}
	var text strings.Builder
	for _, c := range changes {
		if c.Action == cluster.Unchanged {
			continue
		}
		counts[c.Action]++
		if c.Unchecked != "" {
			unchecked[conceal(c.Unchecked)]++
		}
		o := t.release.objectOf(c, &text)
		for _, refusal := range o.Refused {
			refused = append(refused, o.String()+": "+refusal.String())
		}
		line.Objects = append(line.Objects, o)
	}
	line.Diff = bounded(text.String(), maxReleaseDiff, " of this release")
	line.State, line.Reason = skipped, fmt.Sprintf("dry run: would be deployed in wave %d: %s", t.wave+1, counted(counts))
	if len(unchecked) > 0 {
		for _, why := range slices.Sorted(maps.Keys(unchecked)) {
			line.Reason += fmt.Sprintf("; %d not checked by the API server: %s", unchecked[why], why)
		}
	}
	if len(refused) > 0 {
		line.State, line.Reason = failed, "dry run: the API server refuses "+strings.Join(refused, "; ")
	}
}

// objectOf is a change for the hand-over, and writes it to text for people. What valuesFrom found in Secrets is concealed in both.
func (w *wanted) objectOf(c cluster.Change, text *strings.Builder) Object {
	conceal := w.secrets.text
	o := Object{Kind: c.Kind, Namespace: c.Namespace, Name: c.Name, Action: c.Action, Unchecked: conceal(c.Unchecked)}
	fmt.Fprintf(text, "# %s %s%s\n", c.Action, o, suffix(c.Namespace != "" && c.Namespace != w.namespace, " in "+c.Namespace))
	if c.Unchecked != "" {
		fmt.Fprintf(text, "# not checked by the API server: %s\n", o.Unchecked)
	}
	for _, refusal := range c.Refusals {
		r := Refusal{refusal.Field, conceal(refusal.Message)}
		o.Refused = append(o.Refused, r)
		fmt.Fprintf(text, "# REFUSED by the API server: %s\n", r)
	}
	text.WriteString(conceal(difference(w.String(), c)))
	return o
}

// changes renders one release and has it tried.
func (r *rollout) changes(ctx context.Context, t *task) ([]cluster.Change, error) {
	rel, err := r.toDeploy(t)
	if err != nil {
		return nil, err
	}
	on, err := r.clusterOf(t.release)
	if err != nil {
		return nil, err
	}
	return on.Preview(ctx, rel)
}

func suffix(is bool, text string) string {
	if is {
		return text
	}
	return ""
}

// counted says how many objects would be created, changed and deleted.
func counted(counts map[string]int) string {
	var parts []string
	for _, c := range []struct{ action, text string }{
		{cluster.Create, "created"}, {cluster.Update, "changed"}, {cluster.Delete, "deleted"}, {cluster.Keep, "left behind"}, {cluster.Hook, "run as hooks"},
	} {
		if n := counts[c.action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, c.text))
		}
	}
	if parts == nil {
		return "a new revision without a change of any object"
	}
	return strings.Join(parts, ", ") + " of its objects"
}

// planText is the whole plan: waves, the accounts that each touches, and the differences of their releases.
func planText(waves []string, tasks []*task, report []Release) string {
	var text strings.Builder
	for wave := range max(len(waves), 1) {
		var accounts []string
		var body strings.Builder
		n := 0
		for i, t := range tasks {
			if t.wave != wave || t.state != "" {
				continue
			}
			n++
			account := t.release.account
			if account == "" {
				account = "- (staging)"
			}
			accounts = append(accounts, account)
			fmt.Fprintf(&body, "## %s, account %s: %s -> %s\n%s", t.release, account, orDash(t.from), orDash(t.release.version()), report[i].Diff)
		}
		if n == 0 {
			continue
		}
		slices.Sort(accounts)
		fmt.Fprintf(&text, "# wave %d: %d releases of the accounts %s\n%s", wave+1, n, strings.Join(slices.Compact(accounts), ", "), body.String())
	}
	return text.String()
}

// tellPlan prints a plan, or what has drifted, and leaves it beside the hand-over.
func tellPlan(b *step.Build, text string) string {
	if text == "" {
		return ""
	}
	path, err := b.WriteFile(diffName, []byte(bounded(text, maxFileDiff, "")))
	notice := ""
	switch {
	case err != nil:
		b.Log.Warn("the differences were not written to a file", "reason", err.Error())
	case path != "":
		notice = "; " + diffName + " in the hand-over directory has more"
	}
	b.Text(bounded(text, maxLogDiff, notice))
	if path == "" {
		return ""
	}
	return diffName
}
