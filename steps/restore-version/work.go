package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/github"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/hold"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// work is one run of the step.
type work struct {
	b      *step.Build
	in     In
	client *registry.Client
	target *registry.Repository
	backup registry.Store // nil without BACKUP
	remote gitrepo.Remote
	key    gitrepo.SigningKey // signs the commit
}

func newWork(b *step.Build, in In) (*work, error) {
	options := []registry.Option{registry.ForPush(), registry.WithNotice(func(text string) { b.Log.Warn(text) })}
	if in.Backup != "" && !in.Backup.IsFolder() {
		options = append(options, registry.MountingFrom(string(in.Backup)))
	}
	w := &work{
		b: b, in: in, client: registry.New(in.Insecure, options...),
		remote: gitrepo.Remote{URL: in.ConfigURL.String(), Username: in.GitUsername, Token: in.GitToken, Renew: github.App(in.GitHubApp).Tokens(github.WriteContents)},
	}
	var err error
	if w.key, err = gitrepo.ParseSigningKey(in.SigningKey); err != nil {
		return nil, fmt.Errorf("reading SIGNING_KEY: %w", err)
	}
	if w.backup, err = w.client.Open(string(in.Backup), in.Backup.IsFolder()); err != nil {
		return nil, err
	}
	w.target, err = w.client.Repository(in.Image.String())
	return w, err
}

// wanted finds out which image the version was. All who remember must say the same.
func (w *work) wanted(ctx context.Context) (string, error) {
	version := w.in.Version.String()
	said := map[string]string{} // who says it → digest
	if w.in.Digest != "" {
		said["DIGEST"] = w.in.Digest
	}
	look, err := w.client.Look(ctx, w.in.Image.String(), version)
	if err != nil {
		return "", err
	}
	if look.Exists {
		said["the tag in the registry"] = look.Digest
	}
	if look.Deleted {
		said["the tombstone in the registry"] = look.Stone.Digest
	}
	snapshot, err := gitrepo.Open(ctx, w.remote, w.in.ConfigBranch)
	if err != nil {
		return "", err
	}
	h, held, err := w.held(snapshot)
	if err != nil {
		return "", err
	}
	if held && h.Digest != "" {
		said[fmt.Sprintf("the hold in %s", w.in.Holds)] = h.Digest
	}
	var digest, by string
	for _, who := range slices.Sorted(maps.Keys(said)) {
		if digest != "" && said[who] != digest {
			return "", step.Refuse("find out which image was released, and set DIGEST or correct the hold; nothing was changed",
				"it is not certain which image %s was: %s says %s, and %s says %s", version, by, digest, who, said[who])
		}
		digest, by = said[who], who
	}
	if digest == "" && w.backup != nil { // rolled back by hand, then: the backup alone knows
		image, found, err := w.backup.Resolve(ctx, version)
		if err != nil || found {
			return image.Digest, err
		}
	}
	if digest == "" {
		return "", step.Refuse("check VERSION and IMAGE, set BACKUP, or set DIGEST", "nothing remembers which image %s was: no tag, no tombstone, no hold", version)
	}
	return digest, nil
}

func (w *work) held(s *gitrepo.Snapshot) (hold.Hold, bool, error) {
	raw, _, err := s.ReadFile(w.in.holdsPath())
	if err != nil {
		return hold.Hold{}, false, err
	}
	list, err := hold.Parse(raw)
	if err != nil {
		return hold.Hold{}, false, step.Refuse("correct the file; nothing was changed", "reading %s: %w", w.in.holdsPath(), err)
	}
	h, found := list.Find(w.in.service(), w.in.Version.String(), "")
	return h, found, nil
}

