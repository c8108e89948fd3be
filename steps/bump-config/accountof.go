package main

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/marker"
)

// accountPath is a path pattern with {account} as one element, such as accounts/{account}/. Other elements are literal, or * for any.
type accountPath struct{ elements []string }

// UnmarshalText checks the pattern.
func (p *accountPath) UnmarshalText(b []byte) error {
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
		return fmt.Errorf("want {account} once, such as accounts/{account}/")
	}
	p.elements = elements
	return nil
}

// match returns the account that a path names, "" for none. The pattern describes how the path begins.
func (p accountPath) match(name string) string {
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

// owner says whose a resource is: the account, or why it cannot be told. Both are empty when nothing claims an account.
func (in In) owner(r marker.Resource, file string) (account, doubt string) {
	var claims []string
	for _, claim := range []string{r.Labels[in.AccountLabel], r.Annotations[in.AccountLabel], in.AccountPath.match(file)} {
		if claim != "" && !slices.Contains(claims, claim) {
			claims = append(claims, claim)
		}
	}
	switch {
	case len(claims) == 0:
		return "", ""
	case len(claims) > 1:
		return "", fmt.Sprintf("label, annotation and path name different accounts: %q", claims)
	case !accountID.MatchString(claims[0]):
		return "", fmt.Sprintf("%q is not an account's id", claims[0])
	}
	return claims[0], ""
}

// accountID is the grammar of internal/accounts for the id of an account.
var accountID = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

// gate decides whether a resource may receive the tag.
type gate struct {
	target    target
	inventory *accounts.Inventory // without a decision on a candidate: the config repo's; nil when there is none
	label     string
}

// holds returns why a resource must not change, "" when it may.
func (g gate) holds(account, doubt string) string {
	if g.target.undecided != "" {
		return g.target.undecided
	}
	untold := fmt.Sprintf("no label or annotation %s and no path says whose it is", g.label)
	if g.target.decision == nil && !g.target.candidate {
		return "" // a build, or a final version that no gate was asked about: the policy's range alone decides
	}
	switch {
	case doubt != "":
		return doubt
	case g.target.decision != nil && account == "":
		return untold + ", and the gate decides by account"
	case g.target.decision != nil:
		if ok, reason := g.target.decision.Allows(account); !ok {
			return "the gate holds " + account + ": " + reason
		}
		return ""
	case g.inventory == nil && account == "":
		return "" // a repo without accounts: the policy's range alone decides
	case g.inventory == nil:
		return "a candidate without a decision of gate-uat, and no inventory says that " + account + " is a UAT account"
	case account == "":
		return untold + ", and a candidate without a decision of gate-uat is for UAT accounts only"
	}
	if a, found := g.inventory.Find(account); !found || !a.IsUAT {
		return "a candidate without a decision of gate-uat is for UAT accounts only, and " + account + " is none"
	}
	return ""
}
