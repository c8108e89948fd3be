package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/gitclaim"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// In is what tag-image is told.
type In struct {
	step.Registry `require:"IMAGE"`
	From          string          `env:"SOURCE" doc:"the image: a path (one with a slash, or a name that ends in .tar) of an OCI layout or of what docker save wrote; a tag or digest of IMAGE; or host/path:tag or host/path@digest of another repository, which is promoted with its signatures and attestations; when unset on a release, the image that was built for COMMIT_SHA"`
	Tags          []string        `env:"TAGS" doc:"tags to write; when unset, VERSION on a release, else BUILD_TAG"`
	Existing      string          `env:"EXISTING" oneof:"keep,refuse" doc:"when a tag is on another image, keep hands that image over and refuse ends with exit code 3; unset means keep for build tags and refuse for all others"`
	Version       release.Version `env:"VERSION" from:"compute-version.release TAG_NAME" doc:"the release, such as v2.0.0-rc.1"`
	BuildTag      string          `env:"BUILD_TAG" from:"compute-version.build_tag" doc:"the tag that the build of this commit has, main-<commit>-<unix time>; on a release it says which image to promote"`
	ConfigURL     step.GitURL     `env:"CONFIG_REPO" type:"url" doc:"https URL of the config repo; when set, each new tag is claimed there first, so that of two builds that write it at the same moment one is refused"`
	step.Credentials
	step.Source
}

// Check reports faults across variables.
func (in In) Check(f *step.Faults) {
	for _, tag := range in.Tags {
		f.Reject("TAGS", "%v", checkTag(tag))
	}
	built, wellFormed := release.ParseBuildTag(in.BuildTag)
	switch {
	case in.BuildTag != "" && !wellFormed:
		f.Add("BUILD_TAG", "%q is not a build tag: want <branch>-<commit>-<unix time>", in.BuildTag)
	case in.BuildTag != "" && !strings.HasPrefix(in.CommitSHA, built.Commit) && in.CommitSHA != "":
		f.Add("BUILD_TAG", "%q is of another commit than COMMIT_SHA %s", in.BuildTag, in.CommitSHA)
	}
	isRelease := !in.Version.IsZero()
	if len(in.Tags) == 0 && !isRelease && in.BuildTag == "" {
		f.Add("TAGS", "is not set, and there is no default: run compute-version before, or name the tags")
	}
	if in.From == "" && !isRelease {
		f.Add("SOURCE", "is not set: name the file that docker save wrote, an OCI layout, or a tag or digest of IMAGE")
	}
	if in.From == "" && isRelease && in.BuildTag == "" && in.CommitSHA == "" {
		f.Add("COMMIT_SHA", "is not set: without it, or SOURCE, the image of the release cannot be found")
	}
	if source := in.source(); in.From != "" && !isPath(source) && !registry.IsTag(source) && !registry.IsDigest(source) && !isElsewhere(source) {
		f.Add("SOURCE", "%q is neither a path nor a tag nor a SHA-256 digest", in.From)
	}
}

// tags are the tags to write, each once.
func (in In) tags() []string {
	switch {
	case len(in.Tags) > 0:
		return unique(in.Tags)
	case !in.Version.IsZero():
		return []string{in.Version.String()}
	}
	return []string{in.BuildTag}
}

// source is SOURCE without the repository, since the line that this step prints (IMAGE@digest) names a source as well.
func (in In) source() string {
	for _, mark := range []string{"@", ":"} {
		if rest, ok := strings.CutPrefix(in.From, in.Image.String()+mark); ok {
			return rest
		}
	}
	return in.From
}

func isElsewhere(source string) bool { _, _, ok := elsewhere(source); return ok }

// keeps reports whether a tag that is on another image is kept.
func (in In) keeps(tag string) bool {
	_, isBuild := release.ParseBuildTag(tag)
	return in.Existing == "keep" || in.Existing == "" && isBuild
}

// Out is what tag-image hands over.
type Out struct {
	Image     string   `json:"image" env:"IMAGE" doc:"the repository"`
	Digest    string   `json:"digest" env:"DIGEST" doc:"the digest that the tags are on; later steps deploy it, whatever was built here"`
	MediaType string   `json:"media_type" doc:"media type of the image or index"`
	Platforms []string `json:"platforms" doc:"os/architecture of each image in an index, or of an image from a file"`
	Tags      []Tagged `json:"tags" doc:"each tag and its state: created, or kept when it was there before; in a dry run, what they would be"`
	Source    string   `json:"source" doc:"where the image came from: the path, tag or digest"`
}

// Tagged is one tag.
type Tagged struct {
	Tag   string         `json:"tag"`
	State registry.State `json:"state"`
}

// Result is IMAGE@digest.
func (o Out) Result() string { return o.Image + "@" + o.Digest }

var program = step.Program[In, Out]{
	Name:    "tag-image",
	Summary: "push or promote an image under a tag that was never used before",
	Timeout: 15 * time.Minute,
	Run:     run,
	Doc: `On a branch it pushes what the build saved, under the build tag. A rebuild of the same commit has the same tag: it is kept, and its digest
is handed over in place of the new one. On a release it puts the release's tag on the digest that was built and tested for that commit;
nothing is built again.

A tag never moves: nodes cache images by tag. Every part of a file is compared with its digest before the first byte is sent, and the tag
is written last. A tag that was deleted is remembered (a tombstone under ` + "`deleted-<tag>`" + `): it is refused for every image, so that a build
that runs again does not undo a roll back. Only restore-version brings it back, on the image that had it.
Tags that are expected to move (` + "`latest`, `v1`" + `) are refused.

No registry compares before it sets a tag. Without CONFIG_REPO two builds that write one tag at the same moment notice that when they read
it back, if at all; with it, exactly one wins: a ref under ` + "`refs/tag-claims/`" + ` in the config repo is created by one of them, and the
token in GIT_TOKEN, or the GitHub App, must be allowed to do that. A claim stays for good and needs no cleaning.

Google's registries get the token of the build's service account (from the metadata server or application default credentials), others
what ` + "`$HOME/.docker/config.json`" + ` holds for them.

` + "```yaml" + `
- id: tag
  name: $_STEPS/tag-image
  env: [IMAGE=$_IMAGE, SOURCE=image.tar]
` + "```",
}

