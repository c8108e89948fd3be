package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// failures measures how soon a pod that cannot become ready is named, and looks at what became of the other accounts.
func (b *bench) failures(ctx context.Context) error {
	b.printf("\n### One account of ten fails: from the kubelet's verdict to the line in the log\n\n| what fails | named after | rolled back after | the line |\n|---|---|---|---|\n")
	var slowest time.Duration
	asPromised := true
	for _, kind := range []struct{ name, image, values, verdict string }{
		{"the image is not there", "registry/missing", "", "ImagePullBackOff"},
		{"the program crashes", "registry/crash", "", "CrashLoopBackOff"},
		{"the readiness probe fails (WAIT_TIMEOUT=10s)", "registry/app", "    never: 'yes'\n", "running and not ready"},
	} {
		name := "failing-" + strings.ToLower(strings.Fields(kind.verdict)[0])
		var list []member
		for i := range 5 {
			list = append(list, member{namespace: fmt.Sprintf("%s-uat-%d", name, i), name: "app", account: fmt.Sprintf("uat-%d", i)},
				member{namespace: fmt.Sprintf("%s-live-%d", name, i), name: "app", account: fmt.Sprintf("live-%d", i)})
		}
		f, err := b.newFleet(name, 5, map[string]string{"templates/deployment.yaml": deployment, "templates/configmap.yaml": configMap}, list)
		if err != nil {
			return err
		}
		if err := b.install(ctx, f, 0); err != nil {
			return err
		}
		f.releases[2].image = kind.image
		if err := f.set(b.tag(), kind.values); err != nil {
			return err
		}
		took, back, line, err := b.failing(ctx, f, f.releases[2].namespace, kind.verdict)
		if err != nil {
			return err
		}
		slowest = max(slowest, took)
		o, err := f.outcome()
		if err != nil {
			return err
		}
		count := map[string]int{}
		for _, r := range o.Releases {
			count[r.State]++
			asPromised = asPromised && (r.Namespace == f.releases[2].namespace) == (r.State == "rolled-back") && (r.State == "skipped") == strings.HasPrefix(r.Account, "live")
			if r.State == "skipped" {
				asPromised = asPromised && r.Revision == 1 && strings.Contains(r.Reason, "not begun")
			}
		}
		asPromised = asPromised && count["rolled-back"] == 1 && count["deployed"] == 4 && count["skipped"] == 5
		b.printf("| %s | %.2f s | %.2f s | `%s` |\n", kind.name, took.Seconds(), back.Seconds(), strings.ReplaceAll(line, "|", "/"))
	}
	b.bar("a pod that cannot become ready is named ≤ 5 s after the kubelet's verdict", fmt.Sprintf("%.2f s at most", slowest.Seconds()), slowest <= 5*time.Second)
	word := "as promised"
	if !asPromised {
		word = "otherwise"
	}
	b.bar("and rolled back; the wave's other accounts are deployed, the next wave's untouched and reported", word, asPromised)
	return nil
}

// failing runs deploy-helm on a fleet of which one release fails. It returns the time from the first moment at which the API server shows the verdict
// on a pod of that namespace to the line of the log that names it, and to the end of the roll back.
func (b *bench) failing(ctx context.Context, f *fleet, namespace, verdict string) (named, back time.Duration, line string, err error) {
	cmd := b.stepCommand(ctx, f, b.cluster.DeployerKubeconfig, "WAIT_TIMEOUT=10s")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return 0, 0, "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	verdicts := make(chan time.Time, 1)
	go b.watchFor(ctx, namespace, verdict, verdicts)
	if err := cmd.Start(); err != nil {
		return 0, 0, "", err
	}
	var said, ended time.Time
	lines := bufio.NewScanner(stderr)
	var all strings.Builder
	for lines.Scan() {
		all.WriteString(lines.Text() + "\n")
		switch text := lines.Text(); {
		case said.IsZero() && strings.Contains(text, verdict) && strings.Contains(text, "pod "+namespace+"/"):
			said, line = time.Now(), text
		case ended.IsZero() && strings.Contains(text, "error: rolled-back after"):
			ended = time.Now()
		}
	}
	_, _ = io.Copy(io.Discard, stderr)
	_ = cmd.Wait()
	if said.IsZero() || ended.IsZero() || cmd.ProcessState.ExitCode() != 1 {
		return 0, 0, "", fmt.Errorf("deploy-helm ended with %d and did not name %s:\n%s", cmd.ProcessState.ExitCode(), verdict, all.String())
	}
	at := <-verdicts
	return max(0, said.Sub(at)), ended.Sub(at), line, nil
}

// watchFor asks again and again for the pods of a namespace, and tells when one first shows a verdict.
func (b *bench) watchFor(ctx context.Context, namespace, verdict string, at chan<- time.Time) {
	for ctx.Err() == nil {
		var list struct {
			Items []struct {
				Metadata struct{ Annotations map[string]string }
				Status   struct {
					ContainerStatuses []struct {
						Ready bool
						State struct {
							Running *struct{}
							Waiting *struct{ Reason string }
						}
					}
				}
			}
		}
		err := b.cluster.Get(ctx, "/api/v1/namespaces/"+namespace+"/pods", &list)
		for _, p := range list.Items {
			for _, c := range p.Status.ContainerStatuses {
				never := p.Metadata.Annotations["fake.kubelet/never-ready"] != "" && c.State.Running != nil && !c.Ready
				if err == nil && (never || c.State.Waiting != nil && c.State.Waiting.Reason == verdict) {
					at <- time.Now()
					return
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}
