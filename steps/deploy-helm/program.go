package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// In is what deploy-helm is told.
type In struct {
	step.ConfigRepo
	step.Credentials
	Target
	SourceDir          string        `env:"SOURCE_DIR" doc:"a local checkout of the config repo, instead of CONFIG_REPO; for laptops: only CONFIG_REPO can tell which of two commits is the newer"`
	Revision           revision      `env:"REVISION" doc:"commit whose push started this build ($COMMIT_SHA in a build of the config repo); when the branch has moved on, its newest commit is deployed"`
	Select             selector      `env:"SELECT" doc:"label selector: deploy only the HelmReleases that it matches"`
	Accounts           string        `env:"ACCOUNTS" default:"accounts.yaml" doc:"path of the inventory in the config repo; without the file no account is UAT; a URL means that the repo has none"`
	AccountLabel       string        `env:"ACCOUNT_LABEL" default:"account" doc:"label or annotation of a HelmRelease that says whose it is"`
	DecisionsPath      string        `env:"DECISIONS_PATH" default:"decisions" doc:"folder of the config repo with the gate's decisions, as SERVICE/VERSION.json"`
	DecisionKey        secret.Text   `env:"DECISION_KEY" doc:"key that gate-uat sealed its decisions with; a decision without the right seal is refused; pass it with secretEnv"`
	RequireDecision    bool          `env:"REQUIRE_DECISION" default:"false" doc:"deploy a release version to an account, or behind a marker, only where there is a decision of gate-uat on it, handed over or recorded"`
	VerifyTag          bool          `env:"VERIFY_TAG" default:"true" doc:"where a decision of gate-uat is followed, ask the registry whether the tag still has the digest that was decided on"`
	Insecure           []string      `env:"REGISTRY_INSECURE" doc:"hosts (host or host:port) reached over plain HTTP; loopback always is"`
	Concurrency        int           `env:"CONCURRENCY" default:"8" doc:"releases that are deployed to one cluster at the same time"`
	Waves              []string      `env:"WAVES" default:"uat,production" doc:"which accounts, in this order; a wave begins when the one before is healthy; what has no account (staging) goes with the first"`
	WaitTimeout        time.Duration `env:"WAIT_TIMEOUT" default:"5m" doc:"how long a release may take to become ready, unless its spec.timeout says otherwise"`
	UnschedulableAfter time.Duration `env:"UNSCHEDULABLE_AFTER" default:"1m" doc:"how long a pod may stay without a node (an autoscaler may be adding one), or a quota may refuse it, before the release counts as failed"`
	LogLines           int           `env:"LOG_LINES" default:"10" doc:"how many of the last lines of a failing container's log are shown and reported; they may hold what the application prints of its secrets; 0: none"`
	Drift              string        `env:"DRIFT" default:"off" oneof:"off,declared,all" doc:"look whether releases that have not changed still are as they were deployed (a request for each, and two for each object): those whose HelmRelease asks for it by driftDetection.mode, or all but those that say disabled"`
	CorrectDrift       bool          `env:"CORRECT_DRIFT" default:"false" doc:"with DRIFT: apply again what has drifted, as the same revision, unless driftDetection.mode is warn"`
	OnFailure          string        `env:"ON_FAILURE" default:"rollback" oneof:"rollback,leave" doc:"what to do with a release that did not become ready"`
	Prune              bool          `env:"PRUNE" default:"false" doc:"uninstall releases that were deployed from this part of the config repo and whose HelmRelease is gone from it, when everything else is healthy; else they are reported"`
	PruneLimit         float64       `env:"PRUNE_LIMIT" default:"0.5" doc:"with PRUNE: refuse to uninstall more than this share of what was deployed from the config repo at once; three may always go"`
}

