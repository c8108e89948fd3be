package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
)

const inventoryText = `accounts:
- {id: orchid, is_uat: true}
- {id: maple, is_uat: false}
`

const digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// release makes a HelmRelease of an account ("" for staging) with an image.
func releaseOf(account, tag string) *wanted {
	ns := "account-" + account
	if account == "" {
		ns = "staging"
	}
	return &wanted{
		file: account + ".yaml", key: cluster.Key{Namespace: ns, Name: "backend"}, namespace: ns, account: account,
		image: image{repository: "registry/backend", tag: tag, digest: digestA, marked: true}, chart: &chartFiles{name: "backend", version: "1.0.0", digest: "x"},
	}
}

func decisionOn(version string, allowed ...string) map[string]accounts.Decision {
	d := accounts.Decision{Version: version, Service: "backend", Digest: digestA}
	for _, a := range allowed {
		d.Allowed = append(d.Allowed, accounts.Verdict{Account: a, Reason: "UAT account"})
	}
	d.Held = []accounts.Verdict{{Account: "maple", Reason: "candidates are for UAT accounts only"}}
	return map[string]accounts.Decision{"backend/" + version: d}
}

// decisionsAs makes decisions on v1.1.0, which hold maple, of pairs of image and service.
func decisionsAs(pairs ...string) map[string]accounts.Decision {
	all := map[string]accounts.Decision{}
	for i := 0; i < len(pairs); i += 2 {
		d := decisionOn("v1.1.0")["backend/v1.1.0"]
		d.Image, d.Service = pairs[i], pairs[i+1]
		all[d.Service+"/v1.1.0"] = d
	}
	return all
}

// bothOn makes decisions on v1.1.0 of services a and b, which share an image; each allows one account.
func bothOn(a, b string) map[string]accounts.Decision {
	all := map[string]accounts.Decision{}
	for service, allowed := range map[string]string{"a": a, "b": b} {
		all[service+"/v1.1.0"] = accounts.Decision{
			Version: "v1.1.0", Service: service, Image: "registry/backend", Digest: digestA, Allowed: []accounts.Verdict{{Account: allowed, Reason: "production"}},
		}
	}
	return all
}

func usual(t *testing.T) circumstances {
	t.Helper()
	inventory, err := accounts.Parse([]byte(inventoryText))
	if err != nil {
		t.Fatal(err)
	}
	return circumstances{
		states: map[cluster.Key]cluster.State{}, inventory: inventory, waves: []string{uat, production}, build: "this-build",
		now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), longest: 30 * time.Minute,
	}
}

// outcome is what a plan says of one release, in short.
func outcome(tasks []*task, refusals []string) string {
	if len(refusals) > 0 {
		return "refused: " + strings.Join(refusals, "; ")
	}
	t := tasks[0]
	s := fmt.Sprintf("wave %d: ", t.wave)
	if t.state == "" {
		s += "deploy"
	} else {
		s += t.state
	}
	if t.reason != "" {
		s += ": " + t.reason
	}
	if t.rescue != "" {
		s += " after recovery: " + t.rescue
	}
	return s
}

