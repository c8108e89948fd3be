package rehearsal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Scene is one event of the play and what came of it.
type Scene struct {
	Event   string        // what happened
	Expect  string        // what must come of it
	Took    time.Duration // from the push to the last pod that is ready
	Again   bool          // whether builds only run a second time: nobody pushed
	Refused []string      // triggers whose builds are to be refused; all others are to succeed
	Builds  []*BuildRecord
	Rows    []Row    // what every account runs afterwards
	Commits int      // on the config repo's main branch
	Holds   []string // versions that are held back, by whom, and why
}

// Report is the whole play.
type Report struct {
	Cluster bool
	Scenes  []Scene
}

// Play plays the workflow: a commit reaches staging, a release candidate reaches the UAT accounts, the final release reaches all with the
// digest that staging tested; a second run of the builds changes nothing, and the candidate's is refused now. Then the release turns out to
// be bad, and goes the full circle of [player.wayBack]. Each scene is checked as it ends; the report holds the scenes so far even when there
// is an error.
func Play(ctx context.Context, options Options) (_ *Report, err error) {
	report := &Report{Cluster: options.Cluster}
	title(options.Log, "A company that runs v1.0.0 everywhere")
	w, err := Start(ctx, options)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	p := player{w: w, report: report}
	for _, s := range append(p.wayForward(ctx), p.wayBack(ctx)...) {
		if err := p.scene(ctx, s); err != nil {
			return report, err
		}
	}
	return report, nil
}

// act is a scene before it is played.
type act struct {
	Scene
	play  func() error // what happens; nil when it has happened already
	check func(before, after []Row) error
}

// wayForward is the part in which everything goes well.
func (p *player) wayForward(ctx context.Context) []act {
	w, report := p.w, p.report
	var commit string
	return []act{
		{Scene{Event: "the company is founded", Expect: "staging and all accounts run v1.0.0"}, nil, p.founded},
		{Scene{Event: "push to main", Expect: "staging runs main-<commit>-<time>, no account does"}, func() (err error) {
			commit, err = w.Commit(ctx, "feat: greet politely", politely)
			return err
		}, func(before, after []Row) error { return p.staged(before, after, commit) }},
		{Scene{Event: "release v1.1.0-rc.1", Expect: "the UAT accounts run it, production does not"}, func() error { return w.Release(ctx, "v1.1.0-rc.1") },
			func(before, after []Row) error { return p.released(before, after, "v1.1.0-rc.1", "uat") }},
		{Scene{Event: "release v1.1.0", Expect: "all accounts run the digest that staging tested"}, func() error { return w.Release(ctx, "v1.1.0") },
			func(before, after []Row) error { return p.released(before, after, "v1.1.0", "uat", "production") }},
		{Scene{Event: "every trigger's last build runs again", Expect: "nothing changes", Again: true},
			func() error { return w.again(ctx, w.lastOfEach()...) }, p.unchanged},
		{Scene{Event: "the candidate's build runs again", Expect: "it is refused, since v1.1.0 is newer, and nothing changes", Again: true, Refused: []string{"backend-release"}},
			func() error { return w.again(ctx, report.Scenes[2].Builds[0]) }, p.unchanged},
	}
}

// politely is the change that the developer makes.
func politely(dir string) error {
	name := filepath.Join(dir, "main.go")
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	changed := bytes.Replace(b, []byte(`"hello"`), []byte(`"good day"`), 1)
	if bytes.Equal(b, changed) {
		return errors.New("the example service greets differently now")
	}
	return os.WriteFile(name, changed, 0o644)
}

type player struct {
	w      *World
	report *Report
}

// scene plays one event, waits until all that it starts is done, and checks what every account runs.
func (p *player) scene(ctx context.Context, a act) error {
	s := a.Scene
	title(p.w.options.Log, s.Event)
	start, since := time.Now(), 0
	if a.play != nil {
		since = p.w.Builds()
		if err := a.play(); err != nil {
			return fmt.Errorf("%s: %w", s.Event, err)
		}
	}
	var err error
	if s.Builds, err = p.w.Settle(ctx, since); err != nil {
		return fmt.Errorf("%s: %w", s.Event, err)
	}
	s.Took = time.Since(start)
	if err := s.ended(); err != nil {
		return fmt.Errorf("%s: %w", s.Event, err)
	}
	if s.Rows, err = p.w.Rows(ctx); err != nil {
		return err
	}
	if s.Commits, err = p.w.commits(ctx); err != nil {
		return err
	}
	if s.Holds, err = p.w.holds(ctx); err != nil {
		return err
	}
	var before []Row
	if n := len(p.report.Scenes); n > 0 {
		before = p.report.Scenes[n-1].Rows
	}
	p.report.Scenes = append(p.report.Scenes, s)
	if err := a.check(before, s.Rows); err != nil {
		return fmt.Errorf("%s: expected that %s: %w", s.Event, s.Expect, err)
	}
	p.w.say("so it is: %s", s.Expect)
	return nil
}

