package hcm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	uuidv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tracing"
)

// tracer is the tracing of one connection manager. Without it a request costs nothing.
type tracer struct {
	tracer              *tracing.Tracer // nil where no provider is named anywhere
	client, overall     share
	random              share
	tags                []customTag
	maxPath             int
	verbose, spawn      bool
	egress, quiet       bool // quiet: no_context_propagation
	packReason, byID    bool // what the request id says of the trace, and whether it decides
	operation, upstream *accesslog.Formatter

	forced, clientForced, sampled, none *stats.Counter
}

// share is a fraction of all requests, chosen by a number: those whose remainder is below.
type share struct{ below, of uint64 }

func (p share) takes(n uint64) bool { return n%p.of < p.below }

func percent(p *typev3.Percent, of float64) share {
	v := 100.0
	if p != nil {
		v = p.GetValue()
	}
	n := math.Trunc(v)
	if of > 100 {
		n = math.Round(v * of / 100)
	}
	return share{uint64(max(n, 0)), uint64(of)}
}

func fractionOf(p *typev3.FractionalPercent, otherwise share) share {
	if p == nil {
		return otherwise
	}
	of := map[typev3.FractionalPercent_DenominatorType]uint64{
		typev3.FractionalPercent_HUNDRED: 100, typev3.FractionalPercent_TEN_THOUSAND: 10_000, typev3.FractionalPercent_MILLION: 1_000_000,
	}[p.GetDenominator()]
	return share{uint64(p.GetNumerator()), of}
}

const tracingFields = "client_sampling random_sampling overall_sampling verbose max_path_tag_length custom_tags provider " +
	"spawn_upstream_span operation upstream_operation no_context_propagation"

// setTracing compiles the tracing of the connection manager and how request ids say what becomes of it.
func (m *Manager) setTracing(p *hcmv3.HttpConnectionManager) error {
	id := &uuidv3.UuidRequestIdConfig{}
	if e := p.GetRequestIdExtension().GetTypedConfig(); e != nil {
		if e.GetTypeUrl() != registry.UUIDRequestID {
			return fields.UnsupportedType("request id extension", "", e.GetTypeUrl())
		}
		if err := e.UnmarshalTo(id); err != nil {
			return err
		}
		if err := fields.Check(id, "pack_trace_reason use_request_id_for_trace_sampling"); err != nil {
			return err
		}
	}
	c := p.GetTracing()
	if c == nil {
		return nil
	}
	if err := fields.Check(c, tracingFields); err != nil {
		return err
	}
	yes := func(b *wrapperspb.BoolValue) bool { return b == nil || b.GetValue() }
	t := &tracer{
		client: percent(c.GetClientSampling(), 100), random: percent(c.GetRandomSampling(), 10_000),
		overall: percent(c.GetOverallSampling(), 100), verbose: c.GetVerbose(), maxPath: 256,
		spawn: c.GetSpawnUpstreamSpan().GetValue() || m.childSpans, egress: m.direction == network.Outbound,
		quiet: c.GetNoContextPropagation(), packReason: yes(id.GetPackTraceReason()), byID: yes(id.GetUseRequestIdForTraceSampling()),
	}
	if n := c.GetMaxPathTagLength(); n != nil {
		t.maxPath = int(n.GetValue())
	}
	var err error
	if t.tags, err = compileTags(c.GetCustomTags()); err != nil {
		return err
	}
	for text, into := range map[string]**accesslog.Formatter{c.GetOperation(): &t.operation, c.GetUpstreamOperation(): &t.upstream} {
		if text == "" {
			continue
		}
		if *into, err = accesslog.CompileText(text); err != nil {
			return fmt.Errorf("tracing: operation: %w", err)
		}
	}
	provider := c.GetProvider()
	if provider == nil {
		provider = m.env.Tracing
	}
	if provider != nil {
		if m.env.Tracers == nil {
			return fields.Unsupported(c, "provider", "there is nothing to report spans with")
		}
		if t.tracer, err = m.env.Tracers.Get(provider); err != nil {
			return fmt.Errorf("tracing: %w", err)
		}
	}
	sc := stats.Scope{
		Name: "http." + m.name + ".tracing", Family: "envoy_http_tracing", Labels: stats.Label("http_conn_manager_prefix", m.name),
	}
	of := func(n string) *stats.Counter { return m.env.Stats.Counter(sc, n) }
	t.forced, t.clientForced, t.sampled, t.none = of("service_forced"), of("client_enabled"), of("random_sampling"), of("not_traceable")
	m.tracing = t
	return nil
}

// routeTracing is what a route changes.
type routeTracing struct {
	client, random, overall *typev3.FractionalPercent
	tags                    []customTag
}

func compileRouteTracing(p *routev3.Tracing) (*routeTracing, error) {
	if p == nil {
		return nil, nil
	}
	if err := fields.Check(p, "client_sampling random_sampling overall_sampling custom_tags"); err != nil {
		return nil, err
	}
	tags, err := compileTags(p.GetCustomTags())
	return &routeTracing{p.GetClientSampling(), p.GetRandomSampling(), p.GetOverallSampling(), tags}, err
}

