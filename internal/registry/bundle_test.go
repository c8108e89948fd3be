package registry

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/artifactregistry"
)

// world is an Artifact Registry with a sample in it, and the repositories that the tests copy between.
func bundleWorld(t *testing.T, tags ...string) (*artifactregistry.Server, artifactregistry.Sample, *Repository, *Repository) {
	t.Helper()
	s, err := artifactregistry.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	sample, err := artifactregistry.PushSample(t.Context(), s.Host+"/p/services/backend", tags...)
	if err != nil {
		t.Fatal(err)
	}
	c := client(MountingFrom(s.Host + "/p/services/backend"))
	from, err := c.Repository(s.Host + "/p/services/backend")
	if err != nil {
		t.Fatal(err)
	}
	to, err := c.Repository(s.Host + "/p/backup/backend")
	if err != nil {
		t.Fatal(err)
	}
	return s, sample, from, to
}

func collect(t *testing.T, s Store, digest string) Bundle {
	t.Helper()
	names, err := Names(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	b, found, err := Collect(t.Context(), s, digest, names)
	if err != nil || !found {
		t.Fatalf("found %v, %v", found, err)
	}
	return b
}

func wantAll(t *testing.T, b Bundle, sample artifactregistry.Sample, tags ...string) {
	t.Helper()
	for _, d := range sample.All() {
		if !b.Has(d) {
			t.Errorf("%s is not in the bundle", d)
		}
	}
	if len(b.Parts) != len(sample.All()) {
		t.Errorf("%d parts, want %d", len(b.Parts), len(sample.All()))
	}
	for _, tag := range append(tags, sample.Tags...) {
		if b.Tags[tag] == "" {
			t.Errorf("tag %s is not in the bundle: %v", tag, b.Tags)
		}
	}
}

func TestABundleHoldsChildrenAttestationsSignaturesReferrersAndSiblingTags(t *testing.T) {
	_, sample, from, _ := bundleWorld(t, "v1.0.0", "main-0a1b2c3-1700000000")
	b := collect(t, from, sample.Root)
	wantAll(t, b, sample, "v1.0.0", "main-0a1b2c3-1700000000")
	seen := map[string]bool{}
	for _, p := range b.Parts { // a registry refuses an index before its children
		for _, c := range p.Children {
			if !seen[c] {
				t.Errorf("%s comes before its child %s", p.Digest, c)
			}
		}
		seen[p.Digest] = true
	}
}

func TestACopyInTheSameRegistryMovesNoBlobAndIsProven(t *testing.T) {
	s, sample, from, to := bundleWorld(t, "v1.0.0")
	b := collect(t, from, sample.Root)
	before := len(s.Requests())
	for range 2 { // the second finds everything there
		if err := Copy(t.Context(), from, b, to, b.Tags, true); err != nil {
			t.Fatal(err)
		}
	}
	if sent := slices.ContainsFunc(s.Requests()[before:], func(r string) bool {
		return strings.HasPrefix(r, "PATCH") || strings.HasPrefix(r, "PUT") && strings.Contains(r, "/blobs/")
	}); sent {
		t.Error("a blob was sent")
	}
	n, err := Prove(t.Context(), to, b)
	if err != nil || n != b.Bytes() {
		t.Fatalf("%d bytes of %d, %v", n, b.Bytes(), err)
	}
	wantAll(t, collect(t, to, sample.Root), sample, "v1.0.0")
}

func TestALayoutHoldsTheSameAndGivesItBackAfterGarbageCollection(t *testing.T) {
	s, sample, from, _ := bundleWorld(t, "v1.0.0")
	b := collect(t, from, sample.Root)
	layout := OpenLayout(filepath.Join(t.TempDir(), "backup"))
	if err := Copy(t.Context(), from, b, layout, b.Tags, true); err != nil {
		t.Fatal(err)
	}
	if _, err := Prove(t.Context(), layout, b); err != nil {
		t.Fatal(err)
	}
	for tag := range b.Tags {
		if err := from.Delete(t.Context(), tag); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range s.Versions(t.Context(), "p/services/backend") { // the list of referrers that was superseded is nobody's
		if !b.Has(d) {
			if err := from.Delete(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range b.Parts {
		if err := from.Delete(t.Context(), b.Parts[len(b.Parts)-1-i].Digest); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CollectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := s.Versions(t.Context(), "p/services/backend"); len(left) > 0 {
		t.Fatalf("left: %v", left)
	}
	kept := collect(t, layout, sample.Root)
	wantAll(t, kept, sample, "v1.0.0")
	if err := Copy(t.Context(), layout, kept, from, kept.Tags, false); err != nil {
		t.Fatal(err)
	}
	if _, err := Prove(t.Context(), from, b); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedCopyIsNoProof(t *testing.T) {
	_, sample, from, _ := bundleWorld(t, "v1.0.0")
	b := collect(t, from, sample.Root)
	blob := b.Parts[0].blobs[0]
	for name, damage := range map[string]func(path string) error{
		"other content":  func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
		"a missing blob": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			layout := OpenLayout(t.TempDir())
			if err := Copy(t.Context(), from, b, layout, b.Tags, true); err != nil {
				t.Fatal(err)
			}
			if err := damage(layout.blob(blob.Digest)); err != nil {
				t.Fatal(err)
			}
			if _, err := Prove(t.Context(), layout, b); err == nil {
				t.Error("it was taken for whole")
			}
			if err := Copy(t.Context(), from, b, layout, b.Tags, true); err != nil { // and mends itself
				t.Fatal(err)
			}
			if _, err := Prove(t.Context(), layout, b); err != nil {
				t.Error(err)
			}
		})
	}
	layout := OpenLayout(t.TempDir())
	if err := Copy(t.Context(), from, b, layout, map[string]string{}, true); err != nil {
		t.Fatal(err)
	}
	if _, err := Prove(t.Context(), layout, b); !errors.As(err, new(*ProofError)) {
		t.Errorf("without its tags: %v", err)
	}
}

func TestATagOfTheBackupNeverMovesToAnotherImage(t *testing.T) {
	s, sample, from, to := bundleWorld(t, "v1.0.0")
	if _, err := artifactregistry.PushSample(t.Context(), s.Host+"/p/backup/backend", "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	b := collect(t, from, sample.Root)
	if err := Copy(t.Context(), from, b, to, b.Tags, true); !errors.As(err, new(*TagTakenError)) {
		t.Errorf("%v", err)
	}
}
