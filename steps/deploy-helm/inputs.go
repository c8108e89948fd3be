package main

import (
	"fmt"
	"log/slog"
	"path"
	"regexp"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
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

// readCharts gives every release its chart. A chart that cannot be read is the fault of the releases that use it.
func readCharts(repo *source, list []*wanted) {
	type result struct {
		chart *chartFiles
		err   error
	}
	read := map[string]result{}
	for _, w := range list {
		if w.fault != "" {
			continue
		}
		r, ok := read[w.chartPath]
		if !ok {
			r.chart, r.err = readChart(repo, w.chartPath)
			read[w.chartPath] = r
		}
		if w.chart = r.chart; r.err != nil {
			w.addFault(r.err.Error())
		}
	}
}

// readInventory reads the accounts file. A repo without one has no UAT accounts; a defective one deploys nothing.
func readInventory(repo *source, in In) (accounts.Inventory, error) {
	name := path.Join(in.ConfigPath, in.Accounts)
	if !repo.has(name) {
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

// readDecisions collects the gate's decisions on the versions that are needed: those recorded in the config repo, and the one that was
// handed over in this build, which goes before a recorded one.
func readDecisions(b *step.Build, repo *source, in In, needed []string) (map[string]accounts.Decision, error) {
	const advice = "run gate-uat and bump-config for the version again; a decision is not edited by hand"
	decisions := map[string]accounts.Decision{}
	for _, id := range needed {
		name := path.Join(in.ConfigPath, in.DecisionsPath, id+".json")
		if !repo.has(name) {
			continue
		}
		text, err := repo.read(name)
		if err != nil {
			return nil, err
		}
		d, err := accounts.ParseDecision(text)
		if err != nil {
			return nil, step.Refuse(advice, "decision %s: %w", name, err)
		}
		if about := path.Join(d.Service, d.Version); about != id {
			return nil, step.Refuse(advice, "decision %s is about %s", name, about)
		}
		decisions[id] = d
	}
	h, ok, err := b.Handover("gate-uat")
	if err != nil || !ok {
		return decisions, err
	}
	d, err := accounts.ParseDecision(h.JSON)
	switch {
	case err != nil && h.Status == step.Refused:
		return nil, step.Refuse("see what gate-uat said in this build", "gate-uat refused: %s", strings.TrimSpace(h.Reason))
	case err != nil:
		return nil, step.Refuse(advice, "decision handed over by gate-uat: %w", err)
	}
	decisions[path.Join(d.Service, d.Version)] = d
	return decisions, nil
}
