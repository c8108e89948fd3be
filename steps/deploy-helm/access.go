package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// access is what the Secrets of a source hold.
type access struct {
	username string
	password secret.Text
	token    secret.Text
	docker   secret.Text // a Docker config
	tls      *tls.Config // nil: whatever this machine trusts
}

// access reads the Secrets that a source names. As in Flux they stand in the source's namespace, in the cluster that is deployed to, and
// spec.certSecretRef goes before what spec.secretRef may hold of certificates.
func (r *remoteCharts) access(ctx context.Context, w *wanted) (access, error) {
	var (
		a    access
		from = w.remote.from
	)
	if ref := from.helm.SecretRef; ref != nil {
		data, err := r.secret(ctx, w, ref.Name)
		if err == nil {
			err = a.take(data)
		}
		if err != nil {
			return access{}, fmt.Errorf("spec.secretRef: Secret %s/%s %w", from.namespace, ref.Name, err)
		}
	}
	if ref := from.helm.CertSecretRef; ref != nil {
		data, err := r.secret(ctx, w, ref.Name)
		if err == nil {
			a.tls, err = tlsOf(data)
		}
		if err == nil && a.tls == nil {
			err = errors.New("holds neither ca.crt nor tls.crt and tls.key")
		}
		if err != nil {
			return access{}, fmt.Errorf("spec.certSecretRef: Secret %s/%s %w", from.namespace, ref.Name, err)
		}
	}
	return a, nil
}

func (r *remoteCharts) secret(ctx context.Context, w *wanted, name string) (map[string][]byte, error) {
	data, err := r.secrets(ctx, w.cluster, w.remote.from.namespace, name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot be read: %w", err)
	case data == nil:
		return nil, errors.New("does not exist in the cluster")
	}
	return data, nil
}

// take reads the Secret of spec.secretRef: user name and password, a bearer token, or a Docker config. (Flux 2 has bearer tokens for other
// sources than these; here they are the same everywhere.)
func (a *access) take(data map[string][]byte) (err error) {
	a.username, a.password = string(data["username"]), secret.New(string(data["password"]))
	a.token, a.docker = secret.New(string(data["bearerToken"])), secret.New(string(data[".dockerconfigjson"]))
	if (a.username == "") != a.password.IsZero() {
		return errors.New("must hold both username and password")
	}
	if a.tls, err = tlsOf(data); err != nil {
		return err
	}
	if a.username == "" && a.token.IsZero() && a.docker.IsZero() && a.tls == nil {
		return errors.New("holds neither username and password nor .dockerconfigjson nor bearerToken")
	}
	return nil
}

// tlsOf reads certificates under their names of today, and under those of the past (fluxcd/pkg/runtime/secrets). An authority is trusted in
// addition to those that this machine trusts. It returns nil when there are none.
func tlsOf(data map[string][]byte) (*tls.Config, error) {
	get := func(names ...string) []byte {
		for _, name := range names {
			if len(data[name]) > 0 {
				return data[name]
			}
		}
		return nil
	}
	ca, cert, key := get("ca.crt", "caFile"), get("tls.crt", "certFile"), get("tls.key", "keyFile")
	if ca == nil && cert == nil && key == nil {
		return nil, nil
	}
	config := &tls.Config{}
	if ca != nil {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(ca) {
			return nil, errors.New("holds a ca.crt that is no PEM certificate")
		}
		config.RootCAs = pool
	}
	if (cert == nil) != (key == nil) {
		return nil, errors.New("must hold both tls.crt and tls.key")
	}
	if cert != nil {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, errors.New("holds a tls.crt and a tls.key that are no pair")
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// keychain gives the credentials to the host of a repository only.
func (a access) keychain(repository string) (authn.Keychain, error) {
	host, _, _ := strings.Cut(repository, "/")
	config := authn.AuthConfig{Username: a.username, Password: a.password.Reveal(), RegistryToken: a.token.Reveal()}
	if !a.docker.IsZero() {
		var err error
		if config, err = dockerAuth([]byte(a.docker.Reveal()), repository); err != nil {
			return nil, err
		}
	}
	return only{host, authn.FromConfig(config)}, nil
}

// only is a keychain for one host.
type only struct {
	host string
	auth authn.Authenticator
}

// Resolve implements authn.Keychain.
func (o only) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if r.RegistryStr() != o.host {
		return authn.Anonymous, nil
	}
	return o.auth, nil
}

// dockerAuth finds the credentials for a repository in a Docker config: under its host, or under the host and the beginning of its path, the
// longest of them. Names may be written as URLs, as `docker login` does for Docker Hub.
func dockerAuth(text []byte, repository string) (authn.AuthConfig, error) {
	var file struct {
		Auths map[string]struct {
			Username      string `json:"username"`
			Password      string `json:"password"`
			Auth          string `json:"auth"`
			RegistryToken string `json:"registrytoken"`
		} `json:"auths"`
	}
	if json.Unmarshal(text, &file) != nil {
		return authn.AuthConfig{}, errors.New("its .dockerconfigjson is not a Docker config")
	}
	host, _, _ := strings.Cut(repository, "/")
	found := ""
	for name := range file.Auths {
		place := strings.TrimSuffix(name, "/")
		place = strings.TrimPrefix(strings.TrimPrefix(place, "https://"), "http://")
		place = strings.TrimSuffix(strings.TrimSuffix(place, "/v1"), "/v2")
		if (place == repository || strings.HasPrefix(repository, place+"/")) && len(name) > len(found) {
			found = name
		}
	}
	if found == "" {
		return authn.AuthConfig{}, fmt.Errorf("its .dockerconfigjson has nothing for %s", host)
	}
	entry := file.Auths[found]
	config := authn.AuthConfig{Username: entry.Username, Password: entry.Password, RegistryToken: entry.RegistryToken}
	if entry.Auth != "" && config.Username == "" {
		pair, err := base64.StdEncoding.DecodeString(entry.Auth)
		username, password, ok := strings.Cut(string(pair), ":")
		if err != nil || !ok {
			return authn.AuthConfig{}, fmt.Errorf("its .dockerconfigjson has no valid auth for %s", host)
		}
		config.Username, config.Password = username, strings.TrimRight(password, "\x00")
	}
	return config, nil
}
