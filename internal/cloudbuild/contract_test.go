package cloudbuild

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// contractsJSON is what -describe prints for two invented steps.
const contractsJSON = `[
{"name": "compute-version", "summary": "s", "doc": "d",
 "variables": [{"name": "PATHS", "doc": "d", "type": "list", "required": false, "secret": false}, {"name": "DRY_RUN", "type": "bool", "required": false, "secret": false, "frame": true}],
 "outputs": [{"name": "version", "env": "VERSION", "doc": "d", "type": "string"}], "exit_codes": [{"code": 0, "meaning": "done"}]},
{"name": "gate-uat",
 "variables": [
  {"name": "ACCOUNTS", "doc": "d", "type": "string", "default": "accounts.yaml", "required": false, "secret": false},
  {"name": "CONFIG_REPO", "type": "url", "required": true, "secret": false},
  {"name": "VERSION", "type": "version", "required": true, "secret": false, "from": ["TAG_NAME", "compute-version.version"]},
  {"name": "ON_EMPTY", "type": "string", "default": "refuse", "required": false, "secret": false, "choices": ["refuse", "ok"]},
  {"name": "GIT_TOKEN", "type": "secret", "required": false, "secret": true},
  {"name": "DRY_RUN", "type": "bool", "required": false, "secret": false, "frame": true}],
 "outputs": [], "exit_codes": []}]`

func contracts(t *testing.T) map[string]StepContract {
	t.Helper()
	var list []StepContract
	if err := json.Unmarshal([]byte(contractsJSON), &list); err != nil {
		t.Fatal(err)
	}
	all := map[string]StepContract{}
	for _, c := range list {
		all[c.Name] = c
	}
	return all
}

