package hcm

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"time"

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
	path      func(path string) bool // path without query
	headers   func(get func(string) []string) bool
	query     []func(rawQuery string) bool
	fraction  func() bool
	grpc      bool
	forward   *forwardAction
	redirect  *redirectAction
	direct    *directAction
	ops       headerOps
	perFilter map[string]any
	metadata  *corev3.Metadata
	decorator string
	prefix    string // the matched prefix, for prefix rewrites
	isPrefix  bool
}

const (
	routeFields = "name match route redirect direct_response metadata decorator request_headers_to_add " +
		"request_headers_to_remove response_headers_to_add response_headers_to_remove typed_per_filter_config tracing stat_prefix"
	matchFields = "prefix path safe_regex path_separated_prefix path_match_policy case_sensitive headers query_parameters " +
		"runtime_fraction grpc"
)

func compileRoute(r *routev3.Route, h *virtualHost) (*route, error) {
	if err := fields.Check(r, routeFields); err != nil {
		return nil, err
	}
	out := &route{name: r.GetName(), vhost: h, metadata: r.GetMetadata(), decorator: r.GetDecorator().GetOperation()}
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
		out.direct, err = compileDirect(a.DirectResponse)
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
		r.prefix = p.Path
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
	if !r.path(path) {
		return false
	}
	if r.headers != nil && !r.headers(s.headerValues) {
		return false
	}
	for _, q := range r.query {
		if !q(query) {
			return false
		}
	}
	if r.grpc && !strings.HasPrefix(s.req.Header.Get("Content-Type"), "application/grpc") {
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

type redirectAction struct {
	https, stripQuery          bool
	scheme, host, path, prefix string
	port                       uint32
	regex                      *regexp.Regexp
	subst                      string
	code                       int
	hasPath, hasPrefix         bool
}

func compileRedirect(a *routev3.RedirectAction) (*redirectAction, error) {
	const known = "https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite regex_rewrite " +
		"response_code strip_query"
	if err := fields.Check(a, known); err != nil {
		return nil, err
	}
	out := &redirectAction{
		https: a.GetHttpsRedirect(), scheme: a.GetSchemeRedirect(), host: a.GetHostRedirect(), port: a.GetPortRedirect(),
		stripQuery: a.GetStripQuery(),
	}
	switch p := a.GetPathRewriteSpecifier().(type) {
	case *routev3.RedirectAction_PathRedirect:
		out.path, out.hasPath = p.PathRedirect, true
	case *routev3.RedirectAction_PrefixRewrite:
		out.prefix, out.hasPrefix = p.PrefixRewrite, true
	case *routev3.RedirectAction_RegexRewrite:
		re, err := regexp.Compile(p.RegexRewrite.GetPattern().GetRegex())
		if err != nil {
			return nil, fmt.Errorf("regex_rewrite: %w", err)
		}
		out.regex, out.subst = re, expandable(p.RegexRewrite.GetSubstitution())
	}
	out.code = map[routev3.RedirectAction_RedirectResponseCode]int{
		routev3.RedirectAction_MOVED_PERMANENTLY:  http.StatusMovedPermanently,
		routev3.RedirectAction_FOUND:              http.StatusFound,
		routev3.RedirectAction_SEE_OTHER:          http.StatusSeeOther,
		routev3.RedirectAction_TEMPORARY_REDIRECT: http.StatusTemporaryRedirect,
		routev3.RedirectAction_PERMANENT_REDIRECT: http.StatusPermanentRedirect,
	}[a.GetResponseCode()]
	return out, nil
}

// expandable turns RE2's \1 references into those of package regexp.
func expandable(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9':
			b.WriteString("${" + s[i+1:i+2] + "}")
			i++
		case s[i] == '\\' && i+1 < len(s):
			b.WriteByte(s[i+1])
			i++
		case s[i] == '$':
			b.WriteString("$$")
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// location builds the target of the redirect.
func (a *redirectAction) location(s *Stream) string {
	scheme, host := s.scheme, s.authority
	switch {
	case a.https:
		scheme = "https"
	case a.scheme != "":
		scheme = a.scheme
	}
	name := host
	if a.host != "" {
		name = a.host
	}
	switch {
	case a.port != 0:
		name = stripPort(name) + fmt.Sprintf(":%d", a.port)
	case scheme != s.scheme && a.host == "":
		// A default port of the old scheme makes no sense under the new one.
		if strings.HasSuffix(name, ":80") && s.scheme == "http" || strings.HasSuffix(name, ":443") && s.scheme == "https" {
			name = stripPort(name)
		}
	}
	path := s.path
	bare, query, hasQuery := strings.Cut(path, "?")
	switch {
	case a.hasPath:
		path = a.path
		if hasQuery && !a.stripQuery && !strings.Contains(a.path, "?") {
			path += "?" + query
		}
		return scheme + "://" + name + path
	case a.hasPrefix:
		bare = a.prefix + strings.TrimPrefix(bare, s.route.prefix)
	case a.regex != nil:
		bare = a.regex.ReplaceAllString(bare, a.subst)
	}
	if hasQuery && !a.stripQuery {
		bare += "?" + query
	}
	return scheme + "://" + name + bare
}

type directAction struct {
	status int
	body   string
}

func compileDirect(a *routev3.DirectResponseAction) (*directAction, error) {
	if err := fields.Check(a, "status body"); err != nil {
		return nil, err
	}
	out := &directAction{status: int(a.GetStatus())}
	switch b := a.GetBody().GetSpecifier().(type) {
	case nil:
	case *corev3.DataSource_InlineString:
		out.body = b.InlineString
	case *corev3.DataSource_InlineBytes:
		out.body = string(b.InlineBytes)
	default:
		return nil, fields.Unsupported(a.GetBody(), fmt.Sprintf("specifier (%T)", b), "")
	}
	return out, nil
}

func durationOr(d interface{ AsDuration() time.Duration }, set bool, def time.Duration) time.Duration {
	if !set {
		return def
	}
	return d.AsDuration()
}
