package dataplane

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// living is a proxy with a management server, a listener on port with routes by RDS to EDS clusters of one upstream.
type living struct {
	p    *Proxy
	c    *control
	port int
	up   *holder
}

// holder is an upstream that answers at once, or on /hold when it is let go.
type holder struct {
	addr    *net.TCPAddr
	release chan struct{}
	waiting atomic.Int64
}

func newHolder(t *testing.T) *holder {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &holder{addr: ln.Addr().(*net.TCPAddr), release: make(chan struct{})}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.HasPrefix(r.URL.Path, "/hold") {
			_, _ = io.WriteString(w, "first half, ")
			_ = http.NewResponseController(w).Flush()
			h.waiting.Add(1)
			select {
			case <-h.release:
			case <-r.Context().Done():
				return
			}
			_, _ = io.WriteString(w, "second half")
			return
		}
		_, _ = fmt.Fprintf(w, "got %d", len(body))
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(ln) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
	return h
}

func parse[M proto.Message](t *testing.T, m M, js string, args ...any) M {
	t.Helper()
	if err := protojson.Unmarshal(fmt.Appendf(nil, js, args...), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// The resources below differ from version to version in something that makes the proxy build them anew.

func (l *living) cluster(t *testing.T, name string, version int) *clusterv3.Cluster {
	c := parse(t, &clusterv3.Cluster{}, `{"name":%q,"type":"EDS","connectTimeout":"%d.5s","edsClusterConfig":{"serviceName":%q,"edsConfig":{"ads":{}}}}`,
		name, 1+version%5, name)
	if version%4 == 3 { // HTTP/2 now and then
		c = parse(t, c, `{"typedExtensionProtocolOptions":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{
			"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicitHttpConfig":{"http2ProtocolOptions":{}}}}}`)
		c.Name, c.ClusterDiscoveryType = name, &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{ServiceName: name, EdsConfig: adsSource()}
		c.ConnectTimeout = durationpb.New(time.Second)
	}
	return c
}

func (l *living) endpoints(t *testing.T, name string, version int) *endpointv3.ClusterLoadAssignment {
	return parse(t, &endpointv3.ClusterLoadAssignment{}, `{"clusterName":%q,"endpoints":[{"lbEndpoints":[{"loadBalancingWeight":%d,
		"endpoint":{"address":{"socketAddress":{"address":"127.0.0.1","portValue":%d}}}}]}]}`, name, 1+version%7, l.up.addr.Port)
}

func (l *living) routes(t *testing.T, version int, cluster string) *routev3.RouteConfiguration {
	return parse(t, &routev3.RouteConfiguration{}, `{"name":"r","virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},
		"route":{"cluster":%q,"timeout":"30s"},"responseHeadersToAdd":[{"header":{"key":"x-version","value":"%d"}}]}]}]}`, cluster, version)
}

func (l *living) listener(t *testing.T, version int) *listenerv3.Listener {
	return parse(t, &listenerv3.Listener{}, `{"name":"l","address":{"socketAddress":{"address":"127.0.0.1","portValue":%d}},"filterChains":[{"name":"c","filters":[{"name":"hcm",
		"typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","statPrefix":"x%d",
		"rds":{"routeConfigName":"r","configSource":{"ads":{}}},"httpFilters":[{"name":"router","typedConfig":{
		"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}`, l.port, version%3)
}

// ok pushes one resource, which must be taken.
func (l *living) ok(t *testing.T, url, name string, m proto.Message) {
	t.Helper()
	if nack := l.c.push(t, url, map[string]proto.Message{name: m}); nack != "" {
		t.Fatalf("%s refused: %s", name, nack)
	}
}

func newLiving(t *testing.T) *living {
	t.Helper()
	l := &living{port: freePort(t), up: newHolder(t)}
	l.p, l.c = startProxy(t)
	l.ok(t, xds.ClusterType, "a", l.cluster(t, "a", 0))
	l.ok(t, xds.EndpointType, "a", l.endpoints(t, "a", 0))
	l.ok(t, xds.ListenerType, "l", l.listener(t, 0))
	l.ok(t, xds.RouteType, "r", l.routes(t, 0, "a"))
	for end := time.Now().Add(10 * time.Second); l.p.State() != live; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not live")
		}
	}
	return l
}

func (l *living) url(path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", l.port, path) }

func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc here")
	}
	return len(d)
}

