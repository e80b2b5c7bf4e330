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

type rbacRules struct {
	enforced, shadow *rbac.Policy
	shadowPrefix     string
}

func compileRBAC(p *rbacv3.RBAC) (*rbacRules, error) {
	if err := fields.Check(p, "rules rules_stat_prefix shadow_rules shadow_rules_stat_prefix track_per_rule_stats"); err != nil {
		return nil, err
	}
	out := &rbacRules{shadowPrefix: p.GetShadowRulesStatPrefix()}
	var err error
	if p.GetRules() != nil {
		if out.enforced, err = rbac.Compile(p.GetRules(), rbac.Options{}); err != nil {
			return nil, err
		}
	}
	if p.GetShadowRules() != nil {
		if out.shadow, err = rbac.Compile(p.GetShadowRules(), rbac.Options{}); err != nil {
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
	sc := stats.Scope{
		Name: "http." + m.name + ".rbac", Family: "envoy_http_rbac", Labels: stats.Label("http_conn_manager_prefix", m.name),
	}
	allowed, denied := m.env.Stats.Counter(sc, "allowed"), m.env.Stats.Counter(sc, "denied")
	shadowAllowed, shadowDenied := m.env.Stats.Counter(sc, "shadow_allowed"), m.env.Stats.Counter(sc, "shadow_denied")
	return filter{name: name, request: func(s *Stream) *reply {
		rules := base
		switch c := s.perFilter(name).(type) {
		case disabledPerRoute:
			return nil
		case *rbacRules:
			rules = c
		}
		if rules.shadow != nil {
			ok, id := rules.shadow.Evaluate(s)
			result := "allowed"
			if ok {
				shadowAllowed.Inc()
			} else {
				shadowDenied.Inc()
				result = "denied"
			}
			s.setMetadata("envoy.filters.http.rbac", rules.shadowPrefix+"shadow_engine_result", result)
			s.setMetadata("envoy.filters.http.rbac", rules.shadowPrefix+"shadow_effective_policy_id", id)
		}
		if rules.enforced == nil {
			return nil
		}
		ok, id := rules.enforced.Evaluate(s)
		if ok {
			allowed.Inc()
			return nil
		}
		denied.Inc()
		if id == "" {
			id = "none"
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
