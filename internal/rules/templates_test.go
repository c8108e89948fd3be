package rules

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/cloudbuild"
)

// contracts asks every step's program what it reads.
func contracts(t *testing.T) map[string]cloudbuild.StepContract {
	t.Helper()
	all := map[string]cloudbuild.StepContract{}
	for _, step := range steps(t) {
		out, err := exec.CommandContext(t.Context(), binary(t, step), "-describe").Output()
		if err != nil {
			t.Fatal(err)
		}
		var c cloudbuild.StepContract
		if err := json.Unmarshal(out, &c); err != nil {
			t.Fatal(err)
		}
		all[step] = c
	}
	return all
}

// template is a build file together with the trigger that starts it.
type template struct {
	path    string
	text    string
	trigger *cloudbuild.Trigger
}

// templates reads the triggers of examples/ and the build files that they name.
func templates(t *testing.T) []template {
	t.Helper()
	examples := filepath.Join(repoRoot(t), "examples")
	list := triggered(t, examples, func(trigger *cloudbuild.Trigger) string {
		return filepath.Join(examples, trigger.GitHub.Name, trigger.Filename)
	})
	if len(list) < 3 {
		t.Fatalf("only %d triggers", len(list))
	}
	return list
}

// triggered reads the triggers below a folder, and the build file of each.
func triggered(t *testing.T, folder string, buildFile func(*cloudbuild.Trigger) string) []template {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "triggers", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var list []template
	for _, f := range files {
		trigger, err := cloudbuild.ParseTrigger([]byte(readFile(t, f)))
		if err != nil {
			t.Fatalf("%s: %v", filepath.Base(f), err)
		}
		for _, w := range trigger.Warnings {
			t.Errorf("%s: %s", filepath.Base(f), w)
		}
		path := filepath.Join(trigger.GitHub.Name, trigger.Filename)
		list = append(list, template{path, readFile(t, buildFile(trigger)), trigger})
	}
	return list
}

func (tt template) check(t *testing.T, text string) error {
	t.Helper()
	build, err := cloudbuild.Parse([]byte(text))
	if err != nil {
		return err
	}
	for _, w := range build.Warnings {
		t.Errorf("%s: %s", tt.path, w)
	}
	if faults := build.CheckContracts(contracts(t), tt.trigger.Substitutions); len(faults) > 0 {
		return faults
	}
	_, err = build.Substitute(cloudbuild.ModeTrigger, cloudbuild.Values{BuiltIn: cloudbuild.Context{}.BuiltIns(), Given: tt.trigger.Substitutions})
	return err
}

func TestTemplatesFitTheSteps(t *testing.T) {
	used := map[string]bool{}
	for _, tt := range templates(t) {
		t.Run(tt.path, func(t *testing.T) {
			if err := tt.check(t, tt.text); err != nil {
				t.Error(err)
			}
		})
		for _, step := range steps(t) {
			used[step] = used[step] || strings.Contains(tt.text, "/"+step+":")
		}
	}
	for _, step := range steps(t) {
		if !used[step] {
			t.Errorf("no template uses %s", step)
		}
	}
}

// The suite releases itself with its own steps: every step's image is tagged by each pipeline that tags.
func TestTheSuitesOwnPipelinesFitTheSteps(t *testing.T) {
	root := repoRoot(t)
	list := triggered(t, filepath.Join(root, "cloudbuild"), func(trigger *cloudbuild.Trigger) string { return filepath.Join(root, trigger.Filename) })
	if len(list) != 3 {
		t.Fatalf("%d triggers", len(list))
	}
	for _, tt := range list {
		t.Run(tt.path, func(t *testing.T) {
			if err := tt.check(t, tt.text); err != nil {
				t.Error(err)
			}
			for _, step := range steps(t) {
				if strings.Contains(tt.text, "tag-image:") && !strings.Contains(tt.text, "IMAGE=$_STEPS/"+step) {
					t.Errorf("the image of %s is not tagged", step)
				}
			}
		})
	}
}

// With ALLOW_LOOSE, which triggers always have, Cloud Build itself is silent about every one of these.
func TestATypoInATemplateIsFoundByName(t *testing.T) {
	for _, typo := range []struct{ file, from, to, want string }{
		{"release.yaml", "ACCOUNTS=", "ACCOUNT=", "ACCOUNT"},
		{"release.yaml", "CONFIG_REPO=$_CONFIG_REPO", "CONFIG_REPOSITORY=$_CONFIG_REPO", "CONFIG_REPOSITORY"},
		{"main.yaml", "SOURCE=image.tar", "SOURCES=image.tar", "SOURCES"},
		{"main.yaml", "IMAGE=$_IMAGE, SOURCE", "SOURCE", "IMAGE"},
		{"deploy.yaml", "GKE_CLUSTER=$_GKE_CLUSTER", "GKE_CLUSTERZ=$_GKE_CLUSTER", "GKE_CLUSTERZ"},
	} {
		t.Run(typo.to, func(t *testing.T) {
			found := false
			for _, tt := range templates(t) {
				broken := strings.ReplaceAll(tt.text, typo.from, typo.to)
				if filepath.Base(tt.path) != typo.file || broken == tt.text {
					continue
				}
				found = true
				trigger := *tt.trigger
				if typo.want == "IMAGE" { // what automapping would deliver all the same
					trigger.Substitutions = map[string]string{}
					for k, v := range tt.trigger.Substitutions {
						if k != "_IMAGE" {
							trigger.Substitutions[k] = v
						}
					}
				}
				tt.trigger = &trigger
				err := tt.check(t, broken)
				if err == nil || !strings.Contains(fmt.Sprint(err), typo.want) {
					t.Errorf("%s: error %v does not name %s", tt.path, err, typo.want)
				}
			}
			if !found {
				t.Errorf("no %s holds %q", typo.file, typo.from)
			}
		})
	}
}
