package hcm

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// RouteTable is one compiled route configuration. It is immutable.
type RouteTable struct {
	Name    string
	Proto   *routev3.RouteConfiguration
	Version string
	Updated time.Time

	exact      map[string]*virtualHost
	suffixes   []wildcard // "*.example.com", longest first
	prefixes   []wildcard // "example.*", longest first
	catchAll   *virtualHost
	ignorePort bool
	headers    headerOps
	specific   bool // most specific header mutations win
	perFilter  map[string]any
	internal   []string // headers that only internal clients may set
}

type wildcard struct {
	text string
	host *virtualHost
}

type virtualHost struct {
	name         string
	routes       []*route
	requireTLS   routev3.VirtualHost_TlsRequirementType
	headers      headerOps
	attemptCount bool
	attemptResp  bool
	retry        *retryPolicy
	perFilter    map[string]any
	limits       []rateLimit
	mirrors      []mirror // for routes without their own
	maxDirect    int      // size of a direct response's body
}

const tableFields = "name virtual_hosts request_headers_to_add request_headers_to_remove response_headers_to_add " +
	"response_headers_to_remove validate_clusters ignore_port_in_host_matching max_direct_response_body_size_bytes " +
	"most_specific_header_mutations_wins internal_only_headers metadata typed_per_filter_config request_mirror_policies"

const hostFields = "name domains routes require_tls request_headers_to_add request_headers_to_remove " +
	"response_headers_to_add response_headers_to_remove include_request_attempt_count include_attempt_count_in_response " +
	"retry_policy typed_per_filter_config metadata request_mirror_policies rate_limits"

// CompileRoutes translates p. The error names the first field that is not honoured.
func CompileRoutes(p *routev3.RouteConfiguration) (*RouteTable, error) {
	if err := fields.Check(p, tableFields); err != nil {
		return nil, err
	}
	t := &RouteTable{
		Name: p.GetName(), Proto: p, Updated: time.Now(), exact: map[string]*virtualHost{},
		ignorePort: p.GetIgnorePortInHostMatching(), specific: p.GetMostSpecificHeaderMutationsWins(),
	}
	var err error
	if t.headers, err = compileHeaderOps(p); err != nil {
		return nil, err
	}
	if t.perFilter, err = compilePerFilter(p.GetTypedPerFilterConfig()); err != nil {
		return nil, err
	}
	t.internal = canonical(p.GetInternalOnlyHeaders())
	base := virtualHost{maxDirect: 4096}
	if n := p.GetMaxDirectResponseBodySizeBytes(); n != nil {
		base.maxDirect = int(n.GetValue())
	}
	if base.mirrors, err = compileMirrors(p.GetRequestMirrorPolicies()); err != nil {
		return nil, err
	}
	for _, v := range p.GetVirtualHosts() {
		h, err := compileHost(v, base)
		if err != nil {
			return nil, fmt.Errorf("virtual host %q: %w", v.GetName(), err)
		}
		for _, d := range v.GetDomains() {
			if err := t.add(strings.ToLower(d), h); err != nil {
				return nil, err
			}
		}
	}
	longest := func(w []wildcard) func(i, j int) bool {
		return func(i, j int) bool { return len(w[i].text) > len(w[j].text) }
	}
	sort.SliceStable(t.suffixes, longest(t.suffixes))
	sort.SliceStable(t.prefixes, longest(t.prefixes))
	return t, nil
}

func (t *RouteTable) add(domain string, h *virtualHost) error {
	switch {
	case domain == "*":
		if t.catchAll != nil {
			return errors.New("only one virtual host may have the domain \"*\"")
		}
		t.catchAll = h
	case strings.HasPrefix(domain, "*"):
		t.suffixes = append(t.suffixes, wildcard{domain[1:], h})
	case strings.HasSuffix(domain, "*"):
		t.prefixes = append(t.prefixes, wildcard{domain[:len(domain)-1], h})
	default:
		if _, taken := t.exact[domain]; taken {
			return fmt.Errorf("only unique domains are permitted: %q is repeated", domain)
		}
		t.exact[domain] = h
	}
	return nil
}

