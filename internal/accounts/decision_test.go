package accounts

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/release"
)

func inventory(t testing.TB, text string) Inventory {
	t.Helper()
	inv, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func allowedIDs(d Decision) (ids []string) {
	for _, v := range d.Allowed {
		ids = append(ids, v.Account)
	}
	return ids
}

func moment(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestFreezeWindows(t *testing.T) {
	const window = `{"from":"2026-12-20T00:00:00+01:00","to":"2027-01-04T06:00:00+01:00","reason":"end of the year"`
	for _, tt := range []struct {
		name, freezes, now, by string
		allowed                []string
		err                    string
		overrides              int
	}{
		{"before it begins", window + "}", "2026-12-19T22:59:59Z", "", []string{"orchid", "maple", "birch"}, "", 0},
		{"the first moment is in it, in its own zone", window + "}", "2026-12-19T23:00:00Z", "", nil, "deliveries are frozen until 2027-01-04T06:00:00+01:00: end of the year", 0},
		{"the last moment is not", window + "}", "2027-01-04T05:00:00Z", "", []string{"orchid", "maple", "birch"}, "", 0},
		{"a region holds its accounts, and those that may be in it", window + `,"regions":["eu"]}`, "2026-12-24T00:00:00Z", "", []string{"maple"}, "", 0},
		{"all regions together hold all", window + `,"regions":["eu"]},` + window + `,"regions":["us"]}`, "2026-12-24T00:00:00Z", "", nil, "in eu are frozen until", 0},
		{"no region at all", window + `,"regions":[]}`, "2026-12-24T00:00:00Z", "", []string{"orchid", "maple"}, "", 0},
		{"another service", window + `,"services":["frontend"]}`, "2026-12-24T00:00:00Z", "", []string{"orchid", "maple", "birch"}, "", 0},
		{"this service", window + `,"services":["backend"]}`, "2026-12-24T00:00:00Z", "", nil, "frozen", 0},
		{"nobody may override it", window + "}", "2026-12-24T00:00:00Z", "ada", nil, "ada may not override that", 0},
		{"one may override it", window + `,"override":["ada"]}`, "2026-12-24T00:00:00Z", "ada", []string{"orchid", "maple", "birch"}, "", 1},
		{"another may not", window + `,"override":["ada"]}`, "2026-12-24T00:00:00Z", "Ada", nil, "Ada may not", 0},
		{"both must be overridden", window + `,"override":["ada"]},` + window + `,"override":["bob"]}`, "2026-12-24T00:00:00Z", "ada", nil, "ada may not", 1},
		{"overriding where there is none", "", "2026-12-24T00:00:00Z", "ada", []string{"orchid", "maple", "birch"}, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inv := inventory(t, `{"accounts":[{"id":"orchid","is_uat":true,"region":"eu"},{"id":"maple","region":"us"},{"id":"birch"}],"freezes":[`+tt.freezes+`]}`)
			r := Request{Version: version(t, "v2.0.0"), Service: "backend", MaxUATShare: 1, Now: moment(t, tt.now)}
			if tt.by != "" {
				r.Override = &Overriding{By: tt.by, Reason: "urgent"}
			}
			d, err := Decide(r, inv)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if diff := cmp.Diff(tt.allowed, allowedIDs(d)); diff != "" {
				t.Error(diff)
			}
			if len(d.Overrides) != tt.overrides {
				t.Errorf("overrides %v", d.Overrides)
			}
		})
	}
}

func TestWhoMayLiftAFreeze(t *testing.T) {
	end := moment(t, "2027-01-04T06:00:00Z")
	for _, tt := range []struct {
		name  string
		lists [][]string
		want  string
	}{
		{"nobody", [][]string{nil}, "nobody may override it"},
		{"one", [][]string{{"ada"}}, "to one who may: ada"},
		{"only those who may lift all", [][]string{{"ada", "bob"}, {"bob"}}, "to one who may: bob"},
		{"none of them all", [][]string{{"ada"}, {"bob"}}, "nobody may override it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &FreezeError{}
			for i, list := range tt.lists {
				e.Freezes = append(e.Freezes, Freeze{To: end.Add(time.Duration(i) * time.Hour), Override: list})
			}
			fix := e.Fix()
			last := end.Add(time.Duration(len(tt.lists)-1) * time.Hour).Format(time.RFC3339)
			if !strings.Contains(fix, tt.want) || !strings.Contains(fix, "after "+last) {
				t.Errorf("%s", fix)
			}
		})
	}
}

