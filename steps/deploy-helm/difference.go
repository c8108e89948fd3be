package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
)

// The bounds of what a dry run shows. A chart may carry megabytes of dashboards, and a build log is read by people.
const (
	maxDiffLine    = 500       // bytes of one line
	maxObjectDiff  = 400       // lines of one object
	maxReleaseDiff = 256 << 10 // bytes of one release
	maxFileDiff    = 8 << 20   // bytes of deploy-helm.diff
	maxLogDiff     = 64 << 10  // bytes in the build log
)

// nothing is the name of a side that does not exist, as git and patch have it.
const nothing = "/dev/null"

// difference is a unified diff of one object, "" when there is none to show.
func difference(release string, c cluster.Change) string {
	if c.Before == c.After {
		return ""
	}
	name := strings.Join([]string{release, c.Kind, c.Name}, "/")
	if c.Namespace != "" {
		name = strings.Join([]string{release, c.Kind, c.Namespace, c.Name}, "/")
	}
	before, after := "live/"+name, "next/"+name
	if c.Before == "" {
		before = nothing
	}
	if c.After == "" {
		after = nothing
	}
	text := diff.Diff(before, []byte(c.Before), after, []byte(c.After))
	var out strings.Builder
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if n > maxObjectDiff {
			break
		}
		if len(line) > maxDiffLine {
			fmt.Fprintf(&out, "%s… (%d more bytes)\n", strings.ToValidUTF8(string(line[:maxDiffLine]), ""), len(line)-1-maxDiffLine)
			continue
		}
		out.Write(line)
	}
	if more := bytes.Count(text, []byte("\n")) - maxObjectDiff; more > 0 {
		fmt.Fprintf(&out, "# %d more lines of this object are not shown\n", more)
	}
	return out.String()
}

// bounded cuts a text after the last whole line that fits, and says so.
func bounded(text string, limit int, notice string) string {
	if len(text) <= limit {
		return text
	}
	at := strings.LastIndexByte(text[:limit], '\n') + 1
	return fmt.Sprintf("%s# %d more bytes are not shown%s\n", text[:at], len(text)-at, notice)
}

// diffLine is a line of a unified diff, for the page.
type diffLine struct{ Kind, Text string }

func diffLines(text string) []diffLine {
	var list []diffLine
	for line := range strings.Lines(text) {
		kind := ""
		switch {
		case strings.HasPrefix(line, "diff ") || strings.HasPrefix(line, "--- ") || strings.HasPrefix(line, "+++ ") || strings.HasPrefix(line, "#"):
			kind = "head"
		case strings.HasPrefix(line, "+"):
			kind = "add"
		case strings.HasPrefix(line, "-"):
			kind = "del"
		}
		list = append(list, diffLine{kind, line})
	}
	return list
}
