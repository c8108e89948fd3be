package gitrepo

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/memory"
)

// holds compares a storage with what git says of each object.
func holds(t *testing.T, s *memory.Storage, want map[string]string) {
	t.Helper()
	if len(s.Objects) != len(want) {
		t.Errorf("%d objects, want %d", len(s.Objects), len(want))
	}
	for id, object := range want {
		o, err := s.EncodedObject(plumbing.AnyObject, plumbing.NewHash(id))
		if err != nil {
			t.Errorf("object %s: %v", id, err)
			continue
		}
		data, err := bytesOf(o)
		if got := o.Type().String() + " " + string(data); err != nil || got != object || o.Size() != int64(len(data)) {
			t.Errorf("object %s: %.60q, want %.60q (%v)", id, got, object, err)
		}
	}
}

func TestAPackIsUnpackedAsGitDoes(t *testing.T) {
	for name, config := range map[string][]string{
		"deltas that name their bases by place": nil,
		"deltas that name their bases by id":    {"-c", "repack.useDeltaBaseOffset=false"},
	} {
		t.Run(name, func(t *testing.T) {
			raw, want := packOf(t, config...)
			s := memory.NewStorage()
			if err := unpack(bytes.NewReader(raw), s); err != nil {
				t.Fatal(err)
			}
			holds(t, s, want)
			// In pieces of a byte, and from a reader that ends with its last bytes, it is the same.
			s = memory.NewStorage()
			if err := unpack(iotest.DataErrReader(iotest.OneByteReader(bytes.NewReader(raw))), s); err != nil {
				t.Fatal(err)
			}
			holds(t, s, want)
		})
	}
}

// What a fetch brings later may be made of what the first one brought.
func TestAThinPackIsMadeOfWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	runGit(t, dir, "init", "--quiet", "--template=", "--initial-branch=main")
	write := func(line string) string {
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(strings.Repeat("a line that stays the same\n", 200)+line), 0o644); err != nil {
			t.Fatal(err)
		}
		runGit(t, dir, "add", "file")
		runGit(t, dir, "commit", "--quiet", "-m", "fix: "+line)
		return strings.TrimSpace(runGit(t, dir, "rev-parse", "HEAD"))
	}
	pack := func(revisions string) []byte {
		cmd := exec.Command("git", "pack-objects", "--revs", "--thin", "--stdout", "--quiet")
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(revisions)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first := write("one")
	second := write("two")
	s := memory.NewStorage()
	thin := pack(second + "\n^" + first + "\n")
	if err := unpack(bytes.NewReader(thin), memory.NewStorage()); !errors.Is(err, errMissing) {
		t.Errorf("without its base: %v", err)
	}
	if err := unpack(bytes.NewReader(pack(first+"\n")), s); err != nil {
		t.Fatal(err)
	}
	if err := unpack(bytes.NewReader(thin), s); err != nil {
		t.Fatal(err)
	}
	blob := strings.TrimSpace(runGit(t, dir, "rev-parse", "HEAD:file"))
	o, err := s.EncodedObject(plumbing.BlobObject, plumbing.NewHash(blob))
	if err != nil || !bytes.Contains(must(bytesOf(o)), []byte("two")) {
		t.Errorf("the changed file: %v", err)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestADamagedPackIsNotTakenForAWholeOne(t *testing.T) {
	raw, _ := packOf(t)
	for name, pack := range damaged(raw) {
		t.Run(name, func(t *testing.T) {
			if err := unpack(bytes.NewReader(pack), memory.NewStorage()); err == nil {
				t.Error("no error")
			}
		})
	}
	// Whatever bit is turned, no object is ever stored under another's id.
	for i := 12; i < len(raw); i += 1 + len(raw)/300 {
		pack := bytes.Clone(raw)
		pack[i] ^= 1 << (i % 8)
		s := memory.NewStorage()
		if err := unpack(bytes.NewReader(pack), s); err == nil {
			t.Errorf("byte %d: no error", i)
		}
		for id, o := range s.Objects {
			if plumbing.ComputeHash(o.Type(), must(bytesOf(o))) != id {
				t.Errorf("byte %d: %s holds something else", i, id)
			}
		}
	}
}

// A file beyond all bounds is left out, with what is made of it; the rest of the repository can be read.
func TestAFileBeyondAllBoundsIsLeftOut(t *testing.T) {
	dir := t.TempDir()
	runGit(t, dir, "init", "--quiet", "--template=", "--initial-branch=main")
	huge := bytes.Repeat([]byte("0123456789abcdef"), (maxObject+16)/16)
	for name, content := range map[string][]byte{"huge": huge, "small": []byte("small\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	runGit(t, dir, "add", ".")
	runGit(t, dir, "commit", "--quiet", "-m", "both")
	cmd := exec.Command("git", "pack-objects", "--all", "--stdout", "--quiet")
	cmd.Dir = dir
	raw, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	s := memory.NewStorage()
	if err := unpack(bytes.NewReader(raw), s); err != nil {
		t.Fatal(err)
	}
	if n := len(s.Objects); n != 3 {
		t.Errorf("%d objects, want the commit, its tree and the small file", n)
	}
}

func FuzzUnpack(f *testing.F) {
	raw, _ := packOf(f)
	f.Add(raw[:len(raw)-20])
	for _, pack := range damaged(raw) {
		f.Add(pack[:max(0, len(pack)-20)])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) >= 12 {
			binary.BigEndian.PutUint32(body[8:], binary.BigEndian.Uint32(body[8:])&0xff)
		}
		s := memory.NewStorage()
		_ = unpack(bytes.NewReader(seal(body)), s)
		for id, o := range s.Objects {
			if plumbing.ComputeHash(o.Type(), must(bytesOf(o))) != id {
				t.Errorf("%s holds something else", id)
			}
		}
	})
}

// What is sent is read by git itself, and by us.
func TestAPackThatIsMadeIsReadByGit(t *testing.T) {
	raw, want := packOf(t)
	s := memory.NewStorage()
	if err := unpack(bytes.NewReader(raw), s); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"empty": "", "of 15 bytes": strings.Repeat("x", 15), "of 16 bytes": strings.Repeat("x", 16), "of 2048 bytes": strings.Repeat("y", 2048)} {
		o := newStored(plumbing.NewHasher(plumbing.BlobObject, 0), plumbing.BlobObject, []byte(content))
		if _, err := s.SetEncodedObject(o); err != nil {
			t.Fatal(name, err)
		}
		want[o.id.String()] = "blob " + content
	}
	var ids []plumbing.Hash
	for id := range s.Objects {
		ids = append(ids, id)
	}
	pack, err := packObjects(s, ids)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	runGit(t, dir, "init", "--quiet", "--template=", "--initial-branch=main")
	cmd := exec.Command("git", "unpack-objects", "-q", "--strict")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(pack)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if n := len(strings.Split(strings.TrimSpace(runGit(t, dir, "cat-file", "--batch-check", "--batch-all-objects")), "\n")); n != len(want) {
		t.Errorf("git has %d objects, want %d", n, len(want))
	}
	again := memory.NewStorage()
	if err := unpack(bytes.NewReader(pack), again); err != nil {
		t.Fatal(err)
	}
	holds(t, again, want)
	if _, err := packObjects(s, []plumbing.Hash{{1}}); err == nil {
		t.Error("an object that is not there was packed")
	}
}

// inPack is an object in a pack: its header, what names the base of a delta, and the compressed bytes.
func inPack(kind plumbing.ObjectType, size int, base, data []byte) []byte {
	out := []byte{byte(kind)<<4 | byte(size&15)}
	if size >>= 4; size > 0 {
		out[0] |= 0x80
		out = binary.AppendUvarint(out, uint64(size))
	}
	var compressed bytes.Buffer
	z := zlib.NewWriter(&compressed)
	_, _ = z.Write(data)
	_ = z.Close()
	return slices.Concat(out, base, compressed.Bytes())
}

// appending is a delta that copies an object and puts something behind it.
func appending(object, more string) []byte {
	d := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(len(object))), uint64(len(object)+len(more)))
	return slices.Concat(d, []byte{0x90, byte(len(object)), byte(len(more))}, []byte(more))
}

