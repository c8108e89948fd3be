package marker

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// mark is a marker comment for a field of one policy.
func mark(suffix string) string { return `# {"$imagepolicy": "flux-system:backend` + suffix + `"}` }

// spliceAll writes a value of its own into every marker that can be edited, and returns the reasons of the others.
func spliceAll(t *testing.T, file string) (after string, skipped []string) {
	t.Helper()
	values := map[Field]string{Reference: "registry.example/backend:v2.0.0", Name: "registry.example/backend", Tag: "v2.0.0", Digest: "sha256:" + strings.Repeat("a", 64)}
	var edits []Edit
	for _, m := range Find([]byte(file)) {
		if m.Skip != "" {
			skipped = append(skipped, m.Skip)
			continue
		}
		edits = append(edits, Edit{m, values[m.Field]})
	}
	out, err := Splice([]byte(file), edits)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), skipped
}

// In each text OLD stands for the old value and is replaced by the new one; every other byte must stay.
func TestOnlyTheMarkedValueChanges(t *testing.T) {
	const policyTag = "v2.0.0"
	tests := []struct{ name, text, old, want string }{
		{"a plain value", "tag: OLD " + mark(":tag") + "\n", "v1.0.0", policyTag},
		{"a value in double quotes keeps them", "tag: \"OLD\" " + mark(":tag") + "\n", "v1.0.0", policyTag},
		{"a value in single quotes keeps them", "tag: 'OLD' " + mark(":tag") + "\n", "v1.0.0", policyTag},
		{"escapes in double quotes end where the quote does", `tag: "OLD" ` + mark(":tag") + "\n", `a\"b\\`, policyTag},
		{"doubled single quotes end where the quote does", `tag: 'OLD' ` + mark(":tag") + "\n", `a''b`, policyTag},
		{"an empty text in quotes", `tag: "OLD" ` + mark(":tag") + "\n", "", policyTag},
		{"a value with a blank", "tag: OLD " + mark(":tag") + "\n", "v1 beta", policyTag},
		{"a whole reference", "image: OLD " + mark("") + "\n", "registry.example/backend:v1.0.0", "registry.example/backend:v2.0.0"},
		{"a repository", "repository: OLD " + mark(":name") + "\n", "old.example/backend", "registry.example/backend"},
		{"a digest", "digest: OLD " + mark(":digest") + "\n", "sha256:00", "sha256:" + strings.Repeat("a", 64)},
		{"a number as old value", "tag: OLD " + mark(":tag") + "\n", "1.10", policyTag},
		{"a boolean as old value", "tag: OLD " + mark(":tag") + "\n", "true", policyTag},
		{"a null as old value", "tag: OLD " + mark(":tag") + "\n", "null", policyTag},
		{"a date as old value", "tag: OLD " + mark(":tag") + "\n", "2024-01-02", policyTag},
		{"no blank behind the #", "tag: OLD #" + mark(":tag")[2:] + "\n", "v1", policyTag},
		{"several #", "tag: OLD ##" + mark(":tag")[1:] + "\n", "v1", policyTag},
		{"tabs in front of the comment", "tag: OLD\t\t" + mark(":tag") + "\n", "v1", policyTag},
		{"another member in the object", `tag: OLD # {"$imagepolicy": "flux-system:backend:tag", "note": "x"}` + "\n", "v1", policyTag},
		{"the last of two members counts, as in Flux", `tag: OLD # {"$imagepolicy": "a:b:digest", "$imagepolicy": "flux-system:backend:tag"}` + "\n", "v1", policyTag},
		{"an anchor in front of the value", "tag: &tag OLD " + mark(":tag") + "\nother: *tag\n", "v1", policyTag},
		{"a list item", "args:\n- OLD " + mark("") + "\n- other\n", "r:1", "registry.example/backend:v2.0.0"},
		{"a comment above a list item", "args:\n- first\n" + mark("") + "\n- OLD\n", "r:1", "registry.example/backend:v2.0.0"},
		{"a flow mapping over several lines", "image: {\n  tag: OLD " + mark(":tag") + "\n}\n", "v1", policyTag},
		{"no line break at the end", "tag: OLD " + mark(":tag"), "v1", policyTag},
		{"Windows line ends", "a: 1\r\ntag: OLD " + mark(":tag") + "\r\nb: 2\r\n", "v1", policyTag},
		{"a byte order mark", "\ufefftag: OLD " + mark(":tag") + "\n", "v1", policyTag},
		{"old Mac line ends", "a: 1\rtag: OLD " + mark(":tag") + "\rb: 2\r", "v1", policyTag},
		{"letters of several bytes in front", "{größe: ü, tag: OLD " + mark(":tag") + "\n}\n", "v1", policyTag},
		{"unusual line ends in a comment above", "# a\u0085# b\u2028# c\ntag: OLD " + mark(":tag") + "\n", "v1", policyTag},
		{"comments, blank lines, odd indentation and order", "# head\n\nz:   1   # one\n\n\na:\n      tag: OLD   " + mark(":tag") + "\n\n# foot\n", "v1", policyTag},
		{"a folded text beside it", "text: >\n  a\n    b\n  c\ntag: OLD " + mark(":tag") + "\n", "v1", policyTag},
		{"a second document", "a: 1\n---\ntag: OLD " + mark(":tag") + "\n...\n---\nb: 2\n", "v1", policyTag},
		{"a document that begins on its separator's line", "--- {a: 1}\n---\ntag: OLD " + mark(":tag") + "\n", "v1", policyTag},
		{"a kind List", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: X\n  tag: OLD " + mark(":tag") + "\n", "v1", policyTag},
		{"a JSON patch, a bare list", "- op: replace\n  path: /spec\n  value: OLD " + mark("") + "\n", "r:1", "registry.example/backend:v2.0.0"},
		{"a merge key beside it", "base: &b {x: 1}\nc:\n  <<: *b\n  tag: OLD " + mark(":tag") + "\n", "v1", policyTag},
		{"emoji stay emoji", "note: 🚀\ntag: OLD " + mark(":tag") + "\n", "v1", policyTag},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := strings.Replace(tt.text, "OLD", tt.old, 1)
			after, skipped := spliceAll(t, before)
			if len(skipped) > 0 {
				t.Fatalf("skipped: %v", skipped)
			}
			if diff := cmp.Diff(strings.Replace(tt.text, "OLD", tt.want, 1), after); diff != "" {
				t.Fatal(diff)
			}
			if again, _ := spliceAll(t, after); again != after {
				t.Errorf("a second edit changes %q to %q", after, again)
			}
		})
	}
}

