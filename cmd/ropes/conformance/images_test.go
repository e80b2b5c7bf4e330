//go:build conformance

package conformance

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/ropes-dev/ropes/bootstrap/images"
)

// The suite's backends are one program, echo-basic, whose source rides in the suite's own Go
// module. It is built here and served to the cluster under every name that the manifests
// call it by.
const (
	echoProgram = "sigs.k8s.io/gateway-api/conformance/echo-basic"
	echoImage   = "registry.k8s.io/gateway-api/echo-basic:"
)

// offerImages puts the test images where the cluster's registry finds them.
func offerImages(t *testing.T, dir string, manifests fs.FS) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "echo-basic")
	goTool(t, "build", "-ldflags", "-s -w", "-o", program, echoProgram)
	img := imageOf(t, program)
	if err := os.RemoveAll(filepath.Join(dir, "images")); err != nil {
		t.Fatal(err)
	}
	p, err := layout.Write(filepath.Join(dir, "images"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range referenced(t, manifests, echoImage) {
		if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{images.RefAnnotation: ref})); err != nil {
			t.Fatal(err)
		}
	}
}

// imageOf is an image of one program and nothing else, started by default.
func imageOf(t *testing.T, program string) v1.Image {
	t.Helper()
	body, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	if err := tw.WriteHeader(&tar.Header{Name: "echo-basic", Mode: 0o755, Size: int64(len(body)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	cfg.Config = v1.Config{Entrypoint: []string{"/echo-basic"}, User: "65532:65532"}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// referenced lists the images of one repository that the manifests ask for.
func referenced(t *testing.T, manifests fs.FS, prefix string) []string {
	t.Helper()
	var refs []string
	err := fs.WalkDir(manifests, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		data, err := fs.ReadFile(manifests, path)
		for line := range strings.Lines(string(data)) {
			if ref, ok := strings.CutPrefix(strings.TrimSpace(line), "image: "); ok && strings.HasPrefix(ref, prefix) {
				refs = append(refs, ref)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(refs)
	return slices.Compact(refs)
}

// withOurCoreDNS is the suite's manifests, in which CoreDNS, the backend of UDP routes, is of the
// version that the cluster's registry has.
type withOurCoreDNS struct{ fs.FS }

const coreDNS = "registry.k8s.io/coredns/coredns:"

// Open implements fs.FS.
func (f withOurCoreDNS) Open(name string) (fs.File, error) {
	file, err := f.FS.Open(name)
	if err != nil || filepath.Ext(name) != ".yaml" {
		return file, err
	}
	defer file.Close()
	data, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for line := range strings.Lines(string(data)) {
		if before, _, ok := strings.Cut(line, coreDNS); ok {
			line = before + coreDNS + images.CoreDNSTag + "\n"
		}
		out.WriteString(line)
	}
	return &manifest{Reader: bytes.NewReader(out.Bytes()), FileInfo: info}, nil
}

// manifest is a file in memory.
type manifest struct {
	*bytes.Reader
	fs.FileInfo
}

func (m *manifest) Stat() (fs.FileInfo, error) { return m, nil }
func (m *manifest) Size() int64                { return m.Reader.Size() }
func (m *manifest) Close() error               { return nil }
