package step

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// maxShown is how many pieces of work a terminal shows at the same time.
const maxShown = 12

// screen is a terminal that shows, below a step's messages, what the step is busy with: one line for each piece of work, drawn anew
// whenever something changes, and each second. A build log, which is no terminal, has none; it has the messages.
type screen struct {
	columns func() int // width of the terminal
	now     func() time.Time

	mu    sync.Mutex
	w     io.Writer
	work  []*Work
	drawn int         // lines below the last message
	timer *time.Timer // of the next second; nil while there is no work
}

// Work is a piece of work that takes a while. A nil Work does nothing.
type Work struct {
	screen *screen
	name   string
	doing  string
	began  time.Time
}

// Working shows on a terminal that work has begun, until its End. Elsewhere it does nothing: what happens is also to be logged.
func (b *Build) Working(name string) *Work {
	s := b.screen
	if s == nil {
		return nil
	}
	w := &Work{screen: s, name: Printable(name, maxAttribute), began: s.now()}
	s.change(func() { s.work = append(s.work, w) })
	return w
}

// Now shows what is being done at the moment, such as "waiting for Deployment backend".
func (w *Work) Now(doing string) {
	if w != nil {
		w.screen.change(func() { w.doing = Printable(doing, maxAttribute) })
	}
}

// End takes the work off the terminal.
func (w *Work) End() {
	if w == nil {
		return
	}
	s := w.screen
	s.change(func() {
		for i := range s.work {
			if s.work[i] == w {
				s.work = append(s.work[:i], s.work[i+1:]...)
				return
			}
		}
	})
}

// Write implements io.Writer for the messages, each of which ends its line.
func (s *screen) Write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	n, err = s.w.Write(p)
	s.draw()
	return n, err
}

// change draws the work anew.
func (s *screen) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	f()
	s.draw()
	switch {
	case len(s.work) > 0 && s.timer == nil:
		s.timer = time.AfterFunc(time.Second, s.tick)
	case len(s.work) == 0 && s.timer != nil:
		s.timer.Stop()
		s.timer = nil
	}
}

// tick draws the time that has gone by.
func (s *screen) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil {
		return
	}
	s.erase()
	s.draw()
	s.timer.Reset(time.Second)
}

// erase takes the lines of the work away: up to the first of them, and everything from there (ECMA-48, CUU and ED).
func (s *screen) erase() {
	if s.drawn > 0 {
		fmt.Fprintf(s.w, "\x1b[%dA\x1b[J", s.drawn)
		s.drawn = 0
	}
}

func (s *screen) draw() {
	var text strings.Builder
	for i, w := range s.work {
		if i == maxShown-1 && len(s.work) > maxShown {
			fmt.Fprintf(&text, "  … and %d more\n", len(s.work)-i)
			s.drawn++
			break
		}
		line := fmt.Sprintf("  %s  %s", s.now().Sub(w.began).Truncate(time.Second), w.name)
		if w.doing != "" {
			line += ": " + w.doing
		}
		text.WriteString(fit(line, s.columns()) + "\n")
		s.drawn++
	}
	_, _ = io.WriteString(s.w, text.String())
}

// fit cuts a line so that it does not wrap. Characters of double width are rare in names; a line that wraps all the same only looks untidy.
func fit(line string, columns int) string {
	if columns < 20 {
		columns = 80
	}
	if utf8.RuneCountInString(line) < columns {
		return line
	}
	return string([]rune(line)[:columns-2]) + "…"
}
