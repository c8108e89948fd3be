package rehearsal

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/cloudbuild"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/dockerbuilder"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/runner"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// BuildRecord is one build that a trigger started.
type BuildRecord struct {
	ID       string
	Trigger  *cloudbuild.Trigger
	Event    cloudbuild.Event
	Given    map[string]string // substitutions that were named when it was started by hand
	Started  time.Time
	Finished time.Time
	Steps    []StepRecord
	Log      string // path of the build's log
	Err      error  // why it failed; nil when it succeeded
}

// Duration is how long the build took, for people.
func (b *BuildRecord) Duration() string { return seconds(b.Finished.Sub(b.Started)) }

// StepRecord is what came of one step.
type StepRecord struct {
	ID     string
	Took   time.Duration
	Status string // done, nothing, refused of our steps; the service's word for others
	Result string // the values that the step left in its $BUILDER_OUTPUT
}

// Duration is how long the step took, for people.
func (s StepRecord) Duration() string { return seconds(s.Took) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// run is Cloud Build's part: it checks the commit out, fills the build file in, and runs its steps.
func (w *World) run(ctx context.Context, r *BuildRecord) {
	given := ""
	for _, k := range slices.Sorted(maps.Keys(r.Given)) {
		given += " " + k + "=" + r.Given[k]
	}
	w.say("build %s: %s of %s %s%s", r.ID, r.Trigger.Name, r.Event.Ref, short(r.Event.Commit), given)
	r.Err = w.tryRun(ctx, r)
	for _, s := range r.Steps {
		w.say("  %s  %-10s %6s  %s %s", r.ID, s.ID, s.Duration(), s.Status, s.Result)
	}
	if r.Err != nil && r.lastStep().Status == "refused" {
		w.say("  %s  refused by step %s: %s", r.ID, r.lastStep().ID, r.refusal())
	} else if r.Err != nil {
		log, err := os.ReadFile(r.Log)
		if err != nil {
			log = []byte(err.Error())
		}
		w.say("  %s  FAILED: %v; its log:\n%s", r.ID, r.Err, log)
	}
}

// lastStep is the last step that was started.
func (b *BuildRecord) lastStep() StepRecord {
	for i := len(b.Steps) - 1; i >= 0; i-- {
		if b.Steps[i].Status != string(runner.Queued) {
			return b.Steps[i]
		}
	}
	return StepRecord{}
}

// maxRefusal bounds what a scene tells of a refusal, in bytes; the build's log has all of it.
const maxRefusal = 180

// refusal is what the step that refused said, from the build's log.
func (b *BuildRecord) refusal() string {
	log, err := os.ReadFile(b.Log)
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(log)) {
		if _, text, ok := strings.Cut(line, ": error: "); ok {
			if text = strings.TrimSpace(text); len(text) > maxRefusal {
				text = strings.ToValidUTF8(text[:maxRefusal], "") + "…"
			}
			return text
		}
	}
	return "it did not say why"
}

func (w *World) tryRun(ctx context.Context, r *BuildRecord) error {
	home := filepath.Join(w.options.Dir, "builds", r.ID)
	r.Log = home + ".log"
	workspace, err := w.checkOut(ctx, home, r.Event)
	if err != nil {
		return fmt.Errorf("checking out: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(workspace, filepath.FromSlash(r.Trigger.Filename)))
	if err != nil {
		return err
	}
	build, err := cloudbuild.Parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Trigger.Filename, err)
	}
	about := cloudbuild.Context{
		ProjectID: "example-cloud", ProjectNumber: "1", Location: "europe-west1", BuildID: r.ID,
		ServiceAccountEmail: builder, TriggerName: r.Trigger.Name, ConfigPath: r.Trigger.Filename, Event: r.Event,
	}
	given := maps.Clone(r.Trigger.Substitutions)
	maps.Copy(given, r.Given)
	build, err = build.Substitute(cloudbuild.ModeTrigger, cloudbuild.Values{BuiltIn: about.BuiltIns(), Given: given})
	if err != nil {
		return fmt.Errorf("%s: %w", r.Trigger.Filename, err)
	}
	if w.cluster == nil { // nothing can be deployed
		build.Steps = slices.DeleteFunc(build.Steps, func(s cloudbuild.Step) bool { return strings.HasPrefix(path.Base(s.Name), "deploy-helm:") })
	}
	programs, err := w.programs(home)
	if err != nil {
		return err
	}
	log, err := os.Create(r.Log)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	surroundings := map[string]string{"ARTIFACT_REGISTRY_ENDPOINT": w.registry.Endpoint}
	if w.cloud != nil {
		maps.Copy(surroundings, w.cloud.Env())
	}
	result, err := runner.Run(ctx, runner.Options{
		Surroundings: surroundings, Build: build, Workspace: workspace, Programs: programs, Path: os.Getenv("PATH"),
		Secrets: map[string]secret.Text{"GIT_TOKEN": secret.New(w.token)}, Log: log,
	})
	if err != nil {
		return err
	}
	for i, s := range result.Steps {
		r.Steps = append(r.Steps, stepRecord(build.Steps[i].ID, s))
	}
	if result.Status != runner.Success {
		return fmt.Errorf("%s: %s", result.Status, result.Reason)
	}
	return nil
}

