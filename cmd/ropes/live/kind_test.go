//go:build livekind

package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/vishvananda/netlink"
)

// What .build/test-kind hands over.
var (
	nodeArchive = os.Getenv("ROPES_KIND_ARCHIVE") // docker archive of the node image
	nodeImage   = os.Getenv("ROPES_KIND_IMAGE")   // its name
	engineDir   = os.Getenv("ROPES_KIND_DIR")     // for the daemon's files
	runtimePath = os.Getenv("ROPES_KIND_RUNTIME") // default runtime; empty for Docker's own
)

// engine is a Docker daemon of this suite's own.
type engine struct {
	socket string
	cmd    *exec.Cmd
}

// start starts the daemon and waits until it answers.
func (e *engine) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(engineDir, "dockerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	config := `{}`
	if runtimePath != "" {
		config = fmt.Sprintf(`{"runtimes": {"confined": {"path": %q}}, "default-runtime": "confined"}`, runtimePath)
	}
	file := filepath.Join(engineDir, "daemon.json")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	e.cmd = exec.Command("dockerd", "--config-file", file, "--data-root", filepath.Join(engineDir, "data"), "--exec-root", filepath.Join(engineDir, "run"),
		"--pidfile", filepath.Join(engineDir, "pid"), "--host", "unix://"+e.socket, "--cgroup-parent", "/ropes-test-kind", "--shutdown-timeout", "5")
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt of the suite is not the daemon's
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := bootstrap.Poll(ctx, 200*time.Millisecond, func(context.Context) error { _, err := e.docker("version"); return err }); err != nil {
		out, _ := os.ReadFile(log.Name())
		t.Fatalf("dockerd does not answer: %v\n%s", err, out)
	}
}

// stop ends the daemon, and with it all containers.
func (e *engine) stop(t *testing.T) {
	t.Helper()
	if e.cmd == nil {
		return
	}
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	e.cmd.Wait()
	e.cmd = nil
}

