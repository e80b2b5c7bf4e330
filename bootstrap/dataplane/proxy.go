package dataplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/admin"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/hcm"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/listener"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tracing"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// Proxy is one running data plane.
//
//	New ── Start ──> PRE_INITIALIZING ──CDS──> INITIALIZING ──EDS, LDS, RDS, SDS──> LIVE ──Drain──> DRAINING
//	Shutdown ends it from any state.
type Proxy struct {
	opts      Options
	boot      *bootstrapv3.Bootstrap
	log       *slog.Logger
	stats     *stats.Registry
	secrets   *tlsctx.Store
	clusters  *cluster.Manager
	routes    *hcm.RouteStore
	listeners *listener.Manager
	logs      *logSinks
	tracers   *tracing.Tracers
	admin     *admin.Server
	ads       *xds.Client

	ctx    context.Context //nolint:containedctx // it bounds what the value itself started, not one call
	cancel context.CancelFunc
	wg     sync.WaitGroup
	quit   chan struct{}
	once   sync.Once

	state   atomic.Int32 // envoy.admin.v3.ServerInfo_State
	mu      sync.Mutex   // configuration updates, one at a time
	sds     map[tlsctx.Source]*xds.Client
	gotCDS  bool
	askedLD bool
	gotLDS  bool
	cds     *updateStats
	lds     *updateStats
	eds     *updateStats
	rds     *updateStats
	sdsStat *updateStats
}

// States as Envoy numbers them.
const (
	live int32 = iota
	draining
	preInitializing
	initializing
)

type updateStats struct{ attempt, success, rejected *stats.Counter }

// New builds a proxy from a bootstrap: static clusters and listeners, the admin port. Nothing listens yet. The proxy
// keeps b and adds its version to b's node.
func New(b *bootstrapv3.Bootstrap, o Options, log *slog.Logger) (*Proxy, error) {
	p := &Proxy{
		opts: o, boot: b, log: log, stats: stats.New(), secrets: tlsctx.NewStore(), routes: hcm.NewRouteStore(),
		quit: make(chan struct{}), sds: map[tlsctx.Source]*xds.Client{},
	}
	introduce(b.GetNode())
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.setState(preInitializing)
	upd := func(scope, family string) *updateStats {
		sc := stats.Scope{Name: scope, Family: family}
		return &updateStats{
			p.stats.Counter(sc, "update_attempt"), p.stats.Counter(sc, "update_success"), p.stats.Counter(sc, "update_rejected"),
		}
	}
	p.cds = upd("cluster_manager.cds", "envoy_cluster_manager_cds")
	p.lds = upd("listener_manager.lds", "envoy_listener_manager_lds")
	p.eds = upd("cluster_manager.eds", "envoy_cluster_manager_eds")
	p.rds = upd("http.rds", "envoy_http_rds")
	p.sdsStat = upd("sds", "envoy_sds")
	p.clusters = cluster.NewManager(p.ctx, p.secrets, p.stats, cluster.System{})
	p.clusters.HasLocal(b.GetClusterManager().GetLocalClusterName())
	self := peer.FromNode(b.GetNode().GetId(), b.GetNode().GetMetadata())
	p.logs = newLogSinks(o.FlushInterval, p.clusters, p.stats, b.GetNode(), p.logger("file"))
	env := &hcm.Env{Clusters: p.clusters, Routes: p.routes, Stats: p.stats, Log: p.logger("http"), Self: self, Node: b.GetNode().GetCluster(), Peers: peer.NewCache(1000), Identity: b.GetNode(), Logger: p.logger}
	p.tracers = &tracing.Tracers{Clusters: p.clusters, Stats: p.stats, Node: b.GetNode(), Log: p.logger("tracing")}
	//nolint:staticcheck // deprecated, and what pilot-agent writes for proxyConfig.tracing
	env.Tracers, env.Tracing = p.tracers, b.GetTracing().GetHttp()
	p.listeners = listener.NewManager(p.ctx, listener.Config{
		Builder: &builder{env: env, logs: p.logs}, Secrets: p.secrets, Stats: p.stats, Log: p.logger("conn_handler"), DrainTime: o.DrainTime,
	})
	p.admin = admin.New(admin.Config{
		Bootstrap: b, Clusters: p.clusters, Listeners: p.listeners, Routes: p.routes, Secrets: p.secrets, Stats: p.stats,
		Log: p.logger("admin"), State: p.State, Drain: p.Drain, Fail: p.Fail, Quit: p.Quit, Args: o.Args, DrainTime: o.DrainTime,
		Concurrency: o.Concurrency, ConfigPath: o.ConfigPath, LogLevel: o.LogLevel, Loggers: o.Loggers, Version: Version(),
	})
	for _, c := range b.GetStaticResources().GetClusters() {
		if err := p.clusters.AddStatic(c); err != nil {
			p.release()
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
	}
	return p, nil
}

// logger returns the logger of one part.
func (p *Proxy) logger(part string) *slog.Logger {
	if p.opts.Loggers == nil {
		return p.log
	}
	return p.opts.Loggers.Get(part)
}

// release lets go of what New began.
func (p *Proxy) release() {
	p.cancel()
	p.listeners.Close()
	p.tracers.Close()
	p.logs.Close()
	p.clusters.Close()
}

// Start opens the admin port and the static listeners and connects to the management server. On error everything is
// released.
func (p *Proxy) Start() error {
	if err := p.start(); err != nil {
		p.Shutdown()
		return err
	}
	return nil
}

func (p *Proxy) start() error {
	if err := p.admin.Start(); err != nil {
		return err
	}
	for _, l := range p.boot.GetStaticResources().GetListeners() {
		if err := p.listeners.AddStatic(l); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
	}
	name, mode, err := adsConfig(p.boot)
	if err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	p.mu.Lock()
	p.syncSecrets()
	p.mu.Unlock()
	if name == "" {
		p.setState(live)
		return nil
	}
	connected := p.stats.Gauge(stats.Scope{Name: "control_plane", Family: "envoy_control_plane"}, "connected_state")
	connected.Set(0)
	p.ads = p.client(name, mode, xds.HandlerFunc(p.apply), func(on bool) {
		connected.Set(map[bool]int64{true: 1}[on])
		if on {
			p.log.Info("connected to the management server", "cluster", name)
		}
	})
	p.ads.Subscribe(xds.ClusterType, nil)
	p.run(p.ads)
	return nil
}

func (p *Proxy) client(name string, mode xds.Mode, h xds.Handler, connected func(bool)) *xds.Client {
	return xds.New(xds.Config{
		Name: name, Mode: mode, Node: p.boot.GetNode(), Handler: h, Log: p.logger("config"), Connected: connected,
		Dial: func(ctx context.Context) (net.Conn, error) {
			c := p.clusters.Get(name)
			if c == nil {
				return nil, fmt.Errorf("cluster %q does not exist", name)
			}
			e, err := c.Pick(cluster.Choice{})
			if err != nil {
				return nil, err
			}
			return c.Connect(ctx, e, cluster.ConnectOptions{ALPN: []string{"h2"}})
		},
	})
}

func (p *Proxy) run(c *xds.Client) {
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		if err := c.Run(p.ctx); err != nil {
			p.log.Error("discovery", "err", err)
		}
	}()
}

