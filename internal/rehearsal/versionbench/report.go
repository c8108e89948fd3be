package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/benchreport"
)

const heading = "## compute-version"

// write puts the report into the file, in place of the section that an earlier run wrote there.
func (b *bench) write(out string) error {
	git := "no git"
	if text, err := exec.Command("git", "version").Output(); err == nil {
		git = strings.TrimSpace(string(text))
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%s\n\n%s\n\nMade by `make bench` (internal/rehearsal/versionbench) on histories that git fast-import reads from\ninternal/rehearsal/bighistory: merges, "+
		"octopuses, several roots, skewed clocks, unmerged hotfixes. Medians of three runs or five; of `git fetch --unshallow`, one.\n"+
		"Time is wall time; CPU is user and system time of the program itself, without the server's. Memory is the largest resident set; the\n"+
		"kernel counts that of the benchmark itself in, so nothing shows less than some 14 MB.\n", heading, benchreport.Machine(git))
	if b.svu == "" {
		fmt.Fprintf(&s, "\nsvu could not be built on this machine: %v\n", b.svuErr)
	}
	fmt.Fprintf(&s, "\n| bar | measured | |\n|---|---|---|\n%s%s", strings.Join(b.bars, ""), b.report.String())
	if out != "" {
		fmt.Fprint(os.Stderr, s.String())
	}
	return benchreport.Write(out, s.String())
}
