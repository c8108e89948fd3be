package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/artifactregistry"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/badrelease"
)

// push pushes a sample under a release's tag.
func push(t *testing.T, w *badrelease.World, tags ...string) artifactregistry.Sample {
	t.Helper()
	s, err := artifactregistry.PushSample(t.Context(), w.Image, tags...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tagOf is the tag that an account is on, in the config repo.
func tagOf(w *badrelease.World, account string) string {
	_, rest, _ := strings.Cut(w.File("accounts/"+account+"/backend.yaml"), " tag: ")
	tag, _, _ := strings.Cut(rest, " ")
	return tag
}

func TestThePlanNamesEveryAccountTagAndIndexAndChangesNothing(t *testing.T) {
	w := badrelease.New(t)
	putIndex(t, w, "other", w.Bad.Children[0])
	before, head := w.Versions(), w.Git("ls-remote", "origin", "refs/heads/main")
	r := w.Want(0, "rollback-version", "DRY_RUN=true")
	var got []string
	for _, item := range r.Out["returned"].([]any) {
		m := item.(map[string]any)
		got = append(got, fmt.Sprintf("%s %s %s %s %s", m["account"], m["file"], m["policy"], m["from"], m["to"]))
	}
	slices.Sort(got)
	want := []string{
		"birch accounts/birch/backend.yaml flux-system:backend-production v2.0.0 v1.0.0",
		"cedar accounts/cedar/backend.yaml flux-system:backend-production v2.0.0 v1.0.0",
		"maple accounts/maple/backend.yaml flux-system:backend-production v2.0.0 v1.0.0",
		"orchid accounts/orchid/backend.yaml flux-system:backend-uat v2.0.0 v1.0.0",
		"willow accounts/willow/backend.yaml flux-system:backend-uat v2.0.0 v1.0.0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("returned\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if fmt.Sprint(r.Out["tags"]) != "[main-1111111-1700000100]" || len(r.Out["indexes"].([]any)) != 1 || r.Out["digest"] != w.Bad.Root {
		t.Errorf("tags %v, indexes %v, digest %v", r.Out["tags"], r.Out["indexes"], r.Out["digest"])
	}
	for _, line := range []string{"another tag is on the same image tag=main-1111111-1700000100", "another index lists parts of it, which stay", "accounts/maple/backend.yaml:", "would back up", "would hold and return"} {
		if !strings.Contains(r.Stderr, line) {
			t.Errorf("the plan does not say %q:\n%s", line, r.Stderr)
		}
	}
	if !slices.Equal(w.Versions(), before) || w.Git("ls-remote", "origin", "refs/heads/main") != head {
		t.Error("something was changed")
	}
}

// An index that lists the whole image, such as one of several services.
func TestAnImageThatAnotherIndexListsLosesOnlyItsTag(t *testing.T) {
	w := badrelease.New(t)
	putIndex(t, w, "all-services", w.Bad.Root)
	w.Want(0, "rollback-version")
	r := w.Want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	w.Has(w.Bad, true)
	if on := w.Registry.Tags(t.Context(), w.Path); on["v2.0.0"] != "" || on["main-1111111-1700000100"] != w.Bad.Root {
		t.Errorf("the tags are on %v", on)
	}
	if !strings.Contains(r.Stderr, "another index lists the image: only the tag is taken off") {
		t.Error(r.Stderr)
	}
}

func TestNothingIsDeletedWhileAnAccountStillRunsIt(t *testing.T) {
	w := badrelease.New(t)
	w.Want(0, "rollback-version")
	w.Git("pull", "--quiet")
	w.Edit(func(name, text string) string {
		if name == "accounts/cedar/backend.yaml" { // Flux, say, wrote it again
			return strings.NewReplacer("tag: v1.0.0", "tag: v2.0.0", w.Old.Root, w.Bad.Root).Replace(text)
		}
		return text
	})
	w.Push()
	before, on := w.Versions(), fmt.Sprint(w.Registry.Tags(t.Context(), w.Path))
	unchanged := func() {
		t.Helper()
		if !slices.Equal(w.Versions(), before) || fmt.Sprint(w.Registry.Tags(t.Context(), w.Path)) != on {
			t.Error("something was deleted")
		}
	}
	r := w.Want(3, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	if !strings.Contains(r.Stderr, "accounts/cedar/backend.yaml:") || !strings.Contains(r.Stderr, "fix: run STAGE=return and deploy") {
		t.Error(r.Stderr)
	}
	unchanged()
	w.Want(0, "rollback-version")

	// The config repo is right, and the deployment of it failed: the cluster may still run the version.
	report := filepath.Join(w.Dir, ".release", "deploy-helm.json")
	if err := os.WriteFile(report, []byte(`{"schema":"cloudbuild-steps/deploy-helm/v1","build_id":"","status":"failed","reason":"1 failed"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r = w.Want(3, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	if !strings.Contains(r.Stderr, "deploy-helm did not succeed in this build (1 failed)") || !strings.Contains(r.Stderr, "fix: mend the deployment") {
		t.Error(r.Stderr)
	}
	unchanged()
	w.Want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true", "FORCE=true")
	w.Has(w.Bad, false)
}

// The version before is chosen for each account as bump-config chooses: by the policy's range and order, from the tags that its
// ImageRepository lets through, without what is held, and not against a decision of the gate. A suspended policy stops automation; a roll
// back is a person's decision.
func TestEachAccountReturnsToTheNewestOlderVersionThatItsPolicyTheHoldsAndTheGateAdmit(t *testing.T) {
	w := badrelease.New(t)
	decided := push(t, w, "v1.2.0")
	push(t, w, "v1.4.0") // excluded below
	push(t, w, "v1.5.0") // held
	push(t, w, "v3.0.0") // newer than the bad one
	w.Edit(func(name, text string) string {
		if name != "clusters/images/backend.yaml" {
			return text
		}
		text = strings.Replace(text, "  interval: 5m\n", "  interval: 5m\n  exclusionList: ['^v1\\.4']\n", 1)
		return strings.Replace(text, "  name: backend-uat\n  namespace: flux-system\nspec:\n", "  name: backend-uat\n  namespace: flux-system\nspec:\n  suspend: true\n", 1)
	})
	for name, text := range map[string]string{
		"holds.yaml": "holds:\n- service: backend\n  version: v1.5.0\n  reason: slow\n  who: ada\n  when: 2026-11-01T00:00:00Z\n",
		"decisions/backend/v1.2.0.json": fmt.Sprintf(`{"version":"v1.2.0","service":"backend","image":%q,"digest":%q,"channel":"production","inventory_sha256":%q,"region":"",
			"allowed":[{"account":"orchid","region":"europe-west1","reason":"x"},{"account":"willow","region":"us-central1","reason":"x"},{"account":"maple","region":"europe-west1","reason":"x"},{"account":"birch","region":"europe-west1","reason":"x"}],
			"held":[{"account":"cedar","region":"us-central1","reason":"frozen"}]}`, w.Image, decided.Root, strings.Repeat("0", 64)),
	} {
		path := filepath.Join(w.Config, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.Push()
	r := w.Want(0, "rollback-version")
	for account, want := range map[string]string{"orchid": "v1.2.0", "willow": "v1.2.0", "maple": "v1.2.0", "birch": "v1.2.0", "cedar": "v1.0.0"} {
		if got := tagOf(w, account); got != want {
			t.Errorf("%s is on %s, want %s", account, got, want)
		}
	}
	if r.Stdout != "v1.0.0,v1.2.0" {
		t.Errorf("stdout %q", r.Stdout)
	}
}

func TestAPersonMayNameTheVersionToReturnTo(t *testing.T) {
	w := badrelease.New(t)
	push(t, w, "v1.2.0")
	r := w.Want(1, "rollback-version", "PREVIOUS=v1.1.0")
	if !strings.Contains(r.Stderr, "PREVIOUS v1.1.0 is not in the registry") || !strings.Contains(r.Stderr, "set PREVIOUS") || w.On() != "v2.0.0" {
		t.Errorf("accounts on %s: %s", w.On(), r.Stderr)
	}
	if w.Holds() != 1 {
		t.Error("it is not held: automation would go on delivering it")
	}
	w.Want(0, "rollback-version", "PREVIOUS=v1.0.0")
	if w.On() != "v1.0.0" || w.Holds() != 1 {
		t.Errorf("accounts on %s, %d holds", w.On(), w.Holds())
	}
}

func TestWithoutAnOlderVersionTheBadOneIsHeldAndKept(t *testing.T) {
	w := badrelease.New(t)
	w.Edit(func(_, text string) string { return strings.ReplaceAll(text, "'>=1.0.0", "'>=2.0.0") })
	w.Push()
	r := w.Want(1, "rollback-version")
	if !strings.Contains(r.Stderr, "the registry has no version before v2.0.0 that policy flux-system:backend-") || !strings.Contains(r.Stderr, ": fix: change them by hand, or set PREVIOUS") {
		t.Error(r.Stderr)
	}
	if w.On() != "v2.0.0" || w.Holds() != 1 {
		t.Errorf("accounts on %s, %d holds", w.On(), w.Holds())
	}
	w.Want(3, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	w.Has(w.Bad, true)
}

// A permission that is missing is named, with the role that has it, and whom to ask for those that can delete.
func TestMissingPermissionsAreNamedWithTheirRole(t *testing.T) {
	w := badrelease.New(t)
	w.Want(0, "rollback-version")
	for name, c := range map[string]struct {
		method, path string
		role, ask    string
	}{
		"artifactregistry.tags.list":        {"GET", "/tags", "roles/artifactregistry.reader", "grant the build's service account"},
		"artifactregistry.versions.list":    {"GET", "/versions", "roles/artifactregistry.reader", "grant the build's service account"},
		"artifactregistry.repositories.get": {"GET", "/repositories/services", "roles/artifactregistry.reader", "grant the build's service account"},
		"artifactregistry.versions.delete":  {"DELETE", "/versions/", "roles/artifactregistry.repoAdmin", "ask whoever approves releases"},
		"artifactregistry.tags.delete":      {"DELETE", "/tags/", "roles/artifactregistry.repoAdmin", "ask whoever approves releases"},
	} {
		t.Run(name, func(t *testing.T) {
			w.Registry.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
				api, isAPI := strings.CutPrefix(r.URL.Path, "/v1/")
				fits := strings.HasSuffix(api, c.path) || strings.HasSuffix(c.path, "/") && strings.Contains(api, c.path)
				if !isAPI || r.Method != c.method || !fits {
					return false
				}
				rw.Header().Set("Content-Type", "application/json")
				rw.WriteHeader(http.StatusForbidden)
				_, _ = rw.Write([]byte(`{"error":{"code":403,"status":"PERMISSION_DENIED","message":"Permission denied"}}`))
				return true
			})
			defer w.Registry.Intercept(nil)
			r := w.Want(1, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
			_, fix, _ := strings.Cut(r.Stderr, ": fix: ")
			if !strings.Contains(r.Stderr, "(needs "+name+")") || !strings.Contains(fix, c.ask) || !strings.Contains(fix, c.role) || !strings.Contains(fix, name) {
				t.Error(r.Stderr)
			}
			if strings.HasPrefix(name, "artifactregistry.versions.d") {
				w.Want(0, "restore-version") // the tags were deleted
				w.Want(0, "rollback-version")
				return
			}
			w.Has(w.Bad, true)
		})
	}
}
