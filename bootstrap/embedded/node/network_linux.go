package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/vishvananda/netlink"
)

// uplinkName is the node's link to the bridge. The supervisor plugs it in.
const uplinkName = "eth0"

// sysctls of the node's own network namespace.
var sysctls = map[string]string{
	"/proc/sys/net/ipv4/ip_forward":                 "1",
	"/proc/sys/net/ipv4/conf/all/route_localnet":    "1",
	"/proc/sys/net/ipv4/conf/all/rp_filter":         "0",
	"/proc/sys/net/ipv4/conf/default/rp_filter":     "0",
	"/proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
}

func setUpNetwork(ctx context.Context, cfg *Config) error {
	for path, value := range sysctls {
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	eth, err := AwaitLink(ctx, uplinkName, linkTimeout)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(cfg.IP), Mask: net.CIDRMask(cfg.Prefix, 32)}}
	if err := netlink.AddrReplace(eth, addr); err != nil {
		return fmt.Errorf("give %s to %s: %w", addr, uplinkName, err)
	}
	if err := netlink.LinkSetUp(eth); err != nil {
		return err
	}
	routes := append([]Route{{CIDR: "0.0.0.0/0", Via: cfg.Gateway}}, cfg.Routes...)
	for _, r := range routes {
		if err := addRoute(eth, r); err != nil {
			return err
		}
	}
	return nil
}

func addRoute(link netlink.Link, r Route) error {
	_, dst, err := net.ParseCIDR(r.CIDR)
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Gw: net.ParseIP(r.Via)}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route %s via %s: %w", r.CIDR, r.Via, err)
	}
	return nil
}

// AwaitLink waits for a link of that name to appear in this network namespace.
func AwaitLink(ctx context.Context, name string, timeout time.Duration) (netlink.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	updates := make(chan netlink.LinkUpdate)
	if err := netlink.LinkSubscribe(updates, ctx.Done()); err != nil {
		return nil, fmt.Errorf("subscribe to links: %w", err)
	}
	for {
		link, err := netlink.LinkByName(name)
		if err == nil {
			return link, nil
		}
		if !errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("link %s was not plugged in within %s", name, timeout)
		case <-updates:
		}
	}
}

func dialUnix(ctx context.Context, path string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return err
	}
	return conn.Close()
}
