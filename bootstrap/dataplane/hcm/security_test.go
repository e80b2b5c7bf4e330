package hcm

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/go-jose/go-jose/v4"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// before puts HTTP filters, written as JSON, in front of the router.
func before(t testing.TB, filters ...string) func(*hcmv3.HttpConnectionManager) {
	t.Helper()
	return func(p *hcmv3.HttpConnectionManager) {
		var list []*hcmv3.HttpFilter
		for _, js := range filters {
			f := &hcmv3.HttpFilter{}
			must(t, protojson.Unmarshal([]byte(js), f))
			list = append(list, f)
		}
		p.HttpFilters = append(list, p.HttpFilters...)
	}
}

// signer makes tokens and the key set that they are verified with.
type signer struct {
	jose.Signer
	set string
}

func newSigner(t testing.TB) *signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: k}, nil)
	must(t, err)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.Public()}}})
	must(t, err)
	return &signer{s, string(set)}
}

func (s *signer) token(t testing.TB, claims string) string {
	t.Helper()
	sig, err := s.Sign([]byte(claims))
	must(t, err)
	out, err := sig.CompactSerialize()
	must(t, err)
	return out
}

func scopeOf(name string) stats.Scope { return stats.Scope{Name: name} }

const emptyOK = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

func TestJWTFilter(t *testing.T) {
	s := newSigner(t)
	keys := newBackend(t, func(c net.Conn, _ *bufio.Reader, _ *http.Request) bool {
		_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(s.set), s.set)
		return err == nil
	})
	up := newBackend(t, func(c net.Conn, _ *bufio.Reader, req *http.Request) bool {
		text := req.Header.Get("X-Sub") + "|" + req.Header.Get("Authorization")
		_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		return err == nil
	})
	const filter = `{"name":"envoy.filters.http.jwt_authn","typedConfig":{
		"@type":"type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication","bypassCorsPreflight":true,
		"providers":{"p":{"issuer":"me","audiences":["svc"],"payloadInMetadata":"payload","clearRouteCache":true,
		"claimToHeaders":[{"headerName":"x-sub","claimName":"sub"}],
		"remoteJwks":{"httpUri":{"uri":"http://keys.example/jwks?x=1","cluster":"keys","timeout":"5s"}}}},
		"rules":[{"match":{"prefix":"/open"}},{"match":{"prefix":"/"},"requires":{"requiresAny":{"requirements":[
		{"providerName":"p"},{"allowMissing":{}}]}}}],"requirementMap":{"must":{"providerName":"p"}}}}`
	const rules = `{"name":"envoy.filters.http.rbac","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
		"rules":{"action":"DENY","policies":{"p":{"permissions":[{"any":true}],"principals":[{"metadata":{"filter":"envoy.filters.http.jwt_authn",
		"path":[{"key":"payload"},{"key":"sub"}],"value":{"stringMatch":{"exact":"mallory"}}}}]}}}}}`
	const routes = `{"name":"r","virtualHosts":[{"name":"v","domains":["*"],"routes":[
		{"match":{"prefix":"/","headers":[{"name":"x-sub","stringMatch":{"exact":"admin"}}]},"directResponse":{"status":200,"body":{"inlineString":"admins"}}},
		{"match":{"prefix":"/must"},"route":{"cluster":"up"},"typedPerFilterConfig":{"envoy.filters.http.jwt_authn":{
			"@type":"type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig","requirementName":"must"}}},
		{"match":{"prefix":"/"},"route":{"cluster":"up"}}]}]}`
	f := newFixture(t, routes, map[string][]string{"up": {up.addr}, "keys": {keys.addr}}, before(t, filter, rules))
	good := s.token(t, `{"iss":"me","sub":"alice","aud":"svc"}`)
	for _, tc := range []struct {
		name, path, header string
		status             int
		body, challenge    string
	}{
		{"no token", "/", "", 200, "|", ""},
		{"good token is taken off", "/", good, 200, "alice|", ""},
		{"garbage", "/?a=b", "x.y.z", 401, "Jwt header is an invalid Base64url encoded", `Bearer realm="http://a.example/?a=b", error="invalid_token"`},
		{"expired", "/", s.token(t, `{"iss":"me","exp":1}`), 401, "Jwt is expired", `Bearer realm="http://a.example/", error="invalid_token"`},
		{"issuer", "/", s.token(t, `{"iss":"you"}`), 401, "Jwt issuer is not configured", `Bearer realm="http://a.example/", error="invalid_token"`},
		{"audience", "/", s.token(t, `{"iss":"me","aud":"x"}`), 403, "Audiences in Jwt are not allowed", `Bearer realm="http://a.example/", error="invalid_token"`},
		{"route that asks for a token", "/must", "", 401, "Jwt is missing", `Bearer realm="http://a.example/must"`},
		{"route that asks for a token and gets it", "/must", good, 200, "alice|", ""},
		{"path without a requirement", "/open", "x.y.z", 200, "|Bearer x.y.z", ""},
		{"denied by a claim", "/", s.token(t, `{"iss":"me","sub":"mallory","aud":"svc"}`), 403, "RBAC: access denied", ""},
		{"routed by a claim", "/", s.token(t, `{"iss":"me","sub":"admin","aud":"svc"}`), 200, "admins", ""},
	} {
		auth := ""
		if tc.header != "" {
			auth = "Authorization: Bearer " + tc.header + "\r\n"
		}
		resp, body := f.exchange("GET " + tc.path + " HTTP/1.1\r\nHost: a.example\r\n" + auth + "\r\n")
		if resp.StatusCode != tc.status || body != tc.body || resp.Header.Get("Www-Authenticate") != tc.challenge {
			t.Errorf("%s: %d %q %q", tc.name, resp.StatusCode, body, resp.Header.Get("Www-Authenticate"))
		}
	}
	if got := keys.requests(); len(got) != 1 || got[0] != "GET /jwks?x=1 keys.example" {
		t.Errorf("keys were fetched by %v", got)
	}
	f.exchange("OPTIONS /must HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\nAccess-Control-Request-Method: GET\r\n\r\n")
	if n := f.env.Stats.Counter(scopeOf("http.test.jwt_authn"), "cors_preflight_bypassed").Value(); n != 1 {
		t.Errorf("%d preflights bypassed", n)
	}
	f.exchange("GET /must HTTP/1.1\r\nHost: a\r\n\r\n")
	if e := f.last(); e.ResponseCodeDetails != "jwt_authn_access_denied{Jwt_is_missing}" {
		t.Errorf("details %q", e.ResponseCodeDetails)
	}
}

