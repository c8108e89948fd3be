package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/cloudbuild"
)

// A source is the folder in which rehearse was started: what gcloud builds submit would upload, or the repository in which an event
// happens.
type source struct{ dir string }

// git runs this machine's git in the folder and gives its output without the last newline.
func (s source) git(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", s.dir}, args...)...)
	// A hook sets GIT_DIR and its like, which would turn every command here upon the user's own repository.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "GIT_") })
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// event makes the event of --trigger out of the checkout: the current commit, and the branch or tag it stands on. given wins, since a
// detached checkout has no branch and a commit may have no tag yet.
func (s source) event(ctx context.Context, kind string, given map[string]string) (cloudbuild.Event, error) {
	commit, err := s.git(ctx, "rev-parse", "--verify", "HEAD")
	if err != nil {
		return cloudbuild.Event{}, fmt.Errorf("reading the current commit for --trigger: %w", err)
	}
	e := cloudbuild.Event{Commit: commit, Repo: s.repository(ctx)}
	branch := given["BRANCH_NAME"]
	if branch == "" && kind != "release" {
		if branch, err = s.git(ctx, "symbolic-ref", "--quiet", "--short", "HEAD"); err != nil {
			return e, errors.New("no branch is checked out: name one with --substitutions BRANCH_NAME=main")
		}
	}
	switch kind {
	case "main":
		e.Kind, e.Ref = cloudbuild.PushBranch, branch
	case "release":
		e.Kind, e.Ref = cloudbuild.PushTag, given["TAG_NAME"]
		if e.Ref == "" {
			e.Ref, err = s.tag(ctx)
		}
	case "pr":
		e.Kind, e.Ref, e.HeadBranch, e.Number = cloudbuild.PullRequest, s.defaultBranch(ctx), branch, 1
		e.HeadRepoURL, _ = s.git(ctx, "remote", "get-url", "origin")
	}
	return e, err
}

// tag is the one tag on the current commit.
func (s source) tag(ctx context.Context) (string, error) {
	tags, err := s.git(ctx, "tag", "--points-at", "HEAD")
	if err != nil {
		return "", err
	}
	switch all := strings.Fields(tags); len(all) {
	case 1:
		return all[0], nil
	case 0:
		return "", errors.New("no tag stands on the current commit: name one with --substitutions TAG_NAME=v1.0.0")
	default:
		return "", fmt.Errorf("%d tags stand on the current commit (%s): name one with --substitutions TAG_NAME=%s",
			len(all), strings.Join(all, ", "), all[0])
	}
}

// repository is owner/name from the URL of origin, else the name of the folder.
func (s source) repository(ctx context.Context) string {
	url, err := s.git(ctx, "remote", "get-url", "origin")
	if err != nil {
		root, _ := s.git(ctx, "rev-parse", "--show-toplevel")
		return "local/" + filepath.Base(root)
	}
	// https://host/owner/name.git and git@host:owner/name.git
	url = strings.TrimSuffix(strings.TrimSuffix(strings.ReplaceAll(url, ":", "/"), "/"), ".git")
	return path.Base(path.Dir(url)) + "/" + path.Base(url)
}

// defaultBranch is the branch that origin calls its default, else main.
func (s source) defaultBranch(ctx context.Context) string {
	if ref, err := s.git(ctx, "symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD"); err == nil {
		return strings.TrimPrefix(ref, "origin/")
	}
	return "main"
}

// checkOut makes a workspace as a trigger does: a detached checkout of the commit. The service fetches that commit alone (shallow);
// with the whole history all branches and tags are there as well. Its origin is the checkout's own origin, so that a step fetches what
// it would fetch in the service.
func (s source) checkOut(ctx context.Context, commit string, shallow bool, workspace string) error {
	root, err := s.git(ctx, "rev-parse", "--show-toplevel")
	if err != nil {
		return fmt.Errorf("finding the repository: %w", err)
	}
	fetch := []string{"fetch", "--quiet", "--update-shallow", "origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*",
		commit}
	if shallow {
		fetch = []string{"fetch", "--quiet", "--no-tags", "--depth=1", "origin", commit}
	}
	w := source{workspace}
	for _, args := range [][]string{
		{"init", "--quiet"},
		{"remote", "add", "origin", "file://" + root},
		append([]string{"-c", "uploadpack.allowAnySHA1InWant=true"}, fetch...), // the commit of a detached HEAD is on no branch
		{"-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", commit},
	} {
		if _, err := w.git(ctx, args...); err != nil {
			return fmt.Errorf("checking out the current commit: %w", err)
		}
	}
	if url, err := s.git(ctx, "remote", "get-url", "origin"); err == nil {
		_, err = w.git(ctx, "remote", "set-url", "origin", url)
		return err
	}
	return nil
}

// copyTo makes a workspace as gcloud builds submit does: the folder's files, without .git and, in a Git repository, without what it
// ignores. A .gcloudignore file is not read.
func (s source) copyTo(ctx context.Context, workspace string) error {
	names, err := s.files(ctx)
	if err != nil {
		return fmt.Errorf("listing the files to copy: %w", err)
	}
	for _, name := range names {
		if err := copyFile(filepath.Join(s.dir, name), filepath.Join(workspace, name)); err != nil {
			return fmt.Errorf("copying the source: %w", err)
		}
	}
	return nil
}

func (s source) files(ctx context.Context) ([]string, error) {
	if out, err := s.git(ctx, "ls-files", "-z", "--cached", "--others", "--exclude-standard"); err == nil {
		return strings.FieldsFunc(out, func(r rune) bool { return r == 0 }), nil
	}
	var names []string
	err := filepath.WalkDir(s.dir, func(file string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(s.dir, file)
			names = append(names, name)
		}
		return err
	})
	return names, err
}

// copyFile copies a file or a symbolic link. One that is gone, as a tracked file may be, is left out; a submodule is a folder and left
// out, too.
func copyFile(from, to string) error {
	fi, err := os.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && fi.IsDir()) {
		return nil
	} else if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, fi.Mode().Perm())
}
