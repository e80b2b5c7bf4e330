package dataplane

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	celfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
)

// logServer takes logs by both protocols.
type logServer struct {
	alsv3.UnimplementedAccessLogServiceServer
	mu   sync.Mutex
	als  []*alsv3.StreamAccessLogsMessage
	otlp []*logspb.LogsData
}

func (s *logServer) StreamAccessLogs(st alsv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		m, err := st.Recv()
		if err != nil {
			return nil //nolint:nilerr // the end of the stream
		}
		s.mu.Lock()
		s.als = append(s.als, m)
		s.mu.Unlock()
	}
}

func (s *logServer) unknown(_ any, st grpc.ServerStream) error {
	m := &logspb.LogsData{}
	if name, _ := grpc.MethodFromServerStream(st); name != otlpLogsMethod {
		return io.ErrUnexpectedEOF
	}
	if err := st.RecvMsg(m); err != nil {
		return err
	}
	s.mu.Lock()
	s.otlp = append(s.otlp, m)
	s.mu.Unlock()
	return st.SendMsg(&logspb.LogsData{})
}

// collectorCluster starts s and returns clusters that have it under the name logs.
func (s *logServer) collectorCluster(t *testing.T) *cluster.Manager {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.UnknownServiceHandler(s.unknown))
	alsv3.RegisterAccessLogServiceServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(ln) }()
	t.Cleanup(func() { g.Stop(); <-done })
	ctx, cancel := context.WithCancel(context.Background())
	m := cluster.NewManager(ctx, tlsctx.NewStore(), stats.New(), cluster.System{})
	t.Cleanup(func() { m.Close(); cancel() })
	c := &clusterv3.Cluster{}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	if err := protojson.Unmarshal([]byte(`{"name":"logs","type":"STATIC","connectTimeout":"1s","typedExtensionProtocolOptions":{
		"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
		"explicitHttpConfig":{"http2ProtocolOptions":{}}}},"loadAssignment":{"clusterName":"logs","endpoints":[{"lbEndpoints":[{"endpoint":{
		"address":{"socketAddress":{"address":"127.0.0.1","portValue":`+port+`}}}}]}]}}`), c); err != nil {
		t.Fatal(err)
	}
	if err := m.AddStatic(c); err != nil {
		t.Fatal(err)
	}
	return m
}

func accessLog(t *testing.T, js string) *accesslogv3.AccessLog {
	t.Helper()
	a := &accesslogv3.AccessLog{}
	if err := protojson.Unmarshal([]byte(js), a); err != nil {
		t.Fatal(err)
	}
	return a
}

const commonLog = `"commonConfig":{"logName":"mine","transportApiVersion":"V3","filterStateObjectsToLog":["upstream_peer"],
	"grpcService":{"envoyGrpc":{"clusterName":"logs","authority":"logs.ns"}}}`

func TestLogsForCollectors(t *testing.T) {
	srv := &logServer{}
	sinks := newLogSinks(time.Hour, srv.collectorCluster(t), stats.New(), &corev3.Node{Id: "me"}, slog.New(slog.DiscardHandler))
	filter, err := anypb.New(&celfilterv3.ExpressionFilter{Expression: "response.code >= 400"})
	if err != nil {
		t.Fatal(err)
	}
	http0 := accessLog(t, `{"name":"h","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
		"additionalRequestHeadersToLog":["x-a"],`+commonLog+`}}`)
	http0.Filter = &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslogv3.ExtensionFilter{
		Name: "cel", ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: filter},
	}}}
	tcp := accessLog(t, `{"name":"t","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",`+commonLog+`}}`)
	otel := accessLog(t, `{"name":"o","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
		"disableBuiltinLabels":true,"body":{"stringValue":"%REQ(:METHOD)% %RESPONSE_CODE%"},"attributes":{"values":[{"key":"p","value":{"stringValue":"%REQ(:PATH)%"}}]},`+commonLog+`}}`)
	loggers, err := sinks.loggers([]*accesslogv3.AccessLog{http0, tcp, otel})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := sinks.loggers([]*accesslogv3.AccessLog{http0, otel}); err != nil || len(again) != 2 || len(sinks.collectors) != 3 {
		t.Errorf("%v: %d queues for three configurations", err, len(sinks.collectors))
	}
	for _, code := range []int{200, 503} {
		e := &accesslog.Entry{
			Start: time.Now(), End: time.Now(), Protocol: "HTTP/1.1", Method: "GET", Path: "/p", ResponseCode: code, Flags: accesslog.NoHealthyUpstream,
			Request: http.Header{"X-A": {"1"}}, TraceID: strings.Repeat("ab", 16), SpanID: strings.Repeat("cd", 8), BytesSent: 7,
			FilterState: func(k string) (any, bool) { return map[string]any{"workload": "w"}, k == "upstream_peer" },
		}
		for _, l := range loggers {
			l.Log(e)
		}
	}
	sinks.Close()
	srv.mu.Lock()
	defer srv.mu.Unlock()
	var https, tcps int
	for _, m := range srv.als {
		if m.GetIdentifier().GetLogName() != "mine" || m.GetIdentifier().GetNode().GetId() != "me" {
			t.Errorf("identifier %v", m.GetIdentifier())
		}
		for _, e := range m.GetHttpLogs().GetLogEntry() {
			https++
			if e.GetResponse().GetResponseCode().GetValue() != 503 || e.GetRequest().GetPath() != "/p" || e.GetRequest().GetRequestHeaders()["x-a"] != "1" ||
				!e.GetCommonProperties().GetResponseFlags().GetNoHealthyUpstream() || e.GetCommonProperties().GetFilterStateObjects()["upstream_peer"] == nil {
				t.Errorf("entry %v", e)
			}
		}
		for _, e := range m.GetTcpLogs().GetLogEntry() {
			tcps++
			if e.GetConnectionProperties().GetSentBytes() != 7 {
				t.Errorf("entry %v", e)
			}
		}
	}
	if https != 1 || tcps != 2 {
		t.Errorf("%d HTTP and %d TCP entries, want 1 and 2", https, tcps)
	}
	var records []*logspb.LogRecord
	for _, d := range srv.otlp {
		records = append(records, d.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords()...)
	}
	if len(records) != 2 || records[1].GetBody().GetStringValue() != "GET 503" || records[1].GetAttributes()[0].GetValue().GetStringValue() != "/p" ||
		len(records[1].GetTraceId()) != 16 || len(records[1].GetSpanId()) != 8 {
		t.Errorf("records %v", records)
	}
}

func TestLogFiltersThatAreRefused(t *testing.T) {
	sinks := newLogSinks(time.Hour, nil, stats.New(), nil, slog.New(slog.DiscardHandler))
	defer sinks.Close()
	file := `"typedConfig":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog","path":"/dev/null"}`
	for js, want := range map[string]string{
		`{"name":"x","filter":{"extensionFilter":{"name":"y","typedConfig":{"@type":"type.googleapis.com/google.protobuf.Empty","value":{}}}},` + file + `}`:                                                                       "google.protobuf.Empty",
		`{"name":"x","filter":{"extensionFilter":{"name":"y","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter","expression":"no.such"}}},` + file + `}`:                 "no.such",
		`{"name":"x","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig","commonConfig":{"logName":"l","grpcService":{"googleGrpc":{"targetUri":"u","statPrefix":"s"}}}}}`: "google_grpc",
	} {
		if _, err := sinks.loggers([]*accesslogv3.AccessLog{accessLog(t, js)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want one that names %s", err, want)
		}
	}
}
