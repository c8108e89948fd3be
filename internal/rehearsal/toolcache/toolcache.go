// Package toolcache builds the programs of the nested modules below tools/ when they are first needed, and keeps them.
//
// The rehearsal runs on a real registry and a real Kubernetes API server. Their dependencies must not become those of the steps, so each
// stands in a module of its own and is built with this machine's go command from the module proxy, which needs neither containers nor
// downloads of binaries. Building the API server takes minutes, therefore the result is cached by the content of its sources. The
// packages ociregistry and controlplane use it, and what needs Helm's command line; so may a Makefile target that wants the waiting done
// before the tests.
package toolcache

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Module is the path of the module whose checkout holds the tools.
const Module = "github.com/deepdesk/cloudbuild-steps"

// tool is how one nested module is built.
type tool struct {
	what    string                              // what it is and how long the first build takes, for who has to wait
	program string                              // import path of the package main, where it is not the module's root
	ldflags func(module string) (string, error) // further linker flags, from the module's folder
	links   []string                            // names under which a multi-call program is called
}

var tools = map[string]tool{
	"kubeone": {
		what:    "the Kubernetes API server, about 5 minutes the first time",
		ldflags: kubernetesVersion,
		links:   []string{"etcd", "kube-apiserver", "kube-controller-manager", "fake-kubelet"},
	},
	"registry": {what: "the OCI registry, about half a minute the first time"},
	// Helm's own command line, which deploy-helm is measured against, and hands releases to and takes them from.
	"helm": {what: "the helm command line, about two minutes the first time", program: "helm.sh/helm/v4/cmd/helm"},
}

// Tool returns the path of the program tools/NAME, after building it if no build of the same sources by the same Go version is cached. A
// multi-call program has links with its other names beside it.
//
// The cache is the folder $CLOUDBUILD_STEPS_CACHE, else cloudbuild-steps in the user's cache folder. Two processes that need the same
// program build it once. While it builds, log (which may be nil) gets a line every ten seconds; a cached program prints nothing. The
// working directory must be inside a checkout of the module.
func Tool(ctx context.Context, name string, log io.Writer) (string, error) {
	t, ok := tools[name]
	if !ok {
		return "", fmt.Errorf("building the tool %q: there is no such tool", name)
	}
	if log == nil {
		log = io.Discard
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	return t.cached(ctx, name, filepath.Join(root, "tools", name), cache, log)
}

// cached builds the module in source unless cache holds the result.
func (t tool) cached(ctx context.Context, name, source, cache string, log io.Writer) (string, error) {
	args, err := t.buildArgs(source)
	if err != nil {
		return "", fmt.Errorf("building %s: %w", name, err)
	}
	key, err := fingerprint(source, args, t.links)
	if err != nil {
		return "", fmt.Errorf("building %s: hashing its sources: %w", name, err)
	}
	dir := filepath.Join(cache, name+"-"+key)
	program := filepath.Join(dir, name)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}

	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("building %s: making the cache folder: %w", name, err)
	}
	unlock, err := lock(ctx, filepath.Join(cache, name+".lock"), func() {
		fmt.Fprintf(log, "waiting for another process that builds %s\n", name)
	})
	if err != nil {
		return "", fmt.Errorf("building %s: %w", name, err)
	}
	defer unlock()
	if _, err := os.Stat(program); err == nil {
		return program, nil // the other process built what we need
	}
	// Whoever left these was killed: under the lock nobody else builds this tool.
	if stale, err := filepath.Glob(filepath.Join(cache, name+".building-*")); err == nil {
		for _, dir := range stale {
			_ = os.RemoveAll(dir)
		}
	}
	building, err := os.MkdirTemp(cache, name+".building-")
	if err != nil {
		return "", fmt.Errorf("building %s: %w", name, err)
	}
	defer func() { _ = os.RemoveAll(building) }()
	if err := os.Chmod(building, 0o755); err != nil {
		return "", fmt.Errorf("building %s: %w", name, err)
	}
	if err := t.build(ctx, name, source, args, filepath.Join(building, name), log); err != nil {
		return "", fmt.Errorf("building %s: %w", name, err)
	}
	for _, link := range t.links {
		if err := os.Symlink(name, filepath.Join(building, link)); err != nil {
			return "", fmt.Errorf("building %s: %w", name, err)
		}
	}
	if err := os.Rename(building, dir); err != nil {
		return "", fmt.Errorf("building %s: putting it into the cache: %w", name, err)
	}
	return program, nil
}

