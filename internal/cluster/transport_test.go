package cluster

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// never is a server that takes a request and does not answer.
type never struct{}

func (never) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestAServerThatDoesNotAnswerIsGivenUp(t *testing.T) {
	for _, tt := range []struct {
		name, url string
		after     time.Duration
	}{
		{"a request", "https://x/api", answerTimeout},
		{"a watch", "https://x/api?watch=true", watchTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, tt.url, nil)
				_, err := (&transport{next: never{}}).RoundTrip(r)
				if !errors.Is(err, errSlow) || time.Since(began) != tt.after {
					t.Errorf("%v after %s", err, time.Since(began))
				}
			})
		})
	}
}

// slow is a server that answers at once and then takes its time with the body.
type slow struct{ pause time.Duration }

func (s slow) RoundTrip(r *http.Request) (*http.Response, error) {
	pr, pw := io.Pipe()
	go func() {
		select {
		case <-time.After(s.pause):
			_, _ = io.WriteString(pw, "late")
			_ = pw.Close()
		case <-r.Context().Done():
			_ = pw.CloseWithError(r.Context().Err())
		}
	}()
	return &http.Response{StatusCode: 200, Body: pr}, nil
}

func TestOnlyAWatchMayStayOpen(t *testing.T) {
	for url, want := range map[string]error{"https://x/api": errSlow, "https://x/api?watch=true": nil} {
		synctest.Test(t, func(t *testing.T) {
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
			resp, err := (&transport{next: slow{time.Hour}}).RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			if !errors.Is(err, want) || want == nil && string(text) != "late" {
				t.Errorf("%s: %q, %v", url, text, err)
			}
			if err := resp.Body.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestARedirectToAnotherServerIsNotFollowed(t *testing.T) {
	var reached bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer other.Close()
	server := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer server.Close()
	client := &http.Client{Transport: &transport{next: http.DefaultTransport}}
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	resp, err := client.Do(r)
	if err == nil {
		_ = resp.Body.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "redirects to another server") || reached {
		t.Errorf("%v, reached: %v", err, reached)
	}
}
