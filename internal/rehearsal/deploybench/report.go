package main

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
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
		"| bar | measured | |\n|---|---|---|\n%s%s", heading, machine(), helmVersion, strings.Join(b.bars, ""), b.report.String())
	if out == "" {
		_, err := os.Stdout.WriteString(section)
		return err
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut("\n"+string(text), "\n"+heading+"\n")
	section = strings.TrimRight(section, "\n") + "\n"
	if _, after, more := strings.Cut(rest, "\n## "); found && more {
		section += "\n## " + after
	}
	return os.WriteFile(out, []byte(strings.TrimPrefix(strings.TrimRight(before, "\n"), "\n")+"\n\n"+section), 0o644)
}

func machine() string {
	cpu := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`model name\s*:\s*(.*)`).FindSubmatch(text); m != nil {
			cpu = string(m[1])
		}
	}
	return fmt.Sprintf("%s, %s/%s, %d CPUs (%s), load %s at the end; %s.", time.Now().UTC().Format("2006-01-02"), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), cpu, load(), runtime.Version())
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(text))[0]
}

func median(list []time.Duration) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
