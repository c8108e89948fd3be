package hold

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	when   = time.Date(2026, 11, 24, 9, 30, 0, 0, time.UTC)
	digest = "sha256:" + strings.Repeat("ab", 32)
)

const good = `# Ours.
holds:
  # the first
  - service: backend
    version: v1.1.0
    digest: sha256:abababababababababababababababababababababababababababababababab
    reason: charges twice
    who: ada@example.com
    when: 2026-11-24T09:30:00Z
    build: "https://example.com/builds/1?project=x"

  # the second
  - service: frontend   # by hand
    version: "1.10"
    reason: |
      Two lines,
      # and no comment.
    who: 'Grace'
    when: "2026-11-24T10:30:00+01:00"
# the end
`

func TestAHoldIsFoundByVersionOrDigest(t *testing.T) {
	list, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	want := List{
		{"backend", "v1.1.0", digest, "charges twice", "ada@example.com", when, "https://example.com/builds/1?project=x", 4},
		{"frontend", "1.10", "", "Two lines,\n# and no comment.\n", "Grace", when, "", 13},
	}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Error(diff)
	}
	for _, tt := range []struct {
		name, service, version, digest string
		want                           int // line; 0: not held
	}{
		{"the version", "backend", "v1.1.0", "", 4},
		{"another service's version of that name", "frontend", "v1.1.0", "", 0},
		{"another version", "backend", "v1.1.1", "", 0},
		{"the case matters", "backend", "V1.1.0", "", 0},
		{"the same image under another tag", "backend", "v1.1.1", digest, 4},
		{"the same image in another service", "other", "v9.9.9", digest, 4},
		{"a hold without a digest", "other", "v9.9.9", "", 0},
		{"nothing to look for", "backend", "", "", 0},
	} {
		got, found := list.Find(tt.service, tt.version, tt.digest)
		if got.Line != tt.want || found != (tt.want > 0) {
			t.Errorf("%s: got line %d (%v), want %d", tt.name, got.Line, found, tt.want)
		}
	}
	if of := list.Of("frontend"); len(of) != 1 || of[0].Version != "1.10" || len(list.Of("x")) != 0 {
		t.Errorf("got %v", of)
	}
	const text = "frontend 1.10 is held by Grace since 2026-11-24T09:30:00Z: Two lines, # and no comment."
	if got := list[1].String(); got != text {
		t.Errorf("got %q", got)
	}
	if got := list[0].String(); !strings.HasSuffix(got, "charges twice (https://example.com/builds/1?project=x)") {
		t.Errorf("got %q", got)
	}
}

func TestNothingIsHeldWhereNothingStands(t *testing.T) {
	for _, text := range []string{"", "\n", "# only a comment\n", "holds:\n", "holds: []\n", "holds: null\n", "---\nholds:\n"} {
		if list, err := Parse([]byte(text)); err != nil || len(list) != 0 {
			t.Errorf("%q: got %v (%v)", text, list, err)
		}
	}
}

