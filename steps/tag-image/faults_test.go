package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/deepdesk/cloudbuild-steps/internal/registry"
)

const canary = "canary-password-93b0"

// scripted is one fault of a registry, what the step was doing, and how it must end.
type scripted struct {
	kind string // where the image comes from: tag, file, elsewhere (another repository), release (found by its commit)
	act  func(f *stage) fault
	env  []string
	exit int
	text string // in stderr
	tag  string // whose digest v1.0.0 is on in the end: tested, built, rival; empty: there is no such tag
	open bool   // the registry asks for no login, so that the function decides about that too
}

// stage is one case's registry, before the fault is put in front of it.
type stage struct {
	t          *testing.T
	host       string // the real registry
	repository string // path; its neighbour "<path>-from" holds the same images
	tested     v1.Image
	built      v1.Image
	rival      v1.Image
	elsewhere  string // a server that belongs to nobody, and remembers
}

func (s *stage) digest(img v1.Image) string {
	d, err := img.Digest()
	if err != nil {
		s.t.Error(err)
	}
	return d.String()
}

// putRival writes the tag as another client would.
func (s *stage) putRival() {
	if err := putTag(s.host+"/"+s.repository, "v1.0.0", s.digest(s.rival)); err != nil {
		s.t.Error(err)
	}
}

// on says which requests are meant; the fault acts on those, and n counts them.
func on(match func(r *http.Request) bool, act fault) func(*stage) fault {
	return func(*stage) fault {
		var (
			mu sync.Mutex
			n  int
		)
		return func(w http.ResponseWriter, r *http.Request, _ int, pass func(http.ResponseWriter)) {
			if !match(r) {
				pass(w)
				return
			}
			mu.Lock()
			n++
			at := n
			mu.Unlock()
			act(w, r, at, pass)
		}
	}
}

// asks matches a method and a pattern of the path; the method "*" is any.
func asks(method, pattern string) func(*http.Request) bool {
	path := regexp.MustCompile(pattern)
	return func(r *http.Request) bool {
		return (method == "*" || r.Method == method) && path.MatchString(r.URL.Path)
	}
}

var (
	everything  = asks("*", "")
	source      = asks("GET", "/manifests/(build|sha256:.*)$")
	target      = asks("GET", "/manifests/v1.0.0$")
	stone       = asks("GET", "/manifests/deleted-v1.0.0$")
	writeTag    = asks("PUT", "/manifests/v1.0.0$")
	beginUpload = asks("POST", "/blobs/uploads/$")
	sendBlob    = asks("PUT", "/blobs/uploads/")
	askBlob     = asks("HEAD", "/blobs/")
	readBlob    = asks("GET", "/blobs/sha256:")
)

func says(status int, code, message string) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ int, _ func(http.ResponseWriter)) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
	}
}

func page(status int) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ int, _ func(http.ResponseWriter)) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		fmt.Fprint(w, "<html>please sign in</html>")
	}
}

func cut(http.ResponseWriter, *http.Request, int, func(http.ResponseWriter)) {
	panic(http.ErrAbortHandler)
}

func hang(_ http.ResponseWriter, r *http.Request, _ int, _ func(http.ResponseWriter)) {
	_, _ = io.Copy(io.Discard, r.Body)
	select {
	case <-r.Context().Done():
	case <-time.After(5 * time.Second): // longer than the step waits
	}
	panic(http.ErrAbortHandler)
}

// first lets a fault happen n times.
func first(n int, act fault) fault {
	return func(w http.ResponseWriter, r *http.Request, at int, pass func(http.ResponseWriter)) {
		if at > n {
			pass(w)
			return
		}
		act(w, r, at, pass)
	}
}

// only lets a fault happen the n-th time.
func only(n int, act fault) fault {
	return func(w http.ResponseWriter, r *http.Request, at int, pass func(http.ResponseWriter)) {
		if at != n {
			pass(w)
			return
		}
		act(w, r, at, pass)
	}
}

