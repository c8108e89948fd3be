package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
)

// referrersTag stands in for the referrers API where there is none (distribution specification, "Referrers Tag Schema").
func referrersTag(subject string) string { return "sha256-" + hexOf(subject) }

// referrers lists what refers to a digest (distribution specification, "Listing Referrers"). api is false when the registry has no such API.
func (c *Client) referrers(ctx context.Context, repo name.Repository, subject string) (list []descriptor, api bool, err error) {
	doing := fmt.Sprintf("listing what refers to %s of %s", subject, repo.Name())
	page := request{doing: doing, permission: downloadPermission, method: http.MethodGet, path: "referrers/" + subject, accept: ociIndex,
		want: http.StatusOK, limit: manifestLimit}
	for n := range pageLimit {
		a, err := c.do(ctx, repo, page)
		// Registries without the API answer 404 in their own way, or that they do not know the method.
		if e, ok := errors.AsType[*Error](err); ok && n == 0 && (e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed || e.Status == http.StatusBadRequest) {
			return nil, false, nil
		}
		if err != nil {
			return nil, true, err
		}
		index, err := parseManifest(a.body, ociIndex)
		if err != nil {
			return nil, true, fmt.Errorf("%s: %w", doing, err)
		}
		list = append(list, index.manifests...)
		if page.url, err = nextPage(a); err != nil {
			return nil, true, fmt.Errorf("%s: %w", doing, err)
		}
		if page.url == nil {
			return list, true, nil
		}
	}
	return nil, true, fmt.Errorf("%s: more than %d pages", doing, pageLimit)
}

// listReferrers adds referrers to the tag that stands in for the API. The descriptors are taken from the manifests, as the API's are.
func (c *Client) listReferrers(ctx context.Context, repo name.Repository, subject string, digests []string) error {
	tag := referrersTag(subject)
	image, found, err := c.Resolve(ctx, repo.Name(), tag)
	if err != nil {
		return err
	}
	index := struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Manifests     []json.RawMessage `json:"manifests"`
	}{2, ociIndex, []json.RawMessage{}}
	known := map[string]bool{}
	if found {
		m, err := parseManifest(image.Raw, image.MediaType)
		if err != nil {
			return fmt.Errorf("reading tag %s of %s: %w", tag, repo.Name(), err)
		}
		if err := json.Unmarshal(image.Raw, &index); err != nil {
			return err
		}
		for _, d := range m.manifests {
			known[d.Digest] = true
		}
	}
	before := len(index.Manifests)
	for _, digest := range digests {
		if known[digest] {
			continue
		}
		referrer, found, err := c.Resolve(ctx, repo.Name(), digest)
		if err != nil || !found {
			return cmp.Or(err, fmt.Errorf("writing %s to %s: the registry took it and does not show it", digest, repo.Name()))
		}
		entry, err := describe(referrer)
		if err != nil {
			return err
		}
		index.Manifests = append(index.Manifests, entry)
	}
	if len(index.Manifests) == before {
		return nil
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return c.putAs(ctx, repo, tag, Image{Digest: digestOf(raw), MediaType: ociIndex, Raw: raw})
}

// describe makes the descriptor of a referrer: artifactType and annotations are the manifest's (distribution specification, "Listing Referrers").
func describe(image Image) (json.RawMessage, error) {
	var m struct {
		ArtifactType string            `json:"artifactType"`
		Annotations  map[string]string `json:"annotations"`
		Config       *descriptor       `json:"config"`
	}
	if err := json.Unmarshal(image.Raw, &m); err != nil {
		return nil, err
	}
	if m.ArtifactType == "" && m.Config != nil {
		m.ArtifactType = m.Config.MediaType
	}
	return json.Marshal(struct {
		MediaType    string            `json:"mediaType"`
		Digest       string            `json:"digest"`
		Size         int               `json:"size"`
		ArtifactType string            `json:"artifactType,omitempty"`
		Annotations  map[string]string `json:"annotations,omitempty"`
	}{image.MediaType, image.Digest, len(image.Raw), m.ArtifactType, m.Annotations})
}

// putReferrer writes a referrer and reports whether the registry lists it by itself.
func (c *Client) putReferrer(ctx context.Context, repo name.Repository, image Image) (listed bool, err error) {
	var m struct {
		Subject *descriptor `json:"subject"`
	}
	if err := json.Unmarshal(image.Raw, &m); err != nil {
		return false, err
	}
	for wait := c.patience(); ; {
		a, err := c.send(ctx, repo, image.Digest, image)
		if err == nil {
			return m.Subject != nil && a.header.Get("OCI-Subject") != "", nil
		}
		if !temporary(err) || !wait.next(ctx, err) {
			return false, err
		}
	}
}
