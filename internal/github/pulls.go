package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// Pulls are the pull requests of one repository.
type Pulls struct {
	client      *client
	owner, name string
}

// OpenPulls prepares requests about the pull requests of the repository behind a Git URL. api may be empty: [PublicAPI].
func OpenPulls(api string, token Token, gitURL string) (*Pulls, error) {
	owner, name, err := Repository(gitURL)
	if err != nil {
		return nil, err
	}
	return &Pulls{client: newClient(api, token), owner: owner, name: name}, nil
}

// Pull is a pull request.
type Pull struct {
	Number int
	URL    string // of its page
	Open   bool
	Merged bool
	Head   string // commit of its branch, or what that was when it was closed
}

type pullAnswer struct {
	Number   int     `json:"number"`
	HTMLURL  string  `json:"html_url"`
	State    string  `json:"state"`
	MergedAt *string `json:"merged_at"`
	Head     struct {
		SHA string `json:"sha"`
	} `json:"head"`
}

func (a pullAnswer) pull() Pull {
	return Pull{Number: a.Number, URL: a.HTMLURL, Open: a.State == "open", Merged: a.MergedAt != nil, Head: a.Head.SHA}
}

func (p *Pulls) path() string {
	return "/repos/" + url.PathEscape(p.owner) + "/" + url.PathEscape(p.name) + "/pulls"
}

// Between returns the pull requests from a branch of this repository into another, the newest first, closed ones too: a hundred at most.
func (p *Pulls) Between(ctx context.Context, head, base string) ([]Pull, error) {
	query := url.Values{"head": {p.owner + ":" + head}, "base": {base}, "state": {"all"}, "sort": {"created"}, "direction": {"desc"}, "per_page": {"100"}}
	var got []pullAnswer
	// https://docs.github.com/rest/pulls/pulls#list-pull-requests
	if err := p.client.do(ctx, http.MethodGet, p.path()+"?"+query.Encode(), nil, &got); err != nil {
		return nil, fmt.Errorf("looking for pull requests from %s to %s: %w", head, base, err)
	}
	var list []Pull
	for _, a := range got {
		list = append(list, a.pull())
	}
	return list, nil
}

// Open opens a pull request. When one is open already, as after a request whose answer was lost, that one is returned.
func (p *Pulls) Open(ctx context.Context, head, base, title, body string) (Pull, error) {
	ask := struct {
		Title string `json:"title"`
		Head  string `json:"head"`
		Base  string `json:"base"`
		Body  string `json:"body"`
	}{title, head, base, body}
	var got pullAnswer
	// https://docs.github.com/rest/pulls/pulls#create-a-pull-request
	err := p.client.do(ctx, http.MethodPost, p.path(), ask, &got)
	if refused, ok := errors.AsType[*Error](err); ok && refused.Status == http.StatusUnprocessableEntity && strings.Contains(refused.Message, "already exists") {
		list, listErr := p.Between(ctx, head, base)
		if listErr != nil {
			return Pull{}, listErr
		}
		for _, pull := range list {
			if pull.Open {
				return pull, nil
			}
		}
	}
	if err != nil {
		return Pull{}, fmt.Errorf("opening a pull request from %s to %s: %w", head, base, err)
	}
	return got.pull(), nil
}
