package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/inventory"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// In is what gate-uat is told.
type In struct {
	step.Registry    `require:"IMAGE"`
	Version          release.Version      `env:"VERSION" from:"compute-version.release TAG_NAME compute-version.version" required:"true" doc:"the release that is asked about, such as v2.0.0-rc.1"`
	Service          string               `env:"SERVICE" doc:"the service's name; the last path element of IMAGE when unset"`
	Accounts         location             `env:"ACCOUNTS" default:"accounts.yaml" doc:"the inventory: an https URL, a path inside the config repo when CONFIG_REPO is set, else a local path"`
	AccountsToken    secret.Text          `env:"ACCOUNTS_TOKEN" doc:"token for the URL in ACCOUNTS; it is sent to that scheme, host and port only; pass it with secretEnv"`
	AccountsHeader   inventory.Header     `env:"ACCOUNTS_HEADER" default:"Authorization: Bearer" doc:"the header that carries the token, and what stands in front of it; X-Api-Key for a header with the token alone"`
	AccountsLoopback bool                 `env:"ACCOUNTS_LOOPBACK" default:"false" doc:"the URL in ACCOUNTS may be one of this machine, and then plain http: for laptops and tests"`
	MaxUATShare      float64              `env:"MAX_UAT_SHARE" default:"0.5" doc:"refuse a candidate that would reach more than this share of all accounts"`
	RequireCandidate bool                 `env:"REQUIRE_CANDIDATE" default:"false" doc:"refuse a final version unless the config repo records a decision that let a candidate of it, with the same digest, to UAT accounts"`
	Region           string               `env:"REGION" doc:"admit only accounts of this region"`
	Freezes          string               `env:"FREEZES" doc:"file of freeze windows, beside those in the inventory: a path inside the config repo when CONFIG_REPO is set, else a local path"`
	OverrideFreeze   string               `env:"OVERRIDE_FREEZE" doc:"why to deliver in spite of a freeze window; the decision records it"`
	OverrideBy       string               `env:"OVERRIDE_BY" doc:"who overrides the freeze window: one of the names in its override list"`
	OnEmpty          string               `env:"ON_EMPTY" default:"refuse" oneof:"refuse,ok" doc:"what to do when nobody may receive the version"`
	DecisionKey      secret.Text          `env:"DECISION_KEY" doc:"key that the decision is sealed with, the same for bump-config and deploy-helm; pass it with secretEnv"`
	DecisionsPath    string               `env:"DECISIONS_PATH" default:"decisions" doc:"folder of the config repo with earlier decisions, as SERVICE/VERSION.json"`
	Holds            string               `env:"HOLDS" default:"holds.yaml" doc:"path of the list of versions that must not be delivered, in the config repo"`
	AccountLabel     string               `env:"ACCOUNT_LABEL" default:"account" doc:"label or annotation of a resource in the config repo that says whose it is"`
	AccountPath      accounts.PathPattern `env:"ACCOUNT_PATH" doc:"path pattern that says whose a file of the config repo is, such as accounts/{account}/"`
	step.ConfigRepo
	step.Credentials
}

// Check reports faults across variables.
func (in In) Check(f *step.Faults) {
	if !(in.MaxUATShare >= 0 && in.MaxUATShare <= 1) { // NaN is no share either
		f.Add("MAX_UAT_SHARE", "%g is not a share: want a number from 0 to 1", in.MaxUATShare)
	}
	if in.Accounts.isURL() {
		if err := in.Accounts.url.Check(in.AccountsLoopback); err != nil {
			f.Add("ACCOUNTS", "%s: %v", in.Accounts, err)
		}
	}
	for _, v := range []struct{ name, path string }{{"ACCOUNTS", in.Accounts.path}, {"FREEZES", in.Freezes}, {"DECISIONS_PATH", in.DecisionsPath}, {"HOLDS", in.Holds}} {
		if in.ConfigURL != "" && (path.IsAbs(v.path) || strings.Contains("/"+v.path+"/", "/../")) {
			f.Add(v.name, "%q conflicts with CONFIG_REPO: want a relative path inside the repo, without ..", v.path)
		}
	}
	if in.RequireCandidate && in.ConfigURL == "" {
		f.Add("REQUIRE_CANDIDATE", "needs CONFIG_REPO, where the decisions on candidates are recorded")
	}
	if (in.OverrideFreeze == "") != (in.OverrideBy == "") {
		f.Add("OVERRIDE_FREEZE", "and OVERRIDE_BY belong together: why, and who")
	}
}

