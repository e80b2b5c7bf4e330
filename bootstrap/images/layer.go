package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blockSize is tar's.
const blockSize = 512

// layer is one tar archive, described as a sequence of segments.
type layer struct {
	segments    []segment
	size        int64  // of the archive, bytes
	fingerprint string // changes when a byte of the archive may have changed
	digest      v1.Hash
}

// segment is a run of the archive's bytes: of memory, or of a whole file.
type segment struct {
	offset int64 // of its first byte in the archive
	size   int64
	bytes  []byte // where file is empty
	file   string
}

// entry is one member of a layer to be.
type entry struct {
	name   string // without leading slash; directories end with one
	mode   int64  // permission bits and tar's set-id and sticky bits
	uid    int    // owner, and group of the same number
	link   string // target, where the entry is a symbolic link
	body   []byte // of a regular file
	file   string // path of a regular file's contents; body is unused then
	fsInfo fs.FileInfo
}

// layEntries turns entries into a layer without its digest. It stats files and reads none.
func layEntries(entries []entry) (*layer, error) {
	l := &layer{}
	sum := sha256.New()
	for _, e := range entries {
		if err := l.add(e, sum); err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	l.append(make([]byte, 2*blockSize), sum) // end of archive
	l.fingerprint = hex.EncodeToString(sum.Sum(nil))
	return l, nil
}

func (l *layer) add(e entry, sum hash.Hash) error {
	h := tar.Header{
		Name: e.name, Mode: e.mode, Uid: e.uid, Gid: e.uid,
		Typeflag: tar.TypeReg, Size: int64(len(e.body)), ModTime: time.Unix(0, 0),
	}
	switch {
	case e.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
	case e.name[len(e.name)-1] == '/':
		h.Typeflag = tar.TypeDir
	case e.file != "":
		if e.fsInfo == nil {
			fi, err := os.Stat(e.file)
			if err != nil {
				return err
			}
			e.fsInfo = fi
		}
		h.Size = e.fsInfo.Size()
	}
	header, err := headerBytes(&h)
	if err != nil {
		return err
	}
	l.append(header, sum)
	if e.file != "" {
		fmt.Fprintf(sum, "%s %d %d\n", e.file, h.Size, e.fsInfo.ModTime().UnixNano())
		l.segments = append(l.segments, segment{offset: l.size, size: h.Size, file: e.file})
		l.size += h.Size
	} else {
		l.append(e.body, sum)
	}
	if rest := h.Size % blockSize; rest != 0 {
		l.append(make([]byte, blockSize-rest), sum)
	}
	return nil
}

// append adds bytes, to the segment before where that is of memory too.
func (l *layer) append(b []byte, sum hash.Hash) {
	sum.Write(b)
	if n := len(l.segments); n > 0 && l.segments[n-1].file == "" {
		l.segments[n-1].bytes = append(l.segments[n-1].bytes, b...)
		l.segments[n-1].size += int64(len(b))
	} else {
		l.segments = append(l.segments, segment{offset: l.size, size: int64(len(b)), bytes: b})
	}
	l.size += int64(len(b))
}

// headerBytes is the header block of a tar entry, with PAX records where a field is too
// long for the block.
func headerBytes(h *tar.Header) ([]byte, error) {
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// open returns the archive for reading. The caller closes it.
func (l *layer) open() *layerReader {
	return &layerReader{layer: l}
}

// layerReader reads a layer from anywhere in it, with at most one file open at a time.
// It is for one goroutine.
type layerReader struct {
	layer   *layer
	pos     int64
	file    *os.File
	current int // index of the segment that file belongs to
}

var _ io.ReadSeekCloser = (*layerReader)(nil)

// Read implements io.Reader. A file that has become shorter than it was is an error.
func (r *layerReader) Read(p []byte) (int, error) {
	segs := r.layer.segments
	i := sort.Search(len(segs), func(i int) bool { return segs[i].offset+segs[i].size > r.pos })
	if i == len(segs) {
		return 0, io.EOF
	}
	s, at := segs[i], r.pos-segs[i].offset
	if s.file == "" {
		n := copy(p, s.bytes[at:])
		r.pos += int64(n)
		return n, nil
	}
	if err := r.openSegment(i); err != nil {
		return 0, err
	}
	n, err := r.file.ReadAt(p[:min(int64(len(p)), s.size-at)], at)
	r.pos += int64(n)
	if n > 0 {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s is shorter than it was: %w", s.file, io.ErrUnexpectedEOF)
	}
	return 0, err
}

func (r *layerReader) openSegment(i int) error {
	if r.file != nil && r.current == i {
		return nil
	}
	if err := r.Close(); err != nil {
		return err
	}
	f, err := os.Open(r.layer.segments[i].file)
	if err != nil {
		return err
	}
	r.file, r.current = f, i
	return nil
}

// Seek implements io.Seeker.
func (r *layerReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.layer.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to %d: %w", offset, fs.ErrInvalid)
	}
	r.pos = offset
	return offset, nil
}

// Close implements io.Closer.
func (r *layerReader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// treeEntries lists the directory tree at root, in lexical order, all owned by root.
// Anything but directories, regular files and symbolic links is refused.
func treeEntries(root string) ([]entry, error) {
	var entries []entry
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		e := entry{name: path.Clean(filepath.ToSlash(rel)), mode: int64(fi.Mode().Perm())}
		switch {
		case fi.IsDir():
			e.name += "/"
		case fi.Mode()&fs.ModeSymlink != 0:
			if e.link, err = os.Readlink(p); err != nil {
				return err
			}
		case fi.Mode().IsRegular():
			e.file, e.fsInfo = p, fi
		default:
			return fmt.Errorf("%s: neither file, directory nor symbolic link", p)
		}
		entries = append(entries, e)
		return nil
	})
	return entries, err
}
