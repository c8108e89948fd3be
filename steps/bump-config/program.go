package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/github"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/hold"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// In is what bump-config is told.
type In struct {
	step.ConfigRepo `require:"CONFIG_REPO"`
	Image           step.Image           `env:"IMAGE" doc:"registry repository of the service's image, without a tag; required with MODE=version, and a limit in the other modes"`
	Mode            string               `env:"MODE" default:"version" oneof:"version,scan,resolved" doc:"where the new values come from: VERSION or BUILD_TAG; the registry, by the policies of the repo; the file RESOLVED"`
	Version         release.Version      `env:"VERSION" from:"compute-version.release TAG_NAME" doc:"the release to write, such as v2.0.0-rc.1"`
	BuildTag        string               `env:"BUILD_TAG" from:"compute-version.build_tag" doc:"the build tag to write when there is no VERSION, main-<commit>-<unix time>"`
	Digest          digest               `env:"DIGEST" doc:"digest behind the tag; when unset, the gate's decision's, or what tag-image handed over for this very tag"`
	Resolved        string               `env:"RESOLVED" doc:"with MODE=resolved: a file of ImagePolicy objects with their status, as kubectl get imagepolicies -A -o yaml prints"`
	Policies        []string             `env:"POLICIES" doc:"only the markers of these policies, each namespace:name; with MODE=version, policies that the repo does not define are taken to admit every tag"`
	Accounts        string               `env:"ACCOUNTS" default:"accounts.yaml" doc:"path of the inventory in the config repo; without a decision, it says which accounts may receive a release candidate, and with one, it must not contradict it; a URL means that the repo has none"`
	AccountLabel    string               `env:"ACCOUNT_LABEL" default:"account" doc:"label or annotation of a resource that says whose it is"`
	AccountPath     accounts.PathPattern `env:"ACCOUNT_PATH" doc:"path pattern that says whose a file is, such as accounts/{account}/"`
	AllowDowngrade  bool                 `env:"ALLOW_DOWNGRADE" default:"false" doc:"write an older version over a newer one"`
	Holds           string               `env:"HOLDS" default:"holds.yaml" doc:"path of the list of versions that must not be delivered, in the config repo"`
	OnUnmatched     string               `env:"ON_UNMATCHED" default:"warn" oneof:"warn,refuse" doc:"what to do when no policy admits the tag, no marker names such a policy, or a marker cannot be edited"`
	DecisionsPath   string               `env:"DECISIONS_PATH" default:"decisions" doc:"folder of the config repo for the gate's decisions, as SERVICE/VERSION.json"`
	DecisionKey     secret.Text          `env:"DECISION_KEY" doc:"key that gate-uat sealed its decision with; a decision without the right seal is refused; pass it with secretEnv"`
	RequireDecision bool                 `env:"REQUIRE_DECISION" default:"false" doc:"write a release only when gate-uat ran in this build; for builds that have a gate, so that a decision which is gone stops them"`
	VerifyTag       bool                 `env:"VERIFY_TAG" default:"true" doc:"with a decision of gate-uat, ask the registry whether the tag still has the digest that was decided on"`
	Insecure        []string             `env:"REGISTRY_INSECURE" doc:"hosts (host or host:port) reached over plain HTTP; loopback always is"`
	Endpoint        string               `env:"ARTIFACT_REGISTRY_ENDPOINT" doc:"with MODE=scan: host:port of another Artifact Registry API server; when it is set, images on loopback are listed through it, too"`
	Service         string               `env:"SERVICE" doc:"the service's name; the last path element of IMAGE when unset"`
	PushBranch      string               `env:"PUSH_BRANCH" doc:"push to this branch instead of CONFIG_BRANCH, for a pull request; it is created when missing, else added to"`
	CommitAuthor    string               `env:"COMMIT_AUTHOR" default:"bump-config" doc:"author of the commit"`
	CommitEmail     string               `env:"COMMIT_EMAIL" default:"bump-config@cloudbuild-steps.invalid" doc:"e-mail address of the author"`
	CommitMessage   messageTemplate      `env:"COMMIT_MESSAGE" doc:"commit message as a Go template; fields: .Service .Image .Tag .Digest .Channel .Accounts .Images (.Image .Tag .Digest) .Edits (.File .Line .Policy .Field .From .To .Account) .Held (.File .Line .Policy .Account .Reason) .Back (holds that are the reason to go back) .Commit .Branch .Repo .Build; when unset: what changed, for whom, why, and the build"`
	SigningKey      secret.Text          `env:"SIGNING_KEY" doc:"private key that signs the commit: OpenPGP in ASCII armor, or SSH, without a passphrase; pass it with secretEnv"`
	step.Source
	step.Credentials
}

