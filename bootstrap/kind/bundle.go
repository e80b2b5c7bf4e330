package kind

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// A bundle is one file with all that a kind cluster needs of a network: a tar archive of
// its manifest, the node image and the images for the nodes. The manifest comes first and
// gives size and SHA-256 of each of the others, which are held against it as they are read.
const (
	manifestName = "bundle.json"
	manifestSize = 8 << 10 // padded, so that it can be written last and read first
	bundleFormat = 1
)

// bundlePrint begins the fingerprint of images that came from a bundle.
const bundlePrint = "bundle "

// BundleManifest says what is in a bundle.
type BundleManifest struct {
	Format    int      `json:"format"`
	NodeImage string   `json:"nodeImage"` // that it was made from
	NodeTag   string   `json:"nodeTag"`   // the name it has in the archive
	Images    string   `json:"images"`    // where those of the mesh come from: registry or builtin
	Refs      []string `json:"refs"`      // the images for the nodes
	Arch      string   `json:"arch"`
	Members   []Member `json:"members"`
}

// Member is one file of a bundle.
type Member struct {
	Name   string `json:"name"`
	Role   string `json:"role"` // node or images
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	offset int64
}

// The roles of members.
const (
	roleNode   = "node"
	roleImages = "images"
)

// Bundle is a bundle that is open for reading.
type Bundle struct {
	Manifest BundleManifest
	file     *os.File
}

// DamagedError is a bundle that is not what it was made as.
type DamagedError struct{ Path, Detail string }

// Error says what is wrong and what mends it.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("bundle %s is damaged: %s; copy it again, or make it anew with ropes bundle create", e.Path, e.Detail)
}

// OpenBundle reads the manifest and finds the members; their contents are checked when
// they are read.
func OpenBundle(path string) (*Bundle, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open bundle: %w", err)
	}
	b := &Bundle{file: f}
	if err := b.index(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return b, nil
}

// Close closes the file.
func (b *Bundle) Close() error { return b.file.Close() }

func (b *Bundle) damaged(format string, args ...any) error {
	return &DamagedError{Path: b.file.Name(), Detail: fmt.Sprintf(format, args...)}
}

func (b *Bundle) index() error {
	tr := tar.NewReader(b.file)
	h, err := tr.Next()
	if err != nil || h.Name != manifestName || h.Size != manifestSize {
		return fmt.Errorf("%s is no bundle of ropes", b.file.Name())
	}
	if err := json.NewDecoder(tr).Decode(&b.Manifest); err != nil {
		return b.damaged("its manifest cannot be read: %v", err)
	}
	if b.Manifest.Format != bundleFormat {
		return fmt.Errorf("bundle %s has format %d, and this ropes reads %d; make it with the same ropes", b.file.Name(), b.Manifest.Format, bundleFormat)
	}
	for i := range b.Manifest.Members {
		m := &b.Manifest.Members[i]
		h, err := tr.Next()
		if err != nil {
			return b.damaged("it ends before %s", m.Name)
		}
		if h.Name != m.Name || h.Size != m.Size {
			return b.damaged("%s of %d bytes where %s of %d should be", h.Name, h.Size, m.Name, m.Size)
		}
		if m.offset, err = b.file.Seek(0, io.SeekCurrent); err != nil {
			return err
		}
	}
	return nil
}

// open returns the content of a member. Its last Read fails where the content is not what
// the manifest says.
func (b *Bundle) open(m Member) io.Reader {
	return &verified{Reader: io.NewSectionReader(b.file, m.offset, m.Size), sum: sha256.New(), left: m.Size, member: m, bundle: b}
}

// verified is a reader that checks what has gone through it.
type verified struct {
	io.Reader
	sum    hash.Hash
	left   int64
	member Member
	bundle *Bundle
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.Reader.Read(p)
	v.sum.Write(p[:n])
	v.left -= int64(n)
	switch {
	case v.left == 0:
		if got := hex.EncodeToString(v.sum.Sum(nil)); got != v.member.SHA256 {
			return n, v.bundle.damaged("%s has digest %.12s, want %.12s", v.member.Name, got, v.member.SHA256)
		}
	case errors.Is(err, io.EOF):
		return n, v.bundle.damaged("it ends within %s", v.member.Name)
	}
	return n, err
}

// unpacked copies the uncompressed content of a member to w, all of it or an error.
func (b *Bundle) unpacked(ctx context.Context, m Member, w io.Writer) error {
	in := b.open(m)
	z, err := zstd.NewReader(untilDone{ctx: ctx, Reader: in})
	if err != nil {
		return err
	}
	defer z.Close()
	out := &sink{Writer: w}
	if _, err := io.Copy(out, z); err != nil {
		if d := (*DamagedError)(nil); errors.As(err, &d) || out.failed || ctx.Err() != nil {
			return err
		}
		return b.damaged("%s: %v", m.Name, err) // of all that is left, the decompressor's complaint
	}
	_, err = io.Copy(io.Discard, in) // what stands behind the last frame counts too
	return err
}

// sink remembers whether it was the writing that failed.
type sink struct {
	io.Writer
	failed bool
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.Writer.Write(p)
	s.failed = s.failed || err != nil
	return n, err
}

// archives are the images for the nodes.
func (b *Bundle) archives() []archive {
	var list []archive
	for _, m := range b.Manifest.Members {
		if m.Role == roleImages {
			list = append(list, archive{
				fingerprint: bundlePrint + m.SHA256,
				write:       func(ctx context.Context, w io.Writer) error { return b.unpacked(ctx, m, w) },
			})
		}
	}
	return list
}

// loadNodeImage gives the engine the node image, where it has none of that name, and
// returns its name. The name says what is in it: it is made of the image's ID.
func (b *Bundle) loadNodeImage(ctx context.Context, e *Engine, say func(string)) (string, error) {
	id, err := e.ImageID(ctx, b.Manifest.NodeTag)
	if err != nil || id != "" {
		return b.Manifest.NodeTag, err
	}
	for _, m := range b.Manifest.Members {
		if m.Role != roleNode {
			continue
		}
		say("loading the node image from " + b.file.Name())
		if err := b.loadInto(ctx, e, m); err != nil {
			// What the engine has taken in is not what it should be.
			_, _ = e.output(context.WithoutCancel(ctx), doTimeout, "rmi", b.Manifest.NodeTag) // there may be none
			return "", fmt.Errorf("load the node image: %w", err)
		}
		return b.Manifest.NodeTag, nil
	}
	return "", b.damaged("it holds no node image")
}

func (b *Bundle) loadInto(ctx context.Context, e *Engine, m Member) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := b.unpacked(ctx, m, w)
		w.CloseWithError(err)
		written <- err
	}()
	err := e.run(ctx, command{name: e.binary, args: []string{"load"}, stdin: r, stdout: io.Discard})
	r.CloseWithError(errors.New("the engine takes no more"))
	writeErr := <-written
	if d := (*DamagedError)(nil); err == nil || errors.As(writeErr, &d) {
		return writeErr
	}
	return err
}
