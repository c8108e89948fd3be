package cluster

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/kube"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/dynamic"
)

// What becomes of an object.
const (
	Create    = "create"
	Update    = "update"
	Delete    = "delete"
	Keep      = "keep" // no longer part of the release; stays, since helm.sh/resource-policy says so or another release has it
	Unchanged = "unchanged"
	Hook      = "hook" // created by a hook
)

// Change is what a deployment would do to one object.
type Change struct {
	Kind      string
	Namespace string // "" for an object of the whole cluster
	Name      string
	Action    string    // one of the words above
	Before    string    // YAML of what is live, else of what the last revision had, without what the server sets; Secrets masked; "" for nothing
	After     string    // YAML of what would be, in the same form
	Refusals  []Refusal // why the server does not take it
	Unchecked string    // why the server could not be asked; "" when it was
}

// Refusal is one reason for which the API server does not take an object.
type Refusal struct {
	Field   string // as the server names it: spec.replicas; "" when it is not about one field
	Message string
}

// errRendered ends a deployment that is only looked at.
var errRendered = errors.New("rendered")

// Preview tells what Deploy would do, object by object, without doing it. It is Deploy up to the moment in which the new revision's record
// would be written, so that chart, values, capabilities and settings take the same way; then every object is sent to the API server as a
// server-side apply with dryRun=All, which runs its validation and all admission. Helm's own dry run sends nothing. An error means that
// the release cannot be rendered, or that the cluster cannot be asked; what the server refuses stands in the changes.
func (c *Cluster) Preview(ctx context.Context, r Release) ([]Change, error) {
	var rendered, current *releasev1.Release
	r.rendered = func(next *releasev1.Release, known []*releasev1.Release) {
		rendered, current = next, currentOf(known)
	}
	custom := r.Chart.CRDObjects() // Helm uses the chart up
	definitions := ""
	for _, d := range custom {
		definitions += "\n---\n" + string(d.File.Data)
	}
	_, err := c.Deploy(ctx, r, func(string) {})
	if err != nil && !errors.Is(err, errRendered) {
		return nil, err
	}
	if rendered == nil {
		return nil, errors.New("the release was not rendered")
	}
	p := preview{cluster: c, release: r, rendered: rendered, build: c.builder(r.Namespace), had: map[string]*unstructured.Unstructured{}}
	return p.changes(ctx, current, definitions)
}

// currentOf is the revision that an upgrade compares with, as Helm chooses it: the one that is deployed, else the newest.
func currentOf(known []*releasev1.Release) *releasev1.Release {
	var best *releasev1.Release
	rank := func(r *releasev1.Release) int {
		if r.Info != nil && r.Info.Status.String() == "deployed" {
			return 1_000_000_000 + r.Version
		}
		return r.Version
	}
	for _, r := range known {
		if best == nil || rank(r) > rank(best) {
			best = r
		}
	}
	return best
}

// preview is one release on its way to a list of changes.
type preview struct {
	cluster  *Cluster
	release  Release
	rendered *releasev1.Release
	build    func(manifest string) (kube.ResourceList, error)
	had      map[string]*unstructured.Unstructured // objects of the current revision, by identity
	brought  map[schema.GroupKind]bool             // kinds that the chart's own definitions make
	spaces   map[string]bool                       // namespaces that the deployment creates
}

func (p *preview) changes(ctx context.Context, current *releasev1.Release, definitions string) ([]Change, error) {
	c := p.cluster
	objects, err := parse(p.rendered.Manifest)
	if err != nil {
		return nil, err
	}
	defined, err := parse(definitions)
	if err != nil {
		return nil, err
	}
	p.expect(append(slices.Clone(defined), objects...))
	var changes []Change
	policy := cmp.Or(p.release.Settings.Upgrade.CRDs, "Skip")
	if p.release.IsInstall() {
		policy = cmp.Or(p.release.Settings.Install.CRDs, "Create")
	}
	for _, o := range defined {
		change, err := p.definition(ctx, o, policy)
		if err != nil {
			return nil, err
		}
		changes = append(changes, change...)
	}
	var old kube.ResourceList
	if current != nil {
		if old, err = p.build(current.Manifest); err != nil {
			return nil, fmt.Errorf("reading the manifest of revision %d: %w", current.Version, err)
		}
	}
	for _, info := range old {
		o, err := asUnstructured(info.Object)
		if err != nil {
			return nil, err
		}
		own(o, p.rendered)
		p.had[identity(info)] = o
	}
	kept := map[string]bool{}
	for _, o := range objects {
		info, why := c.locate(o, p.release.Namespace)
		if info == nil {
			changes = append(changes, p.unknown(o, why))
			continue
		}
		kept[identity(info)] = true
		own(o, p.rendered)
		change, err := p.object(ctx, info, o)
		if err != nil {
			return nil, err
		}
		changes = append(changes, change)
	}
	for _, info := range old {
		if kept[identity(info)] {
			continue
		}
		change, err := p.deletion(ctx, info)
		if err != nil {
			return nil, err
		}
		changes = append(changes, change...)
	}
	hooks, err := p.hooks(ctx)
	return append(changes, hooks...), err
}

