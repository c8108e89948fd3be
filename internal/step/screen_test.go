package step

import (
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// terminal understands as much of ECMA-48 as a screen uses: a new line, cursor up (CUU), and erase to the end (ED).
type terminal struct {
	lines []string
	row   int
}

var control = regexp.MustCompile(`^\x1b\[([0-9]*)([AJ])`)

func (t *terminal) Write(p []byte) (int, error) {
	for s := string(p); s != ""; {
		if m := control.FindStringSubmatch(s); m != nil {
			s = s[len(m[0]):]
			if m[2] == "A" {
				n, _ := strconv.Atoi(m[1])
				t.row -= n
			} else {
				t.lines = t.lines[:t.row]
			}
			continue
		}
		if s[0] == '\n' {
			t.row++
			s = s[1:]
			continue
		}
		end := strings.IndexAny(s, "\x1b\n")
		if end < 0 {
			end = len(s)
		}
		for len(t.lines) <= t.row {
			t.lines = append(t.lines, "")
		}
		t.lines[t.row] += s[:end]
		s = s[end:]
	}
	return len(p), nil
}

func (t *terminal) String() string { return strings.Join(t.lines, "\n") }

func TestATerminalShowsWhatIsBeingDoneBelowTheMessages(t *testing.T) {
	term := &terminal{}
	now := time.Unix(1700000000, 0)
	s := &screen{w: term, columns: func() int { return 40 }, now: func() time.Time { return now }}
	b := &Build{screen: s, Log: newLogger(s, "deploy-helm", "text", slog.LevelInfo)}
	shows := func(want ...string) {
		t.Helper()
		if got := term.String(); got != strings.Join(want, "\n") {
			t.Errorf("the terminal shows\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
	}
	b.Log.Info("begun")
	maple := b.Working("account-maple/backend")
	birch := b.Working("account-birch/backend")
	maple.Now("Deployment backend: \x1b[2J")
	now = now.Add(90 * time.Second)
	birch.Now("a pod that waits for a very long time for a node")
	// A line stays below the 40 columns, since one in the last column wraps on some terminals.
	shows("deploy-helm: begun", `  1m30s  account-maple/backend: Deploy…`, "  1m30s  account-birch/backend: a pod …")
	b.Log.Info("ready")
	shows("deploy-helm: begun", "deploy-helm: ready", `  1m30s  account-maple/backend: Deploy…`, "  1m30s  account-birch/backend: a pod …")
	now = now.Add(time.Second)
	s.tick()
	shows("deploy-helm: begun", "deploy-helm: ready", `  1m31s  account-maple/backend: Deploy…`, "  1m31s  account-birch/backend: a pod …")
	maple.End()
	maple.End() // twice is once
	shows("deploy-helm: begun", "deploy-helm: ready", "  1m31s  account-birch/backend: a pod …")
	birch.End()
	shows("deploy-helm: begun", "deploy-helm: ready")
	if s.timer != nil {
		t.Error("the clock goes on without work")
	}
	for i := range maxShown + 3 {
		defer b.Working(fmt.Sprintf("release-%d", i)).End()
	}
	if got := strings.Split(term.String(), "\n"); len(got) != 2+maxShown || got[len(got)-1] != "  … and 4 more" {
		t.Errorf("the terminal shows %q", got)
	}
}

func TestWithoutATerminalNothingIsShown(t *testing.T) {
	w := (&Build{}).Working("account-maple/backend")
	w.Now("waiting")
	w.End()
	if w != nil {
		t.Error("work is shown nowhere")
	}
}
