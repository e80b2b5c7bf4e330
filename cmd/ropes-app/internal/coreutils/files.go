package coreutils

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

func isPipe(err error) bool { return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) }

func cat(ctx context.Context, call *applet.Call) int {
	var opts applet.Options
	var number bool
	opts.Bool(&number, "n number")
	opts.Ignore("u")
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	n := 0
	return eachInput(ctx, call, names, func(_ string, r io.Reader) error {
		if !number {
			_, err := io.Copy(call.Out, r)
			return err
		}
		return eachLine(r, func(line []byte) error {
			n++
			_, err := fmt.Fprintf(call.Out, "%6d\t%s", n, line)
			return err
		})
	})
}

func mkdir(_ context.Context, call *applet.Call) int {
	var opts applet.Options
	var parents bool
	mode := fs.FileMode(0o777)
	opts.Bool(&parents, "p parents")
	opts.Value("m mode", func(v string) (err error) { mode, err = octal(v); return err })
	names, status := options(call, &opts)
	if status == applet.OK && len(names) == 0 {
		return call.Misused(errors.New("no directory named"))
	}
	for _, name := range names {
		var err error
		if parents {
			err = os.MkdirAll(call.Path(name), 0o777)
		} else {
			err = os.Mkdir(call.Path(name), mode.Perm())
		}
		if err == nil && mode != 0o777 {
			err = os.Chmod(call.Path(name), mode)
		}
		if err != nil {
			call.Errorf("%s: %v", name, reason(err))
			status = applet.Failure
		}
	}
	return status
}

// octal reads a file mode such as 644 or 1777.
func octal(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(s, 8, 12)
	if err != nil {
		return 0, fmt.Errorf("%q is not an octal mode", s)
	}
	mode := fs.FileMode(n & 0o777)
	for bit, flag := range map[uint64]fs.FileMode{0o1000: fs.ModeSticky, 0o2000: fs.ModeSetgid, 0o4000: fs.ModeSetuid} {
		if n&bit != 0 {
			mode |= flag
		}
	}
	return mode, nil
}

func chmod(_ context.Context, call *applet.Call) int {
	var opts applet.Options
	var recursive bool
	opts.Bool(&recursive, "R recursive")
	args, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	if len(args) < 2 {
		return call.Misused(errors.New("usage: chmod [-R] MODE FILE..., MODE in octal"))
	}
	mode, err := octal(args[0])
	if err != nil {
		return call.Misused(err)
	}
	for _, name := range args[1:] {
		err := os.Chmod(call.Path(name), mode)
		if recursive && err == nil {
			err = filepath.WalkDir(call.Path(name), func(p string, d fs.DirEntry, err error) error {
				if err != nil || d.Type()&fs.ModeSymlink != 0 {
					return err
				}
				return os.Chmod(p, mode)
			})
		}
		if err != nil {
			call.Errorf("%s: %v", name, reason(err))
			status = applet.Failure
		}
	}
	return status
}

func rm(_ context.Context, call *applet.Call) int {
	var opts applet.Options
	var force, recursive bool
	opts.Bool(&force, "f force")
	opts.Bool(&recursive, "r R recursive")
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	if len(names) == 0 && !force {
		return call.Misused(errors.New("no file named"))
	}
	for _, name := range names {
		if err := remove(call.Path(name), force, recursive); err != nil {
			call.Errorf("%s: %v", name, reason(err))
			status = applet.Failure
		}
	}
	return status
}

