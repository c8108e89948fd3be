package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/artifactregistry"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/badrelease"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/ociregistry"
)

func TestMain(m *testing.M) { badrelease.Main(m) }

func TestTheFullCircle(t *testing.T) {
	w := badrelease.New(t)
	r := w.Want(0, "rollback-version")
	if r.Stdout != "v1.0.0" || w.On() != "v1.0.0" {
		t.Fatalf("live: %q, accounts on %s\n%s", r.Stdout, w.On(), r.Stderr)
	}
	if !strings.Contains(w.File("holds.yaml"), "charges twice") || r.Out["backup"] != w.Backup || r.Out["backup_bytes"] == 0.0 {
		t.Errorf("hold %q, out %v", w.File("holds.yaml"), r.Out)
	}
	if !strings.Contains(w.File("accounts/maple/backend.yaml"), w.Old.Root) {
		t.Error("the digest did not go back")
	}
	for range 2 { // automation runs and does not undo it
		if r := w.Run("bump-config", "DIGEST="+w.Bad.Root); r.Code != 3 || w.On() != "v1.0.0" {
			t.Fatalf("bump-config ended with %d, accounts on %s: %s", r.Code, w.On(), r.Stderr)
		}
	}
	w.Want(0, "rollback-version") // again: nothing to do

	r = w.Want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	w.Has(w.Bad, false)
	w.Has(w.Old, true)
	if r.Out["tombstone"] != "deleted-v2.0.0" || r.Stdout != "v1.0.0" {
		t.Errorf("%v", r.Out)
	}
	w.Want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	if err := w.Registry.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}

	if r = w.Want(0, "restore-version", "DRY_RUN=true"); !strings.Contains(r.Stderr, "would restore") || !strings.Contains(w.File("holds.yaml"), "v2.0.0") {
		t.Errorf("the plan: %s", r.Stderr)
	}
	w.Has(w.Bad, false)
	r = w.Want(0, "restore-version")
	if r.Out["digest"] != w.Bad.Root || strings.Contains(w.File("holds.yaml"), "v2.0.0") {
		t.Errorf("%v; holds: %s", r.Out, w.File("holds.yaml"))
	}
	w.Has(w.Bad, true)
	w.Want(0, "restore-version")
	w.Want(0, "bump-config", "DIGEST="+w.Bad.Root)
	if w.On() != "v2.0.0" {
		t.Errorf("accounts on %s", w.On())
	}
}

func TestOnlyTheTagGoesWhenOtherTagsAreOnTheImage(t *testing.T) {
	w := badrelease.New(t)
	w.Want(0, "rollback-version")
	r := w.Want(0, "rollback-version", "STAGE=delete")
	w.Has(w.Bad, true)
	deleted := r.Out["deleted"].(map[string]any)
	if fmt.Sprint(deleted["tags"]) != "[v2.0.0]" || fmt.Sprint(deleted["versions"]) != "[]" || fmt.Sprint(r.Out["tags"]) != "[main-1111111-1700000100]" {
		t.Errorf("%v", r.Out)
	}
	// Without a backup, as the image is still there.
	r = w.Want(0, "restore-version", "BACKUP=")
	if r.Out["digest"] != w.Bad.Root {
		t.Errorf("%v", r.Out)
	}
}

func TestALayoutInAFolderIsABackupToo(t *testing.T) {
	w := badrelease.New(t)
	folder := "BACKUP=" + filepath.Join(w.Dir, "kept")
	w.Want(0, "rollback-version", folder)
	w.Want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true", folder)
	w.Has(w.Bad, false)
	if err := w.Registry.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Want(0, "restore-version", folder)
	w.Has(w.Bad, true)
}

// Without Artifact Registry's API: deletions by the registry protocol, at a registry that allows them.
func TestAPlainRegistryLosesTheImageAndGetsItBack(t *testing.T) {
	registry, err := ociregistry.Start(t.Context(), ociregistry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Close() })
	w := badrelease.New(t)
	image := registry.Host + "/services/backend"
	if _, err := artifactregistry.PushSample(t.Context(), image, "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	bad, err := artifactregistry.PushSample(t.Context(), image, "v2.0.0", "main-1111111-1700000100")
	if err != nil {
		t.Fatal(err)
	}
	w.Edit(func(_, text string) string {
		return strings.ReplaceAll(strings.ReplaceAll(text, w.Image, image), w.Bad.Root, bad.Root)
	})
	w.Push()
	there := func() (n int) {
		for _, digest := range bad.All() {
			ref, err := name.NewDigest(image + "@" + digest)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := remote.Head(ref); err == nil {
				n++
			}
		}
		return n
	}
	here := []string{"IMAGE=" + image, "ARTIFACT_REGISTRY_ENDPOINT=", "BACKUP=" + registry.Host + "/backup/backend"}
	w.Want(0, "rollback-version", here...)
	if w.On() != "v1.0.0" {
		t.Errorf("accounts on %s", w.On())
	}
	w.Want(0, "rollback-version", append(here, "STAGE=delete", "FORCE_DIGEST=true")...)
	if n := there(); n != 0 {
		t.Errorf("%d manifests are left", n)
	}
	w.Want(0, "restore-version", here...)
	if n := there(); n != len(bad.All()) {
		t.Errorf("%d manifests are back, of %d", n, len(bad.All()))
	}
}

