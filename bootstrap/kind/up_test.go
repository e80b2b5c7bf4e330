package kind

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/ropes-dev/ropes/bootstrap"
)

func TestUpCreatesAndDownRemoves(t *testing.T) {
	b := newBench(t)
	c := b.ok(t, bootstrap.Spec{Workers: 2, HTTPPort: 18080, HTTPSPort: 18443, APIPort: 16443})
	if !c.Running || c.Images != FromRegistry || c.Provider != "kind" || string(c.Kubeconfig) != "kubeconfig" {
		t.Errorf("%+v", c)
	}
	if diff := cmp.Diff([]string{"demo-control-plane", "demo-worker", "demo-worker2"}, c.Nodes); diff != "" {
		t.Error(diff)
	}
	want := []string{
		"node image done", "node containers done", "node configuration done", "control plane done", "pod network skipped",
		"kind's storage class done", "workers done", "start the nodes skipped", "images done", "nodes done", "add-ons done",
	}
	if diff := cmp.Diff(want, b.events); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"pull " + NodeImage}, b.docker.log); diff != "" {
		t.Error(diff)
	}
	if len(b.kind.loaded) != 3 {
		t.Errorf("images were loaded into %v", b.kind.loaded)
	}
	if got, err := b.List(); err != nil || len(got) != 1 || got[0] != "demo" {
		t.Errorf("list: %v, %v", got, err)
	}

	// Again: nothing is made, nothing loaded.
	b.docker.log = nil
	before := b.kind.loaded["demo-worker"]
	b.ok(t, bootstrap.Spec{Workers: 2})
	if len(b.docker.log) > 0 || b.kind.loaded["demo-worker"] != before {
		t.Errorf("a second up did %v", b.docker.log)
	}
	_, err := b.up(t, bootstrap.Spec{Images: BuiltIn})
	says(t, err, "--images builtin", "registry", "down")

	// What a killed up was writing goes too.
	if err := os.MkdirAll(filepath.Join(b.scratchPath("demo"), "kubeconfig.lock"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := b.Down(t.Context(), "demo", bootstrap.Discard); err != nil {
		t.Fatal(err)
	}
	if left := b.docker.names(); len(left) > 0 {
		t.Errorf("down left %v", left)
	}
	if _, err := os.Stat(b.opts.StateDir); !os.IsNotExist(err) {
		t.Errorf("down left its state: %v", err)
	}
	if _, err := b.Status(t.Context(), "demo"); !errors.Is(err, bootstrap.ErrNotFound) {
		t.Errorf("status after down: %v", err)
	}
}

func TestImagesByRegistry(t *testing.T) {
	b := newBench(t)
	b.ok(t, bootstrap.Spec{})
	fromRegistry := b.kind.loaded["demo-control-plane"]
	b = newBench(t)
	b.registry = func(context.Context) error { return errors.New("no route") }
	c := b.ok(t, bootstrap.Spec{})
	if c.Images != BuiltIn || b.kind.loaded["demo-control-plane"] <= fromRegistry {
		t.Errorf("images %q, %d bytes loaded, %d with the mesh from its registry", c.Images, b.kind.loaded["demo-control-plane"], fromRegistry)
	}
}

func TestFailedCreationLeavesNothing(t *testing.T) {
	b := newBench(t)
	b.kind.fail = errors.New("kubeadm init: no luck")
	_, err := b.up(t, bootstrap.Spec{Workers: 1})
	says(t, err, "control plane", "no luck")
	if left := b.docker.names(); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if _, err := b.Status(t.Context(), "demo"); !errors.Is(err, bootstrap.ErrNotFound) {
		t.Errorf("status: %v", err)
	}
	// Retained, it is there for a look, and the next up makes it anew.
	_, err = b.up(t, bootstrap.Spec{Workers: 1, Retain: true})
	says(t, err, "no luck")
	if len(b.docker.names()) != 2 {
		t.Errorf("retained: %v", b.docker.names())
	}
	if c, err := b.Status(t.Context(), "demo"); err != nil || c.Running || !strings.Contains(strings.Join(c.Notes, " "), "anew") {
		t.Errorf("status %+v, %v", c, err)
	}
	b.kind.fail = nil
	if c := b.ok(t, bootstrap.Spec{Workers: 2}); len(c.Nodes) != 3 || !c.Running {
		t.Errorf("%+v", c)
	}
}

// An interrupt while kind creates containers: kind cannot be told to stop, and must not
// go on behind the learner's back.
func TestInterruptedCreation(t *testing.T) {
	b := newBench(t)
	b.kind.hang = true
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-b.kind.made
		cancel(errors.New("interrupted"))
	}()
	_, err := b.Up(ctx, bootstrap.Spec{Name: "demo", Workers: 1}, b)
	says(t, err, "interrupted")
	if left := b.docker.names(); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if names, _ := b.List(); len(names) > 0 {
		t.Errorf("list: %v", names)
	}
}

