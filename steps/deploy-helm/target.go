package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
	"github.com/deepdesk/cloudbuild-steps/internal/gke"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// Target is the group of variables that say which clusters are deployed to, and as whom.
type Target struct {
	GKECluster      gke.Name       `env:"GKE_CLUSTER" type:"cluster" doc:"the cluster: projects/P/locations/L/clusters/C, or projects/P/locations/L/memberships/M for a fleet member behind the connect gateway"`
	GKEClusters     gkeClusters    `env:"GKE_CLUSTERS" type:"clusters" doc:"several clusters, as REGION=projects/…,REGION=projects/…: the region of an account in the inventory chooses its cluster; what has no account (staging) goes to the entry staging=…"`
	GKEEndpoint     string         `env:"GKE_ENDPOINT" default:"auto" oneof:"auto,dns,public,private" doc:"which endpoint of a cluster is used; auto: the DNS endpoint if it takes external traffic, else the public address, else the private one"`
	Impersonate     serviceAccount `env:"IMPERSONATE_SERVICE_ACCOUNT" type:"email" doc:"act on GKE clusters as this service account; the build's own needs roles/iam.serviceAccountTokenCreator on it"`
	CredentialsFile string         `env:"GOOGLE_APPLICATION_CREDENTIALS" doc:"file of Application Default Credentials; default the metadata server, which answers for the build's service account; no other place is searched"`
	Kubeconfig      string         `env:"KUBECONFIG" doc:"kubeconfig file, instead of GKE_CLUSTER; its current context names the cluster; exec plugins are refused unless ALLOW_EXEC, auth-providers always"`
	AllowExec       bool           `env:"ALLOW_EXEC" doc:"let KUBECONFIG start the program that it names for credentials (an exec plugin); it runs with this step's environment, secrets included, and has to be in the image"`
	Contexts        contexts       `env:"KUBECONFIG_CONTEXTS" type:"contexts" doc:"several clusters out of KUBECONFIG, as REGION=CONTEXT,REGION=CONTEXT; see GKE_CLUSTERS"`
	ContainerAPI    endpoint       `env:"CONTAINER_ENDPOINT" type:"url" doc:"another address of container.googleapis.com: Private Service Connect, tests"`
	GatewayAPI      endpoint       `env:"CONNECT_GATEWAY_ENDPOINT" type:"url" doc:"another address of connectgateway.googleapis.com: a regional one, tests"`
	IAMAPI          endpoint       `env:"IAM_CREDENTIALS_ENDPOINT" type:"url" doc:"another address of iamcredentials.googleapis.com: Private Service Connect, tests"`
	MetadataHost    hostPort       `env:"GCE_METADATA_HOST" type:"host" doc:"another metadata server, as Google's libraries know it: tests"`
}

func (t Target) checkTarget(f *step.Faults) {
	var set []string
	for name, is := range map[string]bool{"KUBECONFIG": t.Kubeconfig != "", "GKE_CLUSTER": !t.GKECluster.IsZero(), "GKE_CLUSTERS": t.GKEClusters != nil} {
		if is {
			set = append(set, name)
		}
	}
	slices.Sort(set)
	switch {
	case len(set) == 0:
		f.Add("GKE_CLUSTER", "is not set: projects/P/locations/L/clusters/C (or GKE_CLUSTERS for one in each region, or KUBECONFIG)")
	case len(set) > 1:
		f.Add(set[1], "conflicts with %s: set one of them", set[0])
	}
	if t.Contexts != nil && t.Kubeconfig == "" {
		f.Add("KUBECONFIG_CONTEXTS", "needs KUBECONFIG")
	}
	if t.AllowExec && t.Kubeconfig == "" {
		f.Add("ALLOW_EXEC", "needs KUBECONFIG")
	}
	if t.Impersonate != "" && t.Kubeconfig != "" {
		f.Add("IMPERSONATE_SERVICE_ACCOUNT", "has no effect on KUBECONFIG: use GKE_CLUSTER")
	}
}

// inRegion is one entry of GKE_CLUSTERS or KUBECONFIG_CONTEXTS.
type inRegion struct {
	region string // or staging
	name   string // of the cluster or context
}

var regionPattern = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// parseRegions reads REGION=NAME,REGION=NAME.
func parseRegions(text string, check func(name string) error) ([]inRegion, error) {
	var list []inRegion
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		region, name, ok := strings.Cut(part, "=")
		region, name = strings.TrimSpace(region), strings.TrimSpace(name)
		switch {
		case !ok || !regionPattern.MatchString(region) || name == "":
			return nil, fmt.Errorf("%q is not an entry of the form REGION=NAME", part)
		case slices.ContainsFunc(list, func(r inRegion) bool { return r.region == region }):
			return nil, fmt.Errorf("the region %s stands twice", region)
		}
		if err := check(name); err != nil {
			return nil, fmt.Errorf("region %s: %w", region, err)
		}
		list = append(list, inRegion{region, name})
	}
	if list == nil {
		return nil, errors.New("it holds no entry of the form REGION=NAME")
	}
	return list, nil
}

