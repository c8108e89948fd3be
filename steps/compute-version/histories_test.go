package main

import (
	"bytes"
	"crypto/sha1"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/deepdesk/cloudbuild-steps/internal/release"
	"github.com/deepdesk/cloudbuild-steps/internal/step"
)

// history is one repository of testdata/histories.txt.
type history struct {
	name    string
	set     map[string]string
	commits []madeCommit
	want    string
}

type madeCommit struct {
	label   string
	parents []string // labels; "" is the line before
	root    bool
	message string
	tags    []string // annotated ones begin with ~
	clock   int64
}

var (
	bracket = regexp.MustCompile(`^\[([a-z0-9]*)(<[a-z0-9,]*)?\] (.*)$`)
	suffix  = regexp.MustCompile(`^(.*) (@\S+|\^-?[0-9]+)$`)
)

func parseHistories(t *testing.T) []history {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "histories.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var list []history
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimRight(line, " ")
		if line == "" || line[0] == '#' {
			continue
		}
		if name, ok := strings.CutPrefix(line, "== "); ok {
			list = append(list, history{name: name, set: map[string]string{}})
			continue
		}
		h := &list[len(list)-1]
		switch {
		case strings.HasPrefix(line, "? "):
			for _, pair := range strings.Fields(line[2:]) {
				name, value, _ := strings.Cut(pair, "=")
				h.set[name] = strings.ReplaceAll(value, "_", " ")
				if name != "PR_TITLE" {
					h.set[name] = value
				}
			}
		case strings.HasPrefix(line, "> "):
			h.want = line[2:]
		default:
			c := madeCommit{parents: []string{""}, root: len(h.commits) == 0}
			if m := bracket.FindStringSubmatch(line); m != nil {
				c.label, line = m[1], m[3]
				if m[2] == "<" {
					c.root = true
				} else if m[2] != "" {
					c.parents = strings.Split(m[2][1:], ",")
				}
			}
			for m := suffix.FindStringSubmatch(line); m != nil; m = suffix.FindStringSubmatch(line) {
				line = m[1]
				if m[2][0] == '@' {
					c.tags = append(c.tags, m[2][1:])
				} else if c.clock, err = strconv.ParseInt(m[2][1:], 10, 64); err != nil {
					t.Fatalf("line %d: %v", i+1, err)
				}
			}
			c.message = strings.NewReplacer(`\n`, "\n", `\r`, "\r").Replace(line)
			h.commits = append(h.commits, c)
		}
	}
	return list
}

// stream writes the repository for git fast-import, all its references below a name, and returns the id of its last commit. The ids are
// known before git makes the commits, since a message may name another commit.
func (h history) stream(w *bytes.Buffer, below string, mark *int) string {
	const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
	ids, marks := map[string]string{}, map[string]int{}
	data := func(text string) { fmt.Fprintf(w, "data %d\n%s\n", len(text), text) }
	ref := "refs/heads/" + below + "/work"
	for i, c := range h.commits {
		message := c.message
		for label, id := range ids {
			message = strings.ReplaceAll(message, "{"+label+"}", id)
		}
		person := fmt.Sprintf("A <a@example.com> %d +0000", 1_500_000_000+int64(i)*60+c.clock)
		object := "tree " + emptyTree + "\n"
		*mark++
		fmt.Fprintf(w, "reset %s\n\ncommit %s\nmark :%d\nauthor %s\ncommitter %s\n", ref, ref, *mark, person, person)
		data(message)
		if !c.root {
			for j, p := range c.parents {
				verb := "merge"
				if j == 0 {
					verb = "from"
				}
				fmt.Fprintf(w, "%s :%d\n", verb, marks[p])
				object += "parent " + ids[p] + "\n"
			}
		}
		w.WriteByte('\n')
		object += "author " + person + "\ncommitter " + person + "\n\n" + message
		sum := sha1.Sum([]byte(fmt.Sprintf("commit %d\x00%s", len(object), object)))
		id := fmt.Sprintf("%x", sum)
		ids[c.label], ids[""] = id, id
		marks[c.label], marks[""] = *mark, *mark
		if c.label != "" {
			fmt.Fprintf(w, "reset refs/heads/%s/%s\nfrom :%d\n\n", below, c.label, *mark)
		}
		for _, tag := range c.tags {
			if annotated, ok := strings.CutPrefix(tag, "~"); ok {
				fmt.Fprintf(w, "tag %s/%s\nfrom :%d\ntagger %s\n", below, annotated, *mark, person)
				data("release")
				continue
			}
			fmt.Fprintf(w, "reset refs/tags/%s/%s\nfrom :%d\n\n", below, tag, *mark)
		}
	}
	return ids[""]
}

