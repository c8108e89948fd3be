package fakekubelet

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTheImageIDIsTheRepositoryAndDigestOfAnImageNamedByDigest(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0f", 32)
	for image, want := range map[string]string{
		"backend":                                  "",
		"backend:v1.0.0":                           "",
		"127.0.0.1:5000/demo/backend":              "",
		"127.0.0.1:5000/demo/backend:v1.0.0":       "",
		"backend@" + digest:                        "backend@" + digest,
		"backend:v1.0.0@" + digest:                 "backend@" + digest,
		"127.0.0.1:5000/backend@" + digest:         "127.0.0.1:5000/backend@" + digest,
		"127.0.0.1:5000/backend:v1.0.0@" + digest:  "127.0.0.1:5000/backend@" + digest,
		"europe-docker.pkg.dev/p/r/b:v1@" + digest: "europe-docker.pkg.dev/p/r/b@" + digest,
	} {
		if got := imageID(image); got != want {
			t.Errorf("imageID(%q) = %q, want %q", image, got, want)
		}
	}
}

func TestWhatThePodAsksForHappensToIt(t *testing.T) {
	const digest = "@sha256:0f"
	for _, test := range []struct {
		name        string
		image       string
		annotations map[string]string
		phase       corev1.PodPhase
		ready       bool
		state       string // waiting:REASON, running, or exit:CODE
		imageID     string
	}{
		{name: "an ordinary pod is ready", image: "demo/backend:v1" + digest, phase: corev1.PodRunning, ready: true, state: "running", imageID: "demo/backend" + digest},
		{name: "a missing image cannot be pulled", image: "demo/missing:v1" + digest, phase: corev1.PodPending, state: "waiting:ImagePullBackOff"},
		{name: "a crashing image was pulled", image: "demo/crash:v1" + digest, phase: corev1.PodRunning, state: "waiting:CrashLoopBackOff", imageID: "demo/crash" + digest},
		{name: "an exit code fails the pod", image: "demo/backend", annotations: map[string]string{annotationExit: "3"}, phase: corev1.PodFailed, state: "exit:3"},
		{name: "a pod that is never ready runs", image: "demo/backend", annotations: map[string]string{annotationNeverReady: "true"}, phase: corev1.PodRunning, state: "running"},
		{name: "a missing image decides before an exit code", image: "missing", annotations: map[string]string{annotationExit: "3"}, phase: corev1.PodPending, state: "waiting:ImagePullBackOff"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: test.annotations},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "backend", Image: test.image}}}}
			status, err := afterPull(pod, metav1.Now())
			if err != nil {
				t.Fatal(err)
			}
			if status.Phase != test.phase {
				t.Errorf("phase %s, want %s", status.Phase, test.phase)
			}
			if len(status.ContainerStatuses) != 1 {
				t.Fatalf("%d container statuses, want 1", len(status.ContainerStatuses))
			}
			container := status.ContainerStatuses[0]
			if container.Name != "backend" || container.Image != test.image || container.ImageID != test.imageID {
				t.Errorf("container %q image %q id %q, want backend, %q, %q", container.Name, container.Image, container.ImageID, test.image, test.imageID)
			}
			if container.Ready != test.ready || conditionIsTrue(status, corev1.PodReady) != test.ready {
				t.Errorf("container ready %t, pod ready %t, want %t", container.Ready, conditionIsTrue(status, corev1.PodReady), test.ready)
			}
			if got := describe(container.State); got != test.state {
				t.Errorf("state %s, want %s", got, test.state)
			}
		})
	}
}

func TestAnExitCodeThatIsNoNumberFailsThePodAndSaysSo(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{annotationExit: "one"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "backend", Image: "backend"}}}}
	status, err := afterPull(pod, metav1.Now())
	if err == nil || status.Phase != corev1.PodFailed {
		t.Errorf("phase %s and error %v, want Failed and an error", status.Phase, err)
	}
}

func TestADelayCountsFromThePodsCreation(t *testing.T) {
	now := time.Now()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		CreationTimestamp: metav1.NewTime(now.Add(-2 * time.Second)), Annotations: map[string]string{annotationDelay: "3s"}}}
	if got := startsIn(pod, now); got != time.Second {
		t.Errorf("starts in %s, want 1s", got)
	}
	pod.Annotations = nil
	if got := startsIn(pod, now); got > 0 {
		t.Errorf("without the annotation it starts in %s, want at once", got)
	}
}

func conditionIsTrue(status corev1.PodStatus, kind corev1.PodConditionType) bool {
	for _, condition := range status.Conditions {
		if condition.Type == kind {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func describe(state corev1.ContainerState) string {
	switch {
	case state.Waiting != nil:
		return "waiting:" + state.Waiting.Reason
	case state.Running != nil:
		return "running"
	case state.Terminated != nil:
		return "exit:" + string('0'+rune(state.Terminated.ExitCode))
	}
	return "none"
}

func TestTheContainersAfterAnInitContainerThatCrashesWait(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "first", Image: "x"}, {Name: "second", Image: "crash"}, {Name: "third", Image: "x"}},
		Containers:     []corev1.Container{{Name: "backend", Image: "x"}},
	}}
	status, err := afterPull(pod, metav1.Now())
	if err != nil || status.Phase != corev1.PodPending || conditionIsTrue(status, corev1.PodInitialized) {
		t.Fatalf("phase %s, initialized %t, %v", status.Phase, conditionIsTrue(status, corev1.PodInitialized), err)
	}
	var got []string
	for _, s := range append(status.InitContainerStatuses, status.ContainerStatuses...) {
		got = append(got, s.Name+" "+describe(s.State))
	}
	if want := "first exit:0, second waiting:CrashLoopBackOff, third waiting:PodInitializing, backend waiting:PodInitializing"; strings.Join(got, ", ") != want {
		t.Errorf("got %s\nwant %s", strings.Join(got, ", "), want)
	}
	if ended := status.InitContainerStatuses[1].LastTerminationState.Terminated; ended == nil || ended.ExitCode != 1 {
		t.Errorf("it ended with %v, want exit code 1", ended)
	}
}