// A ropes that was killed leaves containers and an unfinished record.
func TestKilledCreation(t *testing.T) {
	b := newBench(t)
	if err := b.save(&record{Name: "demo", Engine: "docker", Workers: 1}); err != nil {
		t.Fatal(err)
	}
	b.docker.add("demo", "demo-control-plane", "control-plane", "image")
	c := b.ok(t, bootstrap.Spec{Workers: 1})
	if !c.Running || b.docker.log[0] != "rm -f -v demo-control-plane" {
		t.Errorf("%+v, %v", c, b.docker.log)
	}
}

func TestLostNode(t *testing.T) {
	b := newBench(t)
	b.ok(t, bootstrap.Spec{Workers: 2})
	delete(b.docker.containers, "demo-worker2")
	c, err := b.Status(t.Context(), "demo")
	if err != nil || c.Running || !strings.Contains(strings.Join(c.Notes, " "), "demo-worker2") {
		t.Errorf("%+v, %v", c, err)
	}
	_, err = b.up(t, bootstrap.Spec{Workers: 2})
	if lost := (*LostError)(nil); !errors.As(err, &lost) {
		t.Errorf("up: %v", err)
	}
	says(t, err, "the container of node demo-worker2", "ropes --name demo down, then up")
	if len(b.docker.names()) != 2 {
		t.Errorf("up changed what is there: %v", b.docker.names())
	}
	if err := b.Down(t.Context(), "demo", bootstrap.Discard); err != nil || len(b.docker.names()) > 0 {
		t.Errorf("down: %v, left %v", err, b.docker.names())
	}
}

func TestStoppedClusterIsStarted(t *testing.T) {
	b := newBench(t)
	b.ok(t, bootstrap.Spec{Workers: 1})
	for _, c := range b.docker.containers {
		c.running = false
	}
	if c, err := b.Status(t.Context(), "demo"); err != nil || c.Running {
		t.Errorf("%+v, %v", c, err)
	}
	b.docker.log = nil
	if c := b.ok(t, bootstrap.Spec{Workers: 1}); !c.Running {
		t.Errorf("%+v", c)
	}
	if diff := cmp.Diff([]string{"start demo-control-plane demo-worker"}, b.docker.log); diff != "" {
		t.Error(diff)
	}
}

func TestForeignClusterIsLeftAlone(t *testing.T) {
	b := newBench(t)
	b.docker.add("demo", "demo-control-plane", "control-plane", "kindest/node:old")
	_, err := b.up(t, bootstrap.Spec{})
	says(t, err, `a kind cluster called "demo"`, "left alone", "kind delete cluster --name demo", "--name OTHER")
	if err := b.Down(t.Context(), "demo", bootstrap.Discard); err != nil {
		t.Error(err)
	}
	if _, err := b.Status(t.Context(), "demo"); !errors.Is(err, bootstrap.ErrNotFound) {
		t.Errorf("status: %v", err)
	}
	if len(b.docker.names()) != 1 || len(b.docker.log) > 0 {
		t.Errorf("somebody else's cluster was touched: %v", b.docker.log)
	}

	// One that took the place of ours is no more ours.
	b = newBench(t)
	b.ok(t, bootstrap.Spec{Workers: 1})
	b.docker.add("demo", "demo-worker", "worker", "other")
	_, err = b.up(t, bootstrap.Spec{Workers: 1})
	if foreign := (*ForeignError)(nil); !errors.As(err, &foreign) {
		t.Errorf("up: %v", err)
	}
	if err := b.Down(t.Context(), "demo", bootstrap.Discard); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"demo-worker"}, b.docker.names()); diff != "" {
		t.Error(diff)
	}
}

