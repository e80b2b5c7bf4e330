package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	meshapi "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pkg/config/mesh"
)

// collector is everything that telemetry can be sent to, listening in the hub under the service collector.
type collector struct {
	alsv3.UnimplementedAccessLogServiceServer
	mu      sync.Mutex
	spans   []collected
	zipkin  []map[string]any
	https   []*datav3.HTTPAccessLogEntry
	tcps    []*datav3.TCPAccessLogEntry
	records []*logspb.LogRecord
}

// collected is a span with the service that it came from.
type collected struct {
	*tracepb.Span
	service string
	by      string // "grpc" or "http"
}

const collectorYAML = `
apiVersion: v1
kind: Service
metadata: {name: collector, namespace: ns}
spec:
  clusterIP: 10.96.0.9
  ports:
  - {name: grpc-otlp, port: 4317, protocol: TCP}
  - {name: http-otlp, port: 4318, protocol: TCP}
  - {name: http-zipkin, port: 9411, protocol: TCP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: collector
  namespace: ns
  labels: {kubernetes.io/service-name: collector}
addressType: IPv4
endpoints:
- addresses: [` + hubIP + `]
  conditions: {ready: true}
ports:
- {name: grpc-otlp, port: 4317, protocol: TCP}
- {name: http-otlp, port: 4318, protocol: TCP}
- {name: http-zipkin, port: 9411, protocol: TCP}
---
`

// withProviders makes a mesh know the collector under the names als, tcpals, otellogs, otel, otelhttp and zipkin, and
// besides the file jsonfile and a tracer that is not supported.
func withProviders(t *testing.T) func(*meshapi.MeshConfig) {
	t.Helper()
	const host = "collector.ns.svc.cluster.local"
	cfg, err := mesh.ApplyMeshConfigDefaults(`
extensionProviders:
- name: als
  envoyHttpAls: {service: ` + host + `, port: 4317, additionalRequestHeadersToLog: [x-a]}
- name: tcpals
  envoyTcpAls: {service: ` + host + `, port: 4317}
- name: otellogs
  envoyOtelAls: {service: ` + host + `, port: 4317, logFormat: {text: "%REQ(:METHOD)% %RESPONSE_CODE%", labels: {path: "%REQ(:PATH)%"}}}
- name: jsonfile
  envoyFileAccessLog: {path: ./json.log, logFormat: {labels: {code: "%RESPONSE_CODE%", peer: "%CEL(filter_state.downstream_peer.workload)%"}}}
- name: otel
  opentelemetry: {service: ` + host + `, port: 4317, maxTagLength: 30, resourceDetectors: {environment: {}}}
- name: otelhttp
  opentelemetry: {service: ` + host + `, port: 4318, http: {path: /v1/traces, timeout: 1s, headers: [{name: x-key, value: secret}]}}
- name: zipkin
  zipkin: {service: ` + host + `, port: 9411}
- name: datadog
  datadog: {service: ` + host + `, port: 9411}
`)
	must(t, err)
	return func(m *meshapi.MeshConfig) {
		m.ExtensionProviders = append(m.ExtensionProviders, cfg.GetExtensionProviders()...)
	}
}

func (w *world) collect() *collector {
	w.t.Helper()
	c := &collector{}
	ln, err := w.fabric.listen(hubIP + ":4317")
	must(w.t, err)
	g := grpc.NewServer(grpc.UnknownServiceHandler(c.export))
	alsv3.RegisterAccessLogServiceServer(g, c)
	go func() { _ = g.Serve(ln) }()
	w.t.Cleanup(g.Stop)
	for port, h := range map[string]http.HandlerFunc{"4318": c.otlp, "9411": c.zipkins} {
		ln, err := w.fabric.listen(hubIP + ":" + port)
		must(w.t, err)
		srv := &http.Server{Handler: h}
		go func() { _ = srv.Serve(ln) }()
		w.t.Cleanup(func() { _ = srv.Close() })
	}
	return c
}

// StreamAccessLogs implements the access log service.
func (c *collector) StreamAccessLogs(st alsv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		m, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return st.SendAndClose(&alsv3.StreamAccessLogsResponse{})
		}
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.https = append(c.https, m.GetHttpLogs().GetLogEntry()...)
		c.tcps = append(c.tcps, m.GetTcpLogs().GetLogEntry()...)
		c.mu.Unlock()
	}
}

func (c *collector) export(_ any, st grpc.ServerStream) error {
	switch name, _ := grpc.MethodFromServerStream(st); name {
	case "/opentelemetry.proto.collector.trace.v1.TraceService/Export":
		m := &tracepb.TracesData{}
		if err := st.RecvMsg(m); err != nil {
			return err
		}
		c.take(m, "grpc")
		return st.SendMsg(&tracepb.TracesData{})
	case "/opentelemetry.proto.collector.logs.v1.LogsService/Export":
		m := &logspb.LogsData{}
		if err := st.RecvMsg(m); err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, r := range m.GetResourceLogs() {
			for _, s := range r.GetScopeLogs() {
				c.records = append(c.records, s.GetLogRecords()...)
			}
		}
		return st.SendMsg(&logspb.LogsData{})
	default:
		return fmt.Errorf("method %s", name)
	}
}

func (c *collector) take(m *tracepb.TracesData, by string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range m.GetResourceSpans() {
		for _, s := range r.GetScopeSpans() {
			for _, sp := range s.GetSpans() {
				c.spans = append(c.spans, collected{sp, value(r.GetResource().GetAttributes(), "service.name"), by})
			}
		}
	}
}

func value(list []*commonpb.KeyValue, key string) string {
	for _, kv := range list {
		if kv.GetKey() == key {
			return kv.GetValue().GetStringValue()
		}
	}
	return ""
}

func (c *collector) otlp(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	m := &tracepb.TracesData{}
	if r.URL.Path != "/v1/traces" || r.Header.Get("X-Key") != "secret" || proto.Unmarshal(raw, m) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.take(m, "http")
}

func (c *collector) zipkins(w http.ResponseWriter, r *http.Request) {
	var list []map[string]any
	if r.URL.Path != "/api/v2/spans" || json.NewDecoder(r.Body).Decode(&list) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.zipkin = append(c.zipkin, list...)
	c.mu.Unlock()
	w.WriteHeader(http.StatusAccepted)
}

// observed is a client and a server with sidecars, a gRPC port among the server's, and the collector.
func observed(t *testing.T) (w *world, client, server *pod, c *collector) {
	t.Helper()
	const grpcPort = "\n  - {name: grpc, port: 7000, targetPort: 7000, protocol: TCP}"
	objects := podYAML("client", "10.9.0.1", true) + podYAML("server", "10.9.0.2", true) +
		serviceYAML("server", "10.96.0.2", httpPorts+grpcPort, slicePorts+"\n- {name: grpc, port: 7000, protocol: TCP}", [2]string{"server", "10.9.0.2"}) + collectorYAML
	w = newWorldOf(t, objects, "", false, withProviders(t))
	c = w.collect()
	return w, w.start("client", "10.9.0.1", true), w.start("server", "10.9.0.2", true), c
}
