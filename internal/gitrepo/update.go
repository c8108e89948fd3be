package gitrepo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/memory"
)

// Change is what one commit does: files by their path, with their new content. Files that hold that content already are no change.
type Change struct {
	Files   map[string][]byte
	Message string
	Author  Signature // also the committer; a time before the parent's becomes the parent's
	Key     SigningKey
}

// Signature is a commit's author.
type Signature struct {
	Name, Email string
	When        time.Time // the caller's, so that the same change of the same commit has the same id
}

// CheckSignature reports why a name or an e-mail address cannot stand in a commit.
func CheckSignature(s string) error {
	if strings.TrimSpace(s) == "" || strings.ContainsAny(s, "<>\n\r\x00") {
		return fmt.Errorf("%q cannot stand in a commit: want text without <, > and line breaks", s)
	}
	return nil
}

// Result is what [Update] did.
type Result struct {
	Commit   string // the commit that holds the change; the branch's tip when there was nothing to change
	Branch   string // the branch that was, or would be, pushed to
	Attempts int    // how often the change was decided on, 1 at the least
	Changed  bool   // whether a commit of ours was pushed
}

// Decide looks at a state of the repository and says what to change; nil for nothing. It is called again on every new state, and must
// then decide anew: what was right for the last one may be wrong now.
type Decide func(*Snapshot) (*Change, error)

// Update makes one commit on a branch, on the condition that the branch has not moved since decide saw it. When another writer was
// quicker it fetches what is new, asks decide again and tries again, for up to two minutes after the first decision or until ctx ends.
//
// With another pushBranch than branch the commit goes there, for a pull request: on top of pushBranch when that exists, so that nothing
// that waits there is lost, else on top of branch.
//
// A push without an answer is resolved by looking at the branch, also after ctx has ended: the commit is never made twice, and a success
// is never reported as a failure. After a push the branch is read back. Errors of decide are returned as they are; others are
// [*AccessError], [*MissingError], [*RefusedError], [*LostRaceError], [*UncertainError], or a failure of the connection.
func Update(ctx context.Context, r Remote, branch, pushBranch string, decide Decide) (Result, error) {
	return update(ctx, r, branch, pushBranch, decide, 2*time.Minute)
}

func update(ctx context.Context, r Remote, branch, pushBranch string, decide Decide, budget time.Duration) (Result, error) {
	c, err := r.connect()
	if err != nil {
		return Result{}, err
	}
	limited, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	clock := time.AfterFunc(budget, func() { cancel(context.DeadlineExceeded) })
	defer clock.Stop()
	decided := false
	w := &writer{c: c, source: branch, target: cmp.Or(pushBranch, branch), decide: func(s *Snapshot) (*Change, error) {
		if !decided { // the first decision may ask a registry for a hundred images; the race begins after it
			decided = true
			clock.Stop()
			defer clock.Reset(budget)
		}
		return decide(s)
	}}
	result, err := w.run(limited)
	if w.pending() { // its fate is not known, and ctx may have ended; ask once more, briefly
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		result, err = w.settle(late, result, err)
	}
	if err != nil && limited.Err() != nil && w.raced {
		return result, &LostRaceError{Branch: w.target, Attempts: result.Attempts}
	}
	return result, err
}

// Preview asks decide for the change that [Update] would make now, and makes none.
func Preview(ctx context.Context, r Remote, branch, pushBranch string, decide Decide) (Result, error) {
	c, err := r.connect()
	if err != nil {
		return Result{}, err
	}
	w := &writer{c: c, source: branch, target: cmp.Or(pushBranch, branch), decide: decide}
	if err := persist(ctx, func() error { return w.refresh(ctx) }); err != nil {
		return Result{}, err
	}
	change, err := decide(w.now)
	if err != nil {
		return Result{}, err
	}
	if change != nil {
		change, err = w.now.reduce(change)
	}
	return Result{Commit: w.now.Commit, Branch: w.target, Attempts: 1, Changed: change != nil}, err
}

// mostClashes is how often a push may fail while the branch stays where it is. Servers say the same of a lost race and of a branch name
// that can never be made (a/b beside a), so the race is given up when nobody seems to be racing.
const mostClashes = 5

// writer is one run of [Update].
type writer struct {
	c              *connection
	source, target string
	decide         Decide

	objects *memory.Storage
	trees   *sync.Map     // see Snapshot
	now     *Snapshot     // the state that is decided on
	tip     plumbing.Hash // where target is; zero when it does not exist

	sent  *sentCommit // the last push whose outcome is not known; nil when there is none
	raced bool        // the last attempt that ran to its end was lost to another writer
}

