package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
)

// The benchmarks work on a repo of 10,000 HelmReleases of 1.7 KB with two markers each, for 20 services: a release of one service changes
// 500 of them. Twenty more services have one file each. `make bench` prints them; docs/benchmarks.md has the figures of one machine. What is promised are ratios within one run and
// memory, because wall time on a busy machine means little.
const (
	benchFiles    = 10_000
	benchServices = 20
)

func benchImage(service string) string {
	return "europe-docker.pkg.dev/example-cloud/services/" + service
}

func solo(n int) string { return fmt.Sprintf("solo%02d", n) }

// newLargeRepo makes the repo with git fast-import, which takes a second.
func newLargeRepo(b *testing.B) *configRepo {
	b.Helper()
	r := newConfigRepo(b, nil)
	var in bytes.Buffer
	in.WriteString("commit refs/heads/main\ncommitter Ada <ada@example.com> 1700000000 +0000\ndata 6\nlarge\n\nfrom refs/heads/main^0\n")
	file := func(name, content string) {
		fmt.Fprintf(&in, "M 644 inline %s\ndata %d\n%s\n", name, len(content), content)
	}
	for s := range 2 * benchServices {
		name := fmt.Sprintf("svc%02d", s)
		if s >= benchServices {
			name = solo(s - benchServices)
		}
		file("clusters/images/"+name+".yaml", fmt.Sprintf(`apiVersion: image.toolkit.fluxcd.io/v1
kind: ImageRepository
metadata: {name: %[1]s, namespace: flux-system}
spec: {image: %[2]s}
---
apiVersion: image.toolkit.fluxcd.io/v1
kind: ImagePolicy
metadata: {name: %[1]s-production, namespace: flux-system}
spec: {imageRepositoryRef: {name: %[1]s}, policy: {semver: {range: '>=1.0.0'}}}
`, name, benchImage(name)))
	}
	for i := range benchFiles {
		name := fmt.Sprintf("svc%02d", i%benchServices)
		if i >= benchFiles-benchServices {
			name = solo(i % benchServices)
		}
		text := fmt.Sprintf(`apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata:
  name: %[1]s
  namespace: account-a%04[2]d
  labels: {account: a%04[2]d}
spec:
  interval: 10m
  chart: {spec: {chart: ./charts/backend, sourceRef: {kind: GitRepository, name: config, namespace: flux-system}}}
  values:
    image:
      repository: europe-docker.pkg.dev/example-cloud/services/%[1]s # {"$imagepolicy": "flux-system:%[1]s-production:name"}
      tag: v1.0.0 # {"$imagepolicy": "flux-system:%[1]s-production:tag"}
    env:
`, name, i/benchServices)
		for n := 0; len(text) < 1700; n++ {
			text += fmt.Sprintf("      SETTING_%02d: \"%x\" # set for account %d\n", n, i*7919+n*104729, i)
		}
		file(fmt.Sprintf("accounts/a%04d/%s.yaml", i/benchServices, name), text)
	}
	r.gitWith(r.bare, in.Bytes(), "fast-import", "--quiet")
	r.git(r.bare, "repack", "-adq")
	return r
}

// realProgram builds the step as `make binaries` does.
func realProgram(b *testing.B) string {
	b.Helper()
	name := filepath.Join(b.TempDir(), "bump-config")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", name, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return name
}

// bump is the real program, writing a version of one service.
func (r *configRepo) bump(program, service string) *exec.Cmd {
	cmd := exec.Command(program)
	cmd.Env = []string{
		"CONFIG_REPO=" + r.url, "GIT_TOKEN=" + token, "IMAGE=" + benchImage(service), "TAG_NAME=v1.1.0", "HANDOVER_DIR=" + filepath.Join(r.t.TempDir(), "out"),
	}
	return cmd
}

// cost is what a process took.
type cost struct {
	wall, cpu time.Duration
	rss       float64 // MB, at its highest
}

func (r *configRepo) measure(cmd *exec.Cmd) cost {
	r.t.Helper()
	var said bytes.Buffer
	cmd.Stderr = &said
	syscall.Sync() // nobody waits for what the last one left to be written
	began := time.Now()
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	highest := residentSet(cmd.Process.Pid)
	if err := cmd.Wait(); err != nil {
		r.t.Fatalf("%v: %s", err, said.String())
	}
	return cost{time.Since(began), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), highest()}
}

// residentSet follows the largest resident set of a process, in MB; the function that it returns is called when the process has ended. What
// the kernel reports at the end (rusage) would do, if it did not count the memory of the process that started it.
func residentSet(pid int) func() float64 {
	var highest float64
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(10 * time.Millisecond); ; { // the kernel keeps the highest
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			_, rest, _ := strings.Cut(string(status), "VmHWM:")
			var kb float64
			if _, err := fmt.Sscan(rest, &kb); err == nil {
				highest = max(highest, kb/1024)
			}
			select {
			case <-tick.C:
			case <-ended:
				return
			}
		}
	}()
	return func() float64 {
		close(ended)
		<-done
		return highest
	}
}

