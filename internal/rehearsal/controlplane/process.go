package controlplane

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is one running program of kubeone.
type process struct {
	name  string
	log   string // the path of what it prints
	cmd   *exec.Cmd
	stdin io.Closer
	gone  chan struct{} // closed when it has ended and was waited for
}

// launch starts a program of kubeone, with its output in a file.
//
// It must die with this process, even if this process is killed. Its stdin is therefore a pipe whose other end only this process has, and
// kubeone ends when that pipe is closed. PR_SET_PDEATHSIG would be bound to the thread that starts the program, which the Go runtime may
// end long before the process, and macOS has no such thing.
func (c *Cluster) launch(name string, args ...string) error {
	p := &process{name: name, log: c.path(name + ".log"), cmd: exec.Command(filepath.Join(c.bin, name), args...), gone: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	defer func() { _ = log.Close() }() // the program has its own
	p.cmd.Dir = c.dir
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// Nothing of this process's environment: ETCD_ variables, for one, are settings of etcd.
	p.cmd.Env = []string{"KUBEONE_EXIT_WITH_STDIN=1", "HOME=" + c.dir, "TMPDIR=" + os.TempDir()}
	// Ctrl-C in a terminal reaches the whole process group. It is for the rehearsal, which then closes the cluster in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in cmd.ProcessState, why is in its log
		close(p.gone)
		c.ended <- p
	}()
	c.processes = append(c.processes, p)
	return nil
}

// kill ends the program and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only if it has ended already
	_ = p.stdin.Close()
	<-p.gone
}

// await calls check until it succeeds, ctx ends, or one of the programs does.
func (c *Cluster) await(ctx context.Context, what string, check func(context.Context) error) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case p := <-c.ended:
			return fmt.Errorf("waiting for %s: %s ended with %s:\n%s", what, p.name, p.cmd.ProcessState, lastLines(p.log))
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; the last attempt: %w; the logs end with:\n%s", what, context.Cause(ctx), err, c.logs())
		}
	}
}

// logs is the end of what each program printed.
func (c *Cluster) logs() string {
	var all strings.Builder
	for _, p := range c.processes {
		fmt.Fprintf(&all, "%s:\n%s\n", p.name, lastLines(p.log))
	}
	return all.String()
}

// lastLines returns the end of a log. A fatal error is what a program prints last.
func lastLines(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	const count = 10
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
