// Package controlplane runs a real Kubernetes API server on this machine, for the rehearsal and for tests of everything that deploys.
//
// Real here: etcd, kube-apiserver and kube-controller-manager, the unchanged code of a Kubernetes release (tools/kubeone), and so validation,
// server-side apply and its conflicts, RBAC, watches, Deployments, ReplicaSets, StatefulSets, Jobs, garbage collection and namespaces.
//
// Not real: the node. The fake kubelet runs no container and pulls no image. It reports every pod as running and ready, whether or not the
// image exists, except where the test chose otherwise: an image whose name contains "missing" cannot be pulled, one that contains "crash"
// crashes (both also of init containers), and the annotations fake.kubelet/never-ready, fake.kubelet/delay (3s), fake.kubelet/exit (1) and
// fake.kubelet/hang do what their names say; fake.kubelet/log and fake.kubelet/previous-log hold what pods/log answers. A pod that requests more than 1000 cores is not scheduled. The imageID of a container (REPOSITORY@DIGEST) is known only where the
// pod names its image by digest. There is no network, no DNS, no storage, no metrics, and no admission webhook.
//
// A cluster takes about four seconds to start and 600 MB of memory. The first start on a machine builds kubeone, which takes minutes.
package controlplane

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/toolcache"
)

// startTimeout bounds a start without the build. An idle machine needs four seconds; a loaded one was seen to need fifteen.
const startTimeout = 2 * time.Minute

// pollInterval is how often Start asks whether the next part is ready.
const pollInterval = 50 * time.Millisecond

// Options change where a cluster lives. The zero value is good for tests.
type Options struct {
	Dir string    // holds keys, state, logs and kubeconfigs, and is kept; empty means a temporary folder that Close removes
	Log io.Writer // receives the progress of building and starting; nil discards it
}

// Cluster is a running control plane with one fake node. Its methods may be called from several goroutines.
type Cluster struct {
	// Kubeconfig is the path of a kubeconfig with a client certificate of the group system:masters, which may do everything.
	Kubeconfig string
	// DeployerKubeconfig is the path of a kubeconfig with a bearer token, as a deploying service account has it. Its user
	// deployer@demo-cloud.iam.gserviceaccount.com is bound to the role cluster-admin.
	DeployerKubeconfig string
	// ViewerKubeconfig is the same for viewer@demo-cloud.iam.gserviceaccount.com, who is bound to view: it may read, but no secrets.
	ViewerKubeconfig string

	dir       string
	temporary bool
	bin       string // the folder of kubeone's links
	server    string // https://127.0.0.1:PORT
	client    *http.Client
	processes []*process // in the order of their start
	ended     chan *process
	close     sync.Once
	closed    error
}

// Start runs a control plane on free loopback ports until Close, or until this process ends, however it ends. When it returns, the API
// server answers, the node is ready, and pods may be made in the namespace default. Once it has returned, ctx has no effect.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	if options.Log == nil {
		options.Log = io.Discard
	}
	kubeone, err := toolcache.Tool(ctx, "kubeone", options.Log)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("it took longer than %s", startTimeout))
	defer cancel()
	c, err := start(ctx, filepath.Dir(kubeone), options.Dir)
	if err != nil {
		return nil, fmt.Errorf("starting Kubernetes: %w", err)
	}
	fmt.Fprintf(options.Log, "started Kubernetes in %s\n", time.Since(began).Round(100*time.Millisecond))
	return c, nil
}

// start starts the programs in the folder bin, and tries again with other ports when one that was free a moment ago was taken by another
// process before etcd or the API server got to it.
func start(ctx context.Context, bin, dir string) (*Cluster, error) {
	const attempts = 3
	for attempt := 1; ; attempt++ {
		c, err := startOnce(ctx, bin, dir)
		if err == nil || attempt == attempts || !strings.Contains(err.Error(), "address already in use") {
			return c, err
		}
	}
}

