package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestShorten(t *testing.T) {
	just, long := strings.Repeat("a", maxComment), strings.Repeat("b", maxComment+1)
	in := "add element ip kube-proxy m { 10.0.0.1 . tcp . 80 comment \"" + long + "\" : goto x }\n" +
		"add element ip kube-proxy m { 10.0.0.2 . tcp . 80 comment \"" + just + "\" : goto y }\n" +
		"add table ip kube-proxy { comment \"rules\" ; }\n"
	want := strings.Replace(in, long, long[:maxComment-3]+"...", 1)
	if got := string(shorten([]byte(in))); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestScriptAndStatusPassThrough(t *testing.T) {
	program := filepath.Join(t.TempDir(), "nft")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\"\ncat\necho bad >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code := run(program, []string{"--json", "-f", "-"}, strings.NewReader("list ruleset\n"), &stdout, &stderr)
	if code != 3 || stdout.String() != "--json -f -\nlist ruleset\n" || stderr.String() != "bad\n" {
		t.Errorf("status %d, stdout %q, stderr %q", code, stdout.String(), stderr.String())
	}
	if code := run(filepath.Join(t.TempDir(), "none"), []string{"-f", "-"}, strings.NewReader(""), &stdout, &stderr); code != 1 {
		t.Errorf("without the program: status %d", code)
	}
}
