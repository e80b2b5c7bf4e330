package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPackDoesNothingWhereNothingChanged(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("one"), 0o755); err != nil {
		t.Fatal(err)
	}
	pack := func() string {
		t.Helper()
		var b bytes.Buffer
		if err := run([]string{"-dir", dir, "-out", out, "-version", "x=1"}, &b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if got := pack(); !strings.Contains(got, "1 files") {
		t.Errorf("first run printed %q", got)
	}
	first, err := os.Stat(out + ".tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	if got := pack(); got != "payload is up to date\n" {
		t.Errorf("second run printed %q", got)
	}
	if second, err := os.Stat(out + ".tar.zst"); err != nil || !second.ModTime().Equal(first.ModTime()) {
		t.Errorf("an unchanged payload was packed again (%v)", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("two"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := pack(); strings.Contains(got, "up to date") {
		t.Error("a changed file was not packed")
	}
}
