package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sjson "sigs.k8s.io/json"
)

// The objects of Flux's source controller that a HelmRelease can name (source.toolkit.fluxcd.io).
const (
	gitRepository  = "GitRepository"
	helmRepository = "HelmRepository"
	ociRepository  = "OCIRepository"
	helmChart      = "HelmChart"
)

const sourceGroup = "source.toolkit.fluxcd.io"

var sourceKinds = []string{gitRepository, helmRepository, ociRepository, helmChart}

// sourceName names an object of the source controller.
type sourceName struct{ kind, namespace, name string }

func (n sourceName) String() string { return fmt.Sprintf("%s %s/%s", n.kind, n.namespace, n.name) }

// chartSource is one such object, as the config repo has it. Of its spec, only the one of its kind is set.
type chartSource struct {
	sourceName
	file   string
	built  bool // by a kustomization, and not read from the file
	git    gitSpec
	helm   repositorySpec // of a HelmRepository or an OCIRepository: they have much in common
	chart  chartSpec      // of a HelmChart
	faults []string       // why nothing can be taken from it
}

// gitSpec is the little that counts of a GitRepository: whether it is the config repo.
type gitSpec struct {
	URL string `json:"url"`
}

// repositorySpec is what is read of a HelmRepository's spec, and of an OCIRepository's. Whatever else is set is reported by its name; nothing
// that Flux would check (verify) is left unchecked. interval is without effect here by design: a build reads a source when it runs.
type repositorySpec struct {
	URL             string           `json:"url"`
	Interval        json.RawMessage  `json:"interval"`
	Timeout         *metav1.Duration `json:"timeout"`
	SecretRef       *secretName      `json:"secretRef"`
	CertSecretRef   *secretName      `json:"certSecretRef"`
	Provider        string           `json:"provider"`
	Insecure        bool             `json:"insecure"`
	Suspend         bool             `json:"suspend"`
	Type            string           `json:"type"`            // HelmRepository only
	PassCredentials bool             `json:"passCredentials"` // HelmRepository only
	Ref             ociRef           `json:"ref"`             // OCIRepository only
	LayerSelector   layerSelector    `json:"layerSelector"`   // OCIRepository only
}

// secretName names a Secret beside the object that names it.
type secretName struct {
	Name string `json:"name"`
}

// ociRef says which artifact of a repository is meant. The first that is set counts: digest, semver, tag; else the tag latest.
type ociRef struct {
	Digest       string `json:"digest"`
	SemVer       string `json:"semver"`
	SemVerFilter string `json:"semverFilter"`
	Tag          string `json:"tag"`
}

// layerSelector says which layer of an artifact is the chart's archive. The operations copy and extract come to the same here: Flux packs
// what it extracted again, and a chart is read from the archive either way.
type layerSelector struct {
	MediaType string `json:"mediaType"`
	Operation string `json:"operation"`
}

// chartSpec is what a HelmRelease says of its chart in spec.chart.spec, or a HelmChart in its spec.
type chartSpec struct {
	Chart     string `json:"chart"`
	Version   string `json:"version"`
	SourceRef struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Name       string `json:"name"`
	} `json:"sourceRef"`
	Interval                 json.RawMessage `json:"interval"`
	ReconcileStrategy        string          `json:"reconcileStrategy"`
	ValuesFiles              []string        `json:"valuesFiles"`
	IgnoreMissingValuesFiles bool            `json:"ignoreMissingValuesFiles"`
	Suspend                  bool            `json:"suspend"` // of a HelmChart
	namespace                string          // of the source
}

// source names what the chart comes from.
func (c chartSpec) source() sourceName {
	return sourceName{c.SourceRef.Kind, c.namespace, c.SourceRef.Name}
}

// sources are the objects of the source controller in the config repo.
type sources map[sourceName]*chartSource

// add takes one object in. raw is its manifest as JSON.
func (s sources) add(file, apiVersion string, name sourceName, raw []byte) {
	from := &chartSource{sourceName: name, file: file}
	from.read(apiVersion, raw)
	s.take(name, from)
}

func (s sources) take(name sourceName, from *chartSource) {
	if other, taken := s[name]; !taken || name.kind == gitRepository { // of a GitRepository only the address counts, as a hint
		s[name] = from
	} else if !from.same(other) {
		other.faults = append(other.faults, fmt.Sprintf("it stands in %s, too, and differs there", from.file))
	}
}

func (c *chartSource) read(apiVersion string, raw []byte) {
	if c.kind == gitRepository {
		var o struct {
			Spec gitSpec `json:"spec"`
		}
		_ = k8sjson.UnmarshalCaseSensitivePreserveInts(raw, &o) // without an address there is nothing to compare
		c.git = o.Spec
		return
	}
	if _, version, _ := strings.Cut(apiVersion, "/"); version != "v1" && version != "v1beta2" {
		c.faults = []string{fmt.Sprintf("apiVersion %s is not supported: want %s/v1 or v1beta2", apiVersion, sourceGroup)}
		return
	}
	if c.kind != helmChart {
		c.faults = append(decode(raw, &c.helm), c.helm.check(c.kind)...)
		return
	}
	c.faults = decode(raw, &c.chart)
	c.chart.namespace = c.namespace
	if c.chart.Suspend {
		c.faults = append(c.faults, suspended)
	}
}

