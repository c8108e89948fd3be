package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/resmap"
	kresource "sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	k8syaml "sigs.k8s.io/yaml"
)

// maxBuild bounds the time of one build by kustomize, which cannot be interrupted.
const maxBuild = time.Minute

// kustomized is what the repo's kustomizations say of its HelmReleases and of the sources of their charts.
type kustomized struct {
	all    kustomizationFiles
	graphs []*graph        // those that are built
	parts  map[string]bool // files that are only what a build is made of
}

// readKustomized finds the kustomizations that have to be built: the folders that Flux's Kustomizations below folder name, and the
// kustomizations below folder that no other refers to. Of these, only such as change what concerns us, or list what lies outside of folder:
// where files are merely listed they say themselves what is deployed, and keep the comments that a build loses. An error means that nobody
// knows which files are changed by what.
func readKustomized(repo *source, folder string) (*kustomized, error) {
	k := &kustomized{all: readKustomizations(repo), parts: map[string]bool{}}
	w := &walker{repo: repo, all: k.all, known: map[string]*contents{}}
	var graphs []*graph
	reached := map[string]bool{}
	for _, f := range fluxKustomizations(repo, folder) {
		g := &graph{root: f.folder(), name: f.String(), flux: f}
		w.walk(g)
		maps.Copy(reached, g.folders)
		graphs = append(graphs, g)
	}
	referred := k.all.referred()
	for _, dir := range slices.Sorted(maps.Keys(k.all)) {
		if f := k.all[dir]; reached[dir] || referred[dir] || !within(f.name, folder) || f.k.Kind == "Component" {
			continue
		}
		g := &graph{root: dir, name: k.all[dir].name}
		w.walk(g)
		graphs = append(graphs, g)
	}
	for _, g := range graphs {
		for _, other := range graphs {
			if what, ok := other.patched[fileOf(g.flux)]; ok {
				g.refusal, g.builds = fmt.Errorf("%s changes it, which is not supported", what), len(g.objects) > 0
			}
		}
		for name := range g.objects {
			g.builds = g.builds || !within(name, folder)
		}
	}
	var problems []error
	for _, dir := range slices.Sorted(maps.Keys(k.all)) {
		if f := k.all[dir]; f.lost && within(f.name, folder) {
			problems = append(problems, f.err)
		}
	}
	for _, g := range graphs {
		if g.cut {
			problems = append(problems, fmt.Errorf("%s: %w", g.name, g.refusal))
		}
	}
	k.choose(graphs)
	return k, errors.Join(problems...)
}

func fileOf(f *fluxKustomization) string {
	if f == nil {
		return ""
	}
	return f.file
}

// choose takes the graphs that are built, and with each of them those that share manifests with it: a file that is a part of one build is not
// read by itself.
func (k *kustomized) choose(graphs []*graph) {
	for more := true; more; {
		more = false
		for _, g := range graphs {
			shared := slices.ContainsFunc(slices.Collect(maps.Keys(g.objects)), func(name string) bool { return k.parts[name] })
			if (g.builds || shared) && !slices.Contains(k.graphs, g) {
				k.graphs = append(k.graphs, g)
				maps.Copy(k.parts, g.reached)
				more = true
			}
		}
	}
	slices.SortFunc(k.graphs, func(a, b *graph) int { return cmp.Compare(a.name, b.name) })
}

// referred are the folders that a kustomization refers to.
func (all kustomizationFiles) referred() map[string]bool {
	found := map[string]bool{}
	for dir, f := range all {
		for _, ref := range slices.Concat(f.k.Resources, f.k.Components) {
			if to := path.Join(dir, ref); all[to] != nil && to != dir {
				found[to] = true
			}
		}
	}
	return found
}

// changedBy says which kustomization governs a file that no build contains, and would change it: "" for none.
func (k *kustomized) changedBy(file string) string {
	f := k.all.governing(file)
	switch {
	case f == nil || f.plain:
		return ""
	case f.err != nil:
		return oneLine(f.err)
	}
	return f.name + " does more than list resources, and no build of it contains this file"
}

// read builds, and returns the releases that come out of it. The sources go to from. What cannot be built is a fault of the releases that it
// is made from.
func (k *kustomized) read(accountLabel string, from sources) ([]*wanted, error) {
	var list, lost []*wanted
	for _, g := range k.graphs {
		built, err := g.build()
		if errors.Is(err, errLate) {
			return nil, err
		}
		var releases []*wanted
		if err == nil {
			releases, err = g.releases(built, accountLabel, from)
		}
		if err != nil {
			lost = append(lost, g.lost(err, accountLabel)...)
			continue
		}
		list = append(list, releases...)
	}
	for _, w := range lost {
		if at := slices.IndexFunc(list, func(o *wanted) bool { return o.key == w.key }); at >= 0 {
			list[at].addFault(w.file + ": " + w.fault)
			list[at].unbuilt = true
		} else {
			list = append(list, w)
		}
	}
	return list, nil
}

var errLate = fmt.Errorf("longer than %s", maxBuild)

