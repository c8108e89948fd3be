package accounts

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/release"
)

// Decision is the gate's answer, frozen: who may receive which digest under which version, by which inventory. Later steps act on nothing
// else. Every account of the inventory is in exactly one of Allowed and Held.
type Decision struct {
	Version         string    `json:"version" env:"VERSION" doc:"the version that was asked about"`
	Service         string    `json:"service" env:"SERVICE" doc:"the service"`
	Image           string    `json:"image" env:"IMAGE" doc:"registry repository of the image"`
	Digest          string    `json:"digest" env:"DIGEST" doc:"digest behind the version's tag when the decision was made"`
	Channel         string    `json:"channel" env:"CHANNEL" doc:"uat (a candidate: UAT accounts only) or production (UAT accounts and production accounts)"`
	InventorySHA256 string    `json:"inventory_sha256" doc:"SHA-256 of the bytes of the inventory, in hexadecimal"`
	Region          string    `json:"region" doc:"the only region that was admitted; empty for all"`
	Allowed         []Verdict `json:"allowed" doc:"accounts that may receive it: account, region, reason"`
	Held            []Verdict `json:"held" doc:"accounts that may not: account, region, reason"`
}

// Verdict is the decision on one account.
type Verdict struct {
	Account string `json:"account"`
	Region  string `json:"region"`
	Reason  string `json:"reason"`
}

// Allows reports whether the account may receive the version, and why or why not. An account that the decision does not name may not.
func (d Decision) Allows(account string) (bool, string) {
	for _, v := range d.Allowed {
		if v.Account == account {
			return true, v.Reason
		}
	}
	for _, v := range d.Held {
		if v.Account == account {
			return false, v.Reason
		}
	}
	return false, "not in the inventory that the decision was made on"
}

// Request is what the gate is asked.
type Request struct {
	Version         release.Version
	Service         string
	Image           string
	Digest          string
	InventorySHA256 string
	Region          string  // admit only accounts of this region; empty for all
	MaxUATShare     float64 // a candidate that would reach more than this share (0 to 1) of all accounts is refused
}

// ShareError refuses a candidate that would reach too many accounts: most likely the inventory marks too many of them as UAT.
type ShareError struct {
	UAT, All int
	Max      float64
}

// Error gives both numbers.
func (e *ShareError) Error() string {
	return fmt.Sprintf("the candidate would reach %d of %d accounts, more than the share of %g that MAX_UAT_SHARE allows", e.UAT, e.All, e.Max)
}

// Decide answers the request. A pre-release is for UAT accounts only; a final version is for UAT accounts and production accounts. The
// decision is complete even when the error is a [*ShareError], so that it can be shown.
func Decide(r Request, inv Inventory) (Decision, error) {
	d := Decision{
		Version: r.Version.String(), Service: r.Service, Image: r.Image, Digest: r.Digest, Channel: "production",
		InventorySHA256: r.InventorySHA256, Region: r.Region, Allowed: []Verdict{}, Held: []Verdict{},
	}
	candidate := r.Version.IsPrerelease()
	if candidate {
		d.Channel = "uat"
	}
	uat := 0
	for _, a := range inv.Accounts {
		if a.IsUAT {
			uat++
		}
		v := Verdict{Account: a.ID, Region: a.Region}
		allowed := false
		switch {
		case candidate && !a.IsUAT:
			v.Reason = "candidates are for UAT accounts only"
		case !a.runs(r.Service):
			v.Reason = fmt.Sprintf("the account does not run %s", r.Service)
		case r.Region != "" && a.Region != r.Region:
			v.Reason = fmt.Sprintf("only region %s is admitted", r.Region)
		case a.IsUAT:
			allowed, v.Reason = true, "UAT account"
		default:
			allowed, v.Reason = true, "final version"
		}
		if allowed {
			d.Allowed = append(d.Allowed, v)
		} else {
			d.Held = append(d.Held, v)
		}
	}
	if candidate && float64(uat) > r.MaxUATShare*float64(len(inv.Accounts)) {
		return d, &ShareError{UAT: uat, All: len(inv.Accounts), Max: r.MaxUATShare}
	}
	return d, nil
}

