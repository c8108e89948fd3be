package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/step/steptest"
)

func TestMain(m *testing.M) {
	steptest.Main(m, map[string]func(){"bump-config": main, "push": push, "untag": untag})
}

const (
	token = "canary-token-3f90"
	image = "europe-docker.pkg.dev/example-cloud/services/backend"
)

// TestScripts gives each script the example's config repo on a Git server behind a token, a work tree of it in config/, and the server's
// hooks in hooks/. The work tree pushes to the repository's folder, past the server.
func TestScripts(t *testing.T) {
	t.Cleanup(func() {
		if r, err := startRegistry(); err == nil {
			_ = r.Close()
		}
	})
	steptest.Run(t, "testdata/script", func(env *testscript.Env) error {
		if err := addRegistry(env); err != nil {
			return err
		}
		server, err := gitserver.Start(filepath.Join(env.WorkDir, "git"), gitserver.Options{Token: token})
		if err != nil {
			return err
		}
		env.Defer(func() { _ = server.Close() })
		url, err := server.Create("example/config")
		if err != nil {
			return err
		}
		tree := filepath.Join(env.WorkDir, "config")
		if err := os.CopyFS(tree, os.DirFS(filepath.Join("..", "..", "examples", "config"))); err != nil {
			return err
		}
		hooks := filepath.Join(server.Dir("example/config"), "hooks")
		if err := server.Publish("example/config", tree, "Ada"); err != nil {
			return err
		}
		if err := os.MkdirAll(hooks, 0o755); err != nil {
			return err
		}
		for _, e := range gitEnv {
			name, value, _ := bytes.Cut([]byte(e), []byte("="))
			env.Setenv(string(name), string(value))
		}
		env.Setenv("HOOKS", hooks)
		env.Setenv("CONFIG_REPO", url)
		env.Setenv("GIT_TOKEN", token)
		env.Setenv("IMAGE", image)
		env.Setenv("HANDOVER_DIR", filepath.Join(env.WorkDir, ".release"))
		return nil
	})
}

// gitEnv keeps this machine's settings out of git.
var gitEnv = gitserver.Author("Ada")
