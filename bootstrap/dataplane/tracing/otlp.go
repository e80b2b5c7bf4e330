package tracing

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/export"
)

// otlpMethod takes an ExportTraceServiceRequest. TracesData is the same on the wire, and needs no gRPC gateway.
const otlpMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

// otlpSender sends spans by gRPC or HTTP, and says how long that may take.
func otlpSender(c *tracev3.OpenTelemetryConfig, clusters *cluster.Manager, attributes []Tag) (func(context.Context, []*Span) error, time.Duration, error) {
	resource := &resourcepb.Resource{Attributes: keyValues(attributes)}
	switch {
	case c.GetGrpcService() != nil && c.GetHttpService() != nil:
		return nil, 0, errors.New("grpc_service and http_service exclude each other")
	case c.GetGrpcService() != nil:
		s, limit, err := export.GRPC(c.GetGrpcService(), clusters)
		if err != nil {
			return nil, 0, err
		}
		return func(ctx context.Context, spans []*Span) error {
			return s.Send(ctx, otlpMethod, tracesData(resource, spans))
		}, limit, nil
	case c.GetHttpService() != nil:
		s, err := export.HTTPService(c.GetHttpService(), clusters)
		if err != nil {
			return nil, 0, err
		}
		return func(ctx context.Context, spans []*Span) error {
			raw, err := proto.Marshal(tracesData(resource, spans))
			if err != nil {
				return err
			}
			return s.Post(ctx, "application/x-protobuf", raw)
		}, s.Timeout, nil
	}
	// As in Envoy: contexts are carried on, and nobody is told.
	return func(context.Context, []*Span) error { return nil }, 0, nil
}

func keyValues(tags []Tag) []*commonpb.KeyValue {
	out := make([]*commonpb.KeyValue, 0, len(tags))
	for _, t := range tags {
		out = append(out, &commonpb.KeyValue{
			Key: t.Key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: t.Value}},
		})
	}
	return out
}

func tracesData(resource *resourcepb.Resource, spans []*Span) *tracepb.TracesData {
	list := make([]*tracepb.Span, 0, len(spans))
	for _, s := range spans {
		list = append(list, s.otlp())
	}
	return &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource:   resource,
		ScopeSpans: []*tracepb.ScopeSpans{{Scope: &commonpb.InstrumentationScope{Name: "envoy"}, Spans: list}},
	}}}
}

func (s *Span) otlp() *tracepb.Span {
	out := &tracepb.Span{
		TraceId: s.TraceID[:], SpanId: s.SpanID[:], TraceState: s.State, Name: s.Name, Kind: tracepb.Span_SPAN_KIND_SERVER,
		StartTimeUnixNano: uint64(s.Start.UnixNano()), EndTimeUnixNano: uint64(s.End.UnixNano()), Attributes: keyValues(s.Tags),
	}
	if s.Kind == Client {
		out.Kind = tracepb.Span_SPAN_KIND_CLIENT
	}
	if s.Parent != ([8]byte{}) {
		out.ParentSpanId = s.Parent[:]
	}
	for _, e := range s.Events {
		out.Events = append(out.Events, &tracepb.Span_Event{TimeUnixNano: uint64(e.At.UnixNano()), Name: e.Name})
	}
	for _, t := range s.Tags {
		// A client's error is the caller's own; a server is not to blame for it.
		if code, err := strconv.Atoi(t.Value); t.Key == "http.status_code" && err == nil && (code >= 500 || code >= 400 && s.Kind == Client) {
			out.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR}
		}
	}
	return out
}

func unescape(v string) string {
	if u, err := url.PathUnescape(v); err == nil {
		return u
	}
	return v
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
