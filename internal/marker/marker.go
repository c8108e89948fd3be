// Package marker finds the comments by which a line of a YAML file asks to be kept up to date, and changes exactly the bytes of the value
// in front of them. bump-config edits the config repo with it, and deploy-helm can tell by it which policy a value follows.
//
// A marker is Flux's: a comment that holds one JSON object with the member $imagepolicy,
//
//	tag: v1.0.0 # {"$imagepolicy": "flux-system:backend-production:tag"}
//
// (fluxcd/image-automation-controller, internal/update; documented at fluxcd.io/flux/guides/image-update). Both tools work on one file, so
// this package accepts what Flux accepts and writes values in the form that Flux writes them. It differs where Flux harms a file: it
// never encodes YAML, so comments, order, quotes, indentation and line ends stay as they are, and what cannot be edited safely is
// reported with the reason instead of being passed over.
//
// The package is pure.
package marker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Field is the part of an image reference that a marker asks for.
type Field string

// The fields, in Flux's words. Reference has no suffix in the marker.
const (
	Reference Field = "image"  // ns:policy → repository:tag, with @digest where the policy reflects digests
	Name      Field = "name"   // ns:policy:name → repository
	Tag       Field = "tag"    // ns:policy:tag → tag
	Digest    Field = "digest" // ns:policy:digest → digest
)

// Marker is one comment of a file that names a policy.
type Marker struct {
	Line      int    // of the comment, counted from 1
	Namespace string // of the policy
	Policy    string // the policy's name
	Field     Field
	Value     string   // the value in the file now
	Resource  Resource // the object that the value belongs to
	Skip      string   // why the value cannot be edited; empty when it can

	origin     *parsed
	node       int // position of the scalar among all nodes of the file
	start, end int // bytes of the scalar, with its quotes
}

// ID is the policy as namespace:name.
func (m Marker) ID() string { return m.Namespace + ":" + m.Policy }

// Resource says which Kubernetes object a value stands in. All members are empty where the file does not say.
type Resource struct {
	APIVersion, Kind, Namespace, Name string
	Labels, Annotations               map[string]string
}

// Same reports whether two values stand in the same object.
func (r Resource) Same(o Resource) bool {
	return r.APIVersion == o.APIVersion && r.Kind == o.Kind && r.Namespace == o.Namespace && r.Name == o.Name
}

// Split takes a reference apart: repository:tag@digest, of which all but the repository may be missing. A colon before the last slash is that
// of a port.
func Split(reference string) (repository, tag, digest string) {
	repository, digest, _ = strings.Cut(reference, "@")
	if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
		repository, tag = repository[:i], repository[i+1:]
	}
	return repository, tag, digest
}

// Parts returns the tag and the digest in the marker's value, as far as its field has them.
func (m Marker) Parts() (tag, digest string) {
	switch m.Field {
	case Tag:
		return m.Value, ""
	case Digest:
		return "", m.Value
	case Reference:
		_, tag, digest = Split(m.Value)
	}
	return tag, digest
}

// Wants is the value that the marker asks for. A reference has the digest when its policy reflects digests, or when it has one now. known is
// false when the value needs a digest and there is none.
func (m Marker) Wants(repository, tag, digest string, reflects bool) (value string, known bool) {
	switch m.Field {
	case Name:
		return repository, true
	case Tag:
		return tag, true
	case Digest:
		return digest, digest != ""
	}
	if value = repository + ":" + tag; !reflects && !strings.Contains(m.Value, "@") {
		return value, true
	}
	return value + "@" + digest, digest != ""
}

// IsFile reports whether Flux would look for markers in a file of this name.
func IsFile(name string) bool {
	return strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml") || path.Base(name) == "Kustomization"
}

// key is the member of the comment's JSON object that names the policy.
const key = "$imagepolicy"

// token is what a file with markers holds; a file without it is not parsed. Flux looks for the same bytes.
const token = `"` + key + `"`

