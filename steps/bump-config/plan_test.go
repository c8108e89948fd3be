package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/marker"
)

func TestAPathNamesAnAccount(t *testing.T) {
	for _, tt := range []struct{ pattern, file, want string }{
		{"accounts/{account}/", "accounts/maple/backend.yaml", "maple"},
		{"accounts/{account}/", "accounts/maple/deep/er/backend.yaml", "maple"},
		{"accounts/{account}/", "accounts/backend.yaml", ""},
		{"accounts/{account}/", "other/maple/backend.yaml", ""},
		{"/{account}", "maple/backend.yaml", "maple"},
		{"*/{account}/helm", "eu/maple/helm/backend.yaml", "maple"},
		{"*/{account}/helm", "eu/maple/other/backend.yaml", ""},
	} {
		var p accounts.PathPattern
		if err := p.UnmarshalText([]byte(tt.pattern)); err != nil {
			t.Fatal(err)
		}
		if got := p.Match(tt.file); got != tt.want {
			t.Errorf("%s, %s: got %q, want %q", tt.pattern, tt.file, got, tt.want)
		}
	}
	for _, pattern := range []string{"accounts", "{account}/{account}", "accounts/{account", "a-{account}", "../{account}", "a//{account}", "a*/{account}"} {
		if err := new(accounts.PathPattern).UnmarshalText([]byte(pattern)); err == nil {
			t.Errorf("%q is accepted", pattern)
		}
	}
	if got := (accounts.PathPattern{}).Match("accounts/maple/backend.yaml"); got != "" {
		t.Errorf("without a pattern: %q", got)
	}
}

func TestAnOwnerIsToldOnlyWhenAllAgree(t *testing.T) {
	in := In{AccountLabel: "account"}
	if err := in.AccountPath.UnmarshalText([]byte("accounts/{account}/")); err != nil {
		t.Fatal(err)
	}
	at := func(label, annotation string) marker.Resource {
		return marker.Resource{Labels: map[string]string{"account": label}, Annotations: map[string]string{"account": annotation}}
	}
	for _, tt := range []struct {
		name        string
		resource    marker.Resource
		file        string
		want, doubt string
	}{
		{"nothing says", marker.Resource{}, "staging/x.yaml", "", ""},
		{"a label", at("maple", ""), "x.yaml", "maple", ""},
		{"an annotation", at("", "maple"), "x.yaml", "maple", ""},
		{"a path", marker.Resource{}, "accounts/maple/x.yaml", "maple", ""},
		{"all three", at("maple", "maple"), "accounts/maple/x.yaml", "maple", ""},
		{"label and path differ", at("maple", ""), "accounts/cedar/x.yaml", "", "different accounts"},
		{"label and annotation differ", at("maple", "cedar"), "x.yaml", "", "different accounts"},
		{"case matters", at("Maple", ""), "accounts/maple/x.yaml", "", "different accounts"},
		{"no id", at("all of them", ""), "x.yaml", "", "not an account's id"},
	} {
		got, doubt := in.owner(tt.resource, tt.file)
		if got != tt.want || (tt.doubt == "") != (doubt == "") || !strings.Contains(doubt, tt.doubt) {
			t.Errorf("%s: got %q, %q", tt.name, got, doubt)
		}
	}
}

// No row of this table may let a candidate reach an account that nothing says is UAT.
func TestWhoMayReceiveWhat(t *testing.T) {
	inventory, err := accounts.Parse([]byte("- {id: orchid, is_uat: true}\n- {id: maple}\n"))
	if err != nil {
		t.Fatal(err)
	}
	decision := &accounts.Decision{Allowed: []accounts.Verdict{{Account: "orchid"}}, Held: []accounts.Verdict{{Account: "maple", Reason: "no UAT account"}}}
	build, candidate, final := target{}, target{isRelease: true, candidate: true}, target{isRelease: true}
	decided := target{isRelease: true, decision: decision}
	for _, tt := range []struct {
		name           string
		gate           gate
		account, doubt string
		may            bool
	}{
		{"a build", gate{target: build}, "maple", "", true},
		{"a build, whosever it is", gate{target: build}, "", "doubt", true},
		{"a final version without a gate", gate{target: final}, "maple", "", true},
		{"a candidate, UAT", gate{target: candidate, inventory: &inventory}, "orchid", "", true},
		{"a candidate, production", gate{target: candidate, inventory: &inventory}, "maple", "", false},
		{"a candidate, unknown account", gate{target: candidate, inventory: &inventory}, "cedar", "", false},
		{"a candidate, other case", gate{target: candidate, inventory: &inventory}, "Orchid", "", false},
		{"a candidate, nobody's", gate{target: candidate, inventory: &inventory}, "", "", false},
		{"a candidate, doubt", gate{target: candidate, inventory: &inventory}, "", "doubt", false},
		{"a candidate, no inventory", gate{target: candidate}, "orchid", "", false},
		{"a candidate, no inventory and no account", gate{target: candidate}, "", "", true},
		{"decided, allowed", gate{target: decided}, "orchid", "", true},
		{"decided, held", gate{target: decided}, "maple", "", false},
		{"decided, unknown", gate{target: decided}, "cedar", "", false},
		{"decided, nobody's", gate{target: decided}, "", "", false},
		{"decided, doubt", gate{target: decided}, "", "doubt", false},
	} {
		if reason := tt.gate.holds(tt.account, tt.doubt); (reason == "") != tt.may {
			t.Errorf("%s: %q", tt.name, reason)
		}
	}
}

