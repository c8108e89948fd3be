package inventory

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// client makes an HTTP client for one origin. It uses no proxy, since a proxy would do the connecting and no address could be checked, keeps
// no cookies, and knows none of this machine's credentials.
func (s Service) client() *http.Client {
	dialer := &net.Dialer{
		Timeout: 15 * time.Second, Resolver: s.resolver,
		// Control sees the address that is connected to, after the name was resolved: a name that resolves to a forbidden address, now or
		// only on the second look, gets nowhere.
		Control: func(_, address string, _ syscall.RawConn) error {
			peer, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			if err := checkIP(peer.Addr(), s.Loopback); err != nil {
				return &addressError{err}
			}
			return nil
		},
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, ForceAttemptHTTP2: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeaders,
			TLSHandshakeTimeout: 15 * time.Second, ResponseHeaderTimeout: longestRequest,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.roots},
		},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			switch {
			case !sameOrigin(next.URL, s.Address.url):
				return &redirectError{fmt.Sprintf("it redirects to another host, %s", origin(next.URL))}
			case len(via) > maxRedirects:
				return &redirectError{fmt.Sprintf("it redirects more than %d times", maxRedirects)}
			}
			return nil
		},
	}
}

// addressError is a connection that must not be made.
type addressError struct{ err error }

func (e *addressError) Error() string { return e.err.Error() }

// redirectError is a redirect that is not followed.
type redirectError struct{ why string }

func (e *redirectError) Error() string { return e.why }

// Error is a failure to get the inventory. It names the service without the URL's query, and never repeats what was sent.
type Error struct {
	Address Address
	Status  int // of HTTP; 0 when there was no answer
	Why     error

	temporary bool
	after     time.Duration // that the service asked to wait
	advice    string
}

// Error says what was asked, and what went wrong.
func (e *Error) Error() string {
	if e.Address.url == nil {
		return e.Why.Error()
	}
	return fmt.Sprintf("asking %s for the inventory: %v", e.Address, e.Why)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Why }

// Fix says what the reader can do.
func (e *Error) Fix() string {
	switch {
	case e.advice != "":
		return e.advice
	case e.Status == http.StatusNotFound:
		return "set ACCOUNTS to the address of the inventory"
	case e.temporary:
		return "run the build again when the service answers"
	}
	return "set ACCOUNTS to an address that answers itself, with a whole inventory in one or more pages"
}

// unwrapURL takes the URL, which may hold a secret in its query, out of an error of net/http.
func unwrapURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*redirectError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*addressError](err); ok {
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("it did not answer in time")
	}
	return err
}

// isTemporary reports whether asking again may help: what failed is the connection, and not a rule.
func isTemporary(err error) bool {
	for _, rule := range []func(error) bool{is[*redirectError], is[*addressError], is[*tls.CertificateVerificationError], is[*Error]} {
		if rule(err) {
			return false
		}
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return false
	}
	if is[*net.OpError](err) || is[*net.DNSError](err) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return true
	}
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}
