package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
)

// Resolve reads the image or index that a tag or digest names, and reports whether there is one. "No" is only ever the registry's own word:
// a missing permission, a fault, or the error page of something in between is an error. The bytes have been compared with the digest that
// was asked for and with the one in the registry's header.
func (c *Client) Resolve(ctx context.Context, repository, tagOrDigest string) (Image, bool, error) {
	repo, err := c.parse(repository)
	if err != nil {
		return Image{}, false, err
	}
	what := "tag " + tagOrDigest
	switch {
	case IsDigest(tagOrDigest):
		what = tagOrDigest
	case !IsTag(tagOrDigest):
		return Image{}, false, fmt.Errorf("%.150q is neither a tag nor a SHA-256 digest", tagOrDigest)
	}
	doing := fmt.Sprintf("reading %s of %s", what, repository)
	a, err := c.do(ctx, repo, request{
		doing: doing, permission: downloadPermission, method: http.MethodGet, path: "manifests/" + tagOrDigest,
		accept: acceptManifests, want: http.StatusOK, limit: manifestLimit,
	})
	if e, ok := errors.AsType[*Error](err); ok && e.absent() {
		return Image{}, false, nil
	}
	if err != nil {
		return Image{}, false, err
	}
	mediaType, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	if !isManifest(mediaType) {
		return Image{}, false, refusal(doing, repo.Name(), downloadPermission, http.StatusOK, a.header, nil)
	}
	digest := digestOf(a.body)
	if IsDigest(tagOrDigest) && digest != tagOrDigest {
		return Image{}, false, &DigestError{doing, tagOrDigest, digest}
	}
	if said := a.header.Get("Docker-Content-Digest"); said != "" && digest != said {
		return Image{}, false, &DigestError{doing, said, digest}
	}
	m, err := parseManifest(a.body, mediaType)
	if err != nil {
		return Image{}, false, fmt.Errorf("%s: %w", doing, err)
	}
	return Image{Digest: digest, MediaType: mediaType, Raw: a.body, Platforms: m.platforms()}, true, nil
}

const (
	pageSize  = 1000     // what registries give at most
	pageLimit = 10_000   // pages; ten million tags
	listLimit = 64 << 20 // bytes of one page: some registries ignore the page size
)

// TagsOf lists all tags of a repository in the registry's order; none if there is no such repository.
func (c *Client) TagsOf(ctx context.Context, repository string) ([]string, error) {
	repo, err := c.parse(repository)
	if err != nil {
		return nil, err
	}
	var (
		tags  []string
		seen  = map[string]bool{}
		doing = "listing the tags of " + repository
		page  = request{doing: doing, permission: downloadPermission, method: http.MethodGet, path: fmt.Sprintf("tags/list?n=%d", pageSize),
			accept: "application/json", want: http.StatusOK, limit: listLimit}
	)
	for range pageLimit {
		a, err := c.do(ctx, repo, page)
		if e, ok := errors.AsType[*Error](err); ok && e.absent() {
			return tags, nil
		}
		if err != nil {
			return nil, err
		}
		var list struct {
			Tags []string `json:"tags"`
		}
		if err := json.Unmarshal(a.body, &list); err != nil {
			return nil, fmt.Errorf("%s: %w", doing, err)
		}
		before := len(tags)
		for _, t := range list.Tags {
			if !seen[t] {
				seen[t] = true
				tags = append(tags, t)
			}
		}
		next, err := nextPage(a)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", doing, err)
		}
		// A full page without a link to the next is how a registry looks that cuts the list and does not say so: ask for what follows.
		if next == nil && len(list.Tags) == pageSize {
			next = a.url.JoinPath()
			next.RawQuery = url.Values{"n": {fmt.Sprint(pageSize)}, "last": {list.Tags[len(list.Tags)-1]}}.Encode()
		}
		if next == nil || len(tags) == before {
			return tags, nil
		}
		page.url = next
	}
	return nil, fmt.Errorf("%s: more than %d pages", doing, pageLimit)
}

// nextPage reads the Link header (distribution specification, "Listing tags"). A link to another host is refused: the request would carry
// no credentials there, but nothing that it answers could be believed.
func nextPage(a *answer) (*url.URL, error) {
	link := a.header.Get("Link")
	if link == "" {
		return nil, nil
	}
	target, relation, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || !strings.HasPrefix(link, "<") || !strings.Contains(relation, "next") {
		return nil, fmt.Errorf("reading the link to the next page %.200q: want <URL>; rel=\"next\"", link)
	}
	next, err := a.url.Parse(target)
	if err != nil {
		return nil, errors.New("reading the link to the next page: it is not a URL")
	}
	if next.Host != a.url.Host || next.Scheme != a.url.Scheme {
		return nil, fmt.Errorf("the link to the next page leads to another host (%.100q)", next.Host)
	}
	return next, nil
}

// State says what came of a tag.
type State string

// The states of a tag that is on the image that was asked for.
const (
	Created State = "created"
	Kept    State = "kept" // it was there before
)

