// Program versionbench measures compute-version against git, svu and a plain go-git program, on histories that internal/rehearsal/bighistory
// makes, and writes the result into docs/benchmarks.md. It exists so that "fast" is a table that anybody can make again; `make bench` runs it.
//
// All programs run one after the other in the same minutes on the same files, because only ratios travel from one machine to another.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/bighistory"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "peer" {
		if err := peer(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "peer:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 6 && os.Args[1] == "make" { // in a process of its own: what this one takes is counted in with its children
		if err := generate(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "make:", err)
			os.Exit(1)
		}
		return
	}
	var b bench
	out := flag.String("out", "", "Markdown file whose section compute-version is replaced; standard output when unset")
	flag.StringVar(&b.repos, "repos", "", "folder to keep the repositories in, for the next run; else they are made anew and removed")
	flag.IntVar(&b.big, "commits", 80_000, "commits of the large repository")
	flag.Parse()
	if err := b.run(context.Background(), *out); err != nil {
		fmt.Fprintln(os.Stderr, "versionbench:", err)
		os.Exit(1)
	}
}

type bench struct {
	repos  string
	big    int
	dir    string // temporary
	step   string // the program compute-version
	svu    string // empty: it could not be built
	svuErr error
	report strings.Builder
	bars   []string
}

func (b *bench) run(ctx context.Context, out string) (err error) {
	if b.dir, err = os.MkdirTemp("", "versionbench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.repos == "" {
		b.repos = filepath.Join(b.dir, "repos")
	}
	if b.repos, err = filepath.Abs(b.repos); err != nil {
		return err
	}
	if err := b.build(ctx); err != nil {
		return err
	}
	for _, f := range []func(context.Context) error{b.large, b.small, b.tags} {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return b.write(out)
}

// svuVersion is the newest of the third major version that the module proxy has.
const svuVersion = "v3.4.1"

// build builds the step as it is shipped, and svu, outside this module's list of dependencies.
func (b *bench) build(ctx context.Context) error {
	b.step = filepath.Join(b.dir, "compute-version")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.step, "./steps/compute-version")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building compute-version: %w\n%s", err, text)
	}
	say("building svu %s", svuVersion)
	// As the only requirement of a module of its own. `go install` with a version would do, but it asks the proxy for a list of versions,
	// which not every proxy gives.
	module := filepath.Join(b.dir, "svu.module")
	if err := os.Mkdir(module, 0o700); err != nil {
		return err
	}
	mod := "module svu\n\ngo " + strings.TrimPrefix(runtime.Version(), "go") + "\n\nrequire github.com/caarlos0/svu/v3 " + svuVersion + "\n"
	if err := os.WriteFile(filepath.Join(module, "go.mod"), []byte(mod), 0o600); err != nil {
		return err
	}
	cmd = exec.CommandContext(ctx, "go", "build", "-mod=mod", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(b.dir, "svu"), "github.com/caarlos0/svu/v3")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		b.svuErr = fmt.Errorf("%w: %s", err, text)
		say("svu cannot be built here: %v", b.svuErr)
		return nil
	}
	b.svu = filepath.Join(b.dir, "svu")
	return nil
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "versionbench: "+format+"\n", args...) }

// repo makes a repository, unless an earlier run left it, and returns its folder. It is packed as a hosting service would pack it.
func (b *bench) repo(ctx context.Context, o bighistory.Options) (string, error) {
	dir := filepath.Join(b.repos, "bench", fmt.Sprintf("commits-%d-tags-%d.git", o.Commits, o.Tags))
	if _, err := os.Stat(filepath.Join(dir, "made")); err == nil {
		return dir, nil
	}
	say("making a repository of %d commits and %d tags", o.Commits, o.Tags)
	server, err := gitserver.Start(b.repos, gitserver.Options{}) // it configures what it creates
	if err != nil {
		return "", err
	}
	defer func() { _ = server.Close() }()
	if _, err := server.Create(strings.TrimSuffix("bench/"+filepath.Base(dir), ".git")); err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	source := exec.CommandContext(ctx, self, "make", fmt.Sprint(o.Commits), fmt.Sprint(o.Tags), fmt.Sprint(o.Tail), fmt.Sprint(o.Folders))
	source.Stderr = os.Stderr
	cmd := gitCommand(ctx, dir, "fast-import", "--quiet", "--done", "--force")
	cmd.Stderr = os.Stderr
	if cmd.Stdin, err = source.StdoutPipe(); err != nil {
		return "", err
	}
	if err := source.Start(); err != nil {
		return "", err
	}
	if err := errors.Join(cmd.Run(), source.Wait()); err != nil {
		return "", fmt.Errorf("git fast-import: %w", err)
	}
	for _, args := range [][]string{{"repack", "-q", "-a", "-d"}, {"pack-refs", "--all"}} {
		if text, err := gitCommand(ctx, dir, args...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("git %s: %w\n%s", args[0], err, text)
		}
	}
	return dir, os.WriteFile(filepath.Join(dir, "made"), nil, 0o600)
}

