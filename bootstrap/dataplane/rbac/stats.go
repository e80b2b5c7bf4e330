package rbac

import (
	"strings"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// Counters count the verdicts of one filter, under Envoy's names.
type Counters struct {
	Allowed, Denied             *stats.Counter
	ShadowAllowed, ShadowDenied *stats.Counter

	reg   *stats.Registry
	scope stats.Scope
}

// NewCounters registers the counters of a filter in scope. rules and shadow are the prefixes that the filter gives its
// two sets of rules.
func NewCounters(reg *stats.Registry, scope stats.Scope, rules, shadow string) *Counters {
	c := &Counters{reg: reg, scope: scope}
	c.Allowed, c.Denied = c.named(rules, "allowed"), c.named(rules, "denied")
	c.ShadowAllowed, c.ShadowDenied = c.named(shadow, "shadow_allowed"), c.named(shadow, "shadow_denied")
	return c
}

// PerRule counts a verdict of one policy.
func (c *Counters) PerRule(id string, allowed bool) {
	result := "denied"
	if allowed {
		result = "allowed"
	}
	c.reg.Counter(c.scope, "policy."+id+"."+result).Inc()
}

// named registers one counter. For Prometheus Istio's bootstrap takes verdict and dry-run action out of the name and
// makes labels of them.
func (c *Counters) named(prefix, what string) *stats.Counter {
	full, prom, labels := c.scope.Name+".", c.scope.Family, []string{}
	if c.scope.Labels != "" {
		labels = append(labels, c.scope.Labels)
	}
	switch prefix {
	case "":
	case "istio_dry_run_allow_", "istio_dry_run_deny_":
		action := strings.TrimSuffix(strings.TrimPrefix(prefix, "istio_dry_run_"), "_")
		labels = append(labels, stats.Label("authz_dry_run_action", action))
		full += prefix + "."
	default:
		full += prefix
		prom += "_" + prefix
		if !strings.HasSuffix(prefix, ".") {
			full += "."
		}
	}
	full += what
	if shadow, ok := strings.CutPrefix(what, "shadow_"); ok {
		labels = append(labels, stats.Label("authz_dry_run_result", shadow))
	} else if prefix == "" {
		labels = append(labels, stats.Label("authz_enforce_result", what))
	} else {
		prom += "_" + what
	}
	return c.reg.Named(full, prom, strings.Join(labels, ","))
}
