package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// origin is the image that was asked for.
type origin struct {
	registry.Image
	name       string           // the path, tag or digest
	file       *registry.Source // nil when a registry has it
	repository string           // another one that it comes from; else empty
}

func (o origin) close() {
	if o.file != nil {
		_ = o.file.Close() // it was only read
	}
}

// find reads the image that the tags are meant for.
func find(ctx context.Context, client *registry.Client, in In) (origin, error) {
	source := in.source()
	switch {
	case source == "":
		return findBuilt(ctx, client, in)
	case isPath(source):
		file, err := registry.Open(ctx, source)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return origin{}, step.Misconfigured("set SOURCE to the file that docker save wrote or to an OCI layout; a relative path begins in the step's working directory", "SOURCE: %w", err)
		}
		if err != nil {
			return origin{}, err
		}
		return origin{Image: file.Image, name: source, file: file}, nil
	}
	repository, reference := in.Image.String(), source
	other, word, isOther := elsewhere(source)
	if isOther {
		repository, reference = other, word
	}
	image, found, err := client.Resolve(ctx, repository, reference)
	if err != nil {
		return origin{}, err
	}
	if !found {
		fix := "push the image before, or set SOURCE to a tag or digest that exists"
		if _, err := os.Stat(source); err == nil {
			fix = fmt.Sprintf("write ./%s if the file or folder of that name is meant", source)
		}
		return origin{}, step.Refuse(fix, "%s has no image %s", repository, reference)
	}
	return origin{Image: image, name: source, repository: other}, nil
}

// findBuilt finds the image that was built for the commit of a release: under the tag that main gave the commit, else under any build tag
// that names it. What was tested is promoted, so that a commit with two different images is for people to decide.
func findBuilt(ctx context.Context, client *registry.Client, in In) (origin, error) {
	repository := in.Image.String()
	if in.BuildTag != "" {
		image, found, err := client.Resolve(ctx, repository, in.BuildTag)
		if err != nil {
			return origin{}, err
		}
		if found {
			return origin{Image: image, name: in.BuildTag}, nil
		}
	}
	if in.CommitSHA == "" {
		return origin{}, step.Refuse("let the pipeline of main build the commit, or set SOURCE", "%s has no image %s", repository, in.BuildTag)
	}
	tags, err := client.TagsOf(ctx, repository)
	if err != nil {
		return origin{}, err
	}
	var (
		chosen origin
		lines  []string
		differ bool
	)
	for _, tag := range ofCommit(tags, in.CommitSHA) {
		image, found, err := client.Resolve(ctx, repository, tag)
		if err != nil {
			return origin{}, err
		}
		if !found { // deleted since the tags were listed
			continue
		}
		differ = differ || chosen.name != "" && chosen.Digest != image.Digest
		if chosen.name == "" {
			chosen = origin{Image: image, name: tag}
		}
		lines = append(lines, tag+" is "+image.Digest)
	}
	switch {
	case chosen.name == "":
		return origin{}, step.Refuse("let the pipeline of the branch build the commit before it is released, or set SOURCE",
			"%s has no image that was built for commit %s", repository, in.CommitSHA)
	case differ:
		return origin{}, step.Refuse("set SOURCE to the one that was tested",
			"%s has different images of commit %s: %s", repository, in.CommitSHA, strings.Join(lines, ", "))
	}
	return chosen, nil
}
