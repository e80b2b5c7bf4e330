//go:build live

package live

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ropes-dev/ropes/bootstrap"
)

// TestLab brings a lab up, looks at it as a learner would, proves every graded step,
// sets a second cluster beside it, and takes all of it down again.
func TestLab(t *testing.T) {
	r := newRig(t)
	r.cluster = "live" // whoever runs this may have a lab called ropes up
	before := vacant(t, r, r.cluster, "live-two")
	up := r.ok(t, "up", "--timeout", "10m")
	t.Logf("up took %.1fs\n%s", up.took.Seconds(), up.stderr)
	if !strings.Contains(up.stdout, "ropes --name live labs ") {
		t.Errorf("up does not say what to do next:\n%s", up.stdout)
	}

	t.Run("status", func(t *testing.T) { everythingReady(t, r) })
	t.Run("pods", func(t *testing.T) { onlyRunning(t, r) })
	t.Run("mesh", func(t *testing.T) { everyProxySynced(t, r) })
	t.Run("product page", func(t *testing.T) { productPage(t, r) })
	t.Run("up again", func(t *testing.T) {
		if res := r.ok(t, "up"); res.took > 15*time.Second {
			t.Errorf("a running lab took up %s", res.took)
		}
	})
	t.Run("kubectl", func(t *testing.T) { kubectl(t, r) })
	t.Run("load balancer", func(t *testing.T) { loadBalancer(t, r) })
	t.Run("learner", func(t *testing.T) { learner(t, r) })
	t.Run("bad input", func(t *testing.T) { badInput(t, r) })
	t.Run("mesh suite", func(t *testing.T) { meshSuite(t, r, r.cluster) })
	t.Run("prove", func(t *testing.T) { proveLabs(t, r, r.cluster, false) })
	t.Run("killed supervisor", func(t *testing.T) { killedSupervisor(t, r) })
	t.Run("second cluster", func(t *testing.T) {
		r.ok(t, "up", "--name", "live-two", "--workers", "1", "--timeout", "10m")
		if s := r.status(t, "--name", "live-two"); len(s.Cluster.Nodes) != 2 || !s.Ready {
			t.Errorf("second cluster: %+v", s)
		}
		everythingReady(t, r)
		r.ok(t, "down", "--name", "live-two")
		everythingReady(t, r)
	})
	r.ok(t, "down")
	sameAs(t, r, before)
}

