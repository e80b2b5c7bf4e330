package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

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
	if err := o.script(ctx, step.Solution); err != nil {
		return fmt.Errorf("solution of step %s: %w", step.ID, err)
	}
	o.err.Printf("The solution of step %s has run. Next: ropes %scheck\n", step.ID, o.nameFlag())
	return nil
}

// killDelay is what a script gets for ending after it was told to.
const killDelay = 3 * time.Second

// script runs a lab's script as labs/FORMAT.md has it.
func (d *Deps) script(ctx context.Context, text string) error {
	env, err := d.toolEnv(ctx)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(d.clusterDir(), "script-*.sh")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "sh", "-eu", f.Name())
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = killDelay
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = d.Out, d.Err
	return cmd.Run()
}