// Look is what is under a tag, or what is remembered of it.
type Look struct {
	Image             // what the tag is on, if Exists
	Exists  bool      // the tag is there
	Deleted bool      // it was there once, and no image but the tombstone's may have it
	Stone   Tombstone // if Deleted
}

// Free reports whether the tag may be put on an image: it is not there, and it was never on another one.
func (l Look) Free(digest string) bool { return !l.Exists && (!l.Deleted || l.Stone.Digest == digest) }

// Look reads a tag and its tombstone, both at once.
func (c *Client) Look(ctx context.Context, repository, tag string) (Look, error) {
	var (
		both  sync.WaitGroup
		look  Look
		errs  [2]error
		asked = func(i int, f func() error) { both.Go(func() { errs[i] = f() }) }
	)
	asked(0, func() (err error) { look.Image, look.Exists, err = c.Resolve(ctx, repository, tag); return err })
	asked(1, func() (err error) { look.Stone, look.Deleted, err = c.Tombstone(ctx, repository, tag); return err })
	both.Wait()
	if errs[0] == nil && look.Exists && errors.As(errs[1], new(*DeletedError)) {
		errs[1] = nil // the tag itself says what it is on
	}
	return look, cmp.Or(errs[0], errs[1])
}

// Tag puts a tag on an image whose parts are in the repository. A tag that is on another image is never moved: the error is a
// [*TagTakenError] then, or a [*MovedError] if somebody else wrote the tag after this call did. A tag that was on another image before it
// was deleted is a [*DeletedError].
//
// No registry has a compare-and-set for tags, so the order is: look, write the same bytes, compare the digest that is answered, look again.
// When the answer to the write is lost, the second look decides.
func (c *Client) Tag(ctx context.Context, repository, tag string, image Image) (State, error) {
	look, err := c.Look(ctx, repository, tag)
	switch {
	case err != nil:
		return "", err
	case look.Exists && look.Digest == image.Digest:
		return Kept, nil
	case look.Exists:
		return "", &TagTakenError{Repository: repository, Tag: tag, Have: look.Digest, Want: image.Digest}
	case !look.Free(image.Digest):
		return "", &DeletedError{Repository: repository, Tombstone: look.Stone, Want: image.Digest}
	}
	return c.TagFree(ctx, repository, tag, image)
}

// TagFree is [Client.Tag] for a caller that has looked itself, a moment ago, and found the tag free.
func (c *Client) TagFree(ctx context.Context, repository, tag string, image Image) (State, error) {
	return c.write(ctx, repository, tag, image, true)
}

// write puts a manifest under a tag that is free. free says that the caller has just looked.
func (c *Client) write(ctx context.Context, repository, tag string, image Image, free bool) (State, error) {
	repo, err := c.parse(repository)
	if err != nil {
		return "", err
	}
	if !IsTag(tag) {
		return "", fmt.Errorf("%.150q cannot be a tag", tag)
	}
	var (
		sent      error // what became of the last write that was tried
		tried     bool
		stored    bool // the registry said that it took the manifest
		immutable bool // the registry said that the tag cannot be written again
	)
	for wait := c.patience(); ; {
		if !free || tried {
			have, found, err := c.Resolve(ctx, repository, tag)
			switch {
			case err != nil:
				return "", err
			case found && have.Digest == image.Digest && tried && !immutable:
				return Created, nil
			case found && have.Digest == image.Digest:
				return Kept, nil
			case found && stored:
				return "", &MovedError{repository, tag, have.Digest, image.Digest}
			case found:
				return "", &TagTakenError{repository, tag, have.Digest, image.Digest, immutable}
			case immutable:
				return "", &ImmutableError{repository, tag, sent}
			}
		}
		if stored {
			sent = fmt.Errorf("writing tag %s of %s: the registry took it and does not show it", tag, repository)
		}
		if tried && !wait.next(ctx, sent) {
			return "", sent
		}
		if stored {
			continue
		}
		sent, tried = c.put(ctx, repo, tag, image), true
		refused, _ := errors.AsType[*Error](sent)
		immutable = refused != nil && refused.immutable()
		if sent != nil && !temporary(sent) && !immutable {
			return "", sent
		}
		stored = sent == nil
	}
}

// put writes a manifest under a tag or under its own digest, once.
func (c *Client) put(ctx context.Context, repo name.Repository, reference string, image Image) error {
	_, err := c.send(ctx, repo, reference, image)
	return err
}

func (c *Client) send(ctx context.Context, repo name.Repository, reference string, image Image) (*answer, error) {
	doing := fmt.Sprintf("writing tag %s of %s", reference, repo.Name())
	if reference == image.Digest {
		doing = fmt.Sprintf("writing %s to %s", reference, repo.Name())
	}
	a, err := c.do(ctx, repo, request{
		doing: doing, permission: uploadPermission, method: http.MethodPut, path: "manifests/" + reference,
		kind: image.MediaType, body: bytesBody(image.Raw), size: int64(len(image.Raw)), want: http.StatusCreated, once: true, limit: errorLimit,
	})
	if err != nil {
		return nil, err
	}
	if said := a.header.Get("Docker-Content-Digest"); said != "" && said != image.Digest {
		return nil, &DigestError{doing, image.Digest, said}
	}
	return a, nil
}
