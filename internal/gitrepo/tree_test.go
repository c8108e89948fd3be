package gitrepo

import (
	"strings"
	"testing"
)

// Git's own server does not send such a tree.
func TestATreeWithANamelessFileIsRefused(t *testing.T) {
	_, err := parseTree([]byte("100644 \x00" + strings.Repeat("i", 20)))
	if err == nil || err.Error() != `the name "" is not allowed in a repository` {
		t.Errorf("got %v", err)
	}
}

// Whatever a server sends as a tree is read without a panic, and what is accepted is written back byte for byte.
func FuzzParseTree(f *testing.F) {
	id := strings.Repeat("i", 20)
	f.Add([]byte("100644 a\x00" + id + "40000 b\x00" + id))
	f.Add([]byte("100664 old\x00" + id + "040000 zero\x00" + id))
	f.Add([]byte("100644 a\x00short"))
	f.Add([]byte("100644"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		list, err := parseTree(raw)
		if err != nil {
			return
		}
		var back strings.Builder
		for _, e := range list {
			back.WriteString(e.octal + " " + e.name + "\x00" + string(e.id[:]))
		}
		if back.String() != string(raw) {
			t.Errorf("%q became %q", raw, back.String())
		}
	})
}
