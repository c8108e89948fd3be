package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

const aMarker = ` # {"$imagepolicy": "flux-system:backend-production:tag"}`

// What no honest file holds: it is left alone with the reason, the rest of the repo is written, and nothing of it takes long. (TIMEOUT is
// far above what any of it needs on a busy machine, and far below what a naive reader needs.)
func TestHostileFilesAreLeftAloneAndTheRestIsWritten(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'z'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	const tag = "tag: v1.0.0" + aMarker + "\n"
	const object = "apiVersion: image.toolkit.fluxcd.io/v1\nkind: ImagePolicy\n"
	for _, tt := range []struct {
		name, file, content string
		says                string // "": it is edited
	}{
		{"a file over 4 MiB", "x.yaml", tag + strings.Repeat("# 345678\n", 500_000), `x.yaml reason="x.yaml is larger than 4 MiB and was not read`},
		{"a file of almost 4 MiB", "x.yaml", tag + strings.Repeat("# 345678\n", 400_000), ""},
		{"brackets 100,000 deep", "x.yaml", tag + "x: " + strings.Repeat("[", 100_000), `x.yaml:1 policy=flux-system:backend-production reason="the file cannot be parsed`},
		{"mappings 5,000 deep", "x.yaml", tag + "x: " + strings.Repeat("{a: ", 5_000) + strings.Repeat("}", 5_000) + "\n", ""},
		{"an alias bomb", "x.yaml", tag + bomb, ""},
		{"a million nodes", "x.yaml", tag + "x: [" + strings.Repeat("1,", 1_100_000) + "]\n", `x.yaml:1 policy=flux-system:backend-production reason="the file cannot be parsed: it has more than 1048576 nodes`},
		{"a line of 3 MiB", "x.yaml", "x: " + strings.Repeat("y", 3<<20) + "\n" + tag, ""},
		{"a policy 100,000 deep", "x.yaml", object + "spec: " + strings.Repeat("[", 100_000), "x.yaml: the image objects in it cannot be read"},
		{"a policy in an alias bomb", "x.yaml", object + bomb, "x.yaml: the image objects in it cannot be read"},
		{"bytes that are not UTF-8", "x.yaml", tag + "x: \"\xff\"\n", `reason="the file cannot be parsed: it is not UTF-8`},
		{"a Helm template", "templates/x.yaml", "{{- if .Values.x }}\n" + tag + "{{- end }}\n", `templates/x.yaml:2 policy=flux-system:backend-production reason="the file cannot be parsed`},
		{"a hidden folder", ".hidden/x.yaml", tag, ""},
		{"blanks, quotes and letters in a name", "a \"b\" ü 'c'.yml", tag, ""},
		{"a name that looks like an option", "-rf.yaml", tag, ""},
		{"a name with a line break and an escape", "a\n\x1b[31m.yaml", tag, ""},
		{"a name that is not UTF-8", "a\xff.yaml", tag, ""},
		{"another kind of file", "x.json", tag, "silence"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newConfigRepo(t, nil, tt.file, tt.content)
			code, said := r.exit(r.program("TAG_NAME=v1.1.0", "TIMEOUT=1m"))
			if code != 0 || strings.Contains(said, "\x1b") || !utf8.ValidString(said) {
				t.Fatalf("exit %d: %q", code, said)
			}
			if !strings.Contains(r.git(r.bare, "show", "main:accounts/maple/backend.yaml"), "tag: v1.1.0 #") {
				t.Error("the rest was not written")
			}
			// Of the file itself only the value may have changed.
			want := tt.content
			if tt.says == "" {
				want = strings.Replace(want, "tag: v1.0.0", "tag: v1.1.0", 1)
			}
			if got := r.git(r.bare, "show", "main:"+tt.file); got != strings.TrimSpace(want) {
				t.Errorf("the file is %.200q now", got)
			}
			if tt.says != "silence" && !strings.Contains(said, tt.says) {
				t.Errorf("want %q in %s", tt.says, said)
			}
		})
	}
}

