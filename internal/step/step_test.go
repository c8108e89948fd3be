package step

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// probeIn has one variable of every sort.
type probeIn struct {
	Source
	Registry `require:"IMAGE"`
	Credentials
	ConfigRepo
	Version string        `env:"VERSION" from:"TAG_NAME other.version" required:"true" doc:"a release"`
	Retries int           `env:"RETRIES" default:"3" doc:"how often"`
	Share   float64       `env:"SHARE" default:"0.5" doc:"a share"`
	Wait    time.Duration `env:"WAIT" default:"5m" doc:"how long"`
	Kinds   []string      `env:"KINDS" default:"fix,chore" doc:"a list"`
	Mode    string        `env:"MODE" default:"keep" oneof:"keep,refuse" doc:"a choice"`
	Key     secret.Text   `env:"KEY" doc:"another secret"`
}

func (in probeIn) Check(f *Faults) {
	if in.Wait < time.Second {
		f.Add("WAIT", "%s is too short", in.Wait)
	}
	if in.Retries > 9 {
		f.Add("RETRIES", "%d is too many: want at most 9", in.Retries)
	}
}

type probeOut struct {
	Version string   `json:"version" env:"VERSION" doc:"the version"`
	Subject string   `json:"subject" env:"SUBJECT" doc:"text from outside"`
	List    []string `json:"list" doc:"some words"`
}

func (o probeOut) Result() string { return o.Version }

// probe runs a program with this environment in a fresh workspace and returns all that can be seen of it.
type probe struct {
	code           int
	stdout, stderr string
	dir            string // the hand-over directory
}

func runProbe(t *testing.T, env map[string]string, run func(context.Context, *Build, probeIn) (probeOut, error), args ...string) probe {
	t.Helper()
	if _, ok := env["HANDOVER_DIR"]; !ok {
		env["HANDOVER_DIR"] = filepath.Join(t.TempDir(), ".release")
	}
	p := Program[probeIn, probeOut]{Name: "probe", Summary: "try the frame", Doc: "Nothing more.", Timeout: time.Minute, Run: run}
	var stdout, stderr bytes.Buffer
	code := p.run(t.Context(), world{
		args: args, stdout: &stdout, stderr: &stderr, workspace: "/nonexistent",
		lookup: func(name string) (string, bool) { s, ok := env[name]; return s, ok },
	})
	return probe{code, stdout.String(), stderr.String(), env["HANDOVER_DIR"]}
}

// seen returns the In that a step gets from this environment.
func seen(t *testing.T, env map[string]string) probeIn {
	t.Helper()
	var got probeIn
	p := runProbe(t, env, func(_ context.Context, _ *Build, in probeIn) (probeOut, error) { got = in; return probeOut{}, nil })
	if p.code != ExitDone {
		t.Fatalf("exit code %d: %s", p.code, p.stderr)
	}
	return got
}

func done(context.Context, *Build, probeIn) (probeOut, error) {
	return probeOut{Version: "v1.2.3", Subject: "feat: $(touch x)", List: []string{"a"}}, nil
}

func least() map[string]string {
	return map[string]string{"IMAGE": "registry.example/backend", "VERSION": "v1.0.0"}
}

func with(env map[string]string, pairs ...string) map[string]string {
	for i := 0; i < len(pairs); i += 2 {
		env[pairs[i]] = pairs[i+1]
	}
	return env
}

