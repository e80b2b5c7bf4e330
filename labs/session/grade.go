package session

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/labs"
)

// A learner checks right after an action, and a data plane may lag behind the objects: an
// unmet check with a network probe is asked again until settleFor has passed.
const (
	settleFor  = 2 * time.Second
	settlePoll = 400 * time.Millisecond
	reload     = 500 * time.Millisecond // how often Watch looks whether another process moved on
)

// Grade judges a step now, without any effect on progress. A cluster that cannot be reached
// gives verdicts that could not run.
func (s *Session) Grade(ctx context.Context, id string) ([]checks.Verdict, error) {
	_, step, err := s.Find(id)
	if err != nil {
		return nil, err
	}
	r, err := s.connect()
	if err != nil {
		return nil, err
	}
	return r.Run(ctx, step.ID, step.Checks, checks.Discard), nil
}

// Check judges a step now. When the current step is met, the next one becomes current.
func (s *Session) Check(ctx context.Context, id string) ([]checks.Verdict, error) {
	if _, err := s.reach(ctx); err != nil && !errors.Is(err, ErrCluster) {
		return nil, err
	}
	lab, step, err := s.Find(id)
	if err != nil {
		return nil, err
	}
	r, err := s.connect()
	if err != nil {
		return nil, err
	}
	vs := s.settled(ctx, r, step)
	for _, v := range vs {
		s.tell(Event{Kind: VerdictGiven, Lab: lab.ID, Step: step.ID, Verdict: &v})
	}
	if checks.AllMet(vs) {
		err = s.advance(ctx, r, lab, step)
	}
	return vs, err
}

func (s *Session) settled(ctx context.Context, r *checks.Runner, step *labs.Step) []checks.Verdict {
	deadline := time.Now().Add(settleFor)
	for {
		vs := r.Run(ctx, step.ID, step.Checks, checks.Discard)
		again := false
		for i, v := range vs {
			again = again || v.State == checks.Unmet && step.Checks[i].Live()
		}
		if !again || !time.Now().Before(deadline) {
			return vs
		}
		select {
		case <-ctx.Done():
			return vs
		case <-time.After(settlePoll):
		}
	}
}

// Watch grades the current step live and goes on with the next when it is met, until the lab
// is met or ctx ends; both return nil. Each change of a verdict is told as an event.
func (s *Session) Watch(ctx context.Context) error {
	if _, err := s.reach(ctx); err != nil {
		return err
	}
	r, err := s.connect()
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		lab, step, err := s.Current()
		if err != nil {
			return err
		}
		if step == nil {
			s.tell(Event{Kind: LabMet, Lab: lab.ID})
			return nil
		}
		s.tell(Event{Kind: StepStarted, Lab: lab.ID, Step: step.ID})
		if err := s.watchStep(ctx, r, lab, step); err != nil {
			return err
		}
	}
	return nil
}

// watchStep returns when the step is met, when another process made another one current, or
// when ctx ends.
func (s *Session) watchStep(ctx context.Context, r *checks.Runner, lab *labs.Lab, step *labs.Step) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	allMet := make(chan struct{}, 1)
	last := map[string]checks.State{}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Watch(ctx, step.ID, step.Checks, checks.ObserverFunc(func(v checks.Verdict) {
			s.tell(Event{Kind: VerdictGiven, Lab: lab.ID, Step: step.ID, Verdict: &v})
			last[v.Check] = v.State
			if slices.ContainsFunc(step.Checks, func(c checks.Check) bool { return last[c.ID] != checks.Met }) {
				return
			}
			select {
			case allMet <- struct{}{}:
			default:
			}
		}))
	}()
	defer func() { cancel(); <-ended }()
	t := time.NewTicker(reload)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-allMet:
			// The verdicts are of different moments: only all of them at once will do.
			if !checks.AllMet(r.Run(ctx, step.ID, step.Checks, checks.Discard)) {
				continue
			}
			return s.advance(ctx, r, lab, step)
		case <-t.C:
			nowLab, nowStep, err := s.Current()
			if err != nil {
				return err
			}
			if nowLab != lab || nowStep != step {
				return nil
			}
		}
	}
}
