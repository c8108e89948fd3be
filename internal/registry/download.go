package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
)

// download reads a blob from a registry. A read that breaks off goes on where it stopped; at the end the content has been compared with
// its digest, and a reader that is not told io.EOF has not got the blob.
type download struct {
	c      *Client
	ctx    context.Context // of the copy that it is part of; a reader has no other way to be stopped
	repo   name.Repository
	digest string
	size   int64

	body  io.ReadCloser
	begun int64 // where body begins
	sum   *meter
	wait  *patience
	err   error // the end
}

func (c *Client) download(ctx context.Context, repo name.Repository, digest string, size int64) io.ReadCloser {
	return &download{c: c, ctx: ctx, repo: repo, digest: digest, size: size, sum: newMeter(), wait: c.patience()}
}

func (d *download) doing() string { return fmt.Sprintf("reading %s of %s", d.digest, d.repo.Name()) }

// Read implements io.Reader.
func (d *download) Read(p []byte) (int, error) {
	for d.err == nil {
		if d.body == nil {
			d.begun = d.sum.size
			if d.body, d.err = d.open(); d.err != nil {
				d.retry(d.err)
				continue
			}
		}
		n, err := d.body.Read(p[:min(int64(len(p)), d.size-d.sum.size+1)])
		_, _ = d.sum.Write(p[:n]) // a hash takes everything
		switch {
		case d.sum.size > d.size:
			d.err = fmt.Errorf("%s: it is longer than the %d bytes that the manifest says", d.doing(), d.size)
		case d.sum.size == d.size && (err != nil || n == 0): // however the answer ends, all of it is here
			if d.err = io.EOF; d.sum.digest() != d.digest {
				d.err = &DigestError{d.doing(), d.digest, d.sum.digest()}
			}
		case err != nil:
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // an answer without a length ends early without a word
			}
			_ = d.Close()
			if d.sum.size > d.begun {
				d.wait = d.c.patience() // it moves on
			}
			d.retry(unanswered(d.doing(), d.repo.Name(), downloadPermission, err))
		}
		if n > 0 && (d.err == nil || errors.Is(d.err, io.EOF)) {
			return n, d.err
		}
	}
	return 0, d.err
}

// retry waits, or makes the error the end.
func (d *download) retry(err error) {
	if d.err = nil; !temporary(err) || !d.wait.next(d.ctx, err) {
		d.err = err
	}
}

// open asks for what is missing.
func (d *download) open() (io.ReadCloser, error) {
	fail := func(e *Error) (io.ReadCloser, error) {
		e.name(d.ctx, d.c.session(d.ctx, d.repo))
		return nil, e
	}
	s := d.c.session(d.ctx, d.repo)
	target, err := s.root.Parse("blobs/" + d.digest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.doing(), err)
	}
	req, err := http.NewRequestWithContext(d.ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.doing(), err)
	}
	if d.sum.size > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.sum.size))
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return fail(unanswered(d.doing(), d.repo.Name(), downloadPermission, err))
	}
	var from int64
	switch {
	case resp.StatusCode == http.StatusOK: // perhaps without regard to the range
	case resp.StatusCode == http.StatusPartialContent && d.sum.size > 0:
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from > d.sum.size {
			_ = resp.Body.Close()
			return nil, fmt.Errorf("%s: asked for what follows byte %d, the registry gave %.100q", d.doing(), d.sum.size, resp.Header.Get("Content-Range"))
		}
	default:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, errorLimit))
		_ = resp.Body.Close()
		return fail(refusal(d.doing(), d.repo.Name(), downloadPermission, resp.StatusCode, resp.Header, body))
	}
	if _, err := io.CopyN(io.Discard, resp.Body, d.sum.size-from); err != nil {
		_ = resp.Body.Close()
		return fail(unanswered(d.doing(), d.repo.Name(), downloadPermission, err))
	}
	return resp.Body, nil
}

// Close implements io.Closer.
func (d *download) Close() error {
	if d.body != nil {
		_ = d.body.Close() // it was only read
		d.body = nil
	}
	return nil
}
