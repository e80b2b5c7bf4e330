// Package applet holds what all programs of the toolbox share: what a program is called
// with, and how it reads its options. It knows no program.
//
// Programs touch no global state: streams, working directory and environment come with the
// call, so that the shell can run them inside its own process, and tests can too.
package applet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// Exit statuses that most programs share.
const (
	OK          = 0
	Failure     = 1
	Usage       = 2   // unknown option, missing operand
	Interrupted = 130 // ended by a signal, as a shell reports SIGINT
	Terminated  = 143 // the same for SIGTERM
)

// Func is a program: it does what call says and returns its exit status. When ctx ends,
// it returns soon.
type Func func(ctx context.Context, call *Call) int

// Call is one invocation of a program.
type Call struct {
	Name     string   // the name it was called by
	Args     []string // without the name
	In       io.Reader
	Out, Err io.Writer
	Dir      string   // working directory; empty is that of the process
	Environ  []string // NAME=VALUE
}

// Getenv returns the variable's value, empty where it is not set. The last one counts.
func (c *Call) Getenv(name string) string {
	for i := len(c.Environ) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(c.Environ[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// Path is a file name as this call means it: relative ones start from Dir.
func (c *Call) Path(name string) string {
	if filepath.IsAbs(name) || c.Dir == "" {
		return name
	}
	return filepath.Join(c.Dir, name)
}

// Errorf writes one line to Err, headed by the program's name.
func (c *Call) Errorf(format string, args ...any) {
	fmt.Fprintf(c.Err, "%s: %s\n", c.Name, fmt.Sprintf(format, args...))
}

// Fail writes err to Err and returns Failure.
func (c *Call) Fail(err error) int {
	c.Errorf("%v", err)
	return Failure
}

// Misused writes err to Err and returns Usage.
func (c *Call) Misused(err error) int {
	c.Errorf("%v", err)
	return Usage
}

// Ended is the status of a program that stopped because ctx did.
func Ended(ctx context.Context) int {
	if errors.Is(context.Cause(ctx), ErrTerminated) {
		return Terminated
	}
	return Interrupted
}

// ErrTerminated is the cause of a context that SIGTERM has ended.
var ErrTerminated = fmt.Errorf("terminated")
