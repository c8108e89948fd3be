// Package step is the frame that every step of the suite runs in.
//
// A step is a small program: it reads a typed In from the environment, decides, makes one outside call and returns a typed Out. The
// frame does the rest, so that all steps behave alike: it looks variables up the way Cloud Build delivers them, reports all faults of
// the configuration in one message, hands the result to later steps through files, turns errors into exit codes, escapes text from
// outside, and describes the step from the very structs that are decoded.
//
// It is the only package that reads the environment, exits, or knows /workspace. Used by the programs in steps/.
package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"time"

	// The images hold no certificate files: roots travel in the binary and are used where the system has none.
	_ "golang.org/x/crypto/x509roots/fallback"
	"golang.org/x/term"
)

// Program is one step: what it is called, what it does, and the function that does it.
//
// In is a struct whose fields carry tags: env (the variable's name), doc, default, required, oneof (allowed words), from (fallbacks:
// an UPPER_CASE variable, or step.field of an earlier step's hand-over). Out is a struct with json tags; a field that also carries an
// env tag is written to <name>.env for shell steps.
type Program[In any, Out Resulter] struct {
	Name    string        // name of the folder, the binary, the image and the hand-over file
	Summary string        // what the step does, one sentence without a full stop
	Doc     string        // Markdown paragraphs for -help and the README
	Timeout time.Duration // default of TIMEOUT
	Run     func(ctx context.Context, b *Build, in In) (Out, error)
}

// Resulter is what a step returns: Result is the one word or short line that it prints on stdout, and may be empty.
type Resulter interface{ Result() string }

// The exit codes of every step. They are part of the contract, since Cloud Build's allowExitCodes can name them.
const (
	ExitDone     = 0 // done, or nothing to do
	ExitFailed   = 1 // an outside system failed
	ExitConfig   = 2 // the configuration is wrong
	ExitRefused  = 3 // refused on purpose
	ExitLostRace = 4 // lost a race against another writer, after retries
)

// world is all that a step gets from outside; tests make their own.
type world struct {
	args           []string
	lookup         func(name string) (string, bool)
	stdout, stderr io.Writer
	workspace      string // where Cloud Build mounts the build's files
	// columns is the width of the terminal that stderr is; nil when it is none.
	columns func() int
}

// Main runs the program in the real world and exits.
func Main[In any, Out Resulter](p Program[In, Out]) {
	noCoreDumps()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	w := world{args: os.Args[1:], lookup: os.LookupEnv, stdout: os.Stdout, stderr: os.Stderr, workspace: "/workspace"}
	if fd := int(os.Stderr.Fd()); term.IsTerminal(fd) && os.Getenv("TERM") != "dumb" {
		w.columns = func() int {
			columns, _, _ := term.GetSize(fd)
			return columns
		}
	}
	code := p.run(ctx, w)
	stop()
	os.Exit(code)
}

// settings are the variables that the frame itself answers to.
type settings struct {
	HandoverDir string        `env:"HANDOVER_DIR" doc:"directory where steps leave results for each other; /workspace/.release when /workspace exists"`
	BuildID     string        `env:"BUILD_ID" doc:"id of the Cloud Build build; a hand-over of another build is not accepted"`
	ProjectID   string        `env:"PROJECT_ID" doc:"project in which the build runs"`
	Location    string        `env:"LOCATION" doc:"region in which the build runs"`
	TriggerName string        `env:"TRIGGER_NAME" doc:"trigger that started the build"`
	DryRun      bool          `env:"DRY_RUN" default:"false" doc:"do everything but the last write, and print the plan"`
	LogFormat   string        `env:"LOG_FORMAT" default:"text" oneof:"text,json" doc:"form of the messages on stderr"`
	LogLevel    string        `env:"LOG_LEVEL" default:"info" oneof:"debug,info,warn,error" doc:"least severity that is printed"`
	Timeout     time.Duration `env:"TIMEOUT" doc:"give up after this time (a Go duration: 90s, 5m), leaving nothing half done"`
	Output      string        `env:"BUILDER_OUTPUT" doc:"directory whose file output Cloud Build keeps with the build"`
}

