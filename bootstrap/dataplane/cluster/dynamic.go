package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	dnscachev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/dynamic_forward_proxy/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
)

// Errors of clusters whose hosts are named by requests.
var (
	ErrUnresolved = errors.New("dns_resolution_failure")
	ErrTooMany    = errors.New("dns_cache_overflow")
)

// dynamic holds the hosts that requests have named.
type dynamic struct {
	family  *clusterv3.Cluster // holds the lookup family
	every   time.Duration      // how long an answer holds whose TTL is not known
	least   time.Duration      // how long any answer holds
	keep    time.Duration      // how long a host is kept that nobody asks for
	limit   int64
	servers []string

	resolver Resolver
	hosts    sync.Map // host:port -> *named
	count    atomic.Int64
	swept    atomic.Int64
}

// named is one host.
type named struct {
	endpoint *Endpoint
	mu       sync.Mutex // one lookup at a time
	fresh    atomic.Int64
}

// setDynamic takes a cluster type extension; that of the dynamic forward proxy is the one that is known.
func (c *Cluster) setDynamic(p *clusterv3.Cluster) error {
	t := p.GetClusterType()
	if t.GetTypedConfig().GetTypeUrl() != registry.DynamicCluster {
		return fields.UnsupportedType("cluster", t.GetName(), t.GetTypedConfig().GetTypeUrl())
	}
	m := &dfpv3.ClusterConfig{}
	if err := t.GetTypedConfig().UnmarshalTo(m); err != nil {
		return err
	}
	// Connections are never shared between names, so that names and addresses always belong together.
	if err := fields.Check(m, "dns_cache_config allow_insecure_cluster_options"); err != nil {
		return err
	}
	d, err := compileCache(m.GetDnsCacheConfig())
	c.Kind, c.dynamic = Dynamic, d
	return err
}

func compileCache(p *dnscachev3.DnsCacheConfig) (*dynamic, error) {
	const known = "name dns_lookup_family dns_refresh_rate dns_min_refresh_rate host_ttl max_hosts typed_dns_resolver_config"
	if err := fields.Check(p, known); err != nil {
		return nil, err
	}
	d := &dynamic{
		family: &clusterv3.Cluster{DnsLookupFamily: p.GetDnsLookupFamily()}, every: time.Minute, least: 5 * time.Second,
		keep: 5 * time.Minute, limit: 1024,
	}
	for _, v := range []struct {
		to  *time.Duration
		set interface{ AsDuration() time.Duration }
		ok  bool
	}{
		{&d.every, p.GetDnsRefreshRate(), p.GetDnsRefreshRate() != nil},
		{&d.least, p.GetDnsMinRefreshRate(), p.GetDnsMinRefreshRate() != nil},
		{&d.keep, p.GetHostTtl(), p.GetHostTtl() != nil},
	} {
		if v.ok {
			*v.to = v.set.AsDuration()
		}
	}
	if n := p.GetMaxHosts(); n != nil {
		d.limit = int64(n.GetValue())
	}
	if r := p.GetTypedDnsResolverConfig(); r != nil {
		servers, err := resolverServers(r.GetName(), r.GetTypedConfig())
		if err != nil {
			return nil, err
		}
		d.servers = servers
	}
	return d, nil
}

// CheckCache reports what of a filter's copy of the cache's configuration is not honoured. The cluster's own counts.
func CheckCache(p *dnscachev3.DnsCacheConfig) error {
	_, err := compileCache(p)
	return err
}

// Resolve makes sure that the address of a host is known, which is named as in a request's authority. The result goes
// into Choice.Host.
func (c *Cluster) Resolve(ctx context.Context, authority string) (string, error) {
	d := c.dynamic
	host, port, err := net.SplitHostPort(authority)
	if err != nil {
		host, port = strings.Trim(authority, "[]"), "80"
		if c.plainDefault.tls != nil {
			port = "443"
		}
	}
	if host == "" {
		return "", ErrUnresolved
	}
	key := net.JoinHostPort(strings.ToLower(host), port)
	now := time.Now()
	v, ok := d.hosts.Load(key)
	if !ok {
		d.forget(now)
		if d.count.Add(1) > d.limit {
			d.count.Add(-1)
			return "", ErrTooMany
		}
		sock, err := c.socketFor(nil)
		if err != nil {
			return "", err
		}
		e := &Endpoint{Network: "tcp", Address: key, Hostname: host, Weight: 1, socket: sock, state: newState()}
		var loaded bool
		if v, loaded = d.hosts.LoadOrStore(key, &named{endpoint: e}); loaded {
			d.count.Add(-1)
		}
	}
	n := v.(*named)
	n.endpoint.lastUsed.Store(now.UnixNano())
	if n.fresh.Load() > now.UnixNano() {
		return key, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fresh.Load() > now.UnixNano() {
		return key, nil
	}
	addrs, holds, err := d.lookup(ctx, host, port)
	if err != nil || len(addrs) == 0 {
		if n.endpoint.addrs.Load() != nil {
			return key, nil // the last answer serves until there is another
		}
		if err == nil {
			err = errors.New("no address")
		}
		return "", fmt.Errorf("%w: %w", ErrUnresolved, err)
	}
	n.endpoint.addrs.Store(&addrs)
	n.fresh.Store(time.Now().Add(holds).UnixNano())
	return key, nil
}

func (d *dynamic) lookup(ctx context.Context, host, port string) ([]string, time.Duration, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []string{net.JoinHostPort(ip.String(), port)}, d.keep, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	ips, ttl, err := lookupTTL(ctx, d.resolver, family(d.family), host)
	if err != nil {
		return nil, 0, err
	}
	var out []string
	for _, ip := range prefer(ips, d.family) {
		out = append(out, net.JoinHostPort(ip.Unmap().String(), port))
	}
	if ttl <= 0 {
		ttl = d.every
	}
	return out, max(ttl, d.least), nil
}

// named gives the host that Resolve has prepared.
func (c *Cluster) named(key string) (*Endpoint, error) {
	if v, ok := c.dynamic.hosts.Load(key); ok {
		return v.(*named).endpoint, nil
	}
	c.Stats.NoEndpoint.Inc()
	return nil, ErrNoEndpoint
}

// forget drops hosts that nobody has asked for of late.
func (d *dynamic) forget(now time.Time) {
	last := d.swept.Load()
	if now.UnixNano()-last < int64(d.least) || !d.swept.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	d.hosts.Range(func(k, v any) bool {
		e := v.(*named).endpoint
		if e.Active.Load() == 0 && now.UnixNano()-e.lastUsed.Load() > int64(d.keep) {
			d.hosts.Delete(k)
			d.count.Add(-1)
			e.closePools()
		}
		return true
	})
}
