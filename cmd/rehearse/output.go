package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/deepdesk/cloudbuild-steps/internal/cloudbuild"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/runner"
)

// An output says what there is to say, for people or as JSON.
type output struct {
	stdout, stderr io.Writer
	json           bool
	config         string
}

// log is where the build's log goes.
func (o output) log() io.Writer {
	if o.json {
		return o.stderr
	}
	return o.stdout
}

func (o output) note(format string, args ...any) {
	_, _ = fmt.Fprintf(o.stderr, "rehearse: "+format+"\n", args...)
}

// fault reports why there is no build, a line for each fault of the file.
func (o output) fault(err error) {
	var faults cloudbuild.Faults
	if !errors.As(err, &faults) {
		o.note("error: %v", err)
	}
	for _, f := range faults {
		o.note("error: %s: %s", o.config, f)
	}
}

func (o output) warn(warnings []cloudbuild.Finding) {
	for _, w := range warnings {
		o.note("warning: %s: %s", o.config, w)
	}
}

func (o output) print(value any, human func(w *tabwriter.Writer)) error {
	if o.json {
		encoder := json.NewEncoder(o.stdout)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	}
	w := tabwriter.NewWriter(o.stdout, 0, 0, 2, ' ', 0)
	human(w)
	return w.Flush()
}

// A step is what every output says of a step, in JSON.
type step struct {
	Index int    `json:"index"`
	ID    string `json:"id,omitempty"`
	Image string `json:"image"`
}

func name(b *cloudbuild.Build, i int) string {
	if id := b.Steps[i].ID; id != "" {
		return id
	}
	return fmt.Sprint(i)
}

func names(b *cloudbuild.Build, steps []int) []string {
	all := make([]string, len(steps))
	for i, s := range steps {
		all[i] = name(b, s)
	}
	return all
}

// undefined are the substitutions that the build needs and nothing gives.
func undefined(b *cloudbuild.Build, values cloudbuild.Values) []string {
	return slices.DeleteFunc(b.Undefined(), func(k string) bool {
		_, given := values.Given[k]
		_, ofEvent := values.BuiltIn[k]
		return given || ofEvent
	})
}

// undefined warns of what a triggered build would silently replace by nothing.
func (o output) undefined(b *cloudbuild.Build, values cloudbuild.Values) {
	for _, k := range undefined(b, values) {
		o.note("warning: %s: the substitution %s is not given and stays empty", o.config, k)
	}
}

// list is the table of the steps.
func (o output) list(b *cloudbuild.Build, given map[string]string) error {
	type listed struct {
		step
		Needs []string `json:"needs"` // ids, or numbers of steps without one
	}
	var value struct {
		Steps     []listed `json:"steps"`
		Undefined []string `json:"undefined"` // substitutions that must be given
	}
	for i, needs := range b.Needs() {
		value.Steps = append(value.Steps, listed{step{i, b.Steps[i].ID, b.Steps[i].Name}, names(b, needs)})
	}
	value.Undefined = undefined(b, cloudbuild.Values{Given: given})
	return o.print(value, func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "STEP\tID\tIMAGE\tAFTER")
		for _, s := range value.Steps {
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", s.Index, s.ID, s.Image, strings.Join(s.Needs, ", "))
		}
		if len(value.Undefined) > 0 {
			fmt.Fprintf(w, "\nthe trigger or --substitutions must give %s\n", strings.Join(value.Undefined, ", "))
		}
	})
}

// graph is the steps by the time at which they can run.
func (o output) graph(b *cloudbuild.Build) error {
	var value struct {
		Waves [][]string `json:"waves"` // steps of one wave can run at the same time
	}
	for _, wave := range b.Waves() {
		value.Waves = append(value.Waves, names(b, wave))
	}
	needs := b.Needs()
	return o.print(value, func(w *tabwriter.Writer) {
		for n, wave := range b.Waves() {
			for _, i := range wave {
				after := ""
				if len(needs[i]) > 0 {
					after = "after " + strings.Join(names(b, needs[i]), ", ")
				}
				fmt.Fprintf(w, "%d\t%s\t%s\n", n+1, name(b, i), after)
			}
		}
	})
}