func TestLookup(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		get  func(probeIn) any
		want any
	}{
		{"an empty variable counts as unset and gets the default", with(least(), "RETRIES", ""), func(in probeIn) any { return in.Retries }, 3},
		{"the name comes before the name with an underscore", with(least(), "RETRIES", "4", "_RETRIES", "5"), func(in probeIn) any { return in.Retries }, 4},
		{"an empty name does not hide the name with an underscore", with(least(), "RETRIES", "", "_RETRIES", "5"), func(in probeIn) any { return in.Retries }, 5},
		{"a fallback variable is taken when the name is unset", with(least(), "VERSION", "", "TAG_NAME", "v2.0.0"), func(in probeIn) any { return in.Version }, "v2.0.0"},
		{"the name comes before its fallback", with(least(), "TAG_NAME", "v2.0.0"), func(in probeIn) any { return in.Version }, "v1.0.0"},
		{"a list is split at commas, without blanks and empty items", with(least(), "KINDS", " a, b,,c "), func(in probeIn) any { return in.Kinds }, []string{"a", "b", "c"}},
		{"a list has its default", least(), func(in probeIn) any { return in.Kinds }, []string{"fix", "chore"}},
		{"a duration is Go's", with(least(), "WAIT", "90s"), func(in probeIn) any { return in.Wait }, 90 * time.Second},
		{"a secret loses the newline of its file", with(least(), "GIT_TOKEN", "canary\n"), func(in probeIn) any { return in.GitToken.Reveal() }, "canary"},
		{"an unset secret is zero", least(), func(in probeIn) any { return in.GitToken.IsZero() }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.get(seen(t, tt.env))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAllFaultsAreReportedInOneRun(t *testing.T) {
	env := map[string]string{
		"RETRIES": "many", "SHARE": "half", "WAIT": "later", "MODE": "maybe", "LOG_FORMAT": "xml", "DRY_RUN": "si", "TIMEOUT": "0s",
		"CONFIG_REPO": "https://user:canary-in-url@git.example/x.git", "CONFIG_PATH": "../other", "BRANCH_NAME": "main", "TAG_NAME": "v1.0.0", "COMMIT_SHA": "abc",
	}
	p := runProbe(t, env, done)
	if p.code != ExitConfig {
		t.Errorf("exit code %d, want %d", p.code, ExitConfig)
	}
	for _, name := range []string{"IMAGE", "RETRIES", "SHARE", "WAIT", "MODE", "LOG_FORMAT", "DRY_RUN", "TIMEOUT", "CONFIG_REPO", "CONFIG_PATH", "BRANCH_NAME", "COMMIT_SHA"} {
		if n := strings.Count(p.stderr, "probe: error: "+name+" "); n != 1 {
			t.Errorf("%s is reported %d times, want once:\n%s", name, n, p.stderr)
		}
	}
	if strings.Contains(p.stderr, "canary-in-url") {
		t.Errorf("a password from a URL is printed:\n%s", p.stderr)
	}
	if strings.Count(p.stderr, "probe: fix: ") != 1 {
		t.Errorf("want one fix line:\n%s", p.stderr)
	}
	if _, err := os.Stat(p.dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("a run with a wrong configuration touched the hand-over directory")
	}
}

func TestFaultsAcrossVariablesStandBesideTheOthers(t *testing.T) {
	p := runProbe(t, map[string]string{"IMAGE": "registry.example/backend", "RETRIES": "12"}, done)
	for _, want := range []string{"RETRIES 12 is too many", "VERSION is not set: a release"} {
		if !strings.Contains(p.stderr, want) {
			t.Errorf("no %q in:\n%s", want, p.stderr)
		}
	}
}

func TestWhatFollowsFromAMalformedVariableIsNotReported(t *testing.T) {
	p := runProbe(t, with(least(), "WAIT", "later"), done)
	if strings.Count(p.stderr, "WAIT") != 1 || strings.Contains(p.stderr, "too short") {
		t.Errorf("want one fault of WAIT:\n%s", p.stderr)
	}
	if p = runProbe(t, with(least(), "WAIT", "1ms"), done); !strings.Contains(p.stderr, "WAIT 1ms is too short") {
		t.Errorf("no fault of a well-formed WAIT:\n%s", p.stderr)
	}
}

func TestSecretsCannotBePrinted(t *testing.T) {
	const canary = "canary-5f1d"
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			env := with(least(), "GIT_TOKEN", canary, "KEY", canary, "LOG_FORMAT", format, "LOG_LEVEL", "debug", "BUILDER_OUTPUT", t.TempDir())
			p := runProbe(t, env, func(_ context.Context, b *Build, in probeIn) (probeOut, error) {
				b.Log.Info("in", "all", in, "token", in.GitToken, "pointer", &in)
				b.Log.Debug(fmt.Sprintf("%v %+v %#v %s %q %x %d", in, in, in, in.Key, in.Key, in.Key, in.Key))
				_, jsonErr := json.Marshal(in)
				b.Text(fmt.Sprint(in.Key, jsonErr))
				panic(in)
			})
			if p.code != ExitFailed || !strings.Contains(p.stderr, "panic") {
				t.Errorf("exit code %d: %s", p.code, p.stderr)
			}
			assertAbsent(t, canary, p.stdout+p.stderr, p.dir, env["BUILDER_OUTPUT"])
		})
	}
}

