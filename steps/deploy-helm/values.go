package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
)

// maxReads bounds how many objects are read from clusters at the same time.
const maxReads = 8

// referent is a ConfigMap or a Secret that a valuesFrom names, in the cluster that the release goes to.
type referent struct{ cluster, kind, namespace, name string }

func (r referent) String() string { return fmt.Sprintf("%s %s/%s", r.kind, r.namespace, r.name) }

// content is what a referent holds; no data means that it does not exist.
type content struct {
	data map[string][]byte
	err  error
}

// referentOf is what a valuesFrom of w names: always an object beside the HelmRelease.
func (w *wanted) referentOf(ref helmv2.ValuesReference) referent {
	return referent{w.cluster, ref.Kind, w.object.Namespace, ref.Name}
}

// resolveValues completes the values of releases with what their valuesFrom names. The cluster is asked, and each object only once, however
// many releases name it: the config repo may hold the same objects as manifests, but what counts is what was applied.
func resolveValues(ctx context.Context, t *targets, repo *source, list []*wanted) {
	contents := map[referent]*content{}
	var needing []*wanted
	for _, w := range list {
		if w.fault != "" || w.suspended || len(w.valuesFrom) == 0 {
			continue
		}
		needing = append(needing, w)
		for _, ref := range w.valuesFrom {
			contents[w.referentOf(ref)] = &content{}
		}
	}
	sideBySide(maxReads, slices.Collect(maps.Keys(contents)), func(r referent) {
		c, on := contents[r], t.found[r.cluster].cluster
		if on == nil {
			c.err = errors.New("the release has no cluster")
			return
		}
		c.data, c.err = on.Data(ctx, r.kind, r.namespace, r.name)
	})
	for _, w := range needing {
		if err := w.resolve(contents, repo); err != nil {
			w.addFault(err.Error())
		}
	}
}

// resolve puts the values of one release together.
func (w *wanted) resolve(contents map[referent]*content, repo *source) error {
	merged, err := w.merge(contents, repo, false)
	if err != nil {
		return err
	}
	public, err := w.merge(contents, repo, true)
	if err != nil {
		return err
	}
	i, open := imageOf(merged, nil), imageOf(public, nil)
	if i != open {
		return errors.New("values.image comes from a Secret, and it would have to be printed: put repository, tag and digest into spec.values or a ConfigMap")
	}
	i.marked = w.image.marked
	w.values, w.image = merged, i
	return nil
}

// merge follows fluxcd/pkg/chartutil ChartValuesFromReferences to the letter, since the order is subtle: later references over earlier ones,
// spec.values over all of them, and a targetPath over what was merged until then, spec.values included. Errors about what a Secret holds do
// not quote it. With public, Secrets are left out.
func (w *wanted) merge(contents map[referent]*content, repo *source, public bool) (map[string]any, error) {
	inline, result := w.ownValues(), map[string]any{}
	for n, ref := range w.valuesFrom {
		isSecret := ref.Kind == "Secret"
		if isSecret && public {
			continue
		}
		r := w.referentOf(ref)
		what := func(format string, args ...any) error {
			return fmt.Errorf("spec.valuesFrom[%d]: %s %s", n, r, fmt.Sprintf(format, args...))
		}
		held := contents[r]
		if held.err != nil {
			return nil, fmt.Errorf("spec.valuesFrom[%d]: %w", n, held.err)
		}
		if held.data == nil {
			if ref.Optional {
				continue
			}
			if file := repo.manifest(r.kind, r.namespace, r.name); file != "" {
				return nil, what("does not exist in the cluster; the config repo has it in %s, from where it must be applied first", file)
			}
			return nil, what("does not exist in the cluster")
		}
		value, ok := held.data[ref.GetValuesKey()]
		if !ok {
			if ref.Optional {
				continue
			}
			return nil, what("has no key %q", ref.GetValuesKey())
		}
		if isSecret {
			w.secrets.add(value, ref.TargetPath == "")
		}
		if ref.TargetPath != "" {
			result = loader.MergeMaps(result, inline)
			if err := setPath(result, ref, string(value)); err != nil {
				if isSecret {
					return nil, what("has a value under %q that cannot be set at targetPath %q", ref.GetValuesKey(), ref.TargetPath)
				}
				return nil, what("cannot be set at targetPath %q: %v", ref.TargetPath, err)
			}
			continue
		}
		values, err := common.ReadValues(value)
		if err != nil && isSecret {
			return nil, what("holds no YAML map under %q", ref.GetValuesKey())
		}
		if err != nil {
			return nil, what("holds no YAML map under %q: %v", ref.GetValuesKey(), err)
		}
		result = loader.MergeMaps(result, values)
	}
	return loader.MergeMaps(result, inline), nil
}

// literally escapes what Helm's --set gives a meaning to.
var literally = strings.NewReplacer(`\`, `\\`, `,`, `\,`, `[`, `\[`, `]`, `\]`, `{`, `\{`, `}`, `\}`)

// setPath sets one value with the rules of Helm's --set (fluxcd/pkg/chartutil ReplacePathValue and ReplacePathLiteralValue): a value in quotes
// is a text, and with literal every value is.
func setPath(values map[string]any, ref helmv2.ValuesReference, value string) error {
	quoted := func(q string) bool { return strings.HasPrefix(value, q) && strings.HasSuffix(value, q) }
	switch {
	case ref.Literal:
		return strvals.ParseIntoString(ref.TargetPath+"="+literally.Replace(value), values)
	case quoted("'") || quoted(`"`):
		return strvals.ParseIntoString(ref.TargetPath+"="+strings.Trim(value, `'"`), values)
	}
	return strvals.ParseInto(ref.TargetPath+"="+value, values)
}
