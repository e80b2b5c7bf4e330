package command

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKubectl(t *testing.T) {
	own := func(b *bench, name string) string {
		return filepath.Join(b.home, ".local/state/ropes/clusters", name, "kubeconfig")
	}
	for _, tt := range []struct {
		name  string
		args  string
		conf  string // whose kubeconfig; empty: the user's own
		given []string
	}{
		{"plain", "kubectl get pods -A", "ropes", []string{"get", "pods", "-A"}},
		{"no arguments", "kubectl", "ropes", []string{}},
		{"help is kubectl's", "kubectl --help", "ropes", []string{"--help"}},
		{"flags are kubectl's", "kubectl -n x get pods -o json --name two", "ropes", []string{"-n", "x", "get", "pods", "-o", "json", "--name", "two"}},
		{"another cluster of ropes", "--name two kubectl get pods", "two", []string{"get", "pods"}},
		{"the user chooses a context", "kubectl --context prod get pods", "", []string{"--context", "prod", "get", "pods"}},
		{"or so", "kubectl get pods --context=prod", "", []string{"get", "pods", "--context=prod"}},
		{"the user chooses a file", "kubectl get --kubeconfig=f pods", "", []string{"get", "--kubeconfig=f", "pods"}},
		{"what a command in a pod is told is not ours", "kubectl exec p -- x --context y", "ropes", []string{"exec", "p", "--", "x", "--context", "y"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.up()
			b.provider.clusters["two"] = clusterOf("two", 0, true)
			b.expect(result{}, strings.Fields(tt.args)...)
			if diff := cmp.Diff(tt.given, b.kubectl.args); diff != "" {
				t.Error(diff)
			}
			want := ""
			if tt.conf != "" {
				want = own(b, tt.conf)
				if got := readFile(t, want); got != string(kubeconfigFor(tt.conf)) {
					t.Errorf("kubeconfig: %s", got)
				}
			}
			if b.kubectl.kubeconfig != want {
				t.Errorf("kubeconfig %q, want %q", b.kubectl.kubeconfig, want)
			}
		})
	}
}

func TestKubectlKeepsItsExitCode(t *testing.T) {
	b := newBench(t)
	b.up()
	b.kubectl.code = 42
	b.expect(result{"", "", 42}, "kubectl", "diff")
	b.provider.clusters["ropes"] = clusterOf("ropes", 2, false)
	b.expect(result{"", "ropes: cluster \"ropes\" is not running\n  try: ropes up   (it resumes where the cluster stopped)\n", 42}, "kubectl", "diff")
}

// Without a cluster kubectl must not fall back to the user's current context.
func TestKubectlWithoutCluster(t *testing.T) {
	b := newBench(t)
	b.expect(result{}, "kubectl", "version", "--client")
	if b.kubectl.kubeconfig == "" {
		t.Error("kubectl was let loose on the user's own kubeconfig")
	}
	b.kubectl.code = 1
	b.expect(result{"", "ropes: there is no cluster called \"ropes\"\n  try: ropes up\n", 1}, "kubectl", "delete", "ns", "x")
	assertFiles(t, b.home)
}

// Nor to localhost:8080, which is where kubectl looks when its file is not there.
func TestKubectlWithoutRoomForItsKubeconfig(t *testing.T) {
	b := newBench(t)
	b.up()
	if err := os.Symlink("/proc/none", filepath.Join(b.home, ".local")); err != nil { // where nothing can be made
		t.Fatal(err)
	}
	r := b.run("kubectl", "get", "pods")
	if r.code != 1 || !strings.Contains(r.err, "write kubeconfig: ") || b.kubectl.args != nil {
		t.Errorf("%+v, kubectl ran with %q", r, b.kubectl.args)
	}
}

func TestImagesSave(t *testing.T) {
	b := newBench(t)
	full := errors.New("no space left on device")
	b.deps.SaveImages = func(_ context.Context, w io.Writer, refs []string) error {
		if len(refs) > 0 {
			return full
		}
		_, err := io.WriteString(w, "archive")
		return err
	}
	file := filepath.Join(b.home, "images.tar")
	b.expect(result{"HOME/images.tar is written.\n", "", 0}, "images", "save", file)
	b.expect(result{"", "ropes: HOME/images.tar is there already, and is not written over\n", 1}, "images", "save", file)
	if got := readFile(t, file); got != "archive" {
		t.Errorf("the archive is now %q", got)
	}
	other := filepath.Join(b.home, "other.tar")
	b.expect(result{"", "ropes: write HOME/other.tar: no space left on device\n", 1}, "images", "save", other, "--image", "one")
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half an archive is left: %v", err)
	}
}