// putIndex pushes an index that lists a manifest of the bad image, under a tag.
func putIndex(t *testing.T, w *badrelease.World, tag, digest string) {
	t.Helper()
	mediaType := "application/vnd.oci.image.manifest.v1+json"
	if digest == w.Bad.Root {
		mediaType = "application/vnd.oci.image.index.v1+json"
	}
	raw := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"%s","size":%d,"digest":"%s"}]}`,
		mediaType, w.Size(digest), digest)
	req, err := http.NewRequest(http.MethodPut, "http://"+w.Registry.Host+"/v2/"+w.Path+"/manifests/"+tag, strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status)
	}
}

func TestWhatAnotherIndexListsStays(t *testing.T) {
	w := badrelease.New(t)
	child := w.Bad.Children[0]
	putIndex(t, w, "other", child)
	w.Want(0, "rollback-version")
	r := w.Want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	have := w.Versions()
	if !slices.Contains(have, child) || slices.Contains(have, w.Bad.Root) || slices.Contains(have, w.Bad.Children[1]) {
		t.Errorf("left: %v\n%s", have, r.Stderr)
	}
	if len(r.Out["indexes"].([]any)) != 1 {
		t.Errorf("%v", r.Out["indexes"])
	}
}

// Every refusal says what to do, and changes nothing.
func TestRefusals(t *testing.T) {
	w := badrelease.New(t)
	before, head := w.Versions(), w.Git("rev-parse", "HEAD")
	refused := func(code int, text, fix, program string, env ...string) {
		t.Helper()
		r := w.Want(code, program, env...)
		if !strings.Contains(r.Stderr, text) || !strings.Contains(r.Stderr, ": fix: ") || !strings.Contains(r.Stderr, fix) {
			t.Errorf("%v: want %q and the advice %q:\n%s", env, text, fix, r.Stderr)
		}
	}
	refused(3, "still name the image", "STAGE=return", "rollback-version", "STAGE=delete")
	refused(3, "no tag v9.9.9", "VERSION", "rollback-version", "VERSION=v9.9.9")
	refused(2, "PREVIOUS", "", "rollback-version", "PREVIOUS=v3.0.0")
	refused(2, "BACKUP", "", "rollback-version", "BACKUP="+w.Image)
	refused(2, "REASON", "", "rollback-version", "REASON=")
	if r := w.Want(0, "rollback-version", "DRY_RUN=true"); !strings.Contains(r.Stderr, "v2.0.0 -> v1.0.0") || !strings.Contains(r.Stderr, "would back up") {
		t.Errorf("the plan: %s", r.Stderr)
	}
	w.Git("fetch", "--quiet", "origin")
	if !slices.Equal(w.Versions(), before) || w.Git("rev-parse", "origin/main") != head {
		t.Error("something was changed")
	}

	w.Want(0, "rollback-version", "BACKUP=")
	refused(3, "no backup", "BACKUP", "rollback-version", "STAGE=delete", "FORCE_DIGEST=true", "BACKUP=")
	w.Registry.Immutable(true)
	r := w.Want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	if !strings.Contains(r.Stderr, "immutable") || !slices.Equal(w.Versions(), before) {
		t.Errorf("immutable: %s", r.Stderr)
	}
	w.Registry.Immutable(false)
	w.Registry.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodDelete {
			return false
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusForbidden)
		_, _ = rw.Write([]byte(`{"error":{"code":403,"status":"PERMISSION_DENIED","message":"Permission denied"}}`))
		return true
	})
	refused(1, "artifactregistry.tags.delete", "approves releases", "rollback-version", "STAGE=delete")
}

// A place without a marker cannot be edited: the rest goes back, and the build fails so that somebody looks.
func TestWhatCannotBeEditedIsNamedAndKeepsTheImage(t *testing.T) {
	w := badrelease.New(t)
	if err := os.WriteFile(filepath.Join(w.Config, "job.yaml"), []byte("image: "+w.Image+":v2.0.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.Push()
	r := w.Want(1, "rollback-version")
	if w.On() != "v1.0.0" || !strings.Contains(r.Stderr, "job.yaml:1") || r.Out["status"] != "failed" {
		t.Errorf("accounts on %s: %s", w.On(), r.Stderr)
	}
	w.Want(3, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	w.Has(w.Bad, true)
	w.Want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true", "FORCE=true")
	w.Has(w.Bad, false)
}

func TestNoAccountReturnsToACandidateOrAHeldVersionUnlessItMay(t *testing.T) {
	w := badrelease.New(t)
	if _, err := artifactregistry.PushSample(t.Context(), w.Image, "v2.0.0-rc.1"); err != nil {
		t.Fatal(err)
	}
	w.Want(0, "rollback-version")
	uat, production := w.File("accounts/orchid/backend.yaml"), w.File("accounts/maple/backend.yaml")
	if !strings.Contains(uat, "tag: v2.0.0-rc.1 ") || !strings.Contains(production, "tag: v1.0.0 ") {
		t.Errorf("UAT: %s\nproduction: %s", uat, production)
	}
}

// A repo that says by its folders whose a file is, and whose branch takes signed commits only.
func TestFoldersSayWhoseAFileIsAndCommitsAreSigned(t *testing.T) {
	w := badrelease.New(t)
	if _, err := artifactregistry.PushSample(t.Context(), w.Image, "v2.0.0-rc.1"); err != nil {
		t.Fatal(err)
	}
	w.Edit(func(name, text string) string {
		account := filepath.Base(filepath.Dir(name))
		return strings.ReplaceAll(text, "account: "+account, "team: payments")
	})
	w.Push()
	key := filepath.Join(w.Dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	private, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.Dir, "signers"), append([]byte("robot@example.com "), public...), 0o644); err != nil {
		t.Fatal(err)
	}
	signed := func() {
		t.Helper()
		w.Git("fetch", "--quiet", "origin")
		w.Git("-c", "gpg.format=ssh", "-c", "gpg.ssh.allowedSignersFile="+filepath.Join(w.Dir, "signers"), "verify-commit", "origin/main")
	}
	env := []string{"ACCOUNT_PATH=accounts/{account}/", "SIGNING_KEY=" + string(private), "COMMIT_EMAIL=robot@example.com"}
	w.Want(0, "rollback-version", env...)
	uat, production := w.File("accounts/orchid/backend.yaml"), w.File("accounts/maple/backend.yaml")
	if !strings.Contains(uat, "tag: v2.0.0-rc.1 ") || !strings.Contains(production, "tag: v1.0.0 ") {
		t.Errorf("UAT: %s\nproduction: %s", uat, production)
	}
	signed()
	w.Want(0, "restore-version", env[1:]...)
	if w.Holds() != 0 {
		t.Error("it is still held")
	}
	signed()
}

func TestKilledAtEveryChangingCallItEndsInThePlannedState(t *testing.T) {
	for name, after := range map[string]bool{"before the call": false, "after the call": true} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			s, err := artifactregistry.Start(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			w := badrelease.NewAt(t, s)
			backupPath := strings.TrimPrefix(w.Backup, w.Registry.Host+"/")
			sound := func() {
				t.Helper()
				if n := w.Holds(); n > 1 {
					t.Errorf("%d holds", n)
				}
				have := w.Versions()
				if slices.ContainsFunc(w.Bad.All(), func(d string) bool { return !slices.Contains(have, d) }) {
					have = append(have, w.Registry.Versions(t.Context(), backupPath)...)
				}
				for _, d := range w.Bad.All() {
					if !slices.Contains(have, d) {
						t.Errorf("%s is gone, and not in the backup", d)
					}
				}
			}
			w.Killing(after, sound, "rollback-version")
			if w.On() != "v1.0.0" {
				t.Errorf("accounts on %s", w.On())
			}
			deaths := w.Killing(after, sound, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
			n := len(slices.DeleteFunc(deaths, func(key string) bool { return !strings.HasPrefix(key, "DELETE") }))
			if want := len(w.Bad.All()) + len(w.Bad.Tags) + 2; !after && n < want { // every manifest, the attachments' tags, and two of its own
				t.Errorf("%d deaths at deletions, want %d", n, want)
			}
			w.Has(w.Bad, false)
			w.Has(w.Old, true)
		})
	}
}