func TestAFinalVersionMayNeedACandidate(t *testing.T) {
	digest, other := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	recorded := func(v, digest, image string, allowed ...string) Decision {
		d := Decision{Version: v, Service: "backend", Image: image, Digest: digest}
		for _, a := range allowed {
			d.Allowed = append(d.Allowed, Verdict{Account: a})
		}
		return d
	}
	for _, tt := range []struct {
		name, version string
		recorded      []Decision
		want          string // of the error; "" for none
	}{
		{"nothing is recorded", "v2.0.0", nil, "no decision on one is recorded"},
		{"its candidate", "v2.0.0", []Decision{recorded("v2.0.0-rc.1", digest, "r/i", "orchid")}, ""},
		{"one of several", "v2.0.0", []Decision{recorded("v2.0.0-rc.1", other, "r/i", "orchid"), recorded("v2.0.0-rc.2", digest, "r/i", "orchid")}, ""},
		{"another digest", "v2.0.0", []Decision{recorded("v2.0.0-rc.1", other, "r/i", "orchid")}, "v2.0.0-rc.1 was digest sha256:bbb"},
		{"nobody received it", "v2.0.0", []Decision{recorded("v2.0.0-rc.1", digest, "r/i")}, "v2.0.0-rc.1 was allowed to nobody"},
		{"a candidate of another version", "v2.0.0", []Decision{recorded("v2.0.1-rc.1", digest, "r/i", "orchid")}, "no decision on one"},
		{"another image", "v2.0.0", []Decision{recorded("v2.0.0-rc.1", digest, "r/other", "orchid")}, "no decision on one"},
		{"the final version itself is no candidate", "v2.0.0", []Decision{recorded("v2.0.0", digest, "r/i", "orchid")}, "no decision on one"},
		{"a candidate needs none", "v2.0.0-rc.1", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Decide(Request{
				Version: version(t, tt.version), Service: "backend", Image: "r/i", Digest: digest, MaxUATShare: 1, RequireCandidate: true, Recorded: tt.recorded,
			}, inventory(t, fiveAccounts))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if err != nil && (len(d.Allowed) > 0 || len(d.Held) != 5) {
				t.Errorf("%d allowed, %d held", len(d.Allowed), len(d.Held))
			}
		})
	}
}

