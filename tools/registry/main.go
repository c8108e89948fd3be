// Command registry is a real OCI registry for one test or one rehearsal: distribution v3, the code behind Docker's own registry image, as a
// process of its own.
//
// It exists because in-process stand-ins accept what real registries refuse (manifests whose layers are missing, bodies that do not match
// their digest) and keep tags of deleted digests alive, so that tests of promotion and roll back would pass against them for the wrong
// reasons. It lives in a nested module so that the steps never inherit distribution's dependencies. The package
// internal/rehearsal/ociregistry builds, starts and stops it.
//
// When it accepts connections it prints its address (127.0.0.1:PORT) as one line on stdout. It ends when its stdin is closed: the parent
// holds the other end of that pipe, so even a killed parent leaves no registry behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/sirupsen/logrus"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

// run serves a registry until stdin is closed.
func run(args []string, stdin io.Reader, stdout io.Writer) error {
	flags := flag.NewFlagSet("registry", flag.ExitOnError)
	addr := flags.String("addr", "127.0.0.1:0", "loopback `address` to listen on; port 0 takes a free one")
	dir := flags.String("dir", "", "keep the content in this `folder`; empty keeps it in memory")
	user := flags.String("user", "", "demand HTTP basic authentication with this user `name`")
	pass := flags.String("pass", "", "the `password` that belongs to -user")
	collect := flags.Bool("collect", false, "collect garbage in -dir, untagged manifests included, and end; no registry may be running on it")
	verbose := flags.Bool("v", false, "log every request to stderr")
	_ = flags.Parse(args) // ExitOnError: Parse does not return on a fault
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}

	if (*user == "") != (*pass == "") {
		return errors.New("-user and -pass belong together")
	}

	// distribution logs each client error, a 404 included, as an error of its own. A test that expects a 404 would drown in them.
	logrus.SetOutput(os.Stderr)
	logrus.SetLevel(logrus.PanicLevel)
	if *verbose {
		logrus.SetLevel(logrus.InfoLevel)
	}

	if *collect {
		return collectGarbage(context.Background(), *dir)
	}

	listener, err := listenLoopback(*addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	app, err := newApp(ctx, configure(*dir, *user, *pass))
	if err != nil {
		return err
	}
	defer app.Shutdown()
	server := &http.Server{Handler: app, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	if *verbose {
		server.ErrorLog = log.New(os.Stderr, "", 0)
	}

	go func() {
		_, _ = io.Copy(io.Discard, stdin) // ends when the parent closes the pipe or dies
		_ = server.Close()                // at once: whoever closed stdin is not waiting for answers any more
	}()
	if _, err := fmt.Fprintln(stdout, listener.Addr()); err != nil {
		return fmt.Errorf("printing the address: %w", err)
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving on %s: %w", listener.Addr(), err)
	}
	return nil
}

// collectGarbage is distribution's own `registry garbage-collect --delete-untagged`: what it leaves is what a restore has to cope with.
func collectGarbage(ctx context.Context, dir string) error {
	if dir == "" {
		return errors.New("-collect needs -dir")
	}
	driver, err := factory.Create(ctx, "filesystem", map[string]any{"rootdirectory": dir})
	if err != nil {
		return fmt.Errorf("opening %s: %w", dir, err)
	}
	content, err := storage.NewRegistry(ctx, driver)
	if err != nil {
		return fmt.Errorf("opening %s: %w", dir, err)
	}
	stdout := os.Stdout
	os.Stdout = os.Stderr // it prints what it does
	defer func() { os.Stdout = stdout }()
	if err := storage.MarkAndSweep(ctx, driver, content, storage.GCOpts{RemoveUntagged: true, Quiet: true}); err != nil {
		return fmt.Errorf("collecting garbage in %s: %w", dir, err)
	}
	return nil
}

// listenLoopback listens on addr and refuses any address that other machines could reach: the content is not protected.
func listenLoopback(addr string) (net.Listener, error) {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("reading the address %q: %w", addr, err)
	}
	if !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("refusing to listen on %q: only loopback addresses are allowed", addr)
	}
	listener, err := net.ListenTCP("tcp", tcp)
	if err != nil {
		return nil, fmt.Errorf("listening on %q: %w", addr, err)
	}
	return listener, nil
}

// configure describes the registry. Deletion is on, since roll backs delete; everything else is distribution's default.
func configure(dir, user, pass string) *configuration.Configuration {
	config := &configuration.Configuration{
		Storage: configuration.Storage{
			"inmemory":    configuration.Parameters{},
			"delete":      configuration.Parameters{"enabled": true},
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
		},
	}
	if dir != "" {
		delete(config.Storage, "inmemory")
		config.Storage["filesystem"] = configuration.Parameters{"rootdirectory": dir}
	}
	if user != "" {
		config.Auth = configuration.Auth{fixedUserAuth: configuration.Parameters{"user": user, "pass": pass}}
	}
	return config
}

// newApp turns the panics with which distribution reports a bad configuration into errors.
func newApp(ctx context.Context, config *configuration.Configuration) (app *handlers.App, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("configuring the registry: %v", fault)
		}
	}()
	return handlers.NewApp(ctx, config), nil
}
