package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deepdesk/cloudbuild-steps/internal/policy"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/artifactregistry"
)

// push puts an image under a tag: push IMAGE TAG [CONTENT]. The same content is the same image; its digest is printed.
func push() {
	err := func() error {
		content := os.Args[2]
		if len(os.Args) > 3 {
			content = os.Args[3]
		}
		img, err := mutate.Config(empty.Image, v1.Config{Labels: map[string]string{"content": content}})
		if err != nil {
			return err
		}
		ref, err := name.NewTag(os.Args[1]+":"+os.Args[2], name.Insecure)
		if err != nil {
			return err
		}
		digest, err := img.Digest()
		if err != nil {
			return err
		}
		fmt.Println(digest)
		return remote.Write(ref, img)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// untag removes a tag: untag IMAGE TAG.
func untag() {
	ref, err := name.NewTag(os.Args[1]+":"+os.Args[2], name.Insecure)
	if err == nil {
		err = remote.Delete(ref)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// startRegistry starts one real registry for all scripts; each script has images of its own in it. TestScripts closes it.
var startRegistry = sync.OnceValues(func() (*artifactregistry.Server, error) {
	return artifactregistry.Start(context.Background())
})

// addRegistry gives a script a place in a real registry (SCANNED is an image there, without tags), Artifact Registry's API in front of it
// (API), and two more of those: one that denies (DENIED), and one that lists a tag which nobody has (GHOST).
func addRegistry(env *testscript.Env) error {
	r, err := startRegistry()
	if err != nil {
		return err
	}
	path := strings.ToLower(strings.ReplaceAll(filepath.Base(env.WorkDir), "_", "-")) + "/services/backend"
	env.Setenv("SCANNED", r.Host+"/"+path)
	env.Setenv("API", r.Endpoint)
	for variable, lists := range map[string]map[string][]string{"DENIED": {}, "GHOST": {path: {"v1.0.0", "v9.9.9"}}} {
		api, err := artifactregistry.StartLists(lists)
		if err != nil {
			return err
		}
		env.Defer(func() { _ = api.Close() })
		if variable == "DENIED" {
			api.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
				artifactregistry.Refuse(w, http.StatusForbidden, "PERMISSION_DENIED", "Permission 'artifactregistry.tags.list' denied", "IAM_PERMISSION_DENIED")
				return true
			})
		}
		env.Setenv(variable, api.Endpoint)
	}
	return nil
}

// free is a repo without holds.
func free(target) (string, error) { return "", nil }

func imagePolicy(t *testing.T, suffix, image, spec string) policy.Set {
	t.Helper()
	set, err := policy.Parse(fmt.Appendf(nil, `apiVersion: image.toolkit.fluxcd.io/v1
kind: ImageRepository
metadata: {name: r%[1]s, namespace: n}
spec: {image: %[2]s}
---
apiVersion: image.toolkit.fluxcd.io/v1
kind: ImagePolicy
metadata: {name: p%[1]s, namespace: n}
spec: {imageRepositoryRef: {name: r%[1]s}, %[3]s}
`, suffix, image, spec))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// A scan of many images asks for each once, several at a time, and reports the first image that fails, whichever answer comes first.
func TestEachImageIsListedOnce(t *testing.T) {
	var (
		mu    sync.Mutex
		asked []string
		fail  = map[string]bool{}
		set   policy.Set
	)
	for i := range 40 {
		if err := set.Merge(imagePolicy(t, fmt.Sprint(i), fmt.Sprintf("host.example/p/r/app%02d", i/2), "policy: {semver: {range: '>=1.0.0'}}")); err != nil {
			t.Fatal(err)
		}
	}
	s := &scanner{
		list: func(image string) ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, image)
			if fail[image] {
				return nil, fmt.Errorf("listing %s", image)
			}
			return []string{"v1.0.0", "v1.2.0", "v1.1.0", "latest"}, nil
		},
		tags: map[string]map[string]bool{}, lists: map[string][]string{}, digests: map[string]string{},
	}
	candidates := s.candidates(set)
	for range 2 { // the second time is after a lost race
		if err := s.choose(candidates, free); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(asked)
	if len(asked) != 20 || len(slices.Compact(asked)) != 20 {
		t.Errorf("%d lists were asked for: %q", len(asked), asked)
	}
	want := Choice{Policy: "n:p0", Image: "host.example/p/r/app00", Tag: "v1.2.0", Equal: []string{}, Passed: []string{}, Tags: 4, Admitted: 3}
	if diff := cmp.Diff(want, candidates[0].choice); diff != "" {
		t.Error(diff)
	}
	fail["host.example/p/r/app07"], fail["host.example/p/r/app19"] = true, true
	s.lists = map[string][]string{}
	for range 20 {
		if err := s.choose(candidates, free); err == nil || err.Error() != "listing host.example/p/r/app07" {
			t.Fatalf("%v", err)
		}
	}
}
