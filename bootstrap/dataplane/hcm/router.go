package hcm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// forward is the router filter: it does what the route says.
func (s *Stream) forward() {
	if s.route == nil {
		s.answer(&reply{status: http.StatusNotFound, flags: accesslog.NoRouteFound, details: "route_not_found"})
		return
	}
	if t := s.route.vhost.requireTLS; t != routev3.VirtualHost_NONE && s.scheme != "https" {
		s.answer(&reply{
			status: http.StatusMovedPermanently, details: "ssl_redirect",
			header: http.Header{"Location": {"https://" + s.authority + s.path}},
		})
		return
	}
	switch {
	case s.route.direct != nil:
		s.answer(&reply{status: s.route.direct.status, body: s.route.direct.body, details: "direct_response"})
	case s.route.redirect != nil:
		s.answer(&reply{
			status: s.route.redirect.code, details: "direct_response",
			header: http.Header{"Location": {s.route.redirect.location(s)}},
		})
	default:
		s.toCluster(s.route.forward)
	}
}

func (s *Stream) toCluster(f *forwardAction) {
	if s.cluster == nil {
		s.answer(&reply{status: f.notFound, flags: accesslog.NoClusterFound, details: "cluster_not_found"})
		return
	}
	end, err := s.cluster.BeginRequest()
	if err != nil {
		s.answer(overflow())
		return
	}
	defer end()
	s.cluster.Stats.Requests.Inc()
	s.rewrite(f)
	if f.timeout > 0 {
		t := time.AfterFunc(f.timeout, func() { s.stop(errTimeout) })
		defer t.Stop()
	}
	if f.maxDuration > 0 {
		t := time.AfterFunc(f.maxDuration, func() { s.stop(errMaxStream) })
		defer t.Stop()
	}
	resp, cancel, rep := s.attempt(f)
	defer cancel()
	if rep != nil {
		s.answer(rep)
		return
	}
	s.deliver(resp)
}

func overflow() *reply {
	return &reply{
		status: http.StatusServiceUnavailable, flags: accesslog.UpstreamOverflow, details: "overflow",
		body:   "upstream connect error or disconnect/reset before headers. reset reason: overflow",
		header: http.Header{"X-Envoy-Overloaded": {"true"}},
	}
}

// rewrite turns the request into what the upstream is to see.
func (s *Stream) rewrite(f *forwardAction) {
	h := s.req.Header
	upgrade := s.upgradeType()
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if n := http.CanonicalHeaderKey(strings.TrimSpace(name)); n != "Upgrade" && n != "Te" && n != "Close" && n != "Keep-Alive" {
				delete(h, n)
			}
		}
	}
	for _, n := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade", "Trailer", "Content-Length", "Expect"} {
		delete(h, n)
	}
	if te, ok := h["Te"]; ok {
		delete(h, "Te")
		for _, v := range te {
			if strings.Contains(strings.ToLower(v), "trailers") {
				h["Te"] = []string{"trailers"}
			}
		}
	}
	if upgrade != "" {
		h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{upgrade}
	}
	if s.weighted != nil {
		s.weighted.ops.request(s)
	}
	s.route.ops.request(s)
	s.route.vhost.headers.request(s)
	s.table.headers.request(s)
	before := s.authority
	switch {
	case s.weighted != nil && s.weighted.host != "":
		s.authority = s.weighted.host
	case f.hostLiteral != "":
		s.authority = f.hostLiteral
	}
	if f.appendHost && s.authority != before {
		h["X-Forwarded-Host"] = append(h["X-Forwarded-Host"], before)
	}
	if p := f.rewritten(s); p != s.path {
		s.original = s.path
		h["X-Envoy-Original-Path"] = []string{s.path}
		s.path = p
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // keeps client libraries from adding their own
	}
}

