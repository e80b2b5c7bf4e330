package loadbalancer

import (
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// pool is the range of addresses.
type pool struct {
	block       netip.Prefix
	first, last netip.Addr // that may be handed out
	next        netip.Addr // where the search for a free one begins
}

func newPool(block netip.Prefix) pool {
	block = block.Masked()
	p := pool{block: block, first: block.Addr().Next()}
	for a := p.first; block.Contains(a.Next()); a = a.Next() {
		p.last = a
	}
	p.next = p.first
	return p
}

// has tells whether the pool hands out addr.
func (p *pool) has(addr netip.Addr) bool {
	return p.block.Contains(addr) && !addr.Less(p.first) && !p.last.Less(addr)
}

// take finds an address that is not in use, going on from where it found the last one.
func (p *pool) take(used map[netip.Addr]bool) (netip.Addr, bool) {
	a := p.next
	for {
		following := a.Next()
		if a == p.last {
			following = p.first
		}
		if !used[a] {
			p.next = following
			return a, true
		}
		if a = following; a == p.next {
			return netip.Addr{}, false
		}
	}
}

// assign gives each Service of ours an address: first those that have one, the oldest
// first, then the others in the same order.
func (c *Controller) assign(ctx context.Context, all []*corev1.Service) map[string]netip.Addr {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *corev1.Service) int {
		if n := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); n != 0 {
			return n
		}
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
	assigned, used := map[string]netip.Addr{}, map[netip.Addr]bool{}
	give := func(svc *corev1.Service, addr netip.Addr) {
		assigned[keyOf(svc)], used[addr] = addr, true
	}
	var without []*corev1.Service
	for _, svc := range all {
		if !ours(svc) {
			continue
		}
		if addr, ok := c.has(svc); ok && !used[addr] {
			give(svc, addr)
		} else {
			without = append(without, svc)
		}
	}
	for _, svc := range without {
		if addr, ok := c.find(ctx, svc, used); ok {
			give(svc, addr)
			c.log.Info("load balancer", "service", keyOf(svc), "assigned", addr.String())
		}
	}
	return assigned
}

// has is the address that a Service already has and may keep.
func (c *Controller) has(svc *corev1.Service) (netip.Addr, bool) {
	may := func(addr netip.Addr) bool {
		return c.pool.has(addr) && (svc.Spec.LoadBalancerIP == "" || svc.Spec.LoadBalancerIP == addr.String())
	}
	for _, in := range status(svc) {
		if addr, err := netip.ParseAddr(in.IP); err == nil && may(addr) {
			return addr, true
		}
	}
	addr, ok := c.given[keyOf(svc)]
	return addr, ok && may(addr)
}

// find looks for an address that a Service without one can have; it complains, once, where there is none.
func (c *Controller) find(ctx context.Context, svc *corev1.Service, used map[netip.Addr]bool) (netip.Addr, bool) {
	asked := svc.Spec.LoadBalancerIP
	if asked == "" {
		addr, ok := c.pool.take(used)
		if !ok {
			c.complain(ctx, svc, "no address of "+c.pool.block.String()+" is free")
		}
		return addr, ok
	}
	addr, err := netip.ParseAddr(asked)
	switch {
	case err != nil || !c.pool.has(addr):
		c.complain(ctx, svc, "spec.loadBalancerIP "+asked+" is not between "+c.pool.first.String()+" and "+c.pool.last.String())
	case used[addr]:
		c.complain(ctx, svc, "spec.loadBalancerIP "+asked+" is another Service's")
	default:
		return addr, true
	}
	return netip.Addr{}, false
}