// Sources of the forms: fluxcd.io/flux/guides/image-update and what Flux's setter does with them.
func TestWhatIsNotEditedIsReportedWithTheReason(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"text in front of the object", "tag: v1 # see " + mark(":tag")[2:] + "\n", "not one JSON object"},
		{"text behind the object", "tag: v1 " + mark(":tag") + " x\n", "not one JSON object"},
		{"a member that is no string", `tag: v1 # {"$imagepolicy": "a:b:tag", "n": 1}` + "\n", "not one JSON object"},
		{"a mapping and no comment", `{"$imagepolicy": "a:b"}` + "\n", ""},
		{"another member's value", `tag: v1 # {"x": "\"$imagepolicy\""}` + "\n", ""},
		{"one part", `tag: v1 # {"$imagepolicy": "backend"}` + "\n", "does not name a policy"},
		{"four parts", `tag: v1 # {"$imagepolicy": "a:b:tag:x"}` + "\n", "does not name a policy"},
		{"an empty namespace", `tag: v1 # {"$imagepolicy": ":b:tag"}` + "\n", "does not name a policy"},
		{"an unknown part", `tag: v1 # {"$imagepolicy": "a:b:Tag"}` + "\n", "not a part of an image"},
		{"a literal block", "tag: | " + mark(":tag") + "\n  v1\n", "block of text"},
		{"a folded block", "tag: >- " + mark(":tag") + "\n  v1\n", "block of text"},
		{"inside a block", "text: |\n  tag: v1 " + mark(":tag") + "\n", "inside a block of text"},
		{"an alias", "a: &x v1\ntag: *x " + mark(":tag") + "\n", "alias"},
		{"an explicit tag", "tag: !!str v1 " + mark(":tag") + "\n", "explicit tag"},
		{"a key without a value", "tag: " + mark(":tag") + "\n", "behind a key"},
		{"a value on the next line", "tag: " + mark(":tag") + "\n  v1\n", "behind a key"},
		{"a parent key", "image: " + mark("") + "\n  tag: v1\n", "behind a key"},
		{"a flow mapping on one line", "image: {repository: r, tag: v1} " + mark("") + "\n", "flow mapping"},
		{"a flow list on one line", "args: [r:1] " + mark("") + "\n", "flow mapping or list"},
		{"above a mapping key", mark(":tag") + "\ntag: v1\n", "no value stands in front"},
		{"below the value", "tag: v1\n" + mark(":tag") + "\n", "no value stands in front"},
		{"above an item with a comment of its own", "args:\n- a\n" + mark("") + "\n- r:1 # pinned\n", "no value stands in front"},
		{"as a second comment above an item", "args:\n- a\n# note\n" + mark("") + "\n- r:1\n", "no value stands in front"},
		{"text over several lines", "tag: v1\n  beta " + mark(":tag") + "\n", "no value ends in front"},
		{"a key that stands twice", "tag: v0\ntag: v1 " + mark(":tag") + "\n", "stands twice"},
		{"a key that stands twice above it", "a: 1\na:\n  tag: v1 " + mark(":tag") + "\n", "stands twice"},
		{"a label that stands twice", "apiVersion: v1\nkind: X\nmetadata:\n  labels: {account: a, account: b}\ntag: v1 " + mark(":tag") + "\n", "metadata"},
		{"labels that stand twice", "apiVersion: v1\nkind: X\nmetadata:\n  labels: {account: a}\n  labels: {account: b}\ntag: v1 " + mark(":tag") + "\n", "metadata"},
		{"a SOPS file", "tag: v1 " + mark(":tag") + "\nsops:\n  mac: x\n", "SOPS"},
		{"a newer YAML than the parser reads", "%YAML 1.2\n---\ntag: v1 " + mark(":tag") + "\n", "incompatible YAML document"},
		{"a marker behind a comma", "image: {\n  tag: v1, " + mark(":tag") + "\n  x: 1}\n", "no value ends in front"},
		{"a quoted text over several lines", "tag: \"v1\n  beta\" " + mark(":tag") + "\n", "no value ends in front"},
		{"behind a second comment", "tag: v1 # pinned " + mark(":tag") + "\n", "not one JSON object"},
		{"a key spelled with an escape beside a real one", `tag: v1 # {"\u0024imagepolicy": "a:b:tag", "x": "\"$imagepolicy\""}` + "\n", ""},
		{"a complex key", "? v1 " + mark(":tag") + "\n: x\n", "behind a key"},
		{"the end of a document", "tag: v1\n--- " + mark(":tag") + "\n", ""},
		{"a broken file", "tag: v1 " + mark(":tag") + "\n{{ if }}\na: [\n", "cannot be parsed"},
		{"a broken second document", "tag: v1 " + mark(":tag") + "\n---\na: [\n", "cannot be parsed"},
		{"bytes that are not UTF-8", "tag: v1 " + mark(":tag") + "\nx: \"\xff\"\n", "not UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found := Find([]byte(tt.text))
			if tt.want == "" {
				for _, m := range found {
					if m.Skip == "" {
						t.Errorf("edited: %+v", m)
					}
				}
				return
			}
			if len(found) != 1 || !strings.Contains(found[0].Skip, tt.want) {
				t.Fatalf("found %+v, want one with %q", found, tt.want)
			}
			if _, err := Splice([]byte(tt.text), []Edit{{found[0], "v2"}}); err == nil {
				t.Error("it can be edited all the same")
			}
		})
	}
}

