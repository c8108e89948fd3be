package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

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
		tree := filepath.Join(env.WorkDir, "config")
		if err := example(tree, image); err != nil {
			return err
		}
		inventory, err := os.ReadFile(filepath.Join(tree, "accounts.yaml"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(env.WorkDir, "example.yaml"), inventory, 0o600); err != nil {
			return err
		}
		if err := git.Publish("example/config", tree, "Ada"); err != nil {
			return err
		}
		// An onboarding service: it serves the files of service/ to those who have the token.
		onboarding := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer "+token {
				http.Error(w, "who are you, "+r.Header.Get("Authorization"), http.StatusUnauthorized)
				return
			}
			page := r.URL.Query().Get("page_token")
			http.ServeFileFS(w, r, os.DirFS(filepath.Join(env.WorkDir, "service")), path.Join(r.URL.Path[1:], page+".json"))
		}))
		env.Defer(onboarding.Close)
		env.Setenv("SERVICE_URL", onboarding.URL)
		for _, e := range gitEnv {
			name, value, _ := strings.Cut(e, "=")
			env.Setenv(name, value)
		}
		env.Setenv("IMAGE", image)
		env.Setenv("DIGEST", digest.String())
		env.Setenv("CONFIG_URL", url)
		env.Setenv("TOKEN", token)
		env.Setenv("HANDOVER_DIR", filepath.Join(env.WorkDir, ".release"))
		return nil
	})
}

// example copies the example config repo, with the image in the place of its own.
func example(tree, image string) error {
	if err := os.CopyFS(tree, os.DirFS(filepath.Join("..", "..", "examples", "config"))); err != nil {
		return err
	}
	return filepath.WalkDir(tree, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(name, bytes.ReplaceAll(b, []byte("europe-docker.pkg.dev/example-cloud/services/backend"), []byte(image)), 0o600)
	})
}

// gitEnv keeps this machine's settings out of git.
var gitEnv = gitserver.Author("Ada")

// gate runs the program in a process of its own, with these variables and no others.
func gate(t *testing.T, env ...string) (code int, stderr string, usage *syscall.Rusage) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Args, cmd.Env, cmd.Dir, cmd.Stderr = []string{"gate-uat"}, env, t.TempDir(), &text
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			t.Fatal(err)
		}
	}
	return cmd.ProcessState.ExitCode(), text.String(), cmd.ProcessState.SysUsage().(*syscall.Rusage)
}

