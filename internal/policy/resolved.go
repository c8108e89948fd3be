package policy

import (
	"fmt"
	"strings"
)

// Resolved is an ImagePolicy of a cluster together with what Flux's controller chose for it.
type Resolved struct {
	Policy
	Image, Tag string
	Digest     string // empty unless the policy reflects digests
	// Doubt is why the choice may be an old one: the controller keeps what it chose last while it cannot choose anew.
	Doubt string
}

// ParseResolved reads the ImagePolicy objects of a file such as `kubectl get imagepolicies -A -o yaml` (or -o json) prints. Objects without
// a choice, as they are until the controller has seen them, are left out.
func ParseResolved(file []byte) ([]Resolved, error) {
	var list []Resolved
	var add func(object) error
	add = func(o object) error {
		for _, item := range o.Items {
			if err := add(item); err != nil {
				return err
			}
		}
		if o.Kind != "ImagePolicy" {
			return nil
		}
		var one Set
		if err := one.add(o); err != nil || len(one.Policies) == 0 {
			return err
		}
		r := Resolved{Policy: one.Policies[0]}
		for _, before := range list {
			if before.ID() == r.ID() {
				return fmt.Errorf("ImagePolicy %s/%s is there twice", r.Namespace, r.Name)
			}
		}
		switch ref := o.Status.LatestRef; {
		case ref != nil:
			r.Image, r.Tag, r.Digest = ref.Name, ref.Tag, ref.Digest
		case o.Status.LatestImage != "":
			r.Image, r.Tag = splitReference(o.Status.LatestImage)
		default:
			return nil
		}
		if r.Image == "" || r.Tag == "" {
			return fmt.Errorf("ImagePolicy %s/%s: status names no image with a tag", r.Namespace, r.Name)
		}
		for _, c := range o.Status.Conditions {
			if c.Type == "Ready" && c.Status != "True" {
				r.Doubt = c.Message
				if r.Doubt == "" {
					r.Doubt = "it is not ready"
				}
			}
		}
		list = append(list, r)
		return nil
	}
	return list, eachObject(file, add)
}

// splitReference takes name:tag apart; the tag is empty where there is none.
func splitReference(reference string) (name, tag string) {
	i := strings.LastIndexByte(reference, ':')
	if i < strings.LastIndexByte(reference, '/') { // the port of the registry
		return reference, ""
	}
	return reference[:i], reference[i+1:]
}
