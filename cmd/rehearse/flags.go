package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/cloudbuild"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

const help = `rehearse runs a Cloud Build build file on this machine, every step as a process.

usage: rehearse [flags] CONFIG.yaml
       rehearse play       the whole workflow of this suite, on real servers (rehearse play -help)
       rehearse cluster    a Kubernetes control plane on loopback, until Ctrl-C

Run it where the build's source is. Without --trigger the build runs as gcloud builds submit
would run it: on a copy of the current folder without .git, with the substitutions of the file
and of --substitutions, all of which must match. With --trigger it runs as a trigger would: on a
checkout of the current commit, with the built-in substitutions of that event.

what to do (default: run the build)
  --list               list the steps, what each waits for, and what substitutions must be given
  --graph              show which steps can run at the same time
  --dry-run            show the program, folder and environment of each step, and run nothing
  --check              check the file, and the environment of each step against what its program
                       declares with -describe

the build
  --substitutions K=V,…
                       user substitutions (_KEY) or built-in ones; may stand several times;
                       ^:^K=V:K=V takes another separator, as with gcloud
  --trigger EVENT      main: a push to the current branch; release: the tag on the current commit;
                       pr: a pull request of the current branch
  --shallow            with --trigger: check out the commit alone, without history, branches and
                       tags, as the service does
  --secret-file FILE   values for secretEnv, a line KEY=VALUE each; masked in all output
  --step ID            only this step, by its id or its number in --list; it finds no results of
                       earlier steps
  --from ID, --until ID
                       only from this step on, or up to this one, in the order of the file

the machine
  --bin DIR            programs that stand for the images of the same name
                       (default: the folder of rehearse itself)
  --image NAME=PROGRAM another program for an image, which is given by its whole name or its last
                       element (golang=go); may stand several times
  --runtime process    how steps run; docker is not in this version
  --json               results as JSON on stdout; the build's log goes to stderr

A step sees nothing of your environment but PATH. /workspace is a fresh folder, removed afterwards
unless the build fails: values that begin with /workspace/ in args, entrypoint and env are
rewritten to it, and HANDOVER_DIR is set to .release in it. Steps are not isolated from your
machine.

Exit codes: 0 the build succeeded, or the file is right; 1 the build failed; 2 the file or the
command line is wrong.

examples:
  rehearse --check .cloudbuild/main.yaml
  rehearse --trigger main --substitutions _IMAGE=localhost:5000/backend --image golang=go .cloudbuild/main.yaml
  rehearse --trigger release --dry-run --step gate .cloudbuild/release.yaml
`

// settings is the command line.
type settings struct {
	config                     string
	list, graph, dryRun, check bool
	substitutions              map[string]string
	trigger                    string
	shallow                    bool
	secrets                    map[string]secret.Text
	step, from, until          string
	bin                        string
	images                     map[string]string
	runtime                    string
	json                       bool
}

// errHelp asks for the help text, which is no mistake.
var errHelp = flag.ErrHelp