// assertAbsent fails when the word is in the text or in a file below one of the folders.
func assertAbsent(t *testing.T, word, text string, folders ...string) {
	t.Helper()
	if strings.Contains(text, word) {
		t.Errorf("the secret is printed:\n%s", text)
	}
	for _, dir := range folders {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if b, err := os.ReadFile(path); err != nil || bytes.Contains(b, []byte(word)) {
				t.Errorf("the secret is in %s (%v)", path, err)
			}
			return nil
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
}

func TestHandover(t *testing.T) {
	output := t.TempDir()
	p := runProbe(t, with(least(), "BUILD_ID", "b-1", "BUILDER_OUTPUT", output), done)
	if p.code != ExitDone || p.stdout != "v1.2.3\n" {
		t.Fatalf("exit code %d, stdout %q, stderr %s", p.code, p.stdout, p.stderr)
	}
	want := `{
  "schema": "cloudbuild-steps/probe/v1",
  "build_id": "b-1",
  "status": "done",
  "version": "v1.2.3",
  "subject": "feat: $(touch x)",
  "list": [
    "a"
  ]
}
`
	assertFile(t, filepath.Join(p.dir, "probe.json"), want)
	// A value that a shell would expand is left out of the file that shells source.
	assertFile(t, filepath.Join(p.dir, "probe.env"), "VERSION=v1.2.3\n")
	assertFile(t, filepath.Join(output, "output"), `{"step":"probe","status":"done","values":{"VERSION":"v1.2.3"}}`+"\n")
	entries, err := os.ReadDir(p.dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("want two files and no leftovers, have %v (%v)", entries, err)
	}
}

func assertFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s:\n%s", filepath.Base(path), diff)
	}
}

type advisedError struct{}

func (advisedError) Error() string { return "denied" }
func (advisedError) Fix() string   { return "ask for it" }

