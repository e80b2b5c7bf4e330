// Package checks decides whether a live cluster is in the state that a step asks for.
// It knows checks as data, verdicts, how the objects of a check are read and which
// change to the cluster can touch it. It does not know labs or progress, it does not
// know what a program behind an expression is made of (checks/cel) nor how a probe
// reaches its target (checks/probe), and it never prints.
package checks

import (
	"fmt"
	"time"
)

// Check is one condition on the cluster, as an author wrote it. The yaml names are those
// of labs/FORMAT.md. A Check is not changed after it was loaded and may be shared.
type Check struct {
	Pos         Pos                  `yaml:"-"`
	ID          string               `yaml:"id"`
	Description string               `yaml:"description"`
	Objects     map[string]ObjectRef `yaml:"objects"`
	Probes      map[string]Probe     `yaml:"probes"`
	Watch       []ObjectRef          `yaml:"watch"` // further objects whose change re-runs the check
	Expr        Expr                 `yaml:"expr"`  // met where it is true
	Want        string               `yaml:"want"`
	Got         Expr                 `yaml:"got"` // a string; optional
	Why         string               `yaml:"why"`
	Next        string               `yaml:"next"`
	Mistakes    []Mistake            `yaml:"mistakes"`
}

// Mistake is a known way to miss a check, with the words that explain it.
type Mistake struct {
	Pos  Pos    `yaml:"-"`
	ID   string `yaml:"id"`
	When Expr   `yaml:"when"` // a bool over the check's objects and probes
	Got  Expr   `yaml:"got"`  // a string; optional, the check's own where absent
	Why  string `yaml:"why"`
	Next string `yaml:"next"`
}

// ObjectRef names live objects. With Name it is one object, or null where it is absent;
// without it is the list of those that match Selector and FieldSelector.
type ObjectRef struct {
	Pos           Pos    `yaml:"-"`
	APIVersion    string `yaml:"apiVersion"`
	Kind          string `yaml:"kind"`
	Namespace     string `yaml:"namespace"`
	Name          string `yaml:"name"`
	Selector      string `yaml:"selector"`      // label selector in kubectl's syntax
	FieldSelector string `yaml:"fieldSelector"` // as in kubectl get --field-selector
}

func (r ObjectRef) String() string {
	s := r.Kind
	switch {
	case r.Name != "":
		s += " " + r.Name
	case r.Selector != "":
		s += "s with " + r.Selector
	default:
		s += "s"
	}
	if r.Namespace != "" {
		s += " in namespace " + r.Namespace
	}
	return s
}

// Expr is an expression with its place in the author's file. Program is set when the lab
// is loaded; an Expr without Source is absent.
type Expr struct {
	Source  string
	Pos     Pos
	Program Program
}

// Present tells whether the author wrote the expression.
func (e Expr) Present() bool { return e.Source != "" }

// Program is a compiled expression.
type Program interface {
	// Eval computes the expression; vars holds a value for each name in Vars. The
	// error wraps ErrAbsent where the expression reached for a field, key, index or
	// object that is not there.
	Eval(vars map[string]any) (any, error)
	// Vars names the objects and probes that the expression mentions, sorted.
	Vars() []string
}

// Pos is a place in an author's file.
type Pos struct {
	File string
	Line int // from 1
}

func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// State is the outcome of a check.
type State string

// The outcomes. CouldNotRun is never a judgement on the learner's work.
const (
	Met         State = "met"
	Unmet       State = "unmet"
	CouldNotRun State = "could-not-run"
)

// Verdict is what came of one check. Want, Got, Why and Next are sentences for the
// learner; where State is CouldNotRun, Why says what was in the way and Next how to mend it.
type Verdict struct {
	Step    string        `json:"step"`
	Check   string        `json:"check"`
	State   State         `json:"state"`
	Want    string        `json:"want,omitempty"`
	Got     string        `json:"got,omitempty"`
	Why     string        `json:"why,omitempty"`
	Next    string        `json:"next,omitempty"`
	Mistake string        `json:"mistake,omitempty"` // id of the known mistake that explains an unmet check
	At      time.Time     `json:"at"`                // when the verdict was reached
	Took    time.Duration `json:"took"`              // reading, probing and judging together, nanoseconds
}

// AllMet tells whether there is a verdict and all of them are met.
func AllMet(vs []Verdict) bool {
	for _, v := range vs {
		if v.State != Met {
			return false
		}
	}
	return len(vs) > 0
}

// Observer is told of each verdict as it is reached, from one goroutine at a time.
type Observer interface {
	Verdict(Verdict)
}

// ObserverFunc lets a function be an Observer.
type ObserverFunc func(Verdict)

// Verdict implements Observer.
func (f ObserverFunc) Verdict(v Verdict) { f(v) }

// Discard is an Observer that is told everything and says nothing.
var Discard Observer = ObserverFunc(func(Verdict) {})
