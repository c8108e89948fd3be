package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/deepdesk/cloudbuild-steps/internal/policy"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// resolved is what a cluster's Flux controllers chose, read from a file. Nobody else is asked: the registry may be out of reach.
type resolved struct{ list []policy.Resolved }

// maxResolved bounds the file, in bytes. A policy takes about two kilobytes.
const maxResolved = 64 << 20

func readResolved(name string) (*resolved, error) {
	const advice = "set RESOLVED to a file that `kubectl get imagepolicies -A -o yaml` printed"
	f, err := os.Open(name)
	if err != nil {
		return nil, step.Misconfigured(advice, "reading RESOLVED: %w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxResolved+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading RESOLVED: %w", err)
	case len(text) > maxResolved:
		return nil, step.Misconfigured(advice, "%s is larger than %d MiB", name, maxResolved>>20)
	}
	list, err := policy.ParseResolved(text)
	if err != nil {
		return nil, step.Misconfigured(advice, "%s: %w", name, err)
	}
	for _, r := range list {
		var image step.Image
		if err := image.UnmarshalText([]byte(r.Image)); err != nil {
			return nil, step.Misconfigured(advice, "%s: ImagePolicy %s: image %q: %w", name, r.ID(), r.Image, err)
		}
		if !tagPattern.MatchString(r.Tag) || r.Digest != "" && !registry.IsDigest(r.Digest) {
			return nil, step.Misconfigured(advice, "%s: ImagePolicy %s: %q is no tag, or %q no digest", name, r.ID(), r.Tag, r.Digest)
		}
	}
	return &resolved{list}, nil
}

func (r *resolved) candidates(set policy.Set) []*candidate {
	var list []*candidate
	for _, x := range r.list {
		c := &candidate{policy: x.Policy, repository: policy.Repository{Image: x.Image}, digest: x.Digest}
		c.choice = Choice{Policy: x.ID(), Image: x.Image, Tag: x.Tag, Equal: []string{}, Passed: []string{}}
		if x.Doubt != "" {
			c.doubt = "the cluster may have chosen this some time ago: " + x.Doubt
		}
		switch inRepo, _ := set.Find(x.ID()); {
		case x.Suspended:
			c.suspended = "is suspended"
		case inRepo.Suspended:
			c.suspended = "is suspended in the config repo"
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *candidate) int { return cmp.Compare(a.policy.ID(), b.policy.ID()) })
	return list
}

// choose has only to look at the holds: the cluster chose, and does not know them.
func (*resolved) choose(all []*candidate, barred func(target) (string, error)) error {
	for _, c := range all {
		reason, err := barred(target{image: c.choice.Image, tag: c.choice.Tag, digest: c.digest})
		if err != nil {
			return err
		}
		c.nothing = reason
	}
	return nil
}

// confirm has nothing to add to the digest that the cluster names, if it names one.
func (r *resolved) confirm(t *target) error { return nil }

// lacks is false: a cluster does not say which tags there are.
func (*resolved) lacks(string, string) bool { return false }
