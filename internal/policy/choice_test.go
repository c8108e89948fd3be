package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Flux's controller keeps extracted values in a map and lets its random order decide between equal ones
// (image-reflector-controller, internal/policy). Here every order of the list gives the same answer, and the answer says what was equal.
func TestTiesAreDecidedByTextAndExplained(t *testing.T) {
	for _, tt := range []struct {
		name, spec string
		tags       []string
		want       Choice
	}{
		{"two builds of one second", trunk, []string{"main-ccccccc-5", "main-aaaaaaa-5", "main-bbbbbbb-5", "main-ddddddd-4"},
			Choice{"main-aaaaaaa-5", []string{"main-bbbbbbb-5", "main-ccccccc-5"}, 4}},
		{"one number, written differently", "  policy: {numerical: {}}\n", []string{"7.0", "07", "7", "6"}, Choice{"07", []string{"7", "7.0"}, 4}},
		{"one version, with v and without", finals, []string{"v1.2.3", "1.2.3", "1.2.2"}, Choice{"1.2.3", []string{"v1.2.3"}, 3}},
		{"no tie at the top", finals, []string{"v1.0.0", "1.0.0", "v1.1.0"}, Choice{"v1.1.0", nil, 3}},
		{"a tag that is listed twice", finals, []string{"v1.1.0", "v1.1.0"}, Choice{"v1.1.0", nil, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			for range 50 {
				rng.Shuffle(len(tt.tags), func(i, j int) { tt.tags[i], tt.tags[j] = tt.tags[j], tt.tags[i] })
				got, err := parsePolicy(t, tt.spec).Choose(tt.tags)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Fatalf("%v: %s", tt.tags, diff)
				}
			}
		})
	}
}

