package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// The tests in this file hold every step's program to the part of the contract that is the same for all, so that no step can forget it.

func contract(t *testing.T, name string) step.Contract {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary(t, name), "-describe").Output()
	if err != nil {
		t.Fatal(err)
	}
	var c step.Contract
	if err := json.Unmarshal(out, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

type outcome struct {
	code           int
	stdout, stderr string
	dir            string // holds all files that the step could leave
}

// runStep runs a step's program in an empty folder with this environment and nothing else.
func runStep(t *testing.T, name string, env map[string]string) outcome {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"work", "home", "output"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), binary(t, name))
	cmd.Dir = filepath.Join(dir, "work")
	cmd.Env = []string{"HOME=" + filepath.Join(dir, "home"), "TMPDIR=" + dir}
	all := map[string]string{"HANDOVER_DIR": filepath.Join(dir, "release"), "BUILDER_OUTPUT": filepath.Join(dir, "output")}
	for k, v := range env {
		all[k] = v
	}
	for k, v := range all {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	exit, failed := errors.AsType[*exec.ExitError](err)
	if err != nil && !failed {
		t.Fatal(err)
	}
	o := outcome{stdout: stdout.String(), stderr: stderr.String(), dir: dir}
	if failed {
		o.code = exit.ExitCode()
	}
	return o
}

// names fails unless the run ended with exit code 2, nothing on stdout and no hand-over, naming each variable at the start of a line.
func (o outcome) names(t *testing.T, variables []string) {
	t.Helper()
	if o.code != step.ExitConfig || o.stdout != "" {
		t.Errorf("exit code %d, want 2; stdout %q", o.code, o.stdout)
	}
	for _, v := range variables {
		if !strings.Contains(o.stderr, ": error: "+v+" ") {
			t.Errorf("%s is not named:\n%s", v, o.stderr)
		}
	}
	if n := strings.Count(o.stderr, ": fix: "); n != 1 {
		t.Errorf("%d lines of advice, want one:\n%s", n, o.stderr)
	}
	if left, _ := filepath.Glob(filepath.Join(o.dir, "release", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestUnsetAndEmptyVariablesAreAllNamed(t *testing.T) {
	for _, name := range steps(t) {
		t.Run(name, func(t *testing.T) {
			var required []string
			empty := map[string]string{}
			for _, v := range contract(t, name).Variables {
				if v.Required {
					required = append(required, v.Name)
				}
				if v.Name != "HANDOVER_DIR" && v.Name != "BUILDER_OUTPUT" {
					empty[v.Name], empty["_"+v.Name] = "", ""
				}
			}
			// compute-version and merge-back live on what every build has; deploy-helm needs one of three clusters, and one of two sources.
			if len(required) == 0 && name != "compute-version" && name != "deploy-helm" && name != "merge-back" {
				t.Fatal("nothing is required")
			}
			unset := runStep(t, name, nil)
			unset.names(t, required)
			if blank := runStep(t, name, empty); blank.stderr != unset.stderr || blank.code != unset.code {
				t.Errorf("empty variables are not as good as unset ones:\n%s\n%s", blank.stderr, unset.stderr)
			}
		})
	}
}

func TestMalformedVariablesAreAllNamed(t *testing.T) {
	// A text that is no number, no time, no URL, no version, no image, no pattern, no template and no choice.
	const nonsense = "{{*not: a[value}\x7f"
	free := []string{"string", "secret", "list"}
	for _, name := range steps(t) {
		t.Run(name, func(t *testing.T) {
			env := map[string]string{}
			var checked []string
			for _, v := range contract(t, name).Variables {
				if len(v.Choices) > 0 || !slices.Contains(free, v.Type) {
					env[v.Name] = nonsense
					checked = append(checked, v.Name)
				}
			}
			if len(checked) < 4 {
				t.Fatalf("only %v are checked", checked)
			}
			runStep(t, name, env).names(t, checked)
		})
	}
}

func TestConflictingVariablesAreNamed(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"compute-version": {"BRANCH_NAME": "main", "TAG_NAME": "v1.0.0"},
		"tag-image":       {"BRANCH_NAME": "main", "TAG_NAME": "v1.0.0"},
		"gate-uat":        {"CONFIG_REPO": "https://git.example/config.git", "ACCOUNTS": "/etc/accounts.yaml"},
		"bump-config":     {"BRANCH_NAME": "main", "TAG_NAME": "v1.0.0"},
		"deploy-helm":     {"CONFIG_REPO": "https://git.example/config.git", "SOURCE_DIR": "."},
	} {
		t.Run(name, func(t *testing.T) {
			o := runStep(t, name, env)
			if o.code != step.ExitConfig || !strings.Contains(o.stderr, "conflicts with ") {
				t.Errorf("exit code %d: %s", o.code, o.stderr)
			}
			for v := range env {
				if !strings.Contains(o.stderr, v) {
					t.Errorf("%s is not named:\n%s", v, o.stderr)
				}
			}
		})
	}
}

// A secret is put into every variable that takes one, and the step is run into walls: wrong settings, and servers that are not there.
func TestSecretsAppearNowhere(t *testing.T) {
	const canary = "canary-3f9c1d"
	for _, name := range steps(t) {
		t.Run(name, func(t *testing.T) {
			secrets := map[string]string{}
			for _, v := range contract(t, name).Variables {
				if v.Secret {
					secrets[v.Name] = canary + "\n" // as a file of a secret ends
				}
			}
			if len(secrets) == 0 && name != "tag-image" {
				t.Fatal("no secret")
			}
			walls := map[string]map[string]string{
				"nothing else is set": {},
				"servers that are not there": {
					"IMAGE": "127.0.0.1:1/backend", "VERSION": "v1.0.0", "TAG_NAME": "v1.0.0", "BUILD_TAG": "main-0a1b2c3d4e5f-1700000000", "CONFIG_REPO": "http://127.0.0.1:1/config.git",
					"SOURCE_URL": "http://127.0.0.1:1/backend.git", "COMMIT_SHA": strings.Repeat("a", 40), "KUBECONFIG": "kubeconfig", "LOG_LEVEL": "debug",
				},
				"the secret in the wrong place": {
					"IMAGE": "127.0.0.1:1/backend", "VERSION": "v1.0.0", "CONFIG_REPO": "https://x:" + canary + "@git.example/config.git",
					"SOURCE_URL": "https://" + canary + "@git.example/backend.git", "KUBECONFIG": "kubeconfig", "LOG_FORMAT": "json", "LOG_LEVEL": "debug",
				},
			}
			for wall, env := range walls {
				for k, v := range secrets {
					env[k] = v
				}
				o := runStep(t, name, env)
				if strings.Contains(o.stdout+o.stderr, canary) {
					t.Errorf("%s: the secret is printed:\n%s%s", wall, o.stdout, o.stderr)
				}
				err := filepath.WalkDir(o.dir, func(path string, d fs.DirEntry, err error) error {
					if err != nil || !d.Type().IsRegular() {
						return err
					}
					if strings.Contains(readFile(t, path), canary) {
						t.Errorf("%s: the secret is in %s", wall, filepath.Base(path))
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}
