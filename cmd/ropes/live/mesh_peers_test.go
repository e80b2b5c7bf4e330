//go:build live

package live

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// oneServer is a service with one server until the end of the test. What one proxy has begun to enforce holds for all
// requests from then on; of the two behind app, one learns of a policy before the other does.
func (m *mesh) oneServer(t *testing.T) {
	t.Helper()
	m.apply(t, `
apiVersion: v1
kind: Service
metadata: {name: one, namespace: mesh}
spec:
  selector: {app: app, version: v1}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: tcp, port: 9000, targetPort: 9000}
`)
	for _, r := range []*relay{m.client, m.other, m.stranger} {
		r.want(t, get("http://one.mesh/"), code(200), from("v1"))
	}
}

// meshPeers is mutual TLS between workloads: who insists on it, who does not, and what the servers learn from it.
func meshPeers(t *testing.T, m *mesh) {
	m.oneServer(t)
	app := get("http://one.mesh/")
	t.Run("identity", func(t *testing.T) {
		m.client.want(t, app, code(200), that("a client certificate of SPIFFE form", func(o outcome) bool {
			x := o.echo().Headers.Get("X-Forwarded-Client-Cert")
			return strings.Contains(x, "URI=spiffe://cluster.local/ns/mesh/sa/client") && strings.Contains(x, "By=spiffe://cluster.local/ns/mesh/sa/app")
		}))
		m.stranger.want(t, app, code(200), heard("X-Forwarded-Client-Cert", ""))
	})
	t.Run("strict", func(t *testing.T) {
		m.apply(t, peers("", "mtls: {mode: STRICT}"))
		m.stranger.want(t, app, unanswered())
		m.client.want(t, app, code(200))
		m.other.want(t, app, code(200))
		m.stranger.always(t, 3, app, unanswered())
	})
	t.Run("strict but for a port", func(t *testing.T) {
		m.apply(t, peers("selector: {matchLabels: {app: app}}", `
  mtls: {mode: STRICT}
  portLevelMtls: {9000: {mode: DISABLE}}`))
		m.stranger.want(t, app, unanswered())
		eventually(t, settle, func() error {
			got := m.stranger.raw(t, rawOrder{Address: "one.mesh:9000", Send: []byte("plain"), Want: 5, WaitMS: 1000})
			if string(got.Received) != "plain" {
				return fmt.Errorf("want the port without mTLS to answer; got %q %s", got.Received, got.Err)
			}
			return nil
		})
		m.client.want(t, app, code(200))
	})
	t.Run("permissive", func(t *testing.T) {
		m.apply(t, peers("", "mtls: {mode: PERMISSIVE}"))
		m.stranger.want(t, app, code(200))
		m.client.want(t, app, code(200))
	})
	t.Run("disabled", func(t *testing.T) {
		m.apply(t, peers("selector: {matchLabels: {app: app}}", "mtls: {mode: DISABLE}"))
		m.client.want(t, app, code(200), heard("X-Forwarded-Client-Cert", ""))
		m.stranger.want(t, app, code(200))
	})
	t.Run("client without TLS", func(t *testing.T) {
		m.apply(t, peers("", "mtls: {mode: STRICT}"))
		m.client.want(t, app, code(200))
		m.apply(t, `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plain}
spec:
  host: one.mesh.svc.cluster.local
  trafficPolicy: {tls: {mode: DISABLE}}
`)
		m.client.want(t, app, that("503", func(o outcome) bool { return o.Status == 503 }))
	})
}

func peers(selector, spec string) string {
	return `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: peers}
spec:
  ` + selector + `
  ` + spec + "\n"
}

func policy(name, spec string) string {
	return `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ` + name + `}
spec:
  selector: {matchLabels: {app: app}}
` + spec
}