// buildArgs are the arguments of the go command, without the output. There is no -trimpath: it makes every compilation a different one
// from that of a plain go build, so that a warm build cache would not help.
func (t tool) buildArgs(source string) ([]string, error) {
	ldflags := "-s -w"
	if t.ldflags != nil {
		more, err := t.ldflags(source)
		if err != nil {
			return nil, err
		}
		ldflags += " " + more
	}
	return []string{"build", "-buildvcs=false", "-ldflags", ldflags}, nil
}

// build runs the go command and tells log how long that has taken so far.
func (t tool) build(ctx context.Context, name, source string, args []string, output string, log io.Writer) error {
	goCommand, err := exec.LookPath("go")
	if err != nil {
		return fmt.Errorf("looking for the go command, which builds it: %w", err)
	}
	var printed bytes.Buffer
	cmd := exec.CommandContext(ctx, goCommand, append(args, "-o", output, cmp.Or(t.program, "."))...)
	cmd.Dir = source
	// A workspace, or a cross build in the caller's environment, must not leak into a program that runs here.
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	cmd.Stdout, cmd.Stderr = &printed, &printed
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // lets go stop its compilers
	cmd.WaitDelay = 10 * time.Second

	began := time.Now()
	fmt.Fprintf(log, "building %s: %s\n", name, t.what)
	if err := cmd.Start(); err != nil {
		return err
	}
	built := make(chan error, 1)
	go func() { built <- cmd.Wait() }()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			fmt.Fprintf(log, "building %s: %s … %s\n", name, t.what, time.Since(began).Round(time.Second))
		case err := <-built:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				return fmt.Errorf("running go build in %s: %w\n%s", source, err, tail(printed.String(), 20))
			}
			fmt.Fprintf(log, "built %s in %s\n", name, time.Since(began).Round(time.Second))
			return nil
		}
	}
}

// kubernetesVersion sets the version that the API server reports. Built without it from the module, Kubernetes calls itself
// v0.0.0-master+$Format:%H$, which no client can parse, and every chart with a kubeVersion is refused.
func kubernetesVersion(module string) (string, error) {
	gomod, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("reading the Kubernetes version: %w", err)
	}
	for line := range strings.Lines(string(gomod)) {
		version, ok := strings.CutPrefix(strings.TrimSpace(line), "k8s.io/kubernetes v")
		if !ok {
			continue
		}
		parts := strings.Split(version, ".")
		if len(parts) != 3 {
			return "", fmt.Errorf("reading the Kubernetes version: %q is not MAJOR.MINOR.PATCH", version)
		}
		const in = "-X k8s.io/component-base/version."
		return in + "gitVersion=v" + version + " " + in + "gitMajor=" + parts[0] + " " + in + "gitMinor=" + parts[1] + " " + in + "gitTreeState=clean", nil
	}
	return "", errors.New("reading the Kubernetes version: go.mod does not require k8s.io/kubernetes")
}

// fingerprint is 12 hexadecimal digits over all that decides what a build yields: the sources without tests, the arguments, and the Go
// version. That of this program stands for the go command's: both come from the same installation wherever tests run.
func fingerprint(source string, args, links []string) (string, error) {
	hash := sha256.New()
	fmt.Fprintf(hash, "%s %s/%s %q %q\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, args, links)
	err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if name == "testdata" || strings.HasPrefix(name, ".") {
				return fs.SkipDir
			}
			return nil
		}
		if name != "go.mod" && name != "go.sum" && (!strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go")) {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(hash, "%q %d\n", filepath.ToSlash(relative), len(content))
		hash.Write(content)
		return nil
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}

// moduleRoot is the folder of the checkout around the working directory. A nested module on the way up is passed by.
func moduleRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("looking for the checkout of %s: %w", Module, err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		gomod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("looking for the checkout of %s: %w", Module, err)
		}
		for line := range strings.Lines(string(gomod)) {
			if strings.TrimSpace(line) == "module "+Module {
				return dir, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("looking for the checkout of %s: neither %s nor a folder above it is one", Module, start)
		}
	}
}

func cacheDir() (string, error) {
	if dir := os.Getenv("CLOUDBUILD_STEPS_CACHE"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("resolving CLOUDBUILD_STEPS_CACHE: %w", err)
		}
		return abs, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("looking for a cache folder (CLOUDBUILD_STEPS_CACHE can name one): %w", err)
	}
	return filepath.Join(dir, "cloudbuild-steps"), nil
}

// lock takes the lock of a file, which the system releases when the holder dies, however it dies. It calls waiting once if the lock is
// taken. It asks again and again because a blocking flock cannot be interrupted when ctx ends.
func lock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the lock file: %w", err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = file.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = file.Close()
			return nil, context.Cause(ctx)
		}
	}
}

// tail returns the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
