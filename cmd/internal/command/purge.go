package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/spf13/cobra"
)

type purgeOptions struct {
	*Deps
	yes bool
}

func newPurgeCmd(d *Deps) *cobra.Command {
	o := &purgeOptions{Deps: d}
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Remove all clusters of ropes, its caches and your progress",
		Args:  atMost(0),
		RunE:  d.run(func(ctx context.Context) error { return runPurge(ctx, o) }),
	}
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	return cmd
}

func runPurge(ctx context.Context, o *purgeOptions) error {
	names, err := o.clusterNames()
	if err != nil {
		return fmt.Errorf("list clusters: %w", err)
	}
	dirs := []string{CacheDir(o.Getenv), StateDir(o.Getenv)}
	if !o.yes {
		what := "the caches and all progress in labs"
		if len(names) > 0 {
			what = count(len(names), "cluster") + " (" + strings.Join(names, ", ") + "), " + what
		}
		if !term.IsTerminal(o.In) {
			return usagef("purge removes %s and asks first, but there is no terminal to ask at; --yes answers", what)
		}
		ok, err := term.Confirm(ctx, o.err, o.In, "Remove "+what+"?")
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("nothing was removed")
		}
	}
	var errs []error
	for _, o.cluster = range names {
		if _, err := o.remove(ctx, false); err != nil {
			errs = append(errs, fmt.Errorf("cluster %s: %w", o.cluster, err))
			continue
		}
		fmt.Fprintf(o.Out, "Cluster %s is gone.\n", o.cluster)
	}
	if err := errors.Join(errs...); err != nil {
		return err // without the state, what is left would be harder to find
	}
	for _, dir := range dirs {
		if err := os.RemoveAll(dir); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintf(o.Out, "%s is gone.\n", tilde(dir, o.Getenv("HOME")))
	}
	return errors.Join(errs...)
}
