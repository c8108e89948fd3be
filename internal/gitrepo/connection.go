package gitrepo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/storage/memory"
)

// Bounds of what is taken from a server.
const (
	maxPack     = 2 << 30 // bytes of one pack
	maxUnsorted = 32 << 20
	maxProgress = 16 << 10
)

var errPackTooLarge = errors.New("the server sends more than this program takes")

// connection speaks Git's smart HTTP protocol with one remote.
//
// It uses go-git's sessions and not its Remote: Remote.Push decides by its own idea of ancestry whether a push may go ahead, reports a
// lost race in five spellings, and walks the whole tree to find out which objects are new, which we know. Remote.Fetch does not tell the
// server that our history is cut off, so that the server leaves out objects that it believes we have.
type connection struct {
	remote    Remote
	transport transport.Transport
}

func (r Remote) connect() (*connection, error) {
	if err := CheckURL(r.URL); err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = time.Minute // a server that hangs must leave time to look whether the push landed
	return &connection{remote: r, transport: githttp.NewClient(&http.Client{Transport: t})}, nil
}

// endpoint is made anew for each session, because a session follows a redirect by changing it.
func (c *connection) endpoint() (*transport.Endpoint, error) {
	ep, err := transport.NewEndpoint(c.remote.URL)
	if err != nil {
		return nil, errors.New("the remote's URL cannot be read") // go-git's error repeats the URL
	}
	return ep, nil
}

// reader is one session of reading, begun by asking for the refs.
type reader struct {
	c       *connection
	session transport.UploadPackSession
	refs    *packp.AdvRefs
	limit   int64 // bytes of a pack; 0: maxPack
}

// read asks the remote for its refs.
func (c *connection) read(ctx context.Context) (*reader, error) {
	ep, err := c.endpoint()
	if err != nil {
		return nil, err
	}
	auth, err := c.remote.auth(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading from %s: %w", c.remote.URL, err)
	}
	session, err := c.transport.NewUploadPackSession(ep, auth)
	if err != nil {
		return nil, fmt.Errorf("reading from %s: %w", c.remote.URL, err)
	}
	refs, err := session.AdvertisedReferencesContext(ctx)
	switch {
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return &reader{c: c, session: session, refs: packp.NewAdvRefs()}, nil
	case err != nil:
		return nil, c.wrap(err, false)
	}
	return &reader{c: c, session: session, refs: refs}, nil
}

func (c *connection) wrap(err error, write bool) error {
	if access := c.accessError(err, write); access != nil {
		return access
	}
	if write {
		return fmt.Errorf("pushing to %s: %w", c.remote.URL, err)
	}
	return fmt.Errorf("reading from %s: %w", c.remote.URL, err)
}

// branch returns the commit that a branch is at, and whether the branch exists.
func (r *reader) branch(name string) (plumbing.Hash, bool) {
	h, ok := r.refs.References[branchRef(name)]
	return h, ok
}

func branchRef(name string) string { return "refs/heads/" + strings.TrimPrefix(name, "refs/heads/") }

// fetch brings a commit into the storage. Into an empty storage it brings that one commit and its files (depth 1); later it brings what
// is new since the commits that are there, which costs a few hundred bytes where a second fetch of depth 1 would bring all files again.
//
// When that is more than maxUnsorted, the server is asked again and told to keep files that are larger than MaxFile, if it can, so that a
// repository cannot fill our memory. It is not told so at once because sorting them out costs it as much again as making the pack.
func (r *reader) fetch(ctx context.Context, s *memory.Storage, want plumbing.Hash) error {
	if _, err := s.EncodedObject(plumbing.CommitObject, want); err == nil {
		return nil
	}
	advertised := r.refs.Capabilities
	known := slices.Contains(slices.Collect(maps.Values(r.refs.References)), want)
	if !known && !advertised.Supports("allow-tip-sha1-in-want") && !advertised.Supports("allow-reachable-sha1-in-want") {
		return &MissingError{URL: r.c.remote.URL, Ref: fmt.Sprintf("branch or tag at commit %s, and the server gives no other commits", want)}
	}
	req := packp.NewUploadPackRequestFromCapabilities(advertised)
	req.Wants = []plumbing.Hash{want}
	if err := req.Capabilities.Set(capability.Shallow); err != nil {
		return err
	}
	if advertised.Supports(capability.NoProgress) {
		if err := req.Capabilities.Set(capability.NoProgress); err != nil {
			return err
		}
	}
	shallow, err := s.Shallow()
	if err != nil {
		return err
	}
	if len(shallow) == 0 {
		req.Depth = packp.DepthCommits(1)
	} else {
		// The server must know where our history ends: else it counts the files of older commits as ours, and a commit that brings
		// an old file back would arrive without it.
		req.Shallows = slices.Clone(shallow)
		for h := range s.Commits {
			req.Haves = append(req.Haves, h)
		}
	}
	if advertised.Supports(capability.Filter) {
		r.limit = maxUnsorted
	}
	err = r.receive(ctx, s, req)
	if errors.Is(err, errPackTooLarge) && r.limit == maxUnsorted {
		r.limit = maxPack
		if err := req.Capabilities.Set(capability.Filter); err != nil {
			return err
		}
		req.Filter = packp.FilterBlobLimit(MaxFile+1, packp.BlobLimitPrefixNone)
		err = r.receive(ctx, s, req)
	}
	if err != nil {
		if ctx.Err() == nil && strings.Contains(err.Error(), "not our ref") {
			return &MissingError{URL: r.c.remote.URL, Ref: "commit " + want.String()}
		}
		return r.c.wrap(err, false)
	}
	if _, err := s.EncodedObject(plumbing.CommitObject, want); err != nil {
		return fmt.Errorf("reading from %s: the server's pack does not hold commit %s", r.c.remote.URL, want)
	}
	return nil
}

