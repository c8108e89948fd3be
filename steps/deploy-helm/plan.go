package main

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
)

// The channels a release can be in; WAVES names two of them.
const (
	staging    = "staging" // without an account: not a customer's
	uat        = "uat"
	production = "production"
)

// The states of a release in the report.
const (
	deployed   = "deployed"
	unchanged  = "unchanged"
	failed     = "failed"
	rolledBack = "rolled-back"
	skipped    = "skipped"
)

// circumstances are what a plan depends on beside the HelmReleases.
type circumstances struct {
	states    map[cluster.Key]cluster.State // of each release in its own cluster
	inventory accounts.Inventory
	decisions decisions
	waves     []string
	build     string // BUILD_ID as it stands in a mark
	// A version on an account, or behind a marker, is refused unless the gate decided on it.
	requireDecision bool
	now             time.Time
	longest         time.Duration // a pending release without our mark is dead after this time
}

// task is what the plan has for one release.
type task struct {
	release *wanted
	state   string // "" until it is decided: to be deployed
	reason  string
	wave    int
	channel string
	region  string // of the account, from the inventory
	digest  string
	newest  cluster.Record
	from    string
	rescue  string    // why the pending revision may be marked as failed first; "" when there is none
	after   []*wanted // what has to be deployed before, in this run
	held    bool      // skipped for the sake of a dependency
	// occupied says that another build is deploying the release, and that a run may wait for it: the state is what it is until then.
	occupied bool
	drift    *drift // of a release that has not changed, where it is looked for
}

// makePlan decides for each release, in this order: what cannot be deployed at all, what is left alone, what the gate forbids, what somebody
// else is deploying. It does not look at anything but its arguments. refusals are reasons to touch nothing at all: values that contradict
// the gate's decision, or a candidate on its way to an account that is not UAT.
func makePlan(list []*wanted, c circumstances) (tasks []*task, refusals []string) {
	for _, w := range list {
		state := c.states[w.key]
		t := &task{release: w, newest: state.Newest, from: state.Running.Mark.Version}
		tasks = append(tasks, t)
		channel := c.channel(w)
		t.wave, t.channel, t.region = c.wave(channel), channel, c.region(w)
		if w.fault == "" && w.chart != nil { // the chart of one that is left out may be unknown
			var err error
			if t.digest, err = w.digest(); err != nil {
				w.addFault(err.Error())
			}
		}
		switch {
		case t.wave < 0:
			t.skip("WAVES leaves out " + channel)
			continue
		case w.suspended:
			t.skip("spec.suspend is set")
			continue
		case w.fault != "":
			t.state, t.reason = failed, w.file+": "+w.fault
			continue
		case t.newest.Deployed() && t.newest.Mark.Digest == t.digest:
			t.state = unchanged
			continue
		}
		allowed, reason, refusal := c.admits(w, channel)
		switch {
		case refusal != "":
			refusals = append(refusals, fmt.Sprintf("%s (%s): %s", w, w.file, refusal))
		case !allowed:
			t.skip(reason)
		case t.newest.Pending():
			var live string
			if t.rescue, live = c.judgePending(t.newest); live != "" {
				t.state, t.reason, t.occupied = failed, live, !t.newest.Mark.Until.IsZero()
			}
		}
	}
	return tasks, refusals
}

func (t *task) skip(reason string) { t.state, t.reason = skipped, reason }

// channel says whose release it is. Only the inventory makes an account UAT, and an account that it does not know is production.
func (c circumstances) channel(w *wanted) string {
	if w.account == "" {
		return staging
	}
	if a, ok := c.inventory.Find(w.account); ok && a.IsUAT {
		return uat
	}
	return production
}

// region is where the inventory says an account is; "" when it does not say, or there is no account.
func (c circumstances) region(w *wanted) string {
	a, _ := c.inventory.Find(w.account)
	return a.Region
}

// wave is the place of a channel in WAVES, -1 when it has none. Staging is always in the first.
func (c circumstances) wave(channel string) int {
	if channel == staging {
		return 0
	}
	return slices.Index(c.waves, channel)
}

