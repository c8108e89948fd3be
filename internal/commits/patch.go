package commits

import (
	"bytes"
	"crypto/sha1"
	"fmt"
	"hash"
	"slices"
)

// FileChange is what one commit did to one path: git's raw difference of two trees, without a search for renames.
type FileChange struct {
	Path             string
	OldMode, NewMode uint32 // as in a tree, such as 0100644; 0: the path did not exist, or does not any more
	OldID, NewID     ID     // of the contents
	Old, New         []byte // the contents
	Opaque           bool   // the contents are not here (too large, or a submodule): the ids stand for them
}

// PatchID names what a commit changes, wherever and on top of whatever it changes it: a commit that was cherry-picked or rebased keeps its
// PatchID. It is the id of `git patch-id --stable` and of `git cherry`: white space, line numbers and the order of files do not count, three
// lines of context do. The zero value is the id of a commit that changes nothing.
type PatchID [sha1.Size]byte

// Patch computes the PatchID of a commit from the changes against its only parent.
//
// The rules are those of diff_get_patch_id in git's diff.c, with one difference: git leaves a change of mode out, so that making a file
// executable equals the opposite; here it counts.
func Patch(changes []FileChange) PatchID {
	var sum PatchID
	for _, c := range changes {
		h := sha1.New()
		c.hash(h)
		carry := 0
		for i, b := range h.Sum(nil) { // the files' hashes are added as numbers, so that their order does not count
			carry += int(sum[i]) + int(b)
			sum[i] = byte(carry)
			carry >>= 8
		}
	}
	return sum
}

func (c FileChange) hash(h hash.Hash) {
	add := func(s string) { h.Write([]byte(s)) }
	path := withoutSpace([]byte(c.Path))
	add("diff--git")
	add("a/" + path)
	add("b/" + path)
	switch {
	case c.OldMode == 0:
		add(fmt.Sprintf("newfilemode%06o", c.NewMode))
	case c.NewMode == 0:
		add(fmt.Sprintf("deletedfilemode%06o", c.OldMode))
	case c.OldMode != c.NewMode:
		add(fmt.Sprintf("oldmode%06onewmode%06o", c.OldMode, c.NewMode))
	}
	if c.Opaque || isBinary(c.Old) || isBinary(c.New) {
		add(c.OldID.String())
		add(c.NewID.String())
		return
	}
	switch {
	case c.OldMode == 0:
		add("---/dev/null")
		add("+++b/" + path)
	case c.NewMode == 0:
		add("---a/" + path)
		add("+++/dev/null")
	default:
		add("---a/" + path)
		add("+++b/" + path)
	}
	for _, line := range hunks(lines(c.Old), lines(c.New)) {
		add(line)
	}
}

// isBinary is git's guess (buffer_is_binary): a zero byte among the first 8,000.
func isBinary(b []byte) bool { return bytes.IndexByte(b[:min(len(b), 8000)], 0) >= 0 }

// withoutSpace drops what C's isspace holds for white space, as git does.
func withoutSpace(b []byte) string {
	out := make([]byte, 0, len(b))
	for _, c := range b {
		switch c {
		case ' ', '\t', '\n', '\r', '\v', '\f':
		default:
			out = append(out, c)
		}
	}
	return string(out)
}

// lines splits a text behind each line feed.
func lines(b []byte) []string {
	var list []string
	for line := range bytes.Lines(b) {
		list = append(list, string(line))
	}
	return list
}

// context is how many unchanged lines around a change belong to it.
const context = 3

// hunks returns the lines of a unified difference without its headers, and without white space.
func hunks(old, fresh []string) []string {
	edits := lineEdits(old, fresh)
	var out []string
	at := 0 // line of old up to which all is written
	for i, e := range edits {
		from := max(e.old-context, at)
		for ; from < e.old; from++ {
			out = append(out, withoutSpace([]byte(old[from])))
		}
		for _, line := range old[e.old : e.old+e.drop] {
			out = append(out, "-"+withoutSpace([]byte(line)))
		}
		for _, line := range fresh[e.fresh : e.fresh+e.add] {
			out = append(out, "+"+withoutSpace([]byte(line)))
		}
		at = e.old + e.drop
		until := min(at+context, len(old))
		if i+1 < len(edits) { // where two hunks would overlap, git makes one of them, with the same lines
			until = min(until, edits[i+1].old)
		}
		for ; at < until; at++ {
			out = append(out, withoutSpace([]byte(old[at])))
		}
	}
	return out
}

