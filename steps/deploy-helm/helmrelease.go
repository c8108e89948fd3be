package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v4/pkg/chart/v2/util"
	"sigs.k8s.io/json"
	k8syaml "sigs.k8s.io/yaml"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
)

// wanted is one HelmRelease of the config repo: what should stand in the cluster.
type wanted struct {
	file            string      // or the kustomization that it is built by
	object          objectName  // of the HelmRelease itself
	key             cluster.Key // namespace of the records and name of the Helm release
	namespace       string      // where the objects go
	account         string      // whose it is; "" for nobody's, such as staging
	cluster         string      // which one it is deployed to; see targets.place
	labels          map[string]string
	source          sourceName   // the object of Flux that the chart comes from
	chartPath       string       // of a chart in this repo: its folder, without ./ in front
	addRevision     bool         // the chart's version gets the commit as build metadata
	remote          *remoteChart // of a chart elsewhere
	valuesFiles     []string     // files that make up the chart's default values, instead of its values.yaml; see valuesfiles.go
	ignoreMissing   bool         // those of them that do not exist
	values          map[string]any
	valuesFrom      []helmv2.ValuesReference
	secrets         concealed // what valuesFrom found in Secrets
	dependsOn       []objectName
	needs           []*wanted        // the releases that dependsOn names
	driftMode       string           // enabled, warn, disabled; "" when the HelmRelease does not say
	driftIgnore     []cluster.Ignore // what is no drift
	image           image
	createNamespace bool
	suspended       bool
	maxHistory      int
	timeout         time.Duration // 0: the step's
	settings        settings
	post            postRenderers
	chart           *chartFiles // nil when it has a fault
	fault           string      // why it cannot be deployed at all
	unbuilt         bool        // a kustomization failed, so that what the release would be is not known
}

// objectName names a HelmRelease, which may have another name than its Helm release.
type objectName struct{ Namespace, Name string }

func (n objectName) String() string { return n.Namespace + "/" + n.Name }

// String names the release for people.
func (w *wanted) String() string { return w.key.Namespace + "/" + w.key.Name }

// image is what a HelmRelease says of its service's image, in values.image, the place that charts agree on.
type image struct {
	repository, tag, digest string
	marked                  bool   // the tag is written by the image automation, so that it is one of ours
	misread                 string // why the tag that is deployed would be another than the one that is written; "" when it is the same
}

// service is the last path element of the repository.
func (i image) service() string { return path.Base(i.repository) }

