package accounts

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/release"
)

func TestParseAcceptsYAMLAndJSON(t *testing.T) {
	want := []Account{
		{ID: "orchid", IsUAT: true, Region: "europe-west1"},
		{ID: "maple", Region: "us-central1", Services: []string{"backend"}},
		{ID: "birch"},
	}
	for name, text := range map[string]string{
		"yaml mapping": "accounts:\n- {id: orchid, is_uat: true, region: europe-west1, contact: a@b}\n- id: maple\n  is_uat: false\n  region: us-central1\n  services: [backend]\n- id: birch\n  is_uat: null\n",
		"yaml list":    "- {id: orchid, is_uat: true, region: europe-west1}\n- {id: maple, region: us-central1, services: [backend]}\n- id: birch\n",
		"json":         `{"version": 3, "accounts": [{"id":"orchid","is_uat":true,"region":"europe-west1"},` + "\n\t" + `{"id":"maple","is_uat":false,"region":"us-central1","services":["backend"]},{"id":"birch","is_uat":null}]}`,
		"json list":    `[{"id":"orchid","is_uat":true,"region":"europe-west1"},{"id":"maple","region":"us-central1","services":["backend"]},{"id":"birch"}]`,
		"byte order mark and CRLF": "\xef\xbb\xbfaccounts:\r\n- {id: orchid, is_uat: true, region: europe-west1}\r\n- {id: maple, region: us-central1, services: [backend]}\r\n" +
			"- {id: birch}\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			inv, err := Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, inv.Accounts); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Each of these must be refused, with the place in the message.
func TestParseRefuses(t *testing.T) {
	const one = `{"id":"a","is_uat":true}`
	bomb := "a: &a [x,x]\n"
	for c := 'b'; c < 'z'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 9), ","))
	}
	tests := []struct{ name, text, want string }{
		{"nothing", "", "empty"},
		{"white space", " \n\t\n", "empty"},
		{"a comment only", "# accounts\n", "empty"},
		{"a scalar", "accounts", "a string"},
		{"null", "null", "null"},
		{"no accounts", `{"customers": []}`, "no member accounts"},
		{"an empty list", `{"accounts": []}`, "accounts is empty"},
		{"accounts is null", `{"accounts": null}`, "accounts is null"},
		{"accounts is a mapping", `{"accounts": {"a": {}}}`, "accounts is a mapping"},
		{"a look-alike of accounts", `{"Accounts": [` + one + `]}`, `"Accounts" looks like "accounts"`},
		{"accounts twice", `{"accounts": [` + one + `], "accounts": [` + one + `]}`, "stands twice"},
		{"an account that is a string", `["a"]`, "account 1: line 1: a string"},
		{"an account that is null", "[" + one + ", null]", "account 2"},
		{"no id", `[{"is_uat":true}]`, "no member id"},
		{"a null id", `[{"id":null}]`, "id is null"},
		{"a number as id", `[{"id":7}]`, "id is a number"},
		{"an octal-looking id in YAML", "- id: 0123\n", "id is a number"},
		{"an empty id", `[{"id":""}]`, `id ""`},
		{"an id with a blank", `[{"id":"a b"}]`, `id "a b"`},
		{"an id with a slash", `[{"id":"../x"}]`, `id "../x"`},
		{"an id with a Cyrillic letter", `[{"id":"m\u0430ple"}]`, "id "},
		{"an id of 64 characters", `[{"id":"` + strings.Repeat("a", 64) + `"}]`, "1 to 63"},
		{"an id twice", "[" + one + "," + one + "]", "is taken by account 1"},
		{"an id twice in another case", `[` + one + `,{"id":"A"}]`, "is taken by account 1"},
		{"is_uat as a string", `[{"id":"a","is_uat":"true"}]`, `is_uat of account "a" is a string`},
		{"is_uat as a number", `[{"id":"a","is_uat":1}]`, `is_uat of account "a" is a number`},
		{"is_uat as a list", `[{"id":"a","is_uat":[true]}]`, `is_uat of account "a" is a list`},
		{"is_uat as YAML 1.1's yes", "- {id: a, is_uat: yes}\n", "is a string"},
		{"is_uat as on", "- {id: a, is_uat: on}\n", "is a string"},
		{"is_uat with a tag", "- {id: a, is_uat: !!bool \"true\"}\n", "explicit tags"},
		{"is_uat twice", `[{"id":"a","is_uat":false,"is_uat":true}]`, `"is_uat" stands twice`},
		{"is_uat twice in YAML", "- id: a\n  is_uat: false\n  is_uat: true\n", "line 3"},
		{"is_uat in upper case", `[{"id":"a","IS_UAT":true}]`, `"IS_UAT" looks like "is_uat"`},
		{"is_uat with a long s", "[{\"id\":\"a\",\"i\u017f_uat\":true}]", "looks like"},
		{"is_uat in camel case", `[{"id":"a","isUat":true}]`, "looks like"},
		{"is_uat with a dash", `[{"id":"a","is-uat":true}]`, "looks like"},
		{"is_uat with a blank", `[{"id":"a","is_uat ":true}]`, "looks like"},
		{"a number as region", `[{"id":"a","region":1}]`, "region"},
		{"services as a string", `[{"id":"a","services":"backend"}]`, "services"},
		{"a number among services", `[{"id":"a","services":["backend",2]}]`, "services"},
		{"a second document", "- {id: a}\n---\n- {id: b}\n", "more than one YAML document"},
		{"a second JSON value", "[" + one + "]\n[" + one + "]", "line 2: text after the end"},
		{"text after JSON", "[" + one + "] x", "text after the end"},
		{"cut JSON", `[{"id":"a","is_uat":tr`, "line 1"},
		{"cut JSON between accounts", "[" + one + ",", "ends too early"},
		{"cut YAML", "accounts:\n- {id: a, is_uat: true\n", "line"},
		{"a trailing comma", "[" + one + ",]", "line 1"},
		{"single quotes", `[{'id':'a'}]`, "line 1"},
		{"NaN", `[{"id":"a","n":NaN}]`, "line 1"},
		{"a comment in JSON", "[" + one + " // x\n]", "line 1"},
		{"an anchor", "- &x {id: a, is_uat: true}\n- *x\n", "anchors"},
		{"a merge key", "base: &b {is_uat: true}\naccounts:\n- {<<: *b, id: a}\n", "anchors"},
		{"a number as a name", "- {id: a, 1: x}\n", "cannot be the name"},
		{"a list as a name", "- {id: a, [1]: x}\n", "cannot be the name"},
		{"not UTF-8", "- {id: a, note: \"\xff\"}\n", "UTF-8"},
		{"UTF-16", "\xff\xfe[\x00", "UTF-8"},
		{"a tab as indentation", "accounts:\n\t- id: a\n", "line 2"},
		{"deep nesting in JSON", strings.Repeat("[", 100000), "nested deeper"},
		{"deep nesting in YAML", "a: " + strings.Repeat("{b: ", 5000) + strings.Repeat("}", 5000), "nested deeper"},
		{"deep nesting inside an account", `[{"id":"a","x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}]`, "nested deeper"},
		{"an HTML error page", "<html><body>502</body></html>", ""},
		{"a binary value", "- {id: a, x: !!binary aGk=}\n", "explicit tags"},
		{"a set", "- ? a\n- {id: a}\n", "line"},
		{"is_uat as an object", `[{"id":"a","is_uat":{"value":true}}]`, `is_uat of account "a" is a mapping`},
		{"is_uat as a quoted boolean in YAML", "- {id: a, is_uat: 'true'}\n", `is_uat of account "a" is a string`},
		{"is_uat as y", "- {id: a, is_uat: y}\n", "is a string"},
		{"is_uat with a Kelvin sign's neighbours", "[{\"id\":\"a\",\"I\u0130S_UAT\":true,\"\u0131s_uat\":true}]", "looks like"},
		{"is_uat written with an escape, twice", `[{"id":"a","is_uat":false,"is\u005fuat":true}]`, `"is_uat" stands twice`},
		{"an id of another spelling", `[{"ID":"a"}]`, `"ID" looks like "id"`},
		{"a look-alike of services", `[{"id":"a","Services":["x"]}]`, `"Services" looks like "services"`},
		{"a look-alike of region", `[{"id":"a","REGION":"eu"}]`, `"REGION" looks like "region"`},
		{"services as null among names", `[{"id":"a","services":[null]}]`, "line 1: services"},
		{"an id with a newline", `[{"id":"a\n"}]`, `id "a\n"`},
		{"an id with a zero", `[{"id":"a\u0000"}]`, "id "},
		{"an id with a bidi control", `[{"id":"a\u202eb"}]`, "id "},
		{"an id that ends in a dash", `[{"id":"a-"}]`, `id "a-"`},
		{"one page of several", `{"accounts":[` + one + `],"next_page_token":"x"}`, "one page of several"},
		{"one page of several, elsewhere", `{"accounts":[` + one + `],"hasMore":true}`, `line 1: member "hasMore"`},
		{"fewer accounts than a total", `{"total_count":2,"accounts":[` + one + `]}`, "line 1: total_count says that there are 2"},
		{"a lone surrogate as a name", `[{"id":"a","\ud800":1,"\ud800":2}]`, "stands twice"},
		{"a comma for a list", ",", "line"},
		{"a NUL in front", "\x00[]", ""},
		{"a directive", "%YAML 1.1\n---\n- {id: a, is_uat: yes}\n", "line 3: is_uat"},
		{"a directive of an unknown tag", "%TAG ! tag:x,2000:\n---\n- !y {id: a}\n", "explicit tags"},
		{"an alias that is not defined", "- *x\n", "x"},
		{"an alias as a bomb", bomb, "anchors"},
		{"freezes as a mapping", `{"accounts":[` + one + `],"freezes":{}}`, "line 1: freezes is a mapping"},
		{"a look-alike of freezes", `{"accounts":[` + one + `],"Freezes":[]}`, `"Freezes" looks like "freezes"`},
		{"a freeze that is a string", `{"accounts":[` + one + `],"freezes":["x"]}`, "freeze 1: line 1: a string"},
		{"a freeze without an end", `{"accounts":[` + one + `],"freezes":[{"from":"2026-01-01T00:00:00Z","reason":"r"}]}`, "freeze 1: line 1: there is no member to"},
		{"a freeze without a reason", `{"accounts":[` + one + `],"freezes":[{"from":"2026-01-01T00:00:00Z","to":"2027-01-01T00:00:00Z"}]}`, "no member reason"},
		{"a freeze with an empty reason", `{"accounts":[` + one + `],"freezes":[{"from":"2026-01-01T00:00:00Z","to":"2027-01-01T00:00:00Z","reason":" "}]}`, "reason is a string"},
		{"a freeze without a zone", "accounts: [{id: a}]\nfreezes:\n- {from: 2026-01-01T00:00:00, to: 2027-01-01T00:00:00Z, reason: r}\n", "freeze 1: line 3: from"},
		{"a freeze with a day alone", "accounts: [{id: a}]\nfreezes:\n- {from: 2026-01-01, to: 2027-01-01T00:00:00Z, reason: r}\n", "freeze 1: line 3: from"},
		{"a freeze in seconds", `{"accounts":[` + one + `],"freezes":[{"from":1,"to":2,"reason":"r"}]}`, "from is a number"},
		{"a freeze that ends before it begins", `{"accounts":[` + one + `],"freezes":[{"from":"2027-01-01T00:00:00Z","to":"2026-01-01T00:00:00Z","reason":"r"}]}`, "before it begins"},
		{"a freeze with a member that is not known", `{"accounts":[` + one + `],"freezes":[{"from":"2026-01-01T00:00:00Z","to":"2027-01-01T00:00:00Z","reason":"r","region":"eu"}]}`, `member "region" is not known`},
		{"a freeze for a number", `{"accounts":[` + one + `],"freezes":[{"from":"2026-01-01T00:00:00Z","to":"2027-01-01T00:00:00Z","reason":"r","regions":[1]}]}`, "regions holds a number"},
		{"33 MiB", strings.Repeat(" ", 33<<20) + "[]", "larger than 32 MiB"},
		{"32 MiB of brackets", strings.Repeat("[", 32<<20), "nested deeper"},
		{"32 MiB of lines", strings.Repeat("\n", 32<<20-1) + "x", "more than 900000 values"},
		{"32 MiB of one name", "[{\"" + strings.Repeat("a", 32<<20-20) + "\":", "line 1"},
		{"a million values", "[" + strings.Repeat("0,", 1_000_000) + "0]", "line 1: more than 900000 values"},
	}
	t.Logf("%d shapes", len(tests))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			started := time.Now()
			_, err := Parse([]byte(tt.text))
			took := time.Since(started)
			// All that was allocated, not only what was in use at one time: more than this can never have been needed.
			if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 256<<20 || took > 5*time.Second {
				t.Errorf("needed %s and %d MiB", took, (after.TotalAlloc-before.TotalAlloc)>>20)
			}
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("no %q in: %v", tt.want, err)
			}
			if !strings.Contains(err.Error(), "line ") && !ofTheWhole.MatchString(err.Error()) {
				t.Errorf("no place in: %v", err)
			}
		})
	}
}

