// Package session takes a learner through labs: it keeps progress on disk, applies and
// records baselines, grades steps, gives hints and resets. It joins labs and checks. It
// knows no terminal and no provider: the cluster is a kubeconfig.
package session

import (
	"errors"
	"log/slog"
	"time"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/labs"
)

// Options say whose progress on which cluster.
type Options struct {
	Cluster    string // name of the cluster, keys the state
	Kubeconfig []byte // its current context is the cluster; may be empty for methods that read progress only
	StateDir   string // where progress lies; empty is DefaultStateDir()
	Labs       labs.Catalog
	Adopt      bool         // the cluster is ropes' own: what a lab's namespaces hold without a record is left-over, not somebody's work
	Log        *slog.Logger // nil discards
	Observer   Observer     // nil discards
}

// The errors that callers tell apart with errors.Is.
var (
	ErrNoLab      = errors.New("no lab is started")   // Check, Hint, ... before Start
	ErrUnknown    = errors.New("no such lab or step") // the message lists the known ones
	ErrForeign    = errors.New("namespace is in use") // an owned namespace was there before the lab
	ErrNeed       = errors.New("the cluster lacks")   // a lab's need is not there
	ErrCluster    = errors.New("cluster unreachable") // no verdict and no reset without it
	ErrNotAtRest  = errors.New("objects differ from the baseline")
	ErrNoSnapshot = errors.New("no baseline recorded")
)

// Kind names what an Event tells.
type Kind string

// The kinds of event, with the fields of Event that they set.
const (
	LabStarted   Kind = "lab-started"   // Lab
	StepStarted  Kind = "step-started"  // Lab, Step: the step is now the current one
	VerdictGiven Kind = "verdict"       // Lab, Step, Verdict
	StepMet      Kind = "step-met"      // Lab, Step
	LabMet       Kind = "lab-met"       // Lab: its last step was met
	ResetStarted Kind = "reset-started" // Scope, Lab
	ResetDone    Kind = "reset-done"    // Scope, Lab, Reset
	Progressing  Kind = "progressing"   // Detail: what is being done or waited for
)

// Event is one thing that an Observer is told.
type Event struct {
	Kind    Kind            `json:"kind"`
	Lab     string          `json:"lab,omitempty"`
	Step    string          `json:"step,omitempty"`
	Verdict *checks.Verdict `json:"verdict,omitempty"`
	Scope   Scope           `json:"scope,omitempty"`
	Reset   *ResetReport    `json:"reset,omitempty"`
	Detail  string          `json:"detail,omitempty"`
}

// Observer is told of events, from one goroutine at a time.
type Observer interface {
	Session(Event)
}

// ObserverFunc lets a function be an Observer.
type ObserverFunc func(Event)

// Session implements Observer.
func (f ObserverFunc) Session(e Event) { f(e) }

// Scope is how far a reset reaches.
type Scope string

// The scopes.
const (
	ScopeStep    Scope = "step"    // the current step's recorded baseline; its verdict is forgotten
	ScopeLab     Scope = "lab"     // the lab's recorded baseline; its first step becomes current
	ScopeCluster Scope = "cluster" // no lab is started, nothing of any lab is left
)

// ResetReport is what a reset did and the proof that it did it.
type ResetReport struct {
	Scope    Scope         `json:"scope"`
	Lab      string        `json:"lab,omitempty"`
	Deleted  []string      `json:"deleted"`  // objects, as Kind namespace/name
	Restored []string      `json:"restored"` // created anew or written back
	Objects  int           `json:"objects"`  // compared, each by its digest
	Digest   string        `json:"digest"`   // over all of them; equal to the recorded one
	Took     time.Duration `json:"took"`     // nanoseconds
}

// Progress is how far the learner is, as stored.
type Progress struct {
	Cluster string                  `json:"cluster"`
	UID     string                  `json:"uid,omitempty"` // of the cluster: progress of another one does not count
	Lab     string                  `json:"lab,omitempty"` // the current lab
	Labs    map[string]*LabProgress `json:"labs,omitempty"`
}

// LabProgress is how far the learner is in one lab.
type LabProgress struct {
	Started time.Time                `json:"started"`
	Step    string                   `json:"step,omitempty"` // the current step; empty when all are met
	Steps   map[string]*StepProgress `json:"steps"`
}

// StepProgress is what is known of one step.
type StepProgress struct {
	Met   *time.Time `json:"met,omitempty"`
	Hints int        `json:"hints"` // tiers shown
}

// IsMet tells whether a step was met.
func (lp *LabProgress) IsMet(step string) bool {
	return lp != nil && lp.Steps[step] != nil && lp.Steps[step].Met != nil
}

// Hint is one tier of a step's hints.
type Hint struct {
	Step string `json:"step"`
	Tier int    `json:"tier"` // from 1
	Of   int    `json:"of"`
	Text string `json:"text"`
}