// authorizer is a gRPC authorization service.
type authorizer struct {
	authv3.UnimplementedAuthorizationServer
	mu   sync.Mutex
	last *authv3.AttributeContext
	fn   func(*authv3.AttributeContext) (*authv3.CheckResponse, error)
}

func (a *authorizer) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = r.GetAttributes()
	return a.fn(a.last)
}

func serveAuthorizer(t testing.TB, a *authorizer) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	g := grpc.NewServer()
	authv3.RegisterAuthorizationServer(g, a)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(ln) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return ln.Addr().String()
}

// addCluster adds a static cluster that speaks HTTP/2.
func (f *fixture) addCluster(name, addr string) {
	f.t.Helper()
	ap := mustTCP(f.t, addr)
	p := &clusterv3.Cluster{}
	must(f.t, protojson.Unmarshal([]byte(fmt.Sprintf(`{"name":%q,"type":"STATIC","connectTimeout":"1s","http2ProtocolOptions":{},
		"loadAssignment":{"clusterName":%q,"endpoints":[{"lbEndpoints":[{"endpoint":{"address":{"socketAddress":{"address":%q,
		"portValue":%d}}}}]}]}}`, name, name, ap.IP, ap.Port)), p))
	must(f.t, f.env.Clusters.AddStatic(p))
}

