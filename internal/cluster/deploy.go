package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ErrNothingToReturnTo says that a release never ran before the revision that failed.
var ErrNothingToReturnTo = errors.New("no earlier revision ever ran")

// Release is one release as it should stand in the cluster.
type Release struct {
	Key                            // where its records are, and its name
	Namespace       string         // where its objects go
	CreateNamespace bool           // create Namespace at the first revision when it does not exist
	Chart           *chart.Chart   // used up: Helm changes it, so that no two releases may share one
	Values          map[string]any // used up, as the chart
	MaxHistory      int            // revisions to keep; 0 keeps all
	Timeout         time.Duration  // of each wait: for a hook, for the objects
	Patience        time.Duration  // how long a pod may stay without a node, or may not be made, before that counts as a failure
	LogLines        int            // of a container that is to blame for a failure, to read from its log; 0 reads none
	Mark            Mark           // remembered with the revision; Beats is set
	Heartbeat       time.Duration  // between two signs of life; 0: HeartbeatEvery
	Newest          Record         // the newest revision when this was planned: the zero Record for none
	Settings        Settings
	// rendered makes Deploy end where it would write the new revision's record. It is given what would be written, and the revisions that
	// were read in full. See Preview.
	rendered func(next *releasev1.Release, known []*releasev1.Release)
}

// IsInstall reports whether Deploy installs, and does not upgrade.
func (r Release) IsInstall() bool {
	return r.Newest.Revision == 0 || r.Newest.Status == common.StatusUninstalled.String()
}

// Deploy installs or upgrades a release and waits until its objects are ready, or until there is no hope or no time. Where a
// container is to blame for an error, that is a [*Failure]. It returns the revision that it wrote, 0 when it failed before it changed anything. report is told what is being waited for; it may be called from
// several goroutines. When ctx ends, the waiting ends, and the release is recorded as failed.
func (c *Cluster) Deploy(ctx context.Context, r Release, report func(string)) (revision int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	if r.CreateNamespace && r.IsInstall() && r.rendered == nil {
		if err := c.createNamespace(ctx, r.Namespace); err != nil {
			return 0, fmt.Errorf("creating namespace %s: %w", r.Namespace, c.explain(err))
		}
	}
	r.Mark.Beats = true
	s := c.store(r.Key, r.Newest.Revision, r.Mark)
	s.rendered = r.rendered
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer s.beat(ctx, r.Heartbeat, end)()
	w := &waiter{ctx: ctx, cluster: c, patience: r.Patience, logLines: r.LogLines, report: report}
	cfg := c.configuration(s, r.Namespace, w)
	if r.IsInstall() {
		err = c.install(ctx, r, cfg, report)
	} else {
		err = c.upgrade(ctx, r, cfg, s, report)
	}
	return s.revision(), w.withLog(c.explainDeploy(err))
}

// A context that ends inside Helm's calls makes them return while their goroutines go on applying. The waiter is what ends instead.

func (c *Cluster) install(ctx context.Context, r Release, cfg *action.Configuration, report func(string)) error {
	set := r.Settings.Install
	ssa, err := set.serverSide(func() (string, error) { return "ssa", nil })
	if err != nil {
		return err
	}
	if err := c.applyCRDs(ctx, r, cmp.Or(set.CRDs, "Create"), report); err != nil {
		return err
	}
	cfg.Capabilities = c.caps.get() // with the kinds that were just made
	in := action.NewInstall(cfg)
	in.ReleaseName, in.Namespace, in.Replace = r.Name, r.Namespace, r.Newest.Revision > 0
	in.Timeout, in.WaitStrategy, in.WaitOptions = set.timeout(r), set.strategy(), []kube.WaitOption{kube.WithWaitContext(ctx)}
	in.WaitForJobs, in.DisableHooks, in.SkipSchemaValidation = !set.DisableWaitForJobs, set.DisableHooks, set.DisableSchemaValidation
	in.ServerSideApply, in.ForceConflicts, in.TakeOwnership = ssa, ssa, !set.DisableTakeOwnership // as Flux's helm controller does
	in.DisableOpenAPIValidation, in.SkipCRDs = true, true
	in.PostRenderer, in.PostRenderStrategy = r.Settings.PostRenderer, r.Settings.postRenderStrategy()
	_, err = in.RunWithContext(context.WithoutCancel(ctx), r.Chart, r.Values)
	return err
}

