package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	k8syaml "sigs.k8s.io/yaml"

	"github.com/deepdesk/cloudbuild-steps/internal/github"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// maxFiles bounds the number of files of a config repo.
const maxFiles = 200_000

// source is one state of the config repo: names and contents of its regular files. Links are left out, so that nothing outside can be
// reached through it.
type source struct {
	names     []string // slash-separated, from the root of the repo, sorted
	links     []string // what would be files if links were followed
	unread    []string // why there may be more HelmReleases than were found
	read      func(name string) ([]byte, error)
	url       string    // address of the repo; "" for a local folder
	commit    string    // 40 hexadecimal digits; "" when it is not known
	committed time.Time // zero when it is not known
	// tip asks which commit the branch is at now; nil for a local folder.
	tip func(context.Context) (string, error)

	findCharts sync.Once
	charts     map[string]bool // folders that hold one; see inChart
}

// has reports whether the repo holds this file.
func (s *source) has(name string) bool {
	_, found := slices.BinarySearch(s.names, name)
	return found
}

// manifest is the file that holds a certain object, "" when there is none. It is asked only for the sake of an error's text.
func (s *source) manifest(kind, namespace, name string) string {
	for _, file := range s.names {
		if !isYAML(file) {
			continue
		}
		text, err := s.read(file)
		if err != nil || len(text) > maxManifest || !bytes.Contains(text, []byte(name)) {
			continue
		}
		for doc, err := range documents(text) {
			if err != nil {
				break
			}
			var o struct {
				Kind     string
				Metadata struct{ Name, Namespace string }
			}
			if k8syaml.Unmarshal(doc, &o) == nil && o.Kind == kind && o.Metadata.Name == name && (o.Metadata.Namespace == namespace || o.Metadata.Namespace == "") {
				return file
			}
		}
	}
	return ""
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
		case d.Type()&fs.ModeSymlink != 0:
			s.links = append(s.links, name)
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
func openSource(ctx context.Context, b *step.Build, in In) (*source, error) {
	var s *source
	var err error
	if in.SourceDir != "" {
		if s, err = openDir(in.SourceDir, string(in.Revision)); err != nil {
			err = step.Misconfigured("set SOURCE_DIR to a checkout of the config repo", "reading SOURCE_DIR: %w", err)
		}
	} else {
		s, err = openRemote(ctx, b, in)
	}
	if err != nil {
		return nil, err
	}
	if len(s.links) > 0 {
		b.Log.Warn("links are never followed, so these files are left out: " + strings.Join(s.links, ", "))
	}
	return s, nil
}

// openRemote reads the newest commit of the branch, without a checkout.
func openRemote(ctx context.Context, b *step.Build, in In) (*source, error) {
	remote := gitrepo.Remote{URL: in.ConfigURL.String(), Username: in.GitUsername, Token: in.GitToken, Renew: github.App(in.GitHubApp).Tokens(github.ReadContents)}
	snapshot, err := gitrepo.Open(ctx, remote, in.ConfigBranch)
	if err != nil {
		return nil, err
	}
	b.Log.Info("read the config repo", "commit", snapshot.Commit, "branch", in.ConfigBranch)
	if in.Revision != "" && string(in.Revision) != snapshot.Commit {
		b.Log.Warn(fmt.Sprintf("the branch %s has moved on from %s, whose push started this build: what is newest is deployed", in.ConfigBranch, in.Revision))
	}
	files := map[string]gitrepo.File{}
	s := &source{url: remote.URL, commit: snapshot.Commit, committed: snapshot.When}
	s.read = func(name string) ([]byte, error) {
		if f, ok := files[name]; ok {
			return f.Read()
		}
		return nil, fmt.Errorf("there is no file %s", name)
	}
	s.tip = func(ctx context.Context) (string, error) { return gitrepo.Tip(ctx, remote, in.ConfigBranch) }
	err = snapshot.Walk(func(f gitrepo.File) error {
		switch {
		case f.Mode.IsRegular():
			s.names = append(s.names, f.Path)
			files[f.Path] = f
		case f.Mode == gitrepo.Symlink:
			s.links = append(s.links, f.Path)
		}
		return nil
	})
	slices.Sort(s.names)
	return s, err
}