// readReleases finds the HelmReleases below folder. An error means that the repo cannot be trusted as a whole: a file that does not parse
// or two releases under one name. What is wrong with one release alone is its fault.
func readReleases(repo *source, folder, accountLabel string) ([]*wanted, error) {
	var (
		list     []*wanted
		problems []error
		from     = sources{}
	)
	built, err := readKustomized(repo, folder)
	if err != nil {
		return nil, err
	}
	for name := range repo.manifests(folder) {
		if built.parts[name] {
			continue
		}
		text, err := repo.read(name)
		if err != nil {
			return nil, err
		}
		if !concerns(text) {
			continue // anything may lie in a repo: only what concerns us has to be well formed
		}
		found, err := readManifests(name, text, accountLabel, from)
		if err != nil {
			problems = append(problems, err)
		}
		list = append(list, found...)
	}
	for _, w := range list {
		if what := built.changedBy(w.file); what != "" {
			w.addFault(what)
		}
	}
	found, err := built.read(accountLabel, from)
	if err != nil {
		return nil, err
	}
	list = append(list, found...)
	byKey := map[cluster.Key]*wanted{}
	for _, w := range list {
		if other, taken := byKey[w.key]; taken {
			problems = append(problems, fmt.Errorf("%s and %s both describe the release %s", other.file, w.file, w))
		}
		byKey[w.key] = w
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	from.elsewhere(repo, folder, built.parts, list)
	from.checkOverlays(built)
	for _, w := range list {
		from.bind(w, repo.url)
	}
	findDependencies(list)
	slices.SortFunc(list, func(a, b *wanted) int { return strings.Compare(a.String(), b.String()) })
	return list, nil
}

// concerns reports whether a file may hold a HelmRelease or what its chart comes from.
func concerns(text []byte) bool {
	return bytes.Contains(text, []byte(helmv2.HelmReleaseKind)) || slices.ContainsFunc(sourceKinds, func(kind string) bool { return bytes.Contains(text, []byte(kind)) })
}

// readManifests reads the HelmReleases of one file, and notes the sources of charts beside them.
func readManifests(file string, text []byte, accountLabel string, from sources) ([]*wanted, error) {
	if len(text) > maxManifest {
		return nil, fmt.Errorf("%s is larger than %d MiB", file, maxManifest>>20)
	}
	var list []*wanted
	n := 0
	for doc, err := range documents(text) {
		n++
		if err != nil {
			return nil, fmt.Errorf("%s, document %d: %w", file, n, err)
		}
		raw, err := k8syaml.YAMLToJSONStrict(doc) // refuses keys that stand twice
		if err != nil {
			return nil, fmt.Errorf("%s, document %d: %w", file, n, err)
		}
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Metadata   struct {
				Name      string `json:"name"`
				Namespace string `json:"namespace"`
			} `json:"metadata"`
		}
		if err := json.UnmarshalCaseSensitivePreserveInts(raw, &head); err != nil {
			continue // some other kind whose members have other types
		}
		group, _, _ := strings.Cut(head.APIVersion, "/")
		switch {
		case group == sourceGroup && slices.Contains(sourceKinds, head.Kind):
			from.add(file, head.APIVersion, sourceName{head.Kind, head.Metadata.Namespace, head.Metadata.Name}, raw)
		case head.Kind == helmv2.HelmReleaseKind && group == helmv2.GroupVersion.Group:
			w, err := readRelease(file, doc, raw, accountLabel)
			if err != nil {
				return nil, fmt.Errorf("%s, document %d: %w", file, n, err)
			}
			list = append(list, w)
		}
	}
	return list, nil
}

// readRelease reads one HelmRelease, given as YAML and as the JSON made of it.
func readRelease(file string, doc, raw []byte, accountLabel string) (*wanted, error) {
	var hr helmv2.HelmRelease
	unknown, err := json.UnmarshalStrict(raw, &hr)
	if err != nil {
		return nil, err
	}
	w := &wanted{
		file: file, object: objectName{hr.Namespace, hr.Name}, key: cluster.Key{Namespace: hr.Namespace, Name: shortName(hr.GetReleaseName())}, namespace: hr.Namespace,
		account: hr.Labels[accountLabel], labels: hr.Labels, values: hr.GetValues(), valuesFrom: hr.Spec.ValuesFrom, suspended: hr.Spec.Suspend, maxHistory: 5,
	}
	if w.account == "" {
		w.account = hr.Annotations[accountLabel]
	}
	if hr.Spec.StorageNamespace != "" {
		w.key.Namespace = hr.Spec.StorageNamespace
	}
	if hr.Spec.TargetNamespace != "" {
		w.namespace = hr.Spec.TargetNamespace
	}
	if hr.Spec.MaxHistory != nil {
		w.maxHistory = *hr.Spec.MaxHistory
	}
	if hr.Spec.Timeout != nil {
		w.timeout = hr.Spec.Timeout.Duration
	}
	w.createNamespace = hr.GetInstall().CreateNamespace
	w.image = imageOf(w.values, doc)
	var faults []string
	w.settings, faults = readSettings(&hr)
	w.post = postRenderers{renderers: hr.Spec.PostRenderers, common: hr.Spec.CommonMetadata}
	if w.image.misread != "" {
		faults = append(faults, w.image.misread)
	}
	for _, e := range unknown {
		faults = append(faults, e.Error())
	}
	if hr.APIVersion != helmv2.GroupVersion.String() {
		faults = append(faults, fmt.Sprintf("apiVersion %s is not supported: want %s", hr.APIVersion, helmv2.GroupVersion))
	}
	for _, name := range unsupported(reflect.ValueOf(hr.Spec), "spec") {
		faults = append(faults, name+" is not supported")
	}
	switch {
	case hr.Name == "" || hr.Namespace == "":
		faults = append(faults, "metadata.name and metadata.namespace must be set")
	case util.ValidateReleaseName(w.key.Name) != nil:
		faults = append(faults, fmt.Sprintf("release name %q is not valid: at most 53 lower-case letters, digits, - and .", w.key.Name))
	}
	faults = append(faults, w.setChart(&hr)...)
	for n, ref := range hr.Spec.DependsOn {
		if ref.ReadyExpr != "" {
			faults = append(faults, fmt.Sprintf("spec.dependsOn[%d].readyExpr is not supported", n))
		}
		w.dependsOn = append(w.dependsOn, objectName{cmp.Or(ref.Namespace, hr.Namespace), ref.Name})
	}
	for n, ref := range w.valuesFrom {
		if ref.Kind != "ConfigMap" && ref.Kind != "Secret" {
			faults = append(faults, fmt.Sprintf("spec.valuesFrom[%d].kind %q is not supported: want ConfigMap or Secret", n, ref.Kind))
		} else if ref.Name == "" {
			faults = append(faults, fmt.Sprintf("spec.valuesFrom[%d].name is missing", n))
		}
	}
	if err := w.readDrift(hr.Spec.DriftDetection); err != nil {
		faults = append(faults, err.Error())
	}
	w.fault = strings.Join(faults, "; ")
	return w, nil
}

