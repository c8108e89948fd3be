package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
)

// Two builds meet at one release when two pushes follow each other quickly, and at every roll back: its push starts the build that deploys
// the config repo, and its own build deploys, too, because it goes on when that is done. The second one waits for the first and decides
// anew: then there is nothing left to do, or it deploys what is newer.

// awaitEvery is how often the cluster is asked whether the other build is done.
const awaitEvery = time.Second

// vacant waits until no other build is deploying the release, and reports whether this one is to deploy it. It waits as long as a release
// may take to become ready. A build that was killed gives no sign of life any more, which shows in half a minute; its release is taken up.
func (r *rollout) vacant(ctx context.Context, log *slog.Logger, t *task) bool {
	for t.occupied {
		log.Info("waiting", "for", t.reason)
		limit := t.release.timeout
		if limit == 0 {
			limit = r.timeout
		}
		ended, dead := r.await(ctx, t, limit)
		if dead != "" {
			t.state, t.reason, t.occupied, t.rescue = "", "", false, dead
			return true
		}
		if !ended || r.replan(ctx, t) {
			return false
		}
	}
	return true
}

// await reports whether the pending revision came to an end in time, or why its writer is dead. That is so when its record has not changed for
// as long as a heartbeat may stay away, by the clock of this machine alone.
func (r *rollout) await(ctx context.Context, t *task, limit time.Duration) (ended bool, dead string) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(awaitEvery)
	defer tick.Stop()
	changed := time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false, ""
		}
		state, err := r.clusters[t.release.cluster].State(ctx, t.release.key)
		if err != nil {
			changed = time.Now() // what cannot be seen may be alive; the limit ends a longer trouble
			continue
		}
		n := state.Newest
		switch {
		case n.Revision != t.newest.Revision || !n.Pending() || time.Now().After(n.Mark.Until):
			return true, ""
		case n.State != t.newest.State:
			changed, t.newest = time.Now(), n
		case n.Mark.Beats && time.Since(changed) >= cluster.HeartbeatLost:
			return false, fmt.Sprintf("%s has given no sign of life for %s", builder(n.Mark.Build), cluster.HeartbeatLost)
		}
	}
}
