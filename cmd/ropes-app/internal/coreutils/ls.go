package coreutils

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// lister writes one name a line, whatever it writes to.
type lister struct {
	all, almost, dirs, long, human, inode, numeric, classify bool
	byTime, bySize, reverse, recursive                       bool
}

type listed struct {
	name string // as shown
	path string
	info fs.FileInfo
}

func ls(_ context.Context, call *applet.Call) int {
	var l lister
	var opts applet.Options
	opts.Bool(&l.all, "a all")
	opts.Bool(&l.almost, "A almost-all")
	opts.Bool(&l.dirs, "d directory")
	opts.Bool(&l.long, "l")
	opts.Bool(&l.human, "h human-readable")
	opts.Bool(&l.inode, "i inode")
	opts.Func("n numeric-uid-gid", func() { l.long, l.numeric = true, true })
	opts.Bool(&l.classify, "F classify")
	opts.Bool(&l.byTime, "t")
	opts.Bool(&l.bySize, "S")
	opts.Bool(&l.reverse, "r reverse")
	opts.Bool(&l.recursive, "R recursive")
	opts.Ignore("1")
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	return buffered(call, func(w *bufio.Writer) int {
		var files, dirs []listed
		for _, name := range names {
			e, err := l.stat(name, call.Path(name))
			switch {
			case err != nil:
				call.Errorf("%s: %v", name, reason(err))
				status = applet.Usage // as POSIX: greater than zero, and GNU: 2
			case e.info.IsDir() && !l.dirs:
				dirs = append(dirs, e)
			default:
				files = append(files, e)
			}
		}
		l.write(w, files)
		for i, d := range dirs {
			if i > 0 || len(files) > 0 {
				fmt.Fprintln(w)
			}
			if err := l.dir(w, d, len(names) > 1 || l.recursive); err != nil {
				call.Errorf("%s: %v", d.name, reason(err))
				status = applet.Failure
			}
		}
		return status
	})
}

// stat looks at an operand: a link to a directory counts as the directory, but for -l and -d.
func (l *lister) stat(name, path string) (listed, error) {
	fi, err := os.Lstat(path)
	if err == nil && fi.Mode()&fs.ModeSymlink != 0 && !l.long && !l.dirs {
		if to, err := os.Stat(path); err == nil {
			fi = to
		}
	}
	return listed{name, path, fi}, err
}

func (l *lister) dir(w *bufio.Writer, d listed, heading bool) error {
	if heading {
		fmt.Fprintf(w, "%s:\n", d.name)
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	var all []listed
	if l.all {
		for _, n := range []string{".", ".."} {
			if fi, err := os.Lstat(filepath.Join(d.path, n)); err == nil {
				all = append(all, listed{n, filepath.Join(d.path, n), fi})
			}
		}
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") && !l.all && !l.almost {
			continue
		}
		if fi, err := e.Info(); err == nil { // else it is gone by now
			all = append(all, listed{e.Name(), filepath.Join(d.path, e.Name()), fi})
		}
	}
	if l.long {
		fmt.Fprintf(w, "total %d\n", blocks(all))
	}
	l.write(w, all)
	if !l.recursive {
		return nil
	}
	for _, e := range all {
		if e.info.IsDir() && e.name != "." && e.name != ".." {
			fmt.Fprintln(w)
			e.name = filepath.Join(d.name, e.name)
			if err := l.dir(w, e, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// blocks is the room that the entries take, in KiB.
func blocks(all []listed) int64 {
	var n int64
	for _, e := range all {
		if st, ok := e.info.Sys().(*syscall.Stat_t); ok {
			n += st.Blocks
		}
	}
	return n / 2
}

func (l *lister) write(w *bufio.Writer, all []listed) {
	slices.SortStableFunc(all, func(a, b listed) int {
		c := 0
		if l.byTime {
			c = b.info.ModTime().Compare(a.info.ModTime())
		} else if l.bySize {
			c = cmp.Compare(b.info.Size(), a.info.Size())
		}
		if c == 0 {
			c = strings.Compare(a.name, b.name)
		}
		if l.reverse {
			c = -c
		}
		return c
	})
	rows := make([][]string, len(all))
	for i, e := range all {
		rows[i] = l.row(e)
	}
	align(w, rows)
}

// row is the columns of one entry; the last is its name.
func (l *lister) row(e listed) []string {
	name := e.name
	mode := e.info.Mode()
	if l.classify {
		switch {
		case mode.IsDir():
			name += "/"
		case mode&fs.ModeSymlink != 0:
			name += "@"
		case mode&0o111 != 0:
			name += "*"
		}
	}
	st, _ := e.info.Sys().(*syscall.Stat_t)
	var cols []string
	if l.inode {
		cols = append(cols, strconv.FormatUint(st.Ino, 10))
	}
	if !l.long {
		return append(cols, name)
	}
	if mode&fs.ModeSymlink != 0 {
		if to, err := os.Readlink(e.path); err == nil {
			name += " -> " + to
		}
	}
	size := strconv.FormatInt(e.info.Size(), 10)
	if l.human {
		size = humanBytes(e.info.Size())
	}
	owner, group := strconv.Itoa(int(st.Uid)), strconv.Itoa(int(st.Gid))
	if !l.numeric {
		owner, group = userName(owner), groupName(group)
	}
	return append(cols, modeString(mode), strconv.FormatUint(uint64(st.Nlink), 10), owner, group, size, //nolint:unconvert // arm64 has 32 bits
		e.info.ModTime().Format("Jan _2 2006 15:04"), name)
}

// modeString is the ten characters of POSIX.
func modeString(m fs.FileMode) string {
	kind := byte('-')
	for bit, c := range map[fs.FileMode]byte{
		fs.ModeDir: 'd', fs.ModeSymlink: 'l', fs.ModeNamedPipe: 'p', fs.ModeSocket: 's', fs.ModeDevice: 'b',
	} {
		if m&bit != 0 {
			kind = c
		}
	}
	if m&fs.ModeCharDevice != 0 {
		kind = 'c'
	}
	s := append([]byte{kind}, m.Perm().String()[1:]...)
	special := func(on fs.FileMode, at int, x, plain byte) {
		if m&on == 0 {
			return
		}
		if s[at] == 'x' {
			s[at] = x
		} else {
			s[at] = plain
		}
	}
	special(fs.ModeSetuid, 3, 's', 'S')
	special(fs.ModeSetgid, 6, 's', 'S')
	special(fs.ModeSticky, 9, 't', 'T')
	return string(s)
}

func userName(uid string) string {
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return uid
}

func groupName(gid string) string {
	if g, err := user.LookupGroupId(gid); err == nil {
		return g.Name
	}
	return gid
}

// align writes rows with their columns but the last padded to one width; numbers to the right.
func align(w *bufio.Writer, rows [][]string) {
	var widths []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len(c))
		}
	}
	for _, r := range rows {
		for i, c := range r {
			switch {
			case i == len(r)-1:
				fmt.Fprintln(w, c)
			case c != "" && c[0] >= '0' && c[0] <= '9':
				fmt.Fprintf(w, "%*s ", widths[i], c)
			default:
				fmt.Fprintf(w, "%-*s ", widths[i], c)
			}
		}
	}
}
