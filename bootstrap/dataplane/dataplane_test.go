package dataplane

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	xdstype "github.com/cncf/xds/go/xds/type/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// control is a management server that the test drives.
type control struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	in  chan *discoveryv3.DeltaDiscoveryRequest
	out chan *discoveryv3.DeltaDiscoveryResponse
}

func (c *control) DeltaAggregatedResources(st discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	go func() {
		for {
			r, err := st.Recv()
			if err != nil {
				return
			}
			c.in <- r
		}
	}()
	for {
		select {
		case r := <-c.out:
			if err := st.Send(r); err != nil {
				return err
			}
		case <-st.Context().Done():
			return nil
		}
	}
}

const bootstrapJSON = `{
 "node": {"id": "sidecar~10.0.0.1~a.ns~ns.svc.cluster.local", "metadata": {"NAME": "a"}},
 "unknown_field": true,
 "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
 "dynamic_resources": {"lds_config": {"ads": {}}, "cds_config": {"ads": {}}, "ads_config": {"api_type": "DELTA_GRPC",
  "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}]}},
 "static_resources": {"clusters": [{"name": "xds-grpc", "type": "STATIC", "connect_timeout": "1s", "load_assignment": {
   "cluster_name": "xds-grpc", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": %q}}}}]}]}}]}}`

func startProxy(t *testing.T) (*Proxy, *control) {
	t.Helper()
	dir := t.TempDir()
	sock := filepath.Join(dir, "XDS")
	ln, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	c := &control{in: make(chan *discoveryv3.DeltaDiscoveryRequest, 64), out: make(chan *discoveryv3.DeltaDiscoveryResponse)}
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, c)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(ln) }()
	file := filepath.Join(dir, "b.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, bootstrapJSON, sock), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := ParseArgs([]string{"-c", file, "--drain-time-s", "1"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := LoadBootstrap(o)
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(b, o, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Shutdown()
		g.Stop()
		<-served
	})
	return p, c
}

