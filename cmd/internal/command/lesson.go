package command

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/ropes-dev/ropes/labs"
	"github.com/ropes-dev/ropes/labs/session"
	"github.com/spf13/cobra"
)

// lesson is what the lab commands work on: the labs and the learner's session.
type lesson struct {
	*Deps
	catalog labs.Catalog
	session Session
	on      bootstrap.Cluster // zero where the session can only be read
}

// open loads the labs and opens the session. Without live the session can only be read.
func (d *Deps) open(ctx context.Context, live bool, obs session.Observer) (*lesson, error) {
	catalog, err := d.Labs(d.labDirs)
	if err != nil {
		return nil, err
	}
	l := &lesson{Deps: d, catalog: catalog}
	if live {
		if l.on, err = d.running(ctx); err != nil {
			return nil, err
		}
	}
	l.session, err = d.Session(session.Options{
		Cluster: d.cluster, Kubeconfig: l.on.Kubeconfig, StateDir: filepath.Join(StateDir(d.Getenv), "progress"),
		Adopt: !l.on.Shared, Labs: catalog, Log: d.Log, Observer: obs,
	})
	if err != nil {
		return nil, l.explain(err)
	}
	return l, nil
}

// narrator tells what a session is doing, as progress.
func (d *Deps) narrator() session.Observer {
	return session.ObserverFunc(func(e session.Event) {
		if e.Kind == session.Progressing {
			d.err.Printf("%s\n", d.err.Paint(term.Dim, e.Detail))
		}
	})
}

// explain adds to a session's error what the learner can do, unless the error says so itself.
func (l *lesson) explain(err error) error {
	if strings.Contains(err.Error(), "`ropes ") {
		return err
	}
	ropes := "ropes " + l.nameFlag()
	for _, known := range []struct {
		is   error
		mend string
	}{
		{session.ErrNoLab, "try: " + ropes + "labs, then " + ropes + "start LAB"},
		{session.ErrForeign, "rename or remove that namespace, then start the lab again"},
		{session.ErrNeed, "try: " + ropes + "status, then " + ropes + "up to put in what is missing"},
		{session.ErrCluster, "try: " + ropes + "status, then " + ropes + "up, which resumes a cluster that stopped; your progress is kept"},
		{session.ErrNotAtRest, "try: " + ropes + "reset again, or a wider scope: lab, cluster"},
		{session.ErrNoSnapshot, "try: " + ropes + "reset cluster, then start the lab again"},
	} {
		if errors.Is(err, known.is) {
			return &failure{error: err, mend: known.mend}
		}
	}
	return err
}

// current returns the lab under way and its current step, nil where all are met.
func (l *lesson) current() (*labs.Lab, *labs.Step, error) {
	lab, step, err := l.session.Current()
	if err != nil {
		return nil, nil, l.explain(err)
	}
	return lab, step, nil
}

// lab finds a lab by id.
func (l *lesson) lab(id string) (*labs.Lab, error) {
	if lab, ok := l.catalog.Lab(id); ok {
		return lab, nil
	}
	var ids []string
	for _, lab := range l.catalog {
		ids = append(ids, lab.ID)
	}
	return nil, usagef("there is no lab called %q%s; ropes labs lists them", id, didYouMean(id, ids))
}

// step finds a step of lab by id or number.
func (l *lesson) step(lab *labs.Lab, word string) (*labs.Step, error) {
	if s, ok := lab.Step(word); ok {
		return s, nil
	}
	if n, err := strconv.Atoi(word); err == nil && n >= 1 && n <= len(lab.Steps) {
		return &lab.Steps[n-1], nil
	}
	var ids []string
	for _, s := range lab.Steps {
		ids = append(ids, s.ID)
	}
	return nil, usagef("lab %s has no step %q%s; its steps: %s", lab.ID, word, didYouMean(word, ids), strings.Join(ids, ", "))
}

// stepOr finds the step that word names, or the current one where it is empty. The step is
// nil where all are met and none was named.
func (l *lesson) stepOr(word string) (*labs.Lab, *labs.Step, error) {
	lab, step, err := l.current()
	if err == nil && word != "" {
		step, err = l.step(lab, word)
	}
	return lab, step, err
}

// number is the place of a step in its lab, from 1.
func number(lab *labs.Lab, step *labs.Step) int {
	for i := range lab.Steps {
		if lab.Steps[i].ID == step.ID {
			return i + 1
		}
	}
	return 0
}

