package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	meshapi "istio.io/api/mesh/v1alpha1"
)

// judge is an authorization service, by HTTP and by gRPC, that allows what carries x-ext-authz: allow.
type judge struct {
	authv3.UnimplementedAuthorizationServer
	mu   sync.Mutex
	http []*http.Request
	grpc []*authv3.AttributeContext
	deny string // principal whose connections are refused
}

func (j *judge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	j.mu.Lock()
	r.Header.Set("Seen-Body", string(body))
	j.http = append(j.http, r)
	j.mu.Unlock()
	w.Header().Set("X-Ext-Authz-Check-Result", "denied")
	switch r.Header.Get("X-Ext-Authz") {
	case "allow":
		w.Header().Set("X-Ext-Authz-Check-Result", "allowed")
		w.Header().Set("X-User", "alice")
		w.Header().Set("X-Unlisted", "1")
	case "error":
		w.WriteHeader(http.StatusInternalServerError)
	case "slow":
		time.Sleep(time.Second)
	default:
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "denied by the judge")
	}
}

func (j *judge) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	a := r.GetAttributes()
	j.grpc = append(j.grpc, a)
	h := a.GetRequest().GetHttp()
	if h == nil {
		if a.GetSource().GetPrincipal() == j.deny {
			return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.PermissionDenied)}}, nil
		}
		return &authv3.CheckResponse{Status: &status.Status{}}, nil
	}
	header := func(k, v string) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: k, Value: v}}
	}
	if h.GetHeaders()["x-ext-authz"] == "allow" {
		return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{header("x-user", "alice")}, HeadersToRemove: []string{"x-secret"},
			ResponseHeadersToAdd: []*corev3.HeaderValueOption{header("x-judged", "yes")},
		}}}, nil
	}
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(codes.PermissionDenied)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_Unauthorized}, Headers: []*corev3.HeaderValueOption{header("x-why", "no")},
			Body: "denied by gRPC",
		}},
	}, nil
}

func (j *judge) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.http)
}

func (j *judge) lastHTTP() *http.Request {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.http) == 0 {
		return nil
	}
	return j.http[len(j.http)-1]
}

func (j *judge) lastGRPC() *authv3.AttributeContext {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.grpc) == 0 {
		return nil
	}
	return j.grpc[len(j.grpc)-1]
}

// providers are extension providers of MeshConfig, as Istio's documentation has them.
func providers(m *meshapi.MeshConfig) {
	grpcProvider := func(name string, p *meshapi.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationGrpcProvider) *meshapi.MeshConfig_ExtensionProvider {
		p.Service, p.Port, p.Timeout = "judge.example", 9090, durationpb.New(300*time.Millisecond)
		return &meshapi.MeshConfig_ExtensionProvider{Name: name, Provider: &meshapi.MeshConfig_ExtensionProvider_EnvoyExtAuthzGrpc{EnvoyExtAuthzGrpc: p}}
	}
	httpProvider := func(name string, p *meshapi.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider) *meshapi.MeshConfig_ExtensionProvider {
		p.Service, p.Port, p.Timeout = "judge.example", 8090, durationpb.New(300*time.Millisecond)
		p.IncludeRequestHeadersInCheck = []string{"x-ext-authz"}
		return &meshapi.MeshConfig_ExtensionProvider{Name: name, Provider: &meshapi.MeshConfig_ExtensionProvider_EnvoyExtAuthzHttp{EnvoyExtAuthzHttp: p}}
	}
	m.ExtensionProviders = append(m.ExtensionProviders,
		grpcProvider("by-grpc", &meshapi.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationGrpcProvider{
			IncludeRequestBodyInCheck: &meshapi.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationRequestBody{MaxRequestBytes: 4, AllowPartialMessage: true},
		}),
		httpProvider("by-http", &meshapi.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider{
			PathPrefix: "/check", StatusOnError: "503", HeadersToUpstreamOnAllow: []string{"x-user", "x-ext-authz-check-result"},
			HeadersToDownstreamOnDeny: []string{"x-ext-authz-*"}, HeadersToDownstreamOnAllow: []string{"x-ext-authz-check-result"},
			IncludeAdditionalHeadersInCheck: map[string]string{"x-added": "by-istio"},
		}),
		httpProvider("fail-open", &meshapi.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider{FailOpen: true}),
	)
}

func custom(provider, to string) string {
	return `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: custom, namespace: ns}
spec:
  selector: {matchLabels: {app: server}}
  action: CUSTOM
  provider: {name: ` + provider + `}
  rules: [{to: [{operation: {` + to + `}}]}]
`
}

