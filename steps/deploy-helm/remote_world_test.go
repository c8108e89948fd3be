package main

import (
	"cmp"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	helmregistry "helm.sh/helm/v4/pkg/registry"
	repo "helm.sh/helm/v4/pkg/repo/v1"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/ociregistry"
)

// chartWorld is where scripts have charts: a web server for the folder charts-served of each script, over HTTP and HTTPS, and a real registry
// with a counter in front of it. Both write what they were asked into requests.log of the script.
type chartWorld struct {
	web, tls *httptest.Server
	oci      *httptest.Server
	private  *ociregistry.Registry // wants user and hunter2

	mu      sync.Mutex
	folders map[string]string // by the first element of a path
}

func startChartWorld(t *testing.T) *chartWorld {
	t.Helper()
	w := &chartWorld{folders: map[string]string{}}
	w.web, w.tls = httptest.NewServer(http.HandlerFunc(w.serve)), httptest.NewTLSServer(http.HandlerFunc(w.serve))
	public, err := ociregistry.Start(t.Context(), ociregistry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if w.private, err = ociregistry.Start(t.Context(), ociregistry.Options{Username: "user", Password: "hunter2"}); err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: public.Host})
		r.Out.Host = r.In.Host
	}}
	w.oci = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		id, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
		w.log(id, r.Method+" oci "+rest)
		forward.ServeHTTP(rw, r)
	}))
	t.Cleanup(func() {
		w.web.Close()
		w.tls.Close()
		w.oci.Close()
		_ = public.Close()
		_ = w.private.Close()
	})
	return w
}

// setup gives a script its part of the world.
func (w *chartWorld) setup(e *testscript.Env) error {
	id := fmt.Sprintf("s%d", time.Now().UnixNano())
	w.mu.Lock()
	w.folders[id] = e.WorkDir
	w.mu.Unlock()
	e.Setenv("CHARTS", w.web.URL+"/"+id)
	e.Setenv("CHARTS_TLS", w.tls.URL+"/"+id)
	e.Setenv("OCI", strings.TrimPrefix(w.oci.URL, "http://")+"/"+id)
	e.Setenv("PRIVATE", w.private.Host+"/"+id)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.tls.Certificate().Raw})
	return os.WriteFile(filepath.Join(e.WorkDir, "ca.crt"), ca, 0o644)
}

