package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// packer writes files into an archive.
type packer struct {
	*archiver
	w      *tar.Writer
	names  io.Writer   // gets the names under -v
	self   fs.FileInfo // the archive itself, where it is a file: it is left out
	packed int         // members so far
}

// add packs a file, or a directory and what is in it. Links are packed as links.
func (p *packer) add(o operand) error {
	top := o.name
	if !filepath.IsAbs(top) {
		top = filepath.Join(o.dir, top)
	}
	top = filepath.Clean(top)
	return filepath.WalkDir(top, func(file string, _ fs.DirEntry, err error) error {
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		if err != nil {
			p.complain(file, err)
			return nil
		}
		rel, err := filepath.Rel(top, file)
		if err != nil {
			return err
		}
		return p.file(file, path.Join(inward(o.name), filepath.ToSlash(rel)))
	})
}

// inward is a name without what leads out of the directory that an archive is unpacked to.
func inward(name string) string {
	name = strings.TrimLeft(path.Clean(filepath.ToSlash(name)), "/")
	for name == ".." || strings.HasPrefix(name, "../") {
		name = strings.TrimPrefix(name[2:], "/")
	}
	if name == "" {
		return "."
	}
	return name
}

// file packs one file. Its error is one of writing; what cannot be read is complained of.
func (p *packer) file(file, name string) error {
	fi, err := os.Lstat(file)
	if err != nil {
		p.complain(file, err)
		return nil
	}
	if p.self != nil && os.SameFile(fi, p.self) {
		return nil
	}
	link := ""
	var body *os.File
	switch {
	case fi.Mode()&fs.ModeSocket != 0:
		p.complain(file, errors.New("is a socket, left out"))
		return nil
	case fi.Mode()&fs.ModeSymlink != 0:
		link, err = os.Readlink(file)
	case fi.Mode().IsRegular():
		body, err = os.Open(file)
	}
	if err != nil {
		p.complain(file, err)
		return nil
	}
	if body != nil {
		defer body.Close()
	}
	h, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		p.complain(file, err)
		return nil
	}
	h.Name = name
	if fi.IsDir() {
		h.Name += "/"
	}
	if p.verbose {
		if err := p.tell(p.names, h); err != nil {
			return err
		}
	}
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	p.packed++
	if body == nil {
		return nil
	}
	return p.body(body, file, h.Size)
}

// body copies size bytes. Where the file has less by now, zeros take their place.
func (p *packer) body(f *os.File, file string, size int64) error {
	r := &reader{r: f}
	n, err := io.CopyN(p.w, r, size)
	if err == nil {
		return nil
	}
	if r.err == nil {
		return err // of writing
	}
	if errors.Is(r.err, io.EOF) {
		r.err = fmt.Errorf("became shorter by %d bytes while it was read; zeros take their place", size-n)
	}
	p.complain(file, r.err)
	_, err = io.CopyN(p.w, zeros{}, size-n)
	return err
}

// reader remembers how reading ended.
type reader struct {
	r   io.Reader
	err error
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.err = err
	return n, err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
