package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/deepdesk/cloudbuild-steps/internal/artifactregistry"
	"github.com/deepdesk/cloudbuild-steps/internal/policy"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// scanner evaluates the policies of the config repo against the registry. It asks for each image once, however often the plan is made anew:
// a race for a branch takes seconds, and what was pushed meanwhile has a build of its own.
type scanner struct {
	list    func(image string) ([]string, error)
	resolve func(image, tag string) (digest string, found bool, err error)

	tags    map[string]map[string]bool // by image: all of its tags
	lists   map[string][]string        // by image: the same in the registry's order
	digests map[string]string          // by image:tag
}

// newScanner connects to the registries: Artifact Registry through its own API, since its Docker endpoint cuts long lists without saying so,
// and all others through Docker's protocol.
func newScanner(ctx context.Context, b *step.Build, in In) *scanner {
	client := registry.New(in.Insecure, registry.WithNotice(func(text string) { b.Log.Warn(text) }))
	api := artifactregistry.New(in.Endpoint)
	return &scanner{
		list: func(image string) ([]string, error) {
			p, google, err := artifactregistry.Parse(image)
			if google && (p.Location != artifactregistry.Loopback || in.Endpoint != "") {
				if err != nil {
					return nil, step.Misconfigured("correct spec.image of its ImageRepository", "%w", err)
				}
				return api.TagsOf(ctx, p)
			}
			return client.TagsOf(ctx, image)
		},
		resolve: func(image, tag string) (string, bool, error) {
			found, ok, err := client.Resolve(ctx, image, tag)
			return found.Digest, ok, err
		},
		tags: map[string]map[string]bool{}, lists: map[string][]string{}, digests: map[string]string{},
	}
}

func (*scanner) candidates(set policy.Set) []*candidate {
	var list []*candidate
	for _, q := range set.Policies {
		c := &candidate{policy: q}
		r, ok := set.Repository(q)
		c.repository, c.dangling = r, !ok
		switch {
		case q.Suspended:
			c.suspended = "is suspended"
		case r.Suspended:
			c.suspended = "chooses from ImageRepository " + r.ID() + ", which is suspended"
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *candidate) int { return cmp.Compare(a.policy.ID(), b.policy.ID()) })
	return list
}

func (s *scanner) choose(asked []*candidate, barred func(target) (string, error)) error {
	missing := map[string]bool{}
	for _, c := range asked {
		image := c.repository.Image
		var valid step.Image
		if err := valid.UnmarshalText([]byte(image)); err != nil {
			return step.Misconfigured("correct spec.image", "ImageRepository %s: image %q: %w", c.repository.ID(), image, err)
		}
		if _, known := s.lists[image]; !known {
			missing[image] = true
		}
	}
	if err := s.listAll(slices.Sorted(maps.Keys(missing))); err != nil {
		return err
	}
	for _, c := range asked {
		image := c.repository.Image
		kept := c.repository.Keep(s.lists[image])
		choice, err := c.policy.Choose(kept)
		passed := []string{}
		for admitted := choice.Admitted; err == nil; choice.Admitted = admitted {
			reason, failed := barred(target{image: image, tag: choice.Tag})
			if failed != nil {
				return failed
			}
			if reason == "" {
				break
			}
			passed = append(passed, reason)
			kept = slices.DeleteFunc(kept, func(tag string) bool { return tag == choice.Tag })
			choice, err = c.policy.Choose(kept)
		}
		c.choice = Choice{
			Policy: c.policy.ID(), Image: image, Tag: choice.Tag, Equal: append([]string{}, choice.Equal...), Passed: passed,
			Tags: len(s.lists[image]), Admitted: choice.Admitted,
		}
		switch {
		case errors.Is(err, policy.ErrNoTag) && len(passed) > 0:
			c.nothing = passed[len(passed)-1]
		case errors.Is(err, policy.ErrNoTag) && len(kept) == 0:
			c.nothing = image + " has no tags"
		case errors.Is(err, policy.ErrNoTag):
			_, reason := c.policy.Admits(kept[len(kept)-1])
			c.nothing = fmt.Sprintf("none of the %d tags of %s qualifies (such as: %s)", len(kept), image, reason)
		case err != nil:
			return fmt.Errorf("evaluating policy %s: %w", c.policy.ID(), err)
		}
	}
	return nil
}

// atOnce is how many images are listed at the same time. Artifact Registry grants a thousand requests a second to a project.
const atOnce = 8

// listAll reads the tags of all images. One that cannot be read fails the run: what its policies choose is not known.
func (s *scanner) listAll(images []string) error {
	var (
		workers sync.WaitGroup
		next    = make(chan int)
		lists   = make([][]string, len(images))
		faults  = make([]error, len(images))
	)
	for range min(atOnce, len(images)) {
		workers.Go(func() {
			for i := range next {
				lists[i], faults[i] = s.list(images[i])
			}
		})
	}
	for i := range images {
		next <- i
	}
	close(next)
	workers.Wait()
	for i, image := range images {
		if faults[i] != nil {
			return faults[i]
		}
		lists[i] = slices.DeleteFunc(lists[i], registry.IsTombstoneTag) // the memory of a deleted tag is no image, and a filter may be unanchored
		s.lists[image] = lists[i]
		s.tags[image] = map[string]bool{}
		for _, tag := range lists[i] {
			s.tags[image][tag] = true
		}
	}
	return nil
}

func (s *scanner) confirm(t *target) error {
	reference := t.image + ":" + t.tag
	if _, known := s.digests[reference]; !known {
		digest, found, err := s.resolve(t.image, t.tag)
		if err != nil {
			return err
		}
		if !found {
			return step.WithFix(fmt.Errorf("the registry lists %s and has no image under it", reference),
				"run the step again: the tag may just have been deleted; if it stays so, delete the tag")
		}
		s.digests[reference] = digest
	}
	t.digest = s.digests[reference]
	return nil
}

func (s *scanner) lacks(image, tag string) bool { return !s.tags[image][tag] }