// expect notes what objects of the release need and what the release itself brings.
func (p *preview) expect(objects []*unstructured.Unstructured) {
	p.brought, p.spaces = map[schema.GroupKind]bool{}, map[string]bool{}
	if p.release.CreateNamespace && p.release.IsInstall() {
		p.spaces[p.release.Namespace] = true
	}
	for _, o := range objects {
		switch o.GroupVersionKind().GroupKind() {
		case schema.GroupKind{Kind: "Namespace"}:
			p.spaces[o.GetName()] = true
		case schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}:
			p.brought[definedKind(o)] = true
		}
	}
}

// unknown is an object whose kind the server does not know.
func (p *preview) unknown(o *unstructured.Unstructured, why error) Change {
	change := Change{Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName(), Action: Create}
	if p.brought[o.GroupVersionKind().GroupKind()] {
		change.Unchecked = "its kind is defined by this chart, and the cluster does not have it yet"
	} else {
		change.Refusals = []Refusal{{Message: why.Error()}}
	}
	_, change.After = shown(nil, o)
	return change
}

// object is what happens to one object of the new revision.
func (p *preview) object(ctx context.Context, info *resource.Info, o *unstructured.Unstructured) (Change, error) {
	change := Change{Kind: o.GetKind(), Namespace: info.Namespace, Name: info.Name}
	live, err := p.cluster.live(ctx, info)
	if err != nil {
		return change, err
	}
	if live != nil && statesReplicas(o) && scaledElsewhere(live.GetManagedFields()) {
		dropReplicas(o)
	}
	last := p.had[identity(info)]
	change.Action = Update
	if live == nil {
		change.Action = Create
	}
	if live != nil && last == nil {
		err := (&claim{cluster: p.cluster}).check(ctx, info, live, p.rendered)
		if errors.Is(err, ErrOwned) {
			change.Refusals = []Refusal{{Message: err.Error()}}
			change.Before, change.After = shown(last, o)
			return change, nil
		}
		if err != nil {
			return change, err
		}
	}
	after, err := p.try(ctx, info, o)
	if err != nil {
		if err := p.judge(&change, err); err != nil {
			return change, fmt.Errorf("trying %s: %w", describe(info), err)
		}
		change.Before, change.After = shown(last, o)
		return change, nil
	}
	if live == nil { // what the server would fill in is nobody's change
		change.Before, change.After = shown(last, o)
		return change, nil
	}
	if change.Before, change.After = shown(live, after); change.Before == change.After {
		change.Action = Unchanged
	}
	return change, nil
}

// try applies an object without persisting it.
func (p *preview) try(ctx context.Context, info *resource.Info, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return p.cluster.apply(ctx, info, o, metav1.DryRunAll)
}

// apply applies an object as Helm does in a deployment, or only tries to, with dryRun metav1.DryRunAll.
func (c *Cluster) apply(ctx context.Context, info *resource.Info, o *unstructured.Unstructured, dryRun ...string) (*unstructured.Unstructured, error) {
	data, err := json.Marshal(o.Object)
	if err != nil {
		return nil, err
	}
	force := true
	return c.objectsOf(info).Patch(ctx, info.Name, types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: kube.ManagedFieldsManager, Force: &force, DryRun: dryRun})
}