func TestCheckContracts(t *testing.T) {
	const (
		version = "- name: europe-docker.pkg.dev/p/steps/compute-version:v1\n"
		gate    = "- name: europe-docker.pkg.dev/p/steps/gate-uat@sha256:0000000000000000000000000000000000000000000000000000000000000000\n"
		secrets = "availableSecrets: {secretManager: [{versionName: v, env: GIT_TOKEN}]}\n"
	)
	for _, test := range []struct {
		name, file string
		given      map[string]string
		want       []string
	}{
		{name: "a complete step", file: "steps:\n" + gate + "  env: [CONFIG_REPO=https://g/c.git, VERSION=v1.0.0, ACCOUNTS=a.yaml, ON_EMPTY=ok, DRY_RUN=true, HOME=/tmp]\n" +
			"  secretEnv: [GIT_TOKEN]\n" + secrets},
		{name: "a typo in env", file: "steps:\n" + gate + "  env: [CONFIG_REPO=https://g/c.git, VERSION=v1.0.0, ACCOUNT=a.yaml]\n",
			want: []string{"line 3: .steps[0].env[2]: gate-uat does not know the variable ACCOUNT (did you mean ACCOUNTS?)"}},
		{name: "a typo in secretEnv", file: "steps:\n" + gate + "  env: [CONFIG_REPO=c, VERSION=v1.0.0]\n  secretEnv: [GIT_TOKE]\n" +
			"availableSecrets: {secretManager: [{versionName: v, env: GIT_TOKE}]}\n",
			want: []string{"line 4: .steps[0].secretEnv[0]: gate-uat does not know the variable GIT_TOKE (did you mean GIT_TOKEN?)"}},
		{name: "a typo in options.env where all steps are ours", file: "steps:\n" + version + "options: {env: [PATHES=a, DRY_RUN=true]}\n",
			want: []string{"line 3: .options.env[0]: no step knows the variable PATHES (did you mean PATHS?)"}},
		{name: "options.env beside a step that is not ours", file: "steps:\n" + version + "- name: docker\noptions: {env: [PATHES=a]}\n"},
		{name: "a typo in an automapped substitution", file: "steps:\n" + gate + "substitutions:\n  _CONFIG_REPO: c\n  _VERSION: v1.0.0\n  _ACCOUNT: a.yaml\n" +
			"options: {automapSubstitutions: true}\n",
			want: []string{"line 6: .substitutions._ACCOUNT: no field uses the substitution _ACCOUNT and no step knows such a variable (did you mean _ACCOUNTS?)"}},
		{name: "an automapped substitution that a field uses", file: "steps:\n" + gate + "  env: [ACCOUNTS=$_ACCOUNT]\nsubstitutions: {_CONFIG_REPO: c, _VERSION: '${_V:-v1}', _ACCOUNT: a.yaml, _V: v1}\n" +
			"options: {automapSubstitutions: true}\n"},
		{name: "required variables that nothing sets", file: "steps:\n" + gate,
			want: []string{"line 2: .steps[0]: gate-uat requires CONFIG_REPO, which nothing sets", "line 2: .steps[0]: gate-uat requires VERSION, which nothing sets"}},
		{name: "an empty value is unset", file: "steps:\n" + gate + "  env: [CONFIG_REPO=, VERSION=v1.0.0]\n",
			want: []string{"line 2: .steps[0]: gate-uat requires CONFIG_REPO, which nothing sets"}},
		{name: "a value from a substitution may be set", file: "steps:\n" + gate + "  env: [CONFIG_REPO=$_REPO, VERSION=$TAG_NAME]\n"},
		{name: "the name with an underscore", file: "steps:\n" + gate + "  env: [_CONFIG_REPO=c, _VERSION=v1.0.0]\n"},
		{name: "substitutions arrive by automapSubstitutions", file: "steps:\n" + gate + "  automapSubstitutions: true\nsubstitutions: {_CONFIG_REPO: c}\n"},
		{name: "substitutions do not arrive without it", file: "steps:\n" + gate + "substitutions: {_CONFIG_REPO: c, _VERSION: v1.0.0}\n",
			want: []string{"line 2: .steps[0]: gate-uat requires CONFIG_REPO, which nothing sets", "line 2: .steps[0]: gate-uat requires VERSION, which nothing sets"}},
		{name: "substitutions of the trigger arrive, too", file: "steps:\n" + gate + "  automapSubstitutions: true\n", given: map[string]string{"_CONFIG_REPO": "c"}},
		{name: "an empty substitution of the file that the trigger fills", file: "steps:\n" + gate + "  automapSubstitutions: true\nsubstitutions: {_CONFIG_REPO: }\n",
			given: map[string]string{"_CONFIG_REPO": "c"}},
		{name: "a fallback to a built-in that is passed on", file: "steps:\n" + gate + "  env: [CONFIG_REPO=c, TAG_NAME=$TAG_NAME]\n"},
		{name: "a fallback to the hand-over of an earlier step", file: "steps:\n" + version + gate + "  env: [CONFIG_REPO=c]\n"},
		{name: "no fallback to the hand-over of a step that may run later", file: "steps:\n" + version + gate + "  env: [CONFIG_REPO=c]\n  waitFor: ['-']\n",
			want: []string{"line 3: .steps[1]: gate-uat requires VERSION, which nothing sets"}},
		{name: "a value that is none of the choices", file: "steps:\n" + gate + "  env: [CONFIG_REPO=c, VERSION=v1.0.0, ON_EMPTY=fail]\n",
			want: []string{`line 3: .steps[0].env[2]: "fail" is no value of ON_EMPTY: use refuse, ok`}},
		{name: "an automapped value that is none of the choices",
			file: "steps:\n" + gate + "substitutions: {_CONFIG_REPO: c, _ON_EMPTY: fail}\noptions: {automapSubstitutions: true}\n",
			want: []string{`line 3: .substitutions._ON_EMPTY: "fail" is no value of ON_EMPTY: use refuse, ok`}},
		{name: "a choice that a substitution fills in", file: "steps:\n" + gate + "  env: [CONFIG_REPO=c, VERSION=v1.0.0, ON_EMPTY=$_X]\n"},
		{name: "a secret in env", file: "steps:\n" + gate + "  env: [CONFIG_REPO=c, VERSION=v1.0.0, GIT_TOKEN=$_TOKEN]\n",
			want: []string{"line 3: .steps[0].env[2]: GIT_TOKEN is a secret: name it in secretEnv, where no log and no build record shows it"}},
		{name: "a secret in an automapped substitution", file: "steps:\n" + gate + "substitutions: {_CONFIG_REPO: c, _GIT_TOKEN: t}\noptions: {automapSubstitutions: true}\n",
			want: []string{"line 3: .substitutions._GIT_TOKEN: GIT_TOKEN is a secret: name it in secretEnv, where no log and no build record shows it"}},
		{name: "a step whose image is a substitution", file: "steps:\n- name: ${_STEPS}/gate-uat:$_V\n- name: $_GATE\nsubstitutions: {_STEPS: gcr.io/p, _V: v1, _GATE: 'gcr.io/p/gate-uat:v1'}\n",
			want: []string{"line 2: .steps[0]: gate-uat requires CONFIG_REPO, which nothing sets", "line 2: .steps[0]: gate-uat requires VERSION, which nothing sets",
				"line 3: .steps[1]: gate-uat requires CONFIG_REPO, which nothing sets", "line 3: .steps[1]: gate-uat requires VERSION, which nothing sets"}},
		{name: "a step that is not ours", file: "steps: [{name: docker, env: [ACCOUNT=x]}]\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, f := range parse(t, test.file).CheckContracts(contracts(t), test.given) {
				got = append(got, f.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestImageBase(t *testing.T) {
	for image, want := range map[string]string{"gate-uat": "gate-uat", "localhost:5000/gate-uat": "gate-uat", "h/p/gate-uat:v1@sha256:00": "gate-uat", "h:1/a": "a", "a:v1": "a"} {
		if got := ImageBase(image); got != want {
			t.Errorf("ImageBase(%q) = %q, want %q", image, got, want)
		}
	}
}
