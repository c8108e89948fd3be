// Package cluster talks to one Kubernetes cluster: it reads which Helm releases stand there, and deploys, rolls back and recovers single
// releases with the Helm SDK. It is the only boundary that reaches Helm and Kubernetes; deploy-helm is its user.
//
// The SDK is used as a library for many releases at once, which it is not made for as it comes. Three of its parts are replaced:
//
//   - the storage driver, which lists the release records by their metadata and reads in full only what an action needs (storage.go);
//   - the waiter, which watches single objects and their pods instead of whole namespaces, and names the pod, the container and the
//     reason as soon as the kubelet gives up (wait.go, pods.go);
//   - the client, which never downloads the OpenAPI documents: with server-side apply the server validates, and more strictly (client.go).
//
// Every write is conditional on what was read before it, so that a build that was cancelled, or is late, cannot write over a newer one.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/kube"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/klog/v2"
)

func init() {
	// Server-side apply fails with conflicts where another manager owns a field, and Helm calls itself by the name of the program unless
	// told. The name of Helm's own CLI makes releases change hands between it, Flux (which forces) and this suite.
	kube.ManagedFieldsManager = "helm"
	// client-go logs on stderr by itself. What matters of it comes back as an error; the rest would break the step's log format.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
}

// Cluster is a connection to one cluster. Its methods may be called at the same time.
type Cluster struct {
	getter  getter // what Helm asks for clients; shares discovery and the REST mapper
	core    kubernetes.Interface
	meta    metadata.Interface
	dynamic dynamic.Interface
	caps    *capabilities
	host    string
	user    string // who we are, for messages
	front   string // permission without which IAM lets nobody through to the API server

	definitions  *definitions
	impersonated impersonated
}

// Access is how to reach a cluster that no kubeconfig describes.
type Access struct {
	Host       string                                    // URL of the API server
	CA         []byte                                    // PEM of the authority that signed its certificate; nil means the public ones
	User       string                                    // who the server will see, for messages
	Permission string                                    // that a front asks for before the API server sees a request; "" for none
	Wrap       func(http.RoundTripper) http.RoundTripper // adds the credentials
}

// Open connects to the cluster that a context of the kubeconfig file names, the current one for "", and asks it once for its version and
// its kinds. A file that cannot be used gives a [*KubeconfigError]; everything else is the cluster's.
func Open(ctx context.Context, kubeconfig, contextName string, allow ...Allowance) (*Cluster, error) {
	file, cfg, err := readKubeconfig(kubeconfig, contextName, allow...)
	if err != nil {
		return nil, &KubeconfigError{Path: kubeconfig, Err: err}
	}
	c := &Cluster{user: fmt.Sprintf("user %q of the kubeconfig", file.Contexts[file.CurrentContext].AuthInfo)}
	if err := c.connect(file, cfg); err != nil {
		return nil, &KubeconfigError{Path: kubeconfig, Err: err}
	}
	if err := c.learn(ctx); err != nil {
		return nil, c.explain(err)
	}
	return c, nil
}

// Connect connects to a cluster by its address, as Open does.
func Connect(ctx context.Context, a Access) (*Cluster, error) {
	const only = "cluster"
	file := clientcmdapi.Config{
		Clusters:  map[string]*clientcmdapi.Cluster{only: {Server: a.Host, CertificateAuthorityData: a.CA}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{only: {}},
		Contexts:  map[string]*clientcmdapi.Context{only: {Cluster: only, AuthInfo: only}}, CurrentContext: only,
	}
	cfg := &rest.Config{Host: a.Host, TLSClientConfig: rest.TLSClientConfig{CAData: a.CA}}
	cfg.Wrap(a.Wrap)
	c := &Cluster{user: a.User, front: a.Permission}
	if err := c.connect(file, cfg); err != nil {
		return nil, fmt.Errorf("connecting to the cluster at %s: %w", a.Host, err)
	}
	if err := c.learn(ctx); err != nil {
		return nil, c.explain(err)
	}
	return c, nil
}

// connect makes the clients, which ask nothing yet.
func (c *Cluster) connect(file clientcmdapi.Config, cfg *rest.Config) (err error) {
	guard(cfg)
	c.host = cfg.Host
	c.caps, c.definitions, c.impersonated.byUser = &capabilities{}, &definitions{done: map[string]bool{}}, map[string]*Cluster{}
	if err := c.clients(cfg); err != nil {
		return err
	}
	c.getter, err = newGetter(file, cfg)
	return err
}

func (c *Cluster) clients(cfg *rest.Config) (err error) {
	if c.core, err = kubernetes.NewForConfig(cfg); err != nil {
		return err
	}
	if c.meta, err = metadata.NewForConfig(cfg); err != nil {
		return err
	}
	c.dynamic, err = dynamic.NewForConfig(cfg)
	return err
}

// learn asks for what every chart may ask: versions and kinds. Helm would ask again for each release, and clear the shared discovery
// cache each time, which makes eight workers slower than one.
func (c *Cluster) learn(ctx context.Context) error {
	version, err := discovery.ToServerVersionInterfaceWithContext(c.core.Discovery()).ServerVersionWithContext(ctx)
	if apierrors.IsForbidden(err) && c.front != "" { // Kubernetes tells its version to everybody it knows
		return fmt.Errorf("%s lacks the permission %s, which is asked for at %s: %w: %w", c.user, c.front, c.host, ErrNotLetThrough, err)
	}
	if err != nil {
		return err
	}
	kinds, err := action.GetVersionSet(c.getter.discovery)
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) { // an orphaned API service hides its own kinds only
		return err
	}
	c.caps.set(common.Capabilities{
		APIVersions: kinds,
		KubeVersion: common.KubeVersion{Version: version.GitVersion, Major: version.Major, Minor: version.Minor},
		HelmVersion: common.DefaultCapabilities.HelmVersion,
	})
	return nil
}

// ErrNotLetThrough says that IAM did not let a request through to the API server.
var ErrNotLetThrough = errors.New("the request did not reach Kubernetes")

// Host is the address of the API server.
func (c *Cluster) Host() string { return c.host }

// isAdmission tells what an admission plugin refuses (a quota, a policy, a webhook), which has the same status as a lack of permission, from
// that. The authorizer's text is the only one that names who cannot do what.
func isAdmission(err error) bool {
	return !strings.Contains(err.Error(), "cannot ")
}

// explain says what a refusal of the API server means for the reader of a build log.
func (c *Cluster) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNotLetThrough):
		return err
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the Kubernetes API server at %s does not accept the credentials of %s (expired or revoked?): %w", c.host, c.user, err)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return fmt.Errorf("the namespace is being deleted: wait until it is gone, and run this build again: %w", err)
	case apierrors.IsForbidden(err) && !isAdmission(err):
		return fmt.Errorf("%s lacks a permission in the cluster at %s: %w", c.user, c.host, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	if _, answered := errors.AsType[*apierrors.StatusError](err); answered {
		return err
	}
	return fmt.Errorf("reaching the Kubernetes API server at %s: %w", c.host, err)
}
