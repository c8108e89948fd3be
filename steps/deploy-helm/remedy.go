package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
)

// test runs the tests of a chart after its deployment. What its HelmRelease wants to be ignored becomes the remark of a release that is
// deployed all the same.
func (r *rollout) test(ctx context.Context, log *slog.Logger, on *cluster.Cluster, w *wanted, rel cluster.Release, revision int, report func(string)) (remark string, err error) {
	ignore := w.settings.ignoreUpgradeTests
	if rel.IsInstall() {
		ignore = w.settings.ignoreInstallTests
	}
	err = on.Test(ctx, rel, revision, ignore, report)
	if err == nil || !ignore {
		return "", err
	}
	log.Warn("ignored, as the HelmRelease says", "reason", w.secrets.text(err.Error()))
	return fmt.Sprintf("%v; ignored, as the HelmRelease says", err), nil
}

// remedy does after a failure what ON_FAILURE=rollback and the HelmRelease want.
func (r *rollout) remedy(ctx, deploying context.Context, log *slog.Logger, on *cluster.Cluster, t *task, rel cluster.Release, revision int, cause error, report func(string)) (int, string, string) {
	set, why := t.release.settings, t.release.secrets.text(cause.Error())
	switch {
	case rel.IsInstall() && set.leaveFailedInstall, !rel.IsInstall() && set.leaveFailedUpgrade:
		return revision, failed, fmt.Sprintf("%v (left as it is: the HelmRelease asks for RetryOnFailure)", cause)
	case rel.IsInstall() && set.uninstallFailedInstall:
		log.Warn("failed, uninstalling", "reason", why)
		if err := on.Uninstall(ctx, rel, revision, report); err != nil {
			return revision, failed, fmt.Sprintf("%v; uninstalling failed too: %v", cause, err)
		}
		return revision, failed, fmt.Sprintf("%v (uninstalled, as spec.install.remediation says)", cause)
	case !rel.IsInstall() && set.reinstallFailedUpgrade && deploying.Err() == nil: // else there is no time for the second half
		log.Warn("failed, uninstalling and installing again", "reason", why)
		return r.reinstall(deploying, on, t, rel, revision, cause, report)
	}
	log.Warn("failed, rolling back", "reason", why)
	return r.goBack(ctx, on, rel, revision, cause, report)
}

// reinstall uninstalls a release whose upgrade failed, and installs it anew, which Flux does for upgrade.remediation.strategy: uninstall.
func (r *rollout) reinstall(ctx context.Context, on *cluster.Cluster, t *task, rel cluster.Release, revision int, cause error, report func(string)) (int, string, string) {
	if err := on.Uninstall(ctx, rel, revision, report); err != nil {
		return revision, failed, fmt.Sprintf("%v; uninstalling failed too: %v", cause, err)
	}
	again, err := r.toDeploy(t)
	if err != nil {
		return revision, failed, err.Error()
	}
	state, err := on.State(ctx, rel.Key)
	if err != nil {
		return revision, failed, fmt.Sprintf("%v; uninstalled, and then: %v", cause, err)
	}
	again.Newest = state.Newest
	written, err := on.Deploy(ctx, again, report)
	if err != nil {
		return max(written, state.Newest.Revision), failed, fmt.Sprintf("%v; uninstalled, and installing failed too: %v", cause, err)
	}
	return written, deployed, fmt.Sprintf("uninstalled and installed again, as spec.upgrade.remediation says: %v", cause)
}

// goBack returns a release to the revision before. Its context is not the one that ended the deployment.
func (r *rollout) goBack(ctx context.Context, on *cluster.Cluster, rel cluster.Release, revision int, cause error, report func(string)) (int, string, string) {
	to, written, err := on.Rollback(ctx, rel, report)
	if written > 0 {
		revision = written
	}
	switch {
	case errors.Is(err, cluster.ErrNothingToReturnTo):
		return revision, failed, fmt.Sprintf("%v (this is the first revision: there is nothing to return to)", cause)
	case err != nil:
		return revision, failed, fmt.Sprintf("%v; rolling back to revision %d failed too: %v", cause, to.Revision, err)
	}
	return revision, rolledBack, fmt.Sprintf("%v (returned to revision %d)", cause, to.Revision)
}
