package cluster

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// getter is what the Helm SDK gets its clients from (genericclioptions.RESTClientGetter). All releases share one discovery cache and one
// mapper from kinds to resources; only the namespace differs, so that a release has a copy of its own.
type getter struct {
	file      clientcmdapi.Config
	rest      *rest.Config
	discovery discovery.CachedDiscoveryInterface
	mapper    meta.RESTMapper
	namespace string
}

func newGetter(file clientcmdapi.Config, cfg *rest.Config) (getter, error) {
	client, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return getter{}, err
	}
	cached := memory.NewMemCacheClient(client)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(cached)
	return getter{file: file, rest: cfg, discovery: cached, mapper: restmapper.NewShortcutExpander(mapper, cached, nil)}, nil
}

// in returns the getter for one namespace.
func (g getter) in(namespace string) getter {
	g.namespace = namespace
	return g
}

// ToRESTConfig implements genericclioptions.RESTClientGetter. Helm writes into what it gets.
func (g getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.rest), nil }

// ToDiscoveryClient implements genericclioptions.RESTClientGetter.
func (g getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return g.discovery, nil
}

// ToRESTMapper implements genericclioptions.RESTClientGetter.
func (g getter) ToRESTMapper() (meta.RESTMapper, error) { return g.mapper, nil }

// ToRawKubeConfigLoader implements genericclioptions.RESTClientGetter.
func (g getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	overrides := &clientcmd.ConfigOverrides{Context: clientcmdapi.Context{Namespace: g.namespace}}
	return clientcmd.NewNonInteractiveClientConfig(g.file, g.file.CurrentContext, overrides, nil)
}