func (c *Cluster) upgrade(ctx context.Context, r Release, cfg *action.Configuration, s *store, report func(string)) error {
	set := r.Settings.Upgrade
	ssa, err := set.serverSide(func() (string, error) { return s.applyMethod(r.Name, r.Newest.Revision) })
	if err != nil {
		return err
	}
	if err := c.applyCRDs(ctx, r, cmp.Or(set.CRDs, "Skip"), report); err != nil {
		return err
	}
	cfg.Capabilities = c.caps.get() // with the kinds that were just made
	up := action.NewUpgrade(cfg)
	up.Namespace, up.MaxHistory = r.Namespace, r.MaxHistory
	up.Timeout, up.WaitStrategy, up.WaitOptions = set.timeout(r), set.strategy(), []kube.WaitOption{kube.WithWaitContext(ctx)}
	up.WaitForJobs, up.DisableHooks, up.SkipSchemaValidation = !set.DisableWaitForJobs, set.DisableHooks, set.DisableSchemaValidation
	up.ServerSideApply, up.ForceConflicts, up.TakeOwnership = strconv.FormatBool(ssa), ssa, !set.DisableTakeOwnership
	up.ForceReplace, up.CleanupOnFail = set.Force && !ssa, set.CleanupOnFail
	up.DisableOpenAPIValidation = true
	up.ResetValues, up.ReuseValues = !set.PreserveValues, set.PreserveValues // without either, Helm takes the old values over where there are no new ones
	up.PostRenderer, up.PostRenderStrategy = r.Settings.PostRenderer, r.Settings.postRenderStrategy()
	_, err = up.RunWithContext(context.WithoutCancel(ctx), r.Name, r.Chart, r.Values)
	return err
}

// Rollback returns a release to the newest revision that ran before, and waits for it. It returns the revision that it returned to and
// the new revision that it wrote.
func (c *Cluster) Rollback(ctx context.Context, r Release, report func(string)) (to Record, revision int, err error) {
	state, err := c.State(ctx, r.Key)
	if err != nil {
		return Record{}, 0, err
	}
	to = state.Running
	if to.Revision == 0 || to.Revision == state.Newest.Revision {
		return Record{}, 0, ErrNothingToReturnTo
	}
	mark := to.Mark // what it is stays; who wrote it is this build
	mark.Build, mark.Until, mark.Beats = r.Mark.Build, r.Mark.Until, true
	s := c.store(r.Key, state.Newest.Revision, mark)
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer s.beat(ctx, r.Heartbeat, end)()
	w := &waiter{ctx: ctx, cluster: c, patience: r.Patience, logLines: r.LogLines, report: report}
	set := r.Settings.Rollback
	ssa, err := set.serverSide(func() (string, error) { return s.applyMethod(r.Name, to.Revision) })
	if err != nil {
		return to, 0, err
	}
	back := action.NewRollback(c.configuration(s, r.Namespace, w))
	back.Version, back.MaxHistory = to.Revision, r.MaxHistory // Helm's own roll back on failure forgets the limit
	back.Timeout, back.WaitStrategy, back.WaitOptions = set.timeout(r), set.strategy(), []kube.WaitOption{kube.WithWaitContext(ctx)}
	back.WaitForJobs, back.DisableHooks, back.CleanupOnFail = !set.DisableWaitForJobs, set.DisableHooks, set.CleanupOnFail
	back.ServerSideApply, back.ForceConflicts, back.ForceReplace = strconv.FormatBool(ssa), ssa, set.Force && !ssa
	err = back.Run(r.Name)
	return to, s.revision(), w.withLog(c.explainDeploy(err))
}

// Recover marks a pending revision, whose writer is dead, as failed, so that the release can be deployed again. It writes nothing when the
// record has changed since it was read.
func (c *Cluster) Recover(ctx context.Context, r Record, reason string) error {
	s := c.store(Key{r.Namespace, r.Name}, r.Revision, Mark{})
	name := recordName(r.Name, r.Revision)
	rel, err := s.record(name)
	if err != nil {
		return fmt.Errorf("reading record %s: %w", name, c.explain(err))
	}
	if r.State != "" && s.secrets.version(name) != r.State {
		return fmt.Errorf("record %s has changed since it was judged: %w", name, ErrMoved)
	}
	if rel.Info.Status.String() != r.Status || !isPending(rel.Info.Status) {
		return fmt.Errorf("record %s is %s now: %w", name, rel.Info.Status, ErrMoved)
	}
	rel.SetStatus(common.StatusFailed, reason)
	if err := s.Secrets.Update(name, rel); err != nil {
		return fmt.Errorf("marking record %s as failed: %w", name, c.explain(err))
	}
	return nil
}

// createNamespace creates a namespace unless it exists. Helm's own way downloads the OpenAPI documents to validate four lines.
func (c *Cluster) createNamespace(ctx context.Context, name string) error {
	namespaces := c.core.CoreV1().Namespaces()
	if _, err := namespaces.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err
	}
	_, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}}, metav1.CreateOptions{FieldManager: kube.ManagedFieldsManager})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// explainDeploy adds what a release needs and does not have.
func (c *Cluster) explainDeploy(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := errors.AsType[*apierrors.StatusError](err); ok && apierrors.IsNotFound(err) {
		if d := s.Status().Details; d != nil && d.Kind == "namespaces" {
			return fmt.Errorf("namespace %s does not exist: create it, or set spec.install.createNamespace of the HelmRelease: %w", d.Name, err)
		}
	}
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		return c.explain(err)
	}
	return err
}
