package bighistory

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

func TestTheHistoryIsWhatItClaimsAndAlwaysTheSame(t *testing.T) {
	o := Options{Commits: 3000, Tags: 90, Tail: 100, Folders: 3}
	var first, second bytes.Buffer
	if err := Write(&first, o); err != nil {
		t.Fatal(err)
	}
	if err := Write(&second, o); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the second history is another")
	}
	dir := t.TempDir()
	git := func(args ...string) string {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull)
		if args[0] == "fast-import" {
			cmd.Stdin = &first
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "--quiet", "--bare", "--template=", "--initial-branch=main")
	git("fast-import", "--quiet", "--done", "--force")
	count := func(args ...string) int {
		n, err := strconv.Atoi(git(append([]string{"rev-list", "--count"}, args...)...))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	all, main := count("--all"), count("main")
	if all < o.Commits || all > o.Commits+10 || main < o.Commits*9/10 {
		t.Errorf("%d commits, %d of them on main", all, main)
	}
	if count("--min-parents=2", "main") < 200 || count("--min-parents=3", "main") < 5 || count("--max-parents=0", "main") < 2 {
		t.Error("too few merges, octopuses or roots")
	}
	tags := strings.Fields(git("tag"))
	merged := strings.Fields(git("tag", "--merged", "main"))
	if len(tags) < o.Tags || len(merged) >= len(tags) {
		t.Errorf("%d tags, %d of them merged", len(tags), len(merged))
	}
}
