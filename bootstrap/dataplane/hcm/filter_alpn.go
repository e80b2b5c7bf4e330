package hcm

import (
	"google.golang.org/protobuf/types/known/anypb"
	alpnv2 "istio.io/api/envoy/config/filter/http/alpn/v2alpha1"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
)

// newALPN sets the protocols offered to the upstream by the HTTP version spoken to it.
func newALPN(m *Manager, name string, body *anypb.Any) (filter, error) {
	p := &alpnv2.FilterConfig{}
	if err := body.UnmarshalTo(p); err != nil {
		return filter{}, err
	}
	by := map[alpnv2.FilterConfig_Protocol][]string{}
	for _, o := range p.GetAlpnOverride() {
		by[o.GetUpstreamProtocol()] = o.GetAlpnOverride()
	}
	h1, h2 := by[alpnv2.FilterConfig_HTTP11], by[alpnv2.FilterConfig_HTTP2]
	m.alpn = func(c *cluster.Cluster, major int) []string {
		if v, ok := c.Metadata("istio", "alpn_override"); ok && v == "false" {
			return nil
		}
		switch c.ProtocolFor(major) {
		case cluster.HTTP2:
			return h2
		case cluster.HTTP1:
			return h1
		}
		return nil
	}
	return filter{name: name, request: func(s *Stream) *reply {
		if s.cluster != nil {
			s.alpn = m.alpn(s.cluster, s.req.ProtoMajor)
		}
		return nil
	}}, nil
}
