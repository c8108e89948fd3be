package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
)

// Upstream is a remote and the branches and tags that it had when it was asked. It answers what one of them has that another lacks.
//
// It never looks at the checkout's commits: a build's checkout is shallow, its branches are as old as the checkout, and the question is
// about what the remote's main branch holds now.
type Upstream struct {
	URL  string // where it is, without credentials
	refs remoteHistory
}

// OpenUpstream asks the remote of the options, or the origin of the checkout in Dir, for its references.
func OpenUpstream(ctx context.Context, o HistoryOptions) (*Upstream, error) {
	// A commit that no repository has: the checkout is opened, tells its origin, and is walked no further.
	local, _ := readCheckout(ctx, HistoryOptions{Dir: o.Dir, Commit: plumbing.ZeroHash.String()})
	remote, err := o.remote(local.origin)
	if err != nil {
		return nil, &HistoryError{
			Err:  fmt.Errorf("the branches cannot be compared: %w", err),
			Cure: "set SOURCE_URL to the repository's https address, and GIT_TOKEN when it is private", Config: true,
		}
	}
	u := &Upstream{URL: remote.URL}
	err = persist(ctx, func() error {
		u.refs, err = openRemote(ctx, remote)
		return err
	})
	return u, err
}

// Branches lists the names of all branches, sorted.
func (u *Upstream) Branches() []string {
	var names []string
	for ref := range u.refs.refs.References {
		if name, ok := strings.CutPrefix(ref, "refs/heads/"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Branch returns the commit that a branch is at.
func (u *Upstream) Branch(name string) (commits.ID, error) { return u.lookup("refs/heads/" + name) }

// Tag returns what a tag peels to.
func (u *Upstream) Tag(name string) (commits.ID, error) { return u.lookup(tagRef + name) }

func (u *Upstream) lookup(ref string) (commits.ID, error) {
	hash, ok := u.refs.refs.References[ref]
	if peeled, annotated := u.refs.refs.Peeled[ref]; annotated {
		hash = peeled
	}
	if !ok {
		kind, name := "branch", strings.TrimPrefix(ref, "refs/heads/")
		if tag, is := strings.CutPrefix(ref, tagRef); is {
			kind, name = "tag", tag
		}
		return commits.ID{}, &MissingError{URL: u.URL, Ref: kind + " " + name}
	}
	return commits.ID(hash), nil
}

// Lack is what a base lacks of a head.
type Lack struct {
	// Commits are those whose change the base does not hold, newest first. Merges are not among them, since what they brought in is; nor
	// are commits that change nothing.
	Commits []commits.Commit
	// Elsewhere counts the head's commits that the base holds under other ids: cherry-picked, rebased, squashed.
	Elsewhere int
	// Squashed is the base's commit that makes all of the head's changes at once; zero when there is none.
	Squashed commits.ID
}

// Lacks answers for each head what the base lacks of it, by ancestry and, where that leaves commits over, by their content: a commit counts
// as held when the base has one with the same [commits.PatchID] since the two parted, or a single one with that of all the head's changes
// together. Notices say what could not be compared.
func (u *Upstream) Lacks(ctx context.Context, base commits.ID, heads []commits.ID) (lacks []Lack, notices []string, err error) {
	c := comparison{Upstream: u, base: base, store: memory.NewStorage()}
	if err := c.fetchCommits(ctx, heads); err != nil {
		return nil, nil, err
	}
	sides := make([]*side, len(heads))
	for i, head := range heads {
		sides[i] = c.side(head)
	}
	switch err := c.compare(ctx, sides); {
	case errors.Is(err, errPackTooLarge) || errors.Is(err, errTooMany):
		notices = append(notices, fmt.Sprintf("commits were compared by ancestry alone, so cherry-picked ones count as missing: %v", err))
	case err != nil:
		return nil, nil, err
	}
	for _, s := range sides {
		lack, err := c.lack(s)
		if err != nil {
			return nil, nil, err
		}
		lacks = append(lacks, lack)
	}
	return lacks, notices, nil
}
