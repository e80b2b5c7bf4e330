package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sort"
	"sync"
	"sync/atomic"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// Manager owns all clusters. Lookups are lock-free; updates are serialised.
type Manager struct {
	ctx      context.Context //nolint:containedctx // it bounds what the value itself started, not one call
	secrets  tlsctx.Secrets
	stats    *stats.Registry
	resolver Resolver
	local    string // the proxy's own cluster, to compare zones with; "" for none

	mu      sync.Mutex
	static  map[string]bool
	loads   map[string]*endpointv3.ClusterLoadAssignment // last assignment by EDS name
	byName  atomic.Pointer[map[string]*Cluster]
	gauge   *stats.Gauge
	changed *stats.Counter
}

// NewManager returns a manager without clusters. ctx bounds background name resolution.
func NewManager(ctx context.Context, secrets tlsctx.Secrets, reg *stats.Registry, r Resolver) *Manager {
	sc := stats.Scope{Name: "cluster_manager", Family: "envoy_cluster_manager"}
	m := &Manager{
		ctx: ctx, secrets: secrets, stats: reg, resolver: r, static: map[string]bool{},
		loads: map[string]*endpointv3.ClusterLoadAssignment{},
		gauge: reg.Gauge(sc, "active_clusters"), changed: reg.Counter(sc, "cluster_updated"),
	}
	m.byName.Store(&map[string]*Cluster{})
	return m
}

// HasLocal tells the manager which cluster the bootstrap names as the proxy's own. Clusters that would compare their zones
// with its are refused from then on.
func (m *Manager) HasLocal(name string) { m.local = name }

func (m *Manager) compile(p *clusterv3.Cluster) (*Cluster, error) {
	c, err := compile(p, m.secrets, m.stats)
	if err == nil && c.balance.zones && m.local != "" && m.local != c.Name {
		c.outlier.stop()
		return nil, fmt.Errorf("cluster %q: %w", c.Name, fields.Unsupported(p, "zone_aware_lb_config", ""))
	}
	return c, err
}

// Get returns the cluster of that name, or nil.
func (m *Manager) Get(name string) *Cluster { return (*m.byName.Load())[name] }

// All returns every cluster sorted by name.
func (m *Manager) All() []*Cluster {
	now := *m.byName.Load()
	out := make([]*Cluster, 0, len(now))
	for _, c := range now {
		out = append(out, c)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// Static reports whether the cluster came from the bootstrap file.
func (m *Manager) Static(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.static[name]
}

// AddStatic adds a cluster of the bootstrap file. Static clusters cannot be replaced later.
func (m *Manager) AddStatic(p *clusterv3.Cluster) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, err := m.compile(p)
	if err != nil {
		return err
	}
	m.static[c.Name] = true
	m.publish(map[string]*Cluster{c.Name: c}, nil)
	return nil
}

// Apply takes a CDS update. Clusters that cannot be translated are refused by name; the others take effect.
func (m *Manager) Apply(u xds.Update) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := *m.byName.Load()
	fresh, named := map[string]*Cluster{}, map[string]bool{}
	var errs []error
	for _, r := range u.Resources {
		p := &clusterv3.Cluster{}
		if err := r.Body.UnmarshalTo(p); err != nil {
			errs = append(errs, xds.Refuse(r.Name, fmt.Errorf("cluster %q: %w", r.Name, err)))
			continue
		}
		named[p.GetName()] = true
		if m.static[p.GetName()] {
			continue
		}
		if o, ok := old[p.GetName()]; ok && proto.Equal(o.Proto, p) {
			continue
		}
		c, err := m.compile(p)
		if err != nil {
			errs = append(errs, xds.Refuse(r.Name, err))
			continue
		}
		c.Version = r.Version
		fresh[c.Name] = c
	}
	removed := u.Removed
	if u.Full {
		for name := range old {
			if !named[name] && !m.static[name] {
				removed = append(removed, name)
			}
		}
	}
	m.publish(fresh, removed)
	m.changed.Inc()
	return errors.Join(errs...)
}

