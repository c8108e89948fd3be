// Package cloudbuild reads Cloud Build's build files and trigger files the way the service does: what is accepted and what is not,
// which substitution ends up where, which step waits for which, and what environment a step sees.
//
// It exists because nothing else does: Google's local builder is archived and rejects a third of today's files, no Go YAML package
// reads plain scalars as gcloud does, and the API's Go types lack fields in use. The rehearsal runs builds with it, rehearse -check and
// the template tests find with it, before production, what the service would only report there or (with ALLOW_LOOSE) never.
//
// The package is pure: text in, values out. Sources of its rules: the API's discovery document, gcloud's and the archived local
// builder's code. Where nobody could verify what the service does, the comment of the function says which way was chosen.
package cloudbuild

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Build is a build file. It comes from [Parse], with the text of the file, or from [Build.Substitute], with the values filled in.
type Build struct {
	Steps            []Step            `yaml:"steps"`
	Timeout          time.Duration     `yaml:"timeout"` // 0: the service's default, 60 minutes
	Images           []string          `yaml:"images"`
	Substitutions    map[string]string `yaml:"substitutions"`
	Options          Options           `yaml:"options"`
	Secrets          []KMSSecret       `yaml:"secrets"`
	AvailableSecrets AvailableSecrets  `yaml:"availableSecrets"`
	ServiceAccount   string            `yaml:"serviceAccount"`
	LogsBucket       string            `yaml:"logsBucket"`

	// Warnings are places that the service reads, but perhaps not as meant.
	Warnings []Finding `yaml:"-"`

	builtIns map[string]string // the values of the built-in substitutions, once substituted
	document document
}

// A Step is one build step.
type Step struct {
	ID                   string        `yaml:"id"`   // empty when the file gives none
	Name                 string        `yaml:"name"` // the builder image
	Entrypoint           string        `yaml:"entrypoint"`
	Args                 []string      `yaml:"args"`
	Script               string        `yaml:"script"`
	Env                  []string      `yaml:"env"` // KEY=VALUE
	SecretEnv            []string      `yaml:"secretEnv"`
	Dir                  string        `yaml:"dir"`
	WaitFor              []string      `yaml:"waitFor"`
	Timeout              time.Duration `yaml:"timeout"` // 0: none of its own
	AllowFailure         bool          `yaml:"allowFailure"`
	AllowExitCodes       []int         `yaml:"allowExitCodes"`
	AutomapSubstitutions *bool         `yaml:"automapSubstitutions"` // nil: as the build's options say
	Volumes              []Volume      `yaml:"volumes"`
}

// Options are the settings of a build that this package acts on.
type Options struct {
	Env                       []string `yaml:"env"`
	SecretEnv                 []string `yaml:"secretEnv"`
	Volumes                   []Volume `yaml:"volumes"`
	SubstitutionOption        string   `yaml:"substitutionOption"`
	DynamicSubstitutions      bool     `yaml:"dynamicSubstitutions"`
	AutomapSubstitutions      bool     `yaml:"automapSubstitutions"`
	Logging                   string   `yaml:"logging"`
	DefaultLogsBucketBehavior string   `yaml:"defaultLogsBucketBehavior"`
}

// A Volume is a Docker volume that steps share.
type Volume struct {
	Name string `yaml:"name"`
	Path string `yaml:"path"`
}

// A KMSSecret holds values encrypted with a key of Cloud KMS, by variable.
type KMSSecret struct {
	KMSKeyName string            `yaml:"kmsKeyName"`
	SecretEnv  map[string]string `yaml:"secretEnv"`
}

// AvailableSecrets names the secrets that steps may use.
type AvailableSecrets struct {
	SecretManager []struct {
		VersionName string `yaml:"versionName"`
		Env         string `yaml:"env"`
	} `yaml:"secretManager"`
	Inline []struct {
		KMSKeyName string            `yaml:"kmsKeyName"`
		EnvMap     map[string]string `yaml:"envMap"`
	} `yaml:"inline"`
}

