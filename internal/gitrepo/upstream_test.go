package gitrepo

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deepdesk/cloudbuild-steps/internal/commits"
	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/gitserver"
	"github.com/deepdesk/cloudbuild-steps/internal/secret"
)

// beginning makes a repository whose main branch has one release, and a hotfix branch that begins there. `say FILE TEXT` appends a line and
// commits it as "FILE: TEXT".
const beginning = `set -eu
say() { mkdir -p "$(dirname "$1")"; echo "$2" >>"$1"; git add "$1"; git commit --quiet -m "$1: $2"; }
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do echo "line $i" >>app; done
git add app; git commit --quiet -m "first"
git tag v1.42.1
git branch -M main
git checkout --quiet -b release
`

// histories are made with the git program. left holds the subjects of the commits that main lacks, newest first.
var histories = []struct {
	name, script string
	left         []string
	elsewhere    int
	squashed     bool
	notByCherry  bool // git cherry says something else, and why is said in the name
}{
	{"nothing was committed", ``, nil, 0, false, false},
	{"nothing was merged", `say fix one; say fix two`, []string{"fix: two", "fix: one"}, 0, false, false},
	{"main went on in other files", `say fix one; git checkout --quiet main; say feature x; say feature y`, []string{"fix: one"}, 0, false, false},
	{"merged with a merge commit", `say fix one; git checkout --quiet main; say feature x; git merge --quiet --no-edit release`, nil, 0, false, false},
	{"merged as a fast forward", `say fix one; git checkout --quiet main; git merge --quiet release`, nil, 0, false, false},
	{"cherry-picked", `say fix one; git checkout --quiet main; say feature x; git cherry-pick release >/dev/null`, nil, 1, false, false},
	{"cherry-picked beside other changes of the file", `sed -i 's/line 15/LINE 15/' app; git commit --quiet -am "fix 15"
git checkout --quiet main; sed -i 's/line 2$/LINE 2/' app; git commit --quiet -am "other"; git cherry-pick release >/dev/null`, nil, 1, false, false},
	{"cherry-picked under another message", `say fix one; git checkout --quiet main; say feature x; git cherry-pick -n release; git commit --quiet -m "backport"`, nil, 1, false, false},
	{"one of two cherry-picked", `say fix one; say other two; git checkout --quiet main; say feature x; git cherry-pick release >/dev/null`, []string{"fix: one"}, 1, false, false},
	{"rebased and merged", `say fix one; say fix two; git checkout --quiet main; say feature x
git checkout --quiet -b rebased release; git rebase --quiet main; git checkout --quiet main; git merge --quiet rebased`, nil, 2, false, false},
	{"cherry-picked from main into the hotfix branch", `git checkout --quiet main; say feature x; say fix one; git checkout --quiet release; git cherry-pick main >/dev/null`, nil, 1, false, false},
	{"cherry-picked and reverted on main: it was there, so it counts as merged", `say fix one; git checkout --quiet main; say feature x
git cherry-pick release >/dev/null; git revert --no-edit HEAD >/dev/null`, nil, 1, false, false},
	{"reverted on the hotfix branch itself", `say fix one; git revert --no-edit HEAD >/dev/null`, []string{`Revert "fix: one"`, "fix: one"}, 0, false, false},
	{"squash merged, one commit", `say fix one; git checkout --quiet main; say feature x; git merge --quiet --squash release >/dev/null; git commit --quiet -m "squashed (#12)"`, nil, 1, true, false},
	{"squash merged, three commits: git cherry does not see that", `say fix one; say fix two; say other three
git checkout --quiet main; say feature x; git merge --quiet --squash release >/dev/null; git commit --quiet -m "squashed (#12)"`, nil, 3, true, true},
	{"squash merged, and one commit more since: not detected", `say fix one; say fix two; git checkout --quiet main; say feature x
git merge --quiet --squash release >/dev/null; git commit --quiet -m "squashed"; git checkout --quiet release; say fix three`,
		[]string{"fix: three", "fix: two", "fix: one"}, 0, false, false},
	{"merged with a conflict that was resolved", `echo "fixed" >app; git commit --quiet -am "fix"; git checkout --quiet main
echo "new" >app; git commit --quiet -am "new"; git merge --quiet release >/dev/null || true; echo "both" >app; git commit --quiet -am "merge"`, nil, 0, false, false},
	{"cherry-picked with a conflict that was resolved: not detected", `echo "fixed" >app; git commit --quiet -am "fix"; git checkout --quiet main
echo "new" >app; git commit --quiet -am "new"; git cherry-pick release >/dev/null 2>&1 || true; echo "both" >app; git commit --quiet -am "fix, resolved"`, []string{"fix"}, 0, false, false},
	{"an empty commit brings nothing: git cherry lists it", `git commit --quiet --allow-empty -m "trigger a build"; say fix one`, []string{"fix: one"}, 1, false, true},
	{"merges on the hotfix branch are not listed, what they bring is", `say fix one; git checkout --quiet -b topic; say topic two; git checkout --quiet release; say fix three
git merge --quiet --no-edit topic`, []string{"topic: two", "fix: three", "fix: one"}, 0, false, false},
	{"main was merged into the hotfix branch", `say fix one; git checkout --quiet main; say feature x; git checkout --quiet release; git merge --quiet --no-edit main; say fix two`,
		[]string{"fix: two", "fix: one"}, 0, false, false},
	{"merged, then fixed again", `say fix one; git checkout --quiet main; git merge --quiet --no-ff --no-edit release; git checkout --quiet release; say fix two`, []string{"fix: two"}, 0, false, false},
	{"only white space differs", `printf 'a\n    b\n' >f; git add f; git commit --quiet -m "spaces"; git checkout --quiet main; say feature x
printf 'a\n\tb\n' >f; git add f; git commit --quiet -m "tabs"`, nil, 1, true, false},
	{"a binary file was cherry-picked", `printf 'a\0b' >bin; git add bin; git commit --quiet -m "binary"; git checkout --quiet main; say feature x; git cherry-pick release >/dev/null`, nil, 1, true, false},
	{"a file larger than the bound was cherry-picked", `head -c 1500000 /dev/zero | tr '\0' 'x' >big; git add big; git commit --quiet -m "big"; git checkout --quiet main; say feature x
git cherry-pick release >/dev/null`, nil, 1, true, false},
	{"a folder became a file, and that was cherry-picked", `say d/e/f 1; git rm --quiet -r d; echo x >d; git add d; git commit --quiet -m "file"; git checkout --quiet main; say feature x
git cherry-pick release~1 release >/dev/null`, nil, 2, false, false},
	{"a file became executable, and that was cherry-picked", `git update-index --chmod=+x app; git commit --quiet -m "exec"; git checkout --quiet --force main; say feature x; git cherry-pick release >/dev/null`, nil, 1, true, false},
	{"a file was renamed and cherry-picked", `git mv app app2; git commit --quiet -m "rename"; git checkout --quiet main; say feature x; git cherry-pick release >/dev/null`, nil, 1, true, false},
	{"of another root", `git checkout --quiet --orphan other; git rm --quiet -rf .; say fix one; git branch -f release; git checkout --quiet main; say feature x
git cherry-pick release >/dev/null`, nil, 1, false, false},
}

