package hcm

import (
	"net/http"
	"strings"

	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// corsPolicy is one route's answer to cross-origin requests.
type corsPolicy struct {
	origins                          match.String // nil for no origin at all
	methods, headers, expose, maxAge string
	credentials                      bool
	forwardUnmatched                 bool
	off                              bool
	enabled                          func() bool
}

func corsPerRoute(body *anypb.Any) (any, error) {
	p := &corsv3.CorsPolicy{}
	if err := body.UnmarshalTo(p); err != nil {
		return nil, err
	}
	const known = "allow_origin_string_match allow_methods allow_headers expose_headers max_age allow_credentials " +
		"filter_enabled forward_not_matching_preflights"
	if err := fields.Check(p, known); err != nil {
		return nil, err
	}
	origins, err := match.CompileAny(p.GetAllowOriginStringMatch())
	if err != nil {
		return nil, err
	}
	if origins != nil && origins("*") {
		origins = func(string) bool { return true } // whatever takes a literal "*" is meant for everybody
	}
	out := &corsPolicy{
		origins: origins, methods: p.GetAllowMethods(), headers: p.GetAllowHeaders(), expose: p.GetExposeHeaders(),
		maxAge: p.GetMaxAge(), credentials: p.GetAllowCredentials().GetValue(),
		forwardUnmatched: p.GetForwardNotMatchingPreflights() == nil || p.GetForwardNotMatchingPreflights().GetValue(),
	}
	if f := p.GetFilterEnabled(); f != nil {
		out.enabled = fraction(f.GetDefaultValue())
		if f.GetDefaultValue().GetNumerator() == 0 {
			out.origins, out.off = nil, true
		}
	}
	return out, nil
}

// orAsked is what a policy allows, and for a policy that allows all what was asked for: with credentials, browsers
// take a "*" literally.
func orAsked(allowed, asked string) string {
	if allowed == "*" {
		return asked
	}
	return allowed
}

// newCORS answers preflight requests and marks responses, where the route has a policy.
func newCORS(_ *Manager, name string, _ *anypb.Any) (filter, error) {
	f := filter{name: name}
	f.request = func(s *Stream) *reply {
		p, _ := s.perFilter(name).(*corsPolicy)
		origin := first(s.req.Header, "Origin")
		if p == nil || origin == "" || p.off || (p.enabled != nil && !p.enabled()) {
			return nil
		}
		s.cors, s.origin = p, origin
		preflight := s.req.Method == http.MethodOptions && first(s.req.Header, "Access-Control-Request-Method") != ""
		if p.origins == nil || !p.origins(origin) {
			if preflight && !p.forwardUnmatched {
				return &reply{status: http.StatusOK, details: "cors_response"}
			}
			return nil
		}
		if !preflight {
			return nil
		}
		h := http.Header{"Access-Control-Allow-Origin": {origin}}
		set := func(k, v string) {
			if v != "" {
				h[k] = []string{v}
			}
		}
		set("Access-Control-Allow-Methods", orAsked(p.methods, s.req.Header.Get("Access-Control-Request-Method")))
		set("Access-Control-Allow-Headers", orAsked(p.headers, strings.Join(s.req.Header.Values("Access-Control-Request-Headers"), ",")))
		set("Access-Control-Max-Age", p.maxAge)
		if p.credentials {
			set("Access-Control-Allow-Credentials", "true")
		}
		return &reply{status: http.StatusOK, header: h, details: "cors_response"}
	}
	f.response = func(s *Stream, _ int, h http.Header) {
		p, origin := s.cors, s.origin
		if p == nil || p.origins == nil || !p.origins(origin) {
			return
		}
		h["Access-Control-Allow-Origin"] = []string{origin}
		if p.credentials {
			h["Access-Control-Allow-Credentials"] = []string{"true"}
		}
		if p.expose != "" {
			h["Access-Control-Expose-Headers"] = []string{strings.TrimSpace(p.expose)}
		}
	}
	return f, nil
}
