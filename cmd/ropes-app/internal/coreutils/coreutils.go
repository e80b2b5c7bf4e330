// Package coreutils holds the small programs that a shell script expects: they follow
// POSIX where they have an option at all, and refuse the options that they have not. They
// know files, text and processes, and nothing of networks.
package coreutils

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// Applets are the programs of this package by name. Missing is env, which starts others: see Env.
func Applets() map[string]applet.Func {
	return map[string]applet.Func{
		"cat": cat, "chmod": chmod, "cp": cp, "cut": cut, "date": date, "df": df, "echo": echo, "false": falsum, "grep": grep, "head": head,
		"hostname": hostname, "id": id, "kill": kill, "ls": ls, "mkdir": mkdir, "mv": mv, "ps": ps, "rm": rm, "seq": seq,
		"sha256sum": sha256sum, "sleep": sleep, "sort": sortLines, "tail": tail, "tee": tee, "touch": touch, "tr": tr, "true": verum, "uniq": uniq, "wc": wc,
	}
}

// reason is err without the operation and path that an fs.PathError repeats.
func reason(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		return le.Err
	}
	return err
}

// eachInput calls fn with each named file, or standard input for "-" and where none is
// named. A file that cannot be read is reported and the rest are still done.
func eachInput(ctx context.Context, call *applet.Call, names []string, fn func(name string, r io.Reader) error) int {
	if len(names) == 0 {
		names = []string{"-"}
	}
	status := applet.OK
	for _, name := range names {
		err := withInput(call, name, fn)
		switch {
		case ctx.Err() != nil:
			return applet.Ended(ctx)
		case errors.Is(err, errStop):
			return status
		case err != nil:
			call.Errorf("%s: %v", name, reason(err))
			status = applet.Failure
		}
	}
	return status
}

// errStop, returned by eachInput's function, ends the reading without complaint.
var errStop = errors.New("stop")

func withInput(call *applet.Call, name string, fn func(string, io.Reader) error) error {
	if name == "-" {
		return fn(name, call.In)
	}
	f, err := os.Open(call.Path(name))
	if err != nil {
		return err
	}
	return errors.Join(fn(name, f), f.Close())
}

// eachLine calls fn with each line, its line feed included where it has one.
func eachLine(r io.Reader, fn func(line []byte) error) error {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadBytes('\n')
		if len(line) > 0 {
			if err := fn(line); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// options reads a program's options; status is not OK where they were wrong, which is
// then said.
func options(call *applet.Call, opts *applet.Options) (operands []string, status int) {
	operands, err := opts.Parse(call.Args)
	if err != nil {
		return nil, call.Misused(err)
	}
	return operands, applet.OK
}

// buffered gives fn a buffered Out and flushes it. Output that cannot be written is a
// failure, unless the reader of a pipe has left.
func buffered(call *applet.Call, fn func(w *bufio.Writer) int) int {
	w := bufio.NewWriter(call.Out)
	status := fn(w)
	if err := w.Flush(); err != nil {
		if status == applet.OK {
			status = applet.Failure
		}
		if !isPipe(err) {
			call.Errorf("write: %v", reason(err))
		}
	}
	return status
}
