package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
)

// fluxSource is the manifest of a source called flux-system/x, with lines of its spec.
func fluxSource(kind, lines string) string {
	return "---\napiVersion: source.toolkit.fluxcd.io/v1\nkind: " + kind + "\nmetadata: {name: x, namespace: flux-system}\nspec:\n  interval: 5m\n" + lines
}

// fluxRelease is the manifest of a HelmRelease with lines of its spec.
func fluxRelease(lines string) string {
	return "---\napiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: web, namespace: apps}\nspec:\n  interval: 10m\n" + lines
}

const (
	fromRepository = "  chart: {spec: {chart: web, version: 1.x, sourceRef: {kind: HelmRepository, name: x, namespace: flux-system}}}\n"
	fromOCI        = "  chartRef: {kind: OCIRepository, name: x, namespace: flux-system}\n"
	fromChart      = "  chartRef: {kind: HelmChart, name: x, namespace: flux-system}\n"
)

// readOne reads the one HelmRelease of some files.
func readOne(t *testing.T, files map[string]string) *wanted {
	t.Helper()
	list, err := readReleases(inMemory(files), ".", "account")
	if err != nil || len(list) != 1 {
		t.Fatalf("%d releases, %v", len(list), err)
	}
	return list[0]
}

func TestASourceIsTakenAsFluxWritesIt(t *testing.T) {
	for _, tt := range []struct{ name, release, source string }{
		{"a Helm repository", fromRepository, fluxSource("HelmRepository", "  url: https://charts.example.com/stable\n  timeout: 30s\n  passCredentials: true\n  secretRef: {name: login}\n  certSecretRef: {name: ca}\n")},
		{"one with everything that is the default", fromRepository, fluxSource("HelmRepository", "  url: https://charts.example.com\n  type: default\n  provider: generic\n  suspend: false\nstatus: {observedGeneration: -1}\n")},
		{"one in a registry", fromRepository, fluxSource("HelmRepository", "  url: oci://registry.example/charts\n  type: oci\n  provider: gcp\n  insecure: true\n")},
		{"one of the older API", fromRepository, strings.Replace(fluxSource("HelmRepository", "  url: https://charts.example.com\n"), "/v1\n", "/v1beta2\n", 1)},
		{"an OCIRepository", fromOCI, fluxSource("OCIRepository", "  url: oci://registry.example/charts/web\n  ref: {semver: 1.x, semverFilter: '^1', tag: x, digest: 'sha256:"+strings.Repeat("a", 64)+"'}\n  layerSelector: {mediaType: a/b, operation: extract}\n")},
		{"a HelmChart of a Git repository", fromChart, fluxSource("HelmChart", "  chart: ./charts/web\n  sourceRef: {kind: GitRepository, name: config}\n  reconcileStrategy: Revision\n")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if w := readOne(t, map[string]string{"a.yaml": fluxRelease(tt.release), "sources.yaml": tt.source}); w.fault != "" {
				t.Errorf("fault: %s", w.fault)
			}
		})
	}
}

func TestAHelmChartSaysTheSameAsAChartInTheRelease(t *testing.T) {
	const spec = "chart: ./charts/web, reconcileStrategy: Revision, valuesFiles: [charts/web/a.yaml], ignoreMissingValuesFiles: true, sourceRef: {kind: GitRepository, name: config"
	inRelease := readOne(t, map[string]string{"a.yaml": fluxRelease("  chart: {spec: {" + spec + ", namespace: flux-system}}}\n")})
	apart := readOne(t, map[string]string{
		"a.yaml": fluxRelease(fromChart), "b.yaml": "apiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmChart\nmetadata: {name: x, namespace: flux-system}\nspec: {interval: 1m, " + spec + "}}\n",
	})
	type view struct {
		Source        string
		Path          string
		Revision      bool
		Files         []string
		IgnoreMissing bool
		Fault         string
	}
	of := func(w *wanted) view {
		return view{w.source.String(), w.chartPath, w.addRevision, w.valuesFiles, w.ignoreMissing, w.fault}
	}
	want := view{"GitRepository flux-system/config", "charts/web", true, []string{"charts/web/a.yaml"}, true, ""}
	if diff := cmp.Diff(want, of(inRelease)); diff != "" {
		t.Error("in the release:", diff)
	}
	if diff := cmp.Diff(want, of(apart)); diff != "" {
		t.Error("in a HelmChart:", diff)
	}
}

