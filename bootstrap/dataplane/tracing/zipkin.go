package tracing

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/export"
)

type zipkinEndpoint struct {
	ServiceName string `json:"serviceName,omitempty"`
	IPv4        string `json:"ipv4,omitempty"`
	IPv6        string `json:"ipv6,omitempty"`
}

type zipkinEvent struct {
	Timestamp int64  `json:"timestamp"`
	Value     string `json:"value"`
}

// zipkinSpan is a span of Zipkin's API v2. Times are microseconds.
type zipkinSpan struct {
	TraceID       string            `json:"traceId"`
	ID            string            `json:"id"`
	ParentID      string            `json:"parentId,omitempty"`
	Name          string            `json:"name"`
	Kind          string            `json:"kind"`
	Timestamp     int64             `json:"timestamp"`
	Duration      int64             `json:"duration"`
	LocalEndpoint zipkinEndpoint    `json:"localEndpoint"`
	Tags          map[string]string `json:"tags,omitempty"`
	Annotations   []zipkinEvent     `json:"annotations,omitempty"`
	Shared        bool              `json:"shared,omitempty"`
}

// zipkinSender posts spans as JSON in the name of the proxy's service.
func zipkinSender(to *export.HTTP, node *corev3.Node) func(context.Context, []*Span) error {
	local := zipkinEndpoint{ServiceName: node.GetCluster()}
	for _, ip := range firstAddresses(node) {
		if ip.Is4() && local.IPv4 == "" {
			local.IPv4 = ip.String()
		} else if ip.Is6() && local.IPv6 == "" {
			local.IPv6 = ip.String()
		}
	}
	return func(ctx context.Context, spans []*Span) error {
		list := make([]zipkinSpan, 0, len(spans))
		for _, s := range spans {
			list = append(list, s.zipkin(local))
		}
		raw, err := json.Marshal(list)
		if err != nil {
			return err
		}
		return to.Post(ctx, "application/json", raw)
	}
}

// firstAddresses lists the pod's addresses as pilot-agent gives them, comma separated.
func firstAddresses(node *corev3.Node) []netip.Addr {
	var out []netip.Addr
	for _, text := range strings.Split(node.GetMetadata().GetFields()["INSTANCE_IPS"].GetStringValue(), ",") {
		if ip, err := netip.ParseAddr(text); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

func (s *Span) zipkin(local zipkinEndpoint) zipkinSpan {
	out := zipkinSpan{
		TraceID: s.TraceHex(), ID: s.SpanHex(), Name: s.Name, Kind: "SERVER", Timestamp: s.Start.UnixMicro(),
		Duration: max(s.End.Sub(s.Start).Microseconds(), 1), LocalEndpoint: local, Shared: s.shared,
	}
	if s.Kind == Client {
		out.Kind = "CLIENT"
	}
	if s.Parent != ([8]byte{}) {
		out.ParentID = hex.EncodeToString(s.Parent[:])
	}
	if len(s.Tags) > 0 {
		out.Tags = make(map[string]string, len(s.Tags))
		for _, t := range s.Tags {
			out.Tags[t.Key] = t.Value
		}
	}
	for _, e := range s.Events {
		out.Annotations = append(out.Annotations, zipkinEvent{e.At.UnixMicro(), e.Name})
	}
	return out
}
