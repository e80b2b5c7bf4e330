package cluster

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// Priority is a request's routing priority; each has its own circuit breaker.
type Priority int

// Priorities.
const (
	Default Priority = iota
	High
)

// Limits are a circuit breaker's thresholds.
type Limits struct{ Connections, Pending, Requests, Retries uint32 }

// Envoy's thresholds where the cluster has none.
var defaultLimits = Limits{Connections: 1024, Pending: 1024, Requests: 1024, Retries: 3}

// breaker counts what is going on in one priority against its limits.
type breaker struct {
	Limits
	budget      float64 // part of the requests in flight that may be retries, when hasBudget
	hasBudget   bool
	window      *window // requests that began of late, nil where only those in flight count
	minRetries  uint32
	remaining   bool
	active      atomic.Int64 // requests in flight
	retries     atomic.Int64
	pending     atomic.Int64 // requests that wait for a connection
	connections atomic.Int64
}

func (c *Cluster) setLimits(b *clusterv3.CircuitBreakers) error {
	c.breakers[Default].Limits, c.breakers[High].Limits = defaultLimits, defaultLimits
	if err := fields.Check(b, "thresholds per_host_thresholds"); err != nil {
		return err
	}
	for _, t := range b.GetThresholds() {
		const known = "priority max_connections max_pending_requests max_requests max_retries retry_budget track_remaining"
		if err := fields.Check(t, known); err != nil {
			return err
		}
		p := Default
		if t.GetPriority() == corev3.RoutingPriority_HIGH {
			p = High
		}
		k := &c.breakers[p]
		for _, l := range []struct {
			to *uint32
			v  *uint32Value
		}{
			{&k.Connections, t.GetMaxConnections()},
			{&k.Pending, t.GetMaxPendingRequests()},
			{&k.Requests, t.GetMaxRequests()},
			{&k.Retries, t.GetMaxRetries()},
		} {
			if l.v != nil {
				*l.to = l.v.GetValue()
			}
		}
		k.remaining = t.GetTrackRemaining()
		if r := t.GetRetryBudget(); r != nil {
			k.hasBudget, k.budget, k.minRetries = true, 0.2, 3
			if v := r.GetBudgetPercent(); v != nil {
				k.budget = v.GetValue() / 100
			}
			if v := r.GetMinRetryConcurrency(); v != nil {
				k.minRetries = v.GetValue()
			}
			if d := r.GetBudgetInterval().AsDuration(); d > 0 {
				k.window = &window{span: d}
			}
		}
	}
	for _, t := range b.GetPerHostThresholds() {
		if err := fields.Check(t, "priority max_connections"); err != nil {
			return err
		}
		if t.GetPriority() == corev3.RoutingPriority_DEFAULT && t.GetMaxConnections() != nil {
			c.perHost, c.hasPerHost = t.GetMaxConnections().GetValue(), true
		}
	}
	return nil
}

// BeginRequest counts a request against the circuit breaker; unless there is an error, EndRequest must follow.
func (c *Cluster) BeginRequest(p Priority) error {
	b := &c.breakers[p]
	if n := b.active.Add(1); n > int64(b.Requests) {
		b.active.Add(-1)
		c.Stats.Overflow.Inc()
		return ErrOverflow
	}
	if b.window != nil {
		b.window.add(time.Now())
	}
	c.Stats.ActiveRequests.Inc()
	return nil
}

// EndRequest takes back what BeginRequest counted.
func (c *Cluster) EndRequest(p Priority) {
	c.breakers[p].active.Add(-1)
	c.Stats.ActiveRequests.Dec()
}

// BeginRetry counts a retry against the circuit breaker; unless there is an error, EndRetry must follow when the retry is
// over.
func (c *Cluster) BeginRetry(p Priority) error {
	b := &c.breakers[p]
	if n := b.retries.Add(1); n > b.maxRetries() {
		b.retries.Add(-1)
		c.Stats.RetryOverflow.Inc()
		return ErrOverflow
	}
	return nil
}

// EndRetry takes back what BeginRetry counted.
func (c *Cluster) EndRetry(p Priority) { c.breakers[p].retries.Add(-1) }

