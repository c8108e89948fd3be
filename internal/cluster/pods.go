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

// trouble says what keeps a pod from becoming ready, naming pod, container, reason and message, and whether it is final. It is "" for a
// pod that is merely on its way or ready. A pod that no node takes is in trouble at once and finally so after patience: an autoscaler may be
// adding a node.
func trouble(p *corev1.Pod, now time.Time, patience time.Duration) (text string, final bool) {
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		w := s.State.Waiting
		if w == nil || !slices.Contains(hopeless, w.Reason) {
			continue
		}
		text = fmt.Sprintf("pod %s/%s, container %s: %s", p.Namespace, p.Name, s.Name, w.Reason)
		if w.Message != "" {
			text += ": " + w.Message
		}
		if t := s.LastTerminationState.Terminated; t != nil {
			text += fmt.Sprintf(" (it exited with code %d, %s)", t.ExitCode, t.Reason)
		}
		return text, true
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Running != nil && !s.Ready { // its readiness probe may still succeed
			return fmt.Sprintf("pod %s/%s, container %s: running and not ready", p.Namespace, p.Name, s.Name), false
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			text = fmt.Sprintf("pod %s/%s: %s: %s", p.Namespace, p.Name, c.Reason, c.Message)
			return text, now.Sub(p.CreationTimestamp.Time) >= patience
		}
	}
	return "", false
}