func TestASourceThatCannotBeUsedIsAFaultByName(t *testing.T) {
	const oci, web = "  url: oci://registry.example/web\n", "  url: https://charts.example.com\n"
	at := func(kind string) string { return kind + " flux-system/x (s.yaml): " }
	for _, tt := range []struct{ name, release, source, want string }{
		{"a signature to verify, of the chart in the release", strings.Replace(fromRepository, "chart: web,", "chart: web, verify: {provider: cosign},", 1), fluxSource("HelmRepository", web), "spec.chart.spec.verify is not supported"},
		{"a signature to verify, of an OCIRepository", fromOCI, fluxSource("OCIRepository", oci+"  verify: {provider: notation}\n"), at("OCIRepository") + "spec.verify is not supported"},
		{"a signature to verify, of a HelmChart", fromChart, fluxSource("HelmChart", "  chart: x\n  verify: {provider: cosign}\n  sourceRef: {kind: HelmRepository, name: x}\n"), at("HelmChart") + "spec.verify is not supported"},
		{"suspended", fromRepository, fluxSource("HelmRepository", web+"  suspend: true\n"), at("HelmRepository") + "spec.suspend is not supported"},
		{"a suspended HelmChart", fromChart, fluxSource("HelmChart", "  chart: x\n  suspend: true\n  sourceRef: {kind: HelmRepository, name: x}\n"), at("HelmChart") + "spec.suspend is not supported"},
		{"several faults at once", fromOCI, fluxSource("OCIRepository", oci+"  proxySecretRef: {name: x}\n  serviceAccountName: x\n  ignore: x\n"), "spec.ignore is not supported; spec.proxySecretRef is not supported; spec.serviceAccountName is not supported"},
		{"a misspelt field", fromRepository, fluxSource("HelmRepository", web+"  Type: oci\n"), "spec.Type is not supported"},
		{"a misspelt field further down", fromOCI, fluxSource("OCIRepository", oci+"  ref: {semVer: 1.x}\n"), "spec.ref.semVer is not supported"},
		{"a field of the other kind", fromRepository, fluxSource("HelmRepository", web+"  ref: {tag: x}\n"), "spec.ref is not a field of HelmRepository"},
		{"a layer in a Helm repository", fromRepository, fluxSource("HelmRepository", web+"  layerSelector: {mediaType: x}\n"), "spec.layerSelector is not a field of HelmRepository"},
		{"a type of an OCIRepository", fromOCI, fluxSource("OCIRepository", oci+"  type: oci\n"), "spec.type is not a field of OCIRepository"},
		{"credentials passed on by an OCIRepository", fromOCI, fluxSource("OCIRepository", oci+"  passCredentials: true\n"), "spec.passCredentials is not a field of OCIRepository"},
		{"another type", fromRepository, fluxSource("HelmRepository", web+"  type: git\n"), "spec.type: git is not supported: want default or oci"},
		{"the type is missing", fromRepository, fluxSource("HelmRepository", oci), "spec.url begins with oci://, and spec.type is not oci"},
		{"the type is wrong", fromRepository, fluxSource("HelmRepository", web+"  type: oci\n"), "spec.url does not begin with oci://"},
		{"an OCIRepository over HTTP", fromOCI, fluxSource("OCIRepository", web), "spec.url does not begin with oci://"},
		{"no address", fromRepository, fluxSource("HelmRepository", ""), "spec.url is missing"},
		{"an address that is no text", fromRepository, fluxSource("HelmRepository", "  url: 1\n"), at("HelmRepository") + "json: cannot unmarshal"},
		{"another cloud", fromOCI, fluxSource("OCIRepository", oci+"  provider: azure\n"), "spec.provider: azure is not supported"},
		{"Google without a registry", fromRepository, fluxSource("HelmRepository", web+"  provider: gcp\n"), "spec.provider: gcp is for OCI only"},
		{"a filter that is none", fromOCI, fluxSource("OCIRepository", oci+"  ref: {semver: 1.x, semverFilter: '('}\n"), "spec.ref.semverFilter is not a regular expression"},
		{"another operation", fromOCI, fluxSource("OCIRepository", oci+"  layerSelector: {operation: move}\n"), "spec.layerSelector.operation: move is not supported"},
		{"an older API", fromRepository, strings.Replace(fluxSource("HelmRepository", web), "/v1\n", "/v1beta1\n", 1), "apiVersion source.toolkit.fluxcd.io/v1beta1 is not supported: want source.toolkit.fluxcd.io/v1 or v1beta2"},
		{"it stands twice", fromRepository, fluxSource("HelmRepository", web) + fluxSource("HelmRepository", "  url: https://charts.example.org\n"), "it stands in s.yaml, too, and differs there"},
		{"another group", fromRepository, strings.Replace(fluxSource("HelmRepository", web), "source.toolkit.fluxcd.io", "example.com", 1), "the config repo has no HelmRepository flux-system/x"},
		{"another kind", fromOCI, fluxSource("HelmRepository", web), "the config repo has no OCIRepository flux-system/x"},
		{"another namespace", strings.Replace(fromOCI, ", namespace: flux-system", "", 1), fluxSource("OCIRepository", oci), `the config repo has no OCIRepository apps/x, only one in namespace "flux-system"`},
		{"a HelmChart of a bucket", fromChart, fluxSource("HelmChart", "  chart: x\n  sourceRef: {kind: Bucket, name: x}\n"), `HelmChart flux-system/x (s.yaml): spec.sourceRef.kind "Bucket" is not supported`},
		{"a HelmChart without its source", fromChart, fluxSource("HelmChart", "  chart: x\n  sourceRef: {kind: HelmRepository, name: z}\n"), "the config repo has no HelmRepository flux-system/z"},
		{"a HelmChart that leads out of the repo", fromChart, fluxSource("HelmChart", "  chart: ../x\n  sourceRef: {kind: GitRepository, name: config}\n"), `spec.chart "../x" is not a folder of the repository`},
		{"a chart's name that leads upwards", strings.Replace(fromRepository, "chart: web", "chart: a/../../b", 1), fluxSource("HelmRepository", web), `spec.chart.spec.chart "a/../../b" is not the name of a chart`},
		{"no chart at all", "", "", "spec.chart and spec.chartRef are missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if w := readOne(t, map[string]string{"a.yaml": fluxRelease(tt.release), "s.yaml": tt.source}); !strings.Contains(w.fault, tt.want) {
				t.Errorf("fault %q, want %q in it", w.fault, tt.want)
			}
		})
	}
}

