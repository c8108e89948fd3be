package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// fleet is a number of releases of one chart: a config repo for deploy-helm, and a list of them for Helm's command line.
type fleet struct {
	folder   string
	releases []member
	history  int // revisions to keep
	files    map[string]string
	spec     string // further lines of each HelmRelease's spec
}

type member struct{ namespace, name, account, image string }

// The objects of a chart. A Service of a fleet's size would use up the cluster's addresses, so it is a headless one.
const (
	deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: '{{ .Release.Name }}'}
spec:
  selector: {matchLabels: {app: '{{ .Release.Name }}'}}
  template:
    metadata:
      labels: {app: '{{ .Release.Name }}'}
      annotations: {bench: 'yes'{{ with .Values.never }}, fake.kubelet/never-ready: '{{ . }}'{{ end }}}
    spec:
      containers:
      - {name: app, image: '{{ .Values.image.repository }}:{{ .Values.image.tag }}', envFrom: [{configMapRef: {name: '{{ .Release.Name }}'}}]}
`
	service = `apiVersion: v1
kind: Service
metadata: {name: '{{ .Release.Name }}'}
spec: {clusterIP: None, selector: {app: '{{ .Release.Name }}'}, ports: [{port: 80}]}
`
	configMap = `apiVersion: v1
kind: ConfigMap
metadata: {name: '{{ .Release.Name }}'}
data: {TAG: '{{ .Values.image.tag }}'}
`
	secretObject = `apiVersion: v1
kind: Secret
metadata: {name: '{{ .Release.Name }}'}
stringData: {TAG: '{{ .Values.image.tag }}'}
`
)

func (b *bench) newFleet(name string, history int, files map[string]string, releases []member) (*fleet, error) {
	f := &fleet{folder: filepath.Join(b.dir, name), releases: releases, history: history, files: files}
	var inventory strings.Builder
	inventory.WriteString("accounts:\n")
	seen := map[string]bool{}
	for _, m := range releases {
		if m.account != "" && !seen[m.account] {
			fmt.Fprintf(&inventory, "- {id: %s, is_uat: %t, region: europe-west1}\n", m.account, strings.HasPrefix(m.account, "uat"))
		}
		seen[m.account] = true
	}
	write := map[string]string{
		"charts/app/Chart.yaml": "apiVersion: v2\nname: app\nversion: 1.0.0\n", "charts/app/values.yaml": "image: {repository: registry/app, tag: v0.0.1}\n",
	}
	if inventory.Len() > len("accounts:\n") {
		write["accounts.yaml"] = inventory.String()
	}
	for name, text := range files {
		write["charts/app/"+name] = text
	}
	return f, f.write(write)
}

func (f *fleet) write(files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(f.folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// set writes the HelmReleases of the fleet with one tag. extra are further lines of the values.
func (f *fleet) set(tag string, extra ...string) error {
	files := map[string]string{}
	for _, m := range f.releases {
		labels, image := "{channel: staging}", m.image
		if m.account != "" {
			labels = "{account: " + m.account + "}"
		}
		if image == "" {
			image = "registry/app"
		}
		values := ""
		if m.image != "" { // the one that the extra values are for
			values = strings.Join(extra, "")
		}
		files["releases/"+m.namespace+"-"+m.name+".yaml"] = fmt.Sprintf(`apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: %s, namespace: %s, labels: %s}
spec:
  interval: 10m
  maxHistory: %d
  chart: {spec: {chart: ./charts/app, sourceRef: {kind: GitRepository, name: config}}}
%s  values:
    image: {repository: %s, tag: %s}
