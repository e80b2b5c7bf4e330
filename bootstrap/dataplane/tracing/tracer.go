package tracing

import (
	"encoding/binary"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	detectorsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/resource_detectors/v3"
	samplersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/samplers/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/export"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// Tracers makes tracers and keeps them: equal configurations share one, whatever listener they stand in.
type Tracers struct {
	Clusters *cluster.Manager
	Stats    *stats.Registry
	Node     *corev3.Node
	Log      *slog.Logger

	mu     sync.Mutex
	byBody map[string]*Tracer
	queues []interface{ Close() }
}

// Batches: spans go when there are that many, or after that time, as in Envoy; what a collector is too slow for is
// dropped.
const (
	flushSpans = 5
	flushEvery = 5 * time.Second
	maxSpans   = 2048
)

// Get compiles the configuration of a tracing provider. Tracers of other types than OpenTelemetry and Zipkin are refused
// by their name.
func (ts *Tracers) Get(p *tracev3.Tracing_Http) (*Tracer, error) {
	if err := fields.Check(p, "name typed_config"); err != nil {
		return nil, err
	}
	body := p.GetTypedConfig()
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(body)
	if err != nil {
		return nil, err
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t, ok := ts.byBody[string(raw)]; ok {
		return t, nil
	}
	var t *Tracer
	switch body.GetTypeUrl() {
	case registry.OpenTelemetryTracer:
		c := &tracev3.OpenTelemetryConfig{}
		if err := body.UnmarshalTo(c); err != nil {
			return nil, err
		}
		t, err = ts.openTelemetry(c)
	case registry.ZipkinTracer:
		c := &tracev3.ZipkinConfig{}
		if err := body.UnmarshalTo(c); err != nil {
			return nil, err
		}
		t, err = ts.zipkin(c)
	default:
		return nil, fields.UnsupportedType("tracer", p.GetName(), body.GetTypeUrl())
	}
	if err != nil {
		return nil, err
	}
	if ts.byBody == nil {
		ts.byBody = map[string]*Tracer{}
	}
	ts.byBody[string(raw)] = t
	return t, nil
}

// Close sends what is left. Spans that end later are dropped.
func (ts *Tracers) Close() {
	ts.mu.Lock()
	queues := ts.queues
	ts.queues = nil
	ts.mu.Unlock()
	for _, q := range queues {
		q.Close()
	}
}

// queue makes the queue of one tracer; the caller holds mu.
func (ts *Tracers) queue(name string, cfg export.Config[*Span]) func(*Span) {
	sc := stats.Scope{Name: "tracing." + name, Family: "envoy_tracing_" + name}
	cfg.Name, cfg.Every, cfg.Flush, cfg.Limit, cfg.Log = name, flushEvery, flushSpans, maxSpans, ts.Log
	cfg.Sent, cfg.Dropped = ts.Stats.Counter(sc, "spans_sent"), ts.Stats.Counter(sc, "reports_dropped")
	q := export.NewQueue(cfg)
	ts.queues = append(ts.queues, q)
	return q.Put
}

const otelFields = "grpc_service http_service service_name resource_detectors sampler max_cache_size " +
	"set_telemetry_sdk_resource_attributes set_service_name_resource_attribute"

func (ts *Tracers) openTelemetry(c *tracev3.OpenTelemetryConfig) (*Tracer, error) {
	if err := fields.Check(c, otelFields); err != nil {
		return nil, err
	}
	attributes, err := ts.resource(c)
	if err != nil {
		return nil, err
	}
	t := &Tracer{extract: fromW3C, inject: (*Context).toW3C, long: true}
	if s := c.GetSampler(); s != nil {
		if t.sampler, err = compileSampler(s.GetTypedConfig()); err != nil {
			return nil, err
		}
	}
	send, limit, err := otlpSender(c, ts.Clusters, attributes)
	if err != nil {
		return nil, err
	}
	t.report = ts.queue("opentelemetry", export.Config[*Span]{Send: send, Timeout: limit})
	return t, nil
}

// resource lists what OTLP says of this proxy.
func (ts *Tracers) resource(c *tracev3.OpenTelemetryConfig) ([]Tag, error) {
	var out []Tag
	set := func(k, v string) {
		for i := range out {
			if out[i].Key == k {
				out[i].Value = v
				return
			}
		}
		out = append(out, Tag{k, v})
	}
	if b := c.GetSetServiceNameResourceAttribute(); b == nil || b.GetValue() {
		name := c.GetServiceName()
		if name == "" {
			name = "unknown_service:envoy"
		}
		set("service.name", name)
	}
	if b := c.GetSetTelemetrySdkResourceAttributes(); b == nil || b.GetValue() {
		set("telemetry.sdk.language", "go")
		set("telemetry.sdk.name", "ropes")
	}
	for _, d := range c.GetResourceDetectors() {
		body := d.GetTypedConfig()
		switch {
		case body.MessageIs((*detectorsv3.EnvironmentResourceDetectorConfig)(nil)):
			for pair := range strings.SplitSeq(os.Getenv("OTEL_RESOURCE_ATTRIBUTES"), ",") {
				if k, v, ok := strings.Cut(pair, "="); ok {
					set(strings.TrimSpace(k), unescape(strings.TrimSpace(v)))
				}
			}
		case body.MessageIs((*detectorsv3.StaticConfigResourceDetectorConfig)(nil)):
			s := &detectorsv3.StaticConfigResourceDetectorConfig{}
			if err := body.UnmarshalTo(s); err != nil {
				return nil, err
			}
			for _, k := range sortedKeys(s.GetAttributes()) {
				set(k, s.GetAttributes()[k])
			}
		default:
			return nil, fields.UnsupportedType("resource detector", d.GetName(), body.GetTypeUrl())
		}
	}
	return out, nil
}

// sampler decides on a span by what its caller has decided and by its trace.
type sampler func(in incoming, trace [16]byte) bool

func compileSampler(body *anypb.Any) (sampler, error) {
	switch {
	case body.MessageIs((*samplersv3.AlwaysOnSamplerConfig)(nil)):
		return func(incoming, [16]byte) bool { return true }, nil
	case body.MessageIs((*samplersv3.TraceIdRatioBasedSamplerConfig)(nil)):
		c := &samplersv3.TraceIdRatioBasedSamplerConfig{}
		if err := body.UnmarshalTo(c); err != nil {
			return nil, err
		}
		of := map[typev3.FractionalPercent_DenominatorType]float64{
			typev3.FractionalPercent_HUNDRED: 100, typev3.FractionalPercent_TEN_THOUSAND: 1e4, typev3.FractionalPercent_MILLION: 1e6,
		}[c.GetSamplingPercentage().GetDenominator()]
		share := min(float64(c.GetSamplingPercentage().GetNumerator())/of, 1)
		bound := uint64(share * (1 << 63))
		return func(_ incoming, id [16]byte) bool { return binary.BigEndian.Uint64(id[8:])>>1 < bound }, nil
	case body.MessageIs((*samplersv3.ParentBasedSamplerConfig)(nil)):
		c := &samplersv3.ParentBasedSamplerConfig{}
		if err := body.UnmarshalTo(c); err != nil {
			return nil, err
		}
		wrapped, err := compileSampler(c.GetWrappedSampler().GetTypedConfig())
		if err != nil {
			return nil, err
		}
		return func(in incoming, id [16]byte) bool {
			if in.found {
				return in.Sampled
			}
			return wrapped(in, id)
		}, nil
	}
	return nil, fields.UnsupportedType("sampler", "", body.GetTypeUrl())
}

const zipkinFields = "collector_cluster collector_endpoint trace_id_128bit shared_span_context collector_endpoint_version " +
	"collector_hostname trace_context_option collector_service split_spans_for_request"

func (ts *Tracers) zipkin(c *tracev3.ZipkinConfig) (*Tracer, error) {
	if err := fields.Check(c, zipkinFields); err != nil {
		return nil, err
	}
	if c.GetCollectorEndpointVersion() != tracev3.ZipkinConfig_HTTP_JSON {
		return nil, fields.Unsupported(c, "collector_endpoint_version", c.GetCollectorEndpointVersion().String())
	}
	service := &export.HTTP{Clusters: ts.Clusters, Cluster: c.GetCollectorCluster(), Host: c.GetCollectorHostname(), Path: c.GetCollectorEndpoint()}
	if service.Host == "" {
		service.Host = c.GetCollectorCluster()
	}
	if s := c.GetCollectorService(); s != nil {
		var err error
		if service, err = export.HTTPService(s, ts.Clusters); err != nil {
			return nil, err
		}
	}
	t := &Tracer{
		extract: fromB3, inject: (*Context).toB3, long: c.GetTraceId_128Bit(), rootID: true,
		shared: c.GetSharedSpanContext() == nil || c.GetSharedSpanContext().GetValue(),
	}
	if c.GetTraceContextOption() == tracev3.ZipkinConfig_USE_B3_WITH_W3C_PROPAGATION {
		t.extract = func(h http.Header) incoming {
			if in := fromB3(h); in.found || in.decided {
				return in
			}
			return fromW3C(h)
		}
		t.inject = func(c *Context, h http.Header) { c.toB3(h); c.toW3C(h) }
	}
	t.report = ts.queue("zipkin", export.Config[*Span]{Send: zipkinSender(service, ts.Node), Timeout: service.Timeout})
	return t, nil
}
