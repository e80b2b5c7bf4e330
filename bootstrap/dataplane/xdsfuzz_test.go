package dataplane

import (
	"bufio"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// resourceKinds are what a management server can send, and the files of testdata/xds that seeds of it stand in.
var resourceKinds = []struct {
	files, url string
	fresh      func() proto.Message
}{
	{"cluster*.json", xds.ClusterType, func() proto.Message { return &clusterv3.Cluster{} }},
	{"endpoints*.json", xds.EndpointType, func() proto.Message { return &endpointv3.ClusterLoadAssignment{} }},
	{"listener*.json", xds.ListenerType, func() proto.Message { return &listenerv3.Listener{} }},
	{"routes*.json", xds.RouteType, func() proto.Message { return &routev3.RouteConfiguration{} }},
	{"secret*.json", xds.SecretType, func() proto.Message { return &tlsv3.Secret{} }},
}

// taker is a proxy that takes resources and serves a few requests with them.
type taker struct {
	p      *Proxy
	panics panicCatcher
	seeds  []seed
	routes string // address of the listener that has routes "r"
}

// seed is a resource to start from; kind is an index into resourceKinds.
type seed struct {
	file string
	kind int
	proto.Message
}

const takerListener = `{"name":"fixed","address":{"socketAddress":{"address":"127.0.0.1","portValue":0}},"filterChains":[{"filters":[{"name":"hcm","typedConfig":{
 "@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","statPrefix":"x",
 "rds":{"routeConfigName":"r","configSource":{"ads":{},"resourceApiVersion":"V3"}},"httpFilters":[
 {"name":"envoy.filters.http.fault","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"}},
 {"name":"envoy.filters.http.cors","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}},
 {"name":"router","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}`

func newTaker(tb testing.TB) *taker {
	tb.Helper()
	k := &taker{}
	p, err := New(&bootstrapv3.Bootstrap{Node: &corev3.Node{Id: "x"}}, Options{DrainTime: time.Millisecond}, slog.New(&k.panics))
	if err != nil {
		tb.Fatal(err)
	}
	k.p = p
	tb.Cleanup(p.Shutdown)
	for i, kind := range resourceKinds {
		files, err := filepath.Glob(filepath.Join("testdata", "xds", kind.files))
		if err != nil || len(files) == 0 {
			tb.Fatalf("no seeds %s: %v", kind.files, err)
		}
		for _, file := range files {
			js, err := os.ReadFile(file)
			if err != nil {
				tb.Fatal(err)
			}
			m := kind.fresh()
			if err := protojson.Unmarshal(js, m); err != nil {
				tb.Fatalf("%s: %v", file, err)
			}
			k.seeds = append(k.seeds, seed{filepath.Base(file), i, m})
		}
	}
	eds := &clusterv3.Cluster{
		Name: "d", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{ServiceName: "e", EdsConfig: adsSource()},
	}
	if err := p.clusters.Apply(oneResource(xds.ClusterType, eds.GetName(), eds)); err != nil {
		tb.Fatal(err)
	}
	l := &listenerv3.Listener{}
	if err := protojson.Unmarshal([]byte(takerListener), l); err != nil {
		tb.Fatal(err)
	}
	if err := p.routes.Apply(oneResource(xds.RouteType, "r", &routev3.RouteConfiguration{Name: "r"})); err != nil {
		tb.Fatal(err)
	}
	if err := p.listeners.Apply(oneResource(xds.ListenerType, l.GetName(), l)); err != nil {
		tb.Fatal(err)
	}
	a, ok := p.listeners.Bound(netip.MustParseAddrPort("127.0.0.1:0"))
	if !ok {
		tb.Fatal("the fixed listener is not bound")
	}
	k.routes = a.String()
	return k
}

func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

func oneResource(url, name string, m proto.Message) xds.Update {
	a, err := anypb.New(m)
	if err != nil {
		a = &anypb.Any{TypeUrl: url} // a message with invalid UTF-8 does not serialise
	}
	return xds.Update{Type: url, Resources: []xds.Resource{{Name: name, Version: "1", Body: a}}}
}

// take hands resource m of a kind to the proxy, sends requests where it was accepted, and takes it away again. It
// returns the refusal.
func (k *taker) take(t *testing.T, kind int, m proto.Message) (err error) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			t.Fatalf("panic: %v\n%s\nwith %s", r, debug.Stack(), protojson.Format(m))
		}
		if p := k.panics.seen.Swap(nil); p != nil {
			t.Fatalf("panic: %s\nwith %s", *p, protojson.Format(m))
		}
	}()
	url := resourceKinds[kind].url
	target := k.routes
	switch m := m.(type) {
	case *clusterv3.Cluster:
		m.Name = "c"
		err = k.p.clusters.Apply(oneResource(url, "c", m))
		defer func() { _ = k.p.clusters.Apply(xds.Update{Type: url, Removed: []string{"c"}}) }()
	case *endpointv3.ClusterLoadAssignment:
		m.ClusterName = "e"
		err = k.p.clusters.ApplyEndpoints(oneResource(url, "e", m))
	case *listenerv3.Listener:
		m.Name, m.AdditionalAddresses = "l", nil
		m.Address = address("127.0.0.2", 0) // a socket of its own, whatever the mutation did to the address
		err = k.p.listeners.Apply(oneResource(url, "l", m))
		defer func() { _ = k.p.listeners.Apply(xds.Update{Type: url, Removed: []string{"l"}}) }()
		a, ok := k.p.listeners.Bound(netip.MustParseAddrPort("127.0.0.2:0"))
		if !ok {
			return err
		}
		target = a.String()
	case *routev3.RouteConfiguration:
		m.Name = "r"
		err = k.p.routes.Apply(oneResource(url, "r", m))
	case *tlsv3.Secret:
		return k.p.applySecrets(tlsctx.ADS, oneResource(url, "s", m))
	}

	if err == nil {
		for _, path := range []string{"/p?q=1", "/a/b", "/up", "/s"} {
			request(target, path)
		}
	}
	return err
}

