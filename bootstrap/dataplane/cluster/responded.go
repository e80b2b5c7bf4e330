package cluster

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// responses count what endpoints have answered, code by code, and how long it took.
type responses struct {
	registry *stats.Registry
	scope    stats.Scope
	time     *stats.Histogram
	codes    [600]atomic.Pointer[stats.Counter]
}

func newResponses(r *stats.Registry, sc stats.Scope) *responses {
	return &responses{registry: r, scope: sc, time: r.Histogram(sc, "upstream_rq_time")}
}

// Responded counts a response that clients have got, and the time from when the router began.
func (s *Stats) Responded(status int, took time.Duration) {
	r := s.responses
	if r == nil {
		return
	}
	r.time.Observe(float64(took) / float64(time.Millisecond))
	if status < 100 || status >= len(r.codes) {
		return
	}
	c := r.codes[status].Load()
	if c == nil {
		c = r.registry.Counter(r.scope, "upstream_rq_"+strconv.Itoa(status))
		r.codes[status].Store(c)
	}
	c.Inc()
}
