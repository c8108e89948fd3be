package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/ociregistry"
	"github.com/deepdesk/cloudbuild-steps/internal/step/steptest"
)

func TestMain(m *testing.M) { steptest.Main(m, map[string]func(){"gate-uat": main}) }

// startRegistry starts one registry for all scripts; each script has a repository of its own in it. It ends with the test's process.
var startRegistry = sync.OnceValues(func() (*ociregistry.Registry, error) {
	return ociregistry.Start(context.Background(), ociregistry.Options{})
})

const token = "canary-token-71c4"

// TestScripts gives each script an image with two tags and a config repo with the example's inventory, behind a token.
func TestScripts(t *testing.T) {
	steptest.Run(t, "testdata/script", func(env *testscript.Env) error {
		registry, err := startRegistry()
		if err != nil {
			return err
		}
		image := fmt.Sprintf("%s/%s/backend", registry.Host, filepath.Base(env.WorkDir))
		img, err := random.Image(1024, 1)
		if err != nil {
			return err
		}
		digest, err := img.Digest()
		if err != nil {
			return err
		}
		for _, tag := range []string{"v2.0.0-rc.1", "v2.0.0"} {
			ref, err := name.NewTag(image + ":" + tag)
			if err != nil {
				return err
			}
			if err := remote.Write(ref, img); err != nil {
				return err
			}
		}
		git, err := gitserver.Start(filepath.Join(env.WorkDir, "git"), gitserver.Options{Token: token})
		if err != nil {
			return err
		}
		env.Defer(func() { _ = git.Close() })
		url, err := git.Create("example/config")
		if err != nil {
			return err
		}
		inventory, err := os.ReadFile(filepath.Join("..", "..", "examples", "config", "accounts.yaml"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(env.WorkDir, "example.yaml"), inventory, 0o600); err != nil {
			return err
		}
		if err := commit(git.Dir("example/config"), filepath.Join(env.WorkDir, "config"), inventory); err != nil {
			return err
		}
		env.Setenv("IMAGE", image)
		env.Setenv("DIGEST", digest.String())
		env.Setenv("CONFIG_URL", url)
		env.Setenv("TOKEN", token)
		env.Setenv("HANDOVER_DIR", filepath.Join(env.WorkDir, ".release"))
		return nil
	})
}

// commit puts the inventory into the bare repository, through a work tree that is left for the script.
func commit(bare, tree string, inventory []byte) error {
	for _, args := range [][]string{
		{"clone", "--quiet", bare, tree},
		{"-C", tree, "checkout", "--quiet", "-b", "main"},
		{"-C", tree, "add", "accounts.yaml"},
		{"-C", tree, "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "--quiet", "--message", "inventory"},
		{"-C", tree, "push", "--quiet", "origin", "main"},
	} {
		if args[2] == "add" {
			if err := os.WriteFile(filepath.Join(tree, "accounts.yaml"), inventory, 0o600); err != nil {
				return err
			}
		}
		cmd := exec.Command("git", args...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %v: %w: %s", args, err, out)
		}
	}
	return nil
}
