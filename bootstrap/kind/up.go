package kind

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"time"

	kindlog "sigs.k8s.io/kind/pkg/log"

	"github.com/ropes-dev/ropes/bootstrap"
)

// up is one run of Up.
type up struct {
	*Provider
	spec   bootstrap.Spec
	engine *Engine
	lib    clusters
	rec    *record
	fresh  bool // this run creates the cluster
	made   *creation
	bundle *Bundle
}

// Up implements bootstrap.Provider.
func (p *Provider) Up(ctx context.Context, spec bootstrap.Spec, obs bootstrap.Observer) (bootstrap.Cluster, error) {
	if err := validate(spec); err != nil {
		return bootstrap.Cluster{}, err
	}
	if spec.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, spec.Timeout)
		defer cancel()
	}
	unlock, err := p.lock(spec.Name)
	if err != nil {
		return bootstrap.Cluster{}, err
	}
	defer unlock()
	u := &up{Provider: p, spec: spec}
	if u.engine, err = p.detect(ctx); err != nil {
		return bootstrap.Cluster{}, err
	}
	u.lib = p.clusters(u.engine)
	if err := u.lookAround(ctx); err != nil {
		return bootstrap.Cluster{}, err
	}
	if spec.Bundle != "" {
		if u.bundle, err = OpenBundle(spec.Bundle); err != nil {
			return bootstrap.Cluster{}, err
		}
		defer u.bundle.Close() //nolint:errcheck // only read from
		if arch := u.bundle.Manifest.Arch; arch != runtime.GOARCH {
			return bootstrap.Cluster{}, fmt.Errorf("bundle %s is for %s, and this ropes is for %s; make one with a ropes like this one", spec.Bundle, arch, runtime.GOARCH)
		}
	}
	// What a learner has worked in stays when this fails, to be resumed.
	if err := bootstrap.Run(ctx, u.steps(), spec.Retain || !u.fresh, obs); err != nil {
		return bootstrap.Cluster{}, err
	}
	return p.Status(ctx, spec.Name)
}

// ForeignError is a kind cluster of that name that this ropes has not made.
type ForeignError struct{ Name, Engine string }

// Error says that it is left alone, and the two ways on.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("there is a kind cluster called %q on %s that this ropes has not made, so it is left alone; "+
		"take another name (ropes --name OTHER up), or remove it yourself (kind delete cluster --name %s)", e.Name, e.Engine, e.Name)
}

// LostError is a cluster of ours that has lost containers.
type LostError struct {
	Name  string
	Nodes []string
}

// Error says what is lost and that only a new cluster mends it.
func (e *LostError) Error() string {
	noun := "the container of node "
	if len(e.Nodes) > 1 {
		noun = "the containers of nodes "
	}
	return fmt.Sprintf("%s%s of cluster %q is gone, and kind cannot put a node back; make the cluster anew: ropes --name %s down, then up (your progress in labs is kept)",
		noun, strings.Join(e.Nodes, ", "), e.Name, e.Name)
}

// lookAround finds out what there is of the cluster: nothing, something half made, which
// is cleared away, all of it, or what is not ours.
func (u *up) lookAround(ctx context.Context) error {
	rec, err := u.load(u.spec.Name)
	if err != nil {
		return err
	}
	if err := rec.madeWith(u.engine); err != nil {
		return err
	}
	have, err := u.engine.Nodes(ctx, u.spec.Name)
	if err != nil {
		return err
	}
	switch {
	case rec == nil && len(have) > 0:
		return &ForeignError{Name: u.spec.Name, Engine: u.engine.Name}
	case rec.complete():
		if err := compare(rec, have, u.engine); err != nil {
			return err
		}
		u.rec = rec
		return u.keep()
	case rec != nil:
		// A run that was cut off: nobody has worked in what it left.
		clearing, cancel := context.WithTimeout(ctx, doTimeout)
		defer cancel()
		if err := u.engine.Clear(clearing, u.spec.Name, func(have []Container) []Container { return have }); err != nil {
			return fmt.Errorf("remove a half-made cluster: %w", err)
		}
	}
	u.fresh = true
	return nil
}

