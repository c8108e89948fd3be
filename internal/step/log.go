package step

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// fixKey marks the advice that follows an error line.
const fixKey = "fix"

// Limits, in bytes, of text in one message and in one attribute.
const (
	maxMessage   = 4000
	maxAttribute = 300
)

// newLogger returns the logger of a step: plain lines that begin with the step's name, or JSON as Cloud Logging reads it. No timestamps:
// Cloud Build adds its own.
func newLogger(w io.Writer, step, format string, level slog.Level) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) > 0 {
				return a
			}
			switch a.Key {
			case slog.TimeKey:
				return slog.Attr{}
			case slog.LevelKey:
				return slog.String("severity", strings.Replace(a.Value.String(), "WARN", "WARNING", 1))
			case slog.MessageKey:
				return slog.String("message", a.Value.String())
			}
			return a
		}})).With("step", step)
	}
	return slog.New(&lineHandler{out: &lockedWriter{w: w}, step: step, level: level})
}

// lineHandler prints "step: message key=value", one line a record, and the advice that goes with an error on a line of its own.
type lineHandler struct {
	out   *lockedWriter
	step  string
	level slog.Level
	attrs []slog.Attr
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// Enabled implements slog.Handler.
func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// Handle implements slog.Handler.
func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var line strings.Builder
	line.WriteString(h.step + ": ")
	switch {
	case r.Level >= slog.LevelError:
		line.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		line.WriteString("warning: ")
	case r.Level < slog.LevelInfo:
		line.WriteString("debug: ")
	}
	line.WriteString(Printable(r.Message, maxMessage))
	attrs := slices.Clone(h.attrs)
	r.Attrs(func(a slog.Attr) bool { attrs = append(attrs, a); return true })
	fix := ""
	for _, a := range attrs {
		if a.Key == fixKey {
			fix = h.step + ": fix: " + Printable(a.Value.String(), maxMessage) + "\n"
			continue
		}
		value := Printable(a.Value.Resolve().String(), maxAttribute)
		if value == "" || strings.ContainsAny(value, " =\"") {
			value = `"` + strings.ReplaceAll(value, `"`, `\"`) + `"`
		}
		line.WriteString(" " + a.Key + "=" + value)
	}
	line.WriteString("\n" + fix)
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := io.WriteString(h.out.w, line.String())
	return err
}

// WithAttrs implements slog.Handler.
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append(slices.Clone(h.attrs), attrs...)
	return &c
}

// WithGroup implements slog.Handler; steps log flat attributes, so a group's name is dropped.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }

// textPrinter returns the function behind [Build.Text].
func textPrinter(w io.Writer, step, format string) func(string) {
	return func(block string) {
		var lines []string
		for line := range strings.SplitSeq(strings.TrimRight(block, "\n"), "\n") {
			lines = append(lines, Printable(line, maxMessage))
		}
		if format == "json" {
			newLogger(w, step, format, slog.LevelInfo).Info(strings.Join(lines, "\n"))
			return
		}
		fmt.Fprintln(w, strings.Join(lines, "\n"))
	}
}

// Printable makes text from outside (refs, commit subjects, server replies) safe for a terminal and a build log, and cuts it to limit
// bytes: control characters, line breaks, direction overrides, invisible characters and invalid UTF-8 are written as escapes, so that
// nothing can forge a line, hide a word or drive a terminal.
func Printable(s string, limit int) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\t':
			b.WriteString("  ")
		case r == ' ' || unicode.IsPrint(r): // IsPrint leaves out controls, formats, surrogates, and every space but the ASCII one
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
		if i += size; b.Len() >= limit && i < len(s) {
			return b.String() + fmt.Sprintf("… (%d bytes more)", len(s)-i)
		}
	}
	return b.String()
}
