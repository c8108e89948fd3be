package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
)

// Bounds of a comparison by content. Beyond them commits are compared by ancestry alone, and that is said.
const (
	maxCompared    = 20_000    // commits on both sides
	maxComparePack = 256 << 20 // bytes of one pack
	maxDiffed      = 1 << 20   // bytes of a file whose lines are compared; larger ones are compared by their ids
)

var errTooMany = fmt.Errorf("there are more than %d of them", maxCompared)

// comparison is the work of one call of Lacks.
type comparison struct {
	*Upstream
	base    commits.ID
	store   *memory.Storage
	graph   *commits.Graph
	parents map[commits.ID][]commits.ID
	whole   bool // trees and files of all commits are there already
}

// side is one head against the base.
type side struct {
	head     commits.ID
	left     []commits.ID // commits of the head alone, without merges, newest first
	right    []commits.ID // commits of the base alone, without merges
	fork     commits.ID   // where the head left the base, when that is one commit
	held     map[commits.ID]bool
	squashed commits.ID
}

// capable reports whether the server hands out any commit by its id, and commits without their files.
func (c *comparison) capable() bool {
	has := c.refs.refs.Capabilities
	return has.Supports(capability.Filter) && has.Supports(capability.Shallow) &&
		(has.Supports(capability.AllowReachableSHA1InWant) || has.Supports(capability.Capability("allow-any-sha1-in-want")))
}

// fetch asks for commits: with all that came before them, or alone with their files.
func (c *comparison) fetch(ctx context.Context, wants []commits.ID, filter packp.Filter, alone bool) error {
	return persist(ctx, func() error {
		r, err := c.refs.c.read(ctx)
		if err != nil {
			return err
		}
		r.limit = maxComparePack
		req := packp.NewUploadPackRequestFromCapabilities(r.refs.Capabilities)
		for _, id := range wants {
			req.Wants = append(req.Wants, plumbing.Hash(id))
		}
		if filter != "" && r.refs.Capabilities.Supports(capability.Filter) {
			if err := req.Capabilities.Set(capability.Filter); err != nil {
				return err
			}
			req.Filter = filter
		}
		if alone {
			if err := req.Capabilities.Set(capability.Shallow); err != nil {
				return err
			}
			req.Depth = packp.DepthCommits(1)
		}
		if err := r.receive(ctx, c.store, req); err != nil {
			if errors.Is(err, errPackTooLarge) {
				return err
			}
			return r.c.wrap(err, false)
		}
		return nil
	})
}

// fetchCommits brings the histories of the base and the heads: commits alone where the server can do that.
func (c *comparison) fetchCommits(ctx context.Context, heads []commits.ID) error {
	wants := unique(append([]commits.ID{c.base}, heads...))
	filter := packp.FilterTreeDepth(0)
	if c.whole = !c.capable(); c.whole {
		filter = packp.FilterBlobLimit(maxDiffed+1, packp.BlobLimitPrefixNone)
	}
	switch err := c.fetch(ctx, wants, filter, false); {
	case errors.Is(err, errPackTooLarge):
		return &HistoryError{
			Err:  fmt.Errorf("reading the history of %s: more than %d MiB", c.URL, maxComparePack>>20),
			Cure: "set uploadpack.allowFilter and uploadpack.allowReachableSHA1InWant on the Git server, so that it can send commits alone",
		}
	case err != nil:
		return err
	}
	return c.walk(ctx, wants)
}

// walk makes the graph of all commits that were fetched.
func (c *comparison) walk(ctx context.Context, heads []commits.ID) error {
	c.graph, c.parents = &commits.Graph{}, map[commits.ID][]commits.ID{}
	stack := slices.Clone(heads)
	for len(stack) > 0 {
		id := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if c.graph.Has(id) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		commit, err := object.GetCommit(c.store, plumbing.Hash(id))
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			return &HistoryError{
				Err:  fmt.Errorf("the repository %s does not hold its whole history itself", c.URL),
				Cure: "set SOURCE_URL to a repository that is not shallow",
			}
		}
		if err != nil {
			return fmt.Errorf("reading commit %s: %w", id, err)
		}
		parents := make([]commits.ID, len(commit.ParentHashes))
		for i, p := range commit.ParentHashes {
			parents[i] = commits.ID(p)
		}
		c.graph.Add(id, parents, commit.Committer.When.Unix())
		c.parents[id] = parents
		stack = append(stack, parents...)
	}
	return nil
}

