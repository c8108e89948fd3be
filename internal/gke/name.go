package gke

import (
	"errors"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// Name is the resource name of a cluster, projects/P/locations/L/clusters/C, or of a member of a fleet, projects/P/locations/L/memberships/M.
type Name struct{ project, location, kind, id string }

const (
	clusters    = "clusters"
	memberships = "memberships"
)

// A project's id may carry a domain (example.com:project); Google's other names are letters, digits and hyphens.
var namePattern = regexp.MustCompile(`^projects/((?:[a-z0-9.-]+:)?[a-z0-9-]+)/locations/([a-z0-9-]+)/(clusters|memberships)/([a-z0-9-]+)$`)

// UnmarshalText checks the name. The path of a URL is made of it, so that nothing but a name may pass.
func (n *Name) UnmarshalText(b []byte) error {
	m := namePattern.FindStringSubmatch(string(b))
	if m == nil {
		return errors.New("want projects/PROJECT/locations/LOCATION/clusters/CLUSTER (LOCATION is a region or a zone), or …/memberships/MEMBERSHIP for a member of a fleet")
	}
	*n = Name{m[1], m[2], m[3], m[4]}
	return nil
}

// String returns the resource name.
func (n Name) String() string {
	if n.IsZero() {
		return ""
	}
	return "projects/" + n.project + "/locations/" + n.location + "/" + n.kind + "/" + n.id
}

// IsZero reports whether there is no name.
func (n Name) IsZero() bool { return n == Name{} }

// Short is the name for tables: location and cluster.
func (n Name) Short() string { return n.location + "/" + n.id }

// CheckURL accepts an https URL without credentials, query and fragment; plain http only on this machine, for tests: a token is sent there.
func CheckURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("it cannot be read as a URL")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Host == "":
		return errors.New("want https://host, without credentials and query")
	case u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	case u.Scheme != "https":
		return errors.New("want https://host (plain http is for loopback only)")
	}
	return nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// hostOf makes a URL of the bare address that the container API gives.
func hostOf(address string) string {
	if addr, err := netip.ParseAddr(address); err == nil && addr.Is6() {
		address = "[" + address + "]"
	}
	return "https://" + strings.TrimSuffix(address, "/")
}
