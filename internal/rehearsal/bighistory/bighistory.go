// Package bighistory writes repositories with long histories, for benchmarks and for tests that compare with git.
//
// What makes a history hard is in them: branches and merges, now and then an octopus, several roots, clocks that are wrong, annotated and
// light tags on the trunk and on branches that were never merged. The same options always give the same commits, byte for byte, so that
// anybody can repeat a measurement.
package bighistory

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
)

// Options say how long a history is.
type Options struct {
	Commits int // of the trunk and of its branches, all of which are merged but the hotfix branches
	Tags    int // releases, spread evenly up to the last tenth of the commits
	Tail    int // commits after the last release
	Folders int // how many folders of 20 files there are; some lines of one file change with each commit
}

// Write writes the history as a stream for git fast-import. Its branch is main.
func Write(w io.Writer, o Options) error {
	g := &generator{
		Options: o, w: bufio.NewWriterSize(w, 1<<20), r: rand.New(rand.NewPCG(1, 2)), // not for secrets: for the same history each time
		clock: 1_400_000_000, files: map[string][]string{},
	}
	g.run()
	return g.w.Flush()
}

type generator struct {
	Options
	w     *bufio.Writer
	r     *rand.Rand
	clock int64
	mark  int                 // of the last commit
	files map[string][]string // the lines of every file, wherever it was changed last
}

func (g *generator) printf(format string, args ...any) { fmt.Fprintf(g.w, format, args...) }

func (g *generator) data(text string) { g.printf("data %d\n%s\n", len(text), text) }

// person writes a committer or tagger. One clock in fifty is wrong, by up to half a year.
func (g *generator) person(role string) {
	g.clock += 60 + g.r.Int64N(7200)
	when := g.clock
	if g.r.IntN(50) == 0 {
		when += g.r.Int64N(365*86400) - 182*86400
	}
	g.printf("%s Ada Example <ada@example.com> %d +0000\n", role, when)
}

var kinds = []string{"fix", "fix(api)", "fix(ui)", "feat", "feat(api)", "chore(deps)", "chore", "docs", "test", "refactor", "ci", "perf"}

// commit writes a commit that changes one file and returns its mark.
func (g *generator) commit(ref string, subject string, parents ...int) int {
	g.mark++
	g.printf("commit %s\nmark :%d\n", ref, g.mark)
	g.person("committer")
	if subject == "" {
		subject = kinds[g.r.IntN(len(kinds))] + fmt.Sprintf(": change number %d", g.mark)
	}
	g.data(fmt.Sprintf("%s\n\nThe reason is told here in %d words, as people do, and what was tried before\nand did not work out is in the thread.\n\nReviewed-by: Grace Example <grace@example.com>\n", subject, g.r.IntN(1000)))
	for i, p := range parents {
		verb := "merge"
		if i == 0 {
			verb = "from"
		}
		g.printf("%s :%d\n", verb, p)
	}
	path := fmt.Sprintf("pkg/part%02d/file%02d.go", g.r.IntN(max(g.Folders, 1)), g.r.IntN(20))
	lines := g.files[path]
	if lines == nil {
		lines = make([]string, 120)
		for i := range lines {
			lines[i] = g.line()
		}
		g.files[path] = lines
	}
	from := g.r.IntN(len(lines))
	for i := from; i < min(from+1+g.r.IntN(20), len(lines)); i++ {
		lines[i] = g.line()
	}
	g.printf("M 100644 inline %s\n", path)
	g.data(strings.Join(lines, ""))
	return g.mark
}

// line writes a line that compresses about as well as a line of a program does.
func (g *generator) line() string {
	var b strings.Builder
	b.WriteByte('\t')
	for range 3 + g.r.IntN(8) {
		b.WriteString(words[g.r.IntN(len(words))])
		b.WriteString([]string{" ", ".", "(", ", ", ") ", " := "}[g.r.IntN(6)])
		if g.r.IntN(4) == 0 {
			fmt.Fprintf(&b, "%x", g.r.Uint32()>>8)
		}
	}
	b.WriteByte('\n')
	return b.String()
}

var words = strings.Fields(`if err nil return func range string int context request response handler user account release version commit branch tag digest
	image layer blob tree index pack delta offset base parent child node graph queue stack lock unlock read write open close flush seek start
	stop retry wait signal cancel deadline timeout client server token secret config option default value key name path file folder size count
	sum hash sort search find insert delete update append copy move parse format print log warn error fatal test check assert expect`)

func (g *generator) tag(name string, mark int) {
	if g.r.IntN(4) == 0 {
		g.printf("reset refs/tags/%s\nfrom :%d\n\n", name, mark)
		return
	}
	g.printf("tag %s\nfrom :%d\n", name, mark)
	g.person("tagger")
	g.data("Release " + name + "\n")
}

const trunk = "refs/heads/main"

func (g *generator) run() {
	tip := g.commit(trunk, "feat: begin")
	tags, major, minor, patch := 0, 0, 0, 0
	tagged := g.Commits - g.Tail
	for g.mark < g.Commits {
		switch n := g.r.IntN(100); {
		case n < 12: // a branch of a few commits, cut from the trunk and merged
			side := tip
			for range 1 + g.r.IntN(4) {
				side = g.commit("refs/heads/side", "", side)
			}
			tip = g.commit(trunk, "", tip)
			tip = g.commit(trunk, "Merge branch 'side'", tip, side)
		case n == 12: // an octopus
			a := g.commit("refs/heads/side", "", tip)
			b := g.commit("refs/heads/other", "", tip)
			tip = g.commit(trunk, "Merge branches 'side' and 'other'", g.commit(trunk, "", tip), a, b)
		case n == 13 && g.mark%7 == 0: // another project is taken in, with a root of its own
			g.printf("reset refs/heads/side\n\n")
			tip = g.commit(trunk, "Merge project 'side'", tip, g.commit("refs/heads/side", "feat: begin elsewhere"))
		default:
			tip = g.commit(trunk, "", tip)
		}
		for tags < g.Tags && g.mark <= tagged && g.mark >= (tags+1)*tagged/(g.Tags+1) {
			switch n := g.r.IntN(50); {
			case n == 0:
				major, minor, patch = major+1, 0, 0
			case n < 15:
				minor, patch = minor+1, 0
			default:
				patch++
			}
			g.tag(fmt.Sprintf("v%d.%d.%d", major, minor, patch), tip)
			tags++
			if tags%40 == 0 { // a hotfix that nobody merged
				patch++
				g.tag(fmt.Sprintf("v%d.%d.%d", major, minor, patch), g.commit(fmt.Sprintf("refs/heads/release-v%d.%d.%d", major, minor, patch), "fix: of a branch", tip))
				tags++
			}
		}
	}
	g.printf("reset %s\nfrom :%d\n\n", trunk, tip)
	for _, ref := range []string{"side", "other"} {
		g.printf("reset refs/heads/%s\nfrom 0000000000000000000000000000000000000000\n\n", ref)
	}
	g.printf("done\n")
}
