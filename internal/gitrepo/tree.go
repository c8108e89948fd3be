package gitrepo

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/memory"
)

// entry is one line of a Git tree. octal is the mode as it is written there: go-git's own tree type normalises the modes of old
// repositories when it reads them, so that a rewritten tree would change files that nobody edited.
type entry struct {
	octal string
	mode  Mode
	name  string
	id    plumbing.Hash
}

// sortKey is what Git orders the entries of a tree by: folders as if a slash followed their name.
func (e entry) sortKey() string {
	if e.mode == folder {
		return e.name + "/"
	}
	return e.name
}

// readTree decodes a tree and refuses what no honest repository holds. The entries must not be modified.
func (s *Snapshot) readTree(id plumbing.Hash) ([]entry, error) {
	if list, known := s.trees.Load(id); known {
		return list.([]entry), nil
	}
	list, err := s.decodeTree(id)
	if err == nil {
		s.trees.Store(id, list)
	}
	return list, err
}

func (s *Snapshot) decodeTree(id plumbing.Hash) ([]entry, error) {
	o, err := s.objects.EncodedObject(plumbing.TreeObject, id)
	if err != nil {
		return nil, err
	}
	r, err := o.Reader()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return parseTree(raw)
}

// parseTree reads Git's tree format: octal mode, space, name, NUL, twenty bytes of id, and so on.
func parseTree(raw []byte) ([]entry, error) {
	var list []entry
	names := map[string]bool{}
	for len(raw) > 0 {
		head, rest, ok := bytes.Cut(raw, []byte{0})
		octal, name, spaced := strings.Cut(string(head), " ")
		if !ok || !spaced || len(rest) < len(plumbing.Hash{}) {
			return nil, unsafe("the tree is malformed")
		}
		n, err := strconv.ParseUint(octal, 8, 32)
		if err != nil {
			return nil, unsafe("entry %q has the malformed mode %q", name, octal)
		}
		e := entry{octal: octal, mode: Mode(n), name: name}
		switch {
		case e.mode == folder || e.mode == Symlink || e.mode == Submodule || e.mode.IsRegular():
		default:
			return nil, unsafe("entry %q has the unknown mode %s", name, octal)
		}
		if err := checkName(name); err != nil {
			return nil, err
		}
		if names[name] {
			return nil, unsafe("entry %q is there twice", name)
		}
		names[name] = true
		copy(e.id[:], rest)
		list = append(list, e)
		raw = rest[len(e.id):]
	}
	return list, nil
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.EqualFold(name, ".git") || strings.ContainsAny(name, "/\x00") {
		return unsafe("the name %q is not allowed in a repository", name)
	}
	return nil
}

// splitPath takes a path of a file inside a repository apart.
func splitPath(name string) ([]string, error) {
	elements := strings.Split(name, "/")
	if len(elements) > MaxDepth {
		return nil, fmt.Errorf("path %q: folders are nested deeper than %d", name, MaxDepth)
	}
	for _, e := range elements {
		if err := checkName(e); err != nil {
			return nil, fmt.Errorf("path %q: %w", name, err)
		}
	}
	return elements, nil
}

func lookup(entries []entry, name string) (entry, bool) {
	i := slices.IndexFunc(entries, func(e entry) bool { return e.name == name })
	if i < 0 {
		return entry{}, false
	}
	return entries[i], true
}

// edits is a folder's share of a change: the new contents of its files, and the changes below its folders.
type edits struct {
	files   map[string][]byte
	folders map[string]*edits
}

func (d *edits) add(elements []string, content []byte) {
	if len(elements) == 1 {
		if d.files == nil {
			d.files = map[string][]byte{}
		}
		d.files[elements[0]] = content
		return
	}
	if d.folders == nil {
		d.folders = map[string]*edits{}
	}
	if d.folders[elements[0]] == nil {
		d.folders[elements[0]] = &edits{}
	}
	d.folders[elements[0]].add(elements[1:], content)
}

// author collects the objects that a commit adds to a storage.
type author struct {
	objects *memory.Storage
	added   []plumbing.Hash
}

func (a *author) store(kind plumbing.ObjectType, raw []byte) (plumbing.Hash, error) {
	o := &plumbing.MemoryObject{}
	o.SetType(kind)
	if _, err := o.Write(raw); err != nil {
		return plumbing.ZeroHash, err
	}
	id, err := a.objects.SetEncodedObject(o)
	a.added = append(a.added, id)
	return id, err
}

// rewrite makes the tree that has the edits, from its leaves up. Entries that are not edited keep their bytes; an edited file keeps its
// mode. A new file is a plain one.
func (a *author) rewrite(s *Snapshot, id plumbing.Hash, at string, d *edits) (plumbing.Hash, error) {
	var list []entry
	if !id.IsZero() {
		var err error
		if list, err = s.readTree(id); err != nil {
			return id, fmt.Errorf("reading folder %q: %w", at, err)
		}
		list = slices.Clone(list)
	}
	put := func(name string, wanted entry, replaces func(Mode) bool) error {
		i := slices.IndexFunc(list, func(e entry) bool { return e.name == name })
		switch {
		case i < 0:
			j, _ := slices.BinarySearchFunc(list, wanted.sortKey(), func(e entry, key string) int { return strings.Compare(e.sortKey(), key) })
			list = slices.Insert(list, j, wanted)
		case !replaces(list[i].mode):
			return fmt.Errorf("writing %q: it is a file, a folder, a link or a submodule where something else was expected (mode %s)", at+name, list[i].octal)
		default:
			list[i].id = wanted.id
		}
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(d.folders)) {
		old, found := lookup(list, name)
		if found && old.mode != folder {
			return id, fmt.Errorf("writing below %q: it is not a folder", at+name)
		}
		sub, err := a.rewrite(s, old.id, at+name+"/", d.folders[name])
		if err != nil {
			return id, err
		}
		if err := put(name, entry{octal: "40000", mode: folder, name: name, id: sub}, func(m Mode) bool { return m == folder }); err != nil {
			return id, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		blob, err := a.store(plumbing.BlobObject, d.files[name])
		if err != nil {
			return id, err
		}
		if err := put(name, entry{octal: "100644", mode: Regular, name: name, id: blob}, Mode.IsRegular); err != nil {
			return id, err
		}
	}
	var raw bytes.Buffer
	for _, e := range list {
		raw.WriteString(e.octal + " " + e.name + "\x00")
		raw.Write(e.id[:])
	}
	return a.store(plumbing.TreeObject, raw.Bytes())
}
