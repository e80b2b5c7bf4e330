package kind

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/bootstrap"
)

// Labels that kind puts on the containers of its nodes.
const (
	clusterLabel = "io.x-k8s.kind.cluster"
	roleLabel    = "io.x-k8s.kind.role"
)

// providerEnv chooses the engine by hand, for kind and so for ropes.
const providerEnv = "KIND_EXPERIMENTAL_PROVIDER"

const (
	// askTimeout bounds one short question to the engine.
	askTimeout = 5 * time.Second
	// doTimeout bounds what starts or removes containers.
	doTimeout = 2 * time.Minute
	// waitDelay is how long a killed command's output may stay open.
	waitDelay = 2 * time.Second
)

// command is one run of a program.
type command struct {
	name   string
	args   []string
	stdin  io.Reader
	stdout io.Writer
}

// runner runs a command until it or ctx ends. What it says on stderr is in the error, a
// *CommandError.
type runner func(ctx context.Context, c command) error

// CommandError is a command that failed.
type CommandError struct {
	Command string
	Said    string // the end of its stderr
	Err     error
}

// Error says which command it was and what it said.
func (e *CommandError) Error() string {
	if e.Said == "" {
		return fmt.Sprintf("%s: %v", e.Command, e.Err)
	}
	return fmt.Sprintf("%s: %s", e.Command, e.Said)
}

func (e *CommandError) Unwrap() error { return e.Err }

func execute(ctx context.Context, c command) error {
	cmd := exec.CommandContext(ctx, c.name, c.args...)
	cmd.WaitDelay = waitDelay
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdin, c.stdout, &stderr
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	said := strings.TrimSpace(stderr.String())
	if lines := strings.Split(said, "\n"); len(lines) > 5 {
		said = strings.Join(lines[len(lines)-5:], "\n")
	}
	return &CommandError{Command: strings.Join(append([]string{c.name}, firstWords(c.args)...), " "), Said: said, Err: err}
}

// firstWords are the arguments that say what a command is about.
func firstWords(args []string) []string {
	n := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "-") })
	if n < 0 {
		n = len(args)
	}
	return args[:min(n, 2)]
}

// Engine is a container engine, by its command line.
type Engine struct {
	Name    string // docker, nerdctl or podman
	Version string // of the server
	binary  string
	run     runner
}

// Trouble is an engine that cannot be used, with the sentence that mends it.
type Trouble struct {
	Detail, Mend string
	Err          error
}

// Error tells the detail and the mend.
func (t *Trouble) Error() string { return t.Detail + "; " + t.Mend }

func (t *Trouble) Unwrap() error { return t.Err }

// Detect finds the engine that kind would take, Docker before nerdctl before Podman or
// the one that KIND_EXPERIMENTAL_PROVIDER names, and asks its server for its version. An
// engine that is installed and cannot be used is a *Trouble, and so is none at all.
func Detect(ctx context.Context, getenv func(string) string, run runner) (*Engine, error) {
	candidates := []Engine{{Name: "docker", binary: "docker"}, {Name: "nerdctl", binary: "nerdctl"}, {Name: "nerdctl", binary: "finch"}, {Name: "podman", binary: "podman"}}
	asked := getenv(providerEnv)
	named := slices.DeleteFunc(append(slices.Clone(candidates), Engine{Name: "nerdctl", binary: "nerdctl.lima"}), func(e Engine) bool {
		return e.Name != asked && e.binary != asked
	})
	if len(named) > 0 { // kind does not heed a name that it does not know
		candidates = named
	}
	for _, e := range candidates {
		e.run = run
		if !e.installed(ctx) {
			continue
		}
		return &e, e.ping(ctx)
	}
	if len(named) > 0 {
		return nil, &Trouble{Detail: fmt.Sprintf("%s=%s, and %[2]s is not installed", providerEnv, asked), Mend: "install it, or unset " + providerEnv}
	}
	return nil, &Trouble{Detail: "neither Docker nor Podman is installed", Mend: installMend(runtime.GOOS)}
}

func installMend(goos string) string {
	if goos == "linux" {
		return "install one, on Debian and Ubuntu: sudo apt-get install docker.io"
	}
	return "install Docker Desktop or Podman"
}

