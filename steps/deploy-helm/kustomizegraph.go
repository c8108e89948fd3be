package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomize "sigs.k8s.io/kustomize/api/types"
	k8syaml "sigs.k8s.io/yaml"
)

// What a graph may hold. A file that is reached in two ways counts twice, because kustomize builds it twice.
const (
	maxGraphVisits  = 20_000   // kustomizations and files
	maxGraphBytes   = 64 << 20 // of all files
	maxGraphObjects = 20_000
	maxGraphDepth   = 32
)

var kustomizationNames = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

// kustomizationFile is one such file.
type kustomizationFile struct {
	name  string
	text  []byte
	k     kustomize.Kustomization
	plain bool  // it lists resources and does nothing else
	err   error // why it cannot be built from
	lost  bool  // not even what it refers to is known
}

// kustomizationFiles are the repo's, by folder.
type kustomizationFiles map[string]*kustomizationFile

func readKustomizations(repo *source) kustomizationFiles {
	found := kustomizationFiles{}
	for _, name := range repo.names {
		if !slices.Contains(kustomizationNames, path.Base(name)) || repo.inChart(name) {
			continue
		}
		f := &kustomizationFile{name: name}
		if other, ok := found[path.Dir(name)]; ok {
			f.err, f.lost = fmt.Errorf("%s and %s stand in one folder", other.name, name), true
		} else if text, err := repo.read(name); err != nil || len(text) > maxManifest {
			f.err, f.lost = fmt.Errorf("%s cannot be read, or is larger than %d MiB", name, maxManifest>>20), true
		} else if err := f.k.Unmarshal(text); err != nil {
			f.err = fmt.Errorf("%s cannot be read: %w", name, err)
			f.lost = f.guess(text) != nil
		} else {
			f.k.FixKustomization()
			f.text, f.plain = text, isPlain(f.k)
		}
		found[path.Dir(name)] = f
	}
	return found
}

// guess reads what a kustomization that cannot be built refers to: what it would have changed must not be taken for unchanged.
func (f *kustomizationFile) guess(text []byte) error {
	var refs struct {
		Resources  []string `json:"resources"`
		Bases      []string `json:"bases"`
		Components []string `json:"components"`
	}
	err := k8syaml.Unmarshal(text, &refs)
	f.k = kustomize.Kustomization{Resources: append(refs.Resources, refs.Bases...), Components: refs.Components}
	return err
}

// isPlain reports whether a kustomization lists resources and leaves them as they are.
func isPlain(k kustomize.Kustomization) bool {
	if k.Kind != kustomize.KustomizationKind {
		return false
	}
	k.TypeMeta, k.MetaData, k.Resources = kustomize.TypeMeta{}, nil, nil
	text, err := json.Marshal(k)
	return err == nil && string(text) == "{}"
}

// governing is the kustomization next above a file, nil when there is none.
func (all kustomizationFiles) governing(file string) *kustomizationFile {
	for dir := path.Dir(file); ; dir = path.Dir(dir) {
		if f, ok := all[dir]; ok {
			return f
		}
		if dir == "." || dir == "/" {
			return nil
		}
	}
}

// graph is everything that one kustomization is built from: a copy of the files, and nothing else, so that kustomize finds nothing that has
// not been looked at here. It would fetch what it does not find as a file: by HTTP, or by running git.
type graph struct {
	root    string // folder
	name    string // for people
	flux    *fluxKustomization
	files   map[string][]byte // the kustomizations written anew, with paths that no rule of kustomize takes for a URL
	reached map[string]bool   // files of the repo, kustomizations left out
	folders map[string]bool   // of the kustomizations
	texts   [][]byte          // of the kustomizations, as they are in the repo
	objects map[string]bool   // those files that hold what concerns us
	builds  bool              // something changes what concerns us, so that the files do not say what is deployed
	patched map[string]string // files with Kustomizations of Flux that something changes, and what
	refusal error             // the first reason why it is not built
	cut     bool              // it is too large, so that not even its files are known
	parse   []string          // the files with manifests and patches

	visits, bytes, count int
}

// walker reads graphs.
type walker struct {
	repo  *source
	all   kustomizationFiles
	known map[string]*contents
}

// contents is what matters of a file with manifests.
type contents struct {
	text     []byte
	objects  int
	concerns bool // it holds a HelmRelease, or the source of a chart
	flux     bool // it holds a Kustomization of Flux
	err      error
}

