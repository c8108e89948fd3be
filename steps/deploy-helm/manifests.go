package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"iter"
	"path"
	"strings"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

// maxManifest bounds, in bytes, a file that is parsed.
const maxManifest = 4 << 20

// manifests yields the names of the files below a folder that may hold objects: YAML that is neither hidden nor a part of a chart.
func (s *source) manifests(folder string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, name := range s.names {
			if within(name, folder) && isYAML(name) && !s.inChart(name) && !strings.HasPrefix(path.Base(name), ".") && !yield(name) {
				return
			}
		}
	}
}

// inChart reports whether a file lies below a folder that holds a chart: YAML there is a template.
func (s *source) inChart(name string) bool {
	s.findCharts.Do(func() {
		s.charts = map[string]bool{}
		for _, name := range s.names {
			if path.Base(name) == "Chart.yaml" {
				s.charts[path.Dir(name)] = true
			}
		}
	})
	for dir := path.Dir(name); dir != "." && dir != "/"; dir = path.Dir(dir) {
		if s.charts[dir] {
			return true
		}
	}
	return false
}

func isYAML(name string) bool {
	return path.Ext(name) == ".yaml" || path.Ext(name) == ".yml"
}

// within reports whether a file lies below a folder of the repo; "." is the root.
func within(name, folder string) bool {
	folder = path.Clean(folder)
	return folder == "." || strings.HasPrefix(name, folder+"/")
}

// documents yields the documents of a YAML file, as they are. An error is the last that it yields.
func documents(text []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		// The reader loses an unterminated last line of certain lengths (helm#32506).
		r := utilyaml.NewYAMLReader(bufio.NewReader(io.MultiReader(bytes.NewReader(text), strings.NewReader("\n"))))
		for {
			doc, err := r.Read()
			if errors.Is(err, io.EOF) || !yield(doc, err) || err != nil {
				return
			}
		}
	}
}