// shortName is how Flux's helm controller shortens a name beyond Helm's 53 characters (internal/release ShortenName): the first 40, and the
// first 12 hexadecimal digits of the whole name's SHA-256.
func shortName(name string) string {
	if len(name) <= 53 {
		return name
	}
	return name[:40] + "-" + fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:12]
}

// known says which fields of a HelmRelease are acted on, or are without effect here by design (marked). Any other field that is set is
// reported by its name: a setting that is silently ignored is a wrong deployment. The value, where there is one, is the only one that is
// accepted, because it is what happens anyway; "{" descends.
var known = map[string]string{
	"spec.interval":                                 "", // by design: a build deploys at push time
	"spec.suspend":                                  "",
	"spec.releaseName":                              "",
	"spec.targetNamespace":                          "",
	"spec.storageNamespace":                         "",
	"spec.driftDetection":                           "{",
	"spec.driftDetection.mode":                      "",
	"spec.driftDetection.ignore":                    "",
	"spec.timeout":                                  "",
	"spec.maxHistory":                               "",
	"spec.values":                                   "",
	"spec.valuesFrom":                               "",
	"spec.dependsOn":                                "",
	"spec.chartRef":                                 "",
	"spec.chart":                                    "{",
	"spec.chart.metadata":                           "", // by design: of the HelmChart object in the cluster, which is not made
	"spec.chart.spec":                               "{",
	"spec.chart.spec.chart":                         "",
	"spec.chart.spec.version":                       "", // without effect for a GitRepository, as in Flux
	"spec.chart.spec.sourceRef":                     "",
	"spec.chart.spec.interval":                      "", // by design
	"spec.chart.spec.reconcileStrategy":             "",
	"spec.chart.spec.valuesFiles":                   "",
	"spec.chart.spec.ignoreMissingValuesFiles":      "",
	"spec.persistentClient":                         "", // by design: no client is kept beyond the run
	"spec.serviceAccountName":                       "",
	"spec.commonMetadata":                           "",
	"spec.postRenderers":                            "",
	"spec.postRenderStrategy":                       "",
	"spec.waitStrategy":                             "{",
	"spec.waitStrategy.name":                        "poller", // what Flux calls its own way; ours is another, with the same rules
	"spec.install":                                  "{",
	"spec.install.timeout":                          "",
	"spec.install.createNamespace":                  "",
	"spec.install.crds":                             "",
	"spec.install.skipCRDs":                         "",
	"spec.install.disableWait":                      "",
	"spec.install.disableWaitForJobs":               "",
	"spec.install.disableHooks":                     "",
	"spec.install.disableOpenAPIValidation":         "", // by design: the server validates what it applies, and Helm's own validation leaves it to it
	"spec.install.disableSchemaValidation":          "",
	"spec.install.disableTakeOwnership":             "",
	"spec.install.replace":                          "", // by design: the name of an uninstalled release can always be used again
	"spec.install.serverSideApply":                  "",
	"spec.install.strategy":                         "{",
	"spec.install.strategy.name":                    "",
	"spec.install.strategy.retryInterval":           "", // by design: the next build tries again
	"spec.install.remediation":                      "{",
	"spec.install.remediation.retries":              "", // by design: a build tries once, and ON_FAILURE says what follows
	"spec.install.remediation.remediateLastFailure": "",
	"spec.install.remediation.ignoreTestFailures":   "",
	"spec.upgrade":                                  "{",
	"spec.upgrade.timeout":                          "",
	"spec.upgrade.crds":                             "",
	"spec.upgrade.disableWait":                      "",
	"spec.upgrade.disableWaitForJobs":               "",
	"spec.upgrade.disableHooks":                     "",
	"spec.upgrade.disableOpenAPIValidation":         "", // by design: the server validates what it applies, and Helm's own validation leaves it to it
	"spec.upgrade.disableSchemaValidation":          "",
	"spec.upgrade.disableTakeOwnership":             "",
	"spec.upgrade.force":                            "",
	"spec.upgrade.preserveValues":                   "",
	"spec.upgrade.cleanupOnFail":                    "",
	"spec.upgrade.serverSideApply":                  "",
	"spec.upgrade.chartNameChangeStrategy":          "InPlaceUpdate", // what happens anyway
	"spec.upgrade.strategy":                         "{",
	"spec.upgrade.strategy.name":                    "",
	"spec.upgrade.strategy.retryInterval":           "", // by design: the next build tries again
	"spec.upgrade.remediation":                      "{",
	"spec.upgrade.remediation.retries":              "", // by design: a build tries once
	"spec.upgrade.remediation.remediateLastFailure": "", // by design: ON_FAILURE says whether it is
	"spec.upgrade.remediation.strategy":             "",
	"spec.upgrade.remediation.ignoreTestFailures":   "",
	"spec.test":                                     "", // with all that is in it
	"spec.rollback":                                 "", // with all that is in it; recreate has no effect in Helm 4
	"spec.uninstall":                                "", // with all that is in it
}

