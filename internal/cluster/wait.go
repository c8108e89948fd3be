package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"helm.sh/helm/v4/pkg/kube"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/resource"
)

// retryPause is the time between two attempts to open a watch.
const retryPause = time.Second

// waiter waits for the objects of one action (kube.Waiter). Helm's own opens a watch on every object of a kind in the namespace and asks
// for all ReplicaSets and pods at each event, and it does not see why a pod fails. This one computes the status of what the apply
// returned, which for most objects needs no request at all, and opens for the rest one watch on the object and one on its pods.
type waiter struct {
	// Helm's interface has no room for a context. It ends all waiting; the deadline of each wait comes on top.
	ctx      context.Context
	cluster  *Cluster
	patience time.Duration // how long nothing may be seen to happen to a pod that no node takes, or that may not be made
	logLines int           // of a container that is to blame, to keep
	report   func(string)  // told what is being waited for, whenever that changes

	mu  sync.Mutex
	log Failure // what the container to blame has written
}

// Wait implements kube.Waiter.
func (w *waiter) Wait(list kube.ResourceList, timeout time.Duration) error {
	return w.all(list, timeout, ready)
}

// WaitWithJobs implements kube.Waiter: a Job is ready when it is complete.
func (w *waiter) WaitWithJobs(list kube.ResourceList, timeout time.Duration) error {
	return w.all(list, timeout, readyOrComplete)
}

// WatchUntilReady implements kube.Waiter, for hooks: a Job and a Pod have to complete, everything else only has to exist.
func (w *waiter) WatchUntilReady(list kube.ResourceList, timeout time.Duration) error {
	return w.all(list, timeout, complete)
}

// WaitForDelete implements kube.Waiter.
func (w *waiter) WaitForDelete(list kube.ResourceList, timeout time.Duration) error {
	ctx, cancel := w.within(timeout)
	defer cancel()
	for _, info := range list {
		if err := w.gone(ctx, info); err != nil {
			return fmt.Errorf("waiting for the end of %s: %w", describe(info), err)
		}
	}
	return nil
}

func (w *waiter) within(timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(w.ctx, timeout, fmt.Errorf("not ready within %s", timeout))
}

// all waits for several objects side by side: the pods of the second must not fail unseen while the first is waited for.
func (w *waiter) all(list kube.ResourceList, timeout time.Duration, j judge) error {
	ctx, cancel := w.within(timeout)
	defer cancel()
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error // the others only learn that it is over
	)
	for _, info := range list {
		applied, err := asUnstructured(info.Object)
		if err != nil {
			return fmt.Errorf("reading %s: %w", describe(info), err)
		}
		if s, _ := j(applied); s == status.CurrentStatus {
			continue
		}
		wg.Go(func() {
			if err := w.one(ctx, info, applied, j); err != nil {
				once.Do(func() { first = err })
				cancel()
			}
		})
	}
	wg.Wait()
	return first
}

// one waits for one object. A watch may end at any time without a reason; it is then opened again.
func (w *waiter) one(ctx context.Context, info *resource.Info, applied *unstructured.Unstructured, j judge) error {
	v := &view{owner: applied}
	last := "" // what is still missing, for progress and for the error at the deadline
	tell := func(text string) {
		if text != last {
			last = text
			w.report(text)
		}
	}
	for {
		done, err := w.follow(ctx, info, applied, v, j, tell)
		if err == nil && ctx.Err() != nil {
			for _, p := range v.waiting {
				w.keepLog(p, troubleOf(p, time.Now(), w.patience))
			}
		}
		switch {
		case done:
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil && last == "":
			return fmt.Errorf("waiting for %s: %w", describe(info), context.Cause(ctx))
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %s", context.Cause(ctx), last)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryPause):
		}
	}
}

