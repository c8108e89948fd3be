package gitrepo

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
)

const tagRef = "refs/tags/"

// remoteHistory is a remote that has listed its references. The list says what every tag peels to, so no tag object is ever fetched.
type remoteHistory struct{ *reader }

func openRemote(ctx context.Context, remote Remote) (remoteHistory, error) {
	c, err := remote.connect()
	if err != nil {
		return remoteHistory{}, err
	}
	r, err := c.read(ctx)
	if err != nil {
		return remoteHistory{}, err
	}
	if r.refs.IsEmpty() {
		return remoteHistory{}, &HistoryError{Err: &MissingError{URL: remote.URL, Ref: "commit", Empty: true}, Cure: "push the first commit, or check the address"}
	}
	return remoteHistory{r}, nil
}

// tags returns the remote's tags that match, each with what it peels to, and their names.
func (r remoteHistory) tags(match func(string) bool) (map[string]plumbing.Hash, []string) {
	tags := map[string]plumbing.Hash{}
	var names []string
	for ref, hash := range r.refs.References {
		name, ok := strings.CutPrefix(ref, tagRef)
		if !ok || !match(name) {
			continue
		}
		if peeled, ok := r.refs.Peeled[ref]; ok {
			hash = peeled
		}
		tags[name] = hash
		names = append(names, name)
	}
	slices.Sort(names)
	return tags, names
}

// addTags gives a complete history the remote's tags, for a checkout that was made without them.
func (r remoteHistory) addTags(h *History, o HistoryOptions) *History {
	h.hashes, h.Tags = r.tags(o.Match)
	h.Fetched = true
	h.Notices = append(h.Notices, fmt.Sprintf("the checkout has no release tags: asked %s, which has %d", r.c.remote.URL, len(h.Tags)))
	return h
}

// history brings the commits of the wanted history into memory.
func (r remoteHistory) history(ctx context.Context, o HistoryOptions) (*History, error) {
	head, wants, err := r.wants(o)
	if err != nil {
		return nil, err
	}
	req := packp.NewUploadPackRequestFromCapabilities(r.refs.Capabilities)
	req.Wants = wants
	var notices []string
	if r.refs.Capabilities.Supports(capability.Filter) {
		if err := req.Capabilities.Set(capability.Filter); err != nil {
			return nil, fmt.Errorf("asking %s for commits alone: %w", r.c.remote.URL, err)
		}
		req.Filter = packp.FilterTreeDepth(0)
	} else {
		notices = append(notices, "the server cannot send commits alone (uploadpack.allowFilter), so all files were fetched with them")
	}
	store := memory.NewStorage()
	absent := &HistoryError{
		Err:  fmt.Errorf("%s has no commit %s", r.c.remote.URL, head),
		Cure: "check COMMIT_SHA and SOURCE_URL; if the branch was deleted or rewritten since, build its new commit",
	}
	if err := r.receive(ctx, store, req); err != nil {
		if ctx.Err() == nil && strings.Contains(err.Error(), "not our ref") {
			return nil, absent
		}
		return nil, r.c.wrap(err, false)
	}
	graph, complete, err := walk(ctx, store, head)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the commits that were fetched from %s: %w", r.c.remote.URL, err)
	case !complete && store.HasEncodedObject(head) != nil:
		return nil, absent
	case !complete:
		return nil, &HistoryError{
			Err:  fmt.Errorf("the repository %s does not hold the whole history of commit %s itself", r.c.remote.URL, head),
			Cure: "set SOURCE_URL to a repository that is not shallow",
		}
	}
	h := &History{Head: commits.ID(head), Graph: graph, Fetched: true, Notices: notices, store: store}
	h.hashes, h.Tags = r.tags(o.Match)
	return h, nil
}

// wants decides which commit is meant and what must be asked for to get it. Most servers hand out any commit by its id; for the others,
// which hand out only what a reference points at, all branches are asked for and the commit is looked up among what came.
func (r remoteHistory) wants(o HistoryOptions) (plumbing.Hash, []plumbing.Hash, error) {
	refs := r.refs.References
	if o.Commit == "" {
		head, name := plumbing.ZeroHash, "HEAD"
		switch {
		case o.Tag != "":
			name = tagRef + o.Tag
			head = refs[name]
			if peeled, ok := r.refs.Peeled[name]; ok {
				head = peeled
			}
		case o.Branch != "":
			name = "refs/heads/" + o.Branch
			head = refs[name]
		case r.refs.Head != nil:
			head = *r.refs.Head
		}
		if head.IsZero() {
			return head, nil, &HistoryError{Err: &MissingError{URL: r.c.remote.URL, Ref: name}, Cure: "check BRANCH_NAME, TAG_NAME and SOURCE_URL"}
		}
		o.Commit = head.String()
	}
	id, err := commits.ParseID(o.Commit)
	if err != nil {
		return plumbing.ZeroHash, nil, err
	}
	head := plumbing.Hash(id)
	byID := r.refs.Capabilities.Supports(capability.AllowReachableSHA1InWant) || r.refs.Capabilities.Supports(capability.Capability("allow-any-sha1-in-want"))
	for _, hash := range refs {
		byID = byID || hash == head
	}
	if byID {
		return head, []plumbing.Hash{head}, nil
	}
	seen := map[plumbing.Hash]bool{}
	for ref, hash := range refs {
		if strings.HasPrefix(ref, "refs/heads/") || strings.HasPrefix(ref, tagRef) {
			seen[hash] = true
		}
	}
	var wants []plumbing.Hash
	for hash := range seen {
		wants = append(wants, hash)
	}
	slices.SortFunc(wants, func(a, b plumbing.Hash) int { return slices.Compare(a[:], b[:]) })
	return head, wants, nil
}
