// Package prove shows on a live cluster that the checks of labs are worth something: for
// every step the fresh state is unmet, every known mistake gets its own diagnosis, and the
// solution is met. It knows labs and sessions as a learner has them and nothing of clusters.
package prove

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/labs"
	"github.com/ropes-dev/ropes/labs/session"
)

// Options say what is proved, and where.
type Options struct {
	Cluster    string
	Kubeconfig string // path of a file whose current context is the cluster
	ToolDir    string // holds kubectl and istioctl, for the scripts
	StateDir   string // of the proof alone, never a learner's
	Labs       labs.Catalog
	Foreign    bool         // the cluster is somebody else's, see session.Options.Adopt
	Steps      []string     // LAB or LAB/STEP to prove, all where empty; earlier steps of a lab are solved all the same
	Together   int          // how many labs are proved at a time; they share the cluster and nothing else. 0 is 1.
	Log        *slog.Logger // nil discards
	Observe    func(Event)  // nil discards; called from one goroutine at a time
	Deadline   time.Duration
}

// DefaultDeadline bounds the wait for one expected verdict: pods have to start, data planes
// have to follow.
const DefaultDeadline = 90 * time.Second

const pollEvery = 250 * time.Millisecond

// Event is one thing that was proved or not.
type Event struct {
	Lab, Step string
	What      string        // "start", "fresh", "mistake ID", "reset step", "solution", "reset lab"
	Err       error         // nil where it is proved
	Took      time.Duration // until the expected verdict, or the reset
}

// Report counts what was proved.
type Report struct {
	Steps       int             `json:"steps"`
	FreshUnmet  int             `json:"freshUnmet"`
	SolutionMet int             `json:"solutionMet"`
	Mistakes    int             `json:"mistakes"`
	Diagnosed   int             `json:"diagnosed"`
	StepResets  []time.Duration `json:"stepResets"` // one after each mistake
	LabResets   []time.Duration `json:"labResets"`  // one of each lab in its solved state
}

func (r Report) String() string {
	return fmt.Sprintf("%d steps: fresh unmet %d, solution met %d, mistakes diagnosed %d of %d",
		r.Steps, r.FreshUnmet, r.SolutionMet, r.Diagnosed, r.Mistakes)
}

// Proved tells whether everything that was tried came out as it has to.
func (r Report) Proved() bool {
	return r.Steps > 0 && r.FreshUnmet == r.Steps && r.SolutionMet == r.Steps && r.Diagnosed == r.Mistakes
}

// prover proves one lab at a time.
type prover struct {
	opts    Options
	session *session.Session
	report  Report
	met     chan string // ids of steps, as Watch finds them met
	errs    []error
}

// Run proves the labs and takes each off the cluster again. The error joins all that was
// not proved; a lab whose step cannot be solved ends there.
func Run(ctx context.Context, opts Options) (Report, error) {
	if opts.Deadline == 0 {
		opts.Deadline = DefaultDeadline
	}
	if opts.Observe == nil {
		opts.Observe = func(Event) {}
	}
	kubeconfig, err := os.ReadFile(opts.Kubeconfig)
	if err != nil {
		return Report{}, fmt.Errorf("prove labs: %w", err)
	}
	var mu sync.Mutex
	tell := opts.Observe
	opts.Observe = func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		tell(e)
	}
	var provers []*prover
	var g errgroup.Group
	g.SetLimit(max(opts.Together, 1))
	for _, lab := range opts.Labs {
		p := &prover{opts: opts}
		if !p.wanted(lab.ID, "") {
			continue
		}
		provers = append(provers, p)
		g.Go(func() error { return p.run(ctx, lab, kubeconfig) })
	}
	err = g.Wait()
	var rep Report
	errs := []error{err}
	for _, p := range provers {
		rep.add(p.report)
		errs = append(errs, p.errs...)
	}
	return rep, errors.Join(errs...)
}

// run proves one lab with a session that knows no other: resetting the cluster is then
// resetting what is the lab's.
func (p *prover) run(ctx context.Context, lab *labs.Lab, kubeconfig []byte) (err error) {
	p.session, err = session.Open(session.Options{
		Cluster: p.opts.Cluster, Kubeconfig: kubeconfig, StateDir: filepath.Join(p.opts.StateDir, lab.ID),
		Labs: labs.Catalog{lab}, Adopt: !p.opts.Foreign, Log: p.opts.Log,
		Observer: session.ObserverFunc(func(e session.Event) {
			if p.met != nil && e.Kind == session.StepMet {
				p.met <- e.Step
			}
		}),
	})
	if err != nil {
		return err
	}
	p.lab(ctx, lab)
	return nil
}

func (r *Report) add(o Report) {
	r.Steps += o.Steps
	r.FreshUnmet += o.FreshUnmet
	r.SolutionMet += o.SolutionMet
	r.Mistakes += o.Mistakes
	r.Diagnosed += o.Diagnosed
	r.StepResets = append(r.StepResets, o.StepResets...)
	r.LabResets = append(r.LabResets, o.LabResets...)
}

// wanted tells whether a lab (step "") or a step is to be proved.
func (p *prover) wanted(lab, step string) bool {
	if len(p.opts.Steps) == 0 || slices.Contains(p.opts.Steps, lab) {
		return true
	}
	if step != "" {
		return slices.Contains(p.opts.Steps, lab+"/"+step)
	}
	l, _ := p.opts.Labs.Lab(lab)
	return slices.ContainsFunc(l.Steps, func(s labs.Step) bool { return p.wanted(lab, s.ID) })
}

