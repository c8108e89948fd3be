package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// findDependencies gives every HelmRelease of the repo those that its spec.dependsOn names. One that is missing and a circle are faults of
// the releases that they are seen from; what depends on such a release is left to the plan.
func findDependencies(list []*wanted) {
	byName := map[objectName]*wanted{}
	for _, w := range list {
		byName[w.object] = w
	}
	for _, w := range list {
		for _, name := range w.dependsOn {
			if other := byName[name]; other != nil {
				w.needs = append(w.needs, other)
			} else {
				w.addFault(fmt.Sprintf("spec.dependsOn: %s -> %s, which the config repo does not have", w.object, name))
			}
		}
	}
	for _, w := range list {
		if circle := w.circle(); circle != nil {
			w.addFault("spec.dependsOn is a circle: " + strings.Join(circle, " -> "))
		}
	}
}

// circle is the shortest way along spec.dependsOn from a release back to itself, nil when there is none.
func (w *wanted) circle() []string {
	from := map[*wanted]*wanted{}
	for queue := []*wanted{w}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		for _, next := range at.needs {
			if next == w {
				way := []string{w.object.String()}
				for ; at != w; at = from[at] {
					way = append(way, at.object.String())
				}
				way = append(way, w.object.String())
				slices.Reverse(way)
				return way
			}
			if _, seen := from[next]; !seen {
				from[next] = at
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// withDependencies adds what the releases depend on, near and far: a dependency that SELECT leaves out is not deployed, but the cluster is
// asked for it.
func withDependencies(list []*wanted) []*wanted {
	all, seen := slices.Clone(list), map[*wanted]bool{}
	for _, w := range list {
		seen[w] = true
	}
	for i := 0; i < len(all); i++ {
		for _, other := range all[i].needs {
			if !seen[other] {
				seen[other] = true
				all = append(all, other)
			}
		}
	}
	return all
}

// orderByDependencies holds the plan against spec.dependsOn. A release goes after what it depends on and is to be deployed in this run, and
// is skipped when a dependency has failed, or is not deployed in this run and is not healthy in the cluster either. What is deployed already
// and has not changed waits for nothing.
func orderByDependencies(tasks []*task, c circumstances) {
	byRelease := map[*wanted]*task{}
	for _, t := range tasks {
		byRelease[t.release] = t
	}
	settled := map[*task]bool{}
	var settle func(*task)
	settle = func(t *task) {
		if settled[t] {
			return
		}
		settled[t] = true // circles have failed before they come here
		for _, other := range t.release.needs {
			dependency := byRelease[other]
			if dependency != nil {
				settle(dependency)
			}
			if t.begins() {
				t.dependOn(other, dependency, c)
			}
		}
	}
	for _, t := range tasks {
		settle(t)
	}
}

// dependOn holds one task against one dependency, whose task is nil when it is not of this run.
func (t *task) dependOn(other *wanted, dependency *task, c circumstances) {
	switch {
	case dependency != nil && dependency.begins() && dependency.wave > t.wave:
		t.occupied = false
		t.state, t.reason = failed, fmt.Sprintf("%s: spec.dependsOn: %s -> %s, which comes in a later wave (%s)", t.release.file, t.release.object, other.object, dependency.channel)
	case dependency != nil && dependency.begins():
		t.after = append(t.after, other)
	case dependency == nil || dependency.state == skipped && !dependency.held:
		if newest := c.states[other.key].Newest; newest.Revision == 0 {
			t.hold(fmt.Sprintf("%s, which it depends on, is not deployed in this run, and not in the cluster either", other))
		} else if !newest.Deployed() {
			t.hold(fmt.Sprintf("%s, which it depends on, is not deployed in this run, and revision %d in the cluster is %s", other, newest.Revision, newest.Status))
		}
	case dependency.state == failed:
		t.hold(fmt.Sprintf("%s failed, which it depends on", other))
	case dependency.state == skipped:
		t.hold(fmt.Sprintf("%s was skipped, which it depends on", other))
	}
}

// hold skips a task for the sake of a dependency. Unlike one that is left out on purpose, it holds back what depends on it, too.
func (t *task) hold(reason string) {
	t.skip(reason)
	t.held, t.occupied = true, false
}

// begins reports whether a run has something to do for the task.
func (t *task) begins() bool { return t.state == "" || t.occupied || t.corrects() }

// endings tell the releases of one run about each other's end.
type endings map[*wanted]*ending

// ending is how a release ended. The line may be read when ended is closed.
type ending struct {
	ended chan struct{}
	line  Release
}

// newEndings prepares for all tasks that others depend on.
func newEndings(tasks []*task) endings {
	all := endings{}
	for _, t := range tasks {
		for _, w := range t.after {
			all[w] = &ending{ended: make(chan struct{})}
		}
	}
	return all
}

// tell reports the end of a release.
func (e endings) tell(w *wanted, line Release) {
	if end := e[w]; end != nil {
		end.line = line
		close(end.ended)
	}
}

// wait waits for the ends of what a task depends on, and says why it must not begin: "" when all of it is deployed.
func (e endings) wait(ctx context.Context, t *task) (why string) {
	for _, w := range t.after {
		select {
		case <-e[w].ended:
		case <-ctx.Done():
			return context.Cause(ctx).Error()
		}
		switch e[w].line.State {
		case deployed, unchanged:
		case skipped:
			return fmt.Sprintf("%s was skipped, which it depends on", w)
		default:
			return fmt.Sprintf("%s failed, which it depends on", w)
		}
	}
	return ""
}