func TestCustomAuthorization(t *testing.T) {
	w, client, server, _ := newWorldOf(t, pairYAML(), `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: judge, namespace: ns}
spec:
  hosts: [judge.example]
  ports: [{number: 8090, name: http, protocol: HTTP}, {number: 9090, name: grpc, protocol: GRPC}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{address: `+hubIP+`}]
`, false, providers).pair()
	j := &judge{deny: "spiffe://cluster.local/ns/ns/sa/client"}
	hl, err := w.fabric.listen(hubIP + ":8090")
	must(t, err)
	hs := &http.Server{Handler: j, ReadHeaderTimeout: time.Second}
	go func() { _ = hs.Serve(hl) }()
	gl, err := w.fabric.listen(hubIP + ":9090")
	must(t, err)
	gs := grpc.NewServer()
	authv3.RegisterAuthorizationServer(gs, j)
	go func() { _ = gs.Serve(gl) }()
	t.Cleanup(func() { _ = hs.Close(); gs.Stop() })
	post := func(path, verdict string) order {
		o := request(path)
		o.Method, o.Body = "POST", "the body"
		o.Header["x-ext-authz"], o.Header["x-secret"] = verdict, "s"
		return o
	}

	w.apply(custom("by-http", `paths: ["/guarded*"]`))
	eventually(t, client, "a guarded path", answers(client, post("/guarded?x=1", "deny"), 403, "denied by the judge"))
	if r := j.lastHTTP(); r.Method != http.MethodPost || r.RequestURI != "/check/guarded?x=1" || r.Host != "server.ns:8000" || r.Header.Get("X-Added") != "by-istio" ||
		r.Header.Get("X-Secret") != "" || r.Header.Get("Seen-Body") != "" {
		t.Errorf("the judge saw %s %s %s %v", r.Method, r.RequestURI, r.Host, r.Header)
	}
	o := client.send(post("/guarded", "deny"))
	if o.Header.Get("X-Ext-Authz-Check-Result") != "denied" {
		t.Errorf("refusal: %+v", o)
	}
	o = client.send(post("/guarded", "allow"))
	if e := o.echo(t); e.Headers.Get("X-User") != "alice" || e.Headers.Get("X-Unlisted") != "" || e.Body != "the body" ||
		o.Header.Get("X-Ext-Authz-Check-Result") != "allowed" {
		t.Errorf("allowed: application saw %+v, client %v", e, o.Header)
	}
	for _, verdict := range []string{"error", "slow"} {
		if o := client.send(post("/guarded", verdict)); o.Status != 503 {
			t.Errorf("%s: %+v", verdict, o)
		}
	}
	seen := j.count()
	if o := client.send(post("/free", "deny")); o.Status != 200 || j.count() != seen {
		t.Errorf("a path that no rule names: %+v", o)
	}
	w.apply(custom("fail-open", `paths: ["/guarded*"]`))
	eventually(t, client, "a service that fails under failOpen", answers(client, post("/guarded", "error"), 200, ""))

	w.apply(custom("by-grpc", `paths: ["/guarded*"]`))
	eventually(t, client, "refused by gRPC", answers(client, post("/guarded", "deny"), 401, "denied by gRPC"))
	a := j.lastGRPC()
	if h := a.GetRequest().GetHttp(); h.GetMethod() != "POST" || h.GetBody() != "the " || h.GetHeaders()["x-envoy-auth-partial-body"] != "true" ||
		a.GetSource().GetPrincipal() != j.deny || a.GetDestination().GetPrincipal() != "spiffe://cluster.local/ns/ns/sa/server" {
		t.Errorf("the judge saw %v", a)
	}
	o = client.send(post("/guarded", "allow"))
	if e := o.echo(t); e.Headers.Get("X-User") != "alice" || e.Headers.Get("X-Secret") != "" || e.Body != "the body" || o.Header.Get("X-Judged") != "yes" {
		t.Errorf("allowed: application saw %+v, client %v", e, o.Header)
	}
	eventually(t, server, "the access log", func() error {
		b, err := os.ReadFile(filepath.Join(server.dir, "access.log"))
		if err != nil {
			return err
		}
		if !strings.Contains(string(b), `" 401 UAEX ext_authz_denied`) {
			return fmt.Errorf("%s", b)
		}
		return nil
	})

	w.apply(custom("by-grpc", `ports: ["9000"]`))
	echo := order{Kind: "tcp", URL: "10.96.0.2:9000", Body: "x", Half: true}
	eventually(t, client, "TCP that the judge refuses", func() error {
		if o := client.send(echo); o.Body != "" {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	j.mu.Lock()
	j.deny = "somebody else"
	j.mu.Unlock()
	if o := client.send(echo); o.Body != "x" {
		t.Errorf("TCP that the judge allows: %+v", o)
	}
	if o := client.send(order{Kind: "tcp", URL: "10.96.0.2:9001"}); o.Body != "welcome\n" {
		t.Errorf("a server that speaks first, on another port: %+v", o)
	}
	w.apply(custom("nobody", `paths: ["/guarded*"]`))
	eventually(t, client, "a provider that does not exist", answers(client, post("/guarded", "allow"), 403, "RBAC: access denied"))
	noNacks(t, client, server)
}
