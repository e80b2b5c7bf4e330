package xds

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server hands its streams to the test.
type server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	delta chan *deltaPeer
	world chan *worldPeer
}

type deltaPeer struct {
	st   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	in   chan *discoveryv3.DeltaDiscoveryRequest
	quit chan struct{}
}

type worldPeer struct {
	st   discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer
	in   chan *discoveryv3.DiscoveryRequest
	quit chan struct{}
}

func (s *server) DeltaAggregatedResources(st discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	p := &deltaPeer{st, make(chan *discoveryv3.DeltaDiscoveryRequest, 16), make(chan struct{})}
	go func() {
		defer close(p.in)
		for {
			r, err := st.Recv()
			if err != nil {
				return
			}
			p.in <- r
		}
	}()
	s.delta <- p
	select {
	case <-p.quit:
		return errors.New("server breaks the stream")
	case <-st.Context().Done():
		return nil
	}
}

func (s *server) StreamAggregatedResources(st discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	p := &worldPeer{st, make(chan *discoveryv3.DiscoveryRequest, 16), make(chan struct{})}
	go func() {
		defer close(p.in)
		for {
			r, err := st.Recv()
			if err != nil {
				return
			}
			p.in <- r
		}
	}()
	s.world <- p
	select {
	case <-p.quit:
		return errors.New("server breaks the stream")
	case <-st.Context().Done():
		return nil
	}
}

func start(t *testing.T, mode Mode, h Handler) (*server, *Client) {
	t.Helper()
	ln := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	s := &server{delta: make(chan *deltaPeer, 4), world: make(chan *worldPeer, 4)}
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(ln) }()
	c := New(Config{
		Name: "test", Mode: mode, Node: &corev3.Node{Id: "me"}, Handler: h, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Dial: func(ctx context.Context) (net.Conn, error) { return ln.DialContext(ctx) }, FirstBackoff: time.Millisecond,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		g.Stop()
		<-served
	})
	return s, c
}

func take[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-ch:
		if !ok {
			t.Fatal("stream ended")
		}
		return v
	case <-time.After(5 * time.Second):
		t.Fatal("nothing came")
	}
	panic("unreachable")
}

func pack(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestDelta(t *testing.T) {
	updates := make(chan Update, 8)
	var refuse error
	s, c := start(t, Delta, HandlerFunc(func(u Update) error {
		updates <- u
		return refuse
	}))
	c.Subscribe(ClusterType, nil)
	p := take(t, s.delta)
	r := take(t, p.in)
	if r.GetNode().GetId() != "me" || r.GetTypeUrl() != ClusterType || len(r.GetResourceNamesSubscribe()) != 0 {
		t.Fatalf("first request %v", r)
	}
	send := func(p *deltaPeer, nonce, typeURL, name, version string, body proto.Message, removed ...string) {
		t.Helper()
		resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: nonce, RemovedResources: removed}
		if body != nil {
			resp.Resources = []*discoveryv3.Resource{{Name: name, Version: version, Resource: pack(t, body)}}
		}
		if err := p.st.Send(resp); err != nil {
			t.Fatal(err)
		}
	}
	send(p, "n1", ClusterType, "a", "v1", &clusterv3.Cluster{Name: "a"})
	if u := take(t, updates); len(u.Resources) != 1 || u.Resources[0].Name != "a" || u.Full {
		t.Errorf("update %+v", u)
	}
	if r = take(t, p.in); r.GetResponseNonce() != "n1" || r.GetErrorDetail() != nil || r.GetNode() != nil {
		t.Errorf("acknowledgement %v", r)
	}
	c.Subscribe(EndpointType, []string{"b", "a"})
	if r = take(t, p.in); !slices.Equal(r.GetResourceNamesSubscribe(), []string{"a", "b"}) {
		t.Errorf("subscription %v", r)
	}
	c.Subscribe(EndpointType, []string{"b", "c"})
	if r = take(t, p.in); !slices.Equal(r.GetResourceNamesSubscribe(), []string{"c"}) || !slices.Equal(r.GetResourceNamesUnsubscribe(), []string{"a"}) {
		t.Errorf("change of subscription %v", r)
	}
	send(p, "n2", EndpointType, "b", "v7", &endpointv3.ClusterLoadAssignment{ClusterName: "b"})
	take(t, updates)
	take(t, p.in)
	refuse = errors.New("cluster \"x\": Cluster.foo: not supported")
	send(p, "n3", ClusterType, "x", "v2", &clusterv3.Cluster{Name: "x"})
	take(t, updates)
	if r = take(t, p.in); r.GetResponseNonce() != "n3" || r.GetErrorDetail().GetMessage() != refuse.Error() {
		t.Errorf("refusal %v", r)
	}
	refuse = nil
	close(p.quit)
	p = take(t, s.delta)
	first, second := take(t, p.in), take(t, p.in)
	if first.GetTypeUrl() != ClusterType || first.GetNode().GetId() != "me" || first.GetInitialResourceVersions()["a"] != "v1" ||
		len(first.GetInitialResourceVersions()) != 1 {
		t.Errorf("after reconnecting: clusters %v", first)
	}
	if second.GetInitialResourceVersions()["b"] != "v7" || !slices.Equal(second.GetResourceNamesSubscribe(), []string{"b", "c"}) {
		t.Errorf("after reconnecting: endpoints %v", second)
	}
}

func TestStateOfTheWorld(t *testing.T) {
	updates := make(chan Update, 8)
	var refuse error
	s, c := start(t, StateOfWorld, HandlerFunc(func(u Update) error {
		updates <- u
		return refuse
	}))
	c.Subscribe(ClusterType, nil)
	p := take(t, s.world)
	take(t, p.in)
	send := func(version string) {
		t.Helper()
		err := p.st.Send(&discoveryv3.DiscoveryResponse{
			TypeUrl: ClusterType, VersionInfo: version, Nonce: "n" + version,
			Resources: []*anypb.Any{pack(t, &clusterv3.Cluster{Name: "a"}), pack(t, &clusterv3.Cluster{Name: "b"})},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	send("1")
	if u := take(t, updates); !u.Full || len(u.Resources) != 2 || u.Resources[1].Name != "b" {
		t.Errorf("update %+v", u)
	}
	if r := take(t, p.in); r.GetVersionInfo() != "1" || r.GetResponseNonce() != "n1" {
		t.Errorf("acknowledgement %v", r)
	}
	refuse = errors.New("no")
	send("2")
	take(t, updates)
	if r := take(t, p.in); r.GetVersionInfo() != "1" || r.GetResponseNonce() != "n2" || r.GetErrorDetail().GetMessage() != "no" {
		t.Errorf("refusal %v", r)
	}
}

func FuzzResourceName(f *testing.F) {
	b, _ := proto.Marshal(&clusterv3.Cluster{Name: "outbound|80||a"})
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = ResourceName(&anypb.Any{Value: b}) })
}
