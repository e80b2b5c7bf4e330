package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/archive"
	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/bookinfo"
	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/coreutils"
	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/curl"
	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/dig"
	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/netcat"
	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/servers"
	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/shell"
)

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	name, args := choose(os.Args)
	watchSignals(cancel, name)
	os.Exit(run(ctx, &applet.Call{
		Name: name, Args: args,
		In: applet.Interruptible(ctx, os.Stdin), Out: os.Stdout, Err: os.Stderr, Environ: os.Environ(),
	}))
}

// choose reads the program's name from argv[0], or from the first argument.
func choose(argv []string) (name string, args []string) {
	const self = "ropes-app"
	name, args = filepath.Base(argv[0]), argv[1:]
	if _, ok := programs()[name]; !ok && len(args) > 0 {
		return args[0], args[1:]
	}
	if name == "" {
		name = self
	}
	return name, args
}

// watchSignals ends the program's context on SIGTERM and SIGINT; a second signal ends the
// process. The shell minds SIGINT for itself.
func watchSignals(cancel context.CancelCauseFunc, name string) {
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, syscall.SIGTERM)
	if name != "sh" {
		signal.Notify(sigs, syscall.SIGINT)
	}
	go func() {
		cause := context.Canceled
		if <-sigs == syscall.SIGTERM {
			cause = applet.ErrTerminated
		}
		cancel(cause)
		<-sigs
		os.Exit(applet.Interrupted)
	}()
}

// programs is the table of all names.
func programs() map[string]applet.Func {
	all := coreutils.Applets()
	maps.Copy(all, map[string]applet.Func{
		"curl": curl.Run, "dig": dig.Run, "nc": netcat.Run, "sh": shell.New(all), "tar": archive.Run, "test": shell.Test, "[": shell.Test,
		"productpage": servers.Bookinfo(bookinfo.Productpage), "details": servers.Bookinfo(bookinfo.Details),
		"reviews": servers.Bookinfo(bookinfo.Reviews), "ratings": servers.Bookinfo(bookinfo.Ratings),
		"httpbin": servers.HTTPBin, "outside": servers.Outside, "serve": servers.Serve, "relay": servers.Relay,
	})
	all["env"] = coreutils.Env(start(all))
	return all
}

// start runs a program of ours, or one that PATH finds.
func start(all map[string]applet.Func) applet.Func {
	return func(ctx context.Context, call *applet.Call) int {
		if fn, ok := all[call.Name]; ok {
			return fn(ctx, call)
		}
		path, err := exec.LookPath(call.Name)
		if err != nil {
			fmt.Fprintf(call.Err, "env: %v\n", err)
			return 127
		}
		cmd := exec.CommandContext(ctx, path, call.Args...)
		cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = call.Dir, call.Environ, applet.Beneath(call.In), call.Out, call.Err
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		err = cmd.Run()
		if state := cmd.ProcessState; state != nil && state.ExitCode() >= 0 {
			return state.ExitCode()
		}
		if ctx.Err() != nil {
			return applet.Ended(ctx)
		}
		fmt.Fprintf(call.Err, "env: %v\n", err)
		return 126
	}
}

// run is the program that call names.
func run(ctx context.Context, call *applet.Call) int {
	all := programs()
	fn, ok := all[call.Name]
	if ok {
		return fn(ctx, call)
	}
	fmt.Fprintf(call.Err, "ropes-app: no program %q; there are: %s\n", call.Name, strings.Join(slices.Sorted(maps.Keys(all)), " "))
	return applet.Usage
}
