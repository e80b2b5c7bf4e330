package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"istio.io/istio/pilot/pkg/features"
	"istio.io/istio/pkg/jwt"
	"istio.io/istio/pkg/test"
)

// issuer signs tokens.
type issuer struct {
	t      *testing.T
	signer jose.Signer
	set    string
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: k, KeyID: "k1"}}, nil)
	must(t, err)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.Public(), KeyID: "k1", Algorithm: "RS256", Use: "sig"}}})
	must(t, err)
	return &issuer{t, s, string(set)}
}

func (i *issuer) token(claims map[string]any) string {
	i.t.Helper()
	all := map[string]any{"iss": "issuer@test", "sub": "subject@test", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	b, err := json.Marshal(all)
	must(i.t, err)
	sig, err := i.signer.Sign(b)
	must(i.t, err)
	out, err := sig.CompactSerialize()
	must(i.t, err)
	return out
}

func bearer(path, token string) order {
	o := request(path)
	if token != "" {
		o.Header["Authorization"] = "Bearer " + token
	}
	return o
}

func TestRequestAuthentication(t *testing.T) {
	i := newIssuer(t)
	w, client, server, _ := pair(t, "")
	undo := w.apply(`
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: ns}
spec:
  selector: {matchLabels: {app: server}}
  jwtRules:
  - issuer: issuer@test
    audiences: [svc]
    jwks: '` + i.set + `'
    forwardOriginalToken: true
    outputPayloadToHeader: x-payload
    outputClaimToHeaders: [{header: x-group, claim: nested.group}]
  - issuer: other@test
    jwks: '` + newIssuer(t).set + `'
    fromHeaders: [{name: x-other, prefix: "Tok "}]
    fromParams: [token]
`)
	aud := map[string]any{"aud": "svc"}
	with := func(k string, v any) map[string]any { return map[string]any{"aud": "svc", k: v} }
	eventually(t, client, "a bad token", answers(client, bearer("/", "x.y.z"), 401, "Jwt header is an invalid Base64url encoded"))
	eventually(t, client, "no token", answers(client, request("/"), 200, ""))
	good := i.token(map[string]any{"aud": []string{"svc"}, "nested": map[string]any{"group": "admins"}})
	o := client.send(bearer("/good", good))
	e := o.echo(t)
	payload, err := base64.RawURLEncoding.DecodeString(e.Headers.Get("X-Payload"))
	must(t, err)
	if e.Headers.Get("Authorization") != "Bearer "+good || e.Headers.Get("X-Group") != "admins" || !strings.Contains(string(payload), `"sub":"subject@test"`) {
		t.Errorf("application saw %v", e.Headers)
	}
	forged := request("/forged")
	forged.Header["X-Group"], forged.Header["X-Payload"] = "admins", "x"
	if e := client.send(forged).echo(t); e.Headers.Get("X-Group") != "" || e.Headers.Get("X-Payload") != "" {
		t.Errorf("claims that no token has made reach the application: %v", e.Headers)
	}
	for _, tc := range []struct {
		token  string
		status int
		body   string
	}{
		{i.token(with("exp", 1)), 401, "Jwt is expired"},
		{i.token(with("nbf", time.Now().Add(time.Hour).Unix())), 401, "Jwt not yet valid"},
		{i.token(with("iss", "nobody@test")), 401, "Jwt issuer is not configured"},
		{newIssuer(t).token(aud), 401, "Jwt verification fails"},
		{i.token(map[string]any{"aud": "else"}), 403, "Audiences in Jwt are not allowed"},
	} {
		o := client.send(bearer("/", tc.token))
		if o.Status != tc.status || o.Body != tc.body || !strings.HasPrefix(o.Header.Get("Www-Authenticate"), `Bearer realm="http://server.ns:8000/"`) {
			t.Errorf("%s: %+v", tc.body, o)
		}
	}
	undoPolicy := w.apply(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: jwt, namespace: ns}
spec:
  selector: {matchLabels: {app: server}}
  action: ALLOW
  rules:
  - from: [{source: {requestPrincipals: ["issuer@test/subject@test"]}}]
    to: [{operation: {paths: ["/principal"]}}]
  - to: [{operation: {paths: ["/claims"]}}]
    when:
    - {key: "request.auth.claims[roles]", values: [editor]}
    - {key: "request.auth.claims[nested][group]", values: [ops, dev]}
    - {key: "request.auth.audiences", values: [svc]}
  - to: [{operation: {paths: ["/scope"]}}]
    when: [{key: "request.auth.claims[scope]", values: [write]}]
`)
	eventually(t, client, "a path that asks for a principal, without", answers(client, request("/principal"), 403, "RBAC: access denied"))
	roles := map[string]any{"aud": "svc", "roles": []string{"viewer", "editor"}, "nested": map[string]any{"group": "dev"}}
	for _, tc := range []struct {
		path, token string
		status      int
	}{
		{"/principal", i.token(aud), 200},
		{"/principal", i.token(with("sub", "else")), 403},
		{"/claims", i.token(roles), 200},
		{"/claims", i.token(with("roles", "editor")), 403},
		{"/scope", i.token(with("scope", "read write")), 200},
		{"/scope", i.token(with("scope", "read")), 403},
	} {
		if o := client.send(bearer(tc.path, tc.token)); o.Status != tc.status {
			t.Errorf("%s wants %d: %+v", tc.path, tc.status, o)
		}
	}
	undoPolicy()
	undo()
	eventually(t, client, "without a policy", answers(client, bearer("/", "x.y.z"), 200, ""))
	noNacks(t, client, server)
}

// TestFetchedKeys has istiod, and then the proxy itself, fetch the keys of an issuer.
func TestFetchedKeys(t *testing.T) {
	i := newIssuer(t)
	var asked atomic.Int64
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/jwks" {
			asked.Add(1)
			_, _ = w.Write([]byte(i.set))
		}
	})
	serve := func(ln net.Listener) {
		s := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
		go func() { _ = s.Serve(ln) }()
		t.Cleanup(func() { _ = s.Close() })
	}
	near, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	serve(near)
	w, client, server, _ := pair(t, "")
	hub, err := w.fabric.listen(hubIP + ":8090")
	must(t, err)
	serve(hub)
	policy := func(uri string) string {
		return `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: fetched, namespace: ns}
spec:
  selector: {matchLabels: {app: server}}
  jwtRules: [{issuer: issuer@test, jwksUri: "` + uri + `"}]
`
	}
	undo := w.apply(policy("http://" + near.Addr().String() + "/jwks"))
	eventually(t, client, "a bad token", answers(client, bearer("/", "x.y.z"), 401, "Jwt"))
	eventually(t, client, "keys that istiod has fetched", answers(client, bearer("/", i.token(nil)), 200, ""))
	undo()
	test.SetForTest(t, &features.JwksFetchMode, jwt.Envoy)
	w.apply(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: keys, namespace: ns}
spec:
  hosts: [keys.example]
  ports: [{number: 8090, name: http, protocol: HTTP}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{address: ` + hubIP + `}]
`)
	before := asked.Load()
	w.apply(policy("http://keys.example:8090/jwks"))
	eventually(t, client, "keys that the proxy fetches", answers(client, bearer("/", i.token(nil)), 200, ""))
	eventually(t, client, "a token of another key", answers(client, bearer("/", newIssuer(t).token(nil)), 401, "Jwt verification fails"))
	for range 5 {
		client.send(bearer("/", i.token(nil)))
	}
	if n := asked.Load() - before; n < 1 || n > 2 {
		t.Errorf("keys were fetched %d times", n)
	}
	noNacks(t, client, server)
}

