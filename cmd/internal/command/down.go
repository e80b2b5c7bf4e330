package command

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/cmd/internal/kubeconfig"
	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/spf13/cobra"
)

type downOptions struct{ *Deps }

func newDownCmd(d *Deps) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster and everything it made on this host",
		Long: `Removes the cluster with all that is in it, whole or half made, and takes its context
out of your kubeconfig. Progress in labs is kept.`,
		Args: atMost(0),
		RunE: d.run(func(ctx context.Context) error { return runDown(ctx, &downOptions{Deps: d}) }),
	}
}

func runDown(ctx context.Context, o *downOptions) error {
	there, err := o.remove(ctx)
	if err != nil {
		return err
	}
	if !there {
		fmt.Fprintf(o.Out, "There is no cluster called %s.\n", o.cluster)
		return nil
	}
	fmt.Fprintf(o.Out, "Cluster %s is gone.\n", o.cluster)
	return nil
}

// remove takes the chosen cluster away, and with it what the CLI wrote for it. It tells
// whether there was a cluster.
func (d *Deps) remove(ctx context.Context) (there bool, err error) {
	var errs []error
	progress := term.NewProgress(d.err)
	defer progress.Close()
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
