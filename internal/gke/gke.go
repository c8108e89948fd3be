// Package gke finds Google Kubernetes Engine clusters by name, and says how to talk to them: an address, what to trust, and a token that is
// renewed for as long as a deployment lasts. It stands in for `gcloud container clusters get-credentials` and its kubeconfig plugin, which
// steps have not. deploy-helm is its user.
//
// Three Google APIs are asked, each with one request that is written out here; their client libraries would add ten megabytes:
//
//   - container.googleapis.com, projects.locations.clusters.get: the addresses of a cluster and its certificate authority;
//   - connectgateway.googleapis.com, projects.locations.memberships.generateCredentials: the address of a fleet member's gateway;
//   - iamcredentials.googleapis.com, projects.serviceAccounts.generateAccessToken: a token of an impersonated service account.
package gke

import (
	"context"
	"fmt"
	"net/http"
	"strings"
)

// The addresses of Google's services. [Options] can name others: private ones of a VPC, or those of a test.
const (
	ContainerEndpoint      = "https://container.googleapis.com"
	ConnectGatewayEndpoint = "https://connectgateway.googleapis.com"
	IAMCredentialsEndpoint = "https://iamcredentials.googleapis.com"
	MetadataHost           = "169.254.169.254" // metadata.google.internal, without asking a name server
)

// Options say who asks, and where. The zero value asks Google's services as the account that the metadata server answers for.
type Options struct {
	CredentialsFile string // a file of Application Default Credentials; empty means the metadata server
	MetadataHost    string // host or host:port
	Impersonate     string // e-mail address of the service account to act as; empty means none

	ContainerEndpoint, ConnectGatewayEndpoint, IAMCredentialsEndpoint string // URLs without a path
}

// Google is a connection to Google's APIs under one identity. Its methods may be called at the same time.
type Google struct {
	options  Options
	client   *http.Client
	tokens   *tokens
	identity identity
}

// Access is how to reach the API server of one cluster.
type Access struct {
	Host       string                                    // URL
	CA         []byte                                    // PEM of the certificate authority; nil means the public ones
	Endpoint   string                                    // which of the cluster's it is: dns, public, private or gateway
	Identity   string                                    // who the server will see, for messages
	Permission string                                    // what IAM asks for before a request reaches Kubernetes; "" where only Kubernetes decides
	Grant      string                                    // advice: the command that gives the identity a role with Permission and in the cluster
	Reach      string                                    // advice for those who do not reach Host
	Wrap       func(http.RoundTripper) http.RoundTripper // adds the token
}

// Connect finds out whose credentials there are. It asks for no token yet, except that a metadata server is asked for its account.
func Connect(ctx context.Context, o Options) (*Google, error) {
	or := func(s, def string) string {
		if s == "" {
			return def
		}
		return strings.TrimSuffix(s, "/")
	}
	o.ContainerEndpoint, o.ConnectGatewayEndpoint = or(o.ContainerEndpoint, ContainerEndpoint), or(o.ConnectGatewayEndpoint, ConnectGatewayEndpoint)
	o.IAMCredentialsEndpoint, o.MetadataHost = or(o.IAMCredentialsEndpoint, IAMCredentialsEndpoint), or(o.MetadataHost, MetadataHost)
	g := &Google{options: o, client: newClient()}
	var err error
	if o.CredentialsFile != "" {
		g.tokens, g.identity, err = fromFile(g.client, o.CredentialsFile)
	} else {
		g.tokens, g.identity, err = fromMetadata(ctx, o.MetadataHost)
	}
	if err != nil {
		return nil, err
	}
	if o.Impersonate != "" {
		g.impersonate(o.Impersonate)
	}
	return g, nil
}

// Find asks for a cluster's address. prefer is one of the values of [Prefer]; a fleet member has one address only.
func (g *Google) Find(ctx context.Context, name Name, prefer string) (Access, error) {
	a := Access{Identity: g.identity.String(), Wrap: func(next http.RoundTripper) http.RoundTripper { return &transport{next: next, tokens: g.tokens} }}
	var err error
	if name.kind == memberships {
		err = g.findMember(ctx, name, &a)
	} else {
		err = g.findCluster(ctx, name, prefer, &a)
	}
	return a, err
}

func (g *Google) findCluster(ctx context.Context, name Name, prefer string, a *Access) error {
	var c clusterAnswer
	if err := g.call(ctx, g.tokens, http.MethodGet, g.options.ContainerEndpoint+"/v1/"+name.String(), nil, &c); err != nil {
		return explain(err, g.identity, "finding the cluster "+name.String(), need{
			permission: "container.clusters.get", role: "roles/container.developer", project: name.project, service: "container.googleapis.com",
			missing: "check GKE_CLUSTER: gcloud container clusters list --project=" + name.project,
		})
	}
	if err := c.choose(name, prefer, a); err != nil {
		return err
	}
	a.Grant = g.identity.grant("roles/container.developer", name.project)
	if a.Endpoint == "dns" {
		a.Permission = "container.clusters.connect"
		a.Reach = "check that the build's network reaches Google's APIs, and that no VPC Service Controls perimeter is in between"
	} else {
		a.Reach = fmt.Sprintf("the %s endpoint of %s is not reached from here (authorized networks?): open the DNS endpoint, or run the build in a private pool with a route to it; see GKE_ENDPOINT",
			a.Endpoint, name)
	}
	return nil
}

// findMember asks for the address under which the connect gateway serves a member of a fleet: it holds the project's number and the kind of
// the member, neither of which its name tells.
func (g *Google) findMember(ctx context.Context, name Name, a *Access) error {
	var answer struct {
		Endpoint string `json:"endpoint"`
	}
	if err := g.call(ctx, g.tokens, http.MethodGet, g.options.ConnectGatewayEndpoint+"/v1/"+name.String()+":generateCredentials", nil, &answer); err != nil {
		return explain(err, g.identity, "finding the fleet member "+name.String(), need{
			permission: "gkehub.gateway.generateCredentials", role: "roles/gkehub.gatewayEditor", project: name.project, service: "connectgateway.googleapis.com",
			missing: "check GKE_CLUSTER: gcloud container fleet memberships list --project=" + name.project,
		})
	}
	host := answer.Endpoint
	if host != "" && !strings.Contains(host, "://") {
		host = "https://" + host
	}
	if err := CheckURL(host); err != nil {
		return &Error{text: "finding the fleet member " + name.String() + ": the connect gateway answered with the address " + host + ": " + err.Error()}
	}
	a.Host, a.Endpoint, a.Permission, a.Grant = host, "gateway", "gkehub.gateway.get", g.identity.grant("roles/gkehub.gatewayEditor", name.project)
	a.Reach = "check that the build's network reaches Google's APIs"
	return nil
}
