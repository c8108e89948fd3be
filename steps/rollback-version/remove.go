package main

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// delete is the second stage: nothing runs the version any more, and it is taken out of the registry. The order is tombstones, tags,
// versions, parents before children, so that a run that dies leaves a state from which the next one goes on.
func (w *work) delete(ctx context.Context, s *subject, out Out) (Out, error) {
	if err := w.unused(ctx, s, &out); err != nil {
		return out, err
	}
	if !w.in.Delete {
		return out, step.Nothing("DELETE=false: %s stays in the registry, and the hold keeps it back", w.in.Version)
	}
	immutable, err := w.catalog.immutable(ctx)
	if err != nil {
		return out, err
	}
	if immutable {
		return out, step.Nothing("the tags of %s are immutable, so nothing can be deleted; the hold keeps %s back", w.in.Image, w.in.Version)
	}
	whole := true
	switch {
	case len(s.siblings) > 0 && !w.in.ForceDigest:
		w.b.Log.Info("other tags are on the same image: only the tag is taken off", "tags", strings.Join(s.siblings, ","))
		whole = false
	case slices.ContainsFunc(s.outside(), func(index string) bool { return slices.Contains(s.lists[index], s.digest) }):
		w.b.Log.Info("another index lists the image: only the tag is taken off", "indexes", strings.Join(s.outside(), ","))
		whole = false
	}
	if whole {
		if w.backup == nil {
			return out, step.Refuse("set BACKUP, or DELETE=false", "there is no backup of %s: an image that is deleted is gone", s.digest)
		}
		if err := w.secure(ctx, s, &out); err != nil {
			return out, err
		}
	}
	tags, versions, err := w.doomed(ctx, s, whole)
	if err != nil {
		return out, err
	}
	if w.b.DryRun {
		out.Deleted = Deleted{append([]string{}, tags...), append([]string{}, versions...)}
		w.b.Text(fmt.Sprintf("%s\n  would delete the tags     %s\n  would delete the versions %s", w.in.Image, strings.Join(tags, " "), strings.Join(versions, " ")))
		return out, nil
	}
	if err := w.bury(ctx, s, tags, &out); err != nil {
		return out, err
	}
	for _, tag := range tags {
		if err := w.catalog.deleteTag(ctx, tag); err != nil {
			return out, step.WithReport(err)
		}
		out.Deleted.Tags = append(out.Deleted.Tags, tag)
		w.b.Log.Info("tag deleted", "tag", tag)
	}
	for _, digest := range versions {
		if err := w.catalog.deleteVersion(ctx, digest); err != nil {
			return out, step.WithReport(err)
		}
		out.Deleted.Versions = append(out.Deleted.Versions, digest)
		w.b.Log.Info("version deleted", "digest", digest)
	}
	if len(tags)+len(versions) == 0 {
		return out, step.Nothing("nothing of %s is left to delete", w.in.Version)
	}
	return out, nil
}

// unused refuses while the version may still run somewhere.
func (w *work) unused(ctx context.Context, s *subject, out *Out) error {
	h, ran, err := w.b.Handover("deploy-helm")
	if err != nil {
		return err
	}
	if ran && h.Status != step.Done && h.Status != step.Empty && !w.in.Force {
		return step.Refuse("mend the deployment and run the build again, or set FORCE=true", "deploy-helm did not succeed in this build (%s): the version may still run", h.Reason)
	}
	snapshot, err := gitrepo.Open(ctx, w.remote, w.in.ConfigBranch)
	if err != nil {
		return err
	}
	p, err := newPlan(snapshot, w.in, s)
	if err != nil {
		return err
	}
	slices.Sort(p.live)
	out.Previous = strings.Join(slices.DeleteFunc(p.live, func(tag string) bool { return tag == w.in.Version.String() }), ",")
	for _, r := range p.returned {
		out.Left = append(out.Left, Place{r.File, r.Line, r.Account, "it is on " + r.From})
	}
	out.Left = append(out.Left, p.left...)
	if p.held {
		out.Hold = path.Join(w.in.ConfigPath, w.in.Holds)
	}
	switch {
	case w.in.Force:
		for _, l := range out.Left {
			w.b.Log.Warn(fmt.Sprintf("FORCE: still in use at %s:%d", l.File, l.Line), "account", l.Account, "reason", l.Reason)
		}
		return nil
	case len(out.Left) > 0:
		l := out.Left[0]
		return step.Refuse("run STAGE=return and deploy, or set FORCE=true to delete all the same",
			"%d places of the config repo still name the image (the first is %s:%d: %s)", len(out.Left), l.File, l.Line, l.Reason)
	case !p.held:
		return step.Refuse("run STAGE=return before, or set FORCE=true to delete all the same", "%s is not held: automation could select it again", w.in.Version)
	}
	return nil
}

