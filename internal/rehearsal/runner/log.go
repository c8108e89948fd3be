package runner

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/deepdesk/cloudbuild-steps/internal/cloudbuild"
)

// A buildLog writes the lines that the service writes, from steps that run at the same time. Of a build with a single step the lines
// have no prefix.
type buildLog struct {
	build   *cloudbuild.Build
	secrets *strings.Replacer

	mu sync.Mutex
	w  io.Writer
}

// newBuildLog makes a log that masks the secrets, line by line: that cannot be perfect (a program may print a secret in another form),
// but the programs of others cannot be made to use a type that cannot be printed.
func newBuildLog(o Options) *buildLog {
	var values []string
	for _, s := range o.Secrets {
		v := s.Reveal()
		values = append(values, v)
		for line := range strings.Lines(v) { // a private key is printed line by line
			values = append(values, strings.TrimSpace(line))
		}
	}
	values = slices.DeleteFunc(values, func(v string) bool { return v == "" })
	slices.SortFunc(values, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	var pairs []string
	for _, v := range values {
		pairs = append(pairs, v, "[hidden]")
	}
	return &buildLog{build: o.Build, secrets: strings.NewReplacer(pairs...), w: o.Log}
}

func (l *buildLog) mask(s string) string { return l.secrets.Replace(s) }

func (l *buildLog) print(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = fmt.Fprintln(l.w, line)
}

func (l *buildLog) starting(step int) {
	if len(l.build.Steps) > 1 {
		l.print("Starting " + l.build.StepLabel(step))
	}
}

func (l *buildLog) finished(step int) {
	if len(l.build.Steps) > 1 {
		l.print("Finished " + l.build.StepLabel(step))
	}
}

// line prints what a step says.
func (l *buildLog) line(step int, text string) {
	text = l.mask(text)
	if len(l.build.Steps) > 1 {
		text = l.build.StepLabel(step) + ": " + text
	}
	l.print(text)
}

func (l *buildLog) end(r Result) {
	switch r.Status {
	case Success:
		l.print("DONE")
	case Failure:
		l.print("ERROR")
	default:
		l.print(string(r.Status))
	}
	if r.Reason != "" {
		l.print("ERROR: " + r.Reason)
	}
}
