// Command rehearse runs a Cloud Build build file on this machine, and checks one before the service sees it.
//
// It exists because Google's local builder is archived and rejects a third of today's files. People use it while they write a build file; the
// rehearsal of the whole workflow uses the same packages (internal/cloudbuild, internal/rehearsal/runner).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := rehearse(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