func TestOutcomes(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		code   int
		stdout string
		status string // "" means that there must be no hand-over
		stderr string
	}{
		{"nothing to do is success and says why", Nothing("no commits since %s", "v1"), 0, "v1.2.3\n", "nothing", "probe: nothing to do: no commits since v1\n"},
		{"a refusal hands over and has its own code", Refuse("mark an account", "nobody may"), 3, "", "refused", "probe: error: nobody may\nprobe: fix: mark an account\n"},
		{"a wrong configuration found late hands nothing over", Misconfigured("set X", "no file"), 2, "", "", "probe: error: no file\nprobe: fix: set X\n"},
		{"a lost race hands nothing over", Lost("run again", "moved"), 4, "", "", "probe: error: moved\nprobe: fix: run again\n"},
		{"the failure of an outside system hands nothing over", errors.New("server says 500"), 1, "", "", "probe: error: server says 500\n"},
		{"advice survives wrapping", fmt.Errorf("pushing: %w", WithFix(errors.New("403"), "grant it")), 1, "", "", "probe: error: pushing: 403\nprobe: fix: grant it\n"},
		{"an error of another package may bring its advice", fmt.Errorf("tagging: %w", advisedError{}), 1, "", "", "probe: error: tagging: denied\nprobe: fix: ask for it\n"},
		{"a failure halfway hands its report over", fmt.Errorf("deploying: %w", WithReport(WithFix(errors.New("2 of 3"), "again"))), 1, "v1.2.3\n", "failed", "probe: error: deploying: 2 of 3\nprobe: fix: again\n"},
		{"so does a lost race", WithReport(Lost("again", "2 of 3")), 4, "v1.2.3\n", "failed", "probe: error: 2 of 3\nprobe: fix: again\n"},
		{"a refusal survives wrapping", fmt.Errorf("gate: %w", Refuse("", "no")), 3, "", "refused", "probe: error: gate: no\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := runProbe(t, least(), func(context.Context, *Build, probeIn) (probeOut, error) { return probeOut{Version: "v1.2.3"}, tt.err })
			if p.code != tt.code || p.stdout != tt.stdout || p.stderr != tt.stderr {
				t.Errorf("got %d %q %q", p.code, p.stdout, p.stderr)
			}
			var h struct{ Status string }
			raw, err := os.ReadFile(filepath.Join(p.dir, "probe.json"))
			if err == nil {
				err = json.Unmarshal(raw, &h)
			} else if errors.Is(err, os.ErrNotExist) {
				err = nil
			}
			if err != nil || h.Status != tt.status {
				t.Errorf("hand-over has status %q (%v), want %q", h.Status, err, tt.status)
			}
		})
	}
}

func TestHandoverOfAnEarlierStep(t *testing.T) {
	const ok = `{"schema":"cloudbuild-steps/other/v1","build_id":"b-1","status":"done","version":"v7.0.0","list":["x"],"number":7}`
	tests := []struct {
		name, file string
		env        []string
		want       string
		fault      string
	}{
		{"a field stands in for an unset variable", ok, nil, "v7.0.0", ""},
		{"the variable itself comes first", ok, []string{"VERSION", "v1.0.0"}, "v1.0.0", ""},
		{"a failed step's report is no result to go on with", strings.Replace(ok, `"done"`, `"failed"`, 1), nil, "", "VERSION is not set"},
		{"an empty field is unset", strings.Replace(ok, "v7.0.0", "", 1), nil, "", "VERSION is not set"},
		{"no file is unset", "", nil, "", "VERSION is not set"},
		{"a file of another build is refused", ok, []string{"BUILD_ID", "b-2"}, "", `is of build "b-1", and this is build "b-2"`},
		{"a file of a build is refused where there is none", ok, []string{"BUILD_ID", ""}, "", `is of build "b-1", and this is build ""`},
		{"a cut file is refused", ok[:40], nil, "", "is damaged"},
		{"a file of another schema is refused", strings.Replace(ok, "/v1", "/v9", 1), nil, "", "schema"},
		{"a dry run's file is refused in earnest", strings.Replace(ok, `"status"`, `"dry_run":true,"status"`, 1), nil, "", "is a dry run's"},
		{"a dry run's file is good for a dry run", strings.Replace(ok, `"status"`, `"dry_run":true,"status"`, 1), []string{"DRY_RUN", "true"}, "v7.0.0", ""},
		{"a list is no value", strings.Replace(ok, `"v7.0.0"`, `["v7.0.0"]`, 1), nil, "", "not a single value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.file != "" {
				if err := os.WriteFile(filepath.Join(dir, "other.json"), []byte(tt.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			env := with(map[string]string{"IMAGE": "registry.example/backend", "HANDOVER_DIR": dir, "BUILD_ID": "b-1"}, tt.env...)
			got := ""
			p := runProbe(t, env, func(_ context.Context, _ *Build, in probeIn) (probeOut, error) {
				got = in.Version
				return probeOut{}, nil
			})
			if tt.fault == "" && (p.code != ExitDone || got != tt.want) {
				t.Errorf("exit code %d, VERSION %q, want %q: %s", p.code, got, tt.want, p.stderr)
			}
			if tt.fault != "" && (p.code != ExitConfig || !strings.Contains(p.stderr, tt.fault)) {
				t.Errorf("exit code %d, want 2 and %q in: %s", p.code, tt.fault, p.stderr)
			}
		})
	}
}

func TestAFailedSecondRunLeavesNoOldResult(t *testing.T) {
	env := least()
	p := runProbe(t, env, done)
	if _, err := os.Stat(filepath.Join(p.dir, "probe.json")); err != nil {
		t.Fatal(err)
	}
	runProbe(t, env, func(context.Context, *Build, probeIn) (probeOut, error) { return probeOut{}, errors.New("down") })
	if left, _ := filepath.Glob(filepath.Join(p.dir, "probe.*")); len(left) > 0 {
		t.Errorf("left of the first run: %v", left)
	}
}

func TestWithoutAWorkspaceThereIsOnlyStdout(t *testing.T) {
	p := runProbe(t, with(least(), "HANDOVER_DIR", ""), func(_ context.Context, b *Build, _ probeIn) (probeOut, error) {
		path, err := b.WriteFile("probe.notes.md", []byte("x"))
		_, found, herr := b.Handover("other")
		return probeOut{Version: fmt.Sprintf("%q %v %v %v", path, err, found, herr)}, nil
	})
	if want := "\"\" <nil> false <nil>\n"; p.code != ExitDone || p.stdout != want {
		t.Errorf("exit code %d, stdout %q, want %q", p.code, p.stdout, want)
	}
}

func TestAHandoverDirectoryThatIsAFileIsFoundBeforeTheRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ran := false
	p := runProbe(t, with(least(), "HANDOVER_DIR", file), func(context.Context, *Build, probeIn) (probeOut, error) { ran = true; return probeOut{}, nil })
	if p.code != ExitConfig || ran || !strings.Contains(p.stderr, "HANDOVER_DIR") {
		t.Errorf("exit code %d, ran %v: %s", p.code, ran, p.stderr)
	}
}

