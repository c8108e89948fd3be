package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/Masterminds/semver/v3"
	"helm.sh/helm/v4/pkg/chart/loader/archive"

	"github.com/deepdesk/cloudbuild-steps/internal/chartrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/registry"
)

// maxFetches bounds how many questions about charts are asked at the same time.
const maxFetches = 8

// The types of a layer that is a chart's archive (helm.sh/helm/v4/pkg/registry).
const (
	chartLayer       = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	legacyChartLayer = "application/tar+gzip"
)

// remoteCharts finds the charts that are not in the config repo. What it asks costs, in one run: one request for the index of each Helm
// repository; for each chart in a registry one for the manifest, after one for the list of tags where a range of versions is asked for. That
// gives the digest of the archive, by which unchanged releases are recognised; the archive itself is downloaded only for a release that is
// to be deployed, and once for all that use it. Only an index without digests makes the download necessary at once.
type remoteCharts struct {
	plain   []string
	notice  func(string)
	secrets func(ctx context.Context, cluster, namespace, name string) (map[string][]byte, error)

	repositories memo[*chartrepo.Repository]
	indexes      memo[*chartrepo.Index]
	registries   memo[*registry.Client]
	charts       memo[*chartFiles]
}

// memo remembers answers. It is safe for concurrent use, and a question is asked once even if many ask it at the same time.
type memo[T any] struct {
	mu      sync.Mutex
	answers map[string]func() (T, error)
}

func (m *memo[T]) get(key string, ask func() (T, error)) (T, error) {
	m.mu.Lock()
	if m.answers == nil {
		m.answers = map[string]func() (T, error){}
	}
	answer, ok := m.answers[key]
	if !ok {
		answer = sync.OnceValues(ask)
		m.answers[key] = answer
	}
	m.mu.Unlock()
	return answer()
}

// resolve finds out which chart each release means, of those that have one outside the config repo and may be deployed. A chart that cannot
// be found is the fault of the releases that use it.
func (r *remoteCharts) resolve(ctx context.Context, list []*wanted, c circumstances) {
	list = slices.DeleteFunc(slices.Clone(list), func(w *wanted) bool {
		return w.remote == nil || w.fault != "" || w.suspended || c.wave(c.channel(w)) < 0
	})
	sideBySide(maxFetches, list, func(w *wanted) {
		key := strings.Join([]string{r.asked(w), w.remote.name, w.remote.version}, "\n")
		chart, err := r.charts.get(key, func() (*chartFiles, error) { return r.find(ctx, w) })
		if w.chart = chart; err != nil {
			w.addFault(fmt.Sprintf("%s (%s): %s", w.remote.from, w.remote.from.file, withAdvice(err)))
		}
	})
}

// withAdvice keeps the advice of an error that becomes a text.
func withAdvice(err error) string {
	if e, ok := errors.AsType[interface {
		error
		Fix() string
	}](err); ok && e.Fix() != "" {
		return fmt.Sprintf("%v (%s)", err, e.Fix())
	}
	return err.Error()
}

// asked names a source as seen from a cluster: the credentials for it may be other ones in each.
func (r *remoteCharts) asked(w *wanted) string {
	key := w.remote.from.String()
	if s := w.remote.from.helm; s.SecretRef != nil || s.CertSecretRef != nil {
		key += " " + w.cluster
	}
	return key
}

func (r *remoteCharts) find(ctx context.Context, w *wanted) (*chartFiles, error) {
	if w.remote.from.kind == helmRepository && w.remote.from.helm.Type != "oci" {
		return r.fromIndex(ctx, w)
	}
	return r.fromRegistry(ctx, w)
}

// fromIndex finds a chart in a Helm repository.
func (r *remoteCharts) fromIndex(ctx context.Context, w *wanted) (*chartFiles, error) {
	spec := w.remote.from.helm
	repository, err := r.repositories.get(r.asked(w), func() (*chartrepo.Repository, error) {
		a, err := r.access(ctx, w)
		if err != nil {
			return nil, err
		}
		o := chartrepo.Options{
			URL: spec.URL, Username: a.username, Password: a.password, Token: a.token, PassCredentials: spec.PassCredentials, TLS: a.tls, Plain: r.plain,
		}
		if spec.Timeout != nil {
			o.Timeout = spec.Timeout.Duration
		}
		return chartrepo.New(o)
	})
	if err != nil {
		return nil, err
	}
	index, err := r.indexes.get(r.asked(w), func() (*chartrepo.Index, error) { return repository.Index(ctx) })
	if err != nil {
		return nil, err
	}
	version, err := index.Choose(w.remote.name, w.remote.version)
	if err != nil {
		return nil, fmt.Errorf("the Helm repository %s: %w", repository, err)
	}
	c := &chartFiles{name: w.remote.name, version: version.Version, digest: version.SHA256, from: repository.String()}
	c.download = func(ctx context.Context) ([]byte, error) { return repository.Download(ctx, version) }
	c.check = func(name, is string) error {
		if name != c.name || !sameVersion(is, version.Version) {
			return fmt.Errorf("the index of the Helm repository %s names it %s %s, and the archive is %s %s", repository, c.name, version.Version, name, is)
		}
		return nil
	}
	if c.digest == "" {
		return c, c.fetch(ctx)
	}
	return c, nil
}