// sentCommit is a commit that the server may have.
type sentCommit struct {
	id     plumbing.Hash
	tip    plumbing.Hash // where the branch had to be for it to be taken
	change *Change
	err    error // why its outcome is not known
}

func (w *writer) pending() bool { return w.sent != nil }

func (w *writer) run(ctx context.Context) (Result, error) {
	result := Result{Branch: w.target}
	var lastTip plumbing.Hash
	for clashes := 0; ; {
		err := persist(ctx, func() error {
			err := w.refresh(ctx)
			if err != nil && ctx.Err() == nil {
				w.raced = false // a server that fails before the time is over is no race
			}
			return err
		})
		if err != nil {
			return result, err
		}
		if id, ok := w.landed(); ok {
			w.sent = nil
			result.Commit, result.Changed = id, true
			return result, nil
		}
		if w.pending() && w.sent.tip != w.tip {
			w.sent = nil // the branch went another way: the server cannot take that push any more
		}
		result.Attempts++
		change, err := w.decide(w.now)
		if err == nil && change != nil {
			change, err = w.now.reduce(change)
		}
		if err != nil {
			w.raced = false // the answer is decide's own, however the time stands
			return result, err
		}
		if change == nil {
			w.sent = nil
			result.Commit = w.now.Commit
			return result, nil
		}
		id, objects, err := w.now.write(change)
		if err != nil {
			return result, err
		}
		outcome, err := w.c.push(ctx, w.target, w.tip, id, w.objects, objects)
		if err == nil || ctx.Err() == nil { // else the attempt was cut short, and the one before decides
			w.raced = outcome == lost || outcome == clash
		}
		switch outcome {
		case landed:
			w.sent = nil
			result.Commit, result.Changed = id.String(), true
			return result, w.verify(ctx, id)
		case refused:
			return result, err
		case failed:
			if permanent(err) || ctx.Err() != nil {
				return result, err
			}
		case unknown:
			w.sent = &sentCommit{id, w.tip, change, err}
		}
		if outcome != lost {
			if clashes++; w.tip != lastTip {
				clashes = 1
			}
			if lastTip = w.tip; clashes == mostClashes {
				return result, err
			}
		}
		if !pause(ctx, result.Attempts) {
			return result, err
		}
	}
}

// refresh brings the writer to the branch's present tip.
func (w *writer) refresh(ctx context.Context) error {
	session, err := w.c.read(ctx)
	if err != nil {
		return err
	}
	tip, exists := session.branch(w.target)
	base := tip
	if !exists {
		if base, exists = session.branch(w.source); !exists {
			return &MissingError{URL: w.c.remote.URL, Ref: "branch " + w.source, Empty: len(session.refs.References) == 0}
		}
		tip = plumbing.ZeroHash
	}
	if w.now != nil && w.now.commit == base && w.tip == tip {
		return nil
	}
	now, err := w.fetch(ctx, session, base)
	if err != nil {
		return err
	}
	w.now, w.tip = now, tip
	return nil
}

// fetch reads a commit, into the storage that holds the earlier ones if that works. Some servers cannot add to a shallow history (Azure
// DevOps, as go-git speaks to it); then all is read anew.
func (w *writer) fetch(ctx context.Context, session *reader, id plumbing.Hash) (*Snapshot, error) {
	if w.objects != nil {
		err := session.fetch(ctx, w.objects, id)
		if err == nil {
			return newSnapshot(w.objects, w.trees, id)
		}
		if permanent(err) || ctx.Err() != nil {
			return nil, err
		}
	}
	w.objects, w.trees = memory.NewStorage(), &sync.Map{}
	if err := session.fetch(ctx, w.objects, id); err != nil {
		w.objects = nil
		return nil, err
	}
	return newSnapshot(w.objects, w.trees, id)
}

// landed reports whether the pending push is on the branch after all, and the commit that says so: ours when it is reachable, else the
// tip, when all the bytes that we wanted are in it.
func (w *writer) landed() (commit string, ok bool) {
	if w.sent == nil || w.tip.IsZero() {
		return "", false
	}
	if w.reaches(w.sent.id) {
		return w.sent.id.String(), true
	}
	if left, err := w.now.reduce(w.sent.change); err == nil && left == nil {
		return w.now.Commit, true
	}
	return "", false
}

