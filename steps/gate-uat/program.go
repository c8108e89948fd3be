package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/github"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// In is what gate-uat is told.
type In struct {
	step.Registry `require:"IMAGE"`
	Version       release.Version `env:"VERSION" from:"TAG_NAME compute-version.version" required:"true" doc:"the release that is asked about, such as v2.0.0-rc.1"`
	Service       string          `env:"SERVICE" doc:"the service's name; the last path element of IMAGE when unset"`
	Accounts      string          `env:"ACCOUNTS" default:"accounts.yaml" doc:"the inventory: a path inside the config repo when CONFIG_REPO is set, else a local path"`
	MaxUATShare   float64         `env:"MAX_UAT_SHARE" default:"0.5" doc:"refuse a candidate that would reach more than this share of all accounts"`
	Region        string          `env:"REGION" doc:"admit only accounts of this region"`
	OnEmpty       string          `env:"ON_EMPTY" default:"refuse" oneof:"refuse,ok" doc:"what to do when nobody may receive the version"`
	step.ConfigRepo
	step.Credentials
}

// Check reports faults across variables.
func (in In) Check(f *step.Faults) {
	if in.MaxUATShare < 0 || in.MaxUATShare > 1 {
		f.Add("MAX_UAT_SHARE", "%g is not a share: want a number from 0 to 1", in.MaxUATShare)
	}
	if strings.Contains(in.Accounts, "://") {
		f.Add("ACCOUNTS", "is a URL: want a path inside the config repo or a local path")
	}
	if in.ConfigURL != "" && (path.IsAbs(in.Accounts) || strings.Contains("/"+in.Accounts+"/", "/../")) {
		f.Add("ACCOUNTS", "%q conflicts with CONFIG_REPO: want a relative path inside the repo, without ..", in.Accounts)
	}
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
	Doc: `A pre-release (` + "`v2.0.0-rc.1`" + `) is for the accounts that the inventory marks ` + "`is_uat: true`" + `; a final version is for all. The answer
is frozen: version, digest, hash of the inventory, and each account with the reason. bump-config and deploy-helm act on nothing else.

The inventory is refused whole for any defect. A missing or null ` + "`is_uat`" + ` means: not UAT.

` + "```yaml" + `
- id: gate
  name: $_STEPS/gate-uat
  env: [IMAGE=$_IMAGE, CONFIG_REPO=$_CONFIG_REPO]
  secretEnv: [GIT_TOKEN]
` + "```",
}

func run(ctx context.Context, b *step.Build, in In) (Out, error) {
	service := in.Service
	if service == "" {
		service = in.Image.Name()
	}
	raw, err := readInventory(ctx, in)
	if err != nil {
		return Out{}, err
	}
	inventory, err := accounts.Parse(raw)
	if err != nil {
		return Out{}, step.Refuse("correct the inventory; while it is defective nothing is deployed", "inventory %s: %w", in.Accounts, err)
	}
	image, found, err := registry.New(in.Insecure).Resolve(ctx, in.Image.String(), in.Version.String())
	if err != nil {
		return Out{}, err
	}
	if !found {
		return Out{}, step.Refuse("run tag-image before gate-uat, so that the release has an image", "%s has no tag %s", in.Image, in.Version)
	}
	sum := sha256.Sum256(raw)
	decision, err := accounts.Decide(accounts.Request{
		Version: in.Version, Service: service, Image: in.Image.String(), Digest: image.Digest,
		InventorySHA256: hex.EncodeToString(sum[:]), Region: in.Region, MaxUATShare: in.MaxUATShare,
	}, inventory)
	b.Text(table(decision))
	if _, tooMany := errors.AsType[*accounts.ShareError](err); tooMany {
		decision.Held, decision.Allowed = append(decision.Held, withReason(decision.Allowed, "the candidate would reach too many accounts")...), []accounts.Verdict{}
		return Out{decision}, step.Refuse("check is_uat in the inventory, or raise MAX_UAT_SHARE", "%w", err)
	}
	if err != nil {
		return Out{}, err
	}
	if len(decision.Allowed) == 0 && in.OnEmpty == "refuse" {
		return Out{decision}, step.Refuse("mark accounts is_uat: true, or set ON_EMPTY=ok if that is intended", "no account may receive %s", in.Version)
	}
	return Out{decision}, nil
}

// withReason returns the verdicts with another reason.
func withReason(verdicts []accounts.Verdict, reason string) []accounts.Verdict {
	var list []accounts.Verdict
	for _, v := range verdicts {
		v.Reason = reason
		list = append(list, v)
	}
	return list
}

// readInventory returns the bytes of the inventory, from the config repo or from this machine.
func readInventory(ctx context.Context, in In) ([]byte, error) {
	if in.ConfigURL == "" {
		return readLocal(in.Accounts)
	}
	remote := gitrepo.Remote{URL: in.ConfigURL.String(), Username: in.GitUsername, Token: in.GitToken, Renew: github.App(in.GitHubApp).Tokens(github.ReadContents)}
	snapshot, err := gitrepo.Open(ctx, remote, in.ConfigBranch)
	if err != nil {
		return nil, err
	}
	name := path.Join(in.ConfigPath, in.Accounts)
	raw, found, err := snapshot.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, step.Misconfigured("set ACCOUNTS to the inventory's path in the config repo", "%s has no file %s on branch %s", in.ConfigURL, name, in.ConfigBranch)
	}
	return raw, nil
}

// readLocal reads a file with a bound, since a path may name a device.
func readLocal(name string) ([]byte, error) {
	const limit = 32 << 20
	advice := "set ACCOUNTS to the inventory's path, or CONFIG_REPO to the repository that holds it"
	info, err := os.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, step.Misconfigured(advice, "reading the inventory %s: %w", name, err)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, step.Misconfigured(advice, "reading the inventory %s: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && len(raw) > limit {
		err = fmt.Errorf("larger than %d MiB", limit>>20)
	}
	if err != nil {
		return nil, step.Misconfigured(advice, "reading the inventory %s: %w", name, err)
	}
	return raw, nil
}
