package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// Version names this proxy in the form of Envoy's --version: revision, version, tree state, build type, TLS library.
func Version() string {
	rev := "0000000000000000000000000000000000000000"
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" {
				rev = s.Value
			}
		}
	}
	return rev + "/1.38.0-ropes/Modified/RELEASE/" + runtime.Version()
}

// Main runs the proxy with Envoy's command line (without the program name) until ctx ends, a signal comes or the admin
// port says so. It returns the exit code: 0 after an orderly end, 1 for bad configuration, 2 for bad usage.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := ParseArgs(args)
	switch {
	case errors.Is(err, errHelp):
		usage(stdout)
		return 0
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "envoy: %v\n", err)
		usage(stderr)
		return 2
	case o.Version:
		_, _ = fmt.Fprintf(stdout, "\nenvoy  version: %s\n\n", Version())
		return 0
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level(o.LogLevel)})).With("scope", "envoy")
	if o.Concurrency > 0 {
		runtime.GOMAXPROCS(max(o.Concurrency, 1))
	}
	if err := run(ctx, o, log); err != nil {
		log.Error("envoy ends", "err", err)
		return 1
	}
	return 0
}

func run(ctx context.Context, o Options, log *slog.Logger) error {
	b, err := LoadBootstrap(o)
	if err != nil {
		return err
	}
	p, err := New(b, o, log)
	if err != nil {
		return err
	}
	sigs := make(chan os.Signal, 4)
	signal.Notify(sigs, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(sigs)
	if err := p.Start(); err != nil {
		return err
	}
	log.Info("started", "version", Version(), "admin", p.AdminAddress(), "node", b.GetNode().GetId())
	for {
		select {
		case <-ctx.Done():
		case <-p.Done():
		case s := <-sigs:
			if s == syscall.SIGHUP || s == syscall.SIGUSR1 {
				p.logs.flush()
				continue
			}
			log.Info("signal", "signal", s)
			// Answers that are on their way get a moment; pilot-agent has drained before it sends this.
			p.Drain(false, false)
			time.Sleep(200 * time.Millisecond)
		}
		p.Shutdown()
		return nil
	}
}

// level reads Envoy's level names; trace counts as debug, critical and off as error.
func level(s string) slog.Level {
	switch strings.ToLower(s) {
	case "trace", "debug":
		return slog.LevelDebug
	case "warning", "warn":
		return slog.LevelWarn
	case "error", "critical", "off":
		return slog.LevelError
	}
	return slog.LevelInfo
}
