// Package steptest runs testscript files against the real program of a step, and asserts exact exit codes, which testscript alone
// cannot: its `! exec` accepts every failure. Used by the tests of the programs in steps/.
package steptest

import (
	"errors"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// Main lets the test binary act as the named programs, each in a process of its own, and then runs the tests.
func Main(m *testing.M, programs map[string]func()) { testscript.Main(m, programs) }

// Run runs every script in dir. Beside testscript's own commands there is
//
//	exits CODE PROGRAM [ARGS...]
//
// which runs the program and fails unless it exits with exactly that code. setup may be nil; it can start servers and set variables.
func Run(t *testing.T, dir string, setup func(*testscript.Env) error) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Dir:   dir,
		Setup: setup,
		Cmds:  map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGS...]")
	}
	want, err := strconv.Atoi(args[0])
	if err != nil {
		ts.Fatalf("exits: %q is not an exit code", args[0])
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("exits: running %s: %v", args[1], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s exited with %d, want %d", args[1], got, want)
	}
}
