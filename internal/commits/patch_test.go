package commits

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// gitPatchID asks the git program, which is where the rules come from, for the patch id of the change between two texts.
func gitPatchID(t *testing.T, old, fresh []byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string][]byte{"a/f.txt": old, "b/f.txt": fresh} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	diff := exec.Command("git", "diff", "--no-index", "--no-prefix", "--no-indent-heuristic", "--diff-algorithm=myers", "a/f.txt", "b/f.txt")
	diff.Dir = dir
	diff.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1")
	text, err := diff.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 1) { // 1: they differ
		t.Fatal(err)
	}
	id := exec.Command("git", "patch-id", "--stable")
	id.Stdin = bytes.NewReader(text)
	out, err := id.Output()
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(out), " ")
	return first
}

func ours(old, fresh []byte) string {
	id := Patch([]FileChange{{Path: "f.txt", OldMode: 0o100644, NewMode: 0o100644, Old: old, New: fresh}})
	return hex.EncodeToString(id[:])
}

func TestAPatchIDIsThatOfGit(t *testing.T) {
	long := strings.Repeat("a\nb\nc\nd\ne\n", 20)
	for name, c := range map[string][2]string{
		"a line is replaced":                    {"one\ntwo\nthree\n", "one\nTWO\nthree\n"},
		"a line is added at the end":            {"one\ntwo\n", "one\ntwo\nthree\n"},
		"a line is dropped at the start":        {"one\ntwo\n", "two\n"},
		"the last line has no end":              {"one\ntwo", "one\ntwo!"},
		"only white space differs":              {"one\ntwo\n", "one\n  two\n"},
		"two changes far apart":                 {long + "x\n" + long + "y\n" + long, long + "X\n" + long + "Y\n" + long},
		"two changes six lines apart":           {"x\n1\n2\n3\n4\n5\n6\ny\n", "X\n1\n2\n3\n4\n5\n6\nY\n"},
		"two changes seven lines apart":         {"x\n1\n2\n3\n4\n5\n6\n7\ny\n", "X\n1\n2\n3\n4\n5\n6\n7\nY\n"},
		"an added block that could stand twice": {"{\na\n}\n{\nb\n}\n", "{\na\n}\n{\nc\n}\n{\nb\n}\n"},
		"a carriage return is white space":      {"one\r\ntwo\r\n", "one\r\nthree\r\n"},
		"everything goes":                       {"one\ntwo\n", "three\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, want := ours([]byte(c[0]), []byte(c[1])), gitPatchID(t, []byte(c[0]), []byte(c[1])); got != want {
				t.Errorf("patch id %s, git says %s", got, want)
			}
		})
	}
}

// Random edits of a text whose lines all differ: there is one shortest difference, so the id must be git's.
func TestAPatchIDOfRandomEditsIsThatOfGit(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		var old, fresh []string
		for i := range 60 {
			line := string(rune('A'+i%26)) + strings.Repeat("x", i) + "\n"
			old = append(old, line)
			switch random.IntN(8) {
			case 0:
			case 1:
				fresh = append(fresh, line, "new "+line)
			case 2:
				fresh = append(fresh, "changed "+line)
			default:
				fresh = append(fresh, line)
			}
		}
		a, b := []byte(strings.Join(old, "")), []byte(strings.Join(fresh, ""))
		if got, want := ours(a, b), gitPatchID(t, a, b); got != want {
			t.Fatalf("patch id %s, git says %s, of\n%s\n%s", got, want, a, b)
		}
	}
}

func TestWhatCountsInAPatchID(t *testing.T) {
	base := FileChange{Path: "a", OldMode: 0o100644, NewMode: 0o100644, Old: []byte("1\n"), New: []byte("2\n")}
	other := base
	other.Path = "b"
	if Patch([]FileChange{base, other}) != Patch([]FileChange{other, base}) {
		t.Error("the order of files counts")
	}
	if Patch([]FileChange{base}) == Patch([]FileChange{other}) {
		t.Error("the path does not count")
	}
	if (Patch(nil) != PatchID{}) {
		t.Error("a commit that changes nothing has an id")
	}
	on, off := base, base
	on.New, off.New = base.Old, base.Old
	on.NewMode, off.OldMode = 0o100755, 0o100755
	if Patch([]FileChange{on}) == Patch([]FileChange{off}) {
		t.Error("making a file executable equals the opposite")
	}
	binary := base
	binary.New = []byte("2\n\x00")
	binary.OldID[0] = 1
	changed := binary
	changed.OldID[0] = 2
	if Patch([]FileChange{binary}) == Patch([]FileChange{changed}) {
		t.Error("what a binary file was before does not count")
	}
	opaque := base
	opaque.Opaque, opaque.NewID = true, ID{7}
	if Patch([]FileChange{base}) == Patch([]FileChange{opaque}) {
		t.Error("a file that is not here equals one that is")
	}
}

// Whatever two texts are, applying the edits to the first makes the second.
func FuzzLineEdits(f *testing.F) {
	f.Add("a\nb\nc\n", "a\nc\nd\n")
	f.Add("x\nx\nx\ny\nx\nx\n", "x\nx\ny\nx\n")
	f.Add("", "a")
	f.Fuzz(func(t *testing.T, a, b string) {
		old, fresh := lines([]byte(a)), lines([]byte(b))
		var out []string
		at := 0
		for _, e := range lineEdits(old, fresh) {
			if e.old < at || e.drop+e.add == 0 {
				t.Fatalf("edit %+v after line %d", e, at)
			}
			out = append(out, old[at:e.old]...)
			out = append(out, fresh[e.fresh:e.fresh+e.add]...)
			at = e.old + e.drop
		}
		out = append(out, old[at:]...)
		if strings.Join(out, "") != b {
			t.Fatalf("%q to %q gives %q", a, b, strings.Join(out, ""))
		}
		hunks(old, fresh)
	})
}
