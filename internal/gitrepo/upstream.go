package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	git "github.com/go-git/go-git/v5"
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

// Upstream is a remote and the branches and tags that it had when it was asked. It answers what one of them has that another lacks.
//
// It never looks at the checkout's commits: a build's checkout is shallow, its branches are as old as the checkout, and the question is
// about what the remote's main branch holds now.
type Upstream struct {
	URL  string // where it is, without credentials
	refs remoteHistory
}

// OpenUpstream asks the remote of the options, or the origin of the checkout in Dir, for its references.
func OpenUpstream(ctx context.Context, o HistoryOptions) (*Upstream, error) {
	origin := ""
	if o.Dir != "" {
		if repo, err := git.PlainOpenWithOptions(o.Dir, &git.PlainOpenOptions{DetectDotGit: true, EnableDotGitCommonDir: true}); err == nil {
			origin = originOf(repo)
		}
	}
	remote, err := o.remote(origin)
	if err != nil {
		return nil, &HistoryError{
			Err:  fmt.Errorf("the branches cannot be compared: %w", err),
			Cure: "set SOURCE_URL to the repository's https address, and GIT_TOKEN when it is private", Config: true,
		}
	}
	u := &Upstream{URL: remote.URL}
	err = persist(ctx, func() error {
		u.refs, err = openRemote(ctx, remote)
		return err
	})
	return u, err
}

// Branches lists the names of all branches, sorted.
func (u *Upstream) Branches() []string {
	var names []string
	for ref := range u.refs.refs.References {
		if name, ok := strings.CutPrefix(ref, "refs/heads/"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Branch returns the commit that a branch is at.
func (u *Upstream) Branch(name string) (commits.ID, error) { return u.lookup("refs/heads/" + name) }

// Tag returns what a tag peels to.
func (u *Upstream) Tag(name string) (commits.ID, error) { return u.lookup(tagRef + name) }

func (u *Upstream) lookup(ref string) (commits.ID, error) {
	hash, ok := u.refs.refs.References[ref]
	if peeled, annotated := u.refs.refs.Peeled[ref]; annotated {
		hash = peeled
	}
	if !ok {
		kind, name := "branch", strings.TrimPrefix(ref, "refs/heads/")
		if tag, is := strings.CutPrefix(ref, tagRef); is {
			kind, name = "tag", tag
		}
		return commits.ID{}, &MissingError{URL: u.URL, Ref: kind + " " + name}
	}
	return commits.ID(hash), nil
}

// Lack is what a base lacks of a head.
type Lack struct {
	// Commits are those whose change the base does not hold, newest first. Merges are not among them, since what they brought in is; nor
	// are commits that change nothing.
	Commits []commits.Commit
	// Elsewhere counts the head's commits that the base holds under other ids: cherry-picked, rebased, squashed.
	Elsewhere int
	// Squashed is the base's commit that makes all of the head's changes at once; zero when there is none.
	Squashed commits.ID
}

// Lacks answers for each head what the base lacks of it, by ancestry and, where that leaves commits over, by their content: a commit counts
// as held when the base has one with the same [commits.PatchID] since the two parted, or a single one with that of all the head's changes
// together. Notices say what could not be compared.
func (u *Upstream) Lacks(ctx context.Context, base commits.ID, heads []commits.ID) (lacks []Lack, notices []string, err error) {
	c := comparison{Upstream: u, base: base, store: memory.NewStorage()}
	if err := c.fetchCommits(ctx, heads); err != nil {
		return nil, nil, err
	}
	sides := make([]*side, len(heads))
	for i, head := range heads {
		sides[i] = c.side(head)
	}
	switch err := c.compare(ctx, sides); {
	case errors.Is(err, errPackTooLarge) || errors.Is(err, errTooMany):
		notices = append(notices, fmt.Sprintf("commits were compared by ancestry alone, so cherry-picked ones count as missing: %v", err))
	case err != nil:
		return nil, nil, err
	}
	for _, s := range sides {
		lack, err := c.lack(s)
		if err != nil {
			return nil, nil, err
		}
		lacks = append(lacks, lack)
	}
	return lacks, notices, nil
}

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
	hashes := make([]plumbing.Hash, len(wants))
	for i, id := range wants {
		hashes[i] = plumbing.Hash(id)
	}
	graph, complete, err := walk(ctx, c.store, hashes...)
	if err == nil && !complete {
		err = &HistoryError{Err: fmt.Errorf("the repository %s does not hold its whole history itself", c.URL), Cure: "set SOURCE_URL to a repository that is not shallow"}
	}
	c.graph = graph
	return err
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
		for _, p := range c.parentsOf(id) {
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
	return slices.DeleteFunc(slices.Clone(ids), func(id commits.ID) bool { return len(c.parentsOf(id)) > 1 })
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
		files, err := c.files(c.parentOf(id), id)
		if err != nil {
			return err
		}
		patch, err := c.patch(files)
		if err != nil {
			return err
		}
		theirs[patch] = id
	}
	if len(theirs) == 0 {
		return nil
	}
	for _, id := range s.left {
		files, err := c.files(c.parentOf(id), id)
		if err != nil {
			return err
		}
		patch, err := c.patch(files)
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
	var buf bytes.Buffer
	for _, id := range s.left {
		if s.held[id] || !s.squashed.IsZero() {
			l.Elsewhere++
			continue
		}
		if err := readObject(c.store, plumbing.CommitObject, plumbing.Hash(id), &buf); err != nil {
			return Lack{}, fmt.Errorf("reading the message of commit %s: %w", id, err)
		}
		_, _, message := parseCommit(buf.Bytes())
		l.Commits = append(l.Commits, commits.Commit{ID: id, Message: commits.Parse(string(message))})
	}
	return l, nil
}

func (c *comparison) parentsOf(id commits.ID) []commits.ID {
	if known, ok := c.parents[id]; ok {
		return known
	}
	var buf bytes.Buffer
	var parents []commits.ID
	if err := readObject(c.store, plumbing.CommitObject, plumbing.Hash(id), &buf); err == nil { // walk has read it before
		parents, _, _ = parseCommit(buf.Bytes())
	}
	if c.parents == nil {
		c.parents = map[commits.ID][]commits.ID{}
	}
	c.parents[id] = parents
	return parents
}

// parentOf returns the first parent, and the zero id for a root.
func (c *comparison) parentOf(id commits.ID) commits.ID {
	if p := c.parentsOf(id); len(p) > 0 {
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
			var buf bytes.Buffer
			err := plumbing.ErrObjectNotFound
			if Mode(part.mode) != Submodule {
				err = readObject(c.store, plumbing.BlobObject, plumbing.Hash(part.id), &buf)
			}
			switch {
			case errors.Is(err, plumbing.ErrObjectNotFound) || err == nil && buf.Len() > maxDiffed:
				f.Opaque = true // a submodule, or too large to have been sent
			case err != nil:
				return commits.PatchID{}, fmt.Errorf("reading %s: %w", f.Path, err)
			default:
				*part.to = buf.Bytes()
			}
		}
	}
	return commits.Patch(files), nil
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
