package hcm

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

var (
	errMaxStream  = errors.New("max stream duration")
	errStreamIdle = errors.New("stream timeout")
	errTimeout    = errors.New("upstream request timeout")
	errRequest    = errors.New("request timeout")
	errMalformed  = errors.New("malformed request body")
	errBase64     = errors.New("grpc-web: the body is not base64")
	errPerTry     = errors.New("upstream per try timeout")
	errPerTryIdle = errors.New("upstream per try idle timeout")
)

// timeoutRules are a route's. Unset limits are negative where zero means something else.
type timeoutRules struct {
	request    time.Duration // 0 for none
	grpc       time.Duration // most that grpc-timeout may ask for, 0 for no bound
	grpcOffset time.Duration
	useGRPC    bool // request is for others than gRPC
	idle       time.Duration
	// What follows stands in place of the above where max_stream_duration is set: it bounds the stream, not the response.
	stream       bool
	maxStream    time.Duration // -1 where the connection manager's counts
	streamGRPC   time.Duration // -1 where grpc-timeout is not looked at, 0 for no bound
	streamOffset time.Duration
}

func compileTimeouts(a *routev3.RouteAction) (timeoutRules, error) {
	out := timeoutRules{request: 15 * time.Second, idle: -1, maxStream: -1, streamGRPC: -1}
	if d := a.GetTimeout(); d != nil {
		out.request = d.AsDuration()
	}
	if d := a.GetIdleTimeout(); d != nil {
		out.idle = d.AsDuration()
	}
	//nolint:staticcheck // deprecated; istiod sends it
	if d := a.GetMaxGrpcTimeout(); d != nil {
		out.useGRPC, out.grpc, out.grpcOffset = true, d.AsDuration(), a.GetGrpcTimeoutOffset().AsDuration()
	}
	m := a.GetMaxStreamDuration()
	if m == nil {
		return out, nil
	}
	out.stream = true
	if d := m.GetMaxStreamDuration(); d != nil {
		out.maxStream = d.AsDuration()
	}
	if d := m.GetGrpcTimeoutHeaderMax(); d != nil {
		out.streamGRPC = d.AsDuration()
	}
	out.streamOffset = m.GetGrpcTimeoutHeaderOffset().AsDuration()
	return out, fields.Check(m, "max_stream_duration grpc_timeout_header_max grpc_timeout_header_offset")
}

// limits are what bounds one request.
type limits struct{ request, perTry, perTryIdle time.Duration }

// limits works out what counts for a request and tells the upstream.
func (r *timeoutRules) limits(s *Stream, p *retryPolicy) limits {
	var out limits
	h := s.req.Header
	grpc := false
	switch {
	case r.stream:
	case r.useGRPC && s.isGRPC():
		grpc = true
		d := grpcTimeout(h)
		if r.grpcOffset < d {
			d -= r.grpcOffset
		}
		if r.grpc > 0 && (d == 0 || d > r.grpc) {
			d = r.grpc
		}
		out.request = d
	default:
		out.request = r.request
	}
	if p != nil {
		out.perTry, out.perTryIdle = p.perTry, p.perTryIdle
	}
	// These are gone by now unless the client is trusted.
	const total, each, expected = "X-Envoy-Upstream-Rq-Timeout-Ms", "X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms", "X-Envoy-Expected-Rq-Timeout-Ms"
	if d, ok := milliseconds(h, expected); ok && s.m.respectExpected {
		out.request = d
	} else if d, ok := milliseconds(h, total); ok {
		out.request = d
		delete(h, total)
	}
	if d, ok := milliseconds(h, each); ok {
		out.perTry = d
		delete(h, each)
	}
	if out.request > 0 && out.perTry >= out.request {
		out.perTry = 0
	}
	asked := out.perTry
	if asked == 0 {
		asked = out.request
	}
	if asked > 0 {
		if !s.noHeaders {
			h[expected] = []string{strconv.FormatInt(asked.Milliseconds(), 10)}
		}
		if grpc {
			h["Grpc-Timeout"] = []string{toGRPCTimeout(asked)}
		}
	}
	return out
}

