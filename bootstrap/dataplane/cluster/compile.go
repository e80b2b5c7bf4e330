package cluster

import (
	"fmt"
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
)

// Fields honoured, and those whose absence of effect changes no traffic (names, statistics, buffers, timings of
// housekeeping).
const clusterFields = "name alt_stat_name type cluster_type eds_cluster_config connect_timeout lb_policy load_balancing_policy load_assignment " +
	"circuit_breakers typed_extension_protocol_options metadata filters transport_socket transport_socket_matches " +
	"common_lb_config upstream_bind_config upstream_connection_options dns_lookup_family respect_dns_ttl dns_refresh_rate " +
	"max_requests_per_connection least_request_lb_config round_robin_lb_config ring_hash_lb_config maglev_lb_config per_connection_buffer_limit_bytes " +
	"cleanup_interval original_dst_lb_config http2_protocol_options track_cluster_stats dns_jitter dns_failure_refresh_rate " +
	"ignore_health_on_host_removal wait_for_warm_on_init track_timeout_budgets outlier_detection typed_dns_resolver_config"

const httpOptionsType = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// compile translates p. The error names the first field that is not honoured.
func compile(p *clusterv3.Cluster, secrets tlsctx.Secrets, reg *stats.Registry) (*Cluster, error) {
	if err := fields.Check(p, clusterFields); err != nil {
		return nil, err
	}
	if p.GetName() == "" {
		return nil, fmt.Errorf("cluster without a name")
	}
	c := &Cluster{
		Name: p.GetName(), Proto: p, Updated: time.Now(), connectTimeout: 5 * time.Second,
		plainDefault: &socket{name: "raw_buffer"}, ready: make(chan struct{}),
	}
	if d := p.GetConnectTimeout(); d != nil {
		c.connectTimeout = d.AsDuration()
	}
	//nolint:staticcheck // deprecated, still sent
	c.maxPerConn = p.GetMaxRequestsPerConnection().GetValue()
	//nolint:staticcheck // deprecated, still sent
	if p.GetHttp2ProtocolOptions() != nil {
		c.Protocol = HTTP2
	}
	for _, step := range []func() error{
		func() error { return c.setKind(p) },
		func() (err error) { c.balance, err = compileBalance(p); return err },
		func() error { return c.setHTTPOptions(p) },
		func() error { return c.setSockets(p, secrets) },
		func() error { return c.setConnection(p) },
		func() error { return c.setLimits(p.GetCircuitBreakers()) },
		func() error { return c.setFilters(p) },
		func() error { return c.setDNS(p) },
		func() (err error) { c.outlier, err = compileOutlier(p.GetOutlierDetection()); return err },
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("cluster %q: %w", p.GetName(), err)
		}
	}
	c.metadata = filterMetadata(p.GetMetadata())
	c.Stats = NewStats(reg, c.Name)
	if c.Kind == Static {
		if err := c.SetEndpoints(p.GetLoadAssignment()); err != nil {
			return nil, fmt.Errorf("cluster %q: %w", p.GetName(), err)
		}
	}
	if c.Kind == StrictDNS || c.Kind == LogicalDNS {
		if _, err := c.parseAssignment(p.GetLoadAssignment()); err != nil {
			return nil, fmt.Errorf("cluster %q: %w", p.GetName(), err)
		}
	}
	if c.Kind == OriginalDst || c.Kind == Dynamic {
		c.arrived()
	}
	c.outlier.bind(c, reg)
	return c, nil
}

func (c *Cluster) setKind(p *clusterv3.Cluster) error {
	if p.GetClusterType() != nil {
		return c.setDynamic(p)
	}
	switch p.GetType() {
	case clusterv3.Cluster_STATIC:
		c.Kind = Static
	case clusterv3.Cluster_STRICT_DNS:
		c.Kind = StrictDNS
	case clusterv3.Cluster_LOGICAL_DNS:
		c.Kind = LogicalDNS
	case clusterv3.Cluster_EDS:
		c.Kind = EDS
		if err := fields.Check(p.GetEdsClusterConfig(), "eds_config service_name"); err != nil {
			return err
		}
		src, err := tlsctx.ConfigSource(p.GetEdsClusterConfig().GetEdsConfig())
		if err != nil {
			return err
		}
		if src != tlsctx.ADS {
			return fields.Unsupported(p, "eds_cluster_config", "only ADS")
		}
		c.EDSName = p.GetEdsClusterConfig().GetServiceName()
		if c.EDSName == "" {
			c.EDSName = p.GetName()
		}
	case clusterv3.Cluster_ORIGINAL_DST:
		c.Kind = OriginalDst
		return c.setOriginal(p)
	default:
		return fields.Unsupported(p, "type", p.GetType().String())
	}
	return nil
}

