package rehearsal

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/githubapi"
)

// TestAHotfixIsMergedBack plays a hotfix with the example's files: its release reminds of the merge back, the weekly build opens the pull
// request, once, and is content when the branch is merged.
func TestAHotfixIsMergedBack(t *testing.T) {
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	w, err := Start(t.Context(), Options{Source: source, Dir: t.TempDir(), Log: &log})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	api := githubapi.Start(githubapi.Options{Token: w.token})
	defer api.Close()
	tree := filepath.Join(w.options.Dir, "developer", filepath.Base(serviceRepo))
	git := func(args ...string) string {
		t.Helper()
		out, err := w.runGit(t.Context(), tree, args...)
		if err != nil {
			t.Fatalf("git %s: %v", strings.Join(args, " "), err)
		}
		return out
	}
	// settled waits for the builds that an event started, and returns the last of a trigger.
	settled := func(since int, trigger string) *BuildRecord {
		t.Helper()
		builds, err := w.Settle(t.Context(), since)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range slices.Backward(builds) {
			if b.Err != nil {
				t.Fatalf("build %s of %s: %v\n%s", b.ID, b.Trigger.Name, b.Err, log.String())
			}
			if b.Trigger.Name == trigger {
				return b
			}
		}
		t.Fatalf("no build of %s\n%s", trigger, log.String())
		return nil
	}
	says := func(b *BuildRecord, want string) {
		t.Helper()
		text, err := os.ReadFile(b.Log)
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("the log of %s does not say %q (%v):\n%s", b.Trigger.Name, want, err, text)
		}
	}

	if _, err := w.Commit(t.Context(), "feat: go on", politely); err != nil {
		t.Fatal(err)
	}
	settled(0, "backend-main")
	git("checkout", "--quiet", "-b", "release-v1.0.1-login", "v1.0.0")
	if err := os.WriteFile(filepath.Join(tree, "login.txt"), []byte("open\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	git("add", "--all")
	git("commit", "--quiet", "--message", "fix: let people in")
	since := w.Builds()
	git("push", "--quiet", "origin", "release-v1.0.1-login")
	settled(since, "backend-main")

	since = w.Builds()
	git("tag", "v1.0.1")
	git("push", "--quiet", "origin", "v1.0.1")
	released := settled(since, "backend-release")
	says(released, "main lacks 1 commit of v1.0.1")
	if last := released.lastStep(); last.ID != "merge-back" || last.Status != "done" {
		t.Errorf("the last step of the release is %+v", last)
	}

	// Once a week Cloud Scheduler runs the manual trigger, which builds main.
	week := func() *BuildRecord {
		t.Helper()
		since := w.Builds()
		if err := w.byHand(t.Context(), "backend-merge-back", map[string]string{"_GITHUB_API": api.URL}); err != nil {
			t.Fatal(err)
		}
		return settled(since, "backend-merge-back")
	}
	says(week(), "opened a pull request")
	says(week(), "a pull request is open already")
	if pulls := api.Pulls(); len(pulls) != 1 || pulls[0].Head != "release-v1.0.1-login" || pulls[0].Base != "main" || !strings.Contains(pulls[0].Body, "let people in") {
		t.Errorf("pull requests: %+v", pulls)
	}
	git("checkout", "--quiet", "main")
	git("merge", "--quiet", "--no-edit", "release-v1.0.1-login")
	since = w.Builds()
	git("push", "--quiet", "origin", "main")
	settled(since, "backend-main")
	says(week(), "main has all of release-v1.0.1-login")
}
