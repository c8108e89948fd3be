package rehearsal

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/deepdesk/cloudbuild-steps/internal/cloudbuild"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/dockerbuilder"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
)

// The repositories of the company, as the example's triggers name them.
const (
	serviceRepo = "example/backend"
	configRepo  = "example/config"
)

var repos = []string{serviceRepo, configRepo}

// What the copied config repo says in place of what only a running company knows.
const (
	noDigest   = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	noBuildTag = "main-0000000-1700000000"
)

// found makes the company as it is before the play begins: release v1.0.0 exists, was built from its commit, and is what every account's
// entry in the config repo says. The push of the config repo is the first event that the triggers see.
func (w *World) found(ctx context.Context) error {
	for _, repo := range repos {
		if _, err := w.git.Create(repo); err != nil {
			return err
		}
	}
	yesterday := time.Now().Add(-24 * time.Hour).Truncate(time.Second)
	tree, err := w.clone(ctx, serviceRepo)
	if err != nil {
		return err
	}
	if err := w.copyExample("backend", tree, w.local); err != nil {
		return err
	}
	for _, args := range [][]string{{"add", "--all"}, {"commit", "--quiet", "--message", "feat: answer requests"}, {"tag", "v1.0.0"}} {
		if _, err := w.runGitAt(ctx, tree, yesterday, args...); err != nil {
			return err
		}
	}
	commit, err := w.runGit(ctx, tree, "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	buildTag := release.BuildTag{Commit: commit[:12], Unix: yesterday.Unix()}.String()
	digest, err := w.pushFirstImage(ctx, tree, "v1.0.0", buildTag)
	if err != nil {
		return err
	}
	if _, err := w.runGit(ctx, tree, "push", "--quiet", "origin", "main", "v1.0.0"); err != nil {
		return err
	}
	// The triggers are set up when the history is there: nothing that came before starts a build.
	if _, err := w.Settle(ctx, 0); err != nil {
		return err
	}
	if err := w.loadTriggers(); err != nil {
		return err
	}

	config, err := w.clone(ctx, configRepo)
	if err != nil {
		return err
	}
	facts := strings.NewReplacer(exampleRegistry, w.registry.Host+"/example-cloud", exampleGit, w.git.URL()+"/example", noDigest, digest, noBuildTag, buildTag)
	if err := w.copyExample("config", config, facts); err != nil {
		return err
	}
	for _, args := range [][]string{{"add", "--all"}, {"commit", "--quiet", "--message", "chore: every account runs v1.0.0"}, {"push", "--quiet", "origin", "main"}} {
		if _, err := w.runGit(ctx, config, args...); err != nil {
			return err
		}
	}
	_, err = w.Settle(ctx, 0)
	return err
}

// clone makes an empty work tree of a repository, on branch main, for the developer's hands.
func (w *World) clone(ctx context.Context, repo string) (string, error) {
	tree := filepath.Join(w.options.Dir, "developer", filepath.Base(repo))
	if err := os.MkdirAll(filepath.Dir(tree), 0o755); err != nil {
		return "", err
	}
	_, err := w.runGit(ctx, w.options.Dir, "clone", "--quiet", w.git.URL()+"/"+repo+".git", tree)
	return tree, err
}

// copyExample copies a folder of examples/, with names replaced.
func (w *World) copyExample(from, to string, replace *strings.Replacer) error {
	root := filepath.Join(w.options.Source, "examples", from)
	return filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), []byte(replace.Replace(string(b))), 0o644)
	})
}

// pushFirstImage builds the service at its first commit, the way main.yaml does, and pushes it under the given tags.
func (w *World) pushFirstImage(ctx context.Context, tree string, tags ...string) (digest string, err error) {
	compile := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", "backend", ".")
	compile.Dir = tree
	compile.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := compile.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compiling the service: %w: %s", err, out)
	}
	store, file := filepath.Join(w.options.Dir, "first-image"), filepath.Join(w.options.Dir, "first-image.tar")
	if err := dockerbuilder.Run(store, []string{"build", "--tag", "backend", tree}, io.Discard); err != nil {
		return "", err
	}
	if err := dockerbuilder.Run(store, []string{"save", "--output", file, "backend"}, io.Discard); err != nil {
		return "", err
	}
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		return "", err
	}
	for _, tag := range tags {
		ref, err := name.NewTag(w.image() + ":" + tag)
		if err != nil {
			return "", err
		}
		if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
			return "", fmt.Errorf("pushing the first image: %w", err)
		}
	}
	hash, err := img.Digest()
	return hash.String(), err
}

// imagePath is the service's repository, below the registry's host.
const imagePath = "example-cloud/services/backend"

// image is the service's repository in this world's registry.
func (w *World) image() string { return w.registry.Host + "/" + imagePath }

// loadTriggers reads the trigger files that users import. Without a cluster, what deploys is left out.
func (w *World) loadTriggers() error {
	files, err := filepath.Glob(filepath.Join(w.options.Source, "examples", "triggers", "*.yaml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no trigger files in examples/triggers (%w)", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		t, err := cloudbuild.ParseTrigger(b)
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(f), err)
		}
		for k, v := range t.Substitutions {
			t.Substitutions[k] = w.local.Replace(v)
		}
		if w.cluster == nil && t.Filename == ".cloudbuild/deploy.yaml" {
			continue
		}
		w.triggers = append(w.triggers, t)
	}
	return nil
}

// Commit makes a commit on the service's main branch as a developer would, and pushes it.
func (w *World) Commit(ctx context.Context, message string, edit func(dir string) error) (string, error) {
	tree := filepath.Join(w.options.Dir, "developer", filepath.Base(serviceRepo))
	if err := edit(tree); err != nil {
		return "", err
	}
	for _, args := range [][]string{{"add", "--all"}, {"commit", "--quiet", "--message", message}, {"push", "--quiet", "origin", "main"}} {
		if _, err := w.runGit(ctx, tree, args...); err != nil {
			return "", err
		}
	}
	return w.runGit(ctx, tree, "rev-parse", "HEAD")
}

// Release tags the tip of the service's main branch, as publishing a GitHub release does.
func (w *World) Release(ctx context.Context, tag string) error {
	tree := filepath.Join(w.options.Dir, "developer", filepath.Base(serviceRepo))
	if _, err := w.runGit(ctx, tree, "tag", tag); err != nil {
		return err
	}
	_, err := w.runGit(ctx, tree, "push", "--quiet", "origin", tag)
	return err
}