func (g *graph) refuse(format string, args ...any) {
	if g.refusal == nil {
		g.refusal = fmt.Errorf(format, args...)
	}
}

// walk follows a kustomization to everything that it is built from.
func (w *walker) walk(g *graph) {
	g.files, g.reached, g.folders, g.objects, g.patched = map[string][]byte{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]string{}
	w.enter(g, g.root, "", nil)
	if g.builds {
		return
	}
	g.builds = g.flux.changes() && len(g.objects) > 0
}

// enter takes in the kustomization of a folder. changed names a kustomization on the way to it that changes objects.
func (w *walker) enter(g *graph, dir, changed string, above []string) {
	f := w.all[dir]
	if f == nil && len(above) == 0 && g.flux != nil {
		f = w.generated(dir)
	}
	if f == nil {
		g.refuse("%s holds no kustomization", dir)
		return
	}
	switch {
	case slices.Contains(above, dir):
		g.refuse("%s refers to itself", f.name)
		return
	case len(above) >= maxGraphDepth:
		g.cut = true
		g.refuse("%s: more than %d kustomizations one below the other", f.name, maxGraphDepth)
		return
	case !g.fits(f.name, len(f.text), 0):
		return
	}
	if f.err != nil {
		g.refuse("%w", f.err)
		changed = cmp.Or(changed, f.name)
	}
	above = append(slices.Clone(above), dir)
	g.folders[dir] = true
	g.texts = append(g.texts, f.text)
	k, err := copyOf(f.k)
	if err != nil {
		g.refuse("%s: %w", f.name, err)
		return
	}
	if len(above) == 1 && g.flux != nil {
		if err := g.flux.adjust(&k, dir, w.repo); err != nil {
			g.refuse("%w", err)
		}
	}
	if !isPlain(k) && changed == "" {
		changed = f.name
	}
	if changed != "" {
		if text, err := json.Marshal(k); err == nil && bytes.Contains(text, []byte(helmv2.HelmReleaseKind)) {
			g.builds = true // a patch for a HelmRelease that may be in what is refused below
		}
	}
	for _, field := range unbuildable(k) {
		g.refuse("%s: %s is not supported", f.name, field)
	}
	v := visitor{walker: w, graph: g, dir: dir, file: f.name, changed: changed, above: above}
	v.visit(&k)
	text, err := json.Marshal(k)
	if err != nil {
		g.refuse("%s: %w", f.name, err)
	}
	name := f.name
	if old, twice := g.files[name]; twice && !bytes.Equal(old, text) {
		g.refuse("%s is built in two ways", name)
	}
	g.files[name] = text
}

// copyOf is a kustomization that can be changed.
func copyOf(k kustomize.Kustomization) (c kustomize.Kustomization, err error) {
	text, err := json.Marshal(k)
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(text, &c)
}