func TestASourceMayStandInAnotherPartOfTheRepo(t *testing.T) {
	const web, other = "  url: https://charts.example.com\n", "  url: https://charts.example.org\n"
	chart := fluxSource("HelmChart", "  chart: web\n  sourceRef: {kind: HelmRepository, name: x}\n")
	for _, tt := range []struct {
		name    string
		release string
		files   map[string]string
		url     string
		fault   string
	}{
		{"elsewhere only", fromRepository, map[string]string{"infra/s.yaml": fluxSource("HelmRepository", web)}, "https://charts.example.com", ""},
		{"of a HelmChart that is elsewhere", fromChart, map[string]string{"infra/s.yaml": fluxSource("HelmRepository", web), "infra/c.yaml": chart}, "https://charts.example.com", ""},
		{"of a HelmChart that is here", fromChart, map[string]string{"infra/s.yaml": fluxSource("HelmRepository", web), "apps/c.yaml": chart}, "https://charts.example.com", ""},
		{"what is here counts", fromRepository, map[string]string{"apps/s.yaml": fluxSource("HelmRepository", other), "infra/s.yaml": fluxSource("HelmRepository", web)}, "https://charts.example.org", ""},
		{"twice elsewhere, and alike", fromRepository, map[string]string{"eu/s.yaml": fluxSource("HelmRepository", web), "us/s.yaml": fluxSource("HelmRepository", web)}, "https://charts.example.com", ""},
		{"twice elsewhere, and different", fromRepository, map[string]string{"eu/s.yaml": fluxSource("HelmRepository", web), "us/s.yaml": fluxSource("HelmRepository", other)}, "", "HelmRepository flux-system/x (eu/s.yaml): it stands in us/s.yaml, too, and differs there"},
		{"what cannot be read elsewhere is nobody's business", fromRepository, map[string]string{"infra/broken.yaml": "kind: HelmRepository\na: [", "infra/s.yaml": fluxSource("HelmRepository", web)}, "https://charts.example.com", ""},
		{"a kustomization would change it", fromRepository, map[string]string{"infra/s.yaml": fluxSource("HelmRepository", web), "infra/kustomization.yaml": "patches: [{patch: x}]\n"}, "", "infra/kustomization.yaml does more than list resources"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string]string{"apps/a.yaml": fluxRelease(tt.release)}
			maps.Copy(files, tt.files)
			list, err := readReleases(inMemory(files), "apps", "account")
			if err != nil || len(list) != 1 {
				t.Fatalf("%d releases, %v", len(list), err)
			}
			w := list[0]
			if (w.fault == "") != (tt.fault == "") || !strings.Contains(w.fault, tt.fault) {
				t.Fatalf("fault %q, want %q", w.fault, tt.fault)
			}
			if tt.url != "" && w.remote.from.helm.URL != tt.url {
				t.Errorf("%s, want %s", w.remote.from.helm.URL, tt.url)
			}
		})
	}
}

