package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	k8syaml "sigs.k8s.io/yaml"
)

// flux NAMESPACE reconciles repo/releases/NAMESPACE.yaml once, as Flux's helm controller 1.6 does, and prints what it found and did. It is the
// judge of whether Flux takes a release back. Its rules are those of the controller's internal/reconcile/state.go and
// internal/action/verify.go; its status.history is kept in NAMESPACE.status.json. With -csa it installs as a controller of the time of
// Helm 3 did, by client-side apply.
func flux() {
	kube.ManagedFieldsManager = "helm-controller"
	args, ssa := os.Args[1:], true
	if args[0] == "-csa" {
		args, ssa = args[1:], false
	}
	text, err := os.ReadFile("repo/releases/" + args[0] + ".yaml")
	check(err)
	var hr helmv2.HelmRelease
	check(k8syaml.Unmarshal(text, &hr))
	status := args[0] + ".status.json"
	var snapshot *fluxSnapshot
	if text, err := os.ReadFile(status); err == nil {
		check(json.Unmarshal(text, &snapshot))
	} else if !errors.Is(err, fs.ErrNotExist) {
		check(err)
	}
	for {
		made, err := loader.LoadDir("repo/" + hr.Spec.Chart.Spec.Chart)
		check(err)
		cfg := fluxConfiguration(hr.Namespace)
		state, last := fluxState(cfg, hr, made, snapshot)
		fmt.Println(state)
		switch word, _, _ := strings.Cut(state, ":"); word {
		case "InSync":
			return
		case "Locked":
			last.SetStatus(common.StatusFailed, "Release unlocked from stale state")
			check(cfg.Releases.Update(last))
			continue
		case "Absent":
			in := action.NewInstall(cfg)
			in.ReleaseName, in.Namespace, in.Timeout, in.TakeOwnership, in.CreateNamespace = hr.GetReleaseName(), hr.Namespace, time.Minute, true, true
			in.ServerSideApply, in.ForceConflicts, in.WaitStrategy, in.WaitForJobs = ssa, ssa, kube.HookOnlyStrategy, true
			in.PostRenderer = originLabels(hr)
			_, err = in.RunWithContext(context.Background(), made, hr.GetValues())
		default:
			up := action.NewUpgrade(cfg)
			up.Namespace, up.Timeout, up.TakeOwnership, up.ResetValues, up.MaxHistory = hr.Namespace, time.Minute, true, true, 5
			up.WaitStrategy, up.WaitForJobs, up.PostRenderer = kube.HookOnlyStrategy, true, originLabels(hr)
			serverSide := last.ApplyMethod == "ssa" // it resolves "auto" itself, to force only then
			up.ServerSideApply, up.ForceConflicts = fmt.Sprint(serverSide), serverSide
			_, err = up.RunWithContext(context.Background(), hr.GetReleaseName(), made, hr.GetValues())
		}
		check(err)
		got, err := cfg.Releases.Last(hr.GetReleaseName())
		check(err)
		snapshot = observed(got.(*releasev1.Release))
		text, err := json.Marshal(snapshot)
		check(err)
		check(os.WriteFile(status, text, 0o644))
	}
}

// fluxSnapshot is what the controller keeps in status.history of the revision that it made.
type fluxSnapshot struct {
	Version int
	Digest  string // over the release as it was written
	Values  map[string]any
}

// fluxState is the controller's DetermineReleaseState.
func fluxState(cfg *action.Configuration, hr helmv2.HelmRelease, made *chart.Chart, snapshot *fluxSnapshot) (string, *releasev1.Release) {
	got, err := cfg.Releases.Last(hr.GetReleaseName())
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return "Absent: no release in storage for object", nil
	}
	check(err)
	last := got.(*releasev1.Release)
	switch {
	case last.Info.Status.IsPending():
		return "Locked: release with status " + last.Info.Status.String(), last
	case snapshot == nil:
		return "Unmanaged: found existing release in storage", last
	case observed(last).Digest != snapshot.Digest:
		return "Unmanaged: release not observed to be made for object", last
	case last.Info.Status == common.StatusFailed:
		return "Failed:", last
	case last.Chart.Metadata.Name != made.Metadata.Name || last.Chart.Metadata.Version != made.Metadata.Version:
		return "OutOfSync: release chart changed", last
	case !reflect.DeepEqual(fromJSON(hr.GetValues()), snapshot.Values):
		return "OutOfSync: release config values changed", last
	}
	return fmt.Sprintf("InSync: revision %d", last.Version), last
}

