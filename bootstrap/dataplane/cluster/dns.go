package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	caresv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
)

// dnsState is how a cluster's names are resolved and what they stood for last.
type dnsState struct {
	every      time.Duration
	jitter     time.Duration
	failBase   time.Duration // first wait after a failure, 0 for every
	failMax    time.Duration
	respectTTL bool
	servers    []string // instead of the pod's own

	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	last   map[string][]netip.Addr
}

func (c *Cluster) setDNS(p *clusterv3.Cluster) error {
	d := &c.dns
	d.every = 5 * time.Second
	//nolint:staticcheck // deprecated, still sent
	if v := p.GetDnsRefreshRate(); v != nil && v.AsDuration() > 0 {
		d.every = v.AsDuration()
	}
	//nolint:staticcheck // deprecated, still sent
	d.jitter, d.respectTTL = p.GetDnsJitter().AsDuration(), p.GetRespectDnsTtl()
	//nolint:staticcheck // deprecated, still sent
	if f := p.GetDnsFailureRefreshRate(); f != nil {
		d.failBase = f.GetBaseInterval().AsDuration()
		d.failMax = 10 * d.failBase
		if m := f.GetMaxInterval(); m != nil {
			d.failMax = m.AsDuration()
		}
	}
	r := p.GetTypedDnsResolverConfig()
	if r == nil {
		return nil
	}
	servers, err := resolverServers(r.GetName(), r.GetTypedConfig())
	d.servers = servers
	return err
}

// resolverServers reads the c-ares configuration that istiod sends. Go's resolver takes c-ares's place; name servers are
// honoured, and how many queries go over one socket changes nothing: each has its own.
func resolverServers(name string, body anyBody) ([]string, error) {
	if body.GetTypeUrl() != registry.CaresDNS {
		return nil, fields.UnsupportedType("DNS resolver", name, body.GetTypeUrl())
	}
	m := &caresv3.CaresDnsResolverConfig{}
	if err := body.UnmarshalTo(m); err != nil {
		return nil, err
	}
	if err := fields.Check(m, "resolvers udp_max_queries"); err != nil {
		return nil, err
	}
	var out []string
	for _, a := range m.GetResolvers() {
		ip, err := netip.ParseAddr(a.GetSocketAddress().GetAddress())
		if err != nil {
			return nil, fmt.Errorf("resolvers: %w", err)
		}
		out = append(out, net.JoinHostPort(ip.String(), strconv.Itoa(int(a.GetSocketAddress().GetPortValue()))))
	}
	return out, nil
}

// startDNS resolves the cluster's host names now and then again, until the cluster is closed. What the older version of
// the cluster knows serves until then.
func (c *Cluster) startDNS(ctx context.Context, r Resolver, old *Cluster) {
	d := &c.dns
	ctx, d.cancel = context.WithCancel(ctx)
	d.done = make(chan struct{})
	d.last = map[string][]netip.Addr{}
	if old != nil && (old.Kind == StrictDNS || old.Kind == LogicalDNS) {
		old.dns.mu.Lock()
		maps.Copy(d.last, old.dns.last)
		old.dns.mu.Unlock()
		if len(d.last) > 0 {
			c.fromNames()
		}
	}
	if len(d.servers) > 0 {
		r = withServers(r, d.servers)
	}
	go func() {
		defer close(d.done)
		fails := 0
		for {
			ttl, err := c.resolve(ctx, r)
			wait := d.next(ttl, err, fails)
			if fails++; err == nil {
				fails = 0
			}
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
		}
	}()
}

// stop ends resolution and waits for a lookup that is under way.
func (d *dnsState) stop() {
	if d.cancel != nil {
		d.cancel()
		<-d.done
	}
}

