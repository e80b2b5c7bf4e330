package shell

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// toolbox is three programs, enough to see how they are run.
func toolbox() map[string]applet.Func {
	return map[string]applet.Func{
		"say": func(_ context.Context, c *applet.Call) int {
			fmt.Fprintln(c.Out, strings.Join(c.Args, " "), c.Getenv("GREETING"), filepath.Base(c.Dir))
			return 0
		},
		"fail": func(_ context.Context, c *applet.Call) int { return c.Misused(fmt.Errorf("as asked")) },
		"copy": func(_ context.Context, c *applet.Call) int {
			if _, err := io.Copy(c.Out, c.In); err != nil {
				return c.Fail(err)
			}
			return 0
		},
		"hang": func(ctx context.Context, _ *applet.Call) int { <-ctx.Done(); return applet.Ended(ctx) },
		"kill": func(_ context.Context, c *applet.Call) int { fmt.Fprintln(c.Out, "killed", c.Args); return 0 },
	}
}

func TestShell(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("echo $0 $1; exit 5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		args   []string
		stdin  string
		status int
		stdout string
		stderr string // a part of it
	}{
		{name: "program", args: []string{"-c", "say hi"}, stdout: "hi  " + filepath.Base(dir) + "\n"},
		{name: "environment and directory", args: []string{"-c", "mkdir() { :; }; export GREETING=ho; cd /; say hi"}, stdout: "hi ho /\n"},
		{name: "variable not exported", args: []string{"-c", "GREETING=ho; cd /; say hi"}, stdout: "hi  /\n"},
		{name: "pipe", args: []string{"-c", "echo a | copy | copy"}, stdout: "a\n"},
		{name: "redirect", args: []string{"-c", "echo a > f; copy < f; copy < f"}, stdout: "a\na\n"},
		{name: "status of a program", args: []string{"-c", "fail"}, status: 2, stderr: "fail: as asked"},
		{name: "status tested", args: []string{"-c", "if fail 2>/dev/null; then echo no; else echo $?; fi"}, stdout: "2\n"},
		{name: "exit", args: []string{"-c", "exit 3"}, status: 3},
		{name: "-e", args: []string{"-e", "-c", "fail; echo no"}, status: 2, stderr: "as asked"},
		{name: "-u", args: []string{"-u", "-c", "echo $NOPE"}, status: 1, stderr: "NOPE: unbound variable"},
		{name: "parameters", args: []string{"-c", "echo $0 $1 $#", "name", "x", "y"}, stdout: "name x 2\n"},
		{name: "script file", args: []string{"script", "arg"}, status: 5, stdout: "script arg\n"},
		{name: "no such script", args: []string{"nowhere"}, status: 127, stderr: "no such file"},
		{name: "no such command", args: []string{"-c", "nowhere-to-be-found"}, status: 127, stderr: "not found"},
		{name: "syntax", args: []string{"-c", "if"}, status: 2, stderr: "if"},
		{name: "-c without script", args: []string{"-c"}, status: 2, stderr: "-c needs a script"},
		{name: "unknown option", args: []string{"-Q"}, status: 2, stderr: "unknown option -Q"},
		{name: "script on input", stdin: "echo a\nfail\necho b\n", stdout: "a\nb\n", stderr: "as asked"},
		{name: "its last status", stdin: "echo a\nfail", status: 2, stdout: "a\n", stderr: "as asked"},
		{name: "its exit", stdin: "exit 4\necho no\n", status: 4},
		{name: "input of its commands", stdin: "read x\nline\necho got $x\n", stdout: "got line\n"},
		{name: "kill is ours", args: []string{"-c", "kill 1"}, stdout: "killed [1]\n"},
		{name: "background", args: []string{"-c", "say hi > f & wait; copy < f"}, stdout: "hi  " + filepath.Base(dir) + "\n"},
		{name: "trap", args: []string{"-c", "trap 'echo bye' EXIT; echo hi"}, stdout: "hi\nbye\n"},
		{
			name: "prompts", args: []string{"-i"}, stdin: "PS1='? '\nfor i in 1 2\ndo echo $i; done\nfail\necho $?\nif ;\nexit 6\n", status: 6,
			stdout: "? > 1\n2\n? ? 2\n? ? ", stderr: "as asked",
		},
		{name: "prompts until the end", args: []string{"-i"}, stdin: "PS1='? '\nfail\n", status: 2, stdout: "? ? \n", stderr: "as asked"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in, err := os.Create(filepath.Join(dir, "stdin"))
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			if _, err := io.WriteString(in, tc.stdin); err != nil {
				t.Fatal(err)
			}
			if _, err := in.Seek(0, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			var out, errs bytes.Buffer
			status := New(toolbox())(t.Context(), &applet.Call{
				Name: "sh", Args: tc.args, In: applet.Interruptible(t.Context(), in), Out: &out, Err: &errs, Dir: dir, Environ: []string{"PATH=/nowhere"},
			})
			stdout := out.String()
			if i := strings.Index(stdout, " # "); tc.args != nil && tc.args[0] == "-i" {
				if i < 0 {
					i = strings.Index(stdout, " $ ")
				}
				stdout = stdout[i+3:] // after the first prompt, which PS1 did not make yet
			}
			if status != tc.status || stdout != tc.stdout || !strings.Contains(errs.String(), tc.stderr) {
				t.Errorf("status %d, want %d; stdout %q, want %q; stderr %q, want %q in it", status, tc.status, stdout, tc.stdout, errs.String(), tc.stderr)
			}
		})
	}
}

func TestShellEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan int)
	go func() {
		done <- New(toolbox())(ctx, &applet.Call{Name: "sh", Args: []string{"-c", "hang; echo no"}, Out: io.Discard, Err: io.Discard, Dir: t.TempDir()})
	}()
	cancel(applet.ErrTerminated)
	if status := <-done; status != applet.Terminated {
		t.Errorf("status %d, want %d", status, applet.Terminated)
	}
}

func TestInterruptKeyDropsTheLine(t *testing.T) {
	r := interruptKey{strings.NewReader("ab\x03cd\x03")}
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "ab\x15\rcd\x15\r" {
		t.Errorf("%q, %v", got, err)
	}
}
