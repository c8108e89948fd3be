package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// manifest is an ImagePolicy with the given lines of its spec.
func manifest(spec string) string {
	return "apiVersion: image.toolkit.fluxcd.io/v1\nkind: ImagePolicy\nmetadata: {name: backend, namespace: flux-system}\nspec:\n  imageRepositoryRef: {name: backend}\n" + spec
}

func parsePolicy(t *testing.T, spec string) Policy {
	t.Helper()
	set, err := Parse([]byte(manifest(spec)))
	if err != nil {
		t.Fatal(err)
	}
	p, ok := set.Find("flux-system:backend")
	if !ok {
		t.Fatal("no policy")
	}
	return p
}

const (
	trunk      = "  filterTags: {pattern: '^main-[a-f0-9]+-(?P<ts>[0-9]+)$', extract: $ts}\n  policy: {numerical: {order: asc}}\n"
	finals     = "  policy: {semver: {range: '>=1.0.0'}}\n"
	candidates = "  policy: {semver: {range: '>=1.0.0-0'}}\n"
)

// Expectations are those of Flux's documentation (components/image/imagepolicies) and of Masterminds' documented ranges.
func TestAdmits(t *testing.T) {
	for _, tt := range []struct {
		name, spec, tag string
		want            bool
	}{
		{"a trunk build", trunk, "main-0a1b2c3-1700000000", true},
		{"a dirty build, since the pattern is anchored", trunk, "main-0a1b2c3-1700000000-dirty", false},
		{"an upper-case commit", trunk, "main-0A1B2C3-1700000000", false},
		{"a release in a trunk policy", trunk, "v1.0.0", false},
		{"a hotfix build", trunk, "release-v1.42.2-0a1b2c3-1700000000", false},
		{"a final", finals, "v1.2.3", true},
		{"a candidate in a range of finals", finals, "v1.2.3-rc.1", false},
		{"a final below the range", finals, "v0.9.0", false},
		{"a candidate in a range that names pre-releases", candidates, "v1.2.3-rc.1", true},
		{"a final there", candidates, "v1.2.3", true},
		{"a version without v", finals, "1.2.3", true},
		{"two parts", finals, "v1.2", false},
		{"a word", finals, "latest", false},
		{"a hotfix context is a pre-release", finals, "v1.42.2-acme", false},
		{"any tag by letters", "  policy: {alphabetical: {}}\n", "whatever", true},
		{"no number", "  policy: {numerical: {}}\n", "1e3", false},
		{"no number: infinity", "  policy: {numerical: {}}\n", "inf", false},
		{"an unanchored filter finds its part anywhere", "  filterTags: {pattern: 'rc'}\n  policy: {alphabetical: {}}\n", "xrcx", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, reason := parsePolicy(t, tt.spec).Admits(tt.tag)
			if got != tt.want || got == (reason != "") {
				t.Errorf("%s: %v (%q), want %v", tt.tag, got, reason, tt.want)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	for _, tt := range []struct {
		name, spec, want string
		tags             []string
	}{
		{"numbers, not texts", trunk, "main-aaaaaaa-10", []string{"main-bbbbbbb-9", "main-aaaaaaa-10", "v99.0.0"}},
		{"19 digits are told apart", "  policy: {numerical: {}}\n", "1700000000000000002", []string{"1700000000000000001", "1700000000000000002", "1700000000000000000"}},
		{"descending numbers", "  policy: {numerical: {order: desc}}\n", "1", []string{"3", "1", "2"}},
		{"more digits than a float has", "  policy: {numerical: {}}\n", "123456789012345678901234567891", []string{"123456789012345678901234567891", "0123456789012345678901234567890"}},
		{"whole numbers among decimals and signs", "  policy: {numerical: {}}\n", "+10.5", []string{"-3", "9", "10", "+10.5", "010"}},
		{"decimals", "  policy: {numerical: {}}\n", "1.25", []string{"1.2", "1.25", "1.05"}},
		{"letters", "  policy: {alphabetical: {order: asc}}\n", "c", []string{"a", "c", "b"}},
		{"letters descending", "  policy: {alphabetical: {order: desc}}\n", "a", []string{"c", "a", "b"}},
		{"rc.10 is above rc.2", candidates, "v2.0.0-rc.10", []string{"v2.0.0-rc.2", "v2.0.0-rc.10", "v1.9.9"}},
		{"rc10 is below rc2", candidates, "v2.0.0-rc2", []string{"v2.0.0-rc2", "v2.0.0-rc10"}},
		{"a final is above its candidates", candidates, "v2.0.0", []string{"v2.0.0-rc.9", "v2.0.0"}},
		{"ties go to the text that sorts first", trunk, "main-aaaaaaa-5", []string{"main-bbbbbbb-5", "main-aaaaaaa-5", "main-ccccccc-5"}},
		{"ties whatever the order of the list", trunk, "main-aaaaaaa-5", []string{"main-aaaaaaa-5", "main-ccccccc-5", "main-bbbbbbb-5"}},
		// The upper bound does not keep its own pre-releases out: known since semver v3.4, and Flux's behaviour.
		{"an upper bound without -0 lets its candidates in", "  policy: {semver: {range: '>=1.0.0-0 <2.0.0'}}\n", "v2.0.0-rc.10", []string{"v1.1.0", "v2.0.0-rc.10", "v2.0.0"}},
		{"with -0 it does not", "  policy: {semver: {range: '>=1.0.0-0 <2.0.0-0'}}\n", "v1.1.0", []string{"v1.1.0", "v2.0.0-rc.10", "v2.0.0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := parsePolicy(t, tt.spec).Choose(tt.tags); err != nil || got.Tag != tt.want {
				t.Errorf("got %q (%v), want %q", got.Tag, err, tt.want)
			}
		})
	}
	if got, err := parsePolicy(t, finals).Choose([]string{"v1.0.0-rc.1", "latest"}); !errors.Is(err, ErrNoTag) {
		t.Errorf("got %q (%v)", got.Tag, err)
	}
}

func TestCompareKnowsTagsOutsideTheRange(t *testing.T) {
	p := parsePolicy(t, finals)
	for _, tt := range []struct {
		a, b string
		want int
	}{{"v1.0.0", "v2.0.0-rc.1", -1}, {"v2.0.0", "v2.0.0-rc.1", 1}, {"v0.1.0", "v0.1.0", 0}, {"1.0.0", "v1.0.0", 0}} {
		if got, err := p.Compare(tt.a, tt.b); err != nil || got != tt.want {
			t.Errorf("%s, %s: %d (%v), want %d", tt.a, tt.b, got, err, tt.want)
		}
	}
	if _, err := p.Compare("v1.0.0", "main-0a1b2c3-5"); err == nil {
		t.Error("a build tag has an order among versions")
	}
	if _, err := parsePolicy(t, trunk).Compare("main-0a1b2c3-5", "v1.0.0"); err == nil {
		t.Error("a version has an order among build tags")
	}
}

func TestParseReadsAllObjectsOfAFile(t *testing.T) {
	file := `# images
apiVersion: image.toolkit.fluxcd.io/v1beta2
kind: ImageRepository
metadata: {name: backend, namespace: flux-system}
spec: {image: registry.example/backend, interval: 5m}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: [this, fits, nothing]}
---
apiVersion: v1
kind: List
items:
- apiVersion: image.toolkit.fluxcd.io/v1
  kind: ImagePolicy
  metadata: {name: other, namespace: apps}
  spec:
    suspend: true
    digestReflectionPolicy: Always
    interval: 1m
    imageRepositoryRef: {name: backend, namespace: flux-system}
    policy: {semver: {range: 1.x}}
---
` + manifest(trunk)
	set, err := Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Repositories) != 1 || len(set.Policies) != 2 {
		t.Fatalf("%+v", set)
	}
	other, _ := set.Find("apps:other")
	if !other.Suspended || !other.ReflectsDigest {
		t.Errorf("%+v", other)
	}
	for _, p := range set.Policies {
		if image, ok := set.Image(p); !ok || image != "registry.example/backend" {
			t.Errorf("%s: image %q", p.ID(), image)
		}
	}
	if image, ok := set.Image(Policy{RepositoryNamespace: "apps", RepositoryName: "backend"}); ok {
		t.Errorf("a repository of another namespace: %q", image)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"two orders", manifest("  policy: {semver: {range: 1.x}, numerical: {}}\n"), "exactly one"},
		{"no order", manifest(""), "exactly one"},
		{"a bad range", manifest("  policy: {semver: {range: 'a..b'}}\n"), "semver range"},
		{"a bad pattern", manifest("  filterTags: {pattern: '('}\n  policy: {alphabetical: {}}\n"), "filterTags.pattern"},
		{"a bad order", manifest("  policy: {alphabetical: {order: up}}\n"), `order "up"`},
		{"a bad digest policy", manifest("  digestReflectionPolicy: Often\n"), "digestReflectionPolicy"},
		{"no repository", strings.Replace(manifest(finals), "{name: backend}\n  policy", "{}\n  policy", 1), "imageRepositoryRef"},
		{"no namespace", strings.Replace(manifest(finals), ", namespace: flux-system", "", 1), "metadata.namespace"},
		{"an unknown version", strings.Replace(manifest(finals), "io/v1", "io/v9", 1), "io/v9"},
		{"twice", manifest(finals) + "---\n" + manifest(finals), "defined twice"},
		{"a list for a text", strings.Replace(manifest(finals), "name: backend,", "name: [backend],", 1), "line"},
		{"broken YAML", manifest(finals) + "a: [\n", "line"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	if set, err := Parse([]byte("{{ template }}\n")); err != nil || len(set.Policies) > 0 {
		t.Errorf("a file of somebody else: %v", err)
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add("^main-[a-f0-9]+-(?P<ts>[0-9]+)$", "$ts", "main-0a1b2c3-5", "main-0a1b2c3-6")
	f.Fuzz(func(t *testing.T, pattern, extract, a, b string) {
		set, err := Parse([]byte(manifest(fmt.Sprintf("  filterTags: {pattern: %q, extract: %q}\n  policy: {numerical: {}}\n", pattern, extract))))
		if err != nil || len(set.Policies) != 1 {
			return
		}
		p := set.Policies[0]
		ab, err1 := p.Compare(a, b)
		ba, err2 := p.Compare(b, a)
		if (err1 == nil) != (err2 == nil) || ab != -ba {
			t.Errorf("%q and %q: %d %v, %d %v", a, b, ab, err1, ba, err2)
		}
	})
}

func TestTwoFilesMayDefineOneObjectOnlyAlike(t *testing.T) {
	parse := func(text string) Set {
		t.Helper()
		s, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	object := func(kind, name, spec string) string {
		return "apiVersion: image.toolkit.fluxcd.io/v1\nkind: " + kind + "\nmetadata: {name: " + name + ", namespace: flux-system}\nspec: " + spec + "\n"
	}
	const one = "{imageRepositoryRef: {name: r}, policy: {semver: {range: '>=1.0.0'}}}"
	first := object("ImagePolicy", "p", one) + "---\n" + object("ImageRepository", "r", "{image: host/r}")
	for name, tt := range map[string]struct{ second, want string }{
		"alike":              {first, ""},
		"others":             {object("ImagePolicy", "q", one) + "---\n" + object("ImageRepository", "s", "{image: host/s}"), ""},
		"another range":      {object("ImagePolicy", "p", strings.Replace(one, "1.0.0", "2.0.0", 1)), "ImagePolicy flux-system/p is defined twice, differently"},
		"another order":      {object("ImagePolicy", "p", "{imageRepositoryRef: {name: r}, policy: {numerical: {order: desc}}}"), "differently"},
		"another filter":     {object("ImagePolicy", "p", strings.Replace(one, "policy", "filterTags: {pattern: x}, policy", 1)), "differently"},
		"suspended":          {object("ImagePolicy", "p", strings.Replace(one, "policy", "suspend: true, policy", 1)), "differently"},
		"another exclusion":  {object("ImageRepository", "r", "{image: host/r, exclusionList: [x]}"), "ImageRepository flux-system/r is defined twice"},
		"refreshed digests":  {object("ImagePolicy", "p", strings.Replace(one, "policy", "digestReflectionPolicy: Always, policy", 1)), "differently"},
		"another image":      {object("ImageRepository", "r", "{image: host/other}"), "ImageRepository flux-system/r is defined twice, differently"},
		"another repository": {object("ImagePolicy", "p", strings.Replace(one, "name: r", "name: s", 1)), "differently"},
	} {
		set := parse(first)
		err := set.Merge(parse(tt.second))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
