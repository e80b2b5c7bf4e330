package kubeconfig

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

const incoming = `apiVersion: v1
kind: Config
current-context: ropes-two
contexts:
- name: ropes-two
  context: {cluster: kubernetes, user: kubernetes-admin}
clusters:
- name: kubernetes
  cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: Q0E=}
users:
- name: kubernetes-admin
  user: {client-certificate-data: Q1JU, client-key-data: S0VZ}
`

// theirs holds what people and tools put into kubeconfigs: comments, exec plugins,
// extensions, preferences, fields of the future.
const theirs = `# work clusters, do not touch
apiVersion: v1
kind: Config
preferences:
  colors: true
clusters:
- cluster: # the big one
    insecure-skip-tls-verify: true
    server: https://prod.example
    extensions:
    - name: note
      extension: {provider: elsewhere, number: 007}
  name: prod
contexts:
- context:
    cluster: prod
    namespace: "yes"
    user: me
  name: prod
current-context: prod
users:
- name: me
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: get-token
      args: ["--time", "12:30:45"]
      future-field: [1, 2.50, null]
`

func env(m map[string]string) func(string) string { return func(k string) string { return m[k] } }

func write(t *testing.T, path, data string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func tree(t *testing.T, data string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := yaml.Unmarshal([]byte(data), &m); err != nil {
		t.Fatalf("%v in\n%s", err, data)
	}
	return m
}

func TestTarget(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	write(t, there, "", 0o600)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	sep := string(filepath.ListSeparator)
	for _, tt := range []struct {
		name, kubeconfig, want string
	}{
		{"home", "", filepath.Join(dir, ".kube", "config")},
		{"one that does not exist", a, a},
		{"first that exists", a + sep + sep + there + sep + b, there},
		{"a directory does not count", dir + sep + b, b},
		{"else the last", a + sep + b, b},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Target(env(map[string]string{"HOME": dir, "KUBECONFIG": tt.kubeconfig}))
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
	if _, err := Target(env(nil)); err == nil {
		t.Error("no error without HOME and KUBECONFIG")
	}
}

func TestMergeIntoNothing(t *testing.T) {
	home := t.TempDir()
	path, err := Merge(t.Context(), env(map[string]string{"HOME": home}), "two", []byte(incoming))
	if err != nil {
		t.Fatal(err)
	}
	want := tree(t, strings.NewReplacer("kubernetes-admin", "ropes-two", "kubernetes", "ropes-two").Replace(incoming))
	if diff := cmp.Diff(want, tree(t, read(t, path))); diff != "" {
		t.Error(diff)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	assertOnly(t, filepath.Dir(path), "config")
}

func TestMergeThenRemoveGivesBackTheirs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	write(t, path, theirs, 0o640)
	e := env(map[string]string{"KUBECONFIG": path})
	for range 2 { // the second time replaces
		if _, err := Merge(t.Context(), e, "two", []byte(incoming)); err != nil {
			t.Fatal(err)
		}
	}
	merged := tree(t, read(t, path))
	if got := merged["current-context"]; got != "ropes-two" {
		t.Errorf("current-context %v", got)
	}
	for _, list := range []string{"clusters", "contexts", "users"} {
		if n := len(merged[list].([]any)); n != 2 {
			t.Errorf("%d %s, want 2", n, list)
		}
	}
	if err := Remove(t.Context(), e, "two"); err != nil {
		t.Fatal(err)
	}
	want := tree(t, theirs)
	want["current-context"] = ""
	got := read(t, path)
	if diff := cmp.Diff(want, tree(t, got)); diff != "" {
		t.Error(diff)
	}
	for _, kept := range []string{"# work clusters, do not touch", "# the big one", "number: 007", "2.50", `"12:30:45"`, `"yes"`} {
		if !strings.Contains(got, kept) {
			t.Errorf("lost %q in\n%s", kept, got)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v; want 0640 as before", info.Mode(), err)
	}
	assertOnly(t, filepath.Dir(path), "config")
}

func TestRemoveLeavesOthersAlone(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	// What is not YAML at all is not ours to complain of, unless it holds our name.
	write(t, a, "clusters: []   # odd   spacing\n", 0o600)
	write(t, b, "\tno yaml\n", 0o600)
	list := a + string(filepath.ListSeparator) + b + string(filepath.ListSeparator) + filepath.Join(dir, "absent")
	if err := Remove(t.Context(), env(map[string]string{"KUBECONFIG": list}), "two"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, a); got != "clusters: []   # odd   spacing\n" {
		t.Errorf("a was rewritten: %q", got)
	}
	assertOnly(t, dir, "a", "b")
}

func TestRemoveKeepsAnotherCurrentContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	write(t, path, theirs, 0o600)
	e := env(map[string]string{"KUBECONFIG": path})
	if _, err := Merge(t.Context(), e, "two", []byte(incoming)); err != nil {
		t.Fatal(err)
	}
	write(t, path, strings.Replace(read(t, path), "current-context: ropes-two", "current-context: prod", 1), 0o600)
	if err := Remove(t.Context(), e, "two"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tree(t, theirs), tree(t, read(t, path))); diff != "" {
		t.Error(diff)
	}
}

func TestMergeShapes(t *testing.T) {
	for name, before := range map[string]string{
		"empty":      "",
		"null":       "---\n",
		"null lists": "apiVersion: v1\nclusters: null\ncontexts:\nusers: []\n",
		"json":       `{"apiVersion":"v1","kind":"Config","clusters":[{"name":"x","cluster":{"server":"https://x"}}],"users":[]}`,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config")
			write(t, path, before, 0o600)
			if _, err := Merge(t.Context(), env(map[string]string{"KUBECONFIG": path}), "two", []byte(incoming)); err != nil {
				t.Fatal(err)
			}
			got, err := entriesOf([]byte(read(t, path)), "ropes-two")
			if err != nil || len(got) != 3 {
				t.Errorf("%v in\n%s", err, read(t, path))
			}
		})
	}
}

func TestMergeRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ before, incoming, want string }{
		"theirs is no mapping":      {"- a\n", incoming, "not a mapping"},
		"theirs has two documents":  {theirs + "---\na: b\n", incoming, "more than one document"},
		"theirs has an odd list":    {"clusters: yes\n", incoming, "line 1: clusters is not a list"},
		"ours has no context":       {"", "apiVersion: v1\n", "no current context"},
		"ours lacks its own user":   {"", strings.Replace(incoming, "- name: kubernetes-admin", "- name: x", 1), `no entry "kubernetes-admin" among users`},
		"ours lacks its context":    {"", strings.Replace(incoming, "- name: ropes-two", "- name: x", 1), `no context "ropes-two"`},
		"ours names no own cluster": {"", strings.Replace(incoming, "cluster: kubernetes,", "", 1), "names no cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config")
			write(t, path, tt.before, 0o600)
			_, err := Merge(t.Context(), env(map[string]string{"KUBECONFIG": path}), "two", []byte(tt.incoming))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if got := read(t, path); got != tt.before {
				t.Errorf("file was changed to %q", got)
			}
		})
	}
}

func TestMergeThroughSymlink(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "dotfiles", "config"), filepath.Join(dir, "config")
	write(t, real, theirs, 0o600)
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Merge(t.Context(), env(map[string]string{"KUBECONFIG": link}), "two", []byte(incoming)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced by a file")
	}
	if !strings.Contains(read(t, real), "ropes-two") {
		t.Error("the file behind the link was not written")
	}
}

func TestLock(t *testing.T) {
	deadPID := strconv.Itoa(1 << 30) // above any kernel's pid_max
	for name, tt := range map[string]struct {
		content string
		age     time.Duration
		taken   bool
	}{
		"held by a living process":         {strconv.Itoa(os.Getpid()), 0, false},
		"held by kubectl, which writes no": {"", 0, false},
		"orphan of a dead process":         {deadPID, 0, true},
		"orphan by age":                    {"", time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "config.lock")
			write(t, path, tt.content, 0o600)
			when := time.Now().Add(-tt.age)
			if err := os.Chtimes(path, when, when); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
			defer cancel()
			unlock, err := lock(ctx, path)
			if got := err == nil; got != tt.taken {
				t.Fatalf("lock taken: %v (%v), want %v", got, err, tt.taken)
			}
			if !tt.taken {
				if !strings.Contains(err.Error(), path) {
					t.Errorf("error does not name the lock: %v", err)
				}
				assertOnly(t, dir, "config.lock")
				return
			}
			if err := unlock(); err != nil {
				t.Error(err)
			}
			assertOnly(t, dir)
		})
	}
}

func assertOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files in %s: %s", dir, diff)
	}
}
