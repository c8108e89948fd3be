package cluster

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"helm.sh/helm/v4/pkg/kube"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/cli-runtime/pkg/resource"
)

// driftExclusion is the label or annotation that takes an object out of drift detection, when it is "disabled" (Flux's).
const driftExclusion = "helm.toolkit.fluxcd.io/driftDetection"

// Drifted is an object that differs from what its release says.
type Drifted struct {
	Change                            // Create for what was deleted, Update for what was changed
	info   *resource.Info             // its address
	object *unstructured.Unstructured // what would have to be applied
}

// Drift compares the objects of a revision with what is live: each is applied as a trial (dryRun=All), so that fields that others own, and what
// the server fills in, are no drift. Left out, as in Flux, are objects labelled or annotated helm.toolkit.fluxcd.io/driftDetection: disabled,
// and what ignore names. It costs a request for the record and two for each object.
func (c *Cluster) Drift(ctx context.Context, r Record, ignore []Ignore) ([]Drifted, error) {
	rel, err := c.store(Key{r.Namespace, r.Name}, r.Revision, Mark{}).record(recordName(r.Name, r.Revision))
	if err != nil {
		return nil, fmt.Errorf("reading record %s: %w", recordName(r.Name, r.Revision), c.explain(err))
	}
	objects, err := parse(rel.Manifest)
	if err != nil {
		return nil, err
	}
	p := &preview{cluster: c, rendered: rel}
	var list []Drifted
	for _, o := range objects {
		if o.GetLabels()[driftExclusion] == "disabled" || o.GetAnnotations()[driftExclusion] == "disabled" {
			continue
		}
		info, err := c.locate(o, rel.Namespace)
		if info == nil {
			return nil, fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
		paths := ignoredPaths(ignore, o)
		if paths[""] { // the whole object
			continue
		}
		own(o, rel)
		d, err := p.drifted(ctx, info, o, paths)
		if err != nil {
			return nil, err
		}
		if d.Before != d.After || len(d.Refusals) > 0 {
			list = append(list, d)
		}
	}
	return list, nil
}

func (p *preview) drifted(ctx context.Context, info *resource.Info, o *unstructured.Unstructured, paths map[string]bool) (Drifted, error) {
	d := Drifted{Change: Change{Kind: o.GetKind(), Namespace: info.Namespace, Name: info.Name, Action: Update}, info: info, object: o}
	live, err := p.cluster.live(ctx, info)
	if err != nil {
		return d, err
	}
	if live == nil {
		d.Action = Create
		_, d.After = shown(nil, o)
		return d, nil
	}
	if err := (&claim{cluster: p.cluster}).check(ctx, info, live, p.rendered); errors.Is(err, ErrOwned) {
		d.Refusals = []Refusal{{Message: err.Error()}}
		return d, nil
	} else if err != nil {
		return d, err
	}
	if statesReplicas(o) && scaledElsewhere(live.GetManagedFields()) {
		dropReplicas(o)
	}
	for path := range paths { // what is live stays, also when the rest is corrected
		if value, ok := pointed(live.Object, path); ok {
			point(o.Object, path, value)
		} else if in, name := holder(o.Object, path); in != nil {
			if in, ok := in.(map[string]any); ok {
				delete(in, name)
			}
		}
	}
	after, err := p.try(ctx, info, o)
	if err != nil {
		if err := p.judge(&d.Change, err); err != nil {
			return d, fmt.Errorf("trying %s: %w", describe(info), err)
		}
		return d, nil
	}
	was, is := live.DeepCopy(), after.DeepCopy()
	for path := range paths {
		blank(was.Object, path)
		blank(is.Object, path)
	}
	d.Before, d.After = shown(was, is)
	return d, nil
}

// Correct applies what has drifted once more, as the same revision, and waits for it: as Flux does, it writes no record. What the server refuses
// is left out. Nothing is touched when the release is at another revision than r.Newest by now.
func (c *Cluster) Correct(ctx context.Context, r Release, drift []Drifted, report func(string)) error {
	state, err := c.State(ctx, r.Key)
	if err != nil {
		return err
	}
	if state.Newest.Revision != r.Newest.Revision || !state.Newest.Deployed() {
		return fmt.Errorf("revision %d has drifted, %d (%s) is the newest now: %w", r.Newest.Revision, state.Newest.Revision, state.Newest.Status, ErrMoved)
	}
	var applied kube.ResourceList
	for _, d := range drift {
		if len(d.Refusals) > 0 {
			continue
		}
		is, err := c.apply(ctx, d.info, d.object)
		if err != nil {
			return fmt.Errorf("correcting %s: %w", describe(d.info), c.explain(err))
		}
		applied = append(applied, &resource.Info{Mapping: d.info.Mapping, Namespace: d.info.Namespace, Name: d.info.Name, Object: is})
	}
	w := &waiter{ctx: ctx, cluster: c, patience: r.Patience, logLines: r.LogLines, report: report}
	return w.withLog(w.WaitWithJobs(applied, r.Timeout))
}

// Ignore is a rule about what is no drift (spec.driftDetection.ignore of a HelmRelease).
type Ignore struct {
	paths  []string
	target *target
}

// Selector chooses objects. All fields are optional; the first five are regular expressions that have to match as a whole.
type Selector struct {
	Group, Version, Kind, Namespace, Name string
	Labels, Annotations                   string // label selectors
}

// NewIgnore makes a rule of JSON pointers (RFC 6901; "" is the whole object) and of the objects that they are about, nil for all.
func NewIgnore(paths []string, s *Selector) (Ignore, error) {
	for _, p := range paths {
		if p != "" && !strings.HasPrefix(p, "/") {
			return Ignore{}, fmt.Errorf("%q is not a JSON pointer: it begins with a slash", p)
		}
	}
	if s == nil {
		return Ignore{paths: paths}, nil
	}
	t := &target{}
	for _, text := range []string{s.Group, s.Version, s.Kind, s.Namespace, s.Name} {
		if text == "" {
			text = ".*"
		}
		re, err := regexp.Compile("^(?:" + text + ")$")
		if err != nil {
			return Ignore{}, err
		}
		t.patterns = append(t.patterns, re)
	}
	var err error
	if t.labels, err = labels.Parse(s.Labels); err != nil {
		return Ignore{}, err
	}
	t.annotations, err = labels.Parse(s.Annotations)
	return Ignore{paths: paths, target: t}, err
}

type target struct {
	patterns            []*regexp.Regexp // group, version, kind, namespace, name
	labels, annotations labels.Selector
}

func (t *target) matches(o *unstructured.Unstructured) bool {
	kind := o.GroupVersionKind()
	for i, text := range []string{kind.Group, kind.Version, kind.Kind, o.GetNamespace(), o.GetName()} {
		if !t.patterns[i].MatchString(text) {
			return false
		}
	}
	return t.labels.Matches(labels.Set(o.GetLabels())) && t.annotations.Matches(labels.Set(o.GetAnnotations()))
}

func ignoredPaths(rules []Ignore, o *unstructured.Unstructured) map[string]bool {
	paths := map[string]bool{}
	for _, rule := range rules {
		if rule.target == nil || rule.target.matches(o) {
			for _, p := range rule.paths {
				paths[p] = true
			}
		}
	}
	return paths
}

var unescape = strings.NewReplacer("~1", "/", "~0", "~")

// holder finds what holds the member that a JSON pointer names, and the member's name or index.
func holder(root any, pointer string) (any, string) {
	parts := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i := range parts {
		parts[i] = unescape.Replace(parts[i])
	}
	for _, part := range parts[:len(parts)-1] {
		root, _ = memberOf(root, part)
	}
	return root, parts[len(parts)-1]
}

func memberOf(in any, name string) (any, bool) {
	switch in := in.(type) {
	case map[string]any:
		v, ok := in[name]
		return v, ok
	case []any:
		if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < len(in) {
			return in[n], true
		}
	}
	return nil, false
}

func pointed(root map[string]any, pointer string) (any, bool) { return memberOf(holder(root, pointer)) }

// point sets the member that a pointer names, where there is something that can hold it.
func point(root map[string]any, pointer string, value any) {
	switch in, name := holder(root, pointer); in := in.(type) {
	case map[string]any:
		in[name] = value
	case []any:
		if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < len(in) {
			in[n] = value
		}
	}
}

// blank removes the member that a pointer names; of a list it only empties the place, so that the others keep theirs.
func blank(root map[string]any, pointer string) {
	switch in, name := holder(root, pointer); in := in.(type) {
	case map[string]any:
		delete(in, name)
	case []any:
		if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < len(in) {
			in[n] = nil
		}
	}
}
