package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

type fakeDNS map[string][]netip.Addr

func (f fakeDNS) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if ips, ok := f[host]; ok {
		return ips, nil
	}
	return nil, errors.New("no such host")
}

func newManager(t *testing.T) *Manager {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m := NewManager(ctx, tlsctx.NewStore(), stats.New(), fakeDNS{"a.example": {netip.MustParseAddr("10.0.0.9")}})
	t.Cleanup(func() { cancel(); m.Close() })
	return m
}

func lbEndpoint(addr string, weight uint32, health corev3.HealthStatus) *endpointv3.LbEndpoint {
	host, port, _ := net.SplitHostPort(addr)
	var n uint32
	_, _ = fmt.Sscan(port, &n)
	return &endpointv3.LbEndpoint{
		HealthStatus: health, LoadBalancingWeight: wrapperspb.UInt32(weight),
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{
			Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: n},
			}},
		}}},
	}
}

func assignment(name string, ls ...*endpointv3.LocalityLbEndpoints) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: ls}
}

func locality(priority uint32, eps ...*endpointv3.LbEndpoint) *endpointv3.LocalityLbEndpoints {
	return &endpointv3.LocalityLbEndpoints{Priority: priority, LbEndpoints: eps}
}

func edsCluster(name string, policy clusterv3.Cluster_LbPolicy) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}, LbPolicy: policy,
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: &corev3.ConfigSource{
			ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		}},
	}
}

func update(t *testing.T, typeURL string, removed []string, ms ...proto.Message) xds.Update {
	t.Helper()
	u := xds.Update{Type: typeURL, Removed: removed}
	for _, m := range ms {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		u.Resources = append(u.Resources, xds.Resource{Name: fmt.Sprint(m), Version: "1", Body: a})
	}
	return u
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pickCounts(t *testing.T, c *Cluster, n int) map[string]int {
	t.Helper()
	out := map[string]int{}
	for range n {
		e, err := c.Pick(Choice{})
		must(t, err)
		out[e.Address]++
	}
	return out
}

func TestBalancing(t *testing.T) {
	healthy := corev3.HealthStatus_HEALTHY
	m := newManager(t)
	must(t, m.Apply(update(t, xds.ClusterType, nil, edsCluster("rr", clusterv3.Cluster_ROUND_ROBIN), edsCluster("lr", clusterv3.Cluster_LEAST_REQUEST))))
	if m.Initialized() {
		t.Error("initialised before endpoints came")
	}
	if _, err := m.Get("rr").Pick(Choice{}); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("without endpoints: %v", err)
	}
	must(t, m.ApplyEndpoints(update(t, xds.EndpointType, nil,
		assignment("rr", locality(0, lbEndpoint("10.0.0.1:80", 3, healthy), lbEndpoint("10.0.0.2:80", 1, healthy),
			lbEndpoint("10.0.0.4:80", 0, healthy), lbEndpoint("10.0.0.3:80", 9, corev3.HealthStatus_UNHEALTHY)),
			locality(1, lbEndpoint("10.0.1.1:80", 1, healthy))),
		assignment("lr", locality(0, lbEndpoint("10.0.0.1:80", 1, healthy), lbEndpoint("10.0.0.2:80", 1, healthy))))))
	if !m.Initialized() {
		t.Error("not initialised")
	}
	if got := pickCounts(t, m.Get("rr"), 500); got["10.0.0.1:80"] != 300 || got["10.0.0.2:80"] != 100 || got["10.0.0.4:80"] != 100 {
		t.Errorf("weights 3:1:1 gave %v", got)
	}
	lr := m.Get("lr")
	for _, e := range lr.Endpoints() {
		if e.Address == "10.0.0.1:80" {
			e.Active.Store(100)
		}
	}
	if got := pickCounts(t, lr, 400); got["10.0.0.2:80"] < 250 {
		t.Errorf("least request preferred the busy host: %v", got)
	}
	must(t, m.ApplyEndpoints(update(t, xds.EndpointType, nil, assignment("rr",
		locality(0, lbEndpoint("10.0.0.1:80", 1, corev3.HealthStatus_DRAINING)), locality(1, lbEndpoint("10.0.1.1:80", 1, healthy))))))
	if got := pickCounts(t, m.Get("rr"), 10); got["10.0.1.1:80"] != 10 {
		t.Errorf("failover to the next priority: %v", got)
	}
	must(t, m.ApplyEndpoints(update(t, xds.EndpointType, []string{"rr"})))
	if _, err := m.Get("rr").Pick(Choice{}); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("after removal: %v", err)
	}
}