// compileHost translates v; base holds what it takes from the route configuration where it says nothing itself.
func compileHost(v *routev3.VirtualHost, base virtualHost) (*virtualHost, error) {
	if err := fields.Check(v, hostFields); err != nil {
		return nil, err
	}
	h := &virtualHost{
		name: v.GetName(), requireTLS: v.GetRequireTls(), attemptCount: v.GetIncludeRequestAttemptCount(),
		attemptResp: v.GetIncludeAttemptCountInResponse(), mirrors: base.mirrors, maxDirect: base.maxDirect,
	}
	var err error
	if len(v.GetRequestMirrorPolicies()) > 0 {
		if h.mirrors, err = compileMirrors(v.GetRequestMirrorPolicies()); err != nil {
			return nil, err
		}
	}
	if h.headers, err = compileHeaderOps(v); err != nil {
		return nil, err
	}
	if h.retry, err = compileRetry(v.GetRetryPolicy()); err != nil {
		return nil, err
	}
	if h.perFilter, err = compilePerFilter(v.GetTypedPerFilterConfig()); err != nil {
		return nil, err
	}
	if h.limits, err = compileRateLimits(v.GetRateLimits()); err != nil {
		return nil, err
	}
	for _, r := range v.GetRoutes() {
		cr, err := compileRoute(r, h)
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", r.GetName(), err)
		}
		h.routes = append(h.routes, cr)
	}
	return h, nil
}

// host finds the virtual host for an authority: exact, longest suffix wildcard, longest prefix wildcard, "*".
func (t *RouteTable) host(authority string) *virtualHost {
	a := authority
	if t.ignorePort {
		a = stripPort(a)
	}
	a = strings.ToLower(a)
	if h, ok := t.exact[a]; ok {
		return h
	}
	for _, w := range t.suffixes {
		if len(a) > len(w.text) && strings.HasSuffix(a, w.text) {
			return w.host
		}
	}
	for _, w := range t.prefixes {
		if len(a) > len(w.text) && strings.HasPrefix(a, w.text) {
			return w.host
		}
	}
	return t.catchAll
}

func stripPort(a string) string {
	i := strings.LastIndexByte(a, ':')
	if i < 0 || strings.IndexByte(a[i:], ']') >= 0 {
		return a
	}
	for _, c := range a[i+1:] {
		if c < '0' || c > '9' {
			return a
		}
	}
	return a[:i]
}

// TableRef is a place where the current version of a route configuration is found.
type TableRef struct {
	current atomic.Pointer[RouteTable]
	ready   chan struct{}
	once    sync.Once
}

// Load returns the current version, or nil when none has arrived.
func (r *TableRef) Load() *RouteTable { return r.current.Load() }

func staticRef(t *RouteTable) *TableRef {
	r := &TableRef{ready: make(chan struct{})}
	r.set(t)
	return r
}

func (r *TableRef) set(t *RouteTable) {
	r.current.Store(t)
	r.once.Do(func() { close(r.ready) })
}

// RouteStore holds the route configurations that listeners refer to by name.
type RouteStore struct {
	mu   sync.Mutex
	refs map[string]*TableRef
}

// NewRouteStore returns an empty store.
func NewRouteStore() *RouteStore { return &RouteStore{refs: map[string]*TableRef{}} }

func (s *RouteStore) ref(name string) *TableRef {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.refs[name]
	if !ok {
		r = &TableRef{ready: make(chan struct{})}
		s.refs[name] = r
	}
	return r
}

// Apply takes an RDS update. Configurations that cannot be translated are refused by name; the others take effect for
// the next request.
func (s *RouteStore) Apply(u xds.Update) error {
	var errs []error
	for _, r := range u.Resources {
		p := &routev3.RouteConfiguration{}
		if err := r.Body.UnmarshalTo(p); err != nil {
			errs = append(errs, xds.Refuse(r.Name, fmt.Errorf("route configuration %q: %w", r.Name, err)))
			continue
		}
		ref := s.ref(p.GetName())
		if old := ref.Load(); old != nil && proto.Equal(old.Proto, p) {
			continue
		}
		t, err := CompileRoutes(p)
		if err != nil {
			errs = append(errs, xds.Refuse(r.Name, fmt.Errorf("route configuration %q: %w", p.GetName(), err)))
			continue
		}
		t.Version = r.Version
		ref.set(t)
	}
	return errors.Join(errs...)
}

// Keep drops every configuration that is not wanted.
func (s *RouteStore) Keep(wanted map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.refs {
		if !wanted[n] {
			delete(s.refs, n)
		}
	}
}

// All returns every configuration that has arrived, sorted by name.
func (s *RouteStore) All() []*RouteTable {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*RouteTable
	for _, r := range s.refs {
		if t := r.Load(); t != nil {
			out = append(out, t)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}
