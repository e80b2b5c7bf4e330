package coreutils

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// withCount turns -5 into -n 5, as head and tail have always taken it.
func withCount(args []string) []string {
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && strings.Trim(args[0][1:], "0123456789") == "" {
		return append([]string{"-n", args[0][1:]}, args[1:]...)
	}
	return args
}

func head(ctx context.Context, call *applet.Call) int {
	call.Args = withCount(call.Args)
	var opts applet.Options
	lines, bytesMax, quiet := 10, -1, false
	opts.Int(&lines, "n lines")
	opts.Int(&bytesMax, "c bytes")
	opts.Bool(&quiet, "q quiet")
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	if lines < 0 || bytesMax < -1 {
		return call.Misused(errors.New("counts from the end are not supported"))
	}
	return eachInput(ctx, call, names, func(name string, r io.Reader) error {
		heading(call, names, name, quiet)
		if bytesMax >= 0 {
			_, err := io.CopyN(call.Out, r, int64(bytesMax))
			return ignoreEOF(err)
		}
		if lines == 0 {
			return nil
		}
		n := 0
		err := eachLine(r, func(line []byte) error {
			if _, err := call.Out.Write(line); err != nil {
				return err
			}
			if n++; n == lines {
				return io.EOF
			}
			return nil
		})
		return ignoreEOF(err)
	})
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func heading(call *applet.Call, names []string, name string, quiet bool) {
	if len(names) > 1 && !quiet {
		fmt.Fprintf(call.Out, "==> %s <==\n", name)
	}
}

// followEvery is how often tail -f looks for more.
const followEvery = 200 * time.Millisecond

func tail(ctx context.Context, call *applet.Call) int {
	call.Args = withCount(call.Args)
	var opts applet.Options
	count, countBytes, follow, quiet := "10", "", false, false
	opts.String(&count, "n lines")
	opts.String(&countBytes, "c bytes")
	opts.Bool(&follow, "f F follow")
	opts.Bool(&quiet, "q quiet")
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	inBytes := countBytes != ""
	if inBytes {
		count = countBytes
	}
	n, err := strconv.Atoi(strings.TrimLeft(count, "+-"))
	if err != nil {
		return call.Misused(fmt.Errorf("%q is not a count", count))
	}
	if follow && len(names) != 1 {
		return call.Misused(errors.New("-f follows exactly one file"))
	}
	return eachInput(ctx, call, names, func(name string, r io.Reader) error {
		heading(call, names, name, quiet)
		err := lastOf(call.Out, r, n, strings.HasPrefix(count, "+"), inBytes)
		if err != nil || !follow || name == "-" {
			return err
		}
		for {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(followEvery):
			}
			if _, err := io.Copy(call.Out, r); err != nil {
				return err
			}
		}
	})
}

// lastOf copies the last n lines or bytes, or all from the n-th on.
func lastOf(w io.Writer, r io.Reader, n int, fromStart, inBytes bool) error {
	if inBytes && fromStart {
		if _, err := io.CopyN(io.Discard, r, int64(max(0, n-1))); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, err := io.Copy(w, r)
		return err
	}
	if inBytes {
		all, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		_, err = w.Write(all[max(0, len(all)-n):])
		return err
	}
	var kept [][]byte
	seen := 0
	err := eachLine(r, func(line []byte) error {
		seen++
		if fromStart {
			if seen < n {
				return nil
			}
			_, err := w.Write(line)
			return err
		}
		if n == 0 {
			return nil
		}
		if len(kept) == n {
			kept = kept[1:]
		}
		kept = append(kept, line)
		return nil
	})
	if err != nil {
		return err
	}
	_, err = w.Write(bytes.Join(kept, nil))
	return err
}

func wc(ctx context.Context, call *applet.Call) int {
	var opts applet.Options
	var show [4]bool // lines, words, characters, bytes
	for i, names := range []string{"l lines", "w words", "m chars", "c bytes"} {
		opts.Bool(&show[i], names)
	}
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	if show == [4]bool{} {
		show = [4]bool{true, true, false, true}
	}
	width := 7 // columns line up but where there is but one number
	if single := 0; len(names) <= 1 {
		for _, s := range show {
			if s {
				single++
			}
		}
		if single == 1 {
			width = 1
		}
	}
	var total [4]int
	write := func(n [4]int, name string) {
		var cols []string
		for i, s := range show {
			if s {
				cols = append(cols, fmt.Sprintf("%*d", width, n[i]))
			}
		}
		if name != "-" {
			cols = append(cols, name)
		}
		fmt.Fprintln(call.Out, strings.Join(cols, " "))
	}
	status = eachInput(ctx, call, names, func(name string, r io.Reader) error {
		var n [4]int
		err := eachLine(r, func(line []byte) error {
			n[0] += bytes.Count(line, []byte{'\n'})
			n[1] += len(bytes.Fields(line))
			n[2] += utf8.RuneCount(line)
			n[3] += len(line)
			return nil
		})
		if err != nil {
			return err
		}
		for i := range n {
			total[i] += n[i]
		}
		write(n, name)
		return nil
	})
	if len(names) > 1 {
		write(total, "total")
	}
	return status
}