func TestLocalityWeights(t *testing.T) {
	m := newManager(t)
	p := edsCluster("c", clusterv3.Cluster_ROUND_ROBIN)
	p.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{LocalityConfigSpecifier: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
		LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{},
	}}
	must(t, m.Apply(update(t, xds.ClusterType, nil, p)))
	a := locality(0, lbEndpoint("10.0.0.1:80", 1, 0), lbEndpoint("10.0.0.2:80", 1, 0))
	a.Locality, a.LoadBalancingWeight = &corev3.Locality{Region: "a"}, wrapperspb.UInt32(80)
	b := locality(0, lbEndpoint("10.0.1.1:80", 1, 0))
	b.Locality, b.LoadBalancingWeight = &corev3.Locality{Region: "b"}, wrapperspb.UInt32(20)
	must(t, m.ApplyEndpoints(update(t, xds.EndpointType, nil, assignment("c", a, b))))
	got := pickCounts(t, m.Get("c"), 1000)
	if got["10.0.1.1:80"] != 200 || got["10.0.0.1:80"] != 400 {
		t.Errorf("80:20 over two and one hosts gave %v", got)
	}
}

func TestUpdatesKeepConnections(t *testing.T) {
	m := newManager(t)
	var conns atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	must(t, m.Apply(update(t, xds.ClusterType, nil, edsCluster("c", clusterv3.Cluster_ROUND_ROBIN))))
	load := func(eps ...*endpointv3.LbEndpoint) {
		t.Helper()
		must(t, m.ApplyEndpoints(update(t, xds.EndpointType, nil, assignment("c", locality(0, eps...)))))
	}
	get := func() {
		t.Helper()
		c := m.Get("c")
		e, err := c.Pick(Choice{})
		must(t, err)
		req := &http.Request{Method: http.MethodGet, URL: &url.URL{Opaque: "/"}, Host: "x", Header: http.Header{}, RequestURI: "/"}
		resp, err := c.RoundTrip(e, req.WithContext(context.Background()), 1, ConnectOptions{})
		must(t, err)
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "ok" {
			t.Errorf("%q %v", b, err)
		}
		must(t, resp.Body.Close())
	}
	load(lbEndpoint(addr, 1, 0))
	get()
	load(lbEndpoint(addr, 5, 0)) // another weight, the same host
	get()
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections, want the first to be kept", n)
	}
	load()
	if _, err := m.Get("c").Pick(Choice{}); err == nil {
		t.Error("the host is gone, yet picked")
	}
	load(lbEndpoint(addr, 1, 0))
	get()
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections, want a new one after the host was gone", n)
	}
}