// Every spelling that is not one v and strict SemVer without build metadata is refused by name, before anything is asked: by a reader that
// is a little kinder, each of these becomes a final version or another version than it says.
func TestSpellingsOfAVersionThatAreRefused(t *testing.T) {
	for i, tt := range []struct{ version, want string }{
		{"2.0.0", `write "v2.0.0"`},
		{"v2", "1 of the three numbers"},
		{"v2.0", "2 of the three numbers"},
		{"v2.0-rc.1", "2 of the three numbers"},
		{"v2.0.0.0", "4 numbers"},
		{"v02.0.0", "leading zero"},
		{"v2.00.0", "leading zero"},
		{"v2.0.0-rc.01", "leading zero"},
		{"v2.0.0+build.5", "build metadata"},
		{"v2.0.0-rc.1+build.5", "build metadata"},
		{"V2.0.0", "capital V"},
		{"vv2.0.0", "more than one v"},
		{"v.2.0.0", "missing a number"},
		{"v2..0", "missing a number"},
		{"v2.0.0-", "empty identifier"},
		{"v2.0.0-rc..1", "empty identifier"},
		{"v2.0.0-rc.1.", "empty identifier"},
		{"v2.0.0-rc_1", "v2.0.0-rc_1"},
		{"v2.0.0rc1", "v2.0.0rc1"},
		{"v2.0.x", `"x"`},
		{"v*", `"*"`},
		{"v2.0.0 ", "white space"},
		{" v2.0.0", "white space"},
		{"v2.0.0\n", "white space"},
		{"v2.0.0\tv1.0.0", "white space"},
		{"v2.0.0\u00a0", "U+00A0"},
		{"v2.0.0\u200b", "U+200B"},
		{"v2.0.0\u2010rc.1", "hyphen"},
		{"v2.0.0\u2011rc.1", "non-breaking hyphen"},
		{"v2.0.0\u2013rc.1", "en dash"},
		{"v2.0.0\u2014rc.1", "em dash"},
		{"v2.0.0\u2212rc.1", "minus sign"},
		{"v2.0.0\uff0drc.1", "full-width hyphen-minus"},
		{"v2.0.0\u00adrc.1", "soft hyphen"},
		{"\u0475" + "2.0.0", "U+0475"},                // izhitsa, which looks like v
		{"v2.0.0-r\u0441.1", "U+0441"},                // Cyrillic es
		{"v\u0662.0.0", "U+0662"},                     // an Arabic-Indic digit
		{"v\uff12.0.0", "U+FF12"},                     // a full-width digit
		{"v2\uff0e0.0", "U+FF0E"},                     // a full-width full stop
		{"v2.0.0\u202e1.cr-", "U+202E"},               // right-to-left override
		{"v2.0.0-rc.1\xff", "outside ASCII"},          // not UTF-8
		{"\ufeffv2.0.0", "U+FEFF"},                    // a byte order mark
		{"$TAG_NAME", "substitution"},                 // that nobody filled in
		{"${_VERSION}", "substitution"},               //
		{"refs/tags/v2.0.0", "slash"},                 //
		{"backend/v2.0.0", "slash"},                   //
		{"latest", "is not a version"},                //
		{"main-deadbeef-1700000000", "not a version"}, // a build tag
		{"v99999999999999999999.0.0", "too large"},
		{"v2.0.0-99999999999999999999", "too large"},
		{"v2.0.0-rc.1/../v2.0.0", "slash"},
		{"v1.0.0-" + strings.Repeat("a", 200), "at most 128"},
		{"-v2.0.0", "is not a version"},
		{"v2,0,0", `"2,0,0"`},
		{"v0x2.0.0", `"0x2"`},
		{"v2e1.0.0", `"2e1"`},
		{"v-2.0.0", "missing a number"},
	} {
		t.Run(tt.version, func(t *testing.T) {
			// The three ways by which a version arrives, in turn: each run is a process of its own.
			for _, name := range []string{"VERSION", "_VERSION", "TAG_NAME"}[i%3 : i%3+1] {
				code, stderr, _ := gate(t, name+"="+tt.version, "IMAGE=127.0.0.1:1/backend", "ACCOUNTS=nowhere.yaml")
				if code != 2 || !strings.Contains(stderr, "gate-uat: error: VERSION ") || !strings.Contains(stderr, tt.want) {
					t.Errorf("%s: exit code %d, want 2 and %q: %s", name, code, tt.want, stderr)
				}
			}
		})
	}
}

// A large inventory is read quickly and in little memory, by the program itself. The freeze windows are not there, so that the run ends after
// the inventory was read.
func TestALargeInventoryNeedsLittle(t *testing.T) {
	const most = 256 << 10 // KiB
	flow := strings.Repeat("a,", 440_000)
	for name, text := range map[string]string{
		"as many values as YAML may have":      "x: [" + flow + "]",
		"as many null values as YAML may have": "x: [" + strings.Repeat("{a,b},", 140_000) + "]",
		"100,000 accounts in JSON":             large(100_000, "[", `{"id":"account-%06d","is_uat":%t,"region":"europe-west1"}`, ",", "]"),
		"100,000 accounts in YAML":             large(100_000, "accounts:\n", "- {id: account-%06d, is_uat: %t, region: europe-west1}\n", "", ""),
		"100,000 accounts in blocks":           large(100_000, "accounts:\n", "- id: account-%06d\n  is_uat: %t\n  region: europe-west1\n", "", ""),
		"the last of 100,000 has a defect":     large(100_000, "[", `{"id":"account-%06d","is_uat":%t}`, ",", `,{"id":"x","is_uat":"true"}]`),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "accounts")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			code, stderr, usage := gate(t, "VERSION=v2.0.0", "IMAGE=127.0.0.1:1/backend", "ACCOUNTS="+file, "FREEZES=nowhere.yaml")
			if want := strings.Contains(text, "x"); want != (code == 3) || !want && !strings.Contains(stderr, "reading nowhere.yaml") {
				t.Errorf("exit code %d: %s", code, stderr)
			}
			cpu := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
			t.Logf("%s of CPU, %d MiB", cpu.Round(time.Millisecond), usage.Maxrss>>10)
			if usage.Maxrss > most {
				t.Errorf("%d MiB of memory", usage.Maxrss>>10)
			}
			if cpu > 2*time.Second { // of CPU: how long that takes depends on what else the machine does
				t.Errorf("%s of CPU", cpu)
			}
		})
	}
}

func large(n int, begin, item, between, end string) string {
	var b strings.Builder
	b.WriteString(begin)
	for i := range n {
		if i > 0 {
			b.WriteString(between)
		}
		fmt.Fprintf(&b, item, i, i%10 == 0)
	}
	b.WriteString(end)
	return b.String()
}