// ofTheWhole matches what is wrong with a text as a whole.
var ofTheWhole = regexp.MustCompile(`^(empty|not valid UTF-8|larger than 32 MiB|more than one YAML document|more than 900000 values|it is one page of several.*)$`)

func version(t *testing.T, s string) release.Version {
	t.Helper()
	v, err := release.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

const fiveAccounts = `[{"id":"orchid","is_uat":true,"region":"eu"},{"id":"willow","is_uat":true,"region":"us"},
	{"id":"maple","region":"eu"},{"id":"cedar","region":"us","services":["frontend"]},{"id":"birch","is_uat":null,"region":"eu"}]`

func TestDecide(t *testing.T) {
	inv, err := Parse([]byte(fiveAccounts))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, version, region string
		max                   float64
		channel               string
		allowed, held         []string
		fails                 bool
	}{
		{"a candidate is for UAT accounts", "v2.0.0-rc.1", "", 0.5, "uat", []string{"orchid", "willow"}, []string{"maple", "cedar", "birch"}, false},
		{"any pre-release is a candidate", "v2.0.0-0", "", 0.5, "uat", []string{"orchid", "willow"}, []string{"maple", "cedar", "birch"}, false},
		{"a final is for all that run the service", "v2.0.0", "", 0.5, "production", []string{"orchid", "willow", "maple", "birch"}, []string{"cedar"}, false},
		{"a region holds the others", "v2.0.0", "us", 0.5, "production", []string{"willow"}, []string{"orchid", "maple", "cedar", "birch"}, false},
		{"exactly the share is not more than it", "v2.0.0-rc.1", "", 0.4, "uat", []string{"orchid", "willow"}, []string{"maple", "cedar", "birch"}, false},
		{"too large a share is refused", "v2.0.0-rc.1", "", 0.39, "uat", nil, []string{"orchid", "willow", "maple", "cedar", "birch"}, true},
		{"the share does not bind finals", "v2.0.0", "", 0, "production", []string{"orchid", "willow", "maple", "birch"}, []string{"cedar"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Decide(Request{Version: version(t, tt.version), Service: "backend", Region: tt.region, MaxUATShare: tt.max}, inv)
			if (err != nil) != tt.fails {
				t.Fatalf("error %v", err)
			}
			if d.Channel != tt.channel {
				t.Errorf("channel %q", d.Channel)
			}
			names := func(vs []Verdict) (ids []string) {
				for _, v := range vs {
					if v.Reason == "" {
						t.Errorf("no reason for %s", v.Account)
					}
					ids = append(ids, v.Account)
				}
				return ids
			}
			if diff := cmp.Diff(tt.allowed, names(d.Allowed)); diff != "" {
				t.Error("allowed", diff)
			}
			if diff := cmp.Diff(tt.held, names(d.Held)); diff != "" {
				t.Error("held", diff)
			}
			for _, id := range tt.allowed {
				if ok, _ := d.Allows(id); !ok {
					t.Errorf("%s is not allowed", id)
				}
			}
			for _, id := range append(tt.held, "stranger", "ORCHID") {
				if ok, _ := d.Allows(id); ok {
					t.Errorf("%s is allowed", id)
				}
			}
		})
	}
}

