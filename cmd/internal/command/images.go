package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
)

func newImagesCmd(d *Deps) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images",
		Short: "Write the images that this binary carries",
		Args:  atMost(0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	save := &cobra.Command{
		Use:   "save FILE",
		Short: "Write them as an archive for a cluster's nodes",
		Long: `Writes the images of Istio, the sample apps and the labs as one archive, for nodes of
clusters that somebody else runs:
  kind load image-archive FILE
  ctr -n k8s.io images import FILE     on every node with containerd`,
		Args: cobra.ExactArgs(1),
	}
	var refs []string
	save.Flags().StringArrayVar(&refs, "image", nil, "this image only, by its full name; may be repeated")
	save.RunE = func(c *cobra.Command, args []string) error {
		return d.run(func(ctx context.Context) error { return saveImages(ctx, d, args[0], refs) })(c, args)
	}
	cmd.AddCommand(save)
	return cmd
}

func saveImages(ctx context.Context, d *Deps, path string, refs []string) (err error) {
	if d.SaveImages == nil {
		return errors.New("this build of ropes carries no images")
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already, and is not written over", path)
	}
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err = d.SaveImages(ctx, w, refs); err == nil {
		err = w.Flush()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(path))
	}
	fmt.Fprintf(d.Out, "%s is written.\n", path)
	return nil
}
