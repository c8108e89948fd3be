package cloudbuild

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The vectors come from the tests of Google's archived local builder and from running it.
func TestReferencesAreReplacedAsTheServiceDoes(t *testing.T) {
	values := map[string]string{"_VAR": "World", "_": "underscore", "F": "f", "NF": "nf", "COMMIT_SHA": "abc", "_D": "$_VAR ${_VAR} $$"}
	for in, want := range map[string]string{
		"Hello $_VAR":                   "Hello World",
		"Hello $_VAR_FOO, $_VAR":        "Hello , World",
		"Hello $_VARfoo":                "Hello Worldfoo",
		"Hello ${_VAR}_FOO":             "Hello World_FOO",
		"Hello, 世界  FOO$_VAR":           "Hello, 世界  FOOWorld",
		"$_VAR$_VAR":                    "WorldWorld",
		"$$$_VAR":                       "$World",
		"$$_VAR":                        "$_VAR",
		"$${_VAR}_FOO, $_VAR":           "${_VAR}_FOO, World",
		"$$$$_VAR $$$_VAR, $_VAR":       "$$_VAR $World, World",
		`\$_VAR`:                        `\World`,
		"$foo ${foo} $(cmd) $1 $? $":    "$foo ${foo} $(cmd) $1 $? $",
		"${targets[@]} ${#_VAR}":        "${targets[@]} ${#_VAR}",
		"${_VAR:-x} ${_VAR":             "${_VAR:-x} ${_VAR",
		"${ _VAR } ${_VAR }":            "${ _VAR } ${_VAR }",
		"$Foo":                          "foo",
		"$_foo":                         "underscorefoo",
		"awk '{print $NF}'":             "awk '{print nf}'",
		"echo $$":                       "echo $",
		"$$$":                           "$$",
		"values are not looked at: $_D": "values are not looked at: $_VAR ${_VAR} $$",
		"$COMMIT_SHA-${COMMIT_SHA}":     "abc-abc",
		"":                              "",
	} {
		if got := substitute(in, func(key string) string { return values[key] }); got != want {
			t.Errorf("substitute(%q) = %q, want %q", in, got, want)
		}
	}
}

// The expectations are those of the bash manual, "Shell Parameter Expansion", and were compared with bash 5.2.
func TestDynamicValuesKnowBashExpansions(t *testing.T) {
	values := map[string]string{"_X": "v1.2.3", "_E": "", "_U": "aXbXc", "_P": "a/b/c", "_W": "世界", "_GLOB": "*.", "TAG_NAME": "v2.0.0", "BUILD_ID": "0123456789ab", "_NESTED": "n"}
	for _, test := range []struct{ in, want string }{
		{"eu.gcr.io/${TAG_NAME}:$_X", "eu.gcr.io/v2.0.0:v1.2.3"},
		{"${TAG_NAME//./-}", "v2-0-0"},
		{"${TAG_NAME%%.*}", "v2"},
		{"${TAG_NAME:-latest}", "v2.0.0"},
		{"${_E:-latest}", "latest"},
		{"${_E:-${_E:-${_NESTED}}}", "n"},
		{"${_X:+set}${_E:+set}", "set"},
		{"${BUILD_ID:0:8}", "01234567"},
		{"${_X: -3}", "2.3"},
		{"${_X: -3:2}", "2."},
		{"${_X:1:-2}", "1.2"},
		{"${_X:3:0}", ""},
		{"${_X:9}", ""},
		{"${_X: -9}", ""},
		{"${_W:1}", "界"},
		{"${_X%.*}", "v1.2"},
		{"${_X#*.}", "2.3"},
		{"${_X##*.}", "3"},
		{"${_X#v}", "1.2.3"},
		{"${_X#nothing}", "v1.2.3"},
		{"${_X%}", "v1.2.3"},
		{"${_X/2/two}", "v1.two.3"},
		{"${_X/.}", "v12.3"},
		{"${_X//}", "v1.2.3"},
		{"${_X/*/y}", "y"},
		{"${_E/*/y}", "y"},
		{"${_X//[.v]/}", "123"},
		{"${_X//[!0-9]/}", "123"},
		{"${_X//[[:alpha:]]/}", "1.2.3"},
		{"${_X/?/w}", "w1.2.3"},
		{`${_P//\//_}`, "a_b_c"},
		{`${_X//./\/}`, "v1/2/3"},
		{`${_X//./\\}`, `v1\2\3`},
		{`${_E:-a\}b}`, "a}b"},
		{"${_P/${_E:-a/b}/z}", "z/c"},
		{"${_P/a*b/z}", "z/c"},
		{"${_P#*/}", "b/c"},
		{"${_P##*/}", "c"},
		{"${_X##$_GLOB}", "3"},
		{"${_X^^}", "V1.2.3"},
		{"${_U,,}", "axbxc"},
		{"$$_X $${_X:-a}", "$_X ${_X:-a}"},
		{`\$_X`, `\v1.2.3`},
		{"$(cmd) $x ${x:-y} $", "$(cmd) $x ${x:-y} $"},
	} {
		got, err := expansion{func(key string) (string, error) { return values[key], nil }}.text(test.in)
		if err != nil || got != test.want {
			t.Errorf("%s = %q, %v, want %q", test.in, got, err, test.want)
		}
	}
}

