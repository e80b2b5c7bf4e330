package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ropes-dev/ropes/bootstrap"
)

// upCommand is what makes or resumes the chosen cluster.
func (d *Deps) upCommand() string { return "ropes " + d.nameFlag() + "up" }

// nameFlag is what has to stand behind "ropes " to name the chosen cluster.
func (d *Deps) nameFlag() string {
	if d.cluster == DefaultName {
		return ""
	}
	return "--name " + d.cluster + " "
}

// find returns the chosen cluster and its provider. The error of a cluster that is not
// there wraps bootstrap.ErrNotFound.
func (d *Deps) find(ctx context.Context) (bootstrap.Provider, bootstrap.Cluster, error) {
	for _, p := range d.Providers {
		c, err := p.Status(ctx, d.cluster)
		switch {
		case err == nil:
			return p, c, nil
		case errors.Is(err, bootstrap.ErrNotFound):
		default:
			return nil, bootstrap.Cluster{}, fmt.Errorf("look for cluster %s: %w", d.cluster, err)
		}
	}
	return nil, bootstrap.Cluster{}, failf("try: "+d.upCommand(), "there is no cluster called %q%w", d.cluster, silent{bootstrap.ErrNotFound})
}

// running is find for commands that need the cluster's API server.
func (d *Deps) running(ctx context.Context) (bootstrap.Cluster, error) {
	_, c, err := d.find(ctx)
	if err != nil {
		return c, err
	}
	if !c.Running {
		return c, failf("try: "+d.upCommand()+"   (it resumes where the cluster stopped)", "cluster %q is not running", d.cluster)
	}
	return c, nil
}

// silent marks an error for errors.Is without adding to the message.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }

// provider returns the provider of that name, or the first where name is empty.
func (d *Deps) provider(name string) (bootstrap.Provider, error) {
	if name == "" && len(d.Providers) > 0 {
		return d.Providers[0], nil
	}
	var known []string
	for _, p := range d.Providers {
		if p.Name() == name {
			return p, nil
		}
		known = append(known, p.Name())
	}
	if why, ok := d.Absent[name]; ok {
		return nil, failf("try: --provider "+strings.Join(known, " or "), "provider %q is not in this build of ropes: %s", name, why)
	}
	return nil, usagef("unknown provider %q%s; known: %s", name, didYouMean(name, known), strings.Join(known, ", "))
}

// providerNames lists all that --provider takes.
func (d *Deps) providerNames() []string {
	var names []string
	for _, p := range d.Providers {
		names = append(names, p.Name())
	}
	return append(names, slices.Sorted(maps.Keys(d.Absent))...)
}

// clusterNames lists the clusters that have anything on this host, with a provider or here.
func (d *Deps) clusterNames() ([]string, error) {
	names := map[string]bool{}
	var errs []error
	for _, p := range d.Providers {
		l, ok := p.(lister)
		if !ok {
			continue
		}
		list, err := l.List()
		errs = append(errs, err)
		for _, name := range list {
			names[name] = true
		}
	}
	entries, err := os.ReadDir(filepath.Join(StateDir(d.Getenv), "clusters"))
	if !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range entries {
		names[e.Name()] = true
	}
	return slices.Sorted(maps.Keys(names)), errors.Join(errs...)
}

// has tells whether anything of the chosen cluster may be left with the provider.
func (d *Deps) has(ctx context.Context, p bootstrap.Provider) bool {
	if _, err := p.Status(ctx, d.cluster); !errors.Is(err, bootstrap.ErrNotFound) {
		return true
	}
	l, ok := p.(lister)
	if !ok {
		return false
	}
	names, err := l.List()
	return err != nil || slices.Contains(names, d.cluster)
}