// Check reports faults across variables.
func (in In) Check(f *step.Faults) {
	switch {
	case in.ConfigURL == "" && in.SourceDir == "":
		f.Add("CONFIG_REPO", "is not set: https URL of the config repo (or set SOURCE_DIR to a local checkout)")
	case in.ConfigURL != "" && in.SourceDir != "":
		f.Add("SOURCE_DIR", "conflicts with CONFIG_REPO: set one of them")
	}
	in.checkTarget(f)
	if in.CorrectDrift && in.Drift == "off" {
		f.Add("CORRECT_DRIFT", "needs DRIFT=declared or DRIFT=all: nobody looks for drift")
	}
	if in.Concurrency < 1 || in.Concurrency > 64 {
		f.Add("CONCURRENCY", "%d is not a number from 1 to 64", in.Concurrency)
	}
	if in.LogLines < 0 || in.LogLines > 100 {
		f.Add("LOG_LINES", "%d is not a number from 0 to 100", in.LogLines)
	}
	if !(in.PruneLimit >= 0 && in.PruneLimit <= 1) {
		f.Add("PRUNE_LIMIT", "%v is not a share from 0 to 1", in.PruneLimit)
	}
	for _, v := range []struct {
		name string
		time time.Duration
	}{{"WAIT_TIMEOUT", in.WaitTimeout}, {"UNSCHEDULABLE_AFTER", in.UnschedulableAfter}} {
		if v.time <= 0 {
			f.Add(v.name, "must be longer than nothing")
		}
	}
	for _, v := range []struct{ name, path string }{{"ACCOUNTS", in.Accounts}, {"DECISIONS_PATH", in.DecisionsPath}} {
		if elsewhere := v.name == "ACCOUNTS" && step.IsURL(v.path); !elsewhere && !step.InsideRepo(v.path) {
			f.Add(v.name, "%q is not a path inside the config repo", v.path)
		}
	}
	if w := strings.Join(in.Waves, ","); !slices.Contains([]string{"uat,production", "uat", "production"}, w) {
		f.Add("WAVES", "%q is not one of uat,production or uat or production: UAT accounts come before production accounts", w)
	}
}

// Out is what became of each release.
type Out struct {
	Commit    string    `json:"commit" env:"COMMIT" doc:"commit of the config repo that was deployed"`
	Deployed  int       `json:"deployed" env:"DEPLOYED" doc:"number of releases that were deployed"`
	Unchanged int       `json:"unchanged" env:"UNCHANGED" doc:"number of releases that were left alone because nothing of them changed"`
	Failed    int       `json:"failed" env:"FAILED" doc:"number of releases that failed, rolled back or not"`
	Skipped   int       `json:"skipped" env:"SKIPPED" doc:"number of releases that were not to be touched"`
	Orphaned  int       `json:"orphaned" env:"ORPHANED" doc:"number of releases that run although their HelmRelease is gone from the config repo"`
	Removed   int       `json:"removed" env:"REMOVED" doc:"number of releases that PRUNE uninstalled"`
	Diff      string    `json:"diff,omitempty" doc:"name of the file beside this one with the differences that a dry run or the look for drift found"`
	Report    string    `json:"report" doc:"name of the HTML report beside this file; empty when it was not written"`
	Releases  []Release `json:"releases" doc:"account, region, cluster, namespace, name, chart, from, to, revision, state (deployed, unchanged, failed, rolled-back, skipped, orphaned, removed), seconds, reason, drift (objects, corrected), objects (of a dry run: kind, namespace, name, action, refused, unchecked), log (the last lines of the container to blame)"`
}

// Release is one line of the report.
type Release struct {
	Account   string   `json:"account"`
	Region    string   `json:"region"`  // of the account, from the inventory
	Cluster   string   `json:"cluster"` // where it runs; "" where the current context of a kubeconfig says
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Chart     string   `json:"chart"`
	From      string   `json:"from"` // image tag, or chart version where there is no image
	To        string   `json:"to"`
	Revision  int      `json:"revision"` // Helm's, after this run
	State     string   `json:"state"`
	Seconds   float64  `json:"seconds"`
	Reason    string   `json:"reason"`
	Drift     *Drift   `json:"drift,omitempty"`   // of a release that has not changed but is not as it was deployed
	Objects   []Object `json:"objects,omitempty"` // of a dry run: those that would change
	Diff      string   `json:"-"`                 // of a dry run; stands in a file of its own
	Log       []string `json:"log,omitempty"`     // the last lines of the container that is to blame
	channel   string   // staging, uat or production
	lost      bool     // it failed because other writers were faster, again and again
}

