package checks

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"

	"golang.org/x/sync/errgroup"
)

// reading is what one run has seen: every object and every probe is asked for once, when
// an expression first needs it, and shared by the checks of the run.
type reading struct {
	cluster *Cluster
	prober  Prober

	mu   sync.Mutex
	seen map[string]*answer
}

type answer struct {
	once  sync.Once
	value any
	err   error
}

func newReading(c *Cluster, p Prober) *reading {
	return &reading{cluster: c, prober: p, seen: map[string]*answer{}}
}

// get asks once for what key stands for.
func (r *reading) get(key string, ask func() (any, error)) (any, error) {
	r.mu.Lock()
	a, ok := r.seen[key]
	if !ok {
		a = &answer{}
		r.seen[key] = a
	}
	r.mu.Unlock()
	a.once.Do(func() { a.value, a.err = ask() })
	return a.value, a.err
}

// vars gives values to the names that expr mentions.
func (r *reading) vars(ctx context.Context, c *Check, expr Expr) (map[string]any, error) {
	names := expr.Program.Vars()
	values := make([]any, len(names))
	var g errgroup.Group // no shared cancellation: answers are kept for other checks
	for i, name := range names {
		g.Go(func() (err error) {
			values[i], err = r.value(ctx, c, name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	vars := make(map[string]any, len(names))
	for i, name := range names {
		vars[name] = values[i]
	}
	return vars, nil
}

func (r *reading) value(ctx context.Context, c *Check, name string) (any, error) {
	if ref, ok := c.Objects[name]; ok {
		ref.Pos = Pos{}
		return r.get(fmt.Sprintf("object %+v", ref), func() (any, error) { return r.cluster.Read(ctx, ref) })
	}
	p, ok := c.Probes[name]
	if !ok {
		return nil, fmt.Errorf("%s: nothing is named %q", c.Pos, name) // loading rules this out
	}
	key, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Pos, err)
	}
	return r.get("probe "+string(key), func() (any, error) {
		res, err := r.prober.Probe(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("probe %s: %w", name, err)
		}
		return maps.Clone(map[string]any(res)), nil
	})
}

// eval computes an expression of c.
func (r *reading) eval(ctx context.Context, c *Check, expr Expr) (any, error) {
	vars, err := r.vars(ctx, c, expr)
	if err != nil {
		return nil, err
	}
	v, err := expr.Program.Eval(vars)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", expr.Pos, err)
	}
	return v, nil
}
