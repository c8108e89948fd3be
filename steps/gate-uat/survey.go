package main

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/marker"
	"github.com/deepdesk/cloudbuild-steps/internal/policy"
	"github.com/deepdesk/cloudbuild-steps/internal/release"
)

// place is a marker of the service's image in the config repo.
type place struct {
	file    string
	line    int
	policy  policy.Policy
	account string
	doubt   string // why the account cannot be told
}

// survey is what the config repo holds for one image.
type survey struct {
	places []place
	notes  []string // files that could not be read
}

// newSurvey reads the markers of the policies that choose tags of the image: one place for each policy in each resource. Files that cannot be
// read are noted; they are bump-config's to complain about.
func newSurvey(s *gitrepo.Snapshot, in In) (survey, error) {
	var found survey
	var set policy.Set
	files := map[string][]marker.Marker{}
	root := path.Clean(in.ConfigPath) + "/"
	err := s.Walk(func(f gitrepo.File) error {
		if root != "./" && !strings.HasPrefix(f.Path, root) || !marker.IsFile(f.Path) || !f.Mode.IsRegular() {
			return nil
		}
		content, err := f.Read()
		if tooLarge, ok := errors.AsType[*gitrepo.TooLargeError](err); ok {
			found.notes = append(found.notes, tooLarge.Error())
			return nil
		}
		if err != nil {
			return err
		}
		if markers := marker.Find(content); len(markers) > 0 {
			files[f.Path] = markers
		}
		objects, err := policy.Parse(content)
		if err == nil {
			err = set.Merge(objects)
		}
		if err != nil {
			found.notes = append(found.notes, fmt.Sprintf("%s: %v", f.Path, err))
		}
		return nil
	})
	for name, markers := range files {
		found.places = append(found.places, placesOf(name, markers, set, in)...)
	}
	slices.SortFunc(found.places, func(a, b place) int {
		if a.file != b.file {
			return strings.Compare(a.file, b.file)
		}
		return a.line - b.line
	})
	return found, err
}

func placesOf(name string, markers []marker.Marker, set policy.Set, in In) []place {
	var places []place
	seen := map[string]bool{}
	for _, m := range markers {
		p, defined := set.Find(m.ID())
		image, _ := set.Image(p)
		if !defined || image != in.Image.String() {
			continue
		}
		key := fmt.Sprintf("%s %s %s %s", m.ID(), m.Resource.Kind, m.Resource.Namespace, m.Resource.Name)
		if seen[key] {
			continue
		}
		seen[key] = true
		at := place{file: name, line: m.Line, policy: p}
		at.account, at.doubt = accounts.Owner(m.Resource.Labels[in.AccountLabel], m.Resource.Annotations[in.AccountLabel], in.AccountPath.Match(name))
		places = append(places, at)
	}
	return places
}

// mostFindings is how many a decision lists: nobody reads more, and it has to stay readable for the steps after this one.
const mostFindings = 5000

// compare holds the config repo against the inventory, for a version. It looks at nothing but its arguments.
func (s survey) compare(inv accounts.Inventory, service string, version release.Version) []accounts.Finding {
	findings := []accounts.Finding{}
	candidate := version
	if !version.IsPrerelease() {
		candidate = version.WithCandidate("rc", 1)
	}
	served := map[string]bool{}
	for _, p := range s.places {
		admitsCandidates, _ := p.policy.Admits(candidate.String())
		admitsFinals, _ := p.policy.Admits(version.Core().String())
		a, known := inv.Find(p.account)
		f := accounts.Finding{Account: p.account, File: p.file, Line: p.line, Policy: p.policy.ID()}
		served[p.account] = true
		switch {
		case p.account == "" && p.doubt == "" && !admitsCandidates && !admitsFinals:
			continue // staging: no release comes here, and it is nobody's account
		case p.doubt != "":
			f.Kind, f.Detail = accounts.FindingNoAccount, p.doubt
		case p.account == "":
			f.Kind, f.Detail = accounts.FindingNoAccount, "no label, annotation or path says whose it is"
		case !known:
			f.Kind, f.Detail = accounts.FindingNoAccount, "the inventory has no such account"
		case a.IsUAT && !admitsCandidates:
			f.Kind, f.Detail = accounts.FindingUATFollowsFinal, fmt.Sprintf("the policy does not admit %s, so no candidate reaches this UAT account", candidate)
		case !a.IsUAT && admitsCandidates:
			f.Kind, f.Detail = accounts.FindingProductionOnEdge, fmt.Sprintf("the policy admits %s, and the account is not UAT: only the gate keeps candidates away", candidate)
		default:
			continue
		}
		findings = append(findings, f)
	}
	for _, a := range inv.Accounts {
		if a.Runs(service) && !served[a.ID] {
			findings = append(findings, accounts.Finding{
				Kind: accounts.FindingNoResource, Account: a.ID, Detail: fmt.Sprintf("no marker of %s stands in a resource of this account", service),
			})
		}
	}
	if more := len(findings) - mostFindings; more > 0 {
		findings = append(findings[:mostFindings], accounts.Finding{Kind: accounts.FindingFurther, Detail: fmt.Sprintf("%d more are not listed", more)})
	}
	return findings
}
