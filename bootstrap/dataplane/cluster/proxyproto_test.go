package cluster

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/proxyproto"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

func socketOf(t *testing.T, name string, m proto.Message) *corev3.TransportSocket {
	t.Helper()
	body, err := anypb.New(m)
	must(t, err)
	return &corev3.TransportSocket{Name: name, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: body}}
}

func TestEndpointIsToldOfTheClient(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	told := make(chan proxyproto.Header, 1)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				buf := make([]byte, 4096)
				n, _ := c.Read(buf)
				h, at, err := proxyproto.Parse(buf[:n])
				if err != nil {
					h.Version = -1
				}
				told <- h
				br := bufio.NewReader(io.MultiReader(strings.NewReader(string(buf[at:n])), c))
				for {
					req, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 100000))
				}
			}()
		}
	}()
	m := newManager(t)
	for version, v := range map[int]corev3.ProxyProtocolConfig_Version{1: corev3.ProxyProtocolConfig_V1, 2: corev3.ProxyProtocolConfig_V2} {
		c := edsCluster("c", clusterv3.Cluster_ROUND_ROBIN)
		c.TransportSocket = socketOf(t, "envoy.transport_sockets.upstream_proxy_protocol", &proxyv3.ProxyProtocolUpstreamTransport{
			Config: &corev3.ProxyProtocolConfig{Version: v}, TransportSocket: socketOf(t, "envoy.transport_sockets.raw_buffer", &rawv3.RawBuffer{}),
		})
		must(t, m.Apply(update(t, xds.ClusterType, nil, c)))
		must(t, m.ApplyEndpoints(update(t, xds.EndpointType, nil, assignment("c", locality(0, lbEndpoint(ln.Addr().String(), 1, 0))))))
		e, err := m.Get("c").Pick(Choice{})
		must(t, err)
		for _, client := range []string{"192.0.2.1:1000", "192.0.2.2:2000"} {
			want := proxyproto.Header{Version: version, Source: netip.MustParseAddrPort(client), Destination: netip.MustParseAddrPort("198.51.100.1:80")}
			req := &http.Request{Method: http.MethodGet, URL: &url.URL{Opaque: "/"}, Host: "x", Header: http.Header{}, RequestURI: "/"}
			resp, err := m.Get("c").RoundTrip(e, req.WithContext(t.Context()), 1, ConnectOptions{Client: want.Source, Local: want.Destination})
			must(t, err)
			if b, err := io.ReadAll(resp.Body); err != nil || len(b) != 100000 {
				t.Errorf("version %d: %d bytes, %v", version, len(b), err)
			}
			must(t, resp.Body.Close())
			if h := <-told; h != want {
				t.Errorf("told %+v, want %+v", h, want)
			}
		}
		nc, err := m.Get("c").Connect(t.Context(), e, ConnectOptions{})
		must(t, err)
		if h := <-told; h.Source != addrPort(nc.LocalAddr()) || h.Destination != addrPort(nc.RemoteAddr()) {
			t.Errorf("without a client: told %+v", h)
		}
		must(t, nc.Close())
	}
	refused := edsCluster("tlvs", clusterv3.Cluster_ROUND_ROBIN)
	refused.TransportSocket = socketOf(t, "p", &proxyv3.ProxyProtocolUpstreamTransport{
		Config: &corev3.ProxyProtocolConfig{PassThroughTlvs: &corev3.ProxyProtocolPassThroughTLVs{}},
	})
	if err := m.Apply(update(t, xds.ClusterType, nil, refused)); err == nil || !strings.Contains(err.Error(), "ProxyProtocolConfig.pass_through_tlvs") {
		t.Errorf("extensions: %v", err)
	}
}