// A record that cannot be read stands in the way of all but down.
func TestTornRecord(t *testing.T) {
	b := newBench(t)
	b.ok(t, bootstrap.Spec{Workers: 1})
	if err := os.WriteFile(b.statePath("demo"), []byte(`{"name": "de`), 0o600); err != nil {
		t.Fatal(err)
	}
	// What commands ask first is where it is.
	_, err := b.Status(t.Context(), "demo")
	says(t, err, b.statePath("demo"), "ropes --name demo down")
	_, err = b.up(t, bootstrap.Spec{})
	says(t, err, "ropes --name demo down")
	if strings.Count(err.Error(), "down") != 1 {
		t.Error(err)
	}
	if err := b.Down(t.Context(), "demo", bootstrap.Discard); err != nil || len(b.docker.names()) > 0 {
		t.Errorf("%v, left %v", err, b.docker.names())
	}
}

// What another engine made is not to be found on this one, and not gone for that; what
// bears its name here is somebody else's.
func TestOtherEngine(t *testing.T) {
	for name, rec := range map[string]*record{
		"whole":     {Name: "demo", Engine: "podman", Containers: map[string]string{"demo-control-plane": "id9"}},
		"half made": {Name: "demo", Engine: "podman"},
	} {
		for _, theirs := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s, beside %d", name, theirs), func(t *testing.T) {
				b := newBench(t)
				if err := b.save(rec); err != nil {
					t.Fatal(err)
				}
				if theirs > 0 {
					b.docker.add("demo", "demo-control-plane", "control-plane", "theirs")
				}
				words := []string{"made with podman", "docker", "KIND_EXPERIMENTAL_PROVIDER=podman"}
				_, err := b.up(t, bootstrap.Spec{})
				says(t, err, words...)
				says(t, b.Down(t.Context(), "demo", bootstrap.Discard), append(words, b.statePath("demo"))...)
				c, err := b.Status(t.Context(), "demo")
				if err != nil || c.Running {
					t.Errorf("%+v, %v", c, err)
				}
				says(t, errors.New(strings.Join(c.Notes, " ")), words...)
				if len(b.docker.names()) != theirs || len(b.docker.log) > 0 {
					t.Errorf("left %v after %v", b.docker.names(), b.docker.log)
				}
			})
		}
	}
}

func TestEngineTroubles(t *testing.T) {
	for fault, words := range map[string][]string{
		"absent": {"neither Docker nor Podman is installed", "apt-get install docker.io"},
		"down":   {"docker is installed but does not run", "sudo systemctl start docker"},
		"denied": {"no right to talk to docker", "usermod -aG docker"},
		"hung":   {"docker does not answer within 5s", "sudo systemctl restart docker"},
	} {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.ok(t, bootstrap.Spec{Workers: 1})
				b.docker.fault = fault
				_, err := b.up(t, bootstrap.Spec{})
				says(t, err, words...)
				says(t, b.Down(t.Context(), "demo", bootstrap.Discard), words...)
				// The cluster is not forgotten for that.
				c, err := b.Status(t.Context(), "demo")
				if err != nil || c.Running {
					t.Errorf("%+v, %v", c, err)
				}
				says(t, errors.New(strings.Join(c.Notes, " ")), words...)
				f := b.Doctor(t.Context())
				if len(f) != 1 || f[0].Severity != bootstrap.Fatal || f[0].Mend == "" {
					t.Errorf("doctor: %+v", f)
				}
			})
		})
	}
}

func TestDeniedElsewhere(t *testing.T) {
	for _, goos := range []string{"darwin", "windows"} {
		err := (&Engine{Name: "docker"}).trouble(t.Context(), errors.New("permission denied"), goos)
		says(t, err, "no right to talk to docker", "restart Docker Desktop")
	}
}

func TestPorts(t *testing.T) {
	b := newBench(t)
	b.taken = map[int]bool{8080: true, 8081: true, 9000: true}
	if c := b.ok(t, bootstrap.Spec{}); c.APIPort != 6443 || c.HTTPPort != 8082 || c.HTTPSPort != 8443 {
		t.Errorf("%+v", c)
	}
	_, err := b.up(t, bootstrap.Spec{Name: "two", HTTPPort: 9000})
	says(t, err, "no free port for ingress HTTP at 9000")
}

