package gke

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// newClient makes the client for Google's APIs.
func newClient() *http.Client {
	return &http.Client{Timeout: 30 * time.Second, CheckRedirect: refuseRedirect}
}

// refuseRedirect keeps tokens with the server that they were meant for; none of these APIs redirects.
func refuseRedirect(r *http.Request, _ []*http.Request) error {
	return fmt.Errorf("the server redirects to %s, which is not followed", r.URL.Host)
}

// call asks an API for one JSON document. Reading a cluster and minting a token may both be repeated.
func (g *Google) call(ctx context.Context, as *tokens, method, address string, body []byte, v any) error {
	client := &http.Client{Timeout: g.client.Timeout, CheckRedirect: g.client.CheckRedirect, Transport: &transport{next: http.DefaultTransport, tokens: as}}
	text, err := patiently(ctx, func() ([]byte, http.Header, error) {
		r, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
		if err != nil {
			return nil, nil, err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("User-Agent", "cloudbuild-steps/deploy-helm")
		return send(client, r)
	})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	return nil
}

// patiently tries three times where another try may help: when the server cannot be reached, is overloaded, or has failed.
func patiently(ctx context.Context, try func() ([]byte, http.Header, error)) ([]byte, error) {
	const tries, longest = 3, 10 * time.Second
	pause := 200 * time.Millisecond
	for n := 1; ; n++ {
		text, header, err := try()
		if err == nil || n == tries || ctx.Err() != nil || !temporary(err) {
			return text, err
		}
		if s, err := strconv.Atoi(header.Get("Retry-After")); err == nil && s > 0 {
			pause = min(time.Duration(s)*time.Second, longest)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
		pause = min(pause*4, longest)
	}
}

func temporary(err error) bool {
	if a, ok := errors.AsType[*apiError](err); ok {
		return a.status == http.StatusTooManyRequests || a.status >= 500
	}
	_, final := errors.AsType[*Error](err) // of getting the token, which was patient itself
	return !final
}
