package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	k8syaml "sigs.k8s.io/yaml"
)

// objects are the cluster's, for scripts.
type objects struct {
	client dynamic.Interface
	mapper meta.RESTMapper
}

func openObjects() objects {
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("CLUSTER"))
	check(err)
	client, err := dynamic.NewForConfig(cfg)
	check(err)
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	check(err)
	cached := memory.NewMemCacheClient(d)
	return objects{client, restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(cached), cached, nil)}
}

func (o objects) of(mapping *meta.RESTMapping, namespace string) dynamic.ResourceInterface {
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return o.client.Resource(mapping.Resource).Namespace(namespace)
	}
	return o.client.Resource(mapping.Resource)
}

// apply FILE... applies manifests, as somebody else than the step.
func apply() {
	o := openObjects()
	for _, file := range os.Args[1:] {
		text, err := os.ReadFile(file)
		check(err)
		documents := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
		for {
			var u unstructured.Unstructured
			if err := documents.Decode(&u.Object); errors.Is(err, io.EOF) {
				break
			} else {
				check(err)
			}
			gvk := u.GroupVersionKind()
			mapping, err := o.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
			check(err)
			_, err = o.of(mapping, u.GetNamespace()).Apply(context.Background(), u.GetName(), &u, metav1.ApplyOptions{FieldManager: "somebody", Force: true})
			check(err)
		}
	}
}

// show RESOURCE NAMESPACE NAME prints an object of the cluster as YAML, or "none". RESOURCE is as in configmaps or widgets.example.com.
func show() {
	o := openObjects()
	resource, group, _ := strings.Cut(os.Args[1], ".")
	gvr, err := o.mapper.ResourceFor(schema.GroupVersionResource{Group: group, Resource: resource})
	check(err)
	gvk, err := o.mapper.KindFor(gvr)
	check(err)
	mapping, err := o.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	check(err)
	u, err := o.of(mapping, os.Args[2]).Get(context.Background(), os.Args[3], metav1.GetOptions{})
	if err != nil && strings.Contains(err.Error(), "not found") {
		fmt.Println("none")
		return
	}
	check(err)
	u.SetManagedFields(nil)
	text, err := k8syaml.Marshal(u.Object)
	check(err)
	fmt.Print(string(text))
}

// managers RESOURCE NAMESPACE NAME prints who has written an object, and how.
func managers() {
	o := openObjects()
	gvr, err := o.mapper.ResourceFor(schema.GroupVersionResource{Resource: os.Args[1]})
	check(err)
	u, err := o.client.Resource(gvr).Namespace(os.Args[2]).Get(context.Background(), os.Args[3], metav1.GetOptions{})
	check(err)
	for _, f := range u.GetManagedFields() {
		fmt.Println(f.Manager, f.Operation)
	}
}

// app NAMESPACE [SPEC...] writes repo/releases/NAMESPACE.yaml: a HelmRelease of the chart app with more fields of spec, each a YAML flow.
func app() {
	text := fmt.Sprintf(`apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: app, namespace: %s, labels: {account: orchid}}
spec:
  chart: {spec: {chart: ./charts/app, sourceRef: {kind: GitRepository, name: config, namespace: flux-system}}}
`, os.Args[1])
	for _, line := range os.Args[2:] {
		text += "  " + line + "\n"
	}
	check(os.MkdirAll("repo/releases", 0o755))
	check(os.WriteFile("repo/releases/"+os.Args[1]+".yaml", []byte(text), 0o644))
}
