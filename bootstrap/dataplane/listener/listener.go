// Package listener accepts connections, restores their original destination, looks at their first bytes, chooses a
// filter chain in Envoy's order and runs it.
//
// It knows sockets, listener filters, filter-chain matching, TLS termination and draining. It does not know what the
// filters do: a Builder makes them.
package listener

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
)

// Built is one compiled network filter; exactly one of Filter and Terminal is set. Waits must be over before
// traffic may come.
type Built struct {
	Filter   network.Filter
	Terminal network.Terminal
	Waits    []tlsctx.Wait
}

// Context tells a Builder where a filter stands.
type Context struct {
	Listener  string
	Direction network.Direction
	Chain     string
}

// Builder compiles network filters and access logs. Errors refuse the listener.
type Builder interface {
	Filter(*listenerv3.Filter, Context) (Built, error)
	// Rejected compiles the listener's own access log, which is told of connections that no chain takes; may be nil.
	Rejected(*listenerv3.Listener) (func(c *network.Conn, flag string), error)
}

// Listener is one compiled listener. It is immutable but for its connections.
type Listener struct {
	Name      string
	Proto     *listenerv3.Listener
	Version   string
	Updated   time.Time
	Direction network.Direction
	Static    bool

	addrs      []netip.AddrPort
	bind       bool
	handOff    bool
	filters    []listenerFilter
	timeout    time.Duration // of the listener filters, 0 for none
	continueOn bool          // go on when the filters time out
	chains     []*chain
	fallback   *chain
	rejected   func(*network.Conn, string)
	stats      *connStats
	waits      []tlsctx.Wait
	cancelled  chan struct{} // closed when a newer version replaces it before it is active
	cancelWarm sync.Once
}

type connStats struct {
	registry                                                        *stats.Registry
	scope                                                           stats.Scope
	total, destroyed, noChain, timeout, tlsError, handshake, panics *stats.Counter
	active                                                          *stats.Gauge
}

// chain is one filter chain. It lives on unchanged through listener updates that do not touch it.
type chain struct {
	name     string
	proto    *listenerv3.FilterChain
	match    criteria
	tls      *tlsctx.Server
	connect  time.Duration // handshake limit
	filters  []network.Filter
	terminal network.Terminal
	waits    []tlsctx.Wait

	mu       sync.Mutex
	draining chan struct{}
	drained  bool                       // draining is closed
	conns    map[*network.Conn]net.Conn // the socket beneath each
}

const listenerFields = "name address additional_addresses stat_prefix filter_chains default_filter_chain use_original_dst " +
	"listener_filters listener_filters_timeout continue_on_listener_filters_timeout traffic_direction bind_to_port access_log " +
	"metadata per_connection_buffer_limit_bytes connection_balance_config enable_reuse_port tcp_backlog_size deprecated_v1 " +
	"max_connections_to_accept_per_socket_event ignore_global_conn_limit bypass_overload_manager drain_type"

const chainFields = "filter_chain_match filters transport_socket name metadata transport_socket_connect_timeout"

type compiler struct {
	builder Builder
	secrets tlsctx.Secrets
	stats   *stats.Registry
	static  bool
}

