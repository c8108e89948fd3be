package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deepdesk/cloudbuild-steps/internal/step/steptest"
)

// The scripts run rehearse itself. The programs of the builds are this test binary, too: $BIN is their folder.
func TestMain(m *testing.M) {
	steptest.Main(m, map[string]func(){"rehearse": main, "gate-uat": gate, "say": say, "show": show, "fail": fail})
}

func TestScripts(t *testing.T) {
	steptest.Run(t, filepath.Join("testdata", "script"), func(env *testscript.Env) error {
		bin, _, _ := strings.Cut(env.Getenv("PATH"), string(os.PathListSeparator))
		env.Setenv("BIN", bin)
		env.Setenv("TMPDIR", filepath.Join(env.WorkDir, "tmp"))
		for k, v := range map[string]string{"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.com", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.com"} {
			env.Setenv(k, v)
		}
		return os.Mkdir(filepath.Join(env.WorkDir, "tmp"), 0o755)
	})
}

// gate is a step that describes itself as the steps of the suite do.
func gate() {
	if slices.Equal(os.Args[1:], []string{"-describe"}) {
		fmt.Println(`{"name": "gate-uat", "variables": [
			{"name": "ACCOUNTS", "type": "string", "required": false, "secret": false},
			{"name": "VERSION", "type": "version", "required": true, "secret": false, "from": ["TAG_NAME"]},
			{"name": "ON_EMPTY", "type": "string", "required": false, "secret": false, "choices": ["refuse", "ok"]},
			{"name": "GIT_TOKEN", "type": "secret", "required": false, "secret": true}], "outputs": [], "exit_codes": []}`)
		return
	}
	fmt.Println("the gate is open for", os.Getenv("VERSION"))
	_ = os.WriteFile(filepath.Join(os.Getenv("BUILDER_OUTPUT"), "output"), []byte("open "+os.Getenv("GIT_TOKEN")), 0o644)
}

func say() { fmt.Println(strings.Join(os.Args[1:], " ")) }

// show prints variables of its environment, "KEY=VALUE", or files of the workspace, "file: content".
func show() {
	for _, name := range os.Args[1:] {
		if b, err := os.ReadFile(name); err == nil {
			fmt.Printf("%s: %s\n", name, b)
		} else if v, set := os.LookupEnv(name); set {
			fmt.Printf("%s=%s\n", name, v)
		} else {
			fmt.Printf("%s is not there\n", name)
		}
	}
}

func fail() {
	code, _ := strconv.Atoi(os.Args[1])
	os.Exit(code)
}
