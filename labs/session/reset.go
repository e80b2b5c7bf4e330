package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/labs"
)

// Reset brings the current step, the current lab, or the cluster (all labs that were started)
// back to its recorded baseline and proves it by comparing the digests of all objects. The
// error wraps ErrNotAtRest where that did not come about in time; progress is then as before.
func (s *Session) Reset(ctx context.Context, scope Scope) (ResetReport, error) {
	var rep ResetReport
	err := s.exclusively(ctx, func() error {
		r, err := s.reach(ctx)
		if err != nil {
			return err
		}
		switch scope {
		case ScopeStep:
			rep, err = s.resetStep(ctx, r)
		case ScopeLab:
			rep, err = s.resetLab(ctx, r)
		case ScopeCluster:
			rep, err = s.resetCluster(ctx, r)
		default:
			err = fmt.Errorf("reset %q: want %s, %s or %s", scope, ScopeStep, ScopeLab, ScopeCluster)
		}
		if err != nil {
			return err
		}
		rep.Scope = scope
		s.tell(Event{Kind: ResetDone, Scope: scope, Lab: rep.Lab, Reset: &rep})
		return nil
	})
	return rep, err
}

func (s *Session) resetStep(ctx context.Context, r *checks.Runner) (ResetReport, error) {
	lab, step, err := s.Current()
	if err != nil {
		return ResetReport{}, err
	}
	if step == nil {
		return ResetReport{}, fmt.Errorf("%w: all steps of lab %s are met; `ropes reset lab` starts it again", ErrNoSnapshot, lab.ID)
	}
	return s.restore(ctx, r, ScopeStep, lab, stepKey(lab.ID, step.ID))
}

func (s *Session) resetLab(ctx context.Context, r *checks.Runner) (ResetReport, error) {
	p, err := s.store.progress()
	if err != nil {
		return ResetReport{}, err
	}
	if p.Lab == "" {
		return ResetReport{}, ErrNoLab
	}
	lab, err := s.lab(p.Lab)
	if err != nil {
		return ResetReport{}, err
	}
	rep, err := s.restore(ctx, r, ScopeLab, lab, labKey(lab.ID))
	if err != nil {
		return rep, err
	}
	p.Labs[lab.ID] = firstStep(lab)
	if err := s.store.saveProgress(p); err != nil {
		return rep, err
	}
	s.tell(Event{Kind: StepStarted, Lab: lab.ID, Step: lab.Steps[0].ID})
	return rep, nil
}

func (s *Session) restore(ctx context.Context, r *checks.Runner, scope Scope, lab *labs.Lab, key string) (ResetReport, error) {
	snap, err := s.store.snapshot(key)
	if err != nil {
		return ResetReport{}, err
	}
	s.tell(Event{Kind: ResetStarted, Scope: scope, Lab: lab.ID})
	return s.inventorist(r, lab).restore(ctx, snap, func(d string) { s.progressing(lab.ID, "%s", d) })
}

// resetCluster takes every started lab off the cluster: the cluster's baseline is that no
// lab has begun. On a cluster of ropes' own that goes for all known labs.
func (s *Session) resetCluster(ctx context.Context, r *checks.Runner) (ResetReport, error) {
	p, err := s.store.progress()
	if err != nil {
		return ResetReport{}, err
	}
	ids := slices.Sorted(maps.Keys(p.Labs))
	if s.opts.Adopt {
		for _, l := range s.opts.Labs {
			if !slices.Contains(ids, l.ID) {
				ids = append(ids, l.ID)
			}
		}
	}
	start := time.Now()
	rep := ResetReport{Deleted: []string{}, Restored: []string{}, Digest: emptySnapshot().Digest}
	s.tell(Event{Kind: ResetStarted, Scope: ScopeCluster})
	var errs []error
	for _, id := range ids {
		lab, err := s.lab(id)
		if err != nil {
			errs = append(errs, err) // an author's lab that is not loaded now
			continue
		}
		one, err := s.inventorist(r, lab).restore(ctx, emptySnapshot(), func(d string) { s.progressing(id, "%s", d) })
		if err == nil {
			err = s.store.forget(id)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		delete(p.Labs, id)
		rep.Deleted = append(rep.Deleted, one.Deleted...)
	}
	if p.Labs[p.Lab] == nil {
		p.Lab = ""
	}
	rep.Took = time.Since(start)
	return rep, errors.Join(append(errs, s.store.saveProgress(p))...)
}
