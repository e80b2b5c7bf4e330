package dataplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	otellogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/open_telemetry/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/export"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// Methods of collectors. The request of the second is on the wire what LogsData is, which needs no gRPC gateway.
const (
	alsMethod      = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
	otlpLogsMethod = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
)

// Buffers of access logs for collectors: Envoy's defaults, and how much of what cannot be sent is kept.
const (
	logFlushEvery = time.Second
	logFlushBytes = 16 << 10
	logLimitBytes = 1 << 20
)

// logCollector takes entries for a collector.
type logCollector struct {
	put   func(*accesslog.Entry)
	close func()
}

// collector compiles a configuration of a log that goes to a collector. Equal ones share a queue.
func (s *logSinks) collector(body *anypb.Any) (func(*accesslog.Entry), error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.collectors[string(raw)]; ok {
		return c.put, nil
	}
	if s.collectors == nil {
		return nil, errors.New("the proxy ends")
	}
	var c *logCollector
	if body.GetTypeUrl() == registry.OTelAccessLog {
		c, err = s.otel(body)
	} else {
		c, err = s.als(body)
	}
	if err != nil {
		return nil, err
	}
	s.collectors[string(raw)] = c
	return c.put, nil
}

// buffered completes the configuration of a queue.
func buffered[T proto.Message](s *logSinks, name string, every *durationpb.Duration, size *wrapperspb.UInt32Value, timeout time.Duration,
	send func(context.Context, []T) error,
) *export.Queue[T] {
	sc := stats.Scope{Name: "access_logs." + name, Family: "envoy_access_logs_" + name}
	cfg := export.Config[T]{
		Name: name, Every: logFlushEvery, Flush: logFlushBytes, Size: func(m T) int { return proto.Size(m) + 64 }, Timeout: timeout, Send: send,
		Sent: s.stats.Counter(sc, "logs_written"), Dropped: s.stats.Counter(sc, "logs_dropped"), Log: s.log,
	}
	if d := every.AsDuration(); d > 0 {
		cfg.Every = d
	}
	if size != nil {
		cfg.Flush = int(size.GetValue())
	}
	cfg.Limit = max(logLimitBytes, 4*cfg.Flush)
	return export.NewQueue(cfg)
}

const commonLogFields = "log_name grpc_service transport_api_version buffer_flush_interval buffer_size_bytes filter_state_objects_to_log"

// als compiles a log for an access log service.
func (s *logSinks) als(body *anypb.Any) (*logCollector, error) {
	var common *grpclogv3.CommonGrpcAccessLogConfig
	w, tcp := accesslog.Wire{}, body.GetTypeUrl() == registry.TCPGrpcAccessLog
	if tcp {
		p := &grpclogv3.TcpGrpcAccessLogConfig{}
		if err := body.UnmarshalTo(p); err != nil {
			return nil, err
		}
		common = p.GetCommonConfig()
	} else {
		p := &grpclogv3.HttpGrpcAccessLogConfig{}
		if err := body.UnmarshalTo(p); err != nil {
			return nil, err
		}
		common = p.GetCommonConfig()
		w.RequestHeaders, w.ResponseHeaders = p.GetAdditionalRequestHeadersToLog(), p.GetAdditionalResponseHeadersToLog()
		w.ResponseTrailers = p.GetAdditionalResponseTrailersToLog()
	}
	if err := fields.Check(common, commonLogFields); err != nil {
		return nil, err
	}
	w.FilterState = common.GetFilterStateObjectsToLog()
	service, limit, err := export.GRPC(common.GetGrpcService(), s.clusters)
	if err != nil {
		return nil, err
	}
	id := &alsv3.StreamAccessLogsMessage_Identifier{Node: s.node, LogName: common.GetLogName()}
	if tcp {
		q := buffered(s, "grpc_access_log", common.GetBufferFlushInterval(), common.GetBufferSizeBytes(), limit,
			func(ctx context.Context, list []*datav3.TCPAccessLogEntry) error {
				return service.Send(ctx, alsMethod, &alsv3.StreamAccessLogsMessage{
					Identifier: id, LogEntries: &alsv3.StreamAccessLogsMessage_TcpLogs{TcpLogs: &alsv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: list}},
				})
			})
		return &logCollector{func(e *accesslog.Entry) { q.Put(w.TCP(e)) }, q.Close}, nil
	}
	q := buffered(s, "grpc_access_log", common.GetBufferFlushInterval(), common.GetBufferSizeBytes(), limit,
		func(ctx context.Context, list []*datav3.HTTPAccessLogEntry) error {
			return service.Send(ctx, alsMethod, &alsv3.StreamAccessLogsMessage{
				Identifier: id, LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: list}},
			})
		})
	return &logCollector{func(e *accesslog.Entry) { q.Put(w.HTTP(e)) }, q.Close}, nil
}

