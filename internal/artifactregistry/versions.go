package artifactregistry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Version is an image or an index in Artifact Registry's words: an index and each of its children is a version of its own.
type Version struct {
	Digest    string // sha256:…
	MediaType string // empty when the API does not say
}

// Tags lists what each tag of an image is on: tag → digest.
func (c *Client) Tags(ctx context.Context, p Package) (map[string]string, error) {
	tags := map[string]string{}
	prefix := p.Resource() + "/versions/"
	err := c.eachTag(ctx, p, func(tag, version string) error {
		digest, ours := strings.CutPrefix(version, prefix)
		if !ours {
			return fmt.Errorf("tag %s is on %.200q, which is no version of the image", tag, version)
		}
		tags[tag] = digest
		return nil
	})
	return tags, err
}

// Versions lists all images, indexes, signatures and attestations of a package.
//
// (google.devtools.artifactregistry.v1 ListVersions; the media type is in the metadata, a DockerImage, of the view FULL)
func (c *Client) Versions(ctx context.Context, p Package) ([]Version, error) {
	var list []Version
	prefix := p.Resource() + "/versions/"
	r := request{doing: "listing the versions of " + p.Resource(), needs: listVersions, method: http.MethodGet, path: p.Resource() + "/versions",
		query: url.Values{"view": {"FULL"}}}
	err := c.pages(ctx, p, r, func(body []byte) (string, error) {
		var page struct {
			Versions []struct {
				Name     string `json:"name"`
				Metadata struct {
					MediaType string `json:"mediaType"`
				} `json:"metadata"`
			} `json:"versions"`
			NextPageToken string `json:"nextPageToken"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return "", fmt.Errorf("reading the answer: %w", err)
		}
		for _, v := range page.Versions {
			digest, ours := strings.CutPrefix(v.Name, prefix)
			if !ours {
				return "", fmt.Errorf("the answer lists %.200q, which is no version of it", v.Name)
			}
			list = append(list, Version{digest, v.Metadata.MediaType})
		}
		return page.NextPageToken, nil
	})
	return list, err
}

// Immutable reports whether tags of the repository can be neither moved nor deleted (Repository.docker_config.immutable_tags).
func (c *Client) Immutable(ctx context.Context, p Package) (bool, error) {
	name := p.repository()
	r := request{doing: "reading the settings of " + name, needs: getRepository, method: http.MethodGet, path: name}
	body, err := c.call(ctx, p, r)
	if err != nil {
		return false, err
	}
	var repository struct {
		DockerConfig struct {
			ImmutableTags bool `json:"immutableTags"`
		} `json:"dockerConfig"`
	}
	if err := json.Unmarshal(body, &repository); err != nil {
		return false, r.failed(p, fmt.Errorf("reading the answer: %w", err))
	}
	return repository.DockerConfig.ImmutableTags, nil
}

func (p Package) repository() string {
	return fmt.Sprintf("projects/%s/locations/%s/repositories/%s", p.Project, p.Location, p.Repository)
}

// DeleteTag deletes a tag and nothing else. A tag that is not there counts as deleted, since the answer to an earlier attempt may be lost.
func (c *Client) DeleteTag(ctx context.Context, p Package, tag string) error {
	name := p.Resource() + "/tags/" + url.PathEscape(tag)
	_, err := c.call(ctx, p, request{doing: "deleting " + name, needs: deleteTag, method: http.MethodDelete, path: name})
	if e, ok := errors.AsType[*Error](err); ok && e.absent() {
		return nil
	}
	return err
}

// DeleteVersion deletes one image or index and waits until it is gone. It does not ask for force: a version that still has tags is refused
// (FAILED_PRECONDITION), so that a tag that somebody adds meanwhile is not lost. A version that is not there counts as deleted.
func (c *Client) DeleteVersion(ctx context.Context, p Package, digest string) error {
	name := p.Resource() + "/versions/" + digest
	r := request{doing: "deleting " + name, needs: deleteVersion, method: http.MethodDelete, path: name}
	body, err := c.call(ctx, p, r)
	if err == nil {
		err = c.finish(ctx, p, r, body)
	}
	if e, ok := errors.AsType[*Error](err); ok && e.absent() {
		return nil
	}
	return err
}

// operation is google.longrunning.Operation.
type operation struct {
	Name  string `json:"name"`
	Done  bool   `json:"done"`
	Error *struct {
		Code    int    `json:"code"` // google.rpc.Code
		Message string `json:"message"`
	} `json:"error"`
}

// rpcCodes are the codes of google.rpc.Code that an operation may end with and that mean something here.
var rpcCodes = map[int]struct {
	status int
	code   string
}{
	3: {http.StatusBadRequest, "INVALID_ARGUMENT"}, 5: {http.StatusNotFound, "NOT_FOUND"}, 7: {http.StatusForbidden, "PERMISSION_DENIED"},
	9: {http.StatusBadRequest, "FAILED_PRECONDITION"}, 14: {http.StatusServiceUnavailable, "UNAVAILABLE"},
}

// operationName is the form of google.longrunning.Operation.name here; the project may be its number.
var operationName = regexp.MustCompile(`^projects/[^/?#]+/locations/[^/?#]+/operations/[^/?#]+$`)

// finish waits for the operation that a call has started.
func (c *Client) finish(ctx context.Context, p Package, r request, body []byte) error {
	poll := request{doing: r.doing, needs: r.needs, method: http.MethodGet}
	for pause := c.pause / 2; ; pause = min(2*pause, 10*time.Second) {
		var op operation
		if err := json.Unmarshal(body, &op); err != nil {
			return r.failed(p, fmt.Errorf("reading the operation: %w", err))
		}
		if op.Error != nil {
			e := &Error{Doing: r.doing, needs: r.needs, Package: p, Status: http.StatusInternalServerError, Code: fmt.Sprintf("code %d", op.Error.Code), Message: op.Error.Message}
			if known, ok := rpcCodes[op.Error.Code]; ok {
				e.Status, e.Code = known.status, known.code
			}
			return e
		}
		if op.Done {
			return nil
		}
		if !operationName.MatchString(op.Name) {
			return r.failed(p, fmt.Errorf("the API names the operation %.200q", op.Name))
		}
		if !wait(ctx, pause) {
			return r.failed(p, errors.New("the deletion was begun and is not finished in time"))
		}
		poll.path = op.Name
		var err error
		if body, err = c.call(ctx, p, poll); err != nil {
			return err
		}
	}
}
