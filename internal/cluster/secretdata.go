package cluster

import (
	"encoding/base64"

	"helm.sh/helm/v4/pkg/kube"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/resource"
)

// encodeStringData writes the stringData of Secrets as data. stringData is for writing only: server-side apply remembers that we own its keys,
// not those of the data that becomes of them, so that a key which the chart loses would stay in the Secret for ever, with its value.
func encodeStringData(list kube.ResourceList) error {
	return list.Visit(func(info *resource.Info, err error) error {
		o, ok := info.Object.(*unstructured.Unstructured)
		if err != nil || !ok || o.GetKind() != "Secret" || o.GetAPIVersion() != "v1" {
			return err
		}
		texts, found, err := unstructured.NestedStringMap(o.Object, "stringData")
		if !found || err != nil {
			return nil //nolint:nilerr // what is no text is refused by the server, with better words
		}
		data, _, err := unstructured.NestedMap(o.Object, "data")
		if err != nil {
			return nil //nolint:nilerr // the same
		}
		if data == nil {
			data = map[string]any{}
		}
		for key, text := range texts { // where both have a key, stringData's counts
			data[key] = base64.StdEncoding.EncodeToString([]byte(text))
		}
		unstructured.RemoveNestedField(o.Object, "stringData")
		return unstructured.SetNestedMap(o.Object, data, "data")
	})
}
