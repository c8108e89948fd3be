package gitrepo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"
)

// errNoCheckout says that neither a folder nor one above it has a .git.
var errNoCheckout = errors.New("not in a Git checkout")

// openCheckout opens the repository of the work tree that a folder lies in, the way gitrepository-layout describes: .git is a folder, or in
// a linked work tree and in a submodule a file that names one; what linked work trees share is in the folder that commondir names.
//
// go-git's own PlainOpen does the same. It is in the package that also links every transport, SSH and its agent among them, into each
// program that can reach it: a megabyte for one call.
func openCheckout(dir string) (*filesystem.Storage, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	dot, err := findDotGit(dir)
	if err != nil {
		return nil, err
	}
	var common billy.Filesystem
	text, err := os.ReadFile(filepath.Join(dot, "commondir"))
	switch {
	case err == nil:
		shared := below(dot, strings.TrimSpace(string(text)))
		if info, err := os.Stat(shared); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("its commondir names %q, which is no folder", shared)
		}
		common = osfs.New(shared)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return filesystem.NewStorage(dotgit.NewRepositoryFilesystem(osfs.New(dot), common), cache.NewObjectLRUDefault()), nil
}

// findDotGit looks for the Git folder of a folder, then of the ones above it.
func findDotGit(dir string) (string, error) {
	for {
		dot := filepath.Join(dir, ".git")
		info, err := os.Stat(dot)
		switch {
		case err == nil && info.IsDir():
			return dot, nil
		case err == nil:
			text, err := os.ReadFile(dot)
			if err != nil {
				return "", err
			}
			line, _, _ := strings.Cut(string(text), "\n")
			target, ok := strings.CutPrefix(line, "gitdir: ")
			if !ok {
				return "", errors.New("its .git is a file that names no folder")
			}
			target = below(dir, strings.TrimSpace(target))
			if info, err := os.Stat(target); err != nil || !info.IsDir() {
				return "", fmt.Errorf("its .git names %q, which is no folder", target)
			}
			return target, nil
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR): // the first folder may be a file
			return "", err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errNoCheckout
		}
		dir = parent
	}
}

// below returns path, seen from dir when it is relative.
func below(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