// installed asks the client alone, as kind does.
func (e *Engine) installed(ctx context.Context) bool {
	out, err := e.output(ctx, askTimeout, "-v")
	return err == nil && strings.HasPrefix(strings.ToLower(out), e.Name+" version") || err == nil && e.binary == "finch"
}

// ping asks the server for its version.
func (e *Engine) ping(ctx context.Context) error {
	args := map[string][]string{
		"docker":  {"version", "--format", "{{.Server.Version}}"},
		"nerdctl": {"info", "--format", "{{.ServerVersion}}"},
		"podman":  {"info", "--format", "{{.Version.Version}}"},
	}[e.Name]
	out, err := e.output(ctx, askTimeout, args...)
	if err != nil {
		return e.trouble(ctx, err, runtime.GOOS)
	}
	e.Version = out
	return nil
}

// elsewhere is where Docker's engine is, if that is not this machine; empty where it is,
// or cannot be told.
func (e *Engine) elsewhere(ctx context.Context) string {
	if e.Name != "docker" {
		return ""
	}
	// Of the current context; where DOCKER_HOST is set, that is what it says.
	host, err := e.output(ctx, askTimeout, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
	if err != nil {
		return ""
	}
	at, err := url.Parse(host)
	if err != nil || at.Hostname() == "" {
		return "" // a socket or a pipe
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	// Nobody listens at the address of another machine.
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(at.Hostname(), "0"))
	if err != nil {
		return host
	}
	l.Close()
	return ""
}

// trouble explains why the server could not be asked.
func (e *Engine) trouble(ctx context.Context, err error, goos string) error {
	if ctx.Err() != nil {
		return err // it was us who lost patience
	}
	t := &Trouble{Err: err}
	text := strings.ToLower(err.Error())
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		t.Detail, t.Mend = fmt.Sprintf("%s does not answer within %s", e.Name, askTimeout), e.startMend("restart", goos)
	case strings.Contains(text, "permission denied"):
		t.Detail = "no right to talk to " + e.Name
		switch {
		case goos != "linux":
			t.Mend = e.startMend("restart", goos)
		case e.Name == "docker":
			t.Mend = "join its group: sudo usermod -aG docker $USER, then log in anew; or run ropes with sudo"
		default:
			t.Mend = "run ropes with sudo"
		}
	default:
		t.Detail, t.Mend = e.Name+" is installed but does not run", e.startMend("start", goos)
	}
	return t
}

func (e *Engine) startMend(verb, goos string) string {
	switch {
	case e.Name == "podman" && goos != "linux":
		return "podman machine " + strings.Replace(verb, "restart", "stop; podman machine start", 1)
	case goos != "linux":
		return verb + " Docker Desktop"
	case e.Name == "docker":
		return "sudo systemctl " + verb + " docker"
	case e.Name == "nerdctl":
		return "sudo systemctl " + verb + " containerd"
	}
	return "see: podman info"
}

// output runs a short command and returns what it prints.
func (e *Engine) output(ctx context.Context, limit time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var out bytes.Buffer
	err := e.run(ctx, command{name: e.binary, args: args, stdout: &out})
	return strings.TrimSpace(out.String()), err
}

// Container is a node of a kind cluster.
type Container struct {
	ID, Name, Role, Image string
	Running               bool
	Started               time.Time // last
}

// listTries is how often a list is asked for that changes while it is read.
const listTries = 5

// Nodes lists the containers of a cluster, sorted by name.
func (e *Engine) Nodes(ctx context.Context, cluster string) (nodes []Container, err error) {
	for range listTries {
		nodes, err = e.list(ctx, cluster)
		// One that has gone since it was listed makes the whole answer an error.
		if ce := (*CommandError)(nil); !errors.As(err, &ce) || !strings.Contains(strings.ToLower(ce.Said), "no such") {
			break
		}
	}
	return nodes, err
}

