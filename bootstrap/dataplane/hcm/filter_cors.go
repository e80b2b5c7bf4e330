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
	origins                          match.String
	methods, headers, expose, maxAge string
	credentials                      bool
	forwardUnmatched                 bool
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
	out := &corsPolicy{
		origins: origins, methods: p.GetAllowMethods(), headers: p.GetAllowHeaders(), expose: p.GetExposeHeaders(),
		maxAge: p.GetMaxAge(), credentials: p.GetAllowCredentials().GetValue(),
		forwardUnmatched: p.GetForwardNotMatchingPreflights() == nil || p.GetForwardNotMatchingPreflights().GetValue(),
	}
	if f := p.GetFilterEnabled(); f != nil {
		out.enabled = fraction(f.GetDefaultValue())
	}
	return out, nil
}

// newCORS answers preflight requests and marks responses, where the route has a policy.
func newCORS(_ *Manager, name string, _ *anypb.Any) (filter, error) {
	f := filter{name: name}
	f.request = func(s *Stream) *reply {
		p, _ := s.perFilter(name).(*corsPolicy)
		origin := s.req.Header.Get("Origin")
		if p == nil || origin == "" || (p.enabled != nil && !p.enabled()) {
			return nil
		}
		preflight := s.req.Method == http.MethodOptions && s.req.Header.Get("Access-Control-Request-Method") != ""
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
		set("Access-Control-Allow-Methods", p.methods)
		set("Access-Control-Allow-Headers", p.headers)
		set("Access-Control-Max-Age", p.maxAge)
		if p.credentials {
			set("Access-Control-Allow-Credentials", "true")
		}
		return &reply{status: http.StatusOK, header: h, details: "cors_response"}
	}
	f.response = func(s *Stream, _ int, h http.Header) {
		p, _ := s.perFilter(name).(*corsPolicy)
		origin := s.req.Header.Get("Origin")
		if p == nil || origin == "" || p.origins == nil || !p.origins(origin) {
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