func startOnce(ctx context.Context, bin, dir string) (_ *Cluster, err error) {
	c := &Cluster{bin: bin, ended: make(chan *process, 4)} // room for every process, so that none waits to be read
	if dir == "" {
		c.temporary = true
		dir, err = os.MkdirTemp("", "controlplane-")
	} else {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, err
	}
	c.dir = dir
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	// The state of an earlier cluster belongs to an earlier certificate authority and other tokens.
	if err := os.RemoveAll(c.path("etcd")); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, err
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	c.server = "https://127.0.0.1:" + strconv.Itoa(ports[2])
	if err := c.writeFiles(); err != nil {
		return nil, err
	}
	if err := c.launchAll(ctx, ports); err != nil {
		return nil, err
	}
	return c, nil
}

// writeFiles makes the keys, certificates, tokens and kubeconfigs, and the client that uses them.
func (c *Cluster) writeFiles() error {
	keys, err := newPKI()
	if err != nil {
		return fmt.Errorf("making keys and certificates: %w", err)
	}
	deployer, viewer := rand.Text(), rand.Text()
	c.Kubeconfig, c.DeployerKubeconfig, c.ViewerKubeconfig = c.path("admin.kubeconfig"), c.path("deployer.kubeconfig"), c.path("viewer.kubeconfig")
	for path, content := range map[string][]byte{
		c.path("ca.crt"):        keys.ca,
		c.path("apiserver.crt"): keys.server.cert,
		c.path("apiserver.key"): keys.server.key,
		c.path("sa.key"):        keys.serviceAccounts,
		// token, user, user id, groups: the format of --token-auth-file
		c.path("tokens.csv"): fmt.Appendf(nil, "%s,deployer@demo-cloud.iam.gserviceaccount.com,deployer,%s\n%s,viewer@demo-cloud.iam.gserviceaccount.com,viewer,%s\n",
			deployer, deployers, viewer, viewers),
		c.Kubeconfig:         kubeconfig(c.server, keys.ca, user{ClientCertificate: keys.admin.cert, ClientKey: keys.admin.key}),
		c.DeployerKubeconfig: kubeconfig(c.server, keys.ca, user{Token: deployer}),
		c.ViewerKubeconfig:   kubeconfig(c.server, keys.ca, user{Token: viewer}),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	c.client, err = keys.adminClient()
	return err
}

// The groups of the two token users, and the names of their cluster role bindings.
const (
	deployers = "deployers"
	viewers   = "viewers"
)

// launchAll starts the four programs and waits until each can do its work.
func (c *Cluster) launchAll(ctx context.Context, ports []int) error {
	loopback := func(port int) string { return "http://127.0.0.1:" + strconv.Itoa(port) }
	etcdClient, etcdPeer := loopback(ports[0]), loopback(ports[1])

	if err := c.launch("etcd", "--data-dir", c.path("etcd"), "--log-level", "warn",
		"--unsafe-no-fsync", // nobody needs the state after a crash, and syncing dominates the time of every write
		"--listen-client-urls", etcdClient, "--advertise-client-urls", etcdClient,
		"--listen-peer-urls", etcdPeer, "--initial-advertise-peer-urls", etcdPeer, "--initial-cluster", "default="+etcdPeer); err != nil {
		return err
	}
	if err := c.launch("kube-apiserver", "--etcd-servers", etcdClient,
		"--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--secure-port", strconv.Itoa(ports[2]),
		"--tls-cert-file", c.path("apiserver.crt"), "--tls-private-key-file", c.path("apiserver.key"), "--client-ca-file", c.path("ca.crt"),
		"--token-auth-file", c.path("tokens.csv"), "--authorization-mode", "RBAC",
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", c.path("sa.key"),
		"--service-account-signing-key-file", c.path("sa.key"),
		"--service-cluster-ip-range", "10.96.0.0/16", "--allow-privileged", "--endpoint-reconciler-type", "none",
		// TaintNodesByCondition gives each new node a taint that only the node lifecycle controller takes away. It would have nothing
		// to watch here and is not run, so with the taint no pod would ever be scheduled.
		"--disable-admission-plugins", "TaintNodesByCondition,DefaultTolerationSeconds"); err != nil {
		return err
	}
	if err := c.await(ctx, "the API server", func(ctx context.Context) error {
		return c.Get(ctx, "/readyz", nil)
	}); err != nil {
		return err
	}

	// Not earlier: the controller manager gives up when the API server is not there within ten seconds.
	if err := c.launch("kube-controller-manager", "--kubeconfig", c.Kubeconfig, "--leader-elect=false",
		"--secure-port", "0", // no endpoint of its own, so no port that could be taken
		"--service-account-private-key-file", c.path("sa.key"), "--root-ca-file", c.path("ca.crt"), "--use-service-account-credentials=false",
		"--kube-api-qps", "500", "--kube-api-burst", "1000", "--controllers", strings.Join(controllers, ",")); err != nil {
		return err
	}
	if err := c.launch("fake-kubelet", "--kubeconfig", c.Kubeconfig); err != nil {
		return err
	}
	if err := c.bind(ctx, deployers, "cluster-admin"); err != nil {
		return err
	}
	if err := c.bind(ctx, viewers, "view"); err != nil {
		return err
	}
	if err := c.await(ctx, "the node", c.nodeReady); err != nil {
		return err
	}
	if err := c.await(ctx, "the default service account", func(ctx context.Context) error {
		return c.Get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
	}); err != nil {
		return err
	}
	return c.await(ctx, "the role view", c.viewAggregated)
}

// controllers are those whose work a deployment can notice. Left out are those that need real nodes, volumes, a cloud or certificates.
var controllers = []string{
	"deployment-controller", "replicaset-controller", "statefulset-controller", "daemonset-controller", "job-controller", "cronjob-controller",
	"serviceaccount-controller", "root-ca-certificate-publisher-controller", "namespace-controller", "garbage-collector-controller",
	"endpointslice-controller", "endpoints-controller", "disruption-controller", "ttl-after-finished-controller",
	"clusterrole-aggregation-controller", "pod-garbage-collector-controller", "resourcequota-controller",
	"horizontal-pod-autoscaler-controller", // without metrics it still keeps minReplicas and maxReplicas
}

func (c *Cluster) nodeReady(ctx context.Context) error {
	var nodes struct {
		Items []struct {
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := c.Get(ctx, "/api/v1/nodes", &nodes); err != nil {
		return err
	}
	for _, node := range nodes.Items {
		for _, condition := range node.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" {
				return nil
			}
		}
	}
	return errors.New("no node is ready")
}

// viewAggregated says whether the role view has its rules. The controller manager puts them together from other roles; until then a viewer
// may see nothing.
func (c *Cluster) viewAggregated(ctx context.Context) error {
	var role struct{ Rules []any }
	if err := c.Get(ctx, "/apis/rbac.authorization.k8s.io/v1/clusterroles/view", &role); err != nil {
		return err
	}
	if len(role.Rules) == 0 {
		return errors.New("it has no rules")
	}
	return nil
}

// Close ends the control plane and waits until all of it is gone. A second Close does nothing.
//
// The programs are killed, not asked to end: nothing of their state is worth saving, and a graceful end of an API server with connected
// controllers takes twenty seconds. The last started goes first, so that none spends its last moments complaining about a server that left.
func (c *Cluster) Close() error {
	c.close.Do(func() {
		for i := len(c.processes) - 1; i >= 0; i-- {
			c.processes[i].kill()
		}
		if c.client != nil {
			c.client.CloseIdleConnections()
		}
		if c.temporary {
			c.closed = os.RemoveAll(c.dir)
		}
	})
	return c.closed
}

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

// freePorts finds loopback ports on which nothing listens. They lie below the ranges from which systems give ports to outgoing connections
// and to listeners on port 0 (32768 on Linux, 49152 elsewhere), since in a busy test run such a port does not stay free for long.
func freePorts(count int) ([]int, error) {
	const lowest, beyond = 20000, 32768
	var ports []int
	for range 1000 {
		offset, err := rand.Int(rand.Reader, big.NewInt(beyond-lowest))
		if err != nil {
			return nil, err
		}
		listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(lowest+int(offset.Int64())))
		if err != nil {
			continue
		}
		defer func() { _ = listener.Close() }() // all at the end: a port must not be found twice
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
		if len(ports) == count {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("looking for free ports: found %d of %d", len(ports), count)
}
