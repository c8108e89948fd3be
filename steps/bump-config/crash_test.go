package main

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// killer stands in front of the server and kills the program at one of its requests: before the request arrives, or when the server has
// done all of it and the answer is on its way.
type killer struct {
	mu    sync.Mutex
	n, at int
	after bool
	cmd   *exec.Cmd
}

func (k *killer) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		k.n++
		hit, after, cmd := k.n == k.at, k.after, k.cmd
		k.mu.Unlock()
		if !hit {
			next.ServeHTTP(w, r)
			return
		}
		if after {
			next.ServeHTTP(nobody{http.Header{}}, r.WithContext(context.WithoutCancel(r.Context()))) // git goes on when its client has gone
		}
		_ = cmd.Process.Kill() // SIGKILL: no signal handler may be what keeps the repo whole
		panic(http.ErrAbortHandler)
	})
}

// nobody gets an answer.
type nobody struct{ header http.Header }

func (n nobody) Header() http.Header       { return n.header }
func (nobody) Write(p []byte) (int, error) { return len(p), nil }
func (nobody) WriteHeader(int)             {}

// Cloud Build ends a build with SIGKILL. At whatever request that happens, a second run ends with exactly one commit, the wanted one.
func TestAProgramThatIsKilledAnywhereConverges(t *testing.T) {
	k := &killer{}
	r := newConfigRepo(t, k.wrap)
	base := r.git(r.bare, "rev-parse", "main")
	env := []string{"TAG_NAME=v1.1.0"}
	k.cmd = r.program(env...)
	if code, said := r.exit(k.cmd); code != 0 {
		t.Fatal(said)
	}
	wanted := r.git(r.bare, "rev-parse", "main^{tree}")
	requests := k.n
	if requests < 5 {
		t.Fatalf("a bump makes %d requests: is it looked at?", requests)
	}
	for at := 1; at <= requests; at++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("request %d of %d, answer lost: %v", at, requests, after), func(t *testing.T) {
				r.git(r.bare, "update-ref", "refs/heads/main", base)
				k.mu.Lock()
				k.n, k.at, k.after, k.cmd = 0, at, after, r.program(env...)
				cmd := k.cmd
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				k.mu.Unlock()
				if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
					t.Fatalf("it was not killed: %v", err)
				}
				k.mu.Lock()
				k.at = 0
				k.mu.Unlock()
				for range 2 { // the second run mends what there is to mend, the third finds nothing
					if code, said := r.exit(r.program(env...)); code != 0 {
						t.Fatalf("exit %d: %s", code, said)
					}
					if n := r.git(r.bare, "rev-list", "--count", base+"..main"); n != "1" || r.git(r.bare, "rev-parse", "main^{tree}") != wanted {
						t.Errorf("%s commits; the tree differs: %v", n, r.git(r.bare, "rev-parse", "main^{tree}") != wanted)
					}
				}
			})
		}
	}
}

// Builds finish in any order. Whatever the order of five commits is, staging has the newest of those that have finished, at every moment.
func TestStagingNeverLeavesTheNewestBuild(t *testing.T) {
	r := newConfigRepo(t, nil)
	var builds []string
	for i := range 5 {
		builds = append(builds, fmt.Sprintf("main-%07x-%d", 0xabcdef-i, 1764000000+i)) // ids sort the other way round
	}
	orders := 0
	var finish func(done []int)
	finish = func(done []int) {
		if len(done) == len(builds) {
			orders++
			return
		}
		state := r.git(r.bare, "rev-parse", "main")
		for next := range builds {
			if slices.Contains(done, next) {
				continue
			}
			r.git(r.bare, "update-ref", "refs/heads/main", state)
			out, err := run(t.Context(), quiet(), r.in(builds[next]))
			newest := next > slices.Max(append([]int{-1}, done...))
			if newest != (out.Commit != "") || newest != (err == nil) || err != nil && !strings.Contains(err.Error(), "superseded") {
				t.Fatalf("%v, then %d: got commit %q, %v", done, next, out.Commit, err)
			}
			now := append(slices.Clone(done), next)
			if text := r.git(r.bare, "show", "main:staging/backend.yaml"); !strings.Contains(text, "tag: "+builds[slices.Max(now)]+" #") {
				t.Fatalf("after %v staging has %s", now, text)
			}
			finish(now)
		}
	}
	began := time.Now()
	finish(nil)
	if orders != 120 {
		t.Errorf("%d orders, want 5! = 120", orders)
	}
	t.Logf("%d orders in %s", orders, time.Since(began).Round(time.Millisecond))
}
