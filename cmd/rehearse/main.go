// Command rehearse runs a Cloud Build build file on this machine, and checks one before the service sees it.
//
// It exists because Google's local builder is archived and rejects a third of today's files. People use it while they write a build
// file; the rehearsal of the whole workflow uses the same packages (internal/cloudbuild, internal/rehearsal/runner).
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run tells the two commands from what the program does without one: running a build file.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if code, asked := rehearsal.RunStandIn(args, stdout, stderr); asked { // a build of the play started this program as its Docker builder
		return code
	}
	if len(args) > 0 {
		switch args[0] {
		case "play":
			return play(ctx, args[1:], stdout, stderr)
		case "cluster":
			return cluster(ctx, stdout, stderr)
		}
	}
	return rehearse(ctx, args, stdout, stderr)
}