func (e *engine) docker(args ...string) (string, error) {
	cmd := exec.Command("docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+e.socket)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

func (e *engine) ok(t *testing.T, args ...string) string {
	t.Helper()
	out, err := e.docker(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// nodes are the names of the containers of a kind cluster.
func (e *engine) nodes(t *testing.T, cluster string) []string {
	t.Helper()
	names := strings.Fields(e.ok(t, "ps", "-a", "--filter", "label=io.x-k8s.kind.cluster="+cluster, "--format", "{{.Names}}"))
	slices.Sort(names)
	return names
}

// offline fails the test unless this network namespace leads nowhere, and brings up its loopback.
func offline(t *testing.T) {
	t.Helper()
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Gw != nil {
			t.Fatalf("this network namespace has a route: %v; the suite has to be run by make test-kind", r)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestKind takes kind clusters through their whole life on a Docker of its own, in a
// network namespace without a route: whatever needs a network fails here.
func TestKind(t *testing.T) {
	if nodeArchive == "" || nodeImage == "" || engineDir == "" {
		t.Fatal("ROPES_KIND_ARCHIVE, ROPES_KIND_IMAGE and ROPES_KIND_DIR are not set: run make test-kind")
	}
	offline(t)
	r := newRig(t)
	e := &engine{socket: filepath.Join(engineDir, "sock")}
	r.extra = []string{"DOCKER_HOST=unix://" + e.socket}

	t.Run("no daemon", func(t *testing.T) {
		refused(t, r, "docker is installed but does not run", "sudo systemctl start docker")
		none := *r
		none.extra = append(slices.Clone(r.extra), "PATH="+t.TempDir())
		refused(t, &none, "neither Docker nor Podman is installed", "apt-get install docker.io")
	})
	e.start(t)
	t.Cleanup(func() {
		if e.cmd != nil {
			for _, name := range []string{"ropes", "cut", "old"} {
				if left := e.nodes(t, name); len(left) > 0 {
					e.docker(append([]string{"rm", "-f", "-v"}, left...)...)
				}
			}
		}
		e.stop(t)
	})
	t.Run("no right to the daemon", func(t *testing.T) {
		if err := os.Chmod(e.socket, 0o600); err != nil {
			t.Fatal(err)
		}
		withoutRights(t, r)
	})
	e.ok(t, "load", "--input", nodeArchive)

	t.Run("somebody else's cluster", func(t *testing.T) { foreign(t, r, e) })
	t.Run("cut off", func(t *testing.T) { cutOff(t, r, e) })

	up := r.ok(t, "up", "--provider", "kind", "--image", nodeImage, "--images", "builtin", "--timeout", "10m")
	t.Logf("up took %.1fs\n%s", up.took.Seconds(), up.stderr)
	everythingReady(t, r)
	onlyRunning(t, r)
	everyProxySynced(t, r)
	productPage(t, r)
	proveLabs(t, r, "ropes", false)
	t.Run("logs", func(t *testing.T) {
		if out := r.ok(t, "logs", "ropes-worker/kubelet").stdout; !strings.Contains(out, "kubelet") {
			t.Errorf("log of the kubelet:\n%.300s", out)
		}
	})
	t.Run("stopped daemon", func(t *testing.T) { stoppedDaemon(t, r, e) })
	t.Run("lost node", func(t *testing.T) { lostNode(t, r, e) })
	t.Run("bundle", func(t *testing.T) { bundle(t, r, e) })
}

// refused wants doctor and up to name the trouble and its mend.
func refused(t *testing.T, r *rig, words ...string) {
	t.Helper()
	for _, args := range [][]string{{"doctor", "--provider", "kind"}, {"up", "--provider", "kind"}} {
		res := r.run(t, args...)
		for _, w := range words {
			if res.code != 1 || !strings.Contains(res.stdout+res.stderr, w) {
				t.Errorf("ropes %v: status %d, want 1 and %q:\n%s%s", args, res.code, w, res.stdout, res.stderr)
			}
		}
	}
}

// withoutRights asks as a user who may not talk to the daemon.
func withoutRights(t *testing.T, r *rig) {
	home := t.TempDir()
	for dir := home; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o777)
	}
	os.Chmod(engineDir, 0o755)
	cmd := exec.Command(r.bin, "up", "--provider", "kind")
	cmd.Env = append([]string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}, r.extra...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no right to talk to docker") || !strings.Contains(string(out), "usermod -aG docker") {
		t.Errorf("up as nobody: %v\n%s", err, out)
	}
}

// foreign makes what looks like somebody's cluster of old; ropes must not touch it.
func foreign(t *testing.T, r *rig, e *engine) {
	id := e.ok(t, "run", "--detach", "--name", "old-control-plane", "--label", "io.x-k8s.kind.cluster=old", "--label", "io.x-k8s.kind.role=control-plane",
		"--entrypoint", "/bin/sleep", nodeImage, "infinity")
	res := r.run(t, "up", "--name", "old", "--provider", "kind", "--image", nodeImage)
	for _, w := range []string{`a kind cluster called "old"`, "left alone", "--name OTHER"} {
		if res.code != 1 || !strings.Contains(res.stderr, w) {
			t.Errorf("up over somebody else's cluster: status %d, want 1 and %q\n%s", res.code, w, res.stderr)
		}
	}
	r.ok(t, "down", "--name", "old")
	if now := e.ok(t, "inspect", "--format", "{{.Id}} {{.State.Running}}", "old-control-plane"); now != id+" true" {
		t.Errorf("somebody else's container is now %s, was %s", now, id)
	}
	e.ok(t, "rm", "-f", "-v", "old-control-plane")
}

// cutOff interrupts one up, kills another while kind is at work, and takes down what is left.
func cutOff(t *testing.T, r *rig, e *engine) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		cmd := exec.Command(r.bin, "up", "--name", "cut", "--provider", "kind", "--image", nodeImage, "--images", "builtin", "--workers", "1")
		cmd.Env = r.env()
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		err := bootstrap.Poll(ctx, 200*time.Millisecond, func(context.Context) error {
			if n := len(e.nodes(t, "cut")); n < 2 {
				return fmt.Errorf("%d containers", n)
			}
			return nil
		})
		cancel()
		if err != nil {
			t.Fatalf("%v\n%s", err, said.String())
		}
		cmd.Process.Signal(sig)
		err = cmd.Wait()
		if sig == syscall.SIGINT {
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 130 {
				t.Errorf("interrupted up: %v\n%s", err, said.String())
			}
			if left := e.nodes(t, "cut"); len(left) > 0 {
				t.Errorf("interrupted up left %v\n%s", left, said.String())
			}
			continue
		}
		// A child of the killed one may still be making a container; down comes again.
		r.ok(t, "down", "--name", "cut")
		if left := e.nodes(t, "cut"); len(left) > 0 {
			t.Errorf("down after a killed up left %v", left)
		}
	}
}

// stoppedDaemon takes the daemon away from under a running lab and brings it back.
func stoppedDaemon(t *testing.T, r *rig, e *engine) {
	e.stop(t)
	for _, args := range [][]string{{"status"}, {"up"}, {"down"}} {
		res := r.run(t, args...)
		if res.code != 1 || !strings.Contains(res.stdout+res.stderr, "sudo systemctl start docker") {
			t.Errorf("ropes %v without a daemon: status %d\n%s%s", args, res.code, res.stdout, res.stderr)
		}
	}
	e.start(t)
	res := r.ok(t, "up", "--timeout", "8m")
	t.Logf("resumed in %.1fs\n%s", res.took.Seconds(), res.stderr)
	everythingReady(t, r)
	productPage(t, r)
}

// lostNode removes a worker's container: ropes says so, and down removes the rest.
func lostNode(t *testing.T, r *rig, e *engine) {
	e.ok(t, "rm", "-f", "-v", "ropes-worker2")
	res := r.run(t, "status")
	if res.code != 1 || !strings.Contains(res.stdout, "ropes-worker2") {
		t.Errorf("status without a worker: status %d\n%s%s", res.code, res.stdout, res.stderr)
	}
	res = r.run(t, "up")
	for _, w := range []string{"ropes-worker2", "is gone", "down, then up"} {
		if res.code != 1 || !strings.Contains(res.stderr, w) {
			t.Errorf("up without a worker: status %d, want 1 and %q\n%s", res.code, w, res.stderr)
		}
	}
	r.ok(t, "down")
	if left := e.nodes(t, "ropes"); len(left) > 0 {
		t.Errorf("down left %v", left)
	}
}

// bundle writes one, makes the engine forget the node image, and brings a lab up from it.
func bundle(t *testing.T, r *rig, e *engine) {
	file := filepath.Join(engineDir, "lab.bundle")
	defer os.Remove(file)
	res := r.ok(t, "bundle", "create", file, "--image", nodeImage, "--images", "builtin")
	t.Logf("bundle took %.1fs: %s", res.took.Seconds(), res.stdout)
	e.ok(t, "rmi", "-f", nodeImage)
	if left := e.ok(t, "images", "-q"); left != "" {
		t.Fatalf("the engine still has images: %s", left)
	}
	res = r.ok(t, "up", "--bundle", file, "--workers", "1", "--timeout", "8m")
	t.Logf("up from the bundle took %.1fs\n%s", res.took.Seconds(), res.stderr)
	if s := r.status(t); !s.Ready || len(s.Health.Nodes) != 2 {
		t.Errorf("status: %+v", s)
	}
	productPage(t, r)
	r.ok(t, "down")
	if left := e.nodes(t, "ropes"); len(left) > 0 {
		t.Errorf("down left %v", left)
	}
}
