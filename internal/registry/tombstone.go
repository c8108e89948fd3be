package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Tombstone remembers a tag that was deleted, so that its name is never put on another image. Nodes keep images by tag: they would go on
// running the old one under the new one's name.
//
// It is kept in the repository itself, as an empty artifact (image specification 1.1, "Guidelines for Artifact Usage") under the tag
// `deleted-<tag>`, or `deleted-sha256-<hash of the tag>` where that is too long:
//
//	{
//	  "schemaVersion": 2,
//	  "mediaType": "application/vnd.oci.image.manifest.v1+json",
//	  "artifactType": "application/vnd.deepdesk.cloudbuild-steps.tombstone.v1",
//	  "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": "sha256:44136f…", "size": 2},
//	  "layers": [{"mediaType": "application/vnd.oci.empty.v1+json", "digest": "sha256:44136f…", "size": 2}],
//	  "annotations": {
//	    "com.deepdesk.cloudbuild-steps.deleted.tag": "v2.0.0",
//	    "com.deepdesk.cloudbuild-steps.deleted.digest": "sha256:…",
//	    "com.deepdesk.cloudbuild-steps.deleted.time": "2026-11-24T12:00:00Z",
//	    "com.deepdesk.cloudbuild-steps.deleted.reason": "lost orders",
//	    "com.deepdesk.cloudbuild-steps.deleted.build": "1f0c…"
//	  }
//	}
//
// It has a tag because registries collect what has none, and it is no referrer of the deleted image because some registries delete those
// with it. A restored image keeps its tombstone: the tag may come back, for the digest in it and for no other.
type Tombstone struct {
	Tag    string    // the tag that was deleted
	Digest string    // what it was on
	Time   time.Time // of the deletion, in seconds, UTC
	Reason string    // for people; may be empty
	Build  string    // the build that deleted it; may be empty
}

const (
	tombstoneType   = "application/vnd.deepdesk.cloudbuild-steps.tombstone.v1"
	tombstonePrefix = "deleted-"
	annotation      = "com.deepdesk.cloudbuild-steps.deleted."
	ociEmpty        = "application/vnd.oci.empty.v1+json"
	tagLength       = 128 // distribution specification, the grammar of <reference>
)

// IsTombstoneTag reports whether a tag is one of those that tombstones are kept under.
func IsTombstoneTag(tag string) bool { return strings.HasPrefix(tag, tombstonePrefix) }

func tombstoneTag(tag string) string {
	if len(tombstonePrefix+tag) <= tagLength {
		return tombstonePrefix + tag
	}
	sum := sha256.Sum256([]byte(tag))
	return tombstonePrefix + "sha256-" + hex.EncodeToString(sum[:])
}

// String says what happened, in one line.
func (t Tombstone) String() string {
	text := fmt.Sprintf("%s was %s and was deleted on %s", t.Tag, t.Digest, t.Time.Format(time.DateTime))
	if t.Build != "" {
		text += " by build " + t.Build
	}
	if t.Reason != "" {
		text += ": " + t.Reason
	}
	return text
}

// encode makes the manifest: the same bytes for the same tombstone.
func (t Tombstone) encode() ([]byte, error) {
	none := descriptor{MediaType: ociEmpty, Digest: digestOf([]byte("{}")), Size: 2}
	return json.Marshal(struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		ArtifactType  string            `json:"artifactType"`
		Config        descriptor        `json:"config"`
		Layers        []descriptor      `json:"layers"`
		Annotations   map[string]string `json:"annotations"`
	}{2, ociManifest, tombstoneType, none, []descriptor{none}, map[string]string{
		annotation + "tag": t.Tag, annotation + "digest": t.Digest, annotation + "time": t.Time.UTC().Format(time.RFC3339),
		annotation + "reason": t.Reason, annotation + "build": t.Build,
	}})
}

