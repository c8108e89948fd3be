package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deepdesk/cloudbuild-steps/internal/registry"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/ociregistry"
	"github.com/deepdesk/cloudbuild-steps/internal/step/steptest"
)

func TestMain(m *testing.M) {
	steptest.Main(m, map[string]func(){"tag-image": main, "under": under, "put": put, "untag": untag, "bury": bury, "claimed": claimed})
}

// under prints the digest that a tag is on, or "nothing": what another client sees.
func under() {
	ref, err := name.ParseReference(os.Args[1])
	if err == nil {
		var d *v1.Descriptor
		if d, err = remote.Head(ref); err == nil {
			fmt.Println(d.Digest)
			return
		}
	}
	fmt.Println("nothing")
}

// put writes a tag without looking, as others do: put IMAGE TAG DIGEST.
func put() {
	exitOn(putTag(os.Args[1], os.Args[2], os.Args[3]))
}

// untag removes a tag: untag IMAGE TAG.
func untag() {
	ref, err := name.NewTag(os.Args[1] + ":" + os.Args[2])
	if err == nil {
		err = remote.Delete(ref)
	}
	exitOn(err)
}

// bury writes a tombstone, as roll-back does: bury IMAGE TAG DIGEST.
func bury() {
	stone := registry.Tombstone{Tag: os.Args[2], Digest: os.Args[3], Time: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), Reason: "lost orders", Build: "build-7"}
	_, err := registry.New(nil, registry.ForPush()).Bury(context.Background(), os.Args[1], stone)
	exitOn(err)
}

// claimed lists the claims in the config repo.
func claimed() {
	out, err := exec.Command("git", "-C", os.Getenv("CONFIG_DIR"), "for-each-ref", "--format=%(refname)", "refs/tag-claims").Output()
	fmt.Print(string(out))
	exitOn(err)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func putTag(image, tag, digest string) error {
	from, err := name.NewDigest(image + "@" + digest)
	if err != nil {
		return err
	}
	d, err := remote.Get(from)
	if err != nil {
		return err
	}
	return remote.Tag(from.Tag(tag), d)
}

// startRegistry starts one registry for all scripts; each script has a repository of its own in it. It ends with the test's process.
var startRegistry = sync.OnceValues(func() (*ociregistry.Registry, error) {
	return ociregistry.Start(context.Background(), ociregistry.Options{})
})

const commit = "4f2a91c03b7d5e6f708192a3b4c5d6e7f8091a2b"

// TestScripts gives each script two images in files (image.tar and rebuilt.tar, and the first as layout/), two others in the registry (TESTED
// and OTHER, digests without tags), and hosts that stand between the step and the registry, each with one fault.
func TestScripts(t *testing.T) {
	steptest.Run(t, "testdata/script", func(env *testscript.Env) error {
		r, err := startRegistry()
		if err != nil {
			return err
		}
		repository := filepath.Base(env.WorkDir) + "/backend"
		image := r.Host + "/" + repository
		for variable, file := range map[string]string{"BUILT": "image.tar", "REBUILT": "rebuilt.tar"} {
			img, err := newImage()
			if err != nil {
				return err
			}
			if err := save(img, filepath.Join(env.WorkDir, file)); err != nil {
				return err
			}
			digest, err := img.Digest()
			if err != nil {
				return err
			}
			env.Setenv(variable, digest.String())
			if variable == "BUILT" {
				p, err := layout.Write(filepath.Join(env.WorkDir, "layout"), empty.Index)
				if err != nil {
					return err
				}
				if err := p.AppendImage(img); err != nil {
					return err
				}
			}
		}
		for _, variable := range []string{"TESTED", "OTHER"} {
			img, err := newImage()
			if err != nil {
				return err
			}
			digest, err := img.Digest()
			if err != nil {
				return err
			}
			ref, err := name.NewDigest(image + "@" + digest.String())
			if err != nil {
				return err
			}
			if err := remote.Write(ref, img); err != nil {
				return err
			}
			env.Setenv(variable, digest.String())
		}
		for variable, act := range faults(image, env.Getenv("OTHER")) {
			server := httptest.NewServer(between(r.Host, act))
			env.Defer(server.Close)
			env.Setenv(variable, strings.TrimPrefix(server.URL, "http://")+"/"+repository)
		}
		git, err := gitserver.Start(filepath.Join(env.WorkDir, "git"), gitserver.Options{Token: canary})
		if err != nil {
			return err
		}
		env.Defer(func() { _ = git.Close() })
		url, err := git.Create("example/config")
		if err != nil {
			return err
		}
		env.Setenv("CONFIG", url)
		env.Setenv("CONFIG_DIR", git.Dir("example/config"))
		env.Setenv("TOKEN", canary)
		env.Setenv("IMAGE", image)
		env.Setenv("COMMIT", commit)
		env.Setenv("HANDOVER_DIR", filepath.Join(env.WorkDir, ".release"))
		return nil
	})
}

// newImage is a random image of linux/amd64.
func newImage() (v1.Image, error) {
	img, err := random.Image(1024, 2)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config.OS, config.Architecture = "linux", "amd64"
	return mutate.ConfigFile(img, config)
}

func save(img v1.Image, file string) error {
	tag, err := name.NewTag("backend:latest")
	if err != nil {
		return err
	}
	return tarball.WriteToFile(file, tag, img)
}

// fault answers a request itself, or calls pass to let the registry do it. n counts the requests of the method, this one included.
type fault func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter))

