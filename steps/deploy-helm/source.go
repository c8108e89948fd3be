package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// maxFiles bounds the number of files of a config repo.
const maxFiles = 200_000

// source is one state of the config repo: names and contents of its regular files. Links are left out, so that nothing outside can be
// reached through it.
type source struct {
	names     []string // slash-separated, from the root of the repo, sorted
	read      func(name string) ([]byte, error)
	url       string    // address of the repo; "" for a local folder
	commit    string    // 40 hexadecimal digits; "" when it is not known
	committed time.Time // zero when it is not known
	// tip asks which commit the branch is at now; nil for a local folder.
	tip func(context.Context) (string, error)
}

// has reports whether the repo holds this file.
func (s *source) has(name string) bool {
	_, found := slices.BinarySearch(s.names, name)
	return found
}

// openDir reads a local checkout. Nothing outside dir is reached, whatever links it holds.
func openDir(dir, revision string) (*source, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	s := &source{commit: revision}
	s.read = func(name string) ([]byte, error) {
		f, err := root.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		return io.ReadAll(io.LimitReader(f, maxChart+1))
	}
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case d.Type().IsRegular():
			s.names = append(s.names, name)
		}
		if len(s.names) > maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		return nil
	})
	slices.Sort(s.names)
	return s, err
}

// openSource reads the config repo, from its remote or from a local checkout.
func openSource(_ context.Context, _ *step.Build, in In) (*source, error) {
	s, err := openDir(in.SourceDir, string(in.Revision))
	if err != nil {
		return nil, step.Misconfigured("set SOURCE_DIR to a checkout of the config repo", "reading SOURCE_DIR: %w", err)
	}
	return s, nil
}