// parseTombstone reads the manifest that is under the tombstone tag of a tag.
func parseTombstone(raw []byte, tag string) (Tombstone, error) {
	var m struct {
		ArtifactType string            `json:"artifactType"`
		Annotations  map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return Tombstone{}, err
	}
	t := Tombstone{
		Tag: m.Annotations[annotation+"tag"], Digest: m.Annotations[annotation+"digest"],
		Reason: m.Annotations[annotation+"reason"], Build: m.Annotations[annotation+"build"],
	}
	var err error
	switch t.Time, err = time.Parse(time.RFC3339, m.Annotations[annotation+"time"]); {
	case m.ArtifactType != tombstoneType:
		return Tombstone{}, fmt.Errorf("it is of the type %.100q", m.ArtifactType)
	case t.Tag != tag:
		return Tombstone{}, fmt.Errorf("it is about the tag %.150q", t.Tag)
	case !IsDigest(t.Digest):
		return Tombstone{}, fmt.Errorf("it names the digest %.100q", t.Digest)
	case err != nil:
		return Tombstone{}, errors.New("it names no time")
	}
	t.Time = t.Time.UTC()
	return t, nil
}

// Tombstone reads what is remembered of a deleted tag; false when nothing is. What stands in a tombstone's place without being one is a
// [*DeletedError] without a digest: nobody knows then what the tag was on.
func (c *Client) Tombstone(ctx context.Context, repository, tag string) (Tombstone, bool, error) {
	image, found, err := c.Resolve(ctx, repository, tombstoneTag(tag))
	if err != nil || !found {
		return Tombstone{}, false, err
	}
	t, err := parseTombstone(image.Raw, tag)
	if err != nil {
		return Tombstone{}, false, &DeletedError{Repository: repository, Tombstone: Tombstone{Tag: tag}, Err: err}
	}
	return t, true, nil
}

// Bury writes a tombstone, before its tag is deleted. One for the same digest is kept as it is; one for another is a [*TagTakenError].
func (c *Client) Bury(ctx context.Context, repository string, t Tombstone) (State, error) {
	if !IsTag(t.Tag) || IsTombstoneTag(t.Tag) || !IsDigest(t.Digest) {
		return "", fmt.Errorf("%.150q on %.100q is no tag that could be remembered", t.Tag, t.Digest)
	}
	before, found, err := c.Tombstone(ctx, repository, t.Tag)
	switch {
	case err != nil:
		return "", err
	case found && before.Digest == t.Digest:
		return Kept, nil
	case found:
		return "", &TagTakenError{Repository: repository, Tag: tombstoneTag(t.Tag), Have: before.Digest, Want: t.Digest}
	}
	raw, err := t.encode()
	if err != nil {
		return "", err
	}
	repo, err := c.parse(repository)
	if err != nil {
		return "", err
	}
	if err := c.uploadBlob(ctx, repo, blob{digestOf([]byte("{}")), 2, bytesBody([]byte("{}"))}); err != nil {
		return "", err
	}
	image := Image{Digest: digestOf(raw), MediaType: ociManifest, Raw: raw}
	state, err := c.write(ctx, repository, tombstoneTag(t.Tag), image, false)
	if errors.As(err, new(*TagTakenError)) || errors.As(err, new(*MovedError)) { // another build writes the same with another time
		if now, found, again := c.Tombstone(ctx, repository, t.Tag); again == nil && found && now.Digest == t.Digest {
			return Kept, nil
		}
	}
	return state, err
}

// DeletedError says that a tag was on another image before it was deleted.
type DeletedError struct {
	Repository string
	Tombstone  Tombstone // only the tag, when the tombstone cannot be read
	Want       string    // digest that was asked for
	Err        error     // why the tombstone cannot be read
}

// Error prints both digests.
func (e *DeletedError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s:%s is kept for the memory of the deleted tag %s, and what is there cannot be read: %v",
			e.Repository, tombstoneTag(e.Tombstone.Tag), e.Tombstone.Tag, e.Err)
	}
	return fmt.Sprintf("%s: %v; its tag may come back for that digest only (asked for %s)", e.Repository, e.Tombstone, e.Want)
}

// Unwrap returns why the tombstone cannot be read.
func (e *DeletedError) Unwrap() error { return e.Err }