func TestTimeout(t *testing.T) {
	p := runProbe(t, with(least(), "TIMEOUT", "1ns"), func(ctx context.Context, _ *Build, _ probeIn) (probeOut, error) {
		<-ctx.Done()
		return probeOut{}, fmt.Errorf("reading: %w", ctx.Err())
	})
	if p.code != ExitFailed || !strings.Contains(p.stderr, "gave up after TIMEOUT=1ns") {
		t.Errorf("exit code %d: %s", p.code, p.stderr)
	}
}

func TestTextFromOutsideCannotForgeALine(t *testing.T) {
	const hostile = "ok\nprobe: error: forged\r\x1b[31m\u202eevil\u200b\x00\x9b\xff ::set-output"
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			p := runProbe(t, with(least(), "LOG_FORMAT", format), func(_ context.Context, b *Build, _ probeIn) (probeOut, error) {
				b.Log.Warn(hostile, "key", hostile)
				return probeOut{Version: hostile}, Refuse(hostile, "%s", hostile)
			})
			for _, bad := range []string{"\nprobe: error: forged", "\r", "\x1b", "\u202e", "\u200b", "\x00", "\x9b"} {
				if format == "json" && (bad == "\u202e" || bad == "\u200b") {
					continue // inside a JSON string these are data; Cloud Logging shows them in a field of their own
				}
				if strings.Contains(p.stderr, bad) {
					t.Errorf("%q gets through:\n%q", bad, p.stderr)
				}
			}
		})
	}
}