// TestNothingLeaksOverUpdates changes everything thousands of times, with requests in between.
func TestNothingLeaksOverUpdates(t *testing.T) {
	l := newLiving(t)
	client := &http.Client{Transport: &http.Transport{}}
	ask := func() {
		t.Helper()
		resp, err := client.Get(l.url("/"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || string(b) != "got 0" {
			t.Fatalf("%d %q %v", resp.StatusCode, b, err)
		}
	}
	round := func(i int) {
		t.Helper()
		l.ok(t, xds.ClusterType, "a", l.cluster(t, "a", i))
		l.ok(t, xds.EndpointType, "a", l.endpoints(t, "a", i))
		extra := fmt.Sprintf("extra-%d", i)
		l.ok(t, xds.ClusterType, extra, l.cluster(t, extra, i))
		l.ok(t, xds.EndpointType, extra, l.endpoints(t, extra, i))
		l.ok(t, xds.ListenerType, "l", l.listener(t, i))
		l.ok(t, xds.RouteType, "r", l.routes(t, i, "a"))
		if i%5 == 0 {
			ask()
		}
		if nack := l.c.push(t, xds.ClusterType, nil, extra); nack != "" {
			t.Fatal(nack)
		}
	}
	draining := l.p.stats.Gauge(stats.Scope{Name: "listener_manager", Family: "envoy_listener_manager"}, "total_filter_chains_draining")
	// settled waits for what is draining, then counts.
	settled := func() (goroutines, fds int) {
		client.CloseIdleConnections()
		for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			g, f := runtime.NumGoroutine(), descriptors(t)
			if g == goroutines && f == fds && draining.Value() == 0 {
				return g, f
			}
			goroutines, fds = g, f
		}
		return goroutines, fds
	}
	for i := range 20 {
		round(i)
	}
	g0, f0 := settled()
	rounds := 400
	if testing.Short() {
		rounds = 60
	}
	for i := range rounds {
		round(i)
	}
	g1, f1 := settled()
	if g1 > g0+3 || f1 > f0+3 {
		buf := make([]byte, 1<<20)
		t.Errorf("after %d updates %d goroutines and %d descriptors, before %d and %d\n%.6000s", rounds*7, g1, f1, g0, f0, buf[:runtime.Stack(buf, true)])
	}
	if n := len(l.p.clusters.All()); n != 2 {
		t.Errorf("%d clusters, want a and xds-grpc", n)
	}
	resp, err := http.Get("http://" + l.p.AdminAddress().String() + "/stats")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = resp.Body.Close() }()
	if page, err := io.ReadAll(resp.Body); err != nil || strings.Contains(string(page), "cluster.extra-") {
		t.Errorf("counters of clusters that are gone stay: %v", err)
	}
}

// TestRequestsInFlightOutliveUpdates begins requests whose answers are half said, replaces all that they run on, and
// lets them end.
func TestRequestsInFlightOutliveUpdates(t *testing.T) {
	for _, proto2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %t", proto2), func(t *testing.T) {
			l := newLiving(t)
			tr := &http.Transport{Protocols: new(http.Protocols)}
			tr.Protocols.SetHTTP1(!proto2)
			tr.Protocols.SetUnencryptedHTTP2(proto2)
			defer tr.CloseIdleConnections()
			client := &http.Client{Transport: tr}
			const n = 6
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					resp, err := client.Post(l.url(fmt.Sprintf("/hold/%d", i)), "text/plain", strings.NewReader("body"))
					if err != nil {
						t.Error(err)
						return
					}
					defer func() { _ = resp.Body.Close() }()
					if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "first half, second half" {
						t.Errorf("%q %v", b, err)
					}
				})
			}
			for end := time.Now().Add(10 * time.Second); l.up.waiting.Load() < n; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the requests did not come through")
				}
			}
			for i := 1; i < 12; i++ {
				l.ok(t, xds.ClusterType, "a", l.cluster(t, "a", i))
				l.ok(t, xds.EndpointType, "a", l.endpoints(t, "a", i))
				l.ok(t, xds.ListenerType, "l", l.listener(t, i))
				l.ok(t, xds.RouteType, "r", l.routes(t, i, "a"))
			}
			// The host goes, and the cluster too.
			l.ok(t, xds.EndpointType, "a", &endpointv3.ClusterLoadAssignment{ClusterName: "a"})
			if nack := l.c.push(t, xds.ClusterType, nil, "a"); nack != "" {
				t.Fatal(nack)
			}
			close(l.up.release)
			wg.Wait()
		})
	}
}