// The 13th digit of a request id says what became of the trace.
const (
	reasonAt      = 14
	reasonNone    = '4'
	reasonSampled = '9'
	reasonForced  = 'a'
	reasonClient  = 'b'
)

// decide finds out whether the request is traced, and writes that into the request id.
func (t *tracer) decide(s *Stream) bool {
	h := s.req.Header
	id := firstOf(h["X-Request-Id"])
	reason := byte(reasonNone)
	n := rand.Uint64()
	usable := len(id) == 36
	if usable {
		v, err := strconv.ParseUint(id[:8], 16, 64)
		if usable = err == nil; usable {
			n = v
		}
	}
	if usable && t.packReason && (!s.edge || !s.m.keepRequestID) {
		reason = id[reasonAt]
	}
	before := reason
	if !t.byID {
		t.sampled.Inc()
		return true
	}
	client, random, overall := t.client, t.random, t.overall
	if s.route != nil && s.route.tracing != nil {
		r := s.route.tracing
		client, random, overall = fractionOf(r.client, client), fractionOf(r.random, random), fractionOf(r.overall, overall)
	}
	if !usable {
		t.none.Inc()
		return false // as in Envoy: without an id there is no decision
	}
	n %= 10_000
	if reason != reasonSampled && reason != reasonForced && reason != reasonClient {
		reason = reasonNone
		switch {
		case len(h["X-Client-Trace-Id"]) > 0 && client.takes(rand.Uint64()):
			reason = reasonClient
		case len(h["X-Envoy-Force-Trace"]) > 0:
			reason = reasonForced
		case random.takes(n):
			reason = reasonSampled
		}
	}
	if reason != reasonNone && !overall.takes(n) {
		reason = reasonNone
	}
	if t.packReason && (reason != before || s.edge && s.m.keepRequestID) {
		b := []byte(id)
		b[reasonAt] = reason
		h["X-Request-Id"] = []string{string(b)}
	}
	switch reason {
	case reasonSampled:
		t.sampled.Inc()
	case reasonForced:
		t.forced.Inc()
	case reasonClient:
		t.clientForced.Inc()
	default:
		t.none.Inc()
	}
	return reason != reasonNone
}

// beginSpan starts the span of the request, once its route is known.
func (s *Stream) beginSpan() {
	t := s.m.tracing
	traced := t.decide(s)
	if t.tracer == nil {
		return
	}
	kind, name := tracing.Server, "ingress"
	if t.egress {
		name = "egress " + s.authority
		if !t.spawn {
			kind = tracing.Client
		}
	}
	s.span = t.tracer.Start(s.req.Header, kind, name, s.start, traced)
	h := s.req.Header
	if s.route != nil && s.route.decorator != "" {
		s.span.Name = s.route.decorator
		if t.egress && s.route.propagate {
			h[decoratorHeader] = []string{s.route.decorator}
		}
	}
	if !t.egress {
		if over, ok := h[decoratorHeader]; ok {
			if name := firstOf(over); name != "" {
				s.span.Name, s.decorated = name, true
			}
			delete(h, decoratorHeader)
		}
	}
	if t.operation != nil && s.span.Sampled {
		s.span.Name = string(t.operation.Format(s.entry()))
		s.cachedEntry = nil
	}
}

const decoratorHeader = "X-Envoy-Decorator-Operation"

// traceResponse carries the name of the operation back to the client's proxy, or takes it from the server's.
func (s *Stream) traceResponse(h http.Header) {
	if s.m.tracing.egress {
		if over, ok := h[decoratorHeader]; ok {
			if name := firstOf(over); name != "" {
				s.span.Name = name
			}
			delete(h, decoratorHeader)
		}
		return
	}
	if s.route != nil && s.route.decorator != "" && s.route.propagate && !s.decorated {
		h[decoratorHeader] = []string{s.route.decorator}
	}
}

// traceAttempt puts the context of the span into the headers of a request that goes out, and begins a span for it where
// each attempt has one.
func (s *Stream) traceAttempt(h http.Header) {
	t := s.m.tracing
	if !t.spawn {
		if !t.quiet {
			s.span.Inject(h)
		}
		return
	}
	s.endAttempt()
	name := "router " + s.clusterN + " egress"
	if s.cluster != nil && s.cluster.Proto.GetAltStatName() != "" {
		name = "router " + s.cluster.Proto.GetAltStatName() + " egress"
	}
	s.upSpan = s.span.Child(tracing.Client, name, timeNow())
	if t.upstream != nil && s.span.Sampled {
		s.upSpan.Name = string(t.upstream.Format(s.entry()))
		s.cachedEntry = nil
	}
	if s.attempts > 1 {
		s.upSpan.Set("retry.count", strconv.Itoa(s.attempts-1))
	}
	if !t.quiet {
		s.upSpan.Inject(h)
	}
}
