package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomize "sigs.k8s.io/kustomize/api/types"
)

const fluxGroup = "kustomize.toolkit.fluxcd.io"

// fluxKustomization is a Kustomization of Flux's kustomize controller: it names a folder, and changes what is built from it.
type fluxKustomization struct {
	name   objectName
	file   string
	text   []byte // of the file
	faults []string
	spec   fluxSpec
}

// fluxSpec is what is acted on of it. Where a build is the one that applies the objects, when and how Flux would is without effect.
type fluxSpec struct {
	Path      string `json:"path"`
	SourceRef struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Name       string `json:"name"`
		Namespace  string `json:"namespace"`
	} `json:"sourceRef"`
	TargetNamespace         string                 `json:"targetNamespace"`
	NamePrefix              string                 `json:"namePrefix"`
	NameSuffix              string                 `json:"nameSuffix"`
	Patches                 []patchOfFlux          `json:"patches"`
	Images                  []kustomize.Image      `json:"images"`
	Components              []string               `json:"components"`
	IgnoreMissingComponents bool                   `json:"ignoreMissingComponents"`
	CommonMetadata          *helmv2.CommonMetadata `json:"commonMetadata"`
	Suspend                 bool                   `json:"suspend"`
	PostBuild               map[string]any         `json:"postBuild"`

	Interval           json.RawMessage `json:"interval"`
	RetryInterval      json.RawMessage `json:"retryInterval"`
	Timeout            json.RawMessage `json:"timeout"`
	Prune              json.RawMessage `json:"prune"`
	Wait               json.RawMessage `json:"wait"`
	Force              json.RawMessage `json:"force"`
	HealthChecks       json.RawMessage `json:"healthChecks"`
	HealthCheckExprs   json.RawMessage `json:"healthCheckExprs"`
	DependsOn          json.RawMessage `json:"dependsOn"`
	DeletionPolicy     json.RawMessage `json:"deletionPolicy"`
	ServiceAccountName json.RawMessage `json:"serviceAccountName"`
	Decryption         json.RawMessage `json:"decryption"` // of Secrets; a HelmRelease that is encrypted is none
}

// patchOfFlux is Flux's form of a patch, whose target is flat, as kustomize's own is.
type patchOfFlux struct {
	Patch  string              `json:"patch"`
	Target *kustomize.Selector `json:"target"`
}

// fluxKustomizations finds the Kustomizations below folder that build from this repo.
func fluxKustomizations(repo *source, folder string) (list []*fluxKustomization) {
	elsewhere := map[objectName]bool{} // GitRepositories that are other repositories
	for file := range repo.manifests(folder) {
		text, err := repo.read(file)
		if err != nil || len(text) > maxManifest || !bytes.Contains(text, []byte(fluxGroup)) && !bytes.Contains(text, []byte(gitRepository)) {
			continue
		}
		for _, doc := range documentsOf(text) {
			var o struct {
				APIVersion string `json:"apiVersion"`
				Kind       string `json:"kind"`
				Metadata   struct {
					Name      string `json:"name"`
					Namespace string `json:"namespace"`
				} `json:"metadata"`
				Spec json.RawMessage `json:"spec"`
			}
			if json.Unmarshal(doc, &o) != nil {
				continue
			}
			group, _, _ := strings.Cut(o.APIVersion, "/")
			name := objectName{o.Metadata.Namespace, o.Metadata.Name}
			switch {
			case group == sourceGroup && o.Kind == gitRepository:
				var spec gitSpec
				_ = json.Unmarshal(o.Spec, &spec)
				elsewhere[name] = repo.url != "" && repoName(spec.URL) != repoName(repo.url)
			case group == fluxGroup && o.Kind == "Kustomization":
				k := &fluxKustomization{name: name, file: file, text: text}
				k.faults = decode(doc, &k.spec)
				list = append(list, k)
			}
		}
	}
	return slices.DeleteFunc(list, func(k *fluxKustomization) bool {
		from := k.spec.SourceRef
		namespace := from.Namespace
		if namespace == "" {
			namespace = k.name.Namespace
		}
		if from.Kind != gitRepository || elsewhere[objectName{namespace, from.Name}] {
			return true
		}
		dir := k.folder()
		missing := dir != "." && !hasFolder(repo, dir)
		if missing { // of another repo that is not described here, or a slip: what was in the folder is no orphan for certain
			repo.unread = append(repo.unread, fmt.Sprintf("%s: spec.path %q is no folder of this repo", k, k.spec.Path))
		}
		return missing
	})
}

func (k *fluxKustomization) folder() string {
	return path.Clean(strings.TrimLeft(path.Clean("/"+k.spec.Path), "/"))
}

// String names it for people.
func (k *fluxKustomization) String() string {
	return fmt.Sprintf("Kustomization %s (%s)", k.name, k.file)
}

// changes reports whether what is built differs from what the folder's own kustomization makes.
func (k *fluxKustomization) changes() bool {
	if k == nil {
		return false
	}
	s := k.spec
	return len(k.faults) > 0 || s.TargetNamespace != "" || s.NamePrefix != "" || s.NameSuffix != "" || len(s.Patches) > 0 || len(s.Images) > 0 ||
		len(s.Components) > 0 || s.CommonMetadata != nil || s.Suspend || len(s.PostBuild) > 0
}

// adjust changes the kustomization of the folder as Flux does (fluxcd/pkg/kustomize, Generator.WriteFile).
func (k *fluxKustomization) adjust(to *kustomize.Kustomization, dir string, repo *source) error {
	if len(k.faults) > 0 {
		return fmt.Errorf("%s", strings.Join(k.faults, "; "))
	}
	if k.spec.TargetNamespace != "" {
		to.Namespace = k.spec.TargetNamespace
	}
	if k.spec.NamePrefix != "" {
		to.NamePrefix = k.spec.NamePrefix
	}
	if k.spec.NameSuffix != "" {
		to.NameSuffix = k.spec.NameSuffix
	}
	to.Patches = slices.Clone(to.Patches)
	for _, p := range k.spec.Patches {
		to.Patches = append(to.Patches, kustomize.Patch{Patch: p.Patch, Target: p.Target})
	}
	to.Components = slices.Clone(to.Components)
	for _, c := range k.spec.Components {
		if k.spec.IgnoreMissingComponents && !isRemote(c) && !hasFolder(repo, path.Join(dir, c)) {
			continue
		}
		to.Components = append(to.Components, c)
	}
	to.Images = slices.Clone(to.Images)
	for _, i := range k.spec.Images {
		if at := slices.IndexFunc(to.Images, func(o kustomize.Image) bool { return o.Name == i.Name }); at >= 0 {
			to.Images[at] = i
		} else {
			to.Images = append(to.Images, i)
		}
	}
	return nil
}
