package main

import (
	"crypto/subtle"
	"errors"
	"net/http"

	"github.com/distribution/distribution/v3/registry/auth"
)

// fixedUserAuth is the name under which the access controller below is known to distribution.
const fixedUserAuth = "fixeduser"

func init() {
	if err := auth.Register(fixedUserAuth, newFixedUser); err != nil {
		panic(err) // only a second registration of the same name can fail
	}
}

// fixedUser admits one user to everything. Distribution's own htpasswd controller wants a file with a bcrypt hash, which a killed registry
// would leave behind; the challenge and the error bodies that clients see are distribution's either way.
type fixedUser struct{ user, pass string }

func newFixedUser(options map[string]any) (auth.AccessController, error) {
	user, _ := options["user"].(string)
	pass, _ := options["pass"].(string)
	if user == "" || pass == "" {
		return nil, errors.New("a user and a password are needed")
	}
	return fixedUser{user, pass}, nil
}

// Authorized implements auth.AccessController.
func (f fixedUser) Authorized(r *http.Request, _ ...auth.Access) (*auth.Grant, error) {
	user, pass, ok := r.BasicAuth()
	if !ok {
		return nil, challenge{auth.ErrInvalidCredential}
	}
	if subtle.ConstantTimeCompare([]byte(user), []byte(f.user))&subtle.ConstantTimeCompare([]byte(pass), []byte(f.pass)) == 0 {
		return nil, challenge{auth.ErrAuthenticationFailure}
	}
	return &auth.Grant{User: auth.UserInfo{Name: user}}, nil
}

// challenge is the 401 that asks for basic authentication (RFC 7617).
type challenge struct{ error }

// SetHeaders implements auth.Challenge.
func (challenge) SetHeaders(_ *http.Request, w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
}
