package metrics

import (
	"strconv"
	"strings"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// standard are the labels in the order in which they are written. Those after the bar are only on metrics of finished
// requests and of connections.
var standard = []string{
	"reporter", "source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
	"source_principal", "source_app", "source_version", "source_cluster", "destination_workload",
	"destination_workload_namespace", "destination_principal", "destination_app", "destination_version",
	"destination_service", "destination_canonical_service", "destination_canonical_revision", "destination_service_name",
	"destination_service_namespace", "destination_cluster",
	// --
	"request_protocol", "response_code", "grpc_response_status", "response_flags", "connection_security_policy",
}

const (
	atStart = 20 // labels that are known when the peer is
)

func orUnknown(s string) string { return or(s, "unknown") }

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

var nobody = &peer.Info{}

// all gives the values of the standard labels, in order.
func (s *Series) all() [25]string {
	f := &s.facts
	other := f.Peer
	if other == nil {
		other = nobody
	}
	src, dst, srcPrincipal, dstPrincipal := s.c.self, other, f.LocalPrincipal, f.PeerPrincipal
	reporter, security := "source", "unknown"
	peerNamespace := or(namespaceOf(f.PeerPrincipal), other.Namespace)
	srcNamespace, dstNamespace := src.Namespace, peerNamespace
	service := f.Service
	if f.Server {
		reporter, security = "destination", "none"
		src, dst, srcPrincipal, dstPrincipal = other, s.c.self, f.PeerPrincipal, f.LocalPrincipal
		srcNamespace, dstNamespace = peerNamespace, s.c.self.Namespace
		if srcPrincipal != "" && dstPrincipal != "" {
			security = "mutual_tls"
		}
		service.Host, service.Name = or(service.Host, dst.CanonicalName), or(service.Name, dst.CanonicalName)
	}
	out := [25]string{
		reporter, src.Workload, src.CanonicalName, or(src.CanonicalRevision, "latest"), srcNamespace, srcPrincipal,
		src.App, src.Version, src.Cluster, dst.Workload, dstNamespace, dstPrincipal, dst.App, dst.Version, service.Host,
		dst.CanonicalName, or(dst.CanonicalRevision, "latest"), service.Name, dstNamespace, dst.Cluster,
		f.Protocol, strconv.Itoa(f.Code), f.GRPCStatus, f.Flags.String(), security,
	}
	return out
}

// labels renders the labels of a metric.
func (s *Series) labels(m Metric) string {
	var b strings.Builder
	b.Grow(900)
	r := &s.c.rules[m]
	for i, v := range s.all() {
		name := standard[i]
		if m == RequestMessages || m == ResponseMessages {
			if i >= atStart {
				break // they are counted while the request runs, when no more is known
			}
		} else if m >= Opened && (name == "response_code" || name == "grpc_response_status") {
			continue
		}
		if x, ok := r.override[name]; ok {
			if x != removed {
				appendLabel(&b, name, s.values[x])
			}
			continue
		}
		if name != "grpc_response_status" {
			v = orUnknown(v)
		}
		appendLabel(&b, name, v)
	}
	for _, a := range r.add {
		appendLabel(&b, a.tag, s.values[a.expr])
	}
	return b.String()
}

func appendLabel(b *strings.Builder, name, value string) {
	if b.Len() > 0 {
		b.WriteByte(',')
	}
	b.WriteString(stats.Label(stats.LabelName(name), value))
}

// namespaceOf finds the namespace in a SPIFFE identity; empty for others.
func namespaceOf(principal string) string {
	_, rest, ok := strings.Cut(principal, "/ns/")
	if !ok {
		return ""
	}
	ns, _, _ := strings.Cut(rest, "/")
	return ns
}

// Destination names the destination service of a request or connection as Istio does: by the route's or cluster's name
// for traffic that leaves the mesh, else by the services metadata of the cluster. host, from the request, is the fallback.
func Destination(host, route, cluster string, services any) peer.Service {
	out := peer.Service{Host: host, Name: host}
	switch route {
	case "block_all":
		out.Name = "BlackHoleCluster"
		return out
	case "allow_any":
		out.Name = "PassthroughCluster"
		return out
	}
	switch cluster {
	case "BlackHoleCluster", "PassthroughCluster", "InboundPassthroughCluster", "InboundPassthroughClusterIpv4", "InboundPassthroughClusterIpv6":
		out.Name = cluster
		return out
	}
	if list, ok := services.([]any); ok && len(list) > 0 {
		if m, ok := list[0].(map[string]any); ok {
			if h, ok := m["host"].(string); ok && h != "" {
				out.Host = h
				out.Name, _, _ = strings.Cut(h, ".")
			}
			if n, ok := m["name"].(string); ok && n != "" {
				out.Name = n
			}
		}
	}
	return out
}
