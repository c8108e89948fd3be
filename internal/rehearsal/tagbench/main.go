// Program tagbench compares tag-image with crane, the tool that most pipelines tag images with: how many requests each needs, and how long
// each takes when every request has a distance to travel. Both are real programs and talk to a real registry through a proxy that counts.
// `make bench` runs it and keeps its report in docs/benchmarks.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/benchreport"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/ociregistry"
)

const (
	heading  = "## tag-image"
	runs     = 9
	distance = 50 * time.Millisecond
	layers   = 5
)

func main() {
	log.SetFlags(0)
	out := flag.String("out", "", "Markdown file whose section tag-image is replaced; standard output when unset")
	flag.Parse()
	if err := run(context.Background(), *out); err != nil {
		log.Fatalf("tagbench: %v", err)
	}
}

// bench is what all measurements share.
type bench struct {
	dir, step, crane string
	registry         string
	delay            atomic.Int64 // nanoseconds that each request takes longer
	requests         atomic.Int64
	proxies          map[string]string // host by login
	images           int
}

func run(ctx context.Context, out string) error {
	dir, err := os.MkdirTemp("", "tagbench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b := &bench{dir: dir, step: filepath.Join(dir, "tag-image"), crane: filepath.Join(dir, "crane"), proxies: map[string]string{}}
	version, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", "github.com/google/go-containerregistry").Output()
	if err != nil {
		return fmt.Errorf("asking for the version of go-containerregistry: %w", err)
	}
	crane := "github.com/google/go-containerregistry/cmd/crane@" + strings.TrimSpace(string(version))
	install := exec.CommandContext(ctx, "go", "install", crane)
	install.Dir, install.Env = dir, append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod") // outside this module
	for _, cmd := range []*exec.Cmd{install, exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.step, "./steps/tag-image")} {
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building with %v: %w\n%s", cmd.Args, err, text)
		}
	}
	r, err := ociregistry.Start(ctx, ociregistry.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	b.registry = r.Host
	for _, login := range []string{"none", "bearer"} {
		server := httptest.NewServer(b.proxy(login))
		defer server.Close()
		b.proxies[login] = strings.TrimPrefix(server.URL, "http://")
	}
	report, err := b.measure(ctx)
	if err != nil {
		return err
	}
	text := heading + "\n\n" + benchreport.Machine() + "\n\n" +
		"Made by `make bench` (internal/rehearsal/tagbench) with " + crane + ", on a real registry (distribution v3) through a proxy that counts requests and makes each take " +
		distance.String() + " longer. Medians of " + fmt.Sprint(runs) + " runs of both programs in turn, process start included.\n\n" + report +
		"\ntag-image looks at the tag, at the memory of deleted tags and at the tag again after the write, and compares every digest; `crane tag` writes at once and moves a tag that is there. " +
		"`crane copy` brings no signatures, attestations and referrers; tag-image asks for them (5 requests here). " +
		"A login costs tag-image two requests, the challenge and the token; on Artifact Registry the token is sent at once and the first column holds.\n"
	return benchreport.Write(out, text)
}

// proxy stands before the registry, with or without a login.
func (b *bench) proxy(login string) http.Handler {
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: b.registry})
		r.Out.Host = r.In.Host
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.requests.Add(1)
		time.Sleep(time.Duration(b.delay.Load()))
		switch {
		case r.URL.Path == "/token":
			_, _ = fmt.Fprint(w, `{"token":"good"}`)
		case login == "bearer" && r.Header.Get("Authorization") != "Bearer good":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="bench"`, r.Host))
			w.WriteHeader(http.StatusUnauthorized)
		default:
			forward.ServeHTTP(w, r)
		}
	})
}

// job is one thing that both programs do, in a repository of its own each time.
type job struct {
	title string
	step  func(repository string) []string // environment
	crane func(repository string) []string // arguments; nil: crane has nothing like it
	again bool                             // measured when it was done before
}

var jobs = []job{
	{title: "put a tag on an image that has one",
		step:  func(r string) []string { return []string{"IMAGE=" + r, "SOURCE=build", "TAGS=v1.0.0"} },
		crane: func(r string) []string { return []string{"tag", r + ":build", "v1.0.0"} }},
	{title: "the same again", again: true,
		step:  func(r string) []string { return []string{"IMAGE=" + r, "SOURCE=build", "TAGS=v1.0.0"} },
		crane: func(r string) []string { return []string{"tag", r + ":build", "v1.0.0"} }},
	{title: fmt.Sprintf("promote %d blobs within the registry", layers+1),
		step: func(r string) []string {
			return []string{"IMAGE=" + r + "/production", "SOURCE=" + r + ":build", "TAGS=v1.0.0"}
		},
		crane: func(r string) []string { return []string{"copy", r + ":build", r + "/production:v1.0.0"} }},
}

func (b *bench) measure(ctx context.Context) (string, error) {
	var s strings.Builder
	s.WriteString("| | login | tag-image | crane | time of tag-image | of crane | ratio |\n|---|---|---|---|---|---|---|\n")
	for _, j := range jobs {
		for _, login := range []string{"none", "bearer"} {
			var (
				times    [2][]time.Duration
				requests [2]int64
			)
			for range runs {
				for who := range 2 {
					repository, err := b.seed(login)
					if err != nil {
						return "", err
					}
					for n := 0; n < 2; n++ {
						if n == 0 && !j.again {
							continue
						}
						b.requests.Store(0)
						b.delay.Store(int64(distance))
						begin := time.Now()
						err := b.program(ctx, who, j, repository)
						took := time.Since(begin)
						b.delay.Store(0)
						if err != nil {
							return "", err
						}
						if n == 1 {
							times[who], requests[who] = append(times[who], took), b.requests.Load()
						}
					}
				}
			}
			ours, theirs := median(times[0]), median(times[1])
			fmt.Fprintf(&s, "| %s | %s | %d requests | %d requests | %d ms | %d ms | %.2f |\n", j.title, login, requests[0], requests[1],
				ours.Milliseconds(), theirs.Milliseconds(), float64(ours)/float64(theirs))
		}
	}
	return s.String(), nil
}

// program runs tag-image (0) or crane (1).
func (b *bench) program(ctx context.Context, who int, j job, repository string) error {
	cmd := exec.CommandContext(ctx, b.step)
	cmd.Env = append([]string{"HOME=" + b.dir, "HANDOVER_DIR=" + filepath.Join(b.dir, "handover")}, j.step(repository)...)
	if who == 1 {
		cmd = exec.CommandContext(ctx, b.crane, j.crane(repository)...)
		cmd.Env = []string{"HOME=" + b.dir}
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %v: %w\n%s", cmd.Args, err, text)
	}
	return nil
}

// seed puts an image under the tag build into a new repository.
func (b *bench) seed(login string) (string, error) {
	b.images++
	path := fmt.Sprintf("bench/image-%d", b.images)
	img, err := random.Image(4096, layers)
	if err != nil {
		return "", err
	}
	ref, err := name.NewTag(b.registry + "/" + path + ":build")
	if err != nil {
		return "", err
	}
	return b.proxies[login] + "/" + path, remote.Write(ref, img)
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