func (c *Cluster) setHTTPOptions(p *clusterv3.Cluster) error {
	for name, body := range p.GetTypedExtensionProtocolOptions() {
		if name != httpOptionsType {
			return fields.UnsupportedType("protocol options", name, body.GetTypeUrl())
		}
		o := &httpv3.HttpProtocolOptions{}
		if err := body.UnmarshalTo(o); err != nil {
			return err
		}
		const known = "common_http_protocol_options upstream_http_protocol_options explicit_http_config " +
			"use_downstream_protocol_config auto_config"
		if err := fields.Check(o, known); err != nil {
			return err
		}
		if err := c.setCommonHTTP(o); err != nil {
			return err
		}
		switch u := o.GetUpstreamProtocolOptions().(type) {
		case nil:
		case *httpv3.HttpProtocolOptions_ExplicitHttpConfig_:
			if u.ExplicitHttpConfig.GetHttp3ProtocolOptions() != nil {
				return fields.Unsupported(u.ExplicitHttpConfig, "http3_protocol_options", "")
			}
			c.Protocol = HTTP1
			if u.ExplicitHttpConfig.GetHttp2ProtocolOptions() != nil {
				c.Protocol = HTTP2
			}
			return c.setCodecs(u.ExplicitHttpConfig)
		case *httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig:
			c.Protocol = Downstream
			return c.setCodecs(u.UseDownstreamProtocolConfig)
		case *httpv3.HttpProtocolOptions_AutoConfig:
			c.Protocol = Auto
			return c.setCodecs(u.AutoConfig)
		}
	}
	return nil
}

// setCodecs takes the settings of both HTTP versions.
func (c *Cluster) setCodecs(o interface {
	GetHttpProtocolOptions() *corev3.Http1ProtocolOptions
	GetHttp2ProtocolOptions() *corev3.Http2ProtocolOptions
},
) error {
	if err := fields.Check(o.GetHttpProtocolOptions(), "header_key_format"); err != nil {
		return err
	}
	var err error
	if c.keepNames, err = KeepsNames(o.GetHttpProtocolOptions()); err != nil {
		return err
	}
	h2 := o.GetHttp2ProtocolOptions()
	const known = "max_concurrent_streams connection_keepalive initial_stream_window_size initial_connection_window_size"
	if err := fields.Check(h2, known); err != nil {
		return err
	}
	k := h2.GetConnectionKeepalive()
	if err := fields.Check(k, "interval timeout interval_jitter connection_idle_interval"); err != nil {
		return err
	}
	c.streams = h2.GetMaxConcurrentStreams().GetValue()
	c.ping, c.pingWait = k.GetInterval().AsDuration(), k.GetTimeout().AsDuration()
	return nil
}

func (c *Cluster) setCommonHTTP(o *httpv3.HttpProtocolOptions) error {
	common := o.GetCommonHttpProtocolOptions()
	if err := fields.Check(common, "idle_timeout max_requests_per_connection max_connection_duration"); err != nil {
		return err
	}
	c.maxAge = common.GetMaxConnectionDuration().AsDuration()
	if d := common.GetIdleTimeout(); d != nil {
		c.idleTimeout = d.AsDuration()
	}
	if n := common.GetMaxRequestsPerConnection(); n != nil {
		c.maxPerConn = n.GetValue()
	}
	up := o.GetUpstreamHttpProtocolOptions()
	c.autoSNI, c.autoSAN = up.GetAutoSni(), up.GetAutoSanValidation()
	return fields.Check(up, "auto_sni auto_san_validation")
}

type keepalive struct {
	on             bool
	idle, interval time.Duration
	probes         int
}

func (c *Cluster) setConnection(p *clusterv3.Cluster) error {
	o := p.GetUpstreamConnectionOptions()
	if err := fields.Check(o, "tcp_keepalive set_local_interface_name_on_upstream_connections"); err != nil {
		return err
	}
	if k := o.GetTcpKeepalive(); k != nil {
		// What is not set is left to the system.
		seconds := func(v *uint32Value) time.Duration {
			if v == nil {
				return -1
			}
			return time.Duration(v.GetValue()) * time.Second
		}
		c.keepalive = keepalive{
			on: true, idle: seconds(k.GetKeepaliveTime()), interval: seconds(k.GetKeepaliveInterval()), probes: -1,
		}
		if v := k.GetKeepaliveProbes(); v != nil {
			c.keepalive.probes = int(v.GetValue())
		}
	}
	b := p.GetUpstreamBindConfig()
	if err := fields.Check(b, "source_address extra_source_addresses"); err != nil {
		return err
	}
	if a := b.GetSourceAddress().GetAddress(); a != "" {
		ip, err := netip.ParseAddr(a)
		if err != nil {
			return fmt.Errorf("upstream_bind_config: %w", err)
		}
		c.bind = ip
	}
	return nil
}

func (c *Cluster) setFilters(p *clusterv3.Cluster) error {
	for _, f := range p.GetFilters() {
		url := registry.InnerType(f.GetTypedConfig())
		if url != registry.MetadataExchangeTCP {
			return fields.UnsupportedType("cluster filter", f.GetName(), url)
		}
		c.mx = true
	}
	return nil
}

// Exchanges reports whether TCP metadata exchange is configured for connections to the cluster.
func (c *Cluster) Exchanges() bool { return c.mx }

func filterMetadata(m *corev3.Metadata) map[string]map[string]any {
	out := map[string]map[string]any{}
	for name, s := range m.GetFilterMetadata() {
		out[name] = s.AsMap()
	}
	return out
}
