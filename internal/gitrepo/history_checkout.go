package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"

	git "github.com/go-git/go-git/v5"
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
// sentence; the origin is returned even then.
func readCheckout(ctx context.Context, o HistoryOptions) (checkout, error) {
	none := checkout{History: &History{}}
	if o.Dir == "" {
		return none, errors.New("there is no checkout")
	}
	repo, err := git.PlainOpenWithOptions(o.Dir, &git.PlainOpenOptions{DetectDotGit: true, EnableDotGitCommonDir: true})
	if errors.Is(err, git.ErrRepositoryNotExists) {
		return none, fmt.Errorf("%s is not in a Git checkout", o.Dir)
	}
	if err != nil {
		return none, fmt.Errorf("the checkout in %s cannot be opened (%w)", o.Dir, err)
	}
	c := checkout{History: &History{store: repo.Storer}, origin: originOf(repo)}
	head, err := headOf(repo, o.Commit)
	if err != nil {
		return c, fmt.Errorf("the checkout in %s has no commit to start from (%w)", o.Dir, err)
	}
	// go-git would walk over the file that marks a shallow repository as if it were not there, and meet a missing object or not.
	shallow, err := repo.Storer.Shallow()
	if err != nil {
		return c, fmt.Errorf("the checkout in %s cannot be read (%w)", o.Dir, err)
	}
	if len(shallow) > 0 {
		return c, fmt.Errorf("the checkout in %s is shallow", o.Dir)
	}
	graph, complete, err := walk(ctx, repo.Storer, head)
	if err != nil {
		return c, fmt.Errorf("the checkout in %s cannot be read (%w)", o.Dir, err)
	}
	if !complete {
		return c, fmt.Errorf("the checkout in %s does not hold the whole history of commit %s", o.Dir, head)
	}
	c.Head, c.Graph = commits.ID(head), graph
	if c.hashes, err = tagsOf(repo, o.Match); err != nil {
		return c, fmt.Errorf("the tags of the checkout in %s cannot be read (%w)", o.Dir, err)
	}
	for name := range c.hashes {
		c.Tags = append(c.Tags, name)
	}
	slices.Sort(c.Tags)
	return c, nil
}

// headOf returns the wanted commit, or what is checked out when none is named.
func headOf(repo *git.Repository, wanted string) (plumbing.Hash, error) {
	if wanted != "" {
		id, err := commits.ParseID(wanted)
		return plumbing.Hash(id), err
	}
	ref, err := repo.Head()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	return ref.Hash(), nil
}

// tagsOf lists the tags with what they point at. One pass over the references: asking for each by name would read packed-refs each time.
func tagsOf(repo *git.Repository, match func(string) bool) (map[string]plumbing.Hash, error) {
	refs, err := repo.Tags()
	if err != nil {
		return nil, err
	}
	tags := map[string]plumbing.Hash{}
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		name := ref.Name().Short()
		if !match(name) {
			return nil
		}
		if ref.Type() == plumbing.SymbolicReference {
			if resolved, err := storer.ResolveReference(repo.Storer, ref.Name()); err == nil {
				ref = resolved
			} else {
				ref = plumbing.NewHashReference(ref.Name(), plumbing.ZeroHash) // it leads nowhere
			}
		}
		if !ref.Hash().IsZero() {
			tags[name] = ref.Hash()
		}
		return nil
	})
	return tags, err
}

// originOf returns the URL of the remote named origin. Credentials in it are left out: they would end up in messages, and whoever wants
// them used gives them as variables.
func originOf(repo *git.Repository) string {
	cfg, err := repo.Config()
	if err != nil || cfg.Remotes["origin"] == nil || len(cfg.Remotes["origin"].URLs) == 0 {
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
