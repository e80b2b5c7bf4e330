package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/ropes-dev/ropes/bootstrap/embedded/node"
	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
	"github.com/ropes-dev/ropes/bootstrap/images"
)

// Names inside the cluster's own network namespace.
const (
	bridgeName    = "br0"
	uplinkTimeout = 10 * time.Second
	// RegistryPort is where the registry listens on the bridge.
	RegistryPort = 5000
)

// setUpNetwork readies the namespace that the nodes are plugged into: bridge, way out,
// registry, published ports.
func (s *supervisor) setUpNetwork(ctx context.Context) error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	if err := s.setUpUplink(ctx); err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	if err := s.setUpBridge(); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if err := s.serveRegistry(ctx); err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	return s.publishPorts(ctx)
}

func (s *supervisor) setUpUplink(ctx context.Context) error {
	link, err := node.AwaitLink(ctx, state.UplinkName, uplinkTimeout)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(s.cfg.Uplink.ClusterCIDR)
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	err = netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(s.cfg.Uplink.HostIP)})
	if err != nil {
		return err
	}
	return masquerade(state.UplinkName)
}

// masquerade gives whatever leaves by the link that link's own address: the host need
// know no other address of the cluster.
func masquerade(link string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "ropes"})
	chain := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	name := make([]byte, 16) // IFNAMSIZ
	copy(name, link)
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Masq{},
	}})
	return c.Flush()
}

func (s *supervisor) setUpBridge() error {
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
	if err := netlink.LinkAdd(br); err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(s.cfg.BridgeCIDR)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(br, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(br)
}

func (s *supervisor) serveRegistry(ctx context.Context) error {
	catalog := images.New(s.cfg.PayloadDir, s.log)
	catalog.Beside(s.dir.Images())
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", s.cfg.BridgeIP, RegistryPort))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: catalog.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("registry ended", "err", err)
		}
	}()
	context.AfterFunc(ctx, func() { srv.Close() })
	return nil
}

// publishPorts connects the host's listeners with the control-plane node.
func (s *supervisor) publishPorts(ctx context.Context) error {
	ip := s.cfg.ControlPlane().IP
	for _, p := range []struct{ fd, port int }{
		{state.APIFD, 6443}, {state.HTTPFD, state.IngressHTTPNodePort}, {state.HTTPSFD, state.IngressHTTPSNodePort},
	} {
		target := fmt.Sprintf("%s:%d", ip, p.port)
		f := inherited(p.fd, target)
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("published port for %s: %w", target, err)
		}
		go forward(ctx, l, target, s.log)
	}
	return nil
}
