package dockerbuilder

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func buildAndSave(t *testing.T, files map[string]string) v1.Image {
	t.Helper()
	store, out := t.TempDir(), filepath.Join(t.TempDir(), "image.tar")
	if err := Run(store, []string{"build", "--tag", "backend", folder(t, files)}, io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := Run(store, []string{"save", "--output", out, "backend"}, io.Discard); err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(out, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestASavedImageHoldsTheFilesAndTheSettings(t *testing.T) {
	img := buildAndSave(t, map[string]string{
		"Dockerfile": "# the service\nFROM scratch\nCOPY backend /backend\nCOPY assets /srv/\nENV A=b\nEXPOSE 8080\nENTRYPOINT [\"/backend\", \"-v\"]\n",
		"backend":    "program", "assets/a/one": "1", "assets/two": "2", "other": "x",
	})
	got := map[string]string{}
	for r := tar.NewReader(mutate.Extract(img)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = string(b)
	}
	if diff := cmp.Diff(map[string]string{"backend": "program", "srv/a/one": "1", "srv/two": "2"}, got); diff != "" {
		t.Error(diff)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{Entrypoint: []string{"/backend", "-v"}, Env: []string{"A=b"}, ExposedPorts: map[string]struct{}{"8080/tcp": {}}}
	if diff := cmp.Diff(want, file.Config); diff != "" {
		t.Error(diff)
	}
}

func TestTheSameInputGivesTheSameDigest(t *testing.T) {
	files := map[string]string{"Dockerfile": "FROM scratch\nCOPY a /a\n", "a": "x"}
	one, err := buildAndSave(t, files).Digest()
	if err != nil {
		t.Fatal(err)
	}
	two, err := buildAndSave(t, files).Digest()
	if err != nil {
		t.Fatal(err)
	}
	files["a"] = "y"
	three, err := buildAndSave(t, files).Digest()
	if err != nil || one != two || one == three {
		t.Errorf("%s %s %s (%v)", one, two, three, err)
	}
}

func TestWhatItCannotDoIsRefusedByName(t *testing.T) {
	for dockerfile, want := range map[string]string{
		"FROM debian\n":                       "cannot pull debian",
		"FROM scratch\nRUN true\n":            "does not know RUN",
		"FROM scratch\nFROM scratch\n":        "cannot pull scratch",
		"COPY a /a\n":                         "want FROM first",
		"":                                    "no FROM",
		"FROM scratch\nCOPY --link a /a\n":    "without options",
		"FROM scratch\nCOPY missing /a\n":     "missing",
		"FROM scratch\nENTRYPOINT /backend\n": "line 2",
	} {
		err := Run(t.TempDir(), []string{"build", "-t", "x", folder(t, map[string]string{"Dockerfile": dockerfile})}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", dockerfile, err, want)
		}
	}
	var out bytes.Buffer
	for _, args := range [][]string{nil, {"push", "x"}, {"build", "."}, {"build", "--no-cache", "-t", "x", "."}, {"save", "x"}, {"save", "-o", "f", "never-built"}} {
		if err := Run(t.TempDir(), args, &out); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
