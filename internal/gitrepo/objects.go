package gitrepo

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// objects are the places where the objects of a history are: the packs and the loose files of a checkout and of the repositories that it
// borrows from, or the pack that a fetch brought.
type objects struct {
	packs []*pack
	loose []string // folders called objects
}

// openObjects opens the objects of a repository and of those that it borrows from (objects/info/alternates, as `git clone --shared` and the
// caches of build machines make them). The paths in there are absolute, or relative to the folder objects.
func openObjects(dir string) (*objects, error) {
	o := &objects{}
	seen := map[string]bool{}
	todo := []string{dir}
	for len(todo) > 0 {
		dir := filepath.Clean(todo[0])
		todo = todo[1:]
		if seen[dir] {
			continue
		}
		seen[dir] = true
		if err := o.open(dir); err != nil {
			return nil, errors.Join(err, o.Close())
		}
		text, err := os.ReadFile(filepath.Join(dir, "info", "alternates"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, o.Close())
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimRight(line, "\r\n")
			if line == "" || line[0] == '#' {
				continue
			}
			if !filepath.IsAbs(line) {
				line = filepath.Join(dir, line)
			}
			todo = append(todo, line)
		}
	}
	return o, nil
}

func (o *objects) open(dir string) error {
	o.loose = append(o.loose, dir)
	files, err := filepath.Glob(filepath.Join(escapeGlob(dir), "pack", "*.idx"))
	if err != nil {
		return err
	}
	for _, idx := range files {
		text, err := os.ReadFile(idx)
		if err != nil {
			return err
		}
		f, err := os.Open(strings.TrimSuffix(idx, ".idx") + ".pack")
		if errors.Is(err, fs.ErrNotExist) {
			continue // its pack was repacked meanwhile
		}
		if err != nil {
			return err
		}
		p := newPack(f)
		p.closer = f
		o.packs = append(o.packs, p)
		if err := p.readIndex(text); err != nil {
			return fmt.Errorf("reading %s: %w", filepath.Base(idx), err)
		}
	}
	return nil
}

// escapeGlob makes a path a pattern that matches that path alone.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// Close closes the packs.
func (o *objects) Close() error {
	var errs []error
	for _, p := range o.packs {
		if p.closer != nil {
			errs = append(errs, p.closer.Close())
		}
	}
	return errors.Join(errs...)
}

// object returns an object, whatever it is. The error is [errMissing] when it is nowhere.
func (o *objects) object(id plumbing.Hash) (content, error) {
	for i, p := range o.packs {
		offset, ok := p.find(id)
		if !ok {
			continue
		}
		c, err := p.object(offset)
		if err != nil {
			return c, fmt.Errorf("reading object %s: %w", id, err)
		}
		if i > 0 { // what comes next is likely to be in the same one
			o.packs[0], o.packs[i] = o.packs[i], o.packs[0]
		}
		return c, nil
	}
	for _, dir := range o.loose {
		hex := id.String()
		c, err := readLoose(filepath.Join(dir, hex[:2], hex[2:]))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return c, fmt.Errorf("reading object %s: %w", id, err)
		}
		return c, nil
	}
	return content{}, errMissing
}

// get returns the bytes of an object of a kind. An object of another kind counts as missing.
func (o *objects) get(kind plumbing.ObjectType, id plumbing.Hash) ([]byte, error) {
	c, err := o.object(id)
	if err == nil && c.kind != kind {
		err = errMissing
	}
	return c.data, err
}

// readLoose reads an object that has a file of its own: compressed, "commit 123", a zero byte, the object.
func readLoose(path string) (c content, err error) {
	f, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := zlib.NewReader(bufio.NewReader(f))
	if err != nil {
		return c, err
	}
	raw, err := io.ReadAll(io.LimitReader(z, maxObject))
	if err != nil {
		return c, err
	}
	head, data, ok := bytes.Cut(raw, []byte{0})
	kind, size, _ := strings.Cut(string(head), " ")
	n, nerr := strconv.Atoi(size)
	if c.kind, err = plumbing.ParseObjectType(kind); err != nil || !ok || nerr != nil || n != len(data) && c.kind != plumbing.BlobObject {
		return c, errors.New("the file is damaged")
	}
	c.data = data
	return c, nil
}
