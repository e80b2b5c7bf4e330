package command

import (
	"context"

	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/spf13/cobra"
)

type hintOptions struct {
	*Deps
	step   string
	output format
}

func newHintCmd(d *Deps) *cobra.Command {
	o := &hintOptions{Deps: d}
	cmd := &cobra.Command{
		Use:   "hint [STEP]",
		Short: "Show the next hint for the current step, or for STEP",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.step = args[0]
			}
			return atMost(1)(nil, args)
		},
		RunE:              d.run(func(ctx context.Context) error { return runHint(ctx, o) }),
		ValidArgsFunction: d.completeSteps,
	}
	outputFlag(cmd, &o.output)
	return cmd
}

func runHint(ctx context.Context, o *hintOptions) error {
	l, err := o.open(ctx, false, nil)
	if err != nil {
		return err
	}
	lab, step, err := l.stepOr(o.step)
	if err != nil {
		return err
	}
	if step == nil {
		return failf("try: ropes "+o.nameFlag()+"hint STEP for one of them", "all steps of lab %s are met", lab.ID)
	}
	h, err := l.session.Hint(step.ID)
	if err != nil {
		return l.explain(err)
	}
	if o.output == formatJSON {
		return o.printJSON(h)
	}
	o.out.Printf("%s\n", o.out.Paint(term.Bold, "Hint "+ordinal(h.Tier, h.Of)+" for step "+h.Step))
	o.out.Markdown(h.Text)
	if h.Tier == h.Of {
		o.out.Printf("\n%s\n", o.out.Paint(term.Dim, "That was the last one. ropes "+o.nameFlag()+"solution shows the answer."))
	}
	return nil
}
