package hcm

import (
	"net/http"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/rbac"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

var _ rbac.Request = (*Stream)(nil)

// rbacMetadata is where verdicts are found by filters and logs.
const rbacMetadata = "envoy.filters.http.rbac"

func compileRBAC(p *rbacv3.RBAC) (*rbac.Rules, error) {
	if err := fields.Check(p, "rules rules_stat_prefix shadow_rules shadow_rules_stat_prefix track_per_rule_stats"); err != nil {
		return nil, err
	}
	out := &rbac.Rules{
		EnforcedPrefix: p.GetRulesStatPrefix(), ShadowPrefix: p.GetShadowRulesStatPrefix(), PerRule: p.GetTrackPerRuleStats(),
	}
	var err error
	if p.GetRules() != nil {
		if out.Enforced, err = rbac.Compile(p.GetRules(), rbac.Options{}); err != nil {
			return nil, err
		}
	}
	if p.GetShadowRules() != nil {
		if out.Shadow, err = rbac.Compile(p.GetShadowRules(), rbac.Options{}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// newRBAC refuses requests that the rules do not allow with 403.
func newRBAC(m *Manager, name string, body *anypb.Any) (filter, error) {
	p := &rbacv3.RBAC{}
	if err := body.UnmarshalTo(p); err != nil {
		return filter{}, err
	}
	base, err := compileRBAC(p)
	if err != nil {
		return filter{}, err
	}
	counters := rbac.NewCounters(m.env.Stats, stats.Scope{
		Name: "http." + m.name + ".rbac", Family: "envoy_http_rbac", Labels: stats.Label("http_conn_manager_prefix", m.name),
	}, base.EnforcedPrefix, base.ShadowPrefix)
	log := m.env.logger("rbac")
	return filter{name: name, request: func(s *Stream) *reply {
		rules := base
		switch c := s.perFilter(name).(type) {
		case disabledPerRoute:
			return nil
		case *rbac.Rules:
			rules = c
		}
		denied, id := rules.Decide(s, counters, s.setMetadata, rbacMetadata)
		reportDecision(log, s, denied, id)
		if !denied {
			return nil
		}
		return &reply{
			status: http.StatusForbidden, body: "RBAC: access denied",
			details: "rbac_access_denied_matched_policy[" + id + "]",
		}
	}}, nil
}

func rbacPerRoute(body *anypb.Any) (any, error) {
	p := &rbacv3.RBACPerRoute{}
	if err := body.UnmarshalTo(p); err != nil {
		return nil, err
	}
	if p.GetRbac() == nil {
		return disabledPerRoute{}, nil
	}
	return compileRBAC(p.GetRbac())
}