// meshAuthorization is who may do what.
func meshAuthorization(t *testing.T, m *mesh) {
	m.oneServer(t)
	app := func(path string, headers ...string) order { return get("http://one.mesh"+path, headers...) }
	put := func(o order) order { o.Method = "PUT"; return o }
	denied := []func(outcome) error{code(403), says("RBAC: access denied")}
	ok := []func(outcome) error{code(200)}
	type asks struct {
		from  *relay
		order order
		want  []func(outcome) error
	}
	for name, tc := range map[string]struct {
		policy string
		asks   []asks
	}{
		"allow nothing": {policy("p", ""), []asks{{m.client, app("/"), denied}, {m.stranger, app("/"), denied}}},
		"principals": {policy("p", `
  rules:
  - from: [{source: {principals: [cluster.local/ns/mesh/sa/client]}}]
`), []asks{{m.client, app("/"), ok}, {m.other, app("/"), denied}, {m.stranger, app("/"), denied}}},
		"not principals": {policy("p", `
  rules:
  - from: [{source: {notPrincipals: ["*/sa/other"]}}]
`), []asks{{m.other, app("/"), denied}, {m.client, app("/"), ok}}},
		"namespaces": {policy("p", `
  rules:
  - from: [{source: {namespaces: [mesh-two]}}]
`), []asks{{m.client, app("/"), denied}, {m.other, app("/"), ok}}},
		"addresses": {policy("p", `
  rules:
  - from: [{source: {ipBlocks: [`+m.stranger.pod.Status.PodIP+`]}}]
`), []asks{{m.client, app("/"), denied}, {m.stranger, app("/"), ok}}},
		"paths and methods": {policy("p", `
  rules:
  - to: [{operation: {methods: [GET], paths: [/public*, /exact, "*/end"]}}]
`), []asks{{m.client, app("/private"), denied}, {m.client, app("/public/x"), ok}, {m.client, put(app("/public")), denied}, {m.client, app("/exact"), ok}, {m.client, app("/a/end"), ok}, {m.client, app("/exactly"), denied}}},
		"path templates": {policy("p", `
  rules:
  - to: [{operation: {paths: ["/v1/{*}/done"]}}]
`), []asks{{m.client, app("/v1/a/b/done"), denied}, {m.client, app("/v1/a/done"), ok}}},
		"paths are normalised first": {policy("p", `
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin*]}}]
`), []asks{{m.client, app("/admin"), denied}, {m.client, app("/x/../admin"), denied}, {m.client, app("/adm"), ok}}},
		"hosts and ports": {policy("p", `
  action: DENY
  rules:
  - to: [{operation: {hosts: [forbidden.example], ports: ["8080"]}}]
`), []asks{{m.client, order{URL: "http://one.mesh/", Method: "GET", Host: "forbidden.example", Address: ""}, []func(outcome) error{that("no 200", func(o outcome) bool { return o.Status != 200 })}}, {m.client, app("/"), ok}}},
		"headers": {policy("p", `
  rules:
  - when: [{key: "request.headers[x-token]", values: [secret, "pre*"]}]
`), []asks{{m.client, app("/"), denied}, {m.client, app("/", "x-token", "secret"), ok}, {m.client, app("/", "x-token", "prefix"), ok}, {m.client, app("/", "x-token", "other"), denied}}},
		"deny goes before allow": {policy("p", `
  rules:
  - {}
`) + "---" + policy("q", `
  action: DENY
  rules:
  - from: [{source: {namespaces: [mesh-two]}}]
    to: [{operation: {methods: [GET]}}]
`), []asks{{m.other, app("/"), denied}, {m.client, app("/"), ok}, {m.other, put(app("/")), ok}}},
		"audit changes nothing": {policy("p", `
  action: AUDIT
  rules:
  - {}
`), []asks{{m.client, app("/"), ok}}},
		"of a namespace and of the mesh": {`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: istio-system}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/mesh-wide]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: q, namespace: mesh}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/namespace-wide]}}]
`, []asks{{m.client, app("/mesh-wide"), denied}, {m.client, app("/namespace-wide"), denied}, {m.client, app("/"), ok}}},
	} {
		t.Run(name, func(t *testing.T) {
			m.apply(t, tc.policy)
			for _, a := range tc.asks {
				a.from.want(t, a.order, a.want...)
			}
		})
	}
	t.Run("TCP", func(t *testing.T) {
		m.apply(t, policy("p", `
  action: DENY
  rules:
  - from: [{source: {namespaces: [mesh-two]}}]
    to: [{operation: {ports: ["9000"]}}]
`))
		try := func(r *relay) string {
			return string(r.raw(t, rawOrder{Address: "one.mesh:9000", Send: []byte("x"), Want: 1, WaitMS: 1000}).Received)
		}
		eventually(t, settle, func() error {
			if a, b := try(m.client), try(m.other); a != "x" || b != "" {
				return fmt.Errorf("client got %q, other %q", a, b)
			}
			return nil
		})
	})
	t.Run("custom", func(t *testing.T) { meshExternal(t, m) })
}