// sameVersion compares two versions, build metadata included; a v in front is none of it.
func sameVersion(a, b string) bool {
	v, errA := semver.NewVersion(a)
	w, errB := semver.NewVersion(b)
	return a == b || errA == nil && errB == nil && v.Equal(w) && v.Metadata() == w.Metadata()
}

// fromRegistry finds a chart in a container registry, of a HelmRepository of type oci or of an OCIRepository.
func (r *remoteCharts) fromRegistry(ctx context.Context, w *wanted) (*chartFiles, error) {
	spec := w.remote.from.helm
	repository := strings.TrimSuffix(strings.TrimPrefix(spec.URL, "oci://"), "/")
	if w.remote.name != "" {
		repository += "/" + w.remote.name
	}
	timeout := chartrepo.DefaultTimeout
	if spec.Timeout != nil {
		timeout = spec.Timeout.Duration
	}
	limit := func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no whole answer within %s", timeout))
	}
	limited, cancel := limit(ctx)
	defer cancel()
	client, err := r.registries.get(r.asked(w), func() (*registry.Client, error) { return r.registry(ctx, w, repository) })
	if err != nil {
		return nil, err
	}
	reference, err := r.reference(limited, client, w, repository)
	if err != nil {
		return nil, timely(limited, err)
	}
	image, ok, err := client.Resolve(limited, repository, reference)
	at := repository + ":" + reference
	if registry.IsDigest(reference) {
		at = repository + "@" + reference
	}
	switch {
	case err != nil:
		return nil, timely(limited, err)
	case !ok:
		return nil, fmt.Errorf("the registry has no chart %s", at)
	}
	layer, err := archiveLayer(image, w.remote.from)
	if err != nil {
		return nil, fmt.Errorf("%s is no Helm chart: %w", at, err)
	}
	// What a tag that is no version names is known when the archive is there.
	c := &chartFiles{name: path.Base(repository), version: tagVersion(reference), digest: layer.Digest, from: at}
	if w.remote.from.kind == ociRepository {
		// helm-controller puts the digest of the artifact into the version, so that a tag which was moved is noticed (mutateChartWithSourceRevision).
		c.revision = strings.TrimPrefix(image.Digest, "sha256:")
		c.digest += "@" + image.Digest
	}
	c.download = func(ctx context.Context) ([]byte, error) {
		ctx, cancel := limit(ctx)
		defer cancel()
		archive, err := client.ReadLayer(ctx, repository, layer, chartrepo.MaxArchive)
		return archive, timely(ctx, err)
	}
	c.check = func(name, version string) error {
		if w.remote.name != "" && name != path.Base(w.remote.name) {
			return fmt.Errorf("%s is named %s, and the archive in it is chart %s %s", at, path.Base(w.remote.name), name, version)
		}
		tag, err := semver.NewVersion(tagVersion(reference))
		if is, wrong := semver.NewVersion(version); err == nil && (wrong != nil || !is.Equal(tag)) {
			return fmt.Errorf("%s holds version %s of chart %s: a tag that is a version must be the chart's", at, version, name)
		}
		return nil
	}
	return c, nil
}

// timely says that the source's own timeout is over, where that is why.
func timely(limited context.Context, err error) error {
	if err != nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", err, context.Cause(limited))
	}
	return err
}

// registry makes a client with the credentials of the source; without any, with those of this build.
func (r *remoteCharts) registry(ctx context.Context, w *wanted, repository string) (*registry.Client, error) {
	a, err := r.access(ctx, w)
	if err != nil {
		return nil, err
	}
	options := []registry.Option{registry.WithNotice(r.notice)}
	if w.remote.from.helm.SecretRef != nil {
		keychain, err := a.keychain(repository)
		if err != nil {
			return nil, fmt.Errorf("spec.secretRef: %w", err)
		}
		options = append(options, registry.WithKeychain(keychain))
	}
	if a.tls != nil {
		options = append(options, registry.WithTLS(a.tls))
	}
	client := registry.New(r.plain, options...)
	if host, _, _ := strings.Cut(repository, "/"); w.remote.from.helm.Insecure && !client.Plain(host) {
		return nil, fmt.Errorf("spec.insecure asks for plain HTTP: list %s in REGISTRY_INSECURE if it may be", host)
	}
	return client, nil
}

// reference is the tag or digest that a source means, by the rules of source-controller: getArtifactRef for an OCIRepository, getChartVersion
// for a HelmRepository. Tags have _ for the + of a version, because a tag cannot have one.
func (r *remoteCharts) reference(ctx context.Context, client *registry.Client, w *wanted, repository string) (string, error) {
	if w.remote.from.kind == helmRepository {
		if _, exact := chartrepo.ParseVersion(w.remote.version); exact {
			return strings.ReplaceAll(w.remote.version, "+", "_"), nil
		}
		return newestTag(ctx, client, repository, w.remote.version, true, nil)
	}
	ref, selector := w.remote.from.helm.Ref, w.remote.from.helm.LayerSelector
	switch {
	case ref.Digest != "":
		return ref.Digest, nil
	case ref.SemVer != "":
		return newestTag(ctx, client, repository, ref.SemVer, selector.MediaType == chartLayer, regexp.MustCompile(ref.SemVerFilter)) // sources.add has tried it
	case ref.Tag != "":
		return ref.Tag, nil
	}
	return "latest", nil
}

