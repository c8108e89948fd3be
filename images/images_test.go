package images

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/ociregistry"
)

// engine starts a Docker engine for this test and builds all images with it. There is no quiet way round it: where no engine can be had,
// the test fails, unless IMAGES_TEST=off says that this is known.
func engine(t *testing.T) {
	t.Helper()
	state, err := os.MkdirTemp("", "engine-") // short: the path of a socket has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("ENGINE_DIR", state)
	// The engine ends when this pipe is closed: by the cleanup, or by the system when the test is killed.
	end := exec.Command("sh", "-c", "read -r _; ./engine.sh stop; rm -rf \"$ENGINE_DIR\"")
	end.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt of the test is not one of its cleanup
	pipe, err := end.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := end.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = pipe.Close()
		if err := end.Wait(); err != nil {
			t.Errorf("stopping the engine: %v", err)
		}
	})
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "./engine.sh")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("no Docker engine (IMAGES_TEST=off leaves this test out): %v: %s", err, stderr.String())
	}
	t.Setenv("DOCKER_HOST", strings.TrimSpace(string(out)))
	entries, err := os.ReadDir("../steps")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"test"}
	for _, e := range entries {
		args = append(args, e.Name())
	}
	build := exec.CommandContext(t.Context(), "./build.sh", args...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the images: %v: %s", err, out)
	} else if n := strings.Count(string(out), ":test "); n != len(entries) {
		t.Fatalf("%d images for %d steps: %s", n, len(entries), out)
	}
}

type result struct {
	code           int
	stdout, stderr string
}

// run is `docker run --rm` without a network, unless the flags give one.
func run(t *testing.T, flags []string, image string, args ...string) result {
	t.Helper()
	all := append([]string{"run", "--rm"}, flags...)
	if !slices.Contains(flags, "--network") {
		all = append(all, "--network", "none")
	}
	all = append(all, "cloudbuild-steps/"+image+":test")
	cmd := exec.CommandContext(t.Context(), "docker", append(all, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r := result{0, stdout.String(), stderr.String()}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r result) want(t *testing.T, code int, stdout, stderr string) {
	t.Helper()
	if r.code != code || !strings.Contains(r.stdout, stdout) || !strings.Contains(r.stderr, stderr) {
		t.Errorf("exit code %d, want %d\nstdout %q, want %q\nstderr %q, want %q", r.code, code, r.stdout, stdout, r.stderr, stderr)
	}
}

// workspace is a checkout of a repository with a release and a fix since.
func workspace(t *testing.T) (dir, commit string) {
	t.Helper()
	dir = t.TempDir()
	git := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
			"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.com")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "--quiet", "--initial-branch", "main")
	git("commit", "--quiet", "--allow-empty", "--message", "feat: begin")
	git("tag", "v1.42.1")
	git("commit", "--quiet", "--allow-empty", "--message", "fix: mend")
	return dir, git("rev-parse", "HEAD")
}

