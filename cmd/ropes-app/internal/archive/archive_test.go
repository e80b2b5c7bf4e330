package archive

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// do runs tar in dir on the given input.
func do(t *testing.T, dir, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = Run(t.Context(), &applet.Call{Name: "tar", Args: args, In: strings.NewReader(stdin), Out: &out, Err: &errs, Dir: dir})
	return status, out.String(), errs.String()
}

// lay makes files: a body, or "-> target" for a symbolic link, or a name with a slash at
// its end for a directory.
func lay(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(body, "-> "); ok {
			err = os.Symlink(target, p)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(p, 0o755)
		} else {
			err = os.WriteFile(p, []byte(body), 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tree reads what lay makes.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			if in, err := os.ReadDir(p); err != nil || len(in) > 0 {
				return err
			}
			files[name+"/"] = ""
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			files[name] = "-> " + target
			return err
		default:
			b, err := os.ReadFile(p)
			files[name] = string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestThereAndBack(t *testing.T) {
	files := map[string]string{
		"d/a": "one", "d/sub/b": strings.Repeat("two", 1<<15), "d/empty/": "", "d/up": "-> ../d/a", "d/sub/beside": "-> b",
		"d/" + strings.Repeat("long", 40): "x", "e": "",
	}
	from := lay(t, files)
	for _, tc := range []struct {
		name     string
		from, to []string
	}{
		{"as kubectl cp runs it", []string{"cf", "-", "d", "e"}, []string{"-xmf", "-"}},
		{"kubectl cp --no-preserve", []string{"cf", "-", "d", "e"}, []string{"--no-same-permissions", "--no-same-owner", "-xmf", "-"}},
		{"-C before each name", []string{"-c", "-C", "d/..", "d", "-C", from, "e"}, []string{"x"}},
		{"packed small", []string{"czf", "-", "--", "d", "e"}, []string{"xzpf", "-"}},
		{"everything here", []string{"-cf", "-", "."}, []string{"-x"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status, packed, stderr := do(t, from, "", tc.from...)
			if status != applet.OK || stderr != "" {
				t.Fatalf("pack: status %d, %s", status, stderr)
			}
			to := t.TempDir()
			status, stdout, stderr := do(t, "", packed, append(tc.to, "-C", to)...)
			if status != applet.OK || stdout != "" || stderr != "" {
				t.Fatalf("unpack: status %d, %s%s", status, stdout, stderr)
			}
			if diff := cmp.Diff(files, tree(t, to)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNamesLeadInward(t *testing.T) {
	dir := lay(t, map[string]string{"d/a": "one", "d/sub/": ""})
	for _, tc := range []struct {
		name, want string // a name, and what kubectl cp expects of it
	}{
		{"d", "d/ d/a d/sub/"},
		{"./d/", "d/ d/a d/sub/"},
		{filepath.Join(dir, "d/a"), filepath.Join(dir, "d/a")[1:]},
		{"../" + filepath.Base(dir) + "/d/a", filepath.Base(dir) + "/d/a"},
		{"..", ""},
	} {
		_, packed, _ := do(t, dir, "", "cf", "-", tc.name)
		status, stdout, stderr := do(t, dir, packed, "tf", "-")
		got := strings.Join(strings.Fields(stdout), " ")
		if tc.name == ".." {
			if strings.Contains(got, "..") {
				t.Errorf("..: %s", got)
			}
			continue
		}
		if status != applet.OK || stderr != "" || got != tc.want {
			t.Errorf("%s: status %d, %q, want %q; %s", tc.name, status, got, tc.want, stderr)
		}
	}
}

func TestArchiveInAFile(t *testing.T) {
	dir := lay(t, map[string]string{"a": "one", "sub/b": "two"})
	if status, stdout, stderr := do(t, dir, "", "cvf", "all.tar", "."); status != applet.OK || stdout != "./\na\nsub/\nsub/b\n" || stderr != "" {
		t.Fatalf("status %d, %q, %q", status, stdout, stderr)
	}
	if status, stdout, _ := do(t, dir, "", "tf", "all.tar", "sub"); status != applet.OK || stdout != "sub/\nsub/b\n" {
		t.Errorf("list: status %d, %q", status, stdout)
	}
	if status, stdout, _ := do(t, dir, "", "tvf", "all.tar", "a"); status != applet.OK || !strings.HasPrefix(stdout, "-rw-r-----") || !strings.HasSuffix(stdout, " a\n") {
		t.Errorf("long list: status %d, %q", status, stdout)
	}
	to := t.TempDir()
	status, _, stderr := do(t, to, "", "xf", filepath.Join(dir, "all.tar"), "./a", "missing")
	if status != applet.Failure || stderr != "tar: missing: not found in the archive\n" {
		t.Errorf("status %d, %q", status, stderr)
	}
	if diff := cmp.Diff(map[string]string{"a": "one"}, tree(t, to)); diff != "" {
		t.Error(diff)
	}
}

func TestModesAndTimes(t *testing.T) {
	dir := lay(t, map[string]string{"d/a": "one"})
	then := time.Date(2020, 2, 29, 12, 0, 0, 0, time.UTC)
	for name, mode := range map[string]fs.FileMode{"d/a": 0o751, "d": 0o555} {
		p := filepath.Join(dir, name)
		if err := os.Chtimes(p, then, then); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "d"), 0o755) }) //nolint:gosec // or it cannot be removed
	_, packed, _ := do(t, dir, "", "c", "d")
	for _, tc := range []struct {
		flags string
		then  bool
	}{{"-xpf", true}, {"-xpmf", false}} {
		to := t.TempDir()
		if status, _, stderr := do(t, to, packed, tc.flags, "-"); status != applet.OK {
			t.Fatalf("status %d, %s", status, stderr)
		}
		t.Cleanup(func() { _ = os.Chmod(filepath.Join(to, "d"), 0o755) }) //nolint:gosec // as above
		for name, mode := range map[string]fs.FileMode{"d/a": 0o751, "d": 0o555} {
			fi, err := os.Stat(filepath.Join(to, name))
			if err != nil {
				t.Fatal(err)
			}
			if fi.Mode().Perm() != mode || fi.ModTime().Equal(then) != tc.then {
				t.Errorf("%s %s: mode %v, time %v", tc.flags, name, fi.Mode(), fi.ModTime())
			}
		}
	}
}

// packed is an archive of the given headers; a regular file's body is its name.
func packed(t *testing.T, headers ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Mode, h.Uid, h.Gid = 0o644, os.Getuid(), os.Getgid()
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(h.Name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestNothingLeadsOut(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	soft := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
	}
	for name, tc := range map[string]struct {
		members []tar.Header
		told    string
		want    map[string]string // in the directory
	}{
		"a name":              {[]tar.Header{file("../out"), file("in")}, "../out: leads out", map[string]string{"in": "in"}},
		"a name in disguise":  {[]tar.Header{file("a/../../out")}, "leads out", map[string]string{}},
		"absolute, made ours": {[]tar.Header{file("/in/x")}, "", map[string]string{"in/x": "/in/x"}},
		"a link":              {[]tar.Header{soft("l", "../out"), file("in")}, "l: symbolic link to ../out leads out", map[string]string{"in": "in"}},
		"an absolute link":    {[]tar.Header{soft("l", "/etc/passwd")}, "leads out", map[string]string{}},
		"a link in disguise":  {[]tar.Header{soft("d", "."), soft("l", "a/d/../..")}, "leads out", map[string]string{"d": "-> ."}},
		"a link that stays":   {[]tar.Header{soft("a/b/l", "../../in")}, "", map[string]string{"a/b/l": "-> ../../in"}},
		"through a link":      {[]tar.Header{soft("d", "."), file("d/x")}, "d/x: leads through the symbolic link d", map[string]string{"d": "-> ."}},
		"through a link that was there": {
			[]tar.Header{file("there/x")}, "leads through the symbolic link there", map[string]string{},
		},
		"onto a link that was there": {[]tar.Header{file("there")}, "", map[string]string{"there": "there"}},
		"a second name":              {[]tar.Header{hard("h", "../secret")}, "leads out", map[string]string{}},
		"a second name through a link": {
			[]tar.Header{hard("h", "there/secret")}, "leads through the symbolic link there", map[string]string{},
		},
		"a second name of a link": {
			[]tar.Header{soft("a/b/l", "../.."), hard("h", "a/b/l")}, "h: symbolic link to ../.. leads out", map[string]string{"a/b/l": "-> ../.."},
		},
		"a second name of a file": {[]tar.Header{file("x"), hard("y", "x")}, "", map[string]string{"x": "x", "y": "x"}},
		"a device":                {[]tar.Header{{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}}, "not supported", map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			outer := lay(t, map[string]string{"secret": "s", "in/there": "-> .."})
			status, _, stderr := do(t, outer, packed(t, tc.members...), "-xmf", "-", "-C", "in")
			if want := tc.told != ""; (status == applet.Failure) != want || !strings.Contains(stderr, tc.told) || !want && stderr != "" {
				t.Errorf("status %d, %q", status, stderr)
			}
			got := tree(t, filepath.Join(outer, "in"))
			if _, ok := tc.want["there"]; !ok {
				tc.want["there"] = "-> .."
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			entries, err := os.ReadDir(outer)
			if err != nil || len(entries) != 2 {
				t.Errorf("beside the directory: %v, %v", entries, err)
			}
		})
	}
}

func TestAbsoluteLinkWithin(t *testing.T) {
	dir := t.TempDir()
	for target, ok := range map[string]bool{dir + "/x": true, dir: true, dir + "/../x": false, dir + "x": false} {
		_, _, stderr := do(t, dir, packed(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: target}), "xf", "-")
		if (stderr == "") != ok {
			t.Errorf("%s: %q", target, stderr)
		}
	}
}

func TestReplaces(t *testing.T) {
	dir := lay(t, map[string]string{"x": "a longer old text", "d/in": "in"})
	h := func(kind byte, name string) tar.Header { return tar.Header{Typeflag: kind, Name: name} }
	status, _, stderr := do(t, dir, packed(t, h(tar.TypeReg, "d"), h(tar.TypeDir, "x/"), h(tar.TypeReg, "x")), "xf", "-")
	if status != applet.Failure || stderr != "tar: d: is a directory here, left out\ntar: x/: is no directory here, left out\n" {
		t.Errorf("status %d, %s", status, stderr)
	}
	if diff := cmp.Diff(map[string]string{"x": "x", "d/in": "in"}, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestMisused(t *testing.T) {
	dir := lay(t, map[string]string{"a": "one"})
	_, whole, _ := do(t, dir, "", "c", "a")
	for _, tc := range []struct {
		args   string
		stdin  string
		status int
		stderr string
	}{
		{"", "", applet.Usage, "usage"},
		{"-cx a", "", applet.Usage, "usage"},
		{"-c", "", applet.Usage, "no file named"},
		{"-cJ a", "", applet.Usage, "unknown option -J"},
		{"xf", "", applet.Usage, "option -f needs a value"},
		{"c missing", "", applet.Failure, "missing: no such file"},
		{"xf missing", "", applet.Failure, "no such file"},
		{"x -C missing", whole, applet.Failure, "no such file"},
		{"x", "no archive" + strings.Repeat(" ", 600), applet.Failure, "invalid tar header"},
		{"xz", "no archive", applet.Failure, "invalid header"},
		{"x", whole[:514], applet.Failure, "unexpected EOF"},
	} {
		status, stdout, stderr := do(t, dir, tc.stdin, strings.Fields(tc.args)...)
		if status != tc.status || stdout != "" || !strings.Contains(stderr, tc.stderr) {
			t.Errorf("tar %s: status %d, %q", tc.args, status, stderr)
		}
	}
}

// A writer that pads its archive must be able to write all of it.
func TestReadsThePadding(t *testing.T) {
	dir := t.TempDir()
	whole := packed(t, tar.Header{Typeflag: tar.TypeReg, Name: "a"})
	in := strings.NewReader(whole + strings.Repeat("\x00", record-len(whole)) + "rest")
	status := Run(t.Context(), &applet.Call{Name: "tar", Args: []string{"x"}, In: in, Out: &bytes.Buffer{}, Err: &bytes.Buffer{}, Dir: dir})
	if status != applet.OK || in.Len() != len("rest") {
		t.Errorf("status %d, %d bytes not read", status, in.Len())
	}
}
