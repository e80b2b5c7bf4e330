package rbac_test

import (
	"testing"

	rbachttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	rbactcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	securityv1 "istio.io/api/security/v1beta1"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/security/authz/builder"
	"istio.io/istio/pilot/pkg/security/trustdomain"
	"sigs.k8s.io/yaml"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/rbac"
)

// istiodPolicies runs specs, AuthorizationPolicy specs in YAML, through istiod's
// own builder and compiles what it would send to a sidecar, in order.
func istiodPolicies(t *testing.T, tcp, filterState bool, specs ...string) []*rbac.Policy {
	t.Helper()
	var in model.AuthorizationPoliciesResult
	for _, s := range specs {
		p := model.AuthorizationPolicy{Name: "policy", Namespace: "foo", Spec: &securityv1.AuthorizationPolicy{}}
		j, err := yaml.YAMLToJSON([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Spec.UnmarshalJSON(j); err != nil {
			t.Fatal(err)
		}
		switch p.Spec.Action {
		case securityv1.AuthorizationPolicy_DENY:
			in.Deny = append(in.Deny, p)
		case securityv1.AuthorizationPolicy_AUDIT:
			in.Audit = append(in.Audit, p)
		default:
			in.Allow = append(in.Allow, p)
		}
	}
	b := builder.New(trustdomain.NewBundle("cluster.local", []string{"old.local"}), nil, in, builder.Option{UseFilterState: filterState})
	var out []*rbac.Policy
	add := func(p *rbac.Policy, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("what istiod sends is refused: %v", err)
		}
		out = append(out, p)
	}
	if tcp {
		for _, f := range b.BuildTCP() {
			var m rbactcpv3.RBAC
			if err := f.GetTypedConfig().UnmarshalTo(&m); err != nil {
				t.Fatal(err)
			}
			add(rbac.Compile(m.GetRules(), rbac.Options{Network: true}))
		}
		return out
	}
	for _, f := range b.BuildHTTP() {
		var m rbachttpv3.RBAC
		if err := f.GetTypedConfig().UnmarshalTo(&m); err != nil {
			t.Fatal(err)
		}
		add(rbac.Compile(m.GetRules(), rbac.Options{}))
	}
	return out
}

func allowed(ps []*rbac.Policy, r rbac.Request) bool {
	for _, p := range ps {
		if ok, _ := p.Evaluate(r); !ok {
			return false
		}
	}
	return true
}

func peer(uri string, r request) request {
	r.tls, r.uris = true, []string{uri}
	r.state = map[string]string{"io.istio.peer_principal": uri}
	return r
}

func http(method, host, path string, extra ...string) request {
	h := map[string][]string{":method": {method}, ":authority": {host}, ":path": {path}}
	for i := 0; i < len(extra); i += 2 {
		h[extra[i]] = append(h[extra[i]], extra[i+1])
	}
	return request{headers: h}
}

func jwt(claims map[string]any) request {
	r := http("GET", "a", "/")
	r.metadata = map[string]any{}
	for k, v := range claims {
		r.metadata["envoy.filters.http.jwt_authn/payload/"+k] = v
	}
	return r
}

const (
	sleep = "spiffe://cluster.local/ns/foo/sa/sleep"
	other = "spiffe://cluster.local/ns/bar/sa/other"
)

func TestIstioPolicies(t *testing.T) {
	type verdict struct {
		name string
		req  request
		want bool
	}
	get := http("GET", "web.foo", "/")
	for _, c := range []struct {
		name     string
		specs    []string
		verdicts []verdict
	}{
		{"allow nothing", []string{`{}`}, []verdict{{"any", get, false}}},
		{"allow all", []string{`rules: [{}]`}, []verdict{{"any", get, true}}},
		{"deny all", []string{`{action: DENY, rules: [{}]}`}, []verdict{{"any", get, false}}},
		{"audit", []string{`{action: AUDIT, rules: [{}]}`}, []verdict{{"any", get, true}}},
		{"principal", []string{`rules: [{from: [{source: {principals: [cluster.local/ns/foo/sa/sleep]}}]}]`}, []verdict{
			{"it", peer(sleep, get), true},
			{"under the old trust domain", peer("spiffe://old.local/ns/foo/sa/sleep", get), true},
			{"other", peer(other, get), false},
			{"longer", peer(sleep+"y", get), false},
			{"plain text", get, false},
		}},
		{"any principal", []string{`rules: [{from: [{source: {principals: ["*"]}}]}]`}, []verdict{{"peer", peer(other, get), true}, {"plain text", get, false}}},
		{"principal suffix", []string{`rules: [{from: [{source: {principals: ["*/sa/sleep"]}}]}]`}, []verdict{{"it", peer(sleep, get), true}, {"other", peer(other, get), false}}},
		{"not principal", []string{`{action: DENY, rules: [{from: [{source: {notPrincipals: [cluster.local/ns/foo/sa/sleep]}}]}]}`}, []verdict{
			{"it", peer(sleep, get), true},
			{"other", peer(other, get), false},
			{"plain text", get, false},
		}},
		{"namespace", []string{`rules: [{from: [{source: {namespaces: [foo]}}]}]`}, []verdict{{"in", peer(sleep, get), true}, {"out", peer(other, get), false}, {"plain text", get, false}}},
		{"service account", []string{`rules: [{from: [{source: {serviceAccounts: [sleep, bar/other]}}]}]`}, []verdict{
			{"own namespace", peer(sleep, get), true},
			{"other namespace", peer(other, get), true},
			{"same name elsewhere", peer("spiffe://cluster.local/ns/baz/sa/sleep", get), false},
		}},
		{"address", []string{`rules: [{from: [{source: {ipBlocks: [10.0.0.0/8, 192.0.2.1]}}]}]`}, []verdict{
			{"in", request{headers: get.headers, source: "10.1.1.1"}, true},
			{"single", request{headers: get.headers, source: "192.0.2.1"}, true},
			{"out", request{headers: get.headers, source: "192.0.2.2", remote: "10.1.1.1"}, false},
		}},
		{"remote address", []string{`rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]`}, []verdict{
			{"forwarded", request{headers: get.headers, source: "192.0.2.2", remote: "10.1.1.1"}, true},
			{"out", request{headers: get.headers, source: "10.1.1.1", remote: "192.0.2.2"}, false},
		}},
		{"operation", []string{`rules: [{to: [{operation: {methods: [GET, POST], paths: ["/info*", "*/ok", /exact], hosts: ["*.example.com"]}}]}]`}, []verdict{
			{"prefix", http("GET", "a.example.com", "/info/1"), true},
			{"suffix", http("POST", "a.EXAMPLE.com", "/x/ok?q=1"), true},
			{"exact", http("GET", "a.example.com", "/exact"), true},
			{"path", http("GET", "a.example.com", "/other"), false},
			{"method", http("PUT", "a.example.com", "/exact"), false},
			{"host", http("GET", "example.com", "/exact"), false},
		}},
		{"not operation", []string{`{action: DENY, rules: [{to: [{operation: {notMethods: [GET], notPaths: [/healthz]}}]}]}`}, []verdict{
			{"method", http("GET", "a", "/"), true},
			{"path", http("PUT", "a", "/healthz"), true},
			{"neither", http("PUT", "a", "/"), false},
		}},
		{"path template", []string{`rules: [{to: [{operation: {paths: ["/users/{*}/posts/{**}"]}}]}]`}, []verdict{
			{"it", http("GET", "a", "/users/1/posts/2/3?q"), true},
			{"short", http("GET", "a", "/users/posts/"), false},
		}},
		{"port", []string{`rules: [{to: [{operation: {ports: ["8080"]}}]}]`}, []verdict{
			{"it", request{headers: get.headers, port: 8080}, true},
			{"other", request{headers: get.headers, port: 8081}, false},
		}},
		{"headers", []string{`{action: DENY, rules: [{when: [{key: "request.headers[X-Token]", values: [bad, "worse*"]}]}]}`}, []verdict{
			{"absent", get, true},
			{"bad", http("GET", "a", "/", "x-token", "bad"), false},
			{"worse", http("GET", "a", "/", "x-token", "worsening"), false},
			{"hidden behind a good one", http("GET", "a", "/", "x-token", "good", "x-token", "bad"), false},
		}},
		{"sni and destination", []string{`rules: [{when: [{key: connection.sni, values: ["*.example.com"]}, {key: destination.ip, values: [10.0.0.0/8]}]}]`}, []verdict{
			{"both", request{headers: get.headers, sni: "a.example.com", destination: "10.1.1.1"}, true},
			{"one", request{headers: get.headers, sni: "a.example.com", destination: "11.1.1.1"}, false},
		}},
		{"request principal", []string{`rules: [{from: [{source: {requestPrincipals: ["https://me.example/sub1"]}}]}]`}, []verdict{
			{"it", jwt(map[string]any{"iss": "https://me.example", "sub": "sub1"}), true},
			{"other subject", jwt(map[string]any{"iss": "https://me.example", "sub": "sub2"}), false},
			{"none", get, false},
		}},
		{"any request principal", []string{`{action: DENY, rules: [{from: [{source: {notRequestPrincipals: ["*"]}}]}]}`}, []verdict{
			{"one", jwt(map[string]any{"iss": "i", "sub": "s"}), true},
			{"none", get, false},
		}},
		{"claims", []string{`rules: [{when: [{key: "request.auth.claims[groups]", values: [admin, "dev*"]}, {key: request.auth.audiences, values: [web]}]}]`}, []verdict{
			{"list", jwt(map[string]any{"groups": []any{"x", "admin"}, "aud": []any{"web"}}), true},
			{"string", jwt(map[string]any{"groups": "devops", "aud": "web"}), true},
			{"other audience", jwt(map[string]any{"groups": "devops", "aud": "app"}), false},
			{"other group", jwt(map[string]any{"groups": []any{"x"}, "aud": "web"}), false},
		}},
		{"nested claims", []string{`rules: [{when: [{key: "request.auth.claims[realm][roles]", values: [admin]}]}]`}, []verdict{
			{"it", jwt(map[string]any{"realm/roles": []any{"admin"}}), true},
			{"none", get, false},
		}},
		{"envoy filter metadata", []string{`rules: [{when: [{key: "experimental.envoy.filters.a[b]", values: ["[x]", "y"]}]}]`}, []verdict{
			{"list", request{headers: get.headers, metadata: map[string]any{"envoy.filters.a/b": []any{"x"}}}, true},
			{"string", request{headers: get.headers, metadata: map[string]any{"envoy.filters.a/b": "y"}}, true},
			{"neither", request{headers: get.headers, metadata: map[string]any{"envoy.filters.a/b": "x"}}, false},
		}},
		{"deny wins", []string{`rules: [{}]`, `{action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]}`}, []verdict{
			{"get", get, true},
			{"delete", http("DELETE", "a", "/"), false},
		}},
	} {
		for _, filterState := range []bool{false, true} {
			ps := istiodPolicies(t, false, filterState, c.specs...)
			if len(ps) == 0 {
				t.Fatalf("%s: istiod built no filter", c.name)
			}
			for _, v := range c.verdicts {
				if got := allowed(ps, v.req); got != v.want {
					t.Errorf("%s: %s (filter state %v): got %v, want %v", c.name, v.name, filterState, got, v.want)
				}
			}
		}
	}
}

func TestIstioTCPPolicies(t *testing.T) {
	// Rules on HTTP leave a TCP policy: ALLOW becomes narrower, DENY wider.
	allow := istiodPolicies(t, true, true, `rules: [{to: [{operation: {methods: [GET]}}]}, {from: [{source: {namespaces: [foo]}}], to: [{operation: {ports: ["9000"]}}]}]`)
	deny := istiodPolicies(t, true, true, `{action: DENY, rules: [{from: [{source: {namespaces: [bar]}}], to: [{operation: {methods: [GET]}}]}]}`)
	for _, c := range []struct {
		name string
		ps   []*rbac.Policy
		req  request
		want bool
	}{
		{"allow: both", allow, peer(sleep, request{port: 9000}), true},
		{"allow: port", allow, peer(sleep, request{port: 9001}), false},
		{"allow: namespace", allow, peer(other, request{port: 9000}), false},
		{"deny: namespace", deny, peer(other, request{port: 9000}), false},
		{"deny: other namespace", deny, peer(sleep, request{port: 9000}), true},
	} {
		if got := allowed(c.ps, c.req); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
