package gitrepo

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// packOf makes one pack of a repository with long chains of deltas and returns its bytes and, by id, every object as git prints it.
func packOf(t testing.TB, config ...string) (pack []byte, want map[string]string) {
	t.Helper()
	dir := t.TempDir()
	runGit(t, dir, "init", "--quiet", "--template=", "--initial-branch=main")
	text := strings.Repeat("one line of a file that changes a little with each commit\n", 200)
	for i := range 30 {
		text += fmt.Sprintf("line %d\n", i)
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		runGit(t, dir, "add", "file")
		runGit(t, dir, "commit", "--quiet", "-m", "fix: "+strings.Repeat("the same long text in each message, ", 20)+fmt.Sprint(i))
	}
	runGit(t, dir, "tag", "-a", "-m", "release", "v1.0.0")
	runGit(t, dir, append(config, "repack", "-q", "-a", "-d", "-f", "--window=50", "--depth=50")...)
	packs, err := filepath.Glob(filepath.Join(dir, ".git", "objects", "pack", "*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatalf("packs %q, %v", packs, err)
	}
	if pack, err = os.ReadFile(packs[0]); err != nil {
		t.Fatal(err)
	}
	want = map[string]string{}
	for _, line := range strings.Split(runGit(t, dir, "cat-file", "--batch-check", "--batch-all-objects"), "\n") {
		id, kind, _ := strings.Cut(line, " ")
		kind, _, _ = strings.Cut(kind, " ")
		cmd := exec.Command("git", "cat-file", kind, id)
		cmd.Dir = dir
		data, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		want[id] = kind + " " + string(data)
	}
	return pack, want
}

func TestAPackIsIndexedAsGitDoes(t *testing.T) {
	for name, config := range map[string][]string{
		"deltas that name their bases by place": nil,
		"deltas that name their bases by id":    {"-c", "repack.useDeltaBaseOffset=false"},
	} {
		t.Run(name, func(t *testing.T) {
			raw, want := packOf(t, config...)
			all, err := indexed(bytes.NewReader(raw), nil, int64(len(raw)), func(plumbing.ObjectType) bool { return true })
			if err != nil {
				t.Fatal(err)
			}
			if n := len(all.ids) / 20; n != len(want) {
				t.Errorf("%d objects, want %d", n, len(want))
			}
			store := &objects{packs: []*pack{all}}
			for id, object := range want {
				c, err := store.object(plumbing.NewHash(id))
				if err != nil || c.kind.String()+" "+string(c.data) != object {
					t.Errorf("object %s: %v, %s of %d bytes", id, err, c.kind, len(c.data))
				}
			}
			commits, err := indexed(bytes.NewReader(raw), nil, int64(len(raw)), func(k plumbing.ObjectType) bool { return k == plumbing.CommitObject })
			if err != nil {
				t.Fatal(err)
			}
			if n := len(commits.ids) / 20; n != 30 {
				t.Errorf("%d commits", n)
			}
		})
	}
}

// seal gives a pack the sum that its bytes have.
func seal(pack []byte) []byte {
	sum := sha1.Sum(pack)
	return append(pack, sum[:]...)
}

// damaged are the ways in which a pack can be wrong.
func damaged(raw []byte) map[string][]byte {
	body := raw[:len(raw)-20]
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(body)) }
	return map[string][]byte{
		"nothing":         {},
		"an error page":   []byte("<html>" + strings.Repeat("not found ", 20) + "</html>"),
		"cut off":         raw[:len(raw)/2],
		"cut off, sealed": seal(bytes.Clone(body[:len(body)/2])),
		"a flipped bit":   change(func(b []byte) []byte { b[len(b)/2] ^= 4; return append(b, raw[len(raw)-20:]...) }),
		"another sum":     append(bytes.Clone(body), make([]byte, 20)...),
		"one object more": change(func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[8:], binary.BigEndian.Uint32(b[8:])+1)
			return seal(b)
		}),
		"one object less": change(func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[8:], binary.BigEndian.Uint32(b[8:])-1)
			return seal(b)
		}),
		"another version":  change(func(b []byte) []byte { b[7] = 9; return seal(b) }),
		"an unknown kind":  change(func(b []byte) []byte { b[12] = b[12]&0x8f | 5<<4; return seal(b) }),
		"a delta of later": change(func(b []byte) []byte { b[12] = b[12]&0x8f | 6<<4; return seal(b) }),
	}
}

func TestADamagedPackIsAnErrorAndNeverAShortHistory(t *testing.T) {
	raw, _ := packOf(t)
	for name, pack := range damaged(raw) {
		t.Run(name, func(t *testing.T) {
			if p, err := indexed(bytes.NewReader(pack), nil, int64(len(pack)), func(plumbing.ObjectType) bool { return true }); err == nil {
				t.Errorf("an index of %d objects", len(p.ids)/20)
			}
		})
	}
}

func TestPatchFollowsTheFormatOfDeltas(t *testing.T) {
	base := []byte("0123456789")
	for _, tt := range []struct {
		name  string
		delta []byte
		want  string // empty: an error
	}{
		{"a copy and an insertion", []byte{10, 7, 0x91, 2, 4, 3, 'a', 'b', 'c'}, "2345abc"},
		{"another base's size", []byte{9, 7, 0x91, 2, 4, 3, 'a', 'b', 'c'}, ""},
		{"a copy from behind the end", []byte{10, 4, 0x91, 8, 4}, ""},
		{"more than it claims", []byte{10, 3, 0x91, 2, 4}, ""},
		{"less than it claims", []byte{10, 5, 0x91, 2, 4}, ""},
		{"an insertion that is cut off", []byte{10, 3, 3, 'a'}, ""},
		{"a copy that is cut off", []byte{10, 4, 0x91, 2}, ""},
		{"the reserved instruction", []byte{10, 1, 0}, ""},
		{"nothing", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := patch(base, tt.delta); string(got) != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func FuzzPack(f *testing.F) {
	raw, _ := packOf(f)
	f.Add(raw[:len(raw)-20])
	f.Add([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01\x90"))
	f.Fuzz(func(t *testing.T, body []byte) {
		sealed := seal(bytes.Clone(body))
		p, err := indexed(bytes.NewReader(sealed), nil, int64(len(sealed)), func(plumbing.ObjectType) bool { return true })
		if err != nil {
			return
		}
		for i := range len(p.ids) / 20 { // whatever is indexed is there, under its sum
			id := plumbing.Hash(p.ids[i*20 : (i+1)*20])
			c, err := (&objects{packs: []*pack{p}}).object(id)
			if err != nil || plumbing.ComputeHash(c.kind, c.data) != id {
				t.Errorf("object %s: %v", id, err)
			}
		}
	})
}

func FuzzPackIndex(f *testing.F) {
	f.Add([]byte("\377tOc\000\000\000\002"), []byte("x"))
	f.Fuzz(func(t *testing.T, idx, raw []byte) {
		p := newPack(bytes.NewReader(raw))
		if p.readIndex(idx) != nil {
			return
		}
		for i := range len(p.ids) / 20 {
			_, _ = (&objects{packs: []*pack{p}}).object(plumbing.Hash(p.ids[i*20 : (i+1)*20]))
		}
	})
}
