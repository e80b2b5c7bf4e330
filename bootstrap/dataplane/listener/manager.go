package listener

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// Config is what a Manager needs. All fields are required.
type Config struct {
	Builder   Builder
	Secrets   tlsctx.Secrets
	Stats     *stats.Registry
	Log       *slog.Logger
	DrainTime time.Duration // how long replaced filter chains may finish their connections
}

// Manager owns all listeners and their sockets. A new version of a listener becomes active when everything that it
// waits for (routes, secrets) has arrived; until then the old version serves.
type Manager struct {
	cfg Config
	log *slog.Logger
	ctx context.Context //nolint:containedctx // it bounds what the value itself started, not one call

	mu       sync.Mutex
	active   map[string]*Listener
	warming  map[string]*Listener
	sockets  map[netip.AddrPort]*socket
	draining map[network.Direction]bool
	stopped  map[network.Direction]bool // nothing is bound any more
	failing  bool                       // the health check is made to fail
	closed   bool
	wg       sync.WaitGroup
	byAddr   atomic.Pointer[map[netip.AddrPort]*Listener]
	changed  chan struct{} // closed and replaced at each activation

	gActive, gWarming, gDraining *stats.Gauge
	added, modified, removed     *stats.Counter
}

// NewManager returns a manager without listeners. Connections end when ctx does.
func NewManager(ctx context.Context, cfg Config) *Manager {
	sc := stats.Scope{Name: "listener_manager", Family: "envoy_listener_manager"}
	m := &Manager{
		cfg: cfg, log: cfg.Log, ctx: ctx, active: map[string]*Listener{}, warming: map[string]*Listener{},
		sockets: map[netip.AddrPort]*socket{}, draining: map[network.Direction]bool{}, stopped: map[network.Direction]bool{},
		changed: make(chan struct{}),
		gActive: cfg.Stats.Gauge(sc, "total_listeners_active"), gWarming: cfg.Stats.Gauge(sc, "total_listeners_warming"),
		gDraining: cfg.Stats.Gauge(sc, "total_filter_chains_draining"),
		added:     cfg.Stats.Counter(sc, "listener_added"), modified: cfg.Stats.Counter(sc, "listener_modified"),
		removed: cfg.Stats.Counter(sc, "listener_removed"),
	}
	m.byAddr.Store(&map[netip.AddrPort]*Listener{})
	return m
}

// AddStatic adds a listener of the bootstrap file.
func (m *Manager) AddStatic(p *listenerv3.Listener) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := compiler{m.cfg.Builder, m.cfg.Secrets, m.cfg.Stats, true}
	l, err := k.compile(p, nil)
	if err != nil {
		return fmt.Errorf("listener %q: %w", p.GetName(), err)
	}
	return m.admit(l)
}

// Apply takes an LDS update. Listeners that cannot be translated or bound are refused by name; the others take effect.
func (m *Manager) Apply(u xds.Update) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errors.New("listener manager is closed")
	}
	named := map[string]bool{}
	var errs []error
	for _, r := range u.Resources {
		p := &listenerv3.Listener{}
		if err := r.Body.UnmarshalTo(p); err != nil {
			errs = append(errs, xds.Refuse(r.Name, fmt.Errorf("listener %q: %w", r.Name, err)))
			continue
		}
		named[p.GetName()] = true
		if err := m.update(p, r.Version); err != nil {
			errs = append(errs, xds.Refuse(r.Name, fmt.Errorf("listener %q: %w", p.GetName(), err)))
		}
	}
	gone := u.Removed
	if u.Full {
		for _, set := range []map[string]*Listener{m.active, m.warming} {
			for name, l := range set {
				if !named[name] && !l.Static {
					gone = append(gone, name)
				}
			}
		}
	}
	for _, name := range gone {
		m.remove(name)
	}
	m.gauges()
	return errors.Join(errs...)
}

func (m *Manager) update(p *listenerv3.Listener, version string) error {
	cur := m.warming[p.GetName()]
	if cur == nil {
		cur = m.active[p.GetName()]
	}
	if cur != nil && (cur.Static || proto.Equal(cur.Proto, p)) {
		return nil
	}
	k := compiler{m.cfg.Builder, m.cfg.Secrets, m.cfg.Stats, false}
	l, err := k.compile(p, m.active[p.GetName()])
	if err != nil {
		return err
	}
	l.Version = version
	if cur != nil {
		m.modified.Inc()
	} else {
		m.added.Inc()
	}
	return m.admit(l)
}

// admit makes l active, at once or when what it waits for has come. The caller holds mu.
func (m *Manager) admit(l *Listener) error {
	if w := m.warming[l.Name]; w != nil {
		w.cancelWarm.Do(func() { close(w.cancelled) })
		delete(m.warming, l.Name)
	}
	if allClosed(l.waits) {
		return m.activate(l)
	}
	m.warming[l.Name] = l
	m.wg.Add(1)
	go m.warm(l)
	return nil
}

