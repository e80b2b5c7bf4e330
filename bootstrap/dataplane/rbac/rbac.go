// Package rbac compiles Envoy's RBAC rules, which istiod builds from
// AuthorizationPolicies, and evaluates them against requests and connections.
//
// It knows actions, permissions and principals as Envoy defines them. It knows
// no filter, no connection and no protobuf Any around the rules: what a rule
// needs to see of a request it asks through Request, and what becomes of the
// verdict (403, closed connection, shadow metadata, statistics) is the caller's.
// Rules that it does not implement are refused when compiled, by field name.
package rbac

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
)

// Request is what rules can ask of a request or, in a network filter, of a
// connection. Its methods are only called while Evaluate runs.
type Request interface {
	// Header returns all values of a header in order, none when it is absent.
	// The name is in lower case; ":method", ":authority", ":path" and ":scheme"
	// are headers too, ":path" with its query.
	Header(name string) []string
	// Path returns the value of :path with its query, empty when there is none.
	Path() string
	// SourceIP is the address of the physical peer (direct_remote_ip, source_ip).
	SourceIP() netip.Addr
	// RemoteIP is the client's address after x-forwarded-for or the PROXY
	// protocol were honoured; without them it is SourceIP.
	RemoteIP() netip.Addr
	// DestinationIP is the address the client connected to, before redirection.
	DestinationIP() netip.Addr
	// DestinationPort is the port the client connected to, before redirection.
	DestinationPort() uint32
	// PeerURISANs are the URI names of the peer's verified certificate, with
	// their scheme ("spiffe://...").
	PeerURISANs() []string
	// PeerDNSSANs are the DNS names of the peer's verified certificate.
	PeerDNSSANs() []string
	// PeerSubject is the peer certificate's subject in RFC 2253 form, empty
	// without a certificate.
	PeerSubject() string
	// Authenticated tells whether the connection is a TLS connection.
	Authenticated() bool
	// RequestedServerName is the name in the TLS hello, empty without one.
	RequestedServerName() string
	// Metadata returns the value under path in filter's dynamic metadata, of a
	// type that match.Lookup names, and whether it exists.
	Metadata(filter string, path []string) (any, bool)
	// FilterState returns the filter state object under key as a string, and
	// whether it exists.
	FilterState(key string) (string, bool)
}

// Options say where the rules are evaluated.
type Options struct {
	// Network is set for the network filter: there is no HTTP request, and rules
	// on headers or paths are refused instead of silently never matching.
	Network bool
}

// Policy is a compiled set of rules. It is safe for concurrent use.
type Policy struct {
	action   rbacv3.RBAC_Action
	enforced bool // false without any rules: all is allowed
	policies []policy
}

type predicate func(Request) bool

type policy struct {
	id         string
	permission predicate
	principal  predicate
}

// Compile compiles r. Without rules (nil) the policy allows everything; with
// action ALLOW and an empty set of policies it allows nothing, as in Envoy.
func Compile(r *rbacv3.RBAC, opts Options) (*Policy, error) {
	if r == nil {
		return &Policy{}, nil
	}
	switch r.GetAction() {
	case rbacv3.RBAC_ALLOW, rbacv3.RBAC_DENY, rbacv3.RBAC_LOG:
	default:
		return nil, fmt.Errorf("rbac: action %v is not supported", r.GetAction())
	}
	if len(r.GetAuditLoggingOptions().GetLoggerConfigs()) > 0 {
		return nil, fmt.Errorf("rbac: audit_logging_options.logger_configs is not supported")
	}
	p := &Policy{action: r.GetAction(), enforced: true}
	// Envoy evaluates in lexicographic order; the first match names the policy.
	for _, id := range slices.Sorted(maps.Keys(r.GetPolicies())) {
		one, err := compilePolicy(r.GetPolicies()[id], opts)
		if err != nil {
			return nil, fmt.Errorf("rbac: policy %q: %w", id, err)
		}
		one.id = id
		p.policies = append(p.policies, one)
	}
	return p, nil
}

// Action returns what the rules are for; it means nothing when there are none.
func (p *Policy) Action() rbacv3.RBAC_Action { return p.action }

// Evaluate tells whether req is allowed, and the id of the first policy that
// matched it, empty when none did: ALLOW allows when one matches, DENY when
// none does, LOG always.
func (p *Policy) Evaluate(req Request) (allowed bool, policyID string) {
	if !p.enforced {
		return true, ""
	}
	matched := false
	for i := range p.policies {
		if p.policies[i].permission(req) && p.policies[i].principal(req) {
			matched, policyID = true, p.policies[i].id
			break
		}
	}
	switch p.action {
	case rbacv3.RBAC_ALLOW:
		return matched, policyID
	case rbacv3.RBAC_DENY:
		return !matched, policyID
	default:
		return true, policyID
	}
}

func compilePolicy(p *rbacv3.Policy, opts Options) (policy, error) {
	switch {
	case p.GetCondition() != nil:
		return policy{}, fmt.Errorf("condition is not supported")
	case p.GetCheckedCondition() != nil:
		return policy{}, fmt.Errorf("checked_condition is not supported")
	case len(p.GetPermissions()) == 0:
		return policy{}, fmt.Errorf("permissions must not be empty")
	case len(p.GetPrincipals()) == 0:
		return policy{}, fmt.Errorf("principals must not be empty")
	}
	permissions, err := each(p.GetPermissions(), opts, compilePermission)
	if err != nil {
		return policy{}, fmt.Errorf("permissions: %w", err)
	}
	principals, err := each(p.GetPrincipals(), opts, compilePrincipal)
	if err != nil {
		return policy{}, fmt.Errorf("principals: %w", err)
	}
	return policy{permission: anyOf(permissions), principal: anyOf(principals)}, nil
}

func each[T any](rules []T, opts Options, compile func(T, Options) (predicate, error)) ([]predicate, error) {
	if len(rules) == 0 {
		return nil, fmt.Errorf("must not be empty")
	}
	ps := make([]predicate, len(rules))
	for i, r := range rules {
		p, err := compile(r, opts)
		if err != nil {
			return nil, err
		}
		ps[i] = p
	}
	return ps, nil
}

func anyOf(ps []predicate) predicate {
	if len(ps) == 1 {
		return ps[0]
	}
	return func(r Request) bool {
		for _, p := range ps {
			if p(r) {
				return true
			}
		}
		return false
	}
}

func allOf(ps []predicate) predicate {
	if len(ps) == 1 {
		return ps[0]
	}
	return func(r Request) bool {
		for _, p := range ps {
			if !p(r) {
				return false
			}
		}
		return true
	}
}

func not(p predicate) predicate { return func(r Request) bool { return !p(r) } }

func always(Request) bool { return true }
