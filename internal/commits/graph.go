package commits

import (
	"encoding/hex"
	"fmt"
)

// ID is the id of a commit.
type ID [20]byte

// ParseID reads 40 hexadecimal digits.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != hex.EncodedLen(len(id)) {
		return id, fmt.Errorf("%.50q is not a full commit id: want 40 hexadecimal digits", s)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, fmt.Errorf("%.50q is not a full commit id: want 40 hexadecimal digits", s)
	}
	return id, nil
}

// String returns 40 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is no id.
func (id ID) IsZero() bool { return id == ID{} }

// Graph is the history of a commit: who is whose parent, and when each was committed. It holds no messages, so that a history of many
// tens of thousands of commits takes a few megabytes. The zero value is empty and ready for use.
type Graph struct {
	nodes []node
	index map[ID]int32
}

type node struct {
	id      ID
	known   bool // false: only ever seen as somebody's parent
	time    int64
	parents []int32
}

// Add records a commit, in any order with its relatives. Time is the committer's, in seconds since 1970. A second Add of the same commit
// changes nothing.
func (g *Graph) Add(id ID, parents []ID, time int64) {
	n := g.intern(id)
	if g.nodes[n].known {
		return
	}
	var list []int32
	if len(parents) > 0 {
		list = make([]int32, len(parents))
	}
	for i, p := range parents {
		list[i] = g.intern(p)
	}
	g.nodes[n] = node{id: id, known: true, time: time, parents: list}
}

func (g *Graph) intern(id ID) int32 {
	if n, ok := g.index[id]; ok {
		return n
	}
	if g.index == nil {
		g.index = map[ID]int32{}
	}
	n := int32(len(g.nodes))
	g.nodes = append(g.nodes, node{id: id})
	g.index[id] = n
	return n
}

// Has reports whether the commit was added.
func (g *Graph) Has(id ID) bool {
	n, ok := g.index[id]
	return ok && g.nodes[n].known
}

// Len returns the number of commits that were added or are somebody's parent.
func (g *Graph) Len() int { return len(g.nodes) }

// Missing returns a commit that is somebody's parent and was never added, and whether there is one. A history with such a hole is shallow:
// nothing may be concluded from it.
func (g *Graph) Missing() (ID, bool) {
	for i := range g.nodes {
		if !g.nodes[i].known {
			return g.nodes[i].id, true
		}
	}
	return ID{}, false
}

// Set is a set of commits of one graph.
type Set struct {
	g  *Graph
	in []bool
}

// Has reports whether the commit is in the set.
func (s Set) Has(id ID) bool {
	n, ok := s.g.index[id]
	return ok && int(n) < len(s.in) && s.in[n]
}

// Ancestors returns the given commits and all that can be reached from them over parents. Commits that the graph does not hold are left
// out.
func (g *Graph) Ancestors(of ...ID) Set {
	s := Set{g, make([]bool, len(g.nodes))}
	var stack []int32
	for _, id := range of {
		if n, ok := g.index[id]; ok {
			stack = append(stack, n)
		}
	}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if s.in[n] {
			continue
		}
		s.in[n] = true
		stack = append(stack, g.nodes[n].parents...)
	}
	return s
}

// Range returns the commits that can be reached from head and not from any of the bases: git rev-list head ^base. It is an exact
// difference of sets, so clocks, merges, the order of parents and several roots change nothing. Children come before their parents, and
// what was merged comes right after its merge.
func (g *Graph) Range(head ID, bases ...ID) []ID {
	start, ok := g.index[head]
	if !ok {
		return nil
	}
	done := g.Ancestors(bases...).in
	if done[start] {
		return nil
	}
	// A walk into the depth that lists a commit after all its parents; the list is turned round at the end. The first parent is walked
	// first, so it comes last: what a merge brought in stands between the merge and the trunk below it.
	type frame struct {
		n    int32
		next int
	}
	var list []ID
	done[start] = true
	stack := []frame{{n: start}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if parents := g.nodes[top.n].parents; top.next < len(parents) {
			p := parents[top.next]
			top.next++
			if !done[p] {
				done[p] = true
				stack = append(stack, frame{n: p})
			}
			continue
		}
		list = append(list, g.nodes[top.n].id)
		stack = stack[:len(stack)-1]
	}
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list
}

// The years 1970 to 9999. Git lets a committer claim any time.
const (
	earliest = 0
	latest   = 253402300799
)

// Time returns the committer's time of a commit, corrected for skewed clocks, in seconds since 1970: the largest, over the commit and its
// first parents k steps back, of their own time + k. So it grows by at least one second with each commit of a branch, it is the
// committer's own time where clocks were right, and it is the same whenever it is computed. Times outside 1970 to 9999 count as the
// nearest within.
//
// It is the idea of Git's corrected commit date (Documentation/technical/commit-graph), along first parents only: merging a branch from a
// machine whose clock is ahead must not push the trunk ahead for good.
func (g *Graph) Time(id ID) int64 {
	n, ok := g.index[id]
	if !ok {
		return earliest
	}
	corrected := int64(earliest)
	for k := int64(0); k <= int64(len(g.nodes)); k++ { // a chain is no longer than that; the bound ends a loop in a damaged graph
		corrected = max(corrected, min(max(g.nodes[n].time, earliest), latest)+k)
		if len(g.nodes[n].parents) == 0 {
			break
		}
		n = g.nodes[n].parents[0]
	}
	return corrected
}
