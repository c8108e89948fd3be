package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

var readAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const readCommit = "1111111111111111111111111111111111111111"

// running is a release as a cluster remembers it, deployed from the source "us".
func running(change func(*cluster.Record)) map[cluster.Key]cluster.State {
	key := cluster.Key{Namespace: "account-maple", Name: "backend"}
	r := cluster.Record{
		Namespace: key.Namespace, Name: key.Name, Revision: 3, Status: "deployed", UID: "u3",
		Mark: cluster.Mark{Source: "us", Account: "maple", Commit: readCommit, Committed: readAt},
	}
	if change != nil {
		change(&r)
	}
	return map[cluster.Key]cluster.State{key: {Newest: r}}
}

func TestWhatIsAnOrphan(t *testing.T) {
	at := func(name string, change func(*wanted)) []*wanted {
		w := releaseOf("maple", "v1.0.0")
		w.cluster = name
		if change != nil {
			change(w)
		}
		return []*wanted{w}
	}
	one := func(change func(*cluster.Record)) map[string]map[cluster.Key]cluster.State {
		return map[string]map[cluster.Key]cluster.State{"eu": running(change)}
	}
	for _, c := range []struct {
		name       string
		source     string
		remembered map[string]map[cluster.Key]cluster.State
		all        []*wanted
		want       string // of the orphans: cluster and release
		marked     int
	}{
		{"its HelmRelease is gone", "us", one(nil), nil, "eu account-maple/backend", 1},
		{"its HelmRelease is there", "us", one(nil), at("eu", nil), "", 1},
		{"its HelmRelease is suspended", "us", one(nil), at("us", func(w *wanted) { w.suspended = true }), "", 1},
		{"its HelmRelease has a fault", "us", one(nil), at("eu", func(w *wanted) { w.fault = "x" }), "", 1},
		{"the account has moved", "us", one(nil), at("us", nil), "eu account-maple/backend", 1},
		{"another release of the account is there", "us", one(nil), at("eu", func(w *wanted) { w.key.Name = "worker" }), "eu account-maple/backend", 1},
		{"helm, Flux or an earlier version wrote it last", "us", one(func(r *cluster.Record) { r.Mark = cluster.Mark{} }), nil, "", 0},
		{"a version without sources wrote it", "us", one(func(r *cluster.Record) { r.Mark.Source = "" }), nil, "", 0},
		{"another config repo, branch or folder", "us", one(func(r *cluster.Record) { r.Mark.Source = "them" }), nil, "", 0},
		{"a local checkout has no source", "", one(func(r *cluster.Record) { r.Mark.Source = "" }), nil, "", 0},
		{"it failed", "us", one(func(r *cluster.Record) { r.Status = "failed" }), nil, "eu account-maple/backend", 1},
		{"half removed", "us", one(func(r *cluster.Record) { r.Status = "uninstalling" }), nil, "eu account-maple/backend", 1},
		{"uninstalled, with its history kept", "us", one(func(r *cluster.Record) { r.Status = "uninstalled" }), nil, "", 0},
		{"one cluster under two names", "us", map[string]map[cluster.Key]cluster.State{"eu": running(nil), "us": running(nil)}, nil, "", 1},
		{"moved to another name of the same cluster", "us", map[string]map[cluster.Key]cluster.State{"eu": running(nil), "us": running(nil)}, at("us", nil), "", 1},
		{"moved, and it runs there", "us", map[string]map[cluster.Key]cluster.State{"eu": running(nil), "us": running(func(r *cluster.Record) { r.UID = "u9" })}, at("us", nil), "eu account-maple/backend", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			orphans, marked := findOrphans(c.source, c.remembered, c.all, usual(t))
			var got []string
			for _, o := range orphans {
				got = append(got, o.cluster+" "+o.String())
			}
			if c.name == "one cluster under two names" && len(got) == 1 { // whichever name comes first
				got = nil
			}
			if strings.Join(got, ",") != c.want || marked != c.marked {
				t.Errorf("%q and %d marked, want %q and %d", got, marked, c.want, c.marked)
			}
		})
	}
}

func TestWhatSpeaksAgainstRemovingAnOrphan(t *testing.T) {
	held := accounts.Decision{Service: "backend", Version: "v1.1.0", Build: "b1", Allowed: []accounts.Verdict{{Account: "orchid"}}, Held: []accounts.Verdict{{Account: "ghost", Reason: "frozen"}}}
	for _, c := range []struct {
		name, account, part, build, want string
		change                           func(*cluster.Record)
	}{
		{"nothing", "orchid", "", "b1", "", nil},
		{"the repo was read in part", "orchid", "SELECT is set", "b1", "SELECT is set", nil},
		{"a newer commit deployed it", "orchid", "", "b1", "newer than what was read", func(r *cluster.Record) {
			r.Mark.Commit, r.Mark.Committed = strings.Repeat("2", 40), readAt.Add(time.Second)
		}},
		{"an older commit deployed it", "orchid", "", "b1", "", func(r *cluster.Record) {
			r.Mark.Commit, r.Mark.Committed = strings.Repeat("2", 40), readAt.Add(-time.Second)
		}},
		{"the decision does not name an account that the inventory knows", "maple", "", "b1", "does not allow account maple", nil},
		{"the decision holds an account that the inventory does not know", "ghost", "", "b1", "does not allow account ghost: frozen", nil},
		{"nobody knows the account any more", "left", "", "b1", "", nil},
		{"it has no account", "", "", "b1", "", nil},
		{"the decision is another build's", "maple", "", "b2", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var newest cluster.Record
			for _, s := range running(c.change) {
				newest = s.Newest
			}
			o := &orphan{newest: newest, account: c.account}
			judgeOrphans([]*orphan{o}, c.part, &source{commit: readCommit, committed: readAt}, c.build, decisions{"backend/v1.1.0": held}, usual(t))
			if (c.want == "") != (o.keep == "") || !strings.Contains(o.keep, c.want) {
				t.Errorf("%q, want %q", o.keep, c.want)
			}
		})
	}
}