// Check reports faults across variables.
func (in In) Check(f *step.Faults) {
	in.checkMode(f)
	if _, ok := release.ParseBuildTag(in.BuildTag); in.BuildTag != "" && !ok {
		f.Add("BUILD_TAG", "%q is not a build tag: want <branch>-<commit>-<unix time>", in.BuildTag)
	}
	for _, id := range in.Policies {
		if namespace, name, ok := strings.Cut(id, ":"); !ok || namespace == "" || name == "" || strings.Contains(name, ":") {
			f.Add("POLICIES", "%q does not name a policy: want namespace:name", id)
		}
	}
	if !step.IsURL(in.Accounts) {
		f.Inside("ACCOUNTS", in.Accounts)
	}
	f.Inside("DECISIONS_PATH", in.DecisionsPath)
	f.Inside("HOLDS", in.Holds)
	f.Reject("COMMIT_AUTHOR", "%v", gitrepo.CheckSignature(in.CommitAuthor))
	f.Reject("COMMIT_EMAIL", "%v", gitrepo.CheckSignature(in.CommitEmail))
	_, err := gitrepo.ParseSigningKey(in.SigningKey)
	f.Reject("SIGNING_KEY", "is wrong: %v", err)
}

// Out is what bump-config did.
type Out struct {
	Commit   string      `json:"commit" env:"CONFIG_COMMIT" doc:"the commit that was pushed; empty when there was nothing to change"`
	Branch   string      `json:"branch" doc:"the branch it was pushed to"`
	Attempts int         `json:"attempts" doc:"how often the edits were decided on; more than one when other writers were quicker"`
	Edits    []Edit      `json:"edits" doc:"changed values: file, line, policy, field (name, tag, digest or image), from, to, account"`
	Skipped  []Skip      `json:"skipped" doc:"markers that were left alone, and files that were not read (line 0): file, line, policy, account, reason"`
	Markers  []Mark      `json:"markers" doc:"every marker of the image's policies: file, line, policy, field, account, state (changed, already, held, skipped, not-selected), value (before the edit), reason"`
	Holds    []hold.Hold `json:"holds" doc:"versions of this service that must not be delivered: service, version, digest, reason, who, when, build, line"`
	Choices  []Choice    `json:"choices" doc:"with MODE=scan and MODE=resolved, what each policy chose: policy, image, tag, equal (tags that it finds equal), passed (holds on newer tags), tags and admitted (how many there are, and how many qualify)"`
}

// Edit is one changed value.
type Edit struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Policy  string `json:"policy"`
	Field   string `json:"field"`
	From    string `json:"from"`
	To      string `json:"to"`
	Account string `json:"account"`
}

// Skip is a marker, or all markers of one policy in one resource, that was left alone.
type Skip struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Policy  string `json:"policy"`
	Account string `json:"account"`
	Reason  string `json:"reason"`

	held     bool // by the gate, and not for a fault of the marker
	harmless bool // nothing that ON_UNMATCHED is about
}

// Result is the commit.
func (o Out) Result() string { return o.Commit }

var program = step.Program[In, Out]{
	Name:    "bump-config",
	Summary: "write a version into the config repo: every marker that may receive it, in one commit",
	Timeout: 10 * time.Minute,
	Run:     run,
	Doc:     doc,
}

func run(ctx context.Context, b *step.Build, in In) (Out, error) {
	out := Out{Branch: in.branch(), Edits: []Edit{}, Skipped: []Skip{}, Markers: []Mark{}, Holds: []hold.Hold{}, Choices: []Choice{}}
	wanted, err := newTarget(ctx, b, in)
	if err != nil {
		return out, err
	}
	if err := wanted.verifyTag(ctx, in); err != nil {
		return out, err
	}
	remote := gitrepo.Remote{URL: in.ConfigURL.String(), Username: in.GitUsername, Token: in.GitToken, Renew: github.App(in.GitHubApp).Tokens(github.WriteContents)}
	if err := wanted.prepare(ctx, in, remote); err != nil {
		return out, err
	}
	now := time.Now()
	var p *plan
	found := reading{}
	decide := func(s *gitrepo.Snapshot) (*gitrepo.Change, error) {
		var err error
		p, err = newPlan(s, found, in, wanted)
		found = p.reading
		if err != nil || len(p.edits) == 0 {
			return nil, err
		}
		return p.change(b, now)
	}
	act := gitrepo.Update
	if b.DryRun {
		act = gitrepo.Preview
	}
	result, err := act(ctx, remote, in.ConfigBranch, in.PushBranch, decide)
	out.Attempts = result.Attempts
	if lost, ok := errors.AsType[*gitrepo.LostRaceError](err); ok {
		return out, step.Lost(lost.Fix(), "%w", err)
	}
	if p != nil {
		out.Skipped = append(out.Skipped, p.skipped...)
		out.Markers = append(out.Markers, p.marks...)
		out.Holds = append(out.Holds, p.holdsOf()...)
		out.Choices = append(out.Choices, p.choices...)
	}
	if err != nil {
		return out, err
	}
	p.report(b)
	if !result.Changed {
		return out, p.nothing()
	}
	out.Edits = append(out.Edits, p.edits...)
	if b.DryRun {
		b.Text(p.diff())
		return out, nil
	}
	out.Commit = result.Commit
	b.Log.Info("pushed", "commit", result.Commit, "branch", result.Branch, "attempts", result.Attempts)
	return out, nil
}

// branch is where the commit goes.
func (in In) branch() string {
	if in.PushBranch != "" {
		return in.PushBranch
	}
	return in.ConfigBranch
}

// service is the name under which decisions are kept.
func (in In) service() string {
	if in.Service != "" {
		return in.Service
	}
	return in.Image.Name()
}
