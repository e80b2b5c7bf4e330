package e2e

import (
	"net"
	"os/exec"
	"runtime"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
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

// intercept redirects all TCP of a namespace as istio-init does: outbound to 15001, inbound to 15006.
func intercept(t *testing.T, ns netns.NsHandle) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	must(t, err)
	tbl := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "mesh"})
	out := c.AddChain(&nftables.Chain{
		Name: "out", Table: tbl, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	in := c.AddChain(&nftables.Chain{
		Name: "in", Table: tbl, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	ret := &expr.Verdict{Kind: expr.VerdictReturn}
	rule := func(ch *nftables.Chain, e ...expr.Any) { c.AddRule(&nftables.Rule{Table: tbl, Chain: ch, Exprs: e}) }
	tcp := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
	}
	addr := func(offset uint32, ip string) []expr.Any {
		return []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: net.ParseIP(ip).To4()},
		}
	}
	to := func(port uint16) []expr.Any {
		return []expr.Any{
			&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
			&expr.Redir{RegisterProtoMin: 1, RegisterProtoMax: 1, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED},
		}
	}
	rule(out, append(addr(12, "127.0.0.6"), ret)...)
	rule(out, &expr.Meta{Key: expr.MetaKeySKUID, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(1337)}, ret)
	rule(out, append(addr(16, "127.0.0.1"), ret)...)
	rule(out, append(append([]expr.Any{}, tcp...), to(15001)...)...)
	for _, p := range []uint16{15008, 15020, 15021, 15090} {
		rule(in, append(append([]expr.Any{}, tcp...),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(p)}, ret)...)
	}
	rule(in, append(append([]expr.Any{}, tcp...), to(15006)...)...)
	must(t, c.Flush())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
