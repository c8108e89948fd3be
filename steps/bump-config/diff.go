package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// contextLines is the number of unchanged lines around a change.
const contextLines = 3

// diff shows the plan as a unified diff. An edit never adds or removes a line, so old and new lines stand opposite each other; a file that
// is new, or was replaced whole, is shown so.
func (p *plan) diff() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(p.files)) {
		before, after := splitKeepingBreaks(string(p.files[name][0])), splitKeepingBreaks(string(p.files[name][1]))
		if slices.Equal(before, after) {
			continue
		}
		from := "a/" + name
		if len(before) == 0 {
			from = "/dev/null"
		}
		fmt.Fprintf(&b, "--- %s\n+++ b/%s\n", from, name)
		if len(before) != len(after) {
			writeHunk(&b, 0, before, 0, after)
			continue
		}
		for i := 0; i < len(before); {
			if before[i] == after[i] {
				i++
				continue
			}
			last := i // of the changes that lie close together
			for j := i; j < len(before) && j <= last+2*contextLines; j++ {
				if before[j] != after[j] {
					last = j
				}
			}
			start, end := max(i-contextLines, 0), min(last+1+contextLines, len(before))
			writeHunk(&b, start, before[start:end], start, after[start:end])
			i = end
		}
	}
	return b.String()
}

// writeHunk writes the lines of one hunk; start and begin are the numbers of the lines before it.
func writeHunk(b *strings.Builder, start int, before []string, begin int, after []string) {
	fmt.Fprintf(b, "@@ -%s +%s @@\n", extent(start, len(before)), extent(begin, len(after)))
	if len(before) != len(after) {
		writeLines(b, "-", before)
		writeLines(b, "+", after)
		return
	}
	for i := 0; i < len(before); {
		if before[i] == after[i] {
			writeLines(b, " ", before[i:i+1])
			i++
			continue
		}
		end := i
		for end < len(before) && before[end] != after[end] {
			end++
		}
		writeLines(b, "-", before[i:end])
		writeLines(b, "+", after[i:end])
		i = end
	}
}

func extent(start, n int) string {
	if n == 0 {
		return fmt.Sprintf("%d,0", start)
	}
	return fmt.Sprintf("%d,%d", start+1, n)
}

func writeLines(b *strings.Builder, sign string, lines []string) {
	for _, l := range lines {
		b.WriteString(sign + strings.TrimSuffix(l, "\n") + "\n")
		if !strings.HasSuffix(l, "\n") {
			b.WriteString("\\ No newline at end of file\n")
		}
	}
}

func splitKeepingBreaks(s string) []string { return slices.Collect(strings.Lines(s)) }