func TestLacks(t *testing.T) {
	for _, h := range histories {
		t.Run(h.name, func(t *testing.T) {
			w := newWorld(t, gitserver.Options{Token: "canary"})
			w.play(h.script)
			cherry := w.cherry()
			if diff := cmp.Diff(slices.Sorted(slices.Values(h.left)), cherry); (diff != "") != h.notByCherry {
				t.Errorf("git cherry says %q", cherry)
			}
			for _, server := range []struct{ name, filter, anyID string }{
				{"a server like GitHub", "true", "true"}, {"a server without filters", "false", "true"}, {"a server that gives tips alone", "true", "false"},
			} {
				if h.elsewhere == 0 && server.filter+server.anyID != "truetrue" {
					continue // the servers differ in how contents are had, and this history is decided without
				}
				w.bare("config", "uploadpack.allowFilter", server.filter)
				w.bare("config", "uploadpack.allowAnySHA1InWant", server.anyID)
				lack := w.lack(t)
				var left []string
				for _, c := range lack.Commits {
					left = append(left, c.Message.Subject)
					if c.Message.Conventional() {
						left[len(left)-1] = c.Message.Type + ": " + c.Message.Subject
					}
				}
				if diff := cmp.Diff(h.left, left); diff != "" {
					t.Errorf("%s: missing (-want +got):\n%s", server.name, diff)
				}
				if lack.Elsewhere != h.elsewhere || h.squashed && lack.Squashed.IsZero() {
					t.Errorf("%s: %d elsewhere, squashed as %s", server.name, lack.Elsewhere, lack.Squashed)
				}
			}
		})
	}
}