// Has reports whether the file may hold markers. It is much cheaper than [Find].
func Has(file []byte) bool { return indexToken(file) >= 0 }

// indexToken is where the first token is, -1 when there is none. It looks for what comes after the quote, because YAML is full of quotes.
func indexToken(b []byte) int {
	for at := 1; at < len(b); at++ {
		i := bytes.Index(b[at:], []byte(token[1:]))
		if i < 0 {
			return -1
		}
		if at += i; b[at-1] == token[0] {
			return at - 1
		}
	}
	return -1
}

// Policies lists the policies that a file's markers name (namespace:name), each once. Like [Has] it is much cheaper than [Find]. all is false
// when the file has the key in a place where Flux's documentation does not have it: then only Find can tell what it names.
func Policies(file []byte) (ids []string, all bool) {
	all = true
	for at := 0; ; {
		i := indexToken(file[at:])
		if i < 0 {
			return ids, all
		}
		before, after := file[at:at+i], file[at+i+len(token):]
		at += i + len(token)
		id, plain := plainComment(before, after)
		if !plain {
			all = false
		} else if !slices.ContainsFunc(ids, func(known string) bool { return known == string(id) }) {
			ids = append(ids, string(id))
		}
	}
}

// plainComment reads a comment as the documentation has it, # {"$imagepolicy": "namespace:name:tag"}, given what stands before and after the key.
func plainComment(before, after []byte) (id []byte, plain bool) {
	const blanks = " \t"
	before, opened := bytes.CutSuffix(bytes.TrimRight(before, blanks), []byte("{"))
	if !opened || !bytes.HasSuffix(bytes.TrimRight(before, blanks), []byte("#")) {
		return nil, false
	}
	after, colon := bytes.CutPrefix(bytes.TrimLeft(after, blanks), []byte(":"))
	after, quote := bytes.CutPrefix(bytes.TrimLeft(after, blanks), []byte(`"`))
	setter, after, closed := bytes.Cut(after, []byte(`"`))
	after, ends := bytes.CutPrefix(bytes.TrimLeft(after, blanks), []byte("}"))
	after = bytes.TrimLeft(after, blanks+"\r")
	if !colon || !quote || !closed || !ends || len(after) > 0 && after[0] != '\n' || bytes.ContainsAny(setter, "\\\r\n") {
		return nil, false
	}
	switch colons := bytes.Count(setter, []byte(":")); colons {
	case 1:
		return setter, true
	case 2:
		return setter[:bytes.LastIndexByte(setter, ':')], true
	}
	return nil, false
}

// namePattern is what Kubernetes accepts as the name of a namespace or an object (RFC 1123 subdomain).
var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

// parseComment reads a comment, from its # to the end of the line. marks is false for a comment that does not try to be a marker.
func parseComment(comment string) (m Marker, marks bool) {
	if !strings.Contains(comment, token) {
		return Marker{}, false
	}
	var members map[string]string
	if err := json.Unmarshal([]byte(strings.TrimSpace(strings.TrimLeft(comment, "#"))), &members); err != nil {
		m.Skip = "the comment is not one JSON object of strings, so it is no marker"
		return m, true
	}
	setter, ok := members[key]
	if !ok {
		m.Skip = "the comment does not have the member " + key
		return m, true
	}
	parts := strings.Split(setter, ":")
	m.Field = Reference
	switch len(parts) {
	case 3:
		m.Field = Field(parts[2])
		fallthrough
	case 2:
		m.Namespace, m.Policy = parts[0], parts[1]
	}
	switch {
	case !namePattern.MatchString(m.Namespace) || !namePattern.MatchString(m.Policy):
		m.Skip = fmt.Sprintf("%q does not name a policy: want namespace:name, with :name, :tag or :digest where only a part is wanted", setter)
	case len(parts) == 3 && m.Field != Name && m.Field != Tag && m.Field != Digest:
		m.Skip = fmt.Sprintf("%q is not a part of an image: want name, tag or digest", m.Field)
	}
	return m, true
}
