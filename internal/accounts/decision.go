package accounts

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

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
	Build           string    `json:"build" doc:"id of the build that the decision was made in, and belongs to"`
	Inventory       string    `json:"inventory" doc:"where the inventory was read: a path in the config repo, a local path, or a URL without its query"`
	InventoryCommit string    `json:"inventory_commit" doc:"commit of the config repo that held the inventory; empty when it came from elsewhere"`
	Allowed         []Verdict `json:"allowed" doc:"accounts that may receive it: account, region, reason"`
	Held            []Verdict `json:"held" doc:"accounts that may not: account, region, reason"`
	// The freeze windows that somebody overrode.
	Overrides []Override `json:"overrides" doc:"freeze windows that were overridden: freeze, until, by, reason"`
	// What in the config repo does not fit the inventory.
	Findings []Finding `json:"findings" doc:"where inventory and config repo do not fit each other: kind, account, file, line, policy, detail"`
	Seal     string    `json:"seal,omitempty" doc:"HMAC-SHA-256 of the decision, in hexadecimal, when DECISION_KEY is set"`
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

// Finding is a place where the inventory and the config repo do not fit each other. It forbids nothing.
type Finding struct {
	Kind    string `json:"kind"` // one of the Finding… constants
	Account string `json:"account"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Policy  string `json:"policy"`
	Detail  string `json:"detail"`
}

// The kinds of findings.
const (
	FindingNoResource       = "account-without-resource"       // an account that runs the service has no marker of its image
	FindingNoAccount        = "resource-without-account"       // a marker of the image stands in a resource whose account the inventory does not know
	FindingUATFollowsFinal  = "uat-on-final-policy"            // a UAT account's marker names a policy that admits no candidates
	FindingFurther          = "further"                        // there are more, and they are not listed
	FindingProductionOnEdge = "production-on-candidate-policy" // another account's marker names a policy that admits candidates
)

// Request is what the gate is asked.
type Request struct {
	Version         release.Version
	Service         string
	Image           string
	Digest          string
	Build           string
	Inventory       string
	InventoryCommit string
	InventorySHA256 string
	Region          string  // admit only accounts of this region; empty for all
	MaxUATShare     float64 // a candidate that would reach more than this share (0 to 1) of all accounts is refused

	Now      time.Time   // decides which of the inventory's freeze windows hold
	Override *Overriding // nil when nobody asks to override them

	Hold string // who holds the version back since when, and why; empty when nobody does

	RequireCandidate bool       // a final version is refused unless Recorded has a candidate of it that reached a UAT account
	Recorded         []Decision // earlier decisions on the service
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

// CandidateError refuses a final version whose digest no candidate brought to UAT accounts.
type CandidateError struct {
	Version string
	Why     string
}

// Error says what is missing.
func (e *CandidateError) Error() string {
	return fmt.Sprintf("no candidate of %s ran on UAT accounts: %s", e.Version, e.Why)
}

// HoldError refuses a version that is held: nobody receives it.
type HoldError struct{ Hold string }

// Error says who holds it since when, and why.
func (e *HoldError) Error() string { return e.Hold }

// Decide answers the request. A pre-release is for UAT accounts only; a final version is for UAT accounts and production accounts. An error
// is a refusal, a [*HoldError], [*ShareError], [*FreezeError] or [*CandidateError]; the decision that comes with it holds every account.
func Decide(r Request, inv Inventory) (Decision, error) {
	d := Decision{
		Version: r.Version.String(), Service: r.Service, Image: r.Image, Digest: r.Digest, Channel: string(r.Version.Channel()), Region: r.Region,
		Build: r.Build, Inventory: r.Inventory, InventoryCommit: r.InventoryCommit, InventorySHA256: r.InventorySHA256,
		Allowed: []Verdict{}, Held: []Verdict{}, Overrides: []Override{}, Findings: []Finding{},
	}
	frozen := &FreezeError{}
	for _, f := range inv.Freezes {
		switch {
		case !f.holds(r.Now, r.Service):
		case r.Override != nil && slices.Contains(f.Override, r.Override.By):
			d.Overrides = append(d.Overrides, Override{Freeze: f.Reason, Until: f.until(), By: r.Override.By, Reason: r.Override.Reason})
		default:
			frozen.Freezes = append(frozen.Freezes, f)
			if r.Override != nil {
				frozen.Refused = r.Override.By
			}
		}
	}
	uat, heldByFreeze := 0, false
	for _, a := range inv.Accounts {
		if a.IsUAT {
			uat++
		}
		v := Verdict{Account: a.ID, Region: a.Region}
		if v.Reason = holds(a, r.Version, r.Service, r.Region); v.Reason == "" {
			if i := slices.IndexFunc(frozen.Freezes, func(f Freeze) bool { return f.covers(a) }); i >= 0 {
				v.Reason = "frozen until " + frozen.Freezes[i].until() + ": " + frozen.Freezes[i].Reason
				heldByFreeze = true
			}
		}
		switch {
		case v.Reason != "":
			d.Held = append(d.Held, v)
			continue
		case a.IsUAT:
			v.Reason = "UAT account"
		default:
			v.Reason = "final version"
		}
		d.Allowed = append(d.Allowed, v)
	}
	switch {
	case r.Hold != "":
		return d.refused(inv, "the version is held"), &HoldError{r.Hold}
	case r.Version.IsPrerelease() && float64(uat) > r.MaxUATShare*float64(len(inv.Accounts)):
		return d.refused(inv, "the candidate would reach too many accounts"), &ShareError{UAT: uat, All: len(inv.Accounts), Max: r.MaxUATShare}
	case len(d.Allowed) == 0 && heldByFreeze:
		return d, frozen
	case r.RequireCandidate && !r.Version.IsPrerelease():
		if why := r.noCandidate(); why != "" {
			return d.refused(inv, "no candidate of the version ran on UAT accounts"), &CandidateError{Version: r.Version.String(), Why: why}
		}
	}
	return d, nil
}

// holds returns why an account must not receive a version, "" when it may: the rules that depend on nothing but the inventory.
func holds(a Account, v release.Version, service, region string) string {
	switch {
	case v.IsPrerelease() && !a.IsUAT:
		return "candidates are for UAT accounts only"
	case !a.Runs(service):
		return fmt.Sprintf("the account does not run %s", service)
	case region != "" && a.Region != region:
		return fmt.Sprintf("only region %s is admitted", region)
	}
	return ""
}

// refused turns the decision into one that allows nobody, in the order of the inventory.
func (d Decision) refused(inv Inventory, reason string) Decision {
	held := map[string]Verdict{}
	for _, v := range d.Allowed {
		v.Reason = reason
		held[v.Account] = v
	}
	for _, v := range d.Held {
		held[v.Account] = v
	}
	d.Allowed, d.Held = []Verdict{}, []Verdict{}
	for _, a := range inv.Accounts {
		d.Held = append(d.Held, held[a.ID])
	}
	return d
}

// noCandidate says why the recorded decisions do not show that the digest ran on UAT accounts as a candidate; "" when one does.
func (r Request) noCandidate() string {
	why := "no decision on one is recorded"
	for _, d := range r.Recorded {
		v, err := release.Parse(d.Version)
		switch {
		case err != nil || !v.IsPrerelease() || v.Core() != r.Version || d.Service != r.Service || d.Image != r.Image:
		case len(d.Allowed) == 0:
			why = d.Version + " was allowed to nobody"
		case d.Digest != r.Digest:
			why = fmt.Sprintf("%s was digest %s, and %s is %s", d.Version, d.Digest, r.Version, r.Digest)
		default:
			return ""
		}
	}
	return why
}

// Verify holds the decision against the inventory that it says it was made on: the same bytes, every account in exactly one of the lists,
// and nobody allowed who must not be. It finds a decision or an inventory that was changed since.
func (d Decision) Verify(inventory []byte) error {
	if sum := sha256.Sum256(inventory); hex.EncodeToString(sum[:]) != d.InventorySHA256 {
		return errors.New("the inventory is not the one that the decision was made on: it has changed since")
	}
	inv, err := Parse(inventory)
	if err != nil {
		return fmt.Errorf("the inventory: %w", err)
	}
	v, err := release.Parse(d.Version)
	if err != nil {
		return err
	}
	if n := len(d.Allowed) + len(d.Held); n != len(inv.Accounts) {
		return fmt.Errorf("the decision is about %d accounts, and the inventory has %d", n, len(inv.Accounts))
	}
	for _, verdict := range d.Held {
		if _, found := inv.Find(verdict.Account); !found {
			return fmt.Errorf("the decision names account %s, which the inventory does not have", verdict.Account)
		}
	}
	for _, verdict := range d.Allowed {
		a, found := inv.Find(verdict.Account)
		if !found {
			return fmt.Errorf("the decision names account %s, which the inventory does not have", verdict.Account)
		}
		if why := holds(a, v, d.Service, d.Region); why != "" {
			return fmt.Errorf("the decision allows account %s, and by the inventory %s", a.ID, why)
		}
	}
	return nil
}

// Contradicts returns the accounts that a decision on a candidate allows and that an inventory does not mark as UAT. The inventory may be
// another one than that of the decision, such as the config repo's when the gate asked a service: for a candidate, both must agree.
func (d Decision) Contradicts(inv Inventory) []string {
	var list []string
	if v, err := release.Parse(d.Version); err == nil && !v.IsPrerelease() {
		return nil
	}
	for _, verdict := range d.Allowed {
		if a, found := inv.Find(verdict.Account); !found || !a.IsUAT {
			list = append(list, verdict.Account)
		}
	}
	return list
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
	d := Decision{Overrides: []Override{}, Findings: []Finding{}} // decisions of older versions have neither
	members := map[string]func(member) error{
		"version": into(&d.Version), "service": into(&d.Service), "image": into(&d.Image), "digest": into(&d.Digest), "channel": into(&d.Channel),
		"inventory_sha256": into(&d.InventorySHA256), "region": into(&d.Region), "build": into(&d.Build), "inventory": into(&d.Inventory),
		"inventory_commit": into(&d.InventoryCommit), "seal": into(&d.Seal),
		"allowed": listInto(&d.Allowed, verdictMembers), "held": listInto(&d.Held, verdictMembers),
		"overrides": optional(listInto(&d.Overrides, overrideMembers)), "findings": optional(listInto(&d.Findings, findingMembers)),
	}
	for _, name := range frameMembers {
		members[name] = func(member) error { return nil }
	}
	for _, m := range o {
		read, known := members[m.name]
		if !known {
			return Decision{}, fmt.Errorf("line %d: member %q is not known", m.line, m.name)
		}
		if err := read(m); err != nil {
			return Decision{}, err
		}
	}
	return d, d.check()
}

// optional takes null for no member at all.
func optional(read func(member) error) func(member) error {
	return func(m member) error {
		if m.value.value == nil {
			return nil
		}
		return read(m)
	}
}

// The members of what the lists hold. A decision on 100,000 accounts has as many of them, so they are found without a map for each.

func verdictMembers(v *Verdict, name string) any {
	switch name {
	case "account":
		return &v.Account
	case "region":
		return &v.Region
	case "reason":
		return &v.Reason
	}
	return nil
}

func overrideMembers(v *Override, name string) any {
	switch name {
	case "freeze":
		return &v.Freeze
	case "until":
		return &v.Until
	case "by":
		return &v.By
	case "reason":
		return &v.Reason
	}
	return nil
}

func findingMembers(f *Finding, name string) any {
	switch name {
	case "kind":
		return &f.Kind
	case "account":
		return &f.Account
	case "file":
		return &f.File
	case "line":
		return &f.Line
	case "policy":
		return &f.Policy
	case "detail":
		return &f.Detail
	}
	return nil
}

// into reads a member that is a text, or a number when the target is one.
func into(target any) func(member) error { return func(m member) error { return m.read(target) } }

func (m member) read(target any) error {
	switch t := target.(type) {
	case *string:
		text, ok := m.value.value.(string)
		if !ok {
			return fmt.Errorf("line %d: %s is %s, want a string", m.line, m.name, m.value.kind())
		}
		*t = text
	case *int:
		text, _ := m.value.value.(number)
		n, err := strconv.Atoi(string(text))
		if err != nil || n < 0 {
			return fmt.Errorf("line %d: %s is %s, want a whole number", m.line, m.name, m.value.kind())
		}
		*t = n
	}
	return nil
}

// listInto reads a list of mappings with the members that find knows, and no others.
func listInto[T any](target *[]T, find func(*T, string) any) func(member) error {
	return func(m member) error {
		items, ok := m.value.value.([]node)
		if !ok {
			return fmt.Errorf("line %d: %s is %s, want a list", m.line, m.name, m.value.kind())
		}
		list := make([]T, len(items))
		for i, item := range items {
			o, ok := item.value.(object)
			if !ok {
				return fmt.Errorf("line %d: %s holds %s, want mappings", item.line, m.name, item.kind())
			}
			for _, f := range o {
				field := find(&list[i], f.name)
				if field == nil {
					return fmt.Errorf("line %d: member %q is not known", f.line, f.name)
				}
				if err := f.read(field); err != nil {
					return err
				}
			}
		}
		*target = list
		return nil
	}
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
	for _, o := range d.Overrides {
		if o.Freeze == "" || o.Until == "" || o.By == "" || o.Reason == "" {
			return errOverride
		}
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
