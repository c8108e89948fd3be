package registry

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/artifactregistry"
)

// Registries with and without the referrers API (distribution specification 1.1), and a folder: wherever an image came from and is kept, all
// that refers to it is found again from the image, there and where it is restored.
func TestReferrersAreFoundAgainWhateverTheRegistriesList(t *testing.T) {
	s, err := artifactregistry.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.Referrers("api/")
	c := client()
	repository := func(path string) *Repository {
		t.Helper()
		r, err := c.Repository(s.Host + "/" + path)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for name, from := range map[string]string{"a source that lists them": "api/source", "a source with a list under a tag": "plain/source"} {
		sample, err := artifactregistry.PushSample(t.Context(), s.Host+"/"+from, "v1.0.0")
		if err != nil {
			t.Fatal(err)
		}
		if hasList := len(sample.Tags) == 2; hasList == strings.HasPrefix(from, "api/") {
			t.Fatalf("%s: the sample has the tags %v", from, sample.Tags)
		}
		source := repository(from)
		id := strings.ReplaceAll(from, "/", "-")
		for kept, backup := range map[string]Store{
			"a registry that lists them": repository("api/backup/" + id), "a registry that does not": repository("plain/backup/" + id),
			"a folder": OpenLayout(filepath.Join(t.TempDir(), id)),
		} {
			for back, target := range map[string]string{"a registry that lists them": "api/", "a registry that does not": "plain/"} {
				t.Run(name+", "+kept+", restored to "+back, func(t *testing.T) {
					b := collect(t, source, sample.Root)
					for range 2 { // the second finds everything there
						if err := Copy(t.Context(), source, b, backup, b.Tags, true); err != nil {
							t.Fatal(err)
						}
					}
					if _, err := Prove(t.Context(), backup, b); err != nil {
						t.Fatal(err)
					}
					again := collect(t, backup, sample.Root)
					restored := repository(target + "restored/" + id + "/" + strings.ReplaceAll(kept, " ", "-"))
					if err := Copy(t.Context(), backup, again, restored, again.Tags, false); err != nil {
						t.Fatal(err)
					}
					if _, err := Prove(t.Context(), restored, again); err != nil {
						t.Fatal(err)
					}
					final := collect(t, restored, sample.Root)
					for _, digest := range sample.All() {
						if !again.Has(digest) || !final.Has(digest) {
							t.Errorf("%s: in the backup %v, restored %v", digest, again.Has(digest), final.Has(digest))
						}
					}
				})
			}
		}
	}
}
