package inventory

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// Address is the URL of the inventory.
type Address struct{ url *url.URL }

// ParseAddress reads a URL: https, or http for a service on this machine; without user, password and fragment. Its errors do not repeat the
// URL, since people put tokens into URLs.
func ParseAddress(text string) (Address, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return Address{}, errors.New("it cannot be read as a URL")
	case u.User != nil:
		return Address{}, errors.New("credentials inside a URL end up in logs: give a token as ACCOUNTS_TOKEN")
	case u.Scheme != "https" && u.Scheme != "http":
		return Address{}, fmt.Errorf("the scheme is %.20q: want https://host/path", u.Scheme)
	case u.Hostname() == "" || u.Fragment != "" || u.Opaque != "":
		return Address{}, errors.New("want https://host/path, without a fragment")
	}
	return Address{u}, nil
}

// String is the URL without its query, in which a secret may be.
func (a Address) String() string {
	if a.url == nil {
		return ""
	}
	u := url.URL{Scheme: a.url.Scheme, Host: a.url.Host, Path: a.url.Path}
	return u.String()
}

// Check reports why the address may not be asked, before anything is sent.
func (a Address) Check(loopback bool) error { return a.check(loopback) }

func (a Address) check(loopback bool) error {
	if a.url == nil {
		return errors.New("there is no address")
	}
	host := strings.ToLower(strings.TrimSuffix(a.url.Hostname(), "."))
	ip, err := netip.ParseAddr(host)
	local := host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && ip.Unmap().IsLoopback()
	switch {
	case local && !loopback:
		return errors.New("it is an address of this machine: set ACCOUNTS_LOOPBACK=true to allow that, on a laptop or in a test")
	case a.url.Scheme != "https" && !local:
		return errors.New("over plain HTTP anybody on the way could change the inventory: want https://")
	case host == "metadata" || host == "metadata.google.internal":
		return errors.New("it is the metadata server")
	case err == nil:
		return checkIP(ip, loopback)
	}
	return nil
}

// origin is the scheme, the host and the port.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

func sameOrigin(a, b *url.URL) bool { return origin(a) == origin(b) }

// Addresses that are no service's: the metadata servers of clouds outside the link-local ranges, which hold credentials.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("fd00:ec2::254/128"),  // Amazon
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle
}

// Prefixes in which an IPv4 address travels inside an IPv6 one: the well-known NAT64 prefix (RFC 6052) and 6to4 (RFC 3056).
var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	sixTo4 = netip.MustParsePrefix("2002::/16")
)

// checkIP refuses addresses that no inventory is at. Private ranges are allowed: an onboarding service may well be an internal one.
func checkIP(ip netip.Addr, loopback bool) error {
	ip = ip.Unmap().WithZone("")
	raw := ip.AsSlice()
	switch {
	case nat64.Contains(ip):
		ip = netip.AddrFrom4([4]byte(raw[12:16]))
	case sixTo4.Contains(ip):
		ip = netip.AddrFrom4([4]byte(raw[2:6]))
	}
	switch {
	case ip.IsLoopback() && !loopback:
		return fmt.Errorf("%s is an address of this machine: set ACCOUNTS_LOOPBACK=true to allow that, on a laptop or in a test", ip)
	case ip.IsLinkLocalUnicast(), ip.IsLinkLocalMulticast(), ip.IsInterfaceLocalMulticast():
		return fmt.Errorf("%s is a link-local address, where clouds have their metadata server", ip)
	case ip.IsUnspecified() || ip.IsMulticast() || ip.Is4() && (ip.As4()[0] == 0 || ip.As4()[0] >= 240):
		return fmt.Errorf("%s is not the address of a host", ip)
	}
	for _, m := range metadata {
		if m.Contains(ip) {
			return fmt.Errorf("%s is a metadata server", ip)
		}
	}
	return nil
}

// Header is how the token is sent: the name of a header and what stands in front of the token, such as `Authorization: Bearer`.
type Header struct{ field, prefix string }

// UnmarshalText reads `Name: prefix` or `Name`. It implements encoding.TextUnmarshaler.
func (h *Header) UnmarshalText(b []byte) error {
	name, prefix, _ := strings.Cut(string(b), ":")
	name, prefix = strings.TrimSpace(name), strings.TrimSpace(prefix)
	switch {
	case name == "" || strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "":
		return errors.New("want the name of a header and what stands in front of the token, such as Authorization: Bearer")
	case strings.ContainsFunc(prefix, func(r rune) bool { return r < ' ' || r > '~' }):
		return errors.New("what stands in front of the token must be plain text")
	}
	switch strings.ToLower(name) {
	case "host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "accept", "accept-encoding":
		return fmt.Errorf("the header %s cannot carry a token", name)
	}
	h.field, h.prefix = name, prefix
	return nil
}

func (h Header) name() string {
	if h.field == "" {
		return "Authorization"
	}
	return h.field
}

func (h Header) value(token secret.Text) string {
	prefix := h.prefix
	if h.field == "" {
		prefix = "Bearer"
	}
	return strings.TrimSpace(prefix + " " + token.Reveal())
}
