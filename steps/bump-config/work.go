package main

import (
	"fmt"
	"iter"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/deepdesk/cloudbuild-steps/internal/marker"
)

// ahead calls f for the items on all processors, some items ahead, and yields the results in the items' order: files are parsed side by
// side, and decided on one after the other, so that the same repo always gets the same plan.
func ahead[T, R any](items []T, f func(T) R) iter.Seq2[T, R] {
	return func(yield func(T, R) bool) {
		workers := runtime.GOMAXPROCS(0)
		window := make(chan chan R, 4*workers) // bounds what is kept of files that are not decided on yet
		stop := make(chan struct{})
		defer close(stop)
		go func() { // ends with the items, or with stop
			slots := make(chan struct{}, workers)
			for _, item := range items {
				result := make(chan R, 1)
				select {
				case window <- result:
				case <-stop:
					return
				}
				slots <- struct{}{}
				go func() {
					defer func() { <-slots }()
					result <- f(item)
				}()
			}
		}()
		for _, item := range items {
			if !yield(item, <-<-window) {
				return
			}
		}
	}
}

// splicing edits files on all processors, while others are decided on.
type splicing struct {
	workers sync.WaitGroup
	slots   chan struct{}
	mu      sync.Mutex
	files   map[string][2][]byte
	errs    map[string]error
}

func newSplicing() *splicing {
	return &splicing{slots: make(chan struct{}, runtime.GOMAXPROCS(0)), files: map[string][2][]byte{}, errs: map[string]error{}}
}

func (s *splicing) edit(f *file, edits []marker.Edit) {
	s.slots <- struct{}{} // no more files in memory than are worked on
	s.workers.Go(func() {
		defer func() { <-s.slots }()
		after, err := f.edit(edits)
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			s.errs[f.name] = fmt.Errorf("editing %s for %s: %w", f.name, few(policiesOf(edits)), err)
			return
		}
		s.files[f.name] = [2][]byte{f.content, after}
	})
}

// into waits for all edits and adds the files, or returns the error of the first file by name.
func (s *splicing) into(files map[string][2][]byte) error {
	s.workers.Wait()
	for _, name := range slices.Sorted(maps.Keys(s.errs)) {
		return s.errs[name]
	}
	maps.Copy(files, s.files)
	return nil
}