func remove(path string, force, recursive bool) error {
	if base := filepath.Base(path); base == "." || base == ".." || base == "/" {
		return errors.New("refusing to remove it")
	}
	fi, err := os.Lstat(path)
	if err != nil {
		if force && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if !fi.IsDir() {
		return os.Remove(path)
	}
	if !recursive {
		return errors.New("is a directory")
	}
	return os.RemoveAll(path)
}

func touch(_ context.Context, call *applet.Call) int {
	var opts applet.Options
	var noCreate bool
	opts.Bool(&noCreate, "c no-create")
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	if len(names) == 0 {
		return call.Misused(errors.New("no file named"))
	}
	for _, name := range names {
		if err := touchFile(call.Path(name), noCreate); err != nil {
			call.Errorf("%s: %v", name, reason(err))
			status = applet.Failure
		}
	}
	return status
}

func touchFile(path string, noCreate bool) error {
	now := time.Now()
	err := os.Chtimes(path, now, now)
	if !errors.Is(err, fs.ErrNotExist) || noCreate {
		if noCreate && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	return f.Close()
}

func cp(_ context.Context, call *applet.Call) int {
	var opts applet.Options
	var recursive bool
	opts.Bool(&recursive, "r R recursive")
	opts.Ignore("f")
	return fromTo(call, &opts, func(from, to string) error {
		fi, err := os.Stat(from)
		if err != nil {
			return err
		}
		if !fi.IsDir() {
			return copyFile(from, to, fi.Mode().Perm())
		}
		if !recursive {
			return errors.New("is a directory; -r copies it")
		}
		return os.CopyFS(to, os.DirFS(from))
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func mv(_ context.Context, call *applet.Call) int {
	var opts applet.Options
	opts.Ignore("f")
	return fromTo(call, &opts, func(from, to string) error {
		err := os.Rename(from, to)
		if !errors.Is(err, syscall.EXDEV) {
			return err
		}
		fi, err := os.Stat(from)
		if err != nil {
			return err
		}
		if fi.IsDir() {
			return errors.New("is a directory on another file system; copy and remove it")
		}
		if err := copyFile(from, to, fi.Mode().Perm()); err != nil {
			return err
		}
		return os.Remove(from)
	})
}

// fromTo does FROM TO, or FROM... DIRECTORY.
func fromTo(call *applet.Call, opts *applet.Options, do func(from, to string) error) int {
	args, status := options(call, opts)
	if status != applet.OK {
		return status
	}
	if len(args) < 2 {
		return call.Misused(errors.New("usage: FROM TO, or FROM... DIRECTORY"))
	}
	to := call.Path(args[len(args)-1])
	fi, err := os.Stat(to)
	intoDir := err == nil && fi.IsDir()
	if len(args) > 2 && !intoDir {
		return call.Fail(fmt.Errorf("%s: not a directory", args[len(args)-1]))
	}
	for _, from := range args[:len(args)-1] {
		target := to
		if intoDir {
			target = filepath.Join(to, filepath.Base(from))
		}
		if err := do(call.Path(from), target); err != nil {
			call.Errorf("%s: %v", from, reason(err))
			status = applet.Failure
		}
	}
	return status
}

// df shows the file systems of the named files, or all that are mounted from somewhere.
func df(_ context.Context, call *applet.Call) int {
	var opts applet.Options
	var human bool
	opts.Bool(&human, "h human-readable")
	opts.Ignore("k P")
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	mounts, err := readMounts()
	if err != nil {
		return call.Fail(err)
	}
	return buffered(call, func(w *bufio.Writer) int {
		fmt.Fprintf(w, "%-24s %12s %12s %12s %5s %s\n", "Filesystem", "Size", "Used", "Available", "Use%", "Mounted on")
		if len(names) == 0 {
			for _, m := range mounts {
				if row, err := usage(m, human); err == nil && row != "" {
					fmt.Fprintln(w, row)
				}
			}
			return applet.OK
		}
		for _, name := range names {
			row, err := usageOf(call.Path(name), mounts, human)
			if err != nil {
				call.Errorf("%s: %v", name, reason(err))
				status = applet.Failure
				continue
			}
			fmt.Fprintln(w, row)
		}
		return status
	})
}

type mount struct{ source, at string }

func readMounts() ([]mount, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var mounts []mount
	for line := range bytes.Lines(b) {
		if f := bytes.Fields(line); len(f) > 1 {
			mounts = append(mounts, mount{string(f[0]), string(f[1])})
		}
	}
	return mounts, nil
}

// usageOf is the row of the file system that the path lies on.
func usageOf(path string, mounts []mount, human bool) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	best := mount{at: "/"}
	for _, m := range mounts { // a later mount covers an earlier one
		if rel, err := filepath.Rel(m.at, path); err == nil && filepath.IsLocal(rel) && len(m.at) >= len(best.at) {
			best = m
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "", err
	}
	return usageRow(best, st, human), nil
}

// usage is the row of a mount; empty for one without blocks, such as proc.
func usage(m mount, human bool) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(m.at, &st); err != nil || st.Blocks == 0 {
		return "", err
	}
	return usageRow(m, st, human), nil
}

func usageRow(m mount, st unix.Statfs_t, human bool) string {
	show := func(blocks uint64) string {
		n := int64(blocks) * st.Bsize
		if human {
			return humanBytes(n)
		}
		return strconv.FormatInt(n/1024, 10)
	}
	used, percent := st.Blocks-st.Bfree, 0
	if total := used + st.Bavail; total > 0 {
		percent = int((used*100 + total - 1) / total)
	}
	return fmt.Sprintf("%-24s %12s %12s %12s %4d%% %s", m.source, show(st.Blocks), show(used), show(st.Bavail), percent, m.at)
}

// humanBytes writes n with a unit of 1024's power.
func humanBytes(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatInt(n, 10)
	}
	f, i := float64(n)/1024, 0
	for f >= 1023.95 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f%c", f, units[i])
}