// upgradeType returns the protocol the client wants to switch to where the route and the manager allow it.
func (s *Stream) upgradeType() string {
	h := s.req.Header
	up := h.Get("Upgrade")
	if up == "" || s.req.ProtoMajor != 1 {
		return ""
	}
	wants := false
	for _, v := range h["Connection"] {
		wants = wants || strings.Contains(strings.ToLower(v), "upgrade")
	}
	allowed := s.m.upgrades[strings.ToLower(up)]
	if s.route != nil && s.route.forward != nil {
		if a, ok := s.route.forward.upgrades[strings.ToLower(up)]; ok {
			allowed = a
		}
	}
	if !wants || !allowed {
		return ""
	}
	return up
}

// outgoing builds the request for one attempt.
func (s *Stream) outgoing(ctx context.Context, body *replayBody, f *forwardAction) *http.Request {
	out := &http.Request{
		Method: s.req.Method, Header: s.req.Header, Host: s.authority, ContentLength: s.req.ContentLength,
		Trailer: s.req.Trailer, RequestURI: s.path, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if f.hostAuto && s.host.Hostname != "" {
		out.Host = s.host.Hostname
	}
	out.URL = &url.URL{Scheme: "http", Host: out.Host, Opaque: s.path}
	if strings.HasPrefix(s.path, "//") {
		out.URL = &url.URL{Scheme: "http", Host: out.Host}
		p, q, _ := strings.Cut(s.path, "?")
		out.URL.Path, out.URL.RawQuery = p, q
		if un, err := url.PathUnescape(p); err == nil {
			out.URL.Path, out.URL.RawPath = un, p
		}
	}
	if body != nil {
		out.Body = body.reader()
	}
	if s.attempts > 1 {
		// Whoever writes the attempt before may still be reading its headers.
		out.Header = maps.Clone(out.Header)
	}
	if s.route.vhost.attemptCount {
		out.Header["X-Envoy-Attempt-Count"] = []string{strconv.Itoa(s.attempts)}
	}
	s.trace = &upstream.Trace{}
	return out.WithContext(upstream.WithTrace(ctx, s.trace))
}

// attempt tries until there is a response to deliver or a reply to send. cancel must be called when the response has
// been delivered.
func (s *Stream) attempt(f *forwardAction) (*http.Response, func(), *reply) {
	var body *replayBody
	if s.req.Body != nil && s.req.Body != http.NoBody && s.req.ContentLength != 0 {
		body = newReplayBody(s.req.Body, f.retry != nil && f.retry.max > 0)
	}
	s.upStart = time.Now()
	var tried []*cluster.Endpoint
	for {
		s.attempts++
		choice := cluster.Choice{Original: s.conn.Local}
		if f.retry != nil && f.retry.avoid && len(tried) > 0 {
			choice.Attempts = f.retry.hostAttempts
			choice.Avoid = func(e *cluster.Endpoint) bool {
				for _, t := range tried {
					if t == e {
						return true
					}
				}
				return false
			}
		}
		host, err := s.cluster.Pick(choice)
		if err != nil {
			return nil, func() {}, &reply{
				status: http.StatusServiceUnavailable, flags: accesslog.NoHealthyUpstream, details: "no_healthy_upstream",
				body: "no healthy upstream",
			}
		}
		tried = append(tried, host)
		s.host = host
		resp, cancel, uerr := s.try(f, host, body)
		if uerr == nil {
			if !s.mayRetry(f, body) || !f.retry.response(resp) {
				if f.retry != nil && f.retry.response(resp) && f.retry.max > 0 && s.attempts > f.retry.max {
					s.flags |= accesslog.UpstreamRetryLimitExceeded
				}
				return resp, cancel, nil
			}
			_ = resp.Body.Close()
			cancel()
		} else {
			cancel()
			if s.ctx.Err() != nil || !s.mayRetry(f, body) || !f.retry.failure(uerr) {
				return nil, func() {}, s.failed(f, uerr)
			}
		}
		if !s.pause(f) {
			return nil, func() {}, s.failed(f, &upstream.Error{Stage: upstream.Cancelled, Err: context.Cause(s.ctx)})
		}
	}
}

func (s *Stream) mayRetry(f *forwardAction, body *replayBody) bool {
	return f.retry != nil && s.attempts <= f.retry.max && (body == nil || body.canReplay()) && s.upgradeHeader() == ""
}

func (s *Stream) upgradeHeader() string { return s.req.Header.Get("Upgrade") }

// pause waits before a retry. It reports false when the request is over.
func (s *Stream) pause(f *forwardAction) bool {
	end, err := s.cluster.BeginRetry()
	if err != nil {
		return false
	}
	defer end()
	s.cluster.Stats.Retry.Inc()
	t := time.NewTimer(f.retry.backoff(s.attempts))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// try makes one attempt on host.
func (s *Stream) try(f *forwardAction, host *cluster.Endpoint, body *replayBody) (*http.Response, func(), *upstream.Error) {
	ctx, stop := context.WithCancelCause(s.ctx)
	var perTry *time.Timer
	if f.retry != nil && f.retry.perTry > 0 {
		perTry = time.AfterFunc(f.retry.perTry, func() { stop(errPerTry) })
	}
	host.Active.Add(1)
	host.Requests.Add(1)
	cancel := func() {
		if perTry != nil {
			perTry.Stop()
		}
		stop(nil)
		host.Active.Add(-1)
	}
	req := s.outgoing(ctx, body, f)
	resp, err := s.cluster.RoundTrip(host, req, s.req.ProtoMajor, cluster.ConnectOptions{ALPN: s.alpn, SNI: stripPort(req.Host)})
	if err == nil {
		if perTry != nil {
			perTry.Stop() // it covers the time to the response's head
		}
		if c := resp.StatusCode / 100; c >= 1 && c <= 5 {
			s.cluster.Stats.Status[c].Inc()
		}
		if resp.StatusCode >= 500 {
			host.Errors.Add(1)
		} else {
			host.Success.Add(1)
		}
		return resp, cancel, nil
	}
	host.Errors.Add(1)
	var ue *upstream.Error
	if !errors.As(err, &ue) {
		ue = &upstream.Error{Stage: upstream.BeforeResponse, Err: err}
	}
	if cause := context.Cause(ctx); cause != nil {
		ue = &upstream.Error{Stage: upstream.Cancelled, Err: cause}
		if errors.Is(cause, errPerTry) {
			ue.Stage = upstream.Timeout
			s.cluster.Stats.PerTry.Inc()
		}
	}
	return nil, cancel, ue
}

// failed turns the last failure into the reply that Envoy would give.
func (s *Stream) failed(f *forwardAction, e *upstream.Error) *reply {
	switch {
	case errors.Is(e.Err, errTimeout), errors.Is(e.Err, errPerTry):
		s.cluster.Stats.Timeout.Inc()
		return &reply{
			status: http.StatusGatewayTimeout, flags: accesslog.UpstreamRequestTimeout, body: "upstream request timeout",
			details: map[bool]string{true: "upstream_per_try_timeout", false: "response_timeout"}[errors.Is(e.Err, errPerTry)],
		}
	case errors.Is(e.Err, errStreamIdle):
		return &reply{
			status: http.StatusRequestTimeout, flags: accesslog.StreamIdleTimeout, body: "stream timeout", details: "stream_idle_timeout",
		}
	case errors.Is(e.Err, errMaxStream):
		return &reply{
			status: http.StatusGatewayTimeout, flags: accesslog.UpstreamMaxStreamDurationReached,
			details: "upstream_max_stream_duration_reached", body: "upstream max stream duration reached",
		}
	case e.Stage == upstream.Cancelled:
		s.flags |= accesslog.DownstreamConnectionTermination
		s.details = "downstream_remote_disconnect"
		return &reply{}
	case errors.Is(e.Err, cluster.ErrOverflow):
		return overflow()
	}
	if f.retry != nil && f.retry.max > 0 && s.attempts > f.retry.max {
		s.flags |= accesslog.UpstreamRetryLimitExceeded
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
