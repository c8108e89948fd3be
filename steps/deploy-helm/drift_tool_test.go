package main

import (
	"context"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// edit NAMESPACE PATCH changes the Deployment backend behind Helm's back, with a merge patch; edit NAMESPACE -scale PATCH does it through the
// scale subresource, as autoscalers do; edit NAMESPACE -delete deletes the ConfigMap.
func edit() {
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("CLUSTER"))
	check(err)
	client, err := kubernetes.NewForConfig(cfg)
	check(err)
	ns, ctx := os.Args[1], context.Background()
	deployments, options := client.AppsV1().Deployments(ns), metav1.PatchOptions{FieldManager: "kubectl-edit"}
	switch os.Args[2] {
	case "-delete":
		check(client.CoreV1().ConfigMaps(ns).Delete(ctx, "backend", metav1.DeleteOptions{}))
	case "-scale":
		_, err = deployments.Patch(ctx, "backend", types.MergePatchType, []byte(os.Args[3]), options, "scale")
		check(err)
	default:
		_, err = deployments.Patch(ctx, "backend", types.MergePatchType, []byte(os.Args[2]), options)
		check(err)
	}
}
