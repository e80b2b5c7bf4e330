package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lines are the lines of a scrape that begin with a metric's name.
func (p *pod) lines(metric string) []string {
	p.w.t.Helper()
	s, err := p.admin("stats/prometheus")
	must(p.w.t, err)
	var out []string
	for l := range strings.SplitSeq(s, "\n") {
		if strings.HasPrefix(l, metric) {
			out = append(out, l)
		}
	}
	return out
}

func one(lines []string, parts ...string) error {
	for _, l := range lines {
		all := true
		for _, p := range parts {
			all = all && strings.Contains(l, p)
		}
		if all {
			return nil
		}
	}
	return fmt.Errorf("no line with %q in %q", parts, lines)
}

func TestTelemetryMetrics(t *testing.T) {
	w, client, server, _ := observed(t)
	w.apply(`
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: metrics, namespace: ns}
spec:
  metrics:
  - providers: [{name: prometheus}]
    reportingInterval: 1s
    overrides:
    - match: {metric: REQUEST_COUNT, mode: CLIENT}
      tagOverrides:
        request_path: {value: request.url_path}
        destination_port: {value: string(destination.port)}
        source_app: {value: "'changed'"}
        response_code: {operation: REMOVE}
    - match: {metric: REQUEST_SIZE}
      disabled: true
`)
	eventually(t, client, "a request with the changed tags", func() error {
		if err := answers(client, request("/some/path?q=1"), 200, "")(); err != nil {
			return err
		}
		return one(client.lines("istio_requests_total"), `request_path="/some/path"`, `destination_port="8000"`, `source_app="changed"`)
	})
	var changed []string
	for _, l := range client.lines("istio_requests_total") {
		if strings.Contains(l, "request_path=") {
			changed = append(changed, l)
		}
	}
	for _, l := range changed {
		if strings.Contains(l, "response_code=") {
			t.Errorf("the code is still there: %s", l)
		}
	}
	must(t, one(changed, `reporter="source"`, `source_workload="client"`, `source_workload_namespace="ns"`, `destination_workload="server"`,
		`source_principal="spiffe://cluster.local/ns/ns/sa/client"`, `destination_principal="spiffe://cluster.local/ns/ns/sa/server"`,
		`destination_service="server.ns.svc.cluster.local"`, `destination_service_name="server"`, `destination_service_namespace="ns"`,
		`destination_cluster="Kubernetes"`, `destination_canonical_service="server"`, `destination_canonical_revision="latest"`,
		`request_protocol="http"`, `response_flags="-"`, `connection_security_policy="unknown"`))
	must(t, one(server.lines("istio_requests_total"), `reporter="destination"`, `source_workload="client"`, `response_code="200"`,
		`source_app="client"`, `connection_security_policy="mutual_tls"`))
	if n := len(client.lines("istio_response_bytes_count")); n == 0 {
		t.Error("response sizes are not counted")
	}
	must(t, one(server.lines("istio_build"), `component="proxy"`))
	t.Run("gRPC", func(t *testing.T) {
		eventually(t, client, "calls", func() error {
			o, err := client.order(order{Kind: "grpc", URL: "10.96.0.2:7000", Host: "server.ns:7000"})
			if err == nil && o.Status != 200 {
				err = fmt.Errorf("%+v", o)
			}
			return err
		})
		for _, p := range []*pod{client, server} {
			must(t, one(p.lines("istio_request_messages_total"), `destination_service_name="server"`))
			must(t, one(p.lines("istio_response_messages_total"), `destination_service_name="server"`))
			must(t, one(p.lines("istio_requests_total"), `request_protocol="grpc"`, `grpc_response_status="5"`))
		}
		must(t, one(client.lines("envoy_cluster_grpc_success"), "outbound|7000||server.ns.svc.cluster.local"))
		must(t, one(client.lines("envoy_cluster_grpc_5"), "outbound|7000||server.ns.svc.cluster.local"))
		must(t, one(client.lines("envoy_cluster_grpc_response_message_count"), "outbound|7000||server.ns.svc.cluster.local"))
	})
	t.Run("TCP", func(t *testing.T) {
		if o := client.send(order{Kind: "tcp", URL: "10.96.0.2:9000", Body: "ping", Half: true}); o.Body != "ping" {
			t.Fatalf("%+v", o)
		}
		for _, p := range []*pod{client, server} {
			eventually(t, p, "the connection is counted", func() error {
				return one(p.lines("istio_tcp_connections_closed_total"), `source_workload="client"`, `destination_workload="server"`, `request_protocol="tcp"`)
			})
			must(t, one(p.lines("istio_tcp_sent_bytes_total"), `} 4`))
			must(t, one(p.lines("istio_tcp_received_bytes_total"), `} 4`))
		}
	})
	t.Run("reset", func(t *testing.T) {
		must1 := client.send(order{Kind: "http", Method: "POST", URL: "http://127.0.0.1:15000/reset_counters"})
		if must1.Status != 200 {
			t.Fatalf("%+v", must1)
		}
		must(t, one(client.lines("istio_requests_total"), "} 0"))
	})
	noNacks(t, client, server)
}

func TestTelemetryLogs(t *testing.T) {
	w, client, server, c := observed(t)
	w.apply(`
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: logs, namespace: ns}
spec:
  accessLogging:
  - providers: [{name: als}, {name: otellogs}, {name: jsonfile}, {name: tcpals}]
    filter: {expression: "response.code >= 400 || !has(response.code)"}
    match: {mode: SERVER}
`)
	seen := 0
	bad := request("/status/418")
	bad.Header["x-a"] = "1"
	eventually(t, client, "the collector has the log of a request", func() error {
		if err := answers(client, bad, 418, "")(); err != nil {
			return err
		}
		if err := answers(client, request("/fine"), 200, "")(); err != nil {
			return err
		}
		seen++
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, e := range c.https {
			r := e.GetRequest()
			if r.GetPath() == "/fine" {
				t.Fatal("the filter keeps what it should not")
			}
			if r.GetPath() == "/status/418" && r.GetRequestHeaders()["x-a"] == "1" && e.GetResponse().GetResponseCode().GetValue() == 418 &&
				e.GetCommonProperties().GetFilterStateObjects()["downstream_peer"] != nil && e.GetCommonProperties().GetUpstreamCluster() == "inbound|8080||" {
				return nil
			}
		}
		return fmt.Errorf("%d requests, entries %v", seen, c.https)
	})
	eventually(t, client, "the OpenTelemetry collector has it too", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, r := range c.records {
			if r.GetBody().GetStringValue() == "GET 418" && value(r.GetAttributes(), "path") == "/status/418" {
				return nil
			}
		}
		return fmt.Errorf("records %v", c.records)
	})
	if o := client.send(order{Kind: "tcp", URL: "10.96.0.2:9000", Body: "ping", Half: true}); o.Body != "ping" {
		t.Fatalf("%+v", o)
	}
	eventually(t, client, "the collector has the log of a connection", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, e := range c.tcps {
			if e.GetConnectionProperties().GetReceivedBytes() == 4 && e.GetCommonProperties().GetTlsProperties() != nil {
				return nil
			}
		}
		return fmt.Errorf("entries %v", c.tcps)
	})
	eventually(t, server, "the JSON file", func() error {
		raw, err := os.ReadFile(filepath.Join(server.dir, "json.log"))
		if err != nil {
			return err
		}
		line, _, _ := strings.Cut(string(raw), "\n")
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			return err
		}
		if got["code"] != 418.0 || got["peer"] != "client" {
			return fmt.Errorf("line %v", got)
		}
		return nil
	})
	noNacks(t, client, server)
}