func TestDynamicValuesRefuseWhatIsNotKnown(t *testing.T) {
	for in, want := range map[string]string{
		"${_X:=a}":         "the operator in ${_X:=a} is not supported: use :- :+ # ## % %% / // :offset:length ^^ or ,,",
		"${_X:?a}":         "the operator in ${_X:?a} is not supported: use :- :+ # ## % %% / // :offset:length ^^ or ,,",
		"${_X-a}":          "the operator in ${_X-a} is not supported: use :- :+ # ## % %% / // :offset:length ^^ or ,,",
		"${_X^}":           "the operator in ${_X^} is not supported: use :- :+ # ## % %% / // :offset:length ^^ or ,,",
		"${_X@Q}":          "the operator in ${_X@Q} is not supported: use :- :+ # ## % %% / // :offset:length ^^ or ,,",
		"${_X:}":           "the operator in ${_X:} is not supported: use :- :+ # ## % %% / // :offset:length ^^ or ,,",
		"${_X/#a/b}":       "replacement at one end only (/# and /%) is not supported",
		"${_X:a}":          `the offset "a" is not a number`,
		"${_X:1:a}":        `the length "a" is not a number`,
		"${_X:2:-5}":       "the length -5 ends before the offset 2",
		"${_X:-a":          "${_X:-a: the closing brace is missing",
		"${_X//[z-a]/}":    `the pattern "[z-a]" is not valid`,
		"${_LONG}${_LONG}": "the value grows longer than 4000 bytes",
		"${_LONG//?/ab}":   "the value grows longer than 4000 bytes",
	} {
		_, err := expansion{func(key string) (string, error) {
			if key == "_LONG" {
				return strings.Repeat("x", 3000), nil
			}
			return "value", nil
		}}.text(in)
		if err == nil || err.Error() != want {
			t.Errorf("%s: error %v, want %s", in, err, want)
		}
	}
}

const everyField = `
steps:
- id: id$_A
  name: name$_A
  entrypoint: entrypoint$_A
  args: [arg$_A, "${_A:-x}"]
  env: [ENV=$_A]
  dir: dir$_A
  secretEnv: [S_A]
- name: script
  script: script$_A
  waitFor: ['id$_A']
images: [image$_A]
tags: [tag$_A]
logsBucket: gs://$_A
serviceAccount: projects/$_A
options: {env: [GLOBAL=$_A], pool: {name: pool$_A}, substitutionOption: ALLOW_LOOSE, logging: NONE}
availableSecrets: {secretManager: [{versionName: version$_A, env: S_A}]}
substitutions: {_A: 1x}
`

