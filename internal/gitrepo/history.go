package gitrepo

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/go-git/go-git/v5/plumbing"

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
	// Base is the branch that a pull request wants to be merged into. When it is given, its history is read as well.
	Base string
	// Folders asks for what [History.Touching] needs.
	Folders bool
	// Match selects tags by their short names, such as v1.42.0. The names that it refuses cost nothing.
	Match func(tag string) bool
}

// History is the complete history of one commit: a graph in memory, the tags of the repository, and the messages on demand.
type History struct {
	Head    commits.ID
	Base    commits.ID // where the branch Base is; zero when none was asked for
	Graph   *commits.Graph
	Tags    []string // short names of the tags that Match selected, on any branch, sorted
	Fetched bool     // the history did not come from the checkout alone
	Notices []string // what the reader of a build log should know about where the history came from

	store  *objects
	hashes map[string]plumbing.Hash // by tag: the object that it points at, or what that peels to
}

// Close gives back the files that the history is read from. [History.Target], [History.Messages] and [History.Touching] need them.
func (h *History) Close() error {
	if h.store == nil {
		return nil
	}
	return h.store.Close()
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
// no tags, and sometimes there is none at all; then commits are fetched into memory, without folders and files, in one request. A history
// that has a hole is an error, never a short history: whoever counts from it would count from zero. The caller closes the History.
//
// A checkout without a single matching tag may be one that was made without tags, so the remote's list of tags is asked before anybody
// concludes that nothing was ever released.
func ReadHistory(ctx context.Context, o HistoryOptions) (*History, error) {
	if o.Match == nil {
		o.Match = func(string) bool { return true }
	}
	local, shortcoming := readCheckout(ctx, o)
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the history of the checkout: %w", err), local.Close())
	}
	if shortcoming == nil && len(local.Tags) > 0 {
		return local.History, nil
	}
	if format, ok := errors.AsType[*FormatError](shortcoming); ok { // the remote cannot be otherwise
		return nil, format.history()
	}
	remote, err := o.remote(local.origin)
	if err != nil && shortcoming == nil && o.Remote.URL == "" && local.origin == "" {
		local.Notices = append(local.Notices, "the checkout has no release tags, and there is no remote that could have any")
		return local.History, nil
	}
	if shortcoming != nil {
		if err := local.Close(); err != nil {
			return nil, fmt.Errorf("closing the checkout: %w", err)
		}
	}
	switch {
	case err != nil && shortcoming != nil:
		return nil, &HistoryError{Err: fmt.Errorf("%w, and %w", shortcoming, err), Cure: cureDepth, Config: true}
	case err != nil:
		return nil, errors.Join(&HistoryError{Err: fmt.Errorf("the checkout has no release tags, and %w", err), Cure: cureDepth, Config: true}, local.Close())
	}
	if o.Commit == "" && shortcoming != nil && !local.Head.IsZero() { // the branch may have moved since the checkout was made
		o.Commit = local.Head.String()
	}
	h := local.History
	err = persist(ctx, func() error {
		r, err := openRemote(ctx, remote)
		if err != nil {
			return err
		}
		if shortcoming == nil {
			r.addTags(h, o)
			return nil
		}
		h, err = r.history(ctx, o)
		return err
	})
	if err != nil {
		if shortcoming == nil {
			err = errors.Join(err, local.Close())
		}
		return nil, err
	}
	if shortcoming != nil {
		h.Notices = append([]string{fmt.Sprintf("%s: fetched %d commits and the tags from %s", shortcoming, h.Graph.Len(), remote.URL)}, h.Notices...)
	}
	return h, nil
}

// walk follows parents from the heads to the roots. It reports false when an object is missing.
func walk(ctx context.Context, store *objects, heads ...commits.ID) (*commits.Graph, bool, error) {
	var g commits.Graph
	stack := slices.Clone(heads)
	for len(stack) > 0 {
		id := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if g.Has(id) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		raw, err := store.get(plumbing.CommitObject, plumbing.Hash(id))
		if errors.Is(err, errMissing) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		c := parseCommit(raw)
		g.Add(id, c.parents, c.time)
		for _, p := range slices.Backward(c.parents) { // so that the first parent is walked first
			stack = append(stack, p)
		}
	}
	return &g, true, nil
}

// commit is what is read of a commit object.
type commit struct {
	tree    commits.ID
	parents []commits.ID
	time    int64
	message []byte
}

// parseCommit takes a commit object apart. It reads only what is needed, and forgives what it does not need: git itself reads commits
// with broken names and times. A time that cannot be read is 0. (gitformat: headers, a blank line, the message; a header's further lines
// begin with a blank.)
func parseCommit(raw []byte) commit {
	var c commit
	for {
		line, rest, more := bytes.Cut(raw, []byte("\n"))
		switch {
		case len(line) == 0:
			c.message = rest
			return c
		case bytes.HasPrefix(line, []byte("tree ")):
			c.tree, _ = parseID(line[len("tree "):])
		case bytes.HasPrefix(line, []byte("parent ")):
			if id, ok := parseID(line[len("parent "):]); ok {
				c.parents = append(c.parents, id)
			}
		case bytes.HasPrefix(line, []byte("committer ")):
			c.time = committerTime(line)
		}
		if !more {
			return c
		}
		raw = rest
	}
}

// parseID is commits.ParseID for the many ids of a history: it makes no garbage.
func parseID(hexadecimal []byte) (id commits.ID, ok bool) {
	if len(hexadecimal) != hex.EncodedLen(len(id)) {
		return id, false
	}
	if _, err := hex.Decode(id[:], hexadecimal); err != nil {
		return commits.ID{}, false
	}
	return id, true
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
	for range 100 { // nobody nests tags so deep; a loop cannot be made without breaking SHA-1
		if h.Graph.Has(commits.ID(hash)) {
			return commits.ID(hash), true, nil
		}
		obj, err := h.store.object(hash)
		if errors.Is(err, errMissing) {
			// After a fetch only this history is here. The remote has peeled the tag already, and what it peels to is elsewhere.
			return commits.ID(hash), h.Fetched, nil
		}
		if err != nil {
			return commits.ID{}, false, fmt.Errorf("reading tag %q: %w", tag, err)
		}
		switch obj.kind {
		case plumbing.CommitObject:
			return commits.ID(hash), true, nil
		case plumbing.TagObject:
		default:
			return commits.ID{}, false, nil
		}
		target, _, _ := bytes.Cut(bytes.TrimPrefix(obj.data, []byte("object ")), []byte("\n"))
		id, ok := parseID(target)
		if !ok {
			return commits.ID{}, false, fmt.Errorf("reading tag %q: it names no object", tag)
		}
		hash = plumbing.Hash(id)
	}
	return commits.ID{}, false, nil
}

// Messages returns the messages of the given commits, which must be in the graph, in the same order.
func (h *History) Messages(ids []commits.ID) ([]string, error) {
	list := make([]string, len(ids))
	for i, id := range ids {
		raw, err := h.store.get(plumbing.CommitObject, plumbing.Hash(id))
		if err != nil {
			return nil, fmt.Errorf("reading the message of commit %s: %w", id, err)
		}
		list[i] = string(parseCommit(raw).message)
	}
	return list, nil
}
