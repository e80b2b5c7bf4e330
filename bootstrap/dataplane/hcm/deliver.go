package hcm

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// deliver sends an upstream response to the client.
func (s *Stream) deliver(resp *http.Response) {
	defer func() { _ = resp.Body.Close() }()
	s.details = "via_upstream"
	if resp.StatusCode == http.StatusSwitchingProtocols {
		s.tunnel(resp)
		return
	}
	h := resp.Header
	for n := range h {
		if upstream.IsHop(n) {
			delete(h, n)
		}
	}
	if len(s.cookies) > 0 {
		h["Set-Cookie"] = append(h["Set-Cookie"], s.cookies...)
	}
	// An answer to half a request has no service time.
	if from := s.requestEnd(); !s.noHeaders && !from.IsZero() {
		if from.Before(s.upStart) {
			from = s.upStart
		}
		ms := max(s.trace.Answered.Sub(from).Milliseconds(), 0)
		h["X-Envoy-Upstream-Service-Time"] = []string{strconv.FormatInt(ms, 10)}
	}
	if s.route.vhost.attemptResp {
		h["X-Envoy-Attempt-Count"] = []string{strconv.Itoa(s.attempts)}
	}
	length := resp.ContentLength
	if s.web != nil {
		length = -1
	}
	s.writeHead(resp.StatusCode, h, length, true)
	if s.web != nil {
		s.web.body(resp)
	}
	if err := s.copyBody(resp); err != nil {
		s.brokenResponse(err)
		return
	}
	if len(resp.Trailer) > 0 {
		s.setTrailer(resp.Trailer)
	}
	s.cluster.Stats.Success.Inc()
}

type upstreamError struct{ error }

func (e upstreamError) Unwrap() error { return e.error }

// copyBody streams the body, flushing whenever the upstream has paused.
func (s *Stream) copyBody(resp *http.Response) error {
	if s.req.Method == http.MethodHead {
		return nil
	}
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	flusher, _ := s.w.(http.Flusher)
	if resp.ContentLength < 0 && flusher != nil {
		flusher.Flush() // streams show their head at once
	}
	for {
		n, err := resp.Body.Read(*buf)
		if n > 0 {
			if _, werr := s.w.Write((*buf)[:n]); werr != nil {
				return werr
			}
			s.sent += uint64(n)
			if s.messages != nil {
				s.messages.sent((*buf)[:n])
			}
			s.moved()
			if flusher != nil && (resp.ContentLength < 0 || int64(s.sent) < resp.ContentLength) {
				flusher.Flush()
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return upstreamError{err}
		}
	}
}

// brokenResponse marks a response that ended too early and makes the client see that.
func (s *Stream) brokenResponse(err error) {
	var up upstreamError
	cause := context.Cause(s.ctx)
	switch {
	case errors.Is(cause, errTimeout):
		s.flags |= accesslog.UpstreamRequestTimeout
		s.details = "response_timeout"
	case errors.Is(err, errPerTryIdle):
		s.flags |= accesslog.UpstreamRequestTimeout
		s.details = "upstream_per_try_idle_timeout"
	case errors.Is(cause, errStreamIdle):
		s.flags |= accesslog.StreamIdleTimeout
		s.details = "stream_idle_timeout"
	case errors.Is(cause, errMaxStream):
		s.flags |= accesslog.DurationTimeout
		s.details = "max_duration_timeout"
	case errors.As(err, &up) && cause == nil:
		s.flags |= accesslog.UpstreamConnectionTermination
		s.details = "upstream_reset_after_response_started{connection_termination}"
	default:
		s.flags |= accesslog.DownstreamConnectionTermination
		s.details = "downstream_remote_disconnect"
		s.m.stats.reset.Inc()
	}
	if a, ok := s.w.(interface{ abort() }); ok {
		a.abort()
		return
	}
	s.finishAborted()
}

// finishAborted resets an HTTP/2 stream; the server takes this panic as the sign for it.
func (s *Stream) finishAborted() {
	panic(http.ErrAbortHandler)
}

// closeWrite passes on the end of one direction.
func closeWrite(c any) {
	if cw, ok := c.(interface{ CloseWrite() error }); ok {
		_ = cw.CloseWrite()
	}
}
