package netfilter

import (
	"context"
	"sync"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/hcm"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/metrics"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tcpproxy"
)

// Stats counts Istio's standard TCP metrics: from time to time while a connection lasts and its peer is known, and when
// it ends.
type Stats struct {
	Env    *hcm.Env
	Config *metrics.Config
}

var _ network.Filter = (*Stats)(nil)

// OnConnection implements network.Filter.
func (s *Stats) OnConnection(_ context.Context, c *network.Conn) error {
	r := &tcpReport{s: s, c: c}
	if s.Config.Interval > 0 {
		r.mu.Lock()
		r.timer = time.AfterFunc(s.Config.Interval, func() { r.report(false) })
		r.mu.Unlock()
	}
	c.OnClose(func() { r.report(true) })
	return nil
}

// tcpReport is what was reported of one connection.
type tcpReport struct {
	s              *Stats
	c              *network.Conn
	mu             sync.Mutex
	timer          *time.Timer
	ended          bool
	series         *metrics.Series
	sent, received uint64
}

// report counts what is new. The labels stay those of the first report.
func (r *tcpReport) report(end bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.ended = end
	if r.timer != nil {
		r.timer.Stop()
	}
	if r.series == nil {
		f, known := r.facts()
		if known || end {
			r.series = r.s.Config.Series(f, r.entry)
			r.series.Add(metrics.Opened, 1)
		}
	}
	if r.series != nil {
		sent, received := r.c.Sent.Load(), r.c.Received.Load()
		r.series.Add(metrics.Sent, sent-r.sent)
		r.series.Add(metrics.Received, received-r.received)
		r.sent, r.received = sent, received
	}
	if !end {
		r.timer.Reset(r.s.Config.Interval)
		return
	}
	r.series.Add(metrics.Closed, 1)
	r.series.Custom(r.entry)
}

// result returns what the proxy says of the connection, an empty one before it has said anything.
func (r *tcpReport) result() *tcpproxy.Result {
	if res, _ := r.c.Result().(*tcpproxy.Result); res != nil {
		return res
	}
	return &tcpproxy.Result{}
}

// entry describes the connection for expressions.
func (r *tcpReport) entry() *accesslog.Entry {
	e := hcm.ConnEntry(r.c)
	if res := r.result(); res.Entry != nil {
		e = res.Entry
	}
	e.Node, e.End = r.s.Env.Identity, time.Now()
	e.BytesReceived, e.BytesSent = r.c.Received.Load(), r.c.Sent.Load()
	return e
}

// facts gathers the labels, and tells whether the peer is known.
func (r *tcpReport) facts() (metrics.Facts, bool) {
	res := r.result()
	f := metrics.Facts{Protocol: "tcp", Flags: res.Flags, Service: metrics.Destination("", "", res.Cluster, res.Service)}
	if r.c.Direction == network.Inbound {
		f.Server = true
		f.Peer, _ = r.c.Peer().(*peer.Info)
		if r.c.TLS != nil {
			f.PeerPrincipal, f.LocalPrincipal = first(r.c.PeerURIs()), first(r.c.LocalURIs())
		}
		return f, f.Peer != nil
	}
	if f.Peer = res.Peer(); f.Peer == nil {
		f.Peer = hcm.EndpointPeer(r.s.Env.Peers, res.Host)
	}
	f.PeerPrincipal = res.PeerID
	if res.MTLS {
		f.LocalPrincipal = res.Identity
	}
	return f, f.Peer != nil
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
