// Package gitrepo talks to Git repositories over HTTP(S) with go-git: it reads history, reads the files of a commit without a work tree,
// and pushes one commit on the condition that the branch has not moved. It is used by compute-version, bump-config, gate-uat and
// deploy-helm.
//
// Nothing is ever checked out. A work tree would bring links, hooks, filters and file names of a repository that somebody else can write
// to onto this machine, and it is slower by an order of magnitude.
package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"

	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// Remote is a Git repository behind an http or https URL, and the credentials for it.
type Remote struct {
	URL      string      // http(s)://host/path, without user information
	Username string      // HTTP basic user name; hosts that take tokens ignore it
	Token    secret.Text // HTTP basic password; zero: anonymous

	// Renew, when set, is asked for the password before every exchange with the server, in place of Token: the tokens of a GitHub App
	// live for an hour and are good for one repository, the one behind the URL. It keeps a token for as long as that is good, so asking
	// is cheap.
	Renew func(ctx context.Context, url string) (secret.Text, error)
}

// CheckURL reports why u cannot be a remote's URL: another scheme than http or https, credentials inside it, no host. The error never
// repeats u, since what it holds may be a password.
func CheckURL(u string) error {
	p, err := url.Parse(u)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case p.Scheme != "https" && p.Scheme != "http":
		return fmt.Errorf("scheme %q: want https (or http for a server on this machine); SSH and file remotes need programs that the image does not hold", p.Scheme)
	case p.User != nil:
		return errors.New("credentials inside a URL end up in logs: give them as GIT_USERNAME and GIT_TOKEN")
	case p.Host == "":
		return errors.New("no host")
	case p.RawQuery != "" || p.Fragment != "":
		return errors.New("a query or fragment is not part of a repository's URL")
	}
	return nil
}

func (r Remote) anonymous() bool { return r.Token.IsZero() && r.Renew == nil }

func (r Remote) auth(ctx context.Context) (transport.AuthMethod, error) {
	token := r.Token
	if r.Renew != nil {
		var err error
		if token, err = r.Renew(ctx, r.URL); err != nil {
			return nil, &credentialError{err}
		}
	}
	if token.IsZero() {
		return nil, nil
	}
	return &githttp.BasicAuth{Username: r.Username, Password: token.Reveal()}, nil
}
