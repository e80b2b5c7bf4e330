package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/checks/probe"
	"github.com/ropes-dev/ropes/labs"
)

// Session is one learner's way through the labs on one cluster. Several processes may hold
// sessions on the same cluster at a time; what they change, they change one after another.
// A step given as "" is the current one.
type Session struct {
	opts  Options
	store store

	tellMu  sync.Mutex // one event at a time
	connect func() (*checks.Runner, error)
}

// Open makes a session; it reads no state and asks nothing of the cluster yet.
func Open(opts Options) (*Session, error) {
	if opts.StateDir == "" {
		dir, err := DefaultStateDir()
		if err != nil {
			return nil, err
		}
		opts.StateDir = dir
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Observer == nil {
		opts.Observer = ObserverFunc(func(Event) {})
	}
	s := &Session{opts: opts, store: store{filepath.Join(opts.StateDir, opts.Cluster, "labs")}}
	s.connect = sync.OnceValues(func() (*checks.Runner, error) {
		c, err := checks.ConnectKubeconfig(opts.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCluster, err)
		}
		return &checks.Runner{Cluster: c, Prober: probe.New(c), Log: opts.Log}, nil
	})
	return s, nil
}

func (s *Session) tell(e Event) {
	s.tellMu.Lock()
	defer s.tellMu.Unlock()
	s.opts.Observer.Session(e)
}

func (s *Session) progressing(lab, format string, args ...any) {
	s.tell(Event{Kind: Progressing, Lab: lab, Detail: fmt.Sprintf(format, args...)})
}

// Progress reads what is stored; it needs no cluster.
func (s *Session) Progress() (Progress, error) {
	p, err := s.store.progress()
	if err != nil {
		return p, err
	}
	p.Cluster = s.opts.Cluster
	return p, nil
}

// Current returns the current lab and step: ErrNoLab before Start, a nil step when all are met.
func (s *Session) Current() (*labs.Lab, *labs.Step, error) {
	p, err := s.store.progress()
	if err != nil {
		return nil, nil, err
	}
	return s.current(p)
}

func (s *Session) current(p Progress) (*labs.Lab, *labs.Step, error) {
	if p.Lab == "" || p.Labs[p.Lab] == nil {
		return nil, nil, fmt.Errorf("%w; `ropes labs` lists them, `ropes start LAB` starts one", ErrNoLab)
	}
	lab, err := s.lab(p.Lab)
	if err != nil {
		return nil, nil, err
	}
	id := p.Labs[p.Lab].Step
	if id == "" {
		return lab, nil, nil
	}
	step, ok := lab.Step(id)
	if !ok { // the lab was changed since
		return nil, nil, fmt.Errorf("%w: lab %s has no step %q any more; `ropes reset lab` starts it again", ErrUnknown, lab.ID, id)
	}
	return lab, step, nil
}

func (s *Session) lab(id string) (*labs.Lab, error) {
	lab, ok := s.opts.Labs.Lab(id)
	if !ok {
		var known []string
		for _, l := range s.opts.Labs {
			known = append(known, l.ID)
		}
		return nil, fmt.Errorf("%w: lab %q; known are %s", ErrUnknown, id, strings.Join(known, ", "))
	}
	return lab, nil
}

// Find returns a step of the current lab; "" is the current one, or the last where all are met.
func (s *Session) Find(id string) (*labs.Lab, *labs.Step, error) {
	lab, step, err := s.Current()
	if err != nil {
		return nil, nil, err
	}
	if id == "" {
		if step == nil {
			step = &lab.Steps[len(lab.Steps)-1]
		}
		return lab, step, nil
	}
	step, ok := lab.Step(id)
	if !ok {
		var known []string
		for _, st := range lab.Steps {
			known = append(known, st.ID)
		}
		return nil, nil, fmt.Errorf("%w: step %q; lab %s has %s", ErrUnknown, id, lab.ID, strings.Join(known, ", "))
	}
	return lab, step, nil
}

// reach connects and makes sure that progress is that of this very cluster: a cluster that
// was removed and made again under the same name starts with nothing done.
func (s *Session) reach(ctx context.Context) (*checks.Runner, error) {
	r, err := s.connect()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	ns, err := r.Cluster.Dynamic.Resource(namespacesGVR).Get(ctx, "kube-system", metav1.GetOptions{})
	if err != nil {
		why, next := checks.Obstacle(err)
		return nil, fmt.Errorf("%w: %s %s", ErrCluster, why, next)
	}
	p, err := s.store.progress()
	if err != nil {
		return nil, err
	}
	if uid := string(ns.GetUID()); p.UID != uid {
		if p.UID != "" {
			s.progressing("", "progress was made on an earlier cluster %s; starting afresh", s.opts.Cluster)
		}
		err = errors.Join(s.store.forget(""), s.store.saveProgress(Progress{Cluster: s.opts.Cluster, UID: uid}))
	}
	return r, err
}