func retryAfter(seconds string, act fault) fault {
	return func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter)) {
		w.Header().Set("Retry-After", seconds)
		act(w, r, n, pass)
	}
}

// header changes what the registry says of itself, and body what it gives.
func answered(change func(h http.Header, body []byte) []byte) fault {
	return func(w http.ResponseWriter, _ *http.Request, _ int, pass func(http.ResponseWriter)) {
		recorder := httptest.NewRecorder()
		pass(recorder)
		body := change(recorder.Header(), recorder.Body.Bytes())
		for k, v := range recorder.Header() {
			w.Header()[k] = v
		}
		w.Header().Del("Content-Length")
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(body)
	}
}

func redirect(to string) fault {
	return func(w http.ResponseWriter, r *http.Request, _ int, _ func(http.ResponseWriter)) {
		if to == "" {
			to = r.URL.Path // a loop
		}
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
	}
}

// lose lets the registry do it and loses the answer.
func lose(_ http.ResponseWriter, _ *http.Request, _ int, pass func(http.ResponseWriter)) {
	pass(httptest.NewRecorder())
	panic(http.ErrAbortHandler)
}

const noDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

var matrix = map[string]scripted{
	// who may do it
	"the login is wrong":                          {act: on(everything, says(401, "UNAUTHORIZED", "authentication required")), exit: 1, text: "401 UNAUTHORIZED"},
	"a login is wanted and not how":               {act: on(everything, page(401)), open: true, exit: 1, text: "status 401 with text/html"},
	"the source may not be read":                  {act: on(source, says(403, "DENIED", "denied")), exit: 1, text: "(needs artifactregistry.repositories.downloadArtifacts; asked as robot)"},
	"the tag may not be written":                  {act: on(writeTag, says(403, "DENIED", "denied")), exit: 1, text: "fix: grant robot artifactregistry.repositories.uploadArtifacts on "},
	"blobs may not be written":                    {kind: "file", act: on(beginUpload, says(403, "DENIED", "denied")), exit: 1, text: "uploadArtifacts"},
	"the token server is on another domain":       {act: tokens("other", ""), open: true, exit: 1, text: "are not given to its token server, which is on another domain"},
	"the token server gives no token":             {act: tokens("same", `{"refresh_token":"`+canary+`"}`), open: true, exit: 1, text: "answered without a token"},
	"the token server gives no JSON":              {act: tokens("same", canary), open: true, exit: 1, text: "tag-image: error: "},
	"the token server gives a token":              {act: tokens("same", `{"access_token":"good"}`), open: true, tag: "tested"},
	"the token is not good for long":              {act: tokens("short", `{"token":"good"}`), open: true, tag: "tested"},
	"a blob's storage is on another host":         {kind: "elsewhere", act: storage, exit: 1, text: "refusing plain HTTP"},
	"what belongs to the image may not be read":   {kind: "elsewhere", act: on(asks("GET", "/manifests/sha256-"), says(403, "DENIED", "denied")), exit: 1, text: "downloadArtifacts"},
	"a redirect leads a manifest to another host": {act: toElsewhere(source), exit: 1, text: "redirects elsewhere"},
	"a redirect leads a write to another host":    {act: toElsewhere(writeTag), exit: 1, text: "redirects elsewhere"},
	"an upload's place is on another host":        {kind: "file", act: uploadElsewhere, exit: 1, text: "refusing plain HTTP"},
	"the next page of tags is on another host":    {kind: "release", act: nextPageElsewhere, exit: 1, text: "leads to another host"},

	// what looks like "there is no such tag"
	"a portal answers for the source":            {act: on(source, page(404)), exit: 1, text: "status 404 with text/html, which is not the answer of a registry"},
	"a portal answers for the tag":               {act: on(target, page(404)), exit: 1, text: "which is not the answer of a registry"},
	"a portal answers for the tombstone":         {act: on(stone, page(404)), exit: 1, text: "which is not the answer of a registry"},
	"a login page answers 200":                   {act: on(target, page(200)), exit: 1, text: "status 200 with text/html"},
	"the tag has a type that nobody asked for":   {act: on(target, says(404, "MANIFEST_UNKNOWN", "Manifest has media type x but client accepts others")), exit: 1, text: "has media type"},
	"the 404 is about something else":            {act: on(target, says(404, "BLOB_UNKNOWN", "blob unknown")), exit: 1, text: "404 BLOB_UNKNOWN"},
	"the source is not there":                    {act: on(source, says(404, "MANIFEST_UNKNOWN", "manifest unknown")), exit: 3, text: "has no image build"},
	"the tag comes into sight after the write":   {act: on(target, first(3, says(404, "MANIFEST_UNKNOWN", "manifest unknown"))), tag: "tested"},
	"the tombstone cannot be read":               {act: on(stone, says(500, "UNKNOWN", "oops")), exit: 1, text: "500 UNKNOWN: oops"},
	"the tag was deleted with another image":     {act: buried, exit: 3, text: "was deleted on 2026-11-24 12:00:00 by build build-7: lost orders"},
	"something else stands in a tombstone's way": {act: blocked, exit: 3, text: "cannot be read"},

	// what passes, and what does not
	"too many requests, once of each kind":      {act: perMethod(says(429, "TOOMANYREQUESTS", "quota")), tag: "tested"},
	"too many requests, and it says when":       {act: on(target, first(1, retryAfter("1", says(429, "TOOMANYREQUESTS", "quota")))), tag: "tested"},
	"too many requests, come back tomorrow":     {act: on(target, retryAfter("86400", says(429, "TOOMANYREQUESTS", "quota"))), env: []string{"TIMEOUT=30s"}, exit: 1, text: "429 TOOMANYREQUESTS: quota"},
	"too many requests, for ever":               {act: on(target, says(429, "TOOMANYREQUESTS", "quota")), exit: 1, text: "429 TOOMANYREQUESTS"},
	"the registry is broken":                    {act: on(everything, says(500, "UNKNOWN", "oops")), open: true, exit: 1, text: "500 UNKNOWN: oops"},
	"a proxy is broken for a moment":            {act: on(source, first(2, page(502))), tag: "tested"},
	"the registry is away for a moment":         {kind: "file", act: on(beginUpload, first(2, says(503, "UNAVAILABLE", "wait"))), tag: "built"},
	"a connection is cut once":                  {act: on(target, first(1, cut)), tag: "tested"},
	"connections are cut always":                {act: on(target, cut), exit: 1, text: "EOF"},
	"an answer never comes":                     {act: on(target, hang), env: []string{"TIMEOUT=1s"}, exit: 1, text: "gave up after TIMEOUT=1s"},
	"an answer to the write never comes":        {act: on(writeTag, hang), env: []string{"TIMEOUT=1s"}, exit: 1, text: "gave up after TIMEOUT=1s"},
	"a redirect goes round":                     {act: on(source, redirect("")), exit: 1, text: "redirects elsewhere, or for ever"},
	"a redirect of a write goes round":          {act: on(writeTag, redirect("")), exit: 1, text: "redirects elsewhere, or for ever"},
	"the tag's write is refused as read-only":   {act: on(writeTag, says(405, "UNSUPPORTED", "read-only")), exit: 1, text: "405 UNSUPPORTED: read-only"},
	"the tag's write is answered with a page":   {act: on(writeTag, page(200)), exit: 1, text: "status 200 with text/html"},
	"the registry finds the manifest invalid":   {act: on(writeTag, says(400, "MANIFEST_INVALID", "bad")), exit: 1, text: "400 MANIFEST_INVALID: bad"},
	"the registry finds the manifest too large": {act: on(writeTag, page(413)), exit: 1, text: "status 413"},
	"the list of referrers is broken":           {kind: "elsewhere", act: on(asks("GET", "/referrers/"), says(500, "UNKNOWN", "oops")), exit: 1, text: "listing what refers to"},

	// writes whose end is not known
	"the write arrives and its answer does not":    {act: on(writeTag, first(1, lose)), tag: "tested"},
	"the write does not arrive":                    {act: on(writeTag, first(1, cut)), tag: "tested"},
	"a gateway gives up on a write that is done":   {act: on(writeTag, gateway), tag: "tested"},
	"the write fails always":                       {act: on(writeTag, says(500, "UNKNOWN", "oops")), exit: 1, text: "500 UNKNOWN: oops"},
	"the write is taken and not stored":            {act: on(writeTag, func(w http.ResponseWriter, _ *http.Request, _ int, _ func(http.ResponseWriter)) { w.WriteHeader(201) }), exit: 1, text: "took it and does not show it"},
	"the registry says that it stored another one": {act: on(writeTag, answered(func(h http.Header, b []byte) []byte { h.Set("Docker-Content-Digest", noDigest); return b })), exit: 1, text: noDigest, tag: "tested"},
	"a rival is faster":                            {act: rivalry(1, true), exit: 3, text: "and a tag never moves to another image", tag: "rival"},
	"a rival moves the tag after the write":        {act: rivalry(1, false), exit: 4, text: "another writer moved it", tag: "rival"},
	"the tags are immutable, and this one is gone": {act: on(writeTag, says(400, "MANIFEST_INVALID", "The repository has enabled tag immutability")), exit: 3, text: "immutable"},
	"the tags are immutable, and a rival has it":   {act: immutableRival, exit: 3, text: "the repository's tags are immutable", tag: "rival"},

	// content that is not what it is called
	"the source was altered":         {act: on(source, answered(func(_ http.Header, b []byte) []byte { return append(b, ' ') })), exit: 1, text: "the content is sha256:"},
	"the source's digest is another": {act: on(source, answered(func(h http.Header, b []byte) []byte { h.Set("Docker-Content-Digest", noDigest); return b })), exit: 1, text: noDigest},
	"the source is too large": {act: on(source, answered(func(h http.Header, b []byte) []byte {
		h.Del("Docker-Content-Digest")
		return append(b, make([]byte, 5<<20)...)
	})), exit: 1, text: "longer than 4194304 bytes"},
	"the source is no manifest":             {act: on(source, answered(func(h http.Header, _ []byte) []byte { h.Del("Docker-Content-Digest"); return []byte("{}") })), exit: 1, text: "schema version 0"},
	"the tag is altered when read back":     {act: on(target, only(2, answered(func(_ http.Header, b []byte) []byte { return append(b, ' ') }))), exit: 1, text: "the content is sha256:", tag: "tested"},
	"the file is damaged":                   {kind: "damaged", act: on(everything, says(500, "UNKNOWN", "oops")), open: true, exit: 3, text: "nothing was sent"},
	"a blob is refused":                     {kind: "file", act: on(sendBlob, says(400, "DIGEST_INVALID", "bad")), exit: 1, text: "400 DIGEST_INVALID"},
	"a blob is stored as another":           {kind: "file", act: on(sendBlob, answered(func(h http.Header, b []byte) []byte { h.Set("Docker-Content-Digest", noDigest); return b })), exit: 1, text: noDigest},
	"an upload has no place":                {kind: "file", act: on(beginUpload, answered(func(h http.Header, b []byte) []byte { h.Del("Location"); return b })), exit: 1, text: "names no place"},
	"a blob's upload is cut":                {kind: "file", act: on(sendBlob, first(2, cut)), tag: "built"},
	"the answer to a blob is lost":          {kind: "file", act: on(sendBlob, first(2, lose)), tag: "built"},
	"looking for a blob fails for a moment": {kind: "file", act: on(askBlob, first(2, says(503, "UNAVAILABLE", "wait"))), tag: "built"},
	"a mount is not known":                  {kind: "elsewhere", act: on(mounts, says(405, "UNSUPPORTED", "unsupported")), tag: "tested"},
	"a mount becomes an upload": {kind: "elsewhere", act: on(mounts, func(w http.ResponseWriter, r *http.Request, _ int, pass func(http.ResponseWriter)) {
		r.URL.RawQuery = ""
		pass(w)
	}), tag: "tested"},
	"a blob to copy is cut":     {kind: "elsewhere", act: copyCut, tag: "tested"},
	"a blob to copy is missing": {kind: "elsewhere", act: copyMissing, exit: 3, text: "lacks its part"},
}

