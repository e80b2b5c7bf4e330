// Package registry lists every extension type that istiod can send and what this data plane does with it. Translators
// look up the type URLs here; the documentation table is made from it.
//
// It knows names and statuses. It knows no implementation.
package registry

import (
	"sort"

	udpav1 "github.com/cncf/xds/go/udpa/type/v1"
	xdsv3 "github.com/cncf/xds/go/xds/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// Status says what becomes of a configuration of that type.
type Status string

// Statuses.
const (
	Supported Status = "supported" // does what the configuration says
	Ignored   Status = "ignored"   // accepted without effect; the note says what that means
	Refused   Status = "refused"   // NACKed with the type's name
)

const prefix = "type.googleapis.com/"

// Type URLs that translators switch on.
const (
	RawBuffer     = prefix + "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
	UpstreamTLS   = prefix + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
	DownstreamTLS = prefix + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"

	UpstreamProxyProtocol = prefix + "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"

	OriginalDst   = prefix + "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
	OriginalSrc   = prefix + "envoy.extensions.filters.listener.original_src.v3.OriginalSrc"
	TLSInspector  = prefix + "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
	HTTPInspector = prefix + "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
	ProxyProtocol = prefix + "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"

	HTTPConnectionManager = prefix + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	TCPProxy              = prefix + "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	NetworkRBAC           = prefix + "envoy.extensions.filters.network.rbac.v3.RBAC"
	MetadataExchangeTCP   = prefix + "envoy.tcp.metadataexchange.config.MetadataExchange"
	IstioStats            = prefix + "stats.PluginConfig"

	Router             = prefix + "envoy.extensions.filters.http.router.v3.Router"
	HTTPRBAC           = prefix + "envoy.extensions.filters.http.rbac.v3.RBAC"
	HTTPRBACPerRoute   = prefix + "envoy.extensions.filters.http.rbac.v3.RBACPerRoute"
	PeerMetadata       = prefix + "io.istio.http.peer_metadata.Config"
	GRPCStats          = prefix + "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"
	ALPN               = prefix + "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"
	Fault              = prefix + "envoy.extensions.filters.http.fault.v3.HTTPFault"
	CORS               = prefix + "envoy.extensions.filters.http.cors.v3.Cors"
	CORSPolicy         = prefix + "envoy.extensions.filters.http.cors.v3.CorsPolicy"
	JWTAuthn           = prefix + "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
	JWTPerRoute        = prefix + "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig"
	HTTPExtAuthz       = prefix + "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
	ExtAuthzPerRoute   = prefix + "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
	HTTPLocalRateLimit = prefix + "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
	HTTPRateLimit      = prefix + "envoy.extensions.filters.http.ratelimit.v3.RateLimit"
	RateLimitPerRoute  = prefix + "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"
	NetworkExtAuthz    = prefix + "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz"
	NetworkLocalLimit  = prefix + "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit"

	Compressor     = prefix + "envoy.extensions.filters.http.compressor.v3.Compressor"
	GRPCWeb        = prefix + "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"
	HeaderMutation = prefix + "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
	// HeaderMutationPerRoute is what routes say about HeaderMutation.
	HeaderMutationPerRoute = prefix + "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute"
	StatefulSession        = prefix + "envoy.extensions.filters.http.stateful_session.v3.StatefulSession"

	StatefulSessionPerRoute = prefix + "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute"
	CookieSession           = prefix + "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState"
	HeaderSession           = prefix + "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState"

	OpenTelemetryTracer = prefix + "envoy.config.trace.v3.OpenTelemetryConfig"
	ZipkinTracer        = prefix + "envoy.config.trace.v3.ZipkinConfig"

	StdoutAccessLog    = prefix + "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
	StderrAccessLog    = prefix + "envoy.extensions.access_loggers.stream.v3.StderrAccessLog"
	HTTPGrpcAccessLog  = prefix + "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"
	TCPGrpcAccessLog   = prefix + "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig"
	OTelAccessLog      = prefix + "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig"
	CELLogFilter       = prefix + "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
	FileAccessLog      = prefix + "envoy.extensions.access_loggers.file.v3.FileAccessLog"
	PreserveCase       = prefix + "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"
	UUIDRequestID      = prefix + "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"
	HTTPOptions        = prefix + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	PreviousPriorities = prefix + "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
	PreviousHosts      = prefix + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"

	LBRoundRobin   = prefix + "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"
	LBLeastRequest = prefix + "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest"
	LBRandom       = prefix + "envoy.extensions.load_balancing_policies.random.v3.Random"
	LBRingHash     = prefix + "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash"
	LBMaglev       = prefix + "envoy.extensions.load_balancing_policies.maglev.v3.Maglev"
	LBWrrLocality  = prefix + "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality"
	DynamicCluster = prefix + "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig"
	DynamicForward = prefix + "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig"
	DynamicSNI     = prefix + "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig"
	CaresDNS       = prefix + "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
)

// Entry is one row of the table.
type Entry struct {
	Kind    string // "http filter", "listener filter", ...
	Name    string // the name istiod gives it
	TypeURL string
	Status  Status
	Note    string
}

// Entries returns the table sorted by kind and type URL.
func Entries() []Entry {
	out := append([]Entry(nil), table...)
	sort.Slice(out, func(i, j int) bool {
		if out[i].Kind != out[j].Kind {
			return out[i].Kind < out[j].Kind
		}
		return out[i].TypeURL < out[j].TypeURL
	})
	return out
}

// Lookup returns the row of a type URL; absent types are refused.
func Lookup(typeURL string) (Entry, bool) {
	for _, e := range table {
		if e.TypeURL == typeURL {
			return e, true
		}
	}
	return Entry{}, false
}

// InnerType returns the type that a is about: the wrapped one where a is a TypedStruct.
func InnerType(a *anypb.Any) string {
	url, _, _ := Unwrap(a)
	return url
}

// Unwrap looks into a TypedStruct: the inner type URL and value. For other messages the value is nil.
func Unwrap(a *anypb.Any) (string, *structpb.Struct, error) {
	switch a.GetTypeUrl() {
	case prefix + "xds.type.v3.TypedStruct":
		t := &xdsv3.TypedStruct{}
		if err := a.UnmarshalTo(t); err != nil {
			return a.GetTypeUrl(), nil, err
		}
		return t.GetTypeUrl(), t.GetValue(), nil
	case prefix + "udpa.type.v1.TypedStruct":
		t := &udpav1.TypedStruct{}
		if err := a.UnmarshalTo(t); err != nil {
			return a.GetTypeUrl(), nil, err
		}
		return t.GetTypeUrl(), t.GetValue(), nil
	}
	return a.GetTypeUrl(), nil, nil
}
