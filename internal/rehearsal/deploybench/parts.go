package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/benchreport"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
)

// upgrades measures many small releases, each in a namespace of its own.
func (b *bench) upgrades(ctx context.Context) error {
	chart := map[string]string{"templates/deployment.yaml": deployment, "templates/service.yaml": service, "templates/configmap.yaml": configMap}
	fleets := map[string]*fleet{}
	for _, who := range []string{"step", "helm"} {
		var list []member
		for i := range b.releases {
			list = append(list, member{namespace: fmt.Sprintf("%s-%03d", who, i), name: "app"})
		}
		f, err := b.newFleet(who, 10, chart, list)
		if err != nil {
			return err
		}
		fleets[who] = f
		if err := b.install(ctx, f, b.age); err != nil {
			return err
		}
	}
	all := fmt.Sprintf("%d deployed, 0 unchanged, 0 failed", b.releases)
	type program struct {
		name string
		run  func(kubeconfig string) (cost, error)
	}
	programs := []program{
		{"deploy-helm, 8 at once", func(kubeconfig string) (cost, error) {
			if err := fleets["step"].set(b.tag()); err != nil {
				return cost{}, err
			}
			return b.deploy(ctx, fleets["step"], kubeconfig, all)
		}},
		{"`helm upgrade --install --wait`, one after another", func(kubeconfig string) (cost, error) {
			return b.helmAll(ctx, fleets["helm"], kubeconfig, b.tag(), "--wait")
		}},
		{"`helm upgrade --install`, one after another", func(kubeconfig string) (cost, error) {
			return b.helmAll(ctx, fleets["helm"], kubeconfig, b.tag())
		}},
		{"`helm upgrade --install`, 8 at once", func(kubeconfig string) (cost, error) {
			return b.helmAtOnce(ctx, fleets["helm"], kubeconfig, b.tag())
		}},
	}
	if b.knows("disableWait") {
		programs = append(programs, program{"deploy-helm, 8 at once, not waiting (`spec.upgrade.disableWait`)", func(kubeconfig string) (cost, error) {
			f := *fleets["step"]
			f.spec = "  upgrade: {disableWait: true}\n"
			if err := f.set(b.tag()); err != nil {
				return cost{}, err
			}
			return b.deploy(ctx, &f, kubeconfig, all)
		}})
	}
	walls, cpus := make([][]time.Duration, len(programs)), make([][]time.Duration, len(programs))
	most := make([]int64, len(programs))
	for round := range b.rounds {
		for i, p := range programs {
			if err := b.settle(ctx); err != nil {
				return err
			}
			before := benchreport.Load()
			c, err := p.run(b.cluster.DeployerKubeconfig)
			if err != nil {
				return err
			}
			say("round %d, load %s: %s: %.2f s, %.2f s CPU, %s", round+1, before, p.name, c.wall.Seconds(), c.cpu.Seconds(), megabytes(c.rss))
			walls[i], cpus[i], most[i] = append(walls[i], c.wall), append(cpus[i], c.cpu), max(most[i], c.rss)
		}
	}
	b.printf("\n### %d releases (Deployment, Service, ConfigMap), upgrades after %d earlier ones, medians of %d rounds\n\n| program | time | CPU | memory | requests per release | received |\n|---|---|---|---|---|---|\n",
		b.releases, b.age, b.rounds)
	perRelease := make([]float64, len(programs))
	for i, p := range programs {
		if err := b.settle(ctx); err != nil {
			return err
		}
		requests, received, err := b.proxy.count(ctx, func(context.Context) error { _, err := p.run(b.proxy.kubeconfig); return err })
		if err != nil {
			return err
		}
		perRelease[i] = float64(requests) / float64(b.releases)
		b.printf("| %s | %.2f s | %.2f s | %s | %.1f | %s |\n", p.name, median(walls[i]).Seconds(), median(cpus[i]).Seconds(), megabytes(most[i]), perRelease[i], megabytes(received))
	}
	for i, limit := range []float64{1: 0.35, 2: 1.5, 3: 1.5, 4: 1.5} {
		if i > 0 && i < len(programs) {
			got := ratio(median(walls[0]), median(walls[i]))
			b.bar(fmt.Sprintf("upgrades: time ≤ %g of %s", limit, programs[i].name), fmt.Sprintf("%.2f", got), got <= limit)
		}
	}
	b.bar("upgrades: ≤ 20 requests per release", fmt.Sprintf("%.1f", perRelease[0]), perRelease[0] <= 20)
	b.bar("upgrades: ≤ 100 MB", megabytes(most[0]), most[0] <= 100e6)
	return nil
}

