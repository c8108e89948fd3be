package gitrepo

import (
	"bytes"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"golang.org/x/crypto/ssh"

	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// SigningKey signs commits, with OpenPGP or with SSH. Its zero value signs nothing.
type SigningKey struct {
	ssh     ssh.Signer
	openPGP *openpgp.Entity
}

// IsZero reports whether there is no key.
func (k SigningKey) IsZero() bool { return k.ssh == nil && k.openPGP == nil }

const passphrase = "the key is protected with a passphrase, which nobody can type in a build: give a key without one, and keep it as a secret"

// ParseSigningKey reads a private key: an OpenPGP one in ASCII armor (gpg --armor --export-secret-keys), or an SSH one as ssh-keygen
// writes it (Ed25519, ECDSA or RSA). No text is no key. The error never repeats any of the text.
func ParseSigningKey(text secret.Text) (SigningKey, error) {
	if text.IsZero() {
		return SigningKey{}, nil
	}
	raw := []byte(text.Reveal() + "\n") // secret.Text drops the line break at the end, which OpenSSH's format needs
	if !bytes.HasPrefix(raw, []byte("-----BEGIN ")) {
		return SigningKey{}, errors.New("it does not begin with -----BEGIN: want an OpenPGP private key in ASCII armor, or an SSH private key")
	}
	if bytes.HasPrefix(raw, []byte("-----BEGIN PGP ")) {
		return parseOpenPGP(raw)
	}
	signer, err := ssh.ParsePrivateKey(raw)
	if _, protected := errors.AsType[*ssh.PassphraseMissingError](err); protected {
		return SigningKey{}, errors.New(passphrase)
	}
	if err != nil {
		return SigningKey{}, errors.New("it cannot be read as an SSH private key (Ed25519, ECDSA or RSA): the text may be cut, or its line breaks lost")
	}
	if signer.PublicKey().Type() == "ssh-dss" {
		return SigningKey{}, errors.New("it is a DSA key, which OpenSSH and hosts do not accept any more: use Ed25519")
	}
	return SigningKey{ssh: signer}, nil
}

func parseOpenPGP(raw []byte) (SigningKey, error) {
	keys, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(raw))
	if err != nil || len(keys) == 0 {
		return SigningKey{}, errors.New("it cannot be read as an OpenPGP key: the text may be cut, or its line breaks lost")
	}
	if len(keys) > 1 {
		return SigningKey{}, fmt.Errorf("it holds %d OpenPGP keys, and which of them is to sign is not said: export one", len(keys))
	}
	key, ok := keys[0].SigningKey(keys[0].PrimaryKey.CreationTime)
	if now, usable := keys[0].SigningKey(time.Now()); usable {
		key, ok = now, true
	} else if ok {
		return SigningKey{}, errors.New("the OpenPGP key has expired or was revoked")
	}
	switch {
	case keys[0].PrivateKey == nil && (!ok || key.PrivateKey == nil):
		return SigningKey{}, errors.New("it is an OpenPGP public key: want the private one (gpg --armor --export-secret-keys)")
	case !ok || key.PrivateKey == nil || key.PrivateKey.Dummy():
		return SigningKey{}, errors.New("the OpenPGP key has no private part that may sign")
	case key.PrivateKey.Encrypted:
		return SigningKey{}, errors.New(passphrase)
	}
	return SigningKey{openPGP: keys[0]}, nil
}

// attach signs a commit, if there is a key.
func (k SigningKey) attach(c *object.Commit) error {
	if k.IsZero() {
		return nil
	}
	o := &plumbing.MemoryObject{}
	if err := c.EncodeWithoutSignature(o); err != nil {
		return err
	}
	r, err := o.Reader()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	c.PGPSignature, err = k.sign(text) // git keeps both kinds of signature in one header, and so does go-git
	return err
}

// sign returns the signature of a commit's text, as it stands in the header gpgsig.
func (k SigningKey) sign(commit []byte) (string, error) {
	if k.openPGP != nil {
		var b bytes.Buffer
		w, err := armor.Encode(&b, openpgp.SignatureType, nil)
		if err != nil {
			return "", err
		}
		if err := openpgp.DetachSign(w, k.openPGP, bytes.NewReader(commit), nil); err != nil {
			return "", err
		}
		err = w.Close()
		return b.String() + "\n", err
	}
	return k.signSSH(commit)
}

// sshNamespace keeps a signature of a commit from being passed off as one of something else.
const sshNamespace = "git"

// signSSH makes a signature in the format of OpenSSH's PROTOCOL.sshsig, the one that git writes with gpg.format=ssh.
func (k SigningKey) signSSH(commit []byte) (string, error) {
	const magic, hash = "SSHSIG", "sha512"
	sum := sha512.Sum512(commit)
	signed := append([]byte(magic), ssh.Marshal(struct{ Namespace, Reserved, Hash, Sum string }{sshNamespace, "", hash, string(sum[:])})...)
	signature, err := k.signBytes(signed)
	if err != nil {
		return "", err
	}
	blob := append([]byte(magic), ssh.Marshal(struct {
		Version                                         uint32
		PublicKey, Namespace, Reserved, Hash, Signature string
	}{1, string(k.ssh.PublicKey().Marshal()), sshNamespace, "", hash, string(ssh.Marshal(*signature))})...)
	var b strings.Builder
	b.WriteString("-----BEGIN SSH SIGNATURE-----\n")
	for text := base64.StdEncoding.EncodeToString(blob); text != ""; {
		line := text[:min(70, len(text))]
		b.WriteString(line + "\n")
		text = text[len(line):]
	}
	b.WriteString("-----END SSH SIGNATURE-----\n")
	return b.String(), nil
}

// signBytes signs with the algorithm that the key's type calls for. RSA would use SHA-1 by itself, which the format forbids.
func (k SigningKey) signBytes(data []byte) (*ssh.Signature, error) {
	if signer, ok := k.ssh.(ssh.AlgorithmSigner); ok && k.ssh.PublicKey().Type() == ssh.KeyAlgoRSA {
		return signer.SignWithAlgorithm(rand.Reader, data, ssh.KeyAlgoRSASHA512)
	}
	return k.ssh.Sign(rand.Reader, data)
}