// apply takes one update of the aggregated stream.
func (p *Proxy) apply(u xds.Update) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	st := p.cds
	switch u.Type {
	case xds.ClusterType:
		err = p.clusters.Apply(u)
		p.gotCDS = true
		if p.State() == preInitializing {
			p.setState(initializing)
		}
		p.ads.Subscribe(xds.EndpointType, p.clusters.EDSNames())
		p.syncSecrets()
	case xds.EndpointType:
		st, err = p.eds, p.clusters.ApplyEndpoints(u)
	case xds.ListenerType:
		st, err = p.lds, p.listeners.Apply(u)
		p.syncRoutes()
		p.syncSecrets()
	case xds.RouteType:
		st, err = p.rds, p.routes.Apply(u)
	case xds.SecretType:
		st, err = p.sdsStat, p.applySecrets(tlsctx.ADS, u)
	default:
		err = fmt.Errorf("type %s: not subscribed", u.Type)
	}
	st.count(err)
	if p.gotCDS && !p.askedLD && p.clusters.Initialized() {
		p.askedLD = true
		p.ads.Subscribe(xds.ListenerType, nil)
	}
	if u.Type == xds.ListenerType && !p.gotLDS {
		p.gotLDS = true
		p.wg.Add(1)
		go p.awaitListeners()
	}
	return err
}

func (s *updateStats) count(err error) {
	s.attempt.Inc()
	if err != nil {
		s.rejected.Inc()
		return
	}
	s.success.Inc()
}

