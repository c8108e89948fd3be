package gitrepo

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
)

// Touching returns those of the commits that change something at one of the paths, in the same order: a file, or a folder with all in it,
// from the root of the repository. A merge changes what it has otherwise than each of its parents; what it brought in is in commits of its
// own. The history must have been read with Folders.
//
// Only the ids of folders are compared, so the files themselves are never needed.
func (h *History) Touching(ids []commits.ID, paths []string) ([]commits.ID, error) {
	seen := map[commits.ID][]plumbing.Hash{} // by root folder: what is at each path, zero for nothing
	at := func(tree commits.ID) ([]plumbing.Hash, error) {
		if list, ok := seen[tree]; ok {
			return list, nil
		}
		list := make([]plumbing.Hash, len(paths))
		for i, path := range paths {
			var err error
			if list[i], err = h.lookUp(plumbing.Hash(tree), path); err != nil {
				return nil, err
			}
		}
		seen[tree] = list
		return list, nil
	}
	tree := func(id commits.ID) ([]plumbing.Hash, []commits.ID, error) {
		raw, err := h.store.get(plumbing.CommitObject, plumbing.Hash(id))
		if err != nil {
			return nil, nil, fmt.Errorf("reading commit %s: %w", id, err)
		}
		c := parseCommit(raw)
		list, err := at(c.tree)
		if errors.Is(err, errMissing) {
			return nil, nil, &HistoryError{
				Err: fmt.Errorf("the folders of commit %s are not there", id), Config: true,
				Cure: "clone without --filter=tree:0, or remove the checkout's remote helper settings and set SOURCE_URL",
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("reading the folders of commit %s: %w", id, err)
		}
		return list, c.parents, nil
	}
	var touching []commits.ID
	for _, id := range ids {
		own, parents, err := tree(id)
		if err != nil {
			return nil, err
		}
		changed := make([]bool, len(paths))
		for i := range paths {
			changed[i] = len(parents) > 0 || !own[i].IsZero()
		}
		for _, p := range parents {
			before, _, err := tree(p)
			if err != nil {
				return nil, err
			}
			for i := range paths {
				changed[i] = changed[i] && own[i] != before[i]
			}
		}
		if slices.Contains(changed, true) {
			touching = append(touching, id)
		}
	}
	return touching, nil
}

// lookUp returns the id of what is at a path below a folder; zero when there is nothing. A file that becomes executable is no change.
func (h *History) lookUp(tree plumbing.Hash, path string) (plumbing.Hash, error) {
	isFolder := true
	for name := range strings.SplitSeq(path, "/") {
		if !isFolder {
			return plumbing.ZeroHash, nil
		}
		if tree == emptyTree {
			return plumbing.ZeroHash, nil
		}
		raw, err := h.store.get(plumbing.TreeObject, tree)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		var ok bool
		if tree, isFolder, ok = findEntry(raw, name); !ok {
			return plumbing.ZeroHash, nil
		}
	}
	return tree, nil
}

// emptyTree is known to Git without being stored anywhere.
var emptyTree = plumbing.NewHash("4b825dc642cb6eb9a060e54bf8d69288fbee4904")

// findEntry looks a name up in a tree object: "mode name", a zero byte and 20 bytes of id for each entry.
func findEntry(raw []byte, name string) (id plumbing.Hash, isFolder, ok bool) {
	for {
		end := bytes.IndexByte(raw, 0)
		if end < 0 || len(raw) < end+1+len(id) {
			return id, false, false
		}
		if mode, found, _ := bytes.Cut(raw[:end], []byte(" ")); string(found) == name {
			return plumbing.Hash(raw[end+1 : end+1+len(id)]), string(mode) == "40000", true
		}
		raw = raw[end+1+len(id):]
	}
}
