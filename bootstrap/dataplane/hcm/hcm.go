// Package hcm is the HTTP connection manager: it speaks HTTP/1.1 and HTTP/2 to clients, routes requests, runs HTTP
// filters and forwards to clusters.
//
// It knows HTTP, routes, retries and header rules as Envoy defines them. It does not know sockets, filter-chain matching
// or endpoints. One file per filter (filter_*.go), each entered in the factories table.
package hcm

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tracing"
)

// Logger takes finished requests or connections.
type Logger interface{ Log(*accesslog.Entry) }

// Env is what all connection managers of one proxy share. All fields are required but those about identity and tracing.
type Env struct {
	Clusters *cluster.Manager
	Routes   *RouteStore
	Stats    *stats.Registry
	Log      *slog.Logger
	Self     *peer.Info
	Node     string // the bootstrap node's cluster
	Peers    *peer.Cache
	Identity *corev3.Node                   // the bootstrap node
	Logger   func(part string) *slog.Logger // of one part of the proxy, instead of Log
	Tracers  *tracing.Tracers
	Tracing  *tracev3.Tracing_Http // where a connection manager names no provider
}

// Manager serves HTTP on the connections of one filter chain. It implements network.Terminal.
type Manager struct {
	env        *Env
	direction  network.Direction
	name       string // stat prefix
	codec      hcmv3.HttpConnectionManager_CodecType
	table      *TableRef
	rds        string
	rdsTimeout time.Duration
	filters    []filter
	waits      []tlsctx.Wait // of filters
	disabled   uint64        // filters, by index, that only a route can switch on
	loggers    []Logger

	serverName      string
	serverTransform hcmv3.HttpConnectionManager_ServerHeaderTransformation
	remoteAddress   bool // use_remote_address: this is the edge
	trustedHops     uint32
	skipXFF         bool
	appendPort      bool
	requestID       bool
	keepRequestID   bool
	requestIDInResp bool
	xfcc            hcmv3.HttpConnectionManager_ForwardClientCertDetails
	xfccSet         *hcmv3.HttpConnectionManager_SetCurrentClientCertDetails
	normalize       bool
	mergeSlashes    bool
	escaped         hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction
	stripAnyPort    bool
	stripMatching   bool
	upgrades        map[string]bool
	suppressHeaders bool
	http10          bool
	respectExpected bool // a timeout that a proxy before this one has worked out counts
	stripDot        bool
	via             string
	keepNames       bool           // of HTTP/1 headers
	internal        []netip.Prefix // clients that may steer the router
	alpn            func(c *cluster.Cluster, major int) []string
	grpcMessages    bool // a filter counts messages
	childSpans      bool // the router makes a span of each attempt
	tracing         *tracer

	idle, headersTimeout, requestTimeout time.Duration
	streamIdle, maxStream                time.Duration
	maxAge                               time.Duration // of a connection, 0 for none
	maxHeaderBytes                       int
	underscores                          int // 0 allow, 1 reject, 2 drop
	h2                                   h2Settings

	stats   *httpStats
	serving atomic.Int64 // requests whose answers are not out yet
	server  http.Handler
}

type h2Settings struct {
	streams              uint32
	streamWindow, window int32
}

const hcmFields = "codec_type stat_prefix rds route_config http_filters common_http_protocol_options " +
	"http_protocol_options http2_protocol_options server_name server_header_transformation max_request_headers_kb " +
	"stream_idle_timeout request_timeout request_headers_timeout drain_timeout delayed_close_timeout access_log " +
	"use_remote_address xff_num_trusted_hops skip_xff_append via generate_request_id preserve_external_request_id " +
	"always_set_request_id_in_response forward_client_cert_details set_current_client_cert_details upgrade_configs " +
	"normalize_path merge_slashes path_with_escaped_slashes_action request_id_extension strip_any_host_port " +
	"strip_matching_host_port internal_address_config tracing proxy_100_continue append_x_forwarded_port " +
	"stream_error_on_invalid_http_message strip_trailing_host_dot access_log_options"

