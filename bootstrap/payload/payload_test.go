package payload

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// carry makes this binary carry a payload of one program for the length of a test.
func carry(t *testing.T, name, content, sum string) {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	m, err := json.Marshal(Manifest{Files: []File{{Path: name, Mode: 0o755, Size: int64(len(content)), SHA256: sum}}})
	if err != nil {
		t.Fatal(err)
	}
	oldArchive, oldManifest := archive, manifest
	archive, manifest = b.Bytes(), m
	t.Cleanup(func() { archive, manifest = oldArchive, oldManifest })
}

// helloSum is the SHA-256 of "hello".
const helloSum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

func quiet(string) {}

func TestOpenUnpacksOnceAndMendsDamage(t *testing.T) {
	carry(t, "bin/hello", "hello", helloSum)
	cache := t.TempDir()
	dir, err := Open(t.Context(), cache, quiet)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "bin/hello")
	before, err := os.Stat(program)
	if err != nil || before.Mode().Perm() != 0o755 {
		t.Fatalf("%v, %v", before, err)
	}
	if _, err := Open(t.Context(), cache, quiet); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(program); err != nil || !os.SameFile(before, after) {
		t.Errorf("unpacked again without need (%v)", err)
	}
	if err := os.WriteFile(program, []byte("hullo"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), cache, quiet); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(program); err != nil || string(got) != "hello" {
		t.Errorf("a damaged program stayed: %q, %v", got, err)
	}
}

func TestOpenRefusesWhatDoesNotMatchItsDigestAndLeavesNothing(t *testing.T) {
	carry(t, "bin/hello", "hullo", helloSum)
	cache := t.TempDir()
	_, err := Open(t.Context(), cache, quiet)
	if err == nil || !strings.Contains(err.Error(), "digest") {
		t.Fatalf("got %v, want a complaint about the digest", err)
	}
	left, err := os.ReadDir(filepath.Join(cache, "payload"))
	if err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestOpenRefusesEntriesThatLeadOut(t *testing.T) {
	carry(t, "../evil", "hello", helloSum)
	if _, err := Open(t.Context(), t.TempDir(), quiet); err == nil || !strings.Contains(err.Error(), "leads out") {
		t.Errorf("got %v", err)
	}
}
