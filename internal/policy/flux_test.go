package policy

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	v1 "github.com/fluxcd/image-reflector-controller/api/v1"
	"github.com/fluxcd/image-reflector-controller/api/v1beta1" //nolint:staticcheck // config repos still hold this version
	"github.com/fluxcd/image-reflector-controller/api/v1beta2" //nolint:staticcheck // config repos still hold this version
)

// fields lists the fields of a struct by their path, such as spec.policy.semver.range, with the kind of the value.
func fields(t reflect.Type, tag, path string) map[string]reflect.Kind {
	found := map[string]reflect.Kind{}
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return found
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get(tag), ",")
		inline := name == "" && strings.Contains(options, "inline")
		if name == "" && !inline || name == "items" {
			continue
		}
		at := path
		if !inline {
			at = strings.TrimPrefix(path+"."+name, ".")
			kind := f.Type
			if kind.Kind() == reflect.Pointer {
				kind = kind.Elem()
			}
			found[at] = kind.Kind()
		}
		if f.Type.PkgPath() == "k8s.io/apimachinery/pkg/apis/meta/v1" && f.Type.Name() == "Time" {
			continue
		}
		for k, v := range fields(f.Type, tag, at) {
			found[k] = v
		}
	}
	return found
}

// The names of fields are typed here by hand, so that Kubernetes' libraries stay out of the programs. This compares them with Flux's own
// types: a field that is misspelled here would be a filter that never filters.
func TestFieldNamesAreFluxs(t *testing.T) {
	ours := fields(reflect.TypeFor[object](), "yaml", "")
	if len(ours) < 20 {
		t.Fatalf("only %d fields: %v", len(ours), ours)
	}
	for name, version := range map[string][]reflect.Type{
		"v1":      {reflect.TypeFor[v1.ImagePolicy](), reflect.TypeFor[v1.ImageRepository]()},
		"v1beta2": {reflect.TypeFor[v1beta2.ImagePolicy](), reflect.TypeFor[v1beta2.ImageRepository]()},
		"v1beta1": {reflect.TypeFor[v1beta1.ImagePolicy](), reflect.TypeFor[v1beta1.ImageRepository]()},
	} {
		theirs := map[string]reflect.Kind{}
		for _, t := range version {
			for k, v := range fields(t, "json", "") {
				theirs[k] = v
			}
		}
		// Fields that came or went between the versions.
		later := []string{"spec.suspend", "spec.digestReflectionPolicy"}
		for path, kind := range ours {
			theirKind, known := theirs[path]
			switch {
			case !known && name == "v1beta1" && (slices.Contains(later, path) || strings.HasPrefix(path, "status.latestRef")):
			case !known && name != "v1beta1" && path == "status.latestImage":
			case !known:
				t.Errorf("%s has no field %s", name, path)
			case kind != theirKind:
				t.Errorf("%s: %s is %s, and here %s", name, path, theirKind, kind)
			}
		}
	}
}

// What Flux offers in a policy is either read here or known to have no meaning without a controller: a new field must not be passed over.
func TestNoFieldOfAPolicyIsOverlooked(t *testing.T) {
	ours := fields(reflect.TypeFor[object](), "yaml", "")
	idle := map[string]string{
		"spec.interval":           "there is no controller that wakes up",
		"spec.timeout":            "TIMEOUT",
		"spec.secretRef":          "credentials are the build's",
		"spec.proxySecretRef":     "the environment's proxy",
		"spec.serviceAccountName": "credentials are the build's",
		"spec.certSecretRef":      "credentials are the build's",
		"spec.accessFrom":         "who may write the config repo may name its objects",
		"spec.provider":           "credentials are the build's",
		"spec.insecure":           "REGISTRY_INSECURE: a file of the config repo must not be able to ask for plain HTTP",
	}
	for _, kind := range []reflect.Type{reflect.TypeFor[v1.ImagePolicy](), reflect.TypeFor[v1.ImageRepository]()} {
		for path := range fields(kind, "json", "") {
			parts := strings.Split(path, ".")
			if parts[0] != "spec" {
				continue
			}
			_, read := ours[path]
			if !read && idle[path] == "" && (len(parts) < 3 || idle[strings.Join(parts[:2], ".")] == "") {
				t.Errorf("%s: %s is neither read nor known to be idle", kind.Name(), path)
			}
		}
	}
}

func TestApiVersionsAreFluxs(t *testing.T) {
	for _, known := range []string{v1.GroupVersion.String(), v1beta2.GroupVersion.String(), v1beta1.GroupVersion.String()} {
		if !apiVersions[known] {
			t.Errorf("%s is not known", known)
		}
	}
	if want := (v1.ImageRepository{}).GetExclusionList(); !slices.Equal(want, []string{notTags}) {
		t.Errorf("excluded by default: %q", want)
	}
}
