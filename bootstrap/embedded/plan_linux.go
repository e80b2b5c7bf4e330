package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
)

// Address plan. Cluster number k has its bridge in 10.89.k.0/24, of which the last quarter
// is for load balancers, and its way out in 10.88.k.0/30; pods and services live inside the
// cluster's own network only, so every cluster uses the same ranges for them.
const (
	maxClusters   = 250
	podSubnet     = "10.244.0.0/16"
	serviceSubnet = "10.96.0.0/16"
)

// Ports asked for where the learner names none.
const (
	defaultAPIPort   = 6443
	defaultHTTPPort  = 8080
	defaultHTTPSPort = 8443
	portTries        = 100
)

// plannedNames is what a cluster of that name would have on the host, for the removal
// of one whose plan is lost.
func plannedNames(name string) *state.Config {
	id := state.ID(name)
	return &state.Config{
		Name: name, ID: id,
		Uplink: state.Uplink{HostLink: "rp-" + id, NATTable: "ropes-" + id},
	}
}

// plan lays out a new cluster: addresses that nothing on this host uses yet.
func (p *Provider) plan(spec bootstrap.Spec) (*state.Config, error) {
	used, err := p.usedPrefixes()
	if err != nil {
		return nil, err
	}
	for k := range maxClusters {
		bridge := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 89, byte(k), 0}), 24)
		uplink := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 88, byte(k), 0}), 30)
		if overlaps(used, bridge) || overlaps(used, uplink) {
			continue
		}
		return layOut(spec, k), nil
	}
	return nil, errors.New("no free address range in 10.88.0.0/16 and 10.89.0.0/16 for another cluster")
}

func layOut(spec bootstrap.Spec, k int) *state.Config {
	c := plannedNames(spec.Name)
	c.Created = time.Now()
	c.BridgeIP = fmt.Sprintf("10.89.%d.1", k)
	c.BridgeCIDR = c.BridgeIP + "/24"
	c.LoadBalancerCIDR = fmt.Sprintf("10.89.%d.192/26", k)
	c.PodSubnet, c.ServiceSubnet = podSubnet, serviceSubnet
	c.Uplink.HostIP = fmt.Sprintf("10.88.%d.1", k)
	c.Uplink.HostCIDR = c.Uplink.HostIP + "/30"
	c.Uplink.ClusterIP = fmt.Sprintf("10.88.%d.2", k)
	c.Uplink.ClusterCIDR = c.Uplink.ClusterIP + "/30"
	for i := range spec.Workers + 1 {
		n := state.Node{
			Name: spec.Name + "-control-plane", Role: state.ControlPlane,
			IP: fmt.Sprintf("10.89.%d.%d", k, i+2), PodCIDR: fmt.Sprintf("10.244.%d.0/24", i),
		}
		if i > 0 {
			n.Name, n.Role = workerName(spec.Name, i), state.Worker
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c
}

// workerName counts as kind does: worker, worker2, worker3.
func workerName(cluster string, i int) string {
	if i == 1 {
		return cluster + "-worker"
	}
	return fmt.Sprintf("%s-worker%d", cluster, i)
}

// usedPrefixes are the routes of this host and the plans of its other clusters.
func (p *Provider) usedPrefixes() ([]netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if prefix, err := netip.ParsePrefix(r.Dst.String()); err == nil && prefix.Bits() > 0 {
			out = append(out, prefix)
		}
	}
	names, err := p.List()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		c, err := state.ClusterDir(p.opts.StateRoot, name).Load()
		if err != nil {
			continue // a torn plan has no running cluster
		}
		if prefix, err := netip.ParsePrefix(c.BridgeCIDR); err == nil {
			out = append(out, prefix.Masked())
		}
	}
	return out, nil
}

func overlaps(used []netip.Prefix, p netip.Prefix) bool {
	for _, u := range used {
		if u.Overlaps(p) {
			return true
		}
	}
	return false
}

// listen takes want on the loopback, or where it is taken the next free port after it;
// note then says so.
func listen(want int, what string) (f *os.File, port int, note string, err error) {
	for port = want; port < want+portTries; port++ {
		l, lerr := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if lerr != nil {
			err = lerr
			continue
		}
		f, err = l.(*net.TCPListener).File()
		l.Close()
		if err != nil {
			return nil, 0, "", err
		}
		if port != want {
			note = fmt.Sprintf("port %d for %s is taken; using %d", want, what, port)
		}
		return f, port, note, nil
	}
	return nil, 0, "", fmt.Errorf("no free port for %s between %d and %d: %w", what, want, want+portTries-1, err)
}

// nameservers lists the host's resolvers that another network namespace can reach,
// looking behind a stub resolver on the loopback.
func nameservers() []string {
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var out []string
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != "nameserver" {
				continue
			}
			if ip, err := netip.ParseAddr(f[1]); err == nil && ip.Is4() && !ip.IsLoopback() {
				out = append(out, f[1])
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}
