//go:build live

package live

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
)

// metric sums a metric of a proxy over the series that have all labels.
func (r *relay) metric(t *testing.T, page, name string, labels ...string) float64 {
	t.Helper()
	got := r.fetch(t, order{URL: page, Method: "GET"})
	if got.Status != 200 {
		t.Fatalf("metrics at %s: %s", page, got)
	}
	sum := 0.0
	for line := range strings.Lines(string(got.Body)) {
		rest, ok := strings.CutPrefix(line, name+"{")
		if !ok {
			continue
		}
		tags, value, ok := strings.Cut(strings.TrimSpace(rest), "} ")
		for _, l := range labels {
			ok = ok && strings.Contains(","+tags+",", ","+l+",")
		}
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		sum += v
	}
	return sum
}

const ownStats = "http://127.0.0.1:15090/stats/prometheus"

// statsOf is where the merged metrics of a pod are, which everybody may read.
func statsOf(p *corev1.Pod) string { return "http://" + p.Status.PodIP + ":15020/stats/prometheus" }

// grows wants a metric to be more than it was before do, in the end.
func grows(t *testing.T, read func() float64, do func()) {
	t.Helper()
	before := read()
	do()
	eventually(t, settle, func() error {
		if now := read(); now <= before {
			return fmt.Errorf("still %v", now)
		}
		return nil
	})
}

// meshTelemetry is metrics, access logs and traces.
func meshTelemetry(t *testing.T, m *mesh) {
	v1 := m.mustPod(t, "mesh", "app=app,version=v1")
	m.apply(t, subsets+"---"+virtual("  - route: [{destination: {host: app, subset: v1}}]\n"))
	m.client.only(t, "v1", get("http://app/"))
	request := func() { m.client.always(t, 3, get("http://app/"), code(200)) }
	source := []string{
		`reporter="source"`, `source_workload="client"`, `source_workload_namespace="mesh"`, `source_principal="spiffe://cluster.local/ns/mesh/sa/client"`,
		`destination_principal="spiffe://cluster.local/ns/mesh/sa/app"`, `destination_workload="app-v1"`, `destination_version="v1"`,
		`destination_service="app.mesh.svc.cluster.local"`, `destination_service_name="app"`, `destination_service_namespace="mesh"`,
		`request_protocol="http"`, `response_code="200"`, `response_flags="-"`, `connection_security_policy="unknown"`,
	}
	target := []string{
		`reporter="destination"`, `source_workload="client"`, `source_workload_namespace="mesh"`, `destination_workload="app-v1"`,
		`destination_service="app.mesh.svc.cluster.local"`, `response_code="200"`, `connection_security_policy="mutual_tls"`,
		`source_principal="spiffe://cluster.local/ns/mesh/sa/client"`, `source_app="client"`, `destination_app="app"`,
	}
	t.Run("standard metrics", func(t *testing.T) {
		for _, name := range []string{"istio_requests_total", "istio_request_duration_milliseconds_count", "istio_request_bytes_count", "istio_response_bytes_count"} {
			grows(t, func() float64 { return m.client.metric(t, ownStats, name, source...) }, request)
			grows(t, func() float64 { return m.stranger.metric(t, statsOf(v1), name, target...) }, request)
		}
	})
	t.Run("TCP metrics", func(t *testing.T) {
		say := func() {
			m.client.raw(t, rawOrder{Address: "app.mesh:9000", Send: []byte("12345"), Want: 5})
		}
		for _, name := range []string{"istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total", "istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"} {
			grows(t, func() float64 {
				return m.client.metric(t, ownStats, name, `reporter="source"`, `source_workload="client"`, `destination_service="app.mesh.svc.cluster.local"`, `request_protocol="tcp"`)
			}, say)
		}
	})
	t.Run("gRPC metrics", func(t *testing.T) {
		o := get("http://app:81/echo.Echo/Say", "content-type", "application/grpc", "te", "trailers")
		o.Method, o.HTTP2, o.Body = "POST", true, []byte("\x00\x00\x00\x00\x02hi")
		grows(t, func() float64 {
			return m.client.metric(t, ownStats, "istio_requests_total", `reporter="source"`, `request_protocol="grpc"`, `grpc_response_status="0"`)
		}, func() { m.client.want(t, o, code(200)) })
	})
	t.Run("overrides", func(t *testing.T) {
		m.apply(t, `
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  metrics:
  - providers: [{name: prometheus}]
    overrides:
    - match: {metric: REQUEST_COUNT, mode: CLIENT}
      tagOverrides: {request_host: {value: request.host}, destination_version: {operation: REMOVE}}
    - match: {metric: REQUEST_SIZE}
      disabled: true
`)
		eventually(t, settle, func() error {
			before := m.client.metric(t, ownStats, "istio_requests_total", `reporter="source"`, `request_host="app"`)
			m.client.fetch(t, get("http://app/"))
			if m.client.metric(t, ownStats, "istio_requests_total", `reporter="source"`, `request_host="app"`) <= before {
				return fmt.Errorf("no series with request_host")
			}
			return nil
		})
		plain := func(name string, labels ...string) float64 { return m.client.metric(t, ownStats, name, labels...) }
		sizes, versions := plain("istio_request_bytes_count"), plain("istio_requests_total", `request_host="app"`, `destination_version="v1"`)
		request()
		if now := plain("istio_request_bytes_count"); now != sizes {
			t.Errorf("a disabled metric grows from %v to %v", sizes, now)
		}
		if now := plain("istio_requests_total", `request_host="app"`, `destination_version="v1"`); now != versions || now != 0 {
			t.Errorf("a removed tag is there: %v", now)
		}
	})
	t.Run("Envoy's own names", func(t *testing.T) {
		for _, name := range []string{"envoy_cluster_upstream_rq_total", "envoy_server_live", "envoy_listener_manager_listener_added"} {
			if got := m.client.fetch(t, order{URL: ownStats, Method: "GET"}); !strings.Contains(string(got.Body), name) {
				t.Errorf("no %s among the metrics", name)
			}
		}
	})
	t.Run("access log", func(t *testing.T) { meshAccessLog(t, m) })
	t.Run("traces", func(t *testing.T) { meshTraces(t, m) })
}

