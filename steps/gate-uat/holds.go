package main

import (
	"fmt"
	"path"

	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/hold"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// readHolds reads the versions that must not be delivered. No file means that there are none.
func readHolds(s *gitrepo.Snapshot, in In) (hold.List, error) {
	raw, _, err := s.ReadFile(in.holdsPath())
	if err != nil {
		return nil, err
	}
	list, err := hold.Parse(raw)
	if err != nil {
		return nil, step.Refuse("correct the file; while it is defective nothing is deployed, because what it holds back is not known", "reading %s: %w", in.holdsPath(), err)
	}
	return list, nil
}

func (in In) holdsPath() string { return path.Join(in.ConfigPath, in.Holds) }

// holdOn is the hold on the version, or on its image under another name, in words; empty when there is none.
func (in In) holdOn(holds hold.List, digest string) string {
	h, held := holds.Find(in.service(), in.Version.String(), digest)
	switch {
	case !held:
		return ""
	case h.Service != in.service() || h.Version != in.Version.String():
		return fmt.Sprintf("%s:%d: %s has the digest of a version that is held: %s", in.holdsPath(), h.Line, in.Version, h)
	}
	return fmt.Sprintf("%s:%d: %s", in.holdsPath(), h.Line, h)
}

// tellHolds names the versions of the service that are held back, for whoever reads the log.
func (in In) tellHolds(b *step.Build, holds hold.List) {
	for _, h := range holds.Of(in.service()) {
		if h.Version != in.Version.String() {
			b.Log.Info("another version is held back: "+h.String(), "file", fmt.Sprintf("%s:%d", in.holdsPath(), h.Line))
		}
	}
}