// in is what the step would be told. Its tags lie below a name of their own, so that all repositories fit into one.
func (h history) in(t *testing.T, dir, below, head string) In {
	t.Helper()
	in := In{
		SourceDir: dir, TagPrefix: below + "/" + h.set["TAG_PREFIX"], MainBranch: "main", Prerelease: h.set["PRERELEASE"],
		MinorTypes: []string{"feat"}, PatchTypes: []string{"fix", "chore", "perf", "revert"}, Timestamp: "commit", SHALength: 12,
		OnNothing: "ok", Lint: "warn", InitialVersion: release.New(0, 1, 0), PRTitle: h.set["PR_TITLE"],
		ReleaseAs: h.set["RELEASE_AS"] == "true", Reverts: h.set["REVERTS"] == "true", ZeroMajor: h.set["ZERO_MAJOR"] == "true",
		AllowFeatures: h.set["ALLOW_FEATURES"] == "true",
	}
	in.CommitSHA, in.BranchName = head, "main"
	err := in.HotfixBranch.UnmarshalText([]byte(`^release-(v[0-9]+\.[0-9]+\.[0-9]+)(-.*)?$`))
	for name, value := range h.set {
		switch name {
		case "BRANCH_NAME":
			in.BranchName = value
		case "TAG_NAME":
			in.BranchName, in.TagName = "", below+"/"+value
		case "BASE":
			in.BaseBranch = below + "/" + value
		case "LINT":
			in.Lint = value
		case "PR_NUMBER":
			in.PRNumber, err = strconv.Atoi(value)
		case "INITIAL_VERSION":
			err = in.InitialVersion.UnmarshalText([]byte(value))
		case "MIN_BUMP":
			err = in.MinBump.UnmarshalText([]byte(value))
		case "MINOR_TYPES":
			in.MinorTypes = strings.Split(value, ",")
		case "PATCH_TYPES":
			in.PatchTypes = strings.Split(value, ",")
		case "TAG_PREFIX", "PRERELEASE", "PR_TITLE", "RELEASE_AS", "REVERTS", "ZERO_MAJOR", "ALLOW_FEATURES":
		default:
			t.Fatalf("%s: unknown variable %s", h.name, name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return in
}

func TestEveryHistoryHasTheVersionThatTheSpecificationsAskFor(t *testing.T) {
	histories := parseHistories(t)
	if len(histories) < 120 {
		t.Fatalf("only %d repositories", len(histories))
	}
	dir := t.TempDir()
	git := func(stdin *bytes.Buffer, args ...string) {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull)
		if stdin != nil {
			cmd.Stdin = stdin
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", args[0], err, out)
		}
	}
	var stream bytes.Buffer
	heads := make([]string, len(histories))
	names, mark := map[string]bool{}, 0
	for i, h := range histories {
		if heads[i] = h.stream(&stream, fmt.Sprintf("r%d", i), &mark); names[h.name] || h.want == "" {
			t.Errorf("%s: the name stands twice, or there is no expectation", h.name)
		}
		names[h.name] = true
	}
	git(nil, "init", "--quiet", "--bare", "--template=")
	git(&stream, "fast-import", "--quiet", "--force")
	git(nil, "pack-refs", "--all")

	for i, h := range histories {
		t.Run(h.name, func(t *testing.T) {
			below := fmt.Sprintf("r%d", i)
			out, err := run(t.Context(), &step.Build{Log: slog.New(slog.DiscardHandler)}, h.in(t, dir, below, heads[i]))
			got := out.Version.String()
			switch code := step.CodeOf(err); {
			case code == step.ExitRefused:
				got = "refuse"
			case code != step.ExitDone:
				t.Fatal(err)
			case got == "":
				got = "none"
			}
			if got != h.want {
				t.Errorf("got %s (%v), want %s", got, err, h.want)
			}
			for _, c := range h.commits {
				for _, tag := range c.tags {
					tag = strings.TrimPrefix(strings.TrimPrefix(tag, "~"), h.set["TAG_PREFIX"])
					if h.set["TAG_NAME"] == "" && !out.Version.IsZero() && tag == out.Version.String() {
						t.Errorf("%s exists and is given again", tag)
					}
				}
			}
			if h.set["PR_NUMBER"] != "" && !strings.HasPrefix(out.BuildTag, "pr-7-") {
				t.Errorf("the build tag of a pull request is %s", out.BuildTag)
			}
		})
	}
}