// keep refuses what cannot be changed about a cluster that is there.
func (u *up) keep() error {
	for _, f := range []struct{ flag, asked, is string }{{"--image", u.spec.Image, u.rec.Image}, {"--images", u.spec.Images, u.rec.Images}} {
		if f.asked != "" && f.asked != f.is {
			return fmt.Errorf("%s %s: cluster %q was made with %s; ropes --name %s down, then up, makes it anew", f.flag, f.asked, u.spec.Name, f.is, u.spec.Name)
		}
	}
	return nil
}

// compare holds the containers against the record.
func compare(rec *record, have []Container, e *Engine) error {
	ids := map[string]string{}
	for _, c := range have {
		ids[c.Name] = c.ID
	}
	var lost []string
	for _, name := range slices.Sorted(maps.Keys(rec.Containers)) {
		switch ids[name] {
		case rec.Containers[name]:
		case "":
			lost = append(lost, name)
		default:
			return &ForeignError{Name: rec.Name, Engine: e.Name}
		}
	}
	if len(lost) > 0 {
		return &LostError{Name: rec.Name, Nodes: lost}
	}
	return nil
}

func namesOf(list []Container) []string {
	var names []string
	for _, c := range list {
		names = append(names, c.Name)
	}
	return names
}

func (u *up) steps() []bootstrap.Step {
	steps := []bootstrap.Step{{Name: "node image", Do: u.nodeImage}}
	for i, s := range stages {
		step := bootstrap.Step{Name: s.name, Do: func(ctx context.Context, _ func(string)) error { return u.stage(ctx, i) }}
		if i == 0 {
			step.Do = u.create
			step.Undo = u.undo
		}
		steps = append(steps, step)
	}
	return append(steps,
		bootstrap.Step{Name: "start the nodes", Do: u.start},
		bootstrap.Step{Name: "images", Do: u.images},
		bootstrap.Step{Name: "nodes", Do: u.nodes},
		bootstrap.Step{Name: "add-ons", Do: func(ctx context.Context, say func(string)) error {
			return u.addOns(ctx, []byte(u.rec.Kubeconfig), say)
		}},
	)
}

// plan writes the record of a new cluster.
func (u *up) plan(say func(string), image string) error {
	u.rec = &record{Name: u.spec.Name, Engine: u.engine.Name, Image: image, Images: u.spec.Images, Workers: u.spec.Workers, Created: time.Now().UTC()}
	taken, err := u.others()
	if err != nil {
		return err
	}
	for _, port := range []int{u.spec.APIPort, u.spec.HTTPPort, u.spec.HTTPSPort} {
		taken[port] = true
	}
	free := func(port int) error {
		if taken[port] {
			return errors.New("it is for something else of ropes")
		}
		return u.free(port)
	}
	for _, p := range []struct {
		what            string
		asked, ordinary int
		into            *int
	}{
		{"the API server", u.spec.APIPort, 6443, &u.rec.APIPort},
		{"ingress HTTP", u.spec.HTTPPort, 8080, &u.rec.HTTPPort},
		{"ingress HTTPS", u.spec.HTTPSPort, 8443, &u.rec.HTTPSPort},
	} {
		delete(taken, p.asked)
		port, note, err := freePort(free, p.asked, p.ordinary, p.what)
		if err != nil {
			return err
		}
		if note != "" {
			say(note)
		}
		*p.into = port
		taken[port] = true
	}
	return u.save(u.rec)
}

// others are the ports of the other clusters, which are free while those stand still.
func (u *up) others() (map[int]bool, error) {
	names, err := u.List()
	if err != nil {
		return nil, err
	}
	ports := map[int]bool{}
	for _, name := range names {
		rec, err := u.load(name)
		if err != nil || rec == nil || name == u.spec.Name {
			continue // a torn record says nothing
		}
		ports[rec.APIPort], ports[rec.HTTPPort], ports[rec.HTTPSPort] = true, true, true
	}
	return ports, nil
}

// portTries is how many ports are tried where a default one is taken.
const portTries = 100

