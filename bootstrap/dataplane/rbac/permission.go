package rbac

import (
	"fmt"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

const maxPort = 65535

func compilePermission(p *rbacv3.Permission, opts Options) (predicate, error) {
	switch r := p.GetRule().(type) {
	case *rbacv3.Permission_Any:
		return matchAny(r.Any)
	case *rbacv3.Permission_AndRules:
		ps, err := each(r.AndRules.GetRules(), opts, compilePermission)
		return named("and_rules", allOf, ps, err)
	case *rbacv3.Permission_OrRules:
		ps, err := each(r.OrRules.GetRules(), opts, compilePermission)
		return named("or_rules", anyOf, ps, err)
	case *rbacv3.Permission_NotRule:
		one, err := compilePermission(r.NotRule, opts)
		if err != nil {
			return nil, fmt.Errorf("not_rule: %w", err)
		}
		return not(one), nil
	case *rbacv3.Permission_Header:
		return compileHeader(r.Header, opts)
	case *rbacv3.Permission_UrlPath:
		return compileURLPath(r.UrlPath, opts)
	case *rbacv3.Permission_UriTemplate:
		if opts.Network {
			return nil, noRequest("uri_template")
		}
		f, err := match.PathExtension(r.UriTemplate)
		if err != nil {
			return nil, fmt.Errorf("uri_template: %w", err)
		}
		return func(req Request) bool { return f(req.Path()) }, nil
	case *rbacv3.Permission_DestinationIp:
		f, err := match.CIDR(r.DestinationIp)
		if err != nil {
			return nil, fmt.Errorf("destination_ip: %w", err)
		}
		return func(req Request) bool { return f(req.DestinationIP()) }, nil
	case *rbacv3.Permission_DestinationPort:
		if r.DestinationPort > maxPort {
			return nil, fmt.Errorf("destination_port %d is no port", r.DestinationPort)
		}
		return func(req Request) bool { return req.DestinationPort() == r.DestinationPort }, nil
	case *rbacv3.Permission_DestinationPortRange:
		return compilePortRange(r.DestinationPortRange)
	case *rbacv3.Permission_RequestedServerName:
		f, err := match.Compile(r.RequestedServerName)
		if err != nil {
			return nil, fmt.Errorf("requested_server_name: %w", err)
		}
		return func(req Request) bool { return f(req.RequestedServerName()) }, nil
	case *rbacv3.Permission_Metadata:
		return compileMetadata(r.Metadata) //nolint:staticcheck // deprecated, still sent
	case *rbacv3.Permission_SourcedMetadata:
		return compileSourcedMetadata(r.SourcedMetadata)
	case *rbacv3.Permission_Matcher:
		return nil, fmt.Errorf("matcher %q (%s) is not supported", r.Matcher.GetName(), r.Matcher.GetTypedConfig().GetTypeUrl())
	case nil:
		return nil, fmt.Errorf("rule is not set")
	default:
		return nil, fmt.Errorf("rule %T is not supported", r)
	}
}

// compilePortRange compiles [start, end).
func compilePortRange(r *typev3.Int32Range) (predicate, error) {
	start, end := r.GetStart(), r.GetEnd()
	if start < 0 || end > maxPort+1 || start >= end {
		return nil, fmt.Errorf("destination_port_range [%d, %d) is no range of ports", start, end)
	}
	return func(req Request) bool {
		port := req.DestinationPort()
		return uint32(start) <= port && port < uint32(end)
	}, nil
}