func TestShell(t *testing.T) {
	b := newBench(t)
	b.expect(result{"", "ropes: there is no cluster called \"ropes\"\n  try: ropes up\n", 1}, "shell")
	b.up()
	b.env["ROPES_TEST"] = "kept"
	b.expect(result{
		"HOME/.local/state/ropes/clusters/ropes/kubeconfig ropes ropes kept\n", "", 0,
	}, "shell", "--", "sh", "-c", "echo $KUBECONFIG $ROPES_CLUSTER $ROPES_SHELL $ROPES_TEST")
	b.expect(result{"HOME/.local/state/ropes/clusters/ropes/bin/kubectl\nHOME/.local/state/ropes/clusters/ropes/bin/istioctl\nHOME/.local/state/ropes/clusters/ropes/bin/ropes\n", "", 0},
		"shell", "sh", "-c", "command -v kubectl; command -v istioctl; command -v ropes")
	b.expect(result{"", "", 7}, "shell", "sh", "-c", "exit 7")
	b.expect(result{"", "", 128 + 15}, "shell", "sh", "-c", "kill $$")
	b.expect(result{"", "ropes: no-such-program: no such program on PATH\n", 1}, "shell", "no-such-program")
	b.expect(result{"-c\n", "", 0}, "shell", "echo", "-c")
}

func TestShellInteractive(t *testing.T) {
	const banner = "kubectl and istioctl mean cluster ropes in this shell; exit leaves it.\n"
	for _, shell := range []string{"/bin/bash", "/bin/sh"} {
		t.Run(filepath.Base(shell), func(t *testing.T) {
			if _, err := os.Stat(shell); err != nil {
				t.Skip(err)
			}
			b := newBench(t)
			b.up()
			b.env["SHELL"], b.env["PS1"] = shell, "$ "
			// The learner's own start file puts another kubectl first; ours still wins.
			start := filepath.Join(b.home, ".bashrc")
			if err := os.WriteFile(start, []byte("PATH=/elsewhere:$PATH\nMINE=yes\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			b.env["ENV"] = start
			b.in = strings.NewReader("command -v kubectl\necho $MINE; echo \"prompt:$PS1\"\nexit 3\n")
			r := b.run("shell")
			want := "HOME/.local/state/ropes/clusters/ropes/bin/kubectl\nyes\nprompt:(ropes) "
			if !strings.HasPrefix(r.out, want) || !strings.HasPrefix(r.err, banner) || r.code != 3 {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestCompletion(t *testing.T) {
	b := inLab(t)
	b.provider.clusters["two"] = clusterOf("two", 0, true)
	for args, want := range map[string]string{
		"start ":              "namespaces\tRooms in the house\nstorage\tData that stays\n:36\n",
		"start namespaces ":   ":4\n",
		"check ":              "create\tCreate one\nquota\tA budget\n:36\n",
		"hint q":              "create\tCreate one\nquota\tA budget\n:36\n",
		"reset ":              "step\tthe current step, as it was when it became current\nlab\tthe whole lab, back to its first step\ncluster\tall labs: nothing of any lab is left\n:36\n",
		"--name ":             "ropes\ntwo\n:4\n",
		"up --provider ":      "embedded\nkind\n:4\n",
		"status -o ":          "text\njson\n:4\n",
		"logs ":               "supervisor\nropes-worker/kubelet\n:4\n",
		"kubectl get -n x p":  "pods\tthings\nfor get -n x p\n:4\n",
		"--name two kubectl ": "pods\tthings\nfor\n:4\n",
	} {
		words := strings.Split(args, " ")
		if r := b.run(append([]string{"__complete"}, words...)...); r.out != want || r.code != 0 {
			t.Errorf("%q: %+v", args, r)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if r := b.run("completion", shell); r.code != 0 || !strings.Contains(r.out, "ropes") {
			t.Errorf("completion %s: code %d", shell, r.code)
		}
	}
}

func TestUsage(t *testing.T) {
	b := newBench(t)
	b.expect(result{"", "ropes: unknown command \"chek\"; did you mean \"check\"?\n  try: ropes --help\n", 2}, "chek")
	b.expect(result{"", "ropes: unknown command \"destroy\"\n  try: ropes --help\n", 2}, "destroy")
	b.expect(result{"", "ropes: unknown command \"kubctl\"; did you mean \"kubectl\"?\n  try: ropes --help\n", 2}, "kubctl", "get", "pods", "-A")
	b.expect(result{"", "ropes: unknown flag: --wokers\n  try: ropes up --help\n", 2}, "up", "--wokers", "3")
	b.expect(result{"", "ropes: unknown flag: --nam\n  try: ropes --help\n", 2}, "--nam", "x", "status")
	b.expect(result{"", "ropes: flag needs an argument: --name\n  try: ropes status --help\n", 2}, "status", "--name")
	help := b.run()
	if help.code != 0 || help.err != "" || !strings.Contains(help.out, "The cluster:\n") {
		t.Errorf("%+v", help)
	}
	for _, args := range []string{"--help", "help", "-h"} {
		if r := b.run(args); r != help {
			t.Errorf("%s differs from no arguments", args)
		}
	}
	// Every command says what it is for, and says it without a full stop.
	for _, c := range newRootCmd(&b.deps).Commands() {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: %q", c.Name(), c.Short)
		}
	}
}