// locate finds the image: in the backup, which has all that belonged to it, else in the registry. from is nil when nothing has to be copied.
func (w *work) locate(ctx context.Context, digest string) (b registry.Bundle, from registry.Store, err error) {
	for _, s := range []registry.Store{w.backup, w.target} {
		if s == nil {
			continue
		}
		names, err := registry.Names(ctx, s)
		if err != nil {
			return b, nil, err
		}
		b, found, err := registry.Collect(ctx, s, digest, names)
		if err != nil {
			return b, nil, err
		}
		if !found {
			continue
		}
		if s == w.backup {
			if _, err := registry.Prove(ctx, s, b); err != nil {
				return b, nil, err
			}
			return b, s, nil
		}
		return b, nil, nil
	}
	if w.backup == nil {
		return b, nil, step.Refuse("set BACKUP to where rollback-version kept it", "%s does not have %s any more", w.in.Image, digest)
	}
	return b, nil, step.Refuse("set BACKUP to where rollback-version kept it", "neither the backup %s nor %s has %s", w.backup, w.in.Image, digest)
}

// restore brings back what is missing and proves the whole. The version's tag comes last: it shows nothing that is not complete.
func (w *work) restore(ctx context.Context, b registry.Bundle, from registry.Store) (tags []string, proven int64, err error) {
	version := w.in.Version.String()
	others := maps.Clone(b.Tags)
	delete(others, version)
	if from != nil {
		if err := registry.Copy(ctx, from, b, w.target, others, false); err != nil {
			return []string{}, 0, err
		}
	}
	state, err := w.client.Tag(ctx, w.in.Image.String(), version, b.Root)
	if err != nil {
		return []string{}, 0, err
	}
	w.b.Log.Info("tag "+string(state), "tag", version, "digest", b.Root.Digest)
	// Attachments may have been renewed since: what is there then is newer than the backup and stays.
	proof := b
	proof.Tags = map[string]string{version: b.Root.Digest}
	for tag, on := range others {
		if there, found, err := w.target.Resolve(ctx, tag); err != nil {
			return []string{}, 0, err
		} else if found && there.Digest == on || !strings.HasPrefix(tag, "sha256-") {
			proof.Tags[tag] = on
		}
	}
	if proven, err = registry.Prove(ctx, w.target, proof); err != nil {
		return []string{}, proven, err
	}
	w.b.Log.Info("restored and proven", "manifests", len(b.Parts), "bytes", proven)
	return slices.Sorted(maps.Keys(proof.Tags)), proven, nil
}

// explain says what the reader can do.
func explain(err error) error {
	if errors.As(err, new(*registry.TagTakenError)) || errors.As(err, new(*registry.DeletedError)) {
		return step.Refuse("a version is restored with the same image or not at all: release a new version instead", "%w", err)
	}
	if errors.As(err, new(*registry.MovedError)) {
		return step.Lost("run the step again: it will say what the tag is on", "%w", err)
	}
	if errors.As(err, new(*registry.ProofError)) {
		return step.WithFix(err, "nothing was restored, and the version stays held: mend the backup, or set BACKUP to another one")
	}
	return err
}

// unlock lifts the hold.
func (w *work) unlock(ctx context.Context) (commit string, lifted bool, err error) {
	now := time.Now()
	result, err := gitrepo.Update(ctx, w.remote, w.in.ConfigBranch, "", func(s *gitrepo.Snapshot) (*gitrepo.Change, error) {
		raw, found, err := s.ReadFile(w.in.holdsPath())
		if err != nil || !found {
			return nil, err
		}
		after, err := hold.Remove(raw, w.in.service(), w.in.Version.String())
		if err != nil {
			return nil, step.Refuse("correct the file and run the step again; the image is back already", "lifting the hold in %s: %w", w.in.holdsPath(), err)
		}
		message := fmt.Sprintf("chore(%s): restore %s\n\nReason: %s\nWho: %s\n", w.in.service(), w.in.Version, strings.Join(strings.Fields(w.in.Reason), " "), w.in.Who)
		if url := w.b.URL(); url != "" {
			message += "Build: " + url + "\n"
		}
		return &gitrepo.Change{Files: map[string][]byte{w.in.holdsPath(): after}, Message: message,
			Author: gitrepo.Signature{Name: w.in.CommitAuthor, Email: w.in.CommitEmail, When: now}, Key: w.key}, nil
	})
	if lost, ok := errors.AsType[*gitrepo.LostRaceError](err); ok {
		return "", false, step.Lost(lost.Fix(), "%w", err)
	}
	if err != nil || !result.Changed {
		return "", false, err
	}
	w.b.Log.Info("hold lifted", "commit", result.Commit)
	return result.Commit, true, nil
}
