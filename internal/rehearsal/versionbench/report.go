package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"
)

const heading = "## compute-version"

// write puts the report into the file, in place of the section that an earlier run wrote there.
func (b *bench) write(out string) error {
	var s strings.Builder
	fmt.Fprintf(&s, "%s\n\n%s\n\nMade by `make bench` (internal/rehearsal/versionbench) on histories that git fast-import reads from\ninternal/rehearsal/bighistory: merges, "+
		"octopuses, several roots, skewed clocks, unmerged hotfixes. Medians of three runs or five; of `git fetch --unshallow`, one.\n"+
		"Time is wall time; CPU is user and system time of the program itself, without the server's. Memory is the largest resident set; the\n"+
		"kernel counts that of the benchmark itself in, so nothing shows less than some 14 MB.\n", heading, machine())
	if b.svu == "" {
		fmt.Fprintf(&s, "\nsvu could not be built on this machine: %v\n", b.svuErr)
	}
	fmt.Fprintf(&s, "\n| bar | measured | |\n|---|---|---|\n%s%s", strings.Join(b.bars, ""), b.report.String())
	if out == "" {
		_, err := os.Stdout.WriteString(s.String())
		return err
	}
	text, err := os.ReadFile(out)
	if os.IsNotExist(err) {
		text = []byte("# Benchmarks\n\nEach section is written by `make bench`; only ratios travel from one machine to another.\n")
	} else if err != nil {
		return err
	}
	fmt.Fprint(os.Stderr, s.String())
	return os.WriteFile(out, []byte(replaceSection(string(text), s.String())), 0o644)
}

// replaceSection puts a section of second order in the place of the one with its heading, or at the end.
func replaceSection(text, section string) string {
	title, _, _ := strings.Cut(section, "\n")
	section = strings.TrimRight(section, "\n") + "\n"
	before, rest, found := strings.Cut("\n"+text, "\n"+title+"\n")
	if !found {
		return strings.TrimRight(text, "\n") + "\n\n" + section
	}
	_, after, more := strings.Cut(rest, "\n## ")
	if more {
		section += "\n## " + after
	}
	return strings.TrimPrefix(before+"\n", "\n") + section
}

// machine says where and when.
func machine() string {
	cpu := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`model name\s*:\s*(.*)`).FindSubmatch(text); m != nil {
			cpu = string(m[1])
		}
	}
	load := ""
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		load = ", load " + strings.Fields(string(text))[0]
	}
	git := "no git"
	if text, err := exec.Command("git", "version").Output(); err == nil {
		git = strings.TrimSpace(string(text))
	}
	return fmt.Sprintf("%s, %s/%s, %d CPUs (%s)%s; %s, %s.", time.Now().UTC().Format("2006-01-02"), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), cpu, load, runtime.Version(), git)
}
