package tracing

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	detectorsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/resource_detectors/v3"
	samplersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/samplers/v3"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func tracer(t *testing.T, m proto.Message) (*Tracer, error) {
	t.Helper()
	ts := &Tracers{Stats: stats.New()}
	t.Cleanup(ts.Close)
	return ts.Get(&tracev3.Tracing_Http{Name: "x", ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: packed(t, m)}})
}

func grpc() *corev3.GrpcService {
	return &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: "c"}}}
}

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestW3C(t *testing.T) {
	tr, err := tracer(t, &tracev3.OpenTelemetryConfig{GrpcService: grpc()})
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{traceparent: {parent}, tracestate: {"a=1", "b=2"}}
	s := tr.Start(h, Server, "n", time.Now(), false)
	if s.TraceHex() != "0af7651916cd43dd8448eb211c80319c" || !s.Sampled || s.SpanHex() == "b7ad6b7169203331" {
		t.Errorf("span %+v", s)
	}
	out := http.Header{}
	s.Inject(out)
	if want := "00-0af7651916cd43dd8448eb211c80319c-" + s.SpanHex() + "-01"; out.Get(traceparent) != want || out.Get(tracestate) != "a=1,b=2" {
		t.Errorf("injected %v", out)
	}
	h.Set(traceparent, strings.TrimSuffix(parent, "1")+"0")
	if s := tr.Start(h, Server, "n", time.Now(), true); s.Sampled {
		t.Error("the caller's word does not count")
	}
	for _, bad := range []string{
		"", parent + "x", parent[:54], strings.Replace(parent, "00-", "ff-", 1), strings.Replace(parent, "0af", "0AF", 1),
		"00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
		strings.Replace(parent, "0af", "0zf", 1),
	} {
		if in := fromW3C(http.Header{traceparent: {bad}}); in.found {
			t.Errorf("%q was taken", bad)
		}
	}
	if in := fromW3C(http.Header{traceparent: {"cc" + parent[2:] + "-more"}}); !in.found {
		t.Error("a later version is refused")
	}
	root := tr.Start(http.Header{}, Client, "n", time.Now(), true)
	if !root.Sampled || !root.Long || root.Parent != ([8]byte{}) {
		t.Errorf("root %+v", root)
	}
	child := root.Child(Client, "c", time.Now())
	if child.TraceID != root.TraceID || child.Parent != root.SpanID || child.SpanID == root.SpanID {
		t.Errorf("child %+v of %+v", child, root)
	}
}

func TestB3(t *testing.T) {
	const trace, span, up = "80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1", "05e3ac9a4f6e3b90"
	for name, tc := range map[string]struct {
		h              http.Header
		found, sampled bool
		decided        bool
	}{
		"long":          {http.Header{b3TraceID: {trace}, b3SpanID: {span}, b3ParentID: {up}, b3Sampled: {"1"}}, true, true, true},
		"short id":      {http.Header{b3TraceID: {trace[16:]}, b3SpanID: {span}}, true, false, false},
		"debug":         {http.Header{b3TraceID: {trace}, b3SpanID: {span}, b3Flags: {"1"}}, true, true, true},
		"single":        {http.Header{b3: {trace + "-" + span + "-1-" + up}}, true, true, true},
		"single no":     {http.Header{b3: {"0"}}, false, false, true},
		"only sampling": {http.Header{b3Sampled: {"0"}}, false, false, true},
		"broken":        {http.Header{b3TraceID: {"zz" + trace[2:]}, b3SpanID: {span}}, false, false, false},
		"nothing":       {http.Header{}, false, false, false},
	} {
		in := fromB3(tc.h)
		if in.found != tc.found || in.Sampled != tc.sampled || in.decided != tc.decided {
			t.Errorf("%s: %+v", name, in)
		}
	}
	tr, err := tracer(t, &tracev3.ZipkinConfig{
		CollectorCluster: "c", CollectorEndpoint: "/x", CollectorEndpointVersion: tracev3.ZipkinConfig_HTTP_JSON, TraceId_128Bit: true,
		SharedSpanContext: nil, TraceContextOption: tracev3.ZipkinConfig_USE_B3_WITH_W3C_PROPAGATION,
	})
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{b3: {trace + "-" + span + "-1"}}
	s := tr.Start(h, Server, "n", time.Now(), false)
	if s.SpanHex() != span || !s.shared {
		t.Errorf("a shared span is %+v", s)
	}
	c := tr.Start(h, Client, "n", time.Now(), false)
	c.Inject(h)
	if h.Get(b3) != "" || h.Get(b3TraceID) != trace || h.Get(b3SpanID) != c.SpanHex() || h.Get(b3ParentID) != span || h.Get(b3Sampled) != "1" ||
		h.Get(traceparent) != "00-"+trace+"-"+c.SpanHex()+"-01" {
		t.Errorf("injected %v", h)
	}
	w := tr.Start(http.Header{traceparent: {parent}}, Server, "n", time.Now(), false)
	if w.TraceHex() != parent[3:35] {
		t.Errorf("W3C was not looked at: %+v", w)
	}
	root := tr.Start(http.Header{}, Server, "n", time.Now(), true)
	if root.TraceHex()[16:] != root.SpanHex() {
		t.Error("the root's id is not its trace's")
	}
}

