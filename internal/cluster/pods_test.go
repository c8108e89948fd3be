package cluster

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAPodsTroubleNamesPodContainerReasonAndMessage(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	waiting := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	unscheduled := []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/3 nodes are available"}}
	for _, tt := range []struct {
		name     string
		age      time.Duration
		status   corev1.PodStatus
		want     string
		final    bool
		wrote    bool // there is a log
		previous bool // of the container before
	}{
		{name: "on its way", status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: waiting("ContainerCreating", "")}}}},
		{name: "ready", status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "app", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}},
		{
			name:   "a readiness probe that does not succeed",
			status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}},
			want:   "pod n/p, container app: running and not ready", wrote: true,
		},
		{
			name:   "an image that is not there",
			status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "side"}, {Name: "app", State: waiting("ImagePullBackOff", "Back-off pulling image x")}}},
			want:   "pod n/p, container app: ImagePullBackOff: Back-off pulling image x", final: true,
		},
		{
			name:   "an init container",
			status: corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{{Name: "setup", State: waiting("ErrImagePull", "")}}},
			want:   "pod n/p, container setup: ErrImagePull", final: true,
		},
		{
			name:   "a ConfigMap that is not there",
			status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: waiting("CreateContainerConfigError", `configmap "x" not found`)}}},
			want:   `pod n/p, container app: CreateContainerConfigError: configmap "x" not found`, final: true,
		},
		{
			name: "a crash, with its exit code",
			status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
				Name: "app", State: waiting("CrashLoopBackOff", "back-off 10s"), LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}},
			}}},
			want: "pod n/p, container app: CrashLoopBackOff: back-off 10s (it exited with code 137, OOMKilled)", final: true, wrote: true, previous: true,
		},
		{
			name:   "an attempt of a Job that failed",
			status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error", Message: "no database"}}}}},
			want:   "pod n/p, container app: exited with code 3, Error, no database", wrote: true,
		},
		{
			name: "an init container that runs",
			status: corev1.PodStatus{
				InitContainerStatuses: []corev1.ContainerStatus{{Name: "wait", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
				ContainerStatuses:     []corev1.ContainerStatus{{Name: "app", State: waiting("PodInitializing", "")}},
			},
			want: "pod n/p, container wait: init container, still running", wrote: true,
		},
		{
			name: "an init container that has succeeded",
			status: corev1.PodStatus{
				InitContainerStatuses: []corev1.ContainerStatus{{Name: "wait", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}}},
				ContainerStatuses:     []corev1.ContainerStatus{{Name: "app", State: waiting("ContainerCreating", "")}},
			},
		},
		{name: "no node yet", age: 59 * time.Second, status: corev1.PodStatus{Conditions: unscheduled}, want: "pod n/p: Unschedulable: 0/3 nodes are available"},
		{name: "no node for too long", age: time.Minute, status: corev1.PodStatus{Conditions: unscheduled}, want: "pod n/p: Unschedulable: 0/3 nodes are available", final: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", CreationTimestamp: metav1.NewTime(now.Add(-tt.age))}, Status: tt.status}
			got := troubleOf(p, now, time.Minute)
			if got.text != tt.want || got.final != tt.final || got.wrote != tt.wrote || got.previous != tt.previous {
				t.Errorf("%+v\nwant %q, final %v, wrote %v, previous %v", got, tt.want, tt.final, tt.wrote, tt.previous)
			}
		})
	}
}
