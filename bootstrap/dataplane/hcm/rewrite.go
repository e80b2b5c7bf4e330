package hcm

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// rewrites change path and host on the way upstream.
type rewrites struct {
	prefix     string // in place of what the route has matched
	regex      *regexp.Regexp
	subst      string
	host       string
	hostAuto   bool // the name of the endpoint
	hostHeader string
	hostRegex  *regexp.Regexp // over the path
	hostSubst  string
	appendHost bool // the old host goes to x-forwarded-host
}

func compileRewrites(a *routev3.RouteAction) (rewrites, error) {
	out := rewrites{prefix: a.GetPrefixRewrite(), appendHost: a.GetAppendXForwardedHost()}
	var err error
	if rw := a.GetRegexRewrite(); rw != nil {
		if out.prefix != "" {
			return out, fmt.Errorf("only one of prefix_rewrite and regex_rewrite may be specified")
		}
		if out.regex, out.subst, err = substitution(rw); err != nil {
			return out, fmt.Errorf("regex_rewrite: %w", err)
		}
	}
	switch s := a.GetHostRewriteSpecifier().(type) {
	case nil:
	case *routev3.RouteAction_HostRewriteLiteral:
		out.host = s.HostRewriteLiteral
	case *routev3.RouteAction_AutoHostRewrite:
		out.hostAuto = s.AutoHostRewrite.GetValue()
	case *routev3.RouteAction_HostRewriteHeader:
		out.hostHeader = http.CanonicalHeaderKey(s.HostRewriteHeader)
	case *routev3.RouteAction_HostRewritePathRegex:
		if out.hostRegex, out.hostSubst, err = substitution(s.HostRewritePathRegex); err != nil {
			return out, fmt.Errorf("host_rewrite_path_regex: %w", err)
		}
	default:
		return out, fields.Unsupported(a, fmt.Sprintf("host_rewrite_specifier (%T)", s), "")
	}
	return out, nil
}

// substitution compiles a regular expression that, unlike those of matchers, need not match the whole text.
func substitution(rw *matcherv3.RegexMatchAndSubstitute) (*regexp.Regexp, string, error) {
	re, err := regexp.Compile(rw.GetPattern().GetRegex())
	return re, expandable(rw.GetSubstitution()), err
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

// swapped puts text in place of what the route's matcher has matched of bare, a path without query: the prefix, or all
// of it where the matcher is for the whole path.
func (r *route) swapped(bare, text string) string {
	if r.isPrefix && len(bare) >= len(r.prefix) {
		return text + bare[len(r.prefix):]
	}
	return text
}

// path returns the path to send upstream and whether there is a rule for it.
func (w *rewrites) path(s *Stream) (string, bool) {
	if w.prefix == "" && w.regex == nil {
		return s.path, false
	}
	bare, query, hasQuery := strings.Cut(s.path, "?")
	if w.prefix != "" {
		bare = s.route.swapped(bare, w.prefix)
	} else {
		bare = w.regex.ReplaceAllString(bare, w.subst)
	}
	if hasQuery {
		bare += "?" + query
	}
	if !strings.HasPrefix(bare, "/") {
		bare = "/" + bare
	}
	return bare, true
}

// authority returns the host to send upstream, empty where no rule says. A rule of the route stands over one of the
// weighted cluster. That of the endpoint's name is not known yet.
func (w *rewrites) authority(s *Stream) string {
	switch {
	case w.host != "":
		return w.host
	case w.hostHeader != "":
		if v := s.req.Header[w.hostHeader]; len(v) > 0 {
			return v[0]
		}
	case w.hostRegex != nil:
		bare, _, _ := strings.Cut(s.path, "?")
		return w.hostRegex.ReplaceAllString(bare, w.hostSubst)
	case s.weighted != nil && !w.hostAuto:
		return s.weighted.host
	}
	return ""
}

// setAuthority replaces the host and leaves word of the old one.
func (s *Stream) setAuthority(host string, forwarded bool) {
	h := s.req.Header
	if forwarded {
		prior := strings.Join(h["X-Forwarded-Host"], ",")
		if last := strings.TrimSpace(prior[strings.LastIndexByte(prior, ',')+1:]); last != s.authority {
			if prior != "" {
				prior += ","
			}
			h["X-Forwarded-Host"] = []string{prior + s.authority}
		}
	}
	if !s.noHeaders {
		h["X-Envoy-Original-Host"] = []string{s.authority}
	}
	s.authority = host
}