// TestRoutingByClaims: a gateway chooses routes by what tokens say.
func TestRoutingByClaims(t *testing.T) {
	i := newIssuer(t)
	objects := podYAML("server", "10.9.0.2", true) + podYAML("gw", "10.9.0.4", true) + podYAML("plain", "10.9.0.3", false) +
		serviceYAML("server", "10.96.0.2", httpPorts, slicePorts, [2]string{"server", "10.9.0.2"}) +
		serviceYAML("gw", "10.96.0.4", "  - {name: http, port: 80, targetPort: 8080, protocol: TCP}", "- {name: http, port: 8080, protocol: TCP}",
			[2]string{"gw", "10.9.0.4"})
	w := newWorld(t, objects, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: ns}
spec:
  selector: {app: gw}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["web.example"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: ns}
spec:
  hosts: [web.example]
  gateways: [gw]
  http:
  - match: [{headers: {"@request.auth.claims.groups": {exact: admins}}}]
    directResponse: {status: 200, body: {string: for admins}}
  - match: [{headers: {"@request.auth.claims[nested][tier]": {regex: "g.*"}}}]
    directResponse: {status: 200, body: {string: for gold}}
  - route: [{destination: {host: server.ns.svc.cluster.local, port: {number: 8000}}}]
`)
	w.apply(`
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: ns}
spec:
  selector: {matchLabels: {app: gw}}
  jwtRules: [{issuer: issuer@test, jwks: '` + i.set + `'}]
`)
	w.start("server", "10.9.0.2", true)
	plain := w.start("plain", "10.9.0.3", false)
	gw := w.gateway("gw", "10.9.0.4")
	via := func(token string) order {
		o := bearer("/", token)
		o.URL, o.Host = "http://10.9.0.4:8080/", "web.example"
		return o
	}
	eventually(t, plain, "no token", answers(plain, via(""), 200, `"name":"server"`))
	for _, tc := range []struct{ token, want string }{
		{i.token(map[string]any{"groups": []string{"users", "admins"}}), "for admins"},
		{i.token(map[string]any{"groups": "users"}), `"name":"server"`},
		{i.token(map[string]any{"nested": map[string]any{"tier": "gold"}}), "for gold"},
	} {
		eventually(t, plain, tc.want, answers(plain, via(tc.token), 200, tc.want))
	}
	forged := via("")
	forged.Header["@request.auth.claims.groups"] = "admins"
	if o := plain.send(forged); strings.Contains(o.Body, "for admins") {
		t.Errorf("a header passes for a claim: %+v", o)
	}
	noNacks(t, gw)
}