// gkeClusters is a list of clusters by region.
type gkeClusters []inRegion

// UnmarshalText checks the names.
func (c *gkeClusters) UnmarshalText(b []byte) (err error) {
	*c, err = parseRegions(string(b), func(name string) error { return new(gke.Name).UnmarshalText([]byte(name)) })
	return err
}

// contexts is a list of kubeconfig contexts by region.
type contexts []inRegion

// UnmarshalText checks the form.
func (c *contexts) UnmarshalText(b []byte) (err error) {
	*c, err = parseRegions(string(b), func(string) error { return nil })
	return err
}

// serviceAccount is the e-mail address of a service account. The path of a URL is made of it.
type serviceAccount string

var emailPattern = regexp.MustCompile(`^[A-Za-z0-9._-]+@[A-Za-z0-9.-]+$`)

// UnmarshalText checks the form.
func (s *serviceAccount) UnmarshalText(b []byte) error {
	if !emailPattern.Match(b) {
		return errors.New("want an e-mail address such as deployer@my-cloud.iam.gserviceaccount.com")
	}
	*s = serviceAccount(b)
	return nil
}

// endpoint is the address of a Google API.
type endpoint string

// UnmarshalText checks the address: a token is sent there.
func (e *endpoint) UnmarshalText(b []byte) error {
	*e = endpoint(b)
	return gke.CheckURL(string(b))
}

var hostPattern = regexp.MustCompile(`^[A-Za-z0-9.-]+(:[0-9]+)?$`)

// hostPort is a host, and maybe a port.
type hostPort string

// UnmarshalText checks the form.
func (h *hostPort) UnmarshalText(b []byte) error {
	if !hostPattern.Match(b) {
		return errors.New("want HOST or HOST:PORT")
	}
	*h = hostPort(b)
	return nil
}

// targets are the clusters that are deployed to.
type targets struct {
	variable string            // the one that maps regions; "" when all releases go to one cluster
	byRegion map[string]string // names by region
	one      string            // the name of the one cluster; "" for the current context of a kubeconfig
	found    map[string]found  // by name
}

type found struct {
	cluster *cluster.Cluster
	states  map[cluster.Key]cluster.State
}

// openTargets connects to all clusters and reads what each remembers, side by side. Regions that share a cluster share the connection.
func openTargets(ctx context.Context, b *step.Build, in Target) (*targets, error) {
	t := &targets{one: in.GKECluster.String(), found: map[string]found{}}
	var list []inRegion
	switch {
	case in.GKEClusters != nil:
		t.variable, list = "GKE_CLUSTERS", in.GKEClusters
	case in.Contexts != nil:
		t.variable, list = "KUBECONFIG_CONTEXTS", in.Contexts
	}
	names := []string{t.one}
	if list != nil {
		names, t.byRegion = nil, map[string]string{}
		for _, r := range list {
			t.byRegion[r.region] = r.name
			names = append(names, r.name)
		}
		slices.Sort(names)
		names = slices.Compact(names)
	}
	var allow []cluster.Allowance
	if in.AllowExec {
		allow = append(allow, cluster.Exec)
	}
	open := func(ctx context.Context, name string) (found, error) {
		f, err := read(ctx, func() (*cluster.Cluster, error) { return cluster.Open(ctx, in.Kubeconfig, name, allow...) })
		return f, explainKubeconfig(err)
	}
	if in.Kubeconfig == "" {
		google, err := gke.Connect(ctx, gke.Options{
			CredentialsFile: in.CredentialsFile, MetadataHost: string(in.MetadataHost), Impersonate: string(in.Impersonate),
			ContainerEndpoint: string(in.ContainerAPI), ConnectGatewayEndpoint: string(in.GatewayAPI), IAMCredentialsEndpoint: string(in.IAMAPI),
		})
		if err != nil {
			return nil, err
		}
		open = func(ctx context.Context, name string) (found, error) {
			return openGKE(ctx, b, google, name, in.GKEEndpoint)
		}
	}
	opened, faults := make([]found, len(names)), make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { opened[i], faults[i] = open(ctx, name) })
	}
	wg.Wait()
	for i, name := range names {
		t.found[name] = opened[i]
	}
	return t, together(names, faults)
}

// together is the error of several clusters, with the advice on the first.
func together(names []string, faults []error) error {
	var first error
	var texts []string
	for i, err := range faults {
		if err == nil {
			continue
		}
		if first == nil {
			first = err
		}
		texts = append(texts, fmt.Sprintf("%s: %v", names[i], err))
	}
	if len(texts) < 2 {
		return first
	}
	return several{fmt.Errorf("%d of %d clusters cannot be used: %s", len(texts), len(names), strings.Join(texts, "; ")), first}
}