// next returns the next request of a type.
func (c *control) next(t *testing.T, typeURL string) *discoveryv3.DeltaDiscoveryRequest {
	t.Helper()
	for {
		select {
		case r := <-c.in:
			if r.GetTypeUrl() == typeURL {
				return r
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no request for %s", typeURL)
		}
	}
}

// push sends resources and returns the text of the refusal, or "".
func (c *control) push(t *testing.T, typeURL string, ms map[string]proto.Message, removed ...string) string {
	t.Helper()
	resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: "n", RemovedResources: removed}
	for name, m := range ms {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		resp.Resources = append(resp.Resources, &discoveryv3.Resource{Name: name, Version: "1", Resource: a})
	}
	c.out <- resp
	for {
		if r := c.next(t, typeURL); r.GetResponseNonce() == "n" {
			return r.GetErrorDetail().GetMessage()
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().(*net.TCPAddr).Port
}

func listenerJSON(t *testing.T, name string, port int, filter string) *listenerv3.Listener {
	t.Helper()
	l := &listenerv3.Listener{}
	js := fmt.Sprintf(`{"name":%q,"address":{"socketAddress":{"address":"127.0.0.1","portValue":%d}},"filterChains":[{"filters":[%s]}]}`,
		name, port, filter)
	if err := protojson.Unmarshal([]byte(js), l); err != nil {
		t.Fatal(err)
	}
	return l
}

func direct(text string) string {
	return fmt.Sprintf(`{"name":"hcm","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"statPrefix":"x","routeConfig":{"name":"r","virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},
		"directResponse":{"status":200,"body":{"inlineString":%q}}}]}]},"httpFilters":[{"name":"router","typedConfig":{
		"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}`, text)
}

func get(t *testing.T, port int) (string, error) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestUnknownConfigurationIsRefusedByName(t *testing.T) {
	p, c := startProxy(t)
	c.next(t, xds.ClusterType)
	if s := p.State(); s != preInitializing {
		t.Errorf("state %d before any configuration", s)
	}
	if nack := c.push(t, xds.ClusterType, map[string]proto.Message{
		"ok": &clusterv3.Cluster{Name: "ok", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}},
	}); nack != "" {
		t.Fatal(nack)
	}
	c.next(t, xds.ListenerType)
	port := freePort(t)
	if nack := c.push(t, xds.ListenerType, map[string]proto.Message{"l": listenerJSON(t, "l", port, direct("one"))}); nack != "" {
		t.Fatal(nack)
	}
	for end := time.Now().Add(5 * time.Second); p.State() != live && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if p.State() != live {
		t.Fatal("not live")
	}
	if got, err := get(t, port); got != "one" {
		t.Errorf("%q %v", got, err)
	}
	wasm, err := anypb.New(&xdstype.TypedStruct{TypeUrl: "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm", Value: &structpb.Struct{}})
	if err != nil {
		t.Fatal(err)
	}
	bad := listenerJSON(t, "l", port, direct("two"))
	bad.FilterChains[0].Filters = append([]*listenerv3.Filter{{Name: "w", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: wasm}}},
		bad.GetFilterChains()[0].GetFilters()...)
	good := listenerJSON(t, "other", freePort(t), direct("other"))
	nack := c.push(t, xds.ListenerType, map[string]proto.Message{"l": bad, "other": good})
	if !strings.Contains(nack, `listener "l"`) || !strings.Contains(nack, "envoy.extensions.filters.network.wasm.v3.Wasm: not supported") {
		t.Errorf("refusal: %s", nack)
	}
	if got, err := get(t, port); got != "one" {
		t.Errorf("the last good version must stay: %q %v", got, err)
	}
	if got, err := get(t, int(good.GetAddress().GetSocketAddress().GetPortValue())); got != "other" {
		t.Errorf("a good listener beside a bad one: %q %v", got, err)
	}
	if nack := c.push(t, xds.ListenerType, map[string]proto.Message{"l": listenerJSON(t, "l", port, direct("three"))}, "other"); nack != "" {
		t.Fatal(nack)
	}
	if got, err := get(t, port); got != "three" {
		t.Errorf("replaced in place: %q %v", got, err)
	}
	if _, err := get(t, int(good.GetAddress().GetSocketAddress().GetPortValue())); err == nil {
		t.Error("a removed listener still answers")
	}
	field := listenerJSON(t, "f", port, direct("x"))
	field.Freebind, field.ReusePort = nil, true //nolint:staticcheck // deprecated, still sent
	field.ListenerSpecifier = &listenerv3.Listener_InternalListener{InternalListener: &listenerv3.Listener_InternalListenerConfig{}}
	if nack := c.push(t, xds.ListenerType, map[string]proto.Message{"f": field}); !strings.Contains(nack, "Listener.") {
		t.Errorf("refusal: %s", nack)
	}
}

func TestArguments(t *testing.T) {
	o, err := ParseArgs([]string{
		"-c", "etc/envoy.json", "--drain-time-s", "45", "--drain-strategy", "immediate", "--local-address-ip-version", "v4",
		"--file-flush-interval-msec", "1000", "--disable-hot-restart", "--allow-unknown-static-fields", "-l", "warning",
		"--component-log-level", "misc:error", "--skip-deprecated-logs", "--concurrency", "2",
	})
	if err != nil || o.ConfigPath != "etc/envoy.json" || o.DrainTime != 45*time.Second || o.FlushInterval != time.Second || o.Concurrency != 2 {
		t.Errorf("%+v %v", o, err)
	}
	for _, tc := range []struct {
		args []string
		code int
		out  string
	}{
		{[]string{"--version"}, 0, "version:"},
		{[]string{"--help"}, 0, "usage:"},
		{[]string{"--bogus"}, 2, ""},
		{nil, 2, ""},
		{[]string{"-c"}, 2, ""},
		{[]string{"-c", "/does/not/exist"}, 1, ""},
		{[]string{"-c", "/does/not/exist", "-l", "loud"}, 2, ""},
	} {
		var out, errs strings.Builder
		if code := Main(context.Background(), tc.args, &out, &errs); code != tc.code || !strings.Contains(out.String(), tc.out) {
			t.Errorf("%v: code %d, %q %q", tc.args, code, out.String(), errs.String())
		}
	}
}

func TestRegistryMatchesWhatIsBuilt(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range registry.Entries() {
		if seen[e.TypeURL] {
			t.Errorf("%s stands twice", e.TypeURL)
		}
		seen[e.TypeURL] = true
		if e.Status != registry.Supported && e.Note == "" {
			t.Errorf("%s is %s without a reason", e.TypeURL, e.Status)
		}
	}
}
