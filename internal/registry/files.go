package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// directory is an unpacked layout. The file system itself keeps every open inside it.
type directory struct{ root *os.Root }

func openDirectory(name string) (files, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return directory{root}, nil
}

// Close implements io.Closer.
func (d directory) Close() error { return d.root.Close() }

// open refuses links at every step of the path, also those that stay inside.
func (d directory) open(name string) (io.ReadCloser, int64, error) {
	if !fs.ValidPath(name) {
		return nil, 0, &missingError{name, "leads out of the directory"}
	}
	var info fs.FileInfo
	for i := range name + "/" {
		if i < len(name) && name[i] != '/' {
			continue
		}
		var err error
		if info, err = d.root.Lstat(name[:i]); errors.Is(err, fs.ErrNotExist) {
			return nil, 0, &missingError{name, "is missing"}
		} else if err != nil {
			return nil, 0, err
		}
		if i < len(name) && !info.IsDir() {
			return nil, 0, &missingError{name[:i], "is not a directory"}
		}
	}
	if !info.Mode().IsRegular() {
		return nil, 0, &missingError{name, "is not a regular file"}
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// archive is a tar file, read by offset.
type archive struct {
	file    *os.File
	entries map[string]entry
}

type entry struct {
	offset, size int64
	regular      bool
}

const entryLimit = 100_000

// openTar lists the entries of a tar file. It refuses names that lead out of it and names that occur twice, since tools disagree on which of
// two counts.
func openTar(ctx context.Context, name string) (files, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	a := archive{f, map[string]entry{}}
	if err := a.list(ctx); err != nil {
		_ = f.Close()
		return nil, err
	}
	return a, nil
}

func (a archive) list(ctx context.Context) error {
	magic := make([]byte, 4)
	if _, err := a.file.ReadAt(magic, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if bytes.HasPrefix(magic, []byte{0x1f, 0x8b}) || bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return errors.New("it is compressed: want the plain tar file")
	}
	r := tar.NewReader(a.file) // it reads no further than it must, so that the file's position is the entry's
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the tar file: %w", err)
		}
		at, err := a.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name := path.Clean(h.Name)
		if path.IsAbs(h.Name) || name == ".." || strings.HasPrefix(name, "../") {
			return fmt.Errorf("the tar file holds the name %.200q, which leads out of it", h.Name)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if _, twice := a.entries[name]; twice {
			return fmt.Errorf("the tar file holds %.200q twice", name)
		}
		if len(a.entries) == entryLimit {
			return fmt.Errorf("the tar file holds more than %d files", entryLimit)
		}
		a.entries[name] = entry{at, h.Size, h.Typeflag == tar.TypeReg && !sparse(h)}
	}
	if len(a.entries) == 0 {
		return errors.New("it is no tar file, or an empty one")
	}
	return nil
}

// sparse reports whether the entry's bytes in the file are not its content.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// Close implements io.Closer.
func (a archive) Close() error { return a.file.Close() }

func (a archive) open(name string) (io.ReadCloser, int64, error) {
	e, ok := a.entries[path.Clean(name)]
	if !ok {
		return nil, 0, &missingError{name, "is missing"}
	}
	if !e.regular {
		return nil, 0, &missingError{name, "is not a regular file"}
	}
	return io.NopCloser(io.NewSectionReader(a.file, e.offset, e.size)), e.size, nil
}
