package gitrepo

import (
	"context"
	"math/rand/v2"
	"time"
)

// tries is how often a request is made that fails for a reason which may pass.
const tries = 5

// persist calls f again while it fails for a reason that may pass, such as a connection that was reset or an answer of 503.
func persist(ctx context.Context, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		if err == nil || n == tries || permanent(err) || ctx.Err() != nil || !pause(ctx, n) {
			return err
		}
	}
}

// pause waits before attempt n+1 and reports whether ctx is still good: a random time of up to 0.4 s, later up to 0.8 s. The jitter is over the
// whole span: of twenty writers of one branch each needs three attempts so, and six where the spans begin at 0.1 s.
func pause(ctx context.Context, n int) bool {
	longest := min(200*time.Millisecond<<min(n, 10), 800*time.Millisecond)
	timer := time.NewTimer(rand.N(longest))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