func meshAccessLog(t *testing.T, m *mesh) {
	m.meshConfig(t, `
extensionProviders:
- name: as-json
  envoyFileAccessLog:
    path: /dev/stdout
    logFormat: {labels: {code: "%RESPONSE_CODE%", path: "%REQ(:PATH)%", mark: json-log, flags: "%RESPONSE_FLAGS%"}}
- name: as-text
  envoyFileAccessLog:
    path: /dev/stdout
    logFormat: {text: "text-log %REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%\n"}
`)
	logging := func(provider, filter string) string {
		return `
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: log}
spec:
  selector: {matchLabels: {app: client}}
  accessLogging:
  - providers: [{name: ` + provider + `}]
    ` + filter + "\n"
	}
	// logged wants lines that match, each of which comes of a request made here, within the flush interval of the log.
	logged := func(t *testing.T, path string, want *regexp.Regexp) {
		t.Helper()
		began := time.Now().Add(-time.Second)
		eventually(t, settle, func() error {
			m.client.fetch(t, get("http://app"+path))
			time.Sleep(100 * time.Millisecond)
			out := m.logs(t, m.client.pod, "istio-proxy", began)
			if !want.MatchString(out) {
				return fmt.Errorf("nothing like %s in\n%.2000s", want, out)
			}
			return nil
		})
	}
	t.Run("JSON", func(t *testing.T) {
		m.apply(t, logging("as-json", ""))
		logged(t, "/logged-as-json", regexp.MustCompile(`(?m)^\{.*"mark":"json-log".*\}$`))
		out := m.logs(t, m.client.pod, "istio-proxy", time.Now().Add(-settle))
		for line := range strings.Lines(out) {
			if !strings.Contains(line, "json-log") {
				continue
			}
			var e struct {
				Code int
				Path string
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil || e.Path == "" {
				t.Errorf("%v in %s", err, line)
			}
		}
	})
	t.Run("text with a filter", func(t *testing.T) {
		m.apply(t, logging("as-text", `filter: {expression: "response.code >= 400"}`))
		logged(t, "/status/418", regexp.MustCompile(`text-log GET /status/418 418`))
		began := time.Now()
		m.client.always(t, 2, get("http://app/not-logged"), code(200))
		logged(t, "/status/419", regexp.MustCompile(`text-log GET /status/419 419`))
		if out := m.logs(t, m.client.pod, "istio-proxy", began); strings.Contains(out, "text-log GET /not-logged") {
			t.Errorf("what the filter keeps out is logged:\n%s", out)
		}
	})
	t.Run("off", func(t *testing.T) {
		m.apply(t, logging("as-text", "disabled: true"))
		eventually(t, settle, func() error {
			mark := fmt.Sprintf("/silence-%d", time.Now().UnixNano())
			began := time.Now().Add(-time.Second)
			m.client.fetch(t, get("http://app"+mark))
			time.Sleep(1200 * time.Millisecond)
			if out := m.logs(t, m.client.pod, "istio-proxy", began); strings.Contains(out, mark) {
				return fmt.Errorf("still logged")
			}
			return nil
		})
	})
}

func meshTraces(t *testing.T, m *mesh) {
	m.meshConfig(t, `
extensionProviders:
- name: otel
  opentelemetry: {service: stub.mesh-out.svc.cluster.local, port: 4317}
- name: zip
  zipkin: {service: stub.mesh-out.svc.cluster.local, port: 9411}
`)
	s := m.scriptOf(t, "mesh-out", "app=stub")
	tracing := func(provider string) string {
		return `
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: traces}
spec:
  tracing: [{providers: [{name: ` + provider + `}], randomSamplingPercentage: 100, customTags: {berth: {literal: {value: "seven"}}}}]
`
	}
	t.Run("OpenTelemetry", func(t *testing.T) {
		s.set(t, rule{
			Contains: "TraceService/Export", Headers: map[string]string{"Content-Type": "application/grpc"}, Trailers: map[string]string{"Grpc-Status": "0"},
			Body: []byte{0, 0, 0, 0, 0},
		})
		m.apply(t, tracing("otel"))
		const id = "4bf92f3577b34da6a3ce929d0e0e4736"
		eventually(t, 2*settle, func() error {
			m.client.fetch(t, get("http://app/traced", "traceparent", "00-"+id+"-00f067aa0ba902b7-01"))
			kinds := map[tracev1.Span_SpanKind]*tracev1.Span{}
			for _, r := range s.heard(t) {
				if !strings.HasSuffix(r.Path, "TraceService/Export") || len(r.Body) < 5 {
					continue
				}
				var req collectorv1.ExportTraceServiceRequest
				if err := proto.Unmarshal(r.Body[5:], &req); err != nil {
					t.Fatalf("the collector cannot read %x: %v", r.Body, err)
				}
				for _, rs := range req.GetResourceSpans() {
					for _, ss := range rs.GetScopeSpans() {
						for _, span := range ss.GetSpans() {
							if hex.EncodeToString(span.GetTraceId()) == id {
								kinds[span.GetKind()] = span
							}
						}
					}
				}
			}
			client, server := kinds[tracev1.Span_SPAN_KIND_CLIENT], kinds[tracev1.Span_SPAN_KIND_SERVER]
			if client == nil || server == nil {
				return fmt.Errorf("want spans of client and server, got %v", kinds)
			}
			if hex.EncodeToString(client.GetParentSpanId()) != "00f067aa0ba902b7" || len(server.GetParentSpanId()) == 0 {
				return fmt.Errorf("parents: client %x, server %x", client.GetParentSpanId(), server.GetParentSpanId())
			}
			if !strings.Contains(client.String(), "berth") || client.GetEndTimeUnixNano() < client.GetStartTimeUnixNano() {
				return fmt.Errorf("client span %v", client)
			}
			return nil
		})
	})
	t.Run("Zipkin", func(t *testing.T) {
		s.set(t, rule{Contains: "/api/v2/spans", Status: 202})
		m.apply(t, tracing("zip"))
		const id = "463ac35c9f6413ad48485a3953bb6124"
		eventually(t, 2*settle, func() error {
			m.client.fetch(t, get("http://app/traced", "x-b3-traceid", id, "x-b3-spanid", "a2fb4a1d1a96d312", "x-b3-sampled", "1"))
			kinds := map[string]string{}
			for _, r := range s.heard(t) {
				if r.Path != "/api/v2/spans" {
					continue
				}
				var spans []struct{ TraceID, ID, ParentID, Kind string }
				if err := json.Unmarshal(r.Body, &spans); err != nil {
					t.Fatalf("the collector cannot read %s: %v", r.Body, err)
				}
				for _, sp := range spans {
					if sp.TraceID == id {
						kinds[sp.Kind] = sp.ParentID
					}
				}
			}
			if kinds["CLIENT"] == "" || kinds["SERVER"] == "" {
				return fmt.Errorf("want spans of client and server, got %v of %d requests", kinds, len(s.heard(t)))
			}
			return nil
		})
	})
	t.Run("context passes on", func(t *testing.T) {
		m.client.want(t, get("http://app/", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), code(200),
			that("the trace in the server's headers", func(o outcome) bool {
				return strings.Contains(o.echo().Headers.Get("Traceparent"), "0af7651916cd43dd8448eb211c80319c")
			}))
		m.client.want(t, get("http://app/"), that("a request id", func(o outcome) bool { return len(o.echo().Headers.Get("X-Request-Id")) == 36 }))
	})
}