func mounts(r *http.Request) bool { return r.URL.Query().Get("mount") != "" }

// tokens puts a token server beside the registry, or on another host.
func tokens(where, answer string) func(*stage) fault {
	return func(s *stage) fault {
		var mu sync.Mutex
		uses := 0
		return func(w http.ResponseWriter, r *http.Request, _ int, pass func(http.ResponseWriter)) {
			mu.Lock()
			defer mu.Unlock()
			realm := "http://" + r.Host + "/token"
			if where == "other" {
				realm = "http://" + s.elsewhere + "/token"
			}
			switch {
			case r.URL.Path == "/token":
				uses = 0
				if _, password, _ := r.BasicAuth(); password != canary {
					s.t.Error("the token server was asked without the login")
				}
				fmt.Fprint(w, answer)
			case r.Header.Get("Authorization") == "Bearer good" && (where != "short" || uses < 2):
				uses++
				pass(w)
			default:
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="test",scope="repository:%s:pull,push"`, realm, s.repository))
				says(401, "UNAUTHORIZED", "authentication required")(w, r, 1, nil)
			}
		}
	}
}

func toElsewhere(match func(*http.Request) bool) func(*stage) fault {
	return func(s *stage) fault { return on(match, redirect("http://"+s.elsewhere+"/stolen"))(s) }
}

// storage keeps blobs on another host, which registries do, but without TLS; and it mounts nothing.
func storage(s *stage) fault {
	read := toElsewhere(readBlob)(s)
	return func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter)) {
		if mounts(r) {
			r.URL.RawQuery = ""
		}
		read(w, r, n, pass)
	}
}

func uploadElsewhere(s *stage) fault {
	return on(beginUpload, answered(func(h http.Header, b []byte) []byte { h.Set("Location", "http://"+s.elsewhere+"/upload"); return b }))(s)
}

func nextPageElsewhere(s *stage) fault {
	return on(asks("GET", "/tags/list$"), answered(func(h http.Header, b []byte) []byte {
		h.Set("Link", fmt.Sprintf(`<http://%s/v2/x/tags/list>; rel="next"`, s.elsewhere))
		return b
	}))(s)
}

