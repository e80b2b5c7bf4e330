// Command ropes brings up a lab cluster, leads through labs and grades them. Called by
// the name kubectl or istioctl it is that command.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ropes-dev/ropes/cmd/internal/command"
)

func main() {
	os.Exit(run(context.Background(), os.Args, stdio{os.Stdin, os.Stdout, os.Stderr}))
}

type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// run does what args, the program's name included, ask for and returns the exit code.
func run(ctx context.Context, args []string, std stdio) int {
	// By their own names the tools are nothing but themselves: no context chosen for
	// them, no signal caught before they do it.
	switch strings.TrimSuffix(filepath.Base(args[0]), ".exe") {
	case "kubectl":
		return kubectl{}.Run("", args[1:], func() {})
	case "istioctl":
		return istioctl{}.Run("", args[1:], func() {})
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks for an orderly end, the second is obeyed at once.
	defer context.AfterFunc(ctx, stop)()
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintf(std.err, "ropes: find the executable: %v\n", err)
		return 1
	}
	return command.Run(ctx, args[1:], deps(std, self))
}
