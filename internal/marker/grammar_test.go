package marker

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Where Flux's users put markers: the resources of its guide (fluxcd.io/flux/guides/image-update, section "Configure image update for
// custom resources"), kustomize's patches, and what stands around them in real files. OLD… is what has to change, and to what.
func TestMarkersWorkWhereFluxsUsersPutThem(t *testing.T) {
	const (
		image  = "registry.example/backend:v2.0.0"
		digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	)
	for _, tt := range []struct{ name, text string }{
		{"a HelmRelease's values", `apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata:
  name: backend
  annotations: {}
spec:
  values:
    image:
      repository: OLDNAME # {"$imagepolicy": "flux-system:backend:name"}
      tag: OLDTAG  # {"$imagepolicy": "flux-system:backend:tag"}
      digest: "OLDDIGEST" # {"$imagepolicy": "flux-system:backend:digest"}
      pullPolicy:
`},
		{"a HelmRelease's chart version and an image in a list of values", `spec:
  chart:
    spec: {chart: backend, sourceRef: {kind: HelmRepository, name: charts}}
  values:
    sidecars:
      - name: backend
        image: OLDIMAGE # {"$imagepolicy": "flux-system:backend"}
      - {name: other, image: "x:1"} # pinned
    args: ["--image", "x:1"]   # not ours
`},
		{"a Tekton task, a sequence at the indentation of its key", `apiVersion: tekton.dev/v1
kind: Task
spec:
  steps:
  - name: golang
    image: OLDIMAGE # {"$imagepolicy": "flux-system:backend"}
    script: |
      #!/bin/sh
      echo "tag: v1 # {"

`},
		{"a Kustomization's images", `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
- deployment.yaml
images:
- name: backend
  newName: OLDNAME # {"$imagepolicy": "flux-system:backend:name"}
  newTag: OLDTAG # {"$imagepolicy": "flux-system:backend:tag"}
  digest: OLDDIGEST # {"$imagepolicy": "flux-system:backend:digest"}
`},
		{"a strategic merge patch without a name of its own", `spec:
  template:
    spec:
      containers:
        - name: backend
          image: OLDIMAGE # {"$imagepolicy": "flux-system:backend"}
          $patch: replace
`},
		{"a JSON 6902 patch, which Flux passes over (flux2#2826)", `- op: replace
  path: /spec/template/spec/containers/0/image
  value: OLDIMAGE # {"$imagepolicy": "flux-system:backend"}
- op: remove
  path: /x
`},
		{"an inline patch of a Flux Kustomization, written as YAML", `apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
spec:
  images:
    - name: backend
      newTag: OLDTAG # {"$imagepolicy": "flux-system:backend:tag"}
  postBuild:
    substitute:
      image_tag: OLDTAG # {"$imagepolicy": "flux-system:backend:tag"}
`},
		{"a ConfigMap", `apiVersion: v1
kind: ConfigMap
data:
  tag: OLDTAG # {"$imagepolicy": "flux-system:backend:tag"}
  text: "a # b"
`},
		{"a CronJob deep down", `spec:
  jobTemplate: {spec: {template: {spec: {
    containers: [{
      name: backend,
      image: OLDIMAGE # {"$imagepolicy": "flux-system:backend"}
    }]}}}}
`},
		{"several documents, comments of their own, a document of comments only", `# one
a: 1
---
# nothing here
---
image: OLDIMAGE # {"$imagepolicy": "flux-system:backend"}
# after it
...
---
- OLDIMAGE # {"$imagepolicy": "flux-system:backend"}
`},
		{"a directive and an explicit start", "%YAML 1.1\n---\ntag: OLDTAG # {\"$imagepolicy\": \"flux-system:backend:tag\"}\n"},
		{"anchors, aliases and merge keys beside it", `defaults: &defaults
  replicas: 2
  labels: &labels {app: backend}
one:
  <<: *defaults
  tag: OLDTAG # {"$imagepolicy": "flux-system:backend:tag"}
two:
  <<: [*defaults, {x: 1}]
  more: *labels
`},
		{"a value with an anchor, and its alias below", "tag: &t OLDTAG # {\"$imagepolicy\": \"flux-system:backend:tag\"}\nversion: *t\n"},
		{"block texts with trailing blanks and long lines around it", "a: |+\n  x  \n\n\nb: >-\n  y   \n   z\ntag: OLDTAG # {\"$imagepolicy\": \"flux-system:backend:tag\"}\nc: " + strings.Repeat("long ", 60) + "\n"},
		{"tabs and blanks at the ends of lines", "a: 1 \t\ntag: OLDTAG \t # {\"$imagepolicy\": \"flux-system:backend:tag\"} \t\nb: 2  \n"},
		{"a comment that looks like a marker's rest above it", "# {\"$imagepolicy\": \n# x\ntag: OLDTAG # {\"$imagepolicy\": \"flux-system:backend:tag\"}\n"},
		{"a complex key beside it", "? {a: 1}\n: b\ntag: OLDTAG # {\"$imagepolicy\": \"flux-system:backend:tag\"}\n"},
		{"a resource that says which file it is from, which stops Flux", "kind: X\napiVersion: v1\nmetadata: {annotations: {config.kubernetes.io/path: a.yaml}}\ntag: OLDTAG # {\"$imagepolicy\": \"flux-system:backend:tag\"}\n"},
		{"values of other types around it", "a: 0o14\nb: 1_000\nc: 2001-01-01\nd: !!binary aGk=\ntag: OLDTAG # {\"$imagepolicy\": \"flux-system:backend:tag\"}\ne: ~\nf: .inf\n"},
	} {
		for _, lineBreak := range []string{"\n", "\r\n"} {
			t.Run(tt.name+map[string]string{"\r\n": " (CRLF)"}[lineBreak], func(t *testing.T) {
				text := strings.ReplaceAll(tt.text, "\n", lineBreak)
				before := strings.NewReplacer("OLDNAME", "old.example/backend", "OLDTAG", "v1.0.0", "OLDIMAGE", "old.example/backend:v1", "OLDDIGEST", "sha256:00").Replace(text)
				want := strings.NewReplacer("OLDNAME", "registry.example/backend", "OLDTAG", "v2.0.0", "OLDIMAGE", image, "OLDDIGEST", digest).Replace(text)
				after, skipped := spliceAll(t, before)
				if len(skipped) > 0 && !strings.Contains(tt.name, "looks like") {
					t.Errorf("skipped: %v", skipped)
				}
				if diff := cmp.Diff(want, after); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestAPatchInABlockOfTextIsReported(t *testing.T) {
	const text = "patches:\n- patch: |-\n    - op: replace\n      value: x:1 # {\"$imagepolicy\": \"flux-system:backend\"}\n  target: {kind: Deployment}\n"
	found := Find([]byte(text))
	if len(found) != 1 || !strings.Contains(found[0].Skip, "inside a block of text") || found[0].Line != 4 {
		t.Errorf("found %+v", found)
	}
}

// In a List several objects share one document, and with it its anchors. An edit for one account must not reach another one's object.
func TestAValueThatAnotherObjectAliasesIsLeftAlone(t *testing.T) {
	const item = "- apiVersion: v1\n  kind: X\n  metadata: {name: NAME}\n  image: IMAGE\n"
	list := func(first, second string) string {
		return "apiVersion: v1\nkind: List\nitems:\n" + strings.NewReplacer("NAME", "a", "IMAGE", first).Replace(item) +
			strings.NewReplacer("NAME", "b", "IMAGE", second).Replace(item)
	}
	marked := "{\n    tag: v1 " + mark(":tag") + "\n  }"
	for _, tt := range []struct {
		name, text string
		shared     bool
	}{
		{"the value", list("&t v1 "+mark(":tag"), "*t"), true},
		{"what it is in", list("&i "+marked, "*i"), true},
		{"what it is in, as a merge key", list("&i "+marked, "{<<: *i, x: 1}"), true},
		{"the alias is in the same object", list("&t v1 "+mark(":tag")+"\n  other: *t", "x"), false},
		{"nobody uses the anchor", list("&t v1 "+mark(":tag"), "x"), false},
		{"another anchor is used", list("&t v1 "+mark(":tag")+"\n  other: &o x", "*o"), false},
	} {
		found := Find([]byte(tt.text))
		if len(found) != 1 || (found[0].Skip != "") != tt.shared || tt.shared && !strings.Contains(found[0].Skip, "alias in another object") {
			t.Errorf("%s: %+v in\n%s", tt.name, found, tt.text)
		}
	}
}