func milliseconds(h http.Header, name string) (time.Duration, bool) {
	v := h[name]
	if len(v) == 0 {
		return 0, false
	}
	n, err := strconv.ParseUint(v[0], 10, 32)
	return time.Duration(n) * time.Millisecond, err == nil
}

// bound ends the stream when its time is over. The result takes that back.
func (r *timeoutRules) bound(s *Stream) func() {
	if !r.stream {
		return nothing
	}
	d := r.maxStream
	if d >= 0 && s.bound != nil {
		s.bound.Stop() // that of the connection manager
	}
	if r.streamGRPC >= 0 {
		if asked := grpcTimeout(s.req.Header); asked > 0 {
			if r.streamGRPC > 0 && asked > r.streamGRPC {
				asked = r.streamGRPC
			}
			d = max(asked-r.streamOffset, 0)
			s.req.Header["Grpc-Timeout"] = []string{toGRPCTimeout(d)}
			d = max(d, time.Nanosecond)
		}
	}
	if d <= 0 {
		return nothing
	}
	t := time.AfterFunc(d-time.Since(s.start), func() { s.stop(errMaxStream) })
	return func() { t.Stop() }
}

func nothing() {}

// setIdle puts the route's idle timeout in place of the connection manager's.
func (s *Stream) setIdle(d time.Duration) {
	if d < 0 {
		return
	}
	if s.idle != nil {
		s.idle.Stop()
	}
	s.idleFor = d
	if d == 0 {
		s.idle = nil
		return
	}
	s.idle = time.AfterFunc(d, func() { s.stop(errStreamIdle) })
}

// grpcTimeout reads the grpc-timeout header, zero where there is none that is valid.
func grpcTimeout(h http.Header) time.Duration {
	v := h["Grpc-Timeout"]
	if len(v) == 0 || len(v[0]) < 2 || len(v[0]) > 9 {
		return 0
	}
	text := v[0]
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 32)
	if err != nil {
		return 0
	}
	var unit time.Duration
	switch text[len(text)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	}
	if unit > 0 && n > uint64(math.MaxInt64/unit) {
		return math.MaxInt64
	}
	d := time.Duration(n) * unit
	if d > 0 && d < time.Millisecond {
		return time.Millisecond
	}
	return d
}

// toGRPCTimeout writes a duration in at most eight digits.
func toGRPCTimeout(d time.Duration) string {
	n, unit := d.Milliseconds(), "m"
	for _, next := range []struct {
		by   int64
		unit string
	}{{1000, "S"}, {60, "M"}, {60, "H"}} {
		if n < 100_000_000 {
			break
		}
		n, unit = n/next.by, next.unit
	}
	return strconv.FormatInt(min(n, 99_999_999), 10) + unit
}

// afterRequest runs fn d after the request has come in whole. The result stops that.
func (s *Stream) afterRequest(d time.Duration, fn func()) func() {
	if d <= 0 {
		return nothing
	}
	if s.received.ended.Load() != nil {
		t := time.AfterFunc(d, fn)
		return func() { t.Stop() }
	}
	ctx, stop := context.WithCancel(s.ctx)
	s.received.onEnd(func() {
		t := time.AfterFunc(d, fn)
		context.AfterFunc(ctx, func() { t.Stop() })
	})
	return stop
}

// idleTimer calls a function once nothing has reset it for a while. Its methods take nil for one that never fires.
type idleTimer struct {
	d    time.Duration
	mu   sync.Mutex
	t    *time.Timer // nil before the start and after the end
	over bool        // it will not start any more
}

func (i *idleTimer) start(fn func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.over && i.t == nil {
		i.t = time.AfterFunc(i.d, fn)
	}
}

func (i *idleTimer) reset() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.t != nil {
		i.t.Reset(i.d)
	}
}

func (i *idleTimer) stop() {
	if i == nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over = true; i.t != nil {
		i.t.Stop()
		i.t = nil
	}
}