// several is an error with the exit code and the advice of one of its causes.
type several struct{ all, first error }

func (s several) Error() string { return s.all.Error() }
func (s several) Unwrap() error { return s.first }

// read connects to a cluster and reads what it remembers.
func read(ctx context.Context, connect func() (*cluster.Cluster, error)) (f found, err error) {
	if f.cluster, err = connect(); err == nil {
		f.states, err = f.cluster.States(ctx)
	}
	return f, err
}

// openGKE finds a cluster by its name, connects to it and reads what it remembers.
func openGKE(ctx context.Context, b *step.Build, google *gke.Google, name, prefer string) (found, error) {
	var n gke.Name
	if err := n.UnmarshalText([]byte(name)); err != nil {
		return found{}, err
	}
	a, err := google.Find(ctx, n, prefer)
	if err != nil {
		return found{}, err
	}
	b.Log.Info("found the cluster", "cluster", name, "endpoint", a.Endpoint, "address", a.Host, "as", a.Identity)
	f, err := read(ctx, func() (*cluster.Cluster, error) {
		return cluster.Connect(ctx, cluster.Access{Host: a.Host, CA: a.CA, User: a.Identity, Permission: a.Permission, Wrap: a.Wrap})
	})
	_, known := errors.AsType[*gke.Error](err) // of getting a token: it brings its own advice
	switch {
	case err == nil || known:
		return f, err
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return f, step.WithFix(err, a.Grant)
	}
	return f, step.WithFix(err, a.Reach)
}

// explainKubeconfig tells a kubeconfig that must be changed from a cluster that does not answer.
func explainKubeconfig(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*cluster.KubeconfigError](err); ok {
		return step.Misconfigured("set KUBECONFIG to a kubeconfig file with a current-context, and a token or a client certificate", "%w", err)
	}
	return step.WithFix(err, "check that the address in KUBECONFIG can be reached from the build, and that its credentials are valid and may list Secrets")
}

// place gives every release its cluster, and names those that have none although they are to be deployed.
func (t *targets) place(list []*wanted, c circumstances) (homeless []string) {
	for _, w := range list {
		if t.byRegion == nil {
			w.cluster = t.one
			continue
		}
		region := staging
		if w.account != "" {
			region = c.region(w)
		}
		name, ok := t.byRegion[region]
		w.cluster = name
		if ok || w.suspended || w.unbuilt || c.wave(c.channel(w)) < 0 {
			continue
		}
		_, known := c.inventory.Find(w.account)
		switch {
		case w.account == "":
			homeless = append(homeless, fmt.Sprintf("%s (%s) belongs to no account, and %s has no entry staging", w, w.file, t.variable))
		case !known:
			homeless = append(homeless, fmt.Sprintf("%s (%s): account %s is not in the inventory, which would name its region", w, w.file, w.account))
		case region == "":
			homeless = append(homeless, fmt.Sprintf("%s (%s): account %s has no region in the inventory", w, w.file, w.account))
		default:
			homeless = append(homeless, fmt.Sprintf("%s (%s): account %s is in region %s, for which %s names no cluster", w, w.file, w.account, region, t.variable))
		}
	}
	return homeless
}

// states is what each release's own cluster remembers of it. A release of the same name in another cluster is another release.
func (t *targets) states(list []*wanted) map[cluster.Key]cluster.State {
	states := map[cluster.Key]cluster.State{}
	for _, w := range list {
		if s, ok := t.found[w.cluster].states[w.key]; ok {
			states[w.key] = s
		}
	}
	return states
}

// remembered is all that each cluster remembers.
func (t *targets) remembered() map[string]map[cluster.Key]cluster.State {
	all := map[string]map[cluster.Key]cluster.State{}
	for name, f := range t.found {
		all[name] = f.states
	}
	return all
}

// remember reports whether a cluster remembers anything of this source.
func (t *targets) remember(source string) bool {
	for _, f := range t.found {
		for _, s := range f.states {
			if source != "" && s.Newest.Mark.Source == source && !s.Newest.Uninstalled() {
				return true
			}
		}
	}
	return false
}

// secret reads a Secret of one cluster; there is none, without an error, when it does not exist.
func (t *targets) secret(ctx context.Context, name, namespace, secret string) (map[string][]byte, error) {
	return t.found[name].cluster.Data(ctx, "Secret", namespace, secret)
}

func (t *targets) clusters() map[string]*cluster.Cluster {
	all := map[string]*cluster.Cluster{}
	for name, f := range t.found {
		all[name] = f.cluster
	}
	return all
}
