package cluster

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
)

// matchFilter is the endpoint metadata that transport socket matches look at.
const matchFilter = "envoy.transport_socket_match"

// socket is one way of connecting: plain when tls is nil.
type socket struct {
	name  string
	tls   *tlsctx.Client
	proxy int // version of the PROXY header that goes first, 0 for none
}

type socketMatch struct {
	match  *structpb.Struct
	socket *socket
}

func (c *Cluster) setSockets(p *clusterv3.Cluster, secrets tlsctx.Secrets) error {
	if ts := p.GetTransportSocket(); ts != nil {
		s, err := compileSocket(ts, ts.GetName(), secrets)
		if err != nil {
			return err
		}
		c.plainDefault = s
	}
	for _, m := range p.GetTransportSocketMatches() {
		if err := fields.Check(m, "name match transport_socket"); err != nil {
			return err
		}
		s, err := compileSocket(m.GetTransportSocket(), m.GetName(), secrets)
		if err != nil {
			return err
		}
		c.sockets = append(c.sockets, socketMatch{m.GetMatch(), s})
	}
	return nil
}

func compileSocket(ts *corev3.TransportSocket, name string, secrets tlsctx.Secrets) (*socket, error) {
	url := ts.GetTypedConfig().GetTypeUrl()
	switch url {
	case registry.RawBuffer:
		return &socket{name: name}, nil
	case registry.UpstreamTLS:
		ctx := &tlsv3.UpstreamTlsContext{}
		if err := ts.GetTypedConfig().UnmarshalTo(ctx); err != nil {
			return nil, err
		}
		t, err := tlsctx.CompileUpstream(ctx, secrets)
		if err != nil {
			return nil, err
		}
		return &socket{name: name, tls: t}, nil
	case registry.UpstreamProxyProtocol:
		return compileProxySocket(ts.GetTypedConfig(), name, secrets)
	default:
		return nil, fields.UnsupportedType("transport socket", ts.GetName(), url)
	}
}

// socketFor chooses the first match whose every key equals the endpoint's metadata, else the cluster's own socket.
func (c *Cluster) socketFor(m *corev3.Metadata) (*socket, error) {
	have := m.GetFilterMetadata()[matchFilter].GetFields()
	for _, s := range c.sockets {
		ok := true
		for k, v := range s.match.GetFields() {
			if h, found := have[k]; !found || !proto.Equal(h, v) {
				ok = false
				break
			}
		}
		if ok {
			return s.socket, nil
		}
	}
	return c.plainDefault, nil
}

// Identity returns the first URI SAN of the certificate that connections to e show, or "".
func (c *Cluster) Identity(e *Endpoint) string {
	if e.socket.tls == nil {
		return ""
	}
	leaf := e.socket.tls.Leaf()
	if leaf == nil || len(leaf.URIs) == 0 {
		return ""
	}
	return leaf.URIs[0].String()
}
