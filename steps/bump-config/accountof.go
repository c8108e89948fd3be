package main

import (
	"fmt"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/marker"
)

// owner says whose a resource is: the account, or why it cannot be told. Both are empty when nothing claims an account.
func (in In) owner(r marker.Resource, file string) (account, doubt string) {
	return accounts.Owner(r.Labels[in.AccountLabel], r.Annotations[in.AccountLabel], in.AccountPath.Match(file))
}

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
