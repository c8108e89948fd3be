package step

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"time"
)

// Build is what a step knows about the build it runs in.
type Build struct {
	ID        string // BUILD_ID; empty outside Cloud Build
	ProjectID string
	Location  string
	Trigger   string
	DryRun    bool         // plan only: everything but the last write
	Log       *slog.Logger // progress and warnings, on stderr

	step    string
	dir     string // hand-over directory; empty when there is no workspace
	output  string // $BUILDER_OUTPUT
	timeout time.Duration
	text    func(string)
	screen  *screen // nil when stderr is no terminal
}

// Text prints a block of several lines (a table, a diff) on stderr, each line made safe.
func (b *Build) Text(block string) { b.text(block) }

// URL is the page of this build in the Google Cloud console; empty outside Cloud Build.
func (b *Build) URL() string {
	if b.ID == "" || b.ProjectID == "" {
		return ""
	}
	region := ""
	if b.Location != "" {
		region = ";region=" + url.PathEscape(b.Location)
	}
	return "https://console.cloud.google.com/cloud-build/builds" + region + "/" + url.PathEscape(b.ID) + "?project=" + url.QueryEscape(b.ProjectID)
}

// Status says how a step ended.
type Status string

// The states of a hand-over.
const (
	Done    Status = "done"
	Empty   Status = "nothing" // there was nothing to do
	Refused Status = "refused" // the step decided against it
	Failed  Status = "failed"  // an outside system failed after some of the work; the result says what was done
)

// header is what the frame adds in front of every hand-over.
type header struct {
	Schema  string `json:"schema"`
	BuildID string `json:"build_id"`
	Status  Status `json:"status"`
	Reason  string `json:"reason,omitempty"`
	DryRun  bool   `json:"dry_run,omitempty"`
}

// Handover is the result that another step of this build left.
type Handover struct {
	Status Status
	Reason string
	JSON   []byte // the whole file
}

// Decode reads the step's own fields into v.
func (h Handover) Decode(v any) error { return json.Unmarshal(h.JSON, v) }

// Handover returns what the named step left in this build, and whether it left anything. A file of another build, or of a dry run when
// this is none, is an error: acting on it would deploy something that nobody asked for.
func (b *Build) Handover(step string) (Handover, bool, error) {
	if b.dir == "" {
		return Handover{}, false, nil
	}
	path := filepath.Join(b.dir, step+".json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Handover{}, false, nil
	}
	if err != nil {
		return Handover{}, false, fmt.Errorf("reading the hand-over of %s: %w", step, err)
	}
	var h header
	if err := json.Unmarshal(raw, &h); err != nil {
		return Handover{}, false, fmt.Errorf("reading the hand-over of %s: %s is damaged: %w", step, path, err)
	}
	switch {
	case h.Schema != schemaOf(step):
		return Handover{}, false, fmt.Errorf("reading the hand-over of %s: schema %q, want %q", step, h.Schema, schemaOf(step))
	case h.BuildID != b.ID:
		return Handover{}, false, fmt.Errorf("the hand-over of %s is of build %q, and this is build %q: delete %s", step, h.BuildID, b.ID, path)
	case h.DryRun && !b.DryRun:
		return Handover{}, false, fmt.Errorf("the hand-over of %s is a dry run's: run %s again without DRY_RUN", step, step)
	}
	return Handover{Status: h.Status, Reason: h.Reason, JSON: raw}, true, nil
}

func schemaOf(step string) string { return "cloudbuild-steps/" + step + "/v1" }

