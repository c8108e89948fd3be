package fakekubelet

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The annotations of a pod by which a test chooses what happens to it.
const (
	annotationDelay      = "fake.kubelet/delay"       // a Go duration: start that long after the pod was created
	annotationExit       = "fake.kubelet/exit"        // an exit code: every container ends with it at once, and the pod has failed
	annotationNeverReady = "fake.kubelet/never-ready" // anything: the containers run, but their readiness probe never succeeds
	annotationHang       = "fake.kubelet/hang"        // anything: a Job's pod runs for ever instead of succeeding
)

// startsIn is how much longer the pod's annotation delays its start.
func startsIn(pod *corev1.Pod, now time.Time) time.Duration {
	delay, err := time.ParseDuration(pod.Annotations[annotationDelay])
	if err != nil {
		return 0
	}
	return pod.CreationTimestamp.Add(delay).Sub(now)
}

// finishesByItself says whether the pod belongs to a Job, and may succeed.
func finishesByItself(pod *corev1.Pod) bool {
	owner := metav1.GetControllerOf(pod)
	return owner != nil && owner.Kind == "Job" && pod.Annotations[annotationHang] == ""
}

// afterPull is the status of a pod once the node has tried to start it. The image names decide first: one that contains "missing" cannot be
// pulled, one that contains "crash" ends again and again; of an init container, the others wait for it. Then come the annotations. Everything else runs and is ready.
func afterPull(pod *corev1.Pod, now metav1.Time) (corev1.PodStatus, error) {
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		switch {
		case strings.Contains(container.Image, "missing"):
			return stuck(pod, container, corev1.PodPending, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
				Reason: "ImagePullBackOff", Message: fmt.Sprintf("Back-off pulling image %q: not found", container.Image)}}, now), nil
		case strings.Contains(container.Image, "crash"):
			return stuck(pod, container, corev1.PodRunning, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
				Reason: "CrashLoopBackOff", Message: fmt.Sprintf("back-off 40s restarting failed container=%s", container.Name)}}, now), nil
		}
	}
	if exit := pod.Annotations[annotationExit]; exit != "" {
		code, err := strconv.ParseInt(exit, 10, 32)
		if err != nil {
			// Fail the pod all the same: a test with a typo must not find it running.
			return terminated(pod, corev1.PodFailed, 255, now), fmt.Errorf("reading the annotation %s: %w", annotationExit, err)
		}
		return terminated(pod, corev1.PodFailed, int32(code), now), nil
	}
	ready := pod.Annotations[annotationNeverReady] == ""
	return started(pod, corev1.PodRunning, ready, corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}, now), nil
}

// stuck is the status of a pod one of whose containers does not come up. The containers after an init container wait for it.
func stuck(pod *corev1.Pod, which corev1.Container, phase corev1.PodPhase, state corev1.ContainerState, now metav1.Time) corev1.PodStatus {
	isInit := slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == which.Name })
	if !isInit {
		status := started(pod, phase, false, state, now)
		for i := range status.ContainerStatuses {
			crashed(&status.ContainerStatuses[i], now)
		}
		return status
	}
	status := started(pod, corev1.PodPending, false, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}, now)
	for i := range status.InitContainerStatuses {
		s := &status.InitContainerStatuses[i]
		if s.Name != which.Name {
			continue
		}
		s.State, s.Ready = state, false
		crashed(s, now)
		for j := i + 1; j < len(status.InitContainerStatuses); j++ { // one after the other
			status.InitContainerStatuses[j].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}
			status.InitContainerStatuses[j].Ready = false
		}
	}
	for i := range status.Conditions {
		if status.Conditions[i].Type == corev1.PodInitialized {
			status.Conditions[i].Status = corev1.ConditionFalse
		}
	}
	return status
}

// crashed adds how a container that crashes again and again ended the last time.
func crashed(s *corev1.ContainerStatus, now metav1.Time) {
	if s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff" {
		s.RestartCount = 3
		s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", StartedAt: now, FinishedAt: now}
	}
}

// unschedulable is what the scheduler says of a pod that fits no node. It carries no time, so that saying it again changes nothing and does
// not bring the pod back.
func unschedulable() corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
		Message: "0/1 nodes are available: 1 Insufficient cpu."}}}
}

// started is the status of a pod on the node, all of whose containers are in one state.
func started(pod *corev1.Pod, phase corev1.PodPhase, ready bool, state corev1.ContainerState, now metav1.Time) corev1.PodStatus {
	// Every pod has the same address. Nothing listens there.
	status := corev1.PodStatus{Phase: phase, StartTime: &now, PodIP: "10.244.0.1", PodIPs: []corev1.PodIP{{IP: "10.244.0.1"}}}
	isReady := corev1.ConditionFalse
	if ready {
		isReady = corev1.ConditionTrue
	}
	for _, condition := range []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
		{Type: corev1.PodInitialized, Status: corev1.ConditionTrue},
		{Type: corev1.ContainersReady, Status: isReady},
		{Type: corev1.PodReady, Status: isReady},
	} {
		condition.LastTransitionTime = now
		status.Conditions = append(status.Conditions, condition)
	}
	for _, container := range pod.Spec.InitContainers {
		entry := containerStatus(container, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: now, FinishedAt: now}})
		entry.Ready = true
		status.InitContainerStatuses = append(status.InitContainerStatuses, entry)
	}
	for _, container := range pod.Spec.Containers {
		entry := containerStatus(container, state)
		entry.Ready, entry.Started = ready, &ready
		status.ContainerStatuses = append(status.ContainerStatuses, entry)
	}
	return status
}

// terminated is the status of a pod all of whose containers have ended with one exit code.
func terminated(pod *corev1.Pod, phase corev1.PodPhase, code int32, now metav1.Time) corev1.PodStatus {
	status := corev1.PodStatus{Phase: phase, StartTime: &now, Conditions: []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: now}}}
	reason := "Completed"
	if code != 0 {
		reason = "Error"
	}
	for _, container := range pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, containerStatus(container, corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, StartedAt: now, FinishedAt: now}}))
	}
	return status
}

// containerStatus names the image as the pod does. A node learns the image's id by pulling; this one knows it only where the pod names the
// image by digest. An image that is not there has no id.
func containerStatus(container corev1.Container, state corev1.ContainerState) corev1.ContainerStatus {
	status := corev1.ContainerStatus{Name: container.Name, Image: container.Image, State: state}
	if state.Waiting == nil || state.Waiting.Reason != "ImagePullBackOff" {
		status.ImageID = imageID(container.Image)
	}
	return status
}

// imageID is what containerd reports for an image that is named by digest: the repository without the tag, and the digest. It is empty for
// an image that is named by tag only.
func imageID(image string) string {
	name, digest, ok := strings.Cut(image, "@")
	if !ok {
		return ""
	}
	// A colon before the last slash separates a port, not a tag.
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name = name[:colon]
	}
	return name + "@" + digest
}
