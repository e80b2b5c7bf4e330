//go:build linux

package netpol

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/knftables"
)

// A packet that is let through arrives well within generous; one that is dropped is
// known by nothing having come back for patience. Raising patience makes a wrongly
// allowed packet no less visible, and a wrongly dropped one is caught by generous.
const (
	generous = 5 * time.Second
	patience = 250 * time.Millisecond
)

// lab is a node with three pods on routed veth pairs, as the CNI plugin ptp makes
// them, and a peer beyond its uplink. It is made of anonymous network namespaces, of
// which nothing is left when the test process ends, however it ends.
type lab struct {
	node    *space
	byIP    map[string]*space
	nft     knftables.Interface
	virtual string // address and port that the node translates to a2's port 9090
}

// space is a network namespace with a thread of its own that works in it.
type space struct {
	handle netns.NsHandle
	work   chan func()
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var err error
		s.handle, err = netns.New()
		ready <- err
		for fn := range s.work {
			fn()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		close(s.work)
		if err := s.handle.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// do runs fn on the thread of the namespace.
func (s *space) do(fn func() error) error {
	done := make(chan error)
	s.work <- func() { done <- fn() }
	return <-done
}

// enter runs fn on a thread of its own in the namespace.
func (s *space) enter(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(s.handle); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	l := &lab{node: newSpace(t), byIP: map[string]*space{}, virtual: "10.96.0.80:80"}
	remote := newSpace(t)
	l.byIP[b2], l.byIP[world] = remote, remote
	check(t, l.node.do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
	}))
	for i, ip := range []string{a1, a2, b1} {
		l.byIP[ip] = newSpace(t)
		l.plug(t, l.byIP[ip], fmt.Sprintf("veth%d", i), ip)
	}
	l.plug(t, remote, "uplink", b2, world)
	check(t, l.node.do(func() (err error) {
		l.nft, err = knftables.New(knftables.IPv4Family, tableName)
		return err
	}))
	l.translate(t)
	return l
}

// plug joins a namespace with these addresses to the node by a routed veth pair.
func (l *lab) plug(t *testing.T, s *space, name string, ips ...string) {
	t.Helper()
	node, err := netlink.NewHandleAt(l.node.handle)
	check(t, err)
	defer node.Close()
	inner, err := netlink.NewHandleAt(s.handle)
	check(t, err)
	defer inner.Close()

	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	check(t, node.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(s.handle)}))
	outer, err := node.LinkByName(name)
	check(t, err)
	gateway := netlink.NewIPNet(net.ParseIP("10.244.1.1"))
	check(t, node.AddrAdd(outer, &netlink.Addr{IPNet: gateway}))
	check(t, node.LinkSetUp(outer))

	eth, err := inner.LinkByName("eth0")
	check(t, err)
	lo, err := inner.LinkByName("lo")
	check(t, err)
	check(t, inner.LinkSetUp(lo))
	check(t, inner.LinkSetUp(eth))
	for _, ip := range ips {
		host := netlink.NewIPNet(net.ParseIP(ip))
		check(t, inner.AddrAdd(eth, &netlink.Addr{IPNet: host}))
		check(t, node.RouteAdd(&netlink.Route{LinkIndex: outer.Attrs().Index, Dst: host, Scope: netlink.SCOPE_LINK}))
	}
	check(t, inner.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: gateway, Scope: netlink.SCOPE_LINK}))
	check(t, inner.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: gateway.IP}))
}

// translate does what kube-proxy does for a Service in front of a2.
func (l *lab) translate(t *testing.T) {
	t.Helper()
	check(t, l.node.do(func() error {
		cmd := exec.Command("nft", "-f", "-")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			defer stdin.Close()
			fmt.Fprintf(stdin, `table ip service {
				chain pre { type nat hook prerouting priority dstnat; ip daddr 10.96.0.80 tcp dport 80 dnat to %[1]s:9090; }
				chain post { type nat hook postrouting priority srcnat; ip saddr %[1]s ip daddr %[1]s masquerade; }
			}`, a2)
		}()
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	}))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// enforce compiles the policies and puts them into the node's kernel.
func (l *lab) enforce(t *testing.T, policies ...*networkingv1.NetworkPolicy) {
	t.Helper()
	r, err := Compile(cluster(policies...))
	check(t, err)
	tx := transaction(l.nft, r)
	if err := l.node.do(func() error { return l.nft.Run(context.Background(), tx) }); err != nil {
		t.Fatalf("%v\n%s", err, tx)
	}
}

// listen starts an echo server in the namespace that has the address.
func (l *lab) listen(t *testing.T, protocol corev1.Protocol, ip string, port uint16) {
	t.Helper()
	addr := net.JoinHostPort(ip, fmt.Sprint(port))
	var conn net.PacketConn
	var listener net.Listener
	check(t, l.byIP[ip].enter(func() (err error) {
		if protocol == corev1.ProtocolUDP {
			conn, err = net.ListenPacket("udp4", addr)
		} else {
			listener, err = net.Listen("tcp4", addr)
		}
		return err
	}))
	if conn != nil {
		t.Cleanup(func() { conn.Close() })
		go func() {
			buf := make([]byte, 64)
			for {
				n, from, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				if _, err := conn.WriteTo(buf[:n], from); err != nil {
					return
				}
			}
		}()
		return
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 64)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// dial opens a connection from the namespace and the address src.
func (s *space) dial(network, src, dst string, timeout time.Duration) (c net.Conn, err error) {
	d := net.Dialer{Timeout: timeout}
	if src != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(src)}
		if network == "udp4" {
			d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(src)}
		}
	}
	err = s.enter(func() (err error) {
		c, err = d.Dial(network, dst)
		return err
	})
	return c, err
}

// echo sends a word and waits for it to come back.
func echo(c net.Conn, timeout time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	buf := make([]byte, 64)
	_, err := c.Read(buf)
	return err
}

// passes sends one packet and its answer over the flow; timeout bounds the wait.
func (l *lab) passes(f flow, timeout time.Duration) error {
	network := "tcp4"
	if f.protocol == corev1.ProtocolUDP {
		network = "udp4"
	}
	c, err := l.byIP[f.src].dial(network, f.src, net.JoinHostPort(f.dst, fmt.Sprint(f.port)), timeout)
	if err != nil {
		return err
	}
	defer c.Close()
	return echo(c, timeout)
}

// isDropped says whether err is what a sender sees of a drop: nothing, for a while.
func isDropped(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
