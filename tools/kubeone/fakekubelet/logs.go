package fakekubelet

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// The annotations of a pod that hold what its containers have written. With none of them a container has written nothing.
const (
	annotationLog         = "fake.kubelet/log"          // of the container that runs, or ran last
	annotationPreviousLog = "fake.kubelet/previous-log" // of the container before it was restarted
)

// serveLogs answers what the API server asks a node when somebody reads pods/log, on a port of loopback. The API server does not check the
// certificate of a kubelet unless it is told an authority for them.
func serveLogs(pods corelisters.PodLister) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		pod, err := pods.Pods(r.PathValue("namespace")).Get(r.PathValue("pod"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		query := r.URL.Query()
		text, err := logOf(pod, r.PathValue("container"), query.Get("previous") == "true")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write([]byte(cut(text, query.Get("tailLines"), query.Get("limitBytes"))))
	})
	return httptest.NewTLSServer(mux)
}

// logOf is what a container has written. A container that never ran has no log, and says why, in the kubelet's words.
func logOf(pod *corev1.Pod, container string, previous bool) (string, error) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range list {
			if s.Name != container {
				continue
			}
			ended := s.LastTerminationState.Terminated != nil
			switch {
			case previous && !ended:
				return "", fmt.Errorf("previous terminated container %q in pod %q not found", container, pod.Name)
			case previous:
				return pod.Annotations[annotationPreviousLog], nil
			case s.State.Waiting != nil && !ended:
				return "", fmt.Errorf("container %q in pod %q is waiting to start: %s", container, pod.Name, s.State.Waiting.Reason)
			}
			return pod.Annotations[annotationLog], nil
		}
	}
	return "", fmt.Errorf("container %q in pod %q is not available", container, pod.Name)
}

// cut takes the last lines, and of those the first bytes, as a kubelet does.
func cut(text, tailLines, limitBytes string) string {
	if n, err := strconv.Atoi(tailLines); err == nil {
		lines := strings.SplitAfter(text, "\n")
		if lines[len(lines)-1] == "" {
			lines = lines[:len(lines)-1]
		}
		text = strings.Join(lines[max(0, len(lines)-n):], "")
	}
	if n, err := strconv.Atoi(limitBytes); err == nil {
		text = text[:min(n, len(text))]
	}
	return text
}