// generate writes a history to the standard output.
func generate(args []string) error {
	var n [4]int
	for i, arg := range args {
		var err error
		if n[i], err = strconv.Atoi(arg); err != nil {
			return err
		}
	}
	return bighistory.Write(os.Stdout, bighistory.Options{Commits: n[0], Tags: n[1], Tail: n[2], Folders: n[3]})
}

// gitCommand is this machine's git without this machine's settings.
func gitCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_TERMINAL_PROMPT=0")
	return cmd
}

// cost is what a program took. Of several runs it is the median of each.
type cost struct {
	wall, cpu time.Duration
	rss       int64 // bytes, at most
	answer    string
}

// measure runs programs one after the other as one, several times. before is run before each time and is not measured.
func measure(times int, before func() error, programs ...func() *exec.Cmd) (cost, error) {
	var walls, cpus []time.Duration
	var rss []int64
	var c cost
	for range times {
		if before != nil {
			if err := before(); err != nil {
				return c, err
			}
		}
		var wall, cpu time.Duration
		var most int64
		for _, program := range programs {
			cmd := program()
			var stdout, stderr bytes.Buffer
			if cmd.Stdout == nil {
				cmd.Stdout = &stdout
			}
			cmd.Stderr = &stderr
			start := time.Now()
			if err := cmd.Run(); err != nil {
				return c, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
			}
			wall += time.Since(start)
			cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
				unit := int64(1024)
				if runtime.GOOS == "darwin" {
					unit = 1
				}
				most = max(most, usage.Maxrss*unit)
			}
			c.answer = strings.TrimSpace(stdout.String())
		}
		walls, cpus, rss = append(walls, wall), append(cpus, cpu), append(rss, most)
	}
	slices.Sort(walls)
	slices.Sort(cpus)
	slices.Sort(rss)
	c.wall, c.cpu, c.rss = walls[times/2], cpus[times/2], rss[times/2]
	return c, nil
}

func (b *bench) table(title string) {
	fmt.Fprintf(&b.report, "\n### %s\n\n| program | time | CPU | memory | answer |\n|---|---|---|---|---|\n", title)
}

func (b *bench) row(program string, c cost, answer string) {
	fmt.Fprintf(&b.report, "| %s | %.2f s | %.2f s | %.0f MB | %s |\n", program, c.wall.Seconds(), c.cpu.Seconds(), float64(c.rss)/1e6, answer)
}

func (b *bench) bar(what, measured string, met bool) {
	word := "met"
	if !met {
		word = "**missed**"
	}
	b.bars = append(b.bars, fmt.Sprintf("| %s | %s | %s |\n", what, measured, word))
}

// computeVersion is the step, with its results in a folder of its own.
func (b *bench) computeVersion(ctx context.Context, dir, url string) (func() *exec.Cmd, func() (version string, commits int, err error)) {
	handover := filepath.Join(b.dir, "handover")
	program := func() *exec.Cmd {
		cmd := exec.CommandContext(ctx, b.step)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "BRANCH_NAME=main", "HANDOVER_DIR=" + handover, "SOURCE_URL=" + url}
		return cmd
	}
	result := func() (string, int, error) {
		text, err := os.ReadFile(filepath.Join(handover, "compute-version.json"))
		if err != nil {
			return "", 0, err
		}
		var out struct {
			Version string
			Commits []struct{}
		}
		err = json.Unmarshal(text, &out)
		return out.Version, len(out.Commits), err
	}
	return program, result
}

// local compares the programs on a complete clone and returns what the step and the plain program took.
func (b *bench) local(ctx context.Context, title, dir string, times int) (step, plain cost, err error) {
	b.table(title)
	program, result := b.computeVersion(ctx, dir, "")
	if step, err = measure(times, nil, program); err != nil {
		return step, plain, err
	}
	version, commits, err := result()
	if err != nil {
		return step, plain, err
	}
	b.row("compute-version", step, fmt.Sprintf("%s, %d commits", version, commits))
	self, err := os.Executable()
	if err != nil {
		return step, plain, err
	}
	plain, err = measure(times, nil, func() *exec.Cmd { return exec.CommandContext(ctx, self, "peer", dir) })
	if err != nil {
		return step, plain, err
	}
	b.row("a go-git program that logs twice", plain, plain.answer)
	if !strings.HasSuffix(plain.answer, fmt.Sprintf(" %d commits", commits)) {
		return step, plain, fmt.Errorf("%s: the step found %d commits, the plain program %s", title, commits, plain.answer)
	}
	c, err := measure(times, nil, func() *exec.Cmd { return gitCommand(ctx, dir, "describe", "--tags", "--match", "v*", "main") })
	if err != nil {
		return step, plain, err
	}
	b.row("`git describe --tags`", c, c.answer+" (the nearest tag; no next version)")
	if b.svu != "" {
		for _, mode := range []string{"all", "current"} {
			c, err := measure(times, nil, func() *exec.Cmd {
				cmd := gitCommand(ctx, dir)
				svu := exec.CommandContext(ctx, b.svu, "next", "--tag.mode", mode)
				svu.Dir, svu.Env = dir, cmd.Env
				return svu
			})
			if err != nil {
				return step, plain, err
			}
			b.row(fmt.Sprintf("`svu next --tag.mode %s`", mode), c, c.answer)
		}
	}
	return step, plain, nil
}