// admits holds a release against the gate's decision on its version, or, where there is none, against the inventory. A refusal is a
// contradiction that somebody has to look at, not a "no".
func (c circumstances) admits(w *wanted, channel string) (allowed bool, reason, refusal string) {
	version, err := release.Parse(w.image.tag)
	isRelease := err == nil
	if on := c.decisions.on(w.image); isRelease && len(on) > 0 {
		for _, d := range on {
			if w.image.digest != d.Digest {
				return false, "", fmt.Sprintf("values.image.digest is %q, and the decision on %s %s is about %s", w.image.digest, d.Service, d.Version, d.Digest)
			}
		}
		for _, d := range on {
			if w.account == "" {
				break
			}
			if ok, why := d.Allows(w.account); !ok {
				return false, fmt.Sprintf("the decision on %s %s does not allow account %s: %s", d.Service, d.Version, w.account, why), ""
			}
			if version.IsPrerelease() && channel == production && len(c.inventory.Accounts) > 0 {
				return false, "", fmt.Sprintf("the decision on %s %s allows account %s, and the inventory does not mark it is_uat", d.Service, d.Version, w.account)
			}
		}
		return true, "", ""
	}
	if isRelease && c.requireDecision && (w.account != "" || w.image.marked) {
		return false, "", fmt.Sprintf("REQUIRE_DECISION is set, and there is no decision of the gate on %s %s", w.image.service(), version)
	}
	if channel != production {
		return true, "", ""
	}
	_, isBuild := release.ParseBuildTag(w.image.tag)
	switch {
	case isRelease && version.IsPrerelease():
		return false, "", fmt.Sprintf("%s is a pre-release, account %s is not marked is_uat in the inventory, and there is no decision of the gate on it", version, w.account)
	case !isRelease && (isBuild || w.image.marked):
		return false, "", fmt.Sprintf("%q is not a final release, and account %s is not marked is_uat in the inventory", w.image.tag, w.account)
	}
	return true, "", ""
}

// judgePending says of a pending revision either why its writer is dead, so that it may be marked as failed, or why it has to be left
// alone. A build that carries our own BUILD_ID is an earlier attempt of this one. A mark tells until when its writer can live, and await finds
// out sooner whether it does; a revision that Helm or Flux wrote has none, and is given the longest time that this step itself may take.
func (c circumstances) judgePending(r cluster.Record) (dead, live string) {
	const skew = time.Minute // between the clocks of two build machines
	age := c.now.Sub(r.Written).Round(time.Second)
	switch writer := r.Mark.Build; {
	case c.build != "" && writer == c.build:
		return "left by an earlier attempt of this build", ""
	case !r.Mark.Until.IsZero() && c.now.After(r.Mark.Until.Add(skew)):
		return fmt.Sprintf("left by %s, which cannot be running any more", builder(writer)), ""
	case r.Mark.Until.IsZero() && age > c.longest:
		return fmt.Sprintf("left %s ago by somebody else", age), ""
	case r.Mark.Until.IsZero():
		return "", fmt.Sprintf("revision %d is %s since %s by somebody else (helm or Flux); it counts as abandoned after %s", r.Revision, r.Status, age, c.longest)
	default:
		return "", fmt.Sprintf("revision %d is %s since %s by %s, which may be running until %s", r.Revision, r.Status, age, builder(writer), r.Mark.Until.UTC().Format(time.RFC3339))
	}
}

func builder(id string) string {
	if id == "" {
		return "a run outside Cloud Build"
	}
	return "build " + id
}

// decisions are the gate's, by service/version.
type decisions map[string]accounts.Decision

// on returns the decisions on a version of an image, ordered by service; all of them bind. gate-uat may have been told another name of the
// service than the image's, so the image counts. Where no decision names it (it may be pulled from a mirror), the service's name does.
func (d decisions) on(i image) []accounts.Decision {
	var found []accounts.Decision
	for _, decision := range d {
		if decision.Version == i.tag && decision.Image == i.repository {
			found = append(found, decision)
		}
	}
	slices.SortFunc(found, func(a, b accounts.Decision) int { return cmp.Compare(a.Service, b.Service) })
	if named, ok := d[path.Join(i.service(), i.tag)]; ok && len(found) == 0 {
		found = append(found, named)
	}
	return found
}

// released lists the images whose tag is a version, on which a decision may have been recorded.
func released(list []*wanted) []image {
	var images []image
	for _, w := range list {
		if _, err := release.Parse(w.image.tag); err == nil && w.image.repository != "" {
			images = append(images, image{repository: w.image.repository, tag: w.image.tag})
		}
	}
	slices.SortFunc(images, func(a, b image) int {
		return cmp.Or(cmp.Compare(a.repository, b.repository), cmp.Compare(a.tag, b.tag))
	})
	return slices.Compact(images)
}
