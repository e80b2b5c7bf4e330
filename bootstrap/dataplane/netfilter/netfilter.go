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
	"strings"

	nrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/rbac"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// RBAC refuses connections that the rules do not allow, when the client's first byte comes.
type RBAC struct {
	rules    *rbac.Rules
	counters *rbac.Counters
}

var _ network.Filter = (*RBAC)(nil)

// ErrDenied says that access rules refuse a connection.
var ErrDenied = errors.New("rbac_access_denied")

const rbacMetadata = "envoy.filters.network.rbac"

// NewRBAC compiles p.
func NewRBAC(p *nrbacv3.RBAC, reg *stats.Registry) (*RBAC, error) {
	if err := fields.Check(p, "rules shadow_rules shadow_rules_stat_prefix stat_prefix"); err != nil {
		return nil, err
	}
	out := &RBAC{rules: &rbac.Rules{ShadowPrefix: p.GetShadowRulesStatPrefix()}}
	family := "envoy_" + strings.ReplaceAll(p.GetStatPrefix(), ".", "_") + "rbac"
	out.counters = rbac.NewCounters(reg, stats.Scope{Name: p.GetStatPrefix() + "rbac", Family: family}, "", p.GetShadowRulesStatPrefix())
	var err error
	if p.GetRules() != nil {
		if out.rules.Enforced, err = rbac.Compile(p.GetRules(), rbac.Options{Network: true}); err != nil {
			return nil, err
		}
	}
	if p.GetShadowRules() != nil {
		if out.rules.Shadow, err = rbac.Compile(p.GetShadowRules(), rbac.Options{Network: true}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// OnConnection implements network.Filter.
func (r *RBAC) OnConnection(_ context.Context, c *network.Conn) error {
	atFirstByte(c, func() error {
		denied, id := r.rules.Decide(connRequest{c}, r.counters, c.SetMetadata, rbacMetadata)
		if !denied {
			return nil
		}
		return fmt.Errorf("%w_matched_policy[%s]", ErrDenied, id)
	})
	return nil
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
