package e2e

import (
	"fmt"
	"strings"
	"testing"

	meshapi "istio.io/api/mesh/v1alpha1"
)

const policyHead = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: policy, namespace: ns%s}
spec:
  selector: {matchLabels: {app: server}}
  action: %s
  rules: %s
`

// dryRun is the annotation that puts a policy under trial.
const dryRun = `, annotations: {"istio.io/dry-run": "true"}`

// TestAuthorizationRules applies one rule after the other and asks what it says of requests.
func TestAuthorizationRules(t *testing.T) {
	w, client, server, plain := newWorldOf(t, pairYAML(), "", false, func(m *meshapi.MeshConfig) {
		m.TrustDomainAliases = []string{"old.domain"}
	}).pair()
	direct := order{Kind: "http", Method: "GET", URL: "http://10.9.0.2:8080/", Host: "server.ns:8000", Header: map[string]string{}}
	get := func(path string, kv ...string) order {
		o := request(path)
		for i := 0; i < len(kv); i += 2 {
			o.Header[kv[i]] = kv[i+1]
		}
		return o
	}
	host := func(name string) order {
		o := direct
		o.Host = name
		return o
	}
	method := func(m string) order {
		o := request("/")
		o.Method = m
		return o
	}
	type probe struct {
		from *pod
		o    order
		want int
	}
	for _, tc := range []struct {
		action, rules string
		probes        []probe
	}{
		{"ALLOW", `[{to: [{operation: {paths: ["/a/{*}/c", "/deep/{**}"]}}]}]`, []probe{
			{client, get("/a/b/c"), 200}, {client, get("/a/b/x/c"), 403}, {client, get("/deep/x/y"), 200}, {client, get("/"), 403},
		}},
		{"ALLOW", `[{to: [{operation: {paths: ["*/tail", "/exact"], notPaths: ["/not/tail"]}}]}]`, []probe{
			{client, get("/x/tail"), 200}, {client, get("/exact?q=1"), 200}, {client, get("/not/tail"), 403}, {client, get("/exact/"), 403},
		}},
		{"DENY", `[{to: [{operation: {hosts: ["bad.example", "*.evil.example"]}}]}]`, []probe{
			{plain, host("BAD.example"), 403}, {plain, host("x.evil.example"), 403}, {plain, host("good.example"), 200},
		}},
		{"DENY", `[{to: [{operation: {notMethods: [GET, HEAD]}}]}]`, []probe{{client, method("GET"), 200}, {client, method("DELETE"), 403}}},
		{"DENY", `[{from: [{source: {namespaces: [ns]}}]}]`, []probe{{client, get("/"), 403}, {plain, direct, 200}}},
		{"ALLOW", `[{from: [{source: {serviceAccounts: ["client"]}}]}]`, []probe{{client, get("/"), 200}, {plain, direct, 403}}},
		{"ALLOW", `[{from: [{source: {principals: ["old.domain/ns/ns/sa/client"]}}]}]`, []probe{{client, get("/"), 200}, {plain, direct, 403}}},
		{"ALLOW", `[{from: [{source: {notPrincipals: ["*"]}}]}]`, []probe{{client, get("/"), 403}, {plain, direct, 200}}},
		{"DENY", `[{from: [{source: {ipBlocks: ["10.9.0.3"]}}]}]`, []probe{{client, get("/"), 200}, {plain, direct, 403}}},
		{"ALLOW", `[{from: [{source: {notRemoteIpBlocks: ["10.9.0.0/30"]}}]}]`, []probe{{plain, direct, 403}}},
		{"DENY", `[{when: [{key: "request.headers[x-tok]", values: ["a*"], notValues: ["ab"]}]}]`, []probe{
			{client, get("/", "x-tok", "ac"), 403}, {client, get("/", "x-tok", "ab"), 200}, {client, get("/"), 200},
		}},
		{"ALLOW", `[{when: [{key: source.ip, values: ["10.9.0.1"]}, {key: destination.port, values: ["8080"]}, {key: destination.ip, values: ["10.9.0.0/16"]}]}]`, []probe{
			{client, get("/"), 200}, {plain, direct, 403},
		}},
		{"DENY", `[{when: [{key: connection.sni, values: ["outbound_.8000_.*"]}]}]`, []probe{{client, get("/"), 403}, {plain, direct, 200}}},
		{"ALLOW", `[]`, []probe{{client, get("/"), 403}, {plain, direct, 403}}},
		{"AUDIT", `[{}]`, []probe{{client, get("/"), 200}}},
	} {
		undo := w.apply(fmt.Sprintf(policyHead, "", tc.action, tc.rules))
		for _, p := range tc.probes {
			eventually(t, p.from, fmt.Sprintf("%s %s: %+v", tc.action, tc.rules, p.o), func() error {
				if o, err := p.from.order(p.o); err != nil || o.Status != p.want {
					return fmt.Errorf("want %d: %+v %w", p.want, o, err)
				}
				return nil
			})
		}
		undo()
		eventually(t, client, "without a policy", answers(client, request("/"), 200, ""))
	}
	noNacks(t, client, server)
}

// TestDryRun: a policy under trial changes nothing and is counted.
func TestDryRun(t *testing.T) {
	w, client, server, _ := pair(t, "")
	w.apply(fmt.Sprintf(policyHead, dryRun, "DENY", `[{to: [{operation: {paths: ["/tried"]}}]}]`))
	counted := func() error {
		if o := client.send(request("/tried")); o.Status != 200 {
			t.Errorf("a policy under trial refuses: %+v", o)
		}
		m, err := server.admin("stats/prometheus")
		if err == nil && !strings.Contains(m, `authz_dry_run_action="deny",authz_dry_run_result="denied"`) {
			err = fmt.Errorf("not counted")
		}
		return err
	}
	eventually(t, server, "the verdict is counted", counted)
	s, err := server.admin("stats?filter=dry_run&usedonly")
	must(t, err)
	if !strings.Contains(s, "rbac.istio_dry_run_deny_.shadow_denied: ") {
		t.Errorf("stats:\n%s", s)
	}
	noNacks(t, server)
}

// TestServerFirstUnderPolicies: what a server says first is not held back by rules, which decide when the client speaks.
func TestServerFirstUnderPolicies(t *testing.T) {
	w, client, server, plain := pair(t, "")
	w.apply(fmt.Sprintf(policyHead, "", "ALLOW", `[{to: [{operation: {ports: ["9001"]}}]}]`))
	eventually(t, plain, "a port that is not allowed", func() error {
		if o := plain.send(order{Kind: "tcp", URL: "10.9.0.2:9000", Body: "x", Half: true}); o.Body != "" {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	if o := client.send(order{Kind: "tcp", URL: "10.96.0.2:9001"}); o.Body != "welcome\n" {
		t.Errorf("a server that speaks first, allowed, over mTLS: %+v", o)
	}
	// Where plain text and TLS share a port, the proxy has to wait for the client's first byte to tell them apart.
	w.apply(`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: plain, namespace: ns}
spec: {selector: {matchLabels: {app: server}}, mtls: {mode: DISABLE}}
`)
	greets := func() error {
		if o := plain.send(order{Kind: "tcp", URL: "10.9.0.2:9001"}); o.Body != "welcome\n" {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	}
	eventually(t, plain, "the same in plain text", greets)
	denied := func() string {
		s, err := server.admin("stats?filter=tcp.rbac.denied")
		must(t, err)
		return s
	}
	before := denied()
	w.apply(fmt.Sprintf(policyHead, "", "DENY", `[{from: [{source: {notPrincipals: ["*/client"]}}], to: [{operation: {ports: ["9001"], methods: [GET]}}]}]`))
	eventually(t, server, "a client that speaks is denied", func() error {
		plain.send(order{Kind: "tcp", URL: "10.9.0.2:9001", Body: "x", Half: true})
		if denied() == before {
			return fmt.Errorf("nothing more is denied than before: %s", before)
		}
		return nil
	})
	if err := greets(); err != nil {
		t.Errorf("a denied client that has said nothing yet: %v", err)
	}
	noNacks(t, client, server)
}
