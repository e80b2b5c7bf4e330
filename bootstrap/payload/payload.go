// Package payload knows the Linux programs that the binary carries: what they are, and
// how they come onto the disk, whole and verified. It runs none of them.
//
// A binary built without the tag "payload" carries nothing and says so.
package payload

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// ErrNone says that this binary was built without a payload.
var ErrNone = errors.New("this ropes was built without its payload, so it cannot run the embedded provider; " +
	"build it with `make build` on Linux, or use another provider")

// ManifestName is the file in the payload that describes the rest.
const ManifestName = "manifest.json"

// Manifest describes a payload.
type Manifest struct {
	// Versions of the components, by name.
	Versions map[string]string `json:"versions"`
	Files    []File            `json:"files"`
}

// File is one entry of the payload: a regular file, a symbolic link or a directory.
type File struct {
	Path   string      `json:"path"` // slash-separated, relative
	Mode   fs.FileMode `json:"mode"`
	Size   int64       `json:"size"`
	SHA256 string      `json:"sha256,omitempty"` // hex, of a regular file's content
	Link   string      `json:"link,omitempty"`   // target of a symbolic link
}

// Digest identifies a payload: the SHA-256 of its manifest, in hex.
func Digest(manifest []byte) string {
	sum := sha256.Sum256(manifest)
	return hex.EncodeToString(sum[:])
}

// Read parses the manifest that the binary carries.
func Read() (*Manifest, error) {
	if len(manifest) == 0 {
		return nil, ErrNone
	}
	var m Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return nil, fmt.Errorf("payload manifest: %w", err)
	}
	return &m, nil
}

// Open returns the directory of the unpacked payload below cache, unpacking it first
// where it is not there or not what it should be. say is told what is being done.
func Open(ctx context.Context, cache string, say func(string)) (string, error) {
	m, err := Read()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "payload", Digest(manifest)[:16])
	if _, err := os.Stat(dir); err == nil {
		say("verifying the unpacked payload")
		err := Verify(ctx, dir, m)
		if err == nil {
			return dir, nil
		}
		say(fmt.Sprintf("unpacking again: %v", err))
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	say("unpacking the payload")
	if err := unpack(ctx, dir, m); err != nil {
		return "", fmt.Errorf("unpack payload to %s: %w", dir, err)
	}
	return dir, nil
}

// unpack writes the payload beside dir and renames it when it is whole.
func unpack(ctx context.Context, dir string, m *Manifest) (err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".unpack-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	z, err := zstd.NewReader(bytes.NewReader(archive))
	if err != nil {
		return err
	}
	defer z.Close()
	if err := extract(ctx, tar.NewReader(z), tmp); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, ManifestName), manifest, 0o644); err != nil {
		return err
	}
	if err := Verify(ctx, tmp, m); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

func extract(ctx context.Context, r *tar.Reader, dir string) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("payload entry %q leads out of the payload", h.Name)
		}
		if err := extractEntry(h, r, filepath.Join(dir, h.Name)); err != nil {
			return err
		}
	}
}

func extractEntry(h *tar.Header, r io.Reader, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(path, 0o755)
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, path)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, h.FileInfo().Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// Verify compares what lies in dir with the manifest, by content.
func Verify(ctx context.Context, dir string, m *Manifest) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, f := range m.Files {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			return verifyFile(filepath.Join(dir, filepath.FromSlash(f.Path)), f)
		})
	}
	return g.Wait()
}

func verifyFile(path string, want File) error {
	if want.Link != "" {
		if got, err := os.Readlink(path); err != nil || got != want.Link {
			return fmt.Errorf("%s is not a link to %s", path, want.Link)
		}
		return nil
	}
	if want.SHA256 == "" {
		_, err := os.Stat(path)
		return err
	}
	got, err := SumFile(path)
	if err != nil {
		return err
	}
	if got != want.SHA256 {
		return fmt.Errorf("%s has digest %s, want %s", path, got, want.SHA256)
	}
	return nil
}

// SumFile is the SHA-256 of a file's content, in hex.
func SumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
