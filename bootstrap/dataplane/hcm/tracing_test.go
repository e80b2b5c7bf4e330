package hcm

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tagsv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tracing"
)

// zipkins is a collector that keeps what it gets.
type zipkins struct {
	mu    sync.Mutex
	spans []map[string]any
}

func (z *zipkins) serve(t testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		var list []map[string]any
		if json.Unmarshal(raw, &list) == nil && r.URL.Path == "/api/v2/spans" {
			z.mu.Lock()
			z.spans = append(z.spans, list...)
			z.mu.Unlock()
		}
		w.WriteHeader(http.StatusAccepted)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return ln.Addr().String()
}

const tracedRoutes = `{"name":"r","virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},
	"decorator":{"operation":"svc.ns:80/*"},"route":{"cluster":"up","timeout":"0s"}}]}]}`

// TestTracing sends requests through connection managers of both directions and reads what the collector got.
func TestTracing(t *testing.T) {
	id := "12345678-0000-4000-8000-000000000000"
	for name, tc := range map[string]struct {
		dir      network.Direction
		random   float64
		spawn    bool
		headers  string
		upstream []string // parts of what the server must see
		spans    []string // names
		kinds    []string
	}{
		"client, sampled":              {network.Outbound, 100, false, "", []string{"x-b3-sampled: 1", "x-request-id: 12345678-0000-9", "x-envoy-decorator-operation: svc.ns:80/*"}, []string{"svc.ns:80/*"}, []string{"CLIENT"}},
		"server, sampled":              {network.Inbound, 100, false, "", []string{"x-b3-sampled: 1"}, []string{"svc.ns:80/*"}, []string{"SERVER"}},
		"server that the client names": {network.Inbound, 100, false, "x-envoy-decorator-operation: theirs\r\n", nil, []string{"theirs"}, []string{"SERVER"}},
		"not sampled":                  {network.Outbound, 0, false, "", []string{"x-b3-sampled: 0", "x-request-id: 12345678-0000-4"}, nil, nil},
		"forced":                       {network.Outbound, 0, false, "x-client-trace-id: 1\r\n", []string{"x-b3-sampled: 1", "x-request-id: 12345678-0000-b"}, []string{"svc.ns:80/*"}, []string{"CLIENT"}},
		"the caller samples": {
			network.Outbound, 0, false, "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1\r\n",
			[]string{"x-b3-traceid: 80f198ee56343ba864fe8b2a57d3eff7", "x-b3-parentspanid: e457b5a2e4d86bd1", "x-b3-sampled: 1"},
			[]string{"svc.ns:80/*"},
			[]string{"CLIENT"},
		},
		"a span for each attempt": {network.Outbound, 100, true, "", []string{"x-b3-sampled: 1"}, []string{"router up egress", "svc.ns:80/*"}, []string{"CLIENT", "SERVER"}},
	} {
		t.Run(name, func(t *testing.T) {
			z := &zipkins{}
			collector := z.serve(t)
			seen := make(chan string, 1)
			srv := newBackend(t, func(c net.Conn, _ *bufio.Reader, r *http.Request) bool {
				var raw strings.Builder
				_ = r.Header.Write(&raw)
				seen <- raw.String()
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
				return true
			})
			f := tracedFixture(t, tc.dir, map[string][]string{"up": {srv.addr}, "zipkin": {collector}}, func(p *hcmv3.HttpConnectionManager_Tracing) {
				p.RandomSampling = &typev3.Percent{Value: tc.random}
				p.SpawnUpstreamSpan = wrapperspb.Bool(tc.spawn)
			})
			c := f.connect()
			_, err := io.WriteString(c, "GET /a/long/path?q HTTP/1.1\r\nhost: a.example\r\nx-request-id: "+id+"\r\nx-user: me\r\n"+tc.headers+"\r\n")
			must(t, err)
			readResponse(t, bufio.NewReader(c), "GET")
			raw := strings.ToLower(<-seen)
			for _, want := range tc.upstream {
				if !strings.Contains(raw, want) {
					t.Errorf("the server saw no %q:\n%s", want, raw)
				}
			}
			<-f.logged
			_ = c.Close()
			f.env.Tracers.Close()
			z.mu.Lock()
			defer z.mu.Unlock()
			if len(z.spans) != len(tc.spans) {
				t.Fatalf("spans %v, want %v", z.spans, tc.spans)
			}
			for i, sp := range z.spans {
				tags := sp["tags"].(map[string]any)
				if sp["name"] != tc.spans[i] || sp["kind"] != tc.kinds[i] || tags["upstream_cluster"] != "up" || tags["http.status_code"] != "200" ||
					tags["response_flags"] != "-" || tags["component"] != "proxy" || tags["lit"] != "v" || tags["user"] != "me" || tags["env"] != "d" || tags["fmt"] != "GET" {
					t.Errorf("span %v", sp)
				}
				if i == len(z.spans)-1 {
					if tags["http.url"] != "http://a.example/a/long/" || tags["http.method"] != "GET" || tags["peer.address"] != "127.0.0.1" || tags["node_id"] != "me" {
						t.Errorf("span %v", sp)
					}
				} else if sp["parentId"] != z.spans[len(z.spans)-1]["id"] || tags["upstream_address"] != srv.addr {
					t.Errorf("child %v", sp)
				}
			}
		})
	}
}

