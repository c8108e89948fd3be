package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// contents are the files of a layout or of a docker save file, by name.
type contents map[string][]byte

// randomLayout writes a layout with the library and reads its files back.
func randomLayout(t *testing.T, add any) contents {
	t.Helper()
	dir := t.TempDir()
	p, err := ggcrlayout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	switch add := add.(type) {
	case v1.Image:
		err = p.AppendImage(add)
	case v1.ImageIndex:
		err = p.AppendIndex(add)
	}
	if err != nil {
		t.Fatal(err)
	}
	files := contents{}
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(rel)], err = os.ReadFile(name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func image(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(2048, 3)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON)
}

func index(t *testing.T) v1.ImageIndex {
	t.Helper()
	inner, err := random.Index(256, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	return mutate.AppendManifests(inner,
		mutate.IndexAddendum{Add: image(t), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
}

// dir writes the files as a directory.
func (c contents) dir(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range c {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// tar writes the files as a tar file, in the order of their names, and then more entries.
func (c contents) tar(t *testing.T, more ...tar.Header) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(c)) {
		more = append(more, tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(c[name]))})
	}
	for _, h := range more {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			content, ok := c[strings.TrimPrefix(h.Name, "./")]
			if !ok {
				content = make([]byte, h.Size)
			}
			if _, err := w.Write(content[:h.Size]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return write(t, buf.Bytes())
}

func write(t *testing.T, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func (c contents) with(name string, content []byte) contents {
	d := maps.Clone(c)
	if d[name] = content; content == nil {
		delete(d, name)
	}
	return d
}

// root is the digest that index.json names.
func (c contents) root(t *testing.T) string {
	t.Helper()
	var list struct{ Manifests []descriptor }
	if err := json.Unmarshal(c["index.json"], &list); err != nil || len(list.Manifests) == 0 {
		t.Fatal(err)
	}
	return list.Manifests[0].Digest
}

// rebuilt replaces the root by what edit makes of it, with names that fit.
func (c contents) rebuilt(t *testing.T, edit func(map[string]any)) contents {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(c[blobName(c.root(t))], &m); err != nil {
		t.Fatal(err)
	}
	edit(m)
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var list map[string]any
	if err := json.Unmarshal(c["index.json"], &list); err != nil {
		t.Fatal(err)
	}
	root := list["manifests"].([]any)[0].(map[string]any)
	root["digest"], root["size"] = digestOf(raw), len(raw)
	top, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return c.with(blobName(digestOf(raw)), raw).with("index.json", top)
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// pulled reads an image back with the library and checks every part of it.
func pulled(t *testing.T, repository, tag string) (v1.Hash, types.MediaType) {
	t.Helper()
	ref, err := name.ParseReference(realHost(t) + "/" + repository + ":" + tag)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	if d.MediaType.IsIndex() {
		idx, err := d.ImageIndex()
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(idx); err != nil {
			t.Error(err)
		}
		return d.Digest, d.MediaType
	}
	img, err := d.Image()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	return d.Digest, d.MediaType
}

// saveOld is what `docker save` of an engine without the containerd store writes: plain layers, folders that are not named for their
// content, and a link where a layer occurs twice.
func saveOld(t *testing.T) (contents, []tar.Header) {
	t.Helper()
	layers := [][]byte{layerTar(t, "a"), layerTar(t, "b")}
	config := fmt.Appendf(nil, `{"architecture":"arm64","variant":"v8","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%s","sha256:%s","sha256:%s"]}}`,
		sum(layers[0]), sum(layers[1]), sum(layers[0]))
	return contents{
			sum(config) + ".json": config,
			"one/layer.tar":       layers[0], "two/layer.tar": layers[1],
			"manifest.json": fmt.Appendf(nil, `[{"Config":"%s.json","RepoTags":null,"Layers":["one/layer.tar","two/layer.tar","three/layer.tar"]}]`, sum(config)),
		}, []tar.Header{
			{Typeflag: tar.TypeDir, Name: "three/", Mode: 0o755},
			{Typeflag: tar.TypeSymlink, Name: "three/layer.tar", Linkname: "../one/layer.tar"},
		}
}

func layerTar(t *testing.T, name string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: 1000}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bytes.Repeat([]byte(name), 1000)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// saveLibrary is what tools on go-containerregistry (kaniko, ko, crane) write: compressed layers.
func saveLibrary(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	tag, err := name.NewTag("registry.test/backend:latest")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(file, tag, image(t)); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestEveryKindOfFileIsPushedWhole(t *testing.T) {
	single, multi := randomLayout(t, image(t)), randomLayout(t, index(t))
	old, links := saveOld(t)
	hybrid := maps.Clone(single)
	hybrid["manifest.json"] = []byte(`[{"Config":"nothing","Layers":[]}]`)
	dotted := tar.Header{Typeflag: tar.TypeReg, Name: "./index.json", Size: int64(len(single["index.json"]))}
	for name, c := range map[string]struct {
		path      string
		digest    string // empty: made here
		platforms []string
	}{
		"a layout directory": {single.dir(t), single.root(t), []string{"linux/amd64"}},
		"a layout tar":       {single.tar(t), single.root(t), []string{"linux/amd64"}},
		"a layout tar with dotted names and the index last": {withIndexLast(t, single, dotted), single.root(t), []string{"linux/amd64"}},
		"a layout with a nested index":                      {multi.tar(t), multi.root(t), []string{"linux/amd64"}},
		"a file that is a layout and a docker save file":    {hybrid.tar(t), single.root(t), []string{"linux/amd64"}},
		"an old docker save file":                           {old.tar(t, links...), "", []string{"linux/arm64/v8"}},
		"a docker save file with compressed layers":         {saveLibrary(t), "", []string{"linux/amd64"}},
		"a manifest that names one layer twice":             {randomLayout(t, twice(t)).tar(t), "", []string{"linux/amd64"}},
	} {
		t.Run(name, func(t *testing.T) {
			repository := folder(t)
			s, err := Open(t.Context(), c.path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			if c.digest != "" && s.Digest != c.digest {
				t.Errorf("digest %s, want %s", s.Digest, c.digest)
			}
			if diff := cmp.Diff(c.platforms, s.Platforms); diff != "" {
				t.Errorf("platforms: %s", diff)
			}
			for i, b := range s.blobs {
				if slices.ContainsFunc(s.blobs[:i], func(o blob) bool { return o.digest == b.digest }) {
					t.Errorf("%s would be sent twice", b.digest)
				}
			}
			f := between(t, func(w http.ResponseWriter, _ *http.Request, pass func(http.ResponseWriter)) { pass(w) })
			for range 2 { // the second time there is nothing to send
				if err := client().Upload(t.Context(), f.host+"/"+repository, s); err != nil {
					t.Fatal(err)
				}
			}
			if n := f.count("PUT", "/blobs/"); n != len(s.blobs) {
				t.Errorf("%d blobs were sent, and there are %d", n, len(s.blobs))
			}
			if n := f.count("PUT", "/manifests/"+s.Digest); n != 0 {
				t.Error("the image itself was written before its tag")
			}
			if _, err := client().Tag(t.Context(), f.host+"/"+repository, "v1.0.0", s.Image); err != nil {
				t.Fatal(err)
			}
			digest, mediaType := pulled(t, repository, "v1.0.0")
			if digest.String() != s.Digest || string(mediaType) != s.MediaType {
				t.Errorf("pulled %s %s, pushed %s %s", digest, mediaType, s.Digest, s.MediaType)
			}
			again, err := Open(t.Context(), c.path)
			if err != nil || again.Digest != s.Digest {
				t.Errorf("opened again it is %s, %v", again.Digest, err)
			}
			_ = again.Close()
		})
	}
}

// withIndexLast writes the layout with ./ before the name of the index, at the end.
func withIndexLast(t *testing.T, c contents, last tar.Header) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range append(slices.Sorted(maps.Keys(c.with("index.json", nil))), last.Name) {
		content := c[strings.TrimPrefix(name, "./")]
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return write(t, buf.Bytes())
}

// twice is an image that has one layer two times.
func twice(t *testing.T) v1.Image {
	t.Helper()
	img := image(t)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, layers[0]); err != nil {
		t.Fatal(err)
	}
	return img
}

func TestASavedImageHasTheDigestThatCraneGivesIt(t *testing.T) {
	old, _ := saveOld(t)
	files := old.with("three/layer.tar", old["one/layer.tar"])
	for name, path := range map[string]string{"compressed layers": saveLibrary(t), "plain layers": files.tar(t)} {
		img, err := tarball.ImageFromPath(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		want, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if s.Digest != want.String() {
			raw, _ := img.RawManifest()
			t.Errorf("%s: %s, and crane pushes %s\n%s\n%s", name, s.Digest, want, s.Raw, raw)
		}
		_ = s.Close()
	}
}

func TestWhatIsNotWhatItsNameSaysIsRefused(t *testing.T) {
	good, multi := randomLayout(t, image(t)), randomLayout(t, index(t))
	root := blobName(good.root(t))
	m, err := parseManifest(good[root], ociManifest)
	if err != nil {
		t.Fatal(err)
	}
	layer, conf := blobName(m.layers[0].Digest), blobName(m.config.Digest)
	flipped := func(c contents, name string) contents {
		b := bytes.Clone(c[name])
		b[len(b)/2] ^= 1
		return c.with(name, b)
	}
	idx, err := parseManifest(multi[blobName(multi.root(t))], ociIndex)
	if err != nil {
		t.Fatal(err)
	}
	old, links := saveOld(t)
	config := slices.Sorted(maps.Keys(old))[0]
	for k := range old {
		if strings.HasSuffix(k, ".json") && k != "manifest.json" {
			config = k
		}
	}
	firstLayer := func(edit func(map[string]any)) contents {
		return good.rebuilt(t, func(m map[string]any) { edit(m["layers"].([]any)[0].(map[string]any)) })
	}
	reg := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	whole, err := os.ReadFile(good.tar(t))
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(whole)
	_ = z.Close()

	for name, c := range map[string]struct{ path, text string }{
		"a manifest with one bit flipped":        {flipped(good, root).dir(t), "the content is sha256:"},
		"a layer with one bit flipped":           {flipped(good, layer).tar(t), "the content is sha256:"},
		"a config with one bit flipped":          {flipped(good, conf).tar(t), "the content is sha256:"},
		"a layer with a byte more":               {good.with(layer, append(bytes.Clone(good[layer]), 0)).tar(t), "bytes, and the manifest says"},
		"a layer that is cut":                    {good.with(layer, good[layer][:10]).dir(t), "bytes, and the manifest says"},
		"a layer that is missing":                {good.with(layer, nil).dir(t), "is missing"},
		"an index whose image is missing":        {multi.with(blobName(idx.manifests[1].Digest), nil).tar(t), "is missing"},
		"an index whose image is damaged":        {flipped(multi, blobName(idx.manifests[0].Digest)).tar(t), "the content is sha256:"},
		"a layer that is kept elsewhere":         {firstLayer(func(l map[string]any) { l["digest"], l["urls"] = "sha256:"+sum(nil), []string{"https://x.test"} }).tar(t), "kept elsewhere"},
		"a layer with two sizes":                 {good.rebuilt(t, func(m map[string]any) { m["layers"] = append(m["layers"].([]any), resized(m)) }).tar(t), "bytes, and the manifest says"},
		"a digest that is no digest":             {firstLayer(func(l map[string]any) { l["digest"] = "sha256:../../../../etc/passwd" }).dir(t), "is not a digest"},
		"a digest of another algorithm":          {firstLayer(func(l map[string]any) { l["digest"] = "sha512:" + strings.Repeat("0", 128) }).dir(t), "is not a digest"},
		"a negative size":                        {firstLayer(func(l map[string]any) { l["size"] = -1 }).dir(t), "has the size -1"},
		"an image and an index at once":          {good.rebuilt(t, func(m map[string]any) { m["manifests"] = []any{} }).tar(t), "an image and an index at once"},
		"an image without a config":              {good.rebuilt(t, func(m map[string]any) { delete(m, "config") }).tar(t), "has no config"},
		"a manifest of another type":             {good.rebuilt(t, func(m map[string]any) { m["mediaType"] = ociIndex }).tar(t), "calls itself"},
		"a manifest of schema 1":                 {good.rebuilt(t, func(m map[string]any) { m["schemaVersion"] = 1 }).tar(t), "schema version 1"},
		"a manifest that is no JSON":             {good.with("index.json", []byte("{")).tar(t), "index.json"},
		"a layout of another version":            {good.with("oci-layout", []byte(`{"imageLayoutVersion":"2.0.0"}`)).tar(t), "want 1.0.0"},
		"a layout without an index":              {good.with("index.json", nil).dir(t), "index.json is missing"},
		"a layout with two images":               {both(t, good, multi).tar(t), "lists 2 images: want exactly one"},
		"a layout with no image":                 {good.with("index.json", []byte(`{"schemaVersion":2,"manifests":[]}`)).tar(t), "lists 0 images"},
		"a name that leads out of the tar file":  {good.tar(t, reg("../../evil")), "leads out of it"},
		"a hidden name that leads out":           {good.tar(t, reg("blobs/../../evil")), "leads out of it"},
		"an absolute name":                       {good.tar(t, reg("/etc/passwd")), "leads out of it"},
		"a name that occurs twice":               {good.tar(t, reg("index.json")), `"index.json" twice`},
		"a name that occurs twice, differently":  {good.tar(t, reg("./blobs//sha256/../../index.json")), `"index.json" twice`},
		"a symbolic link in a tar file":          {good.with(layer, nil).tar(t, tar.Header{Typeflag: tar.TypeSymlink, Name: layer, Linkname: "/etc/passwd"}), "is not a regular file"},
		"a hard link in a tar file":              {good.with(layer, nil).tar(t, tar.Header{Typeflag: tar.TypeLink, Name: layer, Linkname: conf}), "is not a regular file"},
		"a device in a tar file":                 {good.with(layer, nil).tar(t, tar.Header{Typeflag: tar.TypeChar, Name: layer}), "is not a regular file"},
		"a symbolic link to a layer":             {linked(t, good, layer), "is not a regular file"},
		"a symbolic link to the folder of blobs": {linked(t, good, "blobs"), "is not a directory"},
		"a tar file that is cut":                 {write(t, whole[:len(whole)*2/3]), "unexpected EOF"},
		"a tar file that is compressed":          {write(t, zipped.Bytes()), "it is compressed"},
		"a file that is no tar file":             {write(t, bytes.Repeat([]byte("text\n"), 1000)), "reading the tar file"},
		"an empty file":                          {write(t, nil), "it is no tar file"},
		"a tar file of something else":           {contents{"README": []byte("hello")}.tar(t), "neither an OCI layout"},
		"an empty directory":                     {t.TempDir(), "neither an OCI layout"},
		"a device":                               {os.DevNull, "neither a directory nor a regular file"},
		"a saved layer with one bit flipped":     {flipped(old, "one/layer.tar").tar(t, links...), "the content is sha256:"},
		"a saved config with a blank more":       {old.with(config, append(bytes.Clone(old[config]), ' ')).tar(t, links...), "reading " + config + ": the content is sha256:"},
		"a saved layer that is missing":          {old.with("two/layer.tar", nil).tar(t, links...), "no other layer has its content"},
		"a saved layer that is a link elsewhere": {old.with("two/layer.tar", nil).tar(t, append(links, tar.Header{Typeflag: tar.TypeSymlink, Name: "two/layer.tar", Linkname: "/etc/passwd"})...), "no other layer has its content"},
		"a saved file with two images":           {old.with("manifest.json", []byte(`[{},{}]`)).tar(t, links...), "lists 2 images: want exactly one"},
		"a saved file with a layer more":         {old.with("manifest.json", bytes.Replace(old["manifest.json"], []byte(`"one/`), []byte(`"one/layer.tar","one/`), 1)).tar(t, links...), "lists 4 layers"},
		"a saved layer in zstd":                  {old.with("one/layer.tar", []byte("\x28\xb5\x2f\xfdrest")).tar(t, links...), "compressed with zstd"},
		"a saved layer in broken gzip":           {old.with("one/layer.tar", []byte("\x1f\x8b\x08rest")).tar(t, links...), "reading layer one/layer.tar"},
		"a saved config outside":                 {old.with("manifest.json", []byte(`[{"Config":"../../../etc/passwd","Layers":[]}]`)).dir(t), "leads out of the directory"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), c.path)
			if err == nil {
				_ = s.Close()
				t.Fatal("it was accepted")
			}
			if !errors.As(err, new(*SourceError)) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%T %v, want a SourceError with %q", err, err, c.text)
			}
		})
	}
}

func resized(m map[string]any) any {
	again := maps.Clone(m["layers"].([]any)[0].(map[string]any))
	again["size"] = again["size"].(float64) + 1
	return again
}

func both(t *testing.T, a, b contents) contents {
	t.Helper()
	var first, second struct {
		SchemaVersion int               `json:"schemaVersion"`
		Manifests     []json.RawMessage `json:"manifests"`
	}
	if err := errors.Join(json.Unmarshal(a["index.json"], &first), json.Unmarshal(b["index.json"], &second)); err != nil {
		t.Fatal(err)
	}
	first.Manifests = append(first.Manifests, second.Manifests...)
	raw, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all.with("index.json", raw)
}

// linked is a layout directory in which one name is a link to where the content was moved.
func linked(t *testing.T, c contents, name string) string {
	t.Helper()
	dir := c.dir(t)
	if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "moved"), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAFileThatCannotBeReadIsNoFindingAboutIt(t *testing.T) {
	_, err := Open(t.Context(), filepath.Join(t.TempDir(), "none.tar"))
	if !errors.Is(err, fs.ErrNotExist) || errors.As(err, new(*SourceError)) {
		t.Errorf("%T %v", err, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	layout := randomLayout(t, image(t))
	for _, path := range []string{layout.dir(t), layout.tar(t), saveLibrary(t)} {
		if _, err := Open(ctx, path); !errors.Is(err, context.Canceled) || errors.As(err, new(*SourceError)) {
			t.Errorf("%T %v", err, err)
		}
	}
}

func TestWhenSendingABlobFails(t *testing.T) {
	layout := randomLayout(t, image(t))
	for name, c := range map[string]struct {
		act func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter))
		err any
	}{
		"the registry is overloaded at first": {act: func(w http.ResponseWriter, _ *http.Request, n int, pass func(http.ResponseWriter)) {
			if n <= 3 {
				refuse(w, 429, "TOOMANYREQUESTS", "quota")
				return
			}
			pass(w)
		}},
		"an answer is lost": {act: func(w http.ResponseWriter, r *http.Request, n int, pass func(http.ResponseWriter)) {
			if r.Method == http.MethodPut && n%2 == 0 {
				drop(pass)
			}
			pass(w)
		}},
		"the registry stores something else": {act: func(w http.ResponseWriter, r *http.Request, _ int, pass func(http.ResponseWriter)) {
			if r.Method == http.MethodPut {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
				w.WriteHeader(201)
				return
			}
			pass(w)
		}, err: new(*DigestError)},
		"it is not allowed": {act: func(w http.ResponseWriter, r *http.Request, _ int, pass func(http.ResponseWriter)) {
			if r.Method == http.MethodPost {
				refuse(w, 403, "DENIED", "denied")
				return
			}
			pass(w)
		}, err: new(*Error)},
		"the registry sends it elsewhere in the clear": {act: func(w http.ResponseWriter, r *http.Request, _ int, pass func(http.ResponseWriter)) {
			if r.Method == http.MethodPost {
				w.Header().Set("Location", "http://169.254.169.254/upload")
				w.WriteHeader(202)
				return
			}
			pass(w)
		}, err: new(*Error)},
		"the registry names no place": {act: func(w http.ResponseWriter, r *http.Request, _ int, pass func(http.ResponseWriter)) {
			if r.Method == http.MethodPost {
				w.WriteHeader(202)
				return
			}
			pass(w)
		}, err: new(error)},
	} {
		t.Run(name, func(t *testing.T) {
			repository := folder(t)
			s, err := Open(t.Context(), layout.tar(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			n := 0
			var f *faults
			f = between(t, func(w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
				if !strings.Contains(r.URL.Path, "/blobs/uploads/") {
					pass(w)
					return
				}
				f.mu.Lock()
				n++
				now := n
				f.mu.Unlock()
				c.act(w, r, now, pass)
			})
			err = client().Upload(t.Context(), f.host+"/"+repository, s)
			if (err == nil) != (c.err == nil) || err != nil && !errors.As(err, c.err) {
				t.Fatalf("%T %v, want %T", err, err, c.err)
			}
			if err != nil {
				return
			}
			if _, err := client().Tag(t.Context(), f.host+"/"+repository, "v1.0.0", s.Image); err != nil {
				t.Fatal(err)
			}
			pulled(t, repository, "v1.0.0")
		})
	}
}

// Whatever the bytes are, they are read or refused, and a manifest that is read holds digests only.
func FuzzParseManifest(f *testing.F) {
	for _, s := range []string{
		`{"schemaVersion":2,"config":{"digest":"sha256:` + strings.Repeat("0", 64) + `"},"layers":[]}`,
		`{"schemaVersion":2,"manifests":[{"digest":"sha256:` + strings.Repeat("0", 64) + `","platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}`,
		`{"schemaVersion":1,"fsLayers":[]}`, `[]`, `null`, ``,
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, asIndex bool) {
		mediaType := ociManifest
		if asIndex {
			mediaType = ociIndex
		}
		m, err := parseManifest(raw, mediaType)
		if err != nil {
			return
		}
		for _, d := range slices.Concat(m.layers, m.manifests, config(m.config)) {
			if !IsDigest(d.Digest) || d.Size < 0 {
				t.Errorf("%q was accepted with %+v", raw, d)
			}
		}
		if asIndex == (m.config != nil) {
			t.Errorf("%q was accepted as %s", raw, mediaType)
		}
		m.platforms()
	})
}

// Whatever a tar file holds, it is refused or every part of it is what its name says.
func FuzzOpenTar(f *testing.F) {
	layer := []byte("\x1f\x8b")
	for _, c := range []contents{{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": []byte(`{"schemaVersion":2,"manifests":[]}`)},
		{"manifest.json": []byte(`[{"Config":"c.json","Layers":["l"]}]`), "c.json": []byte(`{"rootfs":{"diff_ids":["sha256:x"]}}`), "l": layer}} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for name, content := range c {
			_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content))})
			_, _ = w.Write(content)
		}
		_ = w.Close()
		f.Add(buf.Bytes())
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		file := filepath.Join(dir, "image.tar")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), file)
		if err != nil {
			return
		}
		defer func() { _ = s.Close() }()
		for _, b := range s.blobs {
			r, err := b.open()
			if err != nil {
				t.Fatal(err)
			}
			raw, err := io.ReadAll(r)
			_ = r.Close()
			if err != nil || digestOf(raw) != b.digest || int64(len(raw)) != b.size {
				t.Errorf("blob %s: %v", b.digest, err)
			}
		}
		if digestOf(s.Raw) != s.Digest {
			t.Errorf("image %s", s.Digest)
		}
	})
}