func TestOrphansStayUntilEverythingThatIsWantedRuns(t *testing.T) {
	w := releaseOf("maple", "v1.0.0")
	for _, c := range []struct {
		name, state, want string
		change            func(*task, *orphan)
	}{
		{"it is deployed", deployed, "", nil},
		{"it has not changed", unchanged, "", nil},
		{"it failed", failed, "account-maple/backend failed", nil},
		{"it was rolled back", rolledBack, "account-maple/backend failed", nil},
		{"the gate holds it, and the orphan may run in its place", skipped, "is held back", nil},
		{"the gate holds another account", skipped, "", func(_ *task, o *orphan) { o.account = "orchid" }},
		{"it waits for a dependency", skipped, "was skipped", func(it *task, o *orphan) { it.held, o.account = true, "orchid" }},
		{"it is suspended", skipped, "", func(it *task, _ *orphan) {
			own := *w
			own.suspended = true
			it.release = &own
		}},
		{"the account has moved, and it does not run there", skipped, "does not run there yet", func(it *task, o *orphan) { o.moved, o.account = w, "orchid" }},
		{"the account has moved, and it runs there", unchanged, "", func(_ *task, o *orphan) { o.moved = w }},
	} {
		t.Run(c.name, func(t *testing.T) {
			it, o := &task{release: w}, &orphan{account: "maple"}
			if c.change != nil {
				c.change(it, o)
			}
			holdUnhealthy([]*orphan{o}, []*task{it}, []Release{{State: c.state}})
			if (c.want == "") != (o.keep == "") || !strings.Contains(o.keep, c.want) {
				t.Errorf("%q, want %q", o.keep, c.want)
			}
		})
	}
}

func TestNotTooManyOrphansGoAtOnce(t *testing.T) {
	for _, c := range []struct {
		n, kept, marked int
		limit           float64
		refused         bool
	}{
		{3, 0, 3, 0.5, false}, {3, 0, 3, 0, false}, {4, 0, 8, 0.5, false}, {4, 0, 7, 0.5, true}, {4, 0, 4, 1, false}, {3, 4, 7, 0.5, false}, {4, 0, 100, 0, true},
	} {
		var orphans []*orphan
		for i := range c.n + c.kept {
			o := &orphan{key: cluster.Key{Namespace: "n", Name: fmt.Sprint(i)}}
			if i >= c.n {
				o.keep = "x"
			}
			orphans = append(orphans, o)
		}
		err := tooMany(orphans, c.marked, c.limit)
		if (err != nil) != c.refused || err != nil && step.CodeOf(err) != step.ExitRefused {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestASourceIsAPartOfAConfigRepo(t *testing.T) {
	of := func(url, branch, folder string) string {
		return sourceMark(In{ConfigRepo: step.ConfigRepo{ConfigURL: step.GitURL(url), ConfigBranch: branch, ConfigPath: folder}})
	}
	base := of("https://git.example/team/config.git", "main", ".")
	for _, same := range []string{of("https://GIT.example/team/config", "main", ""), of("http://git.example/team/config/", "main", "./")} {
		if diff := cmp.Diff(base, same); diff != "" {
			t.Error(diff)
		}
	}
	for _, other := range []string{of("https://git.example/team/Config", "main", "."), of("https://git.example/team/config", "next", "."), of("https://git.example/team/config", "main", "eu"), ""} {
		if other == base {
			t.Error("two sources are one")
		}
	}
	if sourceMark(In{SourceDir: "x"}) != "" {
		t.Error("a local checkout has a source")
	}
}

func TestARepoThatIsReadInPartHasNoCertainOrphans(t *testing.T) {
	both := []string{uat, production}
	faulty := releaseOf("maple", "v1.0.0")
	faulty.fault = "x"
	for _, c := range []struct {
		name  string
		in    In
		links []string
		all   []*wanted
		want  bool
	}{
		{"it is not", In{Waves: both, ConfigRepo: step.ConfigRepo{ConfigPath: "."}}, []string{"README.md"}, []*wanted{releaseOf("maple", "v1")}, false},
		{"SELECT", In{Waves: both, Select: "a=b"}, nil, nil, true},
		{"WAVES", In{Waves: []string{uat}}, nil, nil, true},
		{"a fault", In{Waves: both}, nil, []*wanted{faulty}, true},
		{"a link to a manifest", In{Waves: both, ConfigRepo: step.ConfigRepo{ConfigPath: "."}}, []string{"releases/a.yaml"}, nil, true},
		{"a link to a folder", In{Waves: both, ConfigRepo: step.ConfigRepo{ConfigPath: "."}}, []string{"accounts/maple"}, nil, true},
		{"a link elsewhere", In{Waves: both, ConfigRepo: step.ConfigRepo{ConfigPath: "clusters"}}, []string{"accounts/maple"}, nil, false},
	} {
		if why := readInPart(c.in, &source{links: c.links}, c.all); (why != "") != c.want {
			t.Errorf("%s: %q", c.name, why)
		}
	}
}
