package cluster

import (
	"context"
	"errors"
	"fmt"

	"helm.sh/helm/v4/pkg/release/common"
	"helm.sh/helm/v4/pkg/storage/driver"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Remove uninstalls a release whose HelmRelease is gone, as it was read in r.Newest, and waits until its objects are gone. Hooks run, and what
// carries helm.sh/resource-policy: keep stays.
//
// Helm writes the status of what it uninstalls whatever stands there, and goes on when it cannot. So the record is taken first: it becomes
// `uninstalling`, with r.Mark's writer and a heartbeat, on the condition that nobody has changed it ([ErrMoved]). Killed after that, the
// release is found again by its mark. After an error it is `failed`, and nothing is lost for whoever deploys or removes it next.
func (c *Cluster) Remove(ctx context.Context, r Release, report func(string)) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	s := c.store(r.Key, r.Newest.Revision, r.Mark)
	var err error
	if r.Namespace, err = s.take(r.Newest, r.Mark); err != nil {
		return c.explain(err)
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	stop := s.beat(ctx, r.Heartbeat, end)
	err = c.uninstall(ctx, r, s, report)
	stop()
	if err == nil {
		return nil
	}
	if leaving := s.leaveFailed(r.Newest, err); leaving != nil {
		return fmt.Errorf("%w; marking the release as failed: %w", err, c.explain(leaving))
	}
	return err
}

// take makes the newest record one that this suite is uninstalling, and returns the namespace of the release's objects.
func (s *store) take(r Record, by Mark) (namespace string, err error) {
	name := recordName(r.Name, r.Revision)
	rel, err := s.record(name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return "", fmt.Errorf("record %s is gone: %w", name, ErrMoved)
	}
	if err != nil {
		return "", fmt.Errorf("reading record %s: %w", name, err)
	}
	if s.secrets.version(name) != r.State {
		return "", fmt.Errorf("record %s has changed since it was judged: %w", name, ErrMoved)
	}
	mark := r.Mark // what it is stays; who writes is this build
	mark.Build, mark.Until, mark.Beats = by.Build, by.Until, true
	rel.Labels = mark.on(rel.Labels, r.Revision)
	rel.Labels[labelRemoves] = "true"
	rel.SetStatus(common.StatusUninstalling, "its HelmRelease is gone")
	s.secrets.own = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}} // becomes what is written
	if err := s.Secrets.Update(name, rel); err != nil {
		return "", fmt.Errorf("taking record %s: %w", name, err)
	}
	return rel.Namespace, nil
}

// leaveFailed ends an uninstall that did not succeed: the record is failed, unless it is gone or somebody else's by now.
func (s *store) leaveFailed(r Record, cause error) error {
	name := recordName(r.Name, r.Revision)
	was := s.secrets.version(name)
	rel, err := s.record(name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.secrets.version(name) != was || rel.Info.Status != common.StatusUninstalling {
		return nil
	}
	delete(rel.Labels, labelRemoves)
	rel.SetStatus(common.StatusFailed, "uninstalling failed: "+cause.Error())
	return s.Secrets.Update(name, rel)
}