func header(k, v string, appended bool) *corev3.HeaderValueOption {
	h := &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: k, Value: v}}
	if appended {
		h.AppendAction = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
	}
	return h
}

func TestExtAuthzGRPC(t *testing.T) {
	up := newBackend(t, func(c net.Conn, _ *bufio.Reader, req *http.Request) bool {
		b, _ := io.ReadAll(req.Body)
		text := req.RequestURI + "|" + req.Header.Get("X-User") + "|" + req.Header.Get("X-Secret") + "|" + string(b)
		_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		return err == nil
	})
	a := &authorizer{fn: func(c *authv3.AttributeContext) (*authv3.CheckResponse, error) {
		h := c.GetRequest().GetHttp()
		switch h.GetHeaders()["x-try"] {
		case "deny":
			return &authv3.CheckResponse{
				Status: &status.Status{Code: int32(codes.PermissionDenied)},
				HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
					Headers: []*corev3.HeaderValueOption{header("x-why", "because", false)}, Body: "no way",
				}},
			}, nil
		case "slow":
			time.Sleep(300 * time.Millisecond)
		case "fail":
			return nil, fmt.Errorf("broken")
		}
		return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers:                 []*corev3.HeaderValueOption{header("x-user", "alice", false)},
			HeadersToRemove:         []string{"x-secret", ":path", "host"},
			ResponseHeadersToAdd:    []*corev3.HeaderValueOption{header("x-checked", "yes", false)},
			QueryParametersToSet:    []*corev3.QueryParameter{{Key: "q", Value: "2"}},
			QueryParametersToRemove: []string{"z"},
		}}}, nil
	}}
	const filter = `{"name":"authz","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
		"transportApiVersion":"V3","grpcService":{"envoyGrpc":{"clusterName":"authz"},"timeout":"0.2s"},EXTRA}}`
	run := func(extra string) *fixture {
		f := newFixture(t, simpleRoutes, map[string][]string{"up": {up.addr}}, before(t, strings.Replace(filter, "EXTRA", extra, 1)))
		f.addCluster("authz", serveAuthorizer(t, a))
		return f
	}
	f := run(`"statusOnError":{"code":"ServiceUnavailable"},"withRequestBody":{"maxRequestBytes":4,"allowPartialMessage":true}`)
	post := func(try, body string) string {
		return fmt.Sprintf("POST /p?q=1&z=1 HTTP/1.1\r\nHost: a.example\r\nX-Secret: s\r\nX-Try: %s\r\nContent-Length: %d\r\n\r\n%s", try, len(body), body)
	}
	resp, body := f.exchange(post("", "abcdefg"))
	if resp.StatusCode != http.StatusOK || body != "/p?q=2|alice||abcdefg" || resp.Header.Get("X-Checked") != "yes" {
		t.Errorf("allowed: %d %q %v", resp.StatusCode, body, resp.Header)
	}
	h := a.last.GetRequest().GetHttp()
	if h.GetMethod() != "POST" || h.GetPath() != "/p?q=1&z=1" || h.GetHost() != "a.example" || h.GetBody() != "abcd" ||
		h.GetHeaders()["x-secret"] != "s" || h.GetHeaders()["x-envoy-auth-partial-body"] != "true" || h.GetHeaders()[":authority"] != "a.example" ||
		a.last.GetSource().GetAddress().GetSocketAddress().GetAddress() != "127.0.0.1" {
		t.Errorf("the service was told %v", a.last)
	}
	resp, body = f.exchange(post("deny", "x"))
	if resp.StatusCode != http.StatusForbidden || body != "no way" || resp.Header.Get("X-Why") != "because" || f.last().ResponseCodeDetails != "ext_authz_denied" ||
		f.last().Flags.String() != "UAEX" {
		t.Errorf("denied: %d %q %v %+v", resp.StatusCode, body, resp.Header, f.last())
	}
	for _, try := range []string{"slow", "fail"} {
		if resp, _ = f.exchange(post(try, "x")); resp.StatusCode != http.StatusServiceUnavailable || f.last().ResponseCodeDetails != "ext_authz_error" {
			t.Errorf("%s: %d %s", try, resp.StatusCode, f.last().ResponseCodeDetails)
		}
	}
	f = run(`"failureModeAllow":true,"failureModeAllowHeaderAdd":true`)
	if resp, _ = f.exchange(post("fail", "x")); resp.StatusCode != http.StatusOK {
		t.Errorf("fail open: %d", resp.StatusCode)
	}
	f = run(`"withRequestBody":{"maxRequestBytes":4}`)
	if resp, body = f.exchange(post("", "abcdefg")); resp.StatusCode != http.StatusRequestEntityTooLarge || body != "Payload Too Large" {
		t.Errorf("too large a body: %d %q", resp.StatusCode, body)
	}
	if resp, body = f.exchange(post("", "abcd")); resp.StatusCode != http.StatusOK || body != "/p?q=2|alice||abcd" {
		t.Errorf("body that just fits: %d %q", resp.StatusCode, body)
	}
}

