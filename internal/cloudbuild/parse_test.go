package cloudbuild

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func parse(t *testing.T, file string) *Build {
	t.Helper()
	b, err := Parse([]byte(file))
	if err != nil {
		t.Fatalf("Parse: %v\n%s", err, file)
	}
	return b
}

func faultsOf(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

// The types are those that gcloud 528 (ruamel.yaml, YAML 1.1) gave each scalar.
func TestPlainScalarsAreThoseOfYAML11(t *testing.T) {
	for plain, want := range map[string]scalarType{
		".5": typeFloat, "0755": typeInt, "0o755": typeString, "0x1F": typeInt, "1.10": typeFloat, "1234567": typeInt, "12345678": typeInt,
		"1234e56": typeFloat, "123e4567": typeFloat, "1_000": typeInt, "1e3": typeFloat, "2024-01-02": typeTimestamp, "22:22": typeInt,
		"8080:80": typeString, "True": typeBool, "n": typeBool, "null": typeNull, "off": typeBool, "on": typeBool, "true": typeBool,
		"v1.2": typeString, "y": typeBool, "yes": typeBool, "~": typeNull,
		// From the YAML 1.1 type repository.
		"": typeNull, "+12e03": typeFloat, "-.inf": typeFloat, ".NaN": typeFloat, "190:20:30": typeInt, "0b1010": typeInt, "2001-12-14t21:59:43.10-05:00": typeTimestamp,
		"1.2.3": typeString, "_": typeString, "-": typeString, "yEs": typeString, "0123456789": typeString,
	} {
		if got := plainType(plain); got != want {
			t.Errorf("plainType(%q) = %s, want %s", plain, got, want)
		}
	}
}

func TestPlainIntegersAreReadInTheirBase(t *testing.T) {
	for plain, want := range map[string]int64{"0755": 493, "0x1F": 31, "1_000": 1000, "22:22": 1342, "-1:30": -90, "+7": 7, "0b101": 5, "0": 0} {
		if got, err := plainInt(plain); err != nil || got != want {
			t.Errorf("plainInt(%q) = %d, %v, want %d", plain, got, err, want)
		}
	}
}

const oneStep = "steps: [{name: builder}]\n"

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		name, file string
		want       []string
	}{
		{"an unknown field, by line, gcloud's path and the nearest name", "steps:\n- name: builder\n  arg: [build]\n",
			[]string{"line 3: .steps[0].arg: unused (did you mean args?)"}},
		{"an unknown field in snake case under its camelCase name", "steps: [{name: builder}]\nqueue_tll: 1s\n",
			[]string{"line 2: .queueTll: unused (did you mean queueTtl?)"}},
		{"an extension key", oneStep + "x-common: {a: b}\n", []string{"line 2: .x-common: unused"}},
		{"a key that stands twice", oneStep + "timeout: 10s\ntimeout: 20s\n", []string{"line 3: .timeout: the key stands twice"}},
		{"a key that stands twice in two spellings", "steps:\n- name: builder\n  wait_for: ['-']\n  waitFor: ['-']\n",
			[]string{"line 4: .steps[0].waitFor: the key stands twice"}},
		{"a substitution that stands twice", oneStep + "substitutions: {_A: x, _A: y}\n", []string{"line 2: .substitutions._A: the key stands twice"}},
		{"a plain boolean where a string is wanted", oneStep + "substitutions:\n  _ENABLED: y\n",
			[]string{`line 3: .substitutions._ENABLED: want a string, got "y", which is a boolean in YAML 1.1: put it in quotes`}},
		{"a plain float where a string is wanted", "steps:\n- name: builder\n  args:\n  - 1.10\n",
			[]string{`line 4: .steps[0].args[0]: want a string, got "1.10", which is a float in YAML 1.1: put it in quotes`}},
		{"a plain base 60 number where a string is wanted", "steps: [{name: builder, args: [22:22]}]\n",
			[]string{`line 1: .steps[0].args[0]: want a string, got "22:22", which is an integer in YAML 1.1: put it in quotes`}},
		{"a number as a duration", oneStep + "timeout: 1200\n",
			[]string{`line 2: .timeout: want a duration such as "1200s", got "1200", which is an integer in YAML 1.1: put it in quotes`}},
		{"a word as a duration", oneStep + "timeout: banana\n", []string{`line 2: .timeout: "banana" is not a duration: write seconds, as in "1200s"`}},
		{"an integer for an enum", oneStep + "options: {logging: 5}\n",
			[]string{`line 2: .options.logging: want one of LOGGING_UNSPECIFIED, LEGACY, GCS_ONLY, STACKDRIVER_ONLY, CLOUD_LOGGING_ONLY, NONE, got "5", which is an integer in YAML 1.1`}},
		{"an unknown enum value", oneStep + "options: {substitutionOption: LOOSE}\n",
			[]string{`line 2: .options.substitutionOption: "LOOSE" is none of MUST_MATCH, ALLOW_LOOSE`}},
		{"a quoted boolean", "steps: [{name: builder, allowFailure: 'true'}]\n", []string{`line 1: .steps[0].allowFailure: want true or false, got "true"`}},
		{"a null in a list", "steps:\n- name: builder\n  args:\n  - ~\n",
			[]string{`line 4: .steps[0].args[0]: want a string, got "~", which is null in YAML 1.1: put it in quotes`}},
		{"a mapping for a string", "steps: [{name: {a: b}}]\n", []string{"line 1: .steps[0].name: want a string, got a mapping"}},
		{"source", oneStep + "source: {storageSource: {}}\n", []string{"line 2: .source: a build file cannot name its source (gcloud refuses it)"}},
		{"a custom tag", "steps: [{name: !env builder}]\n", []string{`line 1: .steps[0].name: tag !env is not accepted here`}},
		{"two documents", oneStep + "---\n" + oneStep, []string{"the file must hold one YAML document, this one holds more"}},
		{"an empty file", "# nothing\n", []string{"the file is empty"}},
		{"a list at the top", "- name: builder\n", []string{"line 1: the file must be a mapping, not a list"}},
		{"text that is not YAML", "steps: [", []string{"reading YAML: line 1: did not find expected node content"}},

		{"a build without steps", "steps: []\n", []string{"line 1: .steps: no build steps are specified"}},
		{"a step without a name", "steps:\n- args: [build]\n", []string{"line 2: .steps[0].name: missing: every step names its builder image"}},
		{"ids that are not unique", "steps: [{name: b, id: a}, {name: b, id: a}]\n", []string{`line 1: .steps[1].id: the id "a" is not unique`}},
		{"the reserved id", "steps: [{name: b, id: '-'}]\n", []string{`line 1: .steps[0].id: "-" is reserved: it stands for the start of the build`}},
		{"waiting for a later step", "steps: [{name: b, id: a, waitFor: [c]}, {name: b, id: c}]\n",
			[]string{`line 1: .steps[0].waitFor[0]: no earlier step has the id "c"`}},
		{"waiting for oneself", "steps: [{name: b, id: alone, waitFor: [alone]}]\n", []string{`line 1: .steps[0].waitFor[0]: no earlier step has the id "alone"`}},
		{"env without a value", "steps: [{name: b, env: [A=1, B]}]\n", []string{`line 1: .steps[0].env[1]: "B" must be of the form KEY=VALUE`}},
		{"script beside args", "steps: [{name: b, script: 'echo', args: [x]}]\n", []string{"line 1: .steps[0].script: script excludes args and entrypoint"}},
		{"a step that may take longer than its build", "steps: [{name: b, timeout: 20s}]\ntimeout: 10s\n",
			[]string{"line 1: .steps[0].timeout: the step's timeout 20s is longer than the build's, 10s"}},
		{"a timeout of more than a day", oneStep + "timeout: 86401s\n", []string{"line 2: .timeout: the timeout must lie between 0s and 24h0m0s"}},
		{"a built-in substitution in the file", oneStep + "substitutions: {COMMIT_SHA: x}\n",
			[]string{"line 2: .substitutions.COMMIT_SHA: a substitution of one's own must match ^_[A-Z0-9_]+$"}},
		{"a substitution value of more than 4000 bytes", oneStep + "substitutions: {_A: " + strings.Repeat("x", 4001) + "}\n",
			[]string{"line 2: .substitutions._A: a substitution's key is at most 100 bytes long, its value 4000"}},
		{"references that can have no value", "steps: [{name: b, args: ['awk {print $NF}', $Foo $_foo]}]\n",
			[]string{`line 1: .steps[0].args[0]: key in the template "NF" is not a valid built-in substitution (for $NF itself write $$NF)`,
				`line 1: .steps[0].args[1]: key in the template "F" is not a valid built-in substitution (for $F itself write $$F)`,
				`line 1: .steps[0].args[1]: key in the template "_" is not a valid built-in substitution (for $_ itself write $$_)`}},
		{"a volume of one step", "steps: [{name: b, volumes: [{name: vol, path: /v}]}]\n",
			[]string{`line 1: .steps[0].volumes: volume "vol" is only used by one step`}},
		{"reserved, relative and clashing volume paths",
			"steps:\n- name: b\n  volumes: [{name: aa, path: /workspace}, {name: bb, path: v}, {name: aa, path: /v}]\n- name: b\n  volumes: [{name: aa, path: /v}, {name: bb, path: /w}]\n",
			[]string{`line 3: .steps[0].volumes[0]: volume path "/workspace" is reserved`, `line 3: .steps[0].volumes[1]: volume path "v" must be absolute`,
				`line 3: .steps[0].volumes[2]: volume "aa" at "/v" clashes with another volume of the step or of options.volumes`}},
		{"an undefined secret", "steps: [{name: b, secretEnv: [TOKEN]}]\n",
			[]string{`line 1: .steps[0].secretEnv[0]: secretEnv "TOKEN" is used without being defined in availableSecrets or secrets`}},
		{"an unused secret", oneStep + "availableSecrets: {secretManager: [{versionName: v, env: TOKEN}]}\n",
			[]string{`line 2: .availableSecrets.secretManager[0].env: secretEnv "TOKEN" is defined without being used`}},
		{"a secret that is also set in the open",
			"steps: [{name: b, secretEnv: [TOKEN], env: [TOKEN=x]}]\navailableSecrets: {secretManager: [{versionName: v, env: TOKEN}]}\n",
			[]string{`line 1: .steps[0].secretEnv: "TOKEN" is set by env and by secretEnv`}},
		{"several faults at once, in the order of the file", "steps:\n- name: b\n  arg: x\n- name: b\n  waitFor: [nowhere]\ntimeout: soon\n",
			[]string{"line 3: .steps[0].arg: unused (did you mean args?)", `line 5: .steps[1].waitFor[0]: no earlier step has the id "nowhere"`,
				`line 6: .timeout: "soon" is not a duration: write seconds, as in "1200s"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse([]byte(test.file))
			if diff := cmp.Diff(test.want, faultsOf(err)); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseReadsWhatGcloudReads(t *testing.T) {
	yes := true
	want := []Step{{
		ID: "a", Name: "builder", Args: []string{"build", "08", ""}, WaitFor: []string{"-"}, Timeout: 90 * time.Second, AllowFailure: true,
		AllowExitCodes: []int{3, 8}, AutomapSubstitutions: &yes, Env: []string{"A=b=c"},
	}}
	for _, test := range []struct{ name, file string }{
		{"camelCase", "steps: [{id: a, name: builder, args: [build, 08, ''], waitFor: ['-'], timeout: 90s, allowFailure: true, " +
			"allowExitCodes: [3, 8], automapSubstitutions: true, env: [A=b=c]}]\n"},
		{"snake_case", "steps: [{id: a, name: builder, args: [build, 08, ''], wait_for: ['-'], timeout: 90s, allow_failure: on, " +
			"allow_exit_codes: [3, 010], automap_substitutions: yes, env: ['A=b=c']}]\n"},
		{"JSON", `{"steps": [{"id": "a", "name": "builder", "args": ["build", "08", ""], "waitFor": ["-"], "timeout": "90s", "allowFailure": true,
			"allowExitCodes": [3, 8], "automapSubstitutions": true, "env": ["A=b=c"]}]}`},
		{"carriage returns and a byte order mark", "\ufeffsteps:\r\n- id: a\r\n  name: builder\r\n  args: [build, 08, '']\r\n  waitFor: ['-']\r\n  timeout: 90s\r\n" +
			"  allowFailure: true\r\n  allowExitCodes: [3, 8]\r\n  automapSubstitutions: true\r\n  env: [A=b=c]\r\n"},
		{"single values for lists", "steps: {id: a, name: builder, args: [build, 08, ''], waitFor: '-', timeout: 90s, allowFailure: true, " +
			"allowExitCodes: [3, 8], automapSubstitutions: true, env: A=b=c}\n"},
		{"nulls for absent fields", "steps: [{id: a, name: builder, args: [build, 08, ''], waitFor: ['-'], timeout: 90s, allowFailure: true, " +
			"allowExitCodes: [3, 8], automapSubstitutions: true, env: [A=b=c], dir: ~, volumes: }]\nimages:\n"},
		{"anchors and merge keys", "steps:\n- &a {id: x, name: builder, args: [build, 08, ''], waitFor: ['-'], timeout: 90s, dir: d}\n" +
			"- <<: [{allowFailure: true, dir: ~}, *a]\n  id: a\n  allowExitCodes: [3, 8]\n  automapSubstitutions: true\n  env: [A=b=c]\n"},
		{"a tag for a string", "steps: [{id: a, name: !!str builder, args: [build, !!str 08, ''], waitFor: ['-'], timeout: 90s, allowFailure: true, " +
			"allowExitCodes: [3, 8], automapSubstitutions: true, env: [A=b=c]}]\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := parse(t, test.file).Steps
			if diff := cmp.Diff(want, got[len(got)-1:]); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
		})
	}
}

func TestQuotedWordsAreStringsWhateverTheySay(t *testing.T) {
	b := parse(t, "steps: [{name: b, id: 'null', dir: \"~\", args: ['yes', \"1.10\", '']}]\nsubstitutions: {_A: ~, _B: '~'}\noptions: {disk_size_GB: '100'}\n")
	got := append([]string{b.Steps[0].ID, b.Steps[0].Dir, b.Substitutions["_A"], b.Substitutions["_B"]}, b.Steps[0].Args...)
	if diff := cmp.Diff([]string{"null", "~", "", "~", "yes", "1.10", ""}, got); diff != "" {
		t.Errorf("strings (-want +got):\n%s", diff)
	}
}

func TestParseWarns(t *testing.T) {
	for _, test := range []struct {
		name, file string
		want       []string
	}{
		{"of a single value for a list", "steps:\n- name: b\n  args: build\n",
			[]string{"line 3: .steps[0].args: a list is wanted: gcloud takes a single value as a list of one, a trigger may not"}},
		{"of a duration in minutes", oneStep + "timeout: 45m\n",
			[]string{`line 2: .timeout: triggers are known to take "45m", gcloud builds submit is not: write "2700s"`}},
		{"of a service account without a place for the log", oneStep + "serviceAccount: projects/p/serviceAccounts/a\n",
			[]string{"line 2: .serviceAccount: with a service account of its own a build must say where its log goes: set logsBucket, " +
				"options.defaultLogsBucketBehavior, or options.logging to CLOUD_LOGGING_ONLY or NONE"}},
		{"of nothing in a clean file", oneStep, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, w := range parse(t, test.file).Warnings {
				got = append(got, w.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLineTellsWhatTheFileHolds(t *testing.T) {
	b := parse(t, "steps:\n- name: b\n  script: echo\nartifacts:\n  oci:\n  - {registry_path: r, file: f, tags: [t]}\n")
	for path, want := range map[string]int{".steps[0].script": 3, ".artifacts.oci[0].registryPath": 6, ".artifacts": 4, ".images": 0, ".steps[0].args": 0} {
		if got := b.Line(path); got != want {
			t.Errorf("Line(%q) = %d, want %d", path, got, want)
		}
	}
}

func TestParseSurvivesAliasesThatMultiply(t *testing.T) {
	bomb := "steps: &a [{name: b, args: &x [l, l, l, l, l, l, l, l, l, l]}]\n"
	merges := "steps:\n- &m0 {name: b}\n"
	for i := range 25 { // 2^25 mappings
		merges += fmt.Sprintf("- &m%d {<<: [*m%d, *m%[2]d]}\n", i+1, i)
	}
	for name, file := range map[string]string{
		"a merge into itself":      "steps: [&a {<<: [*a, *a], name: b}]\n",
		"a list in itself":         "steps: &a [*a, *a]\n",
		"many aliases of a list":   bomb + "images: [" + strings.Repeat("*x, ", 5000) + "]\n",
		"merges that double":       merges,
		"a hundred thousand steps": "steps: [" + strings.Repeat("{name: b}, ", 60000) + "]\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(file)); err == nil {
				t.Error("Parse accepted the file")
			}
		})
	}
}

func TestNeedsAndWaves(t *testing.T) {
	for _, test := range []struct {
		name, file string
		needs      [][]int
		waves      [][]int
	}{
		{"steps without waitFor run one after the other", "steps: [{name: a}, {name: b}, {name: c}]\n", [][]int{nil, {0}, {1}}, [][]int{{0}, {1}, {2}}},
		{"a dash starts at once", "steps: [{name: a}, {name: b, waitFor: ['-']}, {name: c}]\n", [][]int{nil, nil, {0, 1}}, [][]int{{0, 1}, {2}}},
		{"an empty list is no list", "steps: [{name: a}, {name: b, waitFor: []}]\n", [][]int{nil, {0}}, [][]int{{0}, {1}}},
		{"ids are waited for, a dash beside them adds nothing",
			"steps: [{name: a, id: a}, {name: b, id: b, waitFor: ['-']}, {name: c, waitFor: [a, '-']}]\n", [][]int{nil, nil, {0}}, [][]int{{0, 1}, {2}}},
		{"what another need implies is left out",
			"steps: [{name: a, id: a}, {name: b, id: b, waitFor: [a]}, {name: c, waitFor: [a, b, a]}]\n", [][]int{nil, {0}, {1}}, [][]int{{0}, {1}, {2}}},
		{"a step after two branches joins them",
			"steps: [{name: a, id: a}, {name: b, waitFor: [a]}, {name: c, waitFor: [a]}, {name: d}]\n", [][]int{nil, {0}, {0}, {1, 2}}, [][]int{{0}, {1, 2}, {3}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := parse(t, test.file)
			if diff := cmp.Diff(test.needs, b.Needs()); diff != "" {
				t.Errorf("needs (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.waves, b.Waves()); diff != "" {
				t.Errorf("waves (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzParse looks for panics, and for files whose parts contradict each other.
func FuzzParse(f *testing.F) {
	f.Add([]byte(everyField))
	f.Add([]byte("steps: [&a {<<: *a, name: b, args: [$A, '${_B:-c}'], wait_for: '-'}]\nsubstitutions: {_B: ~}\n"))
	f.Add([]byte(`{"steps":[{"name":"b","allowExitCodes":[1]}],"timeout":"10.5s"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := Parse(data)
		if err != nil {
			return
		}
		for i, needs := range b.Needs() {
			for _, j := range needs {
				if j >= i {
					t.Errorf("step %d waits for step %d", i, j)
				}
			}
		}
		_, _ = b.Substitute(ModeSubmit, Values{})
		if s, err := b.Substitute(ModeTrigger, Values{}); err == nil && len(s.Steps) != len(b.Steps) {
			t.Errorf("%d steps became %d", len(b.Steps), len(s.Steps))
		}
		b.CheckContracts(nil, nil)
	})
}
