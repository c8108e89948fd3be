package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/controlplane"
)

const playHelp = `rehearse play: a release from commit to running pods, on this machine, with nobody's hand between.

usage: rehearse play [--cluster on|off] [--html FILE] [--keep DIR]

Run it in a checkout of this suite (make rehearse does). It starts Git over HTTP, an OCI registry and a Kubernetes control plane on loopback,
founds a company from examples/, and lets a commit, a release candidate and a release happen there. The builds are those of the example's
triggers; the steps are the programs in bin/.

  --cluster off   stop before the deployment; needs no Kubernetes, and takes seconds
  --html FILE     write the result as a page (default: rehearsal.html in bin/)
  --keep DIR      keep repositories, workspaces and logs in this new folder
`

// play runs the rehearsal of the whole workflow.
func play(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("play", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	cluster := flags.String("cluster", "on", "")
	html := flags.String("html", filepath.Join("bin", "rehearsal.html"), "")
	keep := flags.String("keep", "", "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, playHelp)
		return exitDone
	case err != nil || flags.NArg() > 0 || *cluster != "on" && *cluster != "off":
		fmt.Fprint(stderr, playHelp)
		return exitConfig
	}
	dir, cleanUp, err := workingFolder(*keep)
	if err != nil {
		fmt.Fprintln(stderr, "rehearse: error: "+err.Error())
		return exitConfig
	}
	defer cleanUp()
	source, err := os.Getwd()
	if err == nil {
		_, err = os.Stat(filepath.Join(source, "examples", "triggers"))
	}
	if err != nil {
		fmt.Fprintln(stderr, "rehearse: error: "+err.Error()+"\nrehearse: fix: run it at the root of a checkout, as make rehearse does")
		return exitConfig
	}

	report, err := rehearsal.Play(ctx, rehearsal.Options{Source: source, Dir: dir, Cluster: *cluster == "on", Log: stdout})
	fmt.Fprint(stdout, report.Text())
	if page, perr := report.HTML(); perr == nil && len(report.Scenes) > 0 {
		if perr = os.WriteFile(*html, page, 0o644); perr == nil {
			fmt.Fprintf(stdout, "\nThe same as a page: %s\n", *html)
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "rehearse: error: "+err.Error())
		return exitFailed
	}
	return exitDone
}

// workingFolder makes a new folder: one that stays, when the user names it, else one that goes.
func workingFolder(keep string) (dir string, cleanUp func(), err error) {
	if keep == "" {
		dir, err = os.MkdirTemp("", "rehearsal-*")
		return dir, func() { _ = os.RemoveAll(dir) }, err
	}
	if dir, err = filepath.Abs(keep); err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	return dir, func() {}, err
}

// cluster runs a control plane until the user ends it.
func cluster(ctx context.Context, stdout, stderr io.Writer) int {
	c, err := controlplane.Start(ctx, controlplane.Options{Log: stderr})
	if err != nil {
		fmt.Fprintln(stderr, "rehearse: error: "+err.Error())
		return exitFailed
	}
	defer func() { _ = c.Close() }()
	fmt.Fprintf(stdout, "export KUBECONFIG=%s\n", c.Kubeconfig)
	fmt.Fprintln(stderr, "the control plane runs until Ctrl-C; its node runs no container")
	<-ctx.Done()
	return exitDone
}