// tracedRequests is a fixture that tells when a request has ended.
type tracedRequests struct {
	*fixture
	logged chan *accesslog.Entry
}

// Log implements Logger.
func (f *tracedRequests) Log(e *accesslog.Entry) { f.logged <- e }

func tracedFixture(t *testing.T, dir network.Direction, hosts map[string][]string, change func(*hcmv3.HttpConnectionManager_Tracing)) *tracedRequests {
	t.Helper()
	cfg, err := anypb.New(&tracev3.ZipkinConfig{
		CollectorCluster: "zipkin", CollectorEndpoint: "/api/v2/spans", CollectorEndpointVersion: tracev3.ZipkinConfig_HTTP_JSON,
		TraceId_128Bit: true, SharedSpanContext: wrapperspb.Bool(false),
	})
	must(t, err)
	var p *hcmv3.HttpConnectionManager
	f := newFixture(t, tracedRoutes, hosts, func(h *hcmv3.HttpConnectionManager) { p = h })
	f.env.Identity = &corev3.Node{Id: "me", Cluster: "svc"}
	f.env.Tracers = &tracing.Tracers{Clusters: f.env.Clusters, Stats: f.env.Stats, Node: f.env.Identity}
	t.Cleanup(f.env.Tracers.Close)
	p.Tracing = &hcmv3.HttpConnectionManager_Tracing{
		Provider:         &tracev3.Tracing_Http{Name: "z", ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: cfg}},
		MaxPathTagLength: wrapperspb.UInt32(8),
		CustomTags: []*tagsv3.CustomTag{
			{Tag: "lit", Type: &tagsv3.CustomTag_Literal_{Literal: &tagsv3.CustomTag_Literal{Value: "v"}}},
			{Tag: "user", Type: &tagsv3.CustomTag_RequestHeader{RequestHeader: &tagsv3.CustomTag_Header{Name: "x-user"}}},
			{Tag: "env", Type: &tagsv3.CustomTag_Environment_{Environment: &tagsv3.CustomTag_Environment{Name: "NOT_SET_ANYWHERE", DefaultValue: "d"}}},
			{Tag: "fmt", Type: &tagsv3.CustomTag_Value{Value: "%REQ(:METHOD)%"}},
			{Tag: "absent", Type: &tagsv3.CustomTag_Value{Value: "%REQ(x-none)%"}},
		},
	}
	change(p.Tracing)
	out := &tracedRequests{f, make(chan *accesslog.Entry, 1)}
	f.m, err = Compile(p, f.env, dir, []Logger{out})
	must(t, err)
	return out
}
