package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/cloudbuild"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// The steps of the tests are this test binary, started as "runner.test fake VERB …".
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "fake" {
		os.Exit(fake(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func fake(args []string) int {
	switch verb, args := args[0], args[1:]; verb {
	case "exit": // exit CODE
		code, _ := strconv.Atoi(args[0])
		return code
	case "say": // say LINE… on stdout and stderr in turn
		for i, line := range args {
			fmt.Fprintln([]io.Writer{os.Stdout, os.Stderr}[i%2], line)
		}
	case "env": // the environment, the folder and the arguments
		env := os.Environ()
		slices.Sort(env)
		dir, _ := os.Getwd()
		fmt.Println(strings.Join(append(env, "pwd "+dir, "args "+strings.Join(args, " ")), "\n"))
	case "write": // write FILE TEXT; FILE may name variables
		if err := os.WriteFile(os.ExpandEnv(args[0]), []byte(args[1]), 0o644); err != nil {
			fmt.Println(err)
			return 1
		}
	case "cat": // cat FILE
		b, err := os.ReadFile(os.ExpandEnv(args[0]))
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(string(b))
	case "meet": // meet ADDRESS CODE: tell the test that the step runs, wait for its answer, exit
		c, err := net.Dial("tcp", args[0])
		if err != nil {
			fmt.Println(err)
			return 1
		}
		_, _ = c.Read(make([]byte, 1)) // ends when the test closes the connection
		code, _ := strconv.Atoi(args[1])
		return code
	case "leave": // leave ADDRESS OWN [setsid]: start a process that meets at ADDRESS, meet at OWN, and end before it
		self, _ := os.Executable()
		child := exec.Command(self, "fake", "meet", args[0], "0")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: len(args) > 2}
		if err := child.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
		return fake([]string{"meet", args[1], "0"})
	case "die": // kill oneself
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		select {}
	}
	return 0
}

// A build under test.
type testBuild struct {
	Options
	log bytes.Buffer
}

func newBuild(t *testing.T, file string) *testBuild {
	t.Helper()
	parsed, err := cloudbuild.Parse([]byte(file))
	if err != nil {
		t.Fatalf("Parse: %v\n%s", err, file)
	}
	substituted, err := parsed.Substitute(cloudbuild.ModeTrigger, cloudbuild.Values{BuiltIn: map[string]string{"COMMIT_SHA": "abc"}})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := &testBuild{}
	b.Options = Options{Build: substituted, Workspace: t.TempDir(), Programs: map[string]Program{"fake": {Path: self, Args: []string{"fake"}}}, Path: os.Getenv("PATH"), Log: &b.log}
	t.Setenv("TMPDIR", t.TempDir()) // so that a test sees what a build leaves behind
	return b
}

func (b *testBuild) run(t *testing.T) Result {
	t.Helper()
	result, err := Run(t.Context(), b.Options)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "rehearsal-*")); len(left) > 0 {
		t.Errorf("the build left %v behind", left)
	}
	return result
}

func (b *testBuild) lines() []string {
	return strings.Split(strings.TrimSuffix(b.log.String(), "\n"), "\n")
}

func statuses(r Result) []Status {
	var all []Status
	for _, s := range r.Steps {
		all = append(all, s.Status)
	}
	return all
}

