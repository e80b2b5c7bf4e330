package kind

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	kindlog "sigs.k8s.io/kind/pkg/log"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/images"
)

// fakeDocker is a container engine as far as this package calls one.
type fakeDocker struct {
	mu         sync.Mutex
	containers map[string]*fakeContainer // by name
	images     map[string]string         // ID by name
	fault      string                    // "", absent, down, denied, hung
	host       string                    // that the client's context names
	next       int
	log        []string // commands that change something
}

type fakeContainer struct {
	id, cluster, role, image string
	running                  bool
}

func newFakeDocker() *fakeDocker {
	return &fakeDocker{containers: map[string]*fakeContainer{}, images: map[string]string{}}
}

func (d *fakeDocker) add(cluster, name, role, image string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next++
	d.containers[name] = &fakeContainer{id: fmt.Sprintf("id%d", d.next), cluster: cluster, role: role, image: image, running: true}
}

func (d *fakeDocker) names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for n := range d.containers {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func said(text string) error {
	return &CommandError{Command: "docker", Said: text, Err: errors.New("exit status 1")}
}

// run is a runner.
func (d *fakeDocker) run(ctx context.Context, c command) error {
	out := c.stdout
	if out == nil {
		out = io.Discard
	}
	if c.name != "docker" || d.fault == "absent" {
		return &CommandError{Command: c.name, Err: errors.New("executable file not found in $PATH")}
	}
	if c.args[0] == "-v" {
		fmt.Fprintln(out, "Docker version 28.0.0, build abc")
		return nil
	}
	switch d.fault {
	case "down":
		return said("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?")
	case "denied":
		return said("permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock")
	case "hung":
		<-ctx.Done()
		return &CommandError{Command: "docker", Err: context.Cause(ctx)}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	last := c.args[len(c.args)-1]
	switch c.args[0] {
	case "version":
		fmt.Fprintln(out, "28.0.0")
	case "context":
		fmt.Fprintln(out, d.host)
	case "info":
		fmt.Fprintln(out, 8<<30)
	case "ps":
		for _, n := range d.containers {
			if strings.HasSuffix(last, "="+n.cluster) {
				fmt.Fprintln(out, n.id)
			}
		}
	case "inspect":
		type object = map[string]any
		list := []object{}
		for name, n := range d.containers {
			if slices.Contains(c.args, n.id) {
				since := "2026-01-02T03:04:05.678Z"
				if !n.running {
					since = "" // as nerdctl has it
				}
				list = append(list, object{
					"Id": n.id, "Name": "/" + name, "State": object{"Running": n.running, "Status": "whatever", "StartedAt": since},
					"Config": object{"Image": n.image, "Labels": object{roleLabel: n.role}},
				})
			}
		}
		return json.NewEncoder(out).Encode(list)
	case "image":
		id := d.images[last]
		if id == "" {
			return said("Error: No such image: " + last)
		}
		fmt.Fprintln(out, id)
	case "start":
		d.log = append(d.log, strings.Join(c.args, " "))
		for _, name := range c.args[1:] {
			d.containers[name].running = true
		}
	case "rm":
		d.log = append(d.log, strings.Join(c.args, " "))
		for _, name := range c.args[3:] {
			delete(d.containers, name)
		}
	case "pull":
		if strings.HasPrefix(last, "nowhere/") {
			return said("pull access denied")
		}
		d.log = append(d.log, strings.Join(c.args, " "))
		d.images[last] = "sha256:" + strings.Repeat("ab", 32)
	case "tag":
		d.images[c.args[2]] = d.images[c.args[1]]
	case "rmi":
		delete(d.images, last)
	case "save":
		for _, ref := range c.args[1:] {
			fmt.Fprintf(out, "%s=%s\n", ref, d.images[ref])
		}
		for range 1 << 10 { // more than a buffer holds
			if _, err := out.Write(bytes.Repeat([]byte(last), 1000)); err != nil {
				return said("write /dev/stdout: broken pipe")
			}
		}
	case "load":
		data, err := io.ReadAll(c.stdin)
		if err != nil {
			return said("unexpected EOF")
		}
		d.log = append(d.log, "load")
		for line := range strings.Lines(string(data)) {
			if ref, id, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				d.images[ref] = id
			}
		}
	default:
		return fmt.Errorf("the fake knows no %v", c.args)
	}
	return nil
}

// fakeKind makes clusters of fakeDocker's containers.
type fakeKind struct {
	docker *fakeDocker
	config []byte
	hang   bool // Create waits, after its first step, until its containers are gone
	fail   error
	// complaint is what a node says of an archive that breaks off; what broke it where nil.
	complaint error
	made      chan struct{} // closed once containers are there, where hang
	mu        sync.Mutex
	loaded    map[string]int64 // bytes by node
}

func (k *fakeKind) Create(name string, config []byte, log kindlog.Logger) error {
	k.config = config
	workers := strings.Count(string(config), "role: worker")
	step := func(s string) {
		log.V(0).Infof(" • %s  ...\n", s)
		log.V(0).Infof(" ✓ %s\n", s)
	}
	step("Ensuring node image (x) 🖼️")
	log.V(0).Infof(" • %s  ...\n", "Preparing nodes 📦 📦 ")
	k.docker.add(name, name+"-control-plane", "control-plane", "image")
	for i := range workers {
		n := name + "-worker"
		if i > 0 {
			n = fmt.Sprintf("%s%d", n, i+1)
		}
		k.docker.add(name, n, "worker", "image")
	}
	if k.hang {
		close(k.made)
		for len(k.docker.names()) > 0 {
		}
		return errors.New("the container is gone")
	}
	log.V(0).Infof(" ✓ %s\n", "Preparing nodes 📦 📦 ")
	step("Writing configuration 📜")
	if k.fail != nil {
		log.V(0).Infof(" • %s  ...\n", "Starting control-plane 🕹️")
		log.V(0).Infof(" ✗ %s\n", "Starting control-plane 🕹️")
		return k.fail
	}
	step("Starting control-plane 🕹️")
	step("Installing StorageClass 💾")
	step("Joining worker nodes 🚜")
	return nil
}

func (k *fakeKind) Kubeconfig(string) ([]byte, error) { return []byte("kubeconfig"), nil }

func (k *fakeKind) LoadImages(_ context.Context, _, node string, archive io.Reader) error {
	n, err := io.Copy(io.Discard, archive)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.loaded[node] += n
	if err != nil && k.complaint != nil {
		return k.complaint
	}
	return err
}

// bench is a provider with fakes beneath it.
type bench struct {
	*Provider
	docker *fakeDocker
	kind   *fakeKind
	events []string
	taken  map[int]bool // ports
}

func newBench(t *testing.T) *bench {
	t.Helper()
	docker := newFakeDocker()
	b := &bench{docker: docker, kind: &fakeKind{docker: docker, loaded: map[string]int64{}, made: make(chan struct{})}}
	payload := fakePayload(t)
	b.Provider = New(Options{
		StateDir:   filepath.Join(t.TempDir(), "state", "kind"),
		Payload:    func(context.Context, func(string)) (string, error) { return payload, nil },
		HasPayload: func() error { return nil },
	})
	b.detect = func(ctx context.Context) (*Engine, error) {
		return Detect(ctx, func(string) string { return "" }, docker.run)
	}
	b.clusters = func(*Engine) clusters { return b.kind }
	b.registry = func(context.Context) error { return nil }
	b.free = func(port int) error {
		if b.taken[port] {
			return errors.New("address already in use")
		}
		return nil
	}
	nothing := func(context.Context, []byte, func(string)) error { return nil }
	b.addOns, b.settled = nothing, nothing
	b.restart = func(context.Context, []byte, []Container, func(string)) error { return nil }
	b.ready = func(context.Context, []byte, []string, func(string)) error { return nil }
	return b
}

// fakePayload has every file that an image is made of, each nearly empty.
func fakePayload(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "payload")
	for _, f := range []string{
		"bin/ropes-node", "bin/ropes-proxy", "bin/ropes-app", "bin/pause", "bin/pilot-discovery",
		"share/envoy_bootstrap_tmpl.json", "host/sbin/nft",
	} {
		f = filepath.Join(dir, f)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if len(images.New(dir, nil).Refs()) == 0 {
		t.Fatal("no images")
	}
	return dir
}

func (b *bench) up(t *testing.T, spec bootstrap.Spec) (bootstrap.Cluster, error) {
	t.Helper()
	b.events = nil
	if spec.Name == "" {
		spec.Name = "demo"
	}
	return b.Up(t.Context(), spec, b)
}

// Observe implements bootstrap.Observer.
func (b *bench) Observe(e bootstrap.Event) {
	if e.State != bootstrap.Started && e.State != bootstrap.Running {
		b.events = append(b.events, e.Phase+" "+string(e.State))
	}
}

func (b *bench) ok(t *testing.T, spec bootstrap.Spec) bootstrap.Cluster {
	t.Helper()
	c, err := b.up(t, spec)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// says fails the test unless err has all the words.
func says(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("error %v does not say %q", err, w)
		}
	}
}