// parseFlags reads the command line. Flags may stand before and after the file.
func parseFlags(args []string) (settings, error) {
	s := settings{substitutions: map[string]string{}, images: map[string]string{}, secrets: map[string]secret.Text{}}
	flags := flag.NewFlagSet("rehearse", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolVar(&s.list, "list", false, "")
	flags.BoolVar(&s.graph, "graph", false, "")
	flags.BoolVar(&s.dryRun, "dry-run", false, "")
	flags.BoolVar(&s.check, "check", false, "")
	flags.Func("substitutions", "", s.addSubstitutions)
	flags.StringVar(&s.trigger, "trigger", "", "")
	flags.BoolVar(&s.shallow, "shallow", false, "")
	flags.Func("secret-file", "", s.addSecrets)
	flags.StringVar(&s.step, "step", "", "")
	flags.StringVar(&s.from, "from", "", "")
	flags.StringVar(&s.until, "until", "", "")
	flags.StringVar(&s.bin, "bin", "", "")
	flags.Func("image", "", s.addImage)
	flags.StringVar(&s.runtime, "runtime", "process", "")
	flags.BoolVar(&s.json, "json", false, "")

	var files []string
	for {
		if err := flags.Parse(args); err != nil {
			return s, err
		}
		if flags.NArg() == 0 {
			break
		}
		files, args = append(files, flags.Arg(0)), flags.Args()[1:]
	}
	if len(files) != 1 {
		return s, fmt.Errorf("want one build file, got %d (rehearse -help shows how)", len(files))
	}
	s.config = files[0]
	return s, s.conflicts()
}

func (s settings) conflicts() error {
	modes := 0
	for _, on := range []bool{s.list, s.graph, s.dryRun, s.check} {
		if on {
			modes++
		}
	}
	switch {
	case modes > 1:
		return errors.New("--list, --graph, --dry-run and --check exclude each other")
	case s.step != "" && (s.from != "" || s.until != ""):
		return errors.New("--step excludes --from and --until")
	case !slices.Contains([]string{"", "main", "release", "pr"}, s.trigger):
		return fmt.Errorf("--trigger %s: want main, release or pr", s.trigger)
	case s.shallow && s.trigger == "":
		return errors.New("--shallow needs --trigger: only a trigger checks a commit out")
	case s.runtime == "docker":
		return errors.New("--runtime docker is not in this version: use --runtime process")
	case s.runtime != "process":
		return fmt.Errorf("--runtime %s: want process", s.runtime)
	}
	return nil
}

// addSubstitutions takes K=V,K=V, or ^DELIMITER^K=V… as gcloud does where a value holds a comma.
func (s settings) addSubstitutions(list string) error {
	delimiter := ","
	if rest, ok := strings.CutPrefix(list, "^"); ok {
		if delimiter, list, ok = strings.Cut(rest, "^"); !ok || delimiter == "" {
			return errors.New("want ^DELIMITER^KEY=VALUE")
		}
	}
	for pair := range strings.SplitSeq(list, delimiter) {
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("%q is not KEY=VALUE", pair)
		}
		s.substitutions[k] = v
	}
	return nil
}

// addSecrets reads a file of KEY=VALUE lines; empty lines and those that begin with # do not count. Its errors never hold a value.
func (s settings) addSecrets(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	number := 0
	for line := range strings.Lines(string(b)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok {
			return fmt.Errorf("line %d is not KEY=VALUE", number)
		}
		s.secrets[strings.TrimSpace(k)] = secret.New(v)
	}
	return nil
}

func (s settings) addImage(pair string) error {
	name, program, ok := strings.Cut(pair, "=")
	if !ok || name == "" || program == "" {
		return errors.New("want NAME=PROGRAM")
	}
	s.images[cloudbuild.ImageRepository(name)] = program
	return nil
}

// only turns --step, --from and --until into the steps to run; nil means all.
func (s settings) only(b *cloudbuild.Build) ([]int, error) {
	if s.step == "" && s.from == "" && s.until == "" {
		return nil, nil
	}
	first, last := 0, len(b.Steps)-1
	for _, limit := range []struct {
		id string
		to []*int
	}{{s.step, []*int{&first, &last}}, {s.from, []*int{&first}}, {s.until, []*int{&last}}} {
		if limit.id == "" {
			continue
		}
		i, err := findStep(b, limit.id)
		if err != nil {
			return nil, err
		}
		for _, to := range limit.to {
			*to = i
		}
	}
	if first > last {
		return nil, fmt.Errorf("step %q stands after step %q", s.from, s.until)
	}
	var only []int
	for i := first; i <= last; i++ {
		only = append(only, i)
	}
	return only, nil
}

// findStep finds a step by its id, or else by its number.
func findStep(b *cloudbuild.Build, id string) (int, error) {
	names := map[string]int{}
	for i := range b.Steps {
		names[fmt.Sprint(i)] = i
	}
	for i, step := range b.Steps {
		if step.ID != "" {
			names[step.ID] = i
		}
	}
	if i, ok := names[id]; ok {
		return i, nil
	}
	return 0, fmt.Errorf("no step has the id %q: there are %s", id, strings.Join(slices.Sorted(maps.Keys(names)), ", "))
}
