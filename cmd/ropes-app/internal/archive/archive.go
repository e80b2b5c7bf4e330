// Package archive is the program tar: it makes, lists and unpacks archives as `kubectl cp`
// and shell pipes need it. It knows the tar format by the standard library, and gzip.
//
// Unpacking stays within one directory: a member is never written through a symbolic link,
// and a link that leads out of the directory is not made. Member names lose what leads out
// when an archive is made, so `tar cf - /etc/hosts` holds etc/hosts.
package archive

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

const usage = "usage: tar c|x|t[vzmp] [-f FILE] [-C DIR] [NAME...]"

// record is the size in bytes to whose multiple many writers pad an archive.
const record = 20 * 512

// operand is a name, and the directory that -C had set where it stood.
type operand struct{ dir, name string }

type archiver struct {
	call                        *applet.Call
	ctx                         context.Context //nolint:containedctx // lives as long as the call
	create, extract, list       bool
	verbose, gzip               bool
	keepMode, keepOwner, noTime bool
	file                        string // "-": standard streams
	dir                         string // where -C has led to
	operands                    []operand
	complaints                  int
}

// Run is the program. It returns 0, or 1 where anything was left out or went wrong, or 2
// where it was misused.
func Run(ctx context.Context, call *applet.Call) int {
	a := &archiver{call: call, ctx: ctx, file: "-", dir: call.Path("")}
	if err := a.parse(); err != nil {
		return call.Misused(err)
	}
	var err error
	if a.create {
		err = a.write()
	} else {
		err = a.read()
	}
	if ctx.Err() != nil {
		return applet.Ended(ctx)
	}
	if err != nil {
		return call.Fail(err)
	}
	if a.complaints > 0 {
		return applet.Failure
	}
	return applet.OK
}

func (a *archiver) parse() error {
	root := os.Geteuid() == 0
	a.keepMode, a.keepOwner = root, root
	var opts applet.Options
	opts.StopAtOperand = true
	opts.Bool(&a.create, "c create")
	opts.Bool(&a.extract, "x extract get")
	opts.Bool(&a.list, "t list")
	opts.Bool(&a.verbose, "v verbose")
	opts.Bool(&a.gzip, "z gzip")
	opts.Bool(&a.noTime, "m touch")
	opts.Bool(&a.keepMode, "p preserve-permissions same-permissions")
	opts.Func("no-same-permissions", func() { a.keepMode = false })
	opts.Bool(&a.keepOwner, "same-owner")
	opts.Func("no-same-owner o", func() { a.keepOwner = false })
	opts.String(&a.file, "f file")
	opts.Value("C directory", func(v string) error {
		if filepath.IsAbs(v) {
			a.dir = v
		} else {
			a.dir = filepath.Join(a.dir, v)
		}
		return nil
	})
	args, names := spelled(a.call.Args), []string(nil)
	if i := slices.Index(args, "--"); i >= 0 {
		args, names = args[:i], args[i+1:]
	}
	for len(args) > 0 {
		rest, err := opts.Parse(args)
		if err != nil {
			return err
		}
		if len(rest) == 0 {
			break
		}
		a.operands, args = append(a.operands, operand{a.dir, rest[0]}), rest[1:]
	}
	for _, name := range names {
		a.operands = append(a.operands, operand{a.dir, name})
	}
	modes := 0
	for _, on := range []bool{a.create, a.extract, a.list} {
		if on {
			modes++
		}
	}
	switch {
	case modes != 1:
		return errors.New(usage)
	case a.create && len(a.operands) == 0:
		return errors.New("no file named; an empty archive is not made")
	}
	return nil
}

// spelled writes the old form, in which the first word is letters without a dash and their
// values follow in order, as options.
func spelled(args []string) []string {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return args
	}
	var out []string
	rest := args[1:]
	for _, letter := range args[0] {
		out = append(out, "-"+string(letter))
		if strings.ContainsRune("fC", letter) && len(rest) > 0 {
			out, rest = append(out, rest[0]), rest[1:]
		}
	}
	return append(out, rest...)
}

