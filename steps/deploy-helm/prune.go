package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// The states of a release whose HelmRelease is gone.
const (
	orphaned = "orphaned" // it still runs
	removed  = "removed"
)

// leftovers are the orphans of a run, each with what speaks against removing it. An error means that so many are not removed unasked.
func leftovers(b *step.Build, in In, repo *source, t *targets, all []*wanted, c circumstances) ([]*orphan, error) {
	_ = t.place(all, c) // one that is not deployed may be without a cluster
	orphans, marked := findOrphans(sourceMark(in), t.remembered(), all, c)
	judgeOrphans(orphans, readInPart(in, repo, all), repo, b.ID, c.decisions, c)
	if !in.Prune {
		return orphans, nil
	}
	return orphans, tooMany(orphans, marked, in.PruneLimit)
}

// line is the orphan's line in the report.
func (o *orphan) line(state, reason string) Release {
	return Release{
		Account: o.account, Region: o.region, Cluster: o.cluster, Namespace: o.key.Namespace, Name: o.key.Name, From: o.newest.Mark.Version,
		Revision: o.newest.Revision, State: state, Reason: reason, channel: o.channel,
	}
}

const gone = "its HelmRelease is gone from the config repo"

// reportOrphans is what a run says of orphans that it does not remove.
func reportOrphans(orphans []*orphan, prune, dryRun bool) []Release {
	var report []Release
	for _, o := range orphans {
		why := gone
		if o.moved != nil {
			why = "the account has moved to cluster " + shortCluster(o.moved.cluster)
		}
		switch {
		case o.keep != "":
			why += "; it is not removed: " + o.keep
		case !prune:
			why += "; PRUNE=true removes it"
		case dryRun:
			why += "; dry run: would be removed"
		}
		report = append(report, o.line(orphaned, why))
	}
	return report
}

// prune removes the orphans that nothing speaks for, side by side, when everything that is wanted runs.
func (r *rollout) prune(ctx context.Context, orphans []*orphan, tasks []*task, deployments []Release) []Release {
	holdUnhealthy(orphans, tasks, deployments)
	report := reportOrphans(orphans, true, false)
	var going []int
	for i, o := range orphans {
		if o.keep == "" {
			going = append(going, i)
		}
	}
	inClusters(r.concurrency, going, func(i int) string { return orphans[i].cluster }, func(i int) {
		o, began := orphans[i], time.Now()
		log := r.log.With("release", o.String())
		work := r.working(o.String() + " is removed")
		defer work.End()
		report[i] = r.remove(ctx, log, o)
		report[i].Seconds = secondsSince(began)
		r.say(log, report[i])
	})
	return report
}

// holdUnhealthy keeps all orphans when something that is wanted does not run, and those of an account of which a release is held back: an orphan
// may be what runs in its place. One whose account has moved stays until its release runs there.
func holdUnhealthy(orphans []*orphan, tasks []*task, deployments []Release) {
	runs := map[*wanted]bool{}
	held := map[string]string{} // by account
	broken := ""
	for i, t := range tasks {
		switch s := deployments[i].State; {
		case s == deployed || s == unchanged:
			runs[t.release] = true
		case s == failed || s == rolledBack:
			broken = t.release.String() + " failed"
		case t.held:
			broken = t.release.String() + " was skipped"
		case !t.release.suspended:
			held[t.release.account] = t.release.String()
		}
	}
	for _, o := range orphans {
		switch {
		case o.keep != "":
		case broken != "":
			o.keep = broken
		case held[o.account] != "":
			o.keep = fmt.Sprintf("%s is held back, in whose place it may run", held[o.account])
		case o.moved != nil && !runs[o.moved]:
			o.keep = "it does not run there yet"
		}
	}
}

