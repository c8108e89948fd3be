package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/util/csaupgrade"
)

// ErrOwned says that an object is part of another release.
var ErrOwned = errors.New("it is part of another release")

// What Helm writes on each object (helm.sh/helm/v4/pkg/action validate.go).
const (
	annotationRelease   = "meta.helm.sh/release-name"
	annotationNamespace = "meta.helm.sh/release-namespace"
)

// fluxManager is the field manager of Flux's helm controller.
const fluxManager = "helm-controller"

// claim looks at the objects of a revision before its record is written, and makes them the release's own afterwards.
//
// Objects that nobody owns are adopted, as Flux does. But Helm's TakeOwnership, which that needs, takes objects from other releases as
// well: both then write the same object, each at its own time, and the one that is uninstalled first deletes it for both. Flux lets that
// happen; here it is refused before anything is written. Only objects that are new in the release are asked for, so that an ordinary
// upgrade costs no request.
//
// A release that Flux made is taken over with its fields: as long as Flux's field manager owned them too, no upgrade of ours could remove
// one. Fields of Helm's own older client-side apply are taken over in the same way.
type claim struct {
	cluster *Cluster
	release *releasev1.Release // whose claim it is; nil before its record is written
	build   func(manifest string) (kube.ResourceList, error)
	move    []func() error // what is to be done once the record is written, before the objects are
}

// before checks a revision that is about to be written. previous are the manifests of the release that are known; foreign says that one of
// them was written by somebody else.
func (c *claim) before(ctx context.Context, rel *releasev1.Release, previous []string, foreign bool) error {
	c.release, c.move = rel, nil
	list, err := c.build(rel.Manifest)
	if err != nil {
		return err
	}
	had := map[string]bool{}
	for _, manifest := range previous {
		old, err := c.build(manifest)
		if err != nil {
			continue // an API that is gone: Helm has its own words for it
		}
		for _, info := range old {
			had[identity(info)] = true
		}
	}
	for _, info := range list {
		isNew := !had[identity(info)]
		if info.Name == "" || !isNew && !foreign {
			continue
		}
		live, err := resource.NewHelper(info.Client, info.Mapping).Get(info.Namespace, info.Name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("looking for %s: %w", describe(info), err)
		}
		if isNew {
			if err := c.check(ctx, info, live, rel); err != nil {
				return err
			}
		}
		if foreign {
			c.move = append(c.move, func() error { return takeFields(info, live) })
		}
	}
	return nil
}

// after takes over what before found.
func (c *claim) after() error {
	for _, move := range c.move {
		if err := move(); err != nil {
			return err
		}
	}
	return nil
}

// check refuses an object of another release that still exists. One whose records are gone left the object behind, and cannot object.
func (c *claim) check(ctx context.Context, info *resource.Info, live runtime.Object, rel *releasev1.Release) error {
	o, err := meta.Accessor(live)
	if err != nil {
		return err
	}
	if !isOthers(o, rel) {
		return nil
	}
	name, namespace := ownerOf(o)
	// Where the other release keeps its records is not written on the object. Nearly all keep them beside their objects.
	other, err := c.cluster.State(ctx, Key{namespace, name})
	if err != nil {
		return err
	}
	if other.Newest.Revision == 0 || other.Newest.Status == common.StatusUninstalled.String() {
		return nil
	}
	where := ""
	if info.Namespace != "" {
		where = " in namespace " + info.Namespace
	}
	return fmt.Errorf("%s%s exists, and is not taken from release %s/%s (let only one of the two write it): %w", describe(info), where, namespace, name, ErrOwned)
}

func ownerOf(o metav1.Object) (name, namespace string) {
	return o.GetAnnotations()[annotationRelease], o.GetAnnotations()[annotationNamespace]
}

// isOthers reports whether an object says that it is part of another release.
func isOthers(o metav1.Object, rel *releasev1.Release) bool {
	name, namespace := ownerOf(o)
	return name != "" && (name != rel.Name || namespace != rel.Namespace)
}

// spare leaves out of originals what the chart has lost and another release has taken in the meantime (with Flux, or `helm --take-ownership`):
// Helm would delete it.
func (c *claim) spare(originals, targets kube.ResourceList) (kube.ResourceList, error) {
	if c.release == nil {
		return originals, nil
	}
	theirs := map[string]bool{}
	for _, info := range originals.Difference(targets) {
		live, err := resource.NewHelper(info.Client, info.Mapping).Get(info.Namespace, info.Name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking for %s: %w", describe(info), err)
		}
		o, err := meta.Accessor(live)
		if err != nil {
			return nil, err
		}
		theirs[identity(info)] = isOthers(o, c.release)
	}
	return originals.Filter(func(info *resource.Info) bool { return !theirs[identity(info)] }), nil
}

// takeFields makes the fields of one object ours that Flux applied, or Helm in its older way.
func takeFields(info *resource.Info, live runtime.Object) error {
	for attempt := 0; ; attempt++ {
		o, err := meta.Accessor(live)
		if err != nil {
			return err
		}
		entries := o.GetManagedFields()
		for i, e := range entries {
			if e.Manager == fluxManager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == "" {
				entries[i].Operation = metav1.ManagedFieldsOperationUpdate // what the library moves
			}
		}
		o.SetManagedFields(entries)
		patch, err := csaupgrade.UpgradeManagedFieldsPatch(live, sets.New(fluxManager, kube.ManagedFieldsManager), kube.ManagedFieldsManager)
		if err != nil || len(patch) == 0 {
			return err
		}
		helper := resource.NewHelper(info.Client, info.Mapping)
		_, err = helper.Patch(info.Namespace, info.Name, types.JSONPatchType, patch, nil)
		if !apierrors.IsConflict(err) || attempt == attemptsAtFields {
			if err != nil {
				err = fmt.Errorf("taking over the fields of %s: %w", describe(info), err)
			}
			return err
		}
		if live, err = helper.Get(info.Namespace, info.Name); err != nil {
			return fmt.Errorf("looking for %s: %w", describe(info), err)
		}
	}
}

// attemptsAtFields bounds how often the fields of an object are tried for that others, such as its controller, write at the same time.
const attemptsAtFields = 5

// identity is what tells one object from another.
func identity(info *resource.Info) string {
	kind := info.Mapping.GroupVersionKind.GroupKind()
	return strings.Join([]string{kind.Group, kind.Kind, info.Namespace, info.Name}, "/")
}
