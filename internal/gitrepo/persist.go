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

// pause waits before attempt n+1 and reports whether ctx is still good: a random time of up to 50 ms times 2^n, 0.8 s at most. With jitter
// over the whole span, twenty writers of one branch need half the requests that they need without.
func pause(ctx context.Context, n int) bool {
	longest := min(50*time.Millisecond<<min(n, 10), 800*time.Millisecond)
	timer := time.NewTimer(rand.N(longest))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
