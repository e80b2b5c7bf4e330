package command

import (
	"context"

	"github.com/spf13/cobra"
)

type startOptions struct {
	*Deps
	lab    string
	output format
}

func newStartCmd(d *Deps) *cobra.Command {
	o := &startOptions{Deps: d}
	cmd := &cobra.Command{
		Use:   "start [LAB]",
		Short: "Begin a lab; without LAB show the step you are at",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.lab = args[0]
			}
			return atMost(1)(nil, args)
		},
		RunE:              d.run(func(ctx context.Context) error { return runStart(ctx, o) }),
		ValidArgsFunction: d.completeLabs,
	}
	outputFlag(cmd, &o.output)
	return cmd
}

func runStart(ctx context.Context, o *startOptions) error {
	if o.lab != "" { // a wrong name is told without a cluster
		reading, err := o.open(ctx, false, nil)
		if err != nil {
			return err
		}
		if _, err := reading.lab(o.lab); err != nil {
			return err
		}
	}
	l, err := o.open(ctx, o.lab != "", o.narrator())
	if err != nil {
		return err
	}
	if o.lab != "" {
		if err := l.session.Start(ctx, o.lab); err != nil {
			return l.explain(err)
		}
	}
	lab, step, err := l.current()
	if err != nil {
		return err
	}
	switch {
	case o.output == formatJSON:
		return o.printJSON(viewOf(lab, step))
	case step == nil:
		l.printLabMet(lab)
	default:
		l.printStep(lab, step)
		l.printGoOn()
	}
	return nil
}
