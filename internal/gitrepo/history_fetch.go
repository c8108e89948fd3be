package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

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
	if err != nil && strings.Contains(err.Error(), "object-format=sha256") { // go-git trips over the first line of the list and quotes it
		return remoteHistory{}, errSHA256.history()
	}
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
func (r remoteHistory) addTags(h *History, o HistoryOptions) {
	h.hashes, h.Tags = r.tags(o.Match)
	h.Fetched = true
	h.Notices = append(h.Notices, fmt.Sprintf("the checkout has no release tags: asked %s, which has %d", r.c.remote.URL, len(h.Tags)))
}

// history brings the commits of the wanted history.
func (r remoteHistory) history(ctx context.Context, o HistoryOptions) (_ *History, err error) {
	head, wants, err := r.wants(o)
	if err != nil {
		return nil, err
	}
	heads := []commits.ID{commits.ID(head)}
	var base commits.ID
	if o.Base != "" {
		tip, ok := r.branch(o.Base)
		if !ok {
			return nil, &HistoryError{Err: &MissingError{URL: r.c.remote.URL, Ref: branchRef(o.Base)}, Cure: "check _BASE_BRANCH and SOURCE_URL"}
		}
		base, wants = commits.ID(tip), append(wants, tip)
		heads = append(heads, base)
	}
	req := packp.NewUploadPackRequestFromCapabilities(r.refs.Capabilities)
	req.Wants = wants
	filtered := r.refs.Capabilities.Supports(capability.Filter)
	if filtered {
		if err := req.Capabilities.Set(capability.Filter); err != nil {
			return nil, fmt.Errorf("asking %s for commits alone: %w", r.c.remote.URL, err)
		}
		if req.Filter = packp.FilterTreeDepth(0); o.Folders {
			req.Filter = packp.FilterBlobNone()
		}
	}
	absent := &HistoryError{
		Err:  fmt.Errorf("%s has no commit %s", r.c.remote.URL, head),
		Cure: "check COMMIT_SHA and SOURCE_URL; if the branch was deleted or rewritten since, build its new commit",
	}
	p, size, err := r.receivePack(ctx, req, !filtered, func(kind plumbing.ObjectType) bool {
		return kind == plumbing.CommitObject || kind == plumbing.TagObject || kind == plumbing.TreeObject && o.Folders
	})
	if err != nil {
		if ctx.Err() == nil && strings.Contains(err.Error(), "not our ref") {
			return nil, absent
		}
		return nil, r.c.wrap(err, false)
	}
	store := &objects{packs: []*pack{p}}
	defer func() {
		if err != nil {
			err = errors.Join(err, store.Close())
		}
	}()
	graph, complete, err := walk(ctx, store, heads...)
	if err != nil {
		return nil, fmt.Errorf("reading the commits that were fetched from %s: %w", r.c.remote.URL, err)
	}
	if !complete {
		if _, ok := p.find(head); !ok {
			return nil, absent
		}
		return nil, &HistoryError{
			Err:  fmt.Errorf("the repository %s does not hold the whole history of commit %s itself", r.c.remote.URL, head),
			Cure: "set SOURCE_URL to a repository that is not shallow",
		}
	}
	h := &History{Head: heads[0], Base: base, Graph: graph, Fetched: true, store: store}
	if !filtered {
		h.Notices = append(h.Notices, fmt.Sprintf("the server cannot send commits alone (uploadpack.allowFilter), so all files were fetched with them: "+
			"%.1f MB, into a temporary file", float64(size)/1e6))
	}
	h.hashes, h.Tags = r.tags(o.Match)
	return h, nil
}

const (
	// maxHistory bounds the pack of a history, in bytes.
	maxHistory = 16 << 30
	// maxInMemory is how much of it is held in memory; what is larger goes into a file. The commits of git itself, 82,000, are 25 MB.
	maxInMemory = 32 << 20
)

// receivePack sends a request and returns the pack of the answer, indexed, and its size in bytes. A pack that is expected to be large goes
// into a temporary file at once. The file has no name by the time that anything is written to it, so nothing is left of it however this
// program ends.
func (r *reader) receivePack(ctx context.Context, req *packp.UploadPackRequest, large bool, wanted func(plumbing.ObjectType) bool) (_ *pack, size int64, err error) {
	answer, err := r.session.UploadPack(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, answer.Close()) }()
	in := io.LimitReader(demux(req, answer), maxHistory)
	var mem bytes.Buffer
	if !large {
		switch size, err = io.CopyN(&mem, in, maxInMemory); {
		case errors.Is(err, io.EOF):
			p, err := indexed(bytes.NewReader(mem.Bytes()), nil, size, wanted)
			return p, size, err
		case err != nil:
			return nil, 0, err
		}
	}
	f, err := os.CreateTemp("", "history-*.pack")
	if err != nil {
		return nil, 0, fmt.Errorf("making a temporary file for the history: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, 0, err
	}
	if size, err = io.Copy(f, io.MultiReader(&mem, in)); err != nil {
		return nil, 0, err
	}
	if size == maxHistory {
		return nil, 0, fmt.Errorf("the pack is larger than %d GiB", maxHistory>>30)
	}
	p, err := indexed(f, f, size, wanted)
	return p, size, err
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