// play runs a script in the work tree and puts all branches and tags on the server.
func (w *world) play(script string) {
	w.t.Helper()
	cmd := exec.Command("bash", "-c", beginning+script)
	cmd.Dir = w.tree
	cmd.Env = append(append(os.Environ(), "GIT_EDITOR=true"), gitserver.Author("Ada")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
	w.bare("fetch", "--quiet", "--force", w.tree, "refs/heads/*:refs/heads/*", "refs/tags/*:refs/tags/*")
}

// cherry asks git itself which commits main lacks, and returns their subjects, sorted.
func (w *world) cherry() []string {
	var list []string
	for line := range strings.Lines(w.git("", "cherry", "-v", "main", "release")) {
		if rest, ok := strings.CutPrefix(line, "+ "); ok {
			_, subject, _ := strings.Cut(strings.TrimSpace(rest), " ")
			list = append(list, subject)
		}
	}
	slices.Sort(list)
	return list
}

func (w *world) lack(t *testing.T) Lack {
	t.Helper()
	u, err := OpenUpstream(t.Context(), HistoryOptions{Remote: w.remote})
	if err != nil {
		t.Fatal(err)
	}
	base, err := u.Branch("main")
	if err != nil {
		t.Fatal(err)
	}
	head, err := u.Branch("release")
	if err != nil {
		t.Fatal(err)
	}
	lacks, notices, err := u.Lacks(t.Context(), base, []commits.ID{head})
	if err != nil || len(notices) > 0 {
		t.Fatal(err, notices)
	}
	return lacks[0]
}

// What the comparison costs: in the usual cases no file is fetched at all.
func TestFilesAreFetchedOnlyWhereTheyDecide(t *testing.T) {
	for _, c := range []struct {
		name, script string
		fetches      int
	}{
		{"everything is merged: commits alone", `say fix one; git checkout --quiet main; git merge --quiet release`, 1},
		{"main never touched those files: commits and trees", `say fix one; git checkout --quiet main; say feature x`, 2},
		{"main touched the same file: its commits' files too", `say fix one; git checkout --quiet main; say fix other`, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			fetches := 0
			w := newWorld(t, gitserver.Options{OnRequest: func(r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/git-upload-pack") {
					fetches++
				}
			}})
			w.play(c.script)
			w.lack(t)
			if fetches != c.fetches {
				t.Errorf("%d fetches, want %d", fetches, c.fetches)
			}
		})
	}
}

func TestAnUpstreamNeedsAnAddress(t *testing.T) {
	_, err := OpenUpstream(t.Context(), HistoryOptions{Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "there is no remote") {
		t.Errorf("error %v", err)
	}
	w := newWorld(t, gitserver.Options{})
	w.play("")
	u, err := OpenUpstream(t.Context(), HistoryOptions{Remote: w.remote})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Branch("nowhere"); err == nil || !strings.Contains(err.Error(), "has no branch nowhere") {
		t.Errorf("error %v", err)
	}
	if _, err := u.Tag("v9.9.9"); err == nil || !strings.Contains(err.Error(), "has no tag v9.9.9") {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]string{"main", "release"}, u.Branches()); diff != "" {
		t.Error(diff)
	}
}

// A token that is renewed is asked for before each exchange, with the address of the repository, and its failure is not tried again.
func TestATokenIsAskedForBeforeEachExchange(t *testing.T) {
	asked := 0
	w := newWorld(t, gitserver.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if _, password, _ := r.BasicAuth(); password != strconv.Itoa(asked) {
				http.Error(rw, "an old token", http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(rw, r)
		})
	}})
	w.play("say fix one; git checkout --quiet main; say fix other")
	w.remote.Renew = func(_ context.Context, url string) (secret.Text, error) {
		if url != w.remote.URL {
			t.Errorf("asked for a token of %s", url)
		}
		asked++
		return secret.New(strconv.Itoa(asked)), nil
	}
	w.lack(t)
	if asked != 4 { // the list of references, commits, trees, files
		t.Errorf("asked %d times", asked)
	}
	_, err := Update(t.Context(), w.remote, "main", "", func(*Snapshot) (*Change, error) {
		return &Change{Files: map[string][]byte{"app": []byte("x")}, Message: "chore: x", Author: Signature{Name: "A", Email: "a@example.com", When: time.Unix(1, 0)}}, nil
	})
	if err != nil || asked < 6 {
		t.Errorf("pushing: %v, asked %d times", err, asked)
	}

	tries := 0
	w.remote.Renew = func(context.Context, string) (secret.Text, error) {
		tries++
		return secret.Text{}, errors.New("no token today")
	}
	if _, err := Tip(t.Context(), w.remote, "main"); err == nil || !strings.Contains(err.Error(), "no token today") || tries != 1 {
		t.Errorf("error %v after %d tries", err, tries)
	}
	w.remote.Renew = func(context.Context, string) (secret.Text, error) { return secret.New("wrong"), nil }
	_, err = Tip(t.Context(), w.remote, "main")
	if access, ok := errors.AsType[*AccessError](err); !ok || !strings.Contains(access.Fix(), "install the GitHub App") {
		t.Errorf("error %v", err)
	}
}
