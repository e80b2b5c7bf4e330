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

	Router           = prefix + "envoy.extensions.filters.http.router.v3.Router"
	HTTPRBAC         = prefix + "envoy.extensions.filters.http.rbac.v3.RBAC"
	HTTPRBACPerRoute = prefix + "envoy.extensions.filters.http.rbac.v3.RBACPerRoute"
	PeerMetadata     = prefix + "io.istio.http.peer_metadata.Config"
	GRPCStats        = prefix + "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"
	ALPN             = prefix + "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"
	Fault            = prefix + "envoy.extensions.filters.http.fault.v3.HTTPFault"
	CORS             = prefix + "envoy.extensions.filters.http.cors.v3.Cors"
	CORSPolicy       = prefix + "envoy.extensions.filters.http.cors.v3.CorsPolicy"
	Compressor       = prefix + "envoy.extensions.filters.http.compressor.v3.Compressor"
	StatefulSession  = prefix + "envoy.extensions.filters.http.stateful_session.v3.StatefulSession"

	FileAccessLog = prefix + "envoy.extensions.access_loggers.file.v3.FileAccessLog"
	UUIDRequestID = prefix + "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"
	HTTPOptions   = prefix + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	PreviousHosts = prefix + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
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