%s`, m.name, m.namespace, labels, f.history, cmp.Or(f.spec, "  install: {createNamespace: true}\n"), image, tag, values)
	}
	return f.write(files)
}

// cost is what one program took, or several one after the other.
type cost struct {
	wall, cpu time.Duration
	rss       int64 // bytes, of the largest
	stdout    string
	stderr    string
	exit      int
}

func (c *cost) add(o cost) {
	c.wall, c.cpu, c.rss = c.wall+o.wall, c.cpu+o.cpu, max(c.rss, o.rss)
	c.stdout, c.stderr, c.exit = o.stdout, o.stderr, o.exit
}

// execute runs a program. An exit code other than want is an error.
func execute(cmd *exec.Cmd, want int) (cost, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	c := cost{wall: time.Since(began), stdout: stdout.String(), stderr: stderr.String()}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return c, err
	}
	state := cmd.ProcessState
	c.cpu, c.exit = state.UserTime()+state.SystemTime(), state.ExitCode()
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
		c.rss = usage.Maxrss * 1024
	}
	if c.exit != want {
		return c, fmt.Errorf("%s: exit code %d, want %d\n%s%s", strings.Join(cmd.Args, " "), c.exit, want, c.stdout, c.stderr)
	}
	return c, nil
}

// stepCommand is deploy-helm on a fleet.
func (b *bench) stepCommand(ctx context.Context, f *fleet, kubeconfig string, env ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.step)
	cmd.Env = append([]string{"HOME=" + b.dir, "SOURCE_DIR=" + f.folder, "KUBECONFIG=" + kubeconfig, "HANDOVER_DIR=" + filepath.Join(f.folder, "handover")}, env...)
	return cmd
}

// knows reports whether the program acts on a field of spec.upgrade, by its name in the text of -help.
func (b *bench) knows(field string) bool {
	text, err := exec.Command(b.step, "-help").CombinedOutput()
	return err == nil && bytes.Contains(text, []byte(field))
}

// deploy runs deploy-helm on a fleet, which must end well, and with a certain result unless want is "".
func (b *bench) deploy(ctx context.Context, f *fleet, kubeconfig, want string, env ...string) (cost, error) {
	c, err := execute(b.stepCommand(ctx, f, kubeconfig, env...), 0)
	if got := strings.TrimSpace(c.stdout); err == nil && want != "" && got != want {
		err = fmt.Errorf("deploy-helm printed %q, want %q", got, want)
	}
	return c, err
}

// install installs a fleet and gives it some upgrades behind it.
func (b *bench) install(ctx context.Context, f *fleet, upgrades int) error {
	for range upgrades + 1 {
		if err := f.set(b.tag()); err != nil {
			return err
		}
		if _, err := b.deploy(ctx, f, b.cluster.DeployerKubeconfig, fmt.Sprintf("%d deployed, 0 unchanged, 0 failed", len(f.releases))); err != nil {
			return err
		}
	}
	return nil
}

// helmAll upgrades a fleet with Helm's command line, one release after the other.
func (b *bench) helmAll(ctx context.Context, f *fleet, kubeconfig, tag string, flags ...string) (cost, error) {
	var sum cost
	for _, m := range f.releases {
		c, err := execute(b.helmCommand(ctx, f, m, kubeconfig, tag, flags...), 0)
		if err != nil {
			return sum, err
		}
		sum.add(c)
	}
	return sum, nil
}

// helmAtOnce does the same with eight commands at a time.
func (b *bench) helmAtOnce(ctx context.Context, f *fleet, kubeconfig, tag string, flags ...string) (cost, error) {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		sum   cost
		fault error
		slots = make(chan struct{}, 8)
		began = time.Now()
	)
	for _, m := range f.releases {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			c, err := execute(b.helmCommand(ctx, f, m, kubeconfig, tag, flags...), 0)
			mu.Lock()
			defer mu.Unlock()
			sum.add(c)
			fault = errors.Join(fault, err)
		})
	}
	wg.Wait()
	sum.wall = time.Since(began)
	return sum, fault
}

func (b *bench) helmCommand(ctx context.Context, f *fleet, m member, kubeconfig, tag string, flags ...string) *exec.Cmd {
	args := append([]string{"upgrade", "--install", m.name, filepath.Join(f.folder, "charts", "app"), "--namespace", m.namespace, "--kubeconfig", kubeconfig,
		"--history-max", fmt.Sprint(f.history), "--set-string", "image.repository=registry/app,image.tag=" + tag}, flags...)
	cmd := exec.CommandContext(ctx, b.helm, args...)
	cmd.Env = []string{"HOME=" + b.dir} // where it keeps what it discovered, for the next call
	return cmd
}

// settle waits until the cluster has done what it was asked for, so that the next program has it for itself.
func (b *bench) settle(ctx context.Context) error {
	for deadline := time.Now().Add(2 * time.Minute); ; {
		var list struct {
			Items []struct {
				Metadata struct{ Generation int64 }
				Spec     struct{ Replicas int }
				Status   struct {
					ObservedGeneration                       int64
					Replicas, UpdatedReplicas, ReadyReplicas int
				}
			}
		}
		if err := b.cluster.Get(ctx, "/apis/apps/v1/deployments?labelSelector=", &list); err != nil {
			return err
		}
		busy := 0
		for _, d := range list.Items {
			s := d.Status
			if s.ObservedGeneration < d.Metadata.Generation || s.Replicas != d.Spec.Replicas || s.UpdatedReplicas != s.Replicas || s.ReadyReplicas != s.Replicas {
				busy++
			}
		}
		if busy == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d deployments do not settle", busy)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// outcome is what is read of deploy-helm.json.
type outcome struct {
	Releases []struct {
		Account, Namespace, State, Reason string
		Revision                          int
	}
}

func (f *fleet) outcome() (o outcome, err error) {
	text, err := os.ReadFile(filepath.Join(f.folder, "handover", "deploy-helm.json"))
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	return o, err
}