// gateway gives up on a request that the registry carries out.
func gateway(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter)) {
	pass(httptest.NewRecorder())
	page(504)(w, r, n, pass)
}

func perMethod(act fault) func(*stage) fault {
	return func(*stage) fault {
		return func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter)) {
			first(1, act)(w, r, n, pass)
		}
	}
}

func rivalry(n int, before bool) func(*stage) fault {
	return func(s *stage) fault {
		return on(writeTag, only(n, func(w http.ResponseWriter, _ *http.Request, _ int, pass func(http.ResponseWriter)) {
			if before {
				s.putRival()
				panic(http.ErrAbortHandler)
			}
			pass(w)
			s.putRival()
		}))(s)
	}
}

func immutableRival(s *stage) fault {
	return on(writeTag, func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter)) {
		s.putRival()
		says(400, "TAG_INVALID", "The image tag already exists and cannot be overwritten because the repository is immutable.")(w, r, n, pass)
	})(s)
}

func buried(s *stage) fault {
	stone := registry.Tombstone{Tag: "v1.0.0", Digest: s.digest(s.rival), Time: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), Reason: "lost orders", Build: "build-7"}
	if _, err := registry.New(nil, registry.ForPush()).Bury(context.Background(), s.host+"/"+s.repository, stone); err != nil {
		s.t.Error(err)
	}
	return on(func(*http.Request) bool { return false }, nil)(s)
}

