package registry

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestADeletedTagIsRememberedAndComesBackForItsDigestOnly(t *testing.T) {
	for title, tag := range map[string]string{"a release": "v2.0.0", "the longest tag": strings.Repeat("t", 128)} {
		t.Run(title, func(t *testing.T) {
			repository := realHost(t) + "/" + folder(t)
			old, other := seed(t, folder(t), tag), seed(t, folder(t))
			c := client()
			stone := Tombstone{Tag: tag, Digest: old.Digest, Time: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), Reason: "lost \"orders\"", Build: "build-7"}
			for _, want := range []State{Created, Kept} {
				if got, err := c.Bury(t.Context(), repository, stone); got != want || err != nil {
					t.Fatal(got, err)
				}
				stone.Time = stone.Time.Add(time.Hour) // another build, later: what is there stays
			}
			stone.Time = stone.Time.Add(-2 * time.Hour)
			got, found, err := c.Tombstone(t.Context(), repository, tag)
			if diff := cmp.Diff(stone, got); !found || err != nil || diff != "" {
				t.Fatal(found, err, diff)
			}
			deleteTag(t, repository, tag)
			_, err = c.Tag(t.Context(), repository, tag, other)
			if e, ok := errors.AsType[*DeletedError](err); !ok || !strings.Contains(e.Error(), old.Digest) || !strings.Contains(e.Error(), other.Digest) {
				t.Errorf("error %v", err)
			}
			if got := digestUnder(t, folder(t), tag); got != "" {
				t.Errorf("the tag is on %s", got)
			}
			if state, err := c.Tag(t.Context(), repository, tag, old); state != Created || err != nil {
				t.Errorf("restoring: %s, %v", state, err)
			}
			if _, err := c.Bury(t.Context(), repository, Tombstone{Tag: tag, Digest: other.Digest, Time: stone.Time}); !errors.As(err, new(*TagTakenError)) {
				t.Errorf("a second tombstone for another digest: %v", err)
			}
		})
	}
}

func deleteTag(t *testing.T, repository, tag string) {
	t.Helper()
	ref, err := name.NewTag(repository + ":" + tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Delete(ref); err != nil {
		t.Fatal(err)
	}
}

// Another tool reads the tombstone as the empty artifact that the image specification describes.
func TestATombstoneIsAnEmptyArtifact(t *testing.T) {
	repository := realHost(t) + "/" + folder(t)
	stone := Tombstone{Tag: "v1.0.0", Digest: "sha256:" + strings.Repeat("1", 64), Time: time.Unix(1764000000, 0)}
	if _, err := client().Bury(t.Context(), repository, stone); err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(repository + ":deleted-v1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(d.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	const empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" // image specification, "Guidance for an empty descriptor"
	if m.SchemaVersion != 2 || m.MediaType != "application/vnd.oci.image.manifest.v1+json" || m.Config.Digest.String() != empty ||
		m.Config.MediaType != "application/vnd.oci.empty.v1+json" || m.Config.Size != 2 || len(m.Layers) != 1 || m.Layers[0].Digest.String() != empty {
		t.Errorf("manifest %s", d.Manifest)
	}
	if d := m.Annotations["com.deepdesk.cloudbuild-steps.deleted.digest"]; d != stone.Digest {
		t.Errorf("annotations %v", m.Annotations)
	}
}

func TestWhatStandsInATombstonesPlaceBlocksTheTag(t *testing.T) {
	repository := folder(t)
	image := seed(t, repository, "deleted-v1.0.0")
	_, err := client().Tag(t.Context(), realHost(t)+"/"+repository, "v1.0.0", image)
	if e, ok := errors.AsType[*DeletedError](err); !ok || !strings.Contains(e.Error(), "cannot be read") {
		t.Errorf("error %v", err)
	}
	good := Tombstone{Tag: "v1.0.0", Digest: image.Digest, Time: time.Unix(1764000000, 0).UTC()}
	raw, err := good.encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parseTombstone(raw, "v1.0.0"); err != nil || got != good {
		t.Errorf("%+v, %v", got, err)
	}
	for title, b := range map[string][]byte{
		"another tag": raw, "another type": []byte(strings.Replace(string(raw), tombstoneType, "x", 1)), "no JSON": []byte("x"), "nothing": []byte("{}"),
		"no digest": []byte(strings.Replace(string(raw), image.Digest, "latest", 1)), "no time": []byte(strings.Replace(string(raw), "2025-", "x", 1)),
	} {
		tag := "v1.0.0"
		if title == "another tag" {
			tag = "v1.0.1"
		}
		if got, err := parseTombstone(b, tag); err == nil {
			t.Errorf("%s: %+v", title, got)
		}
	}
}

// The words are those that the registries are known to use; none has a code for it.
func TestImmutableTagsAreRecognisedByTheRegistrysAnswer(t *testing.T) {
	for words, c := range map[string]struct {
		status int
		code   string
	}{
		"The repository has enabled tag immutability": {400, "MANIFEST_INVALID"},
		"The image tag 'v1.0.0' already exists in the 'backend' repository and cannot be overwritten because the repository is immutable.": {400, "TAG_INVALID"},
		"Failed to process request due to 'v1.0.0' configured as immutable.":                                                               {412, "PRECONDITION"},
	} {
		for _, there := range []string{"image", "rival", "nothing"} {
			repository := folder(t)
			image, rival := seed(t, repository), seed(t, repository)
			reads := 0
			f := between(t, func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
				switch {
				case !strings.HasSuffix(r.URL.Path, "/manifests/v1.0.0"):
					pass(w)
				case r.Method == http.MethodPut:
					refuse(w, c.status, c.code, words)
				default:
					show := map[string]Image{"image": image, "rival": rival}[there]
					if reads++; reads == 1 || there == "nothing" {
						refuse(w, 404, "MANIFEST_UNKNOWN", "manifest unknown")
						return
					}
					w.Header().Set("Content-Type", show.MediaType)
					_, _ = w.Write(show.Raw)
				}
			})
			state, err := client().Tag(t.Context(), f.host+"/"+repository, "v1.0.0", image)
			switch there {
			case "image":
				if state != Kept || err != nil {
					t.Errorf("%s: %s, %v", there, state, err)
				}
			case "rival":
				if e, ok := errors.AsType[*TagTakenError](err); !ok || !e.Immutable || !strings.Contains(e.Error(), "tags are immutable") {
					t.Errorf("%s: %v", there, err)
				}
			default:
				if e, ok := errors.AsType[*ImmutableError](err); !ok || !strings.Contains(e.Error(), words) {
					t.Errorf("%s: %v", there, err)
				}
			}
			if n := f.count("PUT", "/v1.0.0"); n != 1 {
				t.Errorf("written %d times", n)
			}
		}
	}
}