// receive sends a request and stores the pack of the answer.
func (r *reader) receive(ctx context.Context, s *memory.Storage, req *packp.UploadPackRequest) (err error) {
	answer, err := r.session.UploadPack(ctx, req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, answer.Close()) }()
	limited := &io.LimitedReader{R: demux(req, answer), N: cmp.Or(r.limit, maxPack)}
	if err := unpack(limited, s); err != nil {
		if limited.N == 0 || errors.Is(err, errPackTooLarge) {
			return errPackTooLarge
		}
		return fmt.Errorf("unpacking: %w", err)
	}
	if len(answer.Shallows) > 0 {
		known, err := s.Shallow()
		if err != nil {
			return err
		}
		return s.SetShallow(append(known, answer.Shallows...))
	}
	return nil
}

// demux takes the pack out of an answer that carries what the server says on the side, too.
func demux(req *packp.UploadPackRequest, answer io.Reader) io.Reader {
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		return sideband.NewDemuxer(sideband.Sideband64k, answer)
	case req.Capabilities.Supports(capability.Sideband):
		return sideband.NewDemuxer(sideband.Sideband, answer)
	}
	return answer
}

// verdict is what became of a push.
type verdict int

const (
	landed  verdict = iota // the server says that the branch is at our commit now
	lost                   // the branch was not where we believed it to be
	clash                  // the server could not move the branch: another writer was quicker, or never can it be moved
	refused                // a hook or a rule of the server declined
	failed                 // the push was not sent, or the server declined it without looking at it
	unknown                // it was sent, and no answer came that says what became of it
)

// push asks the server to move a branch from one commit to another, on the condition that it still is at the first: the server compares
// and sets. old is zero for a branch that must not exist yet.
func (c *connection) push(ctx context.Context, branch string, from, to plumbing.Hash, s *memory.Storage, objects []plumbing.Hash) (verdict, error) {
	ep, err := c.endpoint()
	if err != nil {
		return failed, err
	}
	auth, err := c.remote.auth(ctx)
	if err != nil {
		return failed, fmt.Errorf("pushing to %s: %w", c.remote.URL, err)
	}
	session, err := c.transport.NewReceivePackSession(ep, auth)
	if err != nil {
		return failed, fmt.Errorf("pushing to %s: %w", c.remote.URL, err)
	}
	refs, err := session.AdvertisedReferencesContext(ctx)
	if err != nil {
		return failed, c.wrap(err, true)
	}
	if at := refs.References[branchRef(branch)]; at != from {
		return lost, fmt.Errorf("branch %s is at %s, not at %s any more", branch, at, from)
	}
	pack, err := packObjects(s, objects)
	if err != nil {
		return failed, fmt.Errorf("packing the commit: %w", err)
	}
	said := &boundedText{}
	req := packp.NewReferenceUpdateRequestFromCapabilities(refs.Capabilities)
	req.Commands = []*packp.Command{{Name: plumbing.ReferenceName(branchRef(branch)), Old: from, New: to}}
	req.Packfile = io.NopCloser(bytes.NewReader(pack))
	req.Progress = said // what a hook prints comes this way
	if refs.Capabilities.Supports(capability.Sideband64k) {
		if err := req.Capabilities.Set(capability.Sideband64k); err != nil {
			return failed, err
		}
	}
	status, err := session.ReceivePack(ctx, req)
	return c.judge(branch, status, err, said.String())
}

// judge reads the server's answer to a push.
func (c *connection) judge(branch string, status *packp.ReportStatus, err error, said string) (verdict, error) {
	if status == nil {
		if err == nil {
			err = errors.New("the server did not report what it did")
		}
		wrapped := c.wrap(err, true)
		if permanent(wrapped) {
			return failed, wrapped
		}
		return unknown, wrapped
	}
	if status.UnpackStatus != "ok" {
		return refused, &RefusedError{Branch: branch, Reason: "unpacking failed: " + oneLine(status.UnpackStatus), Text: said}
	}
	for _, command := range status.CommandStatuses {
		switch reason := command.Status; {
		case reason == "ok":
		case isClash(reason):
			return clash, &RefusedError{Branch: branch, Reason: oneLine(reason), Text: said}
		default:
			return refused, &RefusedError{Branch: branch, Reason: oneLine(reason), Text: said}
		}
	}
	if len(status.CommandStatuses) == 0 {
		return unknown, fmt.Errorf("pushing to %s: the server did not say what became of branch %s", c.remote.URL, branch)
	}
	return landed, nil
}

// isClash reports whether a status is one of those that servers give when another writer was quicker. Git says "failed to update ref",
// older ones "failed to lock" and "cannot lock ref", GitLab "incorrect old value provided", others "fetch first" or "non-fast-forward".
func isClash(status string) bool {
	for _, s := range []string{"failed to update ref", "lock", "incorrect old value", "fetch first", "non-fast-forward", "stale info", "already exists"} {
		if strings.Contains(status, s) {
			return true
		}
	}
	return false
}

// boundedText collects the first bytes of what a server says on the side.
type boundedText struct{ b bytes.Buffer }

// Write implements io.Writer and never fails, since the text is not what the push is about.
func (t *boundedText) Write(p []byte) (int, error) {
	t.b.Write(p[:min(len(p), maxProgress-t.b.Len())])
	return len(p), nil
}

func (t *boundedText) String() string { return oneLine(t.b.String()) }
