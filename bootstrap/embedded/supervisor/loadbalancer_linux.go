package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	clientset "k8s.io/client-go/kubernetes"

	"github.com/ropes-dev/ropes/bootstrap/embedded/loadbalancer"
)

// startLoadBalancer serves Services of type LoadBalancer until ctx ends.
func (s *supervisor) startLoadBalancer(ctx context.Context, client clientset.Interface, wg *sync.WaitGroup) error {
	if s.cfg.LoadBalancerCIDR == "" {
		return nil
	}
	block, err := netip.ParsePrefix(s.cfg.LoadBalancerCIDR)
	if err != nil {
		return err
	}
	nodes := map[string]netip.Addr{}
	for _, n := range s.cfg.Nodes {
		if nodes[n.Name], err = netip.ParseAddr(n.IP); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	br, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	c := loadbalancer.New(client, block, nodes, bridgeRoutes{br.Attrs().Index}, s.log)
	wg.Go(func() { c.Run(ctx) })
	return nil
}

// bridgeRoutes leads addresses to nodes by routes in the cluster's own network namespace,
// which all that comes from outside the nodes passes through. On the nodes themselves
// kube-proxy takes these addresses for the Service's own.
type bridgeRoutes struct{ link int }

var _ loadbalancer.Router = bridgeRoutes{}

func (b bridgeRoutes) route(addr netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: b.link, Dst: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}}
}

// Lead implements loadbalancer.Router.
func (b bridgeRoutes) Lead(addr, via netip.Addr) error {
	r := b.route(addr)
	r.Gw = via.AsSlice()
	return netlink.RouteReplace(r)
}

// Leave implements loadbalancer.Router.
func (b bridgeRoutes) Leave(addr netip.Addr) error {
	if err := netlink.RouteDel(b.route(addr)); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}
