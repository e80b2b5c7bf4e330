package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/cmd/internal/kubeconfig"
	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/ropes-dev/ropes/labs/session"
	"github.com/spf13/cobra"
)

type downOptions struct {
	*Deps
	forget bool
}

func newDownCmd(d *Deps) *cobra.Command {
	o := &downOptions{Deps: d}
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster and everything it made on this host",
		Long: `Removes the cluster with all that is in it, whole or half made, and takes its context
out of your kubeconfig. Progress in labs is kept. A cluster that somebody else runs stays:
only what ropes put there is removed from it.`,
		Args: atMost(0),
		RunE: d.run(func(ctx context.Context) error { return runDown(ctx, o) }),
	}
	cmd.Flags().BoolVar(&o.forget, "forget", false, "with a cluster that somebody else runs and that is gone: let go of it without asking it")
	return cmd
}

func runDown(ctx context.Context, o *downOptions) error {
	_, c, err := o.find(ctx)
	shared := err == nil && c.Shared
	if o.forget && err == nil && !shared {
		return usagef("--forget is for clusters that somebody else runs; %s is ropes' own", o.cluster)
	}
	there, err := o.remove(ctx, o.forget)
	if err != nil {
		return err
	}
	if !there {
		fmt.Fprintf(o.Out, "There is no cluster called %s.\n", o.cluster)
		return nil
	}
	switch {
	case o.forget:
		fmt.Fprintf(o.Out, "ropes has let go of cluster %s. What it had put there was not removed.\n", o.cluster)
	case shared:
		fmt.Fprintf(o.Out, "Cluster %s has nothing of ropes in it any more. The cluster itself stays: it is not ropes' own.\n", o.cluster)
	default:
		fmt.Fprintf(o.Out, "Cluster %s is gone.\n", o.cluster)
	}
	return nil
}

// clear takes out of a cluster that stays what labs and up put into it.
func (d *Deps) clear(ctx context.Context, c bootstrap.Cluster, obs bootstrap.Observer) error {
	catalog, err := d.Labs(d.labDirs)
	if err != nil {
		return err
	}
	s, err := d.Session(session.Options{
		Cluster: d.cluster, Kubeconfig: c.Kubeconfig, StateDir: filepath.Join(StateDir(d.Getenv), "progress"), Labs: catalog, Log: d.Log,
	})
	if err != nil {
		return err
	}
	steps := []bootstrap.Step{{Name: "take labs off it", Do: func(ctx context.Context, _ func(string)) error {
		_, err := s.Reset(ctx, session.ScopeCluster)
		return err
	}}}
	for _, in := range slices.Backward(d.Installs) {
		if in.Undo != nil {
			steps = append(steps, bootstrap.Step{Name: in.Undoing, Do: func(ctx context.Context, say func(string)) error { return in.Undo(ctx, c, say) }})
		}
	}
	return bootstrap.Run(ctx, steps, true, obs)
}

// clearShared clears the chosen cluster where it is somebody else's. What is known of it is
// asked for by itself: nothing about another provider may hide it.
func (d *Deps) clearShared(ctx context.Context, obs bootstrap.Observer) error {
	for _, p := range d.Providers {
		if p.Name() != bootstrap.Existing {
			continue
		}
		c, err := p.Status(ctx, d.cluster)
		switch {
		case errors.Is(err, bootstrap.ErrNotFound):
		case err != nil:
			return err
		case c.Shared:
			return d.clear(ctx, c, obs)
		}
	}
	return nil
}

// remove takes the chosen cluster away, and with it what the CLI wrote for it. It tells
// whether there was a cluster.
func (d *Deps) remove(ctx context.Context, forget bool) (there bool, err error) {
	var errs []error
	progress := term.NewProgress(d.err)
	defer progress.Close()
	if !forget {
		if err := d.clearShared(ctx, progress); err != nil {
			return true, failf("try: ropes "+d.nameFlag()+"down again; it goes on where it stopped.\nWhere the cluster is gone for good: ropes "+d.nameFlag()+"down --forget",
				"take ropes out of cluster %s: %w", d.cluster, err)
		}
	}
	for _, p := range d.Providers {
		// A run that was killed may have left something before there was a cluster.
		there = d.has(ctx, p) || there
		if err := p.Down(ctx, d.cluster, progress); err != nil && !errors.Is(err, bootstrap.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		again := "ropes " + d.nameFlag() + "down"
		return there, &failure{error: err, mend: "try: " + again + " again; it goes on where it stopped", interrupted: again + " goes on where it stopped"}
	}
	if err := kubeconfig.Remove(ctx, d.Getenv, d.cluster); err != nil {
		return there, fmt.Errorf("remove context %s: %w", kubeconfig.ContextName(d.cluster), err)
	}
	return there, os.RemoveAll(d.clusterDir())
}
