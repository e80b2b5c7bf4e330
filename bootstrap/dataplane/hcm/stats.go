package hcm

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// httpStats are Envoy's counters of one connection manager, http.PREFIX.*, and of its router.
type httpStats struct {
	total, http1, http2, reset            *stats.Counter
	completed, timeout, rqHTTP1, rqHTTP2  *stats.Counter
	cx, cxDestroyed, cxTLS                *stats.Counter
	noRoute, noCluster, direct, redirects *stats.Counter
	routed                                *stats.Counter
	status                                [6]*stats.Counter
	active, cxActive                      *stats.Gauge
	duration, cxLength                    *stats.Histogram
}

func (m *Manager) setStats() {
	sc := stats.Scope{
		Name: "http." + m.name, Family: "envoy_http", Labels: stats.Label("http_conn_manager_prefix", m.name),
	}
	r := m.env.Stats
	c := func(n string) *stats.Counter { return r.Counter(sc, n) }
	m.stats = &httpStats{
		total: c("downstream_rq_total"), http1: c("downstream_cx_http1_total"), http2: c("downstream_cx_http2_total"),
		reset: c("downstream_rq_rx_reset"), completed: c("downstream_rq_completed"), timeout: c("downstream_rq_timeout"),
		rqHTTP1: c("downstream_rq_http1_total"), rqHTTP2: c("downstream_rq_http2_total"), cx: c("downstream_cx_total"),
		cxDestroyed: c("downstream_cx_destroy"), cxTLS: c("downstream_cx_ssl_total"), noRoute: c("no_route"), noCluster: c("no_cluster"),
		direct: c("rq_direct_response"), redirects: c("rq_redirect"), routed: c("rq_total"),
		active: r.Gauge(sc, "downstream_rq_active"), cxActive: r.Gauge(sc, "downstream_cx_active"),
		duration: r.Histogram(sc, "downstream_rq_time"), cxLength: r.Histogram(sc, "downstream_cx_length_ms"),
	}
	for i := 1; i < 6; i++ {
		m.stats.status[i] = c(fmt.Sprintf("downstream_rq_%dxx", i))
	}
}

// connected counts a connection; the result counts its end.
func (h *httpStats) connected(c *network.Conn) func() {
	h.cx.Inc()
	h.cxActive.Inc()
	if c.TLS != nil {
		h.cxTLS.Inc()
	}
	return func() {
		h.cxActive.Dec()
		h.cxDestroyed.Inc()
		h.cxLength.Observe(float64(time.Since(c.Start) / time.Millisecond))
	}
}

// count counts a request that has ended.
func (h *httpStats) count(s *Stream) {
	h.active.Dec()
	h.duration.Observe(float64(s.end.Sub(s.start)) / float64(time.Millisecond))
	if s.req.ProtoMajor == 2 {
		h.rqHTTP2.Inc()
	} else {
		h.rqHTTP1.Inc()
	}
	if c := s.status / 100; c >= 1 && c <= 5 {
		h.status[c].Inc()
		h.completed.Inc()
	}
	switch {
	case s.flags&accesslog.NoRouteFound != 0:
		h.noRoute.Inc()
	case s.flags&accesslog.NoClusterFound != 0:
		h.noCluster.Inc()
	case s.flags&accesslog.UpstreamRequestTimeout != 0:
		h.timeout.Inc()
	case s.cluster != nil:
		h.routed.Inc()
	case s.details == "direct_response" && s.status/100 == 3:
		h.redirects.Inc()
	case s.details == "direct_response":
		h.direct.Inc()
	}
	if s.cluster != nil && s.details == "via_upstream" && !s.upStart.IsZero() {
		s.cluster.Stats.Responded(s.status, s.end.Sub(s.upStart))
	}
}

// logger returns the logger of a part of the proxy.
func (e *Env) logger(part string) *slog.Logger {
	if e.Logger == nil {
		return e.Log
	}
	return e.Logger(part)
}

// reportDecision writes what access rules have decided, as Envoy does for those who look for the policy that matched.
func reportDecision(log *slog.Logger, s *Stream, denied bool, id string) {
	if !log.Enabled(s.ctx, slog.LevelDebug) {
		return
	}
	word := "allowed"
	if denied {
		word = "denied"
	}
	log.Debug("enforced "+word+", matched policy "+strings.TrimSpace(id), "remote", s.remote, "principal", firstOf(s.conn.PeerURIs()),
		"method", s.req.Method, "authority", s.authority, "path", s.path)
}
