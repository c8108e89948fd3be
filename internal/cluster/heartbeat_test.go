package cluster

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// slow starts a deployment whose pods take that long, with a heartbeat of 200 ms.
func (p *place) slow(delay string) <-chan error {
	p.t.Helper()
	r := p.release(map[string]any{"image": "registry/app:v2", "annotations": map[string]any{"fake.kubelet/delay": delay}}, nil)
	r.Heartbeat = 200 * time.Millisecond
	done := make(chan error, 1)
	go func() {
		_, err := p.cluster.Deploy(context.WithoutCancel(p.t.Context()), r, func(string) {})
		done <- err
	}()
	return done
}

func TestAPendingRecordChangesAsLongAsItsWriterLives(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(nil, nil)
	done := p.slow("4s")
	before := p.waitFor(func(s State) bool { return s.Newest.Pending() }).Newest
	if !before.Mark.Beats {
		t.Errorf("not marked: %+v", before.Mark)
	}
	for range 3 {
		before = p.waitFor(func(s State) bool { return s.Newest.Pending() && s.Newest.State != before.State }).Newest
	}
	if err := p.cluster.Recover(t.Context(), Record{Namespace: before.Namespace, Name: before.Name, Revision: before.Revision, Status: before.Status, State: "1"}, "x"); !errors.Is(err, ErrMoved) {
		t.Errorf("a record that has changed was recovered: %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	p.wantStatuses("1 superseded", "2 deployed")
	s, err := p.core.CoreV1().Secrets(p.namespace).Get(t.Context(), recordName("app", 2), metav1.GetOptions{})
	if err != nil || s.Annotations[annotationHeartbeat] != "" {
		t.Errorf("the record still beats: %v, %v", s.Annotations, err)
	}
}

func TestAWriterThatWasTakenForDeadStopsAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(nil, nil)
	done := p.slow("10m")
	for {
		pending := p.waitFor(func(s State) bool { return s.Newest.Pending() }).Newest
		err := p.cluster.Recover(t.Context(), pending, "interrupted: test")
		if err == nil {
			break
		}
		if !errors.Is(err, ErrMoved) { // it beats faster than we look
			t.Fatal(err)
		}
	}
	began := time.Now()
	if err := <-done; !errors.Is(err, ErrMoved) || time.Since(began) > 20*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	p.wantStatuses("1 deployed", "2 failed")
}

// A sign of life whose answer is lost has been written all the same. It must not look like somebody else's.
func TestALostAnswerToASignOfLifeIsNoStranger(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(nil, nil)
	var lost atomic.Int64
	p.cluster = through(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, recordName("app", 2)) && lost.Add(1)%2 == 1 {
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
	done := p.slow("3s")
	if err := <-done; err != nil && lost.Load()%2 == 0 { // the very last write is one whose answer may be lost, too
		t.Error(err)
	}
	if n := lost.Load(); n < 4 {
		t.Errorf("%d signs of life", n)
	}
	p.wantStatuses("1 superseded", "2 deployed")
}

// through is a cluster behind a handler that may do what it likes with requests.
func through(t *testing.T, handle func(http.ResponseWriter, *http.Request, http.Handler)) *Cluster {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", kubernetesWorld(t).Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(cfg.Host)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	if proxy.Transport, err = rest.TransportFor(cfg); err != nil {
		t.Fatal(err)
	}
	proxy.FlushInterval = -1
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handle(w, r, proxy) }))
	t.Cleanup(server.CloseClientConnections)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := strings.Replace(plainKubeconfig, "https://127.0.0.1:1", server.URL, 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}
