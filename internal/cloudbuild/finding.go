package cloudbuild

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Finding is something to say about one place of a file: a fault, or a warning.
type Finding struct {
	Line int    // counted from 1; 0 when the place is not in the file
	Path string // as gcloud writes it: ".steps[0].args[1]"
	Text string
}

// String is "line 4: .steps[0].arg: unused".
func (f Finding) String() string {
	s := f.Text
	if f.Path != "" {
		s = f.Path + ": " + s
	}
	if f.Line > 0 {
		s = fmt.Sprintf("line %d: %s", f.Line, s)
	}
	return s
}

// Faults is everything that is wrong with a file. As an error it is one line per fault.
type Faults []Finding

// Error implements error.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// err is fs in the order of the file, or nil when there is no fault.
func (fs Faults) err() error {
	if len(fs) == 0 {
		return nil
	}
	fs.sort()
	return fs
}

func (fs Faults) sort() {
	slices.SortStableFunc(fs, func(a, b Finding) int { return cmp.Compare(a.Line, b.Line) })
}

// didYouMean is ` (did you mean "args"?)` when one of the known names is close to name, else nothing.
func didYouMean(name string, known []string) string {
	best, bestDistance := "", min(max(1, len(name)/3)+1, len(name))
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := distance(name, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", best)
}

// distance is the number of bytes to insert, delete or change to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
