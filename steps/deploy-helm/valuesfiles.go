package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/loader/archive"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	k8syaml "sigs.k8s.io/yaml"
)

// valuesFile is what a chart calls its default values.
const valuesFile = "values.yaml"

// finder reads the file that a path in spec.valuesFiles names; ok is false when there is none.
type finder func(name string) (content []byte, ok bool, err error)

// inRepo finds files in the config repo, from its root, whatever ".." a path has: for a chart of a GitRepository.
func inRepo(repo *source) finder {
	return func(name string) ([]byte, bool, error) {
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		if slices.Contains(repo.links, name) {
			return nil, false, fmt.Errorf("%s is a link, which is never followed: commit the file itself", name)
		}
		if !repo.has(name) {
			return nil, false, nil
		}
		content, err := repo.read(name)
		return content, true, err
	}
}

// inChart finds files in the chart itself: for one from a repository of charts. What Helm reads as something else, such as a template, is no
// file there (source-controller, mergeChartValues).
func (c *chartFiles) inChart(name string) ([]byte, bool, error) {
	name = path.Clean(name)
	for _, special := range []string{"Chart.yaml", "Chart.lock", "values.schema.json"} {
		if name == special {
			return nil, false, nil
		}
	}
	if strings.HasPrefix(name, "templates/") || strings.HasPrefix(name, "charts/") {
		return nil, false, nil
	}
	i := slices.IndexFunc(c.files, func(f archive.BufferedFile) bool { return f.Name == name })
	if i < 0 {
		return nil, false, nil
	}
	return c.files[i].Data, true, nil
}

// withValues is a copy of a chart whose values.yaml is made of its own files.
func (c *chartFiles) withValues(names []string, ignoreMissing bool) (*chartFiles, error) {
	return c.withValuesOf(c.inChart, names, ignoreMissing)
}

// withValuesOf is a copy of a chart whose values.yaml is made of files: each is merged over those before it, as source-controller does. The
// digest of the copy stays the chart's; the files are in the digest of the release.
func (c *chartFiles) withValuesOf(find finder, names []string, ignoreMissing bool) (*chartFiles, error) {
	merged := map[string]any{}
	for _, name := range names {
		content, ok, err := find(name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("spec.valuesFiles: %w", err)
		case !ok && ignoreMissing:
			continue
		case !ok:
			return nil, fmt.Errorf("spec.valuesFiles: there is no file %s (spec.ignoreMissingValuesFiles passes over it)", name)
		}
		values := map[string]any{}
		if err := k8syaml.Unmarshal(content, &values); err != nil {
			return nil, fmt.Errorf("spec.valuesFiles: reading %s: %w", name, err)
		}
		merged = loader.MergeMaps(merged, values)
	}
	var text []byte
	if len(merged) > 0 {
		var err error
		if text, err = k8syaml.Marshal(merged); err != nil {
			return nil, fmt.Errorf("spec.valuesFiles: %w", err)
		}
	}
	i := slices.IndexFunc(c.files, func(f archive.BufferedFile) bool { return f.Name == valuesFile })
	if i < 0 {
		return nil, fmt.Errorf("spec.valuesFiles: chart %s has no values.yaml in whose place they could stand", c.name)
	}
	own := &chartFiles{name: c.name, version: c.version, revision: c.revision, digest: c.digest, from: c.from, files: slices.Clone(c.files)}
	own.files[i] = archive.BufferedFile{Name: valuesFile, Data: text}
	return own, nil
}

// replaceValues gives a chart of the config repo the values files of a release. Since they need not be part of the chart, they count in its
// digest.
func (w *wanted) replaceValues(repo *source) error {
	own, err := w.chart.withValuesOf(inRepo(repo), w.valuesFiles, w.ignoreMissing)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(own.files, func(f archive.BufferedFile) bool { return f.Name == valuesFile })
	sum := sha256.Sum256(bytes.Join([][]byte{[]byte(own.digest), own.files[i].Data}, []byte("\n")))
	own.digest = hex.EncodeToString(sum[:])
	w.chart = own
	return nil
}
