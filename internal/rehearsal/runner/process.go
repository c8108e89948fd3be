package runner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A process is a step while it runs: a program and all it starts, in a process group of their own.
type process struct {
	path string
	argv []string
	dir  string
	env  map[string]string
	line func(text string) // takes every line of stdout and stderr
}

// run starts the program, waits for it and kills what it left behind, as a container does when its first process ends. When ctx ends,
// the whole group is killed at once: the service does not reliably ask first.
func (p process) run(ctx context.Context) (code int, killed bool) {
	// One pipe for both streams keeps their lines in order.
	out, in, err := os.Pipe()
	if err != nil {
		p.line(fmt.Sprintf("opening a pipe: %v", err))
		return noSuchProgram, false
	}
	defer func() { _ = out.Close() }()
	cmd := &exec.Cmd{Path: p.path, Args: p.argv, Dir: p.dir, Env: []string{}, Stdout: in, Stderr: in,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true}}
	for k, v := range p.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	slices.Sort(cmd.Env)
	err = cmd.Start()
	_ = in.Close()
	if err != nil {
		p.line(err.Error())
		return noSuchProgram, false
	}
	killGroup := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

	read, ended := make(chan struct{}), make(chan error, 1)
	go func() { defer close(read); readLines(out, p.line) }()
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		killed = true
		killGroup()
		err = <-ended
	}
	killGroup()
	// A process that left the group may hold the pipe open. It does not hold up the build.
	_ = out.SetReadDeadline(time.Now().Add(time.Second))
	<-read
	return exitCode(err), killed
}

func exitCode(err error) int {
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return 0
	case !ok:
		return noSuchProgram
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}

// maxLine is what is kept of one line, in bytes. A longer line is cut, not split: a secret that is split is not masked.
const maxLine = 1 << 20

// readLines calls line for every line until the end, the last one with or without a newline.
func readLines(r io.Reader, line func(string)) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	var kept strings.Builder
	cut := 0
	for {
		part, err := buffered.ReadSlice('\n')
		fits := min(len(part), maxLine-kept.Len())
		kept.Write(part[:fits])
		cut += len(part) - fits
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		text, complete := strings.CutSuffix(kept.String(), "\n")
		if cut > 0 {
			text += fmt.Sprintf(" … (%d bytes cut)", cut)
		}
		if text != "" || complete {
			line(text)
		}
		if err != nil {
			return
		}
		kept.Reset()
		cut = 0
	}
}
