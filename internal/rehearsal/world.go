// Package rehearsal is the world in a box: Git hosting, a container registry, a Kubernetes cluster and Cloud Build's triggers on one
// machine, in which the example repositories are released exactly as they would be in the cloud. `make rehearse` plays the whole workflow
// in it, and so does the end-to-end test.
//
// Real here: Git over HTTP, the registry and its garbage collector, the Kubernetes API server and its controllers, the steps' programs, the
// build and trigger files that users copy. Not real: Cloud Build (internal/rehearsal/runner runs its files as processes), the Docker builder
// (internal/rehearsal/dockerbuilder), Artifact Registry's API and rules in front of the registry (internal/rehearsal/artifactregistry),
// Google's metadata server and its API for clusters (internal/rehearsal/googlecloud), and the cluster's node, which runs nothing and reports
// what the pods ask for.
package rehearsal

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/cloudbuild"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/artifactregistry"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/controlplane"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/googlecloud"
)

// The names that the examples use and that this world replaces, in the copies that it makes, by its own servers; the cluster keeps its name,
// and this world's container API finds it.
const (
	exampleRegistry = "europe-docker.pkg.dev/example-cloud"
	exampleGit      = "https://github.com/example"
	exampleCluster  = "projects/example-cloud/locations/europe-west1/clusters/production"
)

// builder is the service account that builds run as.
const builder = "builder@example-cloud.iam.gserviceaccount.com"

// Options say where the world lives and how much of it there is.
type Options struct {
	Source  string    // root of a checkout of this repository: examples/ and bin/ are taken from there
	Dir     string    // an empty folder for repositories, workspaces and logs
	Cluster bool      // with a Kubernetes cluster; without it, deployments do not happen
	Log     io.Writer // narration: what starts, which build runs, what each step says
}

// World is a running world. Close ends it.
type World struct {
	options  Options
	git      *gitserver.Server
	registry *artifactregistry.Server
	cluster  *controlplane.Cluster
	cloud    *googlecloud.Server // says where the cluster is, and lets builds in; nil without a cluster
	local    *strings.Replacer   // the examples' names to this world's
	token    string

	ctx      context.Context // of the builds: ends with Close
	cancel   context.CancelFunc
	saying   sync.Mutex
	mu       sync.Mutex
	changed  *sync.Cond
	triggers []*cloudbuild.Trigger
	seen     map[string]string // repo and ref → the commit that the triggers were told of
	running  int
	builds   []*BuildRecord
}

// Start starts the servers and founds the company: a service repository with the release v1.0.0, its image, and the config repo that puts
// v1.0.0 on every account. The first deployment is done when Start returns.
func Start(ctx context.Context, options Options) (_ *World, err error) {
	w := &World{options: options, token: "rehearsal-token", seen: map[string]string{}}
	w.changed = sync.NewCond(&w.mu)
	w.ctx, w.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			_ = w.Close()
		}
	}()
	if w.git, err = gitserver.Start(filepath.Join(options.Dir, "git"), gitserver.Options{Token: w.token, OnPush: w.pushed}); err != nil {
		return nil, err
	}
	if w.registry, err = artifactregistry.Start(ctx); err != nil {
		return nil, err
	}
	if options.Cluster {
		if w.cluster, err = controlplane.Start(ctx, controlplane.Options{Dir: filepath.Join(options.Dir, "cluster"), Log: options.Log}); err != nil {
			return nil, err
		}
	}
	if w.cluster != nil {
		if w.cloud, err = googlecloud.Start(googlecloud.Options{
			Account: builder, Grants: map[string][]string{builder: {googlecloud.GetClusters, googlecloud.Connect}},
			Clusters: map[string]googlecloud.Cluster{exampleCluster: {Kubeconfig: w.cluster.DeployerKubeconfig, Public: true}},
		}); err != nil {
			return nil, err
		}
	}
	w.local = strings.NewReplacer(exampleRegistry, w.registry.Host+"/example-cloud", exampleGit, w.git.URL()+"/example")
	w.say("Git on %s, registry on %s", w.git.URL(), w.registry.Host)
	if err := w.found(ctx); err != nil {
		return nil, fmt.Errorf("founding the company: %w", err)
	}
	return w, nil
}

// Close ends all servers and builds.
func (w *World) Close() error {
	w.cancel()
	var errs []error
	if w.git != nil {
		errs = append(errs, w.git.Close())
	}
	if w.registry != nil {
		errs = append(errs, w.registry.Close())
	}
	if w.cloud != nil {
		errs = append(errs, w.cloud.Close())
	}
	if w.cluster != nil {
		errs = append(errs, w.cluster.Close())
	}
	return errors.Join(errs...)
}

// say tells the reader what happens; builds that run side by side do not mix their lines.
func (w *World) say(format string, args ...any) {
	w.saying.Lock()
	defer w.saying.Unlock()
	fmt.Fprintf(w.options.Log, "  "+format+"\n", args...)
}

// pushed plays Cloud Build's side of a push: every trigger that matches starts a build.
func (w *World) pushed(p gitserver.Push) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range p.Updates {
		w.seen[p.Repo+" "+u.Ref] = u.New
		e := cloudbuild.Event{Repo: p.Repo, Commit: u.New}
		branch, isBranch := strings.CutPrefix(u.Ref, "refs/heads/")
		tag, isTag := strings.CutPrefix(u.Ref, "refs/tags/")
		switch {
		case u.New == "":
			continue // a deletion starts nothing
		case isBranch:
			e.Kind, e.Ref = cloudbuild.PushBranch, branch
		case isTag:
			e.Kind, e.Ref = cloudbuild.PushTag, tag
		default:
			continue
		}
		for _, t := range w.triggers {
			if t.Matches(e) {
				w.startBuild(t, e, nil)
			}
		}
	}
	w.changed.Broadcast()
}