func TestCredentialsAreThoseOfTheirSource(t *testing.T) {
	r := &remoteCharts{}
	w := func(cluster string, spec repositorySpec) *wanted {
		return &wanted{cluster: cluster, remote: &remoteChart{from: &chartSource{sourceName: sourceName{helmRepository, "flux-system", "x"}, helm: spec}}}
	}
	open, closed := repositorySpec{}, repositorySpec{SecretRef: &secretName{"login"}}
	if r.asked(w("eu", open)) != r.asked(w("us", open)) {
		t.Error("a source without a Secret is asked once for each cluster")
	}
	if r.asked(w("eu", closed)) == r.asked(w("us", closed)) {
		t.Error("a cluster gets what was read with the Secret of another one")
	}
}

func TestADockerConfigHasTheCredentialsOfARepository(t *testing.T) {
	for _, tt := range []struct {
		name, config string
		want         authn.AuthConfig
		err          string
	}{
		{"by host", `{"auths":{"registry.example":{"username":"u","password":"p"}}}`, authn.AuthConfig{Username: "u", Password: "p"}, ""},
		{"as docker login writes it", `{"auths":{"registry.example":{"auth":"dTpwOnE="}}}`, authn.AuthConfig{Username: "u", Password: "p:q"}, ""},
		{"by URL", `{"auths":{"https://registry.example/v1/":{"username":"u","password":"p"}}}`, authn.AuthConfig{Username: "u", Password: "p"}, ""},
		{"a token", `{"auths":{"registry.example":{"registrytoken":"t"}}}`, authn.AuthConfig{RegistryToken: "t"}, ""},
		{"the longest path", `{"auths":{"registry.example":{"username":"u","password":"p"},"registry.example/charts":{"username":"v","password":"q"},"registry.example/cha":{"username":"w","password":"r"}}}`, authn.AuthConfig{Username: "v", Password: "q"}, ""},
		{"another host", `{"auths":{"registry.example.com":{"username":"u","password":"p"},"example":{"username":"u","password":"p"}}}`, authn.AuthConfig{}, "has nothing for registry.example"},
		{"another port", `{"auths":{"registry.example:5000":{"username":"u","password":"p"}}}`, authn.AuthConfig{}, "has nothing for registry.example"},
		{"an auth that is none", `{"auths":{"registry.example":{"auth":"canary"}}}`, authn.AuthConfig{}, "no valid auth for registry.example"},
		{"not a config", `canary`, authn.AuthConfig{}, "is not a Docker config"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := dockerAuth([]byte(tt.config), "registry.example/charts/web")
			if (err == nil) != (tt.err == "") || err != nil && (!strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "canary")) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheKeychainIsForOneHost(t *testing.T) {
	var a access
	if err := a.take(map[string][]byte{"username": []byte("u"), "password": []byte("p")}); err != nil {
		t.Fatal(err)
	}
	k, err := a.keychain("registry.example/charts/web")
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{"registry.example": true, "registry.example.com": false, "registry.example:5000": false} {
		auth, err := k.Resolve(resource(host))
		if err != nil || (auth != authn.Anonymous) != want {
			t.Errorf("%s: %v, %v", host, auth, err)
		}
	}
}

type resource string

func (r resource) String() string      { return string(r) }
func (r resource) RegistryStr() string { return string(r) }

func TestASecretThatHoldsNoAccessSaysSo(t *testing.T) {
	for _, tt := range []struct {
		name string
		data map[string]string
		want string
	}{
		{"nothing", nil, "holds neither username and password nor .dockerconfigjson nor bearerToken"},
		{"half of the credentials", map[string]string{"password": "canary"}, "must hold both username and password"},
		{"half of a certificate", map[string]string{"tls.crt": "x"}, "must hold both tls.crt and tls.key"},
		{"a pair that is none", map[string]string{"tls.crt": "canary", "tls.key": "canary"}, "a tls.crt and a tls.key that are no pair"},
		{"an authority that is none, by its old name", map[string]string{"caFile": "canary"}, "a ca.crt that is no PEM certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := map[string][]byte{}
			for k, v := range tt.data {
				data[k] = []byte(v)
			}
			if err := new(access).take(data); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// packed makes an archive of entries: names, and what they hold.
func packed(t *testing.T, entries func(add func(name string, content []byte))) []byte {
	t.Helper()
	var text bytes.Buffer
	z := gzip.NewWriter(&text)
	w := tar.NewWriter(z)
	entries(func(name string, content []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

func TestAnArchiveThatIsNoneIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		text []byte
		want string
	}{
		{"a page", []byte("<html>"), "it is not gzip"},
		{"one that was cut", packed(t, func(add func(string, []byte)) { add("web/Chart.yaml", []byte("name: web")) })[:40], "unexpected EOF"},
		{"one file that is large", packed(t, func(add func(string, []byte)) { add("web/a", make([]byte, maxChart+1)) }), "it is larger than 100 MiB"},
		{"many files that are empty", packed(t, func(add func(string, []byte)) {
			for i := range maxChart/512 + 1 {
				add(fmt.Sprintf("web/%d", i), nil)
			}
		}), "it is larger than 100 MiB"},
		{"a path that leads upwards", packed(t, func(add func(string, []byte)) { add("web/../../a", nil) }), "illegally references parent directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := unpack(tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestValuesFilesAreMergedInTheirOrder(t *testing.T) {
	c := &chartFiles{name: "web", files: []archive.BufferedFile{
		{Name: "values.yaml", Data: []byte("a: 1\nb: {x: 1, w: 1}\n")},
		{Name: "eu.yaml", Data: []byte("b: {w: 2, z: 2}\nc: [1, 2]\n")},
		{Name: "big.yaml", Data: []byte("c: [3]\nb: {x: null}\n")},
		{Name: "flat.yaml", Data: []byte("b: flat\n")},
		{Name: "empty.yaml", Data: nil},
		{Name: "list.yaml", Data: []byte("[1]")},
		{Name: "templates/a.yaml", Data: []byte("a: 2")},
	}}
	for _, tt := range []struct {
		name, files string
		ignore      bool
		want, err   string
	}{
		{"one", "eu.yaml", false, "b:\n  w: 2\n  z: 2\nc:\n- 1\n- 2\n", ""},
		{"the later one wins, lists are replaced, null stays", "values.yaml eu.yaml ./big.yaml", false, "a: 1\nb:\n  w: 2\n  x: null\n  z: 2\nc:\n- 3\n", ""},
		{"the other order", "big.yaml eu.yaml", false, "b:\n  w: 2\n  x: null\n  z: 2\nc:\n- 1\n- 2\n", ""},
		{"a map gives way to a text", "values.yaml flat.yaml", false, "a: 1\nb: flat\n", ""},
		{"nothing is nothing", "empty.yaml", false, "", ""},
		{"one that is missing", "values.yaml asia.yaml", false, "", "there is no file asia.yaml"},
		{"one that may be missing", "asia.yaml flat.yaml", true, "b: flat\n", ""},
		{"all may be missing", "asia.yaml", true, "", ""},
		{"a template is none", "templates/a.yaml", false, "", "there is no file templates/a.yaml"},
		{"not a map", "list.yaml", true, "", "reading list.yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			own, err := c.withValues(strings.Fields(tt.files), tt.ignore)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
			if err == nil && string(own.files[0].Data) != tt.want {
				t.Errorf("%q, want %q", own.files[0].Data, tt.want)
			}
			if !strings.HasPrefix(string(c.files[0].Data), "a: 1\nb: {x: 1") {
				t.Error("the chart of other releases was changed")
			}
		})
	}
	bare := &chartFiles{name: "web", files: c.files[1:]}
	if _, err := bare.withValues([]string{"eu.yaml"}, false); err == nil || !strings.Contains(err.Error(), "chart web has no values.yaml") {
		t.Errorf("%v", err)
	}
}

func TestValuesFilesStayInTheRepo(t *testing.T) {
	repo := inMemory(map[string]string{"a.yaml": "x: 1"})
	repo.links = []string{"link.yaml"}
	find := inRepo(repo)
	for _, name := range []string{"a.yaml", "./a.yaml", "../../a.yaml", "/a.yaml"} { // source-controller joins them securely
		if content, ok, err := find(name); !ok || err != nil || string(content) != "x: 1" {
			t.Errorf("%s: %q, %v, %v", name, content, ok, err)
		}
	}
	if _, _, err := find("link.yaml"); err == nil {
		t.Error("a link was followed")
	}
}

func TestTheDigestCoversValuesFiles(t *testing.T) {
	same := func(s string) string { return s }
	files := map[string]string{"env/eu.yaml": "replicas: 3\n", "env/us.yaml": "replicas: 4\n"}
	with := func(list string) func(string) string {
		return func(s string) string {
			return strings.Replace(s, "chart: ./charts/backend", "valuesFiles: ["+list+"], chart: ./charts/backend", 1)
		}
	}
	seen := map[string]string{}
	for name, digest := range map[string]string{
		"none":            digestOf(t, files, same),
		"one":             digestOf(t, files, with("env/eu.yaml")),
		"another":         digestOf(t, files, with("env/us.yaml")),
		"both":            digestOf(t, files, with("env/eu.yaml, env/us.yaml")),
		"another content": digestOf(t, map[string]string{"env/eu.yaml": "replicas: 5\n"}, with("env/eu.yaml")),
		"missing and that": digestOf(t, files, func(s string) string {
			return strings.Replace(with("env/eu.yaml, x.yaml")(s), "valuesFiles", "ignoreMissingValuesFiles: true, valuesFiles", 1)
		}),
	} {
		if other, taken := seen[digest]; taken {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[digest] = name
	}
	if digestOf(t, files, same) != digestOf(t, nil, same) {
		t.Error("files that nobody names count")
	}
}

func FuzzSource(f *testing.F) {
	f.Add("HelmRepository", `{"spec":{"url":"https://charts.example.com","timeout":"1m"}}`)
	f.Add("OCIRepository", `{"spec":{"url":"oci://registry.example/x","ref":{"semver":"1.x","semverFilter":"^1"}}}`)
	f.Add("HelmChart", `{"spec":{"chart":"x","sourceRef":{"kind":"HelmRepository","name":"x"},"verify":{}}}`)
	f.Fuzz(func(t *testing.T, kind, raw string) {
		s := sources{}
		name := sourceName{kind, "flux-system", "x"}
		s.add("a.yaml", sourceGroup+"/v1", name, []byte(raw))
		from, err := s.find(name)
		if err == nil && (kind == helmRepository || kind == ociRepository) && from.helm.URL == "" {
			t.Errorf("%s has no address and no fault", raw)
		}
	})
}