// Parse reads a build file, YAML or JSON, and checks all that gcloud and the service check before a build starts. The error is of type
// [Faults].
//
// Fields that the service has and [Build] has not (machine types, artifacts to upload) are checked against the schema; [Build.Line]
// tells whether the file holds them.
func Parse(data []byte) (*Build, error) {
	d, r := read(data, "Build")
	b := &Build{Warnings: r.warnings, document: d}
	if d.root == nil {
		return nil, r.faults.err()
	}
	if err := d.root.Decode(b); err != nil {
		return nil, fmt.Errorf("decoding the checked file: %w", err)
	}
	c := checker{b, r}
	c.check()
	if err := r.faults.err(); err != nil {
		return nil, err
	}
	return b, nil
}

// Line is the line on which the file holds a field, by gcloud's path (".artifacts.npmPackages", ".steps[2].script"), or 0 when it does
// not hold it.
func (b *Build) Line(path string) int { return b.document.lines[path] }

// StepLabel names a step as the service's log does: `Step #0 - "id"`, or `Step #0` without an id.
func (b *Build) StepLabel(i int) string {
	if b.Steps[i].ID == "" {
		return fmt.Sprintf("Step #%d", i)
	}
	return fmt.Sprintf("Step #%d - %q", i, b.Steps[i].ID)
}

// Automaps reports whether step i sees all substitutions as environment variables.
func (b *Build) Automaps(i int) bool {
	if own := b.Steps[i].AutomapSubstitutions; own != nil {
		return *own
	}
	return b.Options.AutomapSubstitutions
}

// Env is the environment of step i of a substituted build, without its secrets and without what the container brings: with
// automapSubstitutions all built-in substitutions under their names and the user's with their underscore; then options.env; then the
// step's own env, each beating the former.
//
// Not verified against the service: that a built-in without a value is there as an empty string (harsher on a step than its absence),
// and that env beats an automapped substitution.
func (b *Build) Env(i int) map[string]string {
	env := map[string]string{}
	if b.Automaps(i) {
		for k, v := range b.builtIns {
			env[k] = v
		}
		for k, v := range b.Substitutions {
			env[k] = v
		}
	}
	for _, entry := range slices.Concat(b.Options.Env, b.Steps[i].Env) {
		k, v, _ := strings.Cut(entry, "=")
		env[k] = v
	}
	return env
}

// SecretEnv lists the variables of step i whose values are secrets.
func (b *Build) SecretEnv(i int) []string {
	return slices.Concat(b.Options.SecretEnv, b.Steps[i].SecretEnv)
}

// Needs lists for every step the steps it waits for, by index. Steps that are implied (a waits for b, b for c: a need not name c) are
// left out.
//
// A step without waitFor waits for all earlier ones; "-" stands for the start of the build, and beside other ids it adds nothing.
func (b *Build) Needs() [][]int {
	needs, _ := b.order()
	return needs
}

// order is, for every step, what it needs ([Build.Needs]) and all steps that are done before it starts.
func (b *Build) order() (needs [][]int, before []map[int]bool) {
	index := map[string]int{}
	for i, s := range b.Steps {
		var direct []int
		if len(s.WaitFor) == 0 {
			for j := range i {
				direct = append(direct, j)
			}
		}
		for _, id := range s.WaitFor {
			if id != startOfBuild {
				direct = append(direct, index[id])
			}
		}
		slices.Sort(direct)
		done := map[int]bool{}
		var chosen []int
		// From the latest back: whatever an already chosen step waits for is implied.
		for _, j := range slices.Backward(direct) {
			if done[j] {
				continue
			}
			chosen = append(chosen, j)
			done[j] = true
			for k := range before[j] {
				done[k] = true
			}
		}
		slices.Sort(chosen)
		needs, before = append(needs, chosen), append(before, done)
		if s.ID != "" {
			index[s.ID] = i
		}
	}
	return needs, before
}

// startOfBuild in waitFor lets a step start at once.
const startOfBuild = "-"

// Waves is the earliest schedule: every step stands in the first wave in which all steps it waits for are done.
func (b *Build) Waves() [][]int {
	var waves [][]int
	level := make([]int, len(b.Steps))
	for i, needs := range b.Needs() {
		for _, j := range needs {
			level[i] = max(level[i], level[j]+1)
		}
		if level[i] == len(waves) {
			waves = append(waves, nil)
		}
		waves[level[i]] = append(waves[level[i]], i)
	}
	return waves
}