// build builds the graph from the copy of its files.
func (g *graph) build() ([]*kresource.Resource, error) {
	if g.refusal != nil {
		return nil, g.refusal
	}
	for _, name := range g.parse {
		if c := contentsOf(g.files[name]); c.err != nil {
			return nil, fmt.Errorf("%s: %w", name, c.err)
		}
	}
	fs := filesys.MakeFsInMemory()
	for name, text := range g.files {
		if err := fs.WriteFile("/"+name, text); err != nil {
			return nil, err
		}
	}
	type result struct {
		built resmap.ResMap
		err   error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r.err = fmt.Errorf("kustomize: %v", p)
			}
			done <- r
		}()
		r.built, r.err = buildKustomization(fs, path.Join("/", g.root)) // an absolute path is never taken for a URL
	}()
	late := time.NewTimer(maxBuild)
	defer late.Stop()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, r.err
		}
		return r.built.Resources(), nil
	case <-late.C:
		return nil, fmt.Errorf("building %s: %w", g.name, errLate)
	}
}

// releases reads what was built.
func (g *graph) releases(built []*kresource.Resource, accountLabel string, from sources) (list []*wanted, err error) {
	if len(built) > maxGraphObjects {
		return nil, fmt.Errorf("more than %d objects", maxGraphObjects)
	}
	marks := g.marks()
	var texts [][]byte
	for _, r := range built {
		if g.flux != nil && g.flux.spec.CommonMetadata != nil {
			if err := withCommon(r, g.flux); err != nil {
				return nil, err
			}
		}
		text, err := r.RNode.String()
		if err != nil {
			return nil, err
		}
		if !concerns([]byte(text)) {
			continue
		}
		if g.flux != nil && len(g.flux.spec.PostBuild) > 0 && strings.Contains(text, "$") {
			return nil, errors.New("spec.postBuild is not supported, and the objects have variables")
		}
		texts = append(texts, []byte(text))
	}
	found := sources{} // complete before it is shared: of a build that fails nothing is taken
	for _, text := range texts {
		releases, err := readManifests(g.name, text, accountLabel, found)
		if err != nil {
			return nil, err
		}
		list = append(list, releases...)
	}
	for _, w := range list {
		w.image.marked = w.image.marked || marks.on(w)
		w.suspended = w.suspended || g.flux != nil && g.flux.spec.Suspend
	}
	for name, s := range found {
		s.built = true
		from.take(name, s)
	}
	return list, nil
}

func withCommon(r *kresource.Resource, f *fluxKustomization) error {
	labels, annotations := r.GetLabels(), r.GetAnnotations()
	maps.Copy(labels, f.spec.CommonMetadata.Labels)
	maps.Copy(annotations, f.spec.CommonMetadata.Annotations)
	return errors.Join(r.SetLabels(labels), r.SetAnnotations(annotations))
}

// lost stands for the releases that a graph would have made: nobody knows their names, accounts and labels, so that no selection leaves them out.
func (g *graph) lost(err error, accountLabel string) (list []*wanted) {
	fault := oneLine(err)
	for _, name := range slices.Sorted(maps.Keys(g.objects)) {
		found, _ := readManifests(name, g.files[name], accountLabel, sources{})
		list = append(list, found...)
	}
	if len(list) == 0 {
		list = []*wanted{{object: objectName{"", g.root}}}
		list[0].key.Name = g.root
	}
	for _, w := range list {
		w.account, w.labels, w.dependsOn = "", nil, nil
		w.file, w.fault, w.unbuilt = g.name, fault, true
	}
	return list
}

// oneLine is what an error says, in a line of bounded length.
func oneLine(err error) string {
	const most = 500
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + " ..."
	}
	return text
}

// marks are the lines of a graph's files that carry a marker of the image automation.
type marks []string

const imageMarker = `$imagepolicy`

func (g *graph) marks() (m marks) {
	texts := slices.AppendSeq(slices.Clone(g.texts), maps.Values(g.files))
	if g.flux != nil {
		texts = append(texts, g.flux.text)
	}
	for _, text := range texts {
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, imageMarker) {
				m = append(m, line)
			}
		}
	}
	return m
}

// on reports whether the image automation may have written the tag of a release: a marked line holds it, or the marked value is a part of it.
// A build loses the comments, so this rather says yes once too often, which is the strict side.
func (m marks) on(w *wanted) bool {
	tag := w.image.tag
	for _, line := range m {
		before, _, _ := strings.Cut(line, "#")
		if tag == "" {
			if section, _ := w.values["image"].(map[string]any); section["tag"] != nil {
				return true
			}
			continue
		}
		if strings.Contains(before, tag) {
			return true
		}
		var value yaml.Node
		if yaml.Unmarshal([]byte(strings.TrimSpace(before)), &value) == nil {
			for last := &value; last != nil; {
				if last.Kind == yaml.ScalarNode && last.Value != "" && strings.Contains(tag, last.Value) {
					return true
				}
				if len(last.Content) == 0 {
					break
				}
				last = last.Content[len(last.Content)-1]
			}
		}
	}
	return false
}

// documentsOf are the documents of a file as JSON; what cannot be read is left out.
func documentsOf(text []byte) (list [][]byte) {
	for doc, err := range documents(text) {
		if err != nil {
			break
		}
		if raw, err := k8syaml.YAMLToJSON(doc); err == nil {
			list = append(list, raw)
		}
	}
	return list
}