// stepRecord reads the JSON that a step of the suite leaves for Cloud Build.
func stepRecord(id string, s runner.StepResult) StepRecord {
	r := StepRecord{ID: id, Took: s.Duration, Status: string(s.Status)}
	var left struct {
		Status string            `json:"status"`
		Values map[string]string `json:"values"`
	}
	if json.NewDecoder(strings.NewReader(s.Output)).Decode(&left) != nil {
		return r // another builder's output, or none
	}
	r.Status = left.Status
	var values []string
	for k, v := range left.Values {
		if commitID.MatchString(v) {
			v = short(v)
		}
		if v != "" && k != "IMAGE" { // the same everywhere, and long
			values = append(values, k+"="+shortDigest(v))
		}
	}
	slices.Sort(values)
	r.Result = strings.Join(values, " ")
	return r
}

// checkOut does what Cloud Build does: one commit, detached, without history, branches and tags.
func (w *World) checkOut(ctx context.Context, home string, e cloudbuild.Event) (string, error) {
	workspace := filepath.Join(home, "workspace")
	if err := os.MkdirAll(workspace, 0o755); err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"init", "--quiet"},
		{"remote", "add", "origin", w.git.URL() + "/" + e.Repo + ".git"},
		{"fetch", "--quiet", "--depth=1", "--no-tags", "origin", e.Commit},
		{"checkout", "--quiet", "FETCH_HEAD"},
	} {
		if _, err := w.runGit(ctx, workspace, args...); err != nil {
			return "", err
		}
	}
	return workspace, nil
}

// programs says which program stands in for which image: the steps' own, this machine's Go, and the stand-in for Docker.
func (w *World) programs(home string) (map[string]runner.Program, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cache, err := goCache(w.ctx)
	if err != nil {
		return nil, err
	}
	programs := map[string]runner.Program{
		// A build's HOME is new each time; with this machine's cache the service is not compiled from scratch in every build.
		"golang": {Path: "env", Args: []string{"GOCACHE=" + cache, "GOFLAGS=-buildvcs=false"}},
		"docker": {Path: self, Args: []string{standIn, filepath.Join(home, "images")}},
	}
	entries, err := os.ReadDir(filepath.Join(w.options.Source, "bin"))
	if err != nil {
		return nil, fmt.Errorf("finding the steps' programs (make binaries builds them): %w", err)
	}
	for _, e := range entries {
		programs[e.Name()] = runner.Program{Path: filepath.Join(w.options.Source, "bin", e.Name())}
	}
	return programs, nil
}

// standIn is the first argument with which the program that plays a rehearsal acts as the Docker builder.
const standIn = "stand-in-for-docker"

// RunStandIn acts as the Docker builder when args (os.Args without the program) ask for it, and reports whether they did. A program that
// plays a rehearsal calls it first, since the rehearsal's builds start that very program.
func RunStandIn(args []string, stdout, stderr io.Writer) (code int, asked bool) {
	if len(args) < 2 || args[0] != standIn {
		return 0, false
	}
	if err := dockerbuilder.Run(args[1], args[2:], stdout); err != nil {
		fmt.Fprintln(stderr, "docker (stand-in): "+err.Error())
		return 1, true
	}
	return 0, true
}

func goCache(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("asking go for its cache: %w", err)
	}
	return string(bytes.TrimSpace(out)), nil
}

var commitID = regexp.MustCompile(`^[0-9a-f]{40}$`)

func short(commit string) string { return commit[:min(12, len(commit))] }
