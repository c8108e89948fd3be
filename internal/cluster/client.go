package cluster

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/storage"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// configuration makes the action.Configuration of one action on one release. It is never shared: Helm writes into it without locks.
func (c *Cluster) configuration(s *store, namespace string, w *waiter) *action.Configuration {
	cfg := action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler)) // what counts comes back as an error
	g := c.getter.in(namespace)
	inner := kube.New(g)
	inner.Namespace = namespace
	inner.SetLogger(slog.DiscardHandler)
	s.claim = &claim{cluster: c, build: func(manifest string) (kube.ResourceList, error) {
		return inner.Build(strings.NewReader(manifest), false)
	}}
	cfg.RESTClientGetter = g
	cfg.KubeClient = client{Client: inner, cluster: c, waiter: w, claim: s.claim, preview: s.rendered != nil}
	cfg.Releases = storage.Init(s)
	cfg.Releases.SetLogger(slog.DiscardHandler)
	cfg.Capabilities = c.caps.get()
	cfg.HookOutputFunc = func(_, _, _ string) io.Writer { return io.Discard }
	return cfg
}

// client is Helm's client with the waiter replaced, three detours removed, and the release's claim on its objects enforced.
type client struct {
	*kube.Client
	cluster *Cluster
	waiter  *waiter
	claim   *claim
	preview bool // kinds that the chart brings along may be missing
}

// Build implements kube.Interface without validation on this side, which costs two downloads of the OpenAPI documents for each release.
// Server-side apply validates strictly on the server: an unknown field is refused there.
func (c client) Build(r io.Reader, _ bool) (kube.ResourceList, error) {
	if c.preview {
		known, err := c.cluster.knownKinds(r, c.Namespace)
		if err != nil {
			return nil, err
		}
		r = known
	}
	list, err := c.Client.Build(r, false)
	if err == nil {
		err = encodeStringData(list)
	}
	return list, err
}

// Update implements kube.Interface.
func (c client) Update(originals, targets kube.ResourceList, options ...kube.ClientUpdateOption) (*kube.Result, error) {
	if err := c.claim.after(); err != nil {
		return &kube.Result{}, err
	}
	if err := c.cluster.leaveScaled(context.Background(), targets); err != nil {
		return &kube.Result{}, err
	}
	originals, err := c.claim.spare(originals, targets)
	if err != nil {
		return &kube.Result{}, err
	}
	return c.Client.Update(originals, targets, options...)
}

// IsReachable implements kube.Interface. The cluster has answered in Open; each action would ask again.
func (c client) IsReachable() error { return nil }

// GetPodList implements kube.Interface. Helm's own uses a client that only IsReachable makes.
func (c client) GetPodList(namespace string, opts metav1.ListOptions) (*corev1.PodList, error) {
	return c.cluster.core.CoreV1().Pods(namespace).List(context.Background(), opts)
}

// OutputContainerLogsForPodList implements kube.Interface; logs of hooks are not shown.
func (c client) OutputContainerLogsForPodList(*corev1.PodList, string, func(_, _, _ string) io.Writer) error {
	return nil
}

// GetWaiter implements kube.Interface.
func (c client) GetWaiter(strategy kube.WaitStrategy) (kube.Waiter, error) {
	if strategy == kube.HookOnlyStrategy {
		return hooksOnly{c.waiter}, nil
	}
	return c.waiter, nil
}

// GetWaiterWithOptions implements kube.InterfaceWaitOptions.
func (c client) GetWaiterWithOptions(strategy kube.WaitStrategy, _ ...kube.WaitOption) (kube.Waiter, error) {
	return c.GetWaiter(strategy)
}

// hooksOnly waits for hooks and for nothing else (Flux: disableWait).
type hooksOnly struct{ *waiter }

// Wait implements kube.Waiter.
func (hooksOnly) Wait(kube.ResourceList, time.Duration) error { return nil }

// WaitWithJobs implements kube.Waiter.
func (hooksOnly) WaitWithJobs(kube.ResourceList, time.Duration) error { return nil }

// WaitForDelete implements kube.Waiter.
func (hooksOnly) WaitForDelete(kube.ResourceList, time.Duration) error { return nil }

var (
	_ kube.Interface            = client{}
	_ kube.InterfaceWaitOptions = client{}
)