// service is the name under which decisions are kept.
func (in In) service() string {
	if in.Service != "" {
		return in.Service
	}
	return in.Image.Name()
}

// Out is the decision.
type Out struct{ accounts.Decision }

// Result is the number of accounts that may receive the version.
func (o Out) Result() string { return fmt.Sprint(len(o.Allowed)) }

var program = step.Program[In, Out]{
	Name:    "gate-uat",
	Summary: "decide which accounts may receive a version",
	Timeout: 5 * time.Minute,
	Run:     run,
	Doc:     doc,
}

func run(ctx context.Context, b *step.Build, in In) (Out, error) {
	got, err := readInputs(ctx, b, in)
	if err != nil {
		return Out{}, err
	}
	image, found, err := registry.New(in.Insecure).Resolve(ctx, in.Image.String(), in.Version.String())
	if err != nil {
		return Out{}, err
	}
	if !found {
		return Out{}, step.Refuse("run tag-image before gate-uat, so that the release has an image", "%s has no tag %s", in.Image, in.Version)
	}
	decision, refusal := accounts.Decide(accounts.Request{
		Version: in.Version, Service: in.service(), Image: in.Image.String(), Digest: image.Digest, Build: b.ID,
		Inventory: got.source, InventoryCommit: got.commit, InventorySHA256: got.sha256, Region: in.Region, MaxUATShare: in.MaxUATShare,
		Hold: in.holdOn(got.holds, image.Digest), Now: time.Now(), Override: in.overriding(), RequireCandidate: in.RequireCandidate, Recorded: got.recorded,
	}, got.inventory)
	if got.survey != nil {
		decision.Findings = got.survey.compare(got.inventory, in.service(), in.Version)
	}
	if !in.DecisionKey.IsZero() {
		if decision, err = decision.Sealed([]byte(in.DecisionKey.Reveal())); err != nil {
			return Out{}, err
		}
	}
	b.Text(table(decision))
	report(b, decision, got)
	in.tellHolds(b, got.holds)
	if b.DryRun {
		b.Text(changes(got.recorded, decision))
	}
	switch {
	case refusal != nil:
		return Out{decision}, step.Refuse(in.fix(refusal), "%w", refusal)
	case len(decision.Allowed) == 0 && in.OnEmpty == "refuse":
		return Out{decision}, step.Refuse("mark accounts is_uat: true, or set ON_EMPTY=ok if that is intended", "no account may receive %s", in.Version)
	}
	return Out{decision}, nil
}

// overriding is the request to override freeze windows, nil when there is none.
func (in In) overriding() *accounts.Overriding {
	if in.OverrideFreeze == "" {
		return nil
	}
	return &accounts.Overriding{By: in.OverrideBy, Reason: in.OverrideFreeze}
}

// fix says what the reader of a refusal can do.
func (in In) fix(refusal error) string {
	if frozen, ok := errors.AsType[*accounts.FreezeError](refusal); ok {
		return frozen.Fix()
	}
	if errors.As(refusal, new(*accounts.HoldError)) {
		return "deliver another version; when this one has served its time, restore-version lifts the hold"
	}
	if _, ok := errors.AsType[*accounts.CandidateError](refusal); ok {
		return "release a candidate first (" + in.Version.WithCandidate("rc", 1).String() + " or later), or set REQUIRE_CANDIDATE=false to go without"
	}
	return "check is_uat in the inventory, or raise MAX_UAT_SHARE"
}
