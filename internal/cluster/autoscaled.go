package cluster

import (
	"context"
	"encoding/json"
	"fmt"

	"helm.sh/helm/v4/pkg/kube"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/resource"
)

// A chart states a number of replicas, and an autoscaler finds a better one at run time. Flux and Helm, which force conflicts, reset it with
// every upgrade, so that a deployment at the busiest hour begins with taking the pods away. Whoever scales through the subresource (the
// HorizontalPodAutoscaler, KEDA, `kubectl scale`) leaves its name there: the API server notes the field's owner together with the subresource.
// Such a number is left out of what is applied. A field that is not applied any more stays as long as somebody else owns it, so that the
// number stands (kubernetes.io/docs/reference/using-api/server-side-apply, "Transferring ownership").

// leaveScaled drops spec.replicas from the objects whose number somebody else sets through the scale subresource. It asks only for workloads
// that state a number, and only for their metadata.
func (c *Cluster) leaveScaled(ctx context.Context, list kube.ResourceList) error {
	for _, info := range list {
		o, err := asUnstructured(info.Object)
		if err != nil {
			return fmt.Errorf("reading %s: %w", describe(info), err)
		}
		if !statesReplicas(o) {
			continue
		}
		live, err := c.metaOf(ctx, info)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("looking for who scales %s: %w", describe(info), c.explain(err))
		}
		if scaledElsewhere(live.ManagedFields) {
			dropReplicas(o)
			info.Object = o
		}
	}
	return nil
}

// metaOf reads the metadata of a live object.
func (c *Cluster) metaOf(ctx context.Context, info *resource.Info) (*metav1.PartialObjectMetadata, error) {
	client := c.meta.Resource(info.Mapping.Resource)
	if info.Mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return client.Namespace(info.Namespace).Get(ctx, info.Name, metav1.GetOptions{})
	}
	return client.Get(ctx, info.Name, metav1.GetOptions{})
}

func statesReplicas(o *unstructured.Unstructured) bool {
	_, is, err := unstructured.NestedFieldNoCopy(o.Object, "spec", "replicas")
	return is && err == nil
}

func dropReplicas(o *unstructured.Unstructured) {
	unstructured.RemoveNestedField(o.Object, "spec", "replicas")
}

// scaledElsewhere reports whether somebody owns spec.replicas through the scale subresource.
func scaledElsewhere(entries []metav1.ManagedFieldsEntry) bool {
	for _, e := range entries {
		if e.Subresource != "scale" || e.FieldsV1 == nil {
			continue
		}
		var owned struct {
			Spec map[string]any `json:"f:spec"`
		}
		if json.Unmarshal(e.FieldsV1.GetRawBytes(), &owned) != nil {
			continue
		}
		if _, is := owned.Spec["f:replicas"]; is {
			return true
		}
	}
	return false
}