func TestFindTellsWhoseValueItIs(t *testing.T) {
	const file = `apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata:
  name: backend
  namespace: account-maple
  labels: {account: maple}
  annotations: {owner: "x"}
spec:
  values:
    image:
      repository: r/backend # {"$imagepolicy": "flux-system:backend-production:name"}
      tag: v1.0.0 # {"$imagepolicy": "flux-system:backend-production:tag"}
---
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  containers:
  - image: r/other:1 # {"$imagepolicy": "apps:other"}
`
	found := Find([]byte(file))
	for i := range found {
		found[i].origin, found[i].node, found[i].start, found[i].end = nil, 0, 0, 0
	}
	maple := Resource{"helm.toolkit.fluxcd.io/v2", "HelmRelease", "account-maple", "backend", map[string]string{"account": "maple"}, map[string]string{"owner": "x"}}
	want := []Marker{
		{Line: 11, Namespace: "flux-system", Policy: "backend-production", Field: Name, Value: "r/backend", Resource: maple},
		{Line: 12, Namespace: "flux-system", Policy: "backend-production", Field: Tag, Value: "v1.0.0", Resource: maple},
		{Line: 19, Namespace: "apps", Policy: "other", Field: Reference, Value: "r/other:1", Resource: Resource{APIVersion: "v1", Kind: "Pod", Name: "two"}},
	}
	if diff := cmp.Diff(want, found, cmp.AllowUnexported(Marker{})); diff != "" {
		t.Error(diff)
	}
	if found[0].ID() != "flux-system:backend-production" {
		t.Error(found[0].ID())
	}
}