// handoverField returns one field of a hand-over as text, for variables that fall back to it.
func (b *Build) handoverField(step, field string) (string, error) {
	h, ok, err := b.Handover(step)
	if !ok || err != nil || h.Status == Failed { // what a failed step left is a report, not a result to go on with
		return "", err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(h.JSON, &fields); err != nil {
		return "", err
	}
	raw, ok := fields[field]
	if !ok || string(raw) == "null" {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err == nil {
		return s, nil
	}
	if bytes.HasPrefix(raw, []byte("{")) || bytes.HasPrefix(raw, []byte("[")) {
		return "", fmt.Errorf("field %s of %s is not a single value", field, step)
	}
	return string(raw), nil
}

// WriteFile leaves a file beside the hand-over, whole or not at all, and returns its path. Without a workspace it writes nothing and
// returns "".
func (b *Build) WriteFile(name string, content []byte) (string, error) {
	if b.dir == "" {
		return "", nil
	}
	path := filepath.Join(b.dir, name)
	return path, writeAtomically(path, content)
}

// clearHandover removes what an earlier run of this step left, so that no later step can take an old result for a new one. It also
// finds out, before anything is done, whether the directory can be written to.
func (b *Build) clearHandover() error {
	if b.dir == "" {
		return nil
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return b.explainUnwritable(err)
	}
	probe, err := os.CreateTemp(b.dir, ".probe-*")
	if err != nil {
		return b.explainUnwritable(err)
	}
	_ = probe.Close()
	_ = os.Remove(probe.Name())
	for _, ext := range []string{".json", ".env"} {
		if err := os.Remove(filepath.Join(b.dir, b.step+ext)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return b.explainUnwritable(err)
		}
	}
	return nil
}

func (b *Build) explainUnwritable(err error) error {
	if errors.Is(err, fs.ErrPermission) && os.Getuid() != 0 {
		return Misconfigured("run the image as root, which is its default (Cloud Build's /workspace belongs to root), or set HANDOVER_DIR to a directory that this user may write to",
			"the hand-over directory %s cannot be written by user %d: %w", b.dir, os.Getuid(), err)
	}
	return Misconfigured("set HANDOVER_DIR to a directory that can be written to", "the hand-over directory %s cannot be written: %w", b.dir, err)
}

// handOver leaves the step's result: the typed file for other steps, the .env file for shell steps, and the essentials for Cloud Build.
func (b *Build) handOver(out any, state Status, outcome error) error {
	h := header{Schema: schemaOf(b.step), BuildID: b.ID, Status: state, DryRun: b.DryRun}
	if outcome != nil {
		h.Reason = Printable(outcome.Error(), 1000)
	}
	full, err := joinObjects(h, out)
	if err != nil {
		return fmt.Errorf("encoding the hand-over: %w", err)
	}
	if b.dir != "" {
		if err := writeAtomically(filepath.Join(b.dir, b.step+".env"), envFile(out)); err != nil {
			return fmt.Errorf("writing the hand-over: %w", err)
		}
		// The JSON file comes last: where it is, all is there.
		if err := writeAtomically(filepath.Join(b.dir, b.step+".json"), full); err != nil {
			return fmt.Errorf("writing the hand-over: %w", err)
		}
	}
	if b.output != "" && isDir(b.output) {
		if err := writeAtomically(filepath.Join(b.output, "output"), essentials(b.step, h, out)); err != nil {
			return fmt.Errorf("writing $BUILDER_OUTPUT/output: %w", err)
		}
	}
	return nil
}

// joinObjects encodes two structs as one JSON object, the first one's members first.
func joinObjects(first, second any) ([]byte, error) {
	a, err := json.Marshal(first)
	if err != nil {
		return nil, err
	}
	z, err := json.Marshal(second)
	if err != nil {
		return nil, err
	}
	joined := a
	if !bytes.Equal(z, []byte("{}")) {
		joined = append(append(bytes.TrimSuffix(a, []byte("}")), ','), z[1:]...)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, joined, "", "  "); err != nil {
		return nil, err
	}
	indented.WriteByte('\n')
	return indented.Bytes(), nil
}

// safeValue is what a line of an .env file may hold: a shell that sources the file must find nothing to expand.
var safeValue = regexp.MustCompile(`^[A-Za-z0-9._:/@+-]*$`)

// envValues returns the values of the fields of out that carry an env tag, those in the safe charset only.
func envValues(out any) (names []string, values map[string]string) {
	values = map[string]string{}
	v := reflect.ValueOf(out)
	for _, f := range reflect.VisibleFields(v.Type()) {
		name := f.Tag.Get("env")
		if name == "" {
			continue
		}
		if s := fmt.Sprint(v.FieldByIndex(f.Index).Interface()); safeValue.MatchString(s) {
			names = append(names, name)
			values[name] = s
		}
	}
	return names, values
}

func envFile(out any) []byte {
	var buf bytes.Buffer
	names, values := envValues(out)
	for _, n := range names {
		fmt.Fprintf(&buf, "%s=%s\n", n, values[n])
	}
	return buf.Bytes()
}

// essentials is the text for $BUILDER_OUTPUT/output, of which Cloud Build keeps the first 4 KB at the least.
func essentials(step string, h header, out any) []byte {
	names, values := envValues(out)
	encode := func() []byte {
		b, _ := json.Marshal(struct {
			Step   string            `json:"step"`
			Status Status            `json:"status"`
			Values map[string]string `json:"values"`
		}{step, h.Status, values})
		return append(b, '\n')
	}
	text := encode()
	for len(text) > 4096 && len(names) > 0 { // drop from the end: a cut JSON text would be of no use
		delete(values, names[len(names)-1])
		names = names[:len(names)-1]
		text = encode()
	}
	return text
}

// writeAtomically writes a file so that a reader, or a run after a kill, finds the old content or the new, never a part.
func writeAtomically(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-"+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // after the rename there is nothing left to remove
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
