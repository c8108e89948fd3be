package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/artifactregistry"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/badrelease"
)

func TestMain(m *testing.M) { badrelease.Main(m) }

// deleted is a world in which the bad release was rolled back and deleted, with all that belongs to it.
func deleted(t *testing.T, env ...string) *badrelease.World {
	t.Helper()
	w := badrelease.New(t)
	w.Want(0, "rollback-version", env...)
	w.Want(0, "rollback-version", append(env, "STAGE=delete", "FORCE_DIGEST=true")...)
	w.Has(w.Bad, false)
	return w
}

func collect(t *testing.T, w *badrelease.World) {
	t.Helper()
	if err := w.Registry.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// back fails unless the very same image is there with all that belonged to it, its tags are on it, and nothing is held.
func back(t *testing.T, w *badrelease.World, r badrelease.Result) {
	t.Helper()
	w.Has(w.Bad, true)
	on := w.Registry.Tags(t.Context(), w.Path)
	for _, tag := range []string{"v2.0.0", "main-1111111-1700000100"} {
		if on[tag] != w.Bad.Root {
			t.Errorf("tag %s is on %q, want %s", tag, on[tag], w.Bad.Root)
		}
	}
	for _, tag := range w.Bad.Tags {
		if !slices.Contains(w.Bad.Attached, on[tag]) {
			t.Errorf("the attachments' tag %s is on %q", tag, on[tag])
		}
	}
	if n := w.Holds(); n != 0 {
		t.Errorf("%d holds", n)
	}
	if r.Stdout != "v2.0.0" || r.Out["digest"] != w.Bad.Root || r.Out["proven_bytes"] == 0.0 {
		t.Errorf("stdout %q, handed over %v", r.Stdout, r.Out)
	}
}

func TestBeforeGarbageCollectionNoContentIsSent(t *testing.T) {
	w := deleted(t)
	before := len(w.Registry.Requests())
	back(t, w, w.Want(0, "restore-version"))
	for _, request := range w.Registry.Requests()[before:] {
		if strings.HasPrefix(request, "PATCH ") || strings.HasPrefix(request, "PUT ") && strings.Contains(request, "/blobs/") {
			t.Errorf("content was sent: %s", request)
		}
	}
}

func TestAfterGarbageCollectionEveryByteIsBack(t *testing.T) {
	w := deleted(t)
	collect(t, w)
	back(t, w, w.Want(0, "restore-version"))
	collect(t, w) // all of it is reachable
	w.Has(w.Bad, true)
}

func TestAFolderGivesEverythingBackAfterGarbageCollection(t *testing.T) {
	folder := "BACKUP=" + filepath.Join(t.TempDir(), "kept")
	w := deleted(t, folder)
	collect(t, w)
	back(t, w, w.Want(0, "restore-version", folder))
}

// Registries with and without the referrers API, in every direction.
func TestReferrersComeBackWhicheverRegistryListsThem(t *testing.T) {
	for name, prefix := range map[string]string{"the image": "p/services/", "the backup": "p/backup/", "both": "p/"} {
		t.Run(name, func(t *testing.T) {
			s, err := artifactregistry.Start(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			s.Referrers(prefix)
			w := badrelease.NewAt(t, s)
			w.Want(0, "rollback-version")
			w.Want(0, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
			w.Has(w.Bad, false)
			w.Has(w.Old, true)
			if prefix == "p/services/" { // the collector knows nothing of the API that is played here, and takes a backup that only the API leads to
				collect(t, w)
			}
			back(t, w, w.Want(0, "restore-version"))
		})
	}
}

func TestASecondRunFindsNothingToDo(t *testing.T) {
	w := deleted(t)
	w.Want(0, "restore-version")
	w.Git("fetch", "--quiet", "origin")
	head, before := w.Git("rev-parse", "origin/main"), len(w.Registry.Requests())
	r := w.Want(0, "restore-version")
	back(t, w, r)
	w.Git("fetch", "--quiet", "origin")
	if w.Git("rev-parse", "origin/main") != head || r.Out["commit"] != "" || r.Out["unlocked"] != false {
		t.Errorf("a second commit: %v", r.Out)
	}
	for _, request := range w.Registry.Requests()[before:] {
		if strings.HasPrefix(request, "DELETE ") || strings.HasPrefix(request, "PUT ") && strings.HasSuffix(request, "/v2.0.0") {
			t.Errorf("the second run asked for %s", request)
		}
	}
}

func TestADryRunSaysWhatWouldComeBackAndChangesNothing(t *testing.T) {
	w := deleted(t)
	before, head := w.Versions(), w.Git("ls-remote", "origin", "refs/heads/main")
	r := w.Want(0, "restore-version", "DRY_RUN=true")
	if !strings.Contains(r.Stderr, "would restore manifests=8 ") || !strings.Contains(r.Stderr, "from="+w.Backup) {
		t.Errorf("the plan: %s", r.Stderr)
	}
	if !slices.Equal(w.Versions(), before) || w.Git("ls-remote", "origin", "refs/heads/main") != head || w.Holds() != 1 {
		t.Error("something was changed")
	}
}

// What was deleted halfway comes back whole.
func TestAnInterruptedDeletionIsUndone(t *testing.T) {
	w := badrelease.New(t)
	w.Want(0, "rollback-version")
	deletions := 0
	w.Registry.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete {
			deletions++
		}
		if deletions < 9 { // the tags go first, then manifests
			return false
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusForbidden)
		_, _ = rw.Write([]byte(`{"error":{"code":403,"status":"PERMISSION_DENIED","message":"Permission denied"}}`))
		return true
	})
	w.Want(1, "rollback-version", "STAGE=delete", "FORCE_DIGEST=true")
	w.Registry.Intercept(nil)
	have := w.Versions()
	gone := slices.DeleteFunc(w.Bad.All(), func(d string) bool { return slices.Contains(have, d) })
	if len(gone) == 0 || len(gone) == len(w.Bad.All()) {
		t.Fatalf("not halfway: %d of %d manifests are gone", len(gone), len(w.Bad.All()))
	}
	back(t, w, w.Want(0, "restore-version"))
}

// A tag that was taken off by hand leaves neither tombstone nor hold: the backup alone knows.
func TestWhatWasRolledBackByHandComesBackFromTheBackup(t *testing.T) {
	w := deleted(t)
	if err := os.Remove(filepath.Join(w.Config, "holds.yaml")); err == nil {
		t.Fatal("the work tree is fresh")
	}
	w.Git("pull", "--quiet")
	w.Git("rm", "--quiet", "holds.yaml")
	w.Push()
	for _, tag := range []string{"deleted-v2.0.0", "deleted-main-1111111-1700000100"} {
		ref, err := name.NewTag(w.Image + ":" + tag)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Delete(ref); err != nil {
			t.Fatal(err)
		}
	}
	back(t, w, w.Want(0, "restore-version"))
}

// Every refusal says what to do, and changes nothing.
func TestRefusals(t *testing.T) {
	other := "sha256:" + strings.Repeat("a", 64)
	unspoilt := deleted(t)
	for name, c := range map[string]struct {
		spoil     func(t *testing.T, w *badrelease.World)
		env       []string
		code      int
		text, fix string
		partly    bool // attachments may be back already; the version is not
	}{
		"the backup has another image under the version": {
			spoil: func(t *testing.T, w *badrelease.World) {
				if _, err := artifactregistry.PushSample(t.Context(), w.Backup+"/foreign", "v2.0.0"); err != nil {
					t.Fatal(err)
				}
			},
			env: []string{"BACKUP=BACKUP/foreign"}, code: 3, text: "has sha256:", fix: "set BACKUP to where rollback-version kept it",
		},
		"there is nothing in the backup":  {env: []string{"BACKUP=./nothing"}, code: 3, text: "neither the backup ./nothing nor", fix: "set BACKUP to where rollback-version kept it"},
		"no backup is named":              {env: []string{"BACKUP="}, code: 3, text: "does not have sha256:", fix: "set BACKUP to where rollback-version kept it"},
		"DIGEST is another image":         {env: []string{"DIGEST=" + other}, code: 3, text: "it is not certain which image v2.0.0 was: DIGEST says " + other, fix: "set DIGEST or correct the hold"},
		"nothing remembers the version":   {env: []string{"VERSION=v9.9.9", "BACKUP="}, code: 3, text: "nothing remembers which image v9.9.9 was", fix: "check VERSION and IMAGE, set BACKUP, or set DIGEST"},
		"nor does the backup":             {env: []string{"VERSION=v9.9.9"}, code: 3, text: "nothing remembers which image v9.9.9 was", fix: "check VERSION and IMAGE, set BACKUP, or set DIGEST"},
		"DIGEST is no digest":             {env: []string{"DIGEST=v2.0.0"}, code: 2, text: "DIGEST", fix: ""},
		"HOLDS is outside the repository": {env: []string{"HOLDS=../holds.yaml"}, code: 2, text: "HOLDS", fix: ""},
		"BACKUP is IMAGE":                 {env: []string{"BACKUP=IMAGE"}, code: 2, text: "BACKUP", fix: ""},
		"REASON is missing":               {env: []string{"REASON="}, code: 2, text: "REASON", fix: ""},
		"the hold names another image": {
			spoil: func(t *testing.T, w *badrelease.World) { editHolds(t, w, w.Bad.Root, other) },
			code:  3, text: "the hold in holds.yaml says " + other, fix: "set DIGEST or correct the hold",
		},
		"the holds cannot be read": {
			spoil: func(t *testing.T, w *badrelease.World) { editHolds(t, w, "who:", "whom:") },
			code:  3, text: `member "whom" is not known`, fix: "correct the file; nothing was changed",
		},
		"the tag is on another image now": {
			spoil: func(t *testing.T, w *badrelease.World) {
				if _, err := artifactregistry.PushSample(t.Context(), w.Image, "v2.0.0"); err != nil {
					t.Fatal(err)
				}
			},
			code: 3, text: "the tag in the registry says", fix: "find out which image was released",
		},
		"another tag of the image is on another one now": {
			spoil: func(t *testing.T, w *badrelease.World) {
				if _, err := artifactregistry.PushSample(t.Context(), w.Image, "main-1111111-1700000100"); err != nil {
					t.Fatal(err)
				}
			},
			code: 3, text: "main-1111111-1700000100 is sha256:", fix: "a version is restored with the same image or not at all", partly: true,
		},
		"a blob of the backup is gone": {
			spoil: func(t *testing.T, w *badrelease.World) { damage(t, w, os.Remove) },
			env:   []string{"BACKUP=./kept"}, code: 1, text: "the copy in ./kept is not whole: sha256:", fix: "nothing was restored",
		},
		"a blob of the backup has other content": {
			spoil: func(t *testing.T, w *badrelease.World) {
				damage(t, w, func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) })
			},
			env: []string{"BACKUP=./kept"}, code: 1, text: "the copy in ./kept is not whole: sha256:", fix: "nothing was restored",
		},
		"the registry does not let the build write": {
			spoil: func(_ *testing.T, w *badrelease.World) {
				w.Registry.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodGet || r.Method == http.MethodHead || !strings.Contains(r.URL.Path, w.Path) {
						return false
					}
					rw.Header().Set("Content-Type", "application/json")
					rw.WriteHeader(http.StatusForbidden)
					_, _ = rw.Write([]byte(`{"errors":[{"code":"DENIED","message":"Permission \"artifactregistry.repositories.uploadArtifacts\" denied"}]}`))
					return true
				})
			},
			code: 1, text: "artifactregistry.repositories.uploadArtifacts", fix: "grant",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := unspoilt
			if c.spoil != nil {
				var kept []string
				if slices.Contains(c.env, "BACKUP=./kept") {
					kept = c.env
				}
				w = deleted(t, kept...)
				w.Git("pull", "--quiet")
				c.spoil(t, w)
			}
			env := slices.Clone(c.env)
			for i := range env {
				env[i] = strings.NewReplacer("BACKUP/foreign", w.Backup+"/foreign", "=IMAGE", "="+w.Image).Replace(env[i])
			}
			head, on := w.Git("ls-remote", "origin", "refs/heads/main"), fmt.Sprint(w.Registry.Tags(t.Context(), w.Path))
			r := w.Want(c.code, "restore-version", env...)
			if !strings.Contains(r.Stderr, c.text) || !strings.Contains(r.Stderr, ": fix: ") || !strings.Contains(r.Stderr, c.fix) {
				t.Errorf("want %q and the advice %q:\n%s", c.text, c.fix, r.Stderr)
			}
			w.Registry.Intercept(nil)
			if w.Git("ls-remote", "origin", "refs/heads/main") != head {
				t.Error("the config repo was changed")
			}
			if now := w.Registry.Tags(t.Context(), w.Path); now["v2.0.0"] == w.Bad.Root || !c.partly && fmt.Sprint(now) != on {
				t.Errorf("the tags are on %v, before %v", now, on)
			}
		})
	}
}

