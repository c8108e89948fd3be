package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime/debug"
	"strings"
	"unicode"

	"github.com/deepdesk/cloudbuild-steps/internal/accounts"
	"github.com/deepdesk/cloudbuild-steps/internal/github"
	"github.com/deepdesk/cloudbuild-steps/internal/gitrepo"
	"github.com/deepdesk/cloudbuild-steps/internal/hold"
	"github.com/deepdesk/cloudbuild-steps/internal/inventory"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// location is ACCOUNTS: a path, or a URL.
type location struct {
	path string
	url  inventory.Address
}

// UnmarshalText reads a path or a URL.
func (l *location) UnmarshalText(b []byte) error {
	text := string(b)
	if strings.ContainsFunc(text, unicode.IsControl) {
		return errors.New("it holds a control character")
	}
	if !strings.Contains(text, "://") {
		l.path = text
		return nil
	}
	var err error
	l.url, err = inventory.ParseAddress(text)
	return err
}

// MayHoldSecret keeps a URL that was refused out of the messages: it may have been refused for the password in it.
func (l *location) MayHoldSecret() {}

// String is the path, or the URL without its query.
func (l location) String() string { return l.path + l.url.String() }

func (l location) isURL() bool { return l.path == "" }

// inputs is all that the decision depends on, beside the image. What comes from the config repo is of one commit.
type inputs struct {
	inventory accounts.Inventory
	source    string // where the inventory was read
	commit    string // of the config repo that held it; empty when it came from elsewhere
	sha256    string // of its bytes, of all pages in their order
	recorded  []accounts.Decision
	holds     hold.List
	survey    *survey // nil without a config repo
}

// softLimit is the memory, in bytes, from which on the garbage collector works harder. Without it, a YAML inventory of 100,000 accounts takes
// twice what it needs.
const softLimit = 144 << 20

// readInputs reads the inventory, the freeze windows, the recorded decisions and the markers.
func readInputs(ctx context.Context, b *step.Build, in In) (inputs, error) {
	debug.SetMemoryLimit(softLimit)
	var got inputs
	read := readLocal
	if in.ConfigURL != "" {
		remote := gitrepo.Remote{URL: in.ConfigURL.String(), Username: in.GitUsername, Token: in.GitToken, Renew: github.App(in.GitHubApp).Tokens(github.ReadContents)}
		snapshot, err := gitrepo.Open(ctx, remote, in.ConfigBranch)
		if err != nil {
			return got, err
		}
		read = func(name, variable string) ([]byte, error) { return readCommitted(snapshot, in, name, variable) }
		if got.holds, err = readHolds(snapshot, in); err != nil {
			return got, err
		}
		if got.recorded, err = readRecorded(b, snapshot, in); err != nil {
			return got, err
		}
		s, err := newSurvey(snapshot, in)
		if err != nil {
			return got, err
		}
		got.survey = &s
		if !in.Accounts.isURL() {
			got.commit, got.source = snapshot.Commit, path.Join(in.ConfigPath, in.Accounts.path)
		}
	}
	if err := got.readInventory(ctx, in, read); err != nil {
		return got, err
	}
	if in.Freezes != "" {
		raw, err := read(in.Freezes, "FREEZES")
		if err != nil {
			return got, err
		}
		more, err := accounts.ParseFreezes(raw)
		if err != nil {
			return got, step.Refuse("correct the freeze windows; while they are defective nothing is deployed", "freeze windows %s: %w", in.Freezes, err)
		}
		got.inventory.Freezes = append(got.inventory.Freezes, more...)
	}
	return got, nil
}

// readInventory reads the accounts, from the service that knows them or from a file.
func (got *inputs) readInventory(ctx context.Context, in In, read func(name, variable string) ([]byte, error)) error {
	const advice = "correct the inventory; while it is defective nothing is deployed"
	hash := sha256.New()
	if in.Accounts.isURL() {
		service := inventory.Service{Address: in.Accounts.url, Header: in.AccountsHeader, Token: in.AccountsToken, Loopback: in.AccountsLoopback}
		snapshot, err := service.Read(ctx)
		if _, ok := errors.AsType[*inventory.DefectError](err); ok {
			return step.Refuse(advice, "inventory %s: %w", in.Accounts, err)
		}
		if err != nil {
			return err
		}
		for _, page := range snapshot.Pages {
			_, _ = hash.Write(page) // a hash does not fail
		}
		got.inventory, got.source = snapshot.Inventory, in.Accounts.String()
	} else {
		raw, err := read(in.Accounts.path, "ACCOUNTS")
		if err != nil {
			return err
		}
		_, _ = hash.Write(raw)
		if got.inventory, err = accounts.Parse(raw); err != nil {
			return step.Refuse(advice, "inventory %s: %w", in.Accounts, err)
		}
		if got.source == "" {
			got.source = in.Accounts.path
		}
	}
	got.sha256 = hex.EncodeToString(hash.Sum(nil))
	return nil
}

// readRecorded reads the decisions on the service that bump-config committed. One that cannot be read is reported and left out: it can only
// be missing where REQUIRE_CANDIDATE looks for it, which refuses then.
func readRecorded(b *step.Build, s *gitrepo.Snapshot, in In) ([]accounts.Decision, error) {
	var list []accounts.Decision
	folder := path.Join(in.ConfigPath, in.DecisionsPath, in.service()) + "/"
	err := s.Walk(func(f gitrepo.File) error {
		if path.Dir(f.Path)+"/" != folder || path.Ext(f.Path) != ".json" || !f.Mode.IsRegular() {
			return nil
		}
		raw, err := f.Read()
		if err != nil {
			return err
		}
		d, err := accounts.ParseDecision(raw)
		if err == nil && (d.Version+".json" != path.Base(f.Path) || d.Service != in.service()) {
			err = fmt.Errorf("it is about %s %s", d.Service, d.Version)
		}
		if err != nil {
			b.Log.Warn(fmt.Sprintf("the recorded decision %s is left out: %v", f.Path, err))
			return nil
		}
		list = append(list, d)
		return nil
	})
	return list, err
}

// readCommitted reads a file of the config repo.
func readCommitted(s *gitrepo.Snapshot, in In, name, variable string) ([]byte, error) {
	name = path.Join(in.ConfigPath, name)
	raw, found, err := s.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, step.Misconfigured("set "+variable+" to the path of a file in the config repo", "%s has no file %s on branch %s", in.ConfigURL, name, in.ConfigBranch)
	}
	return raw, nil
}

// readLocal reads a file with a bound, since a path may name a device.
func readLocal(name, variable string) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, step.Misconfigured("set "+variable+" to the path of a file, or CONFIG_REPO to the repository that holds it", "reading %s: %w", name, err)
	}
	info, err := os.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return fail(err)
	}
	f, err := os.Open(name)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, accounts.MaxBytes+1))
	if err == nil && len(raw) > accounts.MaxBytes {
		err = fmt.Errorf("larger than %d MiB", accounts.MaxBytes>>20)
	}
	if err != nil {
		return fail(err)
	}
	return raw, nil
}
