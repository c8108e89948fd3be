package main

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/hold"
	"github.com/deepdesk/cloudbuild-steps/internal/marker"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// readHolds reads the holds of one state of the config repo.
func (in In) readHolds(s *gitrepo.Snapshot) (hold.List, error) {
	name := in.holdsPath()
	raw, found, err := s.ReadFile(name)
	if err == nil && found {
		var list hold.List
		if list, err = hold.Parse(raw); err == nil {
			return list, nil
		}
		err = fmt.Errorf("reading %s: %w", name, err)
	}
	if err != nil {
		return nil, step.Refuse("correct the file; while it is defective nothing is written, because what it holds back is not known", "%w", err)
	}
	return nil, nil
}

func (in In) holdsPath() string { return path.Join(in.ConfigPath, in.Holds) }

// serviceOf is the name under which the versions of an image are held.
func (in In) serviceOf(image string) string { return cmp.Or(in.Service, path.Base(image)) }

// holdOn returns the hold on a tag of an image, or on its digest.
func (p *plan) holdOn(image, tag, digest string) (hold.Hold, bool) {
	for _, list := range []hold.List{p.holds, p.target.elsewhere} {
		if h, found := list.Find(p.in.serviceOf(image), tag, digest); found {
			return h, true
		}
	}
	return hold.Hold{}, false
}

// refuseHeld refuses to write a version that is held, whatever else was asked for.
func (p *plan) refuseHeld(policies map[string]tracked) error {
	h, found := p.holdOn(p.target.image, p.target.tag, p.target.digest)
	if !found || p.target.chooser != nil { // where each policy chooses for itself, it passes over what is held
		return nil
	}
	what := ""
	if h.Version != p.target.tag || h.Service != p.in.serviceOf(p.target.image) {
		what = fmt.Sprintf("%s has the digest of a version that is held: ", p.target.tag)
	}
	var selecting []string
	for _, id := range slices.Sorted(maps.Keys(policies)) {
		if policies[id].closed == "" {
			selecting = append(selecting, id)
		}
	}
	follow := ""
	if len(selecting) > 0 {
		follow = " (it would go to the markers of " + few(selecting) + ")"
	}
	return step.Refuse(fmt.Sprintf("deliver another version, or take the hold out of %s (restore-version does)", p.in.holdsPath()),
		"%s:%d: %s%s%s", p.in.holdsPath(), h.Line, what, h, follow)
}

// retreat returns the hold that allows to go back from a tag, or from the digests beside it.
func (p *plan) retreat(image, tag string, markers []marker.Marker) (hold.Hold, bool) {
	if h, found := p.holdOn(image, tag, ""); found {
		return h, true
	}
	for _, m := range markers {
		_, digest := m.Parts()
		if h, found := p.holdOn(image, "", digest); found {
			return h, true
		}
	}
	return hold.Hold{}, false
}

// holdsOf lists the holds of the services that this run is about, for the reader.
func (p *plan) holdsOf() hold.List {
	var list hold.List
	var services []string
	for _, image := range p.subjects {
		service := p.in.serviceOf(image)
		if slices.Contains(services, service) {
			continue
		}
		services = append(services, service)
		list = append(append(list, p.holds.Of(service)...), p.target.elsewhere.Of(service)...)
	}
	return list
}

// barred returns the hold that keeps a tag from being chosen, in words. Holds may name the image and not the tag, so where there are such
// holds the image is read.
func (p *plan) barred(t target) (string, error) {
	h, found := p.holdOn(t.image, t.tag, t.digest)
	named := func(h hold.Hold) bool { return h.Digest != "" }
	if !found && t.digest == "" && (slices.ContainsFunc(p.holds, named) || slices.ContainsFunc(p.target.elsewhere, named)) {
		if err := p.target.chooser.confirm(&t); err != nil {
			return "", err
		}
		h, found = p.holdOn(t.image, t.tag, t.digest)
	}
	if !found {
		return "", nil
	}
	return fmt.Sprintf("%s is passed over: %s:%d: %s", t.tag, p.in.holdsPath(), h.Line, h), nil
}