func TestKindsAndRefusals(t *testing.T) {
	m := newManager(t)
	dns := &clusterv3.Cluster{
		Name: "dns", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS},
		LoadAssignment: assignment("dns", locality(0, lbEndpoint("a.example:80", 1, 0))),
	}
	orig := &clusterv3.Cluster{
		Name: "orig", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED,
	}
	hole := &clusterv3.Cluster{Name: "hole", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}}
	checked := edsCluster("checked", clusterv3.Cluster_ROUND_ROBIN)
	checked.HealthChecks = []*corev3.HealthCheck{{Interval: durationpb.New(time.Second)}}
	subsets := edsCluster("subsets", clusterv3.Cluster_RANDOM)
	subsets.LbSubsetConfig = &clusterv3.Cluster_LbSubsetConfig{FallbackPolicy: clusterv3.Cluster_LbSubsetConfig_ANY_ENDPOINT}
	murmur := edsCluster("murmur", clusterv3.Cluster_RING_HASH)
	murmur.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: &clusterv3.Cluster_RingHashLbConfig{
		HashFunction: clusterv3.Cluster_RingHashLbConfig_MURMUR_HASH_2,
	}}
	err := m.Apply(update(t, xds.ClusterType, nil, dns, orig, hole, checked, subsets, murmur))
	for _, want := range []string{
		"envoy.config.cluster.v3.Cluster.health_checks: not supported", "envoy.config.cluster.v3.Cluster.lb_subset_config: not supported",
		"RingHashLbConfig.hash_function: not supported by the ropes data plane: MURMUR_HASH_2",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("refusal %v does not name %s", err, want)
		}
	}
	if m.Get("checked") != nil || m.Get("hole") == nil {
		t.Error("a refused cluster must not hold up the others")
	}
	for end := time.Now().Add(5 * time.Second); ; {
		if e, err := m.Get("dns").Pick(Choice{}); err == nil {
			if e.Address != "10.0.0.9:80" || e.Hostname != "a.example" {
				t.Errorf("resolved to %s (%s)", e.Address, e.Hostname)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatal("the name was not resolved")
		}
		time.Sleep(time.Millisecond)
	}
	dst := netip.MustParseAddrPort("192.0.2.1:99")
	if e, err := m.Get("orig").Pick(Choice{Original: dst}); err != nil || e.Addr != dst {
		t.Errorf("original destination: %v %v", e, err)
	}
	if _, err := m.Get("orig").Pick(Choice{}); !errors.Is(err, ErrNoOriginal) {
		t.Errorf("without original destination: %v", err)
	}
	if _, err := m.Get("hole").Pick(Choice{}); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("black hole: %v", err)
	}
	must(t, m.Apply(xds.Update{Type: xds.ClusterType, Removed: []string{"dns", "orig", "hole"}}))
	if len(m.All()) != 0 {
		t.Errorf("left over: %v", m.All())
	}
}

func TestCircuitBreaker(t *testing.T) {
	m := newManager(t)
	release, running := make(chan struct{}), make(chan struct{}, 3)
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { running <- struct{}{}; <-release }))
	defer srv.Close()
	p := edsCluster("c", clusterv3.Cluster_ROUND_ROBIN)
	p.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections: wrapperspb.UInt32(1), MaxPendingRequests: wrapperspb.UInt32(1), MaxRequests: wrapperspb.UInt32(10),
	}}}
	must(t, m.Apply(update(t, xds.ClusterType, nil, p)))
	must(t, m.ApplyEndpoints(update(t, xds.EndpointType, nil,
		assignment("c", locality(0, lbEndpoint(strings.TrimPrefix(srv.URL, "http://"), 1, 0))))))
	c := m.Get("c")
	e, err := c.Pick(Choice{})
	must(t, err)
	results := make(chan error, 3)
	for i := range 3 {
		if i == 1 {
			<-running // while it waits for its connection it would count as pending
		}
		go func() {
			req := &http.Request{Method: http.MethodGet, URL: &url.URL{Opaque: "/"}, Host: "x", Header: http.Header{}, RequestURI: "/"}
			resp, err := c.RoundTrip(e, req.WithContext(context.Background()), 1, ConnectOptions{})
			if err == nil {
				err = resp.Body.Close()
			}
			results <- err
		}()
	}
	if err := <-results; !errors.Is(err, ErrOverflow) {
		t.Errorf("one runs, one waits, the third got %v", err)
	}
	close(release)
	for range 2 {
		if err := <-results; err != nil {
			t.Errorf("a request within the limits failed: %v", err)
		}
	}
}