// startBuild runs a build in the background, with substitutions in place of the trigger's. The caller holds the lock.
func (w *World) startBuild(t *cloudbuild.Trigger, e cloudbuild.Event, given map[string]string) {
	r := &BuildRecord{ID: fmt.Sprintf("rehearsal-%03d", len(w.builds)+1), Trigger: t, Event: e, Given: given, Started: time.Now()}
	w.builds = append(w.builds, r)
	w.running++
	go func() {
		w.run(w.ctx, r)
		w.mu.Lock()
		defer w.mu.Unlock()
		r.Finished = time.Now()
		w.running--
		w.changed.Broadcast()
	}()
}

// Settle waits until no build runs and no push is left that the triggers have not been told of, and returns the builds since the
// given number of them, failed ones included.
func (w *World) Settle(ctx context.Context, since int) ([]*BuildRecord, error) {
	stop := context.AfterFunc(ctx, func() { w.mu.Lock(); defer w.mu.Unlock(); w.changed.Broadcast() })
	defer stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		quiet, err := w.quiet()
		if err != nil {
			return nil, err
		}
		if quiet {
			break
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		w.changed.Wait()
	}
	return slices.Clone(w.builds[since:]), nil
}

// quiet reports whether nothing runs and nothing is about to: Git tells its owner of a push a moment after the pusher, so the refs
// themselves are compared with what the triggers know.
func (w *World) quiet() (bool, error) {
	if w.running > 0 {
		return false, nil
	}
	for _, repo := range repos {
		out, err := exec.CommandContext(w.ctx, "git", "-C", w.git.Dir(repo), "for-each-ref", "--format=%(refname) %(objectname)").Output()
		if err != nil {
			return false, fmt.Errorf("listing the refs of %s: %w", repo, err)
		}
		for line := range strings.Lines(string(out)) {
			ref, commit, _ := strings.Cut(strings.TrimSpace(line), " ")
			if w.seen[repo+" "+ref] != commit {
				return false, nil
			}
		}
	}
	return true, nil
}

// Builds is how many builds have been started so far.
func (w *World) Builds() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.builds)
}

// again runs builds a second time, as the button in the console does: a new build of the same commit. One after the other, so that the
// log can be read.
func (w *World) again(ctx context.Context, builds ...*BuildRecord) error {
	for _, b := range builds {
		w.mu.Lock()
		w.startBuild(b.Trigger, b.Event, b.Given)
		w.mu.Unlock()
		if _, err := w.Settle(ctx, 0); err != nil {
			return err
		}
	}
	return nil
}

// byHand runs a manual trigger, as `gcloud builds triggers run NAME --substitutions=…` does, and Cloud Scheduler every night.
func (w *World) byHand(ctx context.Context, name string, given map[string]string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.triggers, func(t *cloudbuild.Trigger) bool { return t.Name == name && t.Manual() })
	if i < 0 {
		return fmt.Errorf("examples/triggers has no manual trigger %s", name)
	}
	t := w.triggers[i]
	repo := t.GitHub.Owner + "/" + t.GitHub.Name
	commit, err := w.runGit(ctx, w.git.Dir(repo), "rev-parse", "--verify", t.SourceToBuild.Ref)
	if err != nil {
		return err
	}
	branch := strings.TrimPrefix(t.SourceToBuild.Ref, "refs/heads/")
	w.startBuild(t, cloudbuild.Event{Repo: repo, Kind: cloudbuild.PushBranch, Ref: branch, Commit: commit}, given)
	return nil
}

// lastOfEach returns the last build of every trigger, in the order of their first builds.
func (w *World) lastOfEach() []*BuildRecord {
	w.mu.Lock()
	defer w.mu.Unlock()
	var last []*BuildRecord
	for _, b := range w.builds {
		if i := slices.IndexFunc(last, func(l *BuildRecord) bool { return l.Trigger == b.Trigger }); i >= 0 {
			last[i] = b
		} else {
			last = append(last, b)
		}
	}
	return last
}

// runGit runs the git program in a folder, as somebody who knows the token.
func (w *World) runGit(ctx context.Context, dir string, args ...string) (string, error) {
	return w.runGitAt(ctx, dir, time.Time{}, args...)
}

// runGitAt does the same with a fixed time for commits.
func (w *World) runGitAt(ctx context.Context, dir string, at time.Time, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "advice.detachedHead=false", "-c", "init.defaultBranch=main"}, args...)...)
	cmd.Dir = dir
	credentials := base64.StdEncoding.EncodeToString([]byte("x-access-token:" + w.token))
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_TERMINAL_PROMPT=0",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http.extraHeader", "GIT_CONFIG_VALUE_0=Authorization: Basic "+credentials,
		"GIT_AUTHOR_NAME=Dana Developer", "GIT_AUTHOR_EMAIL=dana@example.com", "GIT_COMMITTER_NAME=Dana Developer", "GIT_COMMITTER_EMAIL=dana@example.com")
	if !at.IsZero() {
		cmd.Env = append(cmd.Env, "GIT_AUTHOR_DATE="+at.Format(time.RFC3339), "GIT_COMMITTER_DATE="+at.Format(time.RFC3339))
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}
