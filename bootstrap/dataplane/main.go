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
	"syscall"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/admin"
)

// The version of Envoy whose API and admin port this proxy follows, and what tells it from Envoy.
const (
	major, minor, patch = 1, 38, 0
	label               = "ropes"
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
	return fmt.Sprintf("%s/%d.%d.%d-%s/Modified/RELEASE/%s", rev, major, minor, patch, label, runtime.Version())
}

// introduce puts the proxy's version into its node, where the management server and config dumps look for it.
func introduce(n *corev3.Node) {
	if n == nil || n.GetUserAgentName() != "" {
		return
	}
	text := structpb.NewStringValue
	n.UserAgentName = label
	n.UserAgentVersionType = &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{
		Version: &typev3.SemanticVersion{MajorNumber: major, MinorNumber: minor, Patch: patch},
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"build.label": text(label), "build.type": text("RELEASE"), "ssl.version": text(runtime.Version()),
		}},
	}}
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
	level, err := admin.ParseLevel(o.LogLevel)
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "envoy: %v\n", err)
		return 2
	}
	o.Loggers = admin.NewLoggers(stderr, level)
	if err := o.Loggers.SetComponents(o.ComponentLog); err != nil {
		_, _ = fmt.Fprintf(stderr, "envoy: --component-log-level: %v\n", err)
		return 2
	}
	log := o.Loggers.Get("main")
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
	if err := p.Start(); err != nil { //nolint:contextcheck // the proxy lives until Shutdown
		return err
	}
	tuned, stop := context.WithCancel(ctx)
	defer stop()
	go tuneGC(tuned)
	log.Info("started", "version", Version(), "admin", p.AdminAddress(), "node", b.GetNode().GetId())
	for {
		select {
		case <-ctx.Done():
		case <-p.Done():
		case s := <-sigs:
			if s == syscall.SIGHUP || s == syscall.SIGUSR1 {
				go p.logs.flush() // it may last
				continue
			}
			log.Info("signal", "signal", s)
			finish(ctx, p, o.DrainTime, sigs)
		}
		p.Shutdown() //nolint:contextcheck // it comes when ctx has ended
		return nil
	}
}

// finish lets what is under way come to its end, until the drain time is over or another signal comes.
func finish(ctx context.Context, p *Proxy, limit time.Duration, sigs <-chan os.Signal) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Finish(ctx)
	}()
	for {
		select {
		case <-done:
			return
		case s := <-sigs:
			if s == syscall.SIGTERM || s == syscall.SIGINT {
				cancel()
				<-done
				return
			}
		}
	}
}