func TestTheLogReadsAsTheServices(t *testing.T) {
	for _, test := range []struct {
		name, file string
		want       []string
	}{
		{"of steps with and without an id", "steps: [{name: 'fake:v1', id: first, args: [say, one, two]}, {name: gcr.io/p/fake, args: [exit, '0']}]\n",
			[]string{`Starting Step #0 - "first"`, `Step #0 - "first": one`, `Step #0 - "first": two`, `Finished Step #0 - "first"`, "Starting Step #1", "Finished Step #1", "DONE"}},
		{"of a single step, which has no prefix", "steps: [{name: fake, args: [say, one, '', no newline]}]\n", []string{"one", "", "no newline", "DONE"}},
		{"of a failure", "steps: [{name: 'gcr.io/p/fake:v1', id: a, args: [exit, '3']}, {name: fake, args: [say, never]}]\n",
			[]string{`Starting Step #0 - "a"`, `Finished Step #0 - "a"`, "ERROR", `ERROR: build step 0 "gcr.io/p/fake:v1" failed: step exited with non-zero status: 3`}},
		{"of an allowed failure", "steps: [{name: fake, id: a, args: [exit, '3'], allowFailure: true}, {name: fake, args: [say, still]}]\n",
			[]string{`Starting Step #0 - "a"`, `Finished Step #0 - "a"`, `Step #0 - "a": step exited with non-zero status: 3, which the build file allows`,
				"Starting Step #1", "Step #1: still", "Finished Step #1", "DONE"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBuild(t, test.file)
			b.run(t)
			if diff := cmp.Diff(test.want, b.lines()); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFailuresAndWhatTheBuildFileAllows(t *testing.T) {
	for _, test := range []struct {
		name, step string // the first step, besides its name; a second one follows
		status     Status
		steps      []Status
		code       int
	}{
		{"success", "args: [exit, '0']", Success, []Status{Success, Success}, 0},
		{"a failure ends the build", "args: [exit, '3']", Failure, []Status{Failure, Queued}, 3},
		{"allowFailure", "args: [exit, '3'], allowFailure: true", Success, []Status{Failure, Success}, 3},
		{"an allowed exit code", "args: [exit, '3'], allowExitCodes: [2, 3]", Success, []Status{Failure, Success}, 3},
		{"an exit code that is not allowed, although failure is", "args: [exit, '1'], allowExitCodes: [2, 3], allowFailure: true", Failure, []Status{Failure, Queued}, 1},
		{"a program that a signal ends", "args: [die]", Failure, []Status{Failure, Queued}, 128 + 15},
		{"an entrypoint that does not exist", "entrypoint: /no/such/program", Failure, []Status{Failure, Queued}, 127},
		{"an entrypoint that is not in PATH", "entrypoint: no-such-program", Failure, []Status{Failure, Queued}, 127},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBuild(t, "steps: [{name: fake, "+test.step+"}, {name: fake, args: [exit, '0']}]\n")
			r := b.run(t)
			if r.Status != test.status || r.Steps[0].ExitCode != test.code || (r.Reason == "") != (test.status == Success) {
				t.Errorf("status %s, exit code %d, reason %q; want %s, %d", r.Status, r.Steps[0].ExitCode, r.Reason, test.status, test.code)
			}
			if diff := cmp.Diff(test.steps, statuses(r)); diff != "" {
				t.Errorf("steps (-want +got):\n%s\n%s", diff, b.log.String())
			}
		})
	}
}

func TestAStepSeesTheBuildFilesEnvironmentAndNothingElse(t *testing.T) {
	b := newBuild(t, `
steps:
- name: fake
  args: [env, /workspace/a, not/workspace/a, /workspaces, $$HOME]
  env: [A=/workspace/b, SHA=$COMMIT_SHA, URL=https://h/workspace/]
  secretEnv: [TOKEN]
  dir: sub/dir
- name: fake
  args: [env]
  env: [HANDOVER_DIR=/workspace/mine, HOME=/root]
  dir: /workspace/sub
availableSecrets: {secretManager: [{versionName: v, env: TOKEN}]}
`)
	t.Setenv("LEAK", "leak")
	b.Secrets = map[string]secret.Text{"TOKEN": secret.New("s3cret")}
	b.Surroundings = map[string]string{"GCE_METADATA_HOST": "127.0.0.1:1", "SHA": "the build file goes first"}
	b.run(t)
	var first, second []string
	for _, line := range b.lines() {
		// The build's own folders have names of their own.
		for _, folder := range []string{"HOME=", "BUILDER_OUTPUT=", "TMPDIR="} {
			if name, value, ok := strings.Cut(line, folder); ok && strings.HasPrefix(value, os.TempDir()) {
				line = name + folder + "SCRATCH/" + strings.Join(strings.Split(strings.TrimPrefix(value, os.TempDir()), "/")[2:], "/")
			}
		}
		line = strings.ReplaceAll(line, b.Workspace, "WORKSPACE")
		if text, ok := strings.CutPrefix(line, "Step #0: "); ok {
			first = append(first, text)
		} else if text, ok := strings.CutPrefix(line, "Step #1: "); ok {
			second = append(second, text)
		}
	}
	if diff := cmp.Diff([]string{"A=WORKSPACE/b", "BUILDER_OUTPUT=SCRATCH/0/outputs", "GCE_METADATA_HOST=127.0.0.1:1", "HANDOVER_DIR=WORKSPACE/.release", "HOME=SCRATCH/home", "PATH=" + b.Path, "SHA=abc",
		"TMPDIR=SCRATCH/0/tmp", "TOKEN=[hidden]", "URL=https://h/workspace/", "pwd WORKSPACE/sub/dir", "args WORKSPACE/a not/workspace/a /workspaces $HOME"}, first); diff != "" {
		t.Errorf("first step (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"BUILDER_OUTPUT=SCRATCH/1/outputs", "GCE_METADATA_HOST=127.0.0.1:1", "HANDOVER_DIR=WORKSPACE/mine", "HOME=/root", "PATH=" + b.Path,
		"SHA=the build file goes first",
		"TMPDIR=SCRATCH/1/tmp", "pwd WORKSPACE/sub", "args "}, second); diff != "" {
		t.Errorf("second step (-want +got):\n%s", diff)
	}
}

func TestStepsShareHomeAndWorkspaceButNotOutputs(t *testing.T) {
	b := newBuild(t, `
steps:
- {name: fake, args: [write, $$HOME/.config, from home]}
- {name: fake, args: [write, file, from the workspace]}
- {name: fake, args: [write, $$BUILDER_OUTPUT/output, result of two]}
- {name: fake, args: [cat, $$HOME/.config]}
- {name: fake, args: [cat, /workspace/file]}
- {name: fake, args: [cat, $$BUILDER_OUTPUT/output], allowFailure: true}
`)
	r := b.run(t)
	log := b.log.String()
	if !strings.Contains(log, "Step #3: from home\n") || !strings.Contains(log, "Step #4: from the workspace\n") || r.Steps[5].Status != Failure {
		t.Errorf("log:\n%s", log)
	}
	if r.Steps[2].Output != "result of two" || r.Steps[1].Output != "" {
		t.Errorf("outputs %q and %q", r.Steps[1].Output, r.Steps[2].Output)
	}
}

func TestOutputsAreKeptOfFailedStepsAndCut(t *testing.T) {
	b := newBuild(t, "steps: [{name: fake, args: [write, $$BUILDER_OUTPUT/output, "+strings.Repeat("x", maxOutput+1)+"]}]\n")
	if r := b.run(t); len(r.Steps[0].Output) != maxOutput {
		t.Errorf("output of %d bytes, want %d", len(r.Steps[0].Output), maxOutput)
	}
}

// A meeting lets a test know which steps run, without waiting for a time.
type meeting struct{ net.Listener }

func newMeeting(t *testing.T) meeting {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return meeting{l}
}

// arrive waits until n steps run.
func (m meeting) arrive(t *testing.T, n int) []net.Conn {
	t.Helper()
	var all []net.Conn
	for range n {
		c, err := m.Accept()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// gone waits until the process at the other end is no more.
func gone(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the process lives: %v", err)
	}
}

func TestIndependentStepsRunAtTheSameTimeAndAreWaitedFor(t *testing.T) {
	a, b, joined := newMeeting(t), newMeeting(t), newMeeting(t)
	build := newBuild(t, fmt.Sprintf("steps: [{name: fake, id: a, args: [meet, %q, '0']}, {name: fake, id: b, args: [meet, %q, '0'], waitFor: ['-']}, "+
		"{name: fake, args: [meet, %q, '0'], waitFor: [a, b]}]\n", a.Addr(), b.Addr(), joined.Addr()))
	go func() {
		first, second := a.arrive(t, 1)[0], b.arrive(t, 1)[0] // both run before either may end
		first.Close()
		_ = joined.Listener.(*net.TCPListener).SetDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := joined.Accept(); err == nil {
			t.Error("the third step did not wait for the second")
		}
		_ = joined.Listener.(*net.TCPListener).SetDeadline(time.Time{})
		second.Close()
		joined.arrive(t, 1)[0].Close()
	}()
	if r := build.run(t); r.Status != Success {
		t.Errorf("status %s\n%s", r.Status, build.log.String())
	}
}

func TestTheFirstFailureKillsItsSiblings(t *testing.T) {
	wait, fail := newMeeting(t), newMeeting(t)
	b := newBuild(t, fmt.Sprintf("steps: [{name: fake, args: [meet, %q, '0']}, {name: fake, args: [meet, %q, '5'], waitFor: ['-']}, {name: fake}]\n", wait.Addr(), fail.Addr()))
	waiting := make(chan net.Conn, 1)
	go func() {
		c := wait.arrive(t, 1)[0] // it runs, and is never answered
		fail.arrive(t, 1)[0].Close()
		waiting <- c
	}()
	r := b.run(t)
	gone(t, <-waiting)
	if diff := cmp.Diff([]Status{Cancelled, Failure, Queued}, statuses(r)); diff != "" || r.Status != Failure || r.Steps[0].ExitCode != 128+9 {
		t.Errorf("status %s, exit code %d, steps (-want +got):\n%s", r.Status, r.Steps[0].ExitCode, diff)
	}
}

func TestTimeouts(t *testing.T) {
	for _, test := range []struct {
		name, file string // %s is where to meet
		status     Status
		steps      []Status
		last       string
	}{
		{"of the build: the step stays as it was", "steps: [{name: fake, args: [meet, %q, '0']}, {name: fake, args: [say, never]}]\ntimeout: 0.2s\n",
			Timeout, []Status{Working, Queued}, "ERROR: the build took longer than 200ms"},
		{"of a step", "steps: [{name: fake, args: [meet, %q, '0'], timeout: 0.2s}, {name: fake, args: [say, never]}]\n",
			Failure, []Status{Timeout, Queued}, `ERROR: build step 0 "fake" failed: step took longer than 200ms`},
		{"of a step that may fail", "steps: [{name: fake, args: [meet, %q, '0'], timeout: 0.2s, allowFailure: true}, {name: fake, args: [exit, '0']}]\n",
			Success, []Status{Timeout, Success}, "DONE"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMeeting(t)
			b := newBuild(t, fmt.Sprintf(test.file, m.Addr()))
			r := b.run(t)
			if diff := cmp.Diff(test.steps, statuses(r)); diff != "" || r.Status != test.status {
				t.Errorf("status %s, steps (-want +got):\n%s", r.Status, diff)
			}
			if lines := b.lines(); lines[len(lines)-1] != test.last {
				t.Errorf("log ends with %q, want %q", lines[len(lines)-1], test.last)
			}
		})
	}
}

func TestTheCallerCanEndABuild(t *testing.T) {
	m := newMeeting(t)
	b := newBuild(t, fmt.Sprintf("steps: [{name: fake, args: [meet, %q, '0']}]\n", m.Addr()))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { m.arrive(t, 1); cancel() }()
	r, err := Run(ctx, b.Options)
	if err != nil || r.Status != Cancelled || r.Steps[0].Status != Cancelled {
		t.Errorf("status %s, steps %+v, error %v", r.Status, r.Steps, err)
	}
}

func TestWhatAStepLeavesRunningIsKilled(t *testing.T) {
	left, own := newMeeting(t), newMeeting(t)
	b := newBuild(t, fmt.Sprintf("steps: [{name: fake, args: [leave, %q, %q]}]\n", left.Addr(), own.Addr()))
	process := make(chan net.Conn, 1)
	go func() {
		process <- left.arrive(t, 1)[0]
		own.arrive(t, 1)[0].Close()
	}()
	if r := b.run(t); r.Status != Success {
		t.Errorf("status %s\n%s", r.Status, b.log.String())
	}
	gone(t, <-process)
}

func TestAProcessThatLeftItsGroupDoesNotHoldUpTheBuild(t *testing.T) {
	left, own := newMeeting(t), newMeeting(t)
	b := newBuild(t, fmt.Sprintf("steps: [{name: fake, args: [leave, %q, %q, setsid]}]\n", left.Addr(), own.Addr()))
	process := make(chan net.Conn, 1)
	go func() {
		process <- left.arrive(t, 1)[0]
		own.arrive(t, 1)[0].Close()
	}()
	if r := b.run(t); r.Status != Success {
		t.Errorf("status %s\n%s", r.Status, b.log.String())
	}
	(<-process).Close() // it lives on, and must not outlive the test
}

func TestOnlySomeSteps(t *testing.T) {
	b := newBuild(t, "steps: [{name: fake, args: [say, zero]}, {name: unknown/image}, {name: fake, args: [say, two]}]\n")
	b.Only = []int{0, 2}
	r := b.run(t)
	if diff := cmp.Diff([]Status{Success, Skipped, Success}, statuses(r)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Starting Step #0", "Step #0: zero", "Finished Step #0", "Starting Step #2", "Step #2: two", "Finished Step #2", "DONE"}, b.lines()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestSecretsAreMaskedLineByLine(t *testing.T) {
	b := newBuild(t, "steps: [{name: fake, args: [say, 'a s3cret-longer and s3cret', 'first line', 'x second line y']}, {name: fake, args: [write, $$BUILDER_OUTPUT/output, my s3cret]}]\n")
	b.Secrets = map[string]secret.Text{"A": secret.New("s3cret"), "B": secret.New("s3cret-longer"), "KEY": secret.New("first line\nsecond line\n")}
	r := b.run(t)
	want := []string{"Starting Step #0", "Step #0: a [hidden] and [hidden]", "Step #0: [hidden]", "Step #0: x [hidden] y", "Finished Step #0", "Starting Step #1", "Finished Step #1", "DONE"}
	if diff := cmp.Diff(want, b.lines()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if r.Steps[1].Output != "my [hidden]" {
		t.Errorf("output %q", r.Steps[1].Output)
	}
}

func TestRunRefusesWhatItCannotDo(t *testing.T) {
	b := newBuild(t, `
steps:
- name: gcr.io/p/unknown:v1
  script: echo
  dir: ..
- name: fake
  volumes: [{name: vol, path: /v}]
  dir: /root
- name: fake
  volumes: [{name: vol, path: /v}]
  secretEnv: [TOKEN]
images: [a]
artifacts: {oci: []}
dependencies: [{empty: true}]
options: {volumes: [{name: all, path: /all}], machineType: E2_MEDIUM}
availableSecrets: {secretManager: [{versionName: v, env: TOKEN}]}
`)
	b.Programs["another"] = Program{}
	_, err := Run(t.Context(), b.Options)
	want := []string{
		"line 13: .artifacts: not supported when steps run as processes: artifacts are uploaded by the service",
		"line 14: .dependencies: not supported when steps run as processes: the workspace is what the caller checked out",
		"line 12: .images: not supported when steps run as processes: images are pushed by the service, from its Docker daemon",
		"line 15: .options.volumes: not supported when steps run as processes: volumes need containers",
		"line 4: .steps[0].script: not supported when steps run as processes: a script needs the shell of the step's image",
		`line 3: .steps[0].name: no program stands for the image "gcr.io/p/unknown:v1": known are another, fake; map it with --image unknown=PROGRAM`,
		`line 5: .steps[0].dir: ".." lies outside the workspace: not supported when steps run as processes`,
		"line 7: .steps[1].volumes: not supported when steps run as processes: volumes need containers",
		`line 8: .steps[1].dir: "/root" lies outside the workspace: not supported when steps run as processes`,
		"line 10: .steps[2].volumes: not supported when steps run as processes: volumes need containers",
	}
	if err == nil {
		t.Fatal("Run accepted the build")
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestRunRefusesASecretWithoutAValue(t *testing.T) {
	b := newBuild(t, "steps: [{name: fake, args: [exit, '0'], secretEnv: [TOKEN]}]\navailableSecrets: {secretManager: [{versionName: v, env: TOKEN}]}\n")
	_, err := Run(t.Context(), b.Options)
	if want := "line 1: .steps[0].secretEnv: the secret TOKEN has no value: give it in --secret-file"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestProgramsAreFoundByTheWholeNameFirst(t *testing.T) {
	o := Options{Programs: map[string]Program{"gcr.io/p/git": {Path: "exact"}, "git": {Path: "last"}}}
	for image, want := range map[string]string{"gcr.io/p/git:v1": "exact", "gcr.io/q/git@sha256:00": "last", "git": "last", "localhost:5000/git": "last", "gcr.io/p/gitea": ""} {
		if got, _ := o.program(image); got.Path != want {
			t.Errorf("program(%q) = %q, want %q", image, got.Path, want)
		}
	}
}

func TestCommandsPlanWithoutRunning(t *testing.T) {
	b := newBuild(t, "steps: [{name: fake, entrypoint: bin/tool, args: [a, /workspace/b], dir: sub, env: [A=b], secretEnv: [TOKEN]}]\navailableSecrets: {secretManager: [{versionName: v, env: TOKEN}]}\n")
	got, err := Commands(b.Options)
	want := []Command{{Argv: []string{"bin/tool", "a", b.Workspace + "/b"}, Dir: b.Workspace + "/sub", Secrets: []string{"TOKEN"},
		Env: map[string]string{"A": "b", "HANDOVER_DIR": b.Workspace + "/.release"}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v, commands (-want +got):\n%s", err, diff)
	}
}

func TestLongLinesAreCutNotSplit(t *testing.T) {
	var got []string
	readLines(strings.NewReader("short\n"+strings.Repeat("x", maxLine+10)+"\nlast"), func(s string) { got = append(got, s) })
	if want := []string{"short", strings.Repeat("x", maxLine) + " … (11 bytes cut)", "last"}; !slices.Equal(got, want) {
		t.Errorf("%d lines, the second of %d bytes", len(got), len(got[1]))
	}
}
