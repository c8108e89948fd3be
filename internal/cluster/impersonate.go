package cluster

import (
	"fmt"
	"sync"

	"k8s.io/client-go/rest"
)

// impersonated are the connections of one cluster that act as somebody else.
type impersonated struct {
	mu     sync.Mutex
	byUser map[string]*Cluster
}

// As returns the cluster as a service account sees it (Flux: spec.serviceAccountName): every request of a release, records included, is made
// with its permissions. Our own user needs the verb impersonate on it. What is known of the cluster's kinds is shared.
func (c *Cluster) As(namespace, serviceAccount string) (*Cluster, error) {
	user := fmt.Sprintf("system:serviceaccount:%s:%s", namespace, serviceAccount)
	c.impersonated.mu.Lock()
	defer c.impersonated.mu.Unlock()
	if other := c.impersonated.byUser[user]; other != nil {
		return other, nil
	}
	cfg := rest.CopyConfig(c.getter.rest)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user}
	other := &Cluster{user: fmt.Sprintf("%s (impersonated by %s)", user, c.user), front: c.front, host: c.host}
	if err := other.clients(cfg); err != nil {
		return nil, fmt.Errorf("acting as %s: %w", user, err)
	}
	other.getter = c.getter
	other.getter.rest = cfg
	other.caps, other.definitions = c.caps, c.definitions
	c.impersonated.byUser[user] = other
	return other, nil
}
