package rbac

import rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"

// Rules are the two sets of rules that a filter has: those it enforces and those it only looks at. Either may be nil.
type Rules struct {
	Enforced, Shadow             *Policy
	EnforcedPrefix, ShadowPrefix string
	PerRule                      bool
}

// Decide evaluates req, counts the verdicts and sets what other filters and logs read of them. denied says that the
// request must not go on, by the policy of that id, "none" where none has matched.
func (r *Rules) Decide(req Request, n *Counters, set func(namespace, key string, v any), namespace string) (denied bool, id string) {
	if r.Shadow != nil {
		ok, id := r.Shadow.Evaluate(req)
		if ok {
			n.ShadowAllowed.Inc()
		} else {
			n.ShadowDenied.Inc()
		}
		if r.PerRule && id != "" {
			n.PerRule(id, ok)
		}
		// A policy id stays from another filter where no policy of this one has matched.
		if id != "" {
			set(namespace, r.ShadowPrefix+"shadow_effective_policy_id", id)
		}
		set(namespace, r.ShadowPrefix+"shadow_engine_result", word(ok))
	}
	if r.Enforced == nil {
		return false, ""
	}
	ok, id := r.Enforced.Evaluate(req)
	if r.Enforced.Action() == rbacv3.RBAC_LOG {
		set("envoy.common", "access_log_hint", id != "")
	}
	if ok {
		n.Allowed.Inc()
	} else {
		n.Denied.Inc()
	}
	if r.PerRule && id != "" {
		n.PerRule(id, ok)
	}
	if id == "" {
		id = "none"
	} else {
		set(namespace, r.EnforcedPrefix+"enforced_effective_policy_id", id)
	}
	set(namespace, r.EnforcedPrefix+"enforced_engine_result", word(ok))
	return !ok, id
}

func word(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "denied"
}