func repository(t *testing.T, spec string) Repository {
	t.Helper()
	set, err := Parse([]byte("apiVersion: image.toolkit.fluxcd.io/v1\nkind: ImageRepository\nmetadata: {name: r, namespace: n}\nspec: {image: host/r" + spec + "}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return set.Repositories[0]
}

// The default and the rule that a list replaces it are those of ImageRepository.GetExclusionList.
func TestAnExclusionListReplacesTheDefault(t *testing.T) {
	tags := []string{"v1.0.0", "sha256-00.sig", "sha256-00.att", "v1.0.0-debug"}
	for _, tt := range []struct {
		name, spec string
		want       []string
	}{
		{"none", "", []string{"v1.0.0", "sha256-00.att", "v1.0.0-debug"}},
		{"an empty one", ", exclusionList: []", []string{"v1.0.0", "sha256-00.att", "v1.0.0-debug"}},
		{"one of its own", ", exclusionList: ['-debug$', '[.]att$']", []string{"v1.0.0", "sha256-00.sig"}},
		{"everything", ", exclusionList: ['']", nil},
	} {
		if got := repository(t, tt.spec).Keep(tags); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if _, err := Parse([]byte("apiVersion: image.toolkit.fluxcd.io/v1\nkind: ImageRepository\nmetadata: {name: r, namespace: n}\nspec: {image: host/r, exclusionList: ['(']}\n")); err == nil ||
		!strings.Contains(err.Error(), "ImageRepository n/r: spec.exclusionList") {
		t.Errorf("a bad pattern: %v", err)
	}
	if !repository(t, ", suspend: true").Suspended || repository(t, "").Suspended {
		t.Error("suspend is not read")
	}
}

func TestWhatAPolicyTakesForAPreRelease(t *testing.T) {
	const extracted = "  filterTags: {pattern: '^app-(?P<v>.*)$', extract: $v}\n  policy: {semver: {range: '>=0.0.0-0'}}\n"
	for _, tt := range []struct {
		spec, tag string
		want      bool
	}{
		{candidates, "v1.2.3-rc.1", true},
		{candidates, "1.2.3-rc.1", true},
		{candidates, "v1.2.3", false},
		{candidates, "v1.2.3+build", false},
		{extracted, "app-1.2.3-rc.1", true},
		{extracted, "app-1.2.3", false},
		{extracted, "v1.2.3-rc.1", true},
		{trunk, "main-0a1b2c3-1700000000", false},
		{trunk, "v1.2.3-rc.1", true},
		{"  policy: {alphabetical: {}}\n", "2024.01.10-5", false},
		{"  policy: {alphabetical: {}}\n", "v1.2.3-rc.1", true},
		{"  policy: {alphabetical: {}}\n", "latest", false},
	} {
		if got := parsePolicy(t, tt.spec).Prerelease(tt.tag); got != tt.want {
			t.Errorf("%s: %v, want %v (%s)", tt.tag, got, tt.want, tt.spec)
		}
	}
}

// The file is what kubectl prints of a cluster in which Flux runs: a List, with fields that nobody here reads.
const printed = `apiVersion: v1
items:
- apiVersion: image.toolkit.fluxcd.io/v1
  kind: ImagePolicy
  metadata:
    creationTimestamp: "2026-01-01T00:00:00Z"
    finalizers: [finalizers.fluxcd.io]
    generation: 2
    managedFields: [{manager: kustomize-controller}]
    name: backend-production
    namespace: flux-system
    resourceVersion: "123"
  spec:
    digestReflectionPolicy: IfNotPresent
    imageRepositoryRef: {name: backend}
    policy: {semver: {range: '>=1.0.0'}}
  status:
    conditions:
    - {lastTransitionTime: "2026-01-01T00:00:00Z", message: "Latest image tag for r/backend resolved to v1.2.0", observedGeneration: 2, reason: Succeeded, status: "True", type: Ready}
    latestRef: {digest: "sha256:11", name: r/backend, tag: v1.2.0}
    observedGeneration: 2
    observedPreviousRef: {name: r/backend, tag: v1.1.0}
- apiVersion: image.toolkit.fluxcd.io/v1beta2
  kind: ImagePolicy
  metadata: {name: old, namespace: flux-system}
  spec: {imageRepositoryRef: {name: backend}, policy: {numerical: {order: asc}}}
  status:
    conditions: [{status: "False", type: Ready, message: "no tag matches", reason: X}]
    latestImage: localhost:5000/backend:17
- apiVersion: image.toolkit.fluxcd.io/v1
  kind: ImagePolicy
  metadata: {name: fresh, namespace: flux-system}
  spec: {imageRepositoryRef: {name: backend}, policy: {numerical: {order: asc}}}
- apiVersion: image.toolkit.fluxcd.io/v1
  kind: ImageRepository
  metadata: {name: backend, namespace: flux-system}
  spec: {image: r/backend}
kind: List
metadata: {resourceVersion: ""}
`

func TestWhatAClusterChoseIsRead(t *testing.T) {
	list, err := ParseResolved([]byte(printed))
	if err != nil {
		t.Fatal(err)
	}
	var got [][]string
	for _, r := range list {
		got = append(got, []string{r.ID(), r.Image, r.Tag, r.Digest, r.Doubt})
	}
	want := [][]string{
		{"flux-system:backend-production", "r/backend", "v1.2.0", "sha256:11", ""},
		{"flux-system:old", "localhost:5000/backend", "17", "", "no tag matches"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n, err := list[0].Compare("v1.2.0", "v1.10.0"); err != nil || n != -1 {
		t.Errorf("its order: %d, %v", n, err)
	}
	for name, tt := range map[string]struct{ from, to, want string }{
		"twice":             {"name: old", "name: backend-production", "is there twice"},
		"no tag":            {"latestImage: localhost:5000/backend:17", "latestImage: localhost:5000/backend", "names no image with a tag"},
		"a defective order": {"{numerical: {order: asc}}}\n  status", "{}}\n  status", "exactly one of"},
		"broken":            {"kind: List", "kind: [", "line"},
	} {
		if _, err := ParseResolved([]byte(strings.Replace(printed, tt.from, tt.to, 1))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// Whatever a file says, its reader neither panics nor makes up a choice without an image and a tag.
func FuzzParseResolved(f *testing.F) {
	f.Add([]byte(printed))
	f.Add([]byte(manifest(trunk) + "status: {latestImage: 'a:b'}\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		list, err := ParseResolved(file)
		if err != nil {
			return
		}
		for _, r := range list {
			if r.Image == "" || r.Tag == "" || r.Name == "" {
				t.Errorf("%+v", r)
			}
		}
	})
}

// The sizes are those of a busy repository; evaluating must stay small beside reading the list.
func BenchmarkChoose(b *testing.B) {
	for _, bb := range []struct{ name, spec, format string }{
		{"numerical", trunk, "main-%07x-%d"},
		{"semver", finals, "v1.%d.%d"},
	} {
		for _, n := range []int{10_000, 100_000} {
			tags := make([]string, n)
			for i := range tags {
				tags[i] = fmt.Sprintf(bb.format, i, i)
			}
			set, err := Parse([]byte(manifest(bb.spec)))
			if err != nil {
				b.Fatal(err)
			}
			b.Run(fmt.Sprintf("%s-%d", bb.name, n), func(b *testing.B) {
				for b.Loop() {
					if _, err := set.Policies[0].Choose(tags); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
