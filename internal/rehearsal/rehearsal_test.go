package rehearsal

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if code, asked := RunStandIn(os.Args[1:], os.Stdout, os.Stderr); asked {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// TestRehearsal plays the whole workflow on real servers with the shipped programs and the example's files, and holds what the
// Kubernetes API says after each event against the workflow's rules.
func TestRehearsal(t *testing.T) { rehearse(t, true) }

// TestRehearsalWithoutACluster plays the part before the deployment.
func TestRehearsalWithoutACluster(t *testing.T) { rehearse(t, false) }

func rehearse(t *testing.T, cluster bool) {
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	report, err := Play(t.Context(), Options{Source: source, Dir: t.TempDir(), Cluster: cluster, Log: &log})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	// Play checks its own scenes; this table is written from the workflow, account by account, to check Play as well.
	all := func(version string) map[string]string {
		return map[string]string{"staging": "main", "orchid": version, "willow": version, "maple": version, "cedar": version, "birch": version}
	}
	candidate := all("v1.0.0")
	candidate["orchid"], candidate["willow"] = "v1.1.0-rc.1", "v1.1.0-rc.1"
	want := []map[string]string{
		all("v1.0.0"), all("v1.0.0"), candidate, all("v1.1.0"), all("v1.1.0"), all("v1.1.0"), // founding, main, candidate, release, twice again
		all("v1.0.0"), all("v1.0.0"), all("v1.0.0"), all("v1.0.0"), all("v1.1.0"), // rolled back, automation, deleted, restored, released again
	}
	if len(report.Scenes) != len(want) {
		t.Fatalf("%d scenes, want %d", len(report.Scenes), len(want))
	}
	trunk := regexp.MustCompile(`^main-[a-f0-9]{12}-[0-9]{10}$`)
	for i, scene := range report.Scenes {
		if len(scene.Rows) != len(want[i]) {
			t.Errorf("%s: %d accounts, want %d", scene.Event, len(scene.Rows), len(want[i]))
		}
		for _, r := range scene.Rows {
			switch expected := want[i][r.Account]; {
			case expected == "main" && !trunk.MatchString(r.Version):
				t.Errorf("%s: staging runs %q", scene.Event, r.Version)
			case expected != "main" && r.Version != expected:
				t.Errorf("%s: %s runs %q, want %q", scene.Event, r.Account, r.Version, expected)
			}
			if cluster && (r.Pods != "1/1" && r.Pods != "2/2" || r.Revision < 1) {
				t.Errorf("%s: %s has pods %q and revision %d", scene.Event, r.Account, r.Pods, r.Revision)
			}
		}
	}
	first, staged, final := report.Scenes[0].Rows, report.Scenes[1].Rows, report.Scenes[3].Rows
	for _, r := range final {
		if r.Digest != staged[0].Digest || r.Digest == first[0].Digest || !strings.HasPrefix(r.Digest, "sha256:") {
			t.Errorf("%s runs %s, staging tested %s", r.Account, r.Digest, staged[0].Digest)
		}
	}
	// The roll back reaches staging, too: its build is the same image.
	for i, digests := range map[int][]Row{6: first, 7: first, 8: first, 9: first, 10: final} {
		for j, r := range report.Scenes[i].Rows {
			if r.Digest != digests[j].Digest {
				t.Errorf("%s: %s runs %s, want %s", report.Scenes[i].Event, r.Account, r.Digest, digests[j].Digest)
			}
		}
	}
	for i, scene := range report.Scenes {
		if held := i >= 6 && i <= 8; held != (len(scene.Holds) == 1) || held && !strings.Contains(scene.Holds[0], "backend v1.1.0 is held by") {
			t.Errorf("%s: the holds are %q", scene.Event, scene.Holds)
		}
	}
	// Founding, then one commit each for staging, the candidate, the release, the roll back and the restoring; in the end staging and the release
	// again. What runs a second time adds none.
	for i, n := range []int{1, 2, 3, 4, 4, 4, 5, 5, 5, 6, 8} {
		if report.Scenes[i].Commits != n {
			t.Errorf("%s: the config repo has %d commits, want %d", report.Scenes[i].Event, report.Scenes[i].Commits, n)
		}
	}
	if cluster { // each went from version to version; a second run adds no revision
		for _, r := range report.Scenes[10].Rows {
			if n := map[string]int{"staging": 4, "uat": 5, "production": 4}[r.Channel]; r.Revision != n {
				t.Errorf("%s is at revision %d, want %d", r.Account, r.Revision, n)
			}
		}
	}
	// Each trigger that exists ran again: main, release and, with a cluster, deploy.
	if n := len(report.Scenes[4].Builds); n != 2 && !cluster || n != 3 && cluster {
		t.Errorf("%d builds ran again", n)
	}
	html, err := report.HTML()
	if err != nil || !strings.Contains(string(html), "v1.1.0-rc.1") || !strings.Contains(string(html), "backend v1.1.0 is held by") {
		t.Errorf("the page does not tell of the candidate, or of the hold (%v)", err)
	}
	if text := report.Text(); strings.Count(text, "v1.1.0") < 5 || strings.Contains(log.String()+text+string(html), "rehearsal-token") {
		t.Errorf("the table is short of accounts, or the token is printed:\n%s", text)
	}
}