func (p Program[In, Out]) run(ctx context.Context, w world) (code int) {
	log := newLogger(w.stderr, p.Name, "text", slog.LevelInfo)
	defer func() {
		if v := recover(); v != nil { // the value may hold anything, so only its type is shown
			report(log, fmt.Errorf("internal error: panic with %T at %s", v, panicSite()))
			code = ExitFailed
		}
	}()

	switch flags, err := parseFlags(w.args); {
	case err != nil:
		report(log, Misconfigured("settings are environment variables: "+p.Name+" -help lists them", "%w", err))
		return ExitConfig
	case flags.help:
		fmt.Fprint(w.stdout, p.Contract().Help())
		return ExitDone
	case flags.version:
		fmt.Fprintf(w.stdout, "%s %s\n", p.Name, buildVersion())
		return ExitDone
	case flags.describe != "":
		fmt.Fprint(w.stdout, p.Contract().describe(flags.describe))
		return ExitDone
	}

	b, in, err := p.prepare(w)
	if b != nil && b.Log != nil {
		log = b.Log
	}
	if err != nil {
		report(log, err)
		return exitCode(err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, b.timeout, fmt.Errorf("gave up after TIMEOUT=%s", b.timeout))
	defer cancel()
	out, err := p.Run(ctx, b, in)
	if cause := context.Cause(ctx); err != nil && cause != nil && exitCode(err) == ExitFailed {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	if state := status(err); state != "" {
		if herr := b.handOver(out, state, err); herr != nil {
			report(log, herr)
			return ExitFailed
		}
	}
	if reason := nothingReason(err); reason != "" {
		log.Info("nothing to do: " + reason)
	} else if err != nil {
		report(log, err)
	}
	if state := status(err); state != "" && state != Refused && out.Result() != "" {
		fmt.Fprintln(w.stdout, Printable(out.Result(), 1000))
	}
	return exitCode(err)
}

// prepare reads the environment: first the frame's own settings, then the step's, and reports the faults of both together.
func (p Program[In, Out]) prepare(w world) (*Build, In, error) {
	var (
		set    settings
		in     In
		faults Faults
	)
	d := decoder{lookup: w.lookup, faults: &faults}
	d.decode(reflect.ValueOf(&set).Elem(), map[string]string{"TIMEOUT": p.Timeout.String()})
	if set.Timeout <= 0 && !faults.has("TIMEOUT") {
		faults.Add("TIMEOUT", "must be longer than nothing")
	}
	if set.HandoverDir == "" && isDir(w.workspace) {
		set.HandoverDir = filepath.Join(w.workspace, ".release")
	}
	var level slog.Level
	if level.UnmarshalText([]byte(set.LogLevel)) != nil { // the fault is in the list already
		level = slog.LevelInfo
	}
	var onTerminal *screen
	if w.columns != nil && set.LogFormat == "text" {
		onTerminal = &screen{w: w.stderr, columns: w.columns, now: time.Now}
		w.stderr = onTerminal
	}
	b := &Build{
		ID: set.BuildID, ProjectID: set.ProjectID, Location: set.Location, Trigger: set.TriggerName, DryRun: set.DryRun,
		Log:  newLogger(w.stderr, p.Name, set.LogFormat, level),
		step: p.Name, dir: set.HandoverDir, output: set.Output, timeout: set.Timeout,
		text: textPrinter(w.stderr, p.Name, set.LogFormat), screen: onTerminal,
	}
	d.handover = b.handoverField
	d.decode(reflect.ValueOf(&in).Elem(), nil)
	if c, ok := any(in).(interface{ Check(*Faults) }); ok {
		c.Check(&faults)
	}
	if len(faults.list) > 0 {
		return b, in, &faults
	}
	if err := b.clearHandover(); err != nil {
		return b, in, err
	}
	return b, in, nil
}

// panicSite names the function that panicked, without its arguments, which might be values of the configuration.
func panicSite() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") {
			return fmt.Sprintf("%s (%s:%d)", f.Function, filepath.Base(f.File), f.Line)
		}
		if !more {
			return "an unknown place"
		}
	}
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

type flagSet struct {
	help, version bool
	describe      string // "", "json" or "markdown"
}

// parseFlags reads the three flags by hand: the flag package would answer -help with a text and an exit code of its own.
func parseFlags(args []string) (flagSet, error) {
	var f flagSet
	for _, a := range args {
		switch strings.TrimPrefix(strings.TrimPrefix(a, "-"), "-") {
		case "help", "h":
			f.help = true
		case "version":
			f.version = true
		case "describe", "describe=json":
			f.describe = "json"
		case "describe=markdown":
			f.describe = "markdown"
		default:
			return f, fmt.Errorf("argument %q is not known: want -help, -describe or -version", a)
		}
		if !strings.HasPrefix(a, "-") {
			return f, fmt.Errorf("argument %q is not known: a step takes no arguments", a)
		}
	}
	return f, nil
}

// version is set by the linker (-X) when binaries are built for an image.
var version = "(devel)"

func buildVersion() string {
	return fmt.Sprintf("%s %s %s/%s", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// report prints an error and, where there is advice, the advice. Configuration faults come one a line.
func report(log *slog.Logger, err error) {
	faults, ok := errors.AsType[*Faults](err)
	if !ok {
		var advice []any
		if fix := fixOf(err); fix != "" {
			advice = []any{fixKey, fix}
		}
		log.Error(err.Error(), advice...)
		return
	}
	lines := faults.Lines()
	for _, line := range lines[:len(lines)-1] {
		log.Error(line)
	}
	log.Error(lines[len(lines)-1], fixKey, "set what is named here in the step's env; -help lists every variable")
}