// What one thing has been given, another is not.
func TestPortsDiffer(t *testing.T) {
	for name, tt := range map[string]struct {
		spec             bootstrap.Spec
		api, http, https int
	}{
		"HTTP at the ordinary HTTPS":  {bootstrap.Spec{HTTPPort: 8443}, 6443, 8443, 8444},
		"HTTPS at the ordinary HTTP":  {bootstrap.Spec{HTTPSPort: 8080}, 6443, 8081, 8080},
		"HTTP at the ordinary API":    {bootstrap.Spec{HTTPPort: 6443}, 6444, 6443, 8443},
		"one that only root may take": {bootstrap.Spec{HTTPPort: 80}, 6443, 80, 8443},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if c := b.ok(t, tt.spec); c.APIPort != tt.api || c.HTTPPort != tt.http || c.HTTPSPort != tt.https {
				t.Errorf("%d %d %d, want %d %d %d", c.APIPort, c.HTTPPort, c.HTTPSPort, tt.api, tt.http, tt.https)
			}
		})
	}
	// A cluster that stands still has its ports closed, and will want them again.
	b := newBench(t)
	b.ok(t, bootstrap.Spec{})
	if c := b.ok(t, bootstrap.Spec{Name: "two"}); c.APIPort != 6444 || c.HTTPPort != 8081 || c.HTTPSPort != 8444 {
		t.Errorf("%+v", c)
	}
}

func TestFree(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if heard(nil) != nil || heard(&net.OpError{Err: os.NewSyscallError("bind", syscall.EACCES)}) != nil {
		t.Error("a port that the engine may take is not free")
	}
	if isFree(l.Addr().(*net.TCPAddr).Port) == nil {
		t.Error("a port that is listened at is free")
	}
}

func TestUnpullableNodeImage(t *testing.T) {
	b := newBench(t)
	_, err := b.up(t, bootstrap.Spec{Image: "nowhere/node:v1"})
	says(t, err, "pull image nowhere/node:v1", "--bundle FILE")
	if names, _ := b.List(); len(names) > 0 {
		t.Errorf("list: %v", names)
	}
}

func TestBusy(t *testing.T) {
	b := newBench(t)
	unlock, err := b.lock("demo")
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.up(t, bootstrap.Spec{})
	if busy := (*BusyError)(nil); !errors.As(err, &busy) {
		t.Errorf("up beside another: %v", err)
	}
	unlock()
	b.ok(t, bootstrap.Spec{})
}

func TestDoctor(t *testing.T) {
	noRoute := func(context.Context) error { return errors.New("no route") }
	for name, tt := range map[string]struct {
		registry func(context.Context) error
		have     string
		payload  error
		spec     bootstrap.Spec
		fatal    string // the check that is fatal
		says     string
	}{
		"network":                 {says: "will be pulled"},
		"no network":              {registry: noRoute, fatal: "node image", says: "--bundle"},
		"an engine with its own":  {registry: noRoute, fatal: "node image", says: "docker pull " + NodeImage},
		"no network, image there": {registry: noRoute, have: NodeImage, says: "built in, for the registry does not answer"},
		"bundle":                  {registry: noRoute, spec: bootstrap.Spec{Bundle: "x"}, says: "from x"},
		"registry asked for":      {registry: noRoute, have: NodeImage, spec: bootstrap.Spec{Images: FromRegistry}, fatal: "images", says: "--images builtin"},
		"no payload":              {payload: errors.New("built without"), fatal: "images", says: "built without"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if tt.registry != nil {
				b.registry = tt.registry
			}
			if tt.have != "" {
				b.docker.images[tt.have] = "sha256:1"
			}
			b.opts.HasPayload = func() error { return tt.payload }
			var text, fatal string
			for _, f := range b.Examine(t.Context(), tt.spec) {
				text += f.Check + ": " + f.Detail + " " + f.Mend + "\n"
				if f.Severity == bootstrap.Fatal {
					fatal += f.Check
				}
			}
			if fatal != tt.fatal || !strings.Contains(text, tt.says) {
				t.Errorf("fatal %q, want %q:\n%s", fatal, tt.fatal, text)
			}
		})
	}
}

func TestInotify(t *testing.T) {
	file := filepath.Join(t.TempDir(), "limit")
	for text, want := range map[string]bootstrap.Severity{"128\n": bootstrap.Warning, "1024\n": bootstrap.OK, "": bootstrap.OK} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if f := inotify(file); f.Severity != want || want == bootstrap.Warning && f.Mend == "" {
			t.Errorf("%q: %+v", text, f)
		}
	}
	if f := inotify(file + ".missing"); f.Severity != bootstrap.OK {
		t.Errorf("%+v", f)
	}
}
