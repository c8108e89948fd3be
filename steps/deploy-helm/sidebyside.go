package main

import "sync"

// sideBySide calls f for each item, at most n at a time.
func sideBySide[T any](n int, items []T, f func(T)) {
	inClusters(n, items, func(T) string { return "" }, f)
}

// inClusters calls f for each item, at most n at a time in each cluster: one that is slow does not hold up the others.
func inClusters[T any](n int, items []T, cluster func(T) string, f func(T)) {
	var wg sync.WaitGroup
	slots := map[string]chan struct{}{}
	for _, item := range items {
		at := cluster(item)
		if slots[at] == nil {
			slots[at] = make(chan struct{}, n)
		}
		slot := slots[at]
		wg.Go(func() {
			slot <- struct{}{}
			defer func() { <-slot }()
			f(item)
		})
	}
	wg.Wait()
}
