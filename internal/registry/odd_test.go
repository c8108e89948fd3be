package registry

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Builders write manifests with blanks, with members of their own, in an order of their own, and without the optional media type. A digest
// is of bytes, so that nothing of it may change: not when a file is pushed, not when a tag is put on it, not when it is promoted.
func TestOddManifestsAreCarriedByteForByte(t *testing.T) {
	config := []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}` + "\n")
	statement := []byte(`{"_type":"https://in-toto.io/Statement/v0.1"}`)
	layer := []byte("not even a tar file")
	image := fmt.Appendf(nil, "\n{ \"layers\" : [ {\"size\":%d, \"digest\":%q, \"mediaType\":\"application/vnd.example+weird\", \"x-own\": 1e2} ],\n\t\"config\":{\"digest\":%q,\"size\":%d,\"mediaType\":%q},\n \"schemaVersion\" : 2, \"x-own\": [null, \"\\u00e9\\/\"] }\n",
		len(layer), digestOf(layer), digestOf(config), len(config), ociConfig)
	attestation := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"application/vnd.docker.attestation.manifest.v1+json","config":{"mediaType":%q,"digest":%q,"size":2},"layers":[{"mediaType":"application/vnd.in-toto+json","digest":%q,"size":%d,"annotations":{"in-toto.io/predicate-type":"https://slsa.dev/provenance/v0.2"}}],"subject":{"mediaType":%q,"digest":%q,"size":%d}}`,
		ociManifest, ociEmpty, digestOf([]byte("{}")), digestOf(statement), len(statement), ociManifest, digestOf(image), len(image))
	index := fmt.Appendf(nil, `{"schemaVersion":2, "manifests":[
  {"mediaType":%q,"digest":%q,"size":%d,"platform":{"architecture":"amd64","os":"linux","os.features":["odd"]}},
  {"mediaType":%q,"digest":%q,"size":%d,"platform":{"architecture":"unknown","os":"unknown"},"annotations":{"vnd.docker.reference.type":"attestation-manifest"}}
], "annotations":{"made":"here"}}`, ociManifest, digestOf(image), len(image), ociManifest, digestOf(attestation), len(attestation))
	files := contents{
		"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`),
		"index.json": fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, ociIndex, digestOf(index), len(index)),
	}
	for _, b := range [][]byte{config, statement, layer, image, attestation, index, []byte("{}")} {
		files[blobName(digestOf(b))] = b
	}
	from, to := realHost(t)+"/"+folder(t)+"/from", realHost(t)+"/"+folder(t)+"/to"
	for title, path := range map[string]string{"directory": files.dir(t), "tar": files.tar(t)} {
		s, err := Open(context.Background(), path)
		if err != nil {
			t.Fatal(title, err)
		}
		t.Cleanup(func() { _ = s.Close() })
		if diff := cmp.Diff([]string{"linux/amd64"}, s.Platforms); diff != "" {
			t.Error(diff)
		}
		c := client(MountingFrom(from))
		if err := c.Upload(t.Context(), from, s); err != nil {
			t.Fatal(title, err)
		}
		if _, err := c.Tag(t.Context(), from, "build", s.Image); err != nil {
			t.Fatal(title, err)
		}
		promote(t, c, from, "build", to, "v1.0.0")
		for digest, want := range map[string][]byte{digestOf(index): index, digestOf(image): image, digestOf(attestation): attestation} {
			for _, repository := range []string{from, to} {
				got, found, err := c.Resolve(t.Context(), repository, digest)
				if err != nil || !found || !bytes.Equal(got.Raw, want) {
					t.Errorf("%s: %s of %s: %v, %v, %q", title, digest, repository, found, err, got.Raw)
				}
			}
		}
	}
}
