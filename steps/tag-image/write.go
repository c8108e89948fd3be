package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/gitclaim"
	"github.com/deepdesk/cloudbuild-steps/internal/github"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// start begins f at once; the function that it returns waits for the result.
func start[T any](f func() (T, error)) func() (T, error) {
	var (
		value T
		err   error
		done  = make(chan struct{})
	)
	go func() { // ends with f, which ends with its context
		defer close(done)
		value, err = f()
	}()
	return func() (T, error) {
		<-done
		return value, err
	}
}

// look reads what is under the tags now, and what is remembered of them, all at once.
func look(ctx context.Context, client *registry.Client, repository string, tags []string) (map[string]registry.Look, error) {
	var (
		all    sync.WaitGroup
		mu     sync.Mutex
		failed error
		looks  = map[string]registry.Look{}
	)
	for _, tag := range tags {
		all.Go(func() {
			l, err := client.Look(ctx, repository, tag)
			mu.Lock()
			defer mu.Unlock()
			if looks[tag] = l; err != nil && failed == nil {
				failed = err
			}
		})
	}
	all.Wait()
	return looks, failed
}

// claims is where tags are claimed; nil without a config repo.
func (in In) claims() *gitclaim.Repository {
	if in.ConfigURL == "" {
		return nil
	}
	return &gitclaim.Repository{
		URL: in.ConfigURL.String(), Username: in.GitUsername, Token: in.GitToken,
		Renew: github.App(in.GitHubApp).Tokens(github.WriteContents),
	}
}

// recent is how long a look at a tag is believed. The look after the write still notices a rival.
const recent = 5 * time.Second

// writer carries plans out.
type writer struct {
	client *registry.Client
	claims *gitclaim.Repository // nil: no claims are made
	log    *slog.Logger
	looked time.Time // when the tags were looked at
}

// write brings first what the image consists of, then claims its tags, and then writes them.
//
// When a tag is claimed, the image is in the repository already, without a tag: so another build can finish what this one has begun, should
// it die in between.
//
// Reading and bringing an image can take minutes. When it did, the tags are looked at again.
func (w writer) write(ctx context.Context, p plan, from origin) error {
	if !p.creates() {
		return nil
	}
	var (
		moved   = p.image.Digest == from.Digest // else the image is the one under a tag that is kept
		brought = moved && (from.file != nil || from.repository != "")
		err     error
	)
	switch {
	case moved && from.file != nil:
		err = w.client.Upload(ctx, p.repository, from.file)
	case moved && from.repository != "":
		var came registry.Promoted
		if came, err = w.client.Promote(ctx, from.repository, p.image, p.repository); err != nil {
			return err
		}
		w.log.Info("image promoted", "from", from.repository, "blobs", came.Blobs, "attached", len(came.Attached))
	}
	if err != nil {
		return err
	}
	if w.claims != nil {
		if brought {
			if err := w.client.PutUntagged(ctx, p.repository, p.image); err != nil {
				return err
			}
		}
		for _, t := range p.tags {
			if t.State == registry.Created {
				if err := w.claims.Make(ctx, gitclaim.Claim{Image: p.repository, Tag: t.Tag, Digest: p.image.Digest}); err != nil {
					return err
				}
			}
		}
	}
	for i, t := range p.tags {
		if t.State != registry.Created {
			continue
		}
		put := w.client.TagFree
		if time.Since(w.looked) > recent {
			put = w.client.Tag
		}
		state, err := put(ctx, p.repository, t.Tag, p.image)
		if err != nil {
			return err
		}
		p.tags[i].State = state
	}
	return nil
}

// finish turns to the image that a kept tag is claimed for by another build, which may have died before it wrote the tag.
func (w writer) finish(ctx context.Context, repository string, taken *gitclaim.TakenError, asked origin) (origin, error) {
	if taken.Have == "" {
		return asked, taken
	}
	image, found, err := w.client.Resolve(ctx, repository, taken.Have)
	if err != nil {
		return asked, err
	}
	if !found {
		return asked, step.Refuse("set SOURCE to another commit's image, or remove the claim in the config repo by hand once nobody can have pulled the tag",
			"%v, and that image is gone", taken)
	}
	w.log.Info("the tag is claimed for another image: that one is handed over", "tag", taken.Claim.Tag, "claimed", taken.Have, "built", asked.Digest)
	return origin{Image: image, name: asked.name}, nil
}
