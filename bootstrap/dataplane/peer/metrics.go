package peer

import (
	"strings"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// Labels are the labels of Istio's standard metrics for one request or connection. Empty values become "unknown".
type Labels struct {
	Reporter                       string // "source" or "destination"
	Source, Destination            *Info
	SourcePrincipal, DestPrincipal string
	Service                        Service
	Protocol                       string // "http", "grpc" or "tcp"
	Code                           string // HTTP only
	GRPCStatus                     string // HTTP only, may be empty
	Flags                          string
	Security                       string // "mutual_tls", "none" or "unknown"
}

var nobody = &Info{}

// Render gives the Prometheus label list without the names in removed. tcp leaves the HTTP-only labels out.
func (l Labels) Render(tcp bool, removed map[string]bool) string {
	src, dst := l.Source, l.Destination
	if src == nil {
		src = nobody
	}
	if dst == nil {
		dst = nobody
	}
	var b strings.Builder
	b.Grow(900)
	add := func(name, value string) {
		if removed[name] {
			return
		}
		if value == "" {
			value = "unknown"
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(stats.Label(name, value))
	}
	add("reporter", l.Reporter)
	add("source_workload", src.Workload)
	add("source_canonical_service", src.CanonicalName)
	add("source_canonical_revision", src.CanonicalRevision)
	add("source_workload_namespace", src.Namespace)
	add("source_principal", l.SourcePrincipal)
	add("source_app", src.App)
	add("source_version", src.Version)
	add("source_cluster", src.Cluster)
	add("destination_workload", dst.Workload)
	add("destination_workload_namespace", dst.Namespace)
	add("destination_principal", l.DestPrincipal)
	add("destination_app", dst.App)
	add("destination_version", dst.Version)
	add("destination_service", l.Service.Host)
	add("destination_canonical_service", dst.CanonicalName)
	add("destination_canonical_revision", dst.CanonicalRevision)
	add("destination_service_name", l.Service.Name)
	add("destination_service_namespace", l.Service.Namespace)
	add("destination_cluster", dst.Cluster)
	add("request_protocol", l.Protocol)
	if !tcp {
		add("response_code", l.Code)
		if !removed["grpc_response_status"] {
			b.WriteByte(',')
			b.WriteString(stats.Label("grpc_response_status", l.GRPCStatus))
		}
	}
	add("response_flags", l.Flags)
	add("connection_security_policy", l.Security)
	return b.String()
}