// awaitListeners declares the proxy live once the first listeners have all they wait for.
func (p *Proxy) awaitListeners() {
	defer p.wg.Done()
	for {
		changed := p.listeners.Changed()
		if len(p.listeners.Warming()) == 0 {
			break
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			return
		}
	}
	if p.state.CompareAndSwap(initializing, live) {
		p.setState(live)
		p.log.Info("all listeners are up")
	}
}

// syncRoutes subscribes to the route configurations that listeners name. The caller holds mu.
func (p *Proxy) syncRoutes() {
	wanted := map[string]bool{}
	for _, l := range append(p.listeners.Active(), p.listeners.Warming()...) {
		for _, t := range l.Terminals() {
			if m, ok := t.(*hcm.Manager); ok && m.RouteName() != "" {
				wanted[m.RouteName()] = true
			}
		}
	}
	p.routes.Keep(wanted)
	names := make([]string, 0, len(wanted))
	for n := range wanted {
		names = append(names, n)
	}
	p.ads.Subscribe(xds.RouteType, names)
}

// syncSecrets subscribes to the secrets that listeners and clusters name, each at its source. The caller holds mu.
func (p *Proxy) syncSecrets() {
	wanted := map[tlsctx.Key]bool{}
	for _, l := range append(p.listeners.Active(), p.listeners.Warming()...) {
		for _, r := range l.Refs() {
			wanted[r.Key] = true
		}
	}
	for _, c := range p.clusters.All() {
		for _, r := range c.Refs() {
			wanted[r.Key] = true
		}
	}
	p.secrets.Keep(wanted)
	bySource := map[tlsctx.Source][]string{}
	for k := range wanted {
		bySource[k.Source] = append(bySource[k.Source], k.Name)
	}
	for src, names := range bySource {
		if src == tlsctx.ADS {
			continue
		}
		if p.sds[src] == nil {
			p.sds[src] = p.client(string(src), xds.SecretService, xds.HandlerFunc(func(u xds.Update) error {
				err := p.applySecrets(src, u)
				p.sdsStat.count(err)
				return err
			}), nil)
			p.run(p.sds[src])
		}
		p.sds[src].Subscribe(xds.SecretType, names)
	}
	for src, c := range p.sds {
		if len(bySource[src]) == 0 {
			c.Subscribe(xds.SecretType, nil)
		}
	}
	if p.ads != nil {
		p.ads.Subscribe(xds.SecretType, bySource[tlsctx.ADS])
	}
}

// State returns the state as envoy.admin.v3.ServerInfo numbers it.
func (p *Proxy) State() int32 { return p.state.Load() }

func (p *Proxy) setState(s int32) {
	p.state.Store(s)
	sc := stats.Scope{Name: "server", Family: "envoy_server"}
	p.stats.Gauge(sc, "state").Set(int64(s))
	started := int64(0)
	if s == live || s == draining {
		started = 1
	}
	p.stats.Gauge(sc, "live").Set(map[bool]int64{true: 1}[s == live])
	lm := stats.Scope{Name: "listener_manager", Family: "envoy_listener_manager"}
	p.stats.Gauge(lm, "workers_started").Set(started)
}

// Drain tells clients to go elsewhere; see listener.Manager.Drain.
func (p *Proxy) Drain(inboundOnly, graceful, skipExit bool) {
	p.listeners.Drain(inboundOnly, graceful, skipExit)
}

// Fail makes the proxy's health check fail and tells clients to go elsewhere, or takes that back.
func (p *Proxy) Fail(on bool) {
	p.listeners.Fail(on)
	switch {
	case on && p.state.CompareAndSwap(live, draining):
		p.setState(draining)
	case !on && p.state.CompareAndSwap(draining, live):
		p.setState(live)
	}
}

// Finish stops taking connections and waits until what is under way has ended, or ctx has.
func (p *Proxy) Finish(ctx context.Context) {
	p.Drain(false, false, false)
	p.listeners.Idle(ctx)
}

// Quit asks whoever waits on Done to shut the proxy down.
func (p *Proxy) Quit() { p.once.Do(func() { close(p.quit) }) }

// Done is closed by Quit.
func (p *Proxy) Done() <-chan struct{} { return p.quit }

// AdminAddress returns where the admin port listens, after Start.
func (p *Proxy) AdminAddress() net.Addr { return p.admin.Addr() }

// Shutdown closes every listener and connection and waits for all that the proxy started.
func (p *Proxy) Shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := p.admin.Stop(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		p.log.Warn("admin port", "err", err)
	}
	p.cancel()
	p.wg.Wait()
	p.listeners.Close()
	p.tracers.Close()
	p.logs.Close()
	p.clusters.Close()
}
