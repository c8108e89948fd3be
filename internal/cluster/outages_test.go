package cluster

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// behind connects to the world through a proxy that asks before it forwards a request. A request for which the answer is no gets none: its
// connection is closed, as when the server goes away.
func (p *place) behind(forward func(*http.Request) bool) (c *Cluster, requests *atomic.Int64) {
	p.t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", kubernetesWorld(p.t).Kubeconfig)
	p.must(err)
	target, err := url.Parse(cfg.Host)
	p.must(err)
	transport, err := rest.TransportFor(cfg)
	p.must(err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport, proxy.FlushInterval = transport, -1
	requests = &atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if !forward(r) {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	p.t.Cleanup(server.CloseClientConnections)
	path := filepath.Join(p.t.TempDir(), "kubeconfig")
	p.must(clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:  map[string]*clientcmdapi.Cluster{"c": {Server: server.URL}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"c": {}},
		Contexts:  map[string]*clientcmdapi.Context{"c": {Cluster: "c", AuthInfo: "c"}}, CurrentContext: "c",
	}, path))
	c, err = Open(p.t.Context(), path, "")
	p.must(err)
	return c, requests
}

func init() {
	scenarios["a server that is away while it is waited for is asked again"] = func(p *place) {
		var away atomic.Bool
		var once sync.Once
		c, _ := p.behind(func(r *http.Request) bool {
			if r.URL.Query().Get("watch") == "true" {
				once.Do(func() {
					away.Store(true)
					time.AfterFunc(2*time.Second, func() { away.Store(false) })
				})
			}
			return !away.Load()
		})
		r := p.release(map[string]any{"annotations": map[string]any{"fake.kubelet/delay": "1s"}}, nil)
		if _, err := c.Deploy(p.t.Context(), r, func(string) {}); err != nil {
			p.t.Error(err)
		}
		p.wantStatuses("1 deployed")
	}
	scenarios["a server that goes away in the middle leaves a release that can be recovered"] = func(p *place) {
		p.mustDeploy(nil, nil)
		var away atomic.Bool
		c, _ := p.behind(func(r *http.Request) bool {
			if r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/deployments/") {
				away.Store(true)
			}
			return !away.Load()
		})
		revision, err := c.Deploy(p.t.Context(), p.release(map[string]any{"image": "registry/app:v2"}, nil), func(string) {})
		p.fails(err, "EOF")
		if revision != 2 {
			p.t.Errorf("revision %d", revision)
		}
		p.wantStatuses("1 deployed", "2 pending-upgrade")
		p.recoverNewest()
		if r := p.mustDeploy(map[string]any{"image": "registry/app:v3"}, nil); r != 3 || p.image() != "registry/app:v3" {
			p.t.Errorf("revision %d, %s", r, p.image())
		}
	}
	scenarios["a slow server is waited for"] = func(p *place) {
		c, _ := p.behind(func(*http.Request) bool { <-time.After(100 * time.Millisecond); return true })
		_, err := c.Deploy(p.t.Context(), p.release(nil, nil), func(string) {})
		p.must(err)
	}
}

func TestManyKindsInTheClusterCostNothing(t *testing.T) {
	p := newPlace(t)
	crds := p.cluster.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	const kinds = 200
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range kinds {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			name := fmt.Sprintf("thing%d", i)
			_, err := crds.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": name + "s.many.example.com"},
				"spec": map[string]any{
					"group": "many.example.com", "scope": "Namespaced", "names": map[string]any{"plural": name + "s", "kind": "Thing" + fmt.Sprint(i)},
					"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
				},
			}}, metav1.CreateOptions{})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c, requests := p.behind(func(*http.Request) bool { return true })
	if n := requests.Load(); n > 5 {
		t.Errorf("opening took %d requests", n)
	}
	for range 2 {
		before := requests.Load()
		if _, err := c.Deploy(t.Context(), p.release(nil, nil), func(string) {}); err != nil {
			t.Fatal(err)
		}
		if n := requests.Load() - before; n > 20 {
			t.Errorf("%d requests", n)
		}
	}
}
