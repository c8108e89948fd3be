// Package ociregistry runs OCI registries for tests and for the rehearsal.
//
// Real here: the registry. It is distribution v3, the code of Docker's registry image, in a process of its own (tools/registry), with
// deletion enabled. It refuses manifests whose layers are missing and bodies that do not match their digest, and a deleted digest takes its
// tags along; in-process stand-ins do none of that. Not real: TLS (it speaks plain HTTP on loopback, which clients must be told is
// insecure unless they know that 127.0.0.1 is), token authentication, and everything particular to Artifact Registry.
//
// The tests of internal/registry and of the steps that push, promote and delete images use it, and so does the rehearsal.
package ociregistry

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/deepdesk/cloudbuild-steps/internal/rehearsal/toolcache"
)

// Options change the registry. The zero value is an empty registry in memory that serves everybody.
type Options struct {
	Dir      string    // keeps the content in this folder, so that a later registry finds it again; empty means in memory
	Username string    // with Password, what HTTP basic authentication must carry
	Password string    // it is visible to other users of this machine, in the process list
	Log      io.Writer // receives the progress of building the registry, and a line for each request; nil discards them
}

// Registry is a running registry.
type Registry struct {
	// Host is where it listens, as image references write it: 127.0.0.1:PORT.
	Host string

	stdin io.Closer
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
	close sync.Once
}

// Start runs a registry on a free loopback port until Close, or until this process ends, however it ends. The first start on a machine
// builds the registry. Once Start has returned, ctx has no effect.
func Start(ctx context.Context, options Options) (*Registry, error) {
	program, err := toolcache.Tool(ctx, "registry", options.Log)
	if err != nil {
		return nil, err
	}
	args := []string{"-addr", "127.0.0.1:0"}
	if options.Dir != "" {
		args = append(args, "-dir", options.Dir)
	}
	if options.Username != "" || options.Password != "" {
		args = append(args, "-user", options.Username, "-pass", options.Password)
	}
	var stderr tail
	r := &Registry{cmd: exec.Command(program, args...), ended: make(chan struct{})}
	r.cmd.Stderr = &stderr
	if options.Log != nil {
		r.cmd.Args = append(r.cmd.Args, "-v")
		r.cmd.Stderr = io.MultiWriter(&stderr, options.Log)
	}
	// Ctrl-C in a terminal reaches the whole process group. It is for this process, whose builds may still need the registry to end well.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// The registry ends when this pipe is closed, by Close or by the system.
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("starting the registry: %w", err)
	}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the registry: %w", err)
	}
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the registry: %w", err)
	}

	address := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		address <- strings.TrimSpace(line)
		_ = r.cmd.Wait() // its outcome matters only before the address is printed, and then stderr says more
		close(r.ended)
	}()
	select {
	case r.Host = <-address:
	case <-ctx.Done():
		_ = r.cmd.Process.Kill()
		<-r.ended
		return nil, fmt.Errorf("starting the registry: %w", context.Cause(ctx))
	}
	if r.Host == "" {
		<-r.ended
		return nil, fmt.Errorf("starting the registry: it ended with %s: %s", r.cmd.ProcessState, stderr.String())
	}
	return r, nil
}

// CollectGarbage removes from a folder what no tag leads to, as the registry's own collector does (`garbage-collect --delete-untagged`). No
// registry may be running on the folder.
func CollectGarbage(ctx context.Context, dir string, log io.Writer) error {
	program, err := toolcache.Tool(ctx, "registry", log)
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, program, "-collect", "-dir", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("collecting the garbage of the registry: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Close ends the registry and waits for it. A second Close does nothing.
func (r *Registry) Close() error {
	var err error
	r.close.Do(func() {
		_ = r.stdin.Close()
		select {
		case <-r.ended:
		case <-time.After(5 * time.Second):
			_ = r.cmd.Process.Kill()
			<-r.ended
			err = fmt.Errorf("stopping the registry on %s: it had to be killed", r.Host)
		}
	})
	return err
}

// tail keeps the end of what a process prints, for the error message if it fails.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 4 << 10 // bytes

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-tailSize):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}