// reachTimeout bounds the first request to the cluster.
const reachTimeout = 10 * time.Second

func (s *Session) inventorist(r *checks.Runner, lab *labs.Lab) inventorist {
	return inventorist{cluster: r.Cluster, lab: lab, own: s.opts.Adopt, log: s.opts.Log}
}

// exclusively runs fn while no other process changes this cluster's labs.
func (s *Session) exclusively(ctx context.Context, fn func() error) error {
	unlock, err := s.store.lock(ctx)
	if err != nil {
		return err
	}
	return errors.Join(fn(), unlock())
}

// Start applies the lab's baseline, waits until its workloads are ready, records it and
// makes the first step current. A lab that is already started becomes the current one again.
func (s *Session) Start(ctx context.Context, id string) error {
	lab, err := s.lab(id)
	if err != nil {
		return err
	}
	return s.exclusively(ctx, func() error {
		r, err := s.reach(ctx)
		if err != nil {
			return err
		}
		p, err := s.store.progress()
		if err != nil {
			return err
		}
		if p.Labs[lab.ID] == nil {
			if err := s.begin(ctx, r, lab); err != nil {
				return err
			}
			p.Labs[lab.ID] = firstStep(lab)
		}
		p.Lab = lab.ID
		if err := s.store.saveProgress(p); err != nil {
			return err
		}
		s.tell(Event{Kind: LabStarted, Lab: lab.ID})
		s.tellCurrent(lab, p.Labs[lab.ID])
		return nil
	})
}

func firstStep(lab *labs.Lab) *LabProgress {
	return &LabProgress{Started: time.Now().UTC(), Step: lab.Steps[0].ID, Steps: map[string]*StepProgress{}}
}

func (s *Session) tellCurrent(lab *labs.Lab, lp *LabProgress) {
	if lp.Step == "" {
		s.tell(Event{Kind: LabMet, Lab: lab.ID})
		return
	}
	s.tell(Event{Kind: StepStarted, Lab: lab.ID, Step: lp.Step})
}

// hintTimeout bounds the wait for another process that changes this cluster's labs.
const hintTimeout = time.Minute

// Hint reveals the next tier, again the last one when all were shown. It needs no cluster.
func (s *Session) Hint(id string) (Hint, error) {
	var h Hint
	ctx, cancel := context.WithTimeout(context.Background(), hintTimeout)
	defer cancel()
	err := s.exclusively(ctx, func() error {
		lab, step, err := s.Find(id)
		if err != nil {
			return err
		}
		p, err := s.store.progress()
		if err != nil {
			return err
		}
		sp := p.Labs[lab.ID].step(step.ID)
		sp.Hints = min(sp.Hints+1, len(step.Hints))
		h = Hint{Step: step.ID, Tier: sp.Hints, Of: len(step.Hints), Text: step.Hints[sp.Hints-1]}
		return s.store.saveProgress(p)
	})
	return h, err
}

// step returns the progress of a step, which it adds where there is none.
func (lp *LabProgress) step(id string) *StepProgress {
	if lp.Steps == nil {
		lp.Steps = map[string]*StepProgress{}
	}
	if lp.Steps[id] == nil {
		lp.Steps[id] = &StepProgress{}
	}
	return lp.Steps[id]
}

// advance marks a step as met and records the baseline of the next, which becomes current.
// It does nothing where the step is not the current one any more.
func (s *Session) advance(ctx context.Context, r *checks.Runner, lab *labs.Lab, step *labs.Step) error {
	return s.exclusively(ctx, func() error {
		p, err := s.store.progress()
		if err != nil {
			return err
		}
		lp := p.Labs[lab.ID]
		if p.Lab != lab.ID || lp == nil || lp.Step != step.ID {
			return nil
		}
		now := time.Now().UTC()
		lp.step(step.ID).Met = &now
		i := slices.IndexFunc(lab.Steps, func(st labs.Step) bool { return st.ID == step.ID })
		lp.Step = ""
		if i+1 < len(lab.Steps) {
			lp.Step = lab.Steps[i+1].ID
			snap, err := s.inventorist(r, lab).snapshot(ctx)
			if err != nil {
				return err
			}
			if err := s.store.saveSnapshot(stepKey(lab.ID, lp.Step), snap); err != nil {
				return err
			}
		}
		if err := s.store.saveProgress(p); err != nil {
			return err
		}
		s.tell(Event{Kind: StepMet, Lab: lab.ID, Step: step.ID})
		s.tellCurrent(lab, lp)
		return nil
	})
}