func TestSamplers(t *testing.T) {
	always := packed(t, &samplersv3.AlwaysOnSamplerConfig{})
	none := packed(t, &samplersv3.TraceIdRatioBasedSamplerConfig{})
	byParent := packed(t, &samplersv3.ParentBasedSamplerConfig{WrappedSampler: &corev3.TypedExtensionConfig{TypedConfig: always}})
	for _, tc := range []struct {
		body *anypb.Any
		in   incoming
		want bool
	}{
		{always, incoming{}, true},
		{none, incoming{}, false},
		{byParent, incoming{found: true}, false},
		{byParent, incoming{}, true},
	} {
		s, err := compileSampler(tc.body)
		must(t, err)
		if got := s(tc.in, [16]byte{8: 1}); got != tc.want {
			t.Errorf("%v of %+v: %v", tc.body.GetTypeUrl(), tc.in, got)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	dynatrace := &corev3.TypedExtensionConfig{Name: "d", TypedConfig: packed(t, &detectorsv3.DynatraceResourceDetectorConfig{})}
	sampler := &corev3.TypedExtensionConfig{Name: "d", TypedConfig: packed(t, &samplersv3.DynatraceSamplerConfig{})}
	for want, m := range map[string]proto.Message{
		"DatadogConfig":                     &tracev3.DatadogConfig{},
		"SkyWalkingConfig":                  &tracev3.SkyWalkingConfig{},
		"DynatraceResourceDetectorConfig":   &tracev3.OpenTelemetryConfig{GrpcService: grpc(), ResourceDetectors: []*corev3.TypedExtensionConfig{dynatrace}},
		"DynatraceSamplerConfig":            &tracev3.OpenTelemetryConfig{GrpcService: grpc(), Sampler: sampler},
		"ZipkinConfig.collector_endpoint_v": &tracev3.ZipkinConfig{CollectorCluster: "c", CollectorEndpointVersion: tracev3.ZipkinConfig_HTTP_PROTO},
		"timestamp_trace_ids":               &tracev3.ZipkinConfig{TimestampTraceIds: true, CollectorEndpointVersion: tracev3.ZipkinConfig_HTTP_JSON},
	} {
		if _, err := tracer(t, m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%T: %v, want one that names %s", m, err, want)
		}
	}
}

func TestOTLPForm(t *testing.T) {
	must(t, os.Setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=v%201,service.name=other"))
	t.Cleanup(func() { _ = os.Unsetenv("OTEL_RESOURCE_ATTRIBUTES") })
	ts := &Tracers{Stats: stats.New()}
	res, err := ts.resource(&tracev3.OpenTelemetryConfig{ServiceName: "svc", ResourceDetectors: []*corev3.TypedExtensionConfig{
		{TypedConfig: packed(t, &detectorsv3.EnvironmentResourceDetectorConfig{})},
	}})
	must(t, err)
	got := map[string]string{}
	for _, a := range res {
		got[a.Key] = a.Value
	}
	if got["service.name"] != "other" || got["service.version"] != "v 1" || got["telemetry.sdk.name"] != "ropes" {
		t.Errorf("resource %v", got)
	}
	start := time.Unix(100, 5)
	s := &Span{Context: Context{TraceID: [16]byte{1}, SpanID: [8]byte{2}, Parent: [8]byte{3}, Sampled: true}, Name: "n", Kind: Client, Start: start, End: start.Add(time.Second)}
	s.Set("http.status_code", "404")
	s.Log(start, "e")
	o := s.otlp()
	if o.GetKind() != tracepb.Span_SPAN_KIND_CLIENT || o.GetStatus().GetCode() != tracepb.Status_STATUS_CODE_ERROR || len(o.GetParentSpanId()) != 8 ||
		o.GetEndTimeUnixNano()-o.GetStartTimeUnixNano() != 1e9 || o.GetEvents()[0].GetName() != "e" {
		t.Errorf("OTLP %v", o)
	}
	z := s.zipkin(zipkinEndpoint{ServiceName: "svc"})
	if z.Kind != "CLIENT" || z.ParentID != "0300000000000000" || z.Duration != 1e6 || z.Tags["http.status_code"] != "404" || z.Annotations[0].Value != "e" {
		t.Errorf("Zipkin %+v", z)
	}
}
