package hcm

import (
	"context"
	"net/http"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/http1"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

type connKey struct{}

// withConn ties a connection's facts to the context of its requests.
func withConn(ctx context.Context, c *network.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// serveStream is the http.Handler beneath HTTP/2.
func (m *Manager) serveStream(w http.ResponseWriter, r *http.Request) {
	conn, _ := r.Context().Value(connKey{}).(*network.Conn)
	s := &Stream{m: m, conn: conn}
	s.life.conn = conn
	defer context.AfterFunc(r.Context(), func() { s.stop(context.Canceled) })()
	m.serving.Add(1)
	defer m.serving.Add(-1)
	s.begin(w, r)
	s.serve() //nolint:contextcheck // a mirrored request outlives the one that it is a copy of
	if f, ok := w.(http.Flusher); ok && isDraining(conn) {
		f.Flush() // the answer would go out after the return, when nobody waits for it
	}
}

// stop ends the stream for a reason, which context.Cause(s.ctx) tells; nil stands for an orderly end.
func (s *Stream) stop(cause error) { s.life.stop(cause) }

// begin prepares s, whose manager and connection are set, for a request.
func (s *Stream) begin(w http.ResponseWriter, r *http.Request) {
	s.w, s.req, s.start, s.ctx, s.trace = w, r, time.Now(), &s.life, &s.firstTrace
	s.authority, s.path, s.remote, s.requestLength = r.Host, requestPath(r), s.conn.Remote, r.ContentLength
	s.received.ReadCloser, s.received.stream, s.received.want = r.Body, s, r.ContentLength
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		s.received.ended.Store(&s.start)
	}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &s.received
	}
}

// serve takes the request through the filters to its end.
func (s *Stream) serve() {
	m := s.m
	m.stats.total.Inc()
	m.stats.active.Inc()
	defer s.finish()
	if m.maxStream > 0 {
		s.bound = time.AfterFunc(m.maxStream, func() { s.stop(errMaxStream) })
		defer s.bound.Stop()
	}
	if m.streamIdle > 0 {
		s.idleFor = m.streamIdle
		s.idle = time.AfterFunc(m.streamIdle, func() { s.stop(errStreamIdle) })
	}
	defer s.stopIdle()
	if s.req.ProtoMajor > 1 && !s.validHTTP2() {
		s.answer(&reply{status: http.StatusBadRequest, details: "http2.violation.of.messaging.rule"})
		return
	}
	if rep := s.prepare(); rep != nil {
		s.answer(rep)
		return
	}
	s.pick()
	if m.tracing != nil {
		s.beginSpan()
	}
	if !s.setUpgrade() {
		s.answer(&reply{status: http.StatusForbidden, details: "upgrade_failed"})
		return
	}
	for i := range m.filters {
		f := m.filters[i].request
		if f == nil || s.skip&(1<<i) != 0 {
			continue
		}
		if rep := f(s); rep != nil {
			s.answer(rep)
			return
		}
	}
	// The router filter is the last, by setFilters.
	s.forward()
}

// validHTTP2 reports whether an HTTP/2 request could have come over HTTP/1, as it may have to go on so. Its authority
// stands in place of its host header.
func (s *Stream) validHTTP2() bool {
	h := s.req.Header
	hosts := h["Host"]
	delete(h, "Host")
	target := s.path
	if s.req.Method == http.MethodConnect {
		target = s.authority
	}
	return len(hosts) < 2 && http1.ValidHost(s.authority) && http1.ValidStart(s.req.Method, target)
}

// pick finds the route; without one the router answers 404. A filter that has changed what routes look at calls it again
// (clear_route_cache).
func (s *Stream) pick() {
	if s.table == nil {
		s.table = s.m.table.Load()
	}
	s.route, s.weighted, s.cluster, s.clusterN = nil, nil, nil, ""
	s.find()
	s.skip = s.m.disabled
	if s.table == nil || !s.overrides() {
		return
	}
	for i := range s.m.filters {
		switch s.perFilter(s.m.filters[i].name).(type) {
		case nil:
		case disabledPerRoute:
			s.skip |= 1 << i
		default:
			s.skip &^= 1 << i
		}
	}
}

func (s *Stream) find() {
	if s.table == nil {
		return
	}
	h := s.table.host(s.authority)
	if h == nil {
		return
	}
	s.route = h.find(s)
	if s.route == nil || s.route.forward == nil {
		return
	}
	s.clusterN, s.weighted = s.route.forward.choose(s)
	s.cluster = s.m.env.Clusters.Get(s.clusterN)
}

// overrides reports whether any level of the route has something to say about filters.
func (s *Stream) overrides() bool {
	return len(s.table.perFilter) > 0 || s.route != nil && (len(s.route.perFilter) > 0 || len(s.route.vhost.perFilter) > 0) ||
		s.weighted != nil && len(s.weighted.perFilter) > 0
}

// perFilter returns the route's configuration for a filter by name: weighted cluster, route, virtual host, then route
// configuration.
func (s *Stream) perFilter(name string) any {
	if s.weighted != nil {
		if c, ok := s.weighted.perFilter[name]; ok {
			return c
		}
	}
	if s.route != nil {
		if c, ok := s.route.perFilter[name]; ok {
			return c
		}
		if c, ok := s.route.vhost.perFilter[name]; ok {
			return c
		}
	}
	if s.table == nil {
		return nil
	}
	return s.table.perFilter[name]
}

// answer sends a response made here, through the response filters. A reply without status only records what happened.
func (s *Stream) answer(r *reply) {
	s.flags |= r.flags
	if s.details == "" {
		s.details = r.details
	}
	if r.status == 0 {
		return // nobody is there to read it
	}
	h := r.header
	if h == nil {
		h = http.Header{}
	}
	if s.isGRPC() && (r.status != http.StatusOK || r.grpc != "") {
		h = grpcReply(r)
		r = &reply{status: http.StatusOK}
	} else if r.body != "" && first(h, "Content-Type") == "" {
		h["Content-Type"] = []string{"text/plain"}
	}
	s.writeHead(r.status, h, int64(len(r.body)), false)
	if r.body != "" && s.req.Method != http.MethodHead {
		n, _ := s.w.Write([]byte(r.body))
		s.sent += uint64(n)
	}
}

// moved notes that bytes of the stream have moved, for the idle timeout.
func (s *Stream) moved() {
	if s.idle != nil {
		s.idle.Reset(s.idleFor)
	}
}

func (s *Stream) stopIdle() {
	if s.idle != nil {
		s.idle.Stop()
	}
}

// finish logs the request and counts it.
func (s *Stream) finish() {
	s.end = time.Now()
	if s.status == 0 && s.flags == 0 {
		s.flags |= accesslog.DownstreamConnectionTermination
		if s.details == "" {
			s.details = "downstream_remote_disconnect"
		}
		s.m.stats.reset.Inc()
	}
	s.stop(nil)
	m := s.m
	m.stats.count(s)
	s.cachedEntry = nil
	for i := range m.filters {
		if f := m.filters[i].done; f != nil && s.skip&(1<<i) == 0 {
			f(s)
		}
	}
	if s.span != nil {
		s.endSpan()
	}
	if len(m.loggers) > 0 {
		e := s.entry()
		for _, l := range m.loggers {
			l.Log(e)
		}
	}
}

func (s *Stream) isGRPC() bool {
	return isGRPCType(first(s.req.Header, "Content-Type"))
}
