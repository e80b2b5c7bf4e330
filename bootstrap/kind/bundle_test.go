package kind

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ropes-dev/ropes/bootstrap"
)

func makeBundle(t *testing.T, images string) string {
	t.Helper()
	b := newBench(t)
	path := filepath.Join(t.TempDir(), "lab.bundle")
	if err := b.CreateBundle(t.Context(), path, BundleSpec{Images: images}, bootstrap.Discard); err != nil {
		t.Fatal(err)
	}
	if got, _ := filepath.Glob(path + "*"); len(got) != 1 {
		t.Errorf("files: %v", got)
	}
	return path
}

// noNetwork makes every pull and the registry fail.
func noNetwork(t *testing.T) *bench {
	b := newBench(t)
	b.registry = func(context.Context) error { return errors.New("no route") }
	inner := b.docker.run
	b.detect = func(ctx context.Context) (*Engine, error) {
		return Detect(ctx, func(string) string { return "" }, func(ctx context.Context, c command) error {
			if c.args[0] == "pull" {
				return said("no route to host")
			}
			return inner(ctx, c)
		})
	}
	return b
}

func TestBundle(t *testing.T) {
	for _, from := range []string{FromRegistry, BuiltIn} {
		t.Run(from, func(t *testing.T) {
			path := makeBundle(t, from)
			b := noNetwork(t)
			b.opts.Payload = func(context.Context, func(string)) (string, error) { return "", errors.New("no payload") }
			c := b.ok(t, bootstrap.Spec{Workers: 1, Bundle: path})
			if c.Images != from || len(b.kind.loaded) != 2 {
				t.Errorf("images %q, loaded %v", c.Images, b.kind.loaded)
			}
			if diff := cmp.Diff([]string{"load"}, b.docker.log); diff != "" {
				t.Error(diff)
			}
			// Resumed without the bundle, it has all it needs.
			b.ok(t, bootstrap.Spec{Workers: 1})
		})
	}
}

func TestBundleManifest(t *testing.T) {
	b, err := OpenBundle(makeBundle(t, FromRegistry))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	m := b.Manifest
	for i := range m.Members {
		if m.Members[i].Size == 0 || len(m.Members[i].SHA256) != 64 {
			t.Errorf("%+v", m.Members[i])
		}
		m.Members[i] = Member{Name: m.Members[i].Name, Role: m.Members[i].Role}
	}
	want := BundleManifest{
		Format: 1, NodeImage: NodeImage, NodeTag: "ropes.local/kind-node:abababababab", Images: FromRegistry, Arch: m.Arch,
		Refs: []string{"ropes.local/app:v1", "ropes.local/metrics-server:v0.9.0", "ropes.local/node:v1", "docker.io/istio/pilot:1.31.0", "docker.io/istio/proxyv2:1.31.0"},
		Members: []Member{
			{Name: "node-image.tar.zst", Role: "node"}, {Name: "ropes-images.tar.zst", Role: "images"}, {Name: "istio-images.tar.zst", Role: "images"},
		},
	}
	if diff := cmp.Diff(want, m, cmp.AllowUnexported(Member{})); diff != "" {
		t.Error(diff)
	}
}

func TestDamagedBundle(t *testing.T) {
	path := makeBundle(t, BuiltIn)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenBundle(path)
	if err != nil {
		t.Fatal(err)
	}
	node, imgs := b.Manifest.Members[0], b.Manifest.Members[1]
	b.Close()
	flip := func(at int64) []byte {
		data := bytes.Clone(whole)
		data[at] ^= 0x40
		return data
	}
	for name, tt := range map[string]struct {
		data []byte
		says string
	}{
		"not a bundle":        {[]byte("hello"), "no bundle of ropes"},
		"manifest":            {flip(block + 2), "manifest"},
		"node image":          {flip(node.offset + node.Size/2), node.Name},
		"node image's end":    {flip(node.offset + node.Size - 1), node.Name},
		"images":              {flip(imgs.offset + imgs.Size/2), imgs.Name},
		"ends in the images":  {whole[:imgs.offset+imgs.Size/2], imgs.Name},
		"ends before members": {whole[:block+manifestSize], node.Name},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, tt.data, 0o644); err != nil {
				t.Fatal(err)
			}
			b := noNetwork(t)
			_, err := b.up(t, bootstrap.Spec{Bundle: path})
			says(t, err, tt.says)
			if damaged := (*DamagedError)(nil); name != "not a bundle" && !errors.As(err, &damaged) {
				t.Errorf("not said to be damaged: %v", err)
			}
			if left := b.docker.names(); len(left) > 0 {
				t.Errorf("left %v", left)
			}
			if id := b.docker.images["ropes.local/kind-node:abababababab"]; id != "" && name != "images" && name != "ends in the images" {
				t.Error("a damaged node image was kept")
			}
		})
	}
}

// TestBundleOfAnotherArchitecture: its node image would load, and not run.
func TestBundleOfAnotherArchitecture(t *testing.T) {
	path := makeBundle(t, BuiltIn)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ours := []byte(`"arch": "` + runtime.GOARCH + `"`)
	theirs := []byte(`"arch": "s390x"` + strings.Repeat(" ", len(ours)))[:len(ours)]
	if len(runtime.GOARCH) < len("s390x") {
		t.Skip("no room for another name")
	}
	if err := os.WriteFile(path, bytes.Replace(data, ours, theirs, 1), 0o644); err != nil {
		t.Fatal(err)
	}
	b := noNetwork(t)
	_, err = b.up(t, bootstrap.Spec{Bundle: path})
	says(t, err, path+" is for s390x", runtime.GOARCH)
	if len(b.docker.log) > 0 {
		t.Errorf("it was loaded: %v", b.docker.log)
	}
}

// TestDamagedImagesAreSaidToBe: a node whose stream breaks off complains first, and
// knows less.
func TestDamagedImagesAreSaidToBe(t *testing.T) {
	path := makeBundle(t, BuiltIn)
	bundle, err := OpenBundle(path)
	if err != nil {
		t.Fatal(err)
	}
	m := bundle.Manifest.Members[1]
	bundle.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[m.offset+m.Size/2] ^= 0x40
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	b := noNetwork(t)
	b.kind.complaint = errors.New("ctr: unexpected EOF")
	_, err = b.up(t, bootstrap.Spec{Bundle: path})
	if damaged := (*DamagedError)(nil); !errors.As(err, &damaged) {
		t.Errorf("not said to be damaged: %v", err)
	}
}

// TestBundleIntoADirectory fails before the work is done, not after.
func TestBundleIntoADirectory(t *testing.T) {
	b := newBench(t)
	stick := t.TempDir()
	for _, path := range []string{stick, stick + string(os.PathSeparator)} {
		err := b.CreateBundle(t.Context(), path, BundleSpec{Images: BuiltIn}, b)
		says(t, err, "is a directory")
	}
	if len(b.events) > 0 {
		t.Errorf("done for nothing: %v", b.events)
	}
	if left, _ := filepath.Glob(stick + "*"); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// TestBundleOnAFullDisk names the disk, not the engine whose output it did not take.
func TestBundleOnAFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lab.bundle")
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip(err)
	}
	if err := os.Symlink("/dev/full", path+".part"); err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	err := b.CreateBundle(t.Context(), path, BundleSpec{Images: BuiltIn}, bootstrap.Discard)
	says(t, err, "no space left on device")
	if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
