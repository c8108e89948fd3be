package cluster

import (
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// scale does what `kubectl scale` and autoscalers do.
func (p *place) scale(replicas int32) {
	p.t.Helper()
	s := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "app", Namespace: p.namespace}, Spec: autoscalingv1.ScaleSpec{Replicas: replicas}}
	if _, err := p.core.AppsV1().Deployments(p.namespace).UpdateScale(p.t.Context(), "app", s, metav1.UpdateOptions{FieldManager: "an-autoscaler"}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) replicas() int32 {
	p.t.Helper()
	d, err := p.core.AppsV1().Deployments(p.namespace).Get(p.t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	return *d.Spec.Replicas
}

func TestAnUpgradeLeavesTheNumberThatAnAutoscalerFound(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(map[string]any{"replicas": 1}, nil)
	p.scale(3)
	p.mustDeploy(map[string]any{"replicas": 2, "image": "registry/app:v2"}, nil)
	if n := p.replicas(); n != 3 {
		t.Errorf("the upgrade left %d replicas, want the autoscaler's 3", n)
	}
	p.mustDeploy(map[string]any{"replicas": 3, "image": "registry/app:v3"}, nil) // the same number, by chance
	p.scale(4)
	p.mustDeploy(map[string]any{"replicas": 3, "image": "registry/app:v4"}, nil)
	if n := p.replicas(); n != 4 {
		t.Errorf("the upgrade left %d replicas, want the autoscaler's 4", n)
	}
}

func TestARollBackLeavesTheNumberThatAnAutoscalerFound(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(map[string]any{"replicas": 1}, nil)
	p.scale(2)
	r := p.release(map[string]any{"replicas": 1, "image": "registry/missing:v2"}, nil)
	if _, err := p.cluster.Deploy(t.Context(), r, func(string) {}); err == nil {
		t.Fatal("an image that is missing was deployed")
	}
	r.Timeout = time.Minute
	if _, _, err := p.cluster.Rollback(t.Context(), r, func(string) {}); err != nil {
		t.Fatal(err)
	}
	if n := p.replicas(); n != 2 {
		t.Errorf("the roll back left %d replicas, want the autoscaler's 2", n)
	}
}

func TestANumberThatNobodyElseSetsIsTheCharts(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.mustDeploy(map[string]any{"replicas": 2}, nil)
	p.scale(3)                                // and somebody takes the number back
	edit := []byte(`{"spec":{"replicas":1}}`) // of the object itself, as `kubectl patch` makes it
	if _, err := p.core.AppsV1().Deployments(p.namespace).Patch(t.Context(), "app", types.MergePatchType, edit, metav1.PatchOptions{FieldManager: "kubectl-patch"}); err != nil {
		t.Fatal(err)
	}
	p.mustDeploy(map[string]any{"replicas": 2, "image": "registry/app:v2"}, nil)
	if n := p.replicas(); n != 2 {
		t.Errorf("%d replicas, want the chart's 2", n)
	}
}

const autoscaler = `apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: '{{ .Release.Name }}'}
spec:
  minReplicas: 3
  maxReplicas: 5
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: '{{ .Release.Name }}'}
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]
`

// The controller itself is at work here: without metrics it still brings the number up to minReplicas.
func TestAnAutoscalerOfTheChartKeepsItsNumber(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	more := map[string]string{"templates/hpa.yaml": autoscaler}
	p.mustDeploy(map[string]any{"replicas": 1}, more)
	for deadline := time.Now().Add(time.Minute); p.replicas() != 3; <-time.After(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the autoscaler did not raise the number: %d", p.replicas())
		}
	}
	d, err := p.core.AppsV1().Deployments(p.namespace).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := d.Generation
	p.mustDeploy(map[string]any{"replicas": 1, "image": "registry/app:v2"}, more)
	if d, err = p.core.AppsV1().Deployments(p.namespace).Get(t.Context(), "app", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if *d.Spec.Replicas != 3 || d.Generation != before+1 { // a number that was reset and raised again would be more than one change
		t.Errorf("%d replicas at generation %d, want 3 at %d", *d.Spec.Replicas, d.Generation, before+1)
	}
}

func TestWhoScalesIsReadFromTheManagedFields(t *testing.T) {
	for name, c := range map[string]struct {
		subresource, fields string
		want                bool
	}{
		"the scale subresource owns the number":      {"scale", `{"f:spec":{"f:replicas":{}}}`, true},
		"the object itself was edited":               {"", `{"f:spec":{"f:replicas":{}}}`, false},
		"the status subresource owns something else": {"status", `{"f:status":{"f:replicas":{}}}`, false},
		"the scale subresource owns something else":  {"scale", `{"f:spec":{"f:size":{}}}`, false},
		"fields that are not JSON say nothing":       {"scale", `{`, false},
	} {
		t.Run(name, func(t *testing.T) {
			entry := metav1.ManagedFieldsEntry{Manager: "x", Subresource: c.subresource, FieldsV1: metav1.NewFieldsV1(c.fields)}
			if got := scaledElsewhere([]metav1.ManagedFieldsEntry{entry}); got != c.want {
				t.Errorf("%t, want %t", got, c.want)
			}
		})
	}
}
