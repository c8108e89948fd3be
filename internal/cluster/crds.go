package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/kube"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
)

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// How long the API server may take to serve a new kind, and how often it is asked. Flux gives it as long.
const (
	establishTimeout = time.Minute
	establishPoll    = 100 * time.Millisecond
)

// capabilities are what charts may ask of the cluster. They change while releases are deployed: a chart may bring kinds of its own.
type capabilities struct {
	mu   sync.Mutex
	caps common.Capabilities
}

func (c *capabilities) get() *common.Capabilities {
	c.mu.Lock()
	defer c.mu.Unlock()
	caps := c.caps
	return &caps
}

func (c *capabilities) set(caps common.Capabilities) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caps = caps
}

// definitions remembers which CustomResourceDefinitions were applied in this run, so that a chart that many releases share costs its
// requests once.
type definitions struct {
	mu   sync.Mutex
	done map[string]bool // by policy and content
}

// applyCRDs applies the CustomResourceDefinitions of the chart's crds/ folders, and waits until their kinds are served. Helm does that at
// the first install only: a newer chart's custom resources then meet the old definitions. policy is Flux's: Skip, Create (what does not
// exist) or CreateReplace. Like in Flux nothing is ever deleted, and what else lies in crds/ is left out.
func (c *Cluster) applyCRDs(ctx context.Context, r Release, policy string, report func(string)) error {
	if policy == "Skip" || len(r.Chart.CRDObjects()) == 0 || r.rendered != nil { // a preview changes nothing
		return nil
	}
	if policy != "Create" && policy != "CreateReplace" {
		return fmt.Errorf("the CRD policy %q is none of Skip, Create, CreateReplace", policy)
	}
	if err := chartutil.ProcessDependencies(r.Chart, r.Values); err != nil { // the crds/ of a disabled dependency do not count
		return fmt.Errorf("reading the chart's dependencies: %w", err)
	}
	c.definitions.mu.Lock()
	defer c.definitions.mu.Unlock()
	var applied []*unstructured.Unstructured
	var ids []string
	for _, file := range r.Chart.CRDObjects() {
		id := fmt.Sprintf("%s %x", policy, sha256.Sum256(file.File.Data))
		if c.definitions.done[id] {
			continue
		}
		documents := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(file.File.Data), 4096)
		for {
			o := &unstructured.Unstructured{}
			err := documents.Decode(&o.Object)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("reading %s: %w", file.Filename, err)
			}
			if len(o.Object) == 0 {
				continue
			}
			if o.GroupVersionKind().GroupKind() != (schema.GroupKind{Group: crdResource.Group, Kind: "CustomResourceDefinition"}) {
				report(fmt.Sprintf("%s holds %s %s, which is no CustomResourceDefinition and is left out", file.Filename, o.GetKind(), o.GetName()))
				continue
			}
			is, err := c.applyCRD(ctx, o, policy)
			if err != nil {
				return fmt.Errorf("applying CustomResourceDefinition %s of %s: %w", o.GetName(), file.Filename, c.explain(err))
			}
			if is != nil {
				applied = append(applied, is)
			}
		}
		ids = append(ids, id)
	}
	if err := c.awaitCRDs(ctx, applied, report); err != nil {
		return err
	}
	for _, id := range ids {
		c.definitions.done[id] = true
	}
	return nil
}

// awaitCRDs waits until the kinds of new definitions can be used.
func (c *Cluster) awaitCRDs(ctx context.Context, applied []*unstructured.Unstructured, report func(string)) error {
	if len(applied) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, establishTimeout, fmt.Errorf("not served within %s", establishTimeout))
	defer cancel()
	for _, o := range applied {
		report("CustomResourceDefinition " + o.GetName())
		if err := c.established(ctx, o.GetName()); err != nil {
			return fmt.Errorf("waiting for CustomResourceDefinition %s: %w", o.GetName(), err)
		}
	}
	return c.served(ctx, applied)
}

// applyCRD applies one definition, and returns nil when there is nothing to do.
func (c *Cluster) applyCRD(ctx context.Context, o *unstructured.Unstructured, policy string) (*unstructured.Unstructured, error) {
	client := c.dynamic.Resource(crdResource)
	if policy == "Create" {
		if _, err := client.Get(ctx, o.GetName(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return client.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: kube.ManagedFieldsManager, Force: true})
}

// established waits until the server has accepted a definition.
func (c *Cluster) established(ctx context.Context, name string) error {
	for {
		o, err := c.dynamic.Resource(crdResource).Get(ctx, name, metav1.GetOptions{})
		if err != nil && ctx.Err() == nil {
			return c.explain(err)
		}
		if err == nil {
			conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
			for _, condition := range conditions {
				condition, _ := condition.(map[string]any)
				switch {
				case condition["type"] == "Established" && condition["status"] == "True":
					return nil
				case condition["type"] == "NamesAccepted" && condition["status"] == "False":
					return fmt.Errorf("%v: %v", condition["reason"], condition["message"])
				}
			}
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// served waits until the server lists the kinds, and takes them up into what releases see.
func (c *Cluster) served(ctx context.Context, definitions []*unstructured.Unstructured) error {
	for {
		c.getter.discovery.Invalidate()
		if mapper, ok := c.getter.mapper.(meta.ResettableRESTMapper); ok {
			mapper.Reset()
		}
		kinds, err := action.GetVersionSet(c.getter.discovery)
		if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
			return c.explain(err)
		}
		missing := ""
		for _, o := range definitions {
			defined := definedKind(o)
			versions, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions")
			for _, v := range versions {
				v, _ := v.(map[string]any)
				if id := fmt.Sprintf("%s/%v/%s", defined.Group, v["name"], defined.Kind); v["served"] == true && !kinds.Has(id) {
					missing = id
				}
			}
		}
		if missing == "" {
			caps := *c.caps.get()
			caps.APIVersions = kinds
			c.caps.set(caps)
			return nil
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("waiting for %s: %w", missing, err)
		}
	}
}

// definedKind is the kind that a CustomResourceDefinition defines.
func definedKind(definition *unstructured.Unstructured) schema.GroupKind {
	group, _, _ := unstructured.NestedString(definition.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(definition.Object, "spec", "names", "kind")
	return schema.GroupKind{Group: group, Kind: kind}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(establishPoll):
		return nil
	}
}
