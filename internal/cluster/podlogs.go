package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// How much of a log is read, and how much of that is kept. The server counts limitBytes from the first of the lines it was asked for, and the
// last ones matter, so more is read than kept.
const (
	logTimeout = 5 * time.Second
	logRead    = 64 << 10 // bytes
	logKept    = 4 << 10  // bytes
)

// Failure is the error of a release that did not become ready, with what the container to blame has written.
type Failure struct {
	Err error
	Of  string   // the container: "pod NAMESPACE/NAME, container NAME"; "" when none is to blame
	Log []string // its last lines; they may hold secrets of the application
	Why string   // why Log is empty although the container has run; "" when it wrote nothing
}

// Error is the text of Err.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns Err.
func (f *Failure) Unwrap() error { return f.Err }

// keepLog reads the last lines of a container that is to blame, the first one only: it is what the error is about. It has a time of its own,
// since a deadline may just have ended; but a build that is being stopped has no time for it.
func (w *waiter) keepLog(p *corev1.Pod, t trouble) {
	if w.logLines <= 0 || !t.wrote || w.ctx.Err() == context.Canceled {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.log.Of != "" {
		return
	}
	w.log.Of = fmt.Sprintf("pod %s/%s, container %s", p.Namespace, p.Name, t.container)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), logTimeout)
	defer cancel()
	lines, limit := int64(w.logLines), int64(logRead)
	stream, err := w.cluster.core.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{
		Container: t.container, Previous: t.previous, TailLines: &lines, LimitBytes: &limit,
	}).Stream(ctx)
	if err == nil {
		var text []byte
		text, err = io.ReadAll(io.LimitReader(stream, logRead))
		_ = stream.Close()
		w.log.Log = lastLines(text, w.logLines)
	}
	switch {
	case apierrors.IsForbidden(err):
		w.log.Why = fmt.Sprintf("%s may not read logs: grant get on pods/log, or set LOG_LINES=0", w.cluster.user)
	case err != nil:
		w.log.Why = err.Error()
	}
}

// lastLines are at most n lines and 4 KB from the end of a text, the first of them cut if need be.
func lastLines(text []byte, n int) []string {
	text = bytes.TrimRight(text, "\r\n")
	cut := len(text) > logKept
	if cut {
		text = text[len(text)-logKept:]
	}
	if len(text) == 0 {
		return nil
	}
	lines := strings.Split(strings.ToValidUTF8(string(text), "\uFFFD"), "\n")
	if cut {
		lines[0] = "…" + lines[0]
	}
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], "\r")
	}
	return lines[max(0, len(lines)-n):]
}

// withLog adds to an error what the waiting has kept.
func (w *waiter) withLog(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil || w.log.Of == "" {
		return err
	}
	f := w.log
	f.Err = err
	return &f
}