func (b *breaker) maxRetries() int64 {
	if !b.hasBudget {
		return int64(b.Retries)
	}
	n := b.active.Load() + b.pending.Load()
	if b.window != nil {
		n = b.window.count(time.Now())
	}
	return max(int64(b.budget*float64(n)), int64(b.minRetries))
}

// beginConnection counts a connection to e. A pool may always open its host's first, or a request that waits for it
// would wait for ever; counted tells by how much the counter must go down again.
func (c *Cluster) beginConnection(p Priority, e *Endpoint, pooled bool) error {
	b := &c.breakers[p]
	if n := e.opening.Add(1); c.hasPerHost && n > int64(c.perHost) {
		e.opening.Add(-1)
		c.Stats.ConnOverflow.Inc()
		return ErrOverflow
	}
	if n := b.connections.Add(1); n > int64(b.Connections) {
		c.Stats.ConnOverflow.Inc()
		if !pooled || e.opening.Load() > 1 {
			b.connections.Add(-1)
			e.opening.Add(-1)
			return ErrOverflow
		}
	}
	return nil
}

func (c *Cluster) endConnection(p Priority, e *Endpoint) {
	c.breakers[p].connections.Add(-1)
	e.opening.Add(-1)
}

// enqueue counts a request that waits for a connection against the circuit breaker.
func (c *Cluster) enqueue(p Priority) (func(), bool) {
	if c.beginPending(p) != nil {
		return nil, false
	}
	return func() { c.endPending(p) }, true
}

func (c *Cluster) beginPending(p Priority) error {
	b := &c.breakers[p]
	if n := b.pending.Add(1); n > int64(b.Pending) {
		b.pending.Add(-1)
		c.Stats.Overflow.Inc()
		return errPending
	}
	c.Stats.PendingTotal.Inc()
	c.Stats.Pending.Inc()
	return nil
}

func (c *Cluster) endPending(p Priority) {
	c.breakers[p].pending.Add(-1)
	c.Stats.Pending.Dec()
}

// LimitsView returns the circuit breaker's thresholds of a priority.
func (c *Cluster) LimitsView(p Priority) Limits { return c.breakers[p].Limits }

// Refresh brings the gauges up to date that are not kept at every change.
func (c *Cluster) Refresh(r *stats.Registry) {
	for i, name := range [...]string{"default", "high"} {
		b := &c.breakers[i]
		sc := c.Stats.Scope
		sc.Name += ".circuit_breakers." + name
		sc.Family += "_circuit_breakers_" + name
		for _, v := range []struct {
			open, left string
			now, limit int64
		}{
			{"cx_open", "remaining_cx", b.connections.Load(), int64(b.Connections)},
			{"rq_pending_open", "remaining_pending", b.pending.Load(), int64(b.Pending)},
			{"rq_open", "remaining_rq", b.active.Load(), int64(b.Requests)},
			{"rq_retry_open", "remaining_retries", b.retries.Load(), b.maxRetries()},
		} {
			open := int64(0)
			if v.now >= v.limit {
				open = 1
			}
			r.Gauge(sc, v.open).Set(open)
			if b.remaining {
				r.Gauge(sc, v.left).Set(max(min(v.limit-v.now, math.MaxUint32), 0))
			}
		}
	}
}

// window counts events of the last span of time, to a tenth of it.
type window struct {
	span  time.Duration
	mu    sync.Mutex
	slots [10]int64
	at    int64 // number of the slot that is being filled
}

func (w *window) move(now time.Time) {
	n := now.UnixNano() / max(int64(w.span)/int64(len(w.slots)), 1)
	for i := int64(0); w.at < n && i < int64(len(w.slots)); i++ {
		w.at = max(w.at+1, n-int64(len(w.slots))+1)
		w.slots[w.at%int64(len(w.slots))] = 0
	}
}

func (w *window) add(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.move(now)
	w.slots[w.at%int64(len(w.slots))]++
}

func (w *window) count(now time.Time) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.move(now)
	var n int64
	for _, s := range w.slots {
		n += s
	}
	return n
}
