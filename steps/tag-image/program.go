package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// In is what tag-image is told.
type In struct {
	step.Registry `require:"IMAGE"`
	From          string          `env:"SOURCE" doc:"the image: a path (one with a slash, or a name that ends in .tar) of an OCI layout or of what docker save wrote, or a tag or digest of IMAGE; when unset on a release, the image that was built for COMMIT_SHA"`
	Tags          []string        `env:"TAGS" doc:"tags to write; when unset, VERSION on a release, else BUILD_TAG"`
	Existing      string          `env:"EXISTING" oneof:"keep,refuse" doc:"when a tag is on another image, keep hands that image over and refuse ends with exit code 3; unset means keep for build tags and refuse for all others"`
	Version       release.Version `env:"VERSION" from:"TAG_NAME" doc:"the release, such as v2.0.0-rc.1"`
	BuildTag      string          `env:"BUILD_TAG" from:"compute-version.build_tag" doc:"the tag that the build of this commit has, main-<commit>-<unix time>; on a release it says which image to promote"`
	step.Source
}

// Check reports faults across variables.
func (in In) Check(f *step.Faults) {
	for _, tag := range in.Tags {
		if err := checkTag(tag); err != nil {
			f.Add("TAGS", "%v", err)
		}
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
	if source := in.source(); in.From != "" && !isPath(source) && !registry.IsTag(source) && !registry.IsDigest(source) {
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
is written last. Tags that are expected to move (` + "`latest`, `v1`" + `) are refused.

` + "```yaml" + `
- id: tag
  name: $_STEPS/tag-image
  env: [IMAGE=$_IMAGE, SOURCE=image.tar]
` + "```",
}

// rounds is how often the step decides again after another writer was faster.
const rounds = 3

func run(ctx context.Context, b *step.Build, in In) (Out, error) {
	repository := in.Image.String()
	client := registry.New(in.Insecure, registry.ForPush(), registry.WithNotice(func(text string) { b.Log.Warn(text) }))
	out := Out{Image: repository, Platforms: []string{}, Tags: []Tagged{}}

	found, err := find(ctx, client, in)
	if err != nil {
		return out, explain(err)
	}
	defer found.close()
	out.Source = found.name
	b.Log.Info("image found", "source", found.name, "digest", found.Digest)

	for range rounds {
		var present map[string]registry.Image
		if present, err = look(ctx, client, repository, in.tags()); err != nil {
			return out, explain(err)
		}
		var p plan
		if p, err = decide(repository, in.tags(), in.keeps, present, found.Image); err != nil {
			return out, explain(err)
		}
		if p.image.Digest != found.Digest {
			b.Log.Info("a tag is on another image already: it is kept, and its digest is handed over", "tag", p.adopted, "kept", p.image.Digest, "built", found.Digest)
		}
		done := out
		done.Digest, done.MediaType, done.Tags = p.image.Digest, p.image.MediaType, p.tags
		done.Platforms = append(done.Platforms, p.image.Platforms...)
		if b.DryRun {
			b.Text(p.String())
			return done, nil
		}
		if err = write(ctx, client, repository, p, found); err == nil {
			for _, t := range done.Tags {
				b.Log.Info("tag "+string(t.State), "tag", t.Tag, "digest", done.Digest)
			}
			return done, nil
		}
		if !lost(err, in.keeps) {
			return out, explain(err)
		}
	}
	return out, step.Lost("run the step again: it keeps what is there then", "other writers were faster %d times: %w", rounds, err)
}

// look reads what is under the tags now.
func look(ctx context.Context, client *registry.Client, repository string, tags []string) (map[string]registry.Image, error) {
	present := map[string]registry.Image{}
	for _, tag := range tags {
		image, found, err := client.Resolve(ctx, repository, tag)
		if err != nil {
			return nil, err
		}
		if found {
			present[tag] = image
		}
	}
	return present, nil
}

// write carries the plan out: first what the image consists of, then its tags.
func write(ctx context.Context, client *registry.Client, repository string, p plan, from origin) error {
	if p.creates() && p.image.Digest == from.Digest && from.file != nil {
		if err := client.Upload(ctx, repository, from.file); err != nil {
			return err
		}
	}
	for i, t := range p.tags {
		if t.State != registry.Created {
			continue
		}
		state, err := client.Tag(ctx, repository, t.Tag, p.image)
		if err != nil {
			return err
		}
		p.tags[i].State = state
	}
	return nil
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
