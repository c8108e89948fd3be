package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/Masterminds/semver/v3"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/ignore"
)

// maxChart bounds a chart, in bytes, as Helm does (archive.MaxDecompressedChartSize).
const maxChart = 100 << 20

// chartFiles are the files of one chart folder, ready to be made into a chart as often as releases need it: Helm changes a chart while it
// renders it.
type chartFiles struct {
	name, version string
	revision      string                 // put into the version as build metadata; see load
	files         []archive.BufferedFile // names from the chart's folder; nil until they are fetched
	digest        string                 // of the content: over names and contents, or of the archive

	// Of a chart outside the config repo (remote.go):
	from     string                                // where it is, for messages; "" for a chart of the config repo
	download func(context.Context) ([]byte, error) // its archive
	check    func(name, version string) error      // whether the archive is the chart that was meant
	once     sync.Once
	fetched  error
}

// readChart reads a chart from the repo, leaving out what its .helmignore says, as `helm package` and Flux do.
func readChart(repo *source, folder string) (*chartFiles, error) {
	if !repo.has(folder + "/Chart.yaml") {
		return nil, fmt.Errorf("the repository has no chart at %s (no Chart.yaml)", folder)
	}
	for _, link := range repo.links {
		if strings.HasPrefix(link, folder+"/") { // without the file it would be another chart
			return nil, fmt.Errorf("%s is a link, which is never followed: commit the file itself", link)
		}
	}
	rules := ignore.Empty()
	if name := folder + "/" + ignore.HelmIgnore; repo.has(name) {
		text, err := repo.read(name)
		if err != nil {
			return nil, err
		}
		if rules, err = ignore.Parse(bytes.NewReader(text)); err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	rules.AddDefaults()
	var (
		c    chartFiles
		sum  = sha256.New()
		size = 0
	)
	for _, full := range repo.names {
		name, ok := strings.CutPrefix(full, folder+"/")
		if !ok || ignored(rules, name) {
			continue
		}
		content, err := repo.read(full)
		if err != nil {
			return nil, err
		}
		content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf")) // Helm drops it too
		if size += len(content); size > maxChart {
			return nil, fmt.Errorf("chart %s is larger than %d MiB", folder, maxChart>>20)
		}
		c.files = append(c.files, archive.BufferedFile{Name: name, Data: content})
		fmt.Fprintf(sum, "%d %s %d %x\n", len(name), name, len(content), sha256.Sum256(content))
	}
	c.digest = hex.EncodeToString(sum.Sum(nil))
	made, err := c.load("")
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", folder, err)
	}
	c.name, c.version = made.Name(), made.Metadata.Version
	return &c, nil
}

// ignored applies .helmignore to a file and to the folders above it.
func ignored(rules *ignore.Rules, name string) bool {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if rules.Ignore(dir, entry{dir, fs.ModeDir}) {
			return true
		}
	}
	return rules.Ignore(name, entry{name, 0})
}

// entry is the little that ignore.Rules asks of a file.
type entry struct {
	name string
	mode fs.FileMode
}

func (e entry) Name() string       { return path.Base(e.name) }
func (e entry) Size() int64        { return 0 }
func (e entry) Mode() fs.FileMode  { return e.mode }
func (e entry) ModTime() time.Time { return time.Time{} }
func (e entry) IsDir() bool        { return e.mode.IsDir() }
func (e entry) Sys() any           { return nil }

// load makes a chart of the files. A commit is put into the version as build metadata, the way Flux does for reconcileStrategy: Revision, and
// so is the digest of the artifact that an OCIRepository names.
func (c *chartFiles) load(commit string) (*chart.Chart, error) {
	made, err := c.read()
	if commit = cmp.Or(c.revision, commit); err == nil && commit != "" {
		made.Metadata.Version, err = withRevision(made.Metadata.Version, commit)
	}
	return made, err
}

// read makes a chart of the files as they are.
func (c *chartFiles) read() (*chart.Chart, error) {
	files := make([]*archive.BufferedFile, len(c.files))
	for i, f := range c.files {
		files[i] = &f
	}
	made, err := loader.LoadFiles(files)
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for _, d := range made.Dependencies() {
		have[d.Name()] = true
	}
	for _, d := range made.Metadata.Dependencies {
		if !have[d.Name] {
			where := "commit it there (helm dependency update)"
			if c.from != "" {
				where = "the archive must bring it along (helm dependency update before helm package)"
			}
			return nil, fmt.Errorf("dependency %s %s is not in charts/: %s, it is not downloaded", d.Name, d.Version, where)
		}
	}
	return made, nil
}

// withRevision gives a chart's version the first twelve digits of a commit as build metadata (source-controller's VersionMetadata):
// 1.0.0 becomes 1.0.0+0123456789ab. In labels the + cannot stand; charts replace it by _, as `helm create` shows.
func withRevision(version, commit string) (string, error) {
	v, err := semver.NewVersion(version)
	if err != nil {
		return "", fmt.Errorf("version %q: %w", version, err)
	}
	with, err := v.SetMetadata(commit[:min(12, len(commit))])
	if err != nil {
		return "", fmt.Errorf("version %q with commit %q: %w", version, commit, err)
	}
	return with.String(), nil
}

// digestFormat changes whenever the digest is computed in another way: every release is then deployed once more.
const digestFormat = "1"

// digest is over everything that makes a release what it is: the chart's files, the values, and where it goes. It leaves out how it is
// rolled out (timeout, history), and the commit, which changes with every push.
func (w *wanted) digest() (string, error) {
	values, err := json.Marshal(w.values)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	parts := []string{digestFormat, w.chart.digest, string(values), w.namespace, w.key.Name, fmt.Sprint(w.addRevision)}
	if len(w.valuesFiles) > 0 {
		parts = append(parts, fmt.Sprintf("%q %t", w.valuesFiles, w.ignoreMissing))
	}
	if !w.post.isEmpty() {
		text, err := w.post.text()
		if err != nil {
			return "", err
		}
		parts = append(parts, text, w.settings.PostRenderStrategy)
	}
	for _, part := range parts {
		fmt.Fprintf(sum, "%d:%s\n", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil))[:40], nil // a label holds 63 characters
}

// version is what people call the thing that is deployed: the image's tag, where the chart has one image, else the chart's version.
func (w *wanted) version() string {
	if w.image.tag != "" {
		return w.image.tag
	}
	if w.chart != nil {
		return w.chart.version
	}
	return ""
}

// ownValues copies the values, since Helm changes what it gets. Numbers keep their types: a template prints 1000000 for an int64, and 1e+06
// for the same number as a float64.
func (w *wanted) ownValues() map[string]any {
	if w.values == nil {
		return map[string]any{}
	}
	return ownCopy(w.values).(map[string]any)
}

func ownCopy(v any) any {
	switch v := v.(type) {
	case map[string]any:
		own := make(map[string]any, len(v))
		for name, member := range v {
			own[name] = ownCopy(member)
		}
		return own
	case []any:
		own := make([]any, len(v))
		for i, member := range v {
			own[i] = ownCopy(member)
		}
		return own
	}
	return v
}
