package hcm

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	statsv1 "istio.io/api/envoy/extensions/stats"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

func TestPeerMetadataMethods(t *testing.T) {
	list := func(method string) []any { return []any{map[string]any{method: map[string]any{}}} }
	for want, cfg := range map[string]map[string]any{
		"": {
			"downstream_discovery": append(list("istio_headers"), list("workload_discovery")...), "upstream_propagation": list("istio_headers"),
			"additional_labels": []any{"role"},
		},
		"downstream_propagation.baggage":              {"downstream_propagation": list("baggage")},
		"upstream_discovery.upstream_filter_state":    {"upstream_discovery": list("upstream_filter_state")},
		"io.istio.http.peer_metadata.Config.shared_w": {"shared_with_upstream": true},
	} {
		s, err := structpb.NewStruct(cfg)
		must(t, err)
		err = checkPeerMetadata(s)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want one that names %q", err, want)
		}
	}
}

// TestPeersTellEachOther sends a request through a client's and a server's connection manager.
func TestPeersTellEachOther(t *testing.T) {
	mx := func(js string) func(*hcmv3.HttpConnectionManager) {
		return func(p *hcmv3.HttpConnectionManager) {
			a := &anypb.Any{}
			must(t, protojson.Unmarshal([]byte(`{"@type":"type.googleapis.com/udpa.type.v1.TypedStruct","typeUrl":"`+registry.PeerMetadata+`","value":`+js+`}`), a))
			p.HttpFilters = append([]*hcmv3.HttpFilter{{Name: "mx", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: a}}}, p.HttpFilters...)
		}
	}
	seen := make(chan http.Header, 1)
	srv := newBackend(t, func(c net.Conn, _ *bufio.Reader, r *http.Request) bool {
		seen <- r.Header
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
		return true
	})
	var fp *hcmv3.HttpConnectionManager
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {srv.addr}}, func(p *hcmv3.HttpConnectionManager) {
		mx(`{"upstream_discovery":[{"istio_headers":{}},{"workload_discovery":{}}],"upstream_propagation":[{"istio_headers":{}}]}`)(p)
		fp = p
	})
	f.env.Self = &peer.Info{
		ID: "sidecar~10.9.0.1~client.ns~ns.svc.cluster.local", Name: "client", Namespace: "ns", Workload: "client", CanonicalName: "client",
		Owner: "kubernetes://apis/apps/v1/namespaces/ns/deployments/client", Cluster: "Kubernetes", CanonicalRevision: "latest",
	}
	var err error
	f.m, err = Compile(fp, f.env, network.Outbound, []Logger{f})
	must(t, err)
	c := f.connect()
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nhost: a\r\n\r\n")
	must(t, err)
	readResponse(t, bufio.NewReader(c), "GET")
	h := <-seen
	if h.Get(peer.MetadataHeader) == "" {
		t.Errorf("the server saw %v", h)
	}
	who := &peer.Info{Workload: "w", Namespace: "ns", CanonicalName: "w", Cluster: "K", App: "w", Labels: map[string]string{"app": "w"}}
	var sp *hcmv3.HttpConnectionManager
	in := newFixture(t, simpleRoutes, map[string][]string{"up": {srv.addr}}, func(p *hcmv3.HttpConnectionManager) {
		body, err := anypb.New(&statsv1.PluginConfig{})
		must(t, err)
		p.HttpFilters = append([]*hcmv3.HttpFilter{{Name: "istio.stats", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: body}}}, p.HttpFilters...)
		mx(`{"downstream_discovery":[{"istio_headers":{}},{"workload_discovery":{}}],"downstream_propagation":[{"istio_headers":{}}]}`)(p)
		sp = p
	})
	in.m, err = Compile(sp, in.env, network.Inbound, []Logger{in})
	must(t, err)
	c = in.connect()
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nhost: a\r\nx-envoy-peer-metadata-id: id\r\nx-envoy-peer-metadata: "+who.Encode()+"\r\n\r\n")
	must(t, err)
	readResponse(t, bufio.NewReader(c), "GET")
	if h := <-seen; h.Get(peer.MetadataHeader) != "" {
		t.Errorf("the application saw %v", h)
	}
	_ = c.Close()
	var out strings.Builder
	must(t, in.env.Stats.WritePrometheus(&out, stats.Filter{}))
	if !strings.Contains(out.String(), `source_workload="w"`) {
		t.Errorf("metrics %s", out.String())
	}
}
