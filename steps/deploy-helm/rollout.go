package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// rollout carries a plan out.
type rollout struct {
	clusters    map[string]*cluster.Cluster // by the name that wanted.cluster has
	log         *slog.Logger
	working     func(name string) *step.Work // shows on a terminal what is under way
	repo        *source
	plan        circumstances
	mark        cluster.Mark // what all releases of this run have in common
	concurrency int
	timeout     time.Duration // of a release that does not say
	patience    time.Duration
	logLines    int
	rollBack    bool
	// tip asks for the commit that the branch of the config repo is at now; nil when the source has no branch.
	tip func(context.Context) (string, error)
}

// attempts bounds how often one release is tried when other writers get in between.
const attempts = 3

// run deploys wave after wave. A wave in which a release failed is finished, and the later ones do not begin. deploying ends early enough
// before ctx to leave time for rolling back, and when ctx has ended lastReserve is added.
func (r *rollout) run(ctx context.Context, tasks []*task) []Release {
	deploying, cancel := r.leaveTime(ctx)
	defer cancel()
	ctx, settled := settling(ctx)
	defer settled()
	report := make([]Release, len(tasks))
	ends := newEndings(tasks)
	broken := ""
	for wave := range max(len(r.plan.waves), 1) {
		ready := map[string][]int{} // tasks by cluster, in the order of the plan
		for i, t := range tasks {
			if t.wave != wave {
				continue
			}
			if t.begins() && broken != "" {
				t.skip("not begun: " + broken)
				t.occupied = false
			}
			report[i] = t.line()
			if t.begins() {
				ready[t.release.cluster] = append(ready[t.release.cluster], i)
			} else {
				ends.tell(t.release, report[i])
			}
		}
		var wg sync.WaitGroup
		for _, list := range ready { // a cluster that is slow does not hold up the others
			wg.Go(func() {
				slots := make(chan struct{}, r.concurrency)
				for _, i := range list {
					t := tasks[i]
					deploy := func() {
						defer func() { <-slots }()
						report[i] = r.release(ctx, deploying, t)
						ends.tell(t.release, report[i])
					}
					if len(t.after) == 0 {
						slots <- struct{}{}
						wg.Go(deploy)
						continue
					}
					wg.Go(func() { // one that waits for others takes no place from them
						if why := ends.wait(deploying, t); why != "" {
							t.hold(why)
							report[i] = t.line()
							ends.tell(t.release, report[i])
							return
						}
						slots <- struct{}{}
						deploy()
					})
				}
			})
		}
		wg.Wait() // a wave spans all clusters
		for i, t := range tasks {
			if s := report[i].State; t.wave == wave && (s == failed || s == rolledBack) && broken == "" {
				broken = fmt.Sprintf("%s failed in the wave before", t.release)
			}
		}
	}
	for i, t := range tasks {
		if t.wave < 0 {
			report[i] = t.line()
		}
	}
	return report
}

// leaveTime returns a context that ends before ctx does, by the time that a roll back may take: a quarter of what is left, and not more
// than one wait.
func (r *rollout) leaveTime(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	reserve := min(time.Until(end)/4, r.timeout)
	return context.WithDeadlineCause(ctx, end.Add(-reserve), errors.New("the time left in TIMEOUT is kept for rolling back"))
}

// lastReserve is how long the releases that are under way when a build is cancelled, or its time is over, may take to return to what ran before:
// all of them together, side by side.
const lastReserve = 30 * time.Second

// settling returns a context for what follows a failure: it outlives ctx by lastReserve, counted from the moment in which ctx ends.
func settling(ctx context.Context) (context.Context, context.CancelFunc) {
	after, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(lastReserve, func() {
			cancel(fmt.Errorf("%w, and the %s to leave things in order are over", context.Cause(ctx), lastReserve))
		})
		context.AfterFunc(after, func() { timer.Stop() })
	})
	return after, func() {
		stop()
		cancel(nil)
	}
}

// line is the release's line in the report as far as the plan knows it.
func (t *task) line() Release {
	l := Release{
		Account: t.release.account, Region: t.region, Cluster: t.release.cluster, Namespace: t.release.namespace, Name: t.release.key.Name,
		From: t.from, To: t.release.version(), Revision: t.newest.Revision, State: t.state, Reason: t.reason, channel: t.channel,
	}
	if t.drift != nil {
		l.Drift, l.Diff = t.drift.report, t.drift.diff
	}
	if t.release.chart != nil {
		l.Chart = t.release.chart.name + "-" + t.release.chart.version
	}
	return l
}

// release deploys one release, again where another writer got in between and this build's state of the config repo is still the newest.
func (r *rollout) release(ctx, deploying context.Context, t *task) Release {
	began := time.Now()
	log := r.log.With("release", t.release.String())
	work := r.working(fmt.Sprintf("%s %s", t.release, t.release.version()))
	defer work.End()
	if t.state == unchanged {
		line := r.correct(deploying, log, work, t)
		r.say(log, line)
		return line
	}
	for n := 1; ; n++ {
		if !r.vacant(deploying, log, t) {
			line := t.line()
			line.Seconds = secondsSince(began)
			r.say(log, line)
			return line
		}
		line := t.line()
		line.Revision, line.State, line.Reason = r.once(ctx, deploying, log, work, t, &line)
		line.Reason = t.release.secrets.text(line.Reason)
		line.Seconds = secondsSince(began)
		if line.State != moved || n == attempts {
			if line.State == moved {
				line.State, line.lost = failed, true
			}
			r.say(log, line)
			return line
		}
		if done := r.replan(ctx, t); done {
			line = t.line()
			r.say(log, line)
			return line
		}
	}
}

