package admin

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
)

// clusters writes every endpoint with its counters, as lines of text or as envoy.admin.v3.Clusters.
func (s *Server) clusters(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("format") == "json" {
		sayJSON(w, s.clusterStatus(), false)
		return
	}
	var b strings.Builder
	for _, c := range s.cfg.Clusters.All() {
		fmt.Fprintf(&b, "%s::observability_name::%s\n", c.Name, observability(c))
		for i, priority := range []string{"default_priority", "high_priority"} {
			limits := c.LimitsView(cluster.Priority(i))
			fmt.Fprintf(&b, "%s::%s::max_connections::%d\n", c.Name, priority, limits.Connections)
			fmt.Fprintf(&b, "%s::%s::max_pending_requests::%d\n", c.Name, priority, limits.Pending)
			fmt.Fprintf(&b, "%s::%s::max_requests::%d\n", c.Name, priority, limits.Requests)
			fmt.Fprintf(&b, "%s::%s::max_retries::%d\n", c.Name, priority, limits.Retries)
		}
		fmt.Fprintf(&b, "%s::added_via_api::%t\n", c.Name, !s.cfg.Clusters.Static(c.Name))
		for _, e := range c.Endpoints() {
			for _, v := range []struct {
				k string
				v any
			}{
				{"cx_active", e.Conns.Load()},
				{"cx_connect_fail", e.ConnFail.Load()},
				{"cx_total", e.ConnTotal.Load()},
				{"rq_active", e.Active.Load()},
				{"rq_error", e.Errors.Load()},
				{"rq_success", e.Success.Load()},
				{"rq_total", e.Requests.Load()},
				{"hostname", e.Hostname},
				{"health_flags", e.HealthFlags()},
				{"weight", e.Weight},
				{"region", e.Locality.GetRegion()},
				{"zone", e.Locality.GetZone()},
				{"sub_zone", e.Locality.GetSubZone()},
				{"priority", e.Priority},
			} {
				fmt.Fprintf(&b, "%s::%s::%s::%v\n", c.Name, e.Address, v.k, v.v)
			}
		}
	}
	say(w, b.String())
}

func observability(c *cluster.Cluster) string {
	if n := c.Proto.GetAltStatName(); n != "" {
		return n
	}
	return c.Name
}

func (s *Server) clusterStatus() *adminv3.Clusters {
	out := &adminv3.Clusters{}
	for _, c := range s.cfg.Clusters.All() {
		cs := &adminv3.ClusterStatus{
			Name: c.Name, AddedViaApi: !s.cfg.Clusters.Static(c.Name), ObservabilityName: observability(c), EdsServiceName: c.EDSName,
			CircuitBreakers: c.Proto.GetCircuitBreakers(),
		}
		for _, e := range c.Endpoints() {
			hs := &adminv3.HostStatus{
				Address: address(e), Weight: e.Weight, Hostname: e.Hostname, Priority: e.Priority, Locality: e.Locality,
				HealthStatus: &adminv3.HostHealthStatus{
					EdsHealthStatus: corev3.HealthStatus_HEALTHY, FailedOutlierCheck: e.Ejected(),
				},
			}
			if e.Health != corev3.HealthStatus_UNKNOWN {
				hs.HealthStatus.EdsHealthStatus = e.Health
			}
			counter := func(n string, v uint64) {
				hs.Stats = append(hs.Stats, &adminv3.SimpleMetric{Name: n, Value: v, Type: adminv3.SimpleMetric_COUNTER})
			}
			gauge := func(n string, v int64) {
				hs.Stats = append(hs.Stats, &adminv3.SimpleMetric{Name: n, Value: uint64(max(v, 0)), Type: adminv3.SimpleMetric_GAUGE})
			}
			counter("cx_connect_fail", e.ConnFail.Load())
			counter("cx_total", e.ConnTotal.Load())
			counter("rq_error", e.Errors.Load())
			counter("rq_success", e.Success.Load())
			counter("rq_total", e.Requests.Load())
			gauge("cx_active", e.Conns.Load())
			gauge("rq_active", e.Active.Load())
			cs.HostStatuses = append(cs.HostStatuses, hs)
		}
		out.ClusterStatuses = append(out.ClusterStatuses, cs)
	}
	return out
}

func address(e *cluster.Endpoint) *corev3.Address {
	if e.Network == "unix" {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: e.Address}}}
	}
	return socketAddress(e.Addr)
}

func socketAddress(a netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: a.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())},
	}}}
}

func (s *Server) listeners(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("format") == "json" {
		out := &adminv3.Listeners{}
		for _, l := range s.cfg.Listeners.Active() {
			st := &adminv3.ListenerStatus{Name: l.Name, LocalAddress: socketAddress(l.Addresses()[0])}
			for _, a := range l.Addresses()[1:] {
				st.AdditionalLocalAddresses = append(st.AdditionalLocalAddresses, socketAddress(a))
			}
			out.ListenerStatuses = append(out.ListenerStatuses, st)
		}
		sayJSON(w, out, true)
		return
	}
	var b strings.Builder
	for _, l := range s.cfg.Listeners.Active() {
		for _, a := range l.Addresses() {
			fmt.Fprintf(&b, "%s::%s\n", l.Name, a)
		}
	}
	say(w, b.String())
}

func (s *Server) certs(w http.ResponseWriter, _ *http.Request) {
	out := &adminv3.Certificates{}
	for _, ref := range s.cfg.Secrets.All() {
		sec := ref.Load()
		if sec == nil {
			continue
		}
		c := &adminv3.Certificate{}
		for _, ca := range sec.CAs {
			c.CaCert = append(c.CaCert, details(ca))
		}
		if sec.Cert != nil && sec.Cert.Leaf != nil {
			c.CertChain = append(c.CertChain, details(sec.Cert.Leaf))
		}
		if len(c.CaCert)+len(c.CertChain) > 0 {
			out.Certificates = append(out.Certificates, c)
		}
	}
	sayJSON(w, out, true)
}

func details(c *x509.Certificate) *adminv3.CertificateDetails {
	d := &adminv3.CertificateDetails{
		Path: "<inline>", SerialNumber: fmt.Sprintf("%x", c.SerialNumber), ValidFrom: timestamppb.New(c.NotBefore),
		ExpirationTime:      timestamppb.New(c.NotAfter),
		DaysUntilExpiration: uint64(max(time.Until(c.NotAfter)/(24*time.Hour), 0)),
	}
	for _, u := range c.URIs {
		d.SubjectAltNames = append(d.SubjectAltNames, &adminv3.SubjectAlternateName{
			Name: &adminv3.SubjectAlternateName_Uri{Uri: u.String()},
		})
	}
	for _, n := range c.DNSNames {
		d.SubjectAltNames = append(d.SubjectAltNames, &adminv3.SubjectAlternateName{
			Name: &adminv3.SubjectAlternateName_Dns{Dns: n},
		})
	}
	for _, ip := range c.IPAddresses {
		d.SubjectAltNames = append(d.SubjectAltNames, &adminv3.SubjectAlternateName{
			Name: &adminv3.SubjectAlternateName_IpAddress{IpAddress: net.IP.String(ip)},
		})
	}
	return d
}