func (e *Engine) list(ctx context.Context, cluster string) ([]Container, error) {
	ids, err := e.output(ctx, askTimeout, "ps", "-a", "-q", "--no-trunc", "--filter", "label="+clusterLabel+"="+cluster)
	if err != nil {
		return nil, fmt.Errorf("list the nodes of %s: %w", cluster, err)
	}
	if ids == "" {
		return nil, nil
	}
	out, err := e.output(ctx, askTimeout, append([]string{"inspect", "--type", "container"}, strings.Fields(ids)...)...)
	if err != nil {
		return nil, fmt.Errorf("inspect the nodes of %s: %w", cluster, err)
	}
	var list []struct {
		ID    string `json:"Id"`
		Name  string
		State struct {
			Status    string
			Running   bool
			StartedAt string // empty where nerdctl's never ran
		}
		Config struct {
			Image  string
			Labels map[string]string
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("read what %s says of the nodes of %s: %w", e.Name, cluster, err)
	}
	var nodes []Container
	for _, c := range list {
		started, _ := time.Parse(time.RFC3339Nano, c.State.StartedAt) // zero where it is not told
		nodes = append(nodes, Container{
			ID: c.ID, Name: strings.TrimPrefix(c.Name, "/"), Role: c.Config.Labels[roleLabel], Image: c.Config.Image,
			Running: c.State.Running && c.State.Status != "paused", Started: started,
		})
	}
	slices.SortFunc(nodes, func(a, b Container) int { return strings.Compare(a.Name, b.Name) })
	return nodes, nil
}

// Start starts stopped containers, in the order given.
func (e *Engine) Start(ctx context.Context, names ...string) error {
	_, err := e.output(ctx, doTimeout, append([]string{"start"}, names...)...)
	return err
}

// Remove removes containers with their volumes, running or not.
func (e *Engine) Remove(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		return nil
	}
	_, err := e.output(ctx, doTimeout, append([]string{"rm", "-f", "-v"}, names...)...)
	return err
}

// clearEvery is the time between two attempts to remove what is still there.
const clearEvery = 500 * time.Millisecond

// Clear removes the containers of a cluster that are meant until none is left. A
// container that is being made or removed meanwhile makes a single attempt fail.
func (e *Engine) Clear(ctx context.Context, cluster string, meant func([]Container) []Container) error {
	return bootstrap.Poll(ctx, clearEvery, func(ctx context.Context) error {
		have, err := e.Nodes(ctx, cluster)
		if err != nil {
			return err
		}
		left := namesOf(meant(have))
		if len(left) == 0 {
			return nil
		}
		if err := e.Remove(ctx, left...); err != nil {
			return err
		}
		if have, err = e.Nodes(ctx, cluster); err != nil || len(meant(have)) == 0 {
			return err
		}
		return fmt.Errorf("removing %s", strings.Join(left, ", "))
	})
}

// ImageID returns the image's ID, empty where the engine does not have it.
func (e *Engine) ImageID(ctx context.Context, ref string) (string, error) {
	id, err := e.output(ctx, askTimeout, "image", "inspect", "--format", "{{.Id}}", e.ref(ref))
	if ce := (*CommandError)(nil); errors.As(err, &ce) && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
		said := strings.ToLower(ce.Said)
		if strings.Contains(said, "no such") || strings.Contains(said, "not found") || strings.Contains(said, "not known") {
			return "", nil
		}
	}
	return id, err
}

// ref is an image's name as kind hands it to the engine. Podman has nobody to ask which
// registry a short name means, and takes no tag beside a digest.
func (e *Engine) ref(image string) string {
	if e.Name != "podman" {
		return image
	}
	name, digest, pinned := strings.Cut(image, "@")
	if pinned {
		if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
			name = name[:i]
		}
		digest = "@" + digest
	}
	registry, _, ok := strings.Cut(name, "/")
	switch {
	case !ok:
		name = "docker.io/library/" + name
	case registry != "localhost" && !strings.ContainsAny(registry, ".:"):
		name = "docker.io/" + name
	}
	return name + digest
}

// tag gives an image another name.
func (e *Engine) tag(ctx context.Context, image, name string) error {
	_, err := e.output(ctx, askTimeout, "tag", e.ref(image), name)
	return err
}

// save writes images to w, as one archive.
func (e *Engine) save(ctx context.Context, w io.Writer, images ...string) error {
	args := []string{"save"}
	if e.Name == "podman" && len(images) > 1 {
		args = append(args, "--multi-image-archive") // else the others are tags of the first
	}
	return e.run(ctx, command{name: e.binary, args: append(args, images...), stdout: w})
}
