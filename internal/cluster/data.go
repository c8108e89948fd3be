package cluster

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Data reads the data of a ConfigMap or a Secret, with one request. There is none (nil, without an error) when the object does not exist.
// As in Flux, a ConfigMap's binaryData does not count.
func (c *Cluster) Data(ctx context.Context, kind, namespace, name string) (map[string][]byte, error) {
	data := map[string][]byte{}
	var err error
	switch kind {
	case "ConfigMap":
		o, failed := c.core.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		if err = failed; err == nil {
			for k, v := range o.Data {
				data[k] = []byte(v)
			}
		}
	case "Secret":
		o, failed := c.core.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err = failed; err == nil {
			for k, v := range o.Data {
				data[k] = v
			}
		}
	default:
		return nil, fmt.Errorf("%s has no data: want ConfigMap or Secret", kind)
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s %s/%s: %w", kind, namespace, name, c.explain(err))
	}
	return data, nil
}
