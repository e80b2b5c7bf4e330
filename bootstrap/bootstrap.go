// Package bootstrap knows how a lab cluster comes to be: what a provider is, what a
// phase of provisioning is, and how phases run forward and are undone backward.
// It knows no particular provider, no terminal and no lab.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Provider creates, inspects and removes the cluster of one kind of host.
// Its methods are safe to call for a cluster that exists half, or not at all.
type Provider interface {
	// Name is the word that --provider takes.
	Name() string
	// Up brings the cluster that spec names to the state that spec asks for and
	// returns once its API server answers and all its nodes are Ready. On a cluster
	// that is already there it is a quick no-op; on one that is half there it resumes.
	Up(ctx context.Context, spec Spec, obs Observer) (Cluster, error)
	// Down removes the cluster and everything Up made for it on this host.
	// Removing a cluster that is not there is not an error.
	Down(ctx context.Context, name string, obs Observer) error
	// Status reports what is there now. The error is ErrNotFound where nothing is.
	Status(ctx context.Context, name string) (Cluster, error)
	// Doctor reports whether this host can run the provider, one finding a line.
	Doctor(ctx context.Context) []Finding
}

// ErrNotFound says that no cluster of that name is known to the provider.
var ErrNotFound = errors.New("no such cluster")

// Spec is what the learner asks for.
type Spec struct {
	Name    string        // cluster name, a DNS label
	Workers int           // worker nodes beside the one control plane
	Timeout time.Duration // bound on the whole of Up
	Retain  bool          // keep what a failed Up has made, for a look at it
	// Ports asked for on 127.0.0.1. Zero takes the provider's default and, where it
	// is taken, the next free one.
	APIPort, HTTPPort, HTTPSPort int

	// For the provider existing: the context of the learner's kubeconfig that is meant, and
	// whether labs may use an Istio that is there already.
	Context  string
	UseIstio bool

	// For the provider kind: the node image, where the images of the mesh come from
	// ("registry" or "builtin"), and a bundle that holds both. Empty takes its defaults.
	Image, Images, Bundle string
}

// Existing is the name of the provider whose clusters are somebody else's.
const Existing = "existing"

// ClusterLabel, on a namespace of a cluster, names the cluster of ropes that it was made
// for. Where several share a Kubernetes, each removes only its own.
const ClusterLabel = "ropes.dev/cluster"

// Cluster is what Up hands on: all that labs, checks, charts and reset may know.
type Cluster struct {
	Name       string   `json:"name"`
	Provider   string   `json:"provider"`
	Kubeconfig []byte   `json:"-"`       // self-contained kubeconfig, current context ropes-NAME
	Running    bool     `json:"running"` // its processes are alive; says nothing about health
	Nodes      []string `json:"nodes"`
	Dir        string   `json:"dir,omitempty"` // state directory on this host, if any
	APIPort    int      `json:"apiPort"`       // published on 127.0.0.1
	HTTPPort   int      `json:"httpPort"`      // ingress gateway, plain text
	HTTPSPort  int      `json:"httpsPort"`     // ingress gateway, TLS
	Notes      []string `json:"notes,omitempty"`

	// Shared says that the cluster is somebody else's and stays: what ropes puts into it has
	// to be taken out again, and nothing is published on this host (the ports are 0).
	Shared     bool   `json:"shared,omitempty"`
	OtherIstio bool   `json:"otherIstio,omitempty"` // its Istio is somebody else's and stays as it is
	Server     string `json:"server,omitempty"`     // URL of a shared cluster's API server

	// Images says where the images of the mesh come from: "registry" for Istio's own, else
	// those that ropes carries.
	Images string `json:"images,omitempty"`
}

// Severity grades a Finding.
type Severity string

// The severities, from harmless to fatal.
const (
	OK      Severity = "ok"
	Warning Severity = "warning"
	Fatal   Severity = "fatal"
)

// Finding is one line of a doctor's report.
type Finding struct {
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	Detail   string   `json:"detail"`
	Mend     string   `json:"mend,omitempty"` // the one command or sentence that mends it
}

// State is where a phase stands.
type State string

// The states that a phase passes through.
const (
	Started State = "started"
	Running State = "running" // Detail says what is waited for
	Done    State = "done"
	Skipped State = "skipped" // nothing was left to do
	Failed  State = "failed"
)

// Event is one thing that an observer is told.
type Event struct {
	Phase   string        `json:"phase"`
	State   State         `json:"state"`
	Detail  string        `json:"detail,omitempty"`
	Elapsed time.Duration `json:"elapsed"` // since the phase started
	Index   int           `json:"index"`   // position of the phase, from 0
	Total   int           `json:"total"`   // phases in this run
	Err     error         `json:"-"`
}

// Observer is told of progress. It is called from one goroutine at a time.
type Observer interface {
	Observe(Event)
}

// ObserverFunc lets a function be an Observer.
type ObserverFunc func(Event)

// Observe implements Observer.
func (f ObserverFunc) Observe(e Event) { f(e) }

// Discard is an Observer that is told everything and says nothing.
var Discard Observer = ObserverFunc(func(Event) {})

// Step is one phase of provisioning.
type Step struct {
	Name string
	// Do brings the phase about. It reports what it waits for through say, and
	// returns ErrSkip where nothing was left to do.
	Do func(ctx context.Context, say func(detail string)) error
	// Undo takes back what Do made; nil where there is nothing to take back.
	Undo func(ctx context.Context) error
}

// ErrSkip is returned by a step that found its work already done.
var ErrSkip = errors.New("already done")

// undoTimeout bounds the cleanup after a failed run, all steps together.
const undoTimeout = time.Minute

// Run does the steps in order. When one fails, or ctx ends, the steps done so far are
// undone in reverse, unless retain is set; the returned error joins both sides.
func Run(ctx context.Context, steps []Step, retain bool, obs Observer) error {
	for i, s := range steps {
		if err := runStep(ctx, s, i, len(steps), obs); err != nil {
			err = fmt.Errorf("%s: %w", s.Name, err)
			if retain {
				return err
			}
			return errors.Join(err, undo(ctx, steps[:i+1]))
		}
	}
	return nil
}

func runStep(ctx context.Context, s Step, i, total int, obs Observer) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	start := time.Now()
	tell := func(st State, detail string, err error) {
		obs.Observe(Event{Phase: s.Name, State: st, Detail: detail, Elapsed: time.Since(start), Index: i, Total: total, Err: err})
	}
	tell(Started, "", nil)
	err := s.Do(ctx, func(detail string) { tell(Running, detail, nil) })
	switch {
	case errors.Is(err, ErrSkip):
		tell(Skipped, "", nil)
		return nil
	case err != nil:
		tell(Failed, err.Error(), err)
		return err
	}
	tell(Done, "", nil)
	return nil
}

func undo(ctx context.Context, steps []Step) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		if steps[i].Undo == nil {
			continue
		}
		if err := steps[i].Undo(ctx); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", steps[i].Name, err))
		}
	}
	return errors.Join(errs...)
}

// permanent is an error that no further try will mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks an error so that Poll returns it at once.
func Permanent(err error) error { return permanent{err} }

// Poll calls fn every interval until it returns nil, an error marked Permanent, or ctx
// ends; the error then wraps both the end of ctx and what fn said last.
func Poll(ctx context.Context, every time.Duration, fn func(context.Context) error) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		err := fn(ctx)
		if err == nil {
			return nil
		}
		if p := (permanent{}); errors.As(err, &p) {
			return p.error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last seen: %w", context.Cause(ctx), err)
		case <-t.C:
		}
	}
}