// Git's own packs have bases first; gitformat-pack does not ask for that.
func TestADeltaMayComeBeforeItsBase(t *testing.T) {
	id := func(content string) []byte {
		h := plumbing.ComputeHash(plumbing.BlobObject, []byte(content))
		return h[:]
	}
	delta := func(of, more string) (int, []byte) { d := appending(of, more); return len(d), d }
	byID := func(of, more string) []byte {
		n, d := delta(of, more)
		return inPack(plumbing.REFDeltaObject, n, id(of), d)
	}
	last := byID("a-b-c", "-d") // made of what the third object makes
	second := byID("a", "-b")   // made of what comes at the end
	n, d := delta("a-b", "-c")
	third := inPack(plumbing.OFSDeltaObject, n, []byte{byte(len(second))}, d) // made of the second
	base := inPack(plumbing.BlobObject, 1, nil, []byte("a"))
	head := []byte("PACK\x00\x00\x00\x02\x00\x00\x00\x04")
	s := memory.NewStorage()
	if err := unpack(bytes.NewReader(seal(slices.Concat(head, last, second, third, base))), s); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, content := range []string{"a", "a-b", "a-b-c", "a-b-c-d"} {
		want[plumbing.ComputeHash(plumbing.BlobObject, []byte(content)).String()] = "blob " + content
	}
	holds(t, s, want)
	head[11] = 3
	if err := unpack(bytes.NewReader(seal(slices.Concat(head, last, second, third))), memory.NewStorage()); !errors.Is(err, errMissing) {
		t.Errorf("without the base: %v", err)
	}
}

// What is made of a file that is left out is left out, and so is what is made of that.
func TestWhatIsMadeOfAFileBeyondAllBoundsIsLeftOut(t *testing.T) {
	huge := make([]byte, maxObject+1)
	base := inPack(plumbing.BlobObject, len(huge), nil, huge)
	d := appending("x", "y")
	back := func(n int) []byte { // gitformat-pack: seven bits at a time, the highest first, one less in each but the last
		out := []byte{byte(n & 0x7f)}
		for n >>= 7; n > 0; n >>= 7 {
			n--
			out = append([]byte{0x80 | byte(n&0x7f)}, out...)
		}
		return out
	}
	first := inPack(plumbing.OFSDeltaObject, len(d), back(len(base)), d)
	second := inPack(plumbing.OFSDeltaObject, len(d), back(len(first)), d)
	small := inPack(plumbing.BlobObject, 1, nil, []byte("a"))
	s := memory.NewStorage()
	if err := unpack(bytes.NewReader(seal(slices.Concat([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x04"), base, first, second, small))), s); err != nil {
		t.Fatal(err)
	}
	holds(t, s, map[string]string{plumbing.ComputeHash(plumbing.BlobObject, []byte("a")).String(): "blob a"})
}
