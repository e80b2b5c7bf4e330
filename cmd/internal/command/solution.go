package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/ropes-dev/ropes/labs"
	"github.com/ropes-dev/ropes/labs/session"
	"github.com/spf13/cobra"
)

type solutionOptions struct {
	*Deps
	step   string
	apply  bool
	output format
}

// Solution is what `ropes solution -o json` prints.
type Solution struct {
	Lab    string `json:"lab"`
	Step   string `json:"step"`
	Script string `json:"script"` // POSIX sh
}

func newSolutionCmd(d *Deps) *cobra.Command {
	o := &solutionOptions{Deps: d}
	cmd := &cobra.Command{
		Use:   "solution [STEP]",
		Short: "Show the solution of the current step, or of STEP",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.step = args[0]
			}
			return atMost(1)(nil, args)
		},
		RunE:              d.run(func(ctx context.Context) error { return runSolution(ctx, o) }),
		ValidArgsFunction: d.completeSteps,
	}
	cmd.Flags().BoolVar(&o.apply, "apply", false, "run it")
	outputFlag(cmd, &o.output)
	return cmd
}

func runSolution(ctx context.Context, o *solutionOptions) error {
	if o.apply && o.output == formatJSON {
		return usagef("--apply and -o json do not go together")
	}
	l, err := o.open(ctx, false, nil)
	if err != nil {
		return err
	}
	lab, step, err := l.stepOr(o.step)
	if err != nil {
		return err
	}
	if step == nil {
		return failf("try: ropes "+o.nameFlag()+"solution STEP for one of them", "all steps of lab %s are met", lab.ID)
	}
	switch {
	case o.output == formatJSON:
		return o.printJSON(Solution{Lab: lab.ID, Step: step.ID, Script: step.Solution})
	case !o.apply:
		fmt.Fprint(o.Out, step.Solution)
		return nil
	}
	if _, err := o.running(ctx); err != nil {
		return err
	}
	return o.applySolution(ctx, step)
}

// applySolution runs a solution as its lab's author wrote it.
func (o *solutionOptions) applySolution(ctx context.Context, step *labs.Step) error {
	if err := o.ensureKubeconfig(ctx); err != nil {
		return err
	}
	bin, err := o.linkTools()
	if err != nil {
		return err
	}
	output, err := session.RunScript(ctx, o.ownKubeconfig(), bin, step.Solution)
	fmt.Fprint(o.Out, output)
	var ended *session.ScriptError
	if errors.As(err, &ended) {
		return fmt.Errorf("the solution of step %s ended with status %d", step.ID, ended.Status)
	}
	if err != nil {
		return fmt.Errorf("solution of step %s: %w", step.ID, err)
	}
	o.err.Printf("The solution of step %s has run. Next: ropes %scheck\n", step.ID, o.nameFlag())
	return nil
}
