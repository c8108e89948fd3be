package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/deepdesk/cloudbuild-steps/internal/artifactregistry"
	"github.com/deepdesk/cloudbuild-steps/internal/github"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// work is one run of the step.
type work struct {
	b       *step.Build
	in      In
	client  *registry.Client
	source  *registry.Repository
	backup  registry.Store // nil without BACKUP
	catalog catalog
	remote  gitrepo.Remote
	key     gitrepo.SigningKey // signs the commit
}

func newWork(b *step.Build, in In) (*work, error) {
	w := &work{
		b: b, in: in, client: registry.New(in.Insecure, registry.ForPush(), registry.MountingFrom(in.Image.String()), registry.WithNotice(func(text string) { b.Log.Warn(text) })),
		remote: gitrepo.Remote{URL: in.ConfigURL.String(), Username: in.GitUsername, Token: in.GitToken, Renew: github.App(in.GitHubApp).Tokens(github.WriteContents)},
	}
	var err error
	if w.key, err = gitrepo.ParseSigningKey(in.SigningKey); err != nil {
		return nil, fmt.Errorf("reading SIGNING_KEY: %w", err)
	}
	if w.backup, err = w.client.Open(string(in.Backup), in.Backup.IsFolder()); err != nil {
		return nil, err
	}
	if w.source, err = w.client.Repository(in.Image.String()); err != nil {
		return nil, err
	}
	w.catalog = plain{w.source}
	host, _, _ := strings.Cut(in.Image.String(), "/")
	if pkg, ours, err := artifactregistry.Parse(in.Image.String()); ours && (in.Endpoint != "" || strings.HasSuffix(host, ".pkg.dev")) {
		if err != nil {
			return nil, step.Misconfigured("correct IMAGE", "%w", err)
		}
		w.catalog = google{artifactregistry.New(in.Endpoint), pkg}
	}
	return w, nil
}

// catalog is what a registry knows about a repository beyond Docker's protocol, and its way to delete.
type catalog interface {
	// names says what each tag is on.
	names(ctx context.Context) (map[string]string, error)
	// indexes lists the digests that may be indexes, with or without a tag.
	indexes(ctx context.Context, names map[string]string) ([]string, error)
	immutable(ctx context.Context) (bool, error)
	deleteTag(ctx context.Context, tag string) error
	deleteVersion(ctx context.Context, digest string) error
}

// google is Artifact Registry's API.
type google struct {
	api *artifactregistry.Client
	pkg artifactregistry.Package
}

func (g google) names(ctx context.Context) (map[string]string, error) { return g.api.Tags(ctx, g.pkg) }

func (g google) indexes(ctx context.Context, _ map[string]string) ([]string, error) {
	versions, err := g.api.Versions(ctx, g.pkg)
	var list []string
	for _, v := range versions {
		if v.MediaType == "" || strings.Contains(v.MediaType, "index") || strings.Contains(v.MediaType, "manifest.list") {
			list = append(list, v.Digest)
		}
	}
	return list, err
}

func (g google) immutable(ctx context.Context) (bool, error) { return g.api.Immutable(ctx, g.pkg) }

func (g google) deleteTag(ctx context.Context, tag string) error {
	return g.api.DeleteTag(ctx, g.pkg, tag)
}

func (g google) deleteVersion(ctx context.Context, digest string) error {
	return g.api.DeleteVersion(ctx, g.pkg, digest)
}

// plain is any other registry. It cannot list what has no tag, and has no setting to ask for.
type plain struct{ repository *registry.Repository }

func (p plain) names(ctx context.Context) (map[string]string, error) {
	return registry.Names(ctx, p.repository)
}

func (p plain) indexes(_ context.Context, names map[string]string) ([]string, error) {
	return slices.Compact(slices.Sorted(maps.Values(names))), nil
}

func (plain) immutable(context.Context) (bool, error) { return false, nil }

func (p plain) deleteTag(ctx context.Context, tag string) error { return p.repository.Delete(ctx, tag) }

func (p plain) deleteVersion(ctx context.Context, digest string) error {
	return p.repository.Delete(ctx, digest)
}

// subject is the image that is taken back, and what the registry has to do with it.
type subject struct {
	digest   string
	names    map[string]string   // tag → digest, of the whole repository
	present  bool                // the image is in the registry
	bundle   registry.Bundle     // if present
	siblings []string            // other tags on the image
	lists    map[string][]string // index outside the bundle → members of the bundle that it lists
	stale    []string            // superseded lists of referrers: without a tag, and all that they list is the bundle's
}

// outside lists the indexes that are no part of the image and list parts of it.
func (s *subject) outside() []string { return slices.Sorted(maps.Keys(s.lists)) }

// find looks the image up. When the tag is gone, its tombstone or the hold says what it was on: this step was here before.
func (w *work) find(ctx context.Context) (*subject, error) {
	version := w.in.Version.String()
	s := &subject{}
	var err error
	if s.names, err = w.catalog.names(ctx); err != nil {
		return nil, err
	}
	s.digest = s.names[version]
	if s.digest == "" {
		if s.digest, err = w.remembered(ctx); err != nil {
			return nil, err
		}
	}
	for tag, on := range s.names {
		if on == s.digest && tag != version && !registry.IsTombstoneTag(tag) && !strings.HasPrefix(tag, "sha256-") {
			s.siblings = append(s.siblings, tag)
		}
	}
	slices.Sort(s.siblings)
	if s.bundle, s.present, err = registry.Collect(ctx, w.source, s.digest, s.names); err != nil {
		return nil, err
	}
	return s, w.findIndexes(ctx, s)
}