// try runs fn, observes how it came out and keeps the error.
func (p *prover) try(lab, step, what string, fn func() error) bool {
	start := time.Now()
	err := fn()
	if err != nil {
		err = fmt.Errorf("%s/%s: %s: %w", lab, step, what, err)
		p.errs = append(p.errs, err)
	}
	p.opts.Observe(Event{Lab: lab, Step: step, What: what, Err: err, Took: time.Since(start)})
	return err == nil
}

func (p *prover) lab(ctx context.Context, lab *labs.Lab) {
	ok := p.try(lab.ID, "", "start", func() error { return p.session.Start(ctx, lab.ID) })
	for i := range lab.Steps {
		if !ok || ctx.Err() != nil {
			break
		}
		step := &lab.Steps[i]
		if !p.wanted(lab.ID, step.ID) {
			if !slices.ContainsFunc(lab.Steps[i:], func(s labs.Step) bool { return p.wanted(lab.ID, s.ID) }) {
				break
			}
			ok = p.try(lab.ID, step.ID, "solution", func() error { return p.solve(ctx, lab, step) })
			continue
		}
		ok = p.step(ctx, lab, step)
	}
	if ok {
		p.try(lab.ID, "", "reset lab", func() error {
			rep, err := p.session.Reset(ctx, session.ScopeLab)
			if err == nil {
				p.report.LabResets = append(p.report.LabResets, rep.Took)
			}
			return err
		})
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.opts.Deadline)
	defer cancel()
	p.try(lab.ID, "", "reset cluster", func() error {
		_, err := p.session.Reset(ctx, session.ScopeCluster)
		return err
	})
}

// step proves one step and tells whether the lab can go on.
func (p *prover) step(ctx context.Context, lab *labs.Lab, step *labs.Step) bool {
	p.report.Steps++
	if p.try(lab.ID, step.ID, "fresh", func() error { return p.until(ctx, step, fresh) }) {
		p.report.FreshUnmet++
	}
	for _, m := range step.Mistakes {
		p.report.Mistakes++
		if p.try(lab.ID, step.ID, "mistake "+m.Mistake, func() error { return p.mistake(ctx, step, m) }) {
			p.report.Diagnosed++
		}
		ok := p.try(lab.ID, step.ID, "reset step", func() error {
			rep, err := p.session.Reset(ctx, session.ScopeStep)
			if err != nil {
				return err
			}
			p.report.StepResets = append(p.report.StepResets, rep.Took)
			return p.until(ctx, step, fresh)
		})
		if !ok {
			return false
		}
	}
	if !p.try(lab.ID, step.ID, "solution", func() error { return p.solve(ctx, lab, step) }) {
		return false
	}
	p.report.SolutionMet++
	return true
}

func (p *prover) mistake(ctx context.Context, step *labs.Step, m labs.Script) error {
	if err := p.script(ctx, m.Body); err != nil {
		return err
	}
	return p.until(ctx, step, func(vs []checks.Verdict) error {
		if checks.AllMet(vs) {
			return errors.New("the step is met")
		}
		for _, v := range vs {
			if v.Check == m.Check && v.State == checks.Unmet && v.Mistake == m.Mistake {
				return nil
			}
		}
		return fmt.Errorf("check %s does not name it", m.Check)
	})
}

// solve runs the solution under the eyes of a live Watch, which has to see the step met.
func (p *prover) solve(ctx context.Context, lab *labs.Lab, step *labs.Step) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.opts.Deadline, errors.New("not met in time"))
	defer cancel()
	p.met = make(chan string, len(lab.Steps))
	watched := make(chan error, 1)
	go func() { watched <- p.session.Watch(ctx) }()
	err := p.script(ctx, step.Solution)
	if err == nil {
		select {
		case <-p.met:
		case <-ctx.Done():
		}
	}
	cancel()
	err = errors.Join(err, <-watched)
	prog, perr := p.session.Progress()
	if err = errors.Join(err, perr); err == nil && !prog.Labs[lab.ID].IsMet(step.ID) {
		err = context.Cause(ctx)
	}
	if err == nil {
		return nil
	}
	vs, gerr := p.session.Grade(context.WithoutCancel(ctx), step.ID)
	return errors.Join(err, gerr, describe(vs))
}

func (p *prover) script(ctx context.Context, body string) error {
	_, err := session.RunScript(ctx, p.opts.Kubeconfig, p.opts.ToolDir, body)
	return err
}

// fresh is what the verdicts of a step have to be before anything was done for it.
func fresh(vs []checks.Verdict) error {
	if checks.AllMet(vs) {
		return errors.New("the step is met with nothing done")
	}
	for _, v := range vs {
		if v.State == checks.CouldNotRun {
			return errors.New("a check could not run")
		}
	}
	return nil
}

// until grades a step until want is content with the verdicts.
func (p *prover) until(ctx context.Context, step *labs.Step, want func([]checks.Verdict) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.opts.Deadline)
	defer cancel()
	var last error // of a run that was not broken off by the deadline
	for {
		vs, err := p.session.Grade(ctx, step.ID)
		if err == nil {
			err = want(vs)
		}
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = errors.Join(err, describe(vs))
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(pollEvery):
		}
	}
}

// describe puts verdicts into an error, for whoever has to mend the lab.
func describe(vs []checks.Verdict) error {
	var errs []error
	for _, v := range vs {
		errs = append(errs, fmt.Errorf("  %s: %s mistake=%q got=%q why=%q", v.Check, v.State, v.Mistake, v.Got, v.Why))
	}
	return errors.Join(errs...)
}