// explain shows what would be run.
func (o output) explain(b *cloudbuild.Build, commands []runner.Command) error {
	type explained struct {
		step
		Argv      []string          `json:"argv"`
		Dir       string            `json:"dir"`
		Env       map[string]string `json:"env"`
		SecretEnv []string          `json:"secret_env"`
	}
	var value struct {
		Steps []explained `json:"steps"`
	}
	for _, c := range commands {
		value.Steps = append(value.Steps, explained{step{c.Step, b.Steps[c.Step].ID, b.Steps[c.Step].Name}, c.Argv, c.Dir, c.Env, c.Secrets})
	}
	return o.print(value, func(w *tabwriter.Writer) {
		for _, s := range value.Steps {
			fmt.Fprintf(w, "%s\n  image\t%s\n  run\t%s\n  in\t%s\n", b.StepLabel(s.Index), s.Image, strings.Join(quoted(s.Argv), " "), s.Dir)
			for _, k := range slices.Sorted(maps.Keys(s.Env)) {
				fmt.Fprintf(w, "  env\t%s=%s\n", k, quote(s.Env[k]))
			}
			for _, k := range s.SecretEnv {
				fmt.Fprintf(w, "  env\t%s=[hidden]\n", k)
			}
		}
	})
}

// quote shows a value as it is when that leaves no doubt about it.
func quote(s string) string {
	if q := fmt.Sprintf("%q", s); q != `"`+s+`"` || strings.ContainsAny(s, " \t'") {
		return q
	}
	return s
}

func quoted(words []string) []string {
	all := make([]string, len(words))
	for i, w := range words {
		if all[i] = quote(w); w == "" {
			all[i] = `""`
		}
	}
	return all
}

// checked is the outcome of --check. b is nil when the file could not be read.
func (o output) checked(b *cloudbuild.Build, faults cloudbuild.Faults, unknown []string) error {
	type finding struct {
		Line int    `json:"line,omitempty"`
		Path string `json:"path,omitempty"`
		Text string `json:"text"`
	}
	value := struct {
		Faults    []finding `json:"faults"`
		Warnings  []finding `json:"warnings"`
		Unchecked []string  `json:"unchecked"` // steps whose image is not known here
	}{[]finding{}, []finding{}, append([]string{}, unknown...)}
	for _, f := range faults {
		value.Faults = append(value.Faults, finding(f))
	}
	if b != nil {
		for _, w := range b.Warnings {
			value.Warnings = append(value.Warnings, finding(w))
		}
	}
	if o.json {
		return o.print(value, nil)
	}
	if len(faults) > 0 {
		o.fault(faults)
	}
	for _, u := range unknown {
		o.note("not checked against its program: %s", u)
	}
	if len(faults) == 0 {
		_, err := fmt.Fprintf(o.stdout, "%s: no faults (steps: %d)\n", o.config, len(b.Steps))
		return err
	}
	return nil
}

// result is how the build went.
func (o output) result(b *cloudbuild.Build, r runner.Result) error {
	type ended struct {
		step
		Status   runner.Status `json:"status"`
		ExitCode int           `json:"exit_code"`
		Seconds  float64       `json:"seconds"`
		Output   string        `json:"output,omitempty"` // what it left in $BUILDER_OUTPUT/output
	}
	value := struct {
		Status  runner.Status `json:"status"`
		Reason  string        `json:"reason,omitempty"`
		Seconds float64       `json:"seconds"`
		Steps   []ended       `json:"steps"`
	}{Status: r.Status, Reason: r.Reason, Seconds: r.Duration.Seconds()}
	for i, s := range r.Steps {
		value.Steps = append(value.Steps, ended{step{i, b.Steps[i].ID, b.Steps[i].Name}, s.Status, s.ExitCode, s.Duration.Seconds(), s.Output})
	}
	return o.print(value, func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "\nSTEP\tID\tSTATUS\tEXIT\tSECONDS")
		for _, s := range value.Steps {
			if s.Status == runner.Skipped {
				continue
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%.1f\n", s.Index, s.ID, s.Status, s.ExitCode, s.Seconds)
		}
		fmt.Fprintf(w, "\t\t%s\t\t%.1f\n", value.Status, value.Seconds)
	})
}