// secure proves the backup. What the registry has lost already is taken from it, so that a deletion that was interrupted is finished.
func (w *work) secure(ctx context.Context, s *subject, out *Out) error {
	if w.b.DryRun {
		w.tellBackup(s)
		return nil
	}
	var err error
	if out.Backup, out.Proven, err = w.backUp(ctx, s); err != nil {
		return err
	}
	return w.findIndexes(ctx, s)
}

// doomed lists what is to be deleted, in order: tags, then versions, parents before what they list. What another image needs stays, with
// all that is attached to it.
func (w *work) doomed(ctx context.Context, s *subject, whole bool) (tags, versions []string, err error) {
	version := w.in.Version.String()
	if s.names[version] == s.digest {
		tags = append(tags, version)
	}
	if !whole {
		return tags, nil, nil
	}
	kept := map[string]bool{}
	keep := func(digest string) error {
		b, found, err := registry.Collect(ctx, w.source, digest, s.names)
		if err != nil || !found {
			return err
		}
		for _, p := range b.Parts {
			if p.Digest != s.digest {
				kept[p.Digest] = true
			}
		}
		return nil
	}
	for _, members := range s.lists {
		for _, d := range members {
			if err := keep(d); err != nil {
				return nil, nil, err
			}
		}
	}
	for tag, on := range s.names { // a child with a tag of its own is an image of its own
		if on != s.digest && s.bundle.Has(on) && !strings.HasPrefix(tag, "sha256-") {
			if err := keep(on); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, tag := range slices.Sorted(maps.Keys(s.names)) {
		if on := s.names[tag]; tag != version && s.bundle.Has(on) && !kept[on] && !registry.IsTombstoneTag(tag) {
			tags = append(tags, tag)
		}
	}
	versions = append(versions, s.stale...)
	for _, p := range slices.Backward(s.bundle.Parts) {
		if kept[p.Digest] {
			continue
		}
		_, there, err := w.source.Resolve(ctx, p.Digest)
		if err != nil {
			return nil, nil, err
		}
		if there {
			versions = append(versions, p.Digest)
		}
	}
	return tags, versions, nil
}

// bury writes a tombstone for every release or build tag that is to go.
func (w *work) bury(ctx context.Context, s *subject, tags []string, out *Out) error {
	for _, tag := range tags {
		if strings.HasPrefix(tag, "sha256-") { // an attachment's: it names the digest, and comes back with it
			continue
		}
		stone := registry.Tombstone{Tag: tag, Digest: s.names[tag], Time: time.Now().UTC().Truncate(time.Second), Reason: w.in.Reason, Build: w.b.ID}
		state, err := w.client.Bury(ctx, w.in.Image.String(), stone)
		if err != nil {
			return err
		}
		if tag == w.in.Version.String() {
			out.Tombstone = "deleted-" + tag
		}
		w.b.Log.Info("tombstone "+string(state), "tag", tag, "digest", stone.Digest)
	}
	return nil
}