const otelLogFields = "common_config http_service grpc_service disable_builtin_labels resource_attributes body attributes formatters " +
	"log_name buffer_flush_interval buffer_size_bytes filter_state_objects_to_log"

// otel compiles a log for an OpenTelemetry collector. Envoy sends no filter state there either.
func (s *logSinks) otel(body *anypb.Any) (*logCollector, error) {
	p := &otellogv3.OpenTelemetryAccessLogConfig{}
	if err := body.UnmarshalTo(p); err != nil {
		return nil, err
	}
	if err := fields.Check(p, otelLogFields); err != nil {
		return nil, err
	}
	common := p.GetCommonConfig() //nolint:staticcheck // deprecated, still sent
	if err := fields.Check(common, commonLogFields); err != nil {
		return nil, err
	}
	record, err := accesslog.CompileRecord(p.GetBody(), p.GetAttributes(), p.GetFormatters())
	if err != nil {
		return nil, err
	}
	resource := &resourcepb.Resource{}
	name := p.GetLogName()
	if name == "" {
		name = common.GetLogName()
	}
	if !p.GetDisableBuiltinLabels() {
		resource.Attributes = builtinLabels(name, s.node)
	}
	resource.Attributes = append(resource.Attributes, p.GetResourceAttributes().GetValues()...)
	send, limit, err := s.otlpLogs(p)
	if err != nil {
		return nil, err
	}
	every, size := p.GetBufferFlushInterval(), p.GetBufferSizeBytes()
	if every == nil {
		every = common.GetBufferFlushInterval()
	}
	if size == nil {
		size = common.GetBufferSizeBytes()
	}
	q := buffered(s, "open_telemetry_access_log", every, size, limit, func(ctx context.Context, list []*logspb.LogRecord) error {
		return send(ctx, &logspb.LogsData{ResourceLogs: []*logspb.ResourceLogs{{
			Resource: resource, ScopeLogs: []*logspb.ScopeLogs{{LogRecords: list}},
		}}})
	})
	return &logCollector{func(e *accesslog.Entry) { q.Put(record.Make(e)) }, q.Close}, nil
}

func builtinLabels(log string, n *corev3.Node) []*commonpb.KeyValue {
	var out []*commonpb.KeyValue
	for _, kv := range [][2]string{
		{"log_name", log}, {"zone_name", n.GetLocality().GetZone()}, {"cluster_name", n.GetCluster()}, {"node_name", n.GetId()},
	} {
		out = append(out, &commonpb.KeyValue{Key: kv[0], Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: kv[1]}}})
	}
	return out
}

func (s *logSinks) otlpLogs(p *otellogv3.OpenTelemetryAccessLogConfig) (func(context.Context, *logspb.LogsData) error, time.Duration, error) {
	if p.GetHttpService() != nil {
		h, err := export.HTTPService(p.GetHttpService(), s.clusters)
		if err != nil {
			return nil, 0, err
		}
		return func(ctx context.Context, d *logspb.LogsData) error {
			raw, err := proto.Marshal(d)
			if err != nil {
				return err
			}
			return h.Post(ctx, "application/x-protobuf", raw)
		}, h.Timeout, nil
	}
	g := p.GetGrpcService()
	if g == nil {
		g = p.GetCommonConfig().GetGrpcService() //nolint:staticcheck // deprecated, still sent
	}
	service, limit, err := export.GRPC(g, s.clusters)
	if err != nil {
		return nil, 0, fmt.Errorf("open_telemetry: %w", err)
	}
	return func(ctx context.Context, d *logspb.LogsData) error { return service.Send(ctx, otlpLogsMethod, d) }, limit, nil
}
