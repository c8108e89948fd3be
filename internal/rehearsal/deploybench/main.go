// Program deploybench measures deploy-helm against Helm's own command line on a real Kubernetes control plane, and holds it to its bars: time,
// requests, bytes and memory of many upgrades, the cost of many releases that did not change, of large records, and how soon a pod that
// fails is named. `make bench` runs it and keeps its report in docs/benchmarks.md.
//
// All programs run one after the other in the same minutes on the same cluster, because only ratios travel from one machine to another.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/controlplane"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/toolcache"
)

// helmVersion is that of the library in go.mod, and of the command line in tools/helm.
const helmVersion = "v4.3.1"

var quietLog = log.New(io.Discard, "", 0)

func main() {
	var b bench
	out := flag.String("out", "", "Markdown file whose section deploy-helm is replaced; standard output when unset")
	only := flag.String("only", "", "run only these parts, and keep no report: upgrades, unchanged, records, failures")
	flag.IntVar(&b.releases, "releases", 50, "releases of the part upgrades")
	flag.IntVar(&b.rounds, "rounds", 3, "rounds of the part upgrades")
	flag.IntVar(&b.age, "age", 3, "upgrades that every release of the part upgrades has behind it before it is measured")
	flag.StringVar(&b.profile, "step", "", "another build of deploy-helm to measure")
	flag.Parse()
	if err := b.run(context.Background(), *out, *only); err != nil {
		fmt.Fprintln(os.Stderr, "deploybench:", err)
		os.Exit(1)
	}
}

type bench struct {
	releases, rounds, age int
	profile               string
	dir                   string // temporary
	step, helm            string // programs
	cluster               *controlplane.Cluster
	proxy                 *proxy
	tags                  int
	report                strings.Builder
	bars                  []string
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "deploybench: "+format+"\n", args...) }

func (b *bench) run(ctx context.Context, out, only string) (err error) {
	if b.dir, err = os.MkdirTemp("", "deploybench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if err := b.build(ctx); err != nil {
		return err
	}
	if b.cluster, err = controlplane.Start(ctx, controlplane.Options{Log: os.Stderr}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.cluster.Close()) }()
	if b.proxy, err = startProxy(b.cluster.DeployerKubeconfig, filepath.Join(b.dir, "counted.kubeconfig")); err != nil {
		return fmt.Errorf("starting the counting proxy: %w", err)
	}
	defer b.proxy.close()
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"upgrades", b.upgrades}, {"records", b.records}, {"failures", b.failures}, {"unchanged", b.unchanged}} {
		if only != "" && !slices.Contains(strings.Split(only, ","), part.name) {
			continue
		}
		began := time.Now()
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("measuring %s: %w", part.name, err)
		}
		say("%s took %s", part.name, time.Since(began).Round(time.Second))
	}
	if only != "" {
		out = ""
	}
	return b.write(out)
}

// build builds the step as it is shipped, and Helm's command line from the module proxy.
func (b *bench) build(ctx context.Context) (err error) {
	if b.helm, err = toolcache.Tool(ctx, "helm", os.Stderr); err != nil {
		return err
	}
	if b.step = b.profile; b.step != "" {
		return nil
	}
	say("building deploy-helm")
	b.step = filepath.Join(b.dir, "deploy-helm")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", b.step, "./steps/deploy-helm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building deploy-helm: %w\n%s", err, text)
	}
	return nil
}

// tag is a version that no release had before.
func (b *bench) tag() string {
	b.tags++
	return fmt.Sprintf("v1.%d.0", b.tags)
}