// TestSteadyRequestsDuringUpdates: no request fails while everything changes beneath.
func TestSteadyRequestsDuringUpdates(t *testing.T) {
	l := newLiving(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var done atomic.Int64
	for w := range 4 {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				method, body := http.MethodGet, io.Reader(nil)
				if w%2 == 1 {
					method, body = http.MethodPost, strings.NewReader("12345")
				}
				req, err := http.NewRequest(method, l.url("/"), body)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Errorf("request %d: %v", done.Load(), err)
					return
				}
				b, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(b), "got ") {
					t.Errorf("request %d: %d %q %v", done.Load(), resp.StatusCode, b, err)
					return
				}
				done.Add(1)
			}
		})
	}
	for i := 1; i <= 120; i++ {
		// A new cluster, routes to it at once, and the old one away: the endpoints come when they are asked for.
		old, now := "a", "b"
		if i%2 == 0 {
			old, now = now, old
		}
		l.ok(t, xds.ClusterType, now, l.cluster(t, now, i))
		l.ok(t, xds.RouteType, "r", l.routes(t, i, now))
		l.ok(t, xds.EndpointType, now, l.endpoints(t, now, i))
		l.ok(t, xds.ListenerType, "l", l.listener(t, i))
		if nack := l.c.push(t, xds.ClusterType, nil, old); nack != "" {
			t.Fatal(nack)
		}
	}
	cancel()
	wg.Wait()
	t.Logf("%d requests", done.Load())
}

// TestRefusedResourcesKeepTheirLastVersion hands out good and bad ones together.
func TestRefusedResourcesKeepTheirLastVersion(t *testing.T) {
	l := newLiving(t)
	bad := l.cluster(t, "a", 1)
	bad.DnsRefreshRate, bad.LbSubsetConfig = nil, &clusterv3.Cluster_LbSubsetConfig{FallbackPolicy: clusterv3.Cluster_LbSubsetConfig_DEFAULT_SUBSET} //nolint:staticcheck // deprecated, still sent
	if nack := l.c.push(t, xds.ClusterType, map[string]proto.Message{"a": bad, "b": l.cluster(t, "b", 1)}); !strings.Contains(nack, "lb_subset_config") {
		t.Errorf("refusal: %q", nack)
	}
	l.ok(t, xds.EndpointType, "b", l.endpoints(t, "b", 1))
	worse := l.endpoints(t, "a", 1)
	worse.Endpoints[0].Priority = 1 << 20
	if nack := l.c.push(t, xds.EndpointType, map[string]proto.Message{"a": worse, "b": l.endpoints(t, "b", 2)}); !strings.Contains(nack, `"a"`) {
		t.Errorf("refusal: %q", nack)
	}
	routes := l.routes(t, 1, "a")
	routes.VirtualHosts[0].Domains = []string{"*", "*"}
	if nack := l.c.push(t, xds.RouteType, map[string]proto.Message{"r": routes}); nack == "" {
		t.Error("routes with one domain twice are taken")
	}
	if nack := l.c.push(t, xds.SecretType, map[string]proto.Message{"s": &tlsv3.Secret{Name: "s"}}); nack != "" && !strings.Contains(nack, "s") {
		t.Errorf("refusal: %q", nack)
	}
	resp, err := http.Get(l.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Version") != "0" {
		t.Errorf("%d, version %q: the last good version must stay", resp.StatusCode, resp.Header.Get("X-Version"))
	}
	l.ok(t, xds.RouteType, "r", l.routes(t, 2, "b"))
	if resp, err = http.Get(l.url("/")); err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("X-Version") != "2" {
		t.Fatalf("the good part of an update is not in force: %v %v", resp, err)
	}
	_ = resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
}

// TestMalformedBytesOnEveryPort writes rubbish to the listener and the admin port; both go on.
func TestMalformedBytesOnEveryPort(t *testing.T) {
	l := newLiving(t)
	for _, addr := range []string{fmt.Sprintf("127.0.0.1:%d", l.port), l.p.AdminAddress().String()} {
		for _, rubbish := range []string{"\x00\xff\x16\x03\x01", "GET\x00 / HTTP/1.1\r\n\r\n", strings.Repeat("A", 200<<10), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff"} {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = io.WriteString(c, rubbish)
			_ = c.(*net.TCPConn).CloseWrite()
			_, err = io.Copy(io.Discard, bufio.NewReader(c))
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				t.Errorf("%s hangs on %.40q", addr, rubbish)
			}
			_ = c.Close()
		}
	}
	for _, u := range []string{l.url("/"), "http://" + l.p.AdminAddress().String() + "/ready"} {
		resp, err := http.Get(u)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %v %v", u, resp, err)
			continue
		}
		_ = resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
}
