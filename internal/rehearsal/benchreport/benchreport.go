// Package benchreport writes the reports of the benchmark programs (versionbench, tagbench, deploybench) into one document, each into a
// section of its own, and says on what machine they were made.
package benchreport

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// Machine says where and when, in a sentence: day, platform, processors, load, and versions of Go and of the tools that are named.
func Machine(tools ...string) string {
	cpu := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`model name\s*:\s*(.*)`).FindSubmatch(text); m != nil {
			cpu = string(m[1])
		}
	}
	return fmt.Sprintf("%s, %s/%s, %d CPUs (%s), load %s at the end; %s.", time.Now().UTC().Format("2006-01-02"), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), cpu,
		Load(), strings.Join(append([]string{runtime.Version()}, tools...), ", "))
}

// Load is the load average of the last minute, as the kernel writes it.
func Load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(text))[0]
}

// Write puts a section of second order (its first line is "## …") into a Markdown file: in the place of the one with its heading, or at the
// end. Without a file it goes to standard output.
func Write(out, section string) error {
	if out == "" {
		_, err := os.Stdout.WriteString(section)
		return err
	}
	text, err := os.ReadFile(out)
	if os.IsNotExist(err) {
		text, err = []byte("# Benchmarks\n\nEach section is written by `make bench`; only ratios travel from one machine to another.\n"), nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(out, []byte(replace(string(text), section)), 0o644)
}

func replace(text, section string) string {
	title, _, _ := strings.Cut(section, "\n")
	section = strings.TrimRight(section, "\n") + "\n"
	before, rest, _ := strings.Cut("\n"+text, "\n"+title+"\n")
	if _, after, more := strings.Cut(rest, "\n## "); more {
		section += "\n## " + after
	}
	return strings.TrimLeft(strings.TrimRight(before, "\n")+"\n\n"+section, "\n")
}