// compile translates p. Chains of old that are unchanged are taken over. The error names the first field that is not
// honoured.
func (k *compiler) compile(p *listenerv3.Listener, old *Listener) (*Listener, error) {
	if err := fields.Check(p, listenerFields); err != nil {
		return nil, err
	}
	l := &Listener{
		Name: p.GetName(), Proto: p, Updated: time.Now(), bind: true, timeout: 15 * time.Second, Static: k.static,
		handOff: p.GetUseOriginalDst().GetValue(), continueOn: p.GetContinueOnListenerFiltersTimeout(),
		cancelled: make(chan struct{}),
	}
	switch p.GetTrafficDirection() {
	case corev3.TrafficDirection_INBOUND:
		l.Direction = network.Inbound
	case corev3.TrafficDirection_OUTBOUND:
		l.Direction = network.Outbound
	}
	if b := p.GetBindToPort(); b != nil {
		l.bind = b.GetValue()
	}
	//nolint:staticcheck // deprecated, still sent
	if b := p.GetDeprecatedV1().GetBindToPort(); b != nil {
		l.bind = b.GetValue()
	}
	if d := p.GetListenerFiltersTimeout(); d != nil {
		l.timeout = d.AsDuration()
	}
	if err := l.setAddresses(p); err != nil {
		return nil, err
	}
	for _, f := range p.GetListenerFilters() {
		lf, err := compileListenerFilter(f)
		if err != nil {
			return nil, err
		}
		l.filters = append(l.filters, lf)
	}
	if err := k.setChains(l, p, old); err != nil {
		return nil, err
	}
	rejected, err := k.builder.Rejected(p)
	if err != nil {
		return nil, err
	}
	l.rejected = rejected
	l.stats = k.connStats(l)
	return l, nil
}

func (l *Listener) setAddresses(p *listenerv3.Listener) error {
	add := func(a *corev3.Address) error {
		sa := a.GetSocketAddress()
		if sa == nil || sa.GetProtocol() != corev3.SocketAddress_TCP {
			return fields.Unsupported(p, "address", "only TCP socket addresses")
		}
		ip, err := netip.ParseAddr(sa.GetAddress())
		if err != nil {
			return fmt.Errorf("address: %w", err)
		}
		l.addrs = append(l.addrs, netip.AddrPortFrom(ip, uint16(sa.GetPortValue())))
		return nil
	}
	if p.GetInternalListener() != nil {
		return fields.Unsupported(p, "internal_listener", "HBONE")
	}
	if err := add(p.GetAddress()); err != nil {
		return err
	}
	for _, a := range p.GetAdditionalAddresses() {
		if err := add(a.GetAddress()); err != nil {
			return err
		}
	}
	return nil
}

func (k *compiler) setChains(l *Listener, p *listenerv3.Listener, old *Listener) error {
	for _, fc := range p.GetFilterChains() {
		c, err := k.chain(l, fc, old)
		if err != nil {
			return fmt.Errorf("filter chain %q: %w", fc.GetName(), err)
		}
		l.chains = append(l.chains, c)
		l.waits = append(l.waits, c.waits...)
	}
	if fc := p.GetDefaultFilterChain(); fc != nil {
		c, err := k.chain(l, fc, old)
		if err != nil {
			return fmt.Errorf("default filter chain %q: %w", fc.GetName(), err)
		}
		l.fallback = c
		l.waits = append(l.waits, c.waits...)
	}
	if len(l.chains) == 0 && l.fallback == nil {
		return fmt.Errorf("no filter chain")
	}
	return nil
}

func (k *compiler) chain(l *Listener, p *listenerv3.FilterChain, old *Listener) (*chain, error) {
	if old != nil && old.Direction == l.Direction {
		for _, c := range old.all() {
			if c.name == p.GetName() && proto.Equal(c.proto, p) && !c.isDraining() {
				return c, nil
			}
		}
	}
	if err := fields.Check(p, chainFields); err != nil {
		return nil, err
	}
	m, err := compileMatch(proto.CloneOf(p.GetFilterChainMatch()))
	if err != nil {
		return nil, err
	}
	c := &chain{
		name: p.GetName(), proto: p, match: m, connect: 15 * time.Second, draining: make(chan struct{}),
		conns: map[*network.Conn]net.Conn{},
	}
	if d := p.GetTransportSocketConnectTimeout(); d != nil && d.AsDuration() > 0 {
		c.connect = d.AsDuration()
	}
	if err := c.setSocket(p.GetTransportSocket(), k.secrets); err != nil {
		return nil, err
	}
	ctx := Context{Listener: l.Name, Direction: l.Direction, Chain: c.name}
	for i, f := range p.GetFilters() {
		b, err := k.builder.Filter(f, ctx)
		if err != nil {
			return nil, err
		}
		c.waits = append(c.waits, b.Waits...)
		if b.Terminal != nil {
			if i != len(p.GetFilters())-1 {
				return nil, fmt.Errorf("filter %q is terminal but not last", f.GetName())
			}
			c.terminal = b.Terminal
			continue
		}
		c.filters = append(c.filters, b.Filter)
	}
	if c.terminal == nil {
		return nil, fmt.Errorf("no terminal filter")
	}
	return c, nil
}

