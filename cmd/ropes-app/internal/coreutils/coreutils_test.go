package coreutils

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// do runs a program in dir on the given input.
func do(ctx context.Context, t *testing.T, dir, stdin string, words ...string) (status int, stdout, stderr string) {
	t.Helper()
	fn := Applets()[words[0]]
	if fn == nil {
		t.Fatalf("no program %s", words[0])
	}
	var out, errs bytes.Buffer
	status = fn(ctx, &applet.Call{Name: words[0], Args: words[1:], In: strings.NewReader(stdin), Out: &out, Err: &errs, Dir: dir})
	return status, out.String(), errs.String()
}

const verse = "one fish\ntwo fish\nred fish\nblue fish\n"

func TestText(t *testing.T) {
	dir := t.TempDir()
	for name, body := range map[string]string{
		"verse": verse, "empty": "", "open": "no line feed", "sub/deep": "a fish\n",
		"sums": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  empty\n",
		"bad":  strings.Repeat("0", 64) + "  empty\n",
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		cmd    string
		stdin  string
		status int
		stdout string
		stderr string // a part of it
	}{
		{cmd: "cat verse", stdout: verse},
		{cmd: "cat -n open", stdout: "     1\tno line feed"},
		{cmd: "cat", stdin: "in", stdout: "in"},
		{cmd: "cat open -", stdin: "+", stdout: "no line feed+"},
		{cmd: "cat missing verse", status: 1, stdout: verse, stderr: "cat: missing: no such file or directory"},
		{cmd: "cat -Z", status: 2, stderr: "unknown option -Z"},
		{cmd: "head -n 1 verse", stdout: "one fish\n"},
		{cmd: "head -2 verse", stdout: "one fish\ntwo fish\n"},
		{cmd: "head -c 3 verse", stdout: "one"},
		{cmd: "head -n 0 verse", stdout: ""},
		{cmd: "head -n 1 verse open", stdout: "==> verse <==\none fish\n==> open <==\nno line feed"},
		{cmd: "tail -n 1 verse", stdout: "blue fish\n"},
		{cmd: "tail -n +3 verse", stdout: "red fish\nblue fish\n"},
		{cmd: "tail -c 5 verse", stdout: "fish\n"},
		{cmd: "tail -c +0 open", stdout: "no line feed"},
		{cmd: "tail -c+4 open", stdout: "line feed"},
		{cmd: "tail -c +99 open", stdout: ""},
		{cmd: "tail -n x verse", status: 2, stderr: "not a count"},
		{cmd: "wc -l verse", stdout: "4 verse\n"},
		{cmd: "wc -l", stdin: verse, stdout: "4\n"},
		{cmd: "wc open", stdout: "      0       3      12 open\n"},
		{cmd: "wc -w verse empty", stdout: "      8 verse\n      0 empty\n      8 total\n"},
		{cmd: "grep red verse", stdout: "red fish\n"},
		{cmd: "grep green verse", status: 1},
		{cmd: "grep x missing", status: 2, stderr: "missing"},
		{cmd: "grep -q fish missing verse", status: 0, stderr: "missing"},
		{cmd: "grep -c fish verse", stdout: "4\n"},
		{cmd: "grep -vn o verse", stdout: "3:red fish\n4:blue fish\n"},
		{cmd: "grep -i RED verse open", stdout: "verse:red fish\n"},
		{cmd: "grep -o e.* verse", stdout: "e fish\ned fish\ne fish\n"},
		{cmd: "grep -E ^(one|two) verse", stdout: "one fish\ntwo fish\n"},
		{cmd: `grep ^\(one\|two\) verse`, stdout: "one fish\ntwo fish\n"},
		{cmd: "grep a+b", stdin: "aab\na+b\n", stdout: "a+b\n"},
		{cmd: "grep -F a.b", stdin: "axb\na.b\n", stdout: "a.b\n"},
		{cmd: "grep []x] -", stdin: "]\nz\n", stdout: "]\n"},
		{cmd: "grep -w fis verse", status: 1},
		{cmd: "grep -x red.fish verse", stdout: "red fish\n"},
		{cmd: "grep -A 1 -B 1 two verse", stdout: "one fish\ntwo fish\nred fish\n"},
		{cmd: "grep -m 1 fish verse", stdout: "one fish\n"},
		{cmd: "grep -l fish verse open", stdout: "verse\n"},
		{cmd: "grep -r fish sub", stdout: "sub/deep:a fish\n"},
		{cmd: "grep -E ( verse", status: 2, stderr: "missing closing"},
		{cmd: "grep", status: 2, stderr: "no pattern"},
		{cmd: "sort", stdin: "b\na\nb\n", stdout: "a\nb\nb\n"},
		{cmd: "sort -ru", stdin: "b\na\nb\n", stdout: "b\na\n"},
		{cmd: "sort -n", stdin: "10\n9\n-1\n", stdout: "-1\n9\n10\n"},
		{cmd: "sort -k 2,2n", stdin: "a 10\nb 9\n", stdout: "b 9\na 10\n"},
		{cmd: "sort -t: -k2", stdin: "a:z\nb:y\n", stdout: "b:y\na:z\n"},
		{cmd: "sort -k x", status: 2, stderr: "not a field"},
		{cmd: "uniq -c", stdin: "a\na\nb\n", stdout: "      2 a\n      1 b\n"},
		{cmd: "uniq -d", stdin: "a\na\nb\n", stdout: "a\n"},
		{cmd: "cut -d: -f1,3-", stdin: "a:b:c:d\nplain\n", stdout: "a:c:d\nplain\n"},
		{cmd: "cut -c 2-3", stdin: "abcd\n", stdout: "bc\n"},
		{cmd: "cut -f 0", status: 2, stderr: "not a list"},
		{cmd: "tr a-z A-Z", stdin: "abz1", stdout: "ABZ1"},
		{cmd: "tr -d [:digit:]", stdin: "a1b2", stdout: "ab"},
		{cmd: "tr -s o", stdin: "fooo oo", stdout: "fo o"},
		{cmd: `tr \n ,`, stdin: "a\nb\n", stdout: "a,b,"},
		{cmd: "tr a", status: 2, stderr: "1 sets given"},
		{cmd: "seq 3", stdout: "1\n2\n3\n"},
		{cmd: "seq 3 -1 1", stdout: "3\n2\n1\n"},
		{cmd: "seq -1 1", stdout: "-1\n0\n1\n"},
		{cmd: "seq -w 8 10", stdout: "08\n09\n10\n"},
		{cmd: "seq -s , 3", stdout: "1,2,3\n"},
		{cmd: "seq 1 0 2", status: 2, stderr: "never ends"},
		{cmd: "sha256sum empty", stdout: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  empty\n"},
		{cmd: "sha256sum -c sums", stdout: "empty: OK\n"},
		{cmd: "sha256sum -c bad", status: 1, stdout: "empty: FAILED\n"},
		{cmd: "echo -n a", stdout: "a"},
		{cmd: `echo -e a\tb`, stdout: "a\tb\n"},
		{cmd: `echo a\tb`, stdout: "a\\tb\n"},
		{cmd: "true", status: 0},
		{cmd: "false", status: 1},
		{cmd: "date -u -d @0 +%Y-%m-%dT%H:%M:%S%z", stdout: "1970-01-01T00:00:00+0000\n"},
		{cmd: "date -u -d @0 -Iseconds", stdout: "1970-01-01T00:00:00+00:00\n"},
		{cmd: "date -u -d 2030-01-31T12:00:00Z +%s", stdout: "1896091200\n"},
		{cmd: "date +%Q", status: 2, stderr: "unknown conversion"},
		{cmd: "date -d yesterday", status: 2, stderr: "not a time"},
		{cmd: "sleep", status: 2, stderr: "how long"},
		{cmd: "sleep 1y", status: 2, stderr: "not a time"},
		{cmd: "kill -NOPE 1", status: 2, stderr: "unknown signal"},
		{cmd: "kill x", status: 2, stderr: "not a process number"},
		{cmd: "kill", status: 2, stderr: "usage"},
		{cmd: "ps -Q", status: 2, stderr: "unknown option"},
		{cmd: "rm", status: 2, stderr: "no file named"},
		{cmd: "rm -f missing", status: 0},
		{cmd: "rm sub", status: 1, stderr: "is a directory"},
		{cmd: "rm -rf /", status: 1, stderr: "refusing"},
		{cmd: "mkdir sub", status: 1, stderr: "file exists"},
		{cmd: "mkdir -p sub", status: 0},
		{cmd: "ls missing", status: 2, stderr: "no such file"},
		{cmd: "ls sub", stdout: "deep\n"},
		{cmd: "ls -d sub", stdout: "sub\n"},
	} {
		t.Run(tc.cmd, func(t *testing.T) {
			status, stdout, stderr := do(t.Context(), t, dir, tc.stdin, strings.Fields(tc.cmd)...)
			if status != tc.status || stdout != tc.stdout || !strings.Contains(stderr, tc.stderr) || tc.stderr == "" && stderr != "" {
				t.Errorf("status %d, want %d; stdout %q, want %q; stderr %q, want %q in it", status, tc.status, stdout, tc.stdout, stderr, tc.stderr)
			}
		})
	}
}

func TestFilesComeAndGo(t *testing.T) {
	dir := t.TempDir()
	for i, step := range []struct {
		cmd   string
		stdin string
		ls    string // of all there is, afterwards
	}{
		{"mkdir -p a/b", "", "a a/b"},
		{"touch a/f", "", "a a/b a/f"},
		{"touch -c a/g", "", "a a/b a/f"},
		{"tee -a a/f", "text", "a a/b a/f"},
		{"cp a/f a/b", "", "a a/b a/b/f a/f"},
		{"mv a/f g", "", "a a/b a/b/f g"},
		{"cp -r a c", "", "a a/b a/b/f c c/b c/b/f g"},
		{"chmod 600 g", "", "a a/b a/b/f c c/b c/b/f g"},
		{"rm -r a", "", "c c/b c/b/f g"},
	} {
		if status, _, stderr := do(t.Context(), t, dir, step.stdin, strings.Fields(step.cmd)...); status != 0 {
			t.Fatalf("%s: status %d, %s", step.cmd, status, stderr)
		}
		var found []string
		for _, pattern := range []string{"*", "*/*", "*/*/*"} {
			names, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range names {
				rel, err := filepath.Rel(dir, n)
				if err != nil {
					t.Fatal(err)
				}
				found = append(found, rel)
			}
		}
		want := strings.Fields(step.ls)
		if len(found) != len(want) {
			t.Errorf("step %d, %s: found %q, want %q", i, step.cmd, found, want)
		}
		for _, w := range want {
			if _, err := os.Lstat(filepath.Join(dir, w)); err != nil {
				t.Errorf("step %d, %s: %v", i, step.cmd, err)
			}
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "c/b/f")); err != nil || string(b) != "text" {
		t.Errorf("copy holds %q, %v", b, err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "g")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

func TestListLong(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 2048), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, "f"), time.Time{}, time.Date(2030, 1, 31, 12, 0, 0, 0, time.Local)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("f", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	_, stdout, _ := do(t.Context(), t, dir, "", "ls", "-lnh")
	lines := strings.Split(stdout, "\n")
	if !strings.HasPrefix(lines[0], "total ") || !strings.HasPrefix(lines[1], "-rw-r----- 1 ") ||
		!strings.HasSuffix(lines[1], " 2.0K Jan 31 2030 12:00 f") || !strings.HasSuffix(lines[2], " l -> f") {
		t.Errorf("got %q", stdout)
	}
	if _, stdout, _ = do(t.Context(), t, dir, "", "ls", "-F"); stdout != "f\nl@\n" {
		t.Errorf("ls -F: %q", stdout)
	}
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if status, _, _ := do(t.Context(), t, "", "", "sleep", "1.5", "1m"); status != 0 || time.Since(start) != 61500*time.Millisecond {
			t.Errorf("status %d after %s", status, time.Since(start))
		}
		for cause, want := range map[error]int{context.Canceled: 130, applet.ErrTerminated: 143} {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Hour, func() { cancel(cause) })
			if status, _, _ := do(ctx, t, "", "", "sleep", "infinity"); status != want {
				t.Errorf("%v: status %d, want %d", cause, status, want)
			}
		}
	})
}

func TestTailFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(name, []byte("first\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var out bytes.Buffer
		done := make(chan int)
		go func() {
			done <- tail(ctx, &applet.Call{Name: "tail", Args: []string{"-f", name}, Out: &out, Err: &out})
		}()
		synctest.Wait()
		f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("second\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * followEvery)
		synctest.Wait()
		cancel()
		if status := <-done; status != applet.Interrupted || out.String() != "first\nsecond\n" {
			t.Errorf("status %d, output %q", status, out.String())
		}
	})
}

func TestSystem(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if _, stdout, _ := do(t.Context(), t, "", "", "hostname"); stdout != host+"\n" {
		t.Errorf("hostname: %q", stdout)
	}
	if status, stdout, _ := do(t.Context(), t, "", "", "id"); status != 0 || !strings.HasPrefix(stdout, "uid=") {
		t.Errorf("id: %d %q", status, stdout)
	}
	if status, stdout, _ := do(t.Context(), t, "", "", "ps", "aux"); status != 0 || !strings.Contains(stdout, "coreutils") {
		t.Errorf("ps does not show this test: %d %q", status, stdout)
	}
	if status, stdout, _ := do(t.Context(), t, t.TempDir(), "", "df", "-h", "."); status != 0 || strings.Count(stdout, "\n") != 2 {
		t.Errorf("df: %d %q", status, stdout)
	}
}