// judge tells a refusal from an answer that says nothing about the object, and from a failure, which it returns.
func (p *preview) judge(change *Change, err error) error {
	status, answered := errors.AsType[*apierrors.StatusError](err)
	switch {
	case !answered || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsUnauthorized(err):
		return p.cluster.explain(err)
	case apierrors.IsNotFound(err) && status.Status().Details != nil && status.Status().Details.Kind == "namespaces":
		if p.spaces[change.Namespace] {
			change.Unchecked = fmt.Sprintf("namespace %s does not exist yet; this deployment creates it", change.Namespace)
			return nil
		}
		change.Refusals = []Refusal{{"metadata.namespace", fmt.Sprintf("namespace %s does not exist: create it, or set spec.install.createNamespace of the HelmRelease", change.Namespace)}}
	case strings.Contains(err.Error(), "does not support dry run"):
		change.Unchecked = err.Error()
	case apierrors.IsForbidden(err):
		change.Refusals = []Refusal{{Message: p.cluster.explain(err).Error()}}
	default:
		change.Refusals = refusalsOf(status, change.Kind == "Secret")
	}
	return nil
}

// deletion is what happens to an object that the new revision does not have any more.
func (p *preview) deletion(ctx context.Context, info *resource.Info) ([]Change, error) {
	live, err := p.cluster.live(ctx, info)
	if live == nil {
		return nil, err
	}
	change := Change{Kind: live.GetKind(), Namespace: info.Namespace, Name: info.Name, Action: Delete}
	if isOthers(live, p.rendered) || live.GetAnnotations()[kube.ResourcePolicyAnno] == kube.KeepPolicy {
		change.Action = Keep
		return []Change{change}, nil
	}
	change.Before, _ = shown(live, nil)
	return []Change{change}, nil
}

// definition is what happens to a CustomResourceDefinition of crds/, by the policy that applyCRDs follows. Anything else there is left out.
func (p *preview) definition(ctx context.Context, o *unstructured.Unstructured, policy string) ([]Change, error) {
	if policy == "Skip" || o.GetKind() != "CustomResourceDefinition" {
		return nil, nil
	}
	info, why := p.cluster.locate(o, p.release.Namespace)
	if info == nil {
		return []Change{p.unknown(o, why)}, nil
	}
	live, err := p.cluster.objectsOf(info).Get(ctx, info.Name, metav1.GetOptions{})
	if err == nil && policy == "Create" {
		return nil, nil
	}
	change := Change{Kind: o.GetKind(), Name: o.GetName(), Action: Update}
	if apierrors.IsNotFound(err) {
		live, change.Action = nil, Create
	} else if err != nil {
		return nil, p.cluster.explain(err)
	}
	after, err := p.try(ctx, info, o)
	switch {
	case err != nil:
		if err := p.judge(&change, err); err != nil {
			return nil, fmt.Errorf("trying %s: %w", describe(info), err)
		}
		_, change.After = shown(nil, o)
	case live == nil:
		_, change.After = shown(nil, o)
	default:
		if change.Before, change.After = shown(live, after); change.Before == change.After {
			change.Action = Unchanged
		}
	}
	return []Change{change}, nil
}

// hooks tries the objects of the hooks that would run. Helm deletes what a hook left behind before it creates it again; since nothing is
// deleted here, such an object is tried under another name.
func (p *preview) hooks(ctx context.Context) ([]Change, error) {
	events, off := []releasev1.HookEvent{releasev1.HookPreUpgrade, releasev1.HookPostUpgrade}, p.release.Settings.Upgrade.DisableHooks
	if p.release.IsInstall() {
		off = p.release.Settings.Install.DisableHooks
		events = []releasev1.HookEvent{releasev1.HookPreInstall, releasev1.HookPostInstall}
	}
	if off {
		return nil, nil
	}
	var changes []Change
	for _, h := range p.rendered.Hooks {
		if !slices.ContainsFunc(h.Events, func(e releasev1.HookEvent) bool { return slices.Contains(events, e) }) {
			continue
		}
		objects, err := parse(h.Manifest)
		if err != nil {
			return nil, fmt.Errorf("hook %s: %w", h.Path, err)
		}
		for _, o := range objects {
			info, why := p.cluster.locate(o, p.release.Namespace)
			if info == nil {
				changes = append(changes, p.unknown(o, why))
				continue
			}
			change := Change{Kind: o.GetKind(), Namespace: info.Namespace, Name: info.Name, Action: Hook}
			anew := len(h.DeletePolicies) == 0 || slices.Contains(h.DeletePolicies, releasev1.HookBeforeHookCreation)
			if _, err := p.cluster.objectsOf(info).Get(ctx, info.Name, metav1.GetOptions{}); err == nil && anew {
				info.Name = info.Name[:min(len(info.Name), 52)] + "-preview"
				o.SetName(info.Name)
			}
			if _, err := p.try(ctx, info, o); err != nil {
				if err := p.judge(&change, err); err != nil {
					return nil, fmt.Errorf("trying %s: %w", describe(info), err)
				}
			}
			changes = append(changes, change)
		}
	}
	return changes, nil
}