// The property the suite exists for: whatever the inventory, the version and the guards, no account without a true boolean is_uat is allowed
// a pre-release, and every account of a valid inventory gets exactly one verdict. What is decided survives its file, and is confirmed by the
// inventory that it was made on, but not by one in which an account was made a UAT account or lost being one.
func TestNoPreReleaseReachesAnAccountThatIsNotUAT(t *testing.T) {
	const cases = 100_000
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(list []string) string { return list[rng.IntN(len(list))] }
	uatValues := []string{"true", "false", "null", `"true"`, "1", "[true]", "{}", "missing", "0", `""`}
	names := []string{"is_uat", "is_uat", "is_uat", "IS_UAT", "is-uat", "isUat", "i\u017f_uat", "uat"}
	suffixes := []string{"", "-rc.1", "-0", "-alpha", "-rc.1.x", "-beta-2"}
	now := time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC)
	valid, candidates, frozen, refused, overridden := 0, 0, 0, 0, 0
	for range cases {
		truth := map[string]bool{}
		var items []string
		for i := range 1 + rng.IntN(6) {
			value, name := "true", "is_uat"
			if rng.IntN(4) == 0 { // mostly well formed, or no inventory would be valid
				value, name = pick(uatValues), pick(names)
			} else if rng.IntN(2) == 0 {
				value = "false"
			}
			id := fmt.Sprintf("a%d", i)
			truth[id] = name == "is_uat" && value == "true"
			item := fmt.Sprintf(`{"id":%q,%q:%s`, id, name, value)
			if value == "missing" {
				item = fmt.Sprintf(`{"id":%q`, id)
			}
			items = append(items, item+pick([]string{"", "", `,"region":"eu"`, `,"region":"us"`, `,"services":["backend"]`, `,"services":[]`})+"}")
		}
		text := `{"accounts":[` + strings.Join(items, ",") + "]" + pick([]string{
			"", "", "", `,"freezes":[]`,
			`,"freezes":[{"from":"2026-12-20T00:00:00Z","to":"2027-01-04T00:00:00Z","reason":"r","override":["ada"]}]`,
			`,"freezes":[{"from":"2026-12-20T00:00:00Z","to":"2027-01-04T00:00:00Z","reason":"r","regions":["eu"]}]`,
			`,"freezes":[{"from":"2026-12-25T00:00:00Z","to":"2027-01-04T00:00:00Z","reason":"r"}]`,
			`,"freezes":[{"from":"2026-12-20T00:00:00Z","to":"2027-01-04T00:00:00Z","reason":"r","services":["frontend"]}]`,
		}) + "}"
		inv, err := Parse([]byte(text))
		if err != nil {
			continue
		}
		valid++
		r := Request{
			Version: version(t, fmt.Sprintf("v%d.%d.%d%s", rng.IntN(3), rng.IntN(3), rng.IntN(3), pick(suffixes))), Service: pick([]string{"backend", "frontend"}),
			Image: "r/i", Digest: "sha256:" + strings.Repeat("a", 64), InventorySHA256: hash(text), Region: pick([]string{"", "", "eu"}),
			MaxUATShare: pick2(rng, 1, 0.5), RequireCandidate: rng.IntN(8) == 0, Now: now,
		}
		if rng.IntN(3) == 0 {
			r.Override = &Overriding{By: pick([]string{"ada", "bob"}), Reason: "urgent"}
		}
		candidate := r.Version.IsPrerelease()
		d, err := Decide(r, inv)
		if candidate {
			candidates++
		}
		if err != nil {
			if len(d.Allowed) > 0 {
				t.Fatalf("refused (%v), and %d are allowed by %s", err, len(d.Allowed), text)
			}
			refused++
			if _, ok := errors.AsType[*FreezeError](err); ok {
				frozen++
			}
		}
		overridden += len(d.Overrides)
		seen := map[string]int{}
		for _, a := range d.Allowed {
			seen[a.Account]++
			if candidate && !truth[a.Account] {
				t.Fatalf("%s may receive %s by %s", a.Account, r.Version, text)
			}
		}
		for _, h := range d.Held {
			seen[h.Account]++
		}
		for id := range truth {
			if seen[id] != 1 {
				t.Fatalf("%s has %d verdicts by %s", id, seen[id], text)
			}
		}
		if len(seen) != len(truth) {
			t.Fatalf("%d verdicts by %s", len(seen), text)
		}
		checkFile(t, d, text)
		if candidate && len(d.Allowed) > 0 {
			other := strings.Replace(text, `"is_uat":true`, `"is_uat":false`, 1)
			if changed, err := Parse([]byte(other)); err != nil || other == text || len(d.Contradicts(inv)) > 0 {
				t.Fatalf("%v: %q by %s", err, d.Contradicts(inv), text)
			} else if d.Verify([]byte(other)) == nil || truth[d.Allowed[0].Account] && len(d.Contradicts(Inventory{})) != len(d.Allowed) {
				t.Fatalf("an inventory that was changed confirms it: %s, %v", other, changed)
			}
		}
	}
	t.Logf("%d valid, %d of them with a candidate, %d refused, %d of those by a freeze, %d freezes overridden", valid, candidates, refused, frozen, overridden)
	if valid < cases/4 || candidates < cases/10 || frozen < cases/100 || refused < frozen+cases/100 || overridden < cases/100 {
		t.Error("too few to mean anything")
	}
}

