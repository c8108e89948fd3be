package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
)

// HistoryOptions say whose history is wanted and where it may be read.
type HistoryOptions struct {
	// Dir is a folder inside the checkout. Nothing is ever written below it.
	Dir string
	// Remote is where history is fetched from when the checkout does not hold all of it. Without a URL the checkout's origin is asked.
	Remote Remote
	// Commit is the full id of the commit whose history is wanted. When it is empty, the checkout's HEAD is meant; without a checkout,
	// the remote's branch or tag below, or else its HEAD.
	Commit, Branch, Tag string
	// Match selects tags by their short names, such as v1.42.0. The names that it refuses cost nothing.
	Match func(tag string) bool
}

// History is the complete history of one commit: a graph in memory, the tags of the repository, and the messages on demand.
type History struct {
	Head    commits.ID
	Graph   *commits.Graph
	Tags    []string // short names of the tags that Match selected, on any branch, sorted
	Fetched bool     // the history did not come from the checkout alone
	Notices []string // what the reader of a build log should know about where the history came from

	store  storer.EncodedObjectStorer
	hashes map[string]plumbing.Hash // by tag: the object that it points at, or what that peels to
}

// HistoryError says why there is no history to work with, and what the reader can do.
type HistoryError struct {
	Err  error
	Cure string
	// Config is true when nothing was asked in vain: there is no place to ask, or it cannot be reached by its address.
	Config bool
}

// Error returns the text of Err.
func (e *HistoryError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *HistoryError) Unwrap() error { return e.Err }

// Fix returns Cure.
func (e *HistoryError) Fix() string { return e.Cure }

// cureDepth is the advice for every checkout that does not hold its history.
const cureDepth = "set SOURCE_URL to the repository's https address, and GIT_TOKEN when it is private; " +
	"or run `git fetch --unshallow --tags --filter=tree:0 --no-recurse-submodules` in a step before this one"

// ReadHistory returns the complete history of a commit. It reads the checkout when that holds all of it. Cloud Build's holds one commit and
// no tags, and sometimes there is none at all; then commits are fetched into memory, without trees and files, in one request. A history
// that has a hole is an error, never a short history: whoever counts from it would count from zero.
//
// A checkout without a single matching tag may be one that was made without tags, so the remote's list of tags is asked before anybody
// concludes that nothing was ever released.
func ReadHistory(ctx context.Context, o HistoryOptions) (*History, error) {
	if o.Match == nil {
		o.Match = func(string) bool { return true }
	}
	local, shortcoming := readCheckout(ctx, o)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("reading the history of the checkout: %w", err)
	}
	if shortcoming == nil && len(local.Tags) > 0 {
		return local.History, nil
	}
	remote, err := o.remote(local.origin)
	switch {
	case err != nil && shortcoming == nil && o.Remote.URL == "" && local.origin == "":
		local.Notices = append(local.Notices, "the checkout has no release tags, and there is no remote that could have any")
		return local.History, nil
	case err != nil && shortcoming != nil:
		return nil, &HistoryError{Err: fmt.Errorf("%w, and %w", shortcoming, err), Cure: cureDepth, Config: true}
	case err != nil:
		return nil, &HistoryError{Err: fmt.Errorf("the checkout has no release tags, and %w", err), Cure: cureDepth, Config: true}
	}
	r, err := openRemote(ctx, remote)
	if err != nil {
		return nil, err
	}
	if shortcoming == nil {
		return r.addTags(local.History, o), nil
	}
	h, err := r.history(ctx, o)
	if err != nil {
		return nil, err
	}
	h.Notices = append([]string{fmt.Sprintf("%s: fetched %d commits and the tags from %s", shortcoming, h.Graph.Len(), remote.URL)}, h.Notices...)
	return h, nil
}

// walk follows parents from head to the roots. It reports false when an object is missing.
func walk(ctx context.Context, store storer.EncodedObjectStorer, head plumbing.Hash) (*commits.Graph, bool, error) {
	var (
		g     commits.Graph
		buf   bytes.Buffer
		stack = []plumbing.Hash{head}
	)
	for len(stack) > 0 {
		hash := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if g.Has(commits.ID(hash)) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		err := readObject(store, plumbing.CommitObject, hash, &buf)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("reading commit %s: %w", hash, err)
		}
		parents, time, _ := parseCommit(buf.Bytes())
		g.Add(commits.ID(hash), parents, time)
		for _, p := range slices.Backward(parents) { // so that the first parent is walked first
			stack = append(stack, plumbing.Hash(p))
		}
	}
	return &g, true, nil
}

