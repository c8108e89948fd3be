// Command kubeone is a Kubernetes control plane in one file: it is etcd, kube-apiserver, kube-controller-manager or fake-kubelet by the name
// it is called with.
//
// It exists so that deployments are tried against a real API server on any machine with Go: no containers, no images, no downloaded
// binaries. Everything that is a Go module already is used as it is; one multi-call program instead of four shares the code they have in
// common, which makes a third of the size. The only part of our own is fake-kubelet, the node: it runs no containers. The nested module
// keeps the 33 replacements that k8s.io/kubernetes demands of its users out of the suite's own go.mod.
//
// The package internal/rehearsal/toolcache builds it and sets the version that it reports; internal/rehearsal/controlplane starts and stops
// it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	kcm "k8s.io/kubernetes/cmd/kube-controller-manager/app"

	"github.com/deepdesk/cloudbuild-steps/tools/kubeone/fakekubelet"
)

// exitWithStdin is the variable that makes every one of the programs end at once when its stdin is closed. The parent holds the other end
// of the pipe, so the control plane dies with it, even if it is killed. The kernel's own way, PR_SET_PDEATHSIG, is bound to the thread
// that forked, which the Go runtime may end at any time, and exists on Linux only. It must be asked for, since programs such as envtest
// start their servers with an empty stdin.
const exitWithStdin = "KUBEONE_EXIT_WITH_STDIN"

func main() {
	if os.Getenv(exitWithStdin) != "" {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0) // nothing is worth saving: the state is thrown away with the control plane
		}()
	}
	switch name := filepath.Base(os.Args[0]); name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(kcm.NewControllerManagerCommand()))
	case "fake-kubelet":
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if err := fakekubelet.Run(ctx, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "fake-kubelet:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintf(os.Stderr, "kubeone: call me etcd, kube-apiserver, kube-controller-manager or fake-kubelet, not %s\n", name)
		os.Exit(2)
	}
}
