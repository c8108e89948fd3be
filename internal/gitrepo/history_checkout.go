package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
)

// checkout is what a folder's repository has to offer.
type checkout struct {
	*History
	origin string // URL of the remote named origin, without user information; empty when there is none
}

// readCheckout reads the history in a folder's repository. The error is the reason why that history cannot be used, as the beginning of a
// sentence; the origin and the head are returned even then, as far as they are known.
func readCheckout(ctx context.Context, o HistoryOptions) (checkout, error) {
	none := checkout{History: &History{}}
	if o.Dir == "" {
		return none, errors.New("there is no checkout")
	}
	repo, err := openRepository(o.Dir)
	if errors.Is(err, errNoRepository) {
		return none, fmt.Errorf("%s is not in a Git checkout", o.Dir)
	}
	if repo == nil {
		return none, fmt.Errorf("the checkout in %s cannot be opened (%w)", o.Dir, err)
	}
	c := checkout{History: &History{store: repo.objects}, origin: originOf(repo.cfg)}
	if err != nil {
		return c, fmt.Errorf("the checkout in %s cannot be opened (%w)", o.Dir, err)
	}
	head, err := headOf(repo, o.Commit)
	if err != nil {
		return c, fmt.Errorf("the checkout in %s has no commit to start from (%w)", o.Dir, err)
	}
	c.Head = head
	// Walking over the place where a shallow repository is cut off would meet a missing object or not.
	shallow, err := repo.Shallow()
	if err != nil {
		return c, fmt.Errorf("the checkout in %s cannot be read (%w)", o.Dir, err)
	}
	if len(shallow) > 0 {
		return c, fmt.Errorf("the checkout in %s is shallow", o.Dir)
	}
	heads := []commits.ID{head}
	if o.Base != "" {
		if c.Base, err = baseOf(repo, o.Base); err != nil {
			return c, fmt.Errorf("the checkout in %s does not hold the branch %s", o.Dir, o.Base)
		}
		heads = append(heads, c.Base)
	}
	if o.Folders && repo.lacksFolders() {
		return c, fmt.Errorf("the checkout in %s does not hold the folders of the commits", o.Dir)
	}
	graph, complete, err := walk(ctx, repo.objects, heads...)
	if err != nil {
		return c, fmt.Errorf("the checkout in %s cannot be read (%w)", o.Dir, err)
	}
	if !complete {
		return c, fmt.Errorf("the checkout in %s does not hold the whole history of commit %s", o.Dir, head)
	}
	c.Graph = graph
	if c.hashes, err = tagsOf(repo, o.Match); err != nil {
		return c, fmt.Errorf("the tags of the checkout in %s cannot be read (%w)", o.Dir, err)
	}
	c.Tags = slices.Sorted(maps.Keys(c.hashes))
	return c, nil
}

// headOf returns the wanted commit, or what is checked out when none is named.
func headOf(repo *repository, wanted string) (commits.ID, error) {
	if wanted != "" {
		return commits.ParseID(wanted)
	}
	ref, err := storer.ResolveReference(repo, plumbing.HEAD)
	if err != nil {
		return commits.ID{}, err
	}
	return commits.ID(ref.Hash()), nil
}

// baseOf returns where a branch of the remote is. A local branch is second best: in a checkout that a build made, it may be anything.
func baseOf(repo *repository, branch string) (commits.ID, error) {
	ref, err := storer.ResolveReference(repo, plumbing.NewRemoteReferenceName("origin", branch))
	if err != nil {
		ref, err = storer.ResolveReference(repo, plumbing.NewBranchReferenceName(branch))
	}
	if err != nil {
		return commits.ID{}, err
	}
	return commits.ID(ref.Hash()), nil
}

// tagsOf lists the tags with what they point at. One pass over the references: asking for each by name would read packed-refs each time.
func tagsOf(repo *repository, match func(string) bool) (map[string]plumbing.Hash, error) {
	refs, err := repo.IterReferences()
	if err != nil {
		return nil, err
	}
	tags := map[string]plumbing.Hash{}
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		name, ok := strings.CutPrefix(string(ref.Name()), tagRef)
		if !ok || !match(name) {
			return nil
		}
		if ref.Type() == plumbing.SymbolicReference {
			resolved, err := storer.ResolveReference(repo, ref.Name())
			if errors.Is(err, plumbing.ErrReferenceNotFound) {
				return nil // it leads nowhere, so it tags nothing
			}
			if err != nil {
				return err
			}
			ref = resolved
		}
		tags[name] = ref.Hash()
		return nil
	})
	return tags, err
}

// originOf returns the URL of the remote named origin. Credentials in it are left out: they would end up in messages, and whoever wants
// them used gives them as variables.
func originOf(cfg *config.Config) string {
	if cfg.Remotes["origin"] == nil || len(cfg.Remotes["origin"].URLs) == 0 {
		return ""
	}
	raw := cfg.Remotes["origin"].URLs[0]
	u, err := url.Parse(raw)
	if err != nil || u.User == nil {
		return raw
	}
	u.User = nil
	return u.String()
}

// remote returns where to fetch from. The error is the reason why there is no such place, as the second half of a sentence.
func (o HistoryOptions) remote(origin string) (Remote, error) {
	r := o.Remote
	if r.URL != "" {
		if err := CheckURL(r.URL); err != nil {
			return r, fmt.Errorf("SOURCE_URL is wrong: %w", err)
		}
		return r, nil
	}
	if origin == "" {
		return r, errors.New("there is no remote to fetch it from")
	}
	if err := CheckURL(origin); err != nil {
		return r, fmt.Errorf("the checkout's origin cannot be reached by this program (%w)", err)
	}
	// The checkout is a folder that every step of the build can write to. SOURCE_URL is the word of whoever set the build up; this is
	// not, so it does not get a token over a line that anybody can read.
	if u, err := url.Parse(origin); err == nil && u.Scheme != "https" && !isLoopback(u.Hostname()) && !r.anonymous() {
		return r, errors.New("the checkout's origin has a plain http address, to which no token is sent")
	}
	r.URL = origin
	return r, nil
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
