package main

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ropes-dev/ropes/bootstrap/images"
	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

func TestImageLinksAllPrograms(t *testing.T) {
	if diff := cmp.Diff(slices.Sorted(maps.Keys(programs())), slices.Sorted(slices.Values(images.AppNames()))); diff != "" {
		t.Errorf("the image's links are not the program's names: %s", diff)
	}
}

func TestChoose(t *testing.T) {
	for _, tc := range []struct {
		argv []string
		name string
		args []string
	}{
		{[]string{"/usr/bin/curl", "-s", "x"}, "curl", []string{"-s", "x"}},
		{[]string{"/usr/local/bin/ropes-app", "curl", "-s"}, "curl", []string{"-s"}},
		{[]string{"ropes-app"}, "ropes-app", []string{}},
		{[]string{"ropes-app", "nonsense"}, "nonsense", []string{}},
	} {
		name, args := choose(tc.argv)
		if name != tc.name || !slices.Equal(args, tc.args) {
			t.Errorf("choose(%q) = %q %q, want %q %q", tc.argv, name, args, tc.name, tc.args)
		}
	}
}

// call runs a program with streams of its own.
func call(t *testing.T, name string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = run(t.Context(), &applet.Call{
		Name: name, Args: args, In: strings.NewReader(""), Out: &out, Err: &err, Dir: t.TempDir(),
		Environ: []string{"A=1", "PATH=/nowhere"},
	})
	return status, out.String(), err.String()
}

func TestRun(t *testing.T) {
	for _, tc := range []struct {
		args   []string
		status int
		stdout string
		stderr string // a part of it
	}{
		{[]string{"echo", "a", "b"}, 0, "a b\n", ""},
		{[]string{"nonsense"}, 2, "", `no program "nonsense"`},
		{[]string{"env", "-i", "B=2"}, 0, "B=2\n", ""},
		{[]string{"env", "-u", "PATH", "A=3"}, 0, "A=3\n", ""},
		{[]string{"env", "B=2", "sh", "-c", "echo $A$B"}, 0, "12\n", ""},
		{[]string{"env", "false"}, 1, "", ""},
		{[]string{"env", "-x"}, 2, "", "unknown option -x"},
		{[]string{"env", "no-such-program-here"}, 127, "", "env: "},
		{[]string{"test", "-d", "/"}, 0, "", ""},
		{[]string{"test", "-d", "/no such directory"}, 1, "", ""},
		{[]string{"[", "a b", "=", "a b", "]"}, 0, "", ""},
		{[]string{"[", "a", "=", "b", "]"}, 1, "", ""},
		{[]string{"[", "a"}, 2, "", "["},
		{[]string{"sh", "-c", "tar cf - '/dev/null' | tail -c+0 | tar tf -"}, 0, "dev/null\n", ""},
		{[]string{"sh", "-c", "env B=7 env | grep ^B="}, 0, "B=7\n", ""},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			status, stdout, stderr := call(t, tc.args[0], tc.args[1:]...)
			if status != tc.status || stdout != tc.stdout || !strings.Contains(stderr, tc.stderr) {
				t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
			}
		})
	}
}
