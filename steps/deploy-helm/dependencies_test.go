package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
)

// depending makes releases from lines such as "a: b c"; all are in the namespace ns and called as their HelmReleases.
func depending(lines ...string) []*wanted {
	var list []*wanted
	for _, line := range lines {
		name, on, _ := strings.Cut(line, ":")
		w := &wanted{object: objectName{"ns", name}, key: cluster.Key{Namespace: "ns", Name: name}, file: name + ".yaml"}
		for _, other := range strings.Fields(on) {
			w.dependsOn = append(w.dependsOn, objectName{"ns", other})
		}
		list = append(list, w)
	}
	findDependencies(list)
	return list
}

func TestFaultsOfDependenciesNameTheChain(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		want  map[string]string // faults by name
	}{
		{"a chain", []string{"a: b", "b: c", "c"}, nil},
		{"a diamond is no circle", []string{"a: b c", "b: d", "c: d", "d"}, nil},
		{"one that is missing", []string{"a: b", "b: x"}, map[string]string{"b": "spec.dependsOn: ns/b -> ns/x, which the config repo does not have"}},
		{"itself", []string{"a: a"}, map[string]string{"a": "spec.dependsOn is a circle: ns/a -> ns/a"}},
		{"a circle, and one that leads into it", []string{"a: b", "b: c", "c: b"}, map[string]string{
			"b": "spec.dependsOn is a circle: ns/b -> ns/c -> ns/b", "c": "spec.dependsOn is a circle: ns/c -> ns/b -> ns/c",
		}},
		{"the shortest circle", []string{"a: b c", "b: c", "c: a"}, map[string]string{
			"a": "spec.dependsOn is a circle: ns/a -> ns/c -> ns/a", "b": "spec.dependsOn is a circle: ns/b -> ns/c -> ns/a -> ns/b", "c": "spec.dependsOn is a circle: ns/c -> ns/a -> ns/c",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := map[string]string{}
			for _, w := range depending(tt.lines...) {
				if w.fault != "" {
					got[w.key.Name] = w.fault
				}
			}
			if len(got) != len(tt.want) || len(got) > 0 && cmp.Diff(tt.want, got) != "" {
				t.Error(cmp.Diff(tt.want, got))
			}
		})
	}
}

func TestDependenciesOrderThePlan(t *testing.T) {
	for _, tt := range []struct {
		name   string
		lines  []string
		plan   string // NAME=STATE[@WAVE] for each task in the run; no state: to be deployed
		states string // NAME=STATUS of the newest revision in the cluster
		want   map[string]string
	}{
		{"a dependency of this run is waited for", []string{"a: b", "b"}, "a= b=", "", map[string]string{"a": "after b", "b": ""}},
		{"one that is unchanged is not", []string{"a: b", "b"}, "a= b=unchanged", "b=deployed", map[string]string{"a": "", "b": "unchanged"}},
		{"one that failed holds back all that need it", []string{"a: b", "b: c", "c"}, "a= b= c=failed", "", map[string]string{
			"a": "skipped: ns/b was skipped, which it depends on", "b": "skipped: ns/c failed, which it depends on", "c": "failed",
		}},
		{"one outside the run that is healthy", []string{"a: b", "b"}, "a=", "b=deployed", map[string]string{"a": ""}},
		{"one outside the run that failed", []string{"a: b", "b"}, "a=", "b=failed", map[string]string{
			"a": "skipped: ns/b, which it depends on, is not deployed in this run, and revision 1 in the cluster is failed",
		}},
		{"one outside the run that is nowhere", []string{"a: b", "b"}, "a=", "", map[string]string{
			"a": "skipped: ns/b, which it depends on, is not deployed in this run, and not in the cluster either",
		}},
		{"one that the gate holds, and whose old version is healthy", []string{"a: b", "b"}, "a= b=skipped", "b=deployed", map[string]string{"a": "", "b": "skipped"}},
		{"one in the wave before", []string{"a: b", "b"}, "a=@1 b=@0", "", map[string]string{"a": "after b", "b": ""}},
		{"one in a later wave", []string{"a: b", "b"}, "a=@0 b=@1", "", map[string]string{"a": "failed: a.yaml: spec.dependsOn: ns/a -> ns/b, which comes in a later wave ()", "b": ""}},
		{"what is unchanged itself waits for nothing", []string{"a: b", "b"}, "a=unchanged b=failed", "a=deployed b=failed", map[string]string{"a": "unchanged", "b": "failed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list := depending(tt.lines...)
			var tasks []*task
			for entry := range strings.FieldsSeq(tt.plan) {
				name, state, _ := strings.Cut(entry, "=")
				state, wave, _ := strings.Cut(state, "@")
				i := slices.IndexFunc(list, func(w *wanted) bool { return w.key.Name == name })
				task := &task{release: list[i], state: state}
				if wave == "1" {
					task.wave = 1
				}
				tasks = append(tasks, task)
			}
			c := circumstances{states: map[cluster.Key]cluster.State{}}
			for entry := range strings.FieldsSeq(tt.states) {
				name, status, _ := strings.Cut(entry, "=")
				c.states[cluster.Key{Namespace: "ns", Name: name}] = cluster.State{Newest: cluster.Record{Revision: 1, Status: status}}
			}
			orderByDependencies(tasks, c)
			got := map[string]string{}
			for _, task := range tasks {
				text := task.state
				if task.reason != "" {
					text += ": " + task.reason
				}
				for _, w := range task.after {
					text += "after " + w.key.Name
				}
				got[task.release.key.Name] = text
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSelectedReleasesBringTheirDependenciesAlong(t *testing.T) {
	list := depending("a: b", "b: c", "c", "d")
	var names []string
	for _, w := range withDependencies(list[:1]) {
		names = append(names, w.key.Name)
	}
	if fmt.Sprint(names) != "[a b c]" {
		t.Error(names)
	}
}