// A decision that was edited into another one that is consistent in itself, and an inventory that was edited after the decision.
func TestADecisionIsHeldAgainstItsInventory(t *testing.T) {
	decide := func(v, region string) Decision {
		d, err := Decide(Request{
			Version: version(t, v), Service: "backend", Image: "r/i", Digest: "sha256:" + strings.Repeat("a", 64), InventorySHA256: hash(fiveAccounts), Region: region, MaxUATShare: 1,
		}, inventory(t, fiveAccounts))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	move := func(d *Decision) { // the first of the held is allowed
		d.Allowed, d.Held = append(d.Allowed, Verdict{Account: d.Held[0].Account, Reason: "UAT account"}), d.Held[1:]
	}
	for _, tt := range []struct {
		name, version, region string
		edit                  func(*Decision)
		inventory             string
		want                  string
	}{
		{"nothing was changed", "v2.0.0-rc.1", "", func(*Decision) {}, fiveAccounts, ""},
		{"a byte of the inventory", "v2.0.0-rc.1", "", func(*Decision) {}, fiveAccounts + " ", "is not the one that the decision was made on"},
		{"a production account is allowed a candidate", "v2.0.0-rc.1", "", move, fiveAccounts, "allows account maple, and by the inventory candidates are for UAT accounts only"},
		{"an account of another region is allowed", "v2.0.0", "eu", move, fiveAccounts, "allows account willow, and by the inventory only region eu is admitted"},
		{"an account that does not run the service is allowed", "v2.0.0", "", move, fiveAccounts, "allows account cedar, and by the inventory the account does not run backend"},
		{"an account is left out", "v2.0.0-rc.1", "", func(d *Decision) { d.Held = d.Held[1:] }, fiveAccounts, "is about 4 accounts, and the inventory has 5"},
		{"an account is put in the place of another", "v2.0.0-rc.1", "", func(d *Decision) { d.Held[0].Account = "ghost" }, fiveAccounts, "names account ghost"},
		{"a stranger is allowed", "v2.0.0-rc.1", "", func(d *Decision) { d.Allowed[0].Account = "ghost" }, fiveAccounts, "names account ghost"},
		{"the version is made final", "v2.0.0-rc.1", "", func(d *Decision) { d.Version, d.Channel = "v2.0.0", "production"; move(d) }, fiveAccounts, ""}, // the version is compared elsewhere
		{"the inventory is made another, with its hash", "v2.0.0-rc.1", "", func(d *Decision) { move(d); d.InventorySHA256 = hash("[]") }, "[]", "the inventory: line 1: accounts is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := decide(tt.version, tt.region)
			tt.edit(&d)
			raw, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			if d, err = ParseDecision(raw); err != nil {
				t.Fatalf("the case is not consistent in itself: %v", err)
			}
			err = d.Verify([]byte(tt.inventory))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	if got := decide("v2.0.0-rc.1", "").Contradicts(inventory(t, `[{"id":"orchid","is_uat":true},{"id":"willow"}]`)); !cmp.Equal(got, []string{"willow"}) {
		t.Errorf("an account that is no longer UAT: %q", got)
	}
	if got := decide("v2.0.0-rc.1", "").Contradicts(inventory(t, `[{"id":"orchid","is_uat":true}]`)); !cmp.Equal(got, []string{"willow"}) {
		t.Errorf("an account that is gone: %q", got)
	}
	if got := decide("v2.0.0", "").Contradicts(inventory(t, `[{"id":"orchid"}]`)); got != nil {
		t.Errorf("a final version: %q", got)
	}
}

func TestChangesSinceADecision(t *testing.T) {
	list := func(ids string) (verdicts []Verdict) {
		for _, id := range strings.Fields(ids) {
			verdicts = append(verdicts, Verdict{Account: id, Reason: "r"})
		}
		return verdicts
	}
	got := Changes(Decision{Allowed: list("a b c"), Held: list("d e f")}, Decision{Allowed: list("a d new"), Held: list("b e")})
	want := []Change{{"d", held, allowed, "r"}, {"new", absent, allowed, "r"}, {"b", allowed, held, "r"}, {"c", allowed, absent, "no longer in the inventory"}, {"f", held, absent, "no longer in the inventory"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if newest, ok := Newest([]Decision{{Version: "v1.9.0"}, {Version: "v2.0.0-rc.2"}, {Version: "v1.10.0"}, {Version: "v2.0.0-rc.1"}, {Version: "v3"}}); !ok || newest.Version != "v2.0.0-rc.2" {
		t.Errorf("newest %q, %v", newest.Version, ok)
	}
	if _, ok := Newest(nil); ok {
		t.Error("the newest of none")
	}
}

func TestWhoseAResourceIs(t *testing.T) {
	var pattern PathPattern
	if err := pattern.UnmarshalText([]byte("clusters/*/{account}/")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ label, annotation, file, account, doubt string }{
		{"", "", "other/backend.yaml", "", ""},
		{"maple", "", "other/backend.yaml", "maple", ""},
		{"", "maple", "clusters/eu/maple/backend.yaml", "maple", ""},
		{"", "", "clusters/eu/maple/deep/backend.yaml", "maple", ""},
		{"", "", "clusters/maple/backend.yaml", "", ""},
		{"maple", "", "clusters/eu/cedar/backend.yaml", "", `label, annotation and path name different accounts: ["maple" "cedar"]`},
		{"maple", "cedar", "x.yaml", "", "different accounts"},
		{"a b", "", "x.yaml", "", `"a b" is not an account's id`},
	} {
		account, doubt := Owner(tt.label, tt.annotation, pattern.Match(tt.file))
		if account != tt.account || !strings.Contains(doubt, tt.doubt) || (doubt == "") != (tt.doubt == "") {
			t.Errorf("%+v: %q, %q", tt, account, doubt)
		}
	}
	for _, text := range []string{"accounts", "accounts/*", "{account}/{account}", "a//{account}", "../{account}", "a*/{account}", "{account}x", "{id}/{account}"} {
		if err := new(PathPattern).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func FuzzParseFreezes(f *testing.F) {
	f.Add([]byte("freezes:\n- {from: 2026-12-20T00:00:00+01:00, to: 2027-01-04T06:00:00+01:00, reason: r, override: [ada]}\n"))
	f.Add([]byte(`[{"from":"2026-12-20T00:00:00Z","to":"2027-01-04T06:00:00Z","reason":"r","regions":["eu"],"services":[]}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := ParseFreezes(b)
		if err != nil {
			return
		}
		for _, w := range list {
			if !w.From.Before(w.To) || strings.TrimSpace(w.Reason) == "" {
				t.Fatalf("%+v is no window", w)
			}
		}
	})
}

// FuzzPages cuts an inventory into two pages: together they are the inventory that one page would be.
func FuzzPages(f *testing.F) {
	f.Add([]byte(`{"accounts":[{"id":"a"}],"next_page_token":"2"}`), []byte(`{"accounts":[{"id":"b","is_uat":true}],"total":2}`))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var r Reader
		next, err := r.Add(first)
		if err != nil || next.Token == "" {
			return
		}
		if _, err := r.Add(second); err != nil {
			return
		}
		inv, err := r.Inventory()
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, a := range inv.Accounts {
			if seen[strings.ToLower(a.ID)] {
				t.Fatalf("%q stands twice", a.ID)
			}
			seen[strings.ToLower(a.ID)] = true
			if got, ok := inv.Find(a.ID); !ok || got.IsUAT != a.IsUAT {
				t.Fatalf("%q cannot be found", a.ID)
			}
		}
	})
}

// BenchmarkGate is everything that gate-uat does with 100,000 accounts, and what a later step does with the decision.
func BenchmarkGate(b *testing.B) {
	const n = 100_000
	texts := map[string]string{}
	var json1, yaml1 strings.Builder
	json1.WriteString(`{"accounts":[`)
	yaml1.WriteString("accounts:\n")
	for i := range n {
		if i > 0 {
			json1.WriteByte(',')
		}
		fmt.Fprintf(&json1, `{"id":"account-%06d","is_uat":%t,"region":"europe-west1"}`, i, i%10 == 0)
		fmt.Fprintf(&yaml1, "- {id: account-%06d, is_uat: %t, region: europe-west1}\n", i, i%10 == 0)
	}
	texts["json"], texts["yaml"] = json1.String()+"]}", yaml1.String()
	v, err := release.Parse("v2.0.0-rc.1")
	if err != nil {
		b.Fatal(err)
	}
	for name, text := range texts {
		r := Request{Version: v, Service: "backend", Image: "r/i", Digest: "sha256:" + strings.Repeat("a", 64), InventorySHA256: hash(text), MaxUATShare: 0.5}
		b.Run("decide/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decide(r, inventory(b, text)); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("verify/"+name, func(b *testing.B) {
			d, err := Decide(r, inventory(b, text))
			if err != nil {
				b.Fatal(err)
			}
			raw, err := json.Marshal(d)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				d, err := ParseDecision(raw)
				if err == nil {
					err = d.Verify([]byte(text))
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestASealHoldsEveryMember(t *testing.T) {
	key := []byte("a key")
	sealed, err := sampleDecision(t).Sealed(key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := ParseDecision(raw); err != nil || d.CheckSeal(key) != nil {
		t.Fatalf("it does not survive its file: %v, %v", err, d.CheckSeal(key))
	}
	if sealed.CheckSeal([]byte("another key")) == nil || sampleDecision(t).CheckSeal(key) == nil {
		t.Error("another key, or no seal, is accepted")
	}
	for name, change := range map[string]func(*Decision){
		"version": func(d *Decision) { d.Version = "v2.0.0-rc.2" }, "service": func(d *Decision) { d.Service = "x" }, "image": func(d *Decision) { d.Image = "x" },
		"digest": func(d *Decision) { d.Digest = "x" }, "channel": func(d *Decision) { d.Channel = "production" }, "inventory_sha256": func(d *Decision) { d.InventorySHA256 = "x" },
		"region": func(d *Decision) { d.Region = "x" }, "build": func(d *Decision) { d.Build = "x" }, "inventory": func(d *Decision) { d.Inventory = "x" },
		"inventory_commit": func(d *Decision) { d.InventoryCommit = "" }, "allowed": func(d *Decision) { d.Allowed = d.Allowed[1:] },
		"held": func(d *Decision) { d.Held = d.Held[1:] }, "overrides": func(d *Decision) { d.Overrides = []Override{{}} }, "findings": func(d *Decision) { d.Findings = []Finding{{}} },
		"seal": func(d *Decision) { d.Seal = strings.Repeat("0", 64) },
	} {
		d := sealed
		change(&d)
		if d.CheckSeal(key) == nil {
			t.Errorf("%s can be changed", name)
		}
	}
}