func blocked(s *stage) fault {
	if err := putTag(s.host+"/"+s.repository, "deleted-v1.0.0", s.digest(s.rival)); err != nil {
		s.t.Error(err)
	}
	return on(func(*http.Request) bool { return false }, nil)(s)
}

// copyCut mounts nothing, and cuts every read in the middle.
func copyCut(s *stage) fault {
	read := on(readBlob, first(6, func(w http.ResponseWriter, _ *http.Request, _ int, pass func(http.ResponseWriter)) {
		recorder := httptest.NewRecorder()
		pass(recorder)
		for k, v := range recorder.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(recorder.Body.Bytes()[:(recorder.Body.Len()+1)/2])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))(s)
	return func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter)) {
		if mounts(r) {
			r.URL.RawQuery = ""
		}
		read(w, r, n, pass)
	}
}

func copyMissing(s *stage) fault {
	read := on(readBlob, says(404, "BLOB_UNKNOWN", "blob unknown"))(s)
	return func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter)) {
		if mounts(r) {
			r.URL.RawQuery = ""
		}
		read(w, r, n, pass)
	}
}

// outcome is how a run of the program ended.
type outcome struct {
	exit           int
	stdout, stderr string
	took           time.Duration
}

// runStep runs the real program in a process of its own, with nothing of this machine's environment but PATH.
func runStep(ctx context.Context, dir string, env ...string) (outcome, error) {
	cmd := exec.CommandContext(ctx, "tag-image")
	var stdout, stderr strings.Builder
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "DOCKER_CONFIG=" + dir, "HANDOVER_DIR=" + filepath.Join(dir, ".release")}, env...)
	begin := time.Now()
	err := cmd.Run()
	o := outcome{stdout: stdout.String(), stderr: stderr.String(), took: time.Since(begin)}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		o.exit, err = exit.ExitCode(), nil
	}
	return o, err
}

