package command

import (
	"context"
	"fmt"
	"os"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/spf13/cobra"
)

type bundleOptions struct {
	*Deps
	file string
	spec bootstrap.Spec
}

func newBundleCmd(d *Deps) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Carry what a kind cluster needs to machines without a network",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	o := &bundleOptions{Deps: d}
	create := &cobra.Command{
		Use:   "create FILE",
		Short: "Write node image and images into FILE, for up --bundle FILE",
		Long: `Writes the image of the nodes and all images that they are given into FILE, each with its
digest, so that ropes up --bundle FILE needs no network.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("name the file to write")
			}
			o.file = args[0]
			return atMost(1)(nil, args)
		},
	}
	create.RunE = d.run(func(ctx context.Context) error { return runBundleCreate(ctx, o) })
	create.Flags().StringVar(&o.spec.Image, "image", "", "the image of the nodes (default kind's own, pinned)")
	create.Flags().StringVar(&o.spec.Images, "images", "", "where the mesh comes from, registry or builtin (default registry if it answers)")
	cmd.AddCommand(create)
	return cmd
}

func runBundleCreate(ctx context.Context, o *bundleOptions) error {
	if o.Bundle == nil {
		return failf("", "this build of ropes makes no bundles")
	}
	progress := term.NewProgress(o.err)
	err := o.Bundle(ctx, o.file, o.spec, progress)
	progress.Close()
	if err != nil {
		return err
	}
	info, err := os.Stat(o.file)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "%s is written, %d MB. On a machine without a network: ropes up --bundle %s\n", o.file, info.Size()>>20, o.file)
	return nil
}