// Git must be able to apply what a dry run prints.
func TestADiffCanBeApplied(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 60 {
		var before []string
		for i := range rng.IntN(40) {
			before = append(before, fmt.Sprintf("line %d\n", i))
		}
		after := append([]string{}, before...)
		for i := range after {
			if rng.IntN(6) == 0 {
				after[i] = "new " + after[i]
			}
		}
		old, changed := strings.Join(before, ""), strings.Join(after, "")
		switch n % 4 {
		case 1:
			old, changed = strings.TrimSuffix(old, "\n"), strings.TrimSuffix(changed, "\n")
		case 2: // a file that is replaced, such as a decision
			changed += "more\n"
		case 3:
			old, changed = "", "first\nsecond\n"
		}
		p := &plan{files: map[string][2][]byte{"d/f.yaml": {[]byte(old), []byte(changed)}}}
		diff := p.diff()
		if (diff == "") != (old == changed) {
			t.Fatalf("%q -> %q: %q", old, changed, diff)
		}
		if diff == "" {
			continue
		}
		dir := t.TempDir()
		if old != "" {
			if err := os.MkdirAll(filepath.Join(dir, "d"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "d", "f.yaml"), []byte(old), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.CommandContext(t.Context(), "git", "apply", "--unsafe-paths", "-")
		cmd.Dir, cmd.Stdin, cmd.Env = dir, strings.NewReader(diff), append(os.Environ(), append(gitEnv, "GIT_CEILING_DIRECTORIES="+dir)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s\n%s", err, out, diff)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "d", "f.yaml")); err != nil || !bytes.Equal(got, []byte(changed)) {
			t.Fatalf("got %q (%v), want %q\n%s", got, err, changed, diff)
		}
	}
}

// What is recorded has to be read again by the deployment, whose limit is that of any file.
func TestADecisionOnManyAccountsIsWrittenSmallerOrNotAtAll(t *testing.T) {
	decision := func(n int) accounts.Decision {
		d := accounts.Decision{Version: "v1.0.0"}
		for i := range n {
			d.Allowed = append(d.Allowed, accounts.Verdict{Account: fmt.Sprintf("account-%06d", i), Region: "europe-west1", Reason: "production account"})
		}
		return d
	}
	for n, want := range map[int]struct{ lines, fits bool }{5: {true, true}, 40_000: {false, true}, 60_000: {false, false}} {
		text, err := encodeDecision(decision(n))
		if fits := err == nil; fits != want.fits || len(text) > gitrepo.MaxFile || fits && strings.Contains(string(text), "\n ") != want.lines {
			t.Errorf("%d accounts: %d bytes, %v", n, len(text), err)
		}
		if err != nil && !strings.Contains(err.Error(), "60000 accounts") {
			t.Errorf("error %v", err)
		}
	}
}

// A file is parsed for what its markers say, however they say it, and not for what others say in it.
func TestAFileConcernsThePoliciesThatItNames(t *testing.T) {
	policies := map[string]tracked{"a:b": {}}
	defined := map[string]bool{"a:b": true, "a:other": true}
	for text, want := range map[string]bool{
		"tag: v1 # {\"$imagepolicy\": \"a:b:tag\"}":                           true,
		"tag: v1 # {\"$imagepolicy\": \"a:other:tag\"}":                       false,
		"tag: v1 # {\"$imagepolicy\": \"a:other:tag\"}\nnote: r/image of a:b": false,
		"tag: v1 # {\"$imagepolicy\": \"a:unknown:tag\"}":                     false,
		"tag: v1 # {\"$imagepolicy\": \"a:unknown:tag\"}\nimage: r/image":     true,
		"tag: v1 # {\"$imagepolicy\": \"a:\\u0062\"}":                         true,
		"tag: v1 # {\"$imagepolicy\": \"a:b\", \"x\": \"\"}":                  true,
		"tag: v1 # {\"$imagepolicy\": \"a:other\"":                            false,
		"tag: v1 # {\"$imagepolicy\": \"a:other\"\nimage: r/image":            true,
	} {
		f := &file{content: []byte(text)}
		f.policies, f.plain = marker.Policies(f.content)
		if got := f.concerns(policies, defined, []string{"r/image"}); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}

// After a lost race only what changed is read again. Whatever changed, the plan is the one that a first look would give.
func TestWhatWasReadBeforeOnlySavesTime(t *testing.T) {
	const backend = `"flux-system:backend-staging`
	policies := func(name string) string {
		return "apiVersion: image.toolkit.fluxcd.io/v1\nkind: ImagePolicy\nmetadata: {name: " + name + ", namespace: flux-system}\n" +
			"spec: {imageRepositoryRef: {name: backend}, policy: {alphabetical: {}}}\n"
	}
	variants := []string{
		"tag: main-1111111-1700000000 # {\"$imagepolicy\": " + backend + ":tag\"}\n",
		"tag: main-2222222-1900000000 # {\"$imagepolicy\": " + backend + ":tag\"}\n",
		"tag: main-1111111-1700000000 # {\"$imagepolicy\": \"flux-system:back\\u0065nd-staging:tag\"}\n",
		"tag: main-1111111-1700000000 # {\"$imagepolicy\": \"flux-system:more:tag\"}\n",
		"name: " + image + " # {\"$imagepolicy\": \"flux-system:gone:name\"}\n",
		"tag: main-1111111-1700000000 # {\"$imagepolicy\": " + backend + ":tag\"\nimage: " + image + "\n",
		"tag: [ # {\"$imagepolicy\": " + backend + ":tag\"}\n",
		"plain: 1\n",
		policies("more"),
		"apiVersion: image.toolkit.fluxcd.io/v1\nkind: [\n",
		"",
	}
	r := newConfigRepo(t, nil)
	rng := rand.New(rand.NewPCG(3, 4))
	before := reading{}
	edited := 0
	for n := range 40 {
		var files []string
		for range 1 + rng.IntN(4) {
			files = append(files, fmt.Sprintf("staging/f%d.yaml", rng.IntN(8)), variants[rng.IntN(len(variants))])
		}
		for i := 0; i < len(files); i += 2 {
			_ = os.Remove(filepath.Join(r.tree, files[i])) // it may be a link, which would be written through
		}
		if n%3 == 1 { // a link whose text is what the file had
			linked := filepath.Join(r.tree, "staging", fmt.Sprintf("f%d.yaml", rng.IntN(8)))
			if text, err := os.ReadFile(linked); err == nil && len(text) > 0 {
				files = nil
				if err := errors.Join(os.Remove(linked), os.Symlink(string(text), linked)); err != nil {
					t.Fatal(err)
				}
			}
		}
		r.commit(files...)
		in := r.in(fmt.Sprintf("main-abcdef0-%d", 1800000000+n/5)) // a new value now and then
		s, err := gitrepo.Open(t.Context(), gitrepo.Remote{URL: r.url, Username: "any", Token: in.GitToken}, "main")
		if err != nil {
			t.Fatal(err)
		}
		wanted := target{image: image, tag: in.BuildTag, digest: someDigest}
		first, errFirst := newPlan(s, reading{}, in, wanted)
		again, errAgain := newPlan(s, before, in, wanted)
		before = again.reading
		tell := func(p *plan, err error) string {
			return fmt.Sprintf("%v\n%q\n%v\n%v\n%v\n%v\n%v", err, p.files, p.edits, p.skipped, p.marks, p.notes, p.unmatched)
		}
		if a, b := tell(first, errFirst), tell(again, errAgain); a != b {
			t.Fatalf("state %d, after %q: a first look gives\n%s\nand the reading of before\n%s", n, files, a, b)
		}
		edited += len(first.edits)
	}
	if edited < 40 {
		t.Errorf("only %d edits: the states do not try much", edited)
	}
}
