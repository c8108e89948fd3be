package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
)

// uploads is how many blobs are sent at the same time.
const uploads = 4

// Upload sends everything that the source's image refers to, blobs first and then the manifests of an index, each under its digest. The
// image itself is left to [Client.Tag]: it becomes visible with its tag, complete, or not at all. What the repository has is not sent again.
func (c *Client) Upload(ctx context.Context, repository string, s *Source) error {
	repo, err := c.parse(repository)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		workers sync.WaitGroup
		once    sync.Once
		failed  error // the first one counts: it makes the others stop
	)
	blobs := make(chan blob)
	for range min(uploads, len(s.blobs)) {
		workers.Go(func() {
			for b := range blobs {
				if err := c.uploadBlob(ctx, repo, b); err != nil {
					once.Do(func() { failed = err })
					cancel()
				}
			}
		})
	}
	for _, b := range s.blobs {
		blobs <- b
	}
	close(blobs)
	workers.Wait()
	if failed != nil {
		return failed
	}
	for _, child := range s.children {
		if err := c.putAgain(ctx, repo, child); err != nil {
			return err
		}
	}
	return nil
}

// blob is a blob on disk, or in another repository.
type blob struct {
	digest string
	size   int64
	open   func() (io.ReadCloser, error)
}

// uploadBlob sends one blob unless the repository has it, from the start again after a temporary fault.
func (c *Client) uploadBlob(ctx context.Context, repo name.Repository, b blob) error {
	for wait := c.patience(); ; {
		err := c.tryBlob(ctx, repo, b)
		if err == nil || !temporary(err) || !wait.next(ctx, err) {
			return err
		}
	}
}

func (c *Client) tryBlob(ctx context.Context, repo name.Repository, b blob) error {
	doing := fmt.Sprintf("uploading %s to %s", b.digest, repo.Name())
	_, err := c.do(ctx, repo, request{
		doing: doing, permission: downloadPermission, method: http.MethodHead, path: "blobs/" + b.digest, want: http.StatusOK, once: true,
	})
	if err == nil {
		return nil
	}
	// The answer to HEAD has no body that could tell a registry's 404 from another one. Either way the upload decides.
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusNotFound {
		return err
	}
	a, err := c.do(ctx, repo, request{
		doing: doing, permission: uploadPermission, method: http.MethodPost, path: "blobs/uploads/", want: http.StatusAccepted, once: true,
		limit: errorLimit,
	})
	if err != nil {
		return err
	}
	return c.finishBlob(ctx, repo, b, a)
}

// finishBlob sends the content to the place that the registry named.
func (c *Client) finishBlob(ctx context.Context, repo name.Repository, b blob, begun *answer) error {
	doing := fmt.Sprintf("uploading %s to %s", b.digest, repo.Name())
	target, err := begun.url.Parse(begun.header.Get("Location"))
	if err != nil || begun.header.Get("Location") == "" {
		return fmt.Errorf("%s: the registry names no place to send it to", doing)
	}
	query := target.Query()
	query.Set("digest", b.digest)
	target.RawQuery = query.Encode()
	a, err := c.do(ctx, repo, request{
		doing: doing, permission: uploadPermission, method: http.MethodPut, url: target, want: http.StatusCreated, once: true, patient: true,
		body: b.open, kind: "application/octet-stream", size: b.size, limit: errorLimit,
	})
	if err != nil {
		return err
	}
	if said := a.header.Get("Docker-Content-Digest"); said != "" && said != b.digest {
		return &DigestError{doing, b.digest, said}
	}
	return nil
}

func bytesBody(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}