// readObject replaces buf's content by an object's.
func readObject(store storer.EncodedObjectStorer, kind plumbing.ObjectType, hash plumbing.Hash, buf *bytes.Buffer) error {
	buf.Reset()
	obj, err := store.EncodedObject(kind, hash)
	if err != nil {
		return err
	}
	r, err := obj.Reader()
	if err != nil {
		return err
	}
	_, err = io.Copy(buf, r)
	return errors.Join(err, r.Close())
}

// parseCommit takes a commit object apart. It reads only what is needed, and forgives what it does not need: git itself reads commits
// with broken names and times. A time that cannot be read is 0. (gitformat: headers, a blank line, the message; a header's further lines
// begin with a blank.)
func parseCommit(raw []byte) (parents []commits.ID, time int64, message []byte) {
	for {
		line, rest, more := bytes.Cut(raw, []byte("\n"))
		switch {
		case len(line) == 0:
			return parents, time, rest
		case bytes.HasPrefix(line, []byte("parent ")):
			if id, err := commits.ParseID(string(line[len("parent "):])); err == nil {
				parents = append(parents, id)
			}
		case bytes.HasPrefix(line, []byte("committer ")):
			time = committerTime(line)
		}
		if !more {
			return parents, time, nil
		}
		raw = rest
	}
}

// committerTime reads the seconds of "committer NAME <MAIL> SECONDS ZONE".
func committerTime(line []byte) int64 {
	fields := bytes.Fields(line[bytes.LastIndexByte(line, '>')+1:])
	if len(fields) == 0 {
		return 0
	}
	seconds, err := strconv.ParseInt(string(fields[0]), 10, 64)
	if err != nil {
		return 0
	}
	return seconds
}

// Target returns the commit that a tag stands for, however many tags point at each other in between, and false for the tag of a tree or a
// file and for a name that is not in Tags.
func (h *History) Target(tag string) (commits.ID, bool, error) {
	hash, ok := h.hashes[tag]
	if !ok {
		return commits.ID{}, false, nil
	}
	var buf bytes.Buffer
	for range 100 { // nobody nests tags so deep; a loop cannot be made without breaking SHA-1
		if h.Graph.Has(commits.ID(hash)) {
			return commits.ID(hash), true, nil
		}
		obj, err := h.store.EncodedObject(plumbing.AnyObject, hash)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			// After a fetch only this history is here. The remote has peeled the tag already, and what it peels to is elsewhere.
			return commits.ID(hash), h.Fetched, nil
		}
		if err != nil {
			return commits.ID{}, false, fmt.Errorf("reading tag %q: %w", tag, err)
		}
		switch obj.Type() {
		case plumbing.CommitObject:
			return commits.ID(hash), true, nil
		case plumbing.TagObject:
		default:
			return commits.ID{}, false, nil
		}
		if err := readObject(h.store, plumbing.TagObject, hash, &buf); err != nil {
			return commits.ID{}, false, fmt.Errorf("reading tag %q: %w", tag, err)
		}
		target, _, _ := bytes.Cut(bytes.TrimPrefix(buf.Bytes(), []byte("object ")), []byte("\n"))
		id, err := commits.ParseID(string(target))
		if err != nil {
			return commits.ID{}, false, fmt.Errorf("reading tag %q: its object: %w", tag, err)
		}
		hash = plumbing.Hash(id)
	}
	return commits.ID{}, false, nil
}

// Messages returns the messages of the given commits, which must be in the graph, in the same order.
func (h *History) Messages(ids []commits.ID) ([]string, error) {
	list := make([]string, len(ids))
	var buf bytes.Buffer
	for i, id := range ids {
		if err := readObject(h.store, plumbing.CommitObject, plumbing.Hash(id), &buf); err != nil {
			return nil, fmt.Errorf("reading the message of commit %s: %w", id, err)
		}
		_, _, message := parseCommit(buf.Bytes())
		list[i] = string(message)
	}
	return list, nil
}
