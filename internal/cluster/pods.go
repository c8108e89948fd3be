package cluster

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// hopeless are the reasons of a waiting container after which waiting does not help: the kubelet goes on trying, at growing intervals,
// with what the release gave it.
var hopeless = []string{
	"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
	"CreateContainerConfigError", "CreateContainerError", "CrashLoopBackOff", "RunContainerError",
}

// trouble is what keeps a pod from becoming ready.
type trouble struct {
	text      string // names pod, container, reason and message; "" for a pod that is merely on its way or ready
	final     bool   // waiting does not help
	crash     bool   // the container started and ended, so that whoever owns the pod may try it again
	container string // whose it is; "" when it is the pod's
	wrote     bool   // the container has run, so that it may have written a log
	previous  bool   // the log is the one of the container before it was restarted
}

// troubleOf looks at one pod. One that no node takes is in trouble at once and finally so after patience: an autoscaler may be adding a node.
func troubleOf(p *corev1.Pod, now time.Time, patience time.Duration) trouble {
	in := func(s corev1.ContainerStatus, text string) trouble {
		ended := s.LastTerminationState.Terminated != nil
		return trouble{
			text: fmt.Sprintf("pod %s/%s, container %s: %s", p.Namespace, p.Name, s.Name, text), container: s.Name,
			wrote: s.State.Running != nil || s.State.Terminated != nil || ended, previous: s.State.Waiting != nil && ended,
		}
	}
	all := slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses)
	for _, s := range all {
		w := s.State.Waiting
		if w == nil || !slices.Contains(hopeless, w.Reason) {
			continue
		}
		text := w.Reason
		if w.Message != "" {
			text += ": " + w.Message
		}
		if t := s.LastTerminationState.Terminated; t != nil {
			text += fmt.Sprintf(" (it exited with code %d, %s)", t.ExitCode, t.Reason)
		}
		t := in(s, text)
		t.final, t.crash = true, w.Reason == "CrashLoopBackOff"
		return t
	}
	for _, s := range all {
		if end := s.State.Terminated; end != nil && end.ExitCode != 0 {
			text := fmt.Sprintf("exited with code %d", end.ExitCode)
			for _, more := range []string{end.Reason, end.Message} {
				if more != "" {
					text += ", " + more
				}
			}
			t := in(s, text)
			t.crash = true
			return t
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Running != nil && !s.Ready { // its readiness probe may still succeed
			return in(s, "running and not ready")
		}
	}
	for _, s := range p.Status.InitContainerStatuses {
		if s.State.Running != nil && (s.Started == nil || !*s.Started || !s.Ready) {
			return in(s, "init container, still running")
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return trouble{
				text:  fmt.Sprintf("pod %s/%s: %s: %s", p.Namespace, p.Name, c.Reason, c.Message),
				final: now.Sub(p.CreationTimestamp.Time) >= patience,
			}
		}
	}
	return trouble{}
}