// TestFaultsOfRegistries plays each fault to the real program: it must end in the right state, with a clear message and the right exit
// code, and no credential may reach another host or a message.
func TestFaultsOfRegistries(t *testing.T) {
	if len(matrix) < 40 {
		t.Fatalf("%d faults", len(matrix))
	}
	r, err := startRegistry()
	if err != nil {
		t.Fatal(err)
	}
	var (
		mu     sync.Mutex
		stolen []string
	)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		if line := fmt.Sprint(r.Method, " ", r.URL, " ", r.Header); r.Header.Get("Authorization") != "" || strings.Contains(line, canary) {
			stolen = append(stolen, line)
		}
		w.WriteHeader(http.StatusCreated)
	}))
	t.Cleanup(other.Close)
	images := make([]v1.Image, 3)
	for i := range images {
		if images[i], err = newImage(); err != nil {
			t.Fatal(err)
		}
	}
	work := t.TempDir()
	if err := save(images[1], filepath.Join(work, "image.tar")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "damaged.tar"), []byte("not a tar file"), 0o600); err != nil {
		t.Fatal(err)
	}
	var (
		all     sync.WaitGroup
		slots   = make(chan struct{}, 8) // most of the time is spent waiting
		results sync.Map
	)
	number := 0
	for title, c := range matrix {
		number++
		s := &stage{t: t, host: r.Host, repository: fmt.Sprintf("matrix/case-%d", number), tested: images[0], built: images[1], rival: images[2], elsewhere: strings.TrimPrefix(other.URL, "http://")}
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			o, err := s.play(t, work, c)
			if err != nil {
				t.Errorf("%s: %v", title, err)
			}
			results.Store(title, o)
			under := map[string]string{"tested": s.digest(s.tested), "built": s.digest(s.built), "rival": s.digest(s.rival), "": "nothing"}[c.tag]
			if got := tagDigest(s.host + "/" + s.repository + ":v1.0.0"); got != under {
				t.Errorf("%s: v1.0.0 is on %s, want %q, %s", title, got, c.tag, under)
			}
		})
	}
	all.Wait()
	for title, c := range matrix {
		t.Run(title, func(t *testing.T) {
			value, _ := results.Load(title)
			o, _ := value.(outcome)
			if o.exit != c.exit || !strings.Contains(o.stderr, c.text) {
				t.Errorf("exit code %d, want %d with %q:\n%s", o.exit, c.exit, c.text, o.stderr)
			}
			if (o.exit == 0) != (o.stdout != "") || o.exit != 0 && !strings.Contains(o.stderr, "tag-image: error: ") {
				t.Errorf("exit code %d with stdout %q and stderr %q", o.exit, o.stdout, o.stderr)
			}
			if strings.Contains(o.stdout+o.stderr, canary) || strings.Contains(o.stderr, base64.StdEncoding.EncodeToString([]byte("robot:"+canary))) {
				t.Errorf("the password is printed:\n%s", o.stderr)
			}
			if o.took > 25*time.Second {
				t.Errorf("it took %s", o.took)
			}
		})
	}
	for _, line := range stolen {
		t.Errorf("a credential reached another host: %s", line)
	}
}