// Compile translates p. The error names the first field that is not honoured.
func Compile(p *hcmv3.HttpConnectionManager, env *Env, dir network.Direction, loggers []Logger) (*Manager, error) {
	if err := fields.Check(p, hcmFields); err != nil {
		return nil, err
	}
	m := &Manager{
		env: env, direction: dir, name: p.GetStatPrefix(), codec: p.GetCodecType(), loggers: loggers,
		serverName: p.GetServerName(), serverTransform: p.GetServerHeaderTransformation(),
		remoteAddress: p.GetUseRemoteAddress().GetValue(), trustedHops: p.GetXffNumTrustedHops(), skipXFF: p.GetSkipXffAppend(),
		appendPort: p.GetAppendXForwardedPort(), requestID: p.GetGenerateRequestId() == nil || p.GetGenerateRequestId().GetValue(),
		keepRequestID: p.GetPreserveExternalRequestId(), requestIDInResp: p.GetAlwaysSetRequestIdInResponse(),
		xfcc: p.GetForwardClientCertDetails(), xfccSet: p.GetSetCurrentClientCertDetails(),
		normalize: p.GetNormalizePath().GetValue(), mergeSlashes: p.GetMergeSlashes(), escaped: p.GetPathWithEscapedSlashesAction(),
		stripAnyPort: p.GetStripAnyHostPort(), stripMatching: p.GetStripMatchingHostPort(), stripDot: p.GetStripTrailingHostDot(), via: p.GetVia(), upgrades: map[string]bool{},
		idle: time.Hour, streamIdle: 5 * time.Minute, maxHeaderBytes: 60 << 10,
	}
	if m.serverName == "" {
		m.serverName = "envoy"
	}
	if m.codec == hcmv3.HttpConnectionManager_HTTP3 {
		return nil, fields.Unsupported(p, "codec_type", "HTTP3")
	}
	ranges := p.GetInternalAddressConfig()
	if err := fields.Check(ranges, "cidr_ranges"); err != nil {
		return nil, err
	}
	for _, r := range ranges.GetCidrRanges() {
		pre, err := match.Prefix(r)
		if err != nil {
			return nil, fmt.Errorf("internal_address_config: %w", err)
		}
		m.internal = append(m.internal, pre)
	}
	for _, u := range p.GetUpgradeConfigs() {
		if len(u.GetFilters()) > 0 {
			return nil, fields.Unsupported(u, "filters", "")
		}
		m.upgrades[lowerASCII(u.GetUpgradeType())] = u.GetEnabled() == nil || u.GetEnabled().GetValue()
	}
	for _, step := range []func(*hcmv3.HttpConnectionManager) error{m.setProtocol, m.setRoutes, m.setFilters, m.setTracing} {
		if err := step(p); err != nil {
			return nil, err
		}
	}
	m.setStats()
	m.server = http.HandlerFunc(m.serveStream)
	return m, nil
}

func (m *Manager) setProtocol(p *hcmv3.HttpConnectionManager) error {
	if kb := p.GetMaxRequestHeadersKb(); kb != nil {
		m.maxHeaderBytes = int(kb.GetValue()) << 10
	}
	if d := p.GetStreamIdleTimeout(); d != nil {
		m.streamIdle = d.AsDuration()
	}
	m.requestTimeout = p.GetRequestTimeout().AsDuration()
	m.headersTimeout = p.GetRequestHeadersTimeout().AsDuration()
	c := p.GetCommonHttpProtocolOptions()
	if err := fields.Check(c, "idle_timeout max_stream_duration max_connection_duration headers_with_underscores_action"); err != nil {
		return err
	}
	if d := c.GetIdleTimeout(); d != nil {
		m.idle = d.AsDuration()
	}
	m.maxStream, m.maxAge = c.GetMaxStreamDuration().AsDuration(), c.GetMaxConnectionDuration().AsDuration()
	m.underscores = int(c.GetHeadersWithUnderscoresAction())
	h1 := p.GetHttpProtocolOptions()
	const known1 = "accept_http_10 header_key_format allow_absolute_url override_stream_error_on_invalid_http_message"
	if err := fields.Check(h1, known1); err != nil {
		return err
	}
	m.http10 = h1.GetAcceptHttp_10()
	var err error
	if m.keepNames, err = cluster.KeepsNames(h1); err != nil {
		return err
	}
	h2 := p.GetHttp2ProtocolOptions()
	const known2 = "max_concurrent_streams initial_stream_window_size initial_connection_window_size"
	if err := fields.Check(h2, known2); err != nil {
		return err
	}
	m.h2 = h2Settings{
		streams:      h2.GetMaxConcurrentStreams().GetValue(),
		streamWindow: int32(min(h2.GetInitialStreamWindowSize().GetValue(), 1<<31-1)),
		window:       int32(min(h2.GetInitialConnectionWindowSize().GetValue(), 1<<31-1)),
	}
	return nil
}

func (m *Manager) setRoutes(p *hcmv3.HttpConnectionManager) error {
	switch r := p.GetRouteSpecifier().(type) {
	case *hcmv3.HttpConnectionManager_RouteConfig:
		t, err := CompileRoutes(r.RouteConfig)
		if err != nil {
			return err
		}
		m.table = staticRef(t)
	case *hcmv3.HttpConnectionManager_Rds:
		src, err := tlsctx.ConfigSource(r.Rds.GetConfigSource())
		if err != nil {
			return err
		}
		if src != tlsctx.ADS {
			return fields.Unsupported(r.Rds, "config_source", "only ADS")
		}
		m.rds, m.rdsTimeout = r.Rds.GetRouteConfigName(), tlsctx.FetchTimeout(r.Rds.GetConfigSource())
		m.table = m.env.Routes.ref(m.rds)
	default:
		return fields.Unsupported(p, fmt.Sprintf("route_specifier (%T)", r), "")
	}
	return nil
}

// RouteName returns the name of the route configuration that comes by RDS, or "".
func (m *Manager) RouteName() string { return m.rds }

// Waits lists what must have arrived before requests can be routed.
func (m *Manager) Waits() []tlsctx.Wait {
	return append([]tlsctx.Wait{{Ready: m.table.ready, Timeout: m.rdsTimeout}}, m.waits...)
}

// InlineRoutes returns the route configuration that stands in the listener itself, or nil.
func (m *Manager) InlineRoutes() *routev3.RouteConfiguration {
	if m.rds != "" || m.table.Load() == nil {
		return nil
	}
	return m.table.Load().Proto
}