// Flux puts a plain value in double quotes where it would be read as something else than a string, and nowhere else.
func TestQuotesAreFluxs(t *testing.T) {
	for value, want := range map[string]string{
		"v1.0.0": "v1.0.0", "main-0a1b2c3-1700000000": "main-0a1b2c3-1700000000", "r/backend:v1": "r/backend:v1", "12e4567": "12e4567", "1.10.0": "1.10.0",
		"1.10": `"1.10"`, "1e5": `"1e5"`, "0123": `"0123"`, "2024-01-02": `"2024-01-02"`, "true": `"true"`, "yes": `"yes"`, "on": `"on"`, "n": `"n"`, "null": `"null"`,
		"0x1f": `"0x1f"`, "1_000": `"1_000"`, "20240102": `"20240102"`, "0o17": `"0o17"`,
	} {
		file := "tag: old " + mark(":tag") + "\n"
		found := Find([]byte(file))
		got, err := Splice([]byte(file), []Edit{{found[0], value}})
		if err != nil {
			t.Errorf("%s: %v", value, err)
			continue
		}
		if w := "tag: " + want + " " + mark(":tag") + "\n"; string(got) != w {
			t.Errorf("got %q, want %q", got, w)
		}
	}
}

func TestSpliceRefusesWhatItCannotAnswerFor(t *testing.T) {
	file := []byte("a: v1 " + mark(":tag") + "\nb: v1 " + mark(":tag") + "\n")
	found := Find(file)
	for name, edits := range map[string][]Edit{
		"a value that would start a comment": {{found[0], "v2 # x"}},
		"a value with a line break":          {{found[0], "v2\nc: d"}},
		"an empty value":                     {{found[0], ""}},
		"a value with quotes":                {{found[0], `v"2`}},
		"one value twice":                    {{found[0], "v2"}, {found[0], "v3"}},
		"a marker of another file":           {{Find([]byte(strings.Repeat("# x\n", 99) + string(file)))[1], "v2"}},
	} {
		if got, err := Splice(file, edits); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestHostileFilesAreCheap(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'z'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	if found := Find([]byte(bomb + "tag: v1 " + mark(":tag") + "\n")); len(found) != 1 || found[0].Skip != "" {
		t.Errorf("an alias bomb: %+v", found)
	}
	if found := Find([]byte("tag: v1 " + mark(":tag") + "\nx: " + strings.Repeat("[", 200_000))); len(found) != 1 || found[0].Skip == "" {
		t.Errorf("deep nesting: %+v", found)
	}
}

func FuzzSplice(f *testing.F) {
	f.Add([]byte("tag: v1 " + mark(":tag") + "\nother: x\n"))
	f.Add([]byte("- 'v1' " + mark("") + "\r\n- \"a\" # b\r\n"))
	f.Add([]byte(`{"$imagepolicy": "0:0"}`))
	f.Add([]byte("a: {b: &x 1 " + mark(":digest") + "\n}\n---\n" + mark("") + "\n- |\n x\n"))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: X, t: &t v1}\n- apiVersion: v1\n  kind: X\n  tag: &u 'v1' " + mark(":tag") + "\n  o: [*t, *u]\n"))
	f.Add([]byte("%YAML 1.1\n--- # x\ntag: >-\n  a\nimage: r:1\t" + mark("") + "\r\n...\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		var edits []Edit
		lines := map[int]bool{}
		named, all := Policies(file)
		for _, m := range Find(file) {
			if m.Skip == "" {
				if all && !slices.Contains(named, m.ID()) {
					t.Fatalf("Policies lacks %s, and says that %q is all", m.ID(), named)
				}
				edits = append(edits, Edit{m, "v2.0.0"})
				lines[m.Line], lines[m.Line+1] = true, true // a comment above its item
			}
		}
		after, err := Splice(file, edits)
		if err != nil {
			return // nothing would be written
		}
		was, is := splitLines(file), splitLines(after)
		if len(was) != len(is) {
			t.Fatalf("%d lines became %d", len(was), len(is))
		}
		for i := range was {
			if !lines[i+1] && !bytes.Equal(file[was[i].start:was[i].next], after[is[i].start:is[i].next]) {
				t.Fatalf("line %d changed", i+1)
			}
		}
		var again []Edit
		for _, m := range Find(after) {
			if m.Skip == "" {
				again = append(again, Edit{m, "v2.0.0"})
			}
		}
		if len(again) != len(edits) {
			t.Fatalf("%d markers became %d", len(edits), len(again))
		}
		twice, err := Splice(after, again)
		if err != nil || !bytes.Equal(after, twice) {
			t.Fatalf("a second edit changes %q to %q (%v)", after, twice, err)
		}
	})
}

func FuzzParseComment(f *testing.F) {
	f.Add(mark(":tag"))
	f.Fuzz(func(t *testing.T, comment string) {
		if m, ok := parseComment(comment); ok && m.Skip == "" && (m.Namespace == "" || m.Policy == "" || m.Field == "") {
			t.Errorf("%q gives %+v", comment, m)
		}
	})
}

func TestThePoliciesOfAFileAreToldWithoutParsingIt(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "[] true",
		"tag: v1 # a comment\n":   "[] true",
		"tag: v1 " + mark(":tag"): "[flux-system:backend] true",
		"a: v1 " + mark(":tag") + "\r\nb: v1\t" + mark("") + "\n":                               "[flux-system:backend] true",
		"a: v1 # {\"$imagepolicy\":\"a:b\"}\nb: v1 #\t{ \"$imagepolicy\" : \"a:c:digest\" } \n": "[a:b a:c] true",
		// Only JSON and YAML can tell.
		"tag: v1 # {\"$imagepolicy\": \"flux-system:back\\u0065nd\"}":         "[] false",
		"tag: v1 # {\"$imagepolicy\": \"flux-system:backend\"":                "[] false",
		"tag: v1 # {\"$imagepolicy\": \"flux-system:backend\"} and more":      "[] false",
		"tag: v1 # {\"x\": \"y\", \"$imagepolicy\": \"flux-system:backend\"}": "[] false",
		"tag: v1 # {\"$imagepolicy\": \"flux-system:backend\", \"x\": \"y\"}": "[] false",
		"tag: v1 # {\"$imagepolicy\": \"backend\"}":                           "[] false",
		"tag: v1 # {\"$imagepolicy\": \"a:b:c:d\"}":                           "[] false",
		"tag: v1 # see {\"$imagepolicy\": \"a:b\"}":                           "[] false",
		"tag: v1 # {\"$imagepolicy\": [\"a:b\"]}":                             "[] false",
	} {
		if ids, all := Policies([]byte(text)); fmt.Sprint(ids, all) != want {
			t.Errorf("%q: %v %t, want %s", text, ids, all, want)
		}
	}
}

