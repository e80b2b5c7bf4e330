package metrics

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	statsv1 "istio.io/api/envoy/extensions/stats"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

var (
	self  = &peer.Info{Workload: "web-v1", Namespace: "shop", CanonicalName: "web", App: "web", Version: "v1", Cluster: "K", Release: "1.31"}
	other = &peer.Info{Workload: "db-v2", Namespace: "data", CanonicalName: "db", CanonicalRevision: "v2", Cluster: "K"}
)

func scrape(t *testing.T, r *stats.Registry) string {
	t.Helper()
	var b strings.Builder
	if err := r.WritePrometheus(&b, stats.Filter{}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func compiled(t *testing.T, p *statsv1.PluginConfig) (*Config, *stats.Registry) {
	t.Helper()
	r := stats.New()
	c, err := Compile(p, self, r)
	if err != nil {
		t.Fatal(err)
	}
	return c, r
}

func noEntry() *accesslog.Entry { return &accesslog.Entry{} }

func TestStandardLabels(t *testing.T) {
	c, r := compiled(t, &statsv1.PluginConfig{})
	client := Facts{
		Peer: other, PeerPrincipal: "spiffe://td/ns/data/sa/db", LocalPrincipal: "spiffe://td/ns/shop/sa/web", Protocol: "http",
		Code: 503, Flags: accesslog.NoHealthyUpstream,
		Service: Destination("db:80", "default", "outbound|80||db.data.svc", []any{map[string]any{"host": "db.data.svc", "name": "db", "namespace": "data"}}),
	}
	c.Series(client, noEntry).Add(Requests, 2)
	c.Series(client, noEntry).Observe(Duration, 12)
	c.Series(client, noEntry).Add(RequestMessages, 3)
	server := Facts{Server: true, Protocol: "grpc", Code: 200, GRPCStatus: "0", PeerPrincipal: "spiffe://td/ns/else/sa/x", LocalPrincipal: "spiffe://td/ns/shop/sa/web"}
	c.Series(server, noEntry).Add(Requests, 1)
	tcp := Facts{Protocol: "tcp", Peer: other}
	c.Series(tcp, noEntry).Add(Opened, 1)
	got := scrape(t, r)
	source := `reporter="source",source_workload="web-v1",source_canonical_service="web",source_canonical_revision="latest",` +
		`source_workload_namespace="shop",source_principal="spiffe://td/ns/shop/sa/web",source_app="web",source_version="v1",source_cluster="K",` +
		`destination_workload="db-v2",destination_workload_namespace="data",destination_principal="spiffe://td/ns/data/sa/db",` +
		`destination_app="unknown",destination_version="unknown",destination_service="db.data.svc",destination_canonical_service="db",` +
		`destination_canonical_revision="v2",destination_service_name="db",destination_service_namespace="data",destination_cluster="K"`
	for _, want := range []string{
		"istio_requests_total{" + source + `,request_protocol="http",response_code="503",grpc_response_status="",response_flags="UH",connection_security_policy="unknown"} 2`,
		"istio_request_messages_total{" + source + "} 3",
		`response_flags="UH",connection_security_policy="unknown",le="25"} 1`,
		`reporter="destination",source_workload="unknown",source_canonical_service="unknown",source_canonical_revision="latest",source_workload_namespace="else"`,
		`destination_service="web",destination_canonical_service="web"`,
		`request_protocol="grpc",response_code="200",grpc_response_status="0",response_flags="-",connection_security_policy="mutual_tls"} 1`,
		`request_protocol="tcp",response_flags="-",connection_security_policy="unknown"} 1`,
		`istio_build{component="proxy",tag="1.31"} 1`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "istio_response_messages_total") || strings.Contains(got, "istio_tcp_sent") {
		t.Error("a metric that nobody counted is there")
	}
}

func TestDestination(t *testing.T) {
	for _, tc := range []struct {
		host, route, cluster string
		want                 peer.Service
	}{
		{"h:1", "", "outbound|80||x", peer.Service{Host: "h:1", Name: "h:1"}},
		{"h", "allow_any", "PassthroughCluster", peer.Service{Host: "h", Name: "PassthroughCluster"}},
		{"h", "block_all", "", peer.Service{Host: "h", Name: "BlackHoleCluster"}},
		{"", "", "InboundPassthroughCluster", peer.Service{Name: "InboundPassthroughCluster"}},
		{"", "", "x", peer.Service{}},
	} {
		if got := Destination(tc.host, tc.route, tc.cluster, nil); got != tc.want {
			t.Errorf("%+v gave %+v", tc, got)
		}
	}
}

func TestOverrides(t *testing.T) {
	c, r := compiled(t, &statsv1.PluginConfig{
		Definitions: []*statsv1.MetricDefinition{{Name: "paths", Value: "2 + 1"}},
		Metrics: []*statsv1.MetricConfig{
			{Name: "requests_total", Dimensions: map[string]string{"path": "request.url_path", "source_app": "'mine'", "gone": "request.referer"}, TagsToRemove: []string{"response_code"}},
			{TagsToRemove: []string{"response_flags"}},
			{Name: "request_bytes", Drop: true},
			{Name: "paths", Dimensions: map[string]string{"p": "request.path"}},
		},
	})
	calls := 0
	entry := func() *accesslog.Entry {
		calls++
		return &accesslog.Entry{Protocol: "HTTP/2", Path: "/a?b", Request: http.Header{}}
	}
	s := c.Series(Facts{Protocol: "http", Code: 200}, entry)
	s.Add(Requests, 1)
	s.Observe(RequestBytes, 1)
	s.Observe(ResponseBytes, 1)
	s.Custom(entry)
	if c.Series(Facts{Protocol: "http", Code: 200}, entry) != s {
		t.Error("the same facts and values have other series")
	}
	got := scrape(t, r)
	for _, want := range []string{`source_app="mine"`, `gone="unknown",path="/a"} 1`, `istio_paths{p="/a?b"} 3`, "istio_response_bytes_count"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	for line := range strings.SplitSeq(got, "\n") {
		if strings.Contains(line, "response_flags=") || strings.HasPrefix(line, "istio_requests_total") && strings.Contains(line, "response_code=") ||
			strings.HasPrefix(line, "istio_request_bytes") {
			t.Errorf("not taken away: %s", line)
		}
	}
	for _, bad := range []*statsv1.PluginConfig{
		{Metrics: []*statsv1.MetricConfig{{Match: "true"}}},
		{Reporter: statsv1.Reporter_SERVER_GATEWAY},
		{Metrics: []*statsv1.MetricConfig{{Dimensions: map[string]string{"a": "no.such"}}}},
		{Definitions: []*statsv1.MetricDefinition{{Name: "x", Value: "("}}},
	} {
		if _, err := Compile(bad, self, stats.New()); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := compiled(t, &statsv1.PluginConfig{
			RotationInterval: durationpb.New(time.Minute), GracefulDeletionInterval: durationpb.New(10 * time.Second),
		})
		busy, idle := Facts{Protocol: "http", Code: 200}, Facts{Protocol: "http", Code: 404}
		c.Series(busy, noEntry).Add(Requests, 1)
		c.Series(idle, noEntry).Add(Requests, 1)
		scrape(t, r)
		time.Sleep(time.Minute)
		c.Series(busy, noEntry).Add(Requests, 1)
		if got := scrape(t, r); !strings.Contains(got, `response_code="404"`) {
			t.Errorf("gone within the grace:\n%s", got)
		}
		time.Sleep(10 * time.Second)
		if got := scrape(t, r); strings.Contains(got, `response_code="404"`) || !strings.Contains(got, `response_code="200"`) {
			t.Errorf("after rotation:\n%s", got)
		}
		c.Series(idle, noEntry).Add(Requests, 1)
		if got := scrape(t, r); !strings.Contains(got, `response_code="404"`) {
			t.Error("what came after rotation is not shown")
		}
	})
}

func BenchmarkSeries(b *testing.B) {
	c, err := Compile(&statsv1.PluginConfig{}, self, stats.New())
	if err != nil {
		b.Fatal(err)
	}
	f := Facts{Peer: other, PeerPrincipal: "spiffe://td/ns/data/sa/db", Protocol: "http", Code: 200}
	b.ReportAllocs()
	for b.Loop() {
		s := c.Series(f, noEntry)
		s.Add(Requests, 1)
		s.Observe(Duration, 3)
	}
}
