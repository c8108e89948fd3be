package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
)

// Store is a place that keeps images together with what belongs to them: a repository of a registry ([Client.Repository]), or an OCI layout
// in a folder ([Layout]).
type Store interface {
	fmt.Stringer
	// Tags lists the names of all tags.
	Tags(ctx context.Context) ([]string, error)
	// Resolve reads what a tag or a digest names; the bytes have been compared with their digest.
	Resolve(ctx context.Context, tagOrDigest string) (Image, bool, error)
	// Referrers lists the digests of manifests that say that this one is their subject, as far as the place knows without a tag.
	Referrers(ctx context.Context, digest string) ([]string, error)

	open(ctx context.Context, d descriptor) (io.ReadCloser, error)
	putBlob(ctx context.Context, d descriptor, from Store) error
	// putManifest writes a manifest under its digest. listed says that the place lists it by itself among the referrers of its subject.
	putManifest(ctx context.Context, image Image) (listed bool, err error)
	// listReferrers lists manifests as referrers of a subject in a place that does not do that by itself.
	listReferrers(ctx context.Context, subject string, digests []string) error
	// putTag writes a tag. A tag on another image is moved only when move says so.
	putTag(ctx context.Context, tag string, image Image, move bool) error
}

// Repository is a repository as a [Store].
type Repository struct {
	c    *Client
	path string
}

// Repository returns a repository as a store. A client that copies between repositories of one registry is made with [MountingFrom].
func (c *Client) Repository(repository string) (*Repository, error) {
	if _, err := c.parse(repository); err != nil {
		return nil, err
	}
	return &Repository{c, repository}, nil
}

