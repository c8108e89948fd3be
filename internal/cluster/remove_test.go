package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (p *place) newest() Record {
	p.t.Helper()
	s, err := p.cluster.State(p.t.Context(), Key{p.namespace, "app"})
	if err != nil {
		p.t.Fatal(err)
	}
	return s.Newest
}

func (p *place) removal(newest Record) Release {
	return Release{
		Key: Key{p.namespace, "app"}, Newest: newest, Timeout: 30 * time.Second, Patience: time.Minute,
		Mark: Mark{Build: "remover", Until: time.Now().Add(time.Hour), Source: "ours"},
	}
}

func TestAReleaseIsRemovedOnlyAsItWasRead(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(nil, nil)
	read := p.newest()
	p.mustDeploy(map[string]any{"image": "registry.example/app:v2"}, nil)
	if err := p.cluster.Remove(t.Context(), p.removal(read), func(string) {}); !errors.Is(err, ErrMoved) {
		t.Errorf("a release that was upgraded since: %v", err)
	}
	p.wantStatuses("1 superseded", "2 deployed")
	p.image() // the Deployment is there

	// Two builds remove it at the same time: one does.
	read = p.newest()
	done := make(chan error, 2)
	for range 2 {
		go func() { done <- p.cluster.Remove(context.WithoutCancel(t.Context()), p.removal(read), func(string) {}) }()
	}
	first, second := <-done, <-done
	if first != nil {
		first, second = second, first
	}
	if first != nil || !errors.Is(second, ErrMoved) {
		t.Errorf("%v and %v, want one success and one that was too late", first, second)
	}
	p.wantStatuses()
	if _, err := p.core.AppsV1().Deployments(p.namespace).Get(t.Context(), "app", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Deployment: %v", err)
	}
}

const hangingHook = `apiVersion: batch/v1
kind: Job
metadata: {name: hook, annotations: {helm.sh/hook: pre-delete}}
spec: {template: {metadata: {annotations: {fake.kubelet/hang: "yes"}}, spec: {restartPolicy: Never, containers: [{name: hook, image: registry.example/hook}]}}}
`

func TestARemovalThatIsUnderWayShowsWhoseItIsAndThatItLives(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	r := p.release(nil, map[string]string{"templates/hook.yaml": hangingHook})
	r.Mark.Source = "ours"
	if _, err := p.cluster.Deploy(t.Context(), r, func(string) {}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	removal := p.removal(p.newest())
	removal.Heartbeat = 100 * time.Millisecond
	done := make(chan error, 1)
	go func() { done <- p.cluster.Remove(ctx, removal, func(string) {}) }()
	before := p.waitFor(func(s State) bool { return s.Newest.Status == "uninstalling" }).Newest
	if m := before.Mark; m.Build != "remover" || m.Source != "ours" || !m.Beats || m.Until.IsZero() {
		t.Errorf("marked %+v", m)
	}
	for range 3 {
		before = p.waitFor(func(s State) bool { return s.Newest.State != before.State }).Newest
	}
	cancel(errors.New("stopped by the test"))
	if err := <-done; err == nil || !strings.Contains(err.Error(), "stopped by the test") {
		t.Error(err)
	}
	p.wantStatuses("1 failed")
	if m := p.newest().Mark; m.Source != "ours" {
		t.Errorf("what is left is not found again: %+v", m)
	}
}
