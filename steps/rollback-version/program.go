package main

import (
	"context"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// In is what rollback-version is told.
type In struct {
	step.ConfigRepo `require:"CONFIG_REPO"`
	step.Registry   `require:"IMAGE"`
	Version         release.Version      `env:"VERSION" from:"TAG_NAME" required:"true" doc:"the bad release, such as v2.0.0"`
	Reason          string               `env:"REASON" required:"true" doc:"why; it is recorded with the hold, and everybody who is refused the version reads it"`
	Who             string               `env:"WHO" default:"rollback-version" doc:"who decided it, for the record"`
	Stage           string               `env:"STAGE" default:"return" oneof:"return,delete" doc:"return: plan, back up, hold, return every account, in one commit; delete: after the deployment, delete the version from the registry"`
	Backup          step.Place           `env:"BACKUP" doc:"where the image is kept: another registry repository (host/path; nothing is moved when it is in the same registry), or a folder that begins with / or ./, which becomes an OCI layout; needed to delete an image"`
	Delete          bool                 `env:"DELETE" default:"true" doc:"false: STAGE=delete deletes nothing, and the hold alone keeps the version back"`
	Force           bool                 `env:"FORCE" default:"false" doc:"delete although the config repo still names the image, or the version is not held"`
	ForceDigest     bool                 `env:"FORCE_DIGEST" default:"false" doc:"delete the image although other tags are on it, and those tags with it; unset, only the tag VERSION is taken off"`
	Previous        release.Version      `env:"PREVIOUS" doc:"the release to return to, instead of the newest older one that each policy admits"`
	Accounts        string               `env:"ACCOUNTS" default:"accounts.yaml" doc:"path of the inventory in the config repo: only UAT accounts are returned to a release candidate; a URL means that the repo has none, and then the decision on the candidate says it"`
	AccountLabel    string               `env:"ACCOUNT_LABEL" default:"account" doc:"label or annotation of a resource that says whose it is"`
	AccountPath     accounts.PathPattern `env:"ACCOUNT_PATH" doc:"path pattern that says whose a file is, such as accounts/{account}/"`
	DecisionsPath   string               `env:"DECISIONS_PATH" default:"decisions" doc:"folder of the config repo with the gate's decisions: no account is returned to a version that the gate held back from it"`
	Holds           string               `env:"HOLDS" default:"holds.yaml" doc:"path of the list of held versions in the config repo"`
	Service         string               `env:"SERVICE" doc:"the service's name; the last path element of IMAGE when unset"`
	Endpoint        string               `env:"ARTIFACT_REGISTRY_ENDPOINT" doc:"host:port of another Artifact Registry API server, for tests"`
	CommitAuthor    string               `env:"COMMIT_AUTHOR" default:"rollback-version" doc:"author of the commit"`
	CommitEmail     string               `env:"COMMIT_EMAIL" default:"rollback-version@cloudbuild-steps.invalid" doc:"e-mail address of the author"`
	SigningKey      secret.Text          `env:"SIGNING_KEY" doc:"private key that signs the commit: OpenPGP in ASCII armor, or SSH, without a passphrase; pass it with secretEnv"`
	step.Credentials
}

// Check reports faults across variables.
func (in In) Check(f *step.Faults) {
	if !step.IsURL(in.Accounts) {
		f.Inside("ACCOUNTS", in.Accounts)
	}
	f.Inside("DECISIONS_PATH", in.DecisionsPath)
	f.Inside("HOLDS", in.Holds)
	f.Reject("COMMIT_AUTHOR", "%v", gitrepo.CheckSignature(in.CommitAuthor))
	f.Reject("COMMIT_EMAIL", "%v", gitrepo.CheckSignature(in.CommitEmail))
	_, err := gitrepo.ParseSigningKey(in.SigningKey)
	f.Reject("SIGNING_KEY", "is wrong: %v", err)
	if string(in.Backup) == in.Image.String() {
		f.Add("BACKUP", "is IMAGE itself: name another repository, or a folder")
	}
	if !in.Previous.IsZero() && in.Previous.Compare(in.Version) >= 0 {
		f.Add("PREVIOUS", "%s is not older than VERSION %s", in.Previous, in.Version)
	}
}

func (in In) service() string {
	if in.Service != "" {
		return in.Service
	}
	return in.Image.Name()
}

// Out is what rollback-version did.
type Out struct {
	Stage     string   `json:"stage" doc:"the stage that ran"`
	Version   string   `json:"version" doc:"the version that is taken back"`
	Digest    string   `json:"digest" doc:"its image"`
	Previous  string   `json:"previous" env:"PREVIOUS" doc:"the version that the accounts are on now; several are separated by commas"`
	Backup    string   `json:"backup" doc:"where the proven backup is; empty without one"`
	Proven    int64    `json:"backup_bytes" doc:"bytes of the backup that were read back and compared"`
	Hold      string   `json:"hold" doc:"the file that holds the version back"`
	Commit    string   `json:"commit" env:"CONFIG_COMMIT" doc:"commit of the config repo that was pushed; empty when nothing had to change"`
	Returned  []Return `json:"returned" doc:"values that were changed: file, line, policy, account, from, to"`
	Left      []Place  `json:"left" doc:"places that name the version and could not be changed: file, line, account, reason"`
	Tags      []string `json:"tags" doc:"other tags on the same image"`
	Indexes   []string `json:"indexes" doc:"indexes that list the image or a part of it and do not belong to it"`
	Deleted   Deleted  `json:"deleted" doc:"what was deleted from the registry: tags, versions"`
	Tombstone string   `json:"tombstone" doc:"the tag that remembers the deleted one; empty when no tag was deleted"`
}

// Return is one resource that goes back.
type Return struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Policy  string `json:"policy"`
	Account string `json:"account"`
	From    string `json:"from"`
	To      string `json:"to"`
}

// Place is where the version is named and was left.
type Place struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Account string `json:"account"`
	Reason  string `json:"reason"`
}

// Deleted is what is gone from the registry.
type Deleted struct {
	Tags     []string `json:"tags"`
	Versions []string `json:"versions"`
}

// Result is the version that is live now.
func (o Out) Result() string { return o.Previous }

var program = step.Program[In, Out]{
	Name:    "rollback-version",
	Summary: "take a bad version back: back it up, hold it, return every account, delete it from the registry",
	Timeout: 30 * time.Minute,
	Run:     run,
	Doc:     doc,
}

func run(ctx context.Context, b *step.Build, in In) (Out, error) {
	out := Out{
		Stage: in.Stage, Version: in.Version.String(), Returned: []Return{}, Left: []Place{}, Tags: []string{}, Indexes: []string{},
		Deleted: Deleted{[]string{}, []string{}},
	}
	w, err := newWork(b, in)
	if err != nil {
		return out, err
	}
	s, err := w.find(ctx)
	if err != nil {
		return out, err
	}
	out.Digest, out.Tags, out.Indexes = s.digest, append(out.Tags, s.siblings...), append(out.Indexes, s.outside()...)
	w.tell(s)
	if in.Stage == "delete" {
		return w.delete(ctx, s, out)
	}
	if b.DryRun {
		w.tellBackup(s)
		return w.goBack(ctx, s, out)
	}
	if s.present { // what is gone already must not keep the accounts from going back
		if out.Backup, out.Proven, err = w.backUp(ctx, s); err != nil {
			return out, err
		}
	}
	return w.goBack(ctx, s, out)
}