func TestADefectiveFileIsRefusedWhole(t *testing.T) {
	const item = "- {service: s, version: v1.0.0, reason: r, who: w, when: 2026-11-24T09:30:00Z}\n"
	for _, tt := range []struct{ name, text, want string }{
		{"another member at the top", "holds: []\nnotes: x\n", `line 2: member "notes" is not known`},
		{"another spelling", "Holds: []\n", `line 1: member "Holds" is not known`},
		{"a list alone", item, "not a mapping"},
		{"not YAML", "holds: [\n", "line"},
		{"two documents", "holds: []\n---\nholds: []\n", "more than one"},
		{"not UTF-8", "holds: \xff\n", "UTF-8"},
		{"a text", "holds: all\n", "not a list"},
		{"an item that is a text", "holds: [v1.0.0]\n", "hold 1: line 1: not a mapping"},
		{"an unknown member", "holds:\n" + strings.Replace(item, "who", "by", 1), `hold 1: line 2: member "by" is not known`},
		{"a member twice", "holds:\n" + strings.Replace(item, "reason", "who: w, who", 1), `member "who" stands twice`},
		{"no reason", "holds:\n" + strings.Replace(item, "reason: r, ", "", 1), "line 2: reason is missing"},
		{"an empty reason", "holds:\n" + strings.Replace(item, "reason: r", "reason: ' '", 1), "reason is missing"},
		{"no time", "holds:\n" + strings.Replace(item, ", when: 2026-11-24T09:30:00Z", "", 1), "when is missing"},
		{"a date without a time", "holds:\n" + strings.Replace(item, "T09:30:00Z", "", 1), "want RFC 3339"},
		{"a version that is a number", "holds:\n" + strings.Replace(item, "v1.0.0", "1.10", 1), "version is not a text (quote it)"},
		{"a version that is no tag", "holds:\n" + strings.Replace(item, "v1.0.0", "v1/0", 1), "cannot be a tag"},
		{"a range", "holds:\n" + strings.Replace(item, "v1.0.0", "'>=1.0.0'", 1), "cannot be a tag"},
		{"a digest of another form", "holds:\n" + strings.Replace(item, "v1.0.0", "v1.0.0, digest: sha256:12", 1), "64 hexadecimal digits"},
		{"a service with a slash", "holds:\n" + strings.Replace(item, "service: s", "service: a/b", 1), `service "a/b"`},
		{"one version twice", "holds:\n" + item + item, "hold 2: line 3: s v1.0.0 is held already, on line 2"},
		{"an anchor", "holds: &a []\n", "anchors"},
		{"an alias", "holds:\n" + strings.Replace(item, "{", "&a {", 1) + "- *a\n", "anchors"},
		{"an explicit tag", "holds:\n" + strings.Replace(item, "v1.0.0", "!!str 1.10", 1), "explicit tags"},
		{"a merge key", "holds:\n" + strings.Replace(item, "{", "{<<: {who: x}, ", 1), `"<<" is not known`},
		{"an escape sequence", "holds:\n" + strings.Replace(item, "reason: r", `reason: "\e[31m"`, 1), "cannot be printed"},
		{"a long text", "holds:\n" + strings.Replace(item, "reason: r", "reason: "+strings.Repeat("x", 2001), 1), "longer than 2000"},
		{"a large file", strings.Repeat("# x\n", 300_000), "larger than 1 MiB"},
	} {
		if list, err := Parse([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) || list != nil {
			t.Errorf("%s: got %v, %v, want %q in the error", tt.name, list, err, tt.want)
		}
	}
}

var hotfix = Hold{Service: "backend", Version: "v1.2.0", Digest: digest, Reason: `says "no": # really`, Who: "ada", When: when, Build: "https://example.com/2"}

const hotfixLines = `- service: backend
  version: v1.2.0
  digest: sha256:abababababababababababababababababababababababababababababababab
  reason: "says \"no\": # really"
  who: "ada"
  when: 2026-11-24T09:30:00Z
  build: "https://example.com/2"
`

func indented(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  ") + "\n"
}

func TestAHoldIsAddedAndEveryOtherByteStays(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"no file", "", heading + "holds:\n" + hotfixLines},
		{"comments only", "# x\n", "# x\nholds:\n" + hotfixLines},
		{"no holds", "# x\nholds:\n", "# x\nholds:\n" + hotfixLines},
		{"an empty list", "# x\nholds: []\n", "# x\nholds:\n" + hotfixLines},
		{"an empty list without a line break at its end", "holds: []", "holds:\n" + hotfixLines},
		{"a list that is indented, and a comment at the end", good, good + indented(hotfixLines)},
		{"no line break at the end", strings.TrimSuffix(good, "\n# the end\n"), strings.TrimSuffix(good, "# the end\n") + indented(hotfixLines)},
		{"Windows line ends", strings.ReplaceAll(good, "\n", "\r\n"), strings.ReplaceAll(good+indented(hotfixLines), "\n", "\r\n")},
		{"a byte order mark", "\ufeffholds:\n", "\ufeffholds:\n" + hotfixLines},
		{"an item in one line", "holds:\n- {service: s, version: v1, reason: r, who: w, when: 2026-11-24T09:30:00Z}\n",
			"holds:\n- {service: s, version: v1, reason: r, who: w, when: 2026-11-24T09:30:00Z}\n" + hotfixLines},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Add([]byte(tt.file), hotfix)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Fatal(diff)
			}
			again, err := Add(got, hotfix)
			if err != nil || string(again) != string(got) {
				t.Errorf("a second run adds it again: %q (%v)", again, err)
			}
			back, err := Remove(got, "backend", "v1.2.0")
			if list, parseErr := Parse(back); err != nil || parseErr != nil {
				t.Errorf("%v %v", err, parseErr)
			} else if _, found := list.Find("backend", "v1.2.0", ""); found {
				t.Error("it is held still")
			}
			if strings.Contains(tt.name, "indented") && string(back) != tt.file {
				t.Errorf("removing it leaves %q", back)
			}
		})
	}
}

