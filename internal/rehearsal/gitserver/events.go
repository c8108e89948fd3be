package gitserver

import (
	"maps"
	"slices"
	"sync"
)

// compare lists the refs that differ, sorted by name.
func compare(before, after map[string]string) []RefUpdate {
	all := maps.Clone(before)
	maps.Copy(all, after)
	var updates []RefUpdate
	for _, ref := range slices.Sorted(maps.Keys(all)) {
		if before[ref] != after[ref] {
			updates = append(updates, RefUpdate{Ref: ref, Old: before[ref], New: after[ref]})
		}
	}
	return updates
}

// queue hands pushes to one receiver, in order, without ever making the sender wait. A channel would: its buffer ends.
type queue struct {
	wake chan struct{} // holds one token while there may be something to do
	done chan struct{} // closed when the receiving goroutine has ended

	mu      sync.Mutex
	pending []Push
	closed  bool
}

func newQueue(receive func(Push)) *queue {
	q := &queue{wake: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(q.done)
		for range q.wake {
			for {
				q.mu.Lock()
				if q.closed {
					q.mu.Unlock()
					return
				}
				if len(q.pending) == 0 {
					q.mu.Unlock()
					break
				}
				next := q.pending[0]
				q.pending = q.pending[1:]
				q.mu.Unlock()
				if receive != nil {
					receive(next)
				}
			}
		}
	}()
	return q
}

func (q *queue) add(p Push) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pending = append(q.pending, p)
	q.signal()
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.signal()
	q.mu.Unlock()
	<-q.done
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
