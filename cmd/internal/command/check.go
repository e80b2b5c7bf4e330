package command

import (
	"context"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/ropes-dev/ropes/labs"
	"github.com/spf13/cobra"
)

type checkOptions struct {
	*Deps
	step   string
	all    bool
	output format
}

// CheckReport is what `ropes check -o json` prints.
type CheckReport struct {
	Lab   string       `json:"lab"`
	Met   bool         `json:"met"` // all steps that were graded
	Steps []StepReport `json:"steps"`
	Next  *StepView    `json:"next,omitempty"` // the current step now; absent when all are met
}

// StepReport is the grade of one step.
type StepReport struct {
	ID       string           `json:"id"`
	Title    string           `json:"title"`
	Met      bool             `json:"met"`
	Verdicts []checks.Verdict `json:"verdicts"`
}

func newCheckCmd(d *Deps) *cobra.Command {
	o := &checkOptions{Deps: d}
	cmd := &cobra.Command{
		Use:   "check [STEP]",
		Short: "Grade the current step, or STEP, once",
		Long: `Grades the current step, or the step with that id or number, against the live cluster.
The exit code is 0 where it is met, 3 where it is not, 1 where it could not be told.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.step = args[0]
			}
			return atMost(1)(nil, args)
		},
		RunE:              d.run(func(ctx context.Context) error { return runCheck(ctx, o) }),
		ValidArgsFunction: d.completeSteps,
	}
	cmd.Flags().BoolVar(&o.all, "all", false, "grade all steps of the lab")
	outputFlag(cmd, &o.output)
	return cmd
}

func runCheck(ctx context.Context, o *checkOptions) error {
	if o.all && o.step != "" {
		return usagef("--all and a step do not go together")
	}
	steps, lab, err := o.steps(ctx)
	if err != nil {
		return err
	}
	l, err := o.open(ctx, true, o.narrator())
	if err != nil {
		return err
	}
	report := CheckReport{Lab: lab.ID, Met: true, Steps: []StepReport{}}
	var all []checks.Verdict
	for _, s := range steps {
		verdicts, err := l.session.Check(ctx, s.ID)
		if err != nil {
			return l.explain(err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		met := checks.AllMet(verdicts)
		report.Met = report.Met && met
		report.Steps = append(report.Steps, StepReport{ID: s.ID, Title: s.Title, Met: met, Verdicts: append([]checks.Verdict{}, verdicts...)})
		all = append(all, verdicts...)
		if o.output == formatText {
			l.printVerdicts(lab, s, verdicts)
		}
	}
	_, next, err := l.current()
	if err != nil {
		return err
	}
	report.Next = viewOf(lab, next)
	if o.output == formatJSON {
		if err := o.printJSON(report); err != nil {
			return err
		}
	} else {
		o.printAfter(l, lab, steps, next, report.Met)
	}
	return outcome(all)
}

// steps are those to be graded: known before the cluster is asked, so that a wrong name
// or a lab that was not started is told without one.
func (o *checkOptions) steps(ctx context.Context) ([]*labs.Step, *labs.Lab, error) {
	l, err := o.open(ctx, false, nil)
	if err != nil {
		return nil, nil, err
	}
	lab, step, err := l.stepOr(o.step)
	if err != nil {
		return nil, nil, err
	}
	if step != nil && !o.all {
		return []*labs.Step{step}, lab, nil
	}
	var steps []*labs.Step // where all are met, check looks whether they still are
	for i := range lab.Steps {
		steps = append(steps, &lab.Steps[i])
	}
	return steps, lab, nil
}

func (l *lesson) printVerdicts(lab *labs.Lab, step *labs.Step, verdicts []checks.Verdict) {
	l.out.Printf("%s\n", l.out.Paint(term.Bold, title(lab, step)))
	for _, v := range verdicts {
		l.out.Verdict(v, description(step, v.Check))
	}
	l.out.Printf("\n")
}

func (o *checkOptions) printAfter(l *lesson, lab *labs.Lab, graded []*labs.Step, next *labs.Step, met bool) {
	ropes := "ropes " + o.nameFlag()
	switch {
	case !met:
		l.out.Printf("Not met yet. %shint helps, %swatch grades while you work.\n", ropes, ropes)
	case next == nil:
		l.printLabMet(lab)
	case len(graded) == 1 && number(lab, next) <= number(lab, graded[0]):
		l.out.Printf("Met. You are at step %d, %s.\n", number(lab, next), next.ID)
	default:
		l.out.Printf("%s\n\n", l.out.Paint(term.Green, "Met."))
		l.printStep(lab, next)
		l.printGoOn()
	}
}
