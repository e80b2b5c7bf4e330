package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// unpacker writes members below one directory.
type unpacker struct {
	*archiver
	root  *os.Root
	bases []string      // absolute names of the directory
	dirs  []*tar.Header // what they say of their directories is done last
}

func (a *archiver) unpacker() (*unpacker, error) {
	x := &unpacker{archiver: a}
	dir := a.dir
	if dir == "" {
		dir = "."
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return nil, err
	}
	x.bases = []string{abs, real}
	x.root, err = os.OpenRoot(dir)
	return x, err
}

// close gives directories their modes and times, the innermost first.
func (x *unpacker) close() error {
	for i := len(x.dirs) - 1; i >= 0; i-- {
		h := x.dirs[i]
		if err := x.attributes(place(h.Name), h); err != nil {
			x.complain(h.Name, err)
		}
	}
	return x.root.Close()
}

// place is a member's name below the directory.
func place(name string) string { return path.Clean(strings.TrimLeft(name, "/")) }

// failure is an error that ends the unpacking: the archive or the disk is at its end.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// member unpacks one member. One that cannot be is complained of, and the next is tried.
func (x *unpacker) member(h *tar.Header, body io.Reader) error {
	name := place(h.Name)
	if name == "." {
		return nil // the directory stays as it is
	}
	if x.verbose {
		if err := x.tell(x.call.Out, h); err != nil {
			return err
		}
	}
	err := x.put(name, h, body)
	var fatal failure
	if errors.As(err, &fatal) {
		return fmt.Errorf("%s: %w", h.Name, reason(fatal.error))
	}
	if err != nil {
		x.complain(h.Name, err)
	}
	return nil
}

func (x *unpacker) put(name string, h *tar.Header, body io.Reader) error {
	if !filepath.IsLocal(name) {
		return errors.New("leads out of the directory, left out")
	}
	if err := x.parents(name, true); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return x.directory(name, h)
	case tar.TypeReg:
		return x.file(name, h, body)
	case tar.TypeSymlink:
		return x.symlink(name, h.Linkname, h)
	case tar.TypeLink:
		return x.link(name, h)
	}
	return fmt.Errorf("members of type %q (devices, pipes) are not supported, left out", h.Typeflag)
}

// parents makes sure that a place's directories are there and are no links, so that the
// name of a place says where it is.
func (x *unpacker) parents(name string, create bool) error {
	dir := path.Dir(name)
	if dir == "." {
		return nil
	}
	at := ""
	for part := range strings.SplitSeq(dir, "/") {
		at = path.Join(at, part)
		fi, err := x.root.Lstat(at)
		if create && errors.Is(err, fs.ErrNotExist) {
			err = x.root.Mkdir(at, 0o777)
			if err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		if fi.Mode()&fs.ModeSymlink != 0 {
			return fmt.Errorf("leads through the symbolic link %s, left out", at)
		}
		if !fi.IsDir() {
			return fmt.Errorf("%s is no directory", at)
		}
	}
	return nil
}

// clear removes what a member replaces. A directory is never replaced.
func (x *unpacker) clear(name string) error {
	fi, err := x.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.IsDir() {
		return errors.New("is a directory here, left out")
	}
	return x.root.Remove(name)
}

func (x *unpacker) directory(name string, h *tar.Header) error {
	fi, err := x.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = x.root.Mkdir(name, 0o700|h.FileInfo().Mode().Perm())
	case err == nil && !fi.IsDir():
		err = errors.New("is no directory here, left out")
	}
	if err == nil {
		x.dirs = append(x.dirs, h)
	}
	return err
}

func (x *unpacker) file(name string, h *tar.Header, body io.Reader) error {
	if err := x.clear(name); err != nil {
		return err
	}
	f, err := x.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, h.FileInfo().Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(f, body)
	if err = errors.Join(err, f.Close()); err != nil {
		return failure{err}
	}
	return x.attributes(name, h)
}

// attributes gives a file or directory the owner, mode and time that are to be kept.
func (x *unpacker) attributes(name string, h *tar.Header) error {
	if err := x.owner(name, h); err != nil {
		return err
	}
	if x.keepMode { // after the owner, whose change drops set-user-id bits
		const kept = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
		if err := x.root.Chmod(name, h.FileInfo().Mode()&kept); err != nil {
			return err
		}
	}
	if x.noTime {
		return nil
	}
	return x.root.Chtimes(name, h.ModTime, h.ModTime)
}

func (x *unpacker) symlink(name, target string, h *tar.Header) error {
	if err := x.within(name, target); err != nil {
		return err
	}
	if err := x.clear(name); err != nil {
		return err
	}
	if err := x.root.Symlink(target, name); err != nil {
		return err
	}
	return x.owner(name, h)
}

func (x *unpacker) owner(name string, h *tar.Header) error {
	if !x.keepOwner {
		return nil
	}
	if err := x.root.Lchown(name, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("owner %d:%d not kept (see --no-same-owner): %w", h.Uid, h.Gid, reason(err))
	}
	return nil
}

// within tells whether a link at name may lead to target. Since all parents of name are
// directories, steps up at the start of target lead where they seem to; later ones might
// not, so they are refused.
func (x *unpacker) within(name, target string) error {
	out := fmt.Errorf("symbolic link to %s leads out of the directory, left out", target)
	if x.bases[1] == "/" {
		return nil // there is no outside
	}
	if filepath.IsAbs(target) {
		for _, base := range x.bases {
			rel, ok := strings.CutPrefix(target, base)
			if ok && (rel == "" || rel[0] == '/') && up(strings.TrimLeft(rel, "/")) == 0 {
				return nil
			}
		}
		return out
	}
	if n := up(target); n < 0 || n > strings.Count(name, "/") {
		return out
	}
	return nil
}

// up counts the steps up at the start of a path; it is negative where there are later ones.
func up(target string) int {
	n, down := 0, false
	for part := range strings.SplitSeq(target, "/") {
		switch {
		case part == "" || part == ".":
		case part != "..":
			down = true
		case down:
			return -1
		default:
			n++
		}
	}
	return n
}

// link makes a second name of a member.
func (x *unpacker) link(name string, h *tar.Header) error {
	old := place(h.Linkname)
	if !filepath.IsLocal(old) {
		return fmt.Errorf("link to %s leads out of the directory, left out", h.Linkname)
	}
	if err := x.parents(old, false); err != nil {
		return err
	}
	fi, err := x.root.Lstat(old)
	switch {
	case err != nil:
		return fmt.Errorf("link to %s: %w", h.Linkname, reason(err))
	case old == name:
		return nil
	case fi.Mode()&fs.ModeSymlink != 0: // elsewhere, it might lead elsewhere
		target, err := x.root.Readlink(old)
		if err != nil {
			return err
		}
		return x.symlink(name, target, h)
	case !fi.Mode().IsRegular():
		return fmt.Errorf("link to %s, which is no file", h.Linkname)
	}
	if err := x.clear(name); err != nil {
		return err
	}
	return x.root.Link(old, name)
}
