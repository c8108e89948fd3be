package main

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"regexp"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

var commitPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// revision is a full commit id.
type revision string

// UnmarshalText checks the id.
func (r *revision) UnmarshalText(b []byte) error {
	if !commitPattern.Match(b) {
		return fmt.Errorf("want 40 hexadecimal digits in lower case")
	}
	*r = revision(b)
	return nil
}

// quiet sends what Helm says on its own account, through the global loggers of the standard library, into the step's log.
func quiet(b *step.Build) { slog.SetDefault(b.Log) }

// readCharts gives every release its chart, of those that have it in this repo. A chart that cannot be read is the fault of the releases that use it.
func readCharts(repo *source, list []*wanted) {
	type result struct {
		chart *chartFiles
		err   error
	}
	read := map[string]result{}
	for _, w := range list {
		if w.fault != "" || w.remote != nil {
			continue
		}
		r, ok := read[w.chartPath]
		if !ok {
			r.chart, r.err = readChart(repo, w.chartPath)
			read[w.chartPath] = r
		}
		if w.chart = r.chart; r.err == nil && len(w.valuesFiles) > 0 {
			r.err = w.replaceValues(repo)
		}
		if r.err != nil {
			w.addFault(r.err.Error())
		}
	}
}

// readInventory reads the accounts file. A repo without one has no UAT accounts; a defective one deploys nothing.
func readInventory(repo *source, in In) (accounts.Inventory, error) {
	name := path.Join(in.ConfigPath, in.Accounts)
	if step.IsURL(in.Accounts) || !repo.has(name) {
		return accounts.Inventory{}, nil
	}
	text, err := repo.read(name)
	if err != nil {
		return accounts.Inventory{}, err
	}
	inventory, err := accounts.Parse(text)
	if err != nil {
		return accounts.Inventory{}, step.Refuse("correct the inventory; while it is defective nothing is deployed", "inventory %s: %w", name, err)
	}
	return inventory, nil
}

// checkSeal holds a decision against DECISION_KEY, when there is one.
func (in In) checkSeal(d accounts.Decision) error {
	if in.DecisionKey.IsZero() {
		return nil
	}
	return d.CheckSeal([]byte(in.DecisionKey.Reveal()))
}

// readDecisions collects the gate's decisions on the versions of these images: those recorded in the config repo, and the one that was handed
// over in this build, which goes before a recorded one. A recorded one lies in the folder of its service, whose name says nothing certain
// about the image, so those of all services on such a version are read.
func readDecisions(b *step.Build, repo *source, in In, images []image) (decisions, error) {
	const advice = "run gate-uat and bump-config for the version again; a decision is not edited by hand"
	list := decisions{}
	versions := map[string]bool{}
	for _, i := range images {
		versions[i.tag] = true
	}
	folder := path.Join(in.ConfigPath, in.DecisionsPath)
	for _, name := range repo.names {
		version, isJSON := strings.CutSuffix(path.Base(name), ".json")
		if !isJSON || !versions[version] || path.Dir(path.Dir(name)) != folder {
			continue
		}
		text, err := repo.read(name)
		if err != nil {
			return nil, err
		}
		d, err := accounts.ParseDecision(text)
		if err == nil {
			err = in.checkSeal(d)
		}
		if err != nil {
			return nil, step.Refuse(advice, "decision %s: %w", name, err)
		}
		id := path.Join(path.Base(path.Dir(name)), version)
		if about := path.Join(d.Service, d.Version); about != id {
			return nil, step.Refuse(advice, "decision %s is about %s", name, about)
		}
		list[id] = d
	}
	for _, i := range images {
		for _, d := range list.on(i) {
			if d.InventoryCommit != "" && !repo.has(d.Inventory) {
				return nil, step.Refuse("bring the inventory back, or run gate-uat and bump-config for the version again",
					"decision %s was made on the inventory %s, which the config repo does not have any more", path.Join(folder, d.Service, d.Version+".json"), d.Inventory)
			}
		}
	}
	h, ok, err := b.Handover("gate-uat")
	if err != nil || !ok {
		return list, err
	}
	d, err := accounts.ParseDecision(h.JSON)
	if err == nil {
		err = in.checkSeal(d)
	}
	switch {
	case err != nil && h.Status == step.Refused:
		return nil, step.Refuse("see what gate-uat said in this build", "gate-uat refused: %s", strings.TrimSpace(h.Reason))
	case err != nil:
		return nil, step.Refuse(advice, "decision handed over by gate-uat: %w", err)
	case d.Build != b.ID:
		return nil, step.Refuse(advice, "decision handed over by gate-uat: it is of build %q, and this is build %q", d.Build, b.ID)
	}
	if d.InventoryCommit != "" { // it was made in this build, a moment ago, so that the file must be the same
		text, err := repo.read(d.Inventory)
		if err == nil {
			err = d.Verify(text)
		}
		if err != nil {
			return nil, step.Refuse(advice, "decision handed over by gate-uat, held against %s: %w", d.Inventory, err)
		}
	}
	list[path.Join(d.Service, d.Version)] = d
	return list, nil
}

// verifyTags asks the registry whether each tag that is to be deployed by a decision still has the digest that was decided on. What runs is
// pinned to the digest, so a tag that was moved would not be deployed; but it is the sign of somebody who moves tags.
func verifyTags(ctx context.Context, in In, c circumstances, tasks []*task) error {
	if !in.VerifyTag {
		return nil
	}
	const advice = "find out who moved the tag; nothing was touched, and a version keeps its digest for ever"
	client := registry.New(in.Insecure)
	asked := map[string]bool{}
	for _, t := range tasks {
		image := t.release.image
		name := image.repository + ":" + image.tag
		on := c.decisions.on(image)
		if len(on) == 0 || t.state != "" && !t.mayCorrect() || asked[name] {
			continue
		}
		asked[name] = true
		found, ok, err := client.Resolve(ctx, image.repository, image.tag)
		if err != nil {
			return err
		}
		for _, d := range on {
			switch {
			case !ok:
				return step.Refuse(advice, "the decision on %s %s is about digest %s, and %s is gone", d.Service, d.Version, d.Digest, name)
			case found.Digest != d.Digest:
				return step.Refuse(advice, "the decision on %s %s is about digest %s, and %s names %s now", d.Service, d.Version, d.Digest, name, found.Digest)
			}
		}
	}
	return nil
}
