package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/step/steptest"
)

func TestMain(m *testing.M) { steptest.Main(m, map[string]func(){"compute-version": main}) }

const token = "canary-token-5d02"

// TestScripts gives each script a git that knows nothing of this machine and whose commits have one fixed time unless the script sets
// another, and an empty repository behind a token: $BARE on disk, $URL over HTTP. `git ci MESSAGE` makes a commit.
func TestScripts(t *testing.T) {
	steptest.Run(t, "testdata/script", func(env *testscript.Env) error {
		server, err := gitserver.Start(filepath.Join(env.WorkDir, "server"), gitserver.Options{Token: token})
		if err != nil {
			return err
		}
		env.Defer(func() { _ = server.Close() })
		url, err := server.Create("team/backend")
		if err != nil {
			return err
		}
		for _, variable := range [][2]string{
			{"GIT_CONFIG_NOSYSTEM", "1"}, {"GIT_CONFIG_GLOBAL", os.DevNull}, {"GIT_TERMINAL_PROMPT", "0"},
			{"GIT_CONFIG_COUNT", "2"},
			{"GIT_CONFIG_KEY_0", "alias.ci"}, {"GIT_CONFIG_VALUE_0", "commit --quiet --allow-empty --cleanup=verbatim -m"},
			{"GIT_CONFIG_KEY_1", "init.defaultBranch"}, {"GIT_CONFIG_VALUE_1", "main"},
			{"GIT_AUTHOR_NAME", "A"}, {"GIT_AUTHOR_EMAIL", "a@example.com"}, {"GIT_AUTHOR_DATE", "1764000000 +0000"},
			{"GIT_COMMITTER_NAME", "C"}, {"GIT_COMMITTER_EMAIL", "c@example.com"}, {"GIT_COMMITTER_DATE", "1764000000 +0000"},
			{"BARE", server.Dir("team/backend")}, {"NL", "\n"}, {"URL", url}, {"TOKEN", token},
			{"HANDOVER_DIR", filepath.Join(env.WorkDir, ".release")},
		} {
			env.Setenv(variable[0], variable[1])
		}
		return nil
	})
}