// moved is the state of a release, never reported, that another writer changed since the plan was made.
const moved = "moved"

func (r *rollout) once(ctx, deploying context.Context, log *slog.Logger, work *step.Work, t *task, line *Release) (revision int, state, reason string) {
	w := t.release
	if deploying.Err() != nil {
		return t.newest.Revision, failed, "not begun: " + context.Cause(deploying).Error()
	}
	on, err := r.clusterOf(w)
	if err != nil {
		return t.newest.Revision, failed, err.Error()
	}
	if t.rescue != "" {
		log.Warn("recovering a release that was left "+t.newest.Status, "revision", t.newest.Revision, "reason", t.rescue)
		if err := on.Recover(ctx, t.newest, "interrupted: "+t.rescue); err != nil {
			return t.newest.Revision, stateOf(err), err.Error()
		}
		t.newest.Status, t.rescue = failed, ""
	}
	rel, err := r.toDeploy(t)
	if err != nil {
		return t.newest.Revision, failed, err.Error()
	}
	line.Chart = rel.Chart.Name() + "-" + rel.Chart.Metadata.Version
	log.Info("started", "from", line.From, "to", line.To, "chart", line.Chart)
	report := w.progress(log, work)
	revision, err = on.Deploy(deploying, rel, report)
	if err == nil && w.settings.test {
		reason, err = r.test(deploying, log, on, w, rel, revision, report)
	}
	line.Log = tellLog(log, err, w.secrets)
	switch {
	case err == nil:
		return revision, deployed, reason
	case revision == 0: // nothing was changed
		return t.newest.Revision, stateOf(err), err.Error()
	case errors.Is(err, cluster.ErrMoved) || !r.rollBack:
		return revision, failed, err.Error()
	}
	return r.remedy(ctx, deploying, log, on, t, rel, revision, err, report)
}

// clusterOf is a release's cluster, as the user that deploys it: ourselves, or the service account that its HelmRelease names.
func (r *rollout) clusterOf(w *wanted) (*cluster.Cluster, error) {
	on := r.clusters[w.cluster]
	if w.settings.serviceAccount == "" {
		return on, nil
	}
	return on.As(w.object.Namespace, w.settings.serviceAccount)
}

// toDeploy is a release as the cluster package takes it, with a chart of its own.
func (r *rollout) toDeploy(t *task) (cluster.Release, error) {
	w := t.release
	commit := ""
	if w.addRevision {
		commit = r.repo.commit
	}
	made, err := w.chart.load(commit)
	if err != nil {
		return cluster.Release{}, err
	}
	rel := cluster.Release{
		Key: w.key, Namespace: w.namespace, CreateNamespace: w.createNamespace, Chart: made, Values: w.ownValues(), MaxHistory: w.maxHistory,
		Timeout: cmp.Or(w.timeout, r.timeout), Patience: r.patience, LogLines: r.logLines, Mark: r.mark, Newest: t.newest, Settings: w.settings.Settings,
	}
	rel.Mark.Digest, rel.Mark.Version, rel.Mark.Account = t.digest, w.version(), w.account
	w.post.gated = w.image
	rel.Settings.PostRenderer = w.post.postRenderer()
	return rel, nil
}

// progress returns what is told of a release that is being waited for: it goes into the log, and to a terminal.
func (w *wanted) progress(log *slog.Logger, work *step.Work) func(string) {
	return func(text string) {
		text = w.secrets.text(text)
		log.Info("waiting", "for", text)
		work.Now(text)
	}
}

// secondsSince is how long something took, to the hundredth.
func secondsSince(began time.Time) float64 {
	return float64(time.Since(began).Round(10*time.Millisecond)) / float64(time.Second)
}

func stateOf(err error) string {
	if errors.Is(err, cluster.ErrMoved) {
		return moved
	}
	return failed
}

// replan decides anew on a release that somebody else changed. The branch of the config repo is the judge: when it has moved on, the
// other writer may have deployed what is newer, and the build of the newer commit takes care of it. It reports whether that is the end.
func (r *rollout) replan(ctx context.Context, t *task) (done bool) {
	if r.tip != nil {
		tip, err := r.tip(ctx)
		if err != nil {
			t.state, t.reason = failed, fmt.Sprintf("another writer changed the release, and the config repo does not say which is newer: %v", err)
			return true
		}
		if tip != r.repo.commit {
			t.skip(fmt.Sprintf("superseded: the config repo has moved on to %s, whose build deploys it", tip))
			return true
		}
	}
	state, err := r.clusters[t.release.cluster].State(ctx, t.release.key)
	if err != nil {
		t.state, t.reason = failed, err.Error()
		return true
	}
	now := r.plan
	now.states, now.now = map[cluster.Key]cluster.State{t.release.key: state}, time.Now()
	again, refusals := makePlan([]*wanted{t.release}, now)
	*t = *again[0]
	if len(refusals) > 0 {
		t.state, t.reason = failed, refusals[0]
	}
	return t.state != "" && !t.occupied
}

func (r *rollout) say(log *slog.Logger, line Release) {
	after := fmt.Sprintf("after %.1fs", line.Seconds)
	switch line.State {
	case deployed:
		log.Info("ready "+after, "revision", line.Revision, "version", line.To)
	case removed:
		log.Info("removed "+after, "revision", line.Revision)
	case failed, rolledBack:
		log.Error(line.State+" "+after+": "+line.Reason, "revision", line.Revision)
	default:
		log.Info(line.State, "reason", line.Reason)
	}
}
