package rbac_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	exprv1alpha1 "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/rbac"
)

// request is a Request made of fields. The zero value is a plain-text
// connection from nowhere.
type request struct {
	headers     map[string][]string
	source      string
	remote      string
	destination string
	port        uint32
	uris, dns   []string
	subject     string
	tls         bool
	sni         string
	metadata    map[string]any // "filter/path/path"
	state       map[string]string
}

var _ rbac.Request = request{}

func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func (r request) Header(name string) []string { return r.headers[name] }
func (r request) Path() string {
	if p := r.headers[":path"]; len(p) > 0 {
		return p[0]
	}
	return ""
}
func (r request) SourceIP() netip.Addr        { return addr(r.source) }
func (r request) DestinationIP() netip.Addr   { return addr(r.destination) }
func (r request) DestinationPort() uint32     { return r.port }
func (r request) PeerURISANs() []string       { return r.uris }
func (r request) PeerDNSSANs() []string       { return r.dns }
func (r request) PeerSubject() string         { return r.subject }
func (r request) Authenticated() bool         { return r.tls }
func (r request) RequestedServerName() string { return r.sni }
func (r request) RemoteIP() netip.Addr {
	if r.remote == "" {
		return r.SourceIP()
	}
	return addr(r.remote)
}

func (r request) Metadata(filter string, path []string) (any, bool) {
	v, ok := r.metadata[strings.Join(append([]string{filter}, path...), "/")]
	return v, ok
}

func (r request) FilterState(key string) (string, bool) {
	v, ok := r.state[key]
	return v, ok
}

func exact(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

func cidr(s string, bits uint32) *corev3.CidrRange {
	return &corev3.CidrRange{AddressPrefix: s, PrefixLen: wrapperspb.UInt32(bits)}
}

func header(name, value string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exact(value)}}
}

func metadata(filter, key, value string) *matcherv3.MetadataMatcher {
	return &matcherv3.MetadataMatcher{
		Filter: filter,
		Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key}}},
		Value:  &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: exact(value)}},
	}
}

var (
	anyPermission = &rbacv3.Permission{Rule: &rbacv3.Permission_Any{Any: true}}
	anyPrincipal  = &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}}
)

func notPermission(p *rbacv3.Permission) *rbacv3.Permission {
	return &rbacv3.Permission{Rule: &rbacv3.Permission_NotRule{NotRule: p}}
}

func notPrincipal(p *rbacv3.Principal) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_NotId{NotId: p}}
}

func rules(action rbacv3.RBAC_Action, policies map[string]*rbacv3.Policy) *rbacv3.RBAC {
	return &rbacv3.RBAC{Action: action, Policies: policies}
}

func one(p *rbacv3.Permission, id *rbacv3.Principal) *rbacv3.RBAC {
	return rules(rbacv3.RBAC_ALLOW, map[string]*rbacv3.Policy{"p": {
		Permissions: []*rbacv3.Permission{p}, Principals: []*rbacv3.Principal{id},
	}})
}