// same reports whether two manifests of one object say the same.
func (c *chartSource) same(other *chartSource) bool {
	return reflect.DeepEqual(c.helm, other.helm) && reflect.DeepEqual(c.chart, other.chart) && slices.Equal(c.faults, other.faults)
}

// elsewhere looks for sources that releases name in the rest of the repo, where folder, the part that is deployed, does not have them: many repos
// keep them apart. What cannot be read there is nobody's business.
func (s sources) elsewhere(repo *source, folder string, parts map[string]bool, list []*wanted) {
	if !slices.ContainsFunc(list, func(w *wanted) bool { return s.lacks(w.source) }) && !slices.ContainsFunc(slices.Collect(maps.Values(s)), func(c *chartSource) bool {
		return c.kind == helmChart && s.lacks(c.chart.source())
	}) {
		return
	}
	outside := sources{}
	for _, name := range repo.names {
		if within(name, folder) || !isYAML(name) || repo.inChart(name) || parts[name] {
			continue
		}
		if text, err := repo.read(name); err == nil && concerns(text) {
			_, _ = readManifests(name, text, "", outside)
		}
	}
	for name, found := range outside {
		if s.lacks(name) {
			s[name] = found
		}
	}
}

func (s sources) lacks(name sourceName) bool {
	_, ok := s[name]
	return !ok && (name.kind == helmRepository || name.kind == ociRepository || name.kind == helmChart)
}

// checkOverlays finds the sources that a kustomization would change, and that no build contains.
func (s sources) checkOverlays(k *kustomized) {
	for _, from := range s {
		if what := k.changedBy(from.file); what != "" && !from.built {
			from.faults = append(from.faults, what)
		}
	}
}

// suspended is said of a source that Flux would not read again: it goes on with an archive that it has, and there is none here.
const suspended = "spec.suspend is not supported"

// decode reads an object's spec and lists what is not known of it.
func decode(raw []byte, spec any) (faults []string) {
	o := struct {
		APIVersion string          `json:"apiVersion"`
		Kind       string          `json:"kind"`
		Metadata   json.RawMessage `json:"metadata"`
		Spec       any             `json:"spec"`
		Status     json.RawMessage `json:"status"`
	}{Spec: spec}
	unknown, err := k8sjson.UnmarshalStrict(raw, &o)
	if err != nil {
		return []string{err.Error()}
	}
	for _, e := range unknown {
		text := e.Error()
		if name, ok := strings.CutPrefix(text, `unknown field "`); ok {
			text = strings.TrimSuffix(name, `"`) + " is not supported"
		}
		faults = append(faults, text)
	}
	return faults
}

// check looks for what is known and cannot be done.
func (s repositorySpec) check(kind string) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	isOCI := kind == ociRepository || s.Type == "oci"
	wrong := func(field string, set bool) {
		if set {
			fault("%s is not a field of %s", field, kind)
		}
	}
	if kind == ociRepository {
		wrong("spec.type", s.Type != "")
		wrong("spec.passCredentials", s.PassCredentials)
	} else {
		wrong("spec.ref", s.Ref != ociRef{})
		wrong("spec.layerSelector", s.LayerSelector != layerSelector{})
	}
	if s.Suspend {
		faults = append(faults, suspended)
	}
	switch s.Type {
	case "", "default", "oci":
	default:
		fault("spec.type: %s is not supported: want default or oci", s.Type)
	}
	switch {
	case s.URL == "":
		fault("spec.url is missing")
	case isOCI != strings.HasPrefix(s.URL, "oci://"):
		if kind == helmRepository && !isOCI {
			fault("spec.url begins with oci://, and spec.type is not oci")
		} else {
			fault("spec.url does not begin with oci://")
		}
	}
	switch s.Provider {
	case "", "generic":
	case "gcp":
		if !isOCI {
			fault("spec.provider: gcp is for OCI only")
		}
	default:
		fault("spec.provider: %s is not supported: want generic or gcp", s.Provider)
	}
	if _, err := regexp.Compile(s.Ref.SemVerFilter); err != nil {
		fault("spec.ref.semverFilter is not a regular expression")
	}
	switch s.LayerSelector.Operation {
	case "", "copy", "extract":
	default:
		fault("spec.layerSelector.operation: %s is not supported", s.LayerSelector.Operation)
	}
	return faults
}

// remoteChart is a chart outside the config repo.
type remoteChart struct {
	from          *chartSource
	name, version string // in a HelmRepository; an OCIRepository names them itself
}

