package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/cloudbuild"
)

const (
	// defaultTimeout of a build that names none, and maxOutput, what is kept of a step's $BUILDER_OUTPUT/output in bytes: the API's
	// description.
	defaultTimeout = time.Hour
	maxOutput      = 50 << 10
	// noSuchProgram is the exit code that a container runtime gives when it finds no program to start.
	noSuchProgram = 127
)

// A Status is the state of a step or a build, in the service's words.
type Status string

// The states that are possible here.
const (
	Queued    Status = "QUEUED"  // not started, because the build ended before
	Working   Status = "WORKING" // running when the build's time was up
	Success   Status = "SUCCESS"
	Failure   Status = "FAILURE"
	Timeout   Status = "TIMEOUT"
	Cancelled Status = "CANCELLED" // killed, because another step failed or the caller gave up
	Skipped   Status = "SKIPPED"   // not among Options.Only; the service has no such state
)

// A Result is how a build went.
type Result struct {
	Status   Status
	Reason   string // what the last line of the log says; empty for Success
	Steps    []StepResult
	Duration time.Duration
}

// A StepResult is how one step went.
type StepResult struct {
	Status   Status
	ExitCode int    // of a step that ran to its end; 128 + signal when it was killed
	Output   string // the first 50 KB of $BUILDER_OUTPUT/output, kept of failed steps, too
	Duration time.Duration
}

// Run runs a build to its end. The error says why it could not be started (of type [cloudbuild.Faults] when the build file is the
// reason); that a started build failed is part of the result. When ctx ends, all steps are killed and the build is CANCELLED.
func Run(ctx context.Context, o Options) (Result, error) {
	commands, err := Commands(o)
	if err != nil {
		return Result{}, err
	}
	if err := o.haveSecrets(commands); err != nil {
		return Result{}, err
	}
	if fi, err := os.Stat(o.Workspace); err != nil {
		return Result{}, fmt.Errorf("opening the workspace: %w", err)
	} else if !fi.IsDir() || !filepath.IsAbs(o.Workspace) {
		return Result{}, fmt.Errorf("the workspace %q must be a folder, by its absolute path", o.Workspace)
	}
	scratch, err := os.MkdirTemp("", "rehearsal-")
	if err != nil {
		return Result{}, fmt.Errorf("making the build's folders: %w", err)
	}
	defer func() { _ = os.RemoveAll(scratch) }()

	r := &run{Options: o, scratch: scratch, log: newBuildLog(o),
		steps: make([]StepResult, len(o.Build.Steps)), done: make([]chan struct{}, len(o.Build.Steps))}
	return r.build(ctx, commands), nil
}

// haveSecrets checks that every secret of the commands has a value.
func (o Options) haveSecrets(commands []Command) error {
	var faults cloudbuild.Faults
	for _, c := range commands {
		for _, name := range c.Secrets {
			if o.Secrets[name].IsZero() {
				at := fmt.Sprintf(".steps[%d].secretEnv", c.Step)
				faults = append(faults, cloudbuild.Finding{Line: o.Build.Line(at), Path: at,
					Text: fmt.Sprintf("the secret %s has no value: give it in --secret-file", name)})
			}
		}
	}
	if len(faults) > 0 {
		return faults
	}
	return nil
}

// A run is one build on its way.
type run struct {
	Options
	scratch string
	log     *buildLog
	done    []chan struct{} // by step; closed when later steps need not wait for it any longer

	mu    sync.Mutex
	steps []StepResult
}

// errBuildTimeout ends a build whose time is up.
var errBuildTimeout = errors.New("the build's timeout is up")

// build starts every step as soon as the steps it needs are done, and ends all of them when one fails.
func (r *run) build(caller context.Context, commands []Command) Result {
	limit := defaultTimeout
	if r.Build.Timeout > 0 {
		limit = r.Build.Timeout
	}
	timed, stop := context.WithTimeoutCause(caller, limit, errBuildTimeout)
	defer stop()
	ctx, fail := context.WithCancelCause(timed)
	defer fail(nil)

	begun := time.Now()
	for i := range r.done {
		r.done[i] = make(chan struct{})
		r.steps[i].Status = Skipped
	}
	for _, c := range commands {
		r.steps[c.Step].Status = Queued
	}
	var all sync.WaitGroup
	for i, needs := range r.Build.Needs() {
		all.Go(func() {
			for _, j := range needs {
				select {
				case <-r.done[j]:
				case <-ctx.Done():
					return
				}
			}
			if c := slices.IndexFunc(commands, func(c Command) bool { return c.Step == i }); c >= 0 {
				if err := r.step(ctx, commands[c]); err != nil {
					fail(err)
					return
				}
			}
			close(r.done[i])
		})
	}
	all.Wait()

	result := Result{Status: Success, Steps: r.steps, Duration: time.Since(begun)}
	var failed *stepError
	switch cause := context.Cause(ctx); {
	case cause == nil:
	case errors.As(cause, &failed):
		result.Status, result.Reason = Failure, failed.Error()
	case errors.Is(cause, errBuildTimeout):
		result.Status, result.Reason = Timeout, fmt.Sprintf("the build took longer than %v", limit)
	default:
		result.Status, result.Reason = Cancelled, cause.Error()
	}
	r.log.end(result)
	return result
}

