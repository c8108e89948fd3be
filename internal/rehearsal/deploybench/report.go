package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/benchreport"
)

const heading = "## deploy-helm"

// bar notes a promise and what came of it.
func (b *bench) bar(what, measured string, met bool) {
	word := "met"
	if !met {
		word = "**missed**"
	}
	say("%s: %s, %s", what, measured, word)
	b.bars = append(b.bars, fmt.Sprintf("| %s | %s | %s |\n", what, measured, word))
}

func (b *bench) printf(format string, args ...any) { fmt.Fprintf(&b.report, format, args...) }

// write puts the report into the file, in place of the section that an earlier run wrote there.
func (b *bench) write(out string) error {
	section := fmt.Sprintf("%s\n\n%s\n\n"+
		"Made by `make bench` (internal/rehearsal/deploybench) with the helm command line %s, on a real Kubernetes control plane whose kubelet is a fake that has every pod ready at once, "+
		"on the same machine. Requests and bytes are counted by a TLS and HTTP/2 proxy in front of the API server, in runs of their own; times are taken without it. "+
		"CPU is user and system time of the program itself, without the server's; on two cores the server's share is the larger one.\n\n"+
		"| bar | measured | |\n|---|---|---|\n%s%s", heading, benchreport.Machine(), helmVersion, strings.Join(b.bars, ""), b.report.String())
	return benchreport.Write(out, section)
}

func median(list []time.Duration) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
