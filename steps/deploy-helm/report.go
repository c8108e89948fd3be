package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// reportName is the file beside the hand-over. It is one file without scripts and without anything from elsewhere, so that it can be kept
// as an artifact of the build and opened anywhere.
const reportName = "report.html"

//go:embed report.html
var reportHTML string

var reportPage = template.Must(template.New(reportName).Funcs(template.FuncMap{
	"seconds": func(s float64) string { return fmt.Sprintf("%.1f s", s) },
	"short":   shortCommit,
	"place":   shortCluster,
	"diff":    diffLines,
}).Parse(reportHTML))

// page is what report.html shows.
type page struct {
	Build, Link, Repo, Commit string
	Began                     time.Time
	Took                      float64 // seconds
	Outcome, Tone             string  // in a few words; Tone is the state that its colour is of
	Problem                   string  // why the run failed or refused
	Counts                    []count
	Accounts                  []accountRows
	Several                   bool // clusters
}

type count struct {
	State string
	N     int
}

// accountRows are the releases of one account, one for each service.
type accountRows struct {
	Account, Channel, Region string
	Releases                 []Release
}

// writeReport leaves the page, and returns its name. A page that cannot be written is not worth failing a deployment for.
func writeReport(b *step.Build, in In, out Out, outcome error, began time.Time) string {
	var text bytes.Buffer
	err := reportPage.Execute(&text, newPage(b, in, out, outcome, began, time.Now()))
	path := ""
	if err == nil {
		path, err = b.WriteFile(reportName, text.Bytes())
	}
	if err != nil {
		b.Log.Warn("the report was not written", "reason", err.Error())
		return ""
	}
	if path == "" {
		return ""
	}
	return reportName
}

func newPage(b *step.Build, in In, out Out, outcome error, began, now time.Time) page {
	p := page{
		Build: b.ID, Link: b.URL(), Repo: in.ConfigURL.String(), Commit: out.Commit, Began: began.UTC().Truncate(time.Second),
		Took:   now.Sub(began).Seconds(),
		Counts: []count{{deployed, out.Deployed}, {unchanged, out.Unchanged}, {failed, out.Failed}, {skipped, out.Skipped}},
	}
	for _, c := range []count{{orphaned, out.Orphaned}, {removed, out.Removed}} {
		if c.N > 0 {
			p.Counts = append(p.Counts, c)
		}
	}
	if p.Repo == "" {
		p.Repo = in.SourceDir
	}
	switch {
	case out.Releases == nil && outcome != nil:
		p.Outcome, p.Tone, p.Problem = "nothing was touched", failed, outcome.Error()
	case len(out.Releases) == 0 && outcome != nil:
		p.Outcome, p.Tone, p.Problem = "nothing to deploy", unchanged, outcome.Error()
	case out.Failed > 0:
		p.Outcome, p.Tone = "failed in part", failed
		if out.Failed == len(out.Releases) {
			p.Outcome = failed
		}
	case b.DryRun:
		p.Outcome, p.Tone = "dry run: nothing was touched", skipped
	case out.Deployed == 0 && out.Removed > 0:
		p.Outcome, p.Tone = removed, deployed
	case out.Deployed == 0:
		p.Outcome, p.Tone = "nothing to deploy", unchanged
	default:
		p.Outcome, p.Tone = deployed, deployed
	}
	at := map[string]int{}
	for _, r := range out.Releases {
		p.Several = p.Several || r.Cluster != out.Releases[0].Cluster
		i, ok := at[r.Account]
		if !ok {
			i = len(p.Accounts)
			at[r.Account] = i
			p.Accounts = append(p.Accounts, accountRows{Account: r.Account, Channel: r.channel, Region: r.Region})
		}
		p.Accounts[i].Releases = append(p.Accounts[i].Releases, r)
	}
	order := []string{staging, uat, production}
	slices.SortStableFunc(p.Accounts, func(a, b accountRows) int { return slices.Index(order, a.Channel) - slices.Index(order, b.Channel) })
	return p
}

func shortCommit(c string) string { return c[:min(12, len(c))] }

// shortCluster is a cluster's name without its project: LOCATION/CLUSTER.
func shortCluster(name string) string {
	if part := strings.Split(name, "/"); len(part) == 6 && part[0] == "projects" {
		return part[3] + "/" + part[5]
	}
	return name
}