// meshConfig merges YAML into the mesh's configuration until the end of the test.
func (m *mesh) meshConfig(t *testing.T, more string) {
	t.Helper()
	cm, err := m.kube.CoreV1().ConfigMaps("istio-system").Get(t.Context(), "istio", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := cm.Data["mesh"]
	set := func(text string) {
		js, _ := json.Marshal(map[string]any{"data": map[string]string{"mesh": text}})
		m.patch(t, "ConfigMap", "istio-system", "istio", string(js))
	}
	set(before + "\n" + strings.TrimSpace(more) + "\n")
	t.Cleanup(func() { set(before) })
}

// meshExternal has an authorizer of ours asked over HTTP and over gRPC.
func meshExternal(t *testing.T, m *mesh) {
	m.meshConfig(t, `
extensionProviders:
- name: ask-http
  envoyExtAuthzHttp: {service: stub.mesh-out.svc.cluster.local, port: 80, includeRequestHeadersInCheck: [x-pass], headersToUpstreamOnAllow: [x-who], headersToDownstreamOnDeny: [x-why]}
- name: ask-grpc
  envoyExtAuthzGrpc: {service: stub.mesh-out.svc.cluster.local, port: 9001}
`)
	s := m.scriptOf(t, "mesh-out", "app=stub")
	custom := func(provider string) string {
		return policy("p", `
  action: CUSTOM
  provider: {name: `+provider+`}
  rules:
  - to: [{operation: {paths: [/guarded*]}}]
`)
	}
	guarded := func(headers ...string) order { return get("http://one.mesh/guarded", headers...) }
	t.Run("HTTP", func(t *testing.T) {
		s.set(t,
			rule{Contains: "x-pass: please", Headers: map[string]string{"x-who": "a friend"}},
			rule{Contains: "/guarded", Status: 403, Headers: map[string]string{"x-why": "not asked nicely"}, Body: []byte("no")})
		m.apply(t, custom("ask-http"))
		m.client.want(t, guarded(), code(403), header("x-why", "not asked nicely"))
		m.client.want(t, guarded("x-pass", "please"), code(200), heard("x-who", "a friend"))
		m.client.want(t, get("http://one.mesh/"), code(200))
	})
	t.Run("gRPC", func(t *testing.T) {
		frame := func(msg string) []byte { return append([]byte{0, 0, 0, 0, byte(len(msg))}, msg...) }
		grpc := map[string]string{"Content-Type": "application/grpc"}
		okay := map[string]string{"Grpc-Status": "0"}
		// CheckResponse{status: {}} allows; {status: {code: 7}, denied_response: {status: {code: 401}}} does not.
		s.set(t,
			rule{Contains: "please", Headers: grpc, Trailers: okay, Body: frame("\x0a\x00")},
			rule{Contains: "/envoy.service.auth.v3.Authorization/Check", Headers: grpc, Trailers: okay, Body: frame("\x0a\x02\x08\x07\x12\x05\x0a\x03\x08\x91\x03")})
		m.apply(t, custom("ask-grpc"))
		m.client.want(t, guarded(), code(401))
		m.client.want(t, guarded("x-pass", "please"), code(200))
	})
}

// issuer signs tokens.
type issuer struct{ key *ecdsa.PrivateKey }

func newIssuer(t *testing.T) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{key}
}