// A stepError is the failure of a step that fails its build.
type stepError struct {
	step   int
	image  string
	reason string
}

func (e *stepError) Error() string {
	return fmt.Sprintf("build step %d %q failed: %s", e.step, e.image, e.reason)
}

// step runs one step and records how it went. The error is nil unless the build must end because of it.
func (r *run) step(ctx context.Context, c Command) error {
	if ctx.Err() != nil {
		return nil
	}
	s := r.Build.Steps[c.Step]
	r.record(c.Step, StepResult{Status: Working})
	r.log.starting(c.Step)
	stepCtx, stop := ctx, context.CancelFunc(func() {})
	if s.Timeout > 0 {
		stepCtx, stop = context.WithTimeout(ctx, s.Timeout)
	}
	defer stop()

	begun := time.Now()
	code, killed, output := r.execute(stepCtx, c)
	result := StepResult{Status: Success, ExitCode: code, Output: output, Duration: time.Since(begun)}
	reason := ""
	switch {
	case killed && errors.Is(context.Cause(ctx), errBuildTimeout):
		result.Status = Working
	case killed && ctx.Err() != nil:
		result.Status = Cancelled
	case killed:
		result.Status, reason = Timeout, fmt.Sprintf("step took longer than %v", s.Timeout)
	case code != 0:
		result.Status, reason = Failure, fmt.Sprintf("step exited with non-zero status: %d", code)
	}
	r.record(c.Step, result)
	r.log.finished(c.Step)
	switch {
	case reason == "":
		return nil
	case allowed(s, result):
		r.log.line(c.Step, reason+", which the build file allows")
		return nil
	}
	return &stepError{c.Step, s.Name, reason}
}

// allowed follows the API's description: allowExitCodes, when there, decides alone. A timeout has no exit code.
func allowed(s cloudbuild.Step, r StepResult) bool {
	if len(s.AllowExitCodes) > 0 {
		return r.Status == Failure && slices.Contains(s.AllowExitCodes, r.ExitCode)
	}
	return s.AllowFailure
}

func (r *run) record(step int, result StepResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps[step] = result
}

// execute makes the step's folders, runs its process and collects its output file.
func (r *run) execute(ctx context.Context, c Command) (code int, killed bool, output string) {
	mine := filepath.Join(r.scratch, strconv.Itoa(c.Step))
	env := map[string]string{"PATH": r.Path, "HOME": filepath.Join(r.scratch, "home"),
		"BUILDER_OUTPUT": filepath.Join(mine, "outputs"), "TMPDIR": filepath.Join(mine, "tmp")}
	for _, dir := range []string{c.Dir, env["HOME"], env["BUILDER_OUTPUT"], env["TMPDIR"]} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			r.log.line(c.Step, fmt.Sprintf("making the step's folders: %v", err))
			return noSuchProgram, false, ""
		}
	}
	outputs := env["BUILDER_OUTPUT"]
	maps.Copy(env, c.Env)
	for _, name := range c.Secrets {
		env[name] = r.Secrets[name].Reveal()
	}
	path, err := findProgram(c.Argv[0], c.Dir, env["PATH"])
	if err != nil {
		r.log.line(c.Step, err.Error())
		return noSuchProgram, false, ""
	}
	p := process{path: path, argv: c.Argv, dir: c.Dir, env: env, line: func(text string) { r.log.line(c.Step, text) }}
	code, killed = p.run(ctx)
	return code, killed, r.output(outputs)
}

// output reads what a step left for the service. It is masked before it is cut, since half a secret would not be recognised.
func (r *run) output(folder string) string {
	f, err := os.Open(filepath.Join(folder, "output"))
	if err != nil {
		return "" // most steps leave nothing
	}
	defer func() { _ = f.Close() }()
	b, _ := io.ReadAll(io.LimitReader(f, 2*maxOutput))
	s := r.log.mask(string(b))
	return s[:min(len(s), maxOutput)]
}

// findProgram resolves a program's name as execve in the step's container would: with a slash relative to the step's folder, else in PATH.
func findProgram(name, dir, path string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, nil
	}
	for _, folder := range filepath.SplitList(path) {
		candidate := filepath.Join(folder, name)
		if fi, err := os.Stat(candidate); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("program %q is not in PATH (%s)", name, path)
}