// remove removes one orphan, unless the config repo has moved on, or another writer is at work on it.
func (r *rollout) remove(ctx context.Context, log *slog.Logger, o *orphan) Release {
	for n := 1; ; n++ {
		if ctx.Err() != nil {
			return o.line(failed, "not removed: "+context.Cause(ctx).Error())
		}
		tip, err := r.tip(ctx)
		if err != nil {
			return o.line(failed, fmt.Sprintf("not removed, since the config repo does not say whether it has moved on: %v", err))
		}
		if tip != r.repo.commit {
			return o.line(orphaned, fmt.Sprintf("%s; it is not removed: the config repo has moved on to %s, whose build decides on it", gone, tip))
		}
		if why := r.runsElsewhere(ctx, o); why != "" {
			return o.line(orphaned, why)
		}
		live := r.occupant(ctx, o)
		if live == "" {
			log.Info("removing", "revision", o.newest.Revision, "reason", gone)
			err = r.clusters[o.cluster].Remove(ctx, cluster.Release{
				Key: o.key, Timeout: r.timeout, Patience: r.patience, LogLines: r.logLines, Mark: r.mark, Newest: o.newest,
			}, func(text string) { log.Info("waiting", "for", text) })
		}
		switch {
		case live != "":
			return o.line(failed, "not removed: "+live)
		case err == nil:
			return o.line(removed, gone)
		case !errors.Is(err, cluster.ErrMoved):
			return o.line(failed, fmt.Sprintf("removing it: %v", err))
		case n == attempts:
			l := o.line(failed, fmt.Sprintf("removing it: %v", err))
			l.lost = true
			return l
		}
		if l, done := r.lookAgain(ctx, o); done {
			return l
		}
	}
}

// runsElsewhere makes sure that a release whose account has moved runs in its new cluster, and that this is not the old one under another name. It
// returns why it must stay. The old record is read before and after the new one: had somebody written in between, they could differ although
// they are the same.
func (r *rollout) runsElsewhere(ctx context.Context, o *orphan) (why string) {
	if o.moved == nil {
		return ""
	}
	var states [3]cluster.State
	for i, name := range []string{o.cluster, o.moved.cluster, o.cluster} {
		var err error
		if states[i], err = r.clusters[name].State(ctx, o.key); err != nil {
			return fmt.Sprintf("it is not removed: %v", err)
		}
	}
	switch was, there, is := states[0].Newest, states[1].Newest, states[2].Newest; {
	case was.UID != is.UID || was.State != is.State:
		return "it is not removed: somebody is at work on it"
	case there.UID == is.UID:
		return fmt.Sprintf("it is not removed: %s and %s are one cluster", o.cluster, o.moved.cluster)
	case !there.Deployed():
		return "it is not removed: it does not run in its new cluster"
	}
	return ""
}

// lookAgain reads an orphan that another writer has changed. It reports whether there is nothing left to do.
func (r *rollout) lookAgain(ctx context.Context, o *orphan) (Release, bool) {
	state, err := r.clusters[o.cluster].State(ctx, o.key)
	switch newest := state.Newest; {
	case err != nil:
		return o.line(failed, err.Error()), true
	case newest.Revision == 0 || newest.Uninstalled():
		return o.line(removed, gone+"; another build removed it"), true
	case newest.Mark.Source != o.newest.Mark.Source:
		return o.line(orphaned, gone+"; it is not removed: somebody else has changed it by hand"), true
	case newest.Mark.Committed.After(r.repo.committed):
		return o.line(orphaned, fmt.Sprintf("%s; it is not removed: it was deployed from %s, which is newer", gone, newest.Mark.Commit)), true
	default:
		o.newest = newest
		return Release{}, false
	}
}

// occupant says who is at work on an orphan and has not ended in time; "" when nobody is.
func (r *rollout) occupant(ctx context.Context, o *orphan) string {
	if !o.newest.Pending() {
		return ""
	}
	c := r.plan
	c.now = time.Now()
	dead, live := c.judgePending(o.newest)
	if dead != "" || o.newest.Mark.Until.IsZero() {
		return live
	}
	t := &task{release: &wanted{cluster: o.cluster, key: o.key}, newest: o.newest}
	ended, dead := r.await(ctx, t, r.timeout)
	o.newest = t.newest // as its last sign of life left it
	if ended || dead != "" {
		return "" // if it ended, the record is not what it was, and is looked at again
	}
	return live
}
