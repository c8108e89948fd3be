// Package accounts knows who may receive a version: the inventory of customer accounts and the gate's decision over it. It is pure: bytes
// in, values out. gate-uat makes decisions with it; bump-config and deploy-helm verify them with it.
//
// The one rule that must never break: a pre-release reaches an account only when the inventory says `is_uat: true` of it, as a boolean,
// under exactly that name. An inventory with any defect is refused whole, because half an inventory is a wrong one.
package accounts

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Account is one customer's installation.
type Account struct {
	ID       string   // 1 to 63 letters, digits, `-`, `_` or `.`, as a Kubernetes label value; unique whatever the case
	IsUAT    bool     // may receive release candidates
	Region   string   // where it runs; empty when the inventory does not say
	Services []string // the services it runs; nil means all
}

// Runs reports whether the account runs the service.
func (a Account) Runs(service string) bool {
	return a.Services == nil || service == "" || slices.Contains(a.Services, service)
}

// Inventory is the list of all accounts, in the order of the file.
type Inventory struct {
	Accounts []Account
	Freezes  []Freeze       // times in which nothing is delivered
	byID     map[string]int // lower case
}

// Find returns the account with this id. Ids are compared exactly.
func (inv Inventory) Find(id string) (Account, bool) {
	if i, ok := inv.byID[strings.ToLower(id)]; ok && inv.Accounts[i].ID == id {
		return inv.Accounts[i], true
	}
	return Account{}, false
}

// idPattern is the grammar of a Kubernetes label value, because the id is one on every resource of the account.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

// The members that this package understands. Others may stand beside them.
const (
	memberID       = "id"
	memberUAT      = "is_uat"
	memberRegion   = "region"
	memberServices = "services"
)

// Parse reads an inventory: YAML or JSON, a mapping with the members accounts and, if there are any, freezes; or the list of accounts alone.
// Errors name the account, the line and the member. No account at all is an error too: an empty inventory is far more often a broken export
// than a company without customers. So is one page of several: half an inventory is a wrong one.
func Parse(b []byte) (Inventory, error) {
	var r Reader
	next, err := r.Add(b)
	if err != nil {
		return Inventory{}, err
	}
	if next.Token != "" {
		return Inventory{}, errors.New("it is one page of several: there is a token for the next one")
	}
	return r.Inventory()
}

func parseAccount(n node) (Account, error) {
	o, ok := n.value.(object)
	if !ok {
		return Account{}, fmt.Errorf("line %d: %s, want a mapping", n.line, n.kind())
	}
	if err := lookAlike(o, memberID, memberUAT, memberRegion, memberServices); err != nil {
		return Account{}, err
	}
	var a Account
	id, ok := o.get(memberID)
	if !ok {
		return Account{}, fmt.Errorf("line %d: there is no member id", n.line)
	}
	if a.ID, ok = id.value.(string); !ok {
		return Account{}, fmt.Errorf("line %d: id is %s, want a string (quote it)", id.line, id.kind())
	}
	if !idPattern.MatchString(a.ID) {
		return Account{}, fmt.Errorf("line %d: id %q: want 1 to 63 letters, digits, '-', '_' or '.', a letter or digit at both ends", id.line, a.ID)
	}
	if uat, ok := o.get(memberUAT); ok && uat.value != nil {
		if a.IsUAT, ok = uat.value.(bool); !ok {
			return Account{}, fmt.Errorf("line %d: is_uat of account %q is %s, want true or false", uat.line, a.ID, uat.kind())
		}
	}
	if region, ok := o.get(memberRegion); ok && region.value != nil {
		if a.Region, ok = region.value.(string); !ok {
			return Account{}, fmt.Errorf("line %d: region of account %q is %s, want a string", region.line, a.ID, region.kind())
		}
	}
	if services, ok := o.get(memberServices); ok && services.value != nil {
		var err error
		if a.Services, err = texts(services, fmt.Sprintf("services of account %q", a.ID), "the names of services"); err != nil {
			return Account{}, err
		}
	}
	return a, nil
}

// texts reads a list of strings, none of them empty.
func texts(n node, what, want string) ([]string, error) {
	items, ok := n.value.([]node)
	if !ok {
		return nil, fmt.Errorf("line %d: %s is %s, want a list of strings", n.line, what, n.kind())
	}
	list := []string{}
	for _, item := range items {
		s, ok := item.value.(string)
		if !ok || s == "" {
			return nil, fmt.Errorf("line %d: %s holds %s, want %s", item.line, what, item.kind(), want)
		}
		list = append(list, s)
	}
	return list, nil
}

// lookAlike refuses members whose names differ from a known one only in case, separators or look-alike letters' folding: whoever wrote
// `IS_UAT: true` meant something, and guessing is not for a gate.
func lookAlike(o object, known ...string) error {
	for _, m := range o {
		if slices.Contains(known, m.name) {
			continue
		}
		folded := fold(m.name)
		for _, k := range known {
			if folded == fold(k) {
				return fmt.Errorf("line %d: member %q looks like %q and is not it", m.line, m.name, k)
			}
		}
	}
	return nil
}

var separators = strings.NewReplacer("_", "", "-", "", " ", "", ".", "")

// fold maps a name to what a careless reader would take it for: lower case by simple folding (ſ is s, K is k), no separators.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case 'ſ':
			return 's'
		case 'ı', 'İ':
			return 'i'
		case '\u212a': // the Kelvin sign
			return 'k'
		}
		return r
	}, strings.ToLower(separators.Replace(s)))
}