// freePort returns the port asked for, or where none was the ordinary one or the next
// that is free.
func freePort(free func(int) error, asked, ordinary int, what string) (port int, note string, err error) {
	want, tries := asked, 1
	if asked == 0 {
		want, tries = ordinary, portTries
	}
	for port = want; port < want+tries; port++ {
		if err = free(port); err != nil {
			continue
		}
		if port != want {
			note = fmt.Sprintf("port %d for %s is taken; using %d", want, what, port)
		}
		return port, note, nil
	}
	return 0, "", fmt.Errorf("no free port for %s at %d: %w", what, want, err)
}

// isFree tries to listen at the port.
func isFree(port int) error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return heard(err)
	}
	return l.Close()
}

// heard judges an attempt to listen. A port that only root may take says nothing: the
// engine, which is to take it, may be root.
func heard(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// create starts kind and waits for its first step.
func (u *up) create(ctx context.Context, _ func(string)) error {
	if !u.fresh {
		return bootstrap.ErrSkip
	}
	config, err := configOf(u.rec)
	if err != nil {
		return err
	}
	u.made = begin(u.opts.Log, func(log kindlog.Logger) error { return u.lib.Create(u.spec.Name, config, log) })
	return u.made.await(ctx, 0)
}

// stage waits for one of kind's later steps, and after the last for kind.
func (u *up) stage(ctx context.Context, i int) error {
	if !u.fresh {
		return bootstrap.ErrSkip
	}
	err := u.made.await(ctx, i)
	if i < len(stages)-1 || err != nil && !errors.Is(err, bootstrap.ErrSkip) {
		return err
	}
	if kindErr := u.made.wait(ctx); kindErr != nil {
		return kindErr
	}
	have, listErr := u.engine.Nodes(ctx, u.spec.Name)
	if listErr != nil {
		return listErr
	}
	u.rec.Containers = map[string]string{}
	for _, c := range have {
		u.rec.Containers[c.Name] = c.ID
	}
	kubeconfig, kindErr := u.lib.Kubeconfig(u.spec.Name)
	if kindErr != nil {
		return kindErr
	}
	u.rec.Kubeconfig = string(kubeconfig)
	return errors.Join(u.save(u.rec), err)
}

// undo removes what this run has made. Taking the containers away is also what ends kind.
func (u *up) undo(ctx context.Context) error {
	if !u.fresh || u.rec == nil {
		return nil
	}
	// Of all that is undone this lasts longest, and a busy machine takes its time.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	all := func(have []Container) []Container { return have }
	if err := u.engine.Clear(ctx, u.spec.Name, all); err != nil {
		return err
	}
	if u.made != nil { // kind may have been about to make another
		waiting, stop := context.WithTimeout(ctx, undoWait)
		_ = u.made.wait(waiting) // its error is that its containers are gone
		stop()
		if err := u.engine.Clear(ctx, u.spec.Name, all); err != nil {
			return err
		}
	}
	return u.forget(u.spec.Name)
}

const (
	// undoTimeout bounds the removal of what could not be finished.
	undoTimeout = 4 * time.Minute
	// undoWait is how long kind may take to notice that its containers are gone.
	undoWait = 30 * time.Second
)

// start starts the containers of a cluster that stands still.
func (u *up) start(ctx context.Context, say func(string)) error {
	if u.fresh {
		return bootstrap.ErrSkip
	}
	have, err := u.engine.Nodes(ctx, u.spec.Name)
	if err != nil {
		return err
	}
	var stopped []string
	for _, c := range have {
		if !c.Running {
			stopped = append(stopped, c.Name)
		}
	}
	if len(stopped) == 0 {
		return bootstrap.ErrSkip
	}
	say("starting " + strings.Join(stopped, ", "))
	if err := u.engine.Start(ctx, stopped...); err != nil { // the control plane's name sorts first
		return fmt.Errorf("start the nodes: %w", err)
	}
	return nil
}

// nodes waits until the API server answers and every node is Ready.
func (u *up) nodes(ctx context.Context, say func(string)) error {
	if err := u.ready(ctx, []byte(u.rec.Kubeconfig), u.rec.nodeNames(), say); err != nil {
		return fmt.Errorf("%w; ropes --name %s logs shows what the nodes say", err, u.spec.Name)
	}
	if u.fresh {
		return nil
	}
	have, err := u.engine.Nodes(ctx, u.spec.Name)
	if err != nil {
		return err
	}
	return u.restart(ctx, []byte(u.rec.Kubeconfig), have, say)
}