// follow watches the object, and its pods where it has any, until it is ready (true), until there is no hope (an error), or until the
// watch ends (neither).
func (w *waiter) follow(ctx context.Context, info *resource.Info, applied *unstructured.Unstructured, v *view, j judge, tell func(string)) (bool, error) {
	objects, err := w.cluster.objectsOf(info).Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", info.Name).String()})
	if err != nil {
		return false, w.refused("watching "+describe(info), err)
	}
	defer objects.Stop()
	var pods <-chan watch.Event
	if selector := podSelector(applied); selector != "" {
		p, err := w.cluster.core.CoreV1().Pods(info.Namespace).Watch(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return false, w.refused("watching the pods of "+describe(info), err)
		}
		defer p.Stop()
		pods = p.ResultChan()
	}
	v.waiting, v.newest = map[string]*corev1.Pod{}, map[string]bool{}
	for {
		var again <-chan time.Time
		if len(v.waiting) > 0 || !v.refusedSince.IsZero() {
			again = time.After(retryPause)
		}
		select {
		case <-ctx.Done():
			return false, nil
		case e, open := <-objects.ResultChan():
			o, isObject := e.Object.(*unstructured.Unstructured)
			switch {
			case !open || !isObject: // ended, or an error event: begin again
				return false, nil
			case e.Type == watch.Deleted:
				return false, fmt.Errorf("%s was deleted while it was waited for", describe(info))
			case o.GetGeneration() < applied.GetGeneration(): // a state from before the apply
				continue
			}
			v.owner = o
			switch s, message := j(o); s {
			case status.CurrentStatus:
				return true, nil
			case status.FailedStatus:
				return false, fmt.Errorf("%s: %s%s", describe(info), message, w.blame(ctx, info, v))
			default:
				if err := w.lookAtOwner(ctx, info, v, message, tell); err != nil {
					return false, err
				}
			}
		case e, open := <-pods:
			if !open {
				return false, nil
			}
			p, isPod := e.Object.(*corev1.Pod)
			if !isPod {
				return false, nil
			}
			delete(v.waiting, p.Name)
			if e.Type == watch.Deleted || p.DeletionTimestamp != nil {
				continue
			}
			if err := w.look(ctx, v, p, tell); err != nil {
				return false, err
			}
		case <-again:
			if err := w.pending(info, v, tell); err != nil {
				return false, err
			}
			for _, p := range v.waiting {
				if err := w.look(ctx, v, p, tell); err != nil {
					return false, err
				}
			}
		}
	}
}

// view is what is known of one object that is waited for.
type view struct {
	owner        *unstructured.Unstructured // its latest state
	waiting      map[string]*corev1.Pod     // pods in trouble that is not final yet
	newest       map[string]bool            // whether a ReplicaSet is the owner's newest one
	refusedSince time.Time                  // since when it may make no pods, by our own clock; zero when it may
}

// lookAtOwner judges an object that is not there yet: it may be a pod itself, and it may be refused pods.
func (w *waiter) lookAtOwner(ctx context.Context, info *resource.Info, v *view, message string, tell func(string)) error {
	if p := asPod(v.owner); p != nil {
		delete(v.waiting, p.Name)
		if err := w.look(ctx, v, p, tell); err != nil {
			return err
		}
	}
	switch refused := noPods(v.owner) != ""; {
	case !refused:
		v.refusedSince = time.Time{}
	case v.refusedSince.IsZero():
		v.refusedSince = time.Now()
	}
	if len(v.waiting) == 0 && v.refusedSince.IsZero() {
		tell(fmt.Sprintf("%s: %s", describe(info), message))
	}
	return w.pending(info, v, tell)
}

// pending gives an error when the object has been refused pods for too long. Not at once: a quota has room again when a pod of the revision
// before has gone.
func (w *waiter) pending(info *resource.Info, v *view, tell func(string)) error {
	if v.refusedSince.IsZero() {
		return nil
	}
	text := fmt.Sprintf("%s gets no pods: %s", describe(info), noPods(v.owner))
	if time.Since(v.refusedSince) >= w.patience {
		return errors.New(text)
	}
	tell(text)
	return nil
}

// look judges one pod, and gives an error when it is of the revision that is waited for and will not become ready.
func (w *waiter) look(ctx context.Context, v *view, p *corev1.Pod, tell func(string)) error {
	t := troubleOf(p, time.Now(), w.patience)
	if t.text == "" {
		return nil
	}
	if ours, err := w.isOfNewestRevision(ctx, v, p); err != nil || !ours {
		return nil //nolint:nilerr // an old pod may be as broken as it likes: it is being replaced, perhaps for that very reason
	}
	if t.final && (!t.crash || v.owner.GetKind() != "Job") { // a Job's own limits say how often it is tried
		w.keepLog(p, t)
		return errors.New(t.text)
	}
	v.waiting[p.Name] = p
	tell(t.text)
	return nil
}

