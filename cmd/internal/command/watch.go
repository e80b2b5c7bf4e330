package command

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/ropes-dev/ropes/labs"
	"github.com/ropes-dev/ropes/labs/session"
	"github.com/spf13/cobra"
)

type watchOptions struct {
	*Deps
	output format
}

func newWatchCmd(d *Deps) *cobra.Command {
	o := &watchOptions{Deps: d}
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Grade while you work, step after step",
		Long: `Grades the current step again whenever something changes in the cluster, and goes on
with the next one until the lab is done or you press Ctrl-C.
With -o json every event is one line of JSON.`,
		Args: atMost(0),
		RunE: d.run(func(ctx context.Context) error { return runWatch(ctx, o) }),
	}
	outputFlag(cmd, &o.output)
	return cmd
}

func runWatch(ctx context.Context, o *watchOptions) error {
	reading, err := o.open(ctx, false, nil)
	if err != nil {
		return err
	}
	lab, step, err := reading.current()
	if err != nil {
		return err
	}
	if step == nil {
		if o.output == formatText {
			reading.printLabMet(lab)
		}
		return nil
	}
	w := &watcher{lesson: reading, lab: lab, step: step, said: map[string]string{}}
	var obs session.Observer = w
	if o.output == formatJSON {
		enc := json.NewEncoder(o.Out)
		obs = session.ObserverFunc(func(e session.Event) {
			if err := enc.Encode(e); err != nil {
				o.Log.Warn("write event", "error", err)
			}
		})
	}
	l, err := o.open(ctx, true, obs)
	if err != nil {
		return err
	}
	if o.output == formatText {
		w.printStep(lab, step)
		w.err.Printf("\n%s\n\n", w.err.Paint(term.Dim, "Watching; do the step in another terminal (ropes "+o.nameFlag()+"shell). Ctrl-C ends."))
	}
	if err := l.session.Watch(ctx); err != nil {
		return l.explain(err)
	}
	return context.Cause(ctx) // nil where the lab is met
}

// watcher shows the events of a session. A verdict is shown when it says something new.
type watcher struct {
	*lesson
	lab  *labs.Lab
	step *labs.Step
	said map[string]string // by check
}

// Session implements session.Observer.
func (w *watcher) Session(e session.Event) {
	switch e.Kind {
	case session.VerdictGiven:
		w.verdict(*e.Verdict)
	case session.StepStarted:
		step, ok := w.lab.Step(e.Step)
		if !ok || step.ID == w.step.ID {
			return
		}
		w.step = step
		clear(w.said)
		w.printStep(w.lab, step)
		w.out.Printf("\n")
	case session.StepMet:
		w.out.Printf("\n%s\n\n", w.out.Paint(term.Green, "Step "+e.Step+" is met."))
	case session.LabMet:
		w.printLabMet(w.lab)
	case session.Progressing:
		w.err.Printf("%s\n", w.err.Paint(term.Dim, e.Detail))
	}
}

func (w *watcher) verdict(v checks.Verdict) {
	if v.Step != "" && v.Step != w.step.ID {
		return
	}
	news := strings.Join([]string{string(v.State), v.Got, v.Why, v.Mistake}, "\x00")
	if w.said[v.Check] == news {
		return
	}
	w.said[v.Check] = news
	w.out.Verdict(v, description(w.step, v.Check))
}