// observed is the controller's release.ObserveRelease and Digest: everything of a release but its chart and labels.
func observed(rel *releasev1.Release) *fluxSnapshot {
	text, err := json.Marshal(map[string]any{
		"name": rel.Name, "version": rel.Version, "info": rel.Info, "chartMetadata": rel.Chart.Metadata, "config": rel.Config,
		"manifest": rel.Manifest, "hooks": rel.Hooks, "namespace": rel.Namespace,
	})
	check(err)
	sum := sha256.Sum256(text)
	return &fluxSnapshot{Version: rel.Version, Digest: "sha256:" + hex.EncodeToString(sum[:]), Values: fromJSON(rel.Config)}
}

func fromJSON(v map[string]any) map[string]any {
	text, err := json.Marshal(v)
	check(err)
	var out map[string]any
	check(json.Unmarshal(text, &out))
	return out
}

func fluxConfiguration(namespace string) *action.Configuration {
	flags := genericclioptions.NewConfigFlags(false)
	path := os.Getenv("CLUSTER")
	flags.KubeConfig, flags.Namespace = &path, &namespace
	cfg := action.NewConfiguration()
	check(cfg.Init(flags, namespace, ""))
	return cfg
}

// originLabels is the controller's post-renderer that says on each object which HelmRelease it comes from.
type originLabels helmv2.HelmRelease

// Run implements postrenderer.PostRenderer.
func (o originLabels) Run(in *bytes.Buffer) (*bytes.Buffer, error) {
	var out bytes.Buffer
	for doc := range strings.SplitSeq(in.String(), "\n---\n") {
		var object map[string]any
		if err := k8syaml.Unmarshal([]byte(doc), &object); err != nil {
			return nil, err
		}
		if object == nil {
			continue
		}
		metadata := object["metadata"].(map[string]any)
		labels, _ := metadata["labels"].(map[string]any)
		if labels == nil {
			labels = map[string]any{}
		}
		labels["helm.toolkit.fluxcd.io/name"], labels["helm.toolkit.fluxcd.io/namespace"] = o.Name, o.Namespace
		metadata["labels"] = labels
		text, err := k8syaml.Marshal(object)
		if err != nil {
			return nil, err
		}
		out.WriteString("---\n" + string(text))
	}
	return &out, nil
}

// owners NAMESPACE prints, of each ConfigMap and Deployment of a release, its labels of Flux, the keys of its data, and who applied fields of it.
func owners() {
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("CLUSTER"))
	check(err)
	client, err := kubernetes.NewForConfig(cfg)
	check(err)
	show := func(kind string, o metav1.ObjectMeta, data map[string]string) {
		if o.Annotations["meta.helm.sh/release-name"] == "" {
			return
		}
		var managers []string
		for _, m := range o.ManagedFields {
			if m.Manager == "helm" || m.Manager == "helm-controller" {
				managers = append(managers, m.Manager+":"+string(m.Operation))
			}
		}
		slices.Sort(managers)
		fmt.Printf("%s/%s flux=%q data=%v managers=%v\n", kind, o.Name, o.Labels["helm.toolkit.fluxcd.io/name"], slices.Sorted(maps.Keys(data)), managers)
	}
	configMaps, err := client.CoreV1().ConfigMaps(os.Args[1]).List(context.Background(), metav1.ListOptions{})
	check(err)
	for _, o := range configMaps.Items {
		show("configmap", o.ObjectMeta, o.Data)
	}
	deployments, err := client.AppsV1().Deployments(os.Args[1]).List(context.Background(), metav1.ListOptions{})
	check(err)
	for _, o := range deployments.Items {
		show("deployment", o.ObjectMeta, nil)
	}
}
