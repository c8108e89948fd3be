package accounts

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// PathPattern says whose the files of a folder are: accounts/{account}/. {account} stands for one element; the others are literal, or * for
// any. Its zero value matches nothing.
type PathPattern struct{ elements []string }

// UnmarshalText checks the pattern. It implements encoding.TextUnmarshaler.
func (p *PathPattern) UnmarshalText(b []byte) error {
	elements := strings.Split(strings.Trim(string(b), "/"), "/")
	n := 0
	for _, e := range elements {
		switch {
		case e == "{account}":
			n++
		case e == "" || e == "." || e == "..", strings.ContainsAny(e, "{}"), e != "*" && strings.Contains(e, "*"):
			return fmt.Errorf("the element %q is not known: want names, *, and {account}", e)
		}
	}
	if n != 1 {
		return errors.New("want {account} once, such as accounts/{account}/")
	}
	p.elements = elements
	return nil
}

// Match returns the account that a path names, "" for none. The pattern describes how the path begins.
func (p PathPattern) Match(name string) string {
	parts := strings.Split(path.Dir(name), "/")
	if len(p.elements) == 0 || len(parts) < len(p.elements) {
		return ""
	}
	account := ""
	for i, e := range p.elements {
		switch {
		case e == "{account}":
			account = parts[i]
		case e != "*" && e != parts[i]:
			return ""
		}
	}
	return account
}

// Owner says whose a resource is, by what its label, its annotation and its path claim: the account, or why it cannot be told. Both are
// empty when nothing claims an account.
func Owner(claimed ...string) (account, doubt string) {
	var claims []string
	for _, claim := range claimed {
		if claim != "" && !slices.Contains(claims, claim) {
			claims = append(claims, claim)
		}
	}
	switch {
	case len(claims) == 0:
		return "", ""
	case len(claims) > 1:
		return "", fmt.Sprintf("label, annotation and path name different accounts: %q", claims)
	case !idPattern.MatchString(claims[0]):
		return "", fmt.Sprintf("%q is not an account's id", claims[0])
	}
	return claims[0], ""
}
