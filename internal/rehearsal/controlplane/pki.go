package controlplane

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"time"
)

// validity of every certificate. A cluster lives for minutes; a rehearsal that is left open may live for days.
const validity = 30 * 24 * time.Hour

// pki is what the programs and their clients trust each other by, as PEM.
type pki struct {
	ca              []byte // certificate only: the key is forgotten once it has signed the others
	server          keyPair
	admin           keyPair // group system:masters, which RBAC never refuses anything
	serviceAccounts []byte  // the private key that signs service account tokens
}

type keyPair struct{ cert, key []byte }

func newPKI() (*pki, error) {
	caKey, _, err := newKey()
	if err != nil {
		return nil, err
	}
	ca := &x509.Certificate{
		Subject: pkix.Name{CommonName: "rehearsal-ca"}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IsCA: true, BasicConstraintsValid: true,
	}
	caPEM, err := sign(ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	issue := func(template *x509.Certificate) (keyPair, error) {
		key, keyPEM, err := newKey()
		if err != nil {
			return keyPair{}, err
		}
		template.KeyUsage = x509.KeyUsageDigitalSignature
		cert, err := sign(template, ca, key.Public(), caKey)
		return keyPair{cert, keyPEM}, err
	}

	keys := &pki{ca: caPEM}
	keys.server, err = issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		// 10.96.0.1 is the first address of the service range, that of the service "kubernetes".
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)}, DNSNames: []string{"localhost", "kubernetes.default.svc"},
	})
	if err != nil {
		return nil, err
	}
	keys.admin, err = issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, err
	}
	_, keys.serviceAccounts, err = newKey()
	return keys, err
}

// adminClient is an HTTP client that trusts the API server and is its administrator.
func (p *pki) adminClient() (*http.Client, error) {
	pair, err := tls.X509KeyPair(p.admin.cert, p.admin.key)
	if err != nil {
		return nil, fmt.Errorf("reading the administrator's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.ca)
	// No proxy: the server is on this machine, whatever the environment says.
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}, ForceAttemptHTTP2: true,
	}}, nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	// The API server reads service account keys in this form and not as PKCS #8.
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// sign completes a certificate and signs it with the key of its issuer.
func sign(template, issuer *x509.Certificate, public crypto.PublicKey, key crypto.Signer) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Hour) // a clock that is set back a little must not end the rehearsal
	template.NotAfter = time.Now().Add(validity)
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