func (m *Manager) publish(fresh map[string]*Cluster, removed []string) {
	old := *m.byName.Load()
	now := make(map[string]*Cluster, len(old)+len(fresh))
	maps.Copy(now, old)
	var dropped []*Cluster
	for _, name := range removed {
		if c, ok := now[name]; ok && !m.static[name] {
			dropped = append(dropped, c)
			delete(now, name)
			m.stats.Drop("cluster." + name + ".")
		}
	}
	for name, c := range fresh {
		if o, ok := now[name]; ok {
			dropped = append(dropped, o)
		}
		if c.Kind == EDS {
			// The endpoints are known already when only other settings changed.
			if load, ok := m.loads[c.EDSName]; ok {
				_ = c.SetEndpoints(load)
			}
		}
		if c.Kind == StrictDNS || c.Kind == LogicalDNS {
			c.startDNS(m.ctx, m.resolver, now[name])
		}
		if c.Kind == Dynamic {
			c.dynamic.resolver = m.resolver
			if len(c.dynamic.servers) > 0 {
				c.dynamic.resolver = withServers(m.resolver, c.dynamic.servers)
			}
		}
		now[name] = c
	}
	m.byName.Store(&now)
	m.gauge.Set(int64(len(now)))
	for _, c := range dropped {
		c.close()
	}
	m.forgetLoads(now)
}

// forgetLoads drops assignments that no cluster asks for any more.
func (m *Manager) forgetLoads(now map[string]*Cluster) {
	wanted := map[string]bool{}
	for _, c := range now {
		if c.Kind == EDS {
			wanted[c.EDSName] = true
		}
	}
	for name := range m.loads {
		if !wanted[name] {
			delete(m.loads, name)
		}
	}
}

// EDSNames lists the load assignments that clusters need, sorted.
func (m *Manager) EDSNames() []string {
	seen := map[string]bool{}
	for _, c := range *m.byName.Load() {
		if c.Kind == EDS {
			seen[c.EDSName] = true
		}
	}
	out := make([]string, 0, len(seen))
	for n := range seen {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

// ApplyEndpoints takes an EDS update. A removed assignment empties its clusters.
func (m *Manager) ApplyEndpoints(u xds.Update) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	users := map[string][]*Cluster{}
	for _, c := range *m.byName.Load() {
		if c.Kind == EDS {
			users[c.EDSName] = append(users[c.EDSName], c)
		}
	}
	var errs []error
	set := func(name string, load *endpointv3.ClusterLoadAssignment) {
		for _, c := range users[name] {
			if err := c.SetEndpoints(load); err != nil {
				errs = append(errs, xds.Refuse(name, fmt.Errorf("endpoints of %q: %w", name, err)))
				return // the last good ones stay, for later versions of the clusters too
			}
		}
		m.loads[name] = load
	}
	for _, r := range u.Resources {
		load := &endpointv3.ClusterLoadAssignment{}
		if err := r.Body.UnmarshalTo(load); err != nil {
			errs = append(errs, xds.Refuse(r.Name, fmt.Errorf("endpoints of %q: %w", r.Name, err)))
			continue
		}
		set(load.GetClusterName(), load)
	}
	for _, name := range u.Removed {
		set(name, &endpointv3.ClusterLoadAssignment{ClusterName: name})
	}
	return errors.Join(errs...)
}

// Initialized reports whether every cluster that waits for endpoints has got its first answer.
func (m *Manager) Initialized() bool {
	for _, c := range *m.byName.Load() {
		if !c.Initialized() && c.Kind == EDS {
			return false
		}
	}
	return true
}

// Close stops name resolution and drops idle connections of every cluster.
func (m *Manager) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range *m.byName.Load() {
		c.close()
	}
}