// reaches reports whether a commit is in the part of the present tip's history that is here.
func (w *writer) reaches(id plumbing.Hash) bool {
	seen := map[plumbing.Hash]bool{}
	todo := []plumbing.Hash{w.now.commit}
	for len(todo) > 0 {
		h := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if h == id {
			return true
		}
		if seen[h] {
			continue
		}
		seen[h] = true
		if c, err := object.GetCommit(w.objects, h); err == nil {
			todo = append(todo, c.ParentHashes...)
		}
	}
	return false
}

// verify reads the branch back: servers have said "ok" and kept the old tip. Replicas may lag, so it looks a few times.
func (w *writer) verify(ctx context.Context, id plumbing.Hash) error {
	for n := 1; ; n++ {
		if err := persist(ctx, func() error { return w.refresh(ctx) }); err != nil {
			return fmt.Errorf("reading the branch back after the push: %w", err)
		}
		if !w.tip.IsZero() && w.reaches(id) {
			return nil
		}
		if n > tries || !pause(ctx, n) {
			return fmt.Errorf("reading the branch back after the push: the server reported success, but branch %s is at %s, without commit %s", w.target, w.now.Commit, id)
		}
	}
}

// settle finds out what became of the pending push when there is no time left to try again. While the branch is where it was, the server
// may still be at work on it, so it looks a few times.
func (w *writer) settle(ctx context.Context, result Result, err error) (Result, error) {
	for n := 1; ; n++ {
		if err := persist(ctx, func() error { return w.refresh(ctx) }); err != nil {
			w.raced = false
			return result, &UncertainError{Commit: w.sent.id.String(), Err: errors.Join(w.sent.err, err)}
		}
		if id, ok := w.landed(); ok {
			result.Commit, result.Changed = id, true
			return result, nil
		}
		switch {
		case w.tip != w.sent.tip: // another writer was quicker: the server cannot take it any more
			w.raced = true
			return result, cmp.Or(err, w.sent.err)
		case n > tries || !pause(ctx, n):
			w.raced = false
			return result, &UncertainError{Commit: w.sent.id.String(), Err: w.sent.err}
		}
	}
}

// reduce leaves out the files that hold the wanted content already, and returns nil when that is all of them.
func (s *Snapshot) reduce(change *Change) (*Change, error) {
	left := &Change{Files: map[string][]byte{}, Message: change.Message, Author: change.Author, Key: change.Key}
	for name, content := range change.Files {
		old, found, err := s.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if !found || !bytes.Equal(old, content) {
			left.Files[name] = content
		}
	}
	if len(left.Files) == 0 {
		return nil, nil
	}
	return left, nil
}

// write makes the commit and returns its id and all objects that are new with it.
func (s *Snapshot) write(change *Change) (plumbing.Hash, []plumbing.Hash, error) {
	for _, text := range []string{change.Author.Name, change.Author.Email} {
		if err := CheckSignature(text); err != nil {
			return plumbing.ZeroHash, nil, err
		}
	}
	if strings.ContainsRune(change.Message, 0) || strings.TrimSpace(change.Message) == "" {
		return plumbing.ZeroHash, nil, errors.New("the commit message is empty or holds a NUL")
	}
	root := &edits{}
	for _, name := range slices.Sorted(maps.Keys(change.Files)) {
		elements, err := splitPath(name)
		if err != nil {
			return plumbing.ZeroHash, nil, err
		}
		root.add(elements, change.Files[name])
	}
	a := &author{objects: s.objects}
	tree, err := a.rewrite(s, s.tree, "", root)
	if err != nil {
		return plumbing.ZeroHash, nil, err
	}
	when := change.Author.When
	if s.When.After(when) {
		when = s.When // a commit is not older than its parent, whatever the clocks say
	}
	signature := object.Signature{Name: change.Author.Name, Email: change.Author.Email, When: when.UTC().Truncate(time.Second)}
	commit := &object.Commit{
		Author: signature, Committer: signature, Message: strings.TrimRight(change.Message, "\n") + "\n",
		TreeHash: tree, ParentHashes: []plumbing.Hash{s.commit},
	}
	if err := change.Key.attach(commit); err != nil {
		return plumbing.ZeroHash, nil, fmt.Errorf("signing the commit: %w", err)
	}
	o := &plumbing.MemoryObject{}
	if err := commit.Encode(o); err != nil {
		return plumbing.ZeroHash, nil, fmt.Errorf("encoding the commit: %w", err)
	}
	id, err := s.objects.SetEncodedObject(o)
	slices.SortFunc(a.added, func(x, y plumbing.Hash) int { return bytes.Compare(x[:], y[:]) })
	return id, append(slices.Compact(a.added), id), err
}
