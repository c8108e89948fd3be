package main

import (
	"bytes"
	"errors"
	"slices"

	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/marker"
	"github.com/deepdesk/cloudbuild-steps/internal/policy"
)

// reading is what was found in the YAML files of the repo, by path. It is kept from one state of the repo to the next: after a lost race
// nearly all files are what they were, and what is the same is not searched, parsed and edited a second time.
type reading map[string]*file

// file is a YAML file of the repo.
type file struct {
	name    string
	id      gitrepo.ID
	content []byte
	link    bool   // it is a link or a submodule
	skip    string // why it was not looked into
	err     error

	marked   bool     // it may hold markers
	policies []string // that its markers name
	plain    bool     // policies is all of them
	objects  policy.Set
	defect   string // why objects is not known

	markers []marker.Marker // once they were looked for
	edits   []marker.Edit   // of the last edit
	edited  []byte          // what that made of the file
}

// look returns what is in files. It only reads the reading.
func (r reading) look(files []gitrepo.File) []*file {
	found := make([]*file, len(files))
	for i, f := range files {
		if known := r[f.Path]; known != nil && known.id == f.ID && f.Mode.IsRegular() {
			found[i] = known
		} else {
			found[i] = search(f)
		}
	}
	return found
}

// search reads a file and looks for what it may be about.
func search(f gitrepo.File) *file {
	found := &file{name: f.Path, id: f.ID, link: !f.Mode.IsRegular()}
	if found.link {
		found.skip = "it is a link or a submodule, which is never followed"
		return found
	}
	content, err := f.Read()
	if tooLarge, ok := errors.AsType[*gitrepo.TooLargeError](err); ok {
		found.skip = tooLarge.Error() + " and was not read, so markers in it are not known"
		return found
	}
	if err != nil {
		found.err = err
		return found
	}
	found.content = content
	found.policies, found.plain = marker.Policies(found.content)
	found.marked = len(found.policies) > 0 || !found.plain
	if found.objects, err = policy.Parse(found.content); err != nil {
		found.defect = err.Error()
	}
	return found
}

// find returns the markers of the file. Those of the first time know what the file was parsed to, which editing it needs; that is large, and is
// not kept.
func (f *file) find() []marker.Marker {
	if f.markers != nil {
		return f.markers
	}
	found := marker.Find(f.content)
	f.markers = marker.Bare(found)
	return found
}

// edit returns the file with the edits.
func (f *file) edit(edits []marker.Edit) ([]byte, error) {
	same := func(a, b marker.Edit) bool { return a.Marker.Line == b.Marker.Line && a.Value == b.Value }
	if f.edited != nil && slices.EqualFunc(f.edits, edits, same) {
		return f.edited, nil
	}
	edited, err := marker.Splice(f.content, edits)
	if err != nil {
		return nil, err
	}
	f.edits, f.edited = slices.Clone(edits), edited
	for i := range f.edits {
		f.edits[i].Marker = marker.Marker{Line: f.edits[i].Marker.Line}
	}
	return edited, nil
}

// names reports whether a marker in the file may be of the policy. JSON can write any letter as an escape.
func (f *file) names(id string) bool {
	return slices.Contains(f.policies, id) || !f.plain && (bytes.Contains(f.content, []byte(id)) || bytes.Contains(f.content, []byte(`\u`)))
}

// concerns reports whether the file has to be parsed: because it names one of the policies, or an image and a policy that is not defined, whose
// marker may be meant for that image.
func (f *file) concerns(policies map[string]tracked, defined map[string]bool, images []string) bool {
	unknown := !f.plain
	for _, id := range f.policies {
		if _, ours := policies[id]; ours {
			return true
		}
		unknown = unknown || !defined[id]
	}
	if !unknown {
		return false
	}
	for id := range policies {
		if f.names(id) {
			return true
		}
	}
	return slices.ContainsFunc(images, func(image string) bool { return bytes.Contains(f.content, []byte(image)) })
}