func (i issuer) jwks() string {
	b := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.FillBytes(make([]byte, 32))) }
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"k","x":"%s","y":"%s"}]}`, b(i.key.X), b(i.key.Y))
}

func (i issuer) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	part := func(v any) string {
		js, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(js)
	}
	text := part(map[string]string{"alg": "ES256", "kid": "k", "typ": "JWT"}) + "." + part(claims)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// meshTokens is RequestAuthentication, and claims in policies and routes.
func meshTokens(t *testing.T, m *mesh) {
	m.oneServer(t)
	i := newIssuer(t)
	claims := func(more ...any) map[string]any {
		c := map[string]any{"iss": "ropes", "sub": "someone", "aud": "app", "exp": time.Now().Add(time.Hour).Unix(), "groups": []string{"sailors"}, "rank": map[string]any{"name": "bosun"}}
		for k := 0; k < len(more); k += 2 {
			c[more[k].(string)] = more[k+1]
		}
		return c
	}
	bearer := func(token string, path ...string) order {
		return get("http://one.mesh/"+strings.Join(path, "/"), "authorization", "Bearer "+token)
	}
	good := i.token(t, claims())
	request := `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens}
spec:
  selector: {matchLabels: {app: app}}
  jwtRules:
  - issuer: ropes
    audiences: [app]
    ` + "%s" + `
    fromHeaders: [{name: authorization, prefix: "Bearer "}, {name: x-token}]
    fromParams: [token]
    forwardOriginalToken: true
    outputClaimToHeaders: [{header: x-sub, claim: sub}]
`
	t.Run("inline keys", func(t *testing.T) {
		m.apply(t, fmt.Sprintf(request, "jwks: '"+i.jwks()+"'"))
		m.client.want(t, bearer("not.a.token"), code(401))
		m.client.want(t, get("http://one.mesh/"), code(200)) // no token is no bad token
		m.client.want(t, bearer(good), code(200), heard("x-sub", "someone"))
		m.client.want(t, get("http://one.mesh/?token="+good), code(200), heard("x-sub", "someone"))
		m.client.want(t, get("http://one.mesh/", "x-token", good), code(200), heard("x-sub", "someone"))
		for what, c := range map[string]map[string]any{
			"expired": claims("exp", time.Now().Add(-time.Hour).Unix()), "of the future": claims("nbf", time.Now().Add(time.Hour).Unix()),
			"of another issuer": claims("iss", "pirates"), "for others": claims("aud", "elsewhere"),
		} {
			if got := m.client.fetch(t, bearer(i.token(t, c))); got.Status != 401 && got.Status != 403 {
				t.Errorf("a token %s: %s", what, got)
			}
		}
		if got := m.client.fetch(t, bearer(newIssuer(t).token(t, claims()))); got.Status != 401 {
			t.Errorf("a token signed by somebody else: %s", got)
		}
		t.Run("claims", func(t *testing.T) {
			m.apply(t, policy("claims", `
  rules:
  - from: [{source: {requestPrincipals: [ropes/someone]}}]
    when:
    - {key: "request.auth.claims[groups]", values: [sailors]}
    - {key: "request.auth.claims[rank][name]", values: [bosun]}
`))
			m.client.want(t, get("http://one.mesh/"), code(403))
			m.client.want(t, bearer(good), code(200))
			m.client.want(t, bearer(i.token(t, claims("groups", []string{"cooks"}))), code(403))
			m.client.want(t, bearer(i.token(t, claims("sub", "anyone"))), code(403))
		})
	})
	t.Run("fetched keys", func(t *testing.T) {
		s := m.scriptOf(t, "mesh-out", "app=stub")
		// Keys of their own, which the rule before does not know, and an address of their own, for istiod keeps what it
		// has fetched from one.
		fetched, at := newIssuer(t), "/keys-"+rand.Text()
		s.set(t, rule{Contains: at, Headers: map[string]string{"content-type": "application/json"}, Body: []byte(fetched.jwks())})
		m.apply(t, fmt.Sprintf(request, `jwksUri: http://stub.mesh-out.svc.cluster.local`+at))
		m.client.want(t, bearer(fetched.token(t, claims())), code(200), heard("x-sub", "someone"))
		m.client.want(t, bearer(good), code(401))
		m.client.want(t, bearer("not.a.token"), code(401))
	})
}
