package netfilter

import (
	"context"
	"strings"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/hcm"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tcpproxy"
)

// Stats counts Istio's standard TCP metrics, when a connection ends.
type Stats struct {
	Self      *peer.Info
	Overrides *hcm.Overrides
	Registry  *stats.Registry
}

var _ network.Filter = (*Stats)(nil)

// OnConnection implements network.Filter.
func (s *Stats) OnConnection(_ context.Context, c *network.Conn) error {
	c.OnClose(func() {
		r, _ := c.Result().(*tcpproxy.Result)
		if r == nil {
			r = &tcpproxy.Result{}
		}
		l := s.labels(c, r)
		for _, m := range []struct {
			name string
			n    uint64
		}{
			{"istio_tcp_connections_opened_total", 1},
			{"istio_tcp_connections_closed_total", 1},
			{"istio_tcp_received_bytes_total", c.Received.Load()},
			{"istio_tcp_sent_bytes_total", c.Sent.Load()},
		} {
			if !s.Overrides.Dropped(m.name) {
				s.Registry.Vec(m.name).With(l.Render(true, s.Overrides.Removed(m.name))).Add(m.n)
			}
		}
	})
	return nil
}

func (s *Stats) labels(c *network.Conn, r *tcpproxy.Result) peer.Labels {
	l := peer.Labels{Protocol: "tcp", Flags: r.Flags.String(), Service: peer.ServiceOf(r.Service, r.Cluster)}
	if l.Service.Name == "" {
		l.Service.Name, _, _ = strings.Cut(l.Service.Host, ".")
	}
	if c.Direction == network.Inbound {
		l.Reporter, l.Destination, l.Security = "destination", s.Self, "none"
		l.Source, _ = c.Peer().(*peer.Info)
		if c.TLS != nil && len(c.PeerURIs()) > 0 {
			l.Security, l.SourcePrincipal = "mutual_tls", c.PeerURIs()[0]
			if u := c.LocalURIs(); len(u) > 0 {
				l.DestPrincipal = u[0]
			}
		}
		return l
	}
	l.Reporter, l.Source, l.Destination, l.Security = "source", s.Self, r.Peer(), "unknown"
	l.DestPrincipal = r.PeerID
	if r.MTLS {
		l.SourcePrincipal = r.Identity
	}
	return l
}