func compile(t *testing.T, r *rbacv3.RBAC) *rbac.Policy {
	t.Helper()
	p, err := rbac.Compile(r, rbac.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestActions(t *testing.T) {
	get := &rbacv3.Policy{
		Permissions: []*rbacv3.Permission{{Rule: &rbacv3.Permission_Header{Header: header(":method", "GET")}}},
		Principals:  []*rbacv3.Principal{anyPrincipal},
	}
	all := &rbacv3.Policy{Permissions: []*rbacv3.Permission{anyPermission}, Principals: []*rbacv3.Principal{anyPrincipal}}
	method := func(m string) request { return request{headers: map[string][]string{":method": {m}}} }
	for _, c := range []struct {
		name    string
		rules   *rbacv3.RBAC
		req     request
		allowed bool
		id      string
	}{
		{"no rules", nil, method("GET"), true, ""},
		{"allow without policies", rules(rbacv3.RBAC_ALLOW, nil), method("GET"), false, ""},
		{"deny without policies", rules(rbacv3.RBAC_DENY, nil), method("GET"), true, ""},
		{"log without policies", rules(rbacv3.RBAC_LOG, nil), method("GET"), true, ""},
		{"allow", rules(rbacv3.RBAC_ALLOW, map[string]*rbacv3.Policy{"get": get}), method("GET"), true, "get"},
		{"allow, no match", rules(rbacv3.RBAC_ALLOW, map[string]*rbacv3.Policy{"get": get}), method("PUT"), false, ""},
		{"deny", rules(rbacv3.RBAC_DENY, map[string]*rbacv3.Policy{"get": get}), method("GET"), false, "get"},
		{"deny, no match", rules(rbacv3.RBAC_DENY, map[string]*rbacv3.Policy{"get": get}), method("PUT"), true, ""},
		{"log", rules(rbacv3.RBAC_LOG, map[string]*rbacv3.Policy{"get": get}), method("GET"), true, "get"},
		{"log, no match", rules(rbacv3.RBAC_LOG, map[string]*rbacv3.Policy{"get": get}), method("PUT"), true, ""},
		{"first by name", rules(rbacv3.RBAC_ALLOW, map[string]*rbacv3.Policy{"z": all, "get": get, "b": all}), method("GET"), true, "b"},
		{"later by name", rules(rbacv3.RBAC_ALLOW, map[string]*rbacv3.Policy{"get": get, "z": all}), method("PUT"), true, "z"},
	} {
		allowed, id := compile(t, c.rules).Evaluate(c.req)
		if allowed != c.allowed || id != c.id {
			t.Errorf("%s: got %v %q, want %v %q", c.name, allowed, id, c.allowed, c.id)
		}
	}
}

func TestPermissions(t *testing.T) {
	port := func(n uint32) *rbacv3.Permission {
		return &rbacv3.Permission{Rule: &rbacv3.Permission_DestinationPort{DestinationPort: n}}
	}
	set := func(ps ...*rbacv3.Permission) *rbacv3.Permission_Set { return &rbacv3.Permission_Set{Rules: ps} }
	and := func(ps ...*rbacv3.Permission) *rbacv3.Permission {
		return &rbacv3.Permission{Rule: &rbacv3.Permission_AndRules{AndRules: set(ps...)}}
	}
	or := func(ps ...*rbacv3.Permission) *rbacv3.Permission {
		return &rbacv3.Permission{Rule: &rbacv3.Permission_OrRules{OrRules: set(ps...)}}
	}
	path := &rbacv3.Permission{Rule: &rbacv3.Permission_UrlPath{UrlPath: &matcherv3.PathMatcher{Rule: &matcherv3.PathMatcher_Path{Path: exact("/a")}}}}
	ip := &rbacv3.Permission{Rule: &rbacv3.Permission_DestinationIp{DestinationIp: cidr("10.0.0.0", 8)}}
	between := &rbacv3.Permission{Rule: &rbacv3.Permission_DestinationPortRange{DestinationPortRange: &typev3.Int32Range{Start: 80, End: 90}}}
	sni := &rbacv3.Permission{Rule: &rbacv3.Permission_RequestedServerName{RequestedServerName: exact("a.example")}}
	meta := &rbacv3.Permission{Rule: &rbacv3.Permission_Metadata{Metadata: metadata("f", "k", "v")}}
	sourced := &rbacv3.Permission{Rule: &rbacv3.Permission_SourcedMetadata{SourcedMetadata: &rbacv3.SourcedMetadata{MetadataMatcher: metadata("f", "k", "v")}}}
	head := &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: header("X-Key", "admin")}}
	h := func(name string, values ...string) request {
		return request{headers: map[string][]string{name: values}}
	}
	for _, c := range []struct {
		name string
		p    *rbacv3.Permission
		req  request
		want bool
	}{
		{"any", anyPermission, request{}, true},
		{"not any", notPermission(anyPermission), request{}, false},
		{"port", port(80), request{port: 80}, true},
		{"other port", port(80), request{port: 81}, false},
		{"and", and(port(80), ip), request{port: 80, destination: "10.1.1.1"}, true},
		{"and, one of two", and(port(80), ip), request{port: 80, destination: "11.1.1.1"}, false},
		{"or", or(port(80), port(81)), request{port: 81}, true},
		{"or, neither", or(port(80), port(81)), request{port: 82}, false},
		{"range start", between, request{port: 80}, true},
		{"range end", between, request{port: 90}, false},
		{"path", path, h(":path", "/a?q"), true},
		{"other path", path, h(":path", "/a/b"), false},
		{"no path", notPermission(path), request{}, true},
		{"server name", sni, request{sni: "a.example"}, true},
		{"other server name", sni, request{sni: ""}, false},
		{"metadata", meta, request{metadata: map[string]any{"f/k": "v"}}, true},
		{"no metadata", meta, request{}, false},
		{"sourced metadata", sourced, request{metadata: map[string]any{"f/k": "v"}}, true},
		{"header in any case", head, h("x-key", "admin"), true},
		{"second value of a header", head, h("x-key", "user", "admin"), true},
		{"no header", head, request{}, false},
	} {
		if got, _ := compile(t, one(c.p, anyPrincipal)).Evaluate(c.req); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestPrincipals(t *testing.T) {
	const spiffe = "spiffe://cluster.local/ns/a/sa/b"
	name := func(s string) *rbacv3.Principal {
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_Authenticated_{Authenticated: &rbacv3.Principal_Authenticated{PrincipalName: exact(s)}}}
	}
	anyone := &rbacv3.Principal{Identifier: &rbacv3.Principal_Authenticated_{Authenticated: &rbacv3.Principal_Authenticated{}}}
	state := &rbacv3.Principal{Identifier: &rbacv3.Principal_FilterState{FilterState: &matcherv3.FilterStateMatcher{
		Key: "io.istio.peer_principal", Matcher: &matcherv3.FilterStateMatcher_StringMatch{StringMatch: exact(spiffe)},
	}}}
	set := func(ids ...*rbacv3.Principal) *rbacv3.Principal_Set { return &rbacv3.Principal_Set{Ids: ids} }
	source := &rbacv3.Principal{Identifier: &rbacv3.Principal_SourceIp{SourceIp: cidr("10.0.0.0", 8)}}
	direct := &rbacv3.Principal{Identifier: &rbacv3.Principal_DirectRemoteIp{DirectRemoteIp: cidr("10.0.0.0", 8)}}
	remote := &rbacv3.Principal{Identifier: &rbacv3.Principal_RemoteIp{RemoteIp: cidr("192.0.2.0", 24)}}
	for _, c := range []struct {
		name string
		id   *rbacv3.Principal
		req  request
		want bool
	}{
		{"uri", name(spiffe), request{tls: true, uris: []string{"spiffe://x", spiffe}}, true},
		{"uri without scheme", name(strings.TrimPrefix(spiffe, "spiffe://")), request{tls: true, uris: []string{spiffe}}, false},
		{"dns", name("a.example"), request{tls: true, uris: []string{spiffe}, dns: []string{"a.example"}}, true},
		{"subject", name("CN=a"), request{tls: true, subject: "CN=a"}, true},
		{"plain text with a name", name(spiffe), request{uris: []string{spiffe}}, false},
		{"not a name, plain text", notPrincipal(name(spiffe)), request{}, true},
		{"any name", anyone, request{tls: true}, true},
		{"any name, plain text", anyone, request{}, false},
		{"filter state", state, request{state: map[string]string{"io.istio.peer_principal": spiffe}}, true},
		{"other filter state", state, request{state: map[string]string{"io.istio.peer_principal": "spiffe://x"}}, false},
		{"no filter state", state, request{}, false},
		{"source", source, request{source: "10.9.9.9"}, true},
		{"direct remote", direct, request{source: "10.9.9.9", remote: "192.0.2.1"}, true},
		{"remote", remote, request{source: "10.9.9.9", remote: "192.0.2.1"}, true},
		{"remote without proxies", remote, request{source: "192.0.2.7"}, true},
		{"other remote", remote, request{source: "192.0.2.1", remote: "10.9.9.9"}, false},
		{"header", &rbacv3.Principal{Identifier: &rbacv3.Principal_Header{Header: header("x", "1")}}, request{headers: map[string][]string{"x": {"1"}}}, true},
		{"path", &rbacv3.Principal{Identifier: &rbacv3.Principal_UrlPath{UrlPath: &matcherv3.PathMatcher{Rule: &matcherv3.PathMatcher_Path{Path: exact("/")}}}}, request{headers: map[string][]string{":path": {"/"}}}, true},
		{"metadata", &rbacv3.Principal{Identifier: &rbacv3.Principal_Metadata{Metadata: metadata("f", "k", "v")}}, request{metadata: map[string]any{"f/k": "v"}}, true},
		{"and", &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: set(source, remote)}}, request{source: "10.1.1.1", remote: "192.0.2.1"}, true},
		{"and, one of two", &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: set(source, remote)}}, request{source: "10.1.1.1"}, false},
		{"or", &rbacv3.Principal{Identifier: &rbacv3.Principal_OrIds{OrIds: set(remote, source)}}, request{source: "10.1.1.1"}, true},
	} {
		if got, _ := compile(t, one(anyPermission, c.id)).Evaluate(c.req); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestUnsupportedIsNamed(t *testing.T) {
	perm := func(p *rbacv3.Permission) *rbacv3.RBAC { return one(p, anyPrincipal) }
	prin := func(p *rbacv3.Principal) *rbacv3.RBAC { return one(anyPermission, p) }
	full := func(p *rbacv3.Policy) *rbacv3.RBAC {
		p.Permissions, p.Principals = []*rbacv3.Permission{anyPermission}, []*rbacv3.Principal{anyPrincipal}
		return rules(rbacv3.RBAC_ALLOW, map[string]*rbacv3.Policy{"p": p})
	}
	ext := &corev3.TypedExtensionConfig{Name: "envoy.rbac.matchers.upstream_ip_port"}
	network := rbac.Options{Network: true}
	for _, c := range []struct {
		want  string
		rules *rbacv3.RBAC
		opts  rbac.Options
	}{
		{"rule is not set", perm(&rbacv3.Permission{}), rbac.Options{}},
		{"not_rule: rule is not set", perm(notPermission(&rbacv3.Permission{})), rbac.Options{}},
		{"and_rules: must not be empty", perm(&rbacv3.Permission{Rule: &rbacv3.Permission_AndRules{}}), rbac.Options{}},
		{"or_rules: must not be empty", perm(&rbacv3.Permission{Rule: &rbacv3.Permission_OrRules{}}), rbac.Options{}},
		{"upstream_ip_port", perm(&rbacv3.Permission{Rule: &rbacv3.Permission_Matcher{Matcher: ext}}), rbac.Options{}},
		{"any must be true", perm(&rbacv3.Permission{Rule: &rbacv3.Permission_Any{}}), rbac.Options{}},
		{"destination_port 65536", perm(&rbacv3.Permission{Rule: &rbacv3.Permission_DestinationPort{DestinationPort: 65536}}), rbac.Options{}},
		{"destination_port_range [5, 5)", perm(&rbacv3.Permission{Rule: &rbacv3.Permission_DestinationPortRange{DestinationPortRange: &typev3.Int32Range{Start: 5, End: 5}}}), rbac.Options{}},
		{"destination_ip: address_prefix", perm(&rbacv3.Permission{Rule: &rbacv3.Permission_DestinationIp{DestinationIp: cidr("x", 1)}}), rbac.Options{}},
		{"uri_template", perm(&rbacv3.Permission{Rule: &rbacv3.Permission_UriTemplate{}}), rbac.Options{}},
		{"metadata_source ROUTE", perm(&rbacv3.Permission{Rule: &rbacv3.Permission_SourcedMetadata{SourcedMetadata: &rbacv3.SourcedMetadata{MetadataSource: rbacv3.MetadataSource_ROUTE}}}), rbac.Options{}},
		{"identifier is not set", prin(&rbacv3.Principal{}), rbac.Options{}},
		{"custom", prin(&rbacv3.Principal{Identifier: &rbacv3.Principal_Custom{Custom: ext}}), rbac.Options{}},
		{"principal_name", prin(&rbacv3.Principal{Identifier: &rbacv3.Principal_Authenticated_{Authenticated: &rbacv3.Principal_Authenticated{PrincipalName: &matcherv3.StringMatcher{}}}}), rbac.Options{}},
		{"AddressMatch", prin(&rbacv3.Principal{Identifier: &rbacv3.Principal_FilterState{FilterState: &matcherv3.FilterStateMatcher{Key: "k", Matcher: &matcherv3.FilterStateMatcher_AddressMatch{}}}}), rbac.Options{}},
		{"remote_ip", prin(&rbacv3.Principal{Identifier: &rbacv3.Principal_RemoteIp{RemoteIp: cidr("", 0)}}), rbac.Options{}},
		{"permissions must not be empty", rules(rbacv3.RBAC_DENY, map[string]*rbacv3.Policy{"p": {}}), rbac.Options{}},
		{"principals must not be empty", rules(rbacv3.RBAC_DENY, map[string]*rbacv3.Policy{"p": {Permissions: []*rbacv3.Permission{anyPermission}}}), rbac.Options{}},
		{"condition is not supported", full(&rbacv3.Policy{Condition: &exprv1alpha1.Expr{}}), rbac.Options{}},
		{"checked_condition", full(&rbacv3.Policy{CheckedCondition: &exprv1alpha1.CheckedExpr{}}), rbac.Options{}},
		{"action 9", rules(9, nil), rbac.Options{}},
		{"logger_configs", &rbacv3.RBAC{AuditLoggingOptions: &rbacv3.RBAC_AuditLoggingOptions{LoggerConfigs: make([]*rbacv3.RBAC_AuditLoggingOptions_AuditLoggerConfig, 1)}}, rbac.Options{}},
		{"header: a network filter", perm(&rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: header("x", "1")}}), network},
		{"url_path: a network filter", prin(&rbacv3.Principal{Identifier: &rbacv3.Principal_UrlPath{}}), network},
		{"uri_template: a network filter", perm(&rbacv3.Permission{Rule: &rbacv3.Permission_UriTemplate{}}), network},
	} {
		_, err := rbac.Compile(c.rules, c.opts)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got error %v, want %q", err, c.want)
			continue
		}
		if strings.Contains(err.Error(), "policy") && !strings.Contains(err.Error(), `policy "p"`) {
			t.Errorf("error %v does not name the policy", err)
		}
	}
}

func BenchmarkEvaluate(b *testing.B) {
	policies := map[string]*rbacv3.Policy{}
	for _, id := range []string{"a", "b", "c", "d"} {
		policies[id] = &rbacv3.Policy{
			Permissions: []*rbacv3.Permission{{Rule: &rbacv3.Permission_Header{Header: header(":method", id)}}},
			Principals:  []*rbacv3.Principal{{Identifier: &rbacv3.Principal_SourceIp{SourceIp: cidr("10.0.0.0", 8)}}},
		}
	}
	p, err := rbac.Compile(rules(rbacv3.RBAC_ALLOW, policies), rbac.Options{})
	if err != nil {
		b.Fatal(err)
	}
	var req rbac.Request = request{headers: map[string][]string{":method": slices.Clone([]string{"d"})}, source: "10.1.1.1"}
	b.ReportAllocs()
	for b.Loop() {
		if ok, _ := p.Evaluate(req); !ok {
			b.Fatal("denied")
		}
	}
}
