package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// Drift is what differs between a release that has not changed and its objects.
type Drift struct {
	Objects   []Object `json:"objects"`
	Corrected bool     `json:"corrected"`
}

// drift is the look for it at one release.
type drift struct {
	correct bool   // whether it may be corrected
	held    string // why not, where it would be
	found   []cluster.Drifted
	report  *Drift
	diff    string
}

// readDrift reads spec.driftDetection.
func (w *wanted) readDrift(d *helmv2.DriftDetection) error {
	if d == nil {
		return nil
	}
	w.driftMode = string(d.Mode)
	switch d.Mode {
	case "", helmv2.DriftDetectionEnabled, helmv2.DriftDetectionWarn, helmv2.DriftDetectionDisabled:
	default:
		return fmt.Errorf("spec.driftDetection.mode %q is not one of enabled, warn, disabled", d.Mode)
	}
	for n, rule := range d.Ignore {
		var s *cluster.Selector
		if t := rule.Target; t != nil {
			s = &cluster.Selector{Group: t.Group, Version: t.Version, Kind: t.Kind, Namespace: t.Namespace, Name: t.Name, Labels: t.LabelSelector, Annotations: t.AnnotationSelector}
		}
		ignore, err := cluster.NewIgnore(rule.Paths, s)
		if err != nil {
			return fmt.Errorf("spec.driftDetection.ignore[%d]: %w", n, err)
		}
		w.driftIgnore = append(w.driftIgnore, ignore)
	}
	return nil
}

// watchForDrift chooses at which of the unchanged releases to look, and which of those may be corrected: the gate, which has nothing to say
// about a release that is left alone, bounds that as it bounds a deployment.
func watchForDrift(tasks []*task, in In, c circumstances) {
	for _, t := range tasks {
		mode := helmv2.DriftDetectionMode(t.release.driftMode)
		asked := mode == helmv2.DriftDetectionEnabled || mode == helmv2.DriftDetectionWarn
		switch {
		case t.state != unchanged || t.wave < 0 || in.Drift == "off" || mode == helmv2.DriftDetectionDisabled || in.Drift == "declared" && !asked:
			continue
		case !in.CorrectDrift:
			t.drift = &drift{held: "CORRECT_DRIFT=true corrects it"}
			continue
		case mode == helmv2.DriftDetectionWarn:
			t.drift = &drift{held: "not corrected: spec.driftDetection.mode is warn"}
			continue
		}
		allowed, reason, refusal := c.admits(t.release, t.channel)
		t.drift = &drift{correct: allowed && refusal == ""}
		if !t.drift.correct {
			t.drift.held = "not corrected: " + reason + refusal
		}
	}
}

// mayCorrect reports whether drift of the release is corrected, if there is any.
func (t *task) mayCorrect() bool { return t.drift != nil && t.drift.correct }

// corrects reports whether there is drift to correct.
func (t *task) corrects() bool {
	return t.state == unchanged && t.mayCorrect() && len(t.drift.found) > 0
}

// lookForDrift looks at the chosen releases, CONCURRENCY at a time, and returns what has drifted as text for people. A release that cannot be
// looked at stays unchanged, with the reason: it is not this run's work.
func (r *rollout) lookForDrift(ctx context.Context, tasks []*task) string {
	watched := slices.DeleteFunc(slices.Clone(tasks), func(t *task) bool { return t.drift == nil })
	sideBySide(r.concurrency, watched, func(t *task) {
		if err := r.lookAt(ctx, t); err != nil {
			t.drift.correct = false
			t.reason = "drift unknown: " + t.release.secrets.text(err.Error())
			r.log.Warn("drift is unknown", "release", t.release.String(), "reason", t.reason)
		}
	})
	var text strings.Builder
	for _, t := range watched {
		if t.drift.report != nil {
			fmt.Fprintf(&text, "# drift of %s, account %s, revision %d: from what is live to what was deployed\n%s", t.release, orDash(t.release.account), t.newest.Revision, t.drift.diff)
		}
	}
	return text.String()
}

func (r *rollout) lookAt(ctx context.Context, t *task) error {
	on, err := r.clusterOf(t.release)
	if err != nil {
		return err
	}
	found, err := on.Drift(ctx, t.newest, t.release.driftIgnore)
	if err != nil || len(found) == 0 {
		return err
	}
	d, names := t.drift, []string{}
	d.report = &Drift{}
	var text strings.Builder
	for _, f := range found {
		o := t.release.objectOf(f.Change, &text)
		d.report.Objects = append(d.report.Objects, o)
		what := " was changed"
		switch {
		case len(o.Refused) > 0:
			what = " cannot be corrected: " + o.Refused[0].String()
		case o.Action == cluster.Create:
			what = " was deleted"
		}
		names = append(names, o.String()+what)
	}
	d.found, d.diff = found, bounded(text.String(), maxReleaseDiff, " of this release")
	t.reason = "drift: " + strings.Join(names, ", ")
	if d.held != "" {
		t.reason += " (" + d.held + ")"
	}
	r.log.Warn("drift", "release", t.release.String(), "reason", t.reason)
	return nil
}

// correct applies what has drifted again, and waits for it. The release stays unchanged: its revision is the one that it was.
func (r *rollout) correct(ctx context.Context, log *slog.Logger, work *step.Work, t *task) Release {
	began := time.Now()
	line := t.line()
	rel, err := r.toDeploy(t)
	if err == nil {
		var on *cluster.Cluster
		if on, err = r.clusterOf(t.release); err == nil {
			log.Info("correcting", "drift", strings.TrimPrefix(t.reason, "drift: "))
			err = on.Correct(ctx, rel, t.drift.found, t.release.progress(log, work))
		}
	}
	line.Seconds = secondsSince(began)
	if err != nil {
		line.Log = tellLog(log, err, t.release.secrets)
		line.State, line.Reason = failed, t.reason+"; correcting it failed: "+t.release.secrets.text(err.Error())
		return line
	}
	line.Drift = &Drift{Objects: t.drift.report.Objects, Corrected: true}
	line.Reason += "; corrected"
	return line
}
