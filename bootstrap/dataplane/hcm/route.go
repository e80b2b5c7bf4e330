package hcm

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// route is one compiled route: a matcher and exactly one action.
type route struct {
	name      string
	vhost     *virtualHost
	path      func(path string) bool // path without query; nil matches CONNECT requests
	headers   func(get func(string) []string) bool
	query     []func(rawQuery string) bool
	metadata  []func(match.Lookup) bool // dynamic metadata
	state     []func(*Stream) bool      // filter state
	fraction  func() bool
	grpc      bool
	forward   *forwardAction
	redirect  *redirectAction
	direct    *directAction
	ops       headerOps
	perFilter map[string]any
	about     *corev3.Metadata
	decorator string
	propagate bool // the decorator goes to the other side's proxy
	tracing   *routeTracing
	prefix    string // the matched prefix, for prefix rewrites
	isPrefix  bool
}

const (
	routeFields = "name match route redirect direct_response metadata decorator request_headers_to_add " +
		"request_headers_to_remove response_headers_to_add response_headers_to_remove typed_per_filter_config tracing stat_prefix"
	matchFields = "prefix path safe_regex path_separated_prefix path_match_policy case_sensitive headers query_parameters " +
		"runtime_fraction grpc dynamic_metadata filter_state connect_matcher"
)

func compileRoute(r *routev3.Route, h *virtualHost) (*route, error) {
	if err := fields.Check(r, routeFields); err != nil {
		return nil, err
	}
	out := &route{name: r.GetName(), vhost: h, about: r.GetMetadata(), decorator: r.GetDecorator().GetOperation()}
	out.propagate = r.GetDecorator().GetPropagate() == nil || r.GetDecorator().GetPropagate().GetValue()
	var terr error
	if out.tracing, terr = compileRouteTracing(r.GetTracing()); terr != nil {
		return nil, terr
	}
	if err := out.setMatch(r.GetMatch()); err != nil {
		return nil, err
	}
	var err error
	if out.ops, err = compileHeaderOps(r); err != nil {
		return nil, err
	}
	if out.perFilter, err = compilePerFilter(r.GetTypedPerFilterConfig()); err != nil {
		return nil, err
	}
	switch a := r.GetAction().(type) {
	case *routev3.Route_Route:
		out.forward, err = compileForward(a.Route, h)
	case *routev3.Route_Redirect:
		out.redirect, err = compileRedirect(a.Redirect)
	case *routev3.Route_DirectResponse:
		out.direct, err = compileDirect(a.DirectResponse, h.maxDirect)
	default:
		err = fields.Unsupported(r, fmt.Sprintf("action (%T)", a), "")
	}
	return out, err
}

func (r *route) setMatch(m *routev3.RouteMatch) error {
	if err := fields.Check(m, matchFields); err != nil {
		return err
	}
	fold := m.GetCaseSensitive() != nil && !m.GetCaseSensitive().GetValue()
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		r.prefix, r.isPrefix = p.Prefix, true
		r.path = prefixMatcher(p.Prefix, fold)
	case *routev3.RouteMatch_Path:
		if fold {
			r.path = func(s string) bool { return strings.EqualFold(s, p.Path) }
		} else {
			r.path = func(s string) bool { return s == p.Path }
		}
	case *routev3.RouteMatch_PathSeparatedPrefix:
		r.prefix, r.isPrefix = p.PathSeparatedPrefix, true
		pre := prefixMatcher(p.PathSeparatedPrefix, fold)
		n := len(p.PathSeparatedPrefix)
		r.path = func(s string) bool { return pre(s) && (len(s) == n || s[n] == '/') }
	case *routev3.RouteMatch_SafeRegex:
		re, err := match.Regex(p.SafeRegex)
		if err != nil {
			return err
		}
		r.path = re.MatchString
	case *routev3.RouteMatch_PathMatchPolicy:
		f, err := match.PathExtension(p.PathMatchPolicy)
		if err != nil {
			return err
		}
		r.path = f
	case *routev3.RouteMatch_ConnectMatcher_:
	default:
		return fields.Unsupported(m, fmt.Sprintf("path_specifier (%T)", p), "")
	}
	if len(m.GetHeaders()) > 0 {
		f, err := match.Headers(m.GetHeaders())
		if err != nil {
			return err
		}
		r.headers = f
	}
	for _, q := range m.GetQueryParameters() {
		f, err := match.Query(q)
		if err != nil {
			return err
		}
		r.query = append(r.query, f)
	}
	for _, d := range m.GetDynamicMetadata() {
		f, err := match.Metadata(d)
		if err != nil {
			return err
		}
		r.metadata = append(r.metadata, f)
	}
	for _, fs := range m.GetFilterState() {
		f, err := match.FilterState(fs)
		if err != nil {
			return err
		}
		r.state = append(r.state, func(s *Stream) bool { return f(s.FilterState(fs.GetKey())) })
	}
	r.grpc = m.GetGrpc() != nil
	if rf := m.GetRuntimeFraction(); rf != nil {
		r.fraction = fraction(rf.GetDefaultValue())
	}
	return nil
}

func prefixMatcher(prefix string, fold bool) func(string) bool {
	if fold {
		return func(s string) bool { return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) }
	}
	return func(s string) bool { return strings.HasPrefix(s, prefix) }
}

// fraction returns a coin that falls on true with probability p; nil for certainty.
func fraction(p *typev3.FractionalPercent) func() bool {
	scale := map[typev3.FractionalPercent_DenominatorType]uint32{
		typev3.FractionalPercent_HUNDRED: 100, typev3.FractionalPercent_TEN_THOUSAND: 10_000,
		typev3.FractionalPercent_MILLION: 1_000_000,
	}[p.GetDenominator()]
	n := p.GetNumerator()
	if n >= scale {
		return nil
	}
	return func() bool { return rand.Uint32N(scale) < n }
}

func (r *route) matches(s *Stream, path, query string) bool {
	if r.path == nil {
		if s.req.Method != http.MethodConnect {
			return false
		}
	} else if path == "" || !r.path(path) {
		return false // only connect_matcher matches requests without a path
	}
	if r.headers != nil && !r.headers(s.headerValues) {
		return false
	}
	for _, q := range r.query {
		if !q(query) {
			return false
		}
	}
	for _, m := range r.metadata {
		if !m(s.Metadata) {
			return false
		}
	}
	for _, m := range r.state {
		if !m(s) {
			return false
		}
	}
	if r.grpc && !s.isGRPC() {
		return false
	}
	return r.fraction == nil || r.fraction()
}

// find returns the first route of the host that matches, or nil.
func (h *virtualHost) find(s *Stream) *route {
	path, query, _ := strings.Cut(s.path, "?")
	path, _, _ = strings.Cut(path, "#")
	for _, r := range h.routes {
		if r.matches(s, path, query) {
			return r
		}
	}
	return nil
}