func address(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// request sends one request and waits a little for an answer, whatever it is.
func request(addr, path string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(50 * time.Millisecond))
	_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a.example\r\nOrigin: https://a\r\nX: a\r\nX-C: d\r\nCookie: k=1\r\nConnection: close\r\n\r\n", path)
	if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
		_ = resp.Body.Close()
	}
}

// TestSeedResourcesAreRead keeps the seeds honest: a seed that is refused at once tests nothing behind the refusal.
func TestSeedResourcesAreRead(t *testing.T) {
	k := newTaker(t)
	for _, s := range k.seeds {
		err := k.take(t, s.kind, proto.Clone(s.Message))
		if err != nil && s.file != "secret.json" {
			t.Errorf("%s: %v", s.file, err)
		}
	}
}

// TestMutatedResources hands out resources with fields set, cleared, repeated and retyped at random: each is taken or
// refused by an error, and requests that meet it do no harm.
func TestMutatedResources(t *testing.T) {
	k := newTaker(t)
	rounds := 150
	if testing.Short() {
		rounds = 20
	}
	for _, s := range k.seeds {
		taken := 0
		for i := range rounds {
			m := proto.Clone(s.Message)
			newMutator(uint64(i)).mutate(m, 1+i%4)
			if k.take(t, s.kind, m) == nil {
				taken++
			}
		}
		t.Logf("%s: %d of %d taken", s.file, taken, rounds)
	}
}

func FuzzMutatedResources(f *testing.F) {
	k := newTaker(f)
	for i := range k.seeds {
		f.Add(uint8(i), uint64(1), uint8(3))
	}
	f.Fuzz(func(t *testing.T, which uint8, random uint64, n uint8) {
		s := k.seeds[int(which)%len(k.seeds)]
		m := proto.Clone(s.Message)
		newMutator(random).mutate(m, 1+int(n%8))
		_ = k.take(t, s.kind, m)
	})
}

func FuzzResourceBytes(f *testing.F) {
	k := newTaker(f)
	for _, s := range k.seeds {
		b, err := proto.Marshal(s.Message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(s.kind), b)
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		i := int(kind) % len(resourceKinds)
		m := resourceKinds[i].fresh()
		if err := proto.Unmarshal(b, m); err != nil {
			return
		}
		_ = k.take(t, i, m)
	})
}

// mutator changes messages at random, reproducibly.
type mutator struct{ *rand.Rand }

