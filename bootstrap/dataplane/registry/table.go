package registry

var table = []Entry{
	{"transport socket", "envoy.transport_sockets.raw_buffer", RawBuffer, Supported, ""},
	{"transport socket", "envoy.transport_sockets.tls", UpstreamTLS, Supported, "TLS 1.2 and 1.3; RSA and ECDSA; curves are Go's"},
	{"transport socket", "envoy.transport_sockets.tls", DownstreamTLS, Supported, "TLS 1.2 and 1.3; RSA and ECDSA; curves are Go's"},

	{"listener filter", "envoy.filters.listener.original_dst", OriginalDst, Supported, ""},
	{"listener filter", "envoy.filters.listener.original_src", OriginalSrc, Refused, "TPROXY interception"},
	{"listener filter", "envoy.filters.listener.tls_inspector", TLSInspector, Supported, ""},
	{"listener filter", "envoy.filters.listener.http_inspector", HTTPInspector, Supported, ""},
	{"listener filter", "envoy.listener.proxy_protocol", ProxyProtocol, Refused, ""},

	{"network filter", "envoy.filters.network.http_connection_manager", HTTPConnectionManager, Supported, "HTTP/1.1 and HTTP/2"},
	{"network filter", "envoy.filters.network.tcp_proxy", TCPProxy, Supported, "no tunnelling"},
	{"network filter", "envoy.filters.network.rbac", NetworkRBAC, Supported, ""},
	{"network filter", "istio.metadata_exchange", MetadataExchangeTCP, Supported, ""},
	{"network and http filter", "istio.stats", IstioStats, Supported, "tag overrides: removal only"},

	{"http filter", "envoy.filters.http.router", Router, Supported, ""},
	{"http filter", "envoy.filters.http.rbac", HTTPRBAC, Supported, ""},
	{"http filter", "istio.metadata_exchange", PeerMetadata, Supported, "headers; not workload discovery"},
	{"http filter", "envoy.filters.http.grpc_stats", GRPCStats, Ignored, "observability only"},
	{"http filter", "istio.alpn", ALPN, Supported, ""},
	{"http filter", "envoy.filters.http.fault", Fault, Supported, "delay and abort; per route"},
	{"http filter", "envoy.filters.http.cors", CORS, Supported, "per route"},
	{"http filter", "envoy.filters.http.compressor", Compressor, Ignored, "responses of the statistics port go out uncompressed"},

	{"access log", "envoy.access_loggers.file", FileAccessLog, Supported, ""},
	{"request id", "envoy.request_id.uuid", UUIDRequestID, Supported, ""},
	{"retry host predicate", "envoy.retry_host_predicates.previous_hosts", PreviousHosts, Supported, ""},
}
