package chartrepo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	repo "helm.sh/helm/v4/pkg/repo/v1"

	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// folder packages charts with Helm's library and makes their index with it, as `helm package` and `helm repo index` do.
func folder(t *testing.T, versions ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, v := range versions {
		made := &chart.Chart{Metadata: &chart.Metadata{APIVersion: chart.APIVersionV2, Name: "backend", Version: v}}
		if _, err := chartutil.Save(made, dir); err != nil {
			t.Fatal(err)
		}
	}
	index, err := repo.IndexDirectory(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := index.WriteFile(filepath.Join(dir, "index.yaml"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := index.WriteJSONFile(filepath.Join(dir, "index.json"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func open(t *testing.T, o Options) *Repository {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.pause = time.Millisecond
	return r
}

// fetch chooses a version and downloads it.
func fetch(t *testing.T, r *Repository, version string) (Version, []byte, error) {
	t.Helper()
	index, err := r.Index(t.Context())
	if err != nil {
		return Version{}, nil, err
	}
	v, err := index.Choose("backend", version)
	if err != nil {
		return Version{}, nil, err
	}
	archive, err := r.Download(t.Context(), v)
	return v, archive, err
}

func TestAChartIsFoundAndDownloaded(t *testing.T) {
	dir := folder(t, "1.0.0", "1.1.0", "2.0.0-rc.1")
	s := serve(t, http.StripPrefix("/charts", http.FileServer(http.Dir(dir))))
	v, archive, err := fetch(t, open(t, Options{URL: s.URL + "/charts"}), "1.x")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(dir, "backend-1.1.0.tgz"))
	if err != nil || v.Version != "1.1.0" || string(archive) != string(want) || len(v.SHA256) != 64 {
		t.Errorf("%+v, %d bytes, want %d, %v", v, len(archive), len(want), err)
	}
}

func TestAnIndexInJSONIsReadAlike(t *testing.T) {
	dir := folder(t, "1.0.0", "1.1.0")
	texts := map[string][]byte{}
	for _, name := range []string{"index.yaml", "index.json"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = text
	}
	if !json.Valid(texts["index.json"]) || json.Valid(texts["index.yaml"]) {
		t.Fatal("the two files are not of the two formats")
	}
	for name, text := range texts {
		i, err := parseIndex(text)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := i.Choose("backend", "*"); err != nil || v.Version != "1.1.0" || len(v.URLs) != 1 || len(v.SHA256) != 64 {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}

// The expectations are Flux's (source-controller, chart_repository_test.go and helmcharts.md) and those of the semver library's documentation.
func TestTheVersionIsChosenAsFluxDoes(t *testing.T) {
	for _, tt := range []struct {
		name, versions, asked, want string
	}{
		{"an exact version", "1.0.0 1.1.0 2.0.0", "1.1.0", "1.1.0"},
		{"an exact pre-release", "1.0.0 1.1.0-rc.1", "1.1.0-rc.1", "1.1.0-rc.1"},
		{"an exact version with build metadata", "1.0.0+a 1.0.0+b", "1.0.0+a", "1.0.0+a"},
		{"nothing is the newest without pre-releases", "1.0.0 2.0.0 3.0.0-rc.1", "", "2.0.0"},
		{"a star is the same", "1.0.0 2.0.0 3.0.0-rc.1", "*", "2.0.0"},
		{"a range", "1.0.0 1.9.0 1.10.0 2.0.0", "1.x", "1.10.0"},
		{"a tilde", "1.2.3 1.2.9 1.3.0", "~1.2.3", "1.2.9"},
		{"a caret", "1.2.3 1.9.0 2.0.0", "^1.2.0", "1.9.0"},
		{"bounds", "1.0.0 1.5.0 2.0.0", ">=1.0.0 <2.0.0", "1.5.0"},
		{"a range with a pre-release takes pre-releases", "1.0.0 2.0.0-rc.1", ">=1.0.0-0", "2.0.0-rc.1"},
		{"a v in front is kept", "v1.0.0 v1.1.0", "1.x", "v1.1.0"},
		{"what is no version is left out", "latest 1.0 1.0.0", ">=0.0.0", "1.0.0"},
		{"an exact text that is no version", "latest 1.0.0", "latest", "latest"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := Newest(strings.Fields(tt.versions), tt.asked); err != nil || got != tt.want {
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestOfVersionsThatDifferInMetadataTheLastCreatedCounts(t *testing.T) {
	i, err := parseIndex([]byte(`apiVersion: v1
entries:
  backend:
  - {version: 1.0.0+old, created: "2026-01-01T00:00:00Z", urls: [a]}
  - {version: 1.0.0+new, created: "2026-01-02T00:00:00Z", urls: [b]}
  - {version: 1.0.0+mid, created: 2026-01-01T12:00:00.5+01:00, urls: [c]}
`))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := i.Choose("backend", "1.x"); err != nil || v.Version != "1.0.0+new" || v.URLs[0] != "b" {
		t.Errorf("%+v, %v", v, err)
	}
}

// Each way of writing an index comes to the same; some are read in part, others as a whole.
func TestAnIndexIsReadHoweverItIsWritten(t *testing.T) {
	for name, text := range map[string]string{
		"as Helm writes it":           "apiVersion: v1\nentries:\n  other:\n  - urls: [x]\n    version: 9.0.0\n  web:\n  - urls:\n    - a.tgz\n    version: 1.0.0\n  zebra:\n  - version: 3.0.0\ngenerated: \"2026\"\n",
		"as the last entry":           "apiVersion: v1\nentries:\n  web:\n  - urls:\n    - a.tgz\n    version: 1.0.0",
		"with Windows line ends":      "apiVersion: v1\r\nentries:\r\n  web:\r\n  - urls:\r\n    - a.tgz\r\n    version: 1.0.0\r\n",
		"with deeper indentation":     "apiVersion: v1\nentries:\n    web:\n        - urls:\n            - a.tgz\n          version: 1.0.0\n",
		"with indented lists":         "apiVersion: v1\nentries:\n  web:\n    - urls:\n        - a.tgz\n      version: 1.0.0\n  zebra:\n    - version: 2.0.0\n",
		"with names in quotes":        "apiVersion: v1\nentries:\n  \"web\":\n  - urls: [a.tgz]\n    version: 1.0.0\n",
		"with a long text":            "apiVersion: v1\nentries:\n  other:\n  - description: |\n      web:\n      - version: 7.0.0\n    version: 9.0.0\n\n  web:\n  - urls: [a.tgz]\n\n    version: 1.0.0\n",
		"with a comment":              "# web:\napiVersion: v1\nentries:\n  # web:\n  web: # the one\n  - urls: [a.tgz]\n    version: 1.0.0\n",
		"with comments in between":    "apiVersion: v1\nentries:\n  web:\n  - version: 0.9.0\n  # then\n  - version: 0.9.1\n# and then\n  - urls: [a.tgz]\n    version: 1.0.0\n",
		"in one line":                 "apiVersion: v1\nentries: {web: [{version: 1.0.0, urls: [a.tgz]}]}\n",
		"with anchors":                "apiVersion: v1\nentries:\n  other:\n  - urls: &u [a.tgz]\n    version: 9.0.0\n  web:\n  - urls: *u\n    version: 1.0.0\n",
		"with other names afterwards": "apiVersion: v1\nentries:\n  web:\n  - urls: [a.tgz]\n    version: 1.0.0\nannotations:\n  web:\n  - version: 8.0.0\n",
		"with entries at the end":     "generated: x\nannotations:\n  web: y\nentries:\n  web:\n  - urls: [a.tgz]\n    version: 1.0.0\napiVersion: v1\n",
	} {
		t.Run(name, func(t *testing.T) {
			i, err := parseIndex([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if v, err := i.Choose("web", "*"); err != nil || v.Version != "1.0.0" || len(v.URLs) != 1 || v.URLs[0] != "a.tgz" {
				t.Errorf("%+v, %v", v, err)
			}
			if v, err := i.Choose("nothing", "*"); err == nil || !strings.Contains(err.Error(), "has no chart nothing") {
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
}

func TestPartOfAnIndexIsReadAsTheWholeIs(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(folder(t, "1.0.0", "1.1.0+x", "2.0.0-rc.1"), "index.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	lines, ok := findEntries(text)
	if part := cutEntry(lines, "backend"); !ok || len(part) == 0 {
		t.Fatal("what Helm writes is not read in part")
	}
	whole, err := parseYAML(text)
	if err != nil {
		t.Fatal(err)
	}
	inPart, err := parseIndex(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"*", "1.0.0", ">=1.0.0-0", "1.1.0+x"} {
		a, errA := whole.Choose("backend", version)
		b, errB := inPart.Choose("backend", version)
		if errA != nil || errB != nil || fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("%s: %v, %v; %v, %v", version, a, errA, b, errB)
		}
	}
}

func TestAVersionThatIsNotThereIsNamedWithWhatIsThere(t *testing.T) {
	for _, tt := range []struct{ name, versions, asked, want string }{
		{"an exact version", "1.0.0 1.1.0", "9.9.9", `none of 2 versions matches "9.9.9" (there are 1.1.0, 1.0.0)`},
		{"many versions", "1.0.0 1.1.0 1.2.0 1.3.0", "2.x", "(there are 1.3.0, 1.2.0, 1.1.0 and older ones)"},
		{"pre-releases only", "1.0.0-rc.1", "*", "a range takes pre-releases only if it names one, such as >=0.0.0-0"},
		{"not a range", "1.0.0", "newest", `"newest" is neither a version nor a range of versions`},
		{"no versions at all", "latest", "*", `none of 1 versions matches "*"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := Newest(strings.Fields(tt.versions), tt.asked); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// hostile answers some requests itself and leaves the others to a real repository of backend 1.0.0.
func hostile(t *testing.T, act func(w http.ResponseWriter, r *http.Request) bool) *httptest.Server {
	files := http.FileServer(http.Dir(folder(t, "1.0.0")))
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !act(w, r) {
			files.ServeHTTP(w, r)
		}
	}))
}

func at(path string, h http.HandlerFunc) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != path {
			return false
		}
		h(w, r)
		return true
	}
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(s)) }
}

func indexWith(entry string) http.HandlerFunc {
	return text("apiVersion: v1\nentries: {backend: [" + entry + "]}\n")
}

func endless(w http.ResponseWriter, r *http.Request) {
	block := make([]byte, 1<<20)
	for r.Context().Err() == nil {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

func TestAHostileOrBrokenRepositoryIsRefusedByName(t *testing.T) {
	const index, archive = "/index.yaml", "/backend-1.0.0.tgz"
	for _, tt := range []struct {
		name    string
		act     func(http.ResponseWriter, *http.Request) bool
		version string
		want    []string
	}{
		{"there is no index", at(index, http.NotFound), "", []string{"reading the index of the Helm repository http://127.0.0.1:", "the answer is 404 Not Found"}},
		{"a page instead of an index", at(index, text("<html>: <p>:\n\tSign in: canary</p>")), "", []string{"neither YAML nor JSON"}},
		{"an empty index", at(index, text("")), "", []string{"it has no apiVersion"}},
		{"some other YAML", at(index, text("kind: List\n")), "", []string{"it has no apiVersion"}},
		{"an index without the chart", at(index, text("apiVersion: v1\nentries: {other: []}\n")), "", []string{"the index has no chart backend"}},
		{"an index without versions of it", at(index, text("apiVersion: v1\nentries: {backend: []}\n")), "", []string{"the index has no chart backend"}},
		{"entries that are none", at(index, text("apiVersion: v1\nentries: {backend: 1}\n")), "", []string{"entries for chart backend that cannot be read"}},
		{"an endless index", at(index, endless), "", []string{"the answer is longer than 64 MiB"}},
		{"an endless archive", at(archive, endless), "", []string{"downloading chart backend 1.0.0", archive, "the answer is longer than 32 MiB"}},
		{"another archive", at(archive, text("something")), "", []string{archive, "the archive's SHA-256 is 3fc9b689459d738f8c88a3a48aa9e33542016b7a4052e001aaa536fca74813cb, and the index says "}},
		{"a digest that is none", at(index, indexWith("{version: 1.0.0, urls: [a.tgz], digest: md5}")), "", []string{`the digest "md5", which is not a SHA-256`}},
		{"no URL", at(index, indexWith("{version: 1.0.0}")), "", []string{"the index names no URL for it"}},
		{"a URL that is none", at(index, indexWith("{version: 1.0.0, urls: ['http://[::1']}")), "", []string{"names something that is not a URL"}},
		{"a URL of a file", at(index, indexWith("{version: 1.0.0, urls: ['file:///etc/passwd']}")), "", []string{"file:///etc/passwd is not an http or https URL"}},
		{"a URL in the clear", at(index, indexWith("{version: 1.0.0, urls: ['http://charts.example/a.tgz?token=canary']}")), "", []string{"http://charts.example/a.tgz would be reached over plain HTTP: list charts.example in REGISTRY_INSECURE"}},
		{"a URL with credentials", at(index, indexWith("{version: 1.0.0, urls: ['https://user:canary@charts.example/a.tgz']}")), "", []string{"names https://charts.example/a.tgz with credentials in it"}},
		{"a redirect in the clear", at(archive, http.RedirectHandler("http://charts.example/a.tgz?canary", http.StatusFound).ServeHTTP), "", []string{"http://charts.example/a.tgz would be reached over plain HTTP"}},
		{"a redirect to itself", at(archive, http.RedirectHandler(archive, http.StatusFound).ServeHTTP), "", []string{"it redirects for ever"}},
		{"a version that is not there", func(http.ResponseWriter, *http.Request) bool { return false }, "2.x", []string{`chart backend: none of 1 versions matches "2.x" (there are 1.0.0)`}},
		{"credentials are wanted", at(index, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }), "", []string{"401 Unauthorized (asked without credentials: spec.secretRef"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := fetch(t, open(t, Options{URL: hostile(t, tt.act).URL}), tt.version)
			if err == nil {
				t.Fatal("it was taken")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want %q in it", err, want)
				}
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("error %q repeats what may be secret", err)
			}
		})
	}
}

func TestAServerThatDoesNotEndIsLeftAfterTheTimeout(t *testing.T) {
	var asked atomic.Int64
	s := hostile(t, at("/index.yaml", func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	_, err := open(t, Options{URL: s.URL, Timeout: 50 * time.Millisecond}).Index(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no whole answer within 50ms") || asked.Load() != 1 {
		t.Errorf("%v after %d requests", err, asked.Load())
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the build ends"))
	if _, err := open(t, Options{URL: s.URL}).Index(ctx); err == nil || !strings.Contains(err.Error(), "the build ends") {
		t.Errorf("%v", err)
	}
}

func TestTemporaryFaultsAreTriedAgain(t *testing.T) {
	for _, tt := range []struct {
		faults int64
		status int
		ok     bool
		asked  int64
	}{
		{2, http.StatusServiceUnavailable, true, 3},
		{3, http.StatusServiceUnavailable, false, 3},
		{1, http.StatusTooManyRequests, true, 2},
		{1, http.StatusForbidden, false, 1},
	} {
		var asked atomic.Int64
		s := hostile(t, func(w http.ResponseWriter, _ *http.Request) bool {
			if asked.Add(1) > tt.faults {
				return false
			}
			w.WriteHeader(tt.status)
			return true
		})
		_, err := open(t, Options{URL: s.URL}).Index(t.Context())
		if (err == nil) != tt.ok || asked.Load() != tt.asked {
			t.Errorf("%d times %d: %v after %d requests", tt.faults, tt.status, err, asked.Load())
		}
	}
}

func TestCredentialsStayWithTheirHost(t *testing.T) {
	const basic, bearer = "Basic dXNlcjpjYW5hcnk=", "Bearer canary"
	withPassword := Options{Username: "user", Password: secret.New("canary")}
	withToken := Options{Token: secret.New("canary")}
	passing := withPassword
	passing.PassCredentials = true
	for _, tt := range []struct {
		name             string
		o                Options
		elsewhere        string // how the archive's other host is reached: "redirect" or "url"
		here, elsewhere2 string // the header that each host sees
	}{
		{"a password, and a redirect", withPassword, "redirect", basic, ""},
		{"a password, and a URL in the index", withPassword, "url", basic, ""},
		{"a token, and a redirect", withToken, "redirect", bearer, ""},
		{"a password that may be passed on", passing, "url", basic, basic},
		{"a password that may be passed on by a redirect", passing, "redirect", basic, basic},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := folder(t, "1.0.0")
			var there atomic.Value
			other := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				there.Store(r.Header.Get("Authorization"))
				http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
			}))
			var here atomic.Value
			s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				here.Store(r.Header.Get("Authorization"))
				switch {
				case strings.HasSuffix(r.URL.Path, ".tgz"):
					http.Redirect(w, r, other.URL+r.URL.Path, http.StatusFound)
				case tt.elsewhere == "url":
					_, _ = fmt.Fprintf(w, "apiVersion: v1\nentries: {backend: [{version: 1.0.0, urls: ['%s/backend-1.0.0.tgz']}]}\n", other.URL)
				default:
					http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
				}
			}))
			o := tt.o
			o.URL = s.URL
			if _, _, err := fetch(t, open(t, o), ""); err != nil {
				t.Fatal(err)
			}
			if here.Load() != tt.here || there.Load() != tt.elsewhere2 {
				t.Errorf("the repository saw %q, the other host %q", here.Load(), there.Load())
			}
		})
	}
}

func TestTheAuthorityOfTheServerMustBeKnown(t *testing.T) {
	s := httptest.NewTLSServer(http.FileServer(http.Dir(folder(t, "1.0.0"))))
	t.Cleanup(s.Close)
	if _, err := open(t, Options{URL: s.URL}).Index(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	if _, _, err := fetch(t, open(t, Options{URL: s.URL, TLS: &tls.Config{RootCAs: pool}}), ""); err != nil {
		t.Error(err)
	}
}

func TestAnAddressThatCannotBeUsedIsRefused(t *testing.T) {
	for address, want := range map[string]string{
		"oci://registry.example/charts":       "oci://registry.example/charts is not an http or https URL",
		"charts.example":                      "is not an http or https URL",
		"https://user:secret@charts.example":  "https://charts.example has credentials in it",
		"http://charts.example":               "list charts.example in REGISTRY_INSECURE",
		"https://charts.example/%zz?x=secret": "the address is not a URL",
	} {
		_, err := New(Options{URL: address})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret@") {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, o := range []Options{{URL: "http://charts.example:8080", Plain: []string{"charts.example"}}, {URL: "http://charts.example:8080", Plain: []string{"charts.example:8080"}}, {URL: "http://[::1]:8080"}} {
		if _, err := New(o); err != nil {
			t.Errorf("%s: %v", o.URL, err)
		}
	}
}

func TestNobodyOutsideSendsUsToLoopback(t *testing.T) {
	r := open(t, Options{URL: "https://charts.example"})
	if _, err := r.resolve("http://127.0.0.1:8080/a.tgz"); err == nil {
		t.Error("a URL on loopback was taken from another host's index")
	}
}

func TestURLsAreResolvedAsHelmDoes(t *testing.T) {
	r := open(t, Options{URL: "https://charts.example/stable?sig=1"})
	for ref, want := range map[string]string{
		"a.tgz":                     "https://charts.example/stable/a.tgz?sig=1",
		"../a.tgz":                  "https://charts.example/a.tgz?sig=1",
		"/a.tgz":                    "https://charts.example/a.tgz?sig=1",
		"https://cdn.example/a.tgz": "https://cdn.example/a.tgz",
	} {
		helm, err := repo.ResolveReferenceURL("https://charts.example/stable?sig=1", ref)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.resolve(ref)
		if err != nil || got.String() != want || helm != want {
			t.Errorf("%s: %s, %v; Helm says %s; want %s", ref, got, err, helm, want)
		}
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nentries: {a: [{version: 1.0.0, urls: [x], digest: abc}]}"), "a", "*")
	f.Add([]byte(`{"apiVersion":"v1","entries":{"a":[{"version":"1.0.0","created":"2026-01-01T00:00:00Z"}]}}`), "a", "1.x")
	f.Fuzz(func(t *testing.T, text []byte, chart, version string) {
		i, err := parseIndex(text)
		if err != nil {
			return
		}
		v, err := i.Choose(chart, version)
		if err == nil && (v.SHA256 != "" && len(v.SHA256) != 64 || v.Chart != chart) {
			t.Errorf("%+v", v)
		}
	})
}