func (w *chartWorld) log(id, line string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	dir, ok := w.folders[id]
	if !ok {
		return ""
	}
	f, err := os.OpenFile(filepath.Join(dir, "requests.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, _ = fmt.Fprintln(f, line)
		_ = f.Close()
	}
	return dir
}

// serve gives out a script's files. Beside NAME, NAME.auth holds what the Authorization header must be, NAME.redirect where to go instead,
// NAME.endless makes the answer endless, and NAME.silent makes it never end.
func (w *chartWorld) serve(rw http.ResponseWriter, r *http.Request) {
	id, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	line := r.Method + " " + rest
	if a := r.Header.Get("Authorization"); a != "" {
		line += " " + a
	}
	dir := w.log(id, line)
	name := filepath.Join(dir, "charts-served", filepath.Clean("/"+rest))
	beside := func(ext string) (string, bool) {
		text, err := os.ReadFile(name + ext)
		return strings.TrimSpace(string(text)), err == nil
	}
	if want, ok := beside(".auth"); ok && r.Header.Get("Authorization") != want {
		rw.WriteHeader(http.StatusUnauthorized)
		return
	}
	if to, ok := beside(".redirect"); ok {
		http.Redirect(rw, r, to, http.StatusFound)
		return
	}
	if _, ok := beside(".silent"); ok {
		rw.(http.Flusher).Flush()
		<-r.Context().Done()
		return
	}
	if _, ok := beside(".endless"); ok {
		block := make([]byte, 1<<20)
		for {
			if _, err := rw.Write(block); err != nil {
				return
			}
		}
	}
	f, err := os.Open(name)
	if err != nil {
		http.NotFound(rw, r)
		return
	}
	defer func() { _ = f.Close() }()
	_, _ = io.Copy(rw, f)
}

// chartTemplate shows in a ConfigMap which chart was deployed with which values.
const chartTemplate = `apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data:
  chart: {{ .Chart.Name }} {{ .Chart.Version }}
{{- range $name, $value := .Values }}
  {{ $name }}: {{ $value | toJson | quote }}
{{- end }}
`

// helmpackage DIR NAME VERSION [FILE=TEXT...] packages a chart into DIR, with Helm's library. More files come as FILE=TEXT; in TEXT \n is
// the end of a line.
func helmpackage() {
	dir, name, version := os.Args[1], os.Args[2], os.Args[3]
	text := map[string]string{
		"Chart.yaml": fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", name, version), "values.yaml": "color: red\nsize: 1\n", "templates/configmap.yaml": chartTemplate,
	}
	for _, a := range os.Args[4:] {
		file, content, _ := strings.Cut(a, "=")
		text[file] = strings.ReplaceAll(content, `\n`, "\n")
	}
	var files []*archive.BufferedFile
	for file, content := range text {
		files = append(files, &archive.BufferedFile{Name: file, Data: []byte(content)})
	}
	made, err := loader.LoadFiles(files)
	check(err)
	check(os.MkdirAll(dir, 0o755))
	_, err = chartutil.Save(made, dir)
	check(err)
}

// helmindex DIR makes the index of the charts in DIR, with Helm's library. With a second argument "blind" the index has no digests.
func helmindex() {
	index, err := repo.IndexDirectory(os.Args[1], "")
	check(err)
	if len(os.Args) > 2 {
		for _, versions := range index.Entries {
			for _, v := range versions {
				v.Digest = ""
			}
		}
	}
	check(index.WriteFile(filepath.Join(os.Args[1], "index.yaml"), 0o644))
}

// helmpush ARCHIVE REPOSITORY:TAG [USER:PASSWORD] pushes a chart, with Helm's library. The tag need not be the chart's. $CREATED is when the
// artifact was made.
func helmpush() {
	text, err := os.ReadFile(os.Args[1])
	check(err)
	options := []helmregistry.ClientOption{helmregistry.ClientOptPlainHTTP(), helmregistry.ClientOptCredentialsFile("none.json")}
	if len(os.Args) > 3 {
		user, password, _ := strings.Cut(os.Args[3], ":")
		options = append(options, helmregistry.ClientOptBasicAuth(user, password))
	}
	client, err := helmregistry.NewClient(options...)
	check(err)
	result, err := client.Push(text, os.Args[2], helmregistry.PushOptStrictMode(false), helmregistry.PushOptCreationTime(cmp.Or(os.Getenv("CREATED"), "2026-01-01T00:00:00Z")))
	check(err)
	fmt.Println(result.Manifest.Digest)
}

// fluxrelease NAMESPACE CHART... writes repo/releases/NAMESPACE.yaml with a HelmRelease called web. CHART are lines of its spec.
func fluxrelease() {
	text := fmt.Sprintf("apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: web, namespace: %s}\nspec:\n  interval: 10m\n  install: {createNamespace: true}\n", os.Args[1])
	for _, line := range os.Args[2:] {
		text += "  " + line + "\n"
	}
	check(os.MkdirAll("repo/releases", 0o755))
	check(os.WriteFile("repo/releases/"+os.Args[1]+".yaml", []byte(text), 0o644))
}

// fluxsource KIND NAMESPACE/NAME FIELD... writes repo/sources/NAME.yaml. FIELD are lines of its spec.
func fluxsource() {
	namespace, name, _ := strings.Cut(os.Args[2], "/")
	text := fmt.Sprintf("apiVersion: source.toolkit.fluxcd.io/v1\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec:\n  interval: 5m\n", os.Args[1], name, namespace)
	for _, line := range os.Args[3:] {
		text += "  " + line + "\n"
	}
	check(os.MkdirAll("repo/sources", 0o755))
	check(os.WriteFile("repo/sources/"+name+".yaml", []byte(text), 0o644))
}

// secret NAMESPACE NAME KEY=VALUE... makes a Secret in the cluster, and its namespace if need be. A VALUE @FILE is what the file holds.
func makeSecret() {
	text := fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\nstringData:\n", os.Args[1], os.Args[2], os.Args[1])
	for _, pair := range os.Args[3:] {
		key, value, _ := strings.Cut(pair, "=")
		if file, ok := strings.CutPrefix(value, "@"); ok {
			content, err := os.ReadFile(file)
			check(err)
			value = string(content)
		}
		text += fmt.Sprintf("  %s: %q\n", key, value)
	}
	check(os.WriteFile("secret.yaml", []byte(text), 0o644))
	os.Args = []string{"apply", "secret.yaml"}
	apply()
}
