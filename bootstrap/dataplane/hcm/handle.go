package hcm

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

type connKey struct{}

// withConn ties a connection's facts to the context of its requests.
func withConn(ctx context.Context, c *network.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// serveStream is the http.Handler beneath both codecs.
func (m *Manager) serveStream(w http.ResponseWriter, r *http.Request) {
	conn, _ := r.Context().Value(connKey{}).(*network.Conn)
	s := &Stream{
		m: m, conn: conn, w: w, req: r, start: time.Now(), authority: r.Host, path: requestPath(r), remote: conn.Remote,
		requestLength: r.ContentLength, trace: &upstream.Trace{},
	}
	s.ctx, s.stop = context.WithCancelCause(r.Context())
	s.received.ReadCloser, s.received.moved, s.received.want = r.Body, s.moved, r.ContentLength
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		s.received.ended.Store(&s.start)
	}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &s.received
	}
	m.stats.total.Inc()
	m.stats.active.Inc()
	defer s.finish()
	if m.maxStream > 0 {
		t := time.AfterFunc(m.maxStream, func() { s.stop(errMaxStream) })
		defer t.Stop()
	}
	if m.streamIdle > 0 {
		s.idle = time.AfterFunc(m.streamIdle, func() { s.stop(errStreamIdle) })
		defer s.idle.Stop()
	}
	if rep := s.prepare(); rep != nil {
		s.answer(rep)
		return
	}
	s.pick()
	for i := range m.filters {
		f := m.filters[i].request
		if f == nil {
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

var (
	errMaxStream  = errors.New("max stream duration")
	errStreamIdle = errors.New("stream timeout")
	errTimeout    = errors.New("upstream request timeout")
	errPerTry     = errors.New("upstream per try timeout")
)

// pick finds the route; without one the router answers 404.
func (s *Stream) pick() {
	s.table = s.m.table.Load()
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

// perFilter returns the route's configuration for a filter by name: weighted cluster, route, then virtual host.
func (s *Stream) perFilter(name string) any {
	if s.weighted != nil {
		if c, ok := s.weighted.perFilter[name]; ok {
			return c
		}
	}
	if s.route == nil {
		return nil
	}
	if c, ok := s.route.perFilter[name]; ok {
		return c
	}
	return s.route.vhost.perFilter[name]
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
	if s.isGRPC() && r.status != http.StatusOK {
		h = grpcReply(r)
		r = &reply{status: http.StatusOK}
	} else if r.body != "" && h.Get("Content-Type") == "" {
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
		s.idle.Reset(s.m.streamIdle)
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
	m.stats.active.Dec()
	m.stats.duration.Observe(float64(s.end.Sub(s.start)) / float64(time.Millisecond))
	if c := s.status / 100; c >= 1 && c <= 5 {
		m.stats.status[c].Inc()
	}
	s.cachedEntry = nil
	for i := range m.filters {
		if f := m.filters[i].done; f != nil {
			f(s)
		}
	}
	if len(m.loggers) > 0 {
		e := s.entry()
		for _, l := range m.loggers {
			l.Log(e)
		}
	}
}

func (s *Stream) isGRPC() bool {
	return isGRPCType(s.req.Header.Get("Content-Type"))
}