var (
	digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	sha256Pattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// frameMembers stand in a hand-over file beside the decision's own.
var frameMembers = []string{"schema", "build_id", "status", "reason", "dry_run"}

// ParseDecision reads a decision from JSON, token by token: exact names, no member twice, nothing unknown, one document. It checks that
// the members fit together, so that a decision which was edited by hand into a contradiction is not acted on.
func ParseDecision(b []byte) (Decision, error) {
	root, err := parseTree(b)
	if err != nil {
		return Decision{}, err
	}
	o, ok := root.value.(object)
	if !ok {
		return Decision{}, fmt.Errorf("%s, want a mapping", root.kind())
	}
	var d Decision
	texts := map[string]*string{
		"version": &d.Version, "service": &d.Service, "image": &d.Image, "digest": &d.Digest, "channel": &d.Channel,
		"inventory_sha256": &d.InventorySHA256, "region": &d.Region,
	}
	lists := map[string]*[]Verdict{"allowed": &d.Allowed, "held": &d.Held}
	for _, name := range frameMembers {
		texts[name] = nil
	}
	for _, m := range o {
		if list, ok := lists[m.name]; ok {
			if *list, err = parseVerdicts(m); err != nil {
				return Decision{}, err
			}
			continue
		}
		target, known := texts[m.name]
		if !known {
			return Decision{}, fmt.Errorf("line %d: member %q is not known", m.line, m.name)
		}
		if target == nil {
			continue
		}
		if *target, ok = m.value.value.(string); !ok {
			return Decision{}, fmt.Errorf("line %d: %s is %s, want a string", m.line, m.name, m.value.kind())
		}
	}
	return d, d.check()
}

func parseVerdicts(m member) ([]Verdict, error) {
	items, ok := m.value.value.([]node)
	if !ok {
		return nil, fmt.Errorf("line %d: %s is %s, want a list", m.line, m.name, m.value.kind())
	}
	list := []Verdict{}
	for _, item := range items {
		o, ok := item.value.(object)
		if !ok {
			return nil, fmt.Errorf("line %d: %s holds %s, want mappings", item.line, m.name, item.kind())
		}
		var v Verdict
		texts := map[string]*string{"account": &v.Account, "region": &v.Region, "reason": &v.Reason}
		for _, f := range o {
			target, known := texts[f.name]
			if !known {
				return nil, fmt.Errorf("line %d: member %q is not known", f.line, f.name)
			}
			if *target, ok = f.value.value.(string); !ok {
				return nil, fmt.Errorf("line %d: %s is %s, want a string", f.line, f.name, f.value.kind())
			}
		}
		list = append(list, v)
	}
	return list, nil
}

// check holds the decision against its own rules.
func (d Decision) check() error {
	v, err := release.Parse(d.Version)
	switch {
	case err != nil:
		return fmt.Errorf("version: %w", err)
	case !digestPattern.MatchString(d.Digest):
		return fmt.Errorf("digest %q: want sha256: and 64 hexadecimal digits", d.Digest)
	case !sha256Pattern.MatchString(d.InventorySHA256):
		return fmt.Errorf("inventory_sha256 %q: want 64 hexadecimal digits", d.InventorySHA256)
	case d.Image == "" || d.Service == "":
		return errors.New("image and service must be set")
	case d.Allowed == nil || d.Held == nil:
		return errors.New("allowed and held must be there, even when empty")
	case v.IsPrerelease() && d.Channel != "uat" || !v.IsPrerelease() && d.Channel != "production":
		return fmt.Errorf("channel %q does not fit version %s", d.Channel, d.Version)
	}
	seen := map[string]bool{}
	for _, verdict := range append(append([]Verdict{}, d.Allowed...), d.Held...) {
		id := strings.ToLower(verdict.Account)
		if !idPattern.MatchString(verdict.Account) {
			return fmt.Errorf("account %q is not an account's id", verdict.Account)
		}
		if seen[id] {
			return fmt.Errorf("account %q stands twice", verdict.Account)
		}
		seen[id] = true
	}
	return nil
}
