package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// group is the API group of Flux's image objects.
const group = "image.toolkit.fluxcd.io"

// versions of the API whose fields this package knows; they do not differ in those that it reads.
var apiVersions = map[string]bool{group + "/v1": true, group + "/v1beta2": true, group + "/v1beta1": true}

// Set is all that a config repo says about images.
type Set struct {
	Repositories []Repository
	Policies     []Policy
}

// Image returns the image that a policy chooses tags of.
func (s Set) Image(p Policy) (string, bool) {
	r, ok := s.Repository(p)
	return r.Image, ok
}

// Repository returns the ImageRepository that a policy chooses tags of.
func (s Set) Repository(p Policy) (Repository, bool) {
	for _, r := range s.Repositories {
		if r.Namespace == p.RepositoryNamespace && r.Name == p.RepositoryName {
			return r, true
		}
	}
	return Repository{}, false
}

// Find returns the policy with this id (namespace:name).
func (s Set) Find(id string) (Policy, bool) {
	for _, p := range s.Policies {
		if p.ID() == id {
			return p, true
		}
	}
	return Policy{}, false
}

// Merge adds the objects of another file. Two clusters of one repo may each define a policy or a repository of the same name; that is
// accepted where both say the same, and an error where they do not: a marker names only one of them.
func (s *Set) Merge(o Set) error {
	for _, r := range o.Repositories {
		i := slices.IndexFunc(s.Repositories, func(x Repository) bool { return x.Namespace == r.Namespace && x.Name == r.Name })
		switch {
		case i < 0:
			s.Repositories = append(s.Repositories, r)
		case s.Repositories[i].definition() != r.definition():
			return fmt.Errorf("ImageRepository %s/%s is defined twice, differently", r.Namespace, r.Name)
		}
	}
	for _, p := range o.Policies {
		switch before, taken := s.Find(p.ID()); {
		case !taken:
			s.Policies = append(s.Policies, p)
		case before.definition() != p.definition():
			return fmt.Errorf("ImagePolicy %s/%s is defined twice, differently", p.Namespace, p.Name)
		}
	}
	return nil
}

// definition is all that a repository says, as text.
func (r Repository) definition() string {
	return fmt.Sprintf("%q %v %q", r.Image, r.Suspended, r.exclude)
}

// definition is all that a policy says, as text.
func (p Policy) definition() string {
	filter := ""
	if p.filter != nil {
		filter = p.filter.String()
	}
	order := fmt.Sprintf("%T %v", p.order, p.order)
	if v, ok := p.order.(versions); ok {
		order = v.text
	}
	return fmt.Sprintf("%q %q %v %v %v %q %q %s",
		p.RepositoryNamespace, p.RepositoryName, p.Suspended, p.ReflectsDigest, p.RefreshesDigest, filter, p.extract, order)
}

// object holds the fields of both kinds, in the names of Flux's API.
type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name      string `yaml:"name"`
		Namespace string `yaml:"namespace"`
	} `yaml:"metadata"`
	Items []object `yaml:"items"` // of a kind List
	Spec  struct {
		Suspend            bool     `yaml:"suspend"`
		Image              string   `yaml:"image"`
		ExclusionList      []string `yaml:"exclusionList"`
		ImageRepositoryRef struct {
			Name      string `yaml:"name"`
			Namespace string `yaml:"namespace"`
		} `yaml:"imageRepositoryRef"`
		DigestReflectionPolicy string `yaml:"digestReflectionPolicy"`
		FilterTags             *struct {
			Pattern string `yaml:"pattern"`
			Extract string `yaml:"extract"`
		} `yaml:"filterTags"`
		Policy struct {
			SemVer *struct {
				Range string `yaml:"range"`
			} `yaml:"semver"`
			Alphabetical *struct {
				Order string `yaml:"order"`
			} `yaml:"alphabetical"`
			Numerical *struct {
				Order string `yaml:"order"`
			} `yaml:"numerical"`
		} `yaml:"policy"`
	} `yaml:"spec"`
	Status struct {
		LatestRef *struct {
			Name   string `yaml:"name"`
			Tag    string `yaml:"tag"`
			Digest string `yaml:"digest"`
		} `yaml:"latestRef"`
		LatestImage string `yaml:"latestImage"` // before latestRef: name:tag
		Conditions  []struct {
			Type    string `yaml:"type"`
			Status  string `yaml:"status"`
			Message string `yaml:"message"`
		} `yaml:"conditions"`
	} `yaml:"status"`
}

// Parse reads the image objects of one YAML file; other documents are passed over. Errors name the object and the field. A file without
// the name of the API group is not parsed at all, so that templates and other tools' files can lie beside.
func Parse(file []byte) (Set, error) {
	var set Set
	if err := eachObject(file, set.add); err != nil {
		return Set{}, err
	}
	return set, nil
}