// Open opens what a step.Place names, folder or repository; nothing for an empty name.
func (c *Client) Open(name string, folder bool) (Store, error) {
	switch {
	case name == "":
		return nil, nil
	case folder:
		return OpenLayout(name), nil
	}
	r, err := c.Repository(name)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// String is host/path.
func (r *Repository) String() string { return r.path }

// Tags implements [Store].
func (r *Repository) Tags(ctx context.Context) ([]string, error) { return r.c.TagsOf(ctx, r.path) }

// Resolve implements [Store].
func (r *Repository) Resolve(ctx context.Context, tagOrDigest string) (Image, bool, error) {
	return r.c.Resolve(ctx, r.path, tagOrDigest)
}

// Referrers implements [Store]. A registry without the API has none; its referrers are listed under a tag, which [Collect] reads.
func (r *Repository) Referrers(ctx context.Context, digest string) ([]string, error) {
	repo, err := r.c.parse(r.path)
	if err != nil {
		return nil, err
	}
	list, _, err := r.c.referrers(ctx, repo, digest)
	var digests []string
	for _, d := range list {
		digests = append(digests, d.Digest)
	}
	return digests, err
}

// open streams a blob, compared with its digest at the end.
func (r *Repository) open(ctx context.Context, d descriptor) (io.ReadCloser, error) {
	repo, err := r.c.parse(r.path)
	if err != nil {
		return nil, err
	}
	return r.c.download(ctx, repo, d.Digest, d.Size), nil
}

// putBlob takes a blob over: from a repository of the same registry by a mount, which moves no bytes, else by sending it.
func (r *Repository) putBlob(ctx context.Context, d descriptor, from Store) error {
	repo, err := r.c.parse(r.path)
	if err != nil {
		return err
	}
	content := blob{d.Digest, d.Size, func() (io.ReadCloser, error) { return from.open(ctx, d) }}
	source, ok := r.mountable(repo, from)
	if !ok {
		return r.c.uploadBlob(ctx, repo, content)
	}
	for wait := r.c.patience(); ; {
		err := r.c.mount(ctx, source, repo, content)
		if e, ok := errors.AsType[*Error](err); ok && (e.Status == http.StatusMethodNotAllowed || e.Status == http.StatusNotImplemented) {
			return r.c.uploadBlob(ctx, repo, content) // a registry that does not mount
		}
		if err == nil || !temporary(err) || !wait.next(ctx, err) {
			return err
		}
	}
}

func (r *Repository) mountable(repo name.Repository, from Store) (name.Repository, bool) {
	other, ok := from.(*Repository)
	if !ok {
		return name.Repository{}, false
	}
	source, err := r.c.parse(other.path)
	return source, err == nil && source.Registry == repo.Registry
}

func (r *Repository) putManifest(ctx context.Context, image Image) (listed bool, err error) {
	repo, err := r.c.parse(r.path)
	if err != nil {
		return false, err
	}
	return r.c.putReferrer(ctx, repo, image)
}

func (r *Repository) listReferrers(ctx context.Context, subject string, digests []string) error {
	repo, err := r.c.parse(r.path)
	if err != nil {
		return err
	}
	return r.c.listReferrers(ctx, repo, subject, digests)
}

func (r *Repository) putTag(ctx context.Context, tag string, image Image, move bool) error {
	if move {
		if there, found, err := r.Resolve(ctx, tag); err != nil || found && there.Digest == image.Digest {
			return err
		}
		repo, err := r.c.parse(r.path)
		if err != nil {
			return err
		}
		return r.c.putAs(ctx, repo, tag, image)
	}
	_, err := r.c.Tag(ctx, r.path, tag, image)
	return err
}

// Delete deletes a manifest by its digest, or a tag, through the registry's own protocol. What is not there counts as deleted. A registry that
// does not delete is a [*KeepsError].
func (r *Repository) Delete(ctx context.Context, tagOrDigest string) error {
	repo, err := r.c.parse(r.path)
	if err != nil {
		return err
	}
	_, err = r.c.do(ctx, repo, request{
		doing: fmt.Sprintf("deleting %s of %s", tagOrDigest, r.path), permission: deletePermission, method: http.MethodDelete,
		path: "manifests/" + tagOrDigest, want: http.StatusAccepted, limit: errorLimit,
	})
	e, ok := errors.AsType[*Error](err)
	switch {
	case ok && e.absent():
		return nil
	case ok && (e.Status == http.StatusMethodNotAllowed || e.Code == "UNSUPPORTED" || e.Status == http.StatusBadRequest && e.Code == "DIGEST_INVALID"):
		return &KeepsError{Repository: r.path, What: tagOrDigest, Err: e}
	}
	return err
}

// KeepsError says that a registry does not delete what it was asked to (distribution specification, "Content Management": it may refuse).
type KeepsError struct {
	Repository, What string
	Err              *Error
}

// Error gives the registry's words.
func (e *KeepsError) Error() string {
	return fmt.Sprintf("the registry does not delete %s of %s: %v", e.What, e.Repository, e.Err)
}

// Fix says what the reader can do.
func (e *KeepsError) Fix() string {
	return "set DELETE=false and rely on the hold, or ask the registry's owner to allow deletions of " + e.Repository
}

// Unwrap returns the refusal.
func (e *KeepsError) Unwrap() error { return e.Err }

// parallel calls f for each item, a few at a time, and returns the first error.
func parallel[T any](ctx context.Context, items []T, f func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	work := make(chan T)
	for range min(2*uploads, len(items)) {
		workers.Go(func() {
			for item := range work {
				if ctx.Err() != nil {
					continue
				}
				if err := f(ctx, item); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, item := range items {
		work <- item
	}
	close(work)
	workers.Wait()
	return context.Cause(ctx)
}

// attachmentTag reports whether a tag belongs to the manifest in its name: the referrers of registries that cannot list them
// (sha256-<hex>, distribution specification, "Referrers Tag Schema"), and cosign's (with .sig, .att or .sbom).
func attachmentTag(tag string) bool {
	hex, ok := strings.CutPrefix(tag, "sha256-")
	return ok && len(hex) >= 64 && IsDigest("sha256:"+hex[:64])
}
