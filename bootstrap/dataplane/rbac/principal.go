package rbac

import (
	"fmt"
	"net/netip"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

func compilePrincipal(p *rbacv3.Principal, opts Options) (predicate, error) {
	switch id := p.GetIdentifier().(type) {
	case *rbacv3.Principal_Any:
		return matchAny(id.Any)
	case *rbacv3.Principal_AndIds:
		ps, err := each(id.AndIds.GetIds(), opts, compilePrincipal)
		return named("and_ids", allOf, ps, err)
	case *rbacv3.Principal_OrIds:
		ps, err := each(id.OrIds.GetIds(), opts, compilePrincipal)
		return named("or_ids", anyOf, ps, err)
	case *rbacv3.Principal_NotId:
		one, err := compilePrincipal(id.NotId, opts)
		if err != nil {
			return nil, fmt.Errorf("not_id: %w", err)
		}
		return not(one), nil
	case *rbacv3.Principal_Authenticated_:
		return compileAuthenticated(id.Authenticated)
	case *rbacv3.Principal_FilterState:
		return compileFilterState(id.FilterState)
	case *rbacv3.Principal_SourceIp:
		return compileIP("source_ip", id.SourceIp, Request.SourceIP) //nolint:staticcheck // deprecated, still sent
	case *rbacv3.Principal_DirectRemoteIp:
		return compileIP("direct_remote_ip", id.DirectRemoteIp, Request.SourceIP)
	case *rbacv3.Principal_RemoteIp:
		return compileIP("remote_ip", id.RemoteIp, Request.RemoteIP)
	case *rbacv3.Principal_Header:
		return compileHeader(id.Header, opts)
	case *rbacv3.Principal_UrlPath:
		return compileURLPath(id.UrlPath, opts)
	case *rbacv3.Principal_Metadata:
		return compileMetadata(id.Metadata) //nolint:staticcheck // deprecated, still sent
	case *rbacv3.Principal_SourcedMetadata:
		return compileSourcedMetadata(id.SourcedMetadata)
	case *rbacv3.Principal_Custom:
		return nil, fmt.Errorf("custom %q (%s) is not supported", id.Custom.GetName(), id.Custom.GetTypedConfig().GetTypeUrl())
	case nil:
		return nil, fmt.Errorf("identifier is not set")
	default:
		return nil, fmt.Errorf("identifier %T is not supported", id)
	}
}

// compileAuthenticated compiles the peer's name: any TLS connection without a
// matcher, else one of its URI names, then DNS names, then its subject.
func compileAuthenticated(a *rbacv3.Principal_Authenticated) (predicate, error) {
	if a.GetPrincipalName() == nil {
		return Request.Authenticated, nil
	}
	f, err := match.Compile(a.GetPrincipalName())
	if err != nil {
		return nil, fmt.Errorf("authenticated: principal_name: %w", err)
	}
	return func(req Request) bool {
		return req.Authenticated() &&
			(slices.ContainsFunc(req.PeerURISANs(), f) || slices.ContainsFunc(req.PeerDNSSANs(), f) || f(req.PeerSubject()))
	}, nil
}

func compileFilterState(m *matcherv3.FilterStateMatcher) (predicate, error) {
	if m.GetKey() == "" {
		return nil, fmt.Errorf("filter_state: key must not be empty")
	}
	s, ok := m.GetMatcher().(*matcherv3.FilterStateMatcher_StringMatch)
	if !ok {
		return nil, fmt.Errorf("filter_state %q: matcher %T is not supported", m.GetKey(), m.GetMatcher())
	}
	f, err := match.Compile(s.StringMatch)
	if err != nil {
		return nil, fmt.Errorf("filter_state %q: %w", m.GetKey(), err)
	}
	return func(req Request) bool {
		v, ok := req.FilterState(m.GetKey())
		return ok && f(v)
	}, nil
}

func compileIP(field string, c *corev3.CidrRange, of func(Request) netip.Addr) (predicate, error) {
	f, err := match.CIDR(c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return func(req Request) bool { return f(of(req)) }, nil
}