// own puts on an object what Helm puts on it before it applies it (helm.sh/helm/v4/pkg/action validate.go).
func own(o *unstructured.Unstructured, rel *releasev1.Release) {
	labels, annotations := o.GetLabels(), o.GetAnnotations()
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	labels["app.kubernetes.io/managed-by"] = "Helm"
	annotations[annotationRelease], annotations[annotationNamespace] = rel.Name, rel.Namespace
	o.SetLabels(labels)
	o.SetAnnotations(annotations)
}

// builder makes Helm's objects of a manifest, leaving out those whose kind the server does not know.
func (c *Cluster) builder(namespace string) func(manifest string) (kube.ResourceList, error) {
	inner := kube.New(c.getter.in(namespace))
	inner.Namespace = namespace
	return func(manifest string) (kube.ResourceList, error) {
		known, err := c.knownKinds(strings.NewReader(manifest), namespace)
		if err != nil {
			return nil, err
		}
		return inner.Build(known, false)
	}
}

// knownKinds drops the objects of a manifest whose kind the server does not know: a chart may bring the definition along.
func (c *Cluster) knownKinds(manifest io.Reader, namespace string) (io.Reader, error) {
	text, err := io.ReadAll(manifest)
	if err != nil {
		return nil, err
	}
	objects, err := parse(string(text))
	if err != nil {
		return nil, err
	}
	var known bytes.Buffer
	for _, o := range objects {
		if info, _ := c.locate(o, namespace); info == nil {
			continue
		}
		data, err := json.Marshal(o.Object)
		if err != nil {
			return nil, err
		}
		known.WriteString("---\n")
		known.Write(data)
		known.WriteString("\n")
	}
	return &known, nil
}

// locate finds the address of an object. A namespaced object without a namespace is in the one that is given. There is no address, and a
// reason, when the server does not know the kind.
func (c *Cluster) locate(o *unstructured.Unstructured, namespace string) (*resource.Info, error) {
	kind := o.GroupVersionKind()
	mapping, err := c.getter.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, err
	}
	info := &resource.Info{Mapping: mapping, Name: o.GetName(), Object: o}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		if info.Namespace = o.GetNamespace(); info.Namespace == "" {
			info.Namespace = namespace
			o.SetNamespace(namespace)
		}
	}
	return info, nil
}

// objectsOf is the client for objects of the same kind in the same namespace.
func (c *Cluster) objectsOf(info *resource.Info) dynamic.ResourceInterface {
	client := c.dynamic.Resource(info.Mapping.Resource)
	if info.Mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return client.Namespace(info.Namespace)
	}
	return client
}

// live reads an object; nil when there is none.
func (c *Cluster) live(ctx context.Context, info *resource.Info) (*unstructured.Unstructured, error) {
	o, err := c.objectsOf(info).Get(ctx, info.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("looking for %s: %w", describe(info), c.explain(err))
	}
	return o, nil
}

// parse reads the objects of a manifest; lists are taken apart. Whole numbers stay whole.
func parse(manifest string) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	// The reader loses an unterminated last line of certain lengths (helm#32506).
	documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(manifest + "\n")))
	for {
		doc, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		o := &unstructured.Unstructured{}
		if err == nil {
			doc, err = utilyaml.ToJSON(doc)
		}
		if err == nil {
			err = utiljson.Unmarshal(doc, &o.Object)
		}
		if err != nil {
			return nil, fmt.Errorf("reading a manifest: %w", err)
		}
		switch {
		case len(o.Object) == 0:
		case o.IsList():
			err = o.EachListItem(func(item runtime.Object) error {
				u, err := asUnstructured(item)
				objects = append(objects, u)
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("reading a manifest: %w", err)
			}
		default:
			objects = append(objects, o)
		}
	}
}
