package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// An orphan is a release that this step deployed from this config repo and whose HelmRelease is gone from it. The mark of its record says so:
// what helm, Flux or an earlier version of this step wrote last has no such mark, and is nobody's to remove.

// orphan is one release without a HelmRelease in its cluster.
type orphan struct {
	cluster string
	key     cluster.Key
	newest  cluster.Record
	account string
	region  string // of the account, from the inventory
	channel string
	moved   *wanted // the same release, where the account is now; nil when there is none
	keep    string  // why it is not removed, whatever PRUNE says; "" when nothing speaks against it
}

func (o *orphan) String() string { return o.key.Namespace + "/" + o.key.Name }

// sourceMark names the part of the config repo that is deployed: what another branch or folder of it deploys is not this one's. It is "" for
// a local checkout, of which nobody knows what it is a part of.
func sourceMark(in In) string {
	if in.SourceDir != "" || in.ConfigURL == "" {
		return ""
	}
	_, address, _ := strings.Cut(in.ConfigURL.String(), "://")
	host, folder, _ := strings.Cut(address, "/")
	address = strings.ToLower(host) + "/" + strings.TrimSuffix(strings.Trim(folder, "/"), ".git")
	sum := sha256.Sum256([]byte(strings.Join([]string{address, in.ConfigBranch, path.Join("/", in.ConfigPath)}, "\n")))
	return hex.EncodeToString(sum[:])[:16]
}

// findOrphans compares what the clusters remember with all HelmReleases of the repo. marked counts the releases that were deployed from it, the
// orphans among them. A HelmRelease that is suspended, or that
// WAVES leaves out, has no orphans anywhere, since nobody looks where it belongs; nor has one whose cluster has a second name.
func findOrphans(source string, remembered map[string]map[cluster.Key]cluster.State, all []*wanted, c circumstances) (orphans []*orphan, marked int) {
	if source == "" {
		return nil, 0
	}
	seen := map[string]bool{} // records: one cluster may have two names
	byKey := map[cluster.Key]*wanted{}
	for _, w := range all {
		byKey[w.key] = w
	}
	for name, states := range remembered {
		for key, state := range states {
			newest := state.Newest
			if newest.Mark.Source != source || newest.Uninstalled() || seen[newest.UID] {
				continue
			}
			seen[newest.UID] = true
			marked++
			w := byKey[key]
			if w != nil && (w.cluster == name || w.suspended || c.wave(c.channel(w)) < 0 || remembered[w.cluster][key].Newest.UID == newest.UID) {
				continue
			}
			o := &orphan{cluster: name, key: key, newest: newest, account: newest.Mark.Account, moved: w}
			of := &wanted{account: o.account}
			o.region, o.channel = c.region(of), c.channel(of)
			orphans = append(orphans, o)
		}
	}
	slices.SortFunc(orphans, func(a, b *orphan) int {
		return cmp.Or(cmp.Compare(a.key.Namespace, b.key.Namespace), cmp.Compare(a.key.Name, b.key.Name), cmp.Compare(a.cluster, b.cluster))
	})
	return orphans, marked
}

// readInPart says why this run does not see all that the repo says should run; "" when it does. What it does not see is no orphan for certain.
func readInPart(in In, repo *source, all []*wanted) string {
	if in.Select != "" {
		return "SELECT is set"
	}
	if len(in.Waves) < 2 {
		return "WAVES leaves some accounts out"
	}
	for _, w := range all {
		if w.fault != "" {
			return fmt.Sprintf("%s was not read in full: %s", w.file, w.fault)
		}
	}
	for _, link := range repo.links {
		if within(link, in.ConfigPath) && (isYAML(link) || path.Ext(link) == "") {
			return fmt.Sprintf("%s is a link, which may lead to a HelmRelease", link)
		}
	}
	if len(repo.unread) > 0 {
		return repo.unread[0]
	}
	return ""
}

// judgeOrphans says of each orphan what speaks against removing it.
func judgeOrphans(orphans []*orphan, part string, repo *source, build string, d decisions, c circumstances) {
	for _, o := range orphans {
		mark := o.newest.Mark
		switch {
		case part != "":
			o.keep = part
		case mark.Commit != repo.commit && mark.Committed.After(repo.committed):
			o.keep = fmt.Sprintf("it was deployed from %s, which is newer than what was read", mark.Commit)
		default:
			o.keep = d.forbids(o.account, build, c)
		}
	}
}

// forbids says why the gate's decision of this build keeps an account as it is: it holds the account, or the inventory knows an account that
// the decision does not name. An account that nobody knows any more is not held by anybody.
func (d decisions) forbids(account, build string, c circumstances) string {
	if account == "" {
		return ""
	}
	_, known := c.inventory.Find(account)
	for _, decision := range d {
		if decision.Build != build {
			continue // a recorded one: it was about that version, then
		}
		held := false
		for _, v := range decision.Held {
			held = held || v.Account == account
		}
		if ok, why := decision.Allows(account); !ok && (held || known) {
			return fmt.Sprintf("the decision of this build on %s %s does not allow account %s: %s", decision.Service, decision.Version, account, why)
		}
	}
	return ""
}

// tooMany refuses to remove more than a share of what was deployed from the repo: a folder that was moved, or a merge gone wrong, looks
// just like releases that nobody wants any more. Three may always go.
func tooMany(orphans []*orphan, marked int, limit float64) error {
	var names []string
	for _, o := range orphans {
		if o.keep == "" {
			names = append(names, o.String())
		}
	}
	if n := len(names); n > 3 && float64(n) > limit*float64(marked) {
		return step.Refuse("nothing was touched; bring the HelmReleases back, or set PRUNE_LIMIT=1 for one run if all of these are to go",
			"PRUNE would remove %d of %d releases that were deployed from this config repo, which is more than PRUNE_LIMIT=%v: %s", n, marked, limit, strings.Join(names, ", "))
	}
	return nil
}
