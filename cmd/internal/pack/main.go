// Command pack makes the payload that ropes carries: it describes a directory of built
// programs in a manifest and compresses both. Where the directory is what the last run
// packed, it does nothing.
//
//	pack -dir DIR -out BASE -version NAME=VERSION ...
//
// writes BASE.tar.zst and BASE.json.
package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ropes-dev/ropes/bootstrap/payload"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("pack", flag.ContinueOnError)
	dir := flags.String("dir", "", "directory to pack")
	out := flags.String("out", "", "path of the result, without its extensions")
	versions := map[string]string{}
	flags.Func("version", "NAME=VERSION of a component; repeatable", func(s string) error {
		name, version, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("want NAME=VERSION, got %q", s)
		}
		versions[name] = version
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	m := payload.Manifest{Versions: versions}
	var err error
	if m.Files, err = describe(*dir); err != nil {
		return err
	}
	manifest, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	have, err := os.ReadFile(*out + ".json")
	_, statErr := os.Stat(*out + ".tar.zst")
	if err == nil && statErr == nil && bytes.Equal(have, manifest) {
		fmt.Fprintln(stdout, "payload is up to date")
		return nil
	}
	size, err := compress(*dir, m.Files, *out+".tar.zst")
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "payload: %d files, %d MB compressed\n", len(m.Files), size>>20)
	// Last, so that an interrupted run is not taken for a finished one.
	return os.WriteFile(*out+".json", manifest, 0o644)
}

func describe(dir string) ([]payload.File, error) {
	var files []payload.File
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := payload.File{Path: filepath.ToSlash(rel), Mode: info.Mode()}
		switch {
		case d.Type() == fs.ModeSymlink:
			f.Link, err = os.Readlink(path)
		case d.Type().IsRegular():
			f.Size = info.Size()
			f.SHA256, err = payload.SumFile(path)
		}
		files = append(files, f)
		return err
	})
	slices.SortFunc(files, func(a, b payload.File) int { return cmp.Compare(a.Path, b.Path) })
	return files, err
}

func compress(dir string, files []payload.File, out string) (size int64, err error) {
	f, err := os.Create(out)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(8<<20))
	if err != nil {
		return 0, err
	}
	t := tar.NewWriter(z)
	for _, file := range files {
		if err := add(t, dir, file); err != nil {
			return 0, err
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func add(t *tar.Writer, dir string, file payload.File) error {
	h := &tar.Header{Name: file.Path, Mode: int64(file.Mode.Perm()), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	switch {
	case file.Link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, file.Link
	case file.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, file.Path+"/"
	default:
		h.Typeflag, h.Size = tar.TypeReg, file.Size
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	src, err := os.Open(filepath.Join(dir, filepath.FromSlash(file.Path)))
	if err != nil {
		return err
	}
	defer src.Close()
	_, err = io.Copy(t, src)
	return err
}