func TestAHoldIsRemovedWithItsComment(t *testing.T) {
	first, second, _ := strings.Cut(strings.TrimPrefix(good, "# Ours.\nholds:\n"), "\n\n")
	for _, tt := range []struct{ name, file, service, version, want string }{
		{"the first", good, "backend", "v1.1.0", "# Ours.\nholds:\n  # the first\n\n" + second},
		{"the last", good, "frontend", "1.10", "# Ours.\nholds:\n" + first + "\n\n# the end\n"},
		{"one that is not there", good, "backend", "v1.9.0", good},
		{"another service's", good, "frontend", "v1.1.0", good},
		{"the only one", "holds:\n" + hotfixLines, "backend", "v1.2.0", "holds:\n"},
		{"a hyphen on a line of its own", "holds:\n-\n" + "  " + strings.TrimPrefix(hotfixLines, "- ") + "# x\n", "backend", "v1.2.0", "holds:\n# x\n"},
		{"no file", "", "backend", "v1.2.0", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Remove([]byte(tt.file), tt.service, tt.version)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhatCannotBeEditedSafelyIsRefused(t *testing.T) {
	const flow = "holds: [{service: backend, version: v1.1.0, reason: r, who: w, when: 2026-11-24T09:30:00Z}]\n"
	bad := hotfix
	bad.Reason = "bell \a"
	for _, tt := range []struct {
		name string
		do   func() ([]byte, error)
		want string
	}{
		{"add to a list in one line", func() ([]byte, error) { return Add([]byte(flow), hotfix) }, "in one line"},
		{"remove from a list in one line", func() ([]byte, error) { return Remove([]byte(flow), "backend", "v1.1.0") }, "in one line"},
		{"behind the end of the document", func() ([]byte, error) {
			return Add([]byte("holds:\n- {service: s, version: v1, reason: r, who: w, when: 2026-11-24T09:30:00Z}\n...\n"), hotfix)
		}, "safely"},
		{"a null that is written out", func() ([]byte, error) { return Add([]byte("holds: null\n"), hotfix) }, "holds: []"},
		{"a broken file", func() ([]byte, error) { return Add([]byte("holds: [\n"), hotfix) }, "line"},
		{"a bad hold", func() ([]byte, error) { return Add(nil, bad) }, "cannot be printed"},
		{"another digest", func() ([]byte, error) {
			other := hotfix
			other.Version, other.Digest = "v1.1.0", "sha256:"+strings.Repeat("0", 64)
			return Add([]byte(good), other)
		}, "is held already, with digest"},
	} {
		if got, err := tt.do(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

// Whatever can be read can be added to and removed from again, or is refused; no other hold changes.
func FuzzEdit(f *testing.F) {
	for _, s := range []string{"", good, "holds: []", "holds:\n" + hotfixLines, "\ufeff# x\r\nholds:\r\n"} {
		f.Add([]byte(s), "v3.0.0", "because")
	}
	f.Fuzz(func(t *testing.T, file []byte, version, reason string) {
		before, err := Parse(file)
		if err != nil {
			return
		}
		h := Hold{Service: "fuzz", Version: version, Reason: reason, Who: "w", When: when}
		added, err := Add(file, h)
		if err != nil {
			return
		}
		after, err := Parse(added)
		if err != nil {
			t.Fatal(err)
		}
		if _, found := after.Find("fuzz", version, ""); !found {
			t.Fatalf("%q is not held in %q", version, added)
		}
		removed, err := Remove(added, "fuzz", version)
		if err != nil {
			return
		}
		left, err := Parse(removed)
		if err != nil {
			t.Fatal(err)
		}
		was, held := before.Find("fuzz", version, "")
		if want := len(before); !held && len(left) != want || held && len(left) != want-1 {
			t.Fatalf("%d holds became %d (%v)", want, len(left), was)
		}
	})
}
