// Package fakekubelet is the node of kubeone: kubelet and scheduler in one, for a cluster without containers.
//
// It does what a client of the API server can see of a node: it registers, binds pods, reports their status and serves their logs. It runs
// nothing, pulls nothing, and checks no image. What happens to a pod is chosen by the test, through annotations and image names (see
// afterPull and serveLogs).
package fakekubelet

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
)

const (
	nodeName = "fake-1"
	nodeCPU  = "1k" // cores; a pod that requests more stays unschedulable
)

// Run registers the node fake-1, binds every pod to it, and reports what the pod's image names and annotations ask for, until ctx ends. The
// arguments are those of the command line, without the program's name: -kubeconfig PATH.
func Run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fake-kubelet", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "`path` of the kubeconfig of an administrator")
	_ = flags.Parse(args) // ExitOnError: Parse does not return on a fault

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return fmt.Errorf("reading the kubeconfig %q: %w", *kubeconfig, err)
	}
	config.QPS = -1 // the client's own rate limit would be the slowest part of a rehearsal
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	k := newKubelet(client)
	logs := serveLogs(k.pods)
	defer logs.Close()
	if err := registerNode(ctx, client, logs.Listener.Addr().(*net.TCPAddr)); err != nil {
		return fmt.Errorf("registering the node: %w", err)
	}
	return k.run(ctx)
}

// registerNode makes the node and says that it is ready, and where it answers. A node left by an earlier fake-kubelet is taken over.
func registerNode(ctx context.Context, client kubernetes.Interface, address *net.TCPAddr) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{
		corev1.LabelHostname: nodeName, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
	}}}
	created, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		created, err = client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	plenty := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse(nodeCPU),
		corev1.ResourceMemory: resource.MustParse("1Ti"),
		corev1.ResourcePods:   resource.MustParse("1M"),
	}
	created.Status.Capacity, created.Status.Allocatable = plenty, plenty
	created.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address.IP.String()}}
	created.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(address.Port)
	created.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue,
		Reason: "FakeKubelet", Message: "no containers are run here", LastTransitionTime: metav1.Now()}}
	_, err = client.CoreV1().Nodes().UpdateStatus(ctx, created, metav1.UpdateOptions{})
	return err
}

// kubelet works on one pod at a time per worker. The queue holds names, so it never works on one pod twice at once, always sees the newest
// version, and tries again after an error.
type kubelet struct {
	client   kubernetes.Interface
	pods     corelisters.PodLister
	informer cache.SharedIndexInformer
	queue    workqueue.TypedRateLimitingInterface[cache.ObjectName]
	cpu      resource.Quantity
}

func newKubelet(client kubernetes.Interface) *kubelet {
	pods := informers.NewSharedInformerFactory(client, 0).Core().V1().Pods()
	return &kubelet{
		client:   client,
		pods:     pods.Lister(),
		informer: pods.Informer(),
		queue:    workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[cache.ObjectName]()),
		cpu:      resource.MustParse(nodeCPU),
	}
}

// run watches all pods until ctx ends.
func (k *kubelet) run(ctx context.Context) error {
	enqueue := func(object any) {
		if pod, ok := object.(*corev1.Pod); ok {
			k.queue.Add(cache.MetaObjectToName(pod))
		}
	}
	if _, err := k.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    enqueue,
		UpdateFunc: func(_, object any) { enqueue(object) },
	}); err != nil {
		return fmt.Errorf("watching pods: %w", err)
	}
	const workers = 4
	for range workers {
		go k.work(ctx)
	}
	context.AfterFunc(ctx, k.queue.ShutDown)
	k.informer.Run(ctx.Done())
	return nil
}

func (k *kubelet) work(ctx context.Context) {
	for {
		name, shutdown := k.queue.Get()
		if shutdown {
			return
		}
		if err := k.sync(ctx, name); err != nil {
			fmt.Fprintf(os.Stderr, "fake-kubelet: pod %s: %v\n", name, err)
			k.queue.AddRateLimited(name)
		} else {
			k.queue.Forget(name)
		}
		k.queue.Done(name)
	}
}

// sync takes one pod one step further: delete it, bind it, start it, or end it. Each step changes the pod, which brings it back here.
func (k *kubelet) sync(ctx context.Context, name cache.ObjectName) error {
	pod, err := k.pods.Pods(name.Namespace).Get(name.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	err = k.step(ctx, pod)
	// A pod that is gone, or was replaced by one of the same name, needs nothing; one that is newer than our view comes again.
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (k *kubelet) step(ctx context.Context, pod *corev1.Pod) error {
	pods := k.client.CoreV1().Pods(pod.Namespace)
	switch {
	case pod.DeletionTimestamp != nil:
		return pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	case pod.Spec.NodeName == "":
		if !k.fits(pod) {
			return k.report(ctx, pod, unschedulable())
		}
		return pods.Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: nodeName},
		}, metav1.CreateOptions{})
	case pod.Status.Phase == corev1.PodPending && len(pod.Status.ContainerStatuses) == 0:
		if wait := startsIn(pod, time.Now()); wait > 0 {
			k.queue.AddAfter(cache.MetaObjectToName(pod), wait)
			return nil
		}
		status, err := afterPull(pod, metav1.Now())
		return errors.Join(err, k.report(ctx, pod, status))
	case pod.Status.Phase == corev1.PodRunning && finishesByItself(pod):
		return k.report(ctx, pod, terminated(pod, corev1.PodSucceeded, 0, metav1.Now()))
	}
	return nil
}

// fits is the whole of the scheduler: is there a container that no node could hold?
func (k *kubelet) fits(pod *corev1.Pod) bool {
	for _, container := range pod.Spec.Containers {
		if container.Resources.Requests.Cpu().Cmp(k.cpu) > 0 {
			return false
		}
	}
	return true
}

// report writes a pod's status.
func (k *kubelet) report(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) error {
	// The id makes sure that a pod of the same name made in the meantime is not meant: the API server answers with a conflict.
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = k.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
