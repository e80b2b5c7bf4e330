package command

import (
	"context"

	"github.com/spf13/cobra"
)

func newRightsCmd(d *Deps) *cobra.Command {
	return &cobra.Command{
		Use:   "rights",
		Short: "Print the roles that labs need on a cluster that somebody else runs",
		Long: `Prints, as YAML, the cluster roles that a user needs for
  ropes up --provider existing --context CONTEXT
An administrator of the cluster applies them with kubectl and binds them to the user; the
comment at the top says how.`,
		Args: atMost(0),
		RunE: d.run(func(context.Context) error {
			_, err := d.Out.Write(d.Rights)
			return err
		}),
	}
}
