package gitrepo

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// newSSHKey makes a key with OpenSSH's own program and returns the private and the public one.
func newSSHKey(t *testing.T, kind, phrase string) (private, public string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	args := []string{"-q", "-t", kind, "-N", phrase, "-C", "bump@example.com", "-f", file}
	if kind == "rsa-pem" { // the older format
		args = append(args, "-m", "PEM")
		args[2] = "rsa"
	}
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return read(file), read(file + ".pub")
}

// signed pushes one commit that is signed with the key.
func signed(t *testing.T, key string) *world {
	t.Helper()
	k, err := ParseSigningKey(secret.New(key))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, gitserver.Options{})
	w.commit("main", "f", "0")
	result, err := Update(t.Context(), w.remote, "main", "", func(*Snapshot) (*Change, error) {
		return &Change{Files: map[string][]byte{"f": []byte("1")}, Message: "signed\n\nwith a body", Author: ada, Key: k}, nil
	})
	if err != nil || !result.Changed {
		t.Fatalf("got %+v (%v)", result, err)
	}
	w.bare("fsck", "--strict", "--no-dangling")
	return w
}

func TestGitVerifiesACommitThatIsSignedWithSSH(t *testing.T) {
	for _, kind := range []string{"ed25519", "ecdsa", "rsa", "rsa-pem"} {
		t.Run(kind, func(t *testing.T) {
			private, public := newSSHKey(t, kind, "")
			w := signed(t, private)
			allowed := filepath.Join(t.TempDir(), "allowed_signers")
			if err := os.WriteFile(allowed, []byte("ada@example.com namespaces=\"git\" "+public), 0o600); err != nil {
				t.Fatal(err)
			}
			verify := func(commit string) (string, error) {
				cmd := exec.CommandContext(t.Context(), "git", "-c", "gpg.format=ssh", "-c", "gpg.ssh.allowedSignersFile="+allowed, "verify-commit", commit)
				cmd.Dir = w.server.Dir(repoName)
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			if out, err := verify("main"); err != nil || !strings.Contains(out, `Good "git" signature for ada@example.com`) {
				t.Errorf("%v: %s", err, out)
			}
			if out, err := verify("main~"); err == nil {
				t.Errorf("a commit without a signature is verified: %s", out)
			}
			other := strings.Replace(w.bare("cat-file", "commit", "main"), "with a body", "with another", 1)
			if out, err := verify(w.object("commit", other+"\n")); err == nil {
				t.Errorf("another text is verified: %s", out)
			}
		})
	}
}

// newOpenPGPKey makes a key pair and returns the private one in armor, protected when there is a phrase.
func newOpenPGPKey(t *testing.T, phrase string) (string, *openpgp.Entity) {
	t.Helper()
	entity, err := openpgp.NewEntity("Bump", "", "bump@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	if phrase != "" {
		if err := entity.EncryptPrivateKeys([]byte(phrase), nil); err != nil {
			t.Fatal(err)
		}
	}
	return armored(t, openpgp.PrivateKeyType, func(b *bytes.Buffer) error {
		if phrase != "" {
			return entity.SerializePrivateWithoutSigning(b, nil)
		}
		return entity.SerializePrivate(b, nil)
	}), entity
}

func armored(t *testing.T, kind string, write func(*bytes.Buffer) error) string {
	t.Helper()
	var body, text bytes.Buffer
	if err := write(&body); err != nil {
		t.Fatal(err)
	}
	w, err := armor.Encode(&text, kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// What is verified here is what git hands to gpg: the commit without its header gpgsig, and that header's text.
func TestACommitThatIsSignedWithOpenPGPCanBeVerified(t *testing.T) {
	private, entity := newOpenPGPKey(t, "")
	w := signed(t, private)
	raw := w.bare("cat-file", "commit", "main") + "\n"
	head, rest, _ := strings.Cut(raw, "gpgsig ")
	signature, body, found := strings.Cut(rest, "-----END PGP SIGNATURE-----")
	if !found {
		t.Fatalf("no signature in %q", raw)
	}
	signature = strings.ReplaceAll(signature, "\n ", "\n") + "-----END PGP SIGNATURE-----\n"
	text := head + "\n" + strings.TrimLeft(body, " \n")
	if _, err := openpgp.CheckArmoredDetachedSignature(openpgp.EntityList{entity}, strings.NewReader(text), strings.NewReader(signature), nil); err != nil {
		t.Errorf("%v in\n%s", err, raw)
	}
	if _, err := openpgp.CheckArmoredDetachedSignature(openpgp.EntityList{entity}, strings.NewReader(text+"x"), strings.NewReader(signature), nil); err == nil {
		t.Error("another text is verified")
	}
}

func TestAKeyThatCannotSignIsExplainedWithoutBeingShown(t *testing.T) {
	sshLocked, _ := newSSHKey(t, "ed25519", "phrase")
	sshOpen, sshPublic := newSSHKey(t, "ed25519", "")
	pemLocked, _ := newSSHKey(t, "rsa-pem", "phrase")
	pgpLocked, _ := newOpenPGPKey(t, "phrase")
	pgpOpen, entity := newOpenPGPKey(t, "")
	pgpPublic := armored(t, openpgp.PublicKeyType, func(b *bytes.Buffer) error { return entity.Serialize(b) })
	for _, tt := range []struct{ name, key, want string }{
		{"SSH with a passphrase", sshLocked, "passphrase"},
		{"SSH in PEM with a passphrase", pemLocked, "passphrase"},
		{"OpenPGP with a passphrase", pgpLocked, "passphrase"},
		{"an SSH public key", sshPublic, "does not begin with -----BEGIN"},
		{"an OpenPGP public key", pgpPublic, "public key"},
		{"SSH, cut", sshOpen[:len(sshOpen)/2], "may be cut"},
		{"SSH, its line breaks lost", strings.ReplaceAll(sshOpen, "\n", " "), "line breaks lost"},
		{"OpenPGP, cut", pgpOpen[:len(pgpOpen)/2], "may be cut"},
		{"a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read as an SSH private key"},
		{"anything", "canary-5d1e", "does not begin"},
	} {
		_, err := ParseSigningKey(secret.New(tt.key))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
			continue
		}
		for _, line := range strings.Fields(tt.key) {
			if len(line) > 9 && !strings.HasPrefix(line, "-----") && strings.Contains(err.Error(), line) {
				t.Errorf("%s: the error shows the key: %v", tt.name, err)
			}
		}
	}
}