// edit says that drop lines of the old text, from line old on, are replaced by add lines of the fresh one, from line fresh on.
type edit struct{ old, drop, fresh, add int }

// maxEdits bounds the search for the shortest way from one text to another: its cost grows with the square.
const maxEdits = 3000

// lineEdits finds a shortest list of edits (Myers, An O(ND) Difference Algorithm, 1986). Texts further apart than maxEdits count as
// replaced from their first difference to their last: the answer is still the same for the same two texts.
func lineEdits(old, fresh []string) []edit {
	head := 0
	for head < len(old) && head < len(fresh) && old[head] == fresh[head] {
		head++
	}
	tail := 0
	for tail < len(old)-head && tail < len(fresh)-head && old[len(old)-1-tail] == fresh[len(fresh)-1-tail] {
		tail++
	}
	a, b := old[head:len(old)-tail], fresh[head:len(fresh)-tail]
	switch {
	case len(a) == 0 && len(b) == 0:
		return nil
	case len(a) == 0 || len(b) == 0:
		return slid(old, fresh, []edit{{head, len(a), head, len(b)}})
	}
	dropped, added, ok := shortest(a, b)
	if !ok {
		return []edit{{head, len(a), head, len(b)}}
	}
	var list []edit
	for i, j := 0, 0; i < len(a) || j < len(b); {
		if (i >= len(a) || !dropped[i]) && (j >= len(b) || !added[j]) {
			i, j = i+1, j+1
			continue
		}
		e := edit{old: head + i, fresh: head + j}
		for ; i < len(a) && dropped[i]; i++ {
			e.drop++
		}
		for ; j < len(b) && added[j]; j++ {
			e.add++
		}
		list = append(list, e)
	}
	return slid(old, fresh, list)
}

// slid moves edits that only drop or only add as far down as they mean the same: of several equal places git takes the last. Edits that
// meet become one.
func slid(old, fresh []string, list []edit) []edit {
	next := edit{old: len(old), fresh: len(fresh)}
	out := make([]edit, 0, len(list))
	for _, e := range slices.Backward(list) {
		for e.add == 0 && e.old+e.drop < next.old && old[e.old] == old[e.old+e.drop] ||
			e.drop == 0 && e.fresh+e.add < next.fresh && fresh[e.fresh] == fresh[e.fresh+e.add] {
			e.old, e.fresh = e.old+1, e.fresh+1
		}
		if len(out) > 0 && e.old+e.drop == next.old && e.fresh+e.add == next.fresh {
			e.drop, e.add = e.drop+next.drop, e.add+next.add
			out = out[:len(out)-1]
		}
		out = append(out, e)
		next = e
	}
	slices.Reverse(out)
	return out
}

// shortest marks the lines to drop and to add, and reports whether there is a way of at most maxEdits.
func shortest(a, b []string) (dropped, added []bool, ok bool) {
	limit := min(len(a)+len(b), maxEdits)
	v := make([]int32, 2*limit+3) // by diagonal k = x - y: the furthest x
	at := func(k int) *int32 { return &v[k+limit+1] }
	var trail [][]int32 // the state before each round, diagonals -d-1 to d+1
	for d := 0; d <= limit; d++ {
		trail = append(trail, append([]int32(nil), v[limit-d:limit+d+3]...))
		for k := -d; k <= d; k += 2 {
			var x int
			if k == -d || k != d && *at(k - 1) < *at(k + 1) {
				x = int(*at(k + 1))
			} else {
				x = int(*at(k - 1)) + 1
			}
			for y := x - k; x < len(a) && y < len(b) && y >= 0 && a[x] == b[y]; y++ {
				x++
			}
			*at(k) = int32(x)
			if x >= len(a) && x-k >= len(b) {
				dropped, added = retrace(trail, len(a), len(b))
				return dropped, added, true
			}
		}
	}
	return nil, nil, false
}

// retrace walks the way back that shortest found.
func retrace(trail [][]int32, x, y int) (dropped, added []bool) {
	dropped, added = make([]bool, x), make([]bool, y)
	for d := len(trail) - 1; d > 0; d-- {
		at := func(k int) int { return int(trail[d][k+d+1]) }
		k := x - y
		before := k - 1
		if k == -d || k != d && at(k-1) < at(k+1) {
			before = k + 1
		}
		px := at(before)
		py := px - before
		if before == k+1 {
			added[py] = true
		} else {
			dropped[px] = true
		}
		x, y = px, py
	}
	return dropped, added
}
