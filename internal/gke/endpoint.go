package gke

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
)

// Prefer lists which of a cluster's endpoints may be asked for.
//
// auto takes the DNS endpoint if it is open: it reaches private clusters from Cloud Build's default pool, has a public certificate, and is
// guarded by IAM. Else it takes the public address, where there is one, since a build in the default pool reaches no other; else the private
// address. A build in a private pool that shall not leave its network sets private.
var Prefer = []string{"auto", "dns", "public", "private"}

// clusterAnswer is the part of google.container.v1.Cluster that says where the API server is.
type clusterAnswer struct {
	Status     string `json:"status"`
	Endpoint   string `json:"endpoint"`
	MasterAuth struct {
		ClusterCaCertificate string `json:"clusterCaCertificate"` // base64 of PEM
	} `json:"masterAuth"`
	PrivateClusterConfig struct { // where clusters said it before controlPlaneEndpointsConfig
		EnablePrivateEndpoint bool   `json:"enablePrivateEndpoint"` // and no public one
		PrivateEndpoint       string `json:"privateEndpoint"`
		PublicEndpoint        string `json:"publicEndpoint"`
	} `json:"privateClusterConfig"`
	ControlPlaneEndpointsConfig struct {
		DNS struct {
			Endpoint             string `json:"endpoint"` // always there
			AllowExternalTraffic bool   `json:"allowExternalTraffic"`
		} `json:"dnsEndpointConfig"`
		IP struct {
			Enabled              *bool  `json:"enabled"`
			EnablePublicEndpoint *bool  `json:"enablePublicEndpoint"`
			PublicEndpoint       string `json:"publicEndpoint"`
			PrivateEndpoint      string `json:"privateEndpoint"`
		} `json:"ipEndpointsConfig"`
	} `json:"controlPlaneEndpointsConfig"`
}

// addresses returns the endpoints by the names of [Prefer], those that are open only.
func (c clusterAnswer) addresses() map[string]string {
	all := map[string]string{}
	if dns := c.ControlPlaneEndpointsConfig.DNS; dns.AllowExternalTraffic && dns.Endpoint != "" {
		all["dns"] = dns.Endpoint
	}
	ip := c.ControlPlaneEndpointsConfig.IP
	if ip.Enabled != nil && !*ip.Enabled {
		return all
	}
	private := first(ip.PrivateEndpoint, c.PrivateClusterConfig.PrivateEndpoint)
	public := first(ip.PublicEndpoint, c.PrivateClusterConfig.PublicEndpoint)
	if public == "" && c.Endpoint != private {
		public = c.Endpoint
	}
	closed := c.PrivateClusterConfig.EnablePrivateEndpoint
	if ip.EnablePublicEndpoint != nil {
		closed = !*ip.EnablePublicEndpoint
	}
	if public != "" && !closed {
		all["public"] = public
	}
	if private != "" {
		all["private"] = private
	}
	return all
}

func first(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// choose fills in the address that is preferred.
func (c clusterAnswer) choose(name Name, prefer string, a *Access) error {
	open := c.addresses()
	kind := prefer
	if prefer == "auto" || prefer == "" {
		for _, kind = range Prefer[1:] {
			if open[kind] != "" {
				break
			}
		}
	}
	if open[kind] == "" {
		asked := kind + " endpoint"
		if prefer == "auto" || prefer == "" {
			asked = "endpoint"
		}
		return &Error{
			text: fmt.Sprintf("the cluster %s (%s) has no open %s", name, first(c.Status, "status unknown"), asked),
			fix: fmt.Sprintf("open the DNS endpoint: gcloud container clusters update %s --location=%s --project=%s --enable-dns-access; or set GKE_ENDPOINT to an endpoint that the cluster has",
				name.id, name.location, name.project),
		}
	}
	a.Host, a.Endpoint = hostOf(open[kind]), kind
	if err := CheckURL(a.Host); err != nil {
		return &Error{text: fmt.Sprintf("the container API gives %q as the %s endpoint of %s: %v", open[kind], kind, name, err)}
	}
	if kind == "dns" {
		return nil // its certificate is signed by a public authority, not by the cluster's
	}
	ca, err := base64.StdEncoding.DecodeString(c.MasterAuth.ClusterCaCertificate)
	if block, _ := pem.Decode(ca); err != nil || block == nil { // without it the public authorities would be trusted instead
		return &Error{text: fmt.Sprintf("the container API gives no certificate authority for the %s endpoint of %s", kind, name)}
	}
	a.CA = ca
	return nil
}