func (c *comparison) side(head commits.ID) *side {
	s := &side{head: head, held: map[commits.ID]bool{}}
	all := c.graph.Range(head, c.base)
	s.left = c.withoutMerges(all)
	s.right = c.withoutMerges(c.graph.Range(c.base, head))
	inside := map[commits.ID]bool{}
	for _, id := range all {
		inside[id] = true
	}
	forks := map[commits.ID]bool{}
	for _, id := range all {
		for _, p := range c.parents[id] {
			if !inside[p] {
				forks[p] = true
			}
		}
	}
	if len(forks) == 1 { // else the base was merged into it, and no single difference tells what is the head's own
		for id := range forks {
			s.fork = id
		}
	}
	return s
}

func (c *comparison) withoutMerges(ids []commits.ID) []commits.ID {
	return slices.DeleteFunc(slices.Clone(ids), func(id commits.ID) bool { return len(c.parents[id]) > 1 })
}

// compare finds which commits of the sides the base holds under other ids. First the trees of all commits are fetched, which say which
// files a commit touches; the files themselves only for commits of the base that touch the same ones as a commit of the head.
func (c *comparison) compare(ctx context.Context, sides []*side) error {
	var all []commits.ID
	for _, s := range sides {
		if len(s.left) > 0 {
			all = append(append(append(all, s.left...), s.right...), s.head)
		}
	}
	if len(all) == 0 {
		return nil
	}
	if all = unique(all); len(all) > maxCompared {
		return errTooMany
	}
	if !c.whole {
		if err := c.fetch(ctx, c.withParents(all, sides), packp.FilterBlobNone(), true); err != nil {
			return err
		}
	}
	touched := map[commits.ID]string{}
	for _, id := range all {
		files, err := c.files(c.parentOf(id), id)
		if err != nil {
			return err
		}
		touched[id] = paths(files)
	}
	var wanted []commits.ID
	for _, s := range sides {
		whole, err := c.together(s)
		if err != nil {
			return err
		}
		own := map[string]bool{paths(whole): true}
		for _, id := range s.left {
			own[touched[id]] = true
			s.held[id] = touched[id] == "" // it changes nothing
		}
		s.right = slices.DeleteFunc(s.right, func(id commits.ID) bool { return touched[id] == "" || !own[touched[id]] })
		if len(s.right) > 0 {
			wanted = append(append(append(wanted, s.left...), s.right...), s.head)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	if !c.whole {
		filter := packp.FilterBlobLimit(maxDiffed+1, packp.BlobLimitPrefixNone)
		if err := c.fetch(ctx, c.withParents(unique(wanted), sides), filter, true); err != nil {
			return err
		}
	}
	for _, s := range sides {
		if err := c.match(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// match compares the patch ids of one side.
func (c *comparison) match(ctx context.Context, s *side) error {
	theirs := map[commits.PatchID]commits.ID{}
	for _, id := range s.right {
		if err := ctx.Err(); err != nil {
			return err
		}
		patch, err := c.patchOf(id)
		if err != nil {
			return err
		}
		theirs[patch] = id
	}
	if len(theirs) == 0 {
		return nil
	}
	for _, id := range s.left {
		patch, err := c.patchOf(id)
		if err != nil {
			return err
		}
		if _, ok := theirs[patch]; ok {
			s.held[id] = true
		}
	}
	whole, err := c.together(s)
	if err != nil || len(whole) == 0 {
		return err
	}
	patch, err := c.patch(whole)
	s.squashed = theirs[patch]
	return err
}

// patchOf is the patch id of what one commit changes.
func (c *comparison) patchOf(id commits.ID) (commits.PatchID, error) {
	files, err := c.files(c.parentOf(id), id)
	if err != nil {
		return commits.PatchID{}, err
	}
	return c.patch(files)
}

// together is the difference that a squash merge of the head would make.
func (c *comparison) together(s *side) ([]commits.FileChange, error) {
	if s.fork.IsZero() || len(s.left) == 0 {
		return nil, nil
	}
	return c.files(s.fork, s.head)
}

// lack sums a side up.
func (c *comparison) lack(s *side) (Lack, error) {
	l := Lack{Squashed: s.squashed}
	for _, id := range s.left {
		if s.held[id] || !s.squashed.IsZero() {
			l.Elsewhere++
			continue
		}
		commit, err := object.GetCommit(c.store, plumbing.Hash(id))
		if err != nil {
			return Lack{}, fmt.Errorf("reading the message of commit %s: %w", id, err)
		}
		l.Commits = append(l.Commits, commits.Commit{ID: id, Message: commits.Parse(commit.Message)})
	}
	return l, nil
}

// parentOf returns the first parent, and the zero id for a root.
func (c *comparison) parentOf(id commits.ID) commits.ID {
	if p := c.parents[id]; len(p) > 0 {
		return p[0]
	}
	return commits.ID{}
}

func (c *comparison) withParents(ids []commits.ID, sides []*side) []commits.ID {
	var list []commits.ID
	for _, id := range ids {
		list = append(list, id, c.parentOf(id))
	}
	for _, s := range sides {
		list = append(list, s.fork)
	}
	return slices.DeleteFunc(unique(list), commits.ID.IsZero)
}

func unique(ids []commits.ID) []commits.ID {
	seen := map[commits.ID]bool{}
	return slices.DeleteFunc(slices.Clone(ids), func(id commits.ID) bool {
		was := seen[id]
		seen[id] = true
		return was
	})
}

// files lists what differs between two commits. A zero id stands for a commit without files.
func (c *comparison) files(from, to commits.ID) ([]commits.FileChange, error) {
	var trees [2]plumbing.Hash
	for i, id := range []commits.ID{from, to} {
		if id.IsZero() {
			continue
		}
		commit, err := object.GetCommit(c.store, plumbing.Hash(id))
		if err != nil {
			return nil, fmt.Errorf("reading commit %s: %w", id, err)
		}
		trees[i] = commit.TreeHash
	}
	var list []commits.FileChange
	err := c.walkTrees(trees[0], trees[1], "", 0, &list)
	return list, err
}

func (c *comparison) walkTrees(from, to plumbing.Hash, dir string, depth int, list *[]commits.FileChange) error {
	if from == to {
		return nil
	}
	if depth > MaxDepth {
		return fmt.Errorf("comparing trees: folders are nested deeper than %d", MaxDepth)
	}
	names := map[string][2]object.TreeEntry{}
	for i, hash := range []plumbing.Hash{from, to} {
		if hash.IsZero() {
			continue
		}
		tree, err := object.GetTree(c.store, hash)
		if err != nil {
			return fmt.Errorf("reading tree %s: %w", hash, err)
		}
		for _, e := range tree.Entries {
			pair := names[e.Name]
			pair[i] = e
			names[e.Name] = pair
		}
	}
	for name, pair := range names {
		old, fresh := pair[0], pair[1]
		if old.Hash == fresh.Hash && old.Mode == fresh.Mode {
			continue
		}
		path := dir + name
		var trees [2]plumbing.Hash
		isTree := false
		for i := range pair {
			if Mode(pair[i].Mode)&typeMask == folder {
				trees[i], isTree = pair[i].Hash, true
				pair[i] = object.TreeEntry{}
			}
		}
		if isTree {
			if err := c.walkTrees(trees[0], trees[1], path+"/", depth+1, list); err != nil {
				return err
			}
			old, fresh = pair[0], pair[1]
		}
		if old.Mode != 0 || fresh.Mode != 0 {
			*list = append(*list, commits.FileChange{
				Path: path, OldMode: uint32(old.Mode), NewMode: uint32(fresh.Mode), OldID: commits.ID(old.Hash), NewID: commits.ID(fresh.Hash),
			})
		}
	}
	return nil
}

// patch reads the contents and computes the patch id.
func (c *comparison) patch(files []commits.FileChange) (commits.PatchID, error) {
	for i := range files {
		f := &files[i]
		for _, part := range []struct {
			mode uint32
			id   commits.ID
			to   *[]byte
		}{{f.OldMode, f.OldID, &f.Old}, {f.NewMode, f.NewID, &f.New}} {
			if part.mode == 0 {
				continue
			}
			if Mode(part.mode) == Submodule {
				f.Opaque = true
				continue
			}
			content, err := c.content(plumbing.Hash(part.id))
			switch {
			case errors.Is(err, plumbing.ErrObjectNotFound) || err == nil && len(content) > maxDiffed:
				f.Opaque = true // too large to have been sent
			case err != nil:
				return commits.PatchID{}, fmt.Errorf("reading %s: %w", f.Path, err)
			default:
				*part.to = content
			}
		}
	}
	return commits.Patch(files), nil
}

func (c *comparison) content(id plumbing.Hash) ([]byte, error) {
	blob, err := object.GetBlob(c.store, id)
	if err != nil {
		return nil, err
	}
	r, err := blob.Reader()
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// paths is a text that is equal for two commits that touch the same files, and empty for one that touches none.
func paths(files []commits.FileChange) string {
	list := make([]string, len(files))
	for i, f := range files {
		list[i] = f.Path
	}
	slices.Sort(list)
	return strings.Join(list, "\x00")
}
