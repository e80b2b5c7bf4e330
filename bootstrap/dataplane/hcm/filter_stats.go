package hcm

import (
	"time"

	"google.golang.org/protobuf/types/known/anypb"
	statsv1 "istio.io/api/envoy/extensions/stats"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/metrics"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
)

// newStats counts Istio's standard HTTP metrics.
func newStats(m *Manager, name string, body *anypb.Any) (filter, error) {
	p := &statsv1.PluginConfig{}
	if err := body.UnmarshalTo(p); err != nil {
		return filter{}, err
	}
	c, err := metrics.Compile(p, m.env.Self, m.env.Stats)
	if err != nil {
		return filter{}, err
	}
	count := func(s *Stream, in, out uint64) {
		series := c.Series(s.facts(c, false), s.expressionEntry)
		series.Add(metrics.RequestMessages, in)
		series.Add(metrics.ResponseMessages, out)
	}
	f := filter{name: name}
	f.request = func(s *Stream) *reply {
		s.watchMessages()
		if s.messages != nil && c.Interval > 0 {
			s.messages.report(c.Interval, func(in, out uint64) { count(s, in, out) })
		}
		return nil
	}
	f.done = func(s *Stream) {
		if s.messages != nil {
			s.messages.last(func(in, out uint64) { count(s, in, out) })
		}
		series := c.Series(s.facts(c, true), s.expressionEntry)
		series.Add(metrics.Requests, 1)
		series.Observe(metrics.Duration, float64(s.end.Sub(s.start)/time.Millisecond))
		series.Observe(metrics.RequestBytes, float64(s.received.n.Load()))
		series.Observe(metrics.ResponseBytes, float64(s.sent))
		series.Custom(s.expressionEntry)
	}
	return f, nil
}

// expressionEntry is the entry with what expressions may ask for besides.
func (s *Stream) expressionEntry() *accesslog.Entry {
	e := s.entry()
	e.Node = s.m.env.Identity
	return e
}

// facts gathers what Istio's metrics say about the request; over tells whether it has ended.
func (s *Stream) facts(c *metrics.Config, over bool) metrics.Facts {
	m := s.m
	var f metrics.Facts
	host, route := "", ""
	if c.HostFallback {
		host = s.authority
	}
	if s.route != nil {
		route = s.route.name
	}
	f.Service = metrics.Destination(host, route, s.clusterN, clusterService(s.cluster))
	if over {
		f.Protocol, f.Code, f.Flags = "http", s.status, s.flags
		if s.isGRPC() {
			f.Protocol = "grpc"
			if v := s.respTrailer["Grpc-Status"]; len(v) > 0 {
				f.GRPCStatus = v[0]
			} else if v := s.respHeader["Grpc-Status"]; len(v) > 0 {
				f.GRPCStatus = v[0]
			}
		}
	}
	if m.direction == network.Inbound {
		f.Server, f.Peer = true, s.downPeer
		if s.conn.TLS != nil {
			f.PeerPrincipal, f.LocalPrincipal = firstOf(s.conn.PeerURIs()), firstOf(s.conn.LocalURIs())
		}
		return f
	}
	f.Peer = s.upPeer
	if f.Peer == nil {
		f.Peer = EndpointPeer(m.env.Peers, s.host)
	}
	if s.trace != nil && s.trace.Conn != nil {
		f.PeerPrincipal, f.LocalPrincipal = cluster.Principals(s.trace.Conn)
	}
	return f
}

// EndpointPeer returns the workload that istiod's metadata of an endpoint names, or nil.
func EndpointPeer(known *peer.Cache, e *cluster.Endpoint) *peer.Info {
	if e == nil || known == nil {
		return nil
	}
	return known.Endpoint(e.Metadata.GetFilterMetadata()["istio"].GetFields()["workload"].GetStringValue())
}

func firstOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
