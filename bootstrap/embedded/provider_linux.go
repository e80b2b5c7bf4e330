package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/embedded/cgroup"
	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
)

var _ bootstrap.Provider = (*Provider)(nil)

// Up implements bootstrap.Provider.
func (p *Provider) Up(ctx context.Context, spec bootstrap.Spec, obs bootstrap.Observer) (bootstrap.Cluster, error) {
	if err := validate(spec); err != nil {
		return bootstrap.Cluster{}, err
	}
	if os.Geteuid() != 0 {
		return bootstrap.Cluster{}, ErrNotRoot
	}
	if spec.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, spec.Timeout)
		defer cancel()
	}
	dir := state.ClusterDir(p.opts.StateRoot, spec.Name)
	unlock, err := p.lock(spec.Name)
	if err != nil {
		return bootstrap.Cluster{}, err
	}
	defer unlock()
	u := &up{Provider: p, spec: spec, dir: dir}
	if u.cfg, err = dir.Load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return bootstrap.Cluster{}, fmt.Errorf("%w; `ropes down --name %s` removes what is left of the cluster", err, spec.Name)
	}
	u.fresh = u.cfg == nil
	// Only what this run creates is undone when it fails: a cluster with a learner's
	// work in it stays, to be resumed.
	err = bootstrap.Run(ctx, u.steps(), spec.Retain || !u.fresh, obs)
	if err != nil {
		return bootstrap.Cluster{}, err
	}
	return p.Status(ctx, spec.Name)
}

// Down implements bootstrap.Provider.
func (p *Provider) Down(ctx context.Context, name string, obs bootstrap.Observer) error {
	dir := state.ClusterDir(p.opts.StateRoot, name)
	if !exists(string(dir)) && !exists(p.lockPath(name)) {
		return nil
	}
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	unlock, err := p.lock(name)
	if err != nil {
		return err
	}
	defer unlock()
	if !exists(string(dir)) {
		return p.restoreHost()
	}
	cfg, err := dir.Load()
	if err != nil {
		// Down must get rid of a cluster whose plan was never written or is torn.
		cfg = plannedNames(name)
	}
	steps := []bootstrap.Step{
		{Name: "stop the cluster", Do: func(ctx context.Context, _ func(string)) error { return stop(ctx, dir) }},
		{Name: "remove it from this host", Do: func(context.Context, func(string)) error { return p.remove(cfg, dir) }},
	}
	return bootstrap.Run(ctx, steps, true, obs)
}

// remove takes away everything on the host that bears the cluster's name. Its
// processes have ended.
func (p *Provider) remove(cfg *state.Config, dir state.Dir) error {
	var errs []error
	hs, err := cgroup.Hierarchies()
	if err == nil {
		err = cgroup.Remove(hs, state.CgroupOf(cfg.Name))
	}
	errs = append(errs, err, removeHostNetwork(cfg))
	if err := errors.Join(errs...); err != nil {
		return err // keep the plan: it says what is left
	}
	if err := os.RemoveAll(string(dir)); err != nil {
		return err
	}
	return p.restoreHost()
}

// Status implements bootstrap.Provider.
func (p *Provider) Status(_ context.Context, name string) (bootstrap.Cluster, error) {
	dir := state.ClusterDir(p.opts.StateRoot, name)
	cfg, err := dir.Load()
	if errors.Is(err, fs.ErrNotExist) {
		return bootstrap.Cluster{}, fmt.Errorf("%s: %w", name, bootstrap.ErrNotFound)
	}
	if err != nil {
		return bootstrap.Cluster{}, err
	}
	c := bootstrap.Cluster{
		Name: name, Provider: p.Name(), Dir: string(dir),
		Running: state.Locked(dir.SupervisorLock()),
		APIPort: cfg.APIPort, HTTPPort: cfg.HTTPPort, HTTPSPort: cfg.HTTPSPort,
	}
	for _, n := range cfg.Nodes {
		c.Nodes = append(c.Nodes, n.Name)
	}
	if c.Kubeconfig, err = os.ReadFile(dir.Kubeconfig()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return bootstrap.Cluster{}, err
	}
	return c, nil
}

// List names the clusters that have anything on this host.
func (p *Provider) List() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(p.opts.StateRoot, "clusters"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// lock keeps two runs off the same cluster. The lock stands beside the cluster's
// directory, so that Down can remove the directory while holding it.
func (p *Provider) lock(name string) (unlock func(), err error) {
	path := p.lockPath(name)
	f, err := state.Lock(path)
	if errors.Is(err, state.ErrLocked) {
		return nil, &BusyError{Name: name}
	}
	if err != nil {
		return nil, err
	}
	return func() {
		if !exists(string(state.ClusterDir(p.opts.StateRoot, name))) {
			os.Remove(path)
			// These stay where others have something in them.
			os.Remove(filepath.Dir(path))
			os.Remove(filepath.Join(p.opts.StateRoot, "clusters"))
			os.Remove(p.opts.StateRoot)
		}
		f.Close()
	}, nil
}

func (p *Provider) lockPath(name string) string {
	return filepath.Join(p.opts.StateRoot, "locks", name)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// stopTimeout is how long the supervisor may take to end by itself.
const stopTimeout = 10 * time.Second