// records measures releases whose records are large, all in one namespace, with a Secret among their objects.
func (b *bench) records(ctx context.Context) error {
	const releases, revisions, size = 20, 6, 150_000
	blob := make([]byte, size)
	_, _ = rand.Read(blob)
	chart := map[string]string{
		"templates/deployment.yaml": deployment, "templates/configmap.yaml": configMap, "templates/secret.yaml": secretObject,
		"files/blob": base64.StdEncoding.EncodeToString(blob)[:size],
	}
	type measured struct {
		cost
		requests, received int64
	}
	var got [2]measured
	for i, who := range []string{"step", "helm"} {
		var list []member
		for n := range releases {
			list = append(list, member{namespace: "records-" + who, name: fmt.Sprintf("app-%02d", n)})
		}
		f, err := b.newFleet("records-"+who, revisions, chart, list)
		if err != nil {
			return err
		}
		if err := b.install(ctx, f, revisions-1); err != nil {
			return err
		}
		if err := b.settle(ctx); err != nil {
			return err
		}
		m := &got[i]
		m.requests, m.received, err = b.proxy.count(ctx, func(ctx context.Context) (err error) {
			tag := b.tag()
			if who == "helm" {
				m.cost, err = b.helmAll(ctx, f, b.proxy.kubeconfig, tag, "--wait")
				return err
			}
			if err = f.set(tag); err == nil {
				m.cost, err = b.deploy(ctx, f, b.proxy.kubeconfig, fmt.Sprintf("%d deployed, 0 unchanged, 0 failed", releases))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	b.printf("\n### %d releases in one namespace, a Secret among their objects, %d revisions of %d KB each: one upgrade of all\n\n| program | time | CPU | memory | requests per release | received |\n|---|---|---|---|---|---|\n",
		releases, revisions, size/1000)
	for i, name := range []string{"deploy-helm, 8 at once", "`helm upgrade --install --wait`, one after another"} {
		m := got[i]
		b.printf("| %s | %.2f s | %.2f s | %s | %.1f | %s |\n", name, m.wall.Seconds(), m.cpu.Seconds(), megabytes(m.rss), float64(m.requests)/releases, megabytes(m.received))
	}
	cpu, received := ratio(got[0].cpu, got[1].cpu), float64(got[0].received)/float64(got[1].received)
	b.bar("large records: CPU ≤ 0.2 of `helm upgrade --install --wait`", fmt.Sprintf("%.2f", cpu), cpu <= 0.2)
	b.bar("large records: bytes received ≤ 0.2 of it", fmt.Sprintf("%.2f", received), received <= 0.2)
	return nil
}

// unchanged measures a run that finds nothing to do. The config repo is read from a Git server, as in a build.
func (b *bench) unchanged(ctx context.Context) error {
	const releases, namespaces, revisions, runs = 500, 50, 5, 5
	var list []member
	for n := range releases {
		list = append(list, member{namespace: fmt.Sprintf("unchanged-%02d", n%namespaces), name: fmt.Sprintf("app-%02d", n/namespaces), account: fmt.Sprintf("uat-%03d", n)})
	}
	f, err := b.newFleet("unchanged", revisions, map[string]string{"templates/configmap.yaml": configMap}, list)
	if err != nil {
		return err
	}
	if err := b.install(ctx, f, 0); err != nil {
		return err
	}
	if err := b.multiply(ctx, namespaces, revisions); err != nil {
		return fmt.Errorf("writing further revisions: %w", err)
	}
	git, err := gitserver.Start(filepath.Join(b.dir, "git"), gitserver.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = git.Close() }()
	url, err := git.Create("bench/config")
	if err != nil {
		return err
	}
	if err := push(ctx, f.folder, url); err != nil {
		return err
	}
	want := fmt.Sprintf("0 deployed, %d unchanged, 0 failed", releases)
	env := []string{"CONFIG_REPO=" + url, "SOURCE_DIR="} // of two equal names the last one counts
	var walls, cpus []time.Duration
	var most int64
	for range runs {
		c, err := b.deploy(ctx, f, b.cluster.DeployerKubeconfig, want, env...)
		if err != nil {
			return err
		}
		walls, cpus, most = append(walls, c.wall), append(cpus, c.cpu), max(most, c.rss)
	}
	requests, received, err := b.proxy.count(ctx, func(ctx context.Context) error {
		_, err := b.deploy(ctx, f, b.proxy.kubeconfig, want, env...)
		return err
	})
	if err != nil {
		return err
	}
	b.printf("\n### %d releases that did not change, %d revisions each, config repo over HTTP, medians of %d runs\n\n| time | CPU | memory | requests | received |\n|---|---|---|---|---|\n", releases, revisions, runs)
	b.printf("| %.2f s | %.2f s | %s | %d | %s |\n", median(walls).Seconds(), median(cpus).Seconds(), megabytes(most), requests, megabytes(received))
	b.bar(fmt.Sprintf("%d unchanged releases: ≤ 2 s", releases), fmt.Sprintf("%.2f s", median(walls).Seconds()), median(walls) <= 2*time.Second)
	b.bar(fmt.Sprintf("%d unchanged releases: ≤ 10 requests", releases), fmt.Sprint(requests), requests <= 10)
	return nil
}

// multiply gives every release of the namespaces unchanged-NN older revisions, as copies of its first: that is much faster than upgrading. The one
// that was there becomes the newest.
func (b *bench) multiply(ctx context.Context, namespaces, revisions int) error {
	slots, faults := make(chan struct{}, 8), make(chan error, namespaces)
	var wg sync.WaitGroup
	for n := range namespaces {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			path := fmt.Sprintf("/api/v1/namespaces/unchanged-%02d/secrets", n)
			var list struct{ Items []map[string]any }
			err := b.cluster.Get(ctx, path+"?labelSelector=owner%3Dhelm", &list)
			for _, secret := range list.Items {
				labels := secret["metadata"].(map[string]any)["labels"].(map[string]any)
				for r := 2; err == nil && r <= revisions; r++ {
					own := map[string]any{}
					for k, v := range labels {
						own[k] = v
					}
					own["version"], own["status"] = fmt.Sprint(r), "superseded"
					if r == revisions {
						own["status"] = "deployed"
					}
					for k, v := range own { // the mark is bound to its revision
						if s, ok := v.(string); ok && strings.HasSuffix(k, "/digest") {
							_, digest, _ := strings.Cut(s, ".")
							own[k] = fmt.Sprintf("%d.%s", r, digest)
						}
					}
					err = b.post(ctx, path, map[string]any{
						"apiVersion": "v1", "kind": "Secret", "type": secret["type"], "data": secret["data"],
						"metadata": map[string]any{"name": fmt.Sprintf("sh.helm.release.v1.%s.v%d", labels["name"], r), "labels": own},
					})
				}
			}
			if err != nil {
				faults <- err
			}
		})
	}
	wg.Wait()
	close(faults)
	return <-faults
}

// post creates an object, through the proxy.
func (b *bench) post(ctx context.Context, path string, object any) error {
	text, err := json.Marshal(object)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.proxy.server.URL+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+b.proxy.token)
	resp, err := b.proxy.server.Client().Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s: %s", path, resp.Status, text)
	}
	return nil
}

// push makes a Git repository of a folder and pushes it.
func push(ctx context.Context, folder, url string) error {
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "-A"}, {"commit", "-q", "-m", "bench"}, {"push", "-q", url, "main"}} {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "user.name=bench", "-c", "user.email=bench@example.com"}, args...)...)
		cmd.Dir = folder
		cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_TERMINAL_PROMPT=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w\n%s", args[0], err, text)
		}
	}
	return nil
}