func TestImages(t *testing.T) {
	if os.Getenv("IMAGES_TEST") == "off" {
		t.Log("IMAGES_TEST=off: the images are not tested")
		return
	}
	engine(t)

	t.Run("every image holds its program and what a program needs", func(t *testing.T) {
		entries, err := os.ReadDir("../steps")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			run(t, nil, e.Name(), "-version").want(t, 0, e.Name()+" ", "")
			run(t, nil, e.Name(), "-help").want(t, 0, "Exit codes:", "")
			run(t, nil, e.Name()).want(t, 2, "", e.Name()+": error: ")
			// Whether /tmp is there and open to all shows when another user makes a file in it, as tag-image does.
			out, err := exec.CommandContext(t.Context(), "docker", "create", "cloudbuild-steps/"+e.Name()+":test").Output()
			if err != nil {
				t.Fatal(err)
			}
			id := strings.TrimSpace(string(out))
			list, err := exec.CommandContext(t.Context(), "sh", "-c", "docker export "+id+" | tar --list --verbose --numeric-owner; docker rm "+id+" >/dev/null").Output()
			if err != nil || !strings.Contains(string(list), "drwxrwxrwt 0/0") {
				t.Errorf("%s has no open /tmp (%v):\n%s", e.Name(), err, list)
			}
		}
	})

	t.Run("the README's command computes a version in a mounted workspace", func(t *testing.T) {
		dir, commit := workspace(t)
		flags := []string{"--volume", dir + ":/workspace", "--workdir", "/workspace", "--env", "BRANCH_NAME=main", "--env", "COMMIT_SHA=" + commit}
		run(t, flags, "compute-version").want(t, 0, "v1.42.2\n", "")
		b, err := os.ReadFile(filepath.Join(dir, ".release", "compute-version.env"))
		if err != nil || !strings.Contains(string(b), "VERSION=v1.42.2\n") || !strings.Contains(string(b), fmt.Sprintf("BUILD_TAG=main-%s-", commit[:12])) {
			t.Errorf("hand-over: %s (%v)", b, err)
		}
	})

	t.Run("another user, no capabilities, a read-only file system", func(t *testing.T) {
		dir, commit := workspace(t)
		flags := []string{"--user", "65532", "--read-only", "--cap-drop", "ALL", "--volume", dir + ":/workspace", "--workdir", "/workspace", "--env", "BRANCH_NAME=main", "--env", "COMMIT_SHA=" + commit}
		r := run(t, flags, "compute-version")
		r.want(t, 2, "", "the hand-over directory /workspace/.release cannot be written by user 65532")
		r.want(t, 2, "", "compute-version: fix: run the image as root")

		if err := os.MkdirAll(filepath.Join(dir, ".release"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(dir, ".release"), 65532, 65532); err != nil {
			t.Fatal(err)
		}
		run(t, flags, "compute-version").want(t, 0, "v1.42.2\n", "")
		if _, err := os.Stat(filepath.Join(dir, ".release", "compute-version.json")); err != nil {
			t.Error(err)
		}
	})

	t.Run("without a workspace there is only stdout", func(t *testing.T) {
		inventory := filepath.Join(t.TempDir(), "accounts.yaml")
		if err := os.WriteFile(inventory, []byte("- {id: maple}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		flags := []string{"--volume", inventory + ":/accounts.yaml", "--env", "ACCOUNTS=/accounts.yaml", "--env", "IMAGE=127.0.0.1:1/backend", "--env", "VERSION=v1.0.0"}
		run(t, flags, "gate-uat").want(t, 1, "", "127.0.0.1:1") // no registry there; the inventory was read
	})

	// What Docker itself saved goes into a real registry and comes back as the same program; then the gate reads the digest there.
	t.Run("a saved image is pushed, pulled and gated", func(t *testing.T) {
		registry, err := ociregistry.Start(t.Context(), ociregistry.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = registry.Close() })
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "accounts.yaml"), []byte("- {id: orchid, is_uat: true}\n- {id: maple}\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		image := registry.Host + "/demo/gate"
		docker(t, "save", "--output", filepath.Join(dir, "image.tar"), "cloudbuild-steps/gate-uat:test")
		if err := os.Chmod(filepath.Join(dir, "image.tar"), 0o644); err != nil {
			t.Fatal(err)
		}
		flags := []string{"--network", "host", "--volume", dir + ":/workspace", "--workdir", "/workspace", "--env", "IMAGE=" + image, "--env", "VERSION=v2.0.0-rc.1"}
		pushed := run(t, append(flags, "--env", "SOURCE=image.tar"), "tag-image")
		pushed.want(t, 0, image+"@sha256:", "tag created")
		reference := strings.TrimSpace(pushed.stdout)
		docker(t, "pull", "--quiet", reference)
		if got := docker(t, "run", "--rm", "--network", "none", reference, "-version"); !strings.HasPrefix(got, "gate-uat ") {
			t.Errorf("the image that was pushed prints %q", got)
		}

		run(t, flags, "gate-uat").want(t, 0, "1\n", "1 allowed, 1 held")
		_, digest, _ := strings.Cut(reference, "@")
		decision, err := os.ReadFile(filepath.Join(dir, ".release", "gate-uat.json"))
		if err != nil || !strings.Contains(string(decision), `"digest": "`+digest+`"`) {
			t.Errorf("decision without digest %s: %s (%v)", digest, decision, err)
		}
		// A refusal: the exit code and the hand-over say so.
		run(t, append(flags, "--env", "MAX_UAT_SHARE=0.1"), "gate-uat").want(t, 3, "", "gate-uat: fix: ")
		if decision, err = os.ReadFile(filepath.Join(dir, ".release", "gate-uat.json")); err != nil || !strings.Contains(string(decision), `"status": "refused"`) {
			t.Errorf("refusal: %s (%v)", decision, err)
		}

		// Both as another user, without capabilities, on a read-only file system, as soon as the hand-over directory is theirs.
		bare := slices.Concat(flags, []string{"--user", "65532", "--read-only", "--cap-drop", "ALL"})
		for _, step := range []string{"tag-image", "gate-uat"} {
			run(t, append(bare, "--env", "SOURCE=image.tar"), step).want(t, 2, "", "cannot be written by user 65532")
		}
		if err := os.Chown(filepath.Join(dir, ".release"), 65532, 65532); err != nil {
			t.Fatal(err)
		}
		run(t, append(bare, "--env", "SOURCE=image.tar"), "tag-image").want(t, 0, reference, "tag kept")
		run(t, bare, "gate-uat").want(t, 0, "1\n", "")
	})
}

// docker runs a command of the client that must succeed.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "docker", args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("docker %v: %s", args, exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