func TestSubstitutionReachesTheFieldsThatTheServiceSubstitutes(t *testing.T) {
	b := parse(t, everyField)
	got, err := b.Substitute(ModeSubmit, Values{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"id$_A", "name1x", "entrypoint1x", "arg1x", "${_A:-x}", "ENV=1x", "dir1x", "S_A", "script$_A", "id$_A",
		"image1x", "gs://1x", "projects/1x", "GLOBAL=1x", "version1x"}
	s0, s1 := got.Steps[0], got.Steps[1]
	have := []string{s0.ID, s0.Name, s0.Entrypoint, s0.Args[0], s0.Args[1], s0.Env[0], s0.Dir, s0.SecretEnv[0], s1.Script, s1.WaitFor[0],
		got.Images[0], got.LogsBucket, got.ServiceAccount, got.Options.Env[0], got.AvailableSecrets.SecretManager[0].VersionName}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if b.Steps[0].Args[0] != "arg$_A" {
		t.Error("the build that was substituted has changed")
	}
}

func TestSubstituteRules(t *testing.T) {
	builtIn := map[string]string{"COMMIT_SHA": "abc", "BRANCH_NAME": "$_A${_B:-evil}", "PROJECT_ID": "p1", "_PR_NUMBER": "7"}
	for _, test := range []struct {
		name, file string // the file is that of one step whose args are ARGS
		args       string
		mode       Mode
		given      map[string]string
		want       string // the argument, or
		faults     []string
	}{
		{name: "a built-in without a value is empty", args: "[$TAG_NAME-]", want: "-"},
		{name: "a key that nobody knows is an error in a value", args: "[$_A]", mode: ModeTrigger, file: "substitutions: {_A: $NF}",
			faults: []string{`line 2: .substitutions._A: key in the template "NF" is not a valid built-in substitution (for $NF itself write $$NF)`}},
		{name: "a missing user key is an error where all must match", args: "[$_A]",
			faults: []string{`line 1: .steps[0].args[0]: key in the template "_A" is not matched in the substitution data`}},
		{name: "an unused user key is an error where all must match", args: "[x]", file: "substitutions: {_B: b}",
			faults: []string{`line 2: .substitutions._B: key "_B" in the substitution data is not matched in the template`}},
		{name: "a braced operator is no use of a key", args: "['${_B:-x}']", file: "substitutions: {_B: b}",
			faults: []string{`line 2: .substitutions._B: key "_B" in the substitution data is not matched in the template`}},
		{name: "a built-in given by hand must be used", args: "[x]", given: map[string]string{"TAG_NAME": "v1"},
			faults: []string{`.substitutions.TAG_NAME: key "TAG_NAME" in the substitution data is not matched in the template`}},
		{name: "automapSubstitutions uses all", args: "[x]", file: "substitutions: {_B: b}\noptions: {automapSubstitutions: true}", want: "x"},
		{name: "ALLOW_LOOSE allows both", args: "[a$_A]", file: "substitutions: {_B: b}\noptions: {substitutionOption: ALLOW_LOOSE}", want: "a"},
		{name: "a trigger allows both whatever the options say", args: "[a$_A]", mode: ModeTrigger,
			file: "substitutions: {_B: b}\noptions: {substitutionOption: MUST_MATCH}", want: "a"},
		{name: "a given value beats the file's", args: "[$_B]", file: "substitutions: {_B: b}", given: map[string]string{"_B": "given"}, want: "given"},
		{name: "a given value beats the event's", args: "[$COMMIT_SHA]", given: map[string]string{"COMMIT_SHA": "given"}, want: "given"},
		{name: "a given value beats that of a pull request", args: "[$_PR_NUMBER]", given: map[string]string{"_PR_NUMBER": "8"}, want: "8"},
		{name: "keys of a pull request are there", args: "[$_PR_NUMBER]", want: "7"},
		{name: "PROJECT_ID cannot be given", args: "[x]", given: map[string]string{"PROJECT_ID": "p"},
			faults: []string{"substitution PROJECT_ID is set by the service and cannot be given"}},
		{name: "a key of one's own begins with an underscore", args: "[x]", given: map[string]string{"MINE": "p"},
			faults: []string{`substitution key "MINE" does not respect format "^_[A-Z0-9_]+$" and is not an overridable built-in substitution`}},
		{name: "a given value of more than 4000 bytes", args: "[$_A]", given: map[string]string{"_A": strings.Repeat("x", 4001)},
			faults: []string{"substitution _A: a key is at most 100 bytes long, a value 4000", `line 1: .steps[0].args[0]: key in the template "_A" is not matched in the substitution data`}},
		{name: "submit does not look into values", args: "[$_B]", file: "substitutions: {_B: '${PROJECT_ID}/$_A'}", want: "${PROJECT_ID}/$_A"},
		{name: "submit looks into values with dynamicSubstitutions", args: "[$_B]",
			file: "substitutions: {_B: '$_C', _C: '${COMMIT_SHA:0:2}'}\noptions: {dynamicSubstitutions: true}", want: "ab"},
		{name: "a trigger looks into values, in any order", args: "[$_B]", mode: ModeTrigger,
			file: "substitutions: {_B: '$_C/${_D}', _D: '${_C}$PROJECT_ID', _C: c}", want: "c/cp1"},
		{name: "a trigger looks into the values that it gives", args: "[$_B]", mode: ModeTrigger, given: map[string]string{"_B": "${COMMIT_SHA}"}, want: "abc"},
		{name: "an event's values are never looked into", args: "[$_B]", mode: ModeTrigger, file: "substitutions: {_B: $BRANCH_NAME, _A: a}", want: "$_A${_B:-evil}"},
		{name: "a missing key in a value must match, too", args: "[$_B]", file: "substitutions: {_B: $_C}\noptions: {dynamicSubstitutions: true}",
			faults: []string{`line 2: .substitutions._B: key in the template "_C" is not matched in the substitution data`}},
		{name: "a fault in a value is reported once, where it is", args: "[$_A$_B]", mode: ModeTrigger, file: "substitutions:\n  _A: $_B\n  _B: '${PROJECT_ID:1:-2}'",
			faults: []string{"line 4: .substitutions._B: the length -2 ends before the offset 1"}},
		{name: "values that refer to each other", args: "[$_A]", mode: ModeTrigger, file: "substitutions:\n  _A: a$_B\n  _B: b$_A",
			faults: []string{"line 4: .substitutions._B: the value refers to itself, by way of _A, _B"}},
		{name: "values that multiply", args: "[$_A]", mode: ModeTrigger,
			file:   "substitutions: {_A: $_B$_B$_B$_B, _B: $_C$_C$_C$_C, _C: $_D$_D$_D$_D, _D: " + strings.Repeat("d", 1000) + "}",
			faults: []string{"line 2: .substitutions._B: the value grows longer than 4000 bytes"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := parse(t, "steps: [{name: builder, args: "+test.args+"}]\n"+test.file+"\n")
			got, err := b.Substitute(test.mode, Values{BuiltIn: builtIn, Given: test.given})
			if diff := cmp.Diff(test.faults, faultsOf(err)); diff != "" {
				t.Fatalf("faults (-want +got):\n%s", diff)
			}
			if err == nil && got.Steps[0].Args[0] != test.want {
				t.Errorf("argument %q, want %q", got.Steps[0].Args[0], test.want)
			}
		})
	}
}

func TestUndefinedListsWhatMustBeGiven(t *testing.T) {
	b := parse(t, "steps: [{name: $_STEPS/a, args: [$COMMIT_SHA, $_KNOWN, $$_ESCAPED, '${_LITERAL:-x}'], id: $_ID}]\nsubstitutions: {_KNOWN: '${_IN_VALUE//a/b}$_OTHER'}\n")
	if diff := cmp.Diff([]string{"_IN_VALUE", "_OTHER", "_STEPS"}, b.Undefined()); diff != "" {
		t.Errorf("undefined (-want +got):\n%s", diff)
	}
}

func TestImageNamesAreCheckedOnceTheyAreKnown(t *testing.T) {
	for name, ok := range map[string]bool{
		"gate-uat": true, "europe-docker.pkg.dev/my-project/steps/gate-uat:v1.0.0": true, "localhost:5000/a/b_c": true,
		"a@sha256:" + strings.Repeat("0", 64): true, "a:v1@sha256:" + strings.Repeat("0", 64): true, "$_IMAGE": true,
		"": false, "A": false, "a//b": false, "a b": false, "a:": false, "a@sha256:0": false, "$_NOTHING": false, "steps/$_NOTHING": false,
	} {
		b := parse(t, fmt.Sprintf("steps: [{name: %q}]\nsubstitutions: {_IMAGE: gcr.io/a/b}\n", "x"+name))
		b.document.root.Content[1].Content[0].Content[1].Value = name
		if _, err := b.Substitute(ModeTrigger, Values{}); (err == nil) != ok {
			t.Errorf("image name %q: error %v, want accepted: %t", name, err, ok)
		}
	}
}

func TestEnvOfAStep(t *testing.T) {
	file := `
steps:
- name: mapped
  env: [A=step, TAG_NAME=mine, EMPTY=, 'EQUALS=a=b']
  secretEnv: [TOKEN]
- name: not-mapped
  automapSubstitutions: false
options: {automapSubstitutions: true, env: [A=global, B=global], secretEnv: [GLOBAL_TOKEN]}
substitutions: {_REGION: europe, A_IS_NOT_ONE: x}
availableSecrets: {secretManager: [{versionName: v, env: TOKEN}, {versionName: v, env: GLOBAL_TOKEN}]}
`
	b := parse(t, strings.Replace(file, ", A_IS_NOT_ONE: x", "", 1))
	b, err := b.Substitute(ModeTrigger, Values{BuiltIn: map[string]string{"COMMIT_SHA": "abc", "TAG_NAME": "v1"}})
	if err != nil {
		t.Fatal(err)
	}
	want := Context{}.BuiltIns()
	for k, v := range map[string]string{"COMMIT_SHA": "abc", "TAG_NAME": "mine", "_REGION": "europe", "A": "step", "B": "global", "EMPTY": "", "EQUALS": "a=b"} {
		want[k] = v
	}
	if diff := cmp.Diff(want, b.Env(0)); diff != "" {
		t.Errorf("env with automapSubstitutions (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"A": "global", "B": "global"}, b.Env(1)); diff != "" {
		t.Errorf("env without automapSubstitutions (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"GLOBAL_TOKEN", "TOKEN"}, b.SecretEnv(0)); diff != "" {
		t.Errorf("secretEnv (-want +got):\n%s", diff)
	}
}

// FuzzSubstitute checks the scanner against two properties: text without a dollar sign stays as it is, and escaping every dollar sign gives the text back.
func FuzzSubstitute(f *testing.F) {
	for _, s := range []string{"$_A ${_B} $$ $x", "${_A//./-}", "${_A:-${_B:+$_C}}", `${_A/\//[}]}`, "${_A: -1}", "${_A##*[!a-z]}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		value := func(key string) string { return "<" + key + ">" }
		if got := substitute(s, value); !strings.Contains(s, "$") && got != s {
			t.Errorf("substitute(%q) = %q", s, got)
		}
		escaped := strings.ReplaceAll(s, "$", "$$")
		if got := substitute(escaped, value); got != s {
			t.Errorf("substitute(%q) = %q, want %q", escaped, got, s)
		}
		dynamic := expansion{func(key string) (string, error) { return value(key), nil }}
		if got, err := dynamic.text(s); err == nil && len(got) > maxValue {
			t.Errorf("the value of %q has %d bytes", s, len(got))
		} else if static := substitute(s, value); err == nil && !operation.MatchString(s) && got != static {
			t.Errorf("the value of %q is %q, in a field %q", s, got, static)
		}
	})
}
