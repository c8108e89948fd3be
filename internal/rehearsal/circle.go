package rehearsal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/hold"
)

// wayBack is the full circle of a bad release: v1.1.0 is rolled back, automation does not undo that, its image is deleted and the registry's
// garbage collected, and in the end the same image comes back.
func (p *player) wayBack(ctx context.Context) []act {
	w := p.w
	rollBack := func(more ...string) func() error {
		given := map[string]string{"_VERSION": "v1.1.0", "_REASON": "customers find it too polite"}
		for _, name := range more {
			given[name] = "true"
		}
		return func() error { return w.byHand(ctx, "backend-rollback", given) }
	}
	return []act{
		{Scene{Event: "v1.1.0 is rolled back, by hand", Expect: "staging and all accounts are on v1.0.0 again, no pod of v1.1.0 is left, and its tag is gone"},
			rollBack(), func(_, after []Row) error { return p.rolledBack(ctx, after) }},
		{Scene{Event: "automation runs twice: main, the release, a scan", Expect: "the hold keeps v1.1.0 back, and nothing changes", Again: true,
			Refused: []string{"backend-main", "backend-release"}}, func() error { return p.automation(ctx, 2) },
			func(before, after []Row) error { return errors.Join(p.tags(ctx, ""), p.unchanged(before, after)) }},
		{Scene{Event: "v1.1.0 is deleted, by hand, and the registry collects its garbage", Expect: "the image is gone from the registry, and nothing changes", Again: true},
			func() error {
				if err := rollBack("_FORCE_DIGEST")(); err != nil {
					return err
				}
				if _, err := w.Settle(ctx, 0); err != nil {
					return err
				}
				w.say("garbage-collect --delete-untagged")
				return w.registry.CollectGarbage(ctx)
			}, func(before, after []Row) error { return errors.Join(p.deleted(ctx), p.unchanged(before, after)) }},
		{Scene{Event: "v1.1.0 is restored, by hand", Expect: "the same digest is back, the hold is lifted, and no account changes yet"},
			func() error {
				return w.byHand(ctx, "backend-restore", map[string]string{"_VERSION": "v1.1.0", "_REASON": "they came to like it"})
			}, func(before, after []Row) error { return p.restored(ctx, before, after) }},
		{Scene{Event: "main and the release run again", Expect: "staging and all accounts run the same digest as before the roll back"},
			func() error { return w.again(ctx, p.first(1), p.first(3)) },
			func(_, after []Row) error { return p.runAs(3, after) }},
	}
}

// first is the build that began a scene.
func (p *player) first(scene int) *BuildRecord { return p.report.Scenes[scene].Builds[0] }

// bad is the digest that is taken back.
func (p *player) bad() string { return p.report.Scenes[3].Rows[0].Digest }

// automation runs what runs by itself in a company: the builds of main and of the release again, and the scan of the registry.
func (p *player) automation(ctx context.Context, times int) error {
	for range times {
		if err := p.w.again(ctx, p.first(1), p.first(3)); err != nil {
			return err
		}
		if err := p.w.byHand(ctx, "config-scan", nil); err != nil {
			return err
		}
		if _, err := p.w.Settle(ctx, 0); err != nil {
			return err
		}
	}
	return nil
}

// runAs fails unless staging and all accounts run what they ran at the end of a scene.
func (p *player) runAs(scene int, rows []Row) error {
	for i, r := range rows {
		if was := p.report.Scenes[scene].Rows[i]; r.Version != was.Version || r.Digest != was.Digest {
			return fmt.Errorf("%s runs %s %s, and ran %s %s then", r.Account, r.Version, r.Digest, was.Version, was.Digest)
		}
		if err := p.ready(r); err != nil {
			return err
		}
	}
	return nil
}

func (p *player) rolledBack(ctx context.Context, after []Row) error {
	if err := p.runAs(0, after); err != nil {
		return err
	}
	scene := p.report.Scenes[len(p.report.Scenes)-1]
	if len(scene.Holds) != 1 || !strings.Contains(scene.Holds[0], "backend v1.1.0 is held by") {
		return fmt.Errorf("the holds are %q", scene.Holds)
	}
	p.w.say("held: %s", scene.Holds[0])
	if err := p.tags(ctx, ""); err != nil {
		return err
	}
	return p.w.gone(ctx, p.bad())
}

// tags fails unless the release's tag is on a digest, or on nothing, and the candidate's on the image as before.
func (p *player) tags(ctx context.Context, released string) error {
	if on := p.w.registry.Tags(ctx, imagePath); on["v1.1.0"] != released || on["v1.1.0-rc.1"] != p.bad() {
		return fmt.Errorf("the tags of the registry are on %v", on)
	}
	return nil
}

func (p *player) deleted(ctx context.Context) error {
	if slices.Contains(p.w.registry.Versions(ctx, imagePath), p.bad()) {
		return fmt.Errorf("the registry still has %s", p.bad())
	}
	if on := p.w.registry.Tags(ctx, imagePath); on["v1.0.0"] == "" || on["v1.1.0-rc.1"] != "" {
		return fmt.Errorf("the tags of the registry are on %v", on)
	}
	return nil
}

func (p *player) restored(ctx context.Context, before, after []Row) error {
	if !slices.Equal(before, after) {
		return fmt.Errorf("now %v, before %v", after, before)
	}
	scene := p.report.Scenes[len(p.report.Scenes)-1]
	if len(scene.Holds) > 0 {
		return fmt.Errorf("the holds are %q", scene.Holds)
	}
	return p.tags(ctx, p.bad())
}

// holds reads the held versions of the config repo, for people.
func (w *World) holds(ctx context.Context) ([]string, error) {
	listed, err := w.runGit(ctx, w.git.Dir(configRepo), "ls-tree", "--name-only", "main", hold.DefaultPath)
	if err != nil || listed == "" {
		return nil, err
	}
	text, err := w.runGit(ctx, w.git.Dir(configRepo), "show", "main:"+hold.DefaultPath)
	if err != nil {
		return nil, err
	}
	list, err := hold.Parse([]byte(text))
	var texts []string
	for _, h := range list {
		texts = append(texts, h.String())
	}
	return texts, err
}

// goneWithin is how long pods that were replaced may take to end.
const goneWithin = 30 * time.Second

// gone waits until the Kubernetes API has no pod with a digest, in any namespace and in any state.
func (w *World) gone(ctx context.Context, digest string) error {
	if w.cluster == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, goneWithin)
	defer cancel()
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		var pods podList
		if err := w.cluster.Get(ctx, "/api/v1/pods", &pods); err != nil {
			return err
		}
		left := slices.DeleteFunc(pods.Items, func(p pod) bool { return !p.has(digest) })
		if len(left) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d pods with %s are left", len(left), digest)
		}
	}
}