// TestExtAuthzAsIstioGates has the service asked only about requests that a CUSTOM policy matches.
func TestExtAuthzAsIstioGates(t *testing.T) {
	up := newBackend(t, func(c net.Conn, _ *bufio.Reader, _ *http.Request) bool {
		_, err := io.WriteString(c, emptyOK)
		return err == nil
	})
	service := newBackend(t, func(c net.Conn, _ *bufio.Reader, req *http.Request) bool {
		b, _ := io.ReadAll(req.Body)
		if req.Header.Get("X-Ext-Authz") == "allow" {
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nX-Ext-Result: allowed\r\nX-Other: 1\r\nX-Client: c\r\nContent-Length: 0\r\n\r\n")
			return err == nil
		}
		text := "denied by ext_authz " + req.Header.Get("X-Fixed") + req.Header.Get("Cookie") + string(b)
		_, err := fmt.Fprintf(c, "HTTP/1.1 401 Unauthorized\r\nX-Ext-Result: denied\r\nX-Other: 1\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		return err == nil
	})
	const shadow = `{"name":"envoy.filters.http.rbac","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
		"shadowRulesStatPrefix":"istio_ext_authz_","shadowRules":{"action":"DENY","policies":{"istio-ext-authz-p-ns[a]-policy[b]-rule[0]":{
		"permissions":[{"urlPath":{"path":{"prefix":"/guarded"}}}],"principals":[{"any":true}]}}}}}`
	const filter = `{"name":"authz","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
		"transportApiVersion":"V3","allowedHeaders":{"patterns":[{"exact":"x-ext-authz","ignoreCase":true}]},
		"filterEnabledMetadata":{"filter":"envoy.filters.http.rbac","path":[{"key":"istio_ext_authz_shadow_effective_policy_id"}],
		"value":{"stringMatch":{"prefix":"istio-ext-authz-p"}}},"httpService":{"pathPrefix":"/check","serverUri":{"uri":"http://x","cluster":"authz","timeout":"5s"},
		"authorizationRequest":{"headersToAdd":[{"key":"x-fixed","value":"v"}]},"authorizationResponse":{
		"allowedUpstreamHeaders":{"patterns":[{"exact":"x-ext-result"}]},"allowedClientHeaders":{"patterns":[{"exact":"x-ext-result"}]},
		"allowedClientHeadersOnSuccess":{"patterns":[{"exact":"x-client"}]}}}}}`
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {up.addr}, "authz": {service.addr}}, before(t, shadow, filter))
	resp, _ := f.exchange("GET /free HTTP/1.1\r\nHost: a\r\n\r\n")
	if resp.StatusCode != http.StatusOK || len(service.requests()) != 0 {
		t.Errorf("a request that no policy matches: %d, service saw %v", resp.StatusCode, service.requests())
	}
	resp, body := f.exchange("POST /guarded?x=1 HTTP/1.1\r\nHost: a.example\r\nCookie: c\r\nContent-Length: 4\r\n\r\nbody")
	if resp.StatusCode != http.StatusUnauthorized || body != "denied by ext_authz v" || resp.Header.Get("X-Ext-Result") != "denied" || resp.Header.Get("X-Other") != "" {
		t.Errorf("denied: %d %q %v", resp.StatusCode, body, resp.Header)
	}
	resp, _ = f.exchange("GET /guarded HTTP/1.1\r\nHost: a.example\r\nX-Ext-Authz: allow\r\n\r\n")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Client") != "c" || resp.Header.Get("X-Other") != "" {
		t.Errorf("allowed: %d %v", resp.StatusCode, resp.Header)
	}
	if got := service.requests(); len(got) != 2 || got[0] != "POST /check/guarded?x=1 a.example" {
		t.Errorf("service saw %v", got)
	}
}