// unsupported lists the fields that are set and not known, by their names in the manifest.
func unsupported(v reflect.Value, name string) []string {
	var list []string
	for i := range v.NumField() {
		f := v.Field(i)
		if f.IsZero() {
			continue
		}
		tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		full := name + "." + tag
		if f.Kind() == reflect.Pointer {
			f = f.Elem()
		}
		switch want, ok := known[full]; {
		case !ok:
			list = append(list, full)
		case want == "{":
			list = append(list, unsupported(f, full)...)
		case want != "" && f.String() != want:
			list = append(list, fmt.Sprintf("%s: %s", full, f.String()))
		}
	}
	return list
}

// imageOf reads values.image. The YAML text tells whether the tag carries a marker of the image automation.
func imageOf(values map[string]any, doc []byte) image {
	section, _ := values["image"].(map[string]any)
	var i image
	i.repository, _ = section["repository"].(string)
	i.tag, _ = section["tag"].(string)
	i.digest, _ = section["digest"].(string)
	var root yaml.Node
	var n *yaml.Node
	if yaml.Unmarshal(doc, &root) == nil && len(root.Content) > 0 {
		n = root.Content[0]
		for _, name := range []string{"spec", "values", "image", "tag"} {
			n = member(n, name)
		}
		i.marked = n != nil && strings.Contains(n.LineComment, `"$imagepolicy"`)
	}
	i.readNumber(n, section["tag"])
	return i
}

// readNumber takes a tag that YAML took for a number or the like, because it has no quotes. A template prints it as Go does: 20 stays what it
// is, but 0123 becomes 83, 1.10 becomes 1.1, and 1e10 becomes 1e+10. n is where it is written, nil when that is not known.
func (i *image) readNumber(n *yaml.Node, value any) {
	switch value.(type) {
	case float64, int64, bool:
	default:
		return
	}
	i.tag = fmt.Sprint(value)
	if n != nil && n.Kind == yaml.ScalarNode && n.Value != i.tag {
		i.misread = fmt.Sprintf("values.image.tag is %s without quotes, which is deployed as %s: put it into quotes", n.Value, i.tag)
	}
}

func member(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

func (w *wanted) addFault(text string) {
	if w.fault != "" {
		text = w.fault + "; " + text
	}
	w.fault = text
}
