package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
)

const tagPrefix = "refs/tags/"

// fetcher is an open conversation with a remote that has listed its references.
type fetcher struct {
	remote  Remote
	session transport.UploadPackSession
	adv     *packp.AdvRefs
}

// openRemote asks a remote for its references. The list says what every tag peels to, so no tag object is ever fetched.
func openRemote(ctx context.Context, r Remote) (*fetcher, error) {
	ep, err := transport.NewEndpoint(r.URL)
	if err != nil {
		return nil, &HistoryError{Err: errors.New("the address of the repository cannot be read"), Cure: cureDepth, Config: true}
	}
	session, err := githttp.DefaultClient.NewUploadPackSession(ep, r.auth())
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", r.URL, err)
	}
	adv, err := session.AdvertisedReferencesContext(ctx)
	if err != nil {
		return nil, explainRemote(r, fmt.Errorf("listing the references of %s: %w", r.URL, err))
	}
	return &fetcher{remote: r, session: session, adv: adv}, nil
}

// explainRemote adds what the reader can do. Hosting services do not tell a repository that is private from one that does not exist.
func explainRemote(r Remote, err error) error {
	cure := "try again; if it stays so, check that this build can reach the host"
	switch {
	case errors.Is(err, transport.ErrAuthenticationRequired) && r.Token.IsZero():
		cure = "the repository is private: give a token that may read it as GIT_TOKEN (secretEnv)"
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		cure = "GIT_TOKEN was not accepted: it must not be expired and must be allowed to read the contents of this repository"
	case errors.Is(err, transport.ErrRepositoryNotFound) && r.Token.IsZero():
		cure = "check the address; hosting services also answer so when a repository is private: then give a token as GIT_TOKEN (secretEnv)"
	case errors.Is(err, transport.ErrRepositoryNotFound):
		cure = "check the address, and that GIT_TOKEN is allowed to read this repository"
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		cure = "push the first commit, or check the address"
	}
	return &HistoryError{Err: err, Cure: cure}
}

// tags returns the remote's tags that match, each with what it peels to.
func (f *fetcher) tags(match func(string) bool) map[string]plumbing.Hash {
	tags := map[string]plumbing.Hash{}
	for ref, hash := range f.adv.References {
		name, ok := strings.CutPrefix(ref, tagPrefix)
		if !ok || !match(name) {
			continue
		}
		if peeled, ok := f.adv.Peeled[ref]; ok {
			hash = peeled
		}
		tags[name] = hash
	}
	return tags
}

// addTags gives a complete history the remote's tags, for a checkout that was made without them.
func (f *fetcher) addTags(h *History, o HistoryOptions) *History {
	h.hashes, h.Tags = f.tags(o.Match), nil
	for name := range h.hashes {
		h.Tags = append(h.Tags, name)
	}
	slices.Sort(h.Tags)
	h.Fetched = true
	h.Notices = append(h.Notices, fmt.Sprintf("the checkout has no release tags: asked %s, which has %d", f.remote.URL, len(h.Tags)))
	return h
}

// fetch brings the commits of the wanted history into memory.
func (f *fetcher) fetch(ctx context.Context, o HistoryOptions) (*History, error) {
	head, wants, err := f.wants(o)
	if err != nil {
		return nil, err
	}
	req := packp.NewUploadPackRequestFromCapabilities(f.adv.Capabilities)
	req.Wants = wants
	var notices []string
	if f.adv.Capabilities.Supports(capability.Filter) {
		if err := req.Capabilities.Set(capability.Filter); err != nil {
			return nil, fmt.Errorf("asking %s for commits alone: %w", f.remote.URL, err)
		}
		req.Filter = packp.FilterTreeDepth(0)
	} else {
		notices = append(notices, "the server cannot send commits alone (uploadpack.allowFilter), so all files were fetched with them")
	}
	store := memory.NewStorage()
	if err := f.receive(ctx, req, store); err != nil {
		return nil, explainRemote(f.remote, fmt.Errorf("fetching commits from %s: %w", f.remote.URL, err))
	}
	graph, complete, err := walk(ctx, store, head)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the commits that were fetched from %s: %w", f.remote.URL, err)
	case !complete && store.HasEncodedObject(head) != nil:
		return nil, &HistoryError{
			Err:  fmt.Errorf("commit %s is on no branch of %s", head, f.remote.URL),
			Cure: "check COMMIT_SHA and SOURCE_URL; if the branch was deleted or rewritten since, build its new commit",
		}
	case !complete:
		return nil, &HistoryError{
			Err:  fmt.Errorf("the repository %s does not hold the whole history of commit %s itself", f.remote.URL, head),
			Cure: "set SOURCE_URL to a repository that is not shallow",
		}
	}
	h := &History{Head: commits.ID(head), Graph: graph, Fetched: true, Notices: notices, store: store, hashes: f.tags(o.Match)}
	for name := range h.hashes {
		h.Tags = append(h.Tags, name)
	}
	slices.Sort(h.Tags)
	return h, nil
}

// wants decides which commit is meant and what must be asked for to get it. Most servers hand out any commit by its id; for the others,
// which hand out only what a reference points at, all branches are asked for and the commit is looked up among what came.
func (f *fetcher) wants(o HistoryOptions) (plumbing.Hash, []plumbing.Hash, error) {
	refs := f.adv.References
	if o.Commit == "" {
		head, name := plumbing.ZeroHash, "HEAD"
		switch {
		case o.Tag != "":
			name = tagPrefix + o.Tag
			head = refs[name]
			if peeled, ok := f.adv.Peeled[name]; ok {
				head = peeled
			}
		case o.Branch != "":
			name = "refs/heads/" + o.Branch
			head = refs[name]
		case f.adv.Head != nil:
			head = *f.adv.Head
		}
		if head.IsZero() {
			return head, nil, &HistoryError{Err: fmt.Errorf("the repository %s has no %s", f.remote.URL, name), Cure: "check BRANCH_NAME, TAG_NAME and SOURCE_URL"}
		}
		o.Commit = head.String()
	}
	id, err := commits.ParseID(o.Commit)
	if err != nil {
		return plumbing.ZeroHash, nil, err
	}
	head := plumbing.Hash(id)
	byID := f.adv.Capabilities.Supports(capability.AllowReachableSHA1InWant) || f.adv.Capabilities.Supports(capability.Capability("allow-any-sha1-in-want"))
	for _, hash := range refs {
		byID = byID || hash == head
	}
	if byID {
		return head, []plumbing.Hash{head}, nil
	}
	seen := map[plumbing.Hash]bool{}
	for ref, hash := range refs {
		if strings.HasPrefix(ref, "refs/heads/") || strings.HasPrefix(ref, tagPrefix) {
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

// receive sends the request and unpacks the answer into the store.
func (f *fetcher) receive(ctx context.Context, req *packp.UploadPackRequest, store *memory.Storage) (err error) {
	resp, err := f.session.UploadPack(ctx, req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Close()) }()
	var pack io.Reader = resp
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		pack = sideband.NewDemuxer(sideband.Sideband64k, resp)
	case req.Capabilities.Supports(capability.Sideband):
		pack = sideband.NewDemuxer(sideband.Sideband, resp)
	}
	return packfile.UpdateObjectStorage(store, pack)
}
