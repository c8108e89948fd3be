package main

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// example is a run with every state in it, and with text from outside that wants out of the page.
func example() Out {
	return Out{
		Commit: "0123456789abcdef0123456789abcdef01234567", Deployed: 2, Unchanged: 1, Failed: 2, Skipped: 1,
		Releases: []Release{
			{Account: "orchid", Region: "europe-west1", Namespace: "account-orchid", Name: "backend", Chart: "backend-1.0.0+0123456789ab", Cluster: "projects/example-cloud/locations/europe-west1/clusters/main", From: "v1.0.0", To: "v1.1.0", Revision: 4, State: deployed, Seconds: 3.4, channel: uat},
			{Account: "orchid", Region: "europe-west1", Namespace: "account-orchid", Name: "worker", Chart: "worker-2.3.0", Cluster: "projects/example-cloud/locations/europe-west1/clusters/main", From: "v0.9.1", To: "v0.9.1", Revision: 7, State: unchanged, channel: uat},
			{Account: "willow", Region: "us-central1", Namespace: "account-willow", Name: "backend", Chart: "backend-1.0.0+0123456789ab", Cluster: "projects/example-cloud/locations/us-central1/clusters/main", From: "v1.0.0", To: "v1.1.0", Revision: 6, State: rolledBack, Seconds: 8.25, Reason: `pod account-willow/backend-7c9d8b6f5-abcde, container backend: ImagePullBackOff: Back-off pulling image "europe-docker.pkg.dev/example-cloud/services/backend:v1.1.0@sha256:` + strings.Repeat("a", 64) + `" <script>alert(1)</script> (returned to revision 4)`, channel: uat},
			{Account: "maple", Region: "europe-west1", Namespace: "account-maple", Name: "backend", Cluster: "projects/example-cloud/locations/europe-west1/clusters/main", To: "v1.1.0", State: failed, Reason: "accounts/maple/backend.yaml: spec.kubeConfig is not supported", channel: production},
			{Account: `<b onclick="x">`, Region: "us-central1", Namespace: "account-cedar", Name: "backend", Chart: "backend-1.0.0", Cluster: "projects/example-cloud/locations/us-central1/clusters/main", From: "v1.0.0", To: "v1.1.0", Revision: 3, State: skipped, Reason: "not begun: account-willow/backend failed in the wave before", channel: production},
			{Account: "", Namespace: "staging", Name: "backend", Chart: "backend-1.0.0+0123456789ab", Cluster: "projects/example-cloud/locations/europe-west1/clusters/main", From: "main-0a1b2c3d4e5f-1760000000", To: "main-9f8e7d6c5b4a-1760003600", Revision: 12, State: deployed, Seconds: 2.13, channel: staging},
		},
	}
}

func render(t *testing.T, out Out, outcome error) string {
	t.Helper()
	began := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	var text strings.Builder
	b := &step.Build{ID: "3f2504e0-4f89-11d3-9a0c-0305e82c3301", ProjectID: "example-cloud", Location: "europe-west1"}
	in := In{ConfigRepo: step.ConfigRepo{ConfigURL: "https://github.com/example/config.git"}}
	if err := reportPage.Execute(&text, newPage(b, in, out, outcome, began, began.Add(14*time.Second))); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestTheReportShowsEveryAccountAndEscapesWhatItIsTold(t *testing.T) {
	page := render(t, example(), errors.New("2 deployed, 1 unchanged, 2 failed: …"))
	for _, want := range []string{
		`<title>Deployment: failed in part</title>`, `rowspan="2">orchid<br><span class="dim">uat, europe-west1`, `<td class="k v">us-central1/main</td>`,
		`<td class="k rolled-back">rolled-back</td>`, `v1.1.0<br><span class="dim">from v1.0.0`, `8.2 s`, `&lt;script&gt;alert(1)&lt;/script&gt;`, `&lt;b onclick=`,
		`<td class="v to">v0.9.1</td>`, `not begun: account-willow/backend failed in the wave before`, `<b>2</b> deployed`, `datetime="2026-10-01T12:00:00Z"`,
		`href="https://console.cloud.google.com/cloud-build/builds;region=europe-west1/3f2504e0-4f89-11d3-9a0c-0305e82c3301?project=example-cloud"`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if n := strings.Count(page, "<tr>"); n != 1+len(example().Releases) {
		t.Errorf("%d rows", n)
	}
	// In the order of the waves, whatever the order of the names.
	if at := regexp.MustCompile(`(?s)staging</span>.*uat, europe.*uat, us.*production, europe`); !at.MatchString(page) {
		t.Error("the accounts are not in the order of the waves")
	}
	// Self-contained: nothing is fetched and nothing runs.
	if found := regexp.MustCompile(`(?i)<script|\ssrc=|<link|@import|url\(|\son[a-z]+=["']`).FindString(page); found != "" {
		t.Errorf("the page holds %s", found)
	}
}

func TestTheReportSaysWhyNothingWasTouched(t *testing.T) {
	page := render(t, Out{}, errors.New("1 of 6 releases must not be deployed: <v1.1.0-rc.1> is a pre-release"))
	for _, want := range []string{"nothing was touched", "&lt;v1.1.0-rc.1&gt; is a pre-release"} {
		if !strings.Contains(page, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(page, "<table") {
		t.Error("an empty table")
	}
	if page := render(t, Out{Releases: []Release{}}, errors.New("no HelmRelease with labels account=x")); !strings.Contains(page, `<span class="unchanged">nothing to deploy</span>`) || !strings.Contains(page, "account=x") {
		t.Error("a run that finds nothing reads as a failure")
	}
	for want, out := range map[string]Out{
		"nothing to deploy": {Unchanged: 1, Releases: []Release{{State: unchanged}}}, ">deployed<": {Deployed: 1, Releases: []Release{{State: deployed}}},
		">failed<": {Failed: 1, Releases: []Release{{State: failed}}},
	} {
		if page := render(t, out, nil); !strings.Contains(page, want) {
			t.Errorf("%s is missing", want)
		}
	}
}

func FuzzRegions(f *testing.F) {
	f.Add("europe-west1=projects/p/locations/l/clusters/c,staging=projects/p/locations/l/clusters/c")
	f.Add("a=b,,b = c")
	f.Fuzz(func(t *testing.T, text string) {
		var c contexts
		if c.UnmarshalText([]byte(text)) != nil {
			return
		}
		seen := map[string]bool{}
		for _, r := range c {
			if r.region == "" || r.name == "" || seen[r.region] || strings.ContainsAny(r.region, "=, ") {
				t.Errorf("%q became %v", text, c)
			}
			seen[r.region] = true
		}
		if len(c) == 0 {
			t.Errorf("%q became nothing", text)
		}
	})
}
