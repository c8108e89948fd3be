// Package runner runs a Cloud Build build file on this machine, every step as a plain process.
//
// It exists so that the very YAML that users copy can be run without Google Cloud and without Docker: by the rehearsal, by the template
// tests and by people who type rehearse. Order, environment, log lines and outcome are the service's; only the containers are missing.
// What stands in for them:
//
//   - An image is a program of this machine, by [Options.Programs].
//   - /workspace is a folder that the caller has checked out. Steps start in it (or in their dir below it), and a value of args,
//     entrypoint or env that is /workspace or begins with /workspace/ is rewritten to it. Nothing else is: a program that has /workspace
//     built in finds none. Therefore HANDOVER_DIR, where the suite's steps leave results for each other, is set to .release in the
//     workspace unless the build file sets it.
//   - A step sees nothing of the caller's environment but PATH, and of the world around it what [Options.Surroundings] says. HOME is one
//     fresh folder for the whole build, BUILDER_OUTPUT and TMPDIR are fresh ones per step.
//   - There is no isolation: a step can read and change whatever its user can.
//
// Fields that a process cannot honour (images, volumes, script …) are refused by name. Fields about the service's machines and logs
// (machineType, pool, logsBucket, tags, serviceAccount …) change nothing here and are ignored.
package runner

import (
	"fmt"
	"io"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/cloudbuild"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// A Program stands in for an image: what its ENTRYPOINT would start.
type Program struct {
	Path string   // absolute, or a name to be found in Options.Path
	Args []string // before the step's own
}

// Options say what to run, and where.
type Options struct {
	Build     *cloudbuild.Build // substituted
	Workspace string            // absolute; stands for /workspace, and is changed by the steps
	// Programs by image: the whole name without tag and digest, or its last element alone ("gate-uat").
	Programs map[string]Program
	Path     string // the steps' PATH
	// Surroundings are variables of every step that stand for what surrounds a step in the service without being said in the build file: where
	// the metadata server and Google's APIs are (GCE_METADATA_HOST, CONTAINER_ENDPOINT). The build file goes before them. nil: nothing.
	Surroundings map[string]string
	Secrets      map[string]secret.Text // values for secretEnv, by variable; masked in the log and in outputs
	Log          io.Writer              // the build's log, as the service prints it
	Only         []int                  // steps to run, by index; the others count as done. nil: all
}

// A Command is what one step comes down to.
type Command struct {
	Step    int      // index in the build
	Argv    []string // the program (absolute, relative to Dir, or to be found in PATH) and its arguments
	Dir     string   // absolute; created when it does not exist, as Docker does
	Env     map[string]string
	Secrets []string // variables that are set as well, from Options.Secrets
}

// unsupported fields of a build, and of a step, with the reason why a process cannot honour them.
var (
	unsupported = map[string]string{
		".artifacts":       "artifacts are uploaded by the service",
		".dependencies":    "the workspace is what the caller checked out",
		".images":          "images are pushed by the service, from its Docker daemon",
		".options.volumes": "volumes need containers",
	}
	unsupportedInStep = map[string]string{
		".results": "results are recorded by the service",
		".script":  "a script needs the shell of the step's image",
		".volumes": "volumes need containers",
	}
)

// Commands plans the steps without running anything. The error is of type [cloudbuild.Faults]: all that cannot be run here.
func Commands(o Options) ([]Command, error) {
	var faults cloudbuild.Faults
	fault := func(at, format string, args ...any) {
		faults = append(faults, cloudbuild.Finding{Line: o.Build.Line(at), Path: at, Text: fmt.Sprintf(format, args...)})
	}
	refuse := func(prefix string, fields map[string]string) {
		for _, f := range slices.Sorted(maps.Keys(fields)) {
			if o.Build.Line(prefix+f) > 0 {
				fault(prefix+f, "not supported when steps run as processes: %s", fields[f])
			}
		}
	}
	refuse("", unsupported)
	var commands []Command
	for i, s := range o.Build.Steps {
		if !o.selected(i) {
			continue
		}
		at := fmt.Sprintf(".steps[%d]", i)
		refuse(at, unsupportedInStep)
		program, ok := o.program(s.Name)
		if !ok {
			fault(at+".name", "no program stands for the image %q: known are %s; map it with --image %s=PROGRAM",
				s.Name, strings.Join(slices.Sorted(maps.Keys(o.Programs)), ", "), cloudbuild.ImageBase(s.Name))
		}
		dir, ok := o.dir(s.Dir)
		if !ok {
			fault(at+".dir", "%q lies outside the workspace: not supported when steps run as processes", s.Dir)
		}
		commands = append(commands, Command{Step: i, Argv: o.argv(s, program), Dir: dir, Env: o.env(i), Secrets: o.Build.SecretEnv(i)})
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return commands, nil
}

func (o Options) selected(i int) bool { return o.Only == nil || slices.Contains(o.Only, i) }

// program finds what stands for an image: its whole name is more exact than its last element.
func (o Options) program(image string) (Program, bool) {
	if p, ok := o.Programs[cloudbuild.ImageRepository(image)]; ok {
		return p, true
	}
	p, ok := o.Programs[cloudbuild.ImageBase(image)]
	return p, ok
}

// argv is entrypoint and args as Docker combines them: an entrypoint replaces all that the image would start.
func (o Options) argv(s cloudbuild.Step, p Program) []string {
	argv := append([]string{p.Path}, p.Args...)
	if s.Entrypoint != "" {
		argv = []string{o.inWorkspace(s.Entrypoint)}
	}
	for _, a := range s.Args {
		argv = append(argv, o.inWorkspace(a))
	}
	return argv
}

func (o Options) env(i int) map[string]string {
	env := o.Build.Env(i)
	for k, v := range env {
		env[k] = o.inWorkspace(v)
	}
	for k, v := range o.Surroundings {
		if _, set := env[k]; !set {
			env[k] = v
		}
	}
	_, set := env["HANDOVER_DIR"]
	if _, automapped := env["_HANDOVER_DIR"]; !set && !automapped {
		env["HANDOVER_DIR"] = filepath.Join(o.Workspace, ".release")
	}
	return env
}

// dir is the folder in which a step starts. A container may go anywhere in its own file system; here that would be the user's.
func (o Options) dir(dir string) (string, bool) {
	if !path.IsAbs(dir) {
		dir = path.Join(workspace, dir)
	}
	dir = path.Clean(dir)
	return o.inWorkspace(dir), dir == workspace || strings.HasPrefix(dir, workspace+"/")
}

// workspace is where the service mounts the checkout in every step.
const workspace = "/workspace"

// inWorkspace rewrites a path below /workspace.
func (o Options) inWorkspace(value string) string {
	if rest, ok := strings.CutPrefix(value, workspace); ok && (rest == "" || rest[0] == '/') {
		return o.Workspace + rest
	}
	return value
}
