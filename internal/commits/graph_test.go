package commits

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// name makes a readable id of a letter or a short word.
func name(s string) (id ID) { copy(id[:], s); return id }

func names(ids []ID) string {
	var list []string
	for _, id := range ids {
		list = append(list, strings.TrimRight(string(id[:]), "\x00"))
	}
	return strings.Join(list, " ")
}

// graph reads lines of the form "commit time parent parent…", children first or last.
func graph(t *testing.T, text string) *Graph {
	t.Helper()
	var g Graph
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		var time int64
		neg := strings.HasPrefix(f[1], "-")
		for _, d := range strings.TrimPrefix(f[1], "-") {
			time = time*10 + int64(d-'0')
		}
		if neg {
			time = -time
		}
		var parents []ID
		for _, p := range f[2:] {
			parents = append(parents, name(p))
		}
		g.Add(name(f[0]), parents, time)
	}
	return &g
}

func TestRangeIsTheExactDifference(t *testing.T) {
	const merged = `
		a 10
		b 20 a
		c 30 b
		x 15 a
		y 25 x
		m 40 c y
		n 50 m`
	const hotfix = `
		a 10
		b 20 a
		h 99 a
		m 30 b h
		n 40 m`
	const octopus = `
		a 1
		b 2 a
		c 2 a
		d 2 a
		o 3 b c d`
	const roots = `
		a 1
		b 2 a
		r 1
		s 2 r
		m 3 b s`
	const skew = `
		a 1000
		b 1 a
		c 2000 b
		d 2 c`
	const crossed = `
		a 1
		b 2 a
		c 2 a
		d 3 b c
		e 3 c b
		f 4 d e`
	for _, tt := range []struct {
		name, graph, head string
		bases             []string
		want              string
	}{
		{"a straight line", "a 1\nb 2 a\nc 3 b", "c", []string{"a"}, "c b"},
		{"nothing was released", "a 1\nb 2 a\nc 3 b", "c", nil, "c b a"},
		{"the head is released", "a 1\nb 2 a", "b", []string{"b"}, ""},
		{"the base is ahead of the head", "a 1\nb 2 a\nc 3 b", "b", []string{"c"}, ""},
		{"what was merged after the release counts, though it is older", merged, "n", []string{"c"}, "n m y x"},
		{"what was merged before the release does not", merged, "n", []string{"m"}, "n"},
		{"a release on a side branch hides that branch alone", merged, "n", []string{"y"}, "n m c b"},
		{"a hotfix that was merged back hides its own commit", hotfix, "n", []string{"h"}, "n m b"},
		{"several bases hide what any of them has", merged, "n", []string{"b", "x"}, "n m y c"},
		{"an octopus", octopus, "o", []string{"b"}, "o d c"},
		{"several roots", roots, "m", []string{"b"}, "m s r"},
		{"clocks do not matter", skew, "d", []string{"b"}, "d c"},
		{"criss-cross merges", crossed, "f", []string{"d"}, "f e"},
		{"a base that is not in the graph hides nothing", "a 1\nb 2 a", "b", []string{"z"}, "b a"},
		{"a head that is not in the graph has nothing", "a 1", "z", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var bases []ID
			for _, b := range tt.bases {
				bases = append(bases, name(b))
			}
			if got := names(graph(t, tt.graph).Range(name(tt.head), bases...)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A graph of a few thousand commits with random merges: the difference must be what its definition says, and in an order in which nobody
// comes before a child.
func TestRangeHoldsOnRandomHistories(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		var g Graph
		const n = 400
		parents := map[ID][]ID{}
		id := func(i int) ID { return ID{byte(i), byte(i >> 8), 1} }
		for i := range n {
			var ps []ID
			for range min(i, 1+r.IntN(3)) {
				if p := id(max(0, i-1-r.IntN(12))); !slices.Contains(ps, p) {
					ps = append(ps, p)
				}
			}
			parents[id(i)] = ps
			g.Add(id(i), ps, r.Int64N(1000))
		}
		head, base := id(n-1-r.IntN(5)), id(r.IntN(n))
		reach := func(from ID) map[ID]bool {
			seen := map[ID]bool{}
			todo := []ID{from}
			for len(todo) > 0 {
				c := todo[0]
				todo = todo[1:]
				if !seen[c] {
					seen[c] = true
					todo = append(todo, parents[c]...)
				}
			}
			return seen
		}
		want, hidden := reach(head), reach(base)
		for c := range hidden {
			delete(want, c)
		}
		got := g.Range(head, base)
		at := map[ID]int{}
		for i, c := range got {
			at[c] = i
			if !want[c] {
				t.Fatalf("%s is not in the difference", c)
			}
		}
		if len(at) != len(want) || len(got) != len(want) {
			t.Fatalf("got %d commits, want %d", len(got), len(want))
		}
		for _, c := range got {
			for _, p := range parents[c] {
				if i, in := at[p]; in && i < at[c] {
					t.Fatalf("%s comes before its child %s", p, c)
				}
			}
			if len(parents[c]) > 0 && g.Time(c) <= g.Time(parents[c][0]) {
				t.Fatalf("the time of %s does not grow over its first parent's", c)
			}
		}
	}
}

func TestTimeGrowsAlongTheTrunkWhateverTheClocksSay(t *testing.T) {
	for _, tt := range []struct {
		name, graph, head string
		want              int64
	}{
		{"clocks that are right", "a 100\nb 200 a\nc 300 b", "c", 300},
		{"a commit alone", "a 100", "a", 100},
		{"the same second three times", "a 100\nb 100 a\nc 100 b", "c", 102},
		{"a clock that went back", "a 1000\nb 100 a\nc 200 b", "c", 1002},
		{"a clock that went back and caught up", "a 1000\nb 100 a\nc 2000 b", "c", 2000},
		{"a skewed clock many commits ago", "a 1000\nb 1 a\nc 2 b\nd 3 c\ne 4 d\nf 5 e", "f", 1005},
		{"a merged branch from a machine whose clock is ahead", "a 100\nx 9000 a\nb 200 a\nm 300 b x", "m", 300},
		{"a time before 1970", "a -5", "a", 0},
		{"a time before 1970 in front of others", "a -5\nb -7 a\nc -9 b", "c", 2},
		{"the year 2286 has eleven digits", "a 10000000000", "a", 10000000000},
		{"a time that no calendar has", "a 9000000000000000000\nb 1 a", "b", 253402300800},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := graph(t, tt.graph).Time(name(tt.head)); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func TestAHistoryWithAHoleIsKnown(t *testing.T) {
	g := graph(t, "c 3 b\nb 2 a")
	if id, missing := g.Missing(); !missing || id != name("a") {
		t.Errorf("the missing parent was not found: %s, %t", id, missing)
	}
	if g.Has(name("a")) || !g.Has(name("b")) {
		t.Error("Has tells the parent that is missing from the one that is there")
	}
	g.Add(name("a"), nil, 1)
	if id, missing := g.Missing(); missing {
		t.Errorf("%s is said to be missing", id)
	}
}

func TestAddOfTheSameCommitChangesNothing(t *testing.T) {
	g := graph(t, "a 1\nb 2 a\nb 99")
	if diff := cmp.Diff("b a", names(g.Range(name("b")))); diff != "" || g.Time(name("b")) != 2 {
		t.Error(diff, g.Time(name("b")))
	}
}

func TestIDsAreReadAsTheyAreWritten(t *testing.T) {
	const s = "4f2a91c03b7d5e6f708192a3b4c5d6e7f8091a2b"
	id, err := ParseID(s)
	if err != nil || id.String() != s || id.IsZero() {
		t.Errorf("%s, %v", id, err)
	}
	for _, bad := range []string{"", s[:39], s + "0", strings.Replace(s, "4", "g", 1), " " + s[1:]} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
