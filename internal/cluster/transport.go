package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
)

// How long the API server may take. Helm's SDK calls it without a deadline of its own, and rest.Config.Timeout would cut watches too.
const (
	answerTimeout = 60 * time.Second // from the request to the last byte of the answer
	watchTimeout  = 30 * time.Second // from the request to the first byte of a watch, which then stays open
)

var errSlow = errors.New("the server did not answer in time")

// guard sets what every client made from cfg has in common.
func guard(cfg *rest.Config) {
	// client-go's default of 5 requests a second makes 50 releases eight to ten times slower. The API server has its own fairness.
	cfg.QPS = -1
	cfg.UserAgent = "cloudbuild-steps/deploy-helm"
	cfg.WarningHandler = rest.NoWarnings{} // it would write to stderr by itself
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return &transport{next: next} })
}

// transport gives every request a deadline, and refuses redirects to another server: client-go would send the token along.
type transport struct {
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if from := r.Response; from != nil && from.Request != nil && (from.Request.URL.Host != r.URL.Host || from.Request.URL.Scheme != r.URL.Scheme) {
		return nil, fmt.Errorf("the API server redirects to another server (%s), which is not followed", r.URL.Host)
	}
	limit, isWatch := answerTimeout, r.URL.Query().Get("watch") == "true"
	if isWatch {
		limit = watchTimeout
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	timer := time.AfterFunc(limit, func() { cancel(fmt.Errorf("%w (%s)", errSlow, limit)) })
	end := func() { timer.Stop(); cancel(nil) }
	resp, err := t.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errSlow) {
			err = cause
		}
		end()
		return nil, err
	}
	if isWatch {
		timer.Stop()
	}
	resp.Body = &body{ReadCloser: resp.Body, ctx: ctx, end: end}
	return resp, nil
}

// body ends a request's deadline when its answer is read or dropped.
type body struct {
	io.ReadCloser
	ctx context.Context
	end func()
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(b.ctx); errors.Is(cause, errSlow) {
			err = cause
		}
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}