func (c *chain) setSocket(ts *corev3.TransportSocket, secrets tlsctx.Secrets) error {
	if ts == nil {
		return nil
	}
	switch url := ts.GetTypedConfig().GetTypeUrl(); url {
	case registry.RawBuffer:
		return nil
	case registry.DownstreamTLS:
		ctx := &tlsv3.DownstreamTlsContext{}
		if err := ts.GetTypedConfig().UnmarshalTo(ctx); err != nil {
			return err
		}
		t, err := tlsctx.CompileDownstream(ctx, secrets)
		if err != nil {
			return err
		}
		c.tls = t
		c.waits = append(c.waits, t.Waits()...)
		return nil
	default:
		return fields.UnsupportedType("transport socket", ts.GetName(), url)
	}
}

// drain tells the chain's connections to finish; those that come later are told at once.
func (c *chain) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.drained {
		c.drained = true
		close(c.draining)
	}
}

// resume lets connections that come from now on stay.
func (c *chain) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drained {
		c.drained, c.draining = false, make(chan struct{})
	}
}

func (c *chain) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drained
}

// closeAll ends what is left of the chain's connections.
func (c *chain) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, nc := range c.conns {
		_ = nc.Close()
	}
}

func (l *Listener) all() []*chain {
	if l.fallback == nil {
		return l.chains
	}
	return append(append([]*chain(nil), l.chains...), l.fallback)
}

// Refs lists the secrets that the listener's chains need.
func (l *Listener) Refs() []*tlsctx.Ref {
	var out []*tlsctx.Ref
	for _, c := range l.all() {
		if c.tls != nil {
			out = append(out, c.tls.Refs()...)
		}
	}
	return out
}

// Addresses returns the addresses that the listener stands for.
func (l *Listener) Addresses() []netip.AddrPort { return l.addrs }

func (k *compiler) connStats(l *Listener) *connStats {
	name := l.Proto.GetStatPrefix()
	if name == "" {
		name = strings.ReplaceAll(l.addrs[0].String(), ":", "_")
	}
	sc := stats.Scope{
		Name: "listener." + name, Family: "envoy_listener", Labels: stats.Label("listener_address", name),
	}
	return &connStats{
		registry: k.stats, scope: sc,
		total: k.stats.Counter(sc, "downstream_cx_total"), destroyed: k.stats.Counter(sc, "downstream_cx_destroy"),
		noChain: k.stats.Counter(sc, "no_filter_chain_match"), timeout: k.stats.Counter(sc, "downstream_pre_cx_timeout"),
		tlsError: k.stats.Counter(sc, "ssl.connection_error"), handshake: k.stats.Counter(sc, "ssl.handshake"),
		panics: k.stats.Counter(sc, "panics"),
		active: k.stats.Gauge(sc, "downstream_cx_active"),
	}
}

// Terminals returns the terminal filters of all chains.
func (l *Listener) Terminals() []network.Terminal {
	var out []network.Terminal
	for _, c := range l.all() {
		out = append(out, c.terminal)
	}
	return out
}

// InlineRoutes returns the route configurations that stand in the listener itself.
func (l *Listener) InlineRoutes() []*routev3.RouteConfiguration {
	var out []*routev3.RouteConfiguration
	for _, c := range l.all() {
		if t, ok := c.terminal.(interface {
			InlineRoutes() *routev3.RouteConfiguration
		}); ok && t.InlineRoutes() != nil {
			out = append(out, t.InlineRoutes())
		}
	}
	return out
}
