package hcm

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fixture is a connection manager in front of clusters whose hosts are raw TCP servers of the test.
type fixture struct {
	t    testing.TB
	m    *Manager
	env  *Env
	mu   sync.Mutex
	logs []*accesslog.Entry
}

// Log implements Logger.
func (f *fixture) Log(e *accesslog.Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logs = append(f.logs, e)
}

func (f *fixture) last() *accesslog.Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.logs) == 0 {
		return &accesslog.Entry{}
	}
	return f.logs[len(f.logs)-1]
}

func routesJSON(t testing.TB, js string) *routev3.RouteConfiguration {
	t.Helper()
	rc := &routev3.RouteConfiguration{}
	must(t, protojson.Unmarshal([]byte(js), rc))
	return rc
}

const simpleRoutes = `{"name":"r","virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},
	"route":{"cluster":"up","timeout":"0s"}}]}]}`

func newFixture(t testing.TB, routes string, hosts map[string][]string, change func(*hcmv3.HttpConnectionManager)) *fixture {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	reg := stats.New()
	cm := cluster.NewManager(ctx, tlsctx.NewStore(), reg, net.DefaultResolver)
	t.Cleanup(func() { cm.Close(); cancel() })
	for name, addrs := range hosts {
		p := &clusterv3.Cluster{
			Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
			ConnectTimeout: durationpb.New(time.Second), LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name},
		}
		var eps []*endpointv3.LbEndpoint
		for _, a := range addrs {
			ap := network.AddrPort(mustTCP(t, a))
			eps = append(eps, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
					Address: ap.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(ap.Port())},
				}}},
			}}})
		}
		p.LoadAssignment.Endpoints = []*endpointv3.LocalityLbEndpoints{{LbEndpoints: eps}}
		must(t, cm.AddStatic(p))
	}
	f := &fixture{t: t, env: &Env{
		Clusters: cm, Routes: NewRouteStore(), Stats: reg, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Self: &peer.Info{},
	}}
	router, err := anypb.New(&routerv3.Router{})
	must(t, err)
	p := &hcmv3.HttpConnectionManager{
		StatPrefix: "test", RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routesJSON(t, routes)},
		HttpFilters:    []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: router}}},
		UpgradeConfigs: []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
	}
	if change != nil {
		change(p)
	}
	f.m, err = Compile(p, f.env, network.Outbound, []Logger{f})
	must(t, err)
	return f
}

func mustTCP(t testing.TB, a string) *net.TCPAddr {
	t.Helper()
	ta, err := net.ResolveTCPAddr("tcp", a)
	must(t, err)
	return ta
}

// connect opens a connection that the manager serves.
func (f *fixture) connect() net.Conn {
	f.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(f.t, err)
	defer func() { _ = ln.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	done, accepted := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		nc, err := ln.Accept()
		close(accepted)
		if err != nil {
			return
		}
		c := network.New(nc)
		stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
		defer stop()
		f.m.Serve(ctx, c)
		c.Finish()
	}()
	cli, err := net.Dial("tcp", ln.Addr().String())
	must(f.t, err)
	<-accepted
	f.t.Cleanup(func() { _ = cli.Close(); cancel(); <-done })
	_ = cli.SetDeadline(time.Now().Add(10 * time.Second))
	return cli
}

// exchange sends raw bytes and reads one response.
func (f *fixture) exchange(raw string) (*http.Response, string) {
	f.t.Helper()
	c := f.connect()
	_, err := io.WriteString(c, raw)
	must(f.t, err)
	return readResponse(f.t, bufio.NewReader(c), strings.Fields(raw)[0])
}

func readResponse(t testing.TB, br *bufio.Reader, method string) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	must(t, err)
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("body: %v", err)
	}
	return resp, string(b)
}

// backend is a server that answers each connection's requests by fn; it keeps what it has seen.
type backend struct {
	addr string
	mu   sync.Mutex
	seen []string
}

func newBackend(t testing.TB, fn func(c net.Conn, br *bufio.Reader, req *http.Request) bool) *backend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	b := &backend{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				br := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					b.mu.Lock()
					b.seen = append(b.seen, req.Method+" "+req.RequestURI+" "+req.Host)
					b.mu.Unlock()
					if !fn(c, br, req) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return b
}

func (b *backend) requests() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.seen...)
}

func reply200(text string) func(net.Conn, *bufio.Reader, *http.Request) bool {
	return func(c net.Conn, _ *bufio.Reader, req *http.Request) bool {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return false
		}
		text := text + string(body)
		_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: "+itoa(len(text))+"\r\n\r\n"+text)
		return err == nil
	}
}

func itoa(n int) string {
	var b []byte
	for {
		b = append([]byte{byte('0' + n%10)}, b...)
		if n /= 10; n == 0 {
			return string(b)
		}
	}
}
