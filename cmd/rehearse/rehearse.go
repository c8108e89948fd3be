package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/cloudbuild"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/runner"
)

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitConfig = 2
)

// rehearse is the whole program. All that is wrong before the build starts is the user's to mend: exit code 2.
func rehearse(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, err := parseFlags(args)
	if errors.Is(err, errHelp) {
		_, _ = io.WriteString(stdout, help)
		return exitDone
	}
	out := output{stdout: stdout, stderr: stderr, json: s.json, config: s.config}
	if err != nil {
		out.fault(err)
		return exitConfig
	}
	code, err := s.rehearse(ctx, out)
	if err != nil {
		out.fault(err)
		return exitConfig
	}
	return code
}

func (s settings) rehearse(ctx context.Context, out output) (int, error) {
	text, err := os.ReadFile(s.config)
	if err != nil {
		return 0, fmt.Errorf("reading the build file: %w", err)
	}
	b, err := cloudbuild.Parse(text)
	var faults cloudbuild.Faults
	if s.check && errors.As(err, &faults) {
		return exitConfig, out.checked(nil, faults, nil)
	} else if err != nil {
		return 0, err
	}
	out.warn(b.Warnings)
	switch {
	case s.check:
		return s.checkFile(ctx, out, b)
	case s.list:
		return exitDone, out.list(b, s.substitutions)
	case s.graph:
		return exitDone, out.graph(b)
	}

	dir, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	src := source{dir}
	b, event, err := s.substitute(ctx, out, b, src)
	if err != nil {
		return 0, err
	}
	o := runner.Options{Build: b, Workspace: "/workspace", Path: os.Getenv("PATH"), Secrets: s.secrets, Log: out.log()}
	if o.Only, err = s.only(b); err != nil {
		return 0, err
	}
	if o.Programs, err = programs(s); err != nil {
		return 0, err
	}
	if s.dryRun {
		commands, err := runner.Commands(o)
		if err != nil {
			return 0, err
		}
		return exitDone, out.explain(b, commands)
	}
	return s.run(ctx, out, src, event, o)
}

// checkFile reports all that can be known without running anything.
func (s settings) checkFile(ctx context.Context, out output, b *cloudbuild.Build) (int, error) {
	all, unknown, err := contracts(ctx, s, b)
	if err != nil {
		return 0, err
	}
	faults := b.CheckContracts(all, s.substitutions)

	// What the event and the trigger will give is not known: a word stands for it, so that the rest can be looked at.
	given := map[string]string{}
	for _, k := range b.Undefined() {
		given[k] = "given"
	}
	maps.Copy(given, s.substitutions)
	c, given := s.context(given)
	builtIn := c.BuiltIns()
	for k, v := range builtIn {
		if v == "" {
			builtIn[k] = "given"
		}
	}
	_, err = b.Substitute(cloudbuild.ModeTrigger, cloudbuild.Values{BuiltIn: builtIn, Given: given})
	var inValues cloudbuild.Faults
	if errors.As(err, &inValues) {
		faults = append(faults, inValues...)
	}
	code := exitDone
	if len(faults) > 0 {
		code = exitConfig
	}
	return code, out.checked(b, faults, unknown)
}

// context is what the service would know of this build. The four values that gcloud does not let one set can be set here.
func (s settings) context(substitutions map[string]string) (c cloudbuild.Context, given map[string]string) {
	c = cloudbuild.Context{ProjectID: "rehearsal", ProjectNumber: "1", Location: "global", BuildID: newBuildID(), TriggerName: s.trigger,
		ServiceAccountEmail: "builder@rehearsal.iam.gserviceaccount.com"}
	given = map[string]string{}
	for k, v := range substitutions {
		switch k {
		case "PROJECT_ID":
			c.ProjectID = v
		case "PROJECT_NUMBER":
			c.ProjectNumber = v
		case "LOCATION":
			c.Location = v
		case "BUILD_ID":
			c.BuildID = v
		default:
			given[k] = v
		}
	}
	return c, given
}

// substitute fills in the build, as submitted or as triggered.
func (s settings) substitute(ctx context.Context, out output, b *cloudbuild.Build, src source) (*cloudbuild.Build, cloudbuild.Event, error) {
	c, given := s.context(s.substitutions)
	mode := cloudbuild.ModeSubmit
	if s.trigger != "" {
		mode = cloudbuild.ModeTrigger
		var err error
		if c.Event, err = src.event(ctx, s.trigger, given); err != nil {
			return nil, c.Event, err
		}
		if c.ConfigPath, err = src.pathInRepository(ctx, s.config); err != nil {
			return nil, c.Event, err
		}
	}
	values := cloudbuild.Values{BuiltIn: c.BuiltIns(), Given: given}
	if mode == cloudbuild.ModeTrigger {
		out.undefined(b, values)
	}
	b, err := b.Substitute(mode, values)
	return b, c.Event, err
}

// newBuildID is a random UUID, as the service's ids are.
func newBuildID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// pathInRepository is a file's path from the root of the repository, when it is in it.
func (s source) pathInRepository(ctx context.Context, file string) (string, error) {
	root, err := s.git(ctx, "rev-parse", "--show-toplevel")
	if err != nil {
		return "", err
	}
	if file, err = filepath.Abs(file); err != nil {
		return "", err
	}
	if rel, err := filepath.Rel(root, file); err == nil && !strings.HasPrefix(rel, "..") {
		return filepath.ToSlash(rel), nil
	}
	return "", nil // an inline build has no path either
}

// run makes the workspace and runs the build in it. A failed build leaves its workspace for a look.
func (s settings) run(ctx context.Context, out output, src source, event cloudbuild.Event, o runner.Options) (int, error) {
	folder, err := os.MkdirTemp("", "rehearse-")
	if err != nil {
		return 0, fmt.Errorf("making the workspace: %w", err)
	}
	keep := false
	defer func() {
		if !keep {
			_ = os.RemoveAll(folder)
		}
	}()
	o.Workspace = filepath.Join(folder, "workspace")
	if err := os.Mkdir(o.Workspace, 0o755); err != nil {
		return 0, fmt.Errorf("making the workspace: %w", err)
	}
	if s.trigger != "" {
		err = src.checkOut(ctx, event.Commit, s.shallow, o.Workspace)
	} else {
		err = src.copyTo(ctx, o.Workspace)
	}
	if err != nil {
		return 0, err
	}
	result, err := runner.Run(ctx, o)
	if err != nil {
		return 0, err
	}
	keep = result.Status == runner.Failure || result.Status == runner.Timeout
	if err := out.result(o.Build, result); err != nil {
		return 0, err
	}
	if keep {
		out.note("the workspace is kept in %s", o.Workspace)
	}
	if result.Status != runner.Success {
		return exitFailed, nil
	}
	return exitDone, nil
}
