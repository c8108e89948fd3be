package cluster

import (
	"cmp"
	"context"
	"fmt"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
)

// Uninstall removes a release and waits until its objects are gone. after is the newest revision that the caller knows of.
func (c *Cluster) Uninstall(ctx context.Context, r Release, after int, report func(string)) error {
	return c.uninstall(ctx, r, c.store(r.Key, after, r.Mark), report)
}

func (c *Cluster) uninstall(ctx context.Context, r Release, s *store, report func(string)) error {
	w := &waiter{ctx: ctx, cluster: c, patience: r.Patience, logLines: r.LogLines, report: report}
	set := r.Settings.Uninstall
	un := action.NewUninstall(c.configuration(s, r.Namespace, w))
	un.Timeout, un.WaitStrategy, un.WaitOptions = cmp.Or(set.Timeout, r.Timeout), strategy(set.DisableWait), []kube.WaitOption{kube.WithWaitContext(ctx)}
	un.DisableHooks, un.KeepHistory = set.DisableHooks, set.KeepHistory
	un.DeletionPropagation = cmp.Or(set.DeletionPropagation, "background")
	_, err := un.Run(r.Name)
	return w.withLog(c.explainDeploy(err))
}

// Test runs Helm's tests of a release that was just deployed. A release whose tests fail is remembered as failed, unless that is to be
// ignored, so that it is not taken for one that has not changed.
func (c *Cluster) Test(ctx context.Context, r Release, revision int, ignore bool, report func(string)) error {
	s := c.store(r.Key, revision, r.Mark)
	w := &waiter{ctx: ctx, cluster: c, patience: r.Patience, logLines: r.LogLines, report: report}
	set := r.Settings.Test
	test := action.NewReleaseTesting(c.configuration(s, r.Namespace, w))
	test.Namespace, test.Timeout, test.WaitOptions = r.Namespace, cmp.Or(set.Timeout, r.Timeout), []kube.WaitOption{kube.WithWaitContext(ctx)}
	test.Filters[action.IncludeNameFilter], test.Filters[action.ExcludeNameFilter] = set.Include, set.Exclude
	_, shutdown, err := test.Run(r.Name)
	if failed := shutdown(); err == nil {
		err = failed
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("the tests of the chart failed: %w", w.withLog(c.explainDeploy(err)))
	if ignore {
		return err
	}
	name := recordName(r.Name, revision)
	rel, getting := s.record(name)
	if getting != nil {
		return fmt.Errorf("%w; reading record %s: %w", err, name, c.explain(getting))
	}
	rel.SetStatus(common.StatusFailed, "tests failed")
	if marking := s.Secrets.Update(name, rel); marking != nil {
		return fmt.Errorf("%w; marking record %s as failed: %w", err, name, c.explain(marking))
	}
	return err
}