func TestTheGateBoundsAPlan(t *testing.T) {
	for _, tt := range []struct {
		name      string
		release   *wanted
		decisions map[string]accounts.Decision
		change    func(*wanted)
		want      string // part of the outcome
	}{
		{name: "staging goes first, whatever its tag", release: releaseOf("", "main-0123456-1700000000"), want: "wave 0: deploy"},
		{name: "a UAT account gets a candidate without a decision", release: releaseOf("orchid", "v1.1.0-rc.1"), want: "wave 0: deploy"},
		{name: "a production account gets a final version without a decision", release: releaseOf("maple", "v1.1.0"), want: "wave 1: deploy"},
		{name: "a production account gets no candidate without a decision", release: releaseOf("maple", "v1.1.0-rc.1"), want: "refused: account-maple/backend (maple.yaml): v1.1.0-rc.1 is a pre-release, account maple is not marked is_uat"},
		{name: "nor does an account that the inventory does not know", release: releaseOf("ghost", "v1.1.0-rc.1"), want: "refused: account-ghost/backend (ghost.yaml): v1.1.0-rc.1 is a pre-release, account ghost is not marked is_uat"},
		{name: "nor a build tag", release: releaseOf("maple", "main-0123456-1700000000"), want: `refused: account-maple/backend (maple.yaml): "main-0123456-1700000000" is not a final release`},
		{name: "nor a look-alike of a final version behind a marker", release: releaseOf("maple", "V1.1.0"), want: `refused: account-maple/backend (maple.yaml): "V1.1.0" is not a final release`},
		{name: "an image of somebody else's has its own tags", release: releaseOf("maple", "1.25-alpine"), change: func(w *wanted) { w.image.marked = false }, want: "wave 1: deploy"},
		{name: "a chart without an image", release: releaseOf("maple", ""), change: func(w *wanted) { w.image = image{} }, want: "wave 1: deploy"},
		{name: "an account that the decision allows", release: releaseOf("orchid", "v1.1.0-rc.1"), decisions: decisionOn("v1.1.0-rc.1", "orchid"), want: "wave 0: deploy"},
		{name: "an account that the decision holds is not touched", release: releaseOf("maple", "v1.1.0-rc.1"), decisions: decisionOn("v1.1.0-rc.1", "orchid"), want: "wave 1: skipped: the decision on backend v1.1.0-rc.1 does not allow account maple: candidates are for UAT accounts only"},
		{name: "an account that the decision does not name is not touched", release: releaseOf("ghost", "v1.1.0"), decisions: decisionOn("v1.1.0", "orchid"), want: "wave 1: skipped: the decision on backend v1.1.0 does not allow account ghost"},
		{name: "an account that the decision allows, and that is not UAT", release: releaseOf("maple", "v1.1.0-rc.1"), decisions: decisionOn("v1.1.0-rc.1", "maple"), want: "refused: account-maple/backend (maple.yaml): the decision on backend v1.1.0-rc.1 allows account maple, and the inventory does not mark it is_uat"},
		{name: "a decision on another version decides nothing", release: releaseOf("maple", "v1.1.0"), decisions: decisionOn("v1.0.0", "orchid"), want: "wave 1: deploy"},
		{name: "another digest than the decision's", release: releaseOf("orchid", "v1.1.0"), decisions: decisionOn("v1.1.0", "orchid"), change: func(w *wanted) { w.image.digest = "sha256:bb" }, want: `refused: account-orchid/backend (orchid.yaml): values.image.digest is "sha256:bb", and the decision on backend v1.1.0 is about ` + digestA},
		{name: "no digest beside a decision", release: releaseOf("orchid", "v1.1.0"), decisions: decisionOn("v1.1.0", "orchid"), change: func(w *wanted) { w.image.digest = "" }, want: `refused: account-orchid/backend (orchid.yaml): values.image.digest is ""`},
		{name: "another digest in staging", release: releaseOf("", "v1.1.0"), decisions: decisionOn("v1.1.0", "orchid"), change: func(w *wanted) { w.image.digest = "sha256:bb" }, want: "refused: staging/backend"},
		{name: "a decision under another name than the image's", release: releaseOf("maple", "v1.1.0"), decisions: decisionsAs("registry/backend", "api"), want: "wave 1: skipped: the decision on api v1.1.0 does not allow account maple"},
		{name: "a decision on an image of another name decides nothing", release: releaseOf("maple", "v1.1.0"), decisions: decisionsAs("registry/other", "api"), want: "wave 1: deploy"},
		{name: "a decision under the image's name, which is pulled from a mirror", release: releaseOf("maple", "v1.1.0"), decisions: decisionsAs("origin/backend", "backend"), want: "wave 1: skipped: the decision on backend v1.1.0 does not allow account maple"},
		{name: "an image goes before its name", release: releaseOf("maple", "v1.1.0"), decisions: decisionsAs("other/backend", "backend", "registry/backend", "api"), want: "wave 1: skipped: the decision on api v1.1.0 does not allow account maple"},
		{name: "of two decisions on an image both bind", release: releaseOf("maple", "v1.1.0"), decisions: bothOn("maple", "orchid"), want: "wave 1: skipped: the decision on b v1.1.0 does not allow account maple"},
		{name: "two decisions on an image that agree", release: releaseOf("maple", "v1.1.0"), decisions: bothOn("maple", "maple"), want: "wave 1: deploy"},
		{name: "a suspended release", release: releaseOf("maple", "v1.1.0-rc.1"), change: func(w *wanted) { w.suspended = true }, want: "wave 1: skipped: spec.suspend is set"},
		{name: "a release with a fault", release: releaseOf("maple", "v1.1.0"), change: func(w *wanted) { w.addFault("spec.x is not supported") }, want: "wave 1: failed: maple.yaml: spec.x is not supported"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := usual(t)
			c.decisions = tt.decisions
			if tt.change != nil {
				tt.change(tt.release)
			}
			if got := outcome(makePlan([]*wanted{tt.release}, c)); !strings.HasPrefix(got, tt.want) {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestADecisionCanBeRequired(t *testing.T) {
	foreign := releaseOf("", "v1.1.0")
	foreign.image.marked = false
	unmarked := releaseOf("maple", "v1.1.0")
	unmarked.image.marked = false
	for _, tt := range []struct {
		name      string
		release   *wanted
		decisions map[string]accounts.Decision
		want      string
	}{
		{"a version of an account", unmarked, nil, "refused: account-maple/backend (maple.yaml): REQUIRE_DECISION is set, and there is no decision of the gate on backend v1.1.0"},
		{"a version behind a marker", releaseOf("", "v1.1.0"), nil, "refused: staging/backend"},
		{"there is one", releaseOf("orchid", "v1.1.0"), decisionOn("v1.1.0", "orchid"), "wave 0: deploy"},
		{"a build tag", releaseOf("", "main-0123456-1700000000"), nil, "wave 0: deploy"},
		{"somebody else's image, of no account", foreign, nil, "wave 0: deploy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := usual(t)
			c.requireDecision, c.decisions = true, tt.decisions
			if got := outcome(makePlan([]*wanted{tt.release}, c)); !strings.HasPrefix(got, tt.want) {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestWhatIsDeployedAlreadyIsLeftAloneBeforeAnythingElseIsAsked(t *testing.T) {
	w := releaseOf("maple", "v1.1.0-rc.1") // the gate would refuse it
	digest, err := w.digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		newest cluster.Record
		want   string
	}{
		{"the same", cluster.Record{Revision: 3, Status: "deployed", Mark: cluster.Mark{Digest: digest}}, "wave 1: unchanged"},
		{"another digest", cluster.Record{Revision: 3, Status: "deployed", Mark: cluster.Mark{Digest: "other"}}, "refused"},
		{"the same, but it failed", cluster.Record{Revision: 3, Status: "failed", Mark: cluster.Mark{Digest: digest}}, "refused"},
		{"a revision of somebody else's", cluster.Record{Revision: 3, Status: "deployed"}, "refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := usual(t)
			c.states[w.key] = cluster.State{Newest: tt.newest}
			if got := outcome(makePlan([]*wanted{w}, c)); !strings.HasPrefix(got, tt.want) {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

func TestAPendingReleaseIsRecoveredOnlyWhenItsWriterIsDead(t *testing.T) {
	c := usual(t)
	ago := func(d time.Duration) time.Time { return c.now.Add(-d) }
	for _, tt := range []struct {
		name   string
		newest cluster.Record
		want   string
	}{
		{"this build's own", cluster.Record{Revision: 3, Status: "pending-upgrade", Written: ago(time.Second), Mark: cluster.Mark{Build: "this-build", Until: c.now.Add(time.Hour)}}, "wave 1: deploy after recovery: left by an earlier attempt of this build"},
		{"a live build's", cluster.Record{Revision: 3, Status: "pending-upgrade", Written: ago(90 * time.Second), Mark: cluster.Mark{Build: "other", Until: c.now.Add(time.Hour)}}, "wave 1: failed: revision 3 is pending-upgrade since 1m30s by build other, which may be running until 2026-01-01T13:00:00Z"},
		{"a live laptop's", cluster.Record{Revision: 3, Status: "pending-install", Written: ago(time.Second), Mark: cluster.Mark{Digest: "x", Until: c.now.Add(time.Hour)}}, "wave 1: failed: revision 3 is pending-install since 1s by a run outside Cloud Build"},
		{"a dead build's", cluster.Record{Revision: 3, Status: "pending-rollback", Written: ago(time.Hour), Mark: cluster.Mark{Build: "other", Until: ago(2 * time.Minute)}}, "wave 1: deploy after recovery: left by build other, which cannot be running any more"},
		{"a build's whose time has just ended, with another clock", cluster.Record{Revision: 3, Status: "pending-upgrade", Written: ago(time.Hour), Mark: cluster.Mark{Build: "other", Until: ago(30 * time.Second)}}, "wave 1: failed: revision 3 is pending-upgrade"},
		{"helm's own, young", cluster.Record{Revision: 3, Status: "pending-upgrade", Written: ago(time.Minute)}, "wave 1: failed: revision 3 is pending-upgrade since 1m0s by somebody else (helm or Flux); it counts as abandoned after 30m0s"},
		{"helm's own, old", cluster.Record{Revision: 3, Status: "pending-upgrade", Written: ago(31 * time.Minute)}, "wave 1: deploy after recovery: left 31m0s ago by somebody else"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := releaseOf("maple", "v1.1.0")
			c.states[w.key] = cluster.State{Newest: tt.newest}
			if got := outcome(makePlan([]*wanted{w}, c)); !strings.HasPrefix(got, tt.want) {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestARunOutsideCloudBuildOwnsNoPendingRelease(t *testing.T) {
	c := usual(t)
	c.build = ""
	if _, live := c.judgePending(cluster.Record{Revision: 1, Status: "pending-install", Written: c.now, Mark: cluster.Mark{Digest: "x", Until: c.now.Add(time.Hour)}}); live == "" {
		t.Error("an empty BUILD_ID matches an empty one")
	}
}

func TestAllRefusalsAreListed(t *testing.T) {
	_, refusals := makePlan([]*wanted{releaseOf("maple", "v1.1.0-rc.1"), releaseOf("ghost", "v1.1.0-rc.1"), releaseOf("orchid", "v1.1.0-rc.1")}, usual(t))
	if len(refusals) != 2 {
		t.Errorf("%d refusals: %v", len(refusals), refusals)
	}
}

func TestWavesLeaveOutWhatTheyDoNotName(t *testing.T) {
	for _, tt := range []struct {
		waves []string
		want  [3]int // wave of staging, UAT, production
	}{
		{[]string{uat, production}, [3]int{0, 0, 1}},
		{[]string{uat}, [3]int{0, 0, -1}},
		{[]string{production}, [3]int{0, -1, 0}},
	} {
		c := usual(t)
		c.waves = tt.waves
		tasks, refusals := makePlan([]*wanted{releaseOf("", "main-0123456-1"), releaseOf("orchid", "v1.0.0"), releaseOf("maple", "v1.0.0")}, c)
		got := [3]int{tasks[0].wave, tasks[1].wave, tasks[2].wave}
		if diff := cmp.Diff(tt.want, got); diff != "" || len(refusals) > 0 {
			t.Errorf("%v: %s %v", tt.waves, diff, refusals)
		}
		for _, task := range tasks {
			if (task.state == skipped) != (task.wave < 0) {
				t.Errorf("%v: %s is %q in wave %d", tt.waves, task.release, task.state, task.wave)
			}
		}
	}
}
