package cloudbuild

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const mainTrigger = `
name: backend-main
description: image of every commit on main
github:
  owner: acme
  name: backend
  push: {branch: ^main$}
filename: .cloudbuild/main.yaml
substitutions: {_REGION: europe-west1}
tags: [backend]
serviceAccount: projects/p/serviceAccounts/builder@p.iam.gserviceaccount.com
`

func trigger(t *testing.T, file string) *Trigger {
	t.Helper()
	tr, err := ParseTrigger([]byte(file))
	if err != nil {
		t.Fatalf("ParseTrigger: %v\n%s", err, file)
	}
	return tr
}

// As `gcloud builds triggers export` writes one that `gcloud builds triggers create github --pull-request-pattern` made.
func TestATriggerOnPullRequestsIsReadAsGcloudWritesIt(t *testing.T) {
	trigger, err := ParseTrigger([]byte(`
description: Messages and tests of a pull request
filename: .cloudbuild/pr.yaml
github:
  name: backend
  owner: example
  pullRequest:
    branch: ^main$
    commentControl: COMMENTS_ENABLED_FOR_EXTERNAL_CONTRIBUTORS_ONLY
name: backend-pr
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := trigger.GitHub.PullRequest.CommentControl; got != "COMMENTS_ENABLED_FOR_EXTERNAL_CONTRIBUTORS_ONLY" {
		t.Errorf("comment control %q", got)
	}
	if !trigger.Matches(Event{Repo: "example/backend", Kind: PullRequest, Ref: "main", HeadBranch: "topic"}) {
		t.Error("a pull request into main does not start it")
	}
}

func TestParseTriggerReadsTheFieldsOfGcloud(t *testing.T) {
	for _, file := range []string{mainTrigger, strings.Replace(mainTrigger, "serviceAccount:", "service_account:", 1)} {
		tr := trigger(t, file)
		got := []string{tr.Name, tr.Description, tr.GitHub.Owner, tr.GitHub.Name, tr.GitHub.Push.Branch, tr.Filename, tr.Substitutions["_REGION"], tr.Tags[0], tr.ServiceAccount}
		want := []string{"backend-main", "image of every commit on main", "acme", "backend", "^main$", ".cloudbuild/main.yaml", "europe-west1", "backend",
			"projects/p/serviceAccounts/builder@p.iam.gserviceaccount.com"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("trigger (-want +got):\n%s", diff)
		}
		if len(tr.Warnings) > 0 {
			t.Errorf("warnings %v, want none", tr.Warnings)
		}
	}
}

func TestParseTriggerRefuses(t *testing.T) {
	base := "name: t\nfilename: f\ngithub: {owner: o, name: r, push: {branch: ^main$}}\n"
	for _, test := range []struct {
		name, file string
		want       []string
	}{
		{"an unknown field", base + "fliename: g\n", []string{"line 4: .fliename: unused (did you mean filename?)"}},
		{"a field of the API that it could not honour", base + "webhookConfig: {secret: s}\ngithub_: 1\n",
			[]string{"line 4: .webhookConfig: only GitHub pushes and pull requests are supported here", "line 5: .github: the key stands twice"}},
		{"an inline build", base + "build: {steps: [{name: b}]}\n",
			[]string{"line 4: .build: inline builds are not supported here: name a build file with filename"}},
		{"comment control that does not exist", "name: t\nfilename: f\ngithub: {owner: o, name: r, pullRequest: {branch: ^main$, commentControl: COMMENTS_WELCOME}}\n",
			[]string{"line 3: .github.pullRequest.commentControl: \"COMMENTS_WELCOME\" is none of COMMENTS_DISABLED, COMMENTS_ENABLED, COMMENTS_ENABLED_FOR_EXTERNAL_CONTRIBUTORS_ONLY"}},
		{"a trigger without a name, a file and a repository", "description: d\n",
			[]string{".name: a trigger's name is 1 to 64 letters, digits and dashes, beginning and ending with a letter or digit",
				".filename: missing: the build file's path in the repository", ".github.owner: missing: the repository's owner", ".github.name: missing: the repository's name",
				".github: want either push or pullRequest"}},
		{"branch and tag at once", "name: t\nfilename: f\ngithub: {owner: o, name: r, push: {branch: a, tag: b}}\n",
			[]string{"line 3: .github.push: want either branch or tag"}},
		{"a pattern that is not RE2", "name: t\nfilename: f\ngithub: {owner: o, name: r, push: {tag: '^v(?!0)$'}}\n",
			[]string{"line 3: .github.push.tag: \"^v(?!0)$\" is not a regular expression (RE2): error parsing regexp: invalid or unsupported Perl syntax: `(?!`"}},
		{"a built-in substitution", base + "substitutions: {TAG_NAME: x}\n",
			[]string{"line 4: .substitutions.TAG_NAME: a substitution of one's own must match ^_[A-Z0-9_]+$"}},
		{"a payload binding", base + "substitutions: {_ACTOR: $(body.sender.login)}\n",
			[]string{"line 4: .substitutions._ACTOR: payload bindings, $(…), are not supported here"}},
		{"a bad file pattern", base + "includedFiles: ['[z-a]']\n", []string{`line 4: .includedFiles[0]: the pattern "[z-a]" is not valid`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseTrigger([]byte(test.file))
			if diff := cmp.Diff(test.want, faultsOf(err)); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

const manualTrigger = `
name: backend-merge-back
sourceToBuild: {uri: https://github.com/acme/backend, ref: refs/heads/main, repoType: GITHUB}
gitFileSource: {path: .cloudbuild/merge-back.yaml, uri: https://github.com/acme/backend, revision: refs/heads/main, repoType: GITHUB}
`

func TestAManualTriggerIsStartedByNoEvent(t *testing.T) {
	tr := trigger(t, manualTrigger)
	if !tr.Manual() || tr.GitHub.Owner+"/"+tr.GitHub.Name != "acme/backend" || tr.Filename != ".cloudbuild/merge-back.yaml" || len(tr.Warnings) > 0 {
		t.Errorf("%+v", tr)
	}
	for _, kind := range []EventKind{PushBranch, PushTag, PullRequest} {
		if tr.Matches(Event{Repo: "acme/backend", Kind: kind, Ref: "main"}) {
			t.Errorf("a %s starts it", kind)
		}
	}
	for _, change := range []struct{ from, to, want string }{
		{"refs/heads/main, repoType: GITHUB}\ngit", "main, repoType: GITHUB}\ngit", "line 3: .sourceToBuild.ref: want refs/heads/BRANCH or refs/tags/TAG"},
		{"uri: https://github.com/acme/backend, ref", "uri: https://github.com/acme, ref", "line 3: .sourceToBuild.uri: want https://github.com/OWNER/NAME"},
		{"path: .cloudbuild/merge-back.yaml, ", "", "line 4: .gitFileSource.path: missing: the build file's path in the repository"},
		{"name: ", "filename: f\nname: ", "line 2: .filename: the build file of a manual trigger is named by gitFileSource"},
		{"name: ", "github: {owner: o}\nname: ", "line 2: .github: a trigger listens to events or is manual (sourceToBuild), not both"},
		{"ref: refs/heads/main, repoType: GITHUB", "ref: refs/heads/main, repoType: GITLAB", "line 3: .sourceToBuild.repoType: only GITHUB is supported here"},
	} {
		broken := strings.Replace(manualTrigger, change.from, change.to, 1)
		_, err := ParseTrigger([]byte(broken))
		if diff := cmp.Diff([]string{change.want}, faultsOf(err)); broken == manualTrigger || diff != "" {
			t.Errorf("faults of\n%s\n(-want +got):\n%s", broken, diff)
		}
	}
}

func TestParseTriggerWarnsOfAPatternThatIsNotAnchored(t *testing.T) {
	for pattern, want := range map[string]int{"main": 1, "^main": 1, "main$": 1, "^main$": 0, "^(main|dev)$": 0} {
		tr := trigger(t, "name: t\nfilename: f\ngithub: {owner: o, name: r, push: {branch: '"+pattern+"'}}\n")
		if len(tr.Warnings) != want {
			t.Errorf("pattern %s: warnings %v, want %d", pattern, tr.Warnings, want)
		}
	}
}

func TestMatches(t *testing.T) {
	push, tag := Event{Repo: "o/r", Kind: PushBranch, Ref: "main"}, Event{Repo: "o/r", Kind: PushTag, Ref: "v1.0.0"}
	pr := Event{Repo: "o/r", Kind: PullRequest, Ref: "main", HeadBranch: "feature"}
	with := func(e Event, change func(*Event)) Event { change(&e); return e }
	for _, test := range []struct {
		name, listens, more string // listens: the filter under github; more: fields of the trigger
		event               Event
		want                bool
	}{
		{"a push to the branch", "push: {branch: ^main$}", "", push, true},
		{"a push to another branch", "push: {branch: ^main$}", "", with(push, func(e *Event) { e.Ref = "maintenance" }), false},
		{"a push to a branch whose name holds the pattern", "push: {branch: master}", "",
			with(push, func(e *Event) { e.Ref = "release-please/branches/master" }), true},
		{"a push in another repository", "push: {branch: ^main$}", "", with(push, func(e *Event) { e.Repo = "o/other" }), false},
		{"a push to a branch, listening to tags", "push: {tag: .*}", "", push, false},
		{"a tag", "push: {tag: '^v[0-9]+\\.'}", "", tag, true},
		{"a tag, listening to branches", "push: {branch: .*}", "", tag, false},
		{"an inverted pattern that matches", "push: {branch: ^main$, invertRegex: true}", "", push, false},
		{"an inverted pattern that does not match", "push: {branch: ^main$, invertRegex: true}", "", with(push, func(e *Event) { e.Ref = "dev" }), true},
		{"a pull request into the branch", "pullRequest: {branch: ^main$}", "", pr, true},
		{"a pull request from the branch", "pullRequest: {branch: ^feature$}", "", pr, false},
		{"a pull request with an inverted pattern", "pullRequest: {branch: ^main$, invertRegex: true}", "", pr, false},
		{"a push, listening to pull requests", "pullRequest: {branch: ^main$}", "", push, false},
		{"a pull request, listening to pushes", "push: {branch: ^main$}", "", pr, false},
		{"a disabled trigger", "push: {branch: ^main$}", "disabled: true", push, false},
		{"files of which one is included", "push: {branch: ^main$}", "includedFiles: ['charts/**', '*.yaml']",
			with(push, func(e *Event) { e.Files = []string{"README.md", "charts/a/b/Chart.yaml"} }), true},
		{"files of which none is included", "push: {branch: ^main$}", "includedFiles: ['charts/*', '*.yaml']",
			with(push, func(e *Event) { e.Files = []string{"README.md", "charts/a/values.yaml"} }), false},
		{"files that are all ignored", "push: {branch: ^main$}", "ignoredFiles: ['**/*.md']",
			with(push, func(e *Event) { e.Files = []string{"README.md", "docs/a/b.md"} }), false},
		{"a file that is not ignored", "push: {branch: ^main$}", "ignoredFiles: ['**/*.md']",
			with(push, func(e *Event) { e.Files = []string{"README.md", "main.go"} }), true},
		{"an included file that is ignored as well", "push: {branch: ^main$}", "includedFiles: ['docs/**']\nignoredFiles: ['**/*.md']",
			with(push, func(e *Event) { e.Files = []string{"docs/a.md", "main.go"} }), false},
		{"filters without known files do not count", "push: {branch: ^main$}", "includedFiles: ['charts/**']", push, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			tr := trigger(t, "name: t\nfilename: f\ngithub:\n  owner: o\n  name: r\n  "+test.listens+"\n"+test.more+"\n")
			if got := tr.Matches(test.event); got != test.want {
				t.Errorf("Matches(%+v) = %t, want %t", test.event, got, test.want)
			}
		})
	}
}

func TestBuiltInsOfAnEvent(t *testing.T) {
	base := Context{ProjectID: "acme-cloud", ProjectNumber: "123", Location: "europe-west1", BuildID: "b-1", TriggerName: "t", ConfigPath: ".cloudbuild/main.yaml",
		ServiceAccountEmail: "builder@acme-cloud.iam.gserviceaccount.com"}
	const sha = "0123456789abcdef0123456789abcdef01234567"
	common := map[string]string{"PROJECT_ID": "acme-cloud", "PROJECT_NUMBER": "123", "LOCATION": "europe-west1", "BUILD_ID": "b-1", "TRIGGER_NAME": "t",
		"TRIGGER_BUILD_CONFIG_PATH": ".cloudbuild/main.yaml", "SERVICE_ACCOUNT_EMAIL": "builder@acme-cloud.iam.gserviceaccount.com",
		"SERVICE_ACCOUNT": "projects/acme-cloud/serviceAccounts/builder@acme-cloud.iam.gserviceaccount.com",
		"COMMIT_SHA":      sha, "REVISION_ID": sha, "SHORT_SHA": "0123456", "REPO_NAME": "backend", "REPO_FULL_NAME": "acme/backend",
		"BRANCH_NAME": "", "TAG_NAME": "", "REF_NAME": ""}
	for _, test := range []struct {
		name  string
		event Event
		want  map[string]string
	}{
		{"a branch has no tag name", Event{Kind: PushBranch, Ref: "main"}, map[string]string{"BRANCH_NAME": "main", "REF_NAME": "main"}},
		{"a tag has no branch name", Event{Kind: PushTag, Ref: "v1.0.0"}, map[string]string{"TAG_NAME": "v1.0.0", "REF_NAME": "v1.0.0"}},
		{"a pull request is built on its own branch", Event{Kind: PullRequest, Ref: "main", HeadBranch: "feature", HeadRepoURL: "https://github.com/fork/backend", Number: 7},
			map[string]string{"BRANCH_NAME": "feature", "REF_NAME": "feature", "_HEAD_BRANCH": "feature", "_BASE_BRANCH": "main",
				"_HEAD_REPO_URL": "https://github.com/fork/backend", "_PR_NUMBER": "7"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := base
			c.Event = test.event
			c.Event.Repo, c.Event.Commit = "acme/backend", sha
			want := map[string]string{}
			for k, v := range common {
				want[k] = v
			}
			for k, v := range test.want {
				want[k] = v
			}
			if diff := cmp.Diff(want, c.BuiltIns()); diff != "" {
				t.Errorf("built-ins (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBuiltInsOfNothingAreAllEmpty(t *testing.T) {
	got := Context{}.BuiltIns()
	for k, v := range got {
		if v != "" {
			t.Errorf("%s = %q, want it empty", k, v)
		}
	}
	if len(got) != 16 {
		t.Errorf("%d built-ins, want the 16 of the documentation", len(got))
	}
}

func FuzzParseTrigger(f *testing.F) {
	f.Add([]byte(mainTrigger), "main")
	f.Add([]byte(manualTrigger), "main")
	f.Add([]byte("name: t\nfilename: f\ngithub: {owner: acme, name: backend, push: {tag: ., invert_regex: y}}\nignored_files: '**/[!a]?\\*'\n"), "v1")
	f.Fuzz(func(t *testing.T, data []byte, ref string) {
		tr, err := ParseTrigger(data)
		if err != nil {
			return
		}
		for _, kind := range []EventKind{PushBranch, PushTag, PullRequest} {
			e := Event{Repo: tr.GitHub.Owner + "/" + tr.GitHub.Name, Kind: kind, Ref: ref, Files: []string{ref}}
			if tr.Matches(e) && tr.Disabled {
				t.Error("a disabled trigger matches")
			}
		}
	})
}