func allClosed(waits []tlsctx.Wait) bool {
	for _, w := range waits {
		select {
		case <-w.Ready:
		default:
			return false
		}
	}
	return true
}

func (m *Manager) warm(l *Listener) {
	defer m.wg.Done()
	began := time.Now()
	for _, w := range l.waits {
		var late <-chan time.Time
		if w.Timeout > 0 {
			t := time.NewTimer(w.Timeout - time.Since(began))
			defer t.Stop()
			late = t.C
		}
		select {
		case <-w.Ready:
		case <-late:
			m.log.Warn("listener starts without all that it refers to", "listener", l.Name, "after", w.Timeout)
		case <-l.cancelled:
			return
		case <-m.ctx.Done():
			return
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.warming[l.Name] != l || m.closed {
		return
	}
	delete(m.warming, l.Name)
	if err := m.activate(l); err != nil {
		m.log.Error("listener cannot start", "listener", l.Name, "err", err)
	}
	m.gauges()
}

// activate swaps l in, binds what is not bound and drains the chains that l does not carry on. The caller holds mu.
func (m *Manager) activate(l *Listener) error {
	old := m.active[l.Name]
	if l.bind {
		for _, a := range l.addrs {
			if err := m.bind(a, l); err != nil {
				return err
			}
		}
	}
	m.active[l.Name] = l
	if m.draining[l.Direction] || (m.failing && l.heedsHealth()) {
		for _, c := range l.all() {
			c.drain()
		}
	}
	m.index()
	if old != nil {
		kept := map[*chain]bool{}
		for _, c := range l.all() {
			kept[c] = true
		}
		var dropped []*chain
		for _, c := range old.all() {
			if !kept[c] {
				dropped = append(dropped, c)
			}
		}
		m.retire(dropped)
		m.unbindUnused()
	}
	close(m.changed)
	m.changed = make(chan struct{})
	return nil
}

func (m *Manager) remove(name string) {
	if w := m.warming[name]; w != nil && !w.Static {
		w.cancelWarm.Do(func() { close(w.cancelled) })
		delete(m.warming, name)
	}
	l := m.active[name]
	if l == nil || l.Static {
		return
	}
	delete(m.active, name)
	m.removed.Inc()
	m.index()
	m.retire(l.all())
	m.unbindUnused()
}

// retire drains chains and closes what is left of their connections after the drain time.
func (m *Manager) retire(chains []*chain) {
	if len(chains) == 0 {
		return
	}
	for _, c := range chains {
		c.drain()
	}
	m.gDraining.Add(int64(len(chains)))
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		defer m.gDraining.Add(int64(-len(chains)))
		t := time.NewTimer(m.cfg.DrainTime)
		defer t.Stop()
		select {
		case <-t.C:
		case <-m.ctx.Done():
		}
		for _, c := range chains {
			c.closeAll()
		}
	}()
}

// index rebuilds the table for handing connections to listeners by address.
func (m *Manager) index() {
	t := make(map[netip.AddrPort]*Listener, len(m.active))
	for _, l := range m.active {
		for _, a := range l.addrs {
			if o, ok := t[a]; ok && o.Direction == network.Outbound && l.Direction != network.Outbound {
				continue
			}
			t[a] = l
		}
	}
	m.byAddr.Store(&t)
}

// lookup finds the listener for a destination: the exact address first, then the port on any address. Listeners that
// hand off themselves are never found.
func (m *Manager) lookup(dst netip.AddrPort, self *Listener) *Listener {
	t := *m.byAddr.Load()
	any4 := netip.AddrPortFrom(netip.IPv4Unspecified(), dst.Port())
	any6 := netip.AddrPortFrom(netip.IPv6Unspecified(), dst.Port())
	candidates := [3]netip.AddrPort{dst, any4, any6}
	if dst.Addr().Is6() {
		candidates = [3]netip.AddrPort{dst, any6, any4}
	}
	for _, a := range candidates {
		if l := t[a]; l != nil && l != self && l.Direction == self.Direction && !l.handOff {
			return l
		}
	}
	return nil
}

// Active returns the active listeners sorted by name.
func (m *Manager) Active() []*Listener {
	return m.list(func() map[string]*Listener { return m.active })
}

// Warming returns the listeners that still wait, sorted by name.
func (m *Manager) Warming() []*Listener {
	return m.list(func() map[string]*Listener { return m.warming })
}

func (m *Manager) list(of func() map[string]*Listener) []*Listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*Listener
	for _, l := range of() {
		out = append(out, l)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func (m *Manager) gauges() {
	m.gActive.Set(int64(len(m.active)))
	m.gWarming.Set(int64(len(m.warming)))
}

// Changed returns a channel that is closed at the next activation.
func (m *Manager) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}
