package dataplane

import (
	"fmt"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	nauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	nlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/local_ratelimit/v3"
	nrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	snidfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_dynamic_forward_proxy/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	statsv1 "istio.io/api/envoy/extensions/stats"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/hcm"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/listener"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/metrics"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/netfilter"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tcpproxy"
)

// builder makes network filters for listeners.
type builder struct {
	env  *hcm.Env
	logs *logSinks
}

var _ listener.Builder = (*builder)(nil)

// Filter implements listener.Builder.
func (b *builder) Filter(f *listenerv3.Filter, ctx listener.Context) (listener.Built, error) {
	if err := fields.Check(f, "name typed_config"); err != nil {
		return listener.Built{}, err
	}
	body, err := registry.Plain(f.GetTypedConfig())
	if err != nil {
		return listener.Built{}, fmt.Errorf("network filter %q: %w", f.GetName(), err)
	}
	switch url := registry.InnerType(body); url {
	case registry.HTTPConnectionManager:
		p := &hcmv3.HttpConnectionManager{}
		if err := body.UnmarshalTo(p); err != nil {
			return listener.Built{}, err
		}
		logs, err := b.logs.loggers(p.GetAccessLog())
		if err != nil {
			return listener.Built{}, err
		}
		m, err := hcm.Compile(p, b.env, ctx.Direction, logs)
		if err != nil {
			return listener.Built{}, err
		}
		return listener.Built{Terminal: m, Waits: m.Waits()}, nil
	case registry.TCPProxy:
		p := &tcpv3.TcpProxy{}
		if err := body.UnmarshalTo(p); err != nil {
			return listener.Built{}, err
		}
		logs, err := b.logs.loggers(p.GetAccessLog())
		if err != nil {
			return listener.Built{}, err
		}
		t, err := tcpproxy.Compile(p, b.env.Clusters, b.env.Self, logs)
		return listener.Built{Terminal: t}, err
	case registry.NetworkRBAC:
		p := &nrbacv3.RBAC{}
		if err := body.UnmarshalTo(p); err != nil {
			return listener.Built{}, err
		}
		r, err := netfilter.NewRBAC(p, b.env.Stats)
		return listener.Built{Filter: r}, err
	case registry.NetworkExtAuthz:
		p := &nauthzv3.ExtAuthz{}
		if err := body.UnmarshalTo(p); err != nil {
			return listener.Built{}, err
		}
		e, err := netfilter.NewExtAuthz(p, b.env.Clusters, b.env.Stats)
		return listener.Built{Filter: e}, err
	case registry.NetworkLocalLimit:
		p := &nlimitv3.LocalRateLimit{}
		if err := body.UnmarshalTo(p); err != nil {
			return listener.Built{}, err
		}
		l, err := netfilter.NewLocalRateLimit(p, b.env.Stats)
		return listener.Built{Filter: l}, err
	case registry.DynamicSNI:
		p := &snidfpv3.FilterConfig{}
		if err := body.UnmarshalTo(p); err != nil {
			return listener.Built{}, err
		}
		d, err := netfilter.NewSNIProxy(p)
		return listener.Built{Filter: d}, err
	case registry.MetadataExchangeTCP:
		return listener.Built{Filter: &netfilter.Exchange{Self: b.env.Self}}, nil
	case registry.IstioStats:
		p := &statsv1.PluginConfig{}
		if err := body.UnmarshalTo(p); err != nil {
			return listener.Built{}, err
		}
		c, err := metrics.Compile(p, b.env.Self, b.env.Stats)
		return listener.Built{Filter: &netfilter.Stats{Env: b.env, Config: c}}, err
	default:
		return listener.Built{}, fields.UnsupportedType("network filter", f.GetName(), url)
	}
}

// Rejected implements listener.Builder.
func (b *builder) Rejected(l *listenerv3.Listener) (func(*network.Conn, string), error) {
	logs, err := b.logs.loggers(l.GetAccessLog())
	if err != nil {
		return nil, fmt.Errorf("access_log: %w", err)
	}
	if len(logs) == 0 {
		return nil, nil
	}
	return func(c *network.Conn, flag string) {
		e := hcm.ConnEntry(c)
		if flag == "NR" {
			e.Flags = accesslog.NoRouteFound
			e.ResponseCodeDetails = "filter_chain_not_found"
		}
		for _, l := range logs {
			l.Log(e)
		}
	}, nil
}