// Links and submodules are never followed, wherever they point.
func TestLinksAndSubmodulesAreNotFollowed(t *testing.T) {
	r := newConfigRepo(t, nil)
	for name, target := range map[string]string{
		"file.yaml": "accounts/maple/backend.yaml", "folder": "accounts", "loop.yaml": "loop.yaml", "outside.yaml": "/proc/self/environ", "device.yml": "/dev/zero",
		"up": "../..", "photo.png": "x",
	} {
		if err := os.Symlink(target, filepath.Join(r.tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.git(r.tree, "update-index", "--add", "--cacheinfo", "160000,"+r.git(r.tree, "rev-parse", "HEAD")+",vendored")
	r.git(r.tree, "update-index", "--add", "--cacheinfo", "160000,"+r.git(r.tree, "rev-parse", "HEAD")+",module.yaml")
	if err := os.MkdirAll(filepath.Join(r.tree, "vendored"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(r.tree, "module.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.git(r.tree, "add", "file.yaml", "folder", "loop.yaml", "outside.yaml", "device.yml", "up", "photo.png")
	r.git(r.tree, "commit", "--quiet", "--message", "links")
	r.git(r.bare, "fetch", "--quiet", r.tree, "HEAD:refs/heads/main")
	code, said := r.exit(r.program("TAG_NAME=v1.1.0", "ON_UNMATCHED=refuse", "TIMEOUT=1m"))
	if code != 0 {
		t.Fatalf("exit %d: %s", code, said)
	}
	for _, name := range []string{"file.yaml", "folder", "loop.yaml", "outside.yaml", "device.yml", "up", "vendored", "module.yaml"} {
		if want := "left alone: " + name + ` reason="it is a link or a submodule, which is never followed"`; !strings.Contains(said, want) {
			t.Errorf("want %q in %s", want, said)
		}
	}
	if strings.Contains(said, "photo.png") {
		t.Error("a link that cannot matter is reported")
	}
	for _, line := range strings.Split(r.git(r.bare, "diff", "--raw", "main~", "main"), "\n") {
		if !strings.HasPrefix(line, ":100644 100644 ") {
			t.Errorf("changed: %s", line)
		}
	}
}

// What no honest repository holds: all of it is refused, at once, and nothing is written.
func TestHostileTreesAreRefusedWhole(t *testing.T) {
	// entry is one line of a tree, as git stores it.
	type tree func(r *configRepo) string
	object := func(r *configRepo, kind string, content []byte) string {
		return r.gitWith(r.bare, content, "hash-object", "--literally", "-t", kind, "-w", "--stdin")
	}
	raw := func(r *configRepo, id string) string {
		b := make([]byte, 20)
		if _, err := fmt.Sscanf(id, "%x", &b); err != nil {
			r.t.Fatal(err)
		}
		return string(b)
	}
	file := func(r *configRepo) string { return raw(r, object(r, "blob", []byte("tag: v1.0.0"+aMarker+"\n"))) }
	named := func(names ...string) tree {
		return func(r *configRepo) string {
			text := ""
			for _, name := range names {
				text += "100644 " + name + "\x00" + file(r)
			}
			return object(r, "tree", []byte(text))
		}
	}
	nested := func(levels, width int) tree {
		return func(r *configRepo) string {
			id := object(r, "tree", []byte("100644 x.yaml\x00"+file(r)))
			for range levels {
				text := ""
				for i := range width {
					text += fmt.Sprintf("40000 d%02d\x00", i) + raw(r, id)
				}
				id = object(r, "tree", []byte(text))
			}
			return id
		}
	}
	for _, tt := range []struct {
		name string
		tree tree
		want string
	}{
		{"200,001 files", func(r *configRepo) string {
			id, text := file(r), strings.Builder{}
			for i := range 200_001 {
				fmt.Fprintf(&text, "100644 f%06d.yaml\x00%s", i, id)
			}
			return object(r, "tree", []byte(text.String()))
		}, "more than 200000 files and folders"},
		{"ten thousand million files in ten trees", nested(10, 10), "more than 200000 files and folders"},
		{"folders 300 deep", nested(300, 1), "folders are nested deeper than 64"},
		{"the name .git", named(".git"), `the name ".git" is not allowed`},
		{"the name .GIT", named(".GIT"), `the name ".GIT" is not allowed`},
		{"the name ..", named(".."), `the name ".." is not allowed`},
		{"a name with a slash", named("a/b.yaml"), `the name "a/b.yaml" is not allowed`},
		{"an empty name", named(""), ""},
		{"a name twice", named("a.yaml", "a.yaml"), `entry "a.yaml" is there twice`},
		{"an unknown mode", func(r *configRepo) string { return object(r, "tree", []byte("170000 a.yaml\x00"+file(r))) }, "unknown mode"},
		{"half a tree", func(r *configRepo) string { return object(r, "tree", []byte("100644 a.yaml\x00"+file(r)[:9])) }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newConfigRepo(t, nil)
			tip := r.git(r.bare, "commit-tree", tt.tree(r), "-m", "hostile")
			r.git(r.bare, "update-ref", "refs/heads/main", tip)
			code, said := r.exit(r.program("TAG_NAME=v1.1.0", "TIMEOUT=1m"))
			if tt.want == "" { // the server's own git does not serve it
				if code != 1 && code != 3 {
					t.Errorf("exit %d: %s", code, said)
				}
			} else if code != 3 || !strings.Contains(said, tt.want) || !strings.Contains(said, "fix: find out who wrote this commit") {
				t.Errorf("exit %d, want %q: %s", code, tt.want, said)
			}
			if r.git(r.bare, "rev-parse", "main") != tip {
				t.Error("something was written")
			}
		})
	}
}
