package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/memory"
)

// Bounds of a repository that is read. They are far above what people write and far below what hurts.
const (
	MaxFile    = 4 << 20 // bytes of one file; larger ones are listed and cannot be read
	MaxEntries = 200_000 // entries of all trees of a commit
	MaxDepth   = 64      // folders inside each other
)

// Mode is what Git knows about an entry's type and permissions (the six octal digits of a tree entry).
type Mode uint32

// The modes of files. A link or a submodule is reported and never followed.
const (
	Regular    Mode = 0o100644
	Executable Mode = 0o100755
	Symlink    Mode = 0o120000
	Submodule  Mode = 0o160000
	folder     Mode = 0o040000
	typeMask   Mode = 0o170000
)

// IsRegular reports whether it is a file with content of its own: no link and no submodule.
func (m Mode) IsRegular() bool { return m&typeMask == Regular&typeMask }

// Snapshot is the content of one commit, in memory.
type Snapshot struct {
	Commit string    // id, 40 hexadecimal digits
	When   time.Time // committer time, UTC

	objects *memory.Storage
	commit  plumbing.Hash
	tree    plumbing.Hash
	trees   *sync.Map // plumbing.Hash → []entry: trees that were read, which are read again for each file below them, and in the next snapshot
}

// File is an entry of a commit that is no folder.
type File struct {
	Path string // with slashes
	Mode Mode
	ID   ID // of the content: files of one ID have the same

	snapshot *Snapshot
}

// ID names a content by its sum.
type ID [20]byte

// Read returns the content, which must not be modified. A link or a submodule is an error, and so is a file larger than [MaxFile] (a
// [*TooLargeError]).
func (f File) Read() ([]byte, error) {
	return f.snapshot.blob(f.Path, entry{mode: f.Mode, id: plumbing.Hash(f.ID)})
}

var commitID = regexp.MustCompile(`^[0-9a-f]{40}$`)

// Open reads the files of one commit: the tip of a branch (`main` or `refs/heads/main`), or the commit with the id ref. It fetches that
// commit alone, without history. Errors are [*AccessError], [*MissingError] or a failure of the connection.
func Open(ctx context.Context, r Remote, ref string) (*Snapshot, error) {
	c, err := r.connect()
	if err != nil {
		return nil, err
	}
	var s *Snapshot
	err = persist(ctx, func() error {
		session, err := c.read(ctx)
		if err != nil {
			return err
		}
		want, found := session.branch(ref)
		switch {
		case commitID.MatchString(ref):
			want = plumbing.NewHash(ref)
		case !found:
			return &MissingError{URL: r.URL, Ref: "branch " + ref, Empty: len(session.refs.References) == 0}
		}
		objects := memory.NewStorage()
		if err := session.fetch(ctx, objects, want); err != nil {
			return err
		}
		s, err = newSnapshot(objects, &sync.Map{}, want)
		return err
	})
	return s, err
}

// Tip returns the id of the commit that a branch is at.
func Tip(ctx context.Context, r Remote, branch string) (string, error) {
	c, err := r.connect()
	if err != nil {
		return "", err
	}
	var tip string
	err = persist(ctx, func() error {
		session, err := c.read(ctx)
		if err != nil {
			return err
		}
		h, found := session.branch(branch)
		if !found {
			return &MissingError{URL: r.URL, Ref: "branch " + branch, Empty: len(session.refs.References) == 0}
		}
		tip = h.String()
		return nil
	})
	return tip, err
}

func newSnapshot(objects *memory.Storage, trees *sync.Map, id plumbing.Hash) (*Snapshot, error) {
	c, err := object.GetCommit(objects, id)
	if err != nil {
		return nil, fmt.Errorf("reading commit %s: %w", id, err)
	}
	return &Snapshot{Commit: id.String(), When: c.Committer.When.UTC(), objects: objects, commit: id, tree: c.TreeHash, trees: trees}, nil
}

// ReadFile returns the content of a file, which must not be modified, and whether there is one of that name. A folder, a link or a submodule in its place is an
// error, and so is a file larger than [MaxFile] (a [*TooLargeError]).
func (s *Snapshot) ReadFile(name string) ([]byte, bool, error) {
	e, found, err := s.find(name)
	if !found || err != nil {
		return nil, false, err
	}
	b, err := s.blob(name, e)
	return b, err == nil, err
}

// find looks an entry up by its path.
func (s *Snapshot) find(name string) (entry, bool, error) {
	elements, err := splitPath(name)
	if err != nil {
		return entry{}, false, err
	}
	id := s.tree
	for i, element := range elements {
		entries, err := s.readTree(id)
		if err != nil {
			return entry{}, false, fmt.Errorf("reading folder %q: %w", strings.Join(elements[:i], "/"), err)
		}
		e, found := lookup(entries, element)
		switch {
		case !found:
			return entry{}, false, nil
		case i == len(elements)-1:
			return e, true, nil
		case e.mode != folder:
			return entry{}, false, nil // a file where a folder would have to be: there is no such path
		}
		id = e.id
	}
	return entry{}, false, nil
}

// blob reads an entry's content.
func (s *Snapshot) blob(name string, e entry) ([]byte, error) {
	switch {
	case e.mode == folder:
		return nil, fmt.Errorf("reading %q: it is a folder", name)
	case e.mode == Symlink:
		return nil, fmt.Errorf("reading %q: it is a link, which is never followed", name)
	case !e.mode.IsRegular():
		return nil, fmt.Errorf("reading %q: it is a submodule, which is never followed", name)
	}
	o, err := s.objects.EncodedObject(plumbing.BlobObject, e.id)
	if errors.Is(err, plumbing.ErrObjectNotFound) || err == nil && o.Size() > MaxFile {
		return nil, &TooLargeError{Path: name} // see fetch: the server keeps what is too large
	}
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	b, err := bytesOf(o) // shown and not copied: a repo's files together are large, and most are only searched for a word
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	return slices.Clip(b), nil
}

// Walk calls fn for every file of the commit, in Git's order. An error of fn ends the walk.
//
// Names that no honest repository holds (`.`, `..`, `.git`, a slash, a NUL, a name twice in one folder), more than [MaxEntries] entries
// and folders nested deeper than [MaxDepth] are errors: the whole commit is refused.
func (s *Snapshot) Walk(fn func(File) error) error {
	entries := 0
	var walk func(id plumbing.Hash, prefix string, depth int) error
	walk = func(id plumbing.Hash, prefix string, depth int) error {
		if depth > MaxDepth {
			return unsafe("reading folder %q: folders are nested deeper than %d", prefix[:min(len(prefix), 100)], MaxDepth)
		}
		list, err := s.readTree(id)
		if err != nil {
			return fmt.Errorf("reading folder %q: %w", prefix, err)
		}
		if entries += len(list); entries > MaxEntries {
			return unsafe("reading commit %s: it holds more than %d files and folders", s.Commit, MaxEntries)
		}
		for _, e := range list {
			if e.mode == folder {
				err = walk(e.id, prefix+e.name+"/", depth+1)
			} else {
				err = fn(File{Path: prefix + e.name, Mode: e.mode, ID: ID(e.id), snapshot: s})
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return walk(s.tree, "", 1)
}