// play prepares the case's repositories, puts the fault before the registry, and runs the step.
func (s *stage) play(t *testing.T, work string, c scripted) (outcome, error) {
	const built = "main-4f2a91c03b7d-1764000000"
	for _, path := range []string{s.repository, s.repository + "-from"} {
		for _, img := range []v1.Image{s.tested, s.rival} {
			ref, err := name.NewDigest(s.host + "/" + path + "@" + s.digest(img))
			if err != nil {
				return outcome{}, err
			}
			if strings.HasSuffix(path, "-from") != (c.kind == "elsewhere") && img == s.tested {
				continue
			}
			if err := remote.Write(ref, img); err != nil {
				return outcome{}, err
			}
			if img == s.tested {
				for _, tag := range []string{"build", built} {
					if err := putTag(s.host+"/"+path, tag, s.digest(img)); err != nil {
						return outcome{}, err
					}
				}
			}
		}
	}
	act := c.act(s)
	inner := between(s.host, act)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); !c.open && password != canary {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			says(401, "UNAUTHORIZED", "authentication required")(w, r, 1, nil)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	dir, err := os.MkdirTemp(work, "home-")
	if err != nil {
		return outcome{}, err
	}
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("robot:"+canary)))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		return outcome{}, err
	}
	env := append([]string{"IMAGE=" + host + "/" + s.repository, "TIMEOUT=25s"}, c.env...)
	switch c.kind {
	case "file":
		env = append(env, "TAGS=v1.0.0", "SOURCE="+filepath.Join(work, "image.tar"))
	case "damaged":
		env = append(env, "TAGS=v1.0.0", "SOURCE="+filepath.Join(work, "damaged.tar"))
	case "elsewhere":
		env = append(env, "TAGS=v1.0.0", "SOURCE="+host+"/"+s.repository+"-from:build")
	case "release":
		env = append(env, "TAG_NAME=v1.0.0", "COMMIT_SHA="+commit)
	default:
		env = append(env, "TAGS=v1.0.0", "SOURCE=build")
	}
	return runStep(t.Context(), dir, env...)
}

func tagDigest(reference string) string {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return err.Error()
	}
	d, err := remote.Head(ref)
	if err != nil {
		return "nothing"
	}
	return d.Digest.String()
}