// remembered returns the digest of a version whose tag is gone.
func (w *work) remembered(ctx context.Context) (string, error) {
	version := w.in.Version.String()
	stone, found, err := w.client.Tombstone(ctx, w.in.Image.String(), version)
	if err != nil || found {
		return stone.Digest, err
	}
	snapshot, err := gitrepo.Open(ctx, w.remote, w.in.ConfigBranch)
	if err != nil {
		return "", err
	}
	list, _, err := w.in.holds(snapshot)
	if err != nil {
		return "", err
	}
	if h, held := list.Find(w.in.service(), version, ""); held && h.Digest != "" {
		return h.Digest, nil
	}
	return "", step.Refuse("check VERSION and IMAGE", "%s has no tag %s, and nothing remembers one: no tombstone in the registry and no hold in the config repo",
		w.in.Image, version)
}

// findIndexes finds the indexes that list parts of the image and are no part of it.
func (w *work) findIndexes(ctx context.Context, s *subject) error {
	s.lists, s.stale = map[string][]string{}, nil
	if len(s.bundle.Parts) == 0 {
		return nil
	}
	candidates, err := w.catalog.indexes(ctx, s.names)
	if err != nil {
		return err
	}
	tagged := slices.Collect(maps.Values(s.names))
	var mu sync.Mutex
	return each(ctx, candidates, func(digest string) error {
		if s.bundle.Has(digest) {
			return nil
		}
		image, found, err := w.source.Resolve(ctx, digest)
		if err != nil || !found {
			return err
		}
		members, all, err := registry.Listed(image)
		if err != nil {
			return fmt.Errorf("reading %s of %s: %w", digest, w.source, err)
		}
		ours := slices.DeleteFunc(members, func(d string) bool { return !s.bundle.Has(d) })
		mu.Lock()
		defer mu.Unlock()
		switch {
		case len(ours) == 0:
		case len(ours) == all && !slices.Contains(tagged, digest) && !slices.Contains(ours, s.digest) && referrersOnly(s.bundle, ours):
			s.stale = append(s.stale, digest)
		default:
			s.lists[digest] = ours
		}
		return nil
	})
}

// referrersOnly reports whether none of the digests is a child of the image itself: then an index of them is a list of referrers.
func referrersOnly(b registry.Bundle, digests []string) bool {
	for _, p := range b.Parts {
		if p.Digest == b.Root.Digest && slices.ContainsFunc(digests, func(d string) bool { return slices.Contains(p.Children, d) }) {
			return false
		}
	}
	return true
}

// each calls f for every item, eight at a time.
func each(ctx context.Context, items []string, f func(string) error) error {
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		first error
		slots = make(chan struct{}, 8)
	)
	for _, item := range items {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if err := f(item); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
				}
			}
		})
	}
	all.Wait()
	if first == nil {
		first = ctx.Err()
	}
	return first
}

// tell reports what names the image.
func (w *work) tell(s *subject) {
	w.b.Log.Info("image found", "version", w.in.Version.String(), "digest", s.digest, "in_registry", s.present, "manifests", len(s.bundle.Parts), "bytes", s.bundle.Bytes())
	for _, tag := range s.siblings {
		w.b.Log.Info("another tag is on the same image", "tag", tag)
	}
	for _, index := range s.outside() {
		w.b.Log.Info("another index lists parts of it, which stay", "index", index, "parts", len(s.lists[index]))
	}
}

// tellBackup is what a dry run says about the backup.
func (w *work) tellBackup(s *subject) {
	if w.backup != nil && s.present {
		w.b.Log.Info("would back up", "backup", w.backup.String(), "manifests", len(s.bundle.Parts), "bytes", s.bundle.Bytes(), "tags", len(s.bundle.Tags))
	}
}

// backUp copies the image to BACKUP and proves the copy.
func (w *work) backUp(ctx context.Context, s *subject) (where string, proven int64, err error) {
	if w.backup == nil {
		w.b.Log.Warn("BACKUP is not set: there is no backup, and STAGE=delete will not delete the image")
		return "", 0, nil
	}
	if s.present {
		tags := maps.Clone(s.bundle.Tags)
		tags[w.in.Version.String()] = s.digest // it may be off already
		if err := registry.Copy(ctx, w.source, s.bundle, w.backup, tags, true); err != nil {
			return "", 0, fmt.Errorf("backing up to %s: %w", w.backup, err)
		}
	}
	// The backup knows more than the registry when a deletion was interrupted: what was attached under a tag that is off already.
	names, err := registry.Names(ctx, w.backup)
	if err != nil {
		return "", 0, err
	}
	kept, found, err := registry.Collect(ctx, w.backup, s.digest, names)
	switch {
	case err != nil:
		return "", 0, err
	case !found:
		return "", 0, step.Refuse("set BACKUP to where the image was kept", "%s is neither in %s nor in the backup %s", s.digest, w.source, w.backup)
	}
	for _, p := range s.bundle.Parts {
		if !kept.Has(p.Digest) {
			return "", 0, &registry.ProofError{Store: w.backup.String(), Reason: p.Digest + " is there, and nothing leads to it: the registry does not list referrers"}
		}
	}
	s.bundle = kept
	if proven, err = registry.Prove(ctx, w.backup, s.bundle); err != nil {
		return "", 0, err
	}
	w.b.Log.Info("backup proven", "backup", w.backup.String(), "manifests", len(s.bundle.Parts), "bytes", proven)
	return w.backup.String(), proven, nil
}