// description is the author's words for a check.
func description(step *labs.Step, check string) string {
	for i := range step.Checks {
		if step.Checks[i].ID == check {
			return step.Checks[i].Description
		}
	}
	return check
}

// StepView is a step as commands print it with -o json.
type StepView struct {
	Lab    string `json:"lab"`
	ID     string `json:"id"`
	Title  string `json:"title"`
	Number int    `json:"number"` // from 1
	Of     int    `json:"of"`
	Text   string `json:"text,omitempty"` // Markdown
}

func viewOf(lab *labs.Lab, step *labs.Step) *StepView {
	if step == nil {
		return nil
	}
	return &StepView{Lab: lab.ID, ID: step.ID, Title: step.Title, Number: number(lab, step), Of: len(lab.Steps), Text: step.Text}
}

// printStep shows what the step asks for and how to go on.
func (l *lesson) printStep(lab *labs.Lab, step *labs.Step) {
	head := fmt.Sprintf("Lab %s, step %d of %d: %s", lab.ID, number(lab, step), len(lab.Steps), step.ID)
	l.out.Printf("%s\n\n", l.out.Paint(term.Dim, head))
	l.out.Markdown(step.Text)
}

// printGoOn says what to type next.
func (l *lesson) printGoOn() {
	ropes := "ropes " + l.nameFlag()
	l.out.Printf("\n%s\n", l.out.Paint(term.Dim, fmt.Sprintf("%swatch grades live, %scheck grades once, %shint helps, %sshell has kubectl and istioctl.", ropes, ropes, ropes, ropes)))
}

func (l *lesson) printLabMet(lab *labs.Lab) {
	l.out.Printf("%s\n", l.out.Paint(term.Green, fmt.Sprintf("Lab %s: all %s met.", lab.ID, count(len(lab.Steps), "step"))))
	l.out.Printf("ropes %slabs shows what else there is.\n", l.nameFlag())
}

// LabStatus is how far the learner is in a lab.
type LabStatus struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Step  string `json:"step,omitempty"` // current; empty when all are met
	Met   int    `json:"met"`
	Steps int    `json:"steps"`
}

// labUnderWay returns the lab under way, nil where there is none or it cannot be told: a
// broken lab must not keep a learner from seeing the cluster.
func (d *Deps) labUnderWay(ctx context.Context) *LabStatus {
	l, err := d.open(ctx, false, nil)
	if err != nil {
		d.Log.Warn("read progress", "error", err)
		return nil
	}
	p, err := l.session.Progress()
	if err != nil {
		return nil
	}
	lab, ok := l.catalog.Lab(p.Lab)
	if !ok {
		return nil
	}
	s := &LabStatus{ID: lab.ID, Title: lab.Title, Steps: len(lab.Steps)}
	if lp := p.Labs[lab.ID]; lp != nil {
		s.Step = lp.Step
		s.Met = metSteps(lp)
	}
	return s
}

func metSteps(lp *session.LabProgress) int {
	n := 0
	if lp != nil {
		for _, s := range lp.Steps {
			if s != nil && s.Met != nil {
				n++
			}
		}
	}
	return n
}

// outcome is the exit code of verdicts: unmet weighs more than what could not be run.
func outcome(verdicts []checks.Verdict) error {
	code := exitOK
	for _, v := range verdicts {
		switch v.State {
		case checks.Unmet:
			return exitStatus(exitUnmet)
		case checks.CouldNotRun:
			code = exitFailure
		}
	}
	if code != exitOK {
		return exitStatus(code)
	}
	return nil
}

// completeSteps offers the ids of the steps of the lab under way.
func (d *Deps) completeSteps(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	l, err := d.open(cmd.Context(), false, nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	lab, _, err := l.session.Current()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, s := range lab.Steps {
		ids = append(ids, cobra.CompletionWithDesc(s.ID, s.Title))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// completeLabs offers the ids of all labs.
func (d *Deps) completeLabs(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	catalog, err := d.Labs(d.labDirs)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, lab := range catalog {
		ids = append(ids, cobra.CompletionWithDesc(lab.ID, lab.Title))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// title is a step's line above its verdicts.
func title(lab *labs.Lab, step *labs.Step) string {
	return fmt.Sprintf("Step %d of %d, %s: %s", number(lab, step), len(lab.Steps), step.ID, step.Title)
}
