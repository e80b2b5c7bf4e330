package hcm

import (
	"crypto/tls"
	"crypto/x509"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/anypb"
	statsv1 "istio.io/api/envoy/extensions/stats"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// Overrides says what a Telemetry resource takes away from Istio's standard metrics, by Prometheus name.
type Overrides struct {
	drop    map[string]bool
	removed map[string]map[string]bool
}

// ParseOverrides reads the configuration of istio.stats. Custom metrics and tags computed by expressions are refused.
func ParseOverrides(p *statsv1.PluginConfig) (*Overrides, error) {
	const known = "disable_host_header_fallback tcp_reporting_duration metrics reporter"
	if err := fields.Check(p, known); err != nil {
		return nil, err
	}
	o := &Overrides{drop: map[string]bool{}, removed: map[string]map[string]bool{}}
	for _, mc := range p.GetMetrics() {
		if len(mc.GetDimensions()) > 0 || mc.GetMatch() != "" {
			return nil, fields.Unsupported(mc, "dimensions", "tags computed by expressions")
		}
		name := "istio_" + mc.GetName()
		if mc.GetName() == "" {
			name = "*"
		}
		o.drop[name] = mc.GetDrop()
		if o.removed[name] == nil {
			o.removed[name] = map[string]bool{}
		}
		for _, t := range mc.GetTagsToRemove() {
			o.removed[name][t] = true
		}
	}
	return o, nil
}

// Dropped reports whether the metric is switched off.
func (o *Overrides) Dropped(name string) bool { return o.drop[name] || o.drop["*"] }

// Removed gives the tags that the metric goes without.
func (o *Overrides) Removed(name string) map[string]bool {
	if r, ok := o.removed[name]; ok {
		return r
	}
	return o.removed["*"]
}

// newStats counts Istio's standard HTTP metrics.
func newStats(m *Manager, name string, body *anypb.Any) (filter, error) {
	p := &statsv1.PluginConfig{}
	if err := body.UnmarshalTo(p); err != nil {
		return filter{}, err
	}
	o, err := ParseOverrides(p)
	if err != nil {
		return filter{}, err
	}
	r := m.env.Stats
	requests := r.Vec("istio_requests_total")
	tables := []struct {
		name  string
		table *stats.HistogramVec
		value func(*Stream) float64
	}{
		{
			"istio_request_duration_milliseconds", r.HistogramVec("istio_request_duration_milliseconds"),
			func(s *Stream) float64 { return float64(s.end.Sub(s.start)) / float64(time.Millisecond) },
		},
		{
			"istio_request_bytes", r.HistogramVec("istio_request_bytes"),
			func(s *Stream) float64 { return float64(s.received.n.Load()) },
		},
		{
			"istio_response_bytes", r.HistogramVec("istio_response_bytes"),
			func(s *Stream) float64 { return float64(s.sent) },
		},
	}
	return filter{name: name, done: func(s *Stream) {
		l := s.labels()
		plain := l.Render(false, o.Removed("istio_requests_total"))
		if !o.Dropped("istio_requests_total") {
			requests.With(plain).Inc()
		}
		for _, t := range tables {
			if o.Dropped(t.name) {
				continue
			}
			labels := plain
			if rm := o.Removed(t.name); len(rm) > 0 || len(o.Removed("istio_requests_total")) > 0 {
				labels = l.Render(false, rm)
			}
			t.table.With(labels).Observe(t.value(s))
		}
	}}, nil
}

// labels gathers what Istio's metrics say about the request.
func (s *Stream) labels() peer.Labels {
	m := s.m
	l := peer.Labels{
		Code: strconv.Itoa(s.status), Flags: s.flags.String(), Protocol: "http",
		Service: peer.ServiceOf(clusterService(s.cluster), s.clusterN),
	}
	if s.isGRPC() {
		l.Protocol = "grpc"
		if v := s.respTrailer["Grpc-Status"]; len(v) > 0 {
			l.GRPCStatus = v[0]
		} else if s.respHeader != nil {
			l.GRPCStatus = s.respHeader.Get("Grpc-Status")
		}
	}
	if l.Service.Host == "" && m.direction != network.Inbound {
		l.Service.Host = s.authority
	}
	if l.Service.Name == "" {
		l.Service.Name, _, _ = strings.Cut(l.Service.Host, ".")
	}
	if m.direction == network.Inbound {
		l.Reporter, l.Source, l.Destination = "destination", s.downPeer, m.env.Self
		l.Security = "none"
		if s.conn.TLS != nil && len(s.conn.PeerURIs()) > 0 {
			l.Security, l.SourcePrincipal = "mutual_tls", s.conn.PeerURIs()[0]
			if u := s.conn.LocalURIs(); len(u) > 0 {
				l.DestPrincipal = u[0]
			}
		}
		return l
	}
	l.Reporter, l.Source, l.Destination, l.Security = "source", m.env.Self, s.upPeer, "unknown"
	if tc, ok := s.trace.Conn.(*tls.Conn); ok {
		st := tc.ConnectionState()
		if len(st.PeerCertificates) > 0 {
			l.DestPrincipal = firstURI(st.PeerCertificates[0])
		}
		if s.host != nil && s.host.MTLS() && l.DestPrincipal != "" {
			l.SourcePrincipal = s.cluster.Identity(s.host)
		}
	}
	return l
}

func firstURI(c *x509.Certificate) string {
	if len(c.URIs) == 0 {
		return ""
	}
	return c.URIs[0].String()
}