func TestLocalRateLimitFilter(t *testing.T) {
	up := newBackend(t, func(c net.Conn, _ *bufio.Reader, req *http.Request) bool {
		_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Marked: %s\r\nContent-Length: 0\r\n\r\n", req.Header.Get("X-Over"))
		return err == nil
	})
	const bucket = `"tokenBucket":{"maxTokens":2,"tokensPerFill":1,"fillInterval":"3600s"}`
	const on = `"filterEnabled":{"defaultValue":{"numerator":100}},"filterEnforced":{"defaultValue":{"numerator":100}}`
	// As Istio's documentation writes it.
	const typedStruct = `{"name":"envoy.filters.http.local_ratelimit","typedConfig":{"@type":"type.googleapis.com/udpa.type.v1.TypedStruct",
		"type_url":"type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit","value":{"stat_prefix":"http_local_rate_limiter",
		"token_bucket":{"max_tokens":2,"tokens_per_fill":1,"fill_interval":"3600s"},
		"filter_enabled":{"runtime_key":"a","default_value":{"numerator":100,"denominator":"HUNDRED"}},
		"filter_enforced":{"runtime_key":"b","default_value":{"numerator":100,"denominator":"HUNDRED"}},
		"response_headers_to_add":[{"append":false,"header":{"key":"x-local-rate-limit","value":"true"}}]}}}`
	plain := func(body string) string {
		return `{"name":"envoy.filters.http.local_ratelimit","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
			"statPrefix":"l",` + body + `}}`
	}
	hosts := map[string][]string{"up": {up.addr}}
	get := func(f *fixture, path, extra string) (*http.Response, string) {
		return f.exchange("GET " + path + " HTTP/1.1\r\nHost: a\r\n" + extra + "\r\n")
	}
	statuses := func(f *fixture, path, extra string, n int) string {
		var out []string
		for range n {
			resp, _ := get(f, path, extra)
			out = append(out, itoa(resp.StatusCode))
		}
		return strings.Join(out, " ")
	}

	f := newFixture(t, simpleRoutes, hosts, before(t, typedStruct))
	if got := statuses(f, "/", "", 3); got != "200 200 429" {
		t.Errorf("three requests: %s", got)
	}
	resp, body := get(f, "/", "")
	if resp.StatusCode != http.StatusTooManyRequests || body != "local_rate_limited" || resp.Header.Get("X-Local-Rate-Limit") != "true" ||
		resp.Header.Get("X-Envoy-Ratelimited") != "true" || f.last().Flags.String() != "RL" {
		t.Errorf("over the limit: %d %q %v %s", resp.StatusCode, body, resp.Header, f.last().Flags)
	}
	sc := scopeOf("http_local_rate_limiter.http_local_rate_limit")
	if n := f.env.Stats.Counter(sc, "rate_limited").Value(); n != 2 {
		t.Errorf("%d counted as limited", n)
	}

	f = newFixture(t, simpleRoutes, hosts, before(t, plain(bucket)))
	if got := statuses(f, "/", "", 4); got != "200 200 200 200" {
		t.Errorf("a limit that is not enabled: %s", got)
	}
	f = newFixture(t, simpleRoutes, hosts, before(t, plain(bucket+`,"filterEnabled":{"defaultValue":{"numerator":100}},
		"requestHeadersToAddWhenNotEnforced":[{"header":{"key":"x-over","value":"1"}}]`)))
	statuses(f, "/", "", 2)
	if resp, _ := get(f, "/", ""); resp.StatusCode != http.StatusOK || resp.Header.Get("X-Marked") != "1" {
		t.Errorf("a limit that is not enforced: %d %v", resp.StatusCode, resp.Header)
	}
	f = newFixture(t, simpleRoutes, hosts, before(t, plain(bucket+","+on+`,"rateLimitedAsResourceExhausted":true,"enableXRatelimitHeaders":"DRAFT_VERSION_03"`)))
	if resp, _ := get(f, "/", ""); resp.Header.Get("X-Ratelimit-Limit") != "2" || resp.Header.Get("X-Ratelimit-Remaining") != "1" || resp.Header.Get("X-Ratelimit-Reset") != "0" {
		t.Errorf("headers: %v", resp.Header)
	}
	statuses(f, "/", "", 1)
	if resp, _ := get(f, "/", "Content-Type: application/grpc\r\n"); resp.StatusCode != http.StatusOK || resp.Header.Get("Grpc-Status") != "8" ||
		resp.Header.Get("X-Envoy-Ratelimited") != "true" {
		t.Errorf("gRPC over the limit: %d %v", resp.StatusCode, resp.Header)
	}
	f = newFixture(t, simpleRoutes, hosts, before(t, plain(bucket+","+on+`,"localRateLimitPerDownstreamConnection":true`)))
	if got := statuses(f, "/", "", 4); got != "200 200 200 200" {
		t.Errorf("a limit for each connection: %s", got)
	}

	perRoute := `{"name":"r","virtualHosts":[{"name":"v","domains":["*"],"routes":[
		{"match":{"prefix":"/own"},"route":{"cluster":"up"},"typedPerFilterConfig":{"envoy.filters.http.local_ratelimit":{
		"@type":"type.googleapis.com/xds.type.v3.TypedStruct","typeUrl":"type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
		"value":{"statPrefix":"own","tokenBucket":{"maxTokens":1,"fillInterval":"3600s"},` + on + `}}}},
		{"match":{"prefix":"/d"},"route":{"cluster":"up","rateLimits":[{"actions":[{"requestHeaders":{"headerName":":path","descriptorKey":"PATH"}},
			{"genericKey":{"descriptorValue":"g"}},{"headerValueMatch":{"descriptorValue":"hv","headers":[{"name":"x-u","presentMatch":true}]}},
			{"remoteAddress":{}},{"destinationCluster":{}},{"sourceCluster":{}}]}]}},
		{"match":{"prefix":"/"},"route":{"cluster":"up"}}]}]}`
	f = newFixture(t, perRoute, hosts, before(t, plain(on+`,"descriptors":[{"entries":[{"key":"PATH","value":"/d"},{"key":"generic_key","value":"g"},
		{"key":"header_match","value":"hv"},{"key":"remote_address","value":"127.0.0.1"},{"key":"destination_cluster","value":"up"},
		{"key":"source_cluster","value":""}],"tokenBucket":{"maxTokens":1,"fillInterval":"3600s"}}]`)))
	for _, tc := range [][3]string{
		{"/own", "", "200 429 429"},
		{"/", "", "200 200 200"},
		{"/d", "X-U: 1\r\n", "200 429 429"},
		{"/d", "", "200 200 200"},
		{"/d2", "X-U: 1\r\n", "200 200 200"},
	} {
		if got := statuses(f, tc[0], tc[1], 3); got != tc[2] {
			t.Errorf("%s %q: %s, want %s", tc[0], tc[1], got, tc[2])
		}
	}
}