func faults(image, rival string) map[string]fault {
	isTag := func(r *http.Request) bool {
		_, reference, ok := strings.Cut(r.URL.Path, "/manifests/")
		return ok && !strings.HasPrefix(reference, "sha256:")
	}
	refuse := func(w http.ResponseWriter, status int, code string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"this is a test"}]}`, code)
	}
	rivalry := func(w http.ResponseWriter, r *http.Request, before bool, pass func(http.ResponseWriter)) {
		_, tag, _ := strings.Cut(r.URL.Path, "/manifests/")
		if !before {
			pass(w)
		}
		if err := putTag(image, tag, rival); err != nil {
			panic(err)
		}
		if before {
			panic(http.ErrAbortHandler)
		}
	}
	onPut := func(act fault) fault {
		return func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter)) {
			if r.Method == http.MethodPut && isTag(r) {
				act(w, r, n, pass)
				return
			}
			pass(w)
		}
	}
	return map[string]fault{
		"BUSY": func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter)) {
			if n == 1 {
				refuse(w, 429, "TOOMANYREQUESTS")
				return
			}
			pass(w)
		},
		"BROKEN": func(w http.ResponseWriter, _ *http.Request, _ int, _ func(http.ResponseWriter)) {
			refuse(w, 500, "UNKNOWN")
		},
		"LOST": onPut(func(_ http.ResponseWriter, _ *http.Request, _ int, pass func(http.ResponseWriter)) {
			pass(httptest.NewRecorder())
			panic(http.ErrAbortHandler)
		}),
		"PORTAL": func(w http.ResponseWriter, r *http.Request, _ int, pass func(http.ResponseWriter)) {
			if isTag(r) {
				http.Error(w, "please sign in", http.StatusNotFound)
				return
			}
			pass(w)
		},
		"LIAR": onPut(func(w http.ResponseWriter, _ *http.Request, _ int, pass func(http.ResponseWriter)) {
			pass(httptest.NewRecorder())
			w.Header().Set("Docker-Content-Digest", rival)
			w.WriteHeader(http.StatusCreated)
		}),
		"READONLY": onPut(func(w http.ResponseWriter, _ *http.Request, _ int, _ func(http.ResponseWriter)) {
			refuse(w, 403, "DENIED")
		}),
		"SEALED": func(w http.ResponseWriter, r *http.Request, _ int, pass func(http.ResponseWriter)) {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				panic("a write: " + r.Method + r.URL.Path)
			}
			pass(w)
		},
		// Two writers at the same moment: the other one before this one's write arrives, or after it.
		"FASTER": onPut(func(w http.ResponseWriter, r *http.Request, _ int, pass func(http.ResponseWriter)) {
			rivalry(w, r, true, pass)
		}),
		"SLOWER": onPut(func(w http.ResponseWriter, r *http.Request, _ int, pass func(http.ResponseWriter)) {
			rivalry(w, r, false, pass)
		}),
	}
}

func between(host string, act fault) http.Handler {
	var (
		mu    sync.Mutex
		count = map[string]int{}
	)
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: host})
		r.Out.Host = r.In.Host // so that the registry's links lead back here
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		count[r.Method]++
		n := count[r.Method]
		mu.Unlock()
		act(w, r, n, func(w http.ResponseWriter) { forward.ServeHTTP(w, r) })
	})
}

func TestAllTagsOfOneCallEndUpOnOneImage(t *testing.T) {
	const build1, build2, version = "main-4f2a91c03b7d-1764000000", "main-4f2a91c03b7d-1764000001", "v1.0.0"
	asked, x, y := registry.Image{Digest: "asked"}, registry.Image{Digest: "x"}, registry.Image{Digest: "y"}
	type images = map[string]registry.Image
	created, kept := registry.Created, registry.Kept
	for name, c := range map[string]struct {
		tags    []string
		present images
		digest  string
		states  []registry.State
		err     string
		deleted map[string]string
	}{
		"nothing is there":                                 {[]string{build1, version}, nil, "asked", []registry.State{created, created}, "", nil},
		"all is there already":                             {[]string{build1, version}, images{build1: asked, version: asked}, "asked", []registry.State{kept, kept}, "", nil},
		"one of two is there":                              {[]string{build1, version}, images{version: asked}, "asked", []registry.State{created, kept}, "", nil},
		"a rebuild keeps what is there":                    {[]string{build1}, images{build1: x}, "x", []registry.State{kept}, "", nil},
		"another tag follows the one that is kept":         {[]string{build2, build1}, images{build1: x}, "x", []registry.State{created, kept}, "", nil},
		"a release that is there is not replaced":          {[]string{version}, images{version: x}, "", nil, "v1.0.0 is x already", nil},
		"a release that fits the kept tag is fine":         {[]string{build1, version}, images{build1: x, version: x}, "x", []registry.State{kept, kept}, "", nil},
		"a release that does not fit the kept tag":         {[]string{build1, version}, images{build1: x, version: asked}, "", nil, "v1.0.0 is asked already", nil},
		"two kept tags on two images":                      {[]string{build1, build2}, images{build1: x, build2: y}, "", nil, "different images under the tags that are kept", nil},
		"two kept tags, one on what was asked for":         {[]string{build1, build2}, images{build1: asked, build2: y}, "", nil, "different images under the tags that are kept", nil},
		"two kept tags, the second on what was asked for":  {[]string{build2, build1}, images{build1: asked, build2: y}, "", nil, "different images under the tags that are kept", nil},
		"a release is refused whatever else would be kept": {[]string{version, build1}, images{version: x, build1: y}, "", nil, "v1.0.0 is x already", nil},
		"a kept tag on what was asked for changes nothing": {[]string{build1, build2}, images{build1: asked}, "asked", []registry.State{kept, created}, "", nil},
		"a deleted tag does not come back for its image":   {[]string{version}, nil, "", nil, "only restore-version puts its tag on again", map[string]string{version: "asked"}},
		"a deleted tag does not come back for another":     {[]string{version}, nil, "", nil, "v1.0.0 was x and was deleted", map[string]string{version: "x"}},
		"a deleted build tag neither":                      {[]string{build1}, nil, "", nil, "was x and was deleted", map[string]string{build1: "x"}},
		"a restored tag stays where it is":                 {[]string{version}, images{version: asked}, "asked", []registry.State{kept}, "", map[string]string{version: "asked"}},
		"a deleted tag is compared with the image adopted": {[]string{build1, version}, images{build1: x}, "", nil, "only restore-version", map[string]string{version: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			looks := map[string]registry.Look{}
			for tag, image := range c.present {
				looks[tag] = registry.Look{Image: image, Exists: true}
			}
			for tag, digest := range c.deleted {
				l := looks[tag]
				l.Deleted, l.Stone = true, registry.Tombstone{Tag: tag, Digest: digest}
				looks[tag] = l
			}
			p, err := decide("r", c.tags, In{}.keeps, looks, asked)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if err != nil {
				return
			}
			var states []registry.State
			for _, s := range p.tags {
				states = append(states, s.State)
			}
			if diff := cmp.Diff(c.states, states); diff != "" || p.image.Digest != c.digest {
				t.Errorf("%s: %s", p.image.Digest, diff)
			}
		})
	}
}

func TestTagsThatMoveOrAreNoTagsAreRefused(t *testing.T) {
	for tag, good := range map[string]bool{
		"v1.0.0": true, "v2.0.0-rc.1": true, "main-4f2a91c03b7d-1764000000": true, "build_17": true, "20261124120000": true, "4f2a91c03b7d": true,
		"release-v1.42.2-4f2a91c03b7d-1764000000": true, "pr-12-4f2a91c": true, strings.Repeat("a", 128): true,
		"latest": false, "Latest": false, "stable": false, "main": false, "production": false, "uat": false, "v1": false, "v1.2": false, "1": false,
		"1.2": false, "1.2.3": false, "V1.2.3": false, "v01.2.3": false, "v1.2.3+build": false, "": false, ".hidden": false, "-x": false, "a b": false,
		"a/b": false, "a:b": false, "ä": false, strings.Repeat("a", 129): false,
	} {
		if err := checkTag(tag); (err == nil) != good {
			t.Errorf("%q: %v, want good=%v", tag, err, good)
		}
	}
}

func TestOnlyBuildTagsOfTheCommitAreItsOwn(t *testing.T) {
	got := ofCommit([]string{
		"v1.0.0", "latest", "main-4f2a91c03b7d-1764000000", "main-4f2a91c-1764000000", "main-4f2a91d-1764000000", "main-a4f2a91-1764000000",
		"release-v1.42.2-" + commit + "-1764000001", "main-4f2a91-1764000000", "main-4f2a91c03b7d", commit,
	}, commit)
	want := []string{"main-4f2a91c-1764000000", "main-4f2a91c03b7d-1764000000", "release-v1.42.2-" + commit + "-1764000001"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The meaning of a source depends on its spelling alone.
func TestASourceIsAPathByItsSpelling(t *testing.T) {
	for source, want := range map[string]bool{
		"image.tar": true, "./image": true, "out/image": true, "/workspace/image.tar": true, ".": true,
		"v1.0.0": false, "main-4f2a91c03b7d-1764000000": false, "sha256:" + strings.Repeat("0", 64): false, "image": false,
	} {
		if isPath(source) != want {
			t.Errorf("%q: path %v", source, !want)
		}
	}
}
