package fakekubelet

import (
	"io"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

func TestALogIsServedAsAKubeletDoes(t *testing.T) {
	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	pod := func(name, image string) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, Annotations: map[string]string{
			annotationLog: "one\ntwo\nthree\n", annotationPreviousLog: "panic\n"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: image}}}}
		status, err := afterPull(p, metav1.Now())
		if err != nil {
			t.Fatal(err)
		}
		p.Status = status
		if err := pods.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	pod("runs", "backend")
	pod("crashes", "crash")
	pod("waits", "missing")
	server := serveLogs(corelisters.NewPodLister(pods))
	t.Cleanup(server.Close)
	for _, test := range []struct {
		path, want string
		status     int
	}{
		{"/n/runs/app", "one\ntwo\nthree\n", 200},
		{"/n/runs/app?tailLines=2", "two\nthree\n", 200},
		{"/n/runs/app?tailLines=2&limitBytes=5", "two\nt", 200},
		{"/n/runs/app?previous=true", `previous terminated container "app" in pod "runs" not found` + "\n", 400},
		{"/n/crashes/app?previous=true", "panic\n", 200},
		{"/n/crashes/app", "one\ntwo\nthree\n", 200},
		{"/n/waits/app", `container "app" in pod "waits" is waiting to start: ImagePullBackOff` + "\n", 400},
		{"/n/runs/other", `container "other" in pod "runs" is not available` + "\n", 400},
		{"/n/absent/app", `pod "absent" not found` + "\n", 404},
	} {
		answer, err := server.Client().Get(server.URL + "/containerLogs" + test.path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != test.status || string(text) != test.want {
			t.Errorf("%s: %d %q, %v, want %d %q", test.path, answer.StatusCode, text, err, test.status, test.want)
		}
	}
}
