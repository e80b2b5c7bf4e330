package listener

import (
	"net/netip"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func chainOf(t *testing.T, name string, m *listenerv3.FilterChainMatch) *chain {
	t.Helper()
	c, err := compileMatch(m)
	if err != nil {
		t.Fatal(err)
	}
	return &chain{name: name, match: c}
}

func cidr(s string) []*corev3.CidrRange {
	p := netip.MustParsePrefix(s)
	return []*corev3.CidrRange{{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))}}
}

func TestFindFollowsEnvoysOrder(t *testing.T) {
	port := func(n uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(n) }
	chains := []*chain{
		chainOf(t, "port-8080-mtls", &listenerv3.FilterChainMatch{
			DestinationPort: port(8080), TransportProtocol: "tls", ApplicationProtocols: []string{"istio", "istio-http/1.1"},
		}),
		chainOf(t, "port-8080-plain", &listenerv3.FilterChainMatch{DestinationPort: port(8080), TransportProtocol: "raw_buffer"}),
		chainOf(t, "port-9090-strict", &listenerv3.FilterChainMatch{DestinationPort: port(9090), TransportProtocol: "tls"}),
		chainOf(t, "net", &listenerv3.FilterChainMatch{PrefixRanges: cidr("10.1.0.0/16")}),
		chainOf(t, "subnet", &listenerv3.FilterChainMatch{PrefixRanges: cidr("10.1.2.0/24")}),
		chainOf(t, "exact-name", &listenerv3.FilterChainMatch{ServerNames: []string{"a.example.com"}, TransportProtocol: "tls"}),
		chainOf(t, "wild-name", &listenerv3.FilterChainMatch{ServerNames: []string{"*.example.com"}, TransportProtocol: "tls"}),
		chainOf(t, "any-tls", &listenerv3.FilterChainMatch{TransportProtocol: "tls"}),
		chainOf(t, "any-http", &listenerv3.FilterChainMatch{TransportProtocol: "raw_buffer", ApplicationProtocols: []string{"http/1.1", "h2c"}}),
		chainOf(t, "any-plain", &listenerv3.FilterChainMatch{TransportProtocol: "raw_buffer"}),
		chainOf(t, "local", &listenerv3.FilterChainMatch{
			DestinationPort: port(7000), SourceType: listenerv3.FilterChainMatch_SAME_IP_OR_LOOPBACK,
		}),
		chainOf(t, "source", &listenerv3.FilterChainMatch{DestinationPort: port(7001), SourcePrefixRanges: cidr("192.168.0.0/16")}),
	}
	const tls, raw = "tls", "raw_buffer"
	for _, tc := range []struct {
		name, local, remote, transport, sni string
		protocols                           []string
		want                                string
	}{
		{"mtls by alpn", "1.1.1.1:8080", "2.2.2.2:1", tls, "", []string{"istio-http/1.1", "istio", "http/1.1"}, "port-8080-mtls"},
		{"plain text of the port", "1.1.1.1:8080", "2.2.2.2:1", raw, "", []string{"http/1.1"}, "port-8080-plain"},
		{"no way back to chains without a port", "1.1.1.1:8080", "2.2.2.2:1", tls, "", []string{"h2"}, ""},
		{"strict refuses plain text", "1.1.1.1:9090", "2.2.2.2:1", raw, "", nil, ""},
		{"longest prefix", "10.1.2.3:80", "2.2.2.2:1", raw, "", nil, "subnet"},
		{"shorter prefix", "10.1.3.3:80", "2.2.2.2:1", tls, "a.example.com", nil, "net"},
		{"exact name", "1.1.1.1:443", "2.2.2.2:1", tls, "A.example.com", nil, "exact-name"},
		{"wildcard name", "1.1.1.1:443", "2.2.2.2:1", tls, "b.c.example.com", nil, "wild-name"},
		{"unknown name", "1.1.1.1:443", "2.2.2.2:1", tls, "other.org", nil, "any-tls"},
		{"http", "1.1.1.1:80", "2.2.2.2:1", raw, "", []string{"http/1.1"}, "any-http"},
		{"tcp", "1.1.1.1:80", "2.2.2.2:1", raw, "", nil, "any-plain"},
		{"from this host", "1.1.1.1:7000", "1.1.1.1:1", raw, "", nil, "local"},
		{"from another host", "1.1.1.1:7000", "2.2.2.2:1", raw, "", nil, ""},
		{"source range", "1.1.1.1:7001", "192.168.3.4:1", raw, "", nil, "source"},
		{"outside the source range", "1.1.1.1:7001", "192.169.3.4:1", raw, "", nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := facts{
				local: netip.MustParseAddrPort(tc.local), remote: netip.MustParseAddrPort(tc.remote),
				direct: netip.MustParseAddrPort(tc.remote), transport: tc.transport, protocols: tc.protocols,
			}
			f.name = strings.ToLower(tc.sni)
			got := ""
			if c := find(chains, f); c != nil {
				got = c.name
			}
			if got != tc.want {
				t.Errorf("chose %q, want %q", got, tc.want)
			}
		})
	}
}

func TestMatchRefusesPartialWildcards(t *testing.T) {
	if _, err := compileMatch(&listenerv3.FilterChainMatch{ServerNames: []string{"a*.example.com"}}); err == nil {
		t.Error("accepted")
	}
}