// ended fails when a build of the scene did, or when what was to be refused was not: by the last step that ran, on purpose.
func (s *Scene) ended() error {
	for _, name := range s.Refused {
		if !slices.ContainsFunc(s.Builds, func(b *BuildRecord) bool { return b.Trigger.Name == name }) {
			return fmt.Errorf("no build of trigger %s was started", name)
		}
	}
	for _, b := range s.Builds {
		switch refuse := slices.Contains(s.Refused, b.Trigger.Name); {
		case refuse && b.lastStep().Status != "refused":
			return fmt.Errorf("build %s was not refused: %w", b.ID, b.Err)
		case !refuse && b.Err != nil:
			return fmt.Errorf("build %s of trigger %s: %w", b.ID, b.Trigger.Name, b.Err)
		}
	}
	return nil
}

func (p *player) founded(_, after []Row) error {
	for _, r := range after {
		if r.Channel != "staging" && r.Version != "v1.0.0" {
			return fmt.Errorf("%s runs %q", r.Account, r.Version)
		}
		if r.Digest != after[0].Digest {
			return fmt.Errorf("%s runs digest %q, staging %q", r.Account, r.Digest, after[0].Digest)
		}
		if err := p.ready(r); err != nil {
			return err
		}
	}
	return nil
}

// ready fails unless every pod of the account is.
func (p *player) ready(r Row) error {
	if p.w.cluster == nil {
		return nil
	}
	if n, all, ok := strings.Cut(r.Pods, "/"); !ok || n != all || n == "0" {
		return fmt.Errorf("%s has %s pods ready", r.Account, r.Pods)
	}
	return nil
}

func (p *player) staged(before, after []Row, commit string) error {
	staging := after[0]
	if !strings.HasPrefix(staging.Version, "main-"+commit[:12]+"-") {
		return fmt.Errorf("staging runs %q, and the commit is %s", staging.Version, commit)
	}
	if staging.Digest == before[0].Digest {
		return errors.New("staging runs the old digest")
	}
	if !slices.Equal(before[1:], after[1:]) {
		return fmt.Errorf("accounts changed: %v, before %v", after[1:], before[1:])
	}
	return p.ready(staging)
}

func (p *player) released(before, after []Row, version string, channels ...string) error {
	for i, r := range after {
		if !slices.Contains(channels, r.Channel) {
			if r != before[i] {
				return fmt.Errorf("%s changed to %v, and is not to receive %s", r.Account, r, version)
			}
			continue
		}
		if r.Version != version {
			return fmt.Errorf("%s runs %q", r.Account, r.Version)
		}
		if r.Digest != after[0].Digest {
			return fmt.Errorf("%s runs digest %q, staging tested %q", r.Account, r.Digest, after[0].Digest)
		}
		if err := p.ready(r); err != nil {
			return err
		}
	}
	return nil
}

func (p *player) unchanged(before, after []Row) error {
	if !slices.Equal(before, after) {
		return fmt.Errorf("now %v, before %v", after, before)
	}
	scenes := p.report.Scenes
	if was, is := scenes[len(scenes)-2].Commits, scenes[len(scenes)-1].Commits; was != is {
		return fmt.Errorf("the config repo has %d commits, before %d", is, was)
	}
	return nil
}

func title(w io.Writer, text string) {
	fmt.Fprintf(w, "\n%s\n%s\n", text, strings.Repeat("-", len(text)))
}

// Text is the report as a table for a terminal.
func (r *Report) Text() string {
	var b strings.Builder
	if len(r.Scenes) == 0 {
		return ""
	}
	last := r.Scenes[len(r.Scenes)-1]
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if r.Cluster {
		fmt.Fprintln(w, "\nWhat runs now, read from the Kubernetes API:\n\naccount\tchannel\tregion\tversion\tdigest\trevision\tpods ready")
	} else {
		fmt.Fprintln(w, "\nCLUSTER=off: stopped before the deployment. What the config repo asks for:\n\naccount\tchannel\tregion\tversion\tdigest")
	}
	for _, row := range last.Rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s", row.Account, row.Channel, row.Region, row.Version, shortDigest(row.Digest))
		if r.Cluster {
			fmt.Fprintf(w, "\t%d\t%s", row.Revision, row.Pods)
		}
		fmt.Fprintln(w)
	}
	until := "ready"
	if !r.Cluster {
		until = "commit in the config repo"
	}
	fmt.Fprintf(w, "\nevent\tfrom push to %s\tbuilds\n", until)
	for _, s := range r.Scenes[1:] {
		if s.Again {
			continue
		}
		var names []string
		for _, build := range s.Builds {
			names = append(names, build.Trigger.Name)
		}
		fmt.Fprintf(w, "%s\t%.1f s\t%s\n", s.Event, s.Took.Seconds(), strings.Join(names, ", "))
	}
	_ = w.Flush() // a strings.Builder cannot fail
	return b.String()
}

func shortDigest(d string) string {
	if hex, ok := strings.CutPrefix(d, "sha256:"); ok && len(hex) > 12 {
		return "sha256:" + hex[:12]
	}
	return d
}
