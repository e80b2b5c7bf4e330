package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/ropes-dev/ropes/cmd/internal/term"
)

// The exit codes of ropes. kubectl, istioctl and the shell keep their own.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitUnmet       = 3
	exitInterrupted = 130
)

// Run does what args, without the program's name, ask for and returns the exit code.
// It is the only place that knows which error makes which code.
func Run(ctx context.Context, args []string, d Deps) int {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	d.out, d.err = term.Detect(d.Out, d.Getenv), term.Detect(d.Err, d.Getenv)
	root := newRootCmd(&d) //nolint:contextcheck // each command takes the context that it is executed with
	root.SetArgs(args)
	root.SetIn(d.In)
	root.SetOut(d.Out)
	root.SetErr(d.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	var usage usageError
	if !d.ran || errors.As(err, &usage) {
		d.complain(err, "try: "+cmd.CommandPath()+" --help")
		return exitUsage
	}
	if ctx.Err() != nil {
		var f *failure
		if errors.As(err, &f) && f.interrupted != "" {
			d.err.Printf("ropes: interrupted; %s\n", f.interrupted)
		} else {
			d.err.Printf("ropes: interrupted\n")
		}
		return exitInterrupted
	}
	d.Log.Error("command failed", "args", args, "error", err)
	d.complain(err, d.mend(err))
	return exitFailure
}

// complain writes an error and what mends it.
func (d *Deps) complain(err error, mend string) {
	text := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "\n  ")
	d.err.Printf("%s %s\n", d.err.Paint(term.Red, "ropes:"), text)
	if mend != "" {
		d.err.Printf("  %s\n", strings.ReplaceAll(mend, "\n", "\n  "))
	}
}

// mend is what the learner can do about err, where that is known.
func (d *Deps) mend(err error) string {
	var f *failure
	if errors.As(err, &f) && f.mend != "" {
		return f.mend
	}
	if errors.Is(err, fs.ErrPermission) && !d.Root {
		return "try: the same with sudo; the embedded provider's clusters belong to root"
	}
	return ""
}

// exitStatus is an error that has been told already.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// usageError is a mistake on the command line that shows only after parsing.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// failure is an error with the words that help.
type failure struct {
	error
	mend        string // printed below the error
	interrupted string // printed instead, where the user stopped the command
}

func (f *failure) Unwrap() error { return f.error }

func failf(mend, format string, args ...any) error {
	return &failure{error: fmt.Errorf(format, args...), mend: mend}
}

// removed tells of a file or directory that was to go and may have been gone.
func removed(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
