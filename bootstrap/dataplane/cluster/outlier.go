package cluster

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// monitor is what outlier detection knows about one host.
type monitor struct {
	serverErrors  atomic.Uint32 // 5xx in a row
	gatewayErrors atomic.Uint32 // 502, 503, 504 in a row
	localErrors   atomic.Uint32 // failures on our side in a row, when told apart

	total, good           atomic.Uint64 // answers since the last interval
	localTotal, localGood atomic.Uint64

	// Under the detector's mutex:
	ejectedAt time.Time
	jitter    time.Duration
	backoff   int // how many base times the ejection lasts
}

// detector takes hosts out that fail, for a while. A nil detector does nothing.
type detector struct {
	cfg     outlierConfig
	cluster *Cluster
	mu      sync.Mutex
	timer   *time.Timer
	closed  bool

	active             *counterGauge
	overflow           *stats.Counter
	detected, enforced [numReasons]*stats.Counter
}

type counterGauge struct {
	gauge   *stats.Gauge
	counter *stats.Counter
}

// reason is why a host is ejected.
type ejection int

const (
	consecutive5xx ejection = iota
	consecutiveGateway
	consecutiveLocal
	successRate
	localSuccessRate
	failurePercentage
	localFailurePercentage
	numReasons
)

var ejectionNames = [numReasons]string{
	"consecutive_5xx", "consecutive_gateway_failure", "consecutive_local_origin_failure", "success_rate",
	"local_origin_success_rate", "failure_percentage", "local_origin_failure_percentage",
}

// bind makes the detector watch c and registers its statistics.
func (d *detector) bind(c *Cluster, r *stats.Registry) {
	if d == nil {
		return
	}
	d.cluster = c
	sc := c.Stats.Scope
	sc.Name += ".outlier_detection"
	sc.Family += "_outlier_detection"
	d.active = &counterGauge{gauge: r.Gauge(sc, "ejections_active"), counter: r.Counter(sc, "ejections_enforced_total")}
	d.overflow = r.Counter(sc, "ejections_overflow")
	for i, n := range ejectionNames {
		d.detected[i], d.enforced[i] = r.Counter(sc, "ejections_detected_"+n), r.Counter(sc, "ejections_enforced_"+n)
	}
	d.active.gauge.Set(0)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer = time.AfterFunc(d.cfg.interval, d.sweep)
}

func (d *detector) stop() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.timer.Stop()
}

// Answered notes the status of a response from e, for outlier detection.
func (c *Cluster) Answered(e *Endpoint, status int) {
	if c.outlier != nil {
		c.outlier.external(e, status)
	}
}

// Unanswered notes that e gave no response: no connection came about, or it broke, or time ran out. status is what
// the client is told.
func (c *Cluster) Unanswered(e *Endpoint, status int) {
	if c.outlier == nil {
		return
	}
	if !c.outlier.cfg.split {
		c.outlier.external(e, status)
		return
	}
	c.outlier.local(e, false)
}

// Reached notes that a connection to e came about. final means that nothing else will be known about it, as with TCP.
func (c *Cluster) Reached(e *Endpoint, final bool) {
	switch {
	case c.outlier == nil:
	case c.outlier.cfg.split:
		c.outlier.local(e, true)
	case final:
		c.outlier.external(e, 200)
	}
}

func (d *detector) external(e *Endpoint, status int) {
	m := &e.monitor
	m.total.Add(1)
	if status < 500 {
		m.good.Add(1)
		// Stores are for the rare case, so that hosts that are well share no cache line.
		if m.serverErrors.Load() != 0 {
			m.serverErrors.Store(0)
		}
		if m.gatewayErrors.Load() != 0 {
			m.gatewayErrors.Store(0)
		}
		return
	}
	if status >= 502 && status <= 504 {
		if m.gatewayErrors.Add(1) == d.cfg.gateway {
			d.found(e, consecutiveGateway)
		}
	} else {
		m.gatewayErrors.Store(0)
	}
	if m.serverErrors.Add(1) == d.cfg.server {
		d.found(e, consecutive5xx)
	}
}

func (d *detector) local(e *Endpoint, good bool) {
	m := &e.monitor
	m.localTotal.Add(1)
	if good {
		m.localGood.Add(1)
		if m.localErrors.Load() != 0 {
			m.localErrors.Store(0)
		}
		return
	}
	if m.localErrors.Add(1) == d.cfg.local {
		d.found(e, consecutiveLocal)
	}
}

// found ejects e for what was detected, if enforcement says so and not too many are out already.
func (d *detector) found(e *Endpoint, why ejection) {
	d.mu.Lock()
	changed := d.eject(e, why)
	d.mu.Unlock()
	if changed {
		d.cluster.rebuild()
	}
}

func (d *detector) eject(e *Endpoint, why ejection) bool {
	m := &e.monitor
	switch why {
	case consecutive5xx:
		m.serverErrors.Store(0)
	case consecutiveGateway:
		m.gatewayErrors.Store(0)
	case consecutiveLocal:
		m.localErrors.Store(0)
	}
	if d.closed || e.ejected.Load() {
		return false
	}
	d.detected[why].Inc()
	if enforce := d.cfg.enforce[why]; enforce < 100 && rand.Uint32N(100) >= enforce {
		return false
	}
	all := d.cluster.Endpoints()
	out := countEjected(all)
	if 100*(out+1) > int(d.cfg.maxPercent)*len(all) && (!d.cfg.atLeastOne || out != 0) {
		d.overflow.Inc()
		return false
	}
	e.ejected.Store(true)
	m.ejectedAt = time.Now()
	if d.cfg.base*time.Duration(m.backoff+1) <= max(d.cfg.max, d.cfg.base)+d.cfg.base {
		m.backoff++
	}
	m.jitter = 0
	if d.cfg.jitter > 0 {
		m.jitter = rand.N(d.cfg.jitter + 1)
	}
	d.enforced[why].Inc()
	d.active.counter.Inc()
	d.active.gauge.Set(int64(out + 1))
	return true
}

func countEjected(all []*Endpoint) int {
	n := 0
	for _, e := range all {
		if e.ejected.Load() {
			n++
		}
	}
	return n
}

// membership brings the gauge up to date after hosts have gone.
func (d *detector) membership(c *Cluster) {
	if d != nil && d.active != nil {
		d.active.gauge.Set(int64(countEjected(c.Endpoints())))
	}
}

// sweep runs once an interval: hosts whose time is over come back, and rates are compared.
func (d *detector) sweep() {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return
	}
	now, changed := time.Now(), false
	all := d.cluster.Endpoints()
	for _, e := range all {
		m := &e.monitor
		switch {
		case !e.ejected.Load():
			if m.backoff > 0 {
				m.backoff--
			}
		case now.Sub(m.ejectedAt) >= min(d.cfg.base*time.Duration(m.backoff), max(d.cfg.max, d.cfg.base))+m.jitter:
			m.serverErrors.Store(0)
			m.gatewayErrors.Store(0)
			m.localErrors.Store(0)
			e.ejected.Store(false)
			changed = true
		}
	}
	d.active.gauge.Set(int64(countEjected(all)))
	changed = d.rates(all) || changed
	d.timer.Reset(d.cfg.interval)
	d.mu.Unlock()
	if changed {
		d.cluster.rebuild()
	}
}
