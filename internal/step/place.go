package step

import (
	"errors"
	"strings"
)

// Place is a variable that names where images are kept: another repository of a registry (host/path, as [Image]), or a folder, which begins with
// / or ./ and becomes an OCI layout.
type Place string

// UnmarshalText checks it.
func (p *Place) UnmarshalText(b []byte) error {
	*p = Place(b)
	switch {
	case p.IsFolder():
		return nil
	case strings.HasPrefix(string(b), "."):
		return errors.New("want a folder as / or ./ and its path, or a repository as host/path")
	}
	var image Image
	return image.UnmarshalText(b)
}

// IsFolder tells a folder from a repository.
func (p Place) IsFolder() bool {
	return strings.HasPrefix(string(p), "/") || strings.HasPrefix(string(p), "./")
}
