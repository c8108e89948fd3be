package main

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"text/template"

	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// messageTemplate is COMMIT_MESSAGE.
type messageTemplate struct{ t *template.Template }

// UnmarshalText parses the template and tries it out, so that a wrong field is found before anything is done.
func (m *messageTemplate) UnmarshalText(b []byte) error {
	t, err := parseMessage(string(b))
	if err != nil {
		return err
	}
	for _, sample := range samples {
		if _, err := render(t, sample); err != nil {
			return err
		}
	}
	m.t = t
	return nil
}

// samples are what a message may be about: everything that can be said, and no more than there always is. A template that only works
// with one of them would fail on the day of the other.
var samples = []messageData{
	{
		Service: "backend", Image: "example.com/backend", Tag: "v1.0.0", Digest: "sha256:00", Channel: "uat", Accounts: []string{"a"},
		Edits: []Edit{{File: "f.yaml", Line: 1, Policy: "ns:p", Field: "tag", From: "v0.9.0", To: "v1.0.0", Account: "a"}},
		Held:  []Skip{{File: "f.yaml", Line: 2, Policy: "ns:p", Account: "b", Reason: "held"}}, Back: []string{"backend v1.1.0 is held"}, Decision: "decided",
		Commit: "00", Branch: "main", Repo: "backend", Build: "https://example.com",
		Images: []Image{{"example.com/backend", "v1.0.0", "sha256:00"}},
	},
	{Service: "images", Images: []Image{{"example.com/a", "v1.0.0", ""}, {"example.com/b", "v2.0.0", ""}}, Edits: []Edit{{Field: "tag"}, {Field: "image"}}},
	{Service: "backend", Image: "example.com/backend", Tag: "main-4f2a91c-1764000000", Channel: "staging", Edits: []Edit{{Field: "tag"}}},
}

func parseMessage(text string) (*template.Template, error) {
	return template.New("COMMIT_MESSAGE").Option("missingkey=error").Funcs(template.FuncMap{"few": few, "join": strings.Join, "base": path.Base}).Parse(text)
}

// messageData is what a template can use.
type messageData struct {
	Service, Image, Tag, Digest, Channel string
	Images                               []Image  // all that is written; Image, Tag and Digest are empty when there are several
	Accounts                             []string // that receive the tag, sorted
	Edits                                []Edit
	Held                                 []Skip
	Back                                 []string // holds that are the reason to go back
	Decision                             string   // the gate's decision in one line; empty when no gate ran
	Commit, Branch, Repo, Build          string   // of the service that is delivered; Build is the URL of the build
}

// defaultMessage is written for people who read the log of the config repo: what changed, for whom, why, and where from.
const defaultMessage = `chore({{.Service}}): {{.Tag}}{{if .Accounts}} for {{few .Accounts}}{{else}} on {{.Channel}}{{end}}

{{.Image}}:{{.Tag}}{{with .Digest}}
{{.}}{{end}}

` + messageBody

const messageBody = `{{with .Decision}}{{.}}
{{end}}{{range .Edits}}{{if or (eq .Field "tag") (eq .Field "image")}}{{.File}}:{{.Line}} {{.Policy}}{{with .Account}} ({{.}}){{end}}: {{with .From}}{{.}}{{else}}nothing{{end}} -> {{.To}}
{{end}}{{end}}{{with .Back}}
Going back, because
{{range .}}{{.}}
{{end}}{{end}}{{with .Held}}
Held:
{{range .}}{{.File}}:{{.Line}} {{.Policy}}: {{.Reason}}
{{end}}{{end}}
{{with .Commit}}Source-Commit: {{.}}{{with $.Repo}} ({{.}}{{with $.Branch}}, {{.}}{{end}}){{end}}
{{end}}{{with .Build}}Build: {{.}}
{{end}}`

// few names the first three and counts the rest.
func few(names []string) string {
	if len(names) > 4 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}

// maxMessage bounds a commit message, in bytes.
const maxMessage = 64 << 10

func render(t *template.Template, data messageData) (string, error) {
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		return "", err
	}
	text := strings.TrimSpace(b.String())
	if text == "" {
		return "", errors.New("the message is empty")
	}
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "\n…"
	}
	return text + "\n", nil
}

// message renders the commit message of the plan.
func (p *plan) message(b *step.Build) (string, error) {
	t := p.in.CommitMessage.t
	if t == nil {
		var err error
		if t, err = parseMessage(p.defaultMessage()); err != nil {
			return "", fmt.Errorf("parsing the default message: %w", err)
		}
	}
	data := messageData{
		Service: p.service(), Images: p.images(), Image: p.target.image, Tag: p.target.tag, Digest: p.target.digest, Channel: string(p.target.channel()),
		Edits: p.edits, Commit: p.in.CommitSHA, Branch: p.in.BranchName, Repo: p.in.RepoName, Build: b.URL(),
	}
	data.Back = slices.Compact(slices.Sorted(slices.Values(p.retreats)))
	for _, s := range p.skipped {
		if s.held {
			data.Held = append(data.Held, s)
		}
	}
	for _, e := range p.edits {
		if e.Account != "" && !slices.Contains(data.Accounts, e.Account) {
			data.Accounts = append(data.Accounts, e.Account)
		}
	}
	slices.Sort(data.Accounts)
	if d := p.target.decision; d != nil {
		data.Service = d.Service
		data.Decision = fmt.Sprintf("The gate allows %d accounts and holds %d (channel %s, inventory %.12s).\n", len(d.Allowed), len(d.Held), d.Channel, d.InventorySHA256)
	}
	text, err := render(t, data)
	if err != nil {
		return "", step.Misconfigured("correct COMMIT_MESSAGE", "writing the commit message: %w", err)
	}
	return text, nil
}