// next is how long to wait before the next lookup. ttl is the shortest of the answers, 0 where unknown.
func (d *dnsState) next(ttl time.Duration, err error, fails int) time.Duration {
	wait := d.every
	switch {
	case err != nil && d.failBase > 0:
		wait = rand.N(min(d.failBase<<min(fails, 20), max(d.failMax, d.failBase))) + 1
	case err == nil && d.respectTTL && ttl > 0:
		wait = ttl
	}
	if d.jitter > 0 {
		wait += rand.N(d.jitter)
	}
	return wait
}

const lookupTimeout = 5 * time.Second

// resolve looks all names up and replaces the endpoints by what they stand for now. A name whose lookup fails keeps its
// addresses; one that does not exist loses them.
func (c *Cluster) resolve(ctx context.Context, r Resolver) (time.Duration, error) {
	hosts, err := c.parseAssignment(c.Proto.GetLoadAssignment())
	if err != nil {
		return 0, err
	}
	var ttl time.Duration
	var failed error
	seen := map[string]bool{}
	for _, h := range hosts {
		name, _, err := net.SplitHostPort(h.Address)
		if h.Network != "tcp" || h.Addr.IsValid() || err != nil || seen[name] {
			continue
		}
		seen[name] = true
		lookup, cancel := context.WithTimeout(ctx, lookupTimeout)
		ips, t, err := lookupTTL(lookup, r, family(c.Proto), name)
		cancel()
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		var de *net.DNSError
		if errors.As(err, &de) && de.IsNotFound {
			ips, err = nil, nil
		}
		if err != nil {
			failed = err
			continue
		}
		if t > 0 && (ttl == 0 || t < ttl) {
			ttl = t
		}
		c.dns.mu.Lock()
		c.dns.last[name] = prefer(ips, c.Proto)
		c.dns.mu.Unlock()
	}
	c.fromNames()
	return ttl, failed
}

// fromNames makes endpoints of the addresses that are known.
func (c *Cluster) fromNames() {
	hosts, err := c.parseAssignment(c.Proto.GetLoadAssignment())
	if err != nil {
		return
	}
	c.dns.mu.Lock()
	defer c.dns.mu.Unlock()
	var all []*Endpoint
	for _, h := range hosts {
		name, port, err := net.SplitHostPort(h.Address)
		if h.Network != "tcp" || h.Addr.IsValid() || err != nil {
			all = append(all, h)
			continue
		}
		var addrs []string
		for _, ip := range c.dns.last[name] {
			addrs = append(addrs, net.JoinHostPort(ip.Unmap().String(), port))
		}
		h.Hostname = name
		if c.Kind == LogicalDNS {
			// One host for all addresses: new connections go where the name points now, old ones stay.
			if len(addrs) > 0 {
				if c.Proto.GetDnsLookupFamily() != clusterv3.Cluster_ALL {
					addrs = addrs[:1]
				}
				h.Addr, _ = netip.ParseAddrPort(addrs[0])
				h.addrs.Store(&addrs)
				all = append(all, h)
			}
			continue
		}
		for _, a := range addrs {
			e := *h
			e.state, e.Address = newState(), a
			e.Addr, _ = netip.ParseAddrPort(a)
			all = append(all, &e)
		}
	}
	c.swap(all, c.Proto.GetLoadAssignment())
}

func family(p *clusterv3.Cluster) string {
	switch p.GetDnsLookupFamily() {
	case clusterv3.Cluster_V4_ONLY:
		return "ip4"
	case clusterv3.Cluster_V6_ONLY:
		return "ip6"
	default:
		return "ip"
	}
}

// prefer keeps one address family where the lookup family asks for a preference.
func prefer(ips []netip.Addr, p *clusterv3.Cluster) []netip.Addr {
	f := p.GetDnsLookupFamily()
	if f == clusterv3.Cluster_ALL {
		return ips
	}
	want4 := f == clusterv3.Cluster_V4_PREFERRED
	var first, second []netip.Addr
	for _, ip := range ips {
		if ip.Unmap().Is4() == want4 {
			first = append(first, ip)
		} else {
			second = append(second, ip)
		}
	}
	if len(first) > 0 {
		return first
	}
	return second
}
