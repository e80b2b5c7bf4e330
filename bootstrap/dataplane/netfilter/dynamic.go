package netfilter

import (
	"context"
	"net"
	"strconv"

	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_dynamic_forward_proxy/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

// DynamicHost is the filter state that holds the host which a connection is to go to, with its port.
const DynamicHost = "envoy.upstream.dynamic_host"

// SNIProxy sends connections to the host that the client's ClientHello names.
type SNIProxy struct{ port string }

var _ network.Filter = (*SNIProxy)(nil)

// NewSNIProxy compiles p.
func NewSNIProxy(p *dfpv3.FilterConfig) (*SNIProxy, error) {
	if err := fields.Check(p, "dns_cache_config port_value"); err != nil {
		return nil, err
	}
	port := p.GetPortValue()
	if port == 0 {
		port = 443
	}
	return &SNIProxy{strconv.FormatUint(uint64(port), 10)}, cluster.CheckCache(p.GetDnsCacheConfig())
}

// OnConnection implements network.Filter.
func (s *SNIProxy) OnConnection(_ context.Context, c *network.Conn) error {
	if c.ServerSNI != "" {
		c.SetFilterState(DynamicHost, net.JoinHostPort(c.ServerSNI, s.port))
	}
	return nil
}