func (b *bench) large(ctx context.Context) error {
	dir, err := b.repo(ctx, bighistory.Options{Commits: b.big, Tags: b.big / 80, Tail: 600, Folders: 40})
	if err != nil {
		return err
	}
	say("a full clone of %d commits", b.big)
	step, plain, err := b.local(ctx, fmt.Sprintf("Full clone, %d commits, %d tags", b.big, b.big/80), dir, 3)
	if err != nil {
		return err
	}
	ratio := step.cpu.Seconds() / plain.cpu.Seconds()
	b.bar("full clone: CPU ≤ 0.6 of a go-git program that logs twice", fmt.Sprintf("%.2f", ratio), ratio <= 0.6)
	b.bar("full clone: ≤ 300 MB", fmt.Sprintf("%.0f MB", float64(step.rss)/1e6), step.rss <= 300e6)
	return b.fetched(ctx, dir)
}

// fetched compares what it costs to find the version from Cloud Build's checkout, over HTTP.
func (b *bench) fetched(ctx context.Context, origin string) error {
	say("a depth-1 checkout of it, over HTTP")
	server, err := gitserver.Start(b.repos, gitserver.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	url := server.URL() + "/bench/" + filepath.Base(origin)
	dir := filepath.Join(b.dir, "workspace")
	checkout := func() error {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		for _, args := range [][]string{{"init", "--quiet", "--template="}, {"remote", "add", "origin", url}, {"fetch", "--quiet", "--depth=1", "--no-tags", "origin", "main"}, {"checkout", "--quiet", "FETCH_HEAD"}} {
			if text, err := gitCommand(ctx, dir, args...).CombinedOutput(); err != nil {
				return fmt.Errorf("git %s: %w\n%s", args[0], err, text)
			}
		}
		return nil
	}
	b.table(fmt.Sprintf("From a depth-1 checkout, over HTTP on loopback, %d commits", b.big))
	program, result := b.computeVersion(ctx, dir, "")
	step, err := measure(5, checkout, program)
	if err != nil {
		return err
	}
	version, commits, err := result()
	if err != nil {
		return err
	}
	b.row("compute-version", step, fmt.Sprintf("%s, %d commits", version, commits))
	unshallow, err := measure(1, checkout,
		func() *exec.Cmd { return gitCommand(ctx, dir, "fetch", "--quiet", "--unshallow", "--tags", "origin") },
		func() *exec.Cmd {
			cmd := gitCommand(ctx, dir, "log", "--format=%H %P %ct%n%B", "FETCH_HEAD")
			cmd.Stdout = io.Discard
			return cmd
		})
	if err != nil {
		return err
	}
	b.row("`git fetch --unshallow --tags`, then `git log`", unshallow, "the history; no version")
	ratio := step.wall.Seconds() / unshallow.wall.Seconds()
	b.bar("depth-1 checkout: time ≤ 1/5 of git fetch --unshallow --tags and git log", fmt.Sprintf("1/%.1f", 1/ratio), ratio <= 0.2)
	b.bar("depth-1 checkout: ≤ 160 MB", fmt.Sprintf("%.0f MB", float64(step.rss)/1e6), step.rss <= 160e6)
	return nil
}

func (b *bench) small(ctx context.Context) error {
	dir, err := b.repo(ctx, bighistory.Options{Commits: 10_000, Tags: 400, Tail: 30, Folders: 10})
	if err != nil {
		return err
	}
	say("a full clone of 10000 commits")
	step, _, err := b.local(ctx, "Full clone, 10000 commits, 400 tags", dir, 5)
	if err != nil {
		return err
	}
	b.bar("10,000 commits: CPU ≤ 0.3 s", fmt.Sprintf("%.2f s", step.cpu.Seconds()), step.cpu <= 300*time.Millisecond)
	b.bar("10,000 commits: ≤ 64 MB", fmt.Sprintf("%.0f MB", float64(step.rss)/1e6), step.rss <= 64e6)
	return nil
}

func (b *bench) tags(ctx context.Context) error {
	dir, err := b.repo(ctx, bighistory.Options{Commits: 3000, Tags: 20_000, Tail: 30, Folders: 2})
	if err != nil {
		return err
	}
	say("20000 tags")
	step, _, err := b.local(ctx, "Full clone, 3000 commits, 20000 tags", dir, 5)
	if err != nil {
		return err
	}
	b.bar("20,000 tags: CPU ≤ 0.3 s", fmt.Sprintf("%.2f s", step.cpu.Seconds()), step.cpu <= 300*time.Millisecond)
	return nil
}
