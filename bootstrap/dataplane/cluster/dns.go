package cluster

import (
	"context"
	"net"
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
)

// Resolver looks up host names; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// startDNS resolves the cluster's host names now and then again, until the cluster is closed.
func (c *Cluster) startDNS(ctx context.Context, r Resolver) {
	ctx, c.stopDNS = context.WithCancel(ctx)
	every := 5 * time.Second
	if d := c.Proto.GetDnsRefreshRate(); d != nil && d.AsDuration() > 0 {
		every = d.AsDuration()
	}
	go func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			c.resolve(ctx, r)
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
	}()
}

// resolve replaces the endpoints by what the names stand for now. A name that does not resolve keeps its last
// addresses.
func (c *Cluster) resolve(ctx context.Context, r Resolver) {
	hosts, err := c.parseAssignment(c.Proto.GetLoadAssignment())
	if err != nil {
		return
	}
	var all []*Endpoint
	for _, h := range hosts {
		if h.Network != "tcp" || h.Addr.IsValid() {
			all = append(all, h)
			continue
		}
		name, port, err := net.SplitHostPort(h.Address)
		if err != nil {
			continue
		}
		lookup, cancel := context.WithTimeout(ctx, 5*time.Second)
		ips, err := r.LookupNetIP(lookup, family(c.Proto.GetDnsLookupFamily()), name)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			all = append(all, c.remembered(name)...)
			continue
		}
		ips = prefer(ips, c.Proto.GetDnsLookupFamily())
		if c.Kind == LogicalDNS && len(ips) > 1 {
			ips = ips[:1]
		}
		for _, ip := range ips {
			e := &Endpoint{
				Network: "tcp", Address: net.JoinHostPort(ip.Unmap().String(), port), Hostname: name, Weight: h.Weight, Share: h.Share,
				Priority: h.Priority, Locality: h.Locality, Health: h.Health, Metadata: h.Metadata, Proto: h.Proto, socket: h.socket,
			}
			if ap, err := netip.ParseAddrPort(e.Address); err == nil {
				e.Addr = ap
			}
			all = append(all, e)
		}
	}
	c.swap(all, c.Proto.GetLoadAssignment())
}

func (c *Cluster) remembered(name string) []*Endpoint {
	var out []*Endpoint
	for _, e := range c.Endpoints() {
		if e.Hostname == name {
			out = append(out, e)
		}
	}
	return out
}

func family(f clusterv3.Cluster_DnsLookupFamily) string {
	switch f {
	case clusterv3.Cluster_V4_ONLY:
		return "ip4"
	case clusterv3.Cluster_V6_ONLY:
		return "ip6"
	default:
		return "ip"
	}
}

// prefer keeps one address family where the lookup family asks for a preference.
func prefer(ips []netip.Addr, f clusterv3.Cluster_DnsLookupFamily) []netip.Addr {
	want4 := f == clusterv3.Cluster_V4_PREFERRED
	if f == clusterv3.Cluster_ALL {
		return ips
	}
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
