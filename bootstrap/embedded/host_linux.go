package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
)

// hostSettings are the kernel settings outside any namespace that a running cluster
// changes: forwarding by us, the rest by kubelet (pkg/kubelet/cm, setupKernelTunables).
var hostSettings = []string{
	"net/ipv4/ip_forward",
	"vm/overcommit_memory", "vm/panic_on_oom",
	"kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

func settingPath(name string) string { return filepath.Join("/proc/sys", name) }

func (p *Provider) hostRecord() string { return filepath.Join(p.opts.StateRoot, "host.json") }

// recordHost writes down the host's settings before the first cluster changes them.
func (p *Provider) recordHost() error {
	if _, err := os.Stat(p.hostRecord()); err == nil {
		return nil
	}
	values := map[string]string{}
	for _, name := range hostSettings {
		data, err := os.ReadFile(settingPath(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		values[name] = strings.TrimSpace(string(data))
	}
	return state.WriteJSON(p.hostRecord(), values)
}

// restoreHost puts the host's settings back once no cluster is left.
func (p *Provider) restoreHost() error {
	names, err := p.List()
	if err != nil || len(names) > 0 {
		return err
	}
	data, err := os.ReadFile(p.hostRecord())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var values map[string]string
	if err := json.Unmarshal(data, &values); err != nil {
		return fmt.Errorf("%s: %w", p.hostRecord(), err)
	}
	for name, value := range values {
		if have, err := os.ReadFile(settingPath(name)); err == nil && strings.TrimSpace(string(have)) == value {
			continue
		}
		if err := os.WriteFile(settingPath(name), []byte(value), 0o644); err != nil {
			return err
		}
	}
	return os.Remove(p.hostRecord())
}

// connect plugs the network namespace of pid into the host: a veth pair and, so that
// pods reach what the host reaches, masquerading for its one address.
func connect(cfg *state.Config, pid int) error {
	if err := removeHostNetwork(cfg); err != nil {
		return err
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: cfg.Uplink.HostLink},
		PeerName:  state.UplinkName, PeerNamespace: netlink.NsPid(pid),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make link %s: %w", cfg.Uplink.HostLink, err)
	}
	addr, err := netlink.ParseAddr(cfg.Uplink.HostCIDR)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(veth, addr); err != nil {
		return fmt.Errorf("give %s to %s: %w", addr, cfg.Uplink.HostLink, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return err
	}
	if err := routeLoadBalancers(cfg, veth); err != nil {
		return fmt.Errorf("route %s through %s: %w", cfg.LoadBalancerCIDR, cfg.Uplink.HostLink, err)
	}
	if err := os.WriteFile(settingPath("net/ipv4/ip_forward"), []byte("1"), 0o644); err != nil {
		return err
	}
	return masqueradeHost(cfg)
}

// routeLoadBalancers leads the addresses of LoadBalancer Services into the cluster. The
// route goes with the link.
func routeLoadBalancers(cfg *state.Config, link netlink.Link) error {
	if cfg.LoadBalancerCIDR == "" {
		return nil
	}
	_, dst, err := net.ParseCIDR(cfg.LoadBalancerCIDR)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Gw: net.ParseIP(cfg.Uplink.ClusterIP)})
}

func natTable(cfg *state.Config) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: cfg.Uplink.NATTable}
}

// masqueradeHost is, in nft's words: ip saddr CLUSTER-IP oifname != LINK masquerade.
func masqueradeHost(cfg *state.Config) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(natTable(cfg))
	chain := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	link := make([]byte, 16) // IFNAMSIZ
	copy(link, cfg.Uplink.HostLink)
	const saddrOffset, addrLen = 12, 4 // in the IPv4 header
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: saddrOffset, Len: addrLen},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: net.ParseIP(cfg.Uplink.ClusterIP).To4()},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: link},
		&expr.Masq{},
	}})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("masquerade the cluster (nf_tables): %w", err)
	}
	return nil
}

// removeHostNetwork takes away the link and the table; what is not there is fine.
func removeHostNetwork(cfg *state.Config) error {
	var errs []error
	link, err := netlink.LinkByName(cfg.Uplink.HostLink)
	switch {
	case err == nil:
		errs = append(errs, netlink.LinkDel(link))
	case !errors.As(err, new(netlink.LinkNotFoundError)):
		errs = append(errs, err)
	}
	c, err := nftables.New()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, t := range tables {
		if t.Name == cfg.Uplink.NATTable {
			c.DelTable(t)
			errs = append(errs, c.Flush())
		}
	}
	return errors.Join(errs...)
}
