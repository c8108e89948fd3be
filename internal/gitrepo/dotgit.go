package gitrepo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"
)

// errNoRepository says that a folder is in no Git repository.
var errNoRepository = errors.New("not in a Git repository")

// repository is a Git repository on this machine, opened for reading, with work tree or bare, or a linked work tree.
//
// go-git's PlainOpen would refuse what `git sparse-checkout` leaves behind (extensions.worktreeConfig), follow no absolute path to borrowed
// objects, and know no bare repository by a path inside it. The references, the configuration and the list of shallow commits are read by
// go-git's storage; the objects by [objects].
type repository struct {
	*filesystem.Storage // for references, configuration and the list of shallow commits
	objects             *objects
	cfg                 *config.Config
}

// openRepository opens the repository that a folder lies in.
func openRepository(dir string) (*repository, error) {
	gitDir, err := findGitDir(dir)
	if err != nil {
		return nil, err
	}
	common, err := commonDir(gitDir)
	if err != nil {
		return nil, err
	}
	storage := filesystem.NewStorage(dotgit.NewRepositoryFilesystem(osfs.New(gitDir), osfs.New(common)), cache.NewObjectLRU(0))
	cfg, err := storage.Config()
	if err != nil {
		return nil, fmt.Errorf("reading its configuration: %w", err)
	}
	r := &repository{Storage: storage, cfg: cfg}
	if err := r.checkFormat(); err != nil {
		return r, err
	}
	r.objects, err = openObjects(filepath.Join(common, "objects"))
	return r, err
}

// findGitDir goes up from a folder until it meets a folder .git, a file .git that names it (linked work trees, submodules), or the inside
// of a bare repository.
func findGitDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for {
		dot := filepath.Join(dir, ".git")
		switch info, err := os.Stat(dot); {
		case err == nil && info.IsDir():
			return dot, nil
		case err == nil:
			text, err := os.ReadFile(dot)
			if err != nil {
				return "", err
			}
			target, ok := strings.CutPrefix(string(text), "gitdir:")
			if !ok {
				return "", errors.New("its file .git names no folder")
			}
			if target = strings.TrimSpace(target); !filepath.IsAbs(target) {
				target = filepath.Join(dir, target)
			}
			if _, err := os.Stat(target); err != nil { // such as a work tree that was copied without the repository it is linked to
				return "", fmt.Errorf("its file .git leads nowhere: %w", err)
			}
			return target, nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
		if isGitDir(dir) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errNoRepository
		}
		dir = parent
	}
}

// isGitDir applies git's own test (setup.c, is_git_directory).
func isGitDir(dir string) bool {
	for name, folder := range map[string]bool{"HEAD": false, "objects": true, "refs": true} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() != folder {
			return false
		}
	}
	return true
}

// commonDir returns where the objects and references are: for a linked work tree, in the repository that it is linked to.
func commonDir(gitDir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(gitDir, "commondir"))
	if errors.Is(err, fs.ErrNotExist) {
		return gitDir, nil
	}
	if err != nil {
		return "", err
	}
	dir := strings.TrimSpace(string(text))
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(gitDir, dir)
	}
	if _, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("its file commondir leads nowhere: %w", err)
	}
	return dir, nil
}

// FormatError says that a repository is of a kind that this program cannot read, wherever it is read from.
type FormatError struct{ Reason string }

// Error returns the reason.
func (e *FormatError) Error() string { return e.Reason }

func (e *FormatError) history() *HistoryError {
	return &HistoryError{Err: e, Cure: "use a repository that was made with --object-format=sha1", Config: true}
}

var errSHA256 = &FormatError{"the repository names its objects by SHA-256, which this program cannot read: it needs SHA-1, Git's default"}

// checkFormat refuses repositories whose extensions change how references or objects are read (git-config, extensions.*). The others concern
// work trees and partial clones, or are new: then what they change is not known.
func (r *repository) checkFormat() error {
	extensions := r.cfg.Raw.Section("extensions")
	for _, o := range extensions.Options {
		switch strings.ToLower(o.Key) {
		case "objectformat":
			if strings.EqualFold(o.Value, "sha256") {
				return errSHA256
			}
		case "refstorage":
			if !strings.EqualFold(o.Value, "files") {
				return fmt.Errorf("it keeps its references in the format %q, which this program cannot read", o.Value)
			}
		case "worktreeconfig", "partialclone", "preciousobjects", "preciousobjects-v1", "relativeworktrees", "noop", "noop-v1", "compatobjectformat":
		default:
			return fmt.Errorf("it uses the extension %q, which this program does not know", o.Key)
		}
	}
	return nil
}

// lacksFolders reports whether the repository was cloned without folders (--filter=tree:0).
func (r *repository) lacksFolders() bool {
	for _, remote := range r.cfg.Raw.Section("remote").Subsections {
		if strings.HasPrefix(remote.Option("partialclonefilter"), "tree:") {
			return true
		}
	}
	return false
}

// Close closes the files that are open.
func (r *repository) Close() error {
	if r.objects == nil {
		return nil
	}
	return r.objects.Close()
}
