package main

import (
	"context"
	"log/slog"
	"time"
)

// Two builds meet at one release when two pushes follow each other quickly, and at every roll back: its push starts the build that deploys
// the config repo, and its own build deploys, too, because it goes on when that is done. The second one waits for the first and decides
// anew: then there is nothing left to do, or it deploys what is newer.

// awaitEvery is how often the cluster is asked whether the other build is done.
const awaitEvery = time.Second

// vacant waits until no other build is deploying the release, and reports whether this one is to deploy it. It waits as long as a release
// may take to become ready: a build that was killed leaves its release as it is, and is not waited for any longer.
func (r *rollout) vacant(ctx context.Context, log *slog.Logger, t *task) bool {
	for t.occupied {
		log.Info("waiting", "for", t.reason)
		limit := t.release.timeout
		if limit == 0 {
			limit = r.timeout
		}
		if !r.await(ctx, t, limit) || r.replan(ctx, t) {
			return false
		}
	}
	return true
}

// await reports whether the pending revision came to an end in time.
func (r *rollout) await(ctx context.Context, t *task, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(awaitEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
		state, err := r.clusters[t.release.cluster].State(ctx, t.release.key)
		if err != nil {
			continue // a moment's trouble; the limit ends a longer one
		}
		n := state.Newest
		if n.Revision != t.newest.Revision || !n.Pending() || time.Now().After(n.Mark.Until) {
			return true
		}
	}
}