// setChart notes where the chart of a release comes from, as far as the HelmRelease says it.
func (w *wanted) setChart(hr *helmv2.HelmRelease) (faults []string) {
	switch {
	case hr.Spec.Chart != nil && hr.Spec.ChartRef != nil:
		return []string{"spec.chart and spec.chartRef are both set"}
	case hr.Spec.Chart != nil:
		t := hr.Spec.Chart.Spec
		spec := chartSpec{
			Chart: t.Chart, Version: t.Version, ReconcileStrategy: t.ReconcileStrategy, ValuesFiles: t.ValuesFiles,
			IgnoreMissingValuesFiles: t.IgnoreMissingValuesFiles, namespace: hr.Spec.Chart.GetNamespace(hr.Namespace),
		}
		spec.SourceRef.Kind, spec.SourceRef.Name = t.SourceRef.Kind, t.SourceRef.Name
		return w.takeChart(spec, "spec.chart.spec")
	case hr.Spec.ChartRef != nil:
		ref := hr.Spec.ChartRef
		if ref.Kind != ociRepository && ref.Kind != helmChart {
			return []string{fmt.Sprintf("spec.chartRef.kind %q is not supported: want OCIRepository or HelmChart", ref.Kind)}
		}
		w.source = sourceName{ref.Kind, cmp.Or(ref.Namespace, hr.Namespace), ref.Name}
		return nil
	}
	return []string{"spec.chart and spec.chartRef are missing"}
}

// takeChart takes over what a chart's spec says; at is where that stands, for messages.
func (w *wanted) takeChart(spec chartSpec, at string) (faults []string) {
	w.source = spec.source()
	w.valuesFiles, w.ignoreMissing = spec.ValuesFiles, spec.IgnoreMissingValuesFiles
	if len(w.valuesFiles) == 1 && path.Clean(w.valuesFiles[0]) == "values.yaml" {
		w.valuesFiles = nil // what happens anyway (source-controller, BuildOptions.GetValuesFiles)
	}
	switch spec.SourceRef.Kind {
	case gitRepository:
		w.addRevision = spec.ReconcileStrategy == "Revision"
		w.chartPath = path.Clean(spec.Chart)
		if w.chartPath == "." || w.chartPath == ".." || path.IsAbs(w.chartPath) || strings.HasPrefix(w.chartPath, "../") {
			faults = append(faults, fmt.Sprintf("%s.chart %q is not a folder of the repository", at, spec.Chart))
		}
	case helmRepository:
		w.remote = &remoteChart{name: spec.Chart, version: spec.Version}
		if !chartName.MatchString(spec.Chart) {
			faults = append(faults, fmt.Sprintf("%s.chart %q is not the name of a chart", at, spec.Chart))
		}
	default:
		faults = append(faults, fmt.Sprintf("%s.sourceRef.kind %q is not supported: want GitRepository or HelmRepository", at, spec.SourceRef.Kind))
	}
	return faults
}

// chartName is source-controller's rule for names in a HelmRepository (RemoteReference.Validate), without what leads upwards in a URL.
var chartName = regexp.MustCompile(`^[-a-z0-9]+([./][-a-z0-9]+)*$`)

// bind finds the object that the chart of a release comes from. own is the address of the config repo.
func (s sources) bind(w *wanted, own string) {
	if w.source.kind == helmChart {
		from, err := s.find(w.source)
		if err != nil {
			w.addFault(fmt.Sprintf("spec.chartRef: %v", err))
			return
		}
		for _, fault := range w.takeChart(from.chart, fmt.Sprintf("%s (%s): spec", from, from.file)) {
			w.addFault(fault)
		}
	}
	switch w.source.kind {
	case gitRepository:
		w.checkSource(s, own)
	case ociRepository, helmRepository:
		from, err := s.find(w.source)
		if err != nil {
			w.addFault(err.Error())
			return
		}
		if w.remote == nil {
			w.remote = &remoteChart{}
		}
		w.remote.from = from
	}
}

// find returns an object from which a chart can be taken.
func (s sources) find(name sourceName) (*chartSource, error) {
	from, ok := s[name]
	if !ok {
		text := fmt.Sprintf("the config repo has no %s", name)
		for other := range s {
			if other.kind == name.kind && other.name == name.name {
				return nil, fmt.Errorf("%s, only one in namespace %q", text, other.namespace)
			}
		}
		return nil, errors.New(text)
	}
	if len(from.faults) > 0 {
		slices.Sort(from.faults)
		return nil, fmt.Errorf("%s (%s): %s", name, from.file, strings.Join(slices.Compact(from.faults), "; "))
	}
	return from, nil
}

// checkSource refuses a release whose GitRepository is known to be another repository than this one: its chart would be taken from here.
// Only the last path element is compared, since one repository has many addresses (SSH, HTTP, mirrors).
func (w *wanted) checkSource(s sources, own string) {
	if from, ok := s[w.source]; ok && own != "" && repoName(from.git.URL) != repoName(own) {
		w.addFault(fmt.Sprintf("spec.chart.spec.sourceRef is the repository %s, not this one: charts of other Git repositories are not supported", from.git.URL))
	}
}

func repoName(url string) string {
	return strings.TrimSuffix(path.Base(strings.TrimRight(url, "/")), ".git")
}