// newestTag lists the tags and takes the newest in a range. plus says that a _ in a tag is a +.
func newestTag(ctx context.Context, client *registry.Client, repository, versions string, plus bool, filter *regexp.Regexp) (string, error) {
	tags, err := client.TagsOf(ctx, repository)
	if err != nil {
		return "", err
	}
	var candidates []string
	for _, tag := range tags {
		if filter != nil && !filter.MatchString(tag) {
			continue
		}
		if plus {
			tag = tagVersion(tag)
		}
		if _, ok := chartrepo.ParseVersion(tag); ok {
			candidates = append(candidates, tag)
		}
	}
	if len(candidates) == 0 {
		return "", fmt.Errorf("the registry has no tag of %s that is a version", repository)
	}
	chosen, err := chartrepo.Newest(candidates, versions)
	if err != nil {
		return "", fmt.Errorf("the tags of %s: %w", repository, err)
	}
	if plus {
		chosen = strings.ReplaceAll(chosen, "+", "_")
	}
	return chosen, nil
}

func tagVersion(tag string) string { return strings.ReplaceAll(tag, "_", "+") }

// archiveLayer finds the layer that is the chart's archive.
func archiveLayer(image registry.Image, from *chartSource) (registry.Layer, error) {
	layers, err := image.Layers()
	if err != nil {
		return registry.Layer{}, err
	}
	wanted := []string{chartLayer, legacyChartLayer}
	if from.kind == ociRepository {
		wanted = []string{from.helm.LayerSelector.MediaType}
	}
	var types []string
	for _, layer := range layers {
		if slices.Contains(wanted, layer.MediaType) || wanted[0] == "" {
			return layer, nil
		}
		types = append(types, layer.MediaType)
	}
	if len(types) == 0 {
		return registry.Layer{}, errors.New("it has no layers")
	}
	return registry.Layer{}, fmt.Errorf("no layer of type %s, only %s", wanted[0], strings.Join(types, ", "))
}

// fetch downloads a chart and makes sure that it is the one that was meant. It does so once.
func (c *chartFiles) fetch(ctx context.Context) error {
	c.once.Do(func() { c.fetched = c.fetchOnce(ctx) })
	return c.fetched
}

func (c *chartFiles) fetchOnce(ctx context.Context) error {
	text, err := c.download(ctx)
	if err != nil {
		return err
	}
	if c.files, err = unpack(text); err != nil {
		return fmt.Errorf("the archive of chart %s %s from %s: %w", c.name, c.version, c.from, err)
	}
	made, err := c.read()
	if err != nil {
		return fmt.Errorf("chart %s %s from %s: %w", c.name, c.version, c.from, err)
	}
	if err := c.check(made.Name(), made.Metadata.Version); err != nil {
		return err
	}
	c.name, c.version = made.Name(), made.Metadata.Version
	if c.digest == "" {
		sum := sha256.Sum256(text)
		c.digest = hex.EncodeToString(sum[:])
	}
	return nil
}

// unpack reads the files of an archive. Helm's reader bounds what files hold and refuses paths that lead elsewhere; the stream as a whole is
// bounded here, because millions of empty files hold nothing.
func unpack(text []byte) ([]archive.BufferedFile, error) {
	stream, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		return nil, errors.New("it is not gzip")
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(stream, maxChart+1)); err != nil {
		return nil, fmt.Errorf("decompressing it: %w", err)
	} else if n > maxChart {
		return nil, fmt.Errorf("it is larger than %d MiB", maxChart>>20)
	}
	list, err := archive.LoadArchiveFiles(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	files := make([]archive.BufferedFile, len(list))
	for i, f := range list {
		files[i] = *f
	}
	return files, nil
}

// fetchCharts downloads the charts of the releases that are to be deployed, before the first of them is touched: a chart that cannot be had
// shall not be noticed in the middle of a wave.
func fetchCharts(ctx context.Context, tasks []*task) {
	var list []*task
	for _, t := range tasks {
		if t.begins() && t.release.remote != nil {
			list = append(list, t)
		}
	}
	sideBySide(maxFetches, list, func(t *task) {
		w := t.release
		err := w.chart.fetch(ctx)
		if err == nil && len(w.valuesFiles) > 0 {
			w.chart, err = w.chart.withValues(w.valuesFiles, w.ignoreMissing)
		}
		if err != nil {
			t.occupied = false
			t.state, t.reason = failed, fmt.Sprintf("%s: %s (%s): %s", w.file, w.remote.from, w.remote.from.file, withAdvice(err))
		}
	})
}
