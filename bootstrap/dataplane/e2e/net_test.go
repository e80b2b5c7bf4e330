package e2e

import (
	"bytes"
	"net"
	"os/exec"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// fabric is a namespace with a bridge that pods are joined to.
type fabric struct {
	t   *testing.T
	hub netns.NsHandle
	nl  *netlink.Handle
	br  netlink.Link
}

func newFabric(t *testing.T) *fabric {
	t.Helper()
	f := &fabric{t: t, hub: newNS(t)}
	f.nl = handle(t, f.hub)
	must(t, f.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	br, err := f.nl.LinkByName("br0")
	must(t, err)
	must(t, f.nl.AddrAdd(br, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(hubIP), Mask: net.CIDRMask(16, 32)}}))
	must(t, f.nl.LinkSetUp(br))
	f.br = br
	return f
}

// hubIP is the bridge's own address, where the test itself listens.
const hubIP = "10.9.255.254"

// listen opens a TCP port in the hub.
func (f *fabric) listen(addr string) (net.Listener, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	old, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer func() { _ = old.Close() }()
	if err := netns.Set(f.hub); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", addr)
	if serr := netns.Set(old); serr != nil {
		panic(serr)
	}
	return ln, err
}

// join makes a namespace with address ip/16 on the bridge.
func (f *fabric) join(name, ip string) netns.NsHandle {
	f.t.Helper()
	ns := newNS(f.t)
	nl := handle(f.t, ns)
	must(f.t, f.nl.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: f.br.Attrs().Index}, PeerName: "eth0",
		PeerNamespace: netlink.NsFd(ns),
	}))
	l, err := f.nl.LinkByName(name)
	must(f.t, err)
	must(f.t, f.nl.LinkSetUp(l))
	lo, err := nl.LinkByName("lo")
	must(f.t, err)
	must(f.t, nl.LinkSetUp(lo))
	eth, err := nl.LinkByName("eth0")
	must(f.t, err)
	must(f.t, nl.AddrAdd(eth, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(16, 32)}}))
	must(f.t, nl.LinkSetUp(eth))
	// Service addresses need a route to be redirected from.
	must(f.t, nl.RouteAdd(&netlink.Route{
		LinkIndex: eth.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)},
	}))
	return ns
}

func newNS(t *testing.T) netns.NsHandle {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	old, err := netns.Get()
	must(t, err)
	defer func() { _ = old.Close() }()
	ns, err := netns.New()
	if err != nil {
		t.Skipf("network namespaces: %v", err)
	}
	must(t, netns.Set(old))
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

func handle(t *testing.T, ns netns.NsHandle) *netlink.Handle {
	t.Helper()
	h, err := netlink.NewHandleAt(ns)
	must(t, err)
	t.Cleanup(h.Close)
	return h
}

// startIn starts cmd in a namespace.
func startIn(ns netns.NsHandle, cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	old, err := netns.Get()
	if err != nil {
		return err
	}
	defer func() { _ = old.Close() }()
	if err := netns.Set(ns); err != nil {
		return err
	}
	err = cmd.Start()
	if serr := netns.Set(old); serr != nil {
		panic(serr) // the thread is of no more use
	}
	return err
}

// intercept redirects the traffic of a pod by the program that its init container runs, with the arguments that istiod's
// injection template gives it.
func (p *pod) intercept() {
	p.w.t.Helper()
	cmd := p.command(0, "init", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*",
		"-d", "15090,15021,15020", "--log_output_level=default:info")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	must(p.w.t, startIn(p.net, cmd))
	if err := cmd.Wait(); err != nil {
		p.w.t.Fatalf("istio-iptables: %v\n%s", err, &said)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
