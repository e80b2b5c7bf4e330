package hcm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// attempt tries until there is a response to deliver or a reply to send. cancel must be called when the response has
// been delivered. p is nil where nothing is tried twice.
func (s *Stream) attempt(p *retryPolicy, lim limits) (*http.Response, func(), *reply) {
	var body *replayBody
	if s.hasBody() {
		body = newReplayBody(s.req.Body, p != nil && p.max > 0)
	}
	s.upStart = time.Now()
	var tried []*cluster.Endpoint
	endRetry := nothing
	for {
		s.attempts++
		host, err := s.cluster.Pick(s.choice(p, tried))
		if err != nil {
			endRetry()
			return nil, nothing, &reply{
				status: http.StatusServiceUnavailable, flags: accesslog.NoHealthyUpstream, details: "no_healthy_upstream",
				body: "no healthy upstream",
			}
		}
		tried = append(tried, host)
		s.host = host
		resp, cancel, uerr := s.try(lim, host, body)
		endRetry()
		endRetry = nil
		again := p != nil && s.upgrade == "" && (uerr == nil && p.response(resp) || uerr != nil && s.ctx.Err() == nil && p.failure(uerr))
		if again && (body == nil || body.canReplay()) {
			endRetry = s.beginRetry(p)
			if endRetry != nil && body != nil && !body.retire() {
				endRetry() // it has grown too large meanwhile
				endRetry = nil
			}
		}
		if endRetry == nil {
			if uerr != nil {
				cancel()
				return nil, nothing, s.failed(uerr)
			}
			if s.attempts > 1 && resp.StatusCode < 500 {
				s.cluster.Stats.RetrySuccess.Inc()
			}
			return resp, cancel, nil
		}
		var h http.Header
		if uerr == nil {
			h = resp.Header
			_ = resp.Body.Close()
		}
		cancel()
		if !s.pause(p.backoff.delay(s.attempts, h)) {
			endRetry()
			return nil, nothing, s.failed(&upstream.Error{Stage: upstream.Cancelled, Err: context.Cause(s.ctx)})
		}
	}
}

// choice says which endpoints the next attempt should not go to.
func (s *Stream) choice(p *retryPolicy, tried []*cluster.Endpoint) cluster.Choice {
	c := s.wanted()
	if p == nil || len(tried) == 0 {
		return c
	}
	if p.avoid {
		c.Attempts = p.hostAttempts
		c.Avoid = func(e *cluster.Endpoint) bool {
			for _, t := range tried {
				if t == e {
					return true
				}
			}
			return false
		}
	}
	if p.priorities > 0 {
		// The set of priorities left out grows every so many attempts.
		for _, t := range tried[:len(tried)/p.priorities*p.priorities] {
			if t.Priority < 64 {
				c.AvoidPriorities |= 1 << t.Priority
			}
		}
	}
	return c
}

// beginRetry counts a retry. It gives nil, and leaves the reason in the flags, where there is none left.
func (s *Stream) beginRetry(p *retryPolicy) func() {
	if s.attempts > p.max {
		if p.max > 0 {
			s.flags |= accesslog.UpstreamRetryLimitExceeded
		}
		return nil
	}
	priority := s.route.forward.priority
	if s.cluster.BeginRetry(priority) != nil {
		s.flags |= accesslog.UpstreamOverflow
		return nil
	}
	s.cluster.Stats.Retry.Inc()
	return func() { s.cluster.EndRetry(priority) }
}

// pause waits before a retry. It reports false when the request is over.
func (s *Stream) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// try sends the request to host once.
func (s *Stream) try(lim limits, host *cluster.Endpoint, body *replayBody) (*http.Response, func(), *upstream.Error) {
	ctx, stop := s.tryContext(lim)
	host.Active.Add(1)
	host.Requests.Add(1)
	req := s.outgoing(body)
	s.newTrace()
	endTry, idle := s.tryTimers(lim, stop)
	resp, err := s.cluster.RoundTrip(host, req.WithContext(s.traced(ctx)), s.req.ProtoMajor,
		cluster.ConnectOptions{ALPN: s.alpn, SNI: stripPort(req.Host), Priority: s.route.forward.priority, Client: s.remote, Local: s.conn.Local})
	endTry() // it covers the time to the response's head
	cancel := func() {
		idle.stop()
		stop(nil)
		host.Active.Add(-1)
	}
	if err == nil {
		s.answered(host, resp)
		if c := resp.StatusCode / 100; c >= 1 && c <= 5 {
			s.cluster.Stats.Status[c].Inc()
		}
		if resp.StatusCode >= 500 {
			host.Errors.Add(1)
		} else {
			host.Success.Add(1)
		}
		if idle != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			resp.Body = &idleBody{ReadCloser: resp.Body, idle: idle, cause: func() error { return context.Cause(ctx) }}
		}
		return resp, cancel, nil
	}
	host.Errors.Add(1)
	var ue *upstream.Error
	if !errors.As(err, &ue) {
		ue = &upstream.Error{Stage: upstream.BeforeResponse, Err: err}
	}
	cause := context.Cause(ctx)
	if cause == nil {
		cause = s.ctx.Err() // which ctx hears of a little later
	}
	if cause != nil {
		ue = &upstream.Error{Stage: upstream.Cancelled, Err: cause}
		if errors.Is(cause, errPerTry) || errors.Is(cause, errPerTryIdle) {
			ue.Stage = upstream.Timeout
			s.cluster.Stats.PerTry.Inc()
		}
	}
	s.unanswered(host, ue)
	return nil, cancel, ue
}

