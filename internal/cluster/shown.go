package cluster

import (
	"fmt"
	"regexp"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	k8syaml "sigs.k8s.io/yaml"
)

// What stands in place of a Secret's values.
const (
	masked        = "***"
	maskedChanged = "*** (changed)"
)

// shown gives two states of one object as YAML that people may read: without what the server sets, and a Secret without its values. Either may
// be nil, and is "" then.
func shown(before, after *unstructured.Unstructured) (string, string) {
	before, after = plain(before), plain(after)
	mask(before, after)
	return text(before), text(after)
}

// plain copies an object without what is the server's and not anybody's wish.
func plain(o *unstructured.Unstructured) *unstructured.Unstructured {
	if o == nil {
		return nil
	}
	o = o.DeepCopy()
	delete(o.Object, "status")
	for _, name := range []string{"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"} {
		unstructured.RemoveNestedField(o.Object, "metadata", name)
	}
	// kubectl's copy of the whole object, a Secret's data included.
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration")
	return o
}

// mask replaces the values of Secrets. Which keys there are, and which of them change, can still be seen.
func mask(before, after *unstructured.Unstructured) {
	for _, section := range []string{"data", "stringData"} {
		was, is := secretValues(before, section), secretValues(after, section)
		for key, value := range is {
			old, had := was[key]
			is[key] = masked
			if had && fmt.Sprint(old) != fmt.Sprint(value) {
				is[key] = maskedChanged
			}
		}
		for key := range was {
			was[key] = masked
		}
	}
}

func secretValues(o *unstructured.Unstructured, section string) map[string]any {
	if o == nil || o.GetKind() != "Secret" {
		return nil
	}
	values, ok := o.Object[section].(map[string]any)
	if !ok && o.Object[section] != nil { // whatever it is, it is not to be seen
		o.Object[section] = masked
	}
	return values
}

func text(o *unstructured.Unstructured) string {
	if o == nil {
		return ""
	}
	b, err := k8syaml.Marshal(o.Object)
	if err != nil {
		return fmt.Sprintf("# cannot be shown: %v\n", err)
	}
	return string(b)
}

// undeclared is how the API server names a field that the schema does not have (structured-merge-diff).
var undeclared = regexp.MustCompile(`(\.[A-Za-z0-9_.\[\]"=/-]+): ([^;]*)$`)

// refusalsOf reads from an answer of the API server which fields it does not take. What it says about a Secret may quote the Secret.
func refusalsOf(status *apierrors.StatusError, secret bool) []Refusal {
	var list []Refusal
	if d := status.Status().Details; d != nil {
		for _, cause := range d.Causes {
			r := Refusal{Field: cause.Field, Message: cause.Message}
			if cause.Type == metav1.CauseTypeFieldManagerConflict {
				continue
			}
			if secret {
				r.Message = string(cause.Type)
			}
			list = append(list, r)
		}
	}
	if list != nil {
		return list
	}
	message := status.Error()
	if m := undeclared.FindStringSubmatch(message); m != nil {
		r := Refusal{Field: strings.TrimPrefix(m[1], "."), Message: m[2]}
		if secret {
			r.Message = string(status.Status().Reason)
		}
		return []Refusal{r}
	}
	if secret {
		message = string(status.Status().Reason) + " (what the server says about a Secret is not shown, since it may quote it)"
	}
	return []Refusal{{Message: message}}
}
