package main

import (
	"context"
	"path"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// In is what restore-version is told.
type In struct {
	step.ConfigRepo `require:"CONFIG_REPO"`
	step.Registry   `require:"IMAGE"`
	Version         release.Version `env:"VERSION" from:"TAG_NAME" required:"true" doc:"the release that is to come back, such as v2.0.0"`
	Reason          string          `env:"REASON" required:"true" doc:"why; it stands in the commit that lifts the hold"`
	Who             string          `env:"WHO" default:"restore-version" doc:"who decided it, for the record"`
	Backup          step.Place      `env:"BACKUP" doc:"where rollback-version kept the image: a registry repository, or a folder that begins with / or ./; needed when the image was deleted"`
	Digest          string          `env:"DIGEST" doc:"the image that is wanted, sha256:…; when unset, the one that the hold and the tombstone name"`
	Holds           string          `env:"HOLDS" default:"holds.yaml" doc:"path of the list of held versions in the config repo"`
	Service         string          `env:"SERVICE" doc:"the service's name; the last path element of IMAGE when unset"`
	CommitAuthor    string          `env:"COMMIT_AUTHOR" default:"restore-version" doc:"author of the commit"`
	CommitEmail     string          `env:"COMMIT_EMAIL" default:"restore-version@cloudbuild-steps.invalid" doc:"e-mail address of the author"`
	SigningKey      secret.Text     `env:"SIGNING_KEY" doc:"private key that signs the commit: OpenPGP in ASCII armor, or SSH, without a passphrase; pass it with secretEnv"`
	step.Credentials
}

// Check reports faults across variables.
func (in In) Check(f *step.Faults) {
	f.Inside("HOLDS", in.Holds)
	if in.Digest != "" && !registry.IsDigest(in.Digest) {
		f.Add("DIGEST", "%q is not a digest: want sha256: and 64 hexadecimal digits", in.Digest)
	}
	f.Reject("COMMIT_AUTHOR", "%v", gitrepo.CheckSignature(in.CommitAuthor))
	f.Reject("COMMIT_EMAIL", "%v", gitrepo.CheckSignature(in.CommitEmail))
	_, err := gitrepo.ParseSigningKey(in.SigningKey)
	f.Reject("SIGNING_KEY", "is wrong: %v", err)
	if string(in.Backup) == in.Image.String() {
		f.Add("BACKUP", "is IMAGE itself: name another repository, or a folder")
	}
}

func (in In) service() string {
	if in.Service != "" {
		return in.Service
	}
	return in.Image.Name()
}

func (in In) holdsPath() string { return path.Join(in.ConfigPath, in.Holds) }

// Out is what restore-version did.
type Out struct {
	Version  string   `json:"version" env:"VERSION" doc:"the version that is back"`
	Digest   string   `json:"digest" env:"DIGEST" doc:"its image, the same as before"`
	Backup   string   `json:"backup" doc:"where the image came from; empty when the registry still had it"`
	Tags     []string `json:"tags" doc:"tags that are on it again, its attachments' included"`
	Proven   int64    `json:"proven_bytes" doc:"bytes of the image and of what belongs to it that were read back from the registry and compared"`
	Unlocked bool     `json:"unlocked" doc:"whether a hold was lifted"`
	Commit   string   `json:"commit" env:"CONFIG_COMMIT" doc:"commit of the config repo that lifted the hold; empty when there was none"`
}

// Result is IMAGE's version.
func (o Out) Result() string { return o.Version }

var program = step.Program[In, Out]{
	Name:    "restore-version",
	Summary: "bring a version back that was rolled back: the same image, or nothing",
	Timeout: 30 * time.Minute,
	Run:     run,
	Doc: `It finds out which image the version was (the hold in the config repo, the tombstone in the registry, DIGEST; all must agree), brings it
back from BACKUP with all that belongs to it if the registry does not have it whole, reads every byte of it again, puts the tag on it, and
lifts the hold. It works before and after the registry's garbage collection, alone, again, and after a crash.

The tombstone stays: it says which image the tag may be on, and this is the image. No account changes: run bump-config (or the release's
build again), which may select the version now.

` + "```yaml" + `
- id: restore
  name: $_STEPS/restore-version
  env: [IMAGE=$_IMAGE, VERSION=$_VERSION, CONFIG_REPO=$_CONFIG_REPO, BACKUP=$_BACKUP, REASON=$_REASON]
  secretEnv: [GIT_TOKEN]
` + "```",
}

func run(ctx context.Context, b *step.Build, in In) (Out, error) {
	out := Out{Version: in.Version.String(), Tags: []string{}}
	w, err := newWork(b, in)
	if err != nil {
		return out, err
	}
	if out.Digest, err = w.wanted(ctx); err != nil {
		return out, err
	}
	b.Log.Info("image wanted", "version", out.Version, "digest", out.Digest)
	bundle, from, err := w.locate(ctx, out.Digest)
	if err != nil {
		return out, explain(err)
	}
	if from != nil {
		out.Backup = from.String()
	}
	if b.DryRun {
		b.Log.Info("would restore", "manifests", len(bundle.Parts), "bytes", bundle.Bytes(), "from", out.Backup)
		return out, nil
	}
	if out.Tags, out.Proven, err = w.restore(ctx, bundle, from); err != nil {
		return out, explain(err)
	}
	if out.Commit, out.Unlocked, err = w.unlock(ctx); err != nil {
		return out, err
	}
	return out, nil
}
