package hcm

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/jwt"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/rpc"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
)

// jwtMetadata is where the claims of verified tokens are found by rules and routes.
const jwtMetadata = "envoy.filters.http.jwt_authn"

// jwtRules say which requests need which tokens.
type jwtRules struct {
	rules []jwtRule
	named map[string]*jwt.Requirement
}

type jwtRule struct {
	match   *route
	require *jwt.Requirement // nil requires nothing
}

// jwtNamed is a route's choice of a requirement by name.
type jwtNamed string

// newJWT refuses requests whose tokens are not good, and hands on what good ones say.
func newJWT(m *Manager, name string, body *anypb.Any) (filter, error) {
	p := &jwtv3.JwtAuthentication{}
	if err := body.UnmarshalTo(p); err != nil {
		return filter{}, err
	}
	const known = "providers rules bypass_cors_preflight requirement_map strip_failure_response stat_prefix"
	if err := fields.Check(p, known); err != nil {
		return filter{}, err
	}
	scope := "http." + m.name + ".jwt_authn"
	if p.GetStatPrefix() != "" {
		scope += "." + p.GetStatPrefix()
	}
	sc := stats.Scope{Name: scope, Family: "envoy_http_jwt_authn", Labels: stats.Label("http_conn_manager_prefix", m.name)}
	count := func(what string) *stats.Counter { return m.env.Stats.Counter(sc, what) }
	allowed, denied, bypassed := count("allowed"), count("denied"), count("cors_preflight_bypassed")
	set, err := jwt.Compile(p, fetchKeys(m, count("jwks_fetch_success"), count("jwks_fetch_failed")))
	if err != nil {
		return filter{}, err
	}
	for _, w := range set.Waits() {
		m.waits = append(m.waits, tlsctx.Wait{Ready: w})
	}
	rules, err := compileJWTRules(p, set)
	if err != nil {
		return filter{}, err
	}
	return filter{name: name, request: func(s *Stream) *reply {
		c := s.perFilter(name)
		if _, off := c.(disabledPerRoute); off {
			return nil
		}
		if p.GetBypassCorsPreflight() && isPreflight(s) {
			bypassed.Inc()
			return nil
		}
		require, rep := rules.find(s, c)
		if rep != nil {
			denied.Inc()
			return rep
		}
		if require == nil {
			allowed.Inc()
			return nil
		}
		uri := s.scheme + "://" + s.authority + s.path[:min(len(s.path), maxRealmPath)]
		if status := s.verifyTokens(require); status != jwt.OK {
			denied.Inc()
			return jwtReply(status, uri, p.GetStripFailureResponse())
		}
		allowed.Inc()
		return nil
	}}, nil
}

// maxRealmPath is how much of a path WWW-Authenticate repeats.
const maxRealmPath = 256

func compileJWTRules(p *jwtv3.JwtAuthentication, set *jwt.Set) (*jwtRules, error) {
	out := &jwtRules{named: map[string]*jwt.Requirement{}}
	for name, r := range p.GetRequirementMap() {
		q, err := set.Requirement(r)
		if err != nil {
			return nil, fmt.Errorf("requirement %q: %w", name, err)
		}
		out.named[name] = q
	}
	for _, r := range p.GetRules() {
		rule := jwtRule{match: &route{}}
		if err := rule.match.setMatch(r.GetMatch()); err != nil {
			return nil, err
		}
		var err error
		switch t := r.GetRequirementType().(type) {
		case nil:
		case *jwtv3.RequirementRule_Requires:
			if t.Requires.GetRequiresType() != nil {
				rule.require, err = set.Requirement(t.Requires)
			}
		case *jwtv3.RequirementRule_RequirementName:
			var ok bool
			if rule.require, ok = out.named[t.RequirementName]; !ok {
				err = fmt.Errorf("wrong requirement_name: %s", t.RequirementName)
			}
		}
		if err != nil {
			return nil, err
		}
		out.rules = append(out.rules, rule)
	}
	return out, nil
}

// find returns what the request has to prove, nil for nothing. perRoute is the route's own configuration.
func (j *jwtRules) find(s *Stream, perRoute any) (*jwt.Requirement, *reply) {
	if name, ok := perRoute.(jwtNamed); ok {
		q, ok := j.named[string(name)]
		if !ok {
			return nil, &reply{
				status: http.StatusForbidden, body: "Failed JWT authentication: Wrong requirement_name: " + string(name),
				details: "jwt_authn_access_denied{wrong_requirement_name}",
			}
		}
		return q, nil
	}
	path, query := cutPath(s.path)
	for i := range j.rules {
		if j.rules[i].match.matches(s, path, query) {
			return j.rules[i].require, nil
		}
	}
	return nil, nil
}

// verifyTokens checks the request's tokens and takes over what they say.
func (s *Stream) verifyTokens(require *jwt.Requirement) jwt.Status {
	r := &jwt.Request{Context: s.ctx, Header: s.req.Header, Path: s.path, Now: time.Now()}
	status := require.Verify(r)
	s.path = r.Path
	for key, v := range r.Metadata {
		s.setMetadata(jwtMetadata, key, v)
	}
	if r.Reroute && status == jwt.OK {
		s.pick()
	}
	return status
}

func jwtReply(status jwt.Status, uri string, strip bool) *reply {
	rep := &reply{status: http.StatusUnauthorized, details: status.Details()}
	if status.Forbidden() {
		rep.status = http.StatusForbidden
	}
	if strip {
		return rep
	}
	challenge := `Bearer realm="` + uri + `"`
	if status != jwt.Missing {
		challenge += `, error="invalid_token"`
	}
	rep.body, rep.header = status.String(), http.Header{"Www-Authenticate": {challenge}}
	return rep
}

func isPreflight(s *Stream) bool {
	h := s.req.Header
	return s.req.Method == http.MethodOptions && first(h, "Origin") != "" && first(h, "Access-Control-Request-Method") != ""
}

// fetchKeys gets key documents from clusters.
func fetchKeys(m *Manager, good, bad *stats.Counter) jwt.Fetch {
	return func(ctx context.Context, uri *corev3.HttpUri) ([]byte, error) {
		u, err := url.Parse(uri.GetUri())
		if err != nil {
			bad.Inc()
			return nil, err
		}
		resp, err := rpc.Do(ctx, m.env.Clusters, uri.GetCluster(), 1, rpc.Request{Method: http.MethodGet, Host: u.Host, Path: u.RequestURI()})
		if err == nil && resp.Status != http.StatusOK {
			err = fmt.Errorf("status %d", resp.Status)
		}
		if err != nil {
			bad.Inc()
			m.env.Log.Warn("fetch JWKS", "uri", uri.GetUri(), "cluster", uri.GetCluster(), "err", err)
			return nil, err
		}
		good.Inc()
		return resp.Body, nil
	}
}

func jwtPerRoute(body *anypb.Any) (any, error) {
	p := &jwtv3.PerRouteConfig{}
	if err := body.UnmarshalTo(p); err != nil {
		return nil, err
	}
	switch t := p.GetRequirementSpecifier().(type) {
	case *jwtv3.PerRouteConfig_Disabled:
		if t.Disabled {
			return disabledPerRoute{}, nil
		}
		return nil, fmt.Errorf("disabled: must be true")
	case *jwtv3.PerRouteConfig_RequirementName:
		return jwtNamed(t.RequirementName), nil
	default:
		return nil, fields.Unsupported(p, fmt.Sprintf("requirement_specifier (%T)", t), "")
	}
}