func pick2(rng *rand.Rand, a, b float64) float64 {
	if rng.IntN(2) == 0 {
		return a
	}
	return b
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// checkFile holds a decision against itself after its file, and against its inventory.
func checkFile(t *testing.T, d Decision, inventory string) {
	t.Helper()
	raw, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseDecision(raw)
	if err != nil || !reflect.DeepEqual(got, d) {
		t.Fatalf("%v: %s became %+v", err, raw, got)
	}
	if err := got.Verify([]byte(inventory)); err != nil {
		t.Fatalf("%v: %s by %s", err, raw, inventory)
	}
}

func sampleDecision(t *testing.T) Decision {
	t.Helper()
	inv, err := Parse([]byte(fiveAccounts))
	if err != nil {
		t.Fatal(err)
	}
	d, err := Decide(Request{
		Version: version(t, "v2.0.0-rc.1"), Service: "backend", Image: "registry.example/backend", Digest: "sha256:" + strings.Repeat("a", 64),
		InventorySHA256: strings.Repeat("b", 64), MaxUATShare: 0.5, Build: "build-1", Inventory: "accounts.yaml", InventoryCommit: strings.Repeat("c", 40),
	}, inv)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestADecisionSurvivesItsFile(t *testing.T) {
	want := sampleDecision(t)
	want.Overrides = []Override{{Freeze: "end of the year", Until: "2027-01-04T00:00:00Z", By: "ada", Reason: "urgent"}}
	want.Findings = []Finding{{Kind: FindingNoAccount, Account: "ghost", File: "a.yaml", Line: 7, Policy: "ns:p", Detail: "why"}}
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseDecision(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	framed := `{"schema":"s","build_id":"b","status":"done",` + string(raw[1:])
	if got, err = ParseDecision([]byte(framed)); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("with the frame's members: %v", err)
	}
}

func TestATamperedDecisionIsRefused(t *testing.T) {
	raw, err := json.Marshal(sampleDecision(t))
	if err != nil {
		t.Fatal(err)
	}
	good := string(raw)
	for name, text := range map[string]string{
		"a final version in the UAT channel":    strings.Replace(good, "v2.0.0-rc.1", "v2.0.0", 1),
		"a candidate in the production channel": strings.Replace(good, `"channel":"uat"`, `"channel":"production"`, 1),
		"an account on both sides":              strings.Replace(good, `"account":"maple"`, `"account":"orchid"`, 1),
		"an account twice in another case":      strings.Replace(good, `"account":"maple"`, `"account":"Orchid"`, 1),
		"allowed twice":                         strings.Replace(good, `"held":`, `"allowed":[],"held":`, 1),
		"an unknown member":                     strings.Replace(good, `"region":""`, `"region":"","extra":1`, 1),
		"a look-alike member":                   strings.Replace(good, `"allowed"`, `"Allowed"`, 1),
		"a short digest":                        strings.Replace(good, strings.Repeat("a", 64), "aa", 1),
		"a short hash":                          strings.Replace(good, strings.Repeat("b", 64), "bb", 1),
		"a loose version":                       strings.Replace(good, "v2.0.0-rc.1", "v2.0-rc.1", 1),
		"no image":                              strings.Replace(good, "registry.example/backend", "", 1),
		"a list of strings":                     strings.Replace(good, `"held":[`, `"held":["x",`, 1),
		"an override without a reason":          strings.Replace(good, `"overrides":[`, `"overrides":[{"freeze":"f","until":"u","by":"ada"}`, 1),
		"an override with a member more":        strings.Replace(good, `"overrides":[`, `"overrides":[{"freeze":"f","until":"u","by":"ada","reason":"r","x":"y"}`, 1),
		"a finding on half a line":              strings.Replace(good, `"findings":[`, `"findings":[{"kind":"k","line":1.5}`, 1),
		"a finding on a line in words":          strings.Replace(good, `"findings":[`, `"findings":[{"kind":"k","line":"1"}`, 1),
		"a build that is a number":              strings.Replace(good, `"build":"build-1"`, `"build":1`, 1),
		"text behind it":                        good + "{}",
		"cut":                                   good[:len(good)-3],
		"not a mapping":                         "[]",
		"empty":                                 "{}",
	} {
		t.Run(name, func(t *testing.T) {
			if text == good {
				t.Fatal("the case changes nothing")
			}
			if _, err := ParseDecision([]byte(text)); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(fiveAccounts))
	f.Add([]byte("accounts:\n- {id: a, is_uat: true}\n- id: b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		inv, err := Parse(b)
		if err != nil {
			return
		}
		if len(inv.Accounts) == 0 {
			t.Fatal("a valid inventory without accounts")
		}
		for _, a := range inv.Accounts {
			if got, ok := inv.Find(a.ID); !ok || got.ID != a.ID {
				t.Fatalf("%q cannot be found", a.ID)
			}
		}
	})
}

func FuzzParseDecision(f *testing.F) {
	f.Add([]byte(`{"version":"v1.0.0","service":"s","image":"r/i","digest":"sha256:` + strings.Repeat("a", 64) + `","channel":"production","inventory_sha256":"` +
		strings.Repeat("b", 64) + `","region":"","allowed":[{"account":"a","region":"","reason":"r"}],"held":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDecision(b)
		if err != nil {
			return
		}
		raw, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseDecision(raw); err != nil {
			t.Fatalf("not accepted again: %v", err)
		}
	})
}