// blame looks for the pod that an object failed for, keeps its log, and names it. The event of the pod may be under way still when the one of
// its owner is here, so the pods are asked for.
func (w *waiter) blame(ctx context.Context, info *resource.Info, v *view) string {
	var pods []corev1.Pod
	if p := asPod(v.owner); p != nil {
		pods = append(pods, *p)
	} else if selector := podSelector(v.owner); selector != "" {
		list, err := w.cluster.core.CoreV1().Pods(info.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return "" // what failed is known; this would only have been more of it
		}
		pods = list.Items
	}
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) }) // a Job's last attempt
	for i := range pods {
		p := &pods[i]
		t := troubleOf(p, time.Now(), w.patience)
		if t.text == "" {
			continue
		}
		if ours, err := w.isOfNewestRevision(ctx, v, p); err != nil || !ours {
			continue
		}
		w.keepLog(p, t)
		return "; " + t.text
	}
	return ""
}

// asPod returns the object when it is a pod itself, nil otherwise.
func asPod(o *unstructured.Unstructured) *corev1.Pod {
	var p corev1.Pod
	if o.GetKind() != "Pod" || o.GetAPIVersion() != "v1" || runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &p) != nil {
		return nil
	}
	return &p
}

// refused tells an answer that will not change from a hiccup, which is no error here: the watch is opened again.
func (w *waiter) refused(doing string, err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return fmt.Errorf("%s: %w", doing, w.cluster.explain(err))
	}
	return nil
}

// isOfNewestRevision reports whether the pod comes from the workload's present template. Each controller has its own way to tell.
func (w *waiter) isOfNewestRevision(ctx context.Context, v *view, p *corev1.Pod) (bool, error) {
	switch v.owner.GetKind() {
	case "Deployment":
		ref := metav1.GetControllerOf(p)
		if ref == nil || ref.Kind != "ReplicaSet" {
			return false, nil
		}
		if is, known := v.newest[ref.Name]; known {
			return is, nil
		}
		rs, err := w.cluster.core.AppsV1().ReplicaSets(p.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		var d appsv1.Deployment
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(v.owner.Object, &d); err != nil {
			return false, err
		}
		v.newest[ref.Name] = sameTemplate(rs.Spec.Template, d.Spec.Template)
		return v.newest[ref.Name], nil
	case "StatefulSet":
		newest, _, _ := unstructured.NestedString(v.owner.Object, "status", "updateRevision")
		return newest == "" || p.Labels[appsv1.ControllerRevisionHashLabelKey] == newest, nil
	case "DaemonSet":
		newest := v.owner.GetAnnotations()[appsv1.DeprecatedTemplateGeneration]
		return newest == "" || p.Labels["pod-template-generation"] == newest, nil
	}
	return true, nil // a Job, a ReplicaSet: all pods are of one template
}

// sameTemplate is how the Deployment controller finds its newest ReplicaSet (k8s.io/kubernetes EqualIgnoreHash).
func sameTemplate(a, b corev1.PodTemplateSpec) bool {
	a, b = *a.DeepCopy(), *b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return apiequality.Semantic.DeepEqual(a, b)
}

// podSelector is the label selector of a workload's pods, "" for what has none.
func podSelector(o *unstructured.Unstructured) string {
	switch o.GetKind() {
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job":
	default:
		return ""
	}
	raw, ok, _ := unstructured.NestedMap(o.Object, "spec", "selector")
	if !ok {
		return ""
	}
	var s metav1.LabelSelector
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &s); err != nil {
		return ""
	}
	selector, err := metav1.LabelSelectorAsSelector(&s)
	if err != nil || selector.Empty() {
		return ""
	}
	return selector.String()
}

// gone waits until the object does not exist.
func (w *waiter) gone(ctx context.Context, info *resource.Info) error {
	client := w.cluster.objectsOf(info)
	byName := fields.OneTermEqualSelector("metadata.name", info.Name).String()
	for {
		o, err := client.Get(ctx, info.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return w.cluster.explain(err)
		}
		events, err := client.Watch(ctx, metav1.ListOptions{FieldSelector: byName, ResourceVersion: o.GetResourceVersion()})
		if err != nil {
			return w.cluster.explain(err)
		}
		for e := range events.ResultChan() {
			if e.Type == watch.Deleted {
				break
			}
		}
		events.Stop()
	}
}

func asUnstructured(o runtime.Object) (*unstructured.Unstructured, error) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		return u, nil
	}
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	return &unstructured.Unstructured{Object: raw}, err
}

func describe(info *resource.Info) string {
	return info.Mapping.GroupVersionKind.Kind + " " + info.Name
}

var _ kube.Waiter = (*waiter)(nil)