func uniq(ctx context.Context, call *applet.Call) int {
	var opts applet.Options
	var count, doubled, single, fold bool
	opts.Bool(&count, "c count")
	opts.Bool(&doubled, "d repeated")
	opts.Bool(&single, "u unique")
	opts.Bool(&fold, "i ignore-case")
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	if len(names) > 1 {
		return call.Misused(errors.New("an output file is not supported"))
	}
	return buffered(call, func(w *bufio.Writer) int {
		var last []byte
		n := 0
		flush := func() {
			if n == 0 || doubled && n == 1 || single && n > 1 {
				return
			}
			if count {
				fmt.Fprintf(w, "%7d ", n)
			}
			fmt.Fprintf(w, "%s\n", last)
		}
		status := eachInput(ctx, call, names, func(_ string, r io.Reader) error {
			return eachLine(r, func(line []byte) error {
				line = bytes.TrimSuffix(line, []byte{'\n'})
				if n > 0 && (bytes.Equal(line, last) || fold && bytes.EqualFold(line, last)) {
					n++
					return nil
				}
				flush()
				last, n = line, 1
				return nil
			})
		})
		flush()
		return status
	})
}

func tee(ctx context.Context, call *applet.Call) int {
	var opts applet.Options
	var add bool
	opts.Bool(&add, "a append")
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	outs := []io.Writer{call.Out}
	mode := os.O_TRUNC
	if add {
		mode = os.O_APPEND
	}
	for _, name := range names {
		f, err := os.OpenFile(call.Path(name), os.O_CREATE|os.O_WRONLY|mode, 0o666)
		if err != nil {
			call.Errorf("%s: %v", name, reason(err))
			status = applet.Failure
			continue
		}
		defer f.Close()
		outs = append(outs, f)
	}
	_, err := io.Copy(io.MultiWriter(outs...), call.In)
	if ctx.Err() != nil {
		return applet.Ended(ctx)
	}
	if err != nil {
		return call.Fail(reason(err))
	}
	return status
}

func seq(ctx context.Context, call *applet.Call) int {
	var opts applet.Options
	opts.StopAtOperand = true
	separator := "\n"
	var pad bool
	opts.String(&separator, "s separator")
	opts.Bool(&pad, "w equal-width")
	args := call.Args
	if len(args) > 0 && len(args[0]) > 1 && strings.Trim(args[0], "-0123456789") == "" {
		args = append([]string{"--"}, args...) // a negative first number is no option
	}
	args, err := opts.Parse(args)
	if err != nil {
		return call.Misused(err)
	}
	if len(args) == 0 || len(args) > 3 {
		return call.Misused(errors.New("usage: seq [-w] [-s SEPARATOR] [FIRST [STEP]] LAST, whole numbers"))
	}
	n := make([]int, len(args))
	for i, a := range args {
		if n[i], err = strconv.Atoi(a); err != nil {
			return call.Misused(fmt.Errorf("%q is not a whole number", a))
		}
	}
	first, step, last := 1, 1, n[len(n)-1]
	if len(n) > 1 {
		first = n[0]
	}
	if len(n) > 2 {
		step = n[1]
	}
	if step == 0 {
		return call.Misused(errors.New("a step of 0 never ends"))
	}
	width := 0
	if pad {
		width = max(len(strconv.Itoa(first)), len(strconv.Itoa(last)))
	}
	return buffered(call, func(w *bufio.Writer) int {
		for i := first; step > 0 && i <= last || step < 0 && i >= last; i += step {
			if ctx.Err() != nil {
				return applet.Ended(ctx)
			}
			if i != first {
				fmt.Fprint(w, separator)
			}
			if _, err := fmt.Fprintf(w, "%0*d", width, i); err != nil {
				return applet.Failure
			}
		}
		if step > 0 && first <= last || step < 0 && first >= last {
			fmt.Fprintln(w)
		}
		return applet.OK
	})
}
