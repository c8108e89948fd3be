package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v4/pkg/postrenderer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/builtins" //nolint:staticcheck // until v1 this is where the transformers are; Flux uses the same ones
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/provider"
	"sigs.k8s.io/kustomize/api/resmap"
	kustomize "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// kustomizing is held while kustomize's library builds: it writes into maps that all builds share (kustomize#3659).
var kustomizing sync.Mutex

// buildKustomization builds a folder without plugins, and without leaving the folders of the file system for single files.
func buildKustomization(fs filesys.FileSystem, folder string) (resmap.ResMap, error) {
	kustomizing.Lock()
	defer kustomizing.Unlock()
	return krusty.MakeKustomizer(&krusty.Options{LoadRestrictions: kustomize.LoadRestrictionsRootOnly, PluginConfig: kustomize.DisabledPluginConfig()}).Run(fs, folder)
}

// postRenderers change what Helm has rendered, as Flux's helm controller does: the patches and images of each entry of spec.postRenderers
// through kustomize, then spec.commonMetadata. Flux puts labels of its own on all objects after that, which say that it manages them.
type postRenderers struct {
	renderers []helmv2.PostRenderer
	common    *helmv2.CommonMetadata
	gated     image // whose version the gate has judged
}

// postRenderer is what Helm is given, nil for none.
func (p postRenderers) postRenderer() postrenderer.PostRenderer {
	if p.isEmpty() {
		return nil
	}
	return p
}

func (p postRenderers) isEmpty() bool { return len(p.renderers) == 0 && p.common == nil }

// text is what the digest of a release covers.
func (p postRenderers) text() (string, error) {
	text, err := json.Marshal([]any{p.renderers, p.common})
	return string(text), err
}

// Run implements postrenderer.PostRenderer.
func (p postRenderers) Run(rendered *bytes.Buffer) (*bytes.Buffer, error) {
	before, err := imagesIn(rendered.Bytes())
	if err != nil {
		return nil, fmt.Errorf("reading what the chart rendered: %w", err)
	}
	text := rendered.Bytes()
	for n, r := range p.renderers {
		if r.Kustomize == nil {
			continue
		}
		if text, err = patched(text, kustomization(r.Kustomize)); err != nil {
			return nil, fmt.Errorf("spec.postRenderers[%d]: %w", n, err)
		}
	}
	if p.common != nil {
		if text, err = withMetadata(text, *p.common); err != nil {
			return nil, fmt.Errorf("spec.commonMetadata: %w", err)
		}
	}
	after, err := imagesIn(text)
	if err != nil {
		return nil, err
	}
	return bytes.NewBuffer(text), p.checkImages(before, after)
}

// kustomization is Flux's translation of one entry.
func kustomization(k *helmv2.Kustomize) kustomize.Kustomization {
	var to kustomize.Kustomization
	for _, i := range k.Images {
		to.Images = append(to.Images, kustomize.Image{Name: i.Name, NewName: i.NewName, NewTag: i.NewTag, Digest: i.Digest})
	}
	for _, p := range k.Patches {
		patch := kustomize.Patch{Patch: p.Patch}
		if s := p.Target; s != nil {
			patch.Target = &kustomize.Selector{LabelSelector: s.LabelSelector, AnnotationSelector: s.AnnotationSelector}
			patch.Target.Group, patch.Target.Version, patch.Target.Kind = s.Group, s.Version, s.Kind
			patch.Target.Name, patch.Target.Namespace = s.Name, s.Namespace
		}
		to.Patches = append(to.Patches, patch)
	}
	return to
}

// patched builds manifests with a kustomization.
func patched(manifests []byte, k kustomize.Kustomization) ([]byte, error) {
	const input = "helm-output.yaml"
	k.APIVersion, k.Kind, k.Resources = kustomize.KustomizationVersion, kustomize.KustomizationKind, []string{input}
	text, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	fs := filesys.MakeFsInMemory()
	for name, content := range map[string][]byte{input: manifests, "kustomization.yaml": text} {
		if err := fs.WriteFile(name, content); err != nil {
			return nil, err
		}
	}
	built, err := buildKustomization(fs, ".")
	if err != nil {
		return nil, err
	}
	return built.AsYaml()
}

// withMetadata puts labels and annotations on all objects, and on nothing inside them.
func withMetadata(manifests []byte, common helmv2.CommonMetadata) ([]byte, error) {
	kustomizing.Lock()
	defer kustomizing.Unlock()
	objects, err := resmap.NewFactory(provider.NewDefaultDepProvider().GetResourceFactory()).NewResMapFromBytes(manifests)
	if err != nil {
		return nil, err
	}
	on := func(path string) []kustomize.FieldSpec {
		return []kustomize.FieldSpec{{Path: path, CreateIfNotPresent: true}}
	}
	labels := builtins.LabelTransformerPlugin{Labels: common.Labels, FieldSpecs: on("metadata/labels")}
	if err := labels.Transform(objects); err != nil {
		return nil, err
	}
	annotations := builtins.AnnotationsTransformerPlugin{Annotations: common.Annotations, FieldSpecs: on("metadata/annotations")}
	if err := annotations.Transform(objects); err != nil {
		return nil, err
	}
	return objects.AsYaml()
}

// checkImages refuses post-renderers that would deploy another version than the one that the gate has judged. The same version from a mirror
// is fine, other images are not its business.
func (p postRenderers) checkImages(before, after map[string]bool) error {
	if p.gated.repository == "" {
		return nil
	}
	versions := map[string]bool{} // of what is new, as :tag@digest
	for _, name := range slices.Sorted(maps.Keys(after)) {
		repository, version := splitImage(name)
		if !before[name] && repository == p.gated.repository {
			return fmt.Errorf("the post-renderers make %s of the image in values.image, which the gate has judged: change the values instead", name)
		}
		if !before[name] {
			versions[version] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		repository, version := splitImage(name)
		if repository == p.gated.repository && !after[name] && len(versions) > 0 && !versions[version] {
			return fmt.Errorf("the post-renderers replace %s, which the gate has judged, by another version: change the values instead", name)
		}
	}
	return nil
}

// splitImage cuts an image reference into its repository and the rest (:tag@digest).
func splitImage(name string) (repository, version string) {
	end := len(name)
	if at := strings.Index(name, "@"); at >= 0 {
		end = at
	}
	if colon := strings.LastIndex(name[:end], ":"); colon > strings.LastIndex(name[:end], "/") {
		end = colon
	}
	return name[:end], name[end:]
}

// imagesIn collects what stands under the key image, wherever it is.
func imagesIn(manifests []byte) (map[string]bool, error) {
	found := map[string]bool{}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if name, ok := v["image"].(string); ok {
				found[name] = true
			}
			for _, member := range v {
				walk(member)
			}
		case []any:
			for _, member := range v {
				walk(member)
			}
		}
	}
	documents := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for {
		var doc any
		err := documents.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		walk(doc)
	}
}
