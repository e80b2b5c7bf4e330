package hcm

import (
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
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
	s.noHeaders = s.m.suppressHeaders
	if s.cluster == nil {
		s.answer(&reply{status: f.notFound, flags: accesslog.NoClusterFound, details: "cluster_not_found"})
		return
	}
	s.cluster.Await(s.ctx)
	if s.cluster.BeginRequest(f.priority) != nil {
		s.answer(overflow())
		return
	}
	defer s.cluster.EndRequest(f.priority)
	s.cluster.Stats.Requests.Inc()
	s.setIdle(f.timeouts.idle)
	defer f.timeouts.bound(s)()
	lim := f.timeouts.limits(s, f.retry)
	s.rewrite(f)
	policy := f.retries(s)
	if len(f.mirrors) > 0 && s.upgrade == "" {
		s.mirror(f, lim.request)
		if tee, ok := s.req.Body.(*teeBody); ok {
			defer tee.end()
		}
	}
	if s.req.Method == http.MethodConnect {
		s.connect(f)
		return
	}
	if lim.request > 0 {
		defer s.afterRequest(lim.request, func() { s.stop(errTimeout) })()
	}
	resp, cancel, rep := s.attempt(policy, lim) //nolint:bodyclose // copied, and closed, as the stream's answer
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

// hopHeaders end here.
var hopHeaders = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade", "Trailer", "Content-Length", "Expect",
}

// rewrite turns the request into what the upstream is to see.
func (s *Stream) rewrite(f *forwardAction) {
	h := s.req.Header
	for _, n := range hopHeaders {
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
	if s.upgrade != "" && s.req.Method != http.MethodConnect {
		h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{s.upgrade}
	}
	s.requestOps()
	if a := f.rewrites.authority(s); a != "" {
		s.setAuthority(a, f.rewrites.appendHost)
	}
	if p, ruled := f.rewrites.path(s); ruled {
		s.original = s.path
		if _, ok := h["X-Envoy-Original-Path"]; !ok && !s.noHeaders {
			h["X-Envoy-Original-Path"] = []string{s.path}
		}
		s.path = p
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // keeps client libraries from adding their own
	}
}

// requestOps applies the header rules of all levels, the most specific first unless the table says otherwise.
func (s *Stream) requestOps() {
	if s.weighted != nil {
		s.weighted.ops.request(s)
	}
	if s.table.specific {
		s.table.headers.request(s)
		s.route.vhost.headers.request(s)
		s.route.ops.request(s)
		return
	}
	s.route.ops.request(s)
	s.route.vhost.headers.request(s)
	s.table.headers.request(s)
}

// responseOps does the same for the response.
func (s *Stream) responseOps(h http.Header) {
	if s.route == nil {
		return
	}
	if s.weighted != nil {
		s.weighted.ops.response(s, h)
	}
	if s.table.specific {
		s.table.headers.response(s, h)
		s.route.vhost.headers.response(s, h)
		s.route.ops.response(s, h)
		return
	}
	s.route.ops.response(s, h)
	s.route.vhost.headers.response(s, h)
	s.table.headers.response(s, h)
}

// setUpgrade finds out which protocol the client wants to switch to; for CONNECT that is "connect". It reports whether
// route and manager allow that.
func (s *Stream) setUpgrade() bool {
	if s.req.Method == http.MethodConnect {
		s.upgrade = "connect"
	} else {
		up := s.req.Header["Upgrade"]
		if len(up) == 0 || s.req.ProtoMajor != 1 || strings.EqualFold(up[0], "h2c") {
			return true // HTTP/2 is spoken by those that know it beforehand
		}
		wants := false
		for _, v := range s.req.Header["Connection"] {
			wants = wants || strings.Contains(strings.ToLower(v), "upgrade")
		}
		if !wants {
			return true
		}
		s.upgrade = up[0]
	}
	kind := strings.ToLower(s.upgrade)
	if s.route != nil && s.route.forward != nil {
		if allowed, ok := s.route.forward.upgrades[kind]; ok {
			return allowed
		}
	}
	return s.m.upgrades[kind]
}

// outgoing builds the request for one attempt.
func (s *Stream) outgoing(body *replayBody) *http.Request {
	if s.attempts > 1 {
		// Whoever writes the attempt before may still be reading its headers.
		s.req.Header = maps.Clone(s.req.Header)
	}
	if f := s.route.forward; f.rewrites.hostAuto && s.host.Hostname != "" && s.authority != s.host.Hostname {
		s.setAuthority(s.host.Hostname, f.rewrites.appendHost)
	}
	h := s.req.Header
	if s.route.vhost.attemptCount {
		h["X-Envoy-Attempt-Count"] = []string{strconv.Itoa(s.attempts)}
	}
	if s.span != nil {
		s.traceAttempt(h)
	}
	out := s.newRequest(h, s.authority)
	if body != nil {
		out.Body = body.reader()
	}
	return out
}

// newRequest builds a request to the current path, without body.
func (s *Stream) newRequest(h http.Header, host string) *http.Request {
	out := &http.Request{
		Method: s.req.Method, Header: h, Host: host, ContentLength: s.req.ContentLength,
		Trailer: s.req.Trailer, RequestURI: s.path, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	out.URL = &url.URL{Scheme: "http", Host: host, Opaque: s.path}
	if strings.HasPrefix(s.path, "//") {
		out.URL = &url.URL{Scheme: "http", Host: host}
		p, q, _ := strings.Cut(s.path, "?")
		out.URL.Path, out.URL.RawQuery = p, q
		if un, err := url.PathUnescape(p); err == nil {
			out.URL.Path, out.URL.RawPath = un, p
		}
	}
	return out
}