func TestTheTagOfAReference(t *testing.T) {
	for reference, want := range map[string]string{
		"r/backend:v1.0.0": "v1.0.0", "localhost:5000/backend": "", "localhost:5000/backend:v1": "v1", "r/backend": "", "r/backend@sha256:00": "",
		"r/backend:v1@sha256:00": "v1", "backend:v1": "v1", "": "",
	} {
		if _, got, _ := Split(reference); got != want {
			t.Errorf("%q: got %q, want %q", reference, got, want)
		}
	}
}

func TestAReferenceIsTakenApart(t *testing.T) {
	for reference, want := range map[string][3]string{
		"localhost:5000/backend:v1@sha256:00": {"localhost:5000/backend", "v1", "sha256:00"}, "localhost:5000/backend": {"localhost:5000/backend", "", ""},
		"r/backend@sha256:00": {"r/backend", "", "sha256:00"}, "backend": {"backend", "", ""},
	} {
		var got [3]string
		if got[0], got[1], got[2] = Split(reference); got != want {
			t.Errorf("%q: %q, want %q", reference, got, want)
		}
	}
}

// Flux's documentation of the setters: ns:policy is repository:tag, with the digest where the policy reflects it; the suffixes are its parts.
func TestAMarkerWantsThePartThatItNames(t *testing.T) {
	for _, tt := range []struct {
		field   Field
		there   string
		digest  string
		reflect bool
		want    string
		known   bool
	}{
		{Name, "x", "", false, "r/backend", true}, {Tag, "x", "", false, "v2", true}, {Digest, "x", "sha256:00", false, "sha256:00", true},
		{Digest, "x", "", false, "", false}, {Reference, "r/backend:v1", "sha256:00", false, "r/backend:v2", true},
		{Reference, "r/backend:v1", "sha256:00", true, "r/backend:v2@sha256:00", true},
		{Reference, "r/backend:v1@sha256:11", "sha256:00", false, "r/backend:v2@sha256:00", true}, {Reference, "r/backend:v1", "", true, "r/backend:v2@", false},
	} {
		if got, known := (Marker{Field: tt.field, Value: tt.there}).Wants("r/backend", "v2", tt.digest, tt.reflect); got != tt.want || known != tt.known {
			t.Errorf("%+v: %q, %t", tt, got, known)
		}
	}
}
