package netpol

import (
	"context"
	"log/slog"
	"reflect"
	"sync/atomic"
	"time"
)

const (
	// settle is how long a change waits for others that come with it.
	settle = 50 * time.Millisecond
	// refresh is how often the rules are put in place although nothing has changed, in
	// case somebody else has taken them away.
	refresh = time.Minute
	// retry is how long after a failure the next attempt is made.
	retry = time.Second
)

// enforcer turns changes of objects into changes of rules, one at a time.
type enforcer struct {
	snapshot func() Snapshot
	apply    func(context.Context, *Ruleset) error
	warn     func(context.Context, Warning)
	log      *slog.Logger

	changed chan struct{} // of capacity 1
	ready   atomic.Bool   // the rules in place are those last asked for
	last    *Ruleset      // what is in place; nil where that is not known
}

func newEnforcer(log *slog.Logger) *enforcer {
	return &enforcer{log: log, changed: make(chan struct{}, 1)}
}

// touch says that the snapshot may have changed. It never blocks.
func (e *enforcer) touch() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// run puts the rules in place at once and after each change, until ctx ends. It
// leaves them in place then: pods outlive their node's agent.
func (e *enforcer) run(ctx context.Context) {
	for {
		next := refresh
		if err := e.sync(ctx); err != nil {
			e.log.Error("rules are not in place", "error", err, "retry", retry)
			next = retry
		}
		select {
		case <-ctx.Done():
			return
		case <-e.changed:
		case <-time.After(next):
			e.last = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settle):
		}
	}
}

func (e *enforcer) sync(ctx context.Context) error {
	rules, err := Compile(e.snapshot())
	if err != nil {
		e.ready.Store(false)
		return err
	}
	if e.last != nil && reflect.DeepEqual(e.last, rules) {
		return nil
	}
	start := time.Now()
	if err := e.apply(ctx, rules); err != nil {
		e.last = nil
		e.ready.Store(false)
		return err
	}
	e.log.Debug("rules are in place", "isolatedIngress", len(rules.Ingress.Isolated),
		"isolatedEgress", len(rules.Egress.Isolated), "took", time.Since(start))
	e.last = rules
	e.ready.Store(true)
	for _, w := range rules.Warnings {
		e.warn(ctx, w)
	}
	return nil
}
