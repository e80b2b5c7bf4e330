package applet

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Interruptible reads f, and stops waiting for it when ctx ends: a program that waits for
// a terminal or a pipe can then be interrupted while others go on using the same file.
func Interruptible(ctx context.Context, f *os.File) io.Reader {
	return &interruptible{wait: func() error { return readable(ctx, f) }, f: f}
}

type interruptible struct {
	wait func() error
	f    *os.File
}

// pollEvery is how long, in milliseconds, a wait goes on before it looks at its context.
const pollEvery = 100

func readable(ctx context.Context, f *os.File) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, pollEvery)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil // not a file that can be polled: let Read say what is the matter
		}
		if n > 0 {
			return nil
		}
	}
}

// Beneath returns the file that r reads where there is one, else r: another process, or
// a terminal's settings, need the file itself.
func Beneath(r io.Reader) io.Reader {
	if i, ok := r.(*interruptible); ok {
		return i.f
	}
	return r
}

func (r *interruptible) Read(p []byte) (int, error) {
	if err := r.wait(); err != nil {
		return 0, err
	}
	return r.f.Read(p)
}
