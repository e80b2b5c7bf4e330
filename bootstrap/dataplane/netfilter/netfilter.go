// Package netfilter holds the network filters that come before the terminal one: access control, Istio's metadata
// exchange and Istio's TCP statistics. One file per filter.
//
// It knows connections. It does not know HTTP or filter-chain matching.
package netfilter

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	nrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/rbac"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// RBAC refuses connections that the rules do not allow.
type RBAC struct {
	enforced, shadow            *rbac.Policy
	shadowPrefix                string
	allowed, denied             *stats.Counter
	shadowAllowed, shadowDenied *stats.Counter
}

var _ network.Filter = (*RBAC)(nil)

// ErrDenied says that access rules refuse a connection.
var ErrDenied = errors.New("rbac_access_denied")

// NewRBAC compiles p.
func NewRBAC(p *nrbacv3.RBAC, reg *stats.Registry) (*RBAC, error) {
	const known = "rules shadow_rules shadow_rules_stat_prefix stat_prefix enforcement_type"
	if err := fields.Check(p, known); err != nil {
		return nil, err
	}
	sc := stats.Scope{Name: p.GetStatPrefix() + "rbac", Family: "envoy_rbac"}
	out := &RBAC{
		shadowPrefix: p.GetShadowRulesStatPrefix(), allowed: reg.Counter(sc, "allowed"), denied: reg.Counter(sc, "denied"),
		shadowAllowed: reg.Counter(sc, "shadow_allowed"), shadowDenied: reg.Counter(sc, "shadow_denied"),
	}
	var err error
	if p.GetRules() != nil {
		if out.enforced, err = rbac.Compile(p.GetRules(), rbac.Options{Network: true}); err != nil {
			return nil, err
		}
	}
	if p.GetShadowRules() != nil {
		if out.shadow, err = rbac.Compile(p.GetShadowRules(), rbac.Options{Network: true}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// OnConnection implements network.Filter.
func (r *RBAC) OnConnection(_ context.Context, c *network.Conn) error {
	req := connRequest{c}
	if r.shadow != nil {
		ok, id := r.shadow.Evaluate(req)
		result := "denied"
		if ok {
			result = "allowed"
			r.shadowAllowed.Inc()
		} else {
			r.shadowDenied.Inc()
		}
		c.SetMetadata("envoy.filters.network.rbac", r.shadowPrefix+"shadow_engine_result", result)
		c.SetMetadata("envoy.filters.network.rbac", r.shadowPrefix+"shadow_effective_policy_id", id)
	}
	if r.enforced == nil {
		return nil
	}
	ok, id := r.enforced.Evaluate(req)
	if ok {
		r.allowed.Inc()
		return nil
	}
	r.denied.Inc()
	if id == "" {
		id = "none"
	}
	return fmt.Errorf("%w_matched_policy[%s]", ErrDenied, id)
}

// connRequest shows a connection to access rules.
type connRequest struct{ c *network.Conn }

var _ rbac.Request = connRequest{}

func (r connRequest) Header(string) []string      { return nil }
func (r connRequest) Path() string                { return "" }
func (r connRequest) SourceIP() netip.Addr        { return r.c.Direct.Addr() }
func (r connRequest) RemoteIP() netip.Addr        { return r.c.Remote.Addr() }
func (r connRequest) DestinationIP() netip.Addr   { return r.c.Local.Addr() }
func (r connRequest) DestinationPort() uint32     { return uint32(r.c.Local.Port()) }
func (r connRequest) PeerURISANs() []string       { return r.c.PeerURIs() }
func (r connRequest) PeerDNSSANs() []string       { return r.c.PeerDNS() }
func (r connRequest) PeerSubject() string         { return r.c.PeerSubject() }
func (r connRequest) Authenticated() bool         { return r.c.TLS != nil }
func (r connRequest) RequestedServerName() string { return r.c.ServerSNI }
func (r connRequest) Metadata(filter string, path []string) (any, bool) {
	return r.c.Metadata(filter, path)
}
func (r connRequest) FilterState(key string) (string, bool) { return r.c.FilterState(key) }
