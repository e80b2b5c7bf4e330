package hcm

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

type redirectAction struct {
	https, stripQuery  bool
	scheme, host, path string
	port               string // ":8080", empty where the request's stays
	prefix             string
	hasPrefix          bool
	regex              *regexp.Regexp
	subst              string
	code               int
}

func compileRedirect(a *routev3.RedirectAction) (*redirectAction, error) {
	const known = "https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite regex_rewrite " +
		"response_code strip_query"
	if err := fields.Check(a, known); err != nil {
		return nil, err
	}
	out := &redirectAction{
		https: a.GetHttpsRedirect(), scheme: a.GetSchemeRedirect(), host: a.GetHostRedirect(), stripQuery: a.GetStripQuery(),
	}
	if p := a.GetPortRedirect(); p != 0 {
		out.port = ":" + strconv.Itoa(int(p))
	}
	switch p := a.GetPathRewriteSpecifier().(type) {
	case *routev3.RedirectAction_PathRedirect:
		out.path = p.PathRedirect
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

// location builds the target of the redirect.
func (a *redirectAction) location(s *Stream) string {
	scheme, host := s.scheme, a.host
	switch {
	case a.scheme != "":
		scheme = a.scheme
	case a.https:
		scheme = "https"
	}
	if host == "" {
		host = s.authority
		old := ""
		if bare := stripPort(host); len(bare) < len(host) {
			old = host[len(bare):]
		}
		// A default port of the old scheme makes no sense under the new one.
		if a.port != "" || scheme != s.scheme && (s.scheme == "http" && old == ":80" || s.scheme == "https" && old == ":443") {
			host = host[:len(host)-len(old)]
		}
	}
	return scheme + "://" + host + a.port + a.target(s)
}

// target gives path and query of the redirect. The query of path_redirect wins over that of the request and is not
// stripped.
func (a *redirectAction) target(s *Stream) string {
	bare, query, hasQuery := strings.Cut(s.path, "?")
	switch {
	case a.path != "":
		if strings.Contains(a.path, "?") {
			return a.path
		}
		bare = a.path
	case a.hasPrefix && a.prefix != "":
		bare = s.route.swapped(bare, a.prefix)
	case a.regex != nil:
		bare = a.regex.ReplaceAllString(bare, a.subst)
	}
	if hasQuery && !a.stripQuery {
		return bare + "?" + query
	}
	return bare
}

type directAction struct {
	status int
	body   string
}

func compileDirect(a *routev3.DirectResponseAction, limit int) (*directAction, error) {
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
	if len(out.body) > limit {
		return nil, fmt.Errorf("direct response body of %d bytes is larger than the allowed %d", len(out.body), limit)
	}
	return out, nil
}