// complain tells of a member that was left out; the others are still done.
func (a *archiver) complain(name string, err error) {
	a.complaints++
	a.call.Errorf("%s: %v", name, reason(err))
}

// reason is err without the operation and path that file errors repeat.
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

// read lists or unpacks.
func (a *archiver) read() (err error) {
	in := a.call.In
	if a.file != "-" {
		f, err := os.Open(a.call.Path(a.file))
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	counted := &counter{r: in}
	in = counted
	if a.gzip {
		z, err := gzip.NewReader(in)
		if err != nil {
			return err
		}
		in = z
	}
	each := a.show
	if a.extract {
		x, openErr := a.unpacker()
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, x.close()) }()
		each = x.member
	}
	if err := a.members(tar.NewReader(in), each); err != nil {
		return err
	}
	if a.gzip {
		_, err = io.Copy(io.Discard, in) // its checksum comes last
		return err
	}
	// A writer that pads its archive must not find the pipe closed.
	_, err = io.CopyN(io.Discard, in, (record-counted.n%record)%record)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// counter counts the bytes read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// members calls fn with each member that the operands name, or all where there are none.
func (a *archiver) members(r *tar.Reader, fn func(*tar.Header, io.Reader) error) error {
	found := make([]bool, len(a.operands))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if a.ctx.Err() != nil {
			return context.Cause(a.ctx)
		}
		wanted := len(a.operands) == 0
		for i, o := range a.operands {
			if below(path.Clean(o.name), path.Clean(h.Name)) {
				wanted, found[i] = true, true
			}
		}
		if !wanted || h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := fn(h, r); err != nil {
			return err
		}
	}
	for i, o := range a.operands {
		if !found[i] {
			a.complain(o.name, errors.New("not found in the archive"))
		}
	}
	return nil
}

// below tells whether name is dir or lies below it.
func below(dir, name string) bool {
	return name == dir || strings.HasPrefix(name, dir+"/")
}

func (a *archiver) show(h *tar.Header, _ io.Reader) error { return a.tell(a.call.Out, h) }

// tell writes the line of a member: its name, or more of it under -v when listing.
func (a *archiver) tell(w io.Writer, h *tar.Header) error {
	line := h.Name
	if a.list && a.verbose {
		owner := fmt.Sprintf("%d/%d", h.Uid, h.Gid)
		line = fmt.Sprintf("%s %-9s %9d %s %s", h.FileInfo().Mode(), owner, h.Size, h.ModTime.UTC().Format("2006-01-02 15:04"), h.Name)
		switch h.Typeflag {
		case tar.TypeSymlink:
			line += " -> " + h.Linkname
		case tar.TypeLink:
			line += " link to " + h.Linkname
		}
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

// write makes an archive.
func (a *archiver) write() (err error) {
	out, names := a.call.Out, a.call.Err
	var self fs.FileInfo
	if a.file != "-" {
		f, createErr := os.Create(a.call.Path(a.file))
		if createErr != nil {
			return createErr
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if self, err = f.Stat(); err != nil {
			return err
		}
		out, names = f, a.call.Out
	}
	buf := bufio.NewWriterSize(out, 64<<10)
	var w io.Writer = buf
	var z *gzip.Writer
	if a.gzip {
		z = gzip.NewWriter(buf)
		w = z
	}
	p := &packer{archiver: a, w: tar.NewWriter(w), names: names, self: self}
	for _, o := range a.operands {
		if err := p.add(o); err != nil {
			return err
		}
	}
	if p.packed == 0 {
		return nil // an archive's end would tell kubectl cp that all is well before our status can
	}
	if err := p.w.Close(); err != nil {
		return err
	}
	if z != nil {
		if err := z.Close(); err != nil {
			return err
		}
	}
	return buf.Flush()
}