// editHolds changes the list of holds, in the config repo.
func editHolds(t *testing.T, w *badrelease.World, from, to string) {
	t.Helper()
	w.Edit(func(file, text string) string {
		if file == "holds.yaml" {
			return strings.ReplaceAll(text, from, to)
		}
		return text
	})
	w.Push()
}

// damage does something to a blob of the image in the folder kept.
func damage(t *testing.T, w *badrelease.World, do func(path string) error) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(w.Dir, "kept", "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	manifests := append(w.Bad.All(), w.Old.All()...)
	for _, path := range blobs {
		if !slices.Contains(manifests, "sha256:"+filepath.Base(path)) {
			if err := do(path); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no blob")
}

// Killed at every changing call, before it and after it, and run again, it ends in the planned state. Meanwhile the tag shows nothing that is
// not whole, and the hold stays until all is back.
func TestKilledAtEveryChangingCallTheVersionComesBack(t *testing.T) {
	for title, after := range map[string]bool{"before the call": false, "after the call": true} {
		for place, backup := range map[string]string{"from a registry": "", "from a folder": "BACKUP=./kept"} {
			t.Run(strings.ReplaceAll(title+" "+place, " ", "-"), func(t *testing.T) {
				t.Parallel()
				s, err := artifactregistry.Start(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close() })
				w := badrelease.NewAt(t, s)
				var env []string
				if backup != "" {
					env = append(env, backup)
				}
				w.Want(0, "rollback-version", env...)
				w.Want(0, "rollback-version", append(env, "STAGE=delete", "FORCE_DIGEST=true")...)
				collect(t, w)
				sound := func() {
					t.Helper()
					have := w.Versions()
					missing := slices.DeleteFunc(w.Bad.All(), func(d string) bool { return slices.Contains(have, d) })
					if w.Registry.Tags(t.Context(), w.Path)["v2.0.0"] != "" && len(missing) > 0 {
						t.Errorf("the tag is on an image without %v", missing)
					}
					if w.Holds() != 1 && len(missing) > 0 {
						t.Errorf("%d holds while %v is missing", w.Holds(), missing)
					}
				}
				deaths := w.Killing(after, sound, "restore-version", env...)
				if want := len(w.Bad.All()) + len(w.Bad.Tags) + 3; !after && len(deaths) < want { // manifests, the attachments' tags, two of its own, the push
					t.Errorf("%d deaths, want at least %d", len(deaths), want)
				}
				back(t, w, w.Want(0, "restore-version", env...))
				w.Want(0, "bump-config", "DIGEST="+w.Bad.Root)
				if w.On() != "v2.0.0" {
					t.Errorf("accounts on %s", w.On())
				}
			})
		}
	}
}