// BenchmarkMarkerEdit is the decision and the edit alone: the repo is in memory, nothing is sent.
func BenchmarkMarkerEdit(b *testing.B) {
	r := newLargeRepo(b)
	in := r.in("")
	s, err := gitrepo.Open(b.Context(), gitrepo.Remote{URL: r.url, Username: "any", Token: in.GitToken}, "main")
	if err != nil {
		b.Fatal(err)
	}
	wanted := target{image: benchImage("svc07"), tag: "v1.1.0", isRelease: true}
	need := heapNeed(func() {
		if _, err := newPlan(s, reading{}, in, wanted); err != nil {
			b.Error(err)
		}
	})
	var before, after syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		p, err := newPlan(s, reading{}, in, wanted)
		if err != nil || len(p.files) != benchFiles/benchServices-1 {
			b.Fatalf("%d files (%v)", len(p.files), err)
		}
		n++
	}
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
		b.Fatal(err)
	}
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	b.ReportMetric(cpu.Seconds()/float64(n), "cpu-s/op")
	b.ReportMetric(need, "MB")
}

// heapNeed is how much the heap grows at most while f runs, in MB, with a collector that leaves little lying around.
func heapNeed(f func()) float64 {
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	base, peak := m.HeapAlloc, m.HeapAlloc
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	for tick := time.NewTicker(time.Millisecond); ; {
		select {
		case <-done:
			return float64(peak-base) / (1 << 20)
		case <-tick.C:
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
		}
	}
}

// BenchmarkBump is a whole run of the real program over HTTP, beside the git command line doing the same on the same server: clone
// --depth 1, edit with sed, commit, push.
func BenchmarkBump(b *testing.B) {
	r := newLargeRepo(b)
	program := realProgram(b)
	base := r.git(r.bare, "rev-parse", "main")
	var ours, git cost
	n := 0
	for b.Loop() {
		n++
		r.git(r.bare, "update-ref", "refs/heads/main", base)
		c := r.measure(r.bump(program, "svc07"))
		ours = cost{ours.wall + c.wall, ours.cpu + c.cpu, max(ours.rss, c.rss)}
		tree := r.git(r.bare, "rev-parse", "main^{tree}")

		r.git(r.bare, "update-ref", "refs/heads/main", base)
		dir := filepath.Join(b.TempDir(), "clone")
		sh := exec.Command("sh", "-ec", `git -c "http.extraHeader=$AUTH" clone --quiet --depth 1 "$URL" "$DIR"
cd "$DIR"
sed -i '/svc07-production:tag/s/v1.0.0/v1.1.0/' accounts/*/svc07.yaml
git commit --quiet --all --message bump
git -c "http.extraHeader=$AUTH" push --quiet`)
		sh.Env = append(os.Environ(), append(gitEnv, "URL="+r.url, "DIR="+dir, "AUTH=Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte("any:"+token)))...)
		c = r.measure(sh)
		git = cost{git.wall + c.wall, git.cpu + c.cpu, max(git.rss, c.rss)}
		if r.git(r.bare, "rev-parse", "main^{tree}") != tree {
			b.Fatal("git and bump-config did not write the same")
		}
	}
	b.ReportMetric(ours.wall.Seconds()/float64(n), "s/bump")
	b.ReportMetric(ours.cpu.Seconds()/float64(n), "cpu-s/bump")
	b.ReportMetric(ours.rss, "MB")
	b.ReportMetric(git.wall.Seconds()/float64(n), "s/git")
	b.ReportMetric(git.cpu.Seconds()/float64(n), "cpu-s/git")
	b.ReportMetric(float64(ours.wall)/float64(git.wall), "of-git")
}

// BenchmarkConcurrent is twenty runs of the real program at once, each for a service of its own with one file, against one alone.
func BenchmarkConcurrent(b *testing.B) {
	r := newLargeRepo(b)
	program := realProgram(b)
	base := r.git(r.bare, "rev-parse", "main")
	var one, all time.Duration
	n := 0
	for b.Loop() {
		n++
		r.git(r.bare, "update-ref", "refs/heads/main", base)
		one += r.measure(r.bump(program, solo(0))).wall
		r.git(r.bare, "update-ref", "refs/heads/main", base)
		began := time.Now()
		var runs sync.WaitGroup
		for s := range benchServices {
			cmd := r.bump(program, solo(s))
			runs.Go(func() {
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Errorf("service %d: %v: %s", s, err, out)
				}
			})
		}
		runs.Wait()
		all += time.Since(began)
		if commits := r.git(r.bare, "rev-list", "--count", base+"..main"); commits != fmt.Sprint(benchServices) {
			b.Errorf("%s commits for %d bumps", commits, benchServices)
		}
		for s := range benchServices {
			if old := strings.Count(r.git(r.bare, "show", fmt.Sprintf("main:accounts/a0499/%s.yaml", solo(s))), "tag: v1.1.0 "); old != 1 {
				b.Errorf("the bump of service %d is lost", s)
			}
		}
		if changed := r.git(r.bare, "diff", "--shortstat", base, "main"); !strings.Contains(changed, fmt.Sprintf("%d files changed, %d insertions", benchServices, benchServices)) {
			b.Errorf("together they changed %s", changed)
		}
	}
	b.ReportMetric(one.Seconds()/float64(n), "s/one")
	b.ReportMetric(all.Seconds()/float64(n), "s/twenty")
	b.ReportMetric(float64(all)/float64(one), "times-one")
}