// Result is the count of the states.
func (o Out) Result() string {
	counts := fmt.Sprintf("%d deployed, %d unchanged, %d failed", o.Deployed, o.Unchanged, o.Failed)
	return counts + suffix(o.Removed > 0, fmt.Sprintf(", %d removed", o.Removed))
}

var program = step.Program[In, Out]{
	Name:    "deploy-helm",
	Summary: "deploy the HelmReleases of the config repo whose chart or values changed",
	Timeout: 30 * time.Minute,
	Run:     run,
	Doc:     doc,
}

func run(ctx context.Context, b *step.Build, in In) (Out, error) {
	began := time.Now()
	out, err := deploy(ctx, b, in)
	out.Report = writeReport(b, in, out, err, began) // also of a run that touched nothing, so that no older page is taken for its own
	return out, err
}

func deploy(ctx context.Context, b *step.Build, in In) (Out, error) {
	quiet(b)
	// The clusters are read before the config repo. Whatever they remember was deployed from a commit that was the newest before we ask for
	// the newest: so what we read cannot be older, without comparing any clocks.
	targets, err := openTargets(ctx, b, in.Target)
	if err != nil {
		return Out{}, err
	}
	repo, err := openSource(ctx, b, in)
	if err != nil {
		return Out{}, err
	}
	all, err := readReleases(repo, in.ConfigPath, in.AccountLabel)
	if err != nil {
		return Out{Commit: repo.commit}, step.Refuse("correct the files; while one of them cannot be read nothing is deployed", "reading the HelmReleases: %w", err)
	}
	list, source := in.Select.of(all), sourceMark(in)
	if len(list) == 0 && (len(all) > 0 || !targets.remember(source)) {
		return Out{Commit: repo.commit, Releases: []Release{}}, step.Nothing("no HelmRelease %s below %s", in.Select.text(), in.ConfigPath)
	}
	readCharts(repo, list)
	c := circumstances{waves: in.Waves, requireDecision: in.RequireDecision, build: cluster.BuildLabel(b.ID), now: time.Now(), longest: remaining(ctx)}
	if c.inventory, err = readInventory(repo, in); err != nil {
		return Out{Commit: repo.commit}, err
	}
	if homeless := targets.place(list, c); len(homeless) > 0 {
		return Out{Commit: repo.commit}, step.Misconfigured("nothing was touched; name a cluster for each region, or correct the region in "+in.Accounts,
			"%d of %d releases have no cluster: %s", len(homeless), len(list), strings.Join(homeless, "; "))
	}
	everything := withDependencies(list)
	_ = targets.place(everything[len(list):], c) // what is not deployed may be without a cluster
	c.states = targets.states(everything)
	resolveValues(ctx, targets, repo, list)
	remote := &remoteCharts{plain: in.Insecure, notice: func(text string) { b.Log.Warn(text) }, secrets: targets.secret}
	remote.resolve(ctx, list, c)
	if c.decisions, err = readDecisions(b, repo, in, released(list)); err != nil {
		return Out{Commit: repo.commit}, err
	}
	tasks, refusals := makePlan(list, c)
	if len(refusals) > 0 {
		return Out{Commit: repo.commit}, step.Refuse("nothing was touched; run gate-uat and bump-config for the version, or correct the values",
			"%d of %d releases must not be deployed: %s", len(refusals), len(list), strings.Join(refusals, "; "))
	}
	fetchCharts(ctx, tasks)
	orderByDependencies(tasks, c)
	watchForDrift(tasks, in, c)
	if err := verifyTags(ctx, in, c, tasks); err != nil {
		return Out{Commit: repo.commit}, err
	}
	orphans, err := leftovers(b, in, repo, targets, all, c)
	if err != nil {
		return Out{Commit: repo.commit}, err
	}
	r := &rollout{
		clusters: targets.clusters(), log: b.Log, working: b.Working, repo: repo, plan: c, concurrency: in.Concurrency, timeout: in.WaitTimeout,
		patience: in.UnschedulableAfter, logLines: in.LogLines, rollBack: in.OnFailure == "rollback", tip: repo.tip,
		mark: cluster.Mark{Build: b.ID, Commit: repo.commit, Committed: repo.committed, Until: time.Now().Add(remaining(ctx) + time.Minute), Source: source},
	}
	diff, drifted := "", r.lookForDrift(ctx, tasks)
	run := r.run
	if b.DryRun {
		run = r.preview
	} else {
		diff = tellPlan(b, drifted) // before it is corrected
	}
	report := run(ctx, tasks)
	if b.DryRun {
		diff = tellPlan(b, drifted+planText(in.Waves, tasks, report))
	}
	if in.Prune && !b.DryRun {
		report = append(report, r.prune(ctx, orphans, tasks, report)...)
	} else {
		report = append(report, reportOrphans(orphans, in.Prune, b.DryRun)...)
	}
	out, err := finish(b, repo, report)
	out.Diff = diff
	return out, err
}