// unbuildable lists the fields that run programs or fetch charts, and openapi, which changes kustomize for all later builds.
func unbuildable(k kustomize.Kustomization) (list []string) {
	for name, set := range map[string]bool{
		"helmCharts": len(k.HelmCharts) > 0, "helmGlobals": k.HelmGlobals != nil, "helmChartInflationGenerator": len(k.HelmChartInflationGenerator) > 0,
		"generators": len(k.Generators) > 0, "transformers": len(k.Transformers) > 0, "validators": len(k.Validators) > 0, "openapi": len(k.OpenAPI) > 0,
	} {
		if set {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// fits takes one more kustomization or file into account. It reports whether the graph is still within bounds.
func (g *graph) fits(name string, size, objects int) bool {
	g.visits++
	g.bytes += size
	g.count += objects
	if g.visits > maxGraphVisits || g.bytes > maxGraphBytes || g.count > maxGraphObjects {
		g.cut = true
		g.refuse("%s: more than %d files, %d MiB or %d objects in one build", name, maxGraphVisits, maxGraphBytes>>20, maxGraphObjects)
		return false
	}
	return true
}

// visitor follows the references of one kustomization.
type visitor struct {
	*walker
	graph   *graph
	dir     string
	file    string // the kustomization
	changed string
	above   []string
}

// visit replaces every reference by one that can only be a path, and follows it.
func (v visitor) visit(k *kustomize.Kustomization) {
	for i := range k.Resources {
		v.follow("resources", &k.Resources[i], true)
	}
	for i := range k.Components {
		v.folder("components", &k.Components[i])
	}
	for i := range k.Patches {
		v.patch("patches", &k.Patches[i])
	}
	v.olderPatches(k)
	for i := range k.Replacements {
		if k.Replacements[i].Path != "" {
			v.follow("replacements", &k.Replacements[i].Path, false)
		}
	}
	for i := range k.Crds {
		v.follow("crds", &k.Crds[i], false)
	}
	for i := range k.Configurations {
		v.follow("configurations", &k.Configurations[i], false)
	}
	for i := range k.ConfigMapGenerator {
		v.pairs("configMapGenerator", &k.ConfigMapGenerator[i].KvPairSources)
	}
	for i := range k.SecretGenerator {
		v.pairs("secretGenerator", &k.SecretGenerator[i].KvPairSources)
	}
}

//nolint:staticcheck // kustomize still builds these fields, and says so on stderr
func (v visitor) olderPatches(k *kustomize.Kustomization) {
	for i := range k.PatchesJson6902 {
		v.patch("patchesJson6902", &k.PatchesJson6902[i])
	}
	for i := range k.PatchesStrategicMerge {
		p := kustomize.Patch{Path: string(k.PatchesStrategicMerge[i])}
		if strings.Contains(p.Path, "\n") {
			p = kustomize.Patch{Patch: p.Path}
		}
		v.patch("patchesStrategicMerge", &p)
		k.PatchesStrategicMerge[i] = kustomize.PatchStrategicMerge(p.Path + p.Patch)
	}
}

func (v visitor) patch(field string, p *kustomize.Patch) {
	if p.Path != "" {
		v.follow(field, &p.Path, false)
	}
	if p.Patch == "" {
		return
	}
	if isRemote(p.Patch) {
		v.graph.refuse("%s: %s: %q is not a patch", v.file, field, p.Patch)
		return
	}
	if c := contentsOf([]byte(p.Patch)); c.err != nil {
		v.graph.refuse("%s: %s: %w", v.file, field, c.err)
	}
}

// pairs follows the files of a generator.
func (v visitor) pairs(field string, p *kustomize.KvPairSources) {
	for i, ref := range p.FileSources {
		key, file, named := strings.Cut(ref, "=")
		if !named {
			file = ref
		}
		v.plainFile(field, &file)
		if !named {
			key = path.Base(file)
		}
		p.FileSources[i] = key + "=" + file
	}
	if p.EnvSource != "" {
		p.EnvSources, p.EnvSource = append(p.EnvSources, p.EnvSource), ""
	}
	for i := range p.EnvSources {
		v.plainFile(field, &p.EnvSources[i])
	}
}

// follow takes in a file with manifests, or, where that is allowed, a folder with a kustomization.
func (v visitor) follow(field string, ref *string, folders bool) {
	name, isFolder, ok := v.resolve(field, ref)
	switch {
	case !ok:
		return
	case isFolder && folders:
		v.enter(v.graph, name, v.changed, v.above)
		return
	case isFolder:
		v.graph.refuse("%s: %s: %s is a folder", v.file, field, name)
		return
	}
	g, c := v.graph, v.contents(name)
	if !g.fits(name, len(c.text), c.objects) {
		return
	}
	if c.err != nil {
		g.refuse("%s: %w", name, c.err)
	}
	g.files[name], g.reached[name] = c.text, true
	g.parse = append(g.parse, name)
	if c.concerns {
		g.objects[name] = true
		g.builds = g.builds || v.changed != ""
	}
	if c.flux && v.changed != "" {
		g.patched[name] = v.changed
	}
}

func (v visitor) folder(field string, ref *string) {
	name, isFolder, ok := v.resolve(field, ref)
	if ok && !isFolder {
		v.graph.refuse("%s: %s: %s is no folder", v.file, field, name)
	} else if ok {
		v.enter(v.graph, name, v.changed, v.above)
	}
}

// plainFile takes in a file of whatever content.
func (v visitor) plainFile(field string, ref *string) {
	name, isFolder, ok := v.resolve(field, ref)
	if !ok || isFolder {
		if ok {
			v.graph.refuse("%s: %s: %s is a folder", v.file, field, name)
		}
		return
	}
	text, err := v.repo.read(name)
	if err != nil {
		v.graph.refuse("%s: %w", name, err)
		return
	}
	if v.graph.fits(name, len(text), 0) {
		v.graph.files[name], v.graph.reached[name] = text, true
	}
}

// resolve finds what a reference means in the repo, and makes it one that begins with ./ or ../: kustomize takes neither for a URL.
func (v visitor) resolve(field string, ref *string) (name string, isFolder, ok bool) {
	name = path.Join(v.dir, *ref)
	isFolder = name == "." || hasFolder(v.repo, name)
	switch {
	case isRemote(*ref):
		v.graph.refuse("%s: %s: %q is not in the config repo, and nothing is fetched", v.file, field, *ref)
	case path.IsAbs(*ref) || name == ".." || strings.HasPrefix(name, "../"):
		v.graph.refuse("%s: %s: %q lies outside of the config repo", v.file, field, *ref)
	case *ref == "" || !isFolder && !v.repo.has(name):
		v.graph.refuse("%s: %s: %q is no file or folder of the config repo (links are not followed)", v.file, field, *ref)
	default:
		short, err := filepath.Rel("/"+v.dir, "/"+name)
		if err != nil {
			v.graph.refuse("%s: %s: %w", v.file, field, err)
			return "", false, false
		}
		if short != ".." && !strings.HasPrefix(short, "../") {
			short = "./" + short
		}
		*ref = short
		return name, isFolder, true
	}
	return "", false, false
}

// remote is what kustomize, or a version of it, takes for an address.
var remote = regexp.MustCompile(`(?i)^(git::|github\.com[/:]|[a-z][a-z0-9-]*@)|://|[?]ref=`)

func isRemote(ref string) bool { return remote.MatchString(ref) }

func hasFolder(repo *source, name string) bool {
	at, _ := slices.BinarySearch(repo.names, name+"/")
	return at < len(repo.names) && strings.HasPrefix(repo.names[at], name+"/")
}

func (w *walker) contents(name string) *contents {
	if c, ok := w.known[name]; ok {
		return c
	}
	c := &contents{}
	if text, err := w.repo.read(name); err != nil {
		c.err = err
	} else if concerns(text) || bytes.Contains(text, []byte(fluxGroup)) {
		c = contentsOf(text)
	} else {
		c.text, c.objects = text, 1+bytes.Count(text, []byte("\n---")) // looked at when it is built
	}
	w.known[name] = c
	return c
}

// contentsOf reads manifests as far as is needed here. YAML that grows by aliases is an error.
func contentsOf(text []byte) *contents {
	c := &contents{text: text}
	if len(text) > maxManifest {
		c.text, c.err = nil, fmt.Errorf("larger than %d MiB", maxManifest>>20)
		return c
	}
	for doc, err := range documents(text) {
		var raw []byte
		if err == nil {
			raw, err = k8syaml.YAMLToJSON(doc)
		}
		if err != nil {
			c.err = err
			return c
		}
		var head head
		_ = json.Unmarshal(raw, &head) // a list of JSON patches has no head
		for _, o := range append(head.Items, head) {
			c.objects++
			group, _, _ := strings.Cut(o.APIVersion, "/")
			c.concerns = c.concerns || o.Kind == helmv2.HelmReleaseKind && group == helmv2.GroupVersion.Group || group == sourceGroup && slices.Contains(sourceKinds, o.Kind)
			c.flux = c.flux || group == fluxGroup && o.Kind == "Kustomization"
		}
	}
	return c
}

// head is what tells what an object is; kustomize takes lists apart.
type head struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Items      []head `json:"items"`
}

// generated is what Flux makes of a folder without a kustomization: it lists all manifests below, and the folders that have one.
func (w *walker) generated(dir string) *kustomizationFile {
	f := &kustomizationFile{name: path.Join(dir, kustomizationNames[0]), plain: true}
	f.k.FixKustomization()
	listed := "" // the names are sorted, so that those below one folder follow each other
	for _, name := range w.repo.names {
		if !within(name, dir) || w.repo.inChart(name) {
			continue
		}
		short := name
		if dir != "." {
			short = strings.TrimPrefix(name, dir+"/")
		}
		parts := strings.Split(short, "/")
		for n := 1; n < len(parts); n++ {
			if sub := strings.Join(parts[:n], "/"); w.all[path.Join(dir, sub)] != nil {
				short = sub
				break
			}
		}
		if (isYAML(name) || short != strings.Join(parts, "/")) && short != listed {
			listed = short
			f.k.Resources = append(f.k.Resources, short)
		}
	}
	if f.k.Resources == nil {
		return nil
	}
	return f
}
