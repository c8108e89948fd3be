package secret

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
)

// RSAKey reads a private key in PEM: PKCS #1, as GitHub makes them, or PKCS #8. A key whose line ends are written as \n, which is what is
// left after some ways of storing it, is read too. Errors hold no word of the key.
func RSAKey(t Text) (*rsa.PrivateKey, error) {
	text := t.Reveal()
	if !strings.Contains(text, "\n") {
		text = strings.ReplaceAll(text, `\n`, "\n")
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("not PEM: want the whole file that GitHub made, with its line ends")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		if key, ok := parsed.(*rsa.PrivateKey); ok {
			return key, nil
		}
	}
	return nil, errors.New("no RSA private key in PKCS #1 or PKCS #8")
}