// eachObject calls do with every document of a file that is, or lists, an object of the group.
func eachObject(file []byte, do func(object) error) error {
	if !bytes.Contains(file, []byte(group)) {
		return nil
	}
	for dec := yaml.NewDecoder(bytes.NewReader(file)); ; {
		var doc yaml.Node
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
		}
		var o object
		if !mentions(&doc) {
			continue
		}
		if err := doc.Decode(&o); err != nil {
			return fmt.Errorf("line %d: %s", doc.Line, strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if err := do(o); err != nil {
			return err
		}
	}
}

// mentions reports whether a document is, or lists, an object of the group. Others need not fit the fields of ours.
func mentions(n *yaml.Node) bool {
	if n.Kind == yaml.ScalarNode {
		return strings.HasPrefix(n.Value, group+"/")
	}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 1 {
			if k := n.Content[i-1].Value; k != "apiVersion" && k != "items" {
				continue
			}
		}
		if mentions(c) {
			return true
		}
	}
	return false
}

func (s *Set) add(o object) error {
	for _, item := range o.Items {
		if err := s.add(item); err != nil {
			return err
		}
	}
	if !strings.HasPrefix(o.APIVersion, group+"/") || o.Kind != "ImageRepository" && o.Kind != "ImagePolicy" {
		return nil
	}
	name := fmt.Sprintf("%s %s/%s", o.Kind, o.Metadata.Namespace, o.Metadata.Name)
	switch {
	case !apiVersions[o.APIVersion]:
		return fmt.Errorf("%s: apiVersion %s is not known: want v1, v1beta2 or v1beta1", name, o.APIVersion)
	case o.Metadata.Name == "" || o.Metadata.Namespace == "":
		return fmt.Errorf("%s: metadata.name and metadata.namespace must both be set, since markers name both", name)
	case o.Kind == "ImageRepository" && o.Spec.Image == "":
		return fmt.Errorf("%s: spec.image is not set", name)
	case o.Kind == "ImageRepository":
		r, err := o.repository()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if slices.ContainsFunc(s.Repositories, func(x Repository) bool { return x.Namespace == r.Namespace && x.Name == r.Name }) {
			return fmt.Errorf("%s is defined twice", name)
		}
		s.Repositories = append(s.Repositories, r)
		return nil
	}
	p, err := o.policy()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, taken := s.Find(p.ID()); taken {
		return fmt.Errorf("%s is defined twice", name)
	}
	s.Policies = append(s.Policies, p)
	return nil
}

// notTags is what Flux excludes where an ImageRepository has no list of its own: the signatures that cosign keeps as tags.
const notTags = `^.*\.sig$`

func (o object) repository() (Repository, error) {
	r := Repository{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name, Image: o.Spec.Image, Suspended: o.Spec.Suspend}
	list := o.Spec.ExclusionList
	if len(list) == 0 {
		list = []string{notTags}
	}
	for _, text := range list {
		x, err := regexp.Compile(text)
		if err != nil {
			return r, fmt.Errorf("spec.exclusionList: %w", err)
		}
		r.exclude = append(r.exclude, x)
	}
	return r, nil
}

func (o object) policy() (Policy, error) {
	p := Policy{
		Namespace: o.Metadata.Namespace, Name: o.Metadata.Name, Suspended: o.Spec.Suspend,
		RepositoryNamespace: o.Spec.ImageRepositoryRef.Namespace, RepositoryName: o.Spec.ImageRepositoryRef.Name,
	}
	if p.RepositoryName == "" {
		return p, errors.New("spec.imageRepositoryRef.name is not set")
	}
	if p.RepositoryNamespace == "" {
		p.RepositoryNamespace = p.Namespace
	}
	switch o.Spec.DigestReflectionPolicy {
	case "", "Never":
	case "IfNotPresent":
		p.ReflectsDigest = true
	case "Always":
		p.ReflectsDigest, p.RefreshesDigest = true, true
	default:
		return p, fmt.Errorf("spec.digestReflectionPolicy %q: want Never, IfNotPresent or Always", o.Spec.DigestReflectionPolicy)
	}
	var err error
	if f := o.Spec.FilterTags; f != nil {
		if p.filter, err = regexp.Compile(f.Pattern); err != nil {
			return p, fmt.Errorf("spec.filterTags.pattern: %w", err)
		}
		p.extract = f.Extract
	}
	p.order, err = o.order()
	return p, err
}

func (o object) order() (order, error) {
	choice := o.Spec.Policy
	given := 0
	for _, set := range []bool{choice.SemVer != nil, choice.Alphabetical != nil, choice.Numerical != nil} {
		if set {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, errors.New("spec.policy: want exactly one of semver, alphabetical, numerical")
	case choice.SemVer != nil:
		return newVersions(choice.SemVer.Range)
	case choice.Alphabetical != nil:
		down, err := descending(choice.Alphabetical.Order)
		return letters{down}, err
	default:
		down, err := descending(choice.Numerical.Order)
		return numbers{down}, err
	}
}

// descending reads an order; asc is the API's default, and its newest value is the last one.
func descending(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "", "asc":
		return false, nil
	case "desc":
		return true, nil
	}
	return false, fmt.Errorf("order %q: want asc or desc", text)
}
