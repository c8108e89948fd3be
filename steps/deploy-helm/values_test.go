package main

import (
	"strings"
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/google/go-cmp/cmp"
	k8syaml "sigs.k8s.io/yaml"

	"github.com/deepdesk/cloudbuild-steps/internal/cluster"
)

// The cases and what is expected are those of fluxcd/pkg chartutil/values_test.go and of the pages that it documents.
func TestValuesAreMergedAsFluxMergesThem(t *testing.T) {
	const brokers = "kafka01.net:9092,kafka02.net:9092"
	type data = map[string]string
	for _, tt := range []struct {
		name    string
		objects map[string]data // by KIND/NAME
		refs    string
		values  string
		want    string
		err     string
	}{
		{
			name:    "later references overwrite earlier ones, flat values maps and the other way round",
			objects: map[string]data{"ConfigMap/values": {"values.yaml": "flat: value\nnested: {configuration: value}"}, "Secret/values": {"values.yaml": "flat: {nested: value}\nnested: value"}},
			refs:    "[{kind: ConfigMap, name: values}, {kind: Secret, name: values}]", values: "other: values",
			want: "{flat: {nested: value}, nested: value, other: values}",
		},
		{
			name: "spec.values overwrite references", objects: map[string]data{"ConfigMap/values": {"values.yaml": "a: 1\nb: {c: 1, d: 1}"}},
			refs: "[{kind: ConfigMap, name: values}]", values: "b: {c: 2}", want: "{a: 1, b: {c: 2, d: 1}}",
		},
		{
			name: "a target path is made", objects: map[string]data{"Secret/values": {"single": "value"}},
			refs: "[{kind: Secret, name: values, valuesKey: single, targetPath: merge.at.specific.path}]", want: "{merge: {at: {specific: {path: value}}}}",
		},
		{
			name:    "a target path goes before everything",
			objects: map[string]data{"ConfigMap/values": {"values.yaml": "flat: value\nnested: {configuration: [one, two, three]}"}, "Secret/values": {"key": "value"}},
			refs:    "[{kind: Secret, name: values, valuesKey: key, targetPath: 'nested.configuration[0]'}, {kind: ConfigMap, name: values}]",
			values:  "nested: {configuration: [list, item, option]}",
			want:    "{flat: value, nested: {configuration: [value, item, option]}}",
		},
		{
			name:    "an item of a list",
			objects: map[string]data{"ConfigMap/values": {"values.yaml": "nested: {configuration: [list, item, option]}"}, "Secret/values": {"values.yaml": "foo"}},
			refs:    "[{kind: ConfigMap, name: values}, {kind: Secret, name: values, targetPath: 'nested.configuration[1]'}]",
			values:  "other: values", want: "{nested: {configuration: [list, foo, option]}, other: values}",
		},
		{
			name: "numbers and booleans are typed as with --set", objects: map[string]data{"ConfigMap/v": {"number": "8080", "flag": "true", "list": "{a,b}"}},
			refs: "[{kind: ConfigMap, name: v, valuesKey: number, targetPath: number}, {kind: ConfigMap, name: v, valuesKey: flag, targetPath: flag}, {kind: ConfigMap, name: v, valuesKey: list, targetPath: list}]",
			want: "{number: 8080, flag: true, list: [a, b]}",
		},
		{
			name: "a value in quotes is a text", objects: map[string]data{"ConfigMap/v": {"number": `"8080"`}},
			refs: "[{kind: ConfigMap, name: v, valuesKey: number, targetPath: number}]", want: `{number: "8080"}`,
		},
		{
			name: "a dot is escaped, and literal takes a file as it is", objects: map[string]data{"ConfigMap/v": {"application.yml": "endpoints: [a,b,c]\n"}},
			refs: `[{kind: ConfigMap, name: v, valuesKey: application.yml, targetPath: 'externalConfig.application\.yml.content', literal: true}]`,
			want: `{externalConfig: {application.yml: {content: "endpoints: [a,b,c]\n"}}}`,
		},
		{
			name: "literal has no effect at the root", objects: map[string]data{"ConfigMap/v": {"values.yaml": "flat: value"}},
			refs: "[{kind: ConfigMap, name: v, literal: true}]", want: "{flat: value}",
		},
		{
			name: "commas cut a value that is not literal", objects: map[string]data{"ConfigMap/v": {"b": brokers}},
			refs: "[{kind: ConfigMap, name: v, valuesKey: b, targetPath: kafka.brokers}]",
			err:  `spec.valuesFrom[0]: ConfigMap account-maple/v cannot be set at targetPath "kafka.brokers": `,
		},
		{
			name: "commas stay in a literal one", objects: map[string]data{"Secret/v": {"b": brokers}},
			refs: "[{kind: Secret, name: v, valuesKey: b, targetPath: kafka.brokers, literal: true}]", want: "{kafka: {brokers: '" + brokers + "'}}",
		},
		{
			name: "an object that does not exist", refs: "[{kind: ConfigMap, name: a, optional: true}, {kind: Secret, name: missing}]",
			err: "spec.valuesFrom[1]: Secret account-maple/missing does not exist in the cluster",
		},
		{
			name: "an optional object that does not exist", refs: "[{kind: Secret, name: missing, optional: true}]", values: "a: b", want: "{a: b}",
		},
		{
			name: "a key that does not exist", objects: map[string]data{"Secret/v": {}}, refs: "[{kind: Secret, name: v, valuesKey: nonexisting}]",
			err: `spec.valuesFrom[0]: Secret account-maple/v has no key "nonexisting"`,
		},
		{
			name: "what is no map", objects: map[string]data{"ConfigMap/v": {"values.yaml": "\ninvalid"}}, refs: "[{kind: ConfigMap, name: v}]",
			err: `spec.valuesFrom[0]: ConfigMap account-maple/v holds no YAML map under "values.yaml": `,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, contents := valuesOf(t, tt.refs, tt.values, tt.objects)
			got, err := w.merge(contents, inMemory(nil), false)
			if err != nil || tt.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.err) || tt.err == "" {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			var want, have any
			text, err := k8syaml.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			if err := k8syaml.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			if err := k8syaml.Unmarshal(text, &have); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, have); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// valuesOf makes a release with values and references, and what the cluster holds.
func valuesOf(t *testing.T, refs, values string, objects map[string]map[string]string) (*wanted, map[referent]*content) {
	t.Helper()
	w := &wanted{object: objectName{"account-maple", "backend"}, key: cluster.Key{Namespace: "account-maple", Name: "backend"}}
	if err := k8syaml.Unmarshal([]byte(refs), &w.valuesFrom); err != nil {
		t.Fatal(err)
	}
	if err := k8syaml.Unmarshal([]byte(values), &w.values); err != nil {
		t.Fatal(err)
	}
	contents := map[referent]*content{}
	for _, ref := range w.valuesFrom {
		held := &content{}
		if data, ok := objects[ref.Kind+"/"+ref.Name]; ok {
			held.data = map[string][]byte{}
			for k, v := range data {
				held.data[k] = []byte(v)
			}
		}
		contents[w.referentOf(ref)] = held
	}
	return w, contents
}

func TestWhatASecretHoldsIsInNoError(t *testing.T) {
	for _, tt := range []struct{ name, ref, data string }{
		{"no map", "[{kind: Secret, name: v}]", "canary-7 is no map"},
		{"broken YAML", "[{kind: Secret, name: v}]", "a: canary-7\n b: [canary-7"},
		{"a value that --set does not take", "[{kind: Secret, name: v, targetPath: a.b}]", "canary-7,canary-7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, contents := valuesOf(t, tt.ref, "", map[string]map[string]string{"Secret/v": {"values.yaml": tt.data}})
			err := w.resolve(contents, inMemory(nil))
			if err == nil || strings.Contains(err.Error(), "canary") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAnImageOutOfASecretIsAFault(t *testing.T) {
	for _, kind := range []string{"Secret", "ConfigMap"} {
		w, contents := valuesOf(t, "[{kind: "+kind+", name: v}]", "image: {repository: r}", map[string]map[string]string{kind + "/v": {"values.yaml": "image: {tag: v1.2.3}"}})
		err := w.resolve(contents, inMemory(nil))
		if kind == "Secret" && (err == nil || strings.Contains(err.Error(), "v1.2.3")) || kind == "ConfigMap" && (err != nil || w.image.tag != "v1.2.3") {
			t.Errorf("%s: %v, %+v", kind, err, w.image)
		}
	}
}

func TestTextsOutOfSecretsAreConcealedInEveryForm(t *testing.T) {
	var c concealed
	c.add([]byte("password: hunter2\nkeys: [{pem: \"line one\\nline two\\n\"}]\nport: 12345\non: true\nshort: ab\n"), true)
	c.add([]byte("'pa\"ss'"), false)
	for _, said := range []string{
		"wrong password hunter2", `data: aHVudGVyMg==`, "cannot parse line two:", `got "line one\nline two\n"`, "port 12345 is taken", `pa"ss`, `pa\"ss`,
	} {
		got := c.text(said)
		if got == said || strings.Contains(got, "hunter2") || strings.Contains(got, "line") && !strings.Contains(said, "parse") || strings.Contains(got, "12345") || strings.Contains(got, "ss") && !strings.Contains(said, "password") {
			t.Errorf("%q becomes %q", said, got)
		}
	}
	if got := c.text("true about it"); got != "true about it" {
		t.Error(got)
	}
}

// strvals and the YAML of values come from the cluster, where anybody may have written them.
func FuzzMergeValues(f *testing.F) {
	f.Add("a: {b: [1]}", "a.b[0]", "x,y={1}", true)
	f.Add("a: b", "a.b", "1", false)
	f.Add("", "a[1].b", "[", false)
	f.Fuzz(func(t *testing.T, values, path, value string, literal bool) {
		if strings.Contains(path, "[") && len(path) > 12 {
			return // strvals takes indexes up to 65536, each of which makes a list of that size
		}
		w := &wanted{object: objectName{"ns", "x"}, valuesFrom: []helmv2.ValuesReference{{Kind: "Secret", Name: "v"}, {Kind: "Secret", Name: "p", TargetPath: path, Literal: literal}}}
		contents := map[referent]*content{
			w.referentOf(w.valuesFrom[0]): {data: map[string][]byte{"values.yaml": []byte(values)}},
			w.referentOf(w.valuesFrom[1]): {data: map[string][]byte{"values.yaml": []byte(value)}},
		}
		_, err := w.merge(contents, inMemory(nil), false)
		if err != nil && len(value) > 8 && strings.Contains(err.Error(), value) && !strings.Contains(path, value) {
			t.Errorf("%v", err)
		}
	})
}