// kubectl goes through what learners do with it, each by its effect.
func kubectl(t *testing.T, r *rig) {
	k := func(t *testing.T, args ...string) string {
		t.Helper()
		return r.ok(t, append([]string{"kubectl"}, args...)...).stdout
	}
	k(t, "create", "namespace", "try")
	defer k(t, "delete", "namespace", "try", "--wait=false")
	k(t, "-n", "try", "run", "box", "--image=ropes.local/app:v1", "--restart=Never", "--command", "--", "sh", "-c", "echo hello; cat; sleep infinity")
	k(t, "-n", "try", "wait", "--for=condition=Ready", "pod/box", "--timeout=60s")
	t.Run("logs", func(t *testing.T) {
		if out := k(t, "-n", "try", "logs", "box"); out != "hello\n" {
			t.Errorf("logs: %q", out)
		}
	})
	t.Run("exec", func(t *testing.T) {
		if out := k(t, "-n", "try", "exec", "box", "--", "sh", "-c", "echo from; hostname"); out != "from\nbox\n" {
			t.Errorf("exec: %q", out)
		}
		if res := r.run(t, "kubectl", "-n", "try", "exec", "box", "--", "sh", "-c", "exit 7"); res.code != 7 {
			t.Errorf("exit status %d, want the command's own 7", res.code)
		}
	})
	t.Run("cp", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "note")
		if err := os.WriteFile(file, []byte("there and back"), 0o600); err != nil {
			t.Fatal(err)
		}
		k(t, "cp", file, "try/box:/tmp/note")
		k(t, "cp", "try/box:/tmp/note", file+".back")
		if got, err := os.ReadFile(file + ".back"); err != nil || string(got) != "there and back" {
			t.Errorf("cp brought back %q, %v", got, err)
		}
	})
	t.Run("debug", func(t *testing.T) {
		out := k(t, "-n", "try", "debug", "box", "--image=ropes.local/app:v1", "--target=box", "--attach=true", "--", "sh", "-c", "sleep 1; echo from the debugger; sleep 1")
		if !strings.Contains(out, "from the debugger") {
			t.Errorf("debug: %q", out)
		}
	})
	t.Run("top", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := bootstrap.Poll(ctx, time.Second, func(context.Context) error {
			if res := r.run(t, "kubectl", "top", "nodes", "--no-headers"); res.code != 0 {
				return &topError{res.stderr}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("port-forward", func(t *testing.T) { portForward(t, r) })
	t.Run("zones", func(t *testing.T) {
		// kube-proxy writes all its rules anew when its node's zone changes, and once an hour.
		k(t, "label", "nodes", "--all", "topology.kubernetes.io/zone=here")
		defer k(t, "label", "nodes", "--all", "topology.kubernetes.io/zone-")
		k(t, "-n", "outside", "expose", "deployment", "outside", "--name=fresh", "--port=80", "--target-port=http")
		defer k(t, "-n", "outside", "delete", "service", "fresh")
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		err := bootstrap.Poll(ctx, time.Second, func(context.Context) error {
			res := r.run(t, "kubectl", "-n", "try", "exec", "box", "--", "curl", "-s", "-m", "2", "http://fresh.outside")
			if res.code != 0 || !strings.Contains(res.stdout, "beyond") {
				return fmt.Errorf("a Service made since: status %d, %s%s", res.code, res.stdout, res.stderr)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		productPage(t, r)
	})
	t.Run("drain", func(t *testing.T) {
		k(t, "drain", r.cluster+"-worker2", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--grace-period=1", "--timeout=90s")
		k(t, "uncordon", r.cluster+"-worker2")
		k(t, "wait", "--for=condition=Available", "deployment", "-A", "--all", "--timeout=120s")
	})
}

type topError struct{ said string }

func (e *topError) Error() string { return "kubectl top: " + e.said }

func portForward(t *testing.T, r *rig) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	cmd := r.command(t.Context(), "kubectl", "-n", "outside", "port-forward", "service/outside", port+":80")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = bootstrap.Poll(ctx, 100*time.Millisecond, func(context.Context) error {
		res, err := http.Get("http://127.0.0.1:" + port + "/")
		if err != nil {
			return err
		}
		return res.Body.Close()
	})
	if err != nil {
		t.Error(err)
	}
}

// learner takes a lab by the commands, spoils it and puts it back.
func learner(t *testing.T, r *rig) {
	r.ok(t, "start", "namespaces")
	if res := r.run(t, "check"); res.code != 3 || !strings.Contains(res.stdout, "✗") {
		t.Errorf("check of a fresh step: status %d\n%s%s", res.code, res.stdout, res.stderr)
	}
	r.ok(t, "hint")
	r.ok(t, "solution", "--apply")
	if res := r.run(t, "check"); res.code != 0 && res.code != 3 {
		t.Errorf("check after the solution: status %d\n%s", res.code, res.stderr)
	}
	res := r.ok(t, "reset", "lab")
	t.Logf("reset lab took %.1fs\n%s", res.took.Seconds(), res.stdout)
	if res.took > 5*time.Second {
		t.Errorf("reset lab took %s, want less than 5 s", res.took)
	}
	if !strings.Contains(res.stdout, "digest") {
		t.Errorf("reset lab proves nothing:\n%s", res.stdout)
	}
}

// badInput wants one clear message and the right exit code for each mistake.
func badInput(t *testing.T, r *rig) {
	broken := t.TempDir()
	if err := os.MkdirAll(filepath.Join(broken, "mine"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "mine", "lab.yaml"), []byte("id: mine\ntitel: x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"unknown lab":     {[]string{"start", "namespace"}, 2, "namespaces"},
		"unknown step":    {[]string{"check", "no-such-step"}, 2, "no-such-step"},
		"unknown flag":    {[]string{"up", "--wrokers", "2"}, 2, "wrokers"},
		"broken lab":      {[]string{"labs", "--labs", broken}, 1, "lab.yaml:2"},
		"no such cluster": {[]string{"status", "--name", "nowhere"}, 1, "nowhere"},
	} {
		res := r.run(t, tt.args...)
		if res.code != tt.code || !strings.Contains(res.stderr+res.stdout, tt.says) {
			t.Errorf("%s: status %d, want %d and a word of %q:\n%s%s", name, res.code, tt.code, tt.says, res.stdout, res.stderr)
		}
	}
}

// killedSupervisor kills the first process of the lab, and with it every other: what a
// crash or a reboot leaves. up makes of it what there was.
func killedSupervisor(t *testing.T, r *rig) {
	data, err := os.ReadFile(filepath.Join("/var/lib/ropes/clusters", r.cluster, "supervisor.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var supervisor struct{ PID int }
	if err := json.Unmarshal(data, &supervisor); err != nil || supervisor.PID == 0 {
		t.Fatalf("%s: %v", data, err)
	}
	if err := syscall.Kill(supervisor.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if res := r.run(t, "status"); res.code != 1 || !strings.Contains(res.stdout, "not running") {
		t.Errorf("status of a killed lab: status %d\n%s%s", res.code, res.stdout, res.stderr)
	}
	res := r.ok(t, "up", "--timeout", "8m")
	t.Logf("resumed in %.1fs\n%s", res.took.Seconds(), res.stderr)
	everythingReady(t, r)
	productPage(t, r)
	onlyRunning(t, r)
}

// kills are the moments after the start of `ropes up` at which it is killed: from before
// the first file is written until well into the installation of the mesh.
var kills = []time.Duration{
	50 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond, 1500 * time.Millisecond, 2600 * time.Millisecond,
	4 * time.Second, 6500 * time.Millisecond, 9 * time.Second, 13 * time.Second, 19 * time.Second,
}

// TestKilledUp kills `ropes up` at ten moments; what comes next must succeed each time:
// down, and for two of them up.
func TestKilledUp(t *testing.T) {
	r := newRig(t)
	r.run(t, "doctor") // unpacks the payload, so that the moments fall on what follows
	before := vacant(t, r, "live-crash")
	for i, after := range kills {
		cmd := r.command(t.Context(), "up", "--name", "live-crash", "--workers", "1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after)
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		next := "down"
		if i == 4 || i == 8 {
			next = "up"
			r.ok(t, "up", "--name", "live-crash", "--workers", "1", "--timeout", "10m")
			if !r.status(t, "--name", "live-crash").Ready {
				t.Errorf("killed after %s, up, and not ready", after)
			}
		}
		r.ok(t, "down", "--name", "live-crash")
		sameAs(t, r, before)
		t.Logf("killed after %s, then %s: ok", after, next)
	}
}