// finish prints the table, and fails the step unless every release that was to be deployed is.
func finish(b *step.Build, repo *source, report []Release) (Out, error) {
	out := Out{Commit: repo.commit, Releases: report}
	var table strings.Builder
	var failures []string
	lost := 0
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	several := slices.ContainsFunc(report, func(l Release) bool { return l.Cluster != report[0].Cluster })
	where := func(s string) string {
		if several {
			return s + "\t"
		}
		return "" // a column that says the same on every line
	}
	fmt.Fprintf(w, "ACCOUNT\t%sRELEASE\tFROM\tTO\tREVISION\tSTATE\tSECONDS\tREASON\n", where("CLUSTER"))
	for _, l := range report {
		fmt.Fprintf(w, "%s\t%s%s/%s\t%s\t%s\t%d\t%s\t%.1f\t%s\n", orDash(l.Account), where(orDash(shortCluster(l.Cluster))), l.Namespace, l.Name, orDash(l.From), orDash(l.To),
			l.Revision, l.State, l.Seconds, orDash(l.Reason))
		switch l.State {
		case deployed:
			out.Deployed++
		case unchanged:
			out.Unchanged++
		case skipped:
			out.Skipped++
		case orphaned:
			out.Orphaned++
		case removed:
			out.Removed++
		default:
			out.Failed++
			if l.lost {
				lost++
			}
			failures = append(failures, fmt.Sprintf("%s/%s: %s", l.Namespace, l.Name, l.Reason))
		}
	}
	_ = w.Flush()
	b.Text(table.String())
	if lost > 0 && lost == out.Failed {
		return out, step.WithReport(step.Lost("run this build again when the others are done", "%s: %s", out.Result(), strings.Join(failures, "; ")))
	}
	if out.Failed > 0 {
		return out, step.WithReport(step.WithFix(fmt.Errorf("%s: %s", out.Result(), strings.Join(failures, "; ")),
			"correct what is named here and push, or run this build again: what is deployed is left alone"))
	}
	return out, nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// remaining is the time until ctx ends.
func remaining(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return time.Hour
	}
	return time.Until(end)
}

// selector is a Kubernetes label selector.
type selector string

// UnmarshalText checks the selector.
func (s *selector) UnmarshalText(b []byte) error {
	if _, err := labels.Parse(string(b)); err != nil {
		return errors.New("want a label selector such as account=maple or channel in (staging,uat)")
	}
	*s = selector(b)
	return nil
}

func (s selector) text() string {
	if s == "" {
		return "at all"
	}
	return "with labels " + string(s)
}

// of returns the releases that the selector matches, and those of which nobody knows whether it does.
func (s selector) of(list []*wanted) []*wanted {
	match, err := labels.Parse(string(s))
	if err != nil { // UnmarshalText has seen it
		return nil
	}
	return slices.DeleteFunc(slices.Clone(list), func(w *wanted) bool { return !w.unbuilt && !match.Matches(labels.Set(w.labels)) })
}
