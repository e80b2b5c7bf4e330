package hcm

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
)

// connEntry starts a log entry with the facts of a connection.
func (m *Manager) connEntry(c *network.Conn) *accesslog.Entry { return ConnEntry(c) }

// ConnEntry starts a log entry with the facts of a connection.
func ConnEntry(c *network.Conn) *accesslog.Entry {
	e := &accesslog.Entry{
		Start: c.Start, FilterChainName: c.Chain,
		Downstream: accesslog.Downstream{
			ConnectionID: c.ID, LocalAddress: c.Local, DirectLocalAddress: network.AddrPort(c.LocalAddr()), RemoteAddress: c.Remote,
			DirectRemoteAddress: c.Direct, ServerName: c.ServerSNI,
		},
		FilterState: func(key string) (any, bool) {
			v, ok := c.FilterState(key)
			return v, ok
		},
	}
	if c.TLS != nil {
		e.Downstream.TLS = &accesslog.TLS{State: c.TLS, Local: c.LocalCertificate()}
	}
	return e
}

// entry describes the request for logs and header formats.
func (s *Stream) entry() *accesslog.Entry {
	if s.cachedEntry != nil {
		return s.cachedEntry
	}
	e := ConnEntry(s.conn)
	e.Start, e.RequestEnd, e.End = s.start, s.requestEnd(), s.end
	e.UpstreamRequestEnd, e.UpstreamResponseStart = s.trace.Sent(), s.trace.Answered
	e.Protocol = s.req.Proto
	if s.req.ProtoMajor == 2 {
		e.Protocol = "HTTP/2"
	}
	e.Method, e.Scheme, e.Authority, e.Path = s.req.Method, s.scheme, s.authority, s.path
	e.Request, e.Response, e.Trailers = s.req.Header, s.respHeader, s.respTrailer
	e.ResponseCode, e.ResponseCodeDetails, e.Flags = s.status, s.details, s.flags
	e.BytesReceived, e.BytesSent = s.received.n.Load(), s.sent
	e.Downstream.RemoteAddress = s.remote
	if s.route != nil {
		e.RouteName = s.route.name
	}
	e.FilterState = s.filterState
	if s.span != nil {
		e.TraceID, e.SpanID, e.Traced = s.span.TraceHex(), s.span.SpanHex(), s.span.Sampled
	}
	e.Direction = directions[s.m.direction]
	if s.route != nil && s.route.vhost != nil {
		e.VirtualHostName = s.route.vhost.name
	}
	e.Upstream = accesslog.Upstream{
		Cluster: s.clusterN, TransportFailureReason: s.failure, Attempts: s.attempts,
		LocalAddress: addrPort(s.trace.Local), RemoteAddress: addrPort(s.trace.Remote),
		ConnectionID: s.trace.ID, Protocol: s.trace.Protocol,
	}
	if s.cluster != nil {
		e.Upstream.AltStatName = s.cluster.Proto.GetAltStatName()
	}
	if s.host != nil {
		e.Upstream.Host, e.Upstream.HostName = s.host.Addr, s.host.Hostname
	}
	if tc, ok := s.trace.Conn.(*tls.Conn); ok {
		st := tc.ConnectionState()
		e.Upstream.TLS = &accesslog.TLS{State: &st}
	}
	e.Metadata = func(src accesslog.MetadataSource, filter string, path []string) (any, bool) {
		switch src {
		case accesslog.Dynamic:
			return s.Metadata(filter, path)
		case accesslog.Cluster:
			if s.cluster == nil {
				return nil, false
			}
			return dig(s.cluster.Proto.GetMetadata().GetFilterMetadata()[filter], path)
		case accesslog.Route:
			if s.route == nil {
				return nil, false
			}
			return dig(s.route.about.GetFilterMetadata()[filter], path)
		case accesslog.UpstreamHost:
			if s.host == nil {
				return nil, false
			}
			return dig(s.host.Metadata.GetFilterMetadata()[filter], path)
		}
		return nil, false
	}
	return e
}

// directions are the numbers of envoy.config.core.v3.TrafficDirection.
var directions = map[network.Direction]int{network.Inbound: 1, network.Outbound: 2}

// filterState shows what filters have kept of the request: the workloads at its ends, else what is the connection's.
func (s *Stream) filterState(key string) (any, bool) {
	if v, ok := PeerState(key, s.downPeer, s.upPeer); ok {
		return v, true
	}
	v, ok := s.conn.FilterState(key)
	return v, ok
}

// PeerState shows workloads as the filter state objects that Istio's filters make of them.
func PeerState(key string, down, up *peer.Info) (any, bool) {
	key = strings.TrimPrefix(key, "wasm.")
	who := down
	if strings.HasPrefix(key, "upstream_") {
		who = up
	}
	if who == nil {
		return nil, false
	}
	switch key {
	case "downstream_peer", "upstream_peer", "downstream_peer_obj", "upstream_peer_obj":
		return who.Attributes(), true
	case "downstream_peer_id", "upstream_peer_id":
		return who.ID, true
	}
	return nil, false
}

func dig(st *structpb.Struct, path []string) (any, bool) {
	if st == nil {
		return nil, false
	}
	return match.Dig(st.AsMap(), path)
}

func addrPort(a net.Addr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	return network.AddrPort(a)
}

// Service names the destination of a cluster for metrics.
func clusterService(c *cluster.Cluster) any {
	if c == nil {
		return nil
	}
	v, _ := c.Metadata("istio", "services")
	return v
}