func newMutator(seed uint64) mutator { return mutator{rand.New(rand.NewPCG(seed, 1))} }

func (r mutator) mutate(m proto.Message, n int) {
	for range n {
		r.message(m.ProtoReflect(), 0)
	}
}

// message changes one thing in m or, more often, below it.
func (r mutator) message(m protoreflect.Message, depth int) {
	if a, ok := m.Interface().(*anypb.Any); ok {
		r.any(a, depth)
		return
	}
	var below []protoreflect.Message
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				below = append(below, v.Message())
				return true
			})
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				below = append(below, v.List().Get(i).Message())
			}
		case !f.IsMap() && !f.IsList() && f.Message() != nil:
			below = append(below, v.Message())
		}
		return true
	})
	if len(below) > 0 && depth < 30 && r.IntN(8) > 0 {
		r.message(below[r.IntN(len(below))], depth+1)
		return
	}
	fields := m.Descriptor().Fields()
	if fields.Len() == 0 {
		return
	}
	f := fields.Get(r.IntN(fields.Len()))
	if strings.HasSuffix(string(m.Descriptor().FullName()), "FileAccessLog") && f.Name() == "path" {
		return // no files here and there
	}
	switch {
	case r.IntN(3) == 0:
		m.Clear(f)
	case f.IsMap():
		if f.MapKey().Kind() == protoreflect.StringKind {
			m.Mutable(f).Map().Set(protoreflect.ValueOfString(r.text()).MapKey(), r.value(f.MapValue(), m.Mutable(f).Map().NewValue))
		}
	case f.IsList():
		l := m.Mutable(f).List()
		if l.Len() > 0 && r.IntN(3) == 0 {
			l.Append(l.Get(r.IntN(l.Len()))) // twice the same
			return
		}
		l.Append(r.value(f, l.NewElement))
	default:
		m.Set(f, r.value(f, func() protoreflect.Value { return m.NewField(f) }))
	}
}

// any changes what is inside a, or what a says is inside.
func (r mutator) any(a *anypb.Any, depth int) {
	switch r.IntN(10) {
	case 0:
		e := registry.Entries()
		a.TypeUrl = e[r.IntN(len(e))].TypeURL
	case 1:
		a.Value = nil
	case 2:
		if len(a.Value) > 0 {
			a.Value[r.IntN(len(a.Value))] ^= byte(1 << r.IntN(8))
		}
	default:
		if in, err := a.UnmarshalNew(); err == nil {
			r.message(in.ProtoReflect(), depth+1)
			_ = a.MarshalFrom(in)
		}
	}
}

func (r mutator) text() string {
	all := []string{
		"", "*", "*.", ".", "/", "a", "c", "d", "%", "%%", "%REQ(", "%START_TIME(%s)%", "(", "[a-", "a|b", "\\1", "::", "127.0.0.1", "256.1.1.1",
		"999999999999", "-1", "outbound|80||x", "\x00", strings.Repeat("a", 5000), "envoy.filters.http.router", "default", "ROOTCA",
	}
	return all[r.IntN(len(all))]
}

func (r mutator) number() int64 {
	all := []int64{0, 1, -1, 2, 7, 100, 255, 65535, 65536, 1<<31 - 1, -1 << 31, 1<<32 - 1, 1<<63 - 1, -1 << 63}
	return all[r.IntN(len(all))]
}

func (r mutator) value(f protoreflect.FieldDescriptor, fresh func() protoreflect.Value) protoreflect.Value {
	n := r.number()
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n&1 == 0)
	case protoreflect.EnumKind:
		v := f.Enum().Values()
		if r.IntN(8) == 0 {
			return protoreflect.ValueOfEnum(99)
		}
		return protoreflect.ValueOfEnum(v.Get(r.IntN(v.Len())).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(r.text())
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(r.text()))
	}
	v := fresh()
	if r.IntN(2) == 0 { // not empty, perhaps
		m := v.Message()
		if fs := m.Descriptor().Fields(); fs.Len() > 0 {
			if g := fs.Get(r.IntN(fs.Len())); !g.IsList() && !g.IsMap() {
				m.Set(g, r.value(g, func() protoreflect.Value { return m.NewField(g) }))
			}
		}
	}
	return v
}
