package listener

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	proxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/proxyproto"
)

func TestProxyProtocol(t *testing.T) {
	client, server := netip.MustParseAddrPort("192.0.2.7:4321"), netip.MustParseAddrPort("198.51.100.2:443")
	v1 := string(proxyproto.Header{Version: 1, Source: client, Destination: server}.Append(nil))
	v2 := string(proxyproto.Header{Version: 2, Source: client, Destination: server}.Append(nil))
	local := string(proxyproto.Header{Version: 2}.Append(nil))
	optional := &proxyv3.ProxyProtocol{AllowRequestsWithoutProxyProtocol: true}
	no2 := &proxyv3.ProxyProtocol{DisallowedVersions: []corev3.ProxyProtocolConfig_Version{corev3.ProxyProtocolConfig_V2}}
	optionalNo2 := &proxyv3.ProxyProtocol{AllowRequestsWithoutProxyProtocol: true, DisallowedVersions: no2.DisallowedVersions}
	for name, test := range map[string]struct {
		config  *proxyv3.ProxyProtocol
		sent    string
		remote  netip.AddrPort // where the connection goes on
		rest    string
		refused bool
	}{
		"version 1":                      {sent: v1 + "GET /", remote: client, rest: "GET /"},
		"version 2":                      {sent: v2 + "GET /", remote: client, rest: "GET /"},
		"local":                          {sent: local + "GET /", rest: "GET /"},
		"none":                           {sent: "GET / HTTP/1.1\r\n", refused: true},
		"half":                           {sent: v2[:20], refused: true},
		"malformed":                      {sent: "PROXY TCP4 nonsense\r\n", refused: true},
		"none, optional":                 {config: optional, sent: "GET / HTTP/1.1\r\n", rest: "GET / HTTP/1.1\r\n"},
		"version 1, optional":            {config: optional, sent: v1 + "x", remote: client, rest: "x"},
		"version 2, disallowed":          {config: no2, sent: v2 + "GET /", refused: true},
		"version 1, 2 disallowed":        {config: no2, sent: v1 + "GET /", remote: client, rest: "GET /"},
		"version 2, disallowed optional": {config: optionalNo2, sent: v2 + "x", rest: v2 + "x"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.config == nil {
				test.config = &proxyv3.ProxyProtocol{}
			}
			body, err := anypb.New(test.config)
			if err != nil {
				t.Fatal(err)
			}
			f, err := compileListenerFilter(&listenerv3.ListenerFilter{
				Name: "envoy.filters.listener.proxy_protocol", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: body},
			})
			if err != nil {
				t.Fatal(err)
			}
			a, b := net.Pipe()
			go func() {
				for chunk := test.sent; chunk != ""; { // in small pieces
					n := min(7, len(chunk))
					if _, err := io.WriteString(a, chunk[:n]); err != nil {
						break
					}
					chunk = chunk[n:]
				}
				a.Close()
			}()
			defer b.Close()
			pk := &peeked{Conn: b}
			i := &inspection{conn: network.New(pk), bytes: pk}
			err = f.inspect(i)
			if (err != nil) != test.refused {
				t.Fatalf("error %v, refused %t", err, test.refused)
			}
			if err != nil {
				return
			}
			if i.conn.Remote != test.remote {
				t.Errorf("remote %s, want %s", i.conn.Remote, test.remote)
			}
			if test.remote.IsValid() && (i.conn.Local != server || !i.conn.Restored || i.conn.Direct.IsValid()) {
				t.Errorf("local %s, restored %t, direct %s", i.conn.Local, i.conn.Restored, i.conn.Direct)
			}
			if rest, err := io.ReadAll(i.conn); err != nil || string(rest) != test.rest {
				t.Errorf("what follows is %q, %v, want %q", rest, err, test.rest)
			}
		})
	}
	body, err := anypb.New(&proxyv3.ProxyProtocol{Rules: []*proxyv3.ProxyProtocol_Rule{{TlvType: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := compileProxyProtocol(body); err == nil || !strings.Contains(err.Error(), "ProxyProtocol.rules") {
		t.Errorf("rules: %v", err)
	}
}