// rounds is how often the step decides again after another writer was faster.
const rounds = 3

func run(ctx context.Context, b *step.Build, in In) (Out, error) {
	repository, other := in.Image.String(), ""
	if from, _, ok := elsewhere(in.source()); ok {
		other = from
	}
	client := registry.New(in.Insecure, registry.ForPush(), registry.MountingFrom(other), registry.WithNotice(func(text string) { b.Log.Warn(text) }))
	out := Out{Image: repository, Platforms: []string{}, Tags: []Tagged{}}

	looked := time.Now()
	ahead := start(func() (map[string]registry.Look, error) { return look(ctx, client, repository, in.tags()) })
	asked, err := find(ctx, client, in)
	if err != nil {
		return out, explain(err)
	}
	defer asked.close()
	out.Source = asked.name
	b.Log.Info("image found", "source", asked.name, "digest", asked.Digest)

	for range rounds {
		var looks map[string]registry.Look
		if looks, err = ahead(); err != nil {
			return out, explain(err)
		}
		ahead = func() (map[string]registry.Look, error) { // in later rounds
			looked = time.Now()
			return look(ctx, client, repository, in.tags())
		}
		var p plan
		if p, err = decide(repository, in.tags(), in.keeps, looks, asked.Image); err != nil {
			return out, explain(err)
		}
		if p.image.Digest != asked.Digest {
			b.Log.Info("a tag is on another image already: it is kept, and its digest is handed over", "tag", p.adopted, "kept", p.image.Digest, "built", asked.Digest)
		}
		done := out
		done.Digest, done.MediaType, done.Tags = p.image.Digest, p.image.MediaType, p.tags
		done.Platforms = append(done.Platforms, p.image.Platforms...)
		if b.DryRun {
			b.Text(p.String())
			return done, nil
		}
		w := writer{client, in.claims(), b.Log, looked}
		if err = w.write(ctx, p, asked); err == nil {
			for _, t := range done.Tags {
				b.Log.Info("tag "+string(t.State), "tag", t.Tag, "digest", done.Digest)
			}
			return done, nil
		}
		if taken, ok := errors.AsType[*gitclaim.TakenError](err); ok && in.keeps(taken.Claim.Tag) {
			asked, err = w.finish(ctx, repository, taken, asked)
		} else if lost(err, in.keeps) {
			continue
		}
		if err != nil {
			return out, explain(err)
		}
	}
	return out, step.Lost("run the step again: it keeps what is there then", "other writers were faster %d times: %w", rounds, err)
}

// lost reports whether another writer was faster with a tag that is kept, so that deciding again makes sense.
func lost(err error, keeps func(string) bool) bool {
	if taken, ok := errors.AsType[*registry.TagTakenError](err); ok {
		return keeps(taken.Tag)
	}
	moved, ok := errors.AsType[*registry.MovedError](err)
	return ok && keeps(moved.Tag)
}

// explain gives errors their exit code and says what the reader can do. Failures of the registry keep theirs.
func explain(err error) error {
	if e, ok := errors.AsType[*registry.TagTakenError](err); ok {
		return step.Refuse("a tag is never used twice: release the next version, or set SOURCE to the digest that has the tag", "%w", e)
	}
	if errors.As(err, new(*conflictError)) {
		return step.Refuse("write the tags in separate steps, or name one of them only", "%w", err)
	}
	if errors.As(err, new(*registry.MovedError)) {
		return step.Lost("run the step again: it will say what the tag is on", "%w", err)
	}
	if e, ok := errors.AsType[*registry.DeletedError](err); ok {
		return step.Refuse("a tag is never used twice: release the next version, or restore the image that had this one", "%w", e)
	}
	if errors.As(err, new(*rolledBackError)) {
		return step.Refuse("run restore-version, which brings the same image back and lifts its hold; or release the next version", "%w", err)
	}
	if errors.As(err, new(*registry.ImmutableError)) {
		return step.Refuse("release the next version: the registry keeps this one's tag from being written", "%w", err)
	}
	if errors.As(err, new(*registry.IncompleteError)) {
		return step.Refuse("push the image again, or set SOURCE to another one; no tag was written", "%w", err)
	}
	if errors.As(err, new(*gitclaim.TakenError)) {
		return step.Refuse("a tag is never used twice: release the next version, or set SOURCE to the digest that the tag is claimed for", "%w", err)
	}
	if errors.As(err, new(*registry.SourceError)) {
		return step.Refuse("save the image again; nothing was sent", "%w", err)
	}
	return err
}

// String is what a dry run prints.
func (p plan) String() string {
	lines := []string{p.repository + "@" + p.image.Digest}
	for _, t := range p.tags {
		word := "would keep  "
		if t.State == registry.Created {
			word = "would create"
		}
		lines = append(lines, fmt.Sprintf("  %s %s", word, t.Tag))
	}
	return strings.Join(lines, "\n")
}