// tryTimers arms what bounds one attempt. They run from when the attempt has a connection and the request is whole.
func (s *Stream) tryTimers(lim limits, stop context.CancelCauseFunc) (endTry func(), idle *idleTimer) {
	if lim.perTry <= 0 && lim.perTryIdle <= 0 {
		return nothing, nil
	}
	if lim.perTryIdle > 0 {
		idle = &idleTimer{d: lim.perTryIdle}
	}
	var ends []func()
	s.trace.Ready = func() {
		if len(ends) > 0 {
			return // a second connection after a stale one
		}
		ends = append(ends, s.afterRequest(lim.perTry, func() { stop(errPerTry) }))
		if idle != nil {
			ends = append(ends, s.afterRequest(time.Nanosecond, func() { idle.start(func() { stop(errPerTryIdle) }) }))
		}
	}
	return func() {
		for _, f := range ends {
			f()
		}
	}, idle
}

// idleBody keeps an idle timer from firing while a body moves.
type idleBody struct {
	io.ReadCloser
	idle  *idleTimer
	cause func() error
}

// Read implements io.Reader.
func (b *idleBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.idle.reset()
	if err != nil && errors.Is(b.cause(), errPerTryIdle) {
		err = errPerTryIdle
	}
	return n, err
}

// failed turns the last failure into the reply that Envoy would give.
func (s *Stream) failed(e *upstream.Error) *reply {
	switch {
	case errors.Is(e.Err, errTimeout), errors.Is(e.Err, errPerTry), errors.Is(e.Err, errPerTryIdle):
		s.cluster.Stats.Timeout.Inc()
		details := "response_timeout"
		if errors.Is(e.Err, errPerTry) {
			details = "upstream_per_try_timeout"
		} else if errors.Is(e.Err, errPerTryIdle) {
			details = "upstream_per_try_idle_timeout"
		}
		return &reply{
			status: http.StatusGatewayTimeout, flags: accesslog.UpstreamRequestTimeout, body: "upstream request timeout", details: details,
		}
	case e.Stage == upstream.Cancelled, errors.Is(e.Err, errStreamIdle), errors.Is(e.Err, errMaxStream):
		return s.over()
	case errors.Is(e.Err, cluster.ErrOverflow):
		return overflow()
	}
	reason, flag, detail := "connection termination", accesslog.UpstreamConnectionTermination, "connection_termination"
	switch e.Stage {
	case upstream.Connecting:
		reason, flag, detail = "connection failure", accesslog.UpstreamConnectionFailure, "connection_failure"
		if errors.Is(e.Err, context.DeadlineExceeded) {
			reason, detail = "connection timeout", "connection_timeout"
		}
		s.failure = e.Err.Error()
	case upstream.Refused:
		reason, flag, detail = "remote refused stream reset", accesslog.UpstreamRemoteReset, "remote_refused_stream_reset"
	default:
		s.cluster.Stats.RxReset.Inc()
	}
	text := "upstream connect error or disconnect/reset before headers. "
	if s.attempts > 1 {
		text += fmt.Sprintf("retried and the latest reset reason: %s", reason)
	} else {
		text += "reset reason: " + reason
	}
	if s.failure != "" {
		text += ", transport failure reason: " + s.failure
		detail += "|" + s.failure
	}
	return &reply{
		status: http.StatusServiceUnavailable, flags: flag, body: text,
		details: "upstream_reset_before_response_started{" + strings.ReplaceAll(detail, " ", "_") + "}",
	}
}

// over turns the end of the stream's context into a reply: a timeout of the stream, or a client that has gone.
func (s *Stream) over() *reply {
	switch cause := context.Cause(s.ctx); {
	case errors.Is(cause, errStreamIdle):
		return &reply{
			status: s.late(), flags: accesslog.StreamIdleTimeout, body: "stream timeout", details: "stream_idle_timeout",
		}
	case errors.Is(cause, errMaxStream):
		return &reply{
			status: s.late(), flags: accesslog.DurationTimeout, body: "downstream duration timeout", grpc: "4",
			details: "max_duration_timeout",
		}
	case errors.Is(cause, errRequest):
		s.h1.closeAfter = true
		return &reply{status: http.StatusRequestTimeout, body: "request timeout", details: "request_overall_timeout"}
	case errors.Is(cause, errBase64):
		s.h1.closeAfter = true
		return &reply{status: http.StatusBadRequest, body: "Bad gRPC-web request, invalid base64 data.", details: "grpc_base_64_decode_failed"}
	case errors.Is(cause, errMalformed):
		s.h1.closeAfter = true
		return &reply{status: http.StatusBadRequest, flags: accesslog.DownstreamProtocolError, details: "http1.codec_error"}
	}
	return &reply{flags: accesslog.DownstreamConnectionTermination, details: "downstream_remote_disconnect"}
}

// late is the status for a stream that took too long: it depends on who kept whom waiting.
func (s *Stream) late() int {
	if s.received.ended.Load() != nil {
		return http.StatusGatewayTimeout
	}
	return http.StatusRequestTimeout
}