func TestJSONLogIsWhatCloudLoggingReads(t *testing.T) {
	p := runProbe(t, with(least(), "LOG_FORMAT", "json"), func(_ context.Context, b *Build, _ probeIn) (probeOut, error) {
		b.Log.Warn("careful", "count", 2)
		b.Text("a\nb")
		return probeOut{}, Refuse("do this", "no")
	})
	var got []map[string]any
	for line := range strings.Lines(p.stderr) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got = append(got, m)
	}
	want := []map[string]any{
		{"severity": "WARNING", "message": "careful", "step": "probe", "count": 2.0},
		{"severity": "INFO", "message": "a\nb", "step": "probe"},
		{"severity": "ERROR", "message": "no", "step": "probe", "fix": "do this"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPrintableCutsLongText(t *testing.T) {
	got := Printable(strings.Repeat("ä", 1<<20), 200)
	if len(got) > 300 || !strings.HasSuffix(got, "bytes more)") {
		t.Errorf("got %d bytes ending in %q", len(got), got[len(got)-20:])
	}
}

func TestFlags(t *testing.T) {
	env := map[string]string{} // flags need no configuration
	for _, tt := range []struct {
		arg  string
		code int
		want []string
	}{
		{"-help", 0, []string{"probe: try the frame.", "GIT_TOKEN (secret)", "default: TAG_NAME, else version of other (required)", "keep or refuse", "3  refused on purpose"}},
		{"--help", 0, []string{"probe: try the frame."}},
		{"-version", 0, []string{"probe (devel) go1."}},
		{"-describe=markdown", 0, []string{"# probe\n", "| `RETRIES` integer | how often | 3 |"}},
		{"-what", 2, nil},
		{"word", 2, nil},
		{"help", 2, nil},
	} {
		t.Run(tt.arg, func(t *testing.T) {
			p := runProbe(t, env, done, tt.arg)
			if p.code != tt.code {
				t.Errorf("exit code %d, want %d: %s", p.code, tt.code, p.stderr)
			}
			for _, w := range tt.want {
				if !strings.Contains(p.stdout, w) {
					t.Errorf("no %q in:\n%s", w, p.stdout)
				}
			}
		})
	}
}

func TestDescribe(t *testing.T) {
	p := runProbe(t, map[string]string{}, done, "-describe")
	var c Contract
	if err := json.Unmarshal([]byte(p.stdout), &c); err != nil {
		t.Fatal(err)
	}
	byName := map[string]ContractVariable{}
	for _, v := range c.Variables {
		byName[v.Name] = v
	}
	want := map[string]ContractVariable{
		"VERSION":     {Name: "VERSION", Doc: "a release", Type: "string", Required: true, From: []string{"TAG_NAME", "other.version"}},
		"MODE":        {Name: "MODE", Doc: "a choice", Type: "string", Default: "keep", Choices: []string{"keep", "refuse"}},
		"KEY":         {Name: "KEY", Doc: "another secret", Type: "secret", Secret: true},
		"CONFIG_REPO": {Name: "CONFIG_REPO", Doc: "https URL of the config repo", Type: "url"},
		"TIMEOUT": {Name: "TIMEOUT", Doc: "give up after this time (a Go duration: 90s, 5m), leaving nothing half done", Type: "duration", Default: "1m",
			Frame: true},
	}
	for name, v := range want {
		if diff := cmp.Diff(v, byName[name]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if !byName["IMAGE"].Required || byName["CONFIG_REPO"].Required {
		t.Error("a group's require tag decides which of its variables are required")
	}
	if diff := cmp.Diff([]ContractOutput{
		{Name: "version", Env: "VERSION", Doc: "the version", Type: "string"},
		{Name: "subject", Env: "SUBJECT", Doc: "text from outside", Type: "string"},
		{Name: "list", Doc: "some words", Type: "list"},
	}, c.Outputs); diff != "" {
		t.Error(diff)
	}
}

func TestURLsAndImages(t *testing.T) {
	const canary = "canary"
	for _, s := range []string{"http://" + canary + "@h/x.git", "https://u:" + canary + "@h/x", "ssh://git@h/x", "git@h:x", "https:///x", "https://h/x?token=" + canary, "https://h/x\n" + canary, "x"} {
		var u GitURL
		if err := u.UnmarshalText([]byte(s)); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%q: error %v", s, err)
		}
	}
	for s, ok := range map[string]bool{
		"registry.example/backend": true, "127.0.0.1:5000/a/b-c": true, "europe-docker.pkg.dev/p/r/backend": true,
		"backend": false, "registry.example/Backend": false, "registry.example/b:v1": false, "registry.example/b@sha256:00": false, "https://registry.example/b": false, "registry.example/": false,
	} {
		var i Image
		if err := i.UnmarshalText([]byte(s)); (err == nil) != ok {
			t.Errorf("%q: error %v, want valid %v", s, err, ok)
		}
	}
	if got := Image("registry.example/team/backend").Name(); got != "backend" {
		t.Errorf("Name is %q", got)
	}
}

func TestEssentialsStayBelowTheLimit(t *testing.T) {
	out := probeOut{Version: strings.Repeat("v", 3000), Subject: strings.Repeat("s", 3000)}
	got := essentials("probe", header{Status: Done}, out)
	if len(got) > 4096 || !json.Valid(got) || !bytes.Contains(got, []byte("VERSION")) {
		t.Errorf("%d bytes, valid %v", len(got), json.Valid(got))
	}
}

func TestBuildURL(t *testing.T) {
	for _, tt := range []struct {
		b    Build
		want string
	}{
		{Build{}, ""},
		{Build{ID: "i", ProjectID: "p"}, "https://console.cloud.google.com/cloud-build/builds/i?project=p"},
		{Build{ID: "i", ProjectID: "p", Location: "europe-west1"}, "https://console.cloud.google.com/cloud-build/builds;region=europe-west1/i?project=p"},
	} {
		if got := tt.b.URL(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestAGitHubAppIsWholeAndNotBesideAToken(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  []string
		want []string
	}{
		{"one of the three is missing", []string{"GITHUB_APP_ID", "1", "GITHUB_APP_INSTALLATION_ID", "2"}, []string{"GITHUB_APP_PRIVATE_KEY is not set"}},
		{"beside a token", []string{"GITHUB_APP_ID", "1", "GIT_TOKEN", "canary"},
			[]string{"GIT_TOKEN conflicts with GITHUB_APP_*", "GITHUB_APP_INSTALLATION_ID is not set", "GITHUB_APP_PRIVATE_KEY is not set"}},
		{"a key that is none", []string{"GITHUB_APP_ID", "1", "GITHUB_APP_INSTALLATION_ID", "2", "GITHUB_APP_PRIVATE_KEY", "canary"}, []string{"GITHUB_APP_PRIVATE_KEY is wrong: not PEM"}},
		{"a key of another kind", []string{"GITHUB_APP_ID", "1", "GITHUB_APP_INSTALLATION_ID", "2", "GITHUB_APP_PRIVATE_KEY", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"},
			[]string{"GITHUB_APP_PRIVATE_KEY is wrong: no RSA private key"}},
		{"ids that are none", []string{"GITHUB_APP_ID", "a b", "GITHUB_APP_INSTALLATION_ID", "x/../2", "GITHUB_APP_PRIVATE_KEY", "canary"},
			[]string{`GITHUB_APP_ID "a b" is not the id`, `GITHUB_APP_INSTALLATION_ID "x/../2" is not a number`}},
		{"an API without TLS", []string{"GITHUB_API", "http://api.example.com"}, []string{"GITHUB_API is wrong: want https"}},
		{"a token in the API's address", []string{"GITHUB_API", "https://canary@api.example.com"}, []string{"GITHUB_API is wrong: want https://host"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := runProbe(t, with(least(), tt.env...), done)
			for _, want := range tt.want {
				if p.code != ExitConfig || !strings.Contains(p.stderr, want) {
					t.Errorf("exit code %d, stderr does not say %q:\n%s", p.code, want, p.stderr)
				}
			}
			if strings.Contains(p.stderr, "canary") {
				t.Errorf("a secret is printed:\n%s", p.stderr)
			}
		})
	}
	if p := runProbe(t, with(least(), "GITHUB_API", "http://127.0.0.1:8080"), done); p.code != ExitDone {
		t.Errorf("an API on this machine: %s", p.stderr)
	}
}
